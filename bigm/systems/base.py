"""What a system is: a place instances come from, behind one small set of methods.

A system knows nothing of clusters, certificates or services. It is handed a `Launch` record to start instances with,
and gives back instances whose agent's port it can reach. `bigm.testing.check_system` is the contract in executable
form. Driver side only.
"""

from __future__ import annotations

import abc
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from bigm.bootstrap.records import Launch
from bigm.errors import ConfigError, NotSupported, SystemFault

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_BY_THEIR_LEASE = "they end by themselves, with their lease"
OWN = {
    "local": "bigm.systems.local:Local",
    "inprocess": "bigm.systems.inprocess:InProcess",
    "ssh": "bigm.systems.ssh.system:Ssh",
    "ec2": "bigm.systems.ec2.system:Ec2",
}

OK = "ok"
WARNING = "warning"
FAILED = "failed"

STARTING = "starting"
RUNNING = "running"
ENDED = "ended"

INSTANCE = "instance"


@dataclass(frozen=True)
class Capabilities:
    """What a system can promise, so that nobody asks for its name.

    Args:
        ends: who ends an instance whose agent has ended: the provider, the agent itself, or nobody.
        local: instances are on this computer: they run the driver's own environment and die with the driver.
        in_place: machines have this computer's files, and run the driver's own environment where it is; else, or when
            it is rehearsed, they are brought a bundle.
        processes: workers are processes of their own; else they are threads of the driver's process.
        peers: machines can dial one another's addresses.
        hard_deadline: the provider itself ends an instance at its maximum lifetime.
        notice: seconds of warning before an instance is taken away; 0 when there is none.
        prices: `estimate` can say what machines cost.
    """

    ends: Literal["provider", "agent", "none"] = "agent"
    local: bool = False
    in_place: bool = False
    processes: bool = True
    peers: bool = True
    hard_deadline: bool = False
    notice: float = 0.0
    prices: bool = False


@dataclass(frozen=True)
class Spec:
    """What kind of machine is wanted.

    Args:
        python: path of the interpreter that machines on this computer use.
        options: the system's own settings, as its section of the configuration gives them.
        title: what runs there, in words for people who look at the provider's own list: program, digest, arguments.
        timeout: seconds that the launch may take; what it has made by then is kept.
    """

    python: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    title: str = ""
    timeout: float = 600.0


@dataclass(frozen=True)
class Instance:
    """Something a system launched.

    Args:
        id: the system's own name for it; unique in the system.
        locator: where to dial, the part of an address before the slash ("127.0.0.1:42409").
        state: STARTING, RUNNING or ENDED.
        reason: why it is ENDED, in words, or "".
        launch: the launch it came from.
        cluster: the cluster it is labelled with.
        host: the computer it is on, as the user knows it, or "". This and the others are what `discover` can tell.
        since: when it was launched, in seconds since 1970, or 0.
        kept: bytes of disk it occupies, or None where that is not known.
        type: the provider's name for its kind ("m7i.large"), or "".
        zone: where the provider has it ("eu-central-1a"), or "".
        spot: the provider may take it away at any time; None where there is no such thing.
        price: US dollars an hour, or None where that is not known.
        kind: INSTANCE; `discover` also finds what else launches have made: a "launch template", a "rule", a "disk".
        user: whose it is labelled to be, or "".
        expires: when it has ended by itself at the latest, in seconds since 1970, or 0.
        held: the system knows that the driver that launched it lives.
    """

    id: str
    locator: str = ""
    state: str = RUNNING
    reason: str = ""
    launch: str = ""
    cluster: str = ""
    host: str = ""
    since: float = 0.0
    kept: int | None = None
    type: str = ""
    zone: str = ""
    spot: bool | None = None
    price: float | None = None
    kind: str = INSTANCE
    user: str = ""
    expires: float = 0.0
    held: bool = False

    def facts(self) -> dict[str, object]:
        """What is known of where a machine is, by name, for records of it."""
        found = {"instance": self.id, "type": self.type, "zone": self.zone, "spot": self.spot, "price": self.price}
        return {name: value for name, value in found.items() if value not in ("", None)}


