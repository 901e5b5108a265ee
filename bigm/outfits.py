"""What a machine runs a program with: an interpreter that is there, or is sent, and the distributions for that.

Most machines have the driver's minor version of Python and its platform, and take what the bundle has. For others the
driver gets something first, which may take minutes: `Supplies`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bigm.bootstrap.records import Info
from bigm.bundle import pythons
from bigm.bundle.bundle import Bundle, Dependencies
from bigm.errands import Steps, Work

Report = Mapping[str, object]  # what an interpreter says of itself: `bigm.bootstrap.report`
Bring = Callable[[Mapping[str, int], Callable[[], Steps[Report]]], Steps[Report]]


class Supplies(Protocol):
    """What a driver gets for machines that are not as its own computer. Blocks, may take minutes, and may fail."""

    def layer(self, bundle: Bundle, python: Report) -> Dependencies | None:
        """The dependency layer for an interpreter, given what it reported; None: the bundle has no distributions."""

    def interpreter(self, bundle: Bundle, platform: str) -> tuple[str, int]:
        """An interpreter for machines of *platform*: digest and size of its archive, which is in the bundle's store."""


@dataclass(frozen=True)
class Outfit:
    """What a machine runs a program with.

    Args:
        python: path of the interpreter there.
        layer: the distributions for it, if there are any.
        bundle: the bundle with that layer in it.
    """

    python: str
    layer: Dependencies | None
    bundle: Bundle


class Outfits:
    """Finds the outfits of one cluster's machines.

    Args:
        python: path of the interpreter on all of them; "": *wanted* decides.
        wanted: the setting `python`.
        supplies: gets what is needed.
        call: calls a machine's agent.
    """

    def __init__(self, python: str, wanted: str, supplies: Supplies | None, call: Callable[..., Steps[Any]]) -> None:
        self._python = python
        self._wanted = wanted
        self._supplies = supplies
        self._call = call

    def __repr__(self) -> str:
        return f"<Outfits of Python {self._python or self._wanted or 'as the driver'}>"

    def find(self, bundle: Bundle, info: Info, where: str, bring: Bring) -> Steps[Outfit]:
        """The outfit of one machine.

        Args:
            bundle: what it is to run.
            info: what its agent says of it.
            where: how messages call it.
            bring: has parts brought to its store, given their sizes, and takes the steps that use them.
        Raises:
            NoPython: it has none that will do.
            BigmError: what it needs cannot be had.
        """
        if self._python:
            return Outfit(self._python, bundle.layer(info.platform), bundle)
        report = yield from self._choose(bundle, where)
        if report is None:
            report = yield from self._send(bundle, info, bring)
        python, own, supplies, found = str(report["path"]), bundle.layer(info.platform), self._supplies, report
        layer: Dependencies | None = own
        if supplies is not None:
            layer = yield Work(lambda: supplies.layer(bundle, found))
        if layer is None or layer is own:
            return Outfit(python, own, bundle)
        return Outfit(python, layer, replace(bundle, dependencies={str(report["platform"]): layer}))

    def _choose(self, bundle: Bundle, where: str) -> Steps[Report | None]:
        """What an interpreter reported that the machine has; None: one is to be sent."""
        if self._wanted == pythons.BUNDLED and self._supplies is not None:
            return None
        choose = functools.partial(
            pythons.choose,
            wanted=self._wanted,
            driver=pythons.Driver.here(),
            machine=where,
            platforms=tuple(bundle.dependencies),
        )
        if self._wanted.startswith("/"):
            return choose([(yield from self._call("Installer.examine", self._wanted))])
        try:
            return choose((yield from self._call("Installer.pythons", bundle.python)))
        except pythons.NoPython:
            return choose((yield from self._call("Installer.pythons", "")))  # its message tells what there is

    def _send(self, bundle: Bundle, info: Info, bring: Bring) -> Steps[Report]:
        """Bring an interpreter, unless an earlier run has; what it reports."""
        supplies = self._supplies
        assert supplies is not None
        agents: Report = yield from self._call("Installer.examine", info.executable)
        platform = str(agents.get("platform", info.platform))  # it alone tells which libc there is
        digest, size = yield Work(lambda: supplies.interpreter(bundle, platform))
        known: Report = yield from self._call("Installer.find_interpreter", digest)
        if known:
            return known
        return (yield from bring({digest: size}, lambda: self._call("Installer.interpreter", digest, bounded=False)))
