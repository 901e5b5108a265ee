"""The tags of all that is made in an account: by them alone it is found again, by whoever has none of our state.

Nothing is ever tagged after it was made: tags are part of the request that makes it.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bigm import __version__
from bigm.errors import ConfigError
from bigm.systems.ec2.options import Options

CLUSTER = "bigm:cluster"
LAUNCH = "bigm:launch"
USER = "bigm:user"
EXPIRES = "bigm:expires"  # seconds since 1970 at which the instance has ended itself, whatever happens
VERSION = "bigm:version"
NAME = "Name"  # what AWS's own lists show

_NAME = 255  # characters
_VALUE = 256
_KEY = 128
_MOST = 50 - 6  # tags that a user may add: AWS takes 50


@dataclass(frozen=True)
class Labels:
    """What all tags of one cluster say.

    Args:
        cluster: its id.
        user: whose it is.
        extra: the user's own tags.
    """

    cluster: str
    user: str
    extra: Mapping[str, str]

    @classmethod
    def of(cls, cluster: str, options: Options) -> Labels:
        """The labels of a cluster.

        Raises:
            ConfigError: a tag of the options is none.
        """
        return cls(cluster, user_of(options), parse_tags(options.tags))

    def tags(self, *, launch: str = "", expires: float = 0.0, title: str = "") -> list[dict[str, str]]:
        """The tags of something of this cluster, as AWS's requests have them.

        Args:
            launch: that it was made for, or "".
            expires: wall clock, seconds since 1970, or 0 where it has no end of its own.
            title: what runs there: program, digest, arguments.
        """
        found = {
            NAME: " ".join(_printable(f"bigm {self.user} {title or self.cluster}").split())[:_NAME],
            CLUSTER: self.cluster,
            USER: self.user,
            VERSION: __version__,
        }
        if launch:
            found[LAUNCH] = launch
        if expires:
            found[EXPIRES] = str(int(expires))
        return [{"Key": key, "Value": value} for key, value in {**found, **self.extra}.items()]


def user_of(options: Options) -> str:
    """Whose instances they are: as the option says, else this computer's user."""
    if options.user:
        return _printable(options.user)[:_VALUE]
    try:
        return _printable(getpass.getuser())[:_VALUE]
    except (KeyError, OSError):  # a user that has no name, as in many containers
        return "unknown"


def parse_tags(words: Iterable[str]) -> dict[str, str]:
    """The user's own tags, each given as name=value.

    Raises:
        ConfigError: one is not, is too long for AWS, or uses a name that is not the user's; or they are too many.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not name or not equals:
            raise ConfigError(f"ec2.tags: {word!r} is no tag", hint="write name=value")
        if name.lower().startswith(("aws:", "bigm:")):
            raise ConfigError(f"ec2.tags: names that begin with {name.partition(':')[0]}: are not for users: {name!r}")
        if not word.isprintable():
            raise ConfigError(f"ec2.tags: {word!r} has a character that cannot be seen")
        if len(name) > _KEY or len(value) > _VALUE:
            raise ConfigError(f"ec2.tags: {name[:40]!r} is longer than AWS takes: {_KEY} and {_VALUE} characters")
        found[name] = value
    if len(found) > _MOST:
        raise ConfigError(f"ec2.tags: {len(found)} are more than the {_MOST} that AWS has room for")
    return found


def _printable(text: str) -> str:
    """*text* with spaces for what XML has no words for: control characters, and bytes of a name that are not UTF-8.

    AWS's answers would not be readable any more, not even the one that tells which instances there are.
    """
    return "".join(character if character.isprintable() else " " for character in text)


def read_tags(resource: Mapping[str, object]) -> dict[str, str]:
    """The tags of something that AWS has described."""
    tags = resource.get("Tags") or ()
    assert isinstance(tags, Iterable)
    return {tag["Key"]: tag["Value"] for tag in tags}


def of_cluster(cluster: str) -> list[dict[str, object]]:
    """The filter of requests that finds what is labelled with a cluster."""
    return [{"Name": f"tag:{CLUSTER}", "Values": [cluster]}]


def of_any() -> list[dict[str, object]]:
    """The filter of requests that finds what is labelled with any cluster."""
    return [{"Name": "tag-key", "Values": [CLUSTER]}]


def expired(tags: Mapping[str, str], now: float | None = None) -> bool:
    """Whether the end that its tags tell has passed.

    Args:
        tags: as `read_tags` gives them.
        now: wall clock, seconds since 1970; None: this computer's.
    """
    end = tags.get(EXPIRES, "")
    return end.isdecimal() and int(end) < (time.time() if now is None else now)