@dataclass(frozen=True)
class Finding:
    """One thing that `System.doctor` has looked at.

    Args:
        subject: whom it is about: a host as the user knows it, an account, "this computer".
        check: what was looked at, in a word or two: "Python", "free disk". The same for all subjects.
        state: OK, WARNING (machines start; something will be slow, or short) or FAILED (none can be started there).
        text: what was found, in words: "3.11.7 at /usr/bin/python3".
        hint: what to do about it, or "".
    """

    subject: str
    check: str
    state: str
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Launched:
    """What a launch came to: partial success is normal.

    Args:
        instances: those that exist now, in the order of their indices.
        failures: one error for each that does not.
    """

    instances: tuple[Instance, ...]
    failures: tuple[SystemFault, ...] = ()


class Timer(Protocol):
    """A clock that calls functions when they are due: the driver's own, or one that a test turns."""

    def __call__(self) -> float:
        """Seconds, monotonic."""

    def after(self, delay: float, function: Callable[[], None]) -> None:
        """Call *function* in *delay* seconds. It must be quick."""

    def hold(self, token: object = None) -> object:
        """Begin something whose outcome must be there before a clock that is turned goes on.

        Args:
            token: to release when it is; None: one is made.
        Returns:
            The token.
        """

    def release(self, token: object) -> None:
        """What *token* was given for has come to its end."""


