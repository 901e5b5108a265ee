"""Which Python a machine's workers get: the choice among those that were found there, by the setting `python`.

Pure: what was found is a list of reports (`bigm.bootstrap.report`), and the answer is one of them, or that an
interpreter must be sent (`bigm.bundle.standalone`).

Workers have the driver's minor version, always: functions by value are bytecode, which no other version runs, and the
wheels of the dependency layer are for it.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bigm.errors import BootError, ConfigError

BUNDLED = "bundled"
OLDEST = (3, 10)  # that workers run on; the agent is content with 3.9

Report = Mapping[str, object]


class NoPython(BootError):
    """A machine has no Python that its workers could run on. The text says which it has, and what to do."""


class Driver(NamedTuple):
    """The Python that a driver runs on, as far as its machines' must be like it.

    Args:
        version: "3.11.7".
        free: it has no GIL, which makes its extension modules other ones.
    """

    version: str
    free: bool

    @property
    def minor(self) -> str:
        """Its minor version, "3.11"."""
        return minor_of(self.version)

    @classmethod
    def here(cls) -> Driver:
        """That of this process."""
        return cls("{}.{}.{}".format(*sys.version_info), bool(sysconfig.get_config_var("Py_GIL_DISABLED")))


def check(wanted: str, driver: Driver) -> None:
    """Refuse a setting `python` that no machine can fulfil, before there is any.

    Args:
        wanted: the setting: "", a version, an absolute path (of the machines), or "bundled".
    Raises:
        ConfigError: it is none of these, or another minor version than the driver's.
    """
    if wanted in ("", BUNDLED) or wanted.startswith("/"):
        return
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", wanted):
        raise ConfigError(
            f"python: {wanted!r} is no version, as in {driver.minor}, and no absolute path",
            hint=f'leave it empty for the driver\'s own version, or say "{BUNDLED}"',
        )
    if minor_of(wanted) != driver.minor:
        raise ConfigError(
            f"python: machines cannot run Python {wanted} for a driver that runs {driver.version}",
            hint=f"run the program with Python {minor_of(wanted)}, or leave the setting empty",
        )


def choose(
    found: Sequence[Report], wanted: str, driver: Driver, *, machine: str, platforms: Collection[str] = ()
) -> Report | None:
    """The interpreter for a machine's workers.

    Args:
        found: what the candidates on the machine reported, that of a path in *wanted* among them.
        wanted: the setting `python`, one that `check` lets pass.
        machine: how messages call the machine.
        platforms: those for which there are dependencies; preferred where a machine has Pythons for several.
    Returns:
        The report of one of them; None: one must be sent, for the setting says "bundled".
    Raises:
        NoPython: none will do; it may be retried once the machine has another.
    """
    if wanted == BUNDLED:
        return None
    if wanted.startswith("/"):
        return _at(found, wanted, driver, machine)
    fit = [report for report in found if not _wrong(report, wanted or driver.minor, driver)]
    if not fit:
        raise NoPython(_missing(found, wanted or driver.minor, driver, machine), hint=_advice(driver))

    def worth(report: Report) -> tuple[object, ...]:
        version = str(report["version"])
        return report["platform"] in platforms, version == driver.version, _numbers(version)

    return max(fit, key=worth)  # the first of equal ones: as found first on the machine


def minor_of(version: str) -> str:
    """The minor version of a version: "3.11" of "3.11.7"."""
    return ".".join(version.split(".")[:2])


def _at(found: Sequence[Report], path: str, driver: Driver, machine: str) -> Report:
    """The one at a given path."""
    for report in found:
        if report["path"] == path:
            wrong = _wrong(report, driver.minor, driver)
            if not wrong:
                return report
            raise NoPython(f"{machine} cannot use {path}, as the setting python says: {wrong}", hint=_advice(driver))
    raise NoPython(f"{machine} has no {path}, which the setting python says", hint=_advice(driver))


def _wrong(report: Report, version: str, driver: Driver) -> str:
    """Why a candidate will not do, in words; "" when it will."""
    if "error" in report:
        return str(report["error"])
    has = str(report["version"])
    if report["implementation"] != "cpython":
        return f"it is {report['implementation']}"
    if has != version and minor_of(has) != version:
        return f"it is Python {has}, not {version}"
    abis = report["abis"]
    assert isinstance(abis, (list, tuple))
    if abis and abis[-1].endswith("t") != driver.free:
        return f"it is built {'with' if driver.free else 'without'} the GIL, unlike the driver's"
    return ""


def _missing(found: Sequence[Report], version: str, driver: Driver, machine: str) -> str:
    usable = [report for report in found if "error" not in report]
    near = [report for report in usable if minor_of(str(report["version"])) == minor_of(version)]
    if not usable:
        broken = [f"{report['path']}: {report['error']}" for report in found]
        return f"{machine} has no Python {version}, nor any other" + (f" ({'; '.join(broken)})" if broken else "")
    if near:
        said = [f"{report['path']}: {_wrong(report, version, driver)}" for report in near]
        return f"{machine} has no Python {version} that will do: {'; '.join(said)}"
    ordered = sorted(usable, key=lambda report: _numbers(str(report["version"])), reverse=True)
    listed = ", ".join(f"{report['version']} ({report['path']})" for report in ordered)
    old = all(_numbers(str(report["version"])) < OLDEST for report in usable)
    return f"{machine} has no Python {version}, only {listed}" + (", too old for workers" if old else "")


def _advice(driver: Driver) -> str:
    return (
        f'set "python: {BUNDLED}" to have one sent, install Python {driver.minor} there, leave that machine out, '
        "or run the program with a version that it has"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
