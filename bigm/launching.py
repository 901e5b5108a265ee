"""Launching the instances of one cluster: the journal before, the system, and what came of it.

What becomes of the instances is their stewards' (`bigm.steward`); what a launch is to make is here until it is settled,
which is when nothing of it is left.
"""

from __future__ import annotations

import copy
import itertools
import sys
import threading
from dataclasses import dataclass, replace

from bigm.authority import Authority
from bigm.bootstrap.records import Launch
from bigm.config import Settings
from bigm.costs import Budget, dollars, now, promptly
from bigm.errors import BigmError, BootError, ConfigError, MachineStopped, SystemFault
from bigm.lifecycle import Cause
from bigm.rpc.tls import Credentials
from bigm.runs import Run
from bigm.systems.base import Instance, Launched, Spec, System
from bigm.terminal import Terminal

_PRICED = 2.0  # seconds that a launch waits for what it will cost, which is only told
_PRICED_SURELY = 30.0  # the same where there is a limit to keep
_SOON = 0.5  # seconds that a launch waits for a bundle that may be there already; to make one may take a minute


@dataclass(frozen=True)
class Batch:
    """What one launch came to.

    Args:
        launch: its id, unique.
        instances: those that exist, at least one.
        bootstrap: what each of them was given to be enrolled by.
    """

    launch: str
    instances: tuple[Instance, ...]
    bootstrap: Credentials