class System(abc.ABC):
    """A place instances come from. Its methods may be called from several threads, `open` and `close` from one.

    Every method raises `SystemFault` or one of its kinds, and nothing else, for what the provider does.
    """

    name: ClassVar[str]
    capabilities: Capabilities = Capabilities()  # of the class, or of one that is set up in another way
    timer: Timer | None = None  # what the leases of its machines count by where that is not the real time

    def expected_procs(self, spec: Spec) -> int:
        """How many CPUs a machine of *spec* will have, as far as can be told before it is launched."""
        return 1

    @abc.abstractmethod
    def open(self, cluster: str) -> None:
        """Check credentials and settings, and make what all instances of *cluster* share. Idempotent, and cheap.

        Raises:
            ConfigError: a setting is wrong.
        """

    @abc.abstractmethod
    def launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
        """Launch *n* instances, labelled with cluster and launch from the first moment they exist.

        Asked again with the same *launch_id* it returns what that launch made, and launches nothing.
        Called with at least 1; the caller has journalled *launch_id* before.
        """

    def waits_for(self) -> str:
        """What a `launch` that goes on in another thread waits for, in words; "" when there is nothing to tell."""
        return ""

    @abc.abstractmethod
    def describe(self, ids: Sequence[str] | None = None) -> list[Instance]:
        """The state of these instances, or of all of this cluster. An id that nobody knows is left out."""

    @abc.abstractmethod
    def connect(self, instance: Instance, timeout: float) -> socket.socket:
        """A connected stream of raw bytes to the agent's port, within *timeout* seconds. TLS is put on top by the core.

        Raises:
            OSError: refused, unreachable or too late, as the socket said it; trying again can help.
        """

    def keeper_address(self, instance: Instance) -> str:
        """Where the driver's keeper, another process, dials the agent.

        Returns:
            "host:port", the path of a unix socket, or a command behind a "|" (`bigm.bootstrap.piped`).
        """
        return instance.locator

    def route(self, instance: Instance) -> str:
        """How the workers there reach other machines; see `bigm.routes`. "": they dial locators."""
        return ""

    @abc.abstractmethod
    def terminate(self, ids: Iterable[str]) -> dict[str, SystemFault | None]:
        """End these instances; says for each what prevented it (None: it has ended, or never existed). Idempotent."""

    def diagnose(self, instance: Instance) -> str:
        """What the instance last said by itself: console output, an agent's standard error. May be ""."""
        return ""

    def prepare(self) -> None:  # noqa: B027  # most systems leave nothing open
        """Decide what a launch leaves open, as far as that takes moments and makes nothing. Called when it was opened.

        What takes long is done after it, so that wrong settings and credentials are told at once.

        Raises:
            ConfigError, SystemFault: a launch would raise it.
        """

    def offer(self, spec: Spec) -> str:
        """What kind of machine `launch` asks for, in words ("m7i-flex.large, spot"), or "". Never fails a launch."""
        return ""

    def estimate(self, n: int, spec: Spec) -> float | None:
        """US dollars an hour for *n* instances, or None where that is not known. Never fails a launch."""
        return None

    def preview(self) -> dict[str, str]:
        """What a launch would use, in words, by subject ("types", "image"). Of a system not opened; launches nothing.

        Raises:
            ConfigError: a launch would raise it.
        """
        return {}

    def discover(self) -> list[Instance]:
        """The instances of every cluster of this user, found by label alone, for `bigm gc` and `bigm ps`.

        And all else that launches have made and that is there still, in records of another `kind`. Of a system not
        opened.

        Raises:
            NotSupported: this system cannot tell.
        """
        raise NotSupported(f"{self.name} cannot tell which machines there are", hint=_BY_THEIR_LEASE)

    def places(self) -> dict[str, int]:
        """How many machines each host takes, where the user has named hosts; else nothing. Of a system not opened.

        Raises:
            ConfigError: there must be hosts, and none are named.
        """
        return {}

    def overlooked(self) -> dict[str, SystemFault]:
        """The hosts, or regions, that the last `discover` could not look at, and why."""
        return {}

    def remove(self, instances: Sequence[Instance]) -> dict[str, SystemFault | None]:
        """End or remove what `discover` found, of other clusters than this one, and what it keeps. Idempotent.

        Of a system not opened.

        Returns:
            For each id what prevented it; None: it has ended, and nothing of it is left.
        Raises:
            NotSupported: this system cannot do that.
        """
        raise NotSupported(f"{self.name} cannot end machines of another cluster", hint=_BY_THEIR_LEASE)

    def doctor(self) -> Iterator[Finding]:
        """Look at all that machines need here, before any is launched. Of a system not opened; changes nothing.

        Each finding is given as soon as it is there: a host may take a while. What goes wrong is a finding.
        """
        return iter(())

    def policy(self) -> str:
        """What the provider must allow, in its own language, for whoever gives permissions. Of a system not opened.

        Raises:
            NotSupported: nobody has to allow anything.
        """
        raise NotSupported(f"{self.name} has no permissions to be given")

    @abc.abstractmethod
    def close(self) -> None:
        """End everything of this cluster. Idempotent."""


def find_system(name: str) -> type[System]:
    """The class of the system called *name*: one of bigm's own, or one from the entry points `bigm.systems`.

    Raises:
        ConfigError: there is none of that name; the known ones are named.
    """
    if name not in OWN:
        return _find_foreign(name)
    module, _, cls = OWN[name].partition(":")
    own: type[System] = getattr(import_module(module), cls)
    return own


def make_system(name: str, options: Mapping[str, Mapping[str, object]]) -> System:
    """The system called *name*, not opened.

    Args:
        name: as for `find_system`.
        options: the arguments of each system, by name, as `config.Settings.systems` has them.
    Raises:
        ConfigError: there is none of that name, or an argument is wrong.
    """
    return find_system(name)(**options.get(name, {}))


def system_names() -> list[str]:
    """The systems there are: bigm's own, and those that are installed. Metadata that is older than bigm hides none."""
    return sorted({*OWN, *_foreign()})


def _find_foreign(name: str) -> type[System]:
    known = _foreign()
    if name not in known:
        raise ConfigError(
            f"there is no system called {name!r}", hint=f"known systems: {', '.join(sorted({*known, *OWN}))}"
        )
    found: type[System] = known[name].load()
    return found


def _foreign() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # 30 ms that programs on bigm's own systems need not pay

    return {entry.name: entry for entry in entry_points(group="bigm.systems")}
