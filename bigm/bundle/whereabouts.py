"""Where a Python has its packages.

It lies on the way of every run of a program that is bundled: `sysconfig`, which knows the same, costs milliseconds.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bigm.errors import ConfigError

_TELLS_WITHIN = 30.0  # seconds: of an interpreter on a slow network drive

_TELL = """
import json, os, site, sys
folders = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
print(json.dumps([sys.prefix, sys.base_prefix, getattr(sys, "_base_executable", sys.executable), sys.path, folders,
    "%d.%d" % sys.version_info[:2], sys.implementation.cache_tag]))
"""


@dataclass(frozen=True)
class Whereabouts:
    """An interpreter with its packages: a virtual environment, or a Python that distributions were installed into.

    Args:
        python: absolute path of the interpreter.
        prefix: its environment's folder.
        base: the interpreter it was made from, or itself.
        site: folders with distributions, in the order of `sys.path`.
        version: minor version, "3.11".
        tag: implementation and version, "cpython-311".
        platform: "linux-x86_64".
    """

    python: str
    prefix: str
    base: str
    site: tuple[str, ...]
    version: str
    tag: str
    platform: str = f"{sys.platform}-{os.uname().machine}"

    @property
    def is_conda(self) -> bool:
        """conda made it: what it installs may need libraries from outside of Python's folders."""
        return os.path.isdir(os.path.join(self.prefix, "conda-meta"))


def ours() -> Whereabouts:
    """Of the running interpreter, as it is now: `sys.path` may have been changed."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return _whereabouts(
        sys.executable,
        (
            sys.prefix,
            sys.base_prefix,
            getattr(sys, "_base_executable", sys.executable),
            sys.path,
            site.getsitepackages() + user,
            "{}.{}".format(*sys.version_info),
            sys.implementation.cache_tag,
        ),
    )


def whereabouts_of(python: str) -> Whereabouts:
    """Of *python*, which is executed when it is not the running one.

    Raises:
        ConfigError: it is no interpreter, or does not run.
    """
    if python == sys.executable:
        return ours()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [python, "-c", _TELL],
            cwd="/",  # "" is the first entry of its path
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TELLS_WITHIN,
            check=True,
        )
        return _whereabouts(os.path.abspath(python), json.loads(done.stdout))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{python} does not tell where its packages are: {error}") from error


def _whereabouts(python: str, told: tuple[str, str, str, list[str], list[str], str, str]) -> Whereabouts:
    prefix, base_prefix, base, path, folders, version, tag = told
    known = {os.path.realpath(folder) for folder in folders}
    found: dict[str, str] = {}  # lib64 may be a link to lib
    for entry in path:
        if (real := os.path.realpath(entry)) in known and os.path.isdir(real):
            found.setdefault(real, entry)
    base = base if prefix != base_prefix else python
    return Whereabouts(python, prefix, str(Path(base).resolve()), tuple(found.values()), version, tag)