class Digest:
    """The digest of a bundle, for the title of a launch that goes on beside the making of it."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._digest = ""

    def tell(self, digest: str) -> None:
        """It is made; "": it will not be."""
        self._digest = digest
        self._told.set()

    def known(self) -> str:
        """The digest, or "" where it is not made soon."""
        self._told.wait(_SOON)
        return self._digest


class Launcher:
    """Launches instances for one cluster. Any thread.

    Args:
        name: the cluster's.
        system: where they come from.
        settings: the cluster's.
        authority: its certificate maker.
        run: keeps journal and events.
        terminal: what the user sees.
        budget: what the run may cost.
    Attributes:
        price: dollars an hour for a machine, as the last estimate has it; None where nobody knows.
        since: when the first launch began, by the clock of `bigm.costs`; None before.
        unsettled: the launches of which something may be left.
    """

    def __init__(
        self,
        name: str,
        system: System,
        settings: Settings,
        *,
        authority: Authority,
        run: Run,
        terminal: Terminal,
        budget: Budget,
    ) -> None:
        self._name = name
        self._system = system
        self._settings = settings
        self._authority = authority
        self._run = run
        self._terminal = terminal
        self._budget = budget
        self._numbers = itertools.count(1)  # drawn by several threads
        self.price: float | None = None
        self.since: float | None = None
        self.unsettled: set[str] = set()

    def __repr__(self) -> str:
        return f"<Launcher of {self._name}: {len(self.unsettled)} launches unsettled>"

    def spec(self) -> Spec:
        """What kind of machine is wanted."""
        settings = self._settings
        options = settings.systems.get(self._system.name, {})
        return Spec(python=sys.executable, options=options, timeout=settings.timeouts.launch)

    def announce(self, count: int) -> None:
        """Say what is about to be launched, and what it costs.

        Raises:
            MachineStopped: the run has cost what it may.
            ConfigError: it is not to cost more than so much, and nobody knows what machines cost.
        """
        self._check_budget()
        said, system = f"starting {machines(count)} on {self._system.name}", self._system
        if system.capabilities.prices:
            patience = _PRICED if self._budget.limit is None else _PRICED_SURELY
            spec = self.spec()
            offer, cost = promptly(lambda: (system.offer(spec), system.estimate(count, spec)), patience) or ("", None)
            self.price = None if cost is None else cost / count
            words = [offer, "" if cost is None else f"about {dollars(cost)} an hour"]
            said = f"{said}: {', '.join(filter(None, words))}" if any(words) else said
        if self._budget.limit is not None and self.price is None and not system.capabilities.local:
            system.offer(self.spec())  # where a wrong setting is why, this says so
            raise ConfigError(
                f"the run may cost {dollars(self._budget.limit)}, and what machines on {system.name} cost is not known",
                hint="start it without max_cost, and limit it by --max-lifetime",
            )
        self._terminal.phase(said)

    def _check_budget(self) -> None:
        if self._budget.reached:
            raise MachineStopped(f"no machine is started any more: {self._budget.sentence}", cause=Cause.COST)

    def least(self, count: int, wanted: int | None) -> int:
        """How many of *count* there must be, where `Cluster.start` was given *wanted*: else as configured, else one.

        Raises:
            ConfigError: that is no such number.
        """
        if wanted is None:  # that of the user is about the program's machines as a whole, not about each start's few
            return min(self._settings.min_mach or 1, count)
        if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= count:
            raise ConfigError(f"min_mach is a number from 1 to the {count} that are started, not {wanted!r}")
        return wanted

    def launch(self, count: int, least: int = 1, digest: str = "") -> Batch:
        """Launch *count* instances; fewer, but at least *least*, is said on standard error.

        Args:
            count: how many.
            least: with fewer than this there is no launch: those that exist are ended.
            digest: of the bundle they are to run, where it is known already.
        Raises:
            SystemFault: fewer than *least* could be launched.
            MachineStopped: the run has cost what it may.
        """
        self._check_budget()
        self.since = now() if self.since is None else self.since
        spec = replace(self.spec(), title=self._title(digest))
        launch = f"{self._authority.cluster}-{next(self._numbers)}"
        bootstrap = self._authority.bootstrap(launch)
        self.unsettled.add(launch)
        self._run.intent(launch, system=self._system.name, cluster=self._authority.cluster, machines=count)
        try:
            with self._terminal.live(self._system.waits_for):
                launched = self._system.launch(count, spec, self._boot(launch, bootstrap), launch)
        except BigmError as error:
            self._record(launch, count, 0, error.message)
            raise
        text = "; ".join(dict.fromkeys(str(failure) for failure in launched.failures))
        number = len(launched.instances)
        self._record(launch, count, number, text)
        if number < least:
            self._end(launch, launched)
            raise self._too_few(count, least, launched, text)
        if number < count:
            self._terminal.warn(f"only {number} of {machines(count)} could be launched: {text}")
        elif text:
            self._terminal.warn(text)  # of places that others have stood in for
        return Batch(launch, launched.instances, bootstrap)

    def settle(self, launch: str) -> None:
        """Nothing of *launch* is left."""
        self.unsettled.discard(launch)
        self._run.settled(launch)

    def _end(self, launch: str, launched: Launched) -> None:
        """What a launch has made is too little to be of use."""
        ids = [instance.id for instance in launched.instances]
        try:
            left = [error for error in self._system.terminate(ids).values() if error] if ids else []
        except SystemFault as error:
            left = [error]
        for problem in left:
            self._terminal.warn(f"what was launched could not be ended: {problem}")
        if not left:
            self.settle(launch)

    def _too_few(self, count: int, least: int, launched: Launched, text: str) -> BigmError:
        failures, number = launched.failures, len(launched.instances)
        if not number:
            return failures[0] if failures else BootError(f"{self._system.name} launched nothing")
        error = copy.copy(failures[0]) if failures else BootError()  # of the kind of the first, with its exit code
        what = f"only {number} of {machines(count)} could be launched on {self._system.name}"
        error.args = (f"{what}, and at least {least} are wanted, so none is kept: {text}",)
        error.hint = ""  # the text has it
        return error

    def _title(self, digest: str) -> str:
        info = self._run.info
        return " ".join(word for word in (info.program, digest[:12], *info.argv) if word)

    def _record(self, launch: str, asked: int, launched: int, text: str) -> None:
        self._run.event("launch", launch=launch, cluster=self._name, asked=asked, launched=launched, text=text)

    def _boot(self, launch: str, bootstrap: Credentials) -> Launch:
        limits = self._settings.timeouts
        local = self._system.capabilities.local
        return Launch(
            cluster=self._authority.cluster,
            launch=launch,
            ca=bootstrap.ca.decode(),
            cert=bootstrap.cert.decode(),
            key=bootstrap.key.decode(),
            agent_digest="" if local else _agent_digest(),
            first_lease=limits.first_lease,
            lifetime=limits.lifetime,
            local=local,
            drain=limits.drain,
            linger=limits.linger,
            log_ring=self._settings.log_ring,
        )


def machines(count: int) -> str:
    """So many, in words."""
    return f"{count} machine{'s'[: count != 1]}"


def _agent_digest() -> str:
    from bigm.bootstrap.agentzip import agent_digest  # only systems elsewhere are sent one

    return agent_digest()
