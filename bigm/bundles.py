"""What the machines of one cluster are brought, and who brings it: nothing, this program, or another.

Programs whose machines run the driver's own environment pay nothing for it: what makes and ships bundles is imported
when the first one is needed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from bigm.clock import Clock
from bigm.config import Settings
from bigm.errors import ConfigError, NotSupported, ProgramError
from bigm.machine import Machine
from bigm.pool import Pool
from bigm.runs import Run
from bigm.systems.base import System
from bigm.terminal import Terminal

if TYPE_CHECKING:
    from bigm.bundle.bundle import Bundle
    from bigm.shipping import Shipping


MAKING = "making the bundle"  # what a terminal shows meanwhile, with the seconds: pex may take a minute


class Bundles:
    """The bundles of one cluster. Any thread.

    Args:
        name: the cluster's name.
        system: where its machines come from.
        settings: of the cluster.
        run: keeps events.
        terminal: what the user sees.
        clock: calls what is due.
        pool: threads for what blocks.
    """

    def __init__(
        self, name: str, system: System, settings: Settings, *, run: Run, terminal: Terminal, clock: Clock, pool: Pool
    ) -> None:
        self._name = name
        self._system = system
        self._settings = settings
        self._run = run
        self._terminal = terminal
        self._clock = clock
        self._pool = pool
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._own: Bundle | None = None
        self._shipping: Shipping | None = None

    def __repr__(self) -> str:
        return f"<Bundles of {self._name}: {self._shipping or 'none yet'}>"

    def are_needed(self, given: Bundle | None) -> bool:
        """Whether machines are brought a bundle, where `Cluster.start` was given *given*.

        Raises:
            ConfigError: that is no bundle, or the setting `python` is one that no machine can fulfil.
            NotSupported: the system's machines run none.
        """
        can = self._system.capabilities
        if given is None and can.in_place and not self._settings.bundle.rehearse:
            return False
        from bigm.bundle import pythons
        from bigm.bundle.bundle import Bundle

        if given is not None and not isinstance(given, Bundle):
            raise ConfigError(
                f"cluster.start takes a bundle that cluster.bundle has made, not {given!r:.200}",
                hint='as in bundle=cluster.bundle("other.py")',
            )
        if not can.processes:
            raise NotSupported(
                f"machines of {self._system.name} are threads of this process, which run no bundle",
                hint="leave it out, or take --system local",
            )
        pythons.check(self._settings.python, pythons.Driver.here())
        return True

    def own(self) -> Bundle:
        """The bundle of this run, which machines that start later run too, whatever was edited meanwhile."""
        from bigm.bundle.build import make_bundle
        from bigm.bundle.sources import Rules

        with self._making:
            if self._own is None:
                since = time.monotonic()
                with self._terminal.live(lambda: MAKING):
                    found = make_bundle(
                        self._settings.home,
                        Rules.of(self._settings),
                        requirements=self._settings.bundle.requirements,
                        tell=self._terminal.phase,
                        progress=self._terminal.phase,
                    )
                self._run.event(
                    "bundled",
                    cluster=self._name,
                    bundle=found.digest,
                    files=len(found.program.files),
                    size=found.program.size,
                    distributions=sum(len(layer.distributions) for layer in found.dependencies.values()),
                    seconds=round(time.monotonic() - since, 3),
                )
                self._own = found
            return self._own

    def of(self, program: str, module: str) -> Bundle:
        """The bundle of another program; see `Cluster.bundle`."""
        from bigm.bundle.build import bundle_program
        from bigm.bundle.described import describe
        from bigm.bundle.sources import Rules

        if not os.path.isfile(program):
            raise ProgramError(f"there is no program {program!r} to bundle")
        with self._terminal.live(lambda: MAKING):
            return bundle_program(
                describe(program, module=module),
                self._settings.home,
                Rules.of(self._settings),
                requirements=self._settings.bundle.requirements,
                tell=self._terminal.phase,
                progress=self._terminal.phase,
            )

    @property
    def shipping(self) -> Shipping:
        """What brings them; made when it is first asked for."""
        with self._lock:
            if self._shipping is None:
                self._shipping = self._open_shipping()
            return self._shipping

    def status(self) -> str:
        """What is on its way, in words; "" when nothing is."""
        return self._shipping.tally.status() if self._shipping is not None else ""

    def gone(self, machine: Machine) -> None:
        """A machine has stopped: nobody can fetch from it."""
        if self._shipping is not None:
            self._shipping.gone(machine)

    def close(self) -> None:
        """Bring nothing any more."""
        if self._shipping is not None:
            self._shipping.close()

    def _open_shipping(self) -> Shipping:
        from bigm.bundle.supply import Supply
        from bigm.shipping import Shipping, Terms

        can, settings, terminal = self._system.capabilities, self._settings, self._terminal
        wishes, stall = settings.bundle, settings.timeouts.stall
        own = getattr(sys, "_base_executable", sys.executable)
        terms = Terms(
            peers=can.peers,
            extension=bytes if can.local else _extension_zip,
            store=wishes.store,
            keep=wishes.keep,
            python=own if can.local and not settings.python else "",
            wanted=settings.python,
            notices=can.notice > 0,
            supplies=Supply(settings.home, wishes.mirror, terminal.phase, stall=stall),
        )
        return Shipping(
            self._name,
            terms,
            timeouts=settings.timeouts,
            clock=self._clock,
            submit=self._pool.submit,
            warn=terminal.warn,
            say=terminal.phase,
        )


def _extension_zip() -> bytes:
    from bigm.bootstrap.agentzip import extension_zip

    return extension_zip()
