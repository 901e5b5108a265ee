"""The driver's hold on its machines: starting, waiting for, and ending them. The front door: `bigm.start`.

A cluster makes its own certificates, opens one system, and launches instances there; each becomes a `Machine` that a
`Steward` looks after. Nothing here waits for a machine without its cause: a start that fails says why, and whatever
ends the driver ends the machines (`bigm.session`).

Source: bigmachine bigmachine.go (B, Start, Dial, Shutdown) and driver/driver.go (Start).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from bigm import config
from bigm.authority import Authority
from bigm.board import Board, in_thread, start_thread
from bigm.bundles import Bundles
from bigm.clock import Clock
from bigm.costs import Budget, now
from bigm.ending import Leftover as Leftover
from bigm.ending import end, owned_machines, prove
from bigm.errors import (
    BigmError,
    BootError,
    ConfigError,
    MachineStopped,
    NotPicklable,
    SystemFault,
)
from bigm.groups import Groups, abroadcast, broadcast
from bigm.launching import Batch, Digest, Launcher
from bigm.launching import machines as counted
from bigm.leases import Leases
from bigm.lifecycle import Cause, Phase, State
from bigm.machine import Machine, Machines, machine_list
from bigm.peer import Link, Peer, address, open_clusters
from bigm.pings import Pings
from bigm.plan import Plan, make_plan
from bigm.pool import Pool
from bigm.program import is_driver, share_main
from bigm.progress import Wait
from bigm.rpc import interrupts
from bigm.rpc.codec import Home
from bigm.session import Session, can_start_threads, program, session, tell_errors_plainly
from bigm.sharing import Shared, Sharing
from bigm.steward import Common, Steward
from bigm.supply import Source, User
from bigm.systems.base import ENDED, System, make_system
from bigm.timeouts import check_timeout
from bigm.worker import program as on_machines

if TYPE_CHECKING:
    from bigm.bundle.bundle import Bundle
    from bigm.executor import Executor
    from bigm.keeper import Keeper
    from bigm.readings import Variables

T = TypeVar("T")

_THREADS = 16  # for what blocks shortly: dialling, enrolling, ending; machines wait their turn


def start(system: str | System | None = None, name: str | None = None, **settings: object) -> Cluster:
    """Open a cluster. Returns at once; nothing is launched yet.

    Where it is reached by the import of the program on a machine it never returns: the machine serves.

    Args:
        system: where machines come from, by name or as an object; None: as configured, `local` by default.
        name: the cluster's name in messages and labels; None: as configured, the program's by default.
        settings: anything `bigm config show` lists, for this cluster (`nmach=3`, `timeouts={"setup": 60}`).
    Raises:
        ConfigError: a setting is unknown or wrong.
    Example:
        with bigm.start() as cluster:
            machines = cluster.start(3, services={"PI": CirclePI()})
            cluster.wait(machines)
            hits = machines[0].call("PI.sample", 1_000_000)
    Source: bigmachine driver/driver.go, Start.
    """
    if not is_driver():
        on_machines.start()
    tell_errors_plainly()
    chosen = system.name if isinstance(system, System) else system
    found = config.load({"system": chosen, "name": name, **_dotted(settings)})
    if not isinstance(system, System):
        system = make_system(found.system, found.systems)
    try:
        return Cluster(system, found)
    except BaseException:  # an interrupt, most likely: nobody has the cluster yet to shut it down
        system.close()
        raise


class Cluster(Groups):
    """One driver's hold on its machines. A context manager, whose end is `shutdown`. Opened by `bigm.start`.

    Args:
        system: where instances come from; owned and closed by the cluster.
        settings: what it runs with, as `bigm.start` gathers them.
    Attributes:
        name: its name in messages and labels.
        id: twelve hexadecimal digits, unlike any other cluster's.
        machines: those started here that are not STOPPED, oldest first.
        nmach: machines the user asked for; None where that is left to the program.
    """

    def __init__(self, system: System, settings: config.Settings) -> None:
        self._settings = settings
        self._system = system
        self._pid = os.getpid()
        self._session: Session = session(settings)
        self.name = self._session.name(settings.name or program().removesuffix(".py"))
        self._authority = Authority(lifetime=settings.timeouts.lifetime)
        self._board = Board()
        self._stewards: list[Steward] = []
        self._own: dict[str, Machine] = {}  # by address
        self._dialled: dict[str, Pings[Machine]] = {}
        self._executors: list[User] = []
        self._numbered = 0
        self._closing = False
        self._closed = False
        self._cancelled = False  # the task that ends it
        self._hurried = False  # told to end its machines at once
        self._left: list[Leftover] = []
        self._home = Home(self._authority.cluster, self.dial, worker=False)
        system.open(self._authority.cluster)
        clock = Clock(f"bigm-leases-{self.name}")
        self._sharing = self._home.shared = Sharing(
            self.name,
            self.id,
            folder=self._session.run.folder,
            elsewhere=system.capabilities.processes,
            timeouts=settings.timeouts,
            clock=clock,
        )
        pool = Pool(f"bigm-pool-{self.name}", _THREADS)
        self._bundles = Bundles(
            self.name,
            system,
            settings,
            run=self._session.run,
            terminal=self._session.terminal,
            clock=clock,
            pool=pool,
        )
        self._budget = Budget(
            settings.max_cost,
            self._session.costs,
            after=clock.after,
            warn=self._session.terminal.warn,
            over=lambda text: pool.submit(self._end_for_cost, text),
        )
        self._launcher = Launcher(
            self.name,
            system,
            settings,
            authority=self._authority,
            run=self._session.run,
            terminal=self._session.terminal,
            budget=self._budget,
        )
        self._common = Common(
            name=self.name,
            system=system,
            authority=self._authority,
            agent=b"" if system.capabilities.local else _agent_zip(),
            link=Link(self._authority.driver(), timeouts=settings.timeouts, home=self._home),
            pool=pool,
            clock=clock,
            leases=Leases(system.timer or clock, settings.timeouts),
            keeper=None if system.capabilities.local else self._keeper(),
            sharing=self._sharing,
            bundles=self._bundles,
            run=self._session.run,
            output=self._session.open(self),
        )
        open_clusters[self.id] = self._home
        share_main()

    def __repr__(self) -> str:
        states = [str(steward.machine.state) for steward in self._stewards]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        return f"<Cluster {self.name} ({self._authority.cluster}) on {self._system.name}: {counts or 'no machines'}>"

    def _repr_html_(self) -> str:
        from bigm import notebook

        title = f"cluster {self.name} on {self._system.name}{', shut down' if self._closed else ''}"
        return notebook.cluster_table(title, [steward.machine for steward in self._stewards])

    def __reduce__(self) -> NoReturn:
        raise NotPicklable("a cluster belongs to the process that opened it; send its machines, or their addresses")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (SystemExit, KeyboardInterrupt)) and os.getpid() == self._pid:
            self._session.ends_with(error)  # any other may be handled further up, or reaches the hook
        self.shutdown()

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all machines in a thread, while the loop goes on. Cancelled meanwhile, it ends them at once.

        Ctrl-C cancels the main task of `asyncio.run`, the first time on the way here, the second time here. The loop
        wakes by itself now and then, for the reason that `Board` does.
        """
        import asyncio  # whoever awaits has it; a driver that does not need not pay for it

        if isinstance(error, (SystemExit, KeyboardInterrupt)) and os.getpid() == self._pid:
            self._session.ends_with(error)
        self._cancelled = isinstance(error, asyncio.CancelledError)
        cancelled: asyncio.CancelledError | None = None
        try:
            ended = asyncio.wrap_future(start_thread(f"bigm-shutdown {self.name}", self.shutdown))
            while not ended.done():
                try:
                    await asyncio.wait([ended], timeout=interrupts.WAKE)
                except asyncio.CancelledError as again:
                    cancelled = again
                if cancelled is not None:
                    self._hurry()
        except BaseException:  # a second signal that was raised in here, and whatever became of it
            self._hurry()
            raise
        self._session.restore_signals()
        if cancelled is not None:
            raise cancelled
        ended.result()

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits, unlike any other cluster's."""
        return self._authority.cluster

    @property
    def nmach(self) -> int | None:
        """Machines the user asked for by flag, environment or file; None where they left it to the program."""
        return self._settings.nmach

    @property
    def machines(self) -> list[Machine]:
        """The machines started here that are not STOPPED, oldest first."""
        return Machines(s.machine for s in self._stewards if s.machine.state is not State.STOPPED)

    def start(
        self,
        n: int | None = None,
        *,
        services: Mapping[str, object] | None = None,
        min_mach: int | None = None,
        procs: int | Literal["all"] | None = None,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] | None = None,
        on_worker_death: Literal["stop", "restart"] = "stop",
        bundle: Bundle | None = None,
    ) -> list[Machine]:
        """Launch machines that run this program and serve *services*. They may still be starting when this returns.

        Args:
            n: how many; None: as configured (`--nmach`).
            services: instances by name. Each is pickled here, and rebuilt once in each worker. None: machines that only
                run functions, as `Machine.run` and executors send them.
            min_mach: how many of *n* there must be: where fewer can be launched, they are ended and the start fails.
                None: as configured (`--min-mach`), else one.
            procs: workers on each machine, with their own instances; "all": one for each CPU it may use; None: as
                configured, else 1.
            env: environment variables laid over the machine's own (on `local`: the driver's).
            args: the program's arguments there; None: the driver's own.
            on_worker_death: what a worker's death means: "stop" stops its machine, with the cause. "restart" starts the
                worker anew and sets its services up again: calls in flight on it raise `WorkerDied`, later ones go to
                the others or wait. A worker that dies again and again stops its machine.
            bundle: what machines are brought and run; None: this program as it was at the cluster's first start, where
                machines are elsewhere or `bundle.rehearse` is set, else the driver's own environment.
        Returns:
            At least one machine, or *min_mach*. Fewer than *n* is said on standard error.
        Raises:
            ConfigError: an argument is wrong, or the system cannot do that.
            NotPicklable: a service cannot be pickled; names the path to what cannot.
            ProgramError: the program cannot be bundled: a file cannot be read, or too much would travel.
            SystemFault: not one instance could be launched, or fewer than *min_mach*; names the causes.
        """
        self._check_open()
        count = self._count(n)
        least = self._launcher.least(count, min_mach)
        procs = self._settings.procs if procs is None else procs
        plan = make_plan(
            self._system,
            self._launcher.spec(),
            services=services,
            procs=procs,
            env=env,
            args=args,
            on_worker_death=on_worker_death,
            bundled=self._bundles.are_needed(bundle),
        )
        self._launcher.announce(count)
        stewards = self._launch_with(count, least, plan, bundle) if plan.bundled else self._launch(count, plan, least)
        for steward in stewards:
            steward.begin()
        self._tell_executors()
        return Machines(steward.machine for steward in stewards)

    async def astart(
        self,
        n: int | None = None,
        *,
        services: Mapping[str, object] | None = None,
        min_mach: int | None = None,
        procs: int | Literal["all"] | None = None,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] | None = None,
        on_worker_death: Literal["stop", "restart"] = "stop",
        bundle: Bundle | None = None,
    ) -> list[Machine]:
        """As `start`, for `await`. Cancelled, it is carried through: what was launched is among `machines`."""
        return await in_thread(
            f"bigm-start {self.name}",
            self.start,
            n,
            services=services,
            min_mach=min_mach,
            procs=procs,
            env=env,
            args=args,
            on_worker_death=on_worker_death,
            bundle=bundle,
        )

    def wait(
        self, machines: Iterable[Machine] | None = None, state: State = State.RUNNING, timeout: float | None = None
    ) -> None:
        """Wait until all of *machines* are at *state* or beyond.

        Args:
            machines: which; None: all of `machines`.
            state: what to wait for.
            timeout: seconds at most; None: as long as the steps of a start may take.
        Raises:
            BigmError: the first one that stopped, and was not to, says why; others may still be starting.
            DeadlineExceeded: the timeout passed first.
            ConfigError: an argument is wrong.
        """
        check_timeout(timeout)
        wanted = self.machines if machines is None else machine_list("cluster.wait", machines)
        wait = Wait(wanted, state, self._bundles)
        with self._session.terminal.live(wait.status), self._board:
            wait.check(self._board.wait_for(wait.over, timeout), timeout)
        self._tell_outcome(wait)

    async def await_state(
        self, machines: Iterable[Machine] | None = None, state: State = State.RUNNING, timeout: float | None = None
    ) -> None:
        """As `wait`, for `await`."""
        check_timeout(timeout)
        wanted = self.machines if machines is None else machine_list("cluster.await_state", machines)
        wait = Wait(wanted, state, self._bundles)
        with self._session.terminal.live(wait.status):
            wait.check(await self._board.until(wait.over, timeout), timeout)
        self._tell_outcome(wait)

    def _tell_outcome(self, wait: Wait) -> None:
        """Machines elsewhere take a while, and people look away meanwhile."""
        if not self._system.capabilities.local and (text := wait.outcome()):
            self._session.terminal.phase(text)

    def broadcast(self, method: str, /, *args: object, **kwargs: object) -> dict[Machine, list[Any]]:
        """Call a method on every worker of all `machines` at once, and wait for all of them.

        Args:
            method: "Service.method".
            args: the method's own arguments, as are *kwargs*.
        Returns:
            for each machine, oldest first, what its workers returned, in their order; one each where there is one.
        Raises:
            GroupError: one or more failed; all the others were called, and have been waited for.
            ConfigError: there is no machine.
        """
        return broadcast(self._living(), method, args, kwargs)

    async def abroadcast(self, method: str, /, *args: object, **kwargs: object) -> dict[Machine, list[Any]]:
        """The same for `await`."""
        return await abroadcast(self._living(), method, args, kwargs)

    def variables(self) -> Variables:
        """Read the variables that services keep with `bigm.counter`, `gauge` and `variable`, per machine and summed.

        Machines that are not RUNNING are left out; one that does not answer is in `Variables.errors`. What the driver
        itself counts is not in it.
        """
        from bigm.readings import read_variables

        self._check_open()
        return read_variables(self.machines, self._settings.timeouts)

    def dial(self, machine: str | Peer) -> Machine:
        """A machine by its address or a handle of it, always the same object for one address.

        One that was not started here is not owned: it gets no lease and no end, and its state is told by pings.

        Raises:
            ConfigError: *machine* is neither, or it belongs to another cluster.
        """
        self._check_open()
        addr = address(machine, self._common.link)
        if addr in self._own:
            return self._own[addr]
        with self._board:
            if addr not in self._dialled:
                stranger = Machine(addr, self._common.link, board=self._board)
                self._dialled[addr] = Pings(stranger, self._common.clock, lasting=True)
            return self._dialled[addr].machine

    def executor(
        self,
        machines: Sequence[Machine] | None = None,
        *,
        retries: int = 0,
        threads: int = 1,
        replace: bool = False,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> Executor:
        """A `concurrent.futures.Executor` over all workers of the machines.

        A cluster without machines starts as many as are configured (`--nmach`), which run functions only.

        Args:
            machines: which; None: all of the cluster, those that it starts later too.
            retries: how often a task may be run again after its machine was lost; 0: what may have run is not run
                again, and its future says so. A task that raises is never run again.
            threads: tasks that each worker runs at a time; more than 1 helps those that wait, or let go of the GIL.
            replace: start another machine, alike, for each that is lost, until several in a row do not start.
            initializer: runs once in each worker before its first task, with *initargs*; when it raises, the executor
                is broken.
        Raises:
            ConfigError: an argument is wrong, or there is no machine and nobody has said how many to start.
            NotPicklable: the initializer does not pickle.
        """
        self._check_open()
        from bigm.executor import open_executor  # programs that only call services need not pay for it

        return open_executor(
            self._source(),
            machines,
            retries=retries,
            threads=threads,
            replace=replace,
            initializer=initializer,
            initargs=initargs,
        )

    def map(
        self,
        function: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        ordered: bool = True,
        progress: bool = False,
        retries: int = 0,
        threads: int = 1,
        ahead: int | None = None,
        machines: Sequence[Machine] | None = None,
    ) -> Iterator[T]:
        """As the built-in `map`, by all workers, and as lazy: for more than fits into memory.

        Nothing is read or run before the first result is asked for; then arguments are read as results are taken.

        Args:
            function: what to run; it goes by its import path, or by value where it has none.
            iterables: its arguments; read in the thread that takes the results.
            ordered: results in the order of the arguments; else as they come.
            progress: show how far it is.
            retries: how often a task may be run again after its machine was lost, since running it twice does no harm.
            threads: tasks that each worker runs at a time.
            ahead: tasks that may be read before their results are taken; None: a tenth of a second's work for each
                worker, four at least.
            machines: which; None: as for `executor`.
        Returns:
            Results. An exception is raised in its place, after the results before it. When the iterator is closed, by
            that or by its reader, what still waits is dropped, and what runs is asked to stop.
        Raises:
            ConfigError: an argument is wrong; or, with the first result, there are no machines.
        """
        self._check_open()
        from bigm.mapping import map_over  # as above

        return map_over(
            self._source(),
            function,
            iterables,
            ordered=ordered,
            progress=self._session.terminal if progress else None,
            retries=retries,
            threads=threads,
            ahead=ahead,
            machines=machines,
        )

    def share(self, value: object) -> Shared:
        """Send a big object to each machine once, not with every call.

        The handle stands for it in arguments of calls, anywhere in them: the method gets the object, the same one for
        all calls of a worker, so it must not be changed; arrays cannot be. Nothing is sent before the first call with
        it; from then on machines that start later get it too. It is *value* as it is now: later changes are not seen.

        Args:
            value: anything that pickles. The memory of arrays is not copied here, but into a file of the run's folder.
        Returns:
            the handle; when nothing refers to it any more, machines and driver free the object.
        Raises:
            NotPicklable: names the path to what cannot be pickled.
            OSError: the run's folder has no room for it.
        """
        self._check_open()
        return self._sharing.share(value)

    def bundle(self, program: str | os.PathLike[str], *, module: str = "") -> Bundle:
        """Make the bundle of another program, for `start(bundle=...)`: as it is now, with this environment.

        Args:
            program: path of its script, or of the module.
            module: the module's name, where it is to be run as one.
        Raises:
            ProgramError: there is no such file, or it cannot be bundled.
        """
        self._check_open()
        return self._bundles.of(os.fspath(program), module)

    def shutdown(self, machines: Iterable[Machine] | None = None, timeout: float | None = None) -> list[Leftover]:
        """End machines: `teardown` of their services, their last output, their instances.

        Without arguments it ends the cluster, and proves that nothing is left; again, that changes nothing. A second
        Ctrl-C or signal meanwhile ends all at once.

        Args:
            machines: which; None: all, and the cluster with them. What executors run on some has `Timeouts.tasks`, or
                the timeout, to end.
            timeout: seconds to wait for them; None: as long as the steps of an end may take. When it has passed, some
                machines go on ending by themselves, and those of a cluster that ends are ended without ceremony.
        Returns:
            What could not be ended, and why; also said on standard error, but for what only needs longer.
        Raises:
            ConfigError: a machine was not started by this cluster, or the timeout is none.
        """
        if os.getpid() != self._pid:
            return []  # a forked child: the cluster is its parent's
        check_timeout(timeout)
        if machines is not None:
            return self._end_some(machines, timeout)
        with self._board:
            first, self._closing = not self._closing, True
        if not first:
            with self._board:
                self._board.wait_for(lambda: self._closed, self._ending(timeout))
            return list(self._left)
        for executor in list(self._executors):
            ended = MachineStopped(f"cluster {self.name} was shut down", cause=Cause.SHUTDOWN)
            executor.fail("the end of its cluster", ended)
        try:
            self._end_all(timeout)
        finally:
            try:
                self._close()
            finally:  # interrupted or not: who waits for the same end, at the latest the end of the program, may go on
                with self._board:
                    self._closed = True
                    self._board.notify_all()
        return list(self._left)

    async def ashutdown(
        self, machines: Iterable[Machine] | None = None, timeout: float | None = None
    ) -> list[Leftover]:
        """As `shutdown`, for `await`. Cancelled, it goes on without you."""
        return await in_thread(f"bigm-shutdown {self.name}", self.shutdown, machines, timeout)

    def _hurry(self) -> None:
        """Whoever ends the machines is to do so at once, if they are being ended; for any thread."""
        with self._board:
            self._hurried = self._closing
            self._board.notify_all()

    def _living(self) -> list[Machine]:
        self._check_open()
        machines = self.machines
        if not machines:
            raise ConfigError(f"cluster {self.name} has no machines to call", hint="start some first")
        return machines

    def _finish(self) -> None:
        """The program ends: let what was submitted to executors be done, as it would be by those of Python."""
        executors = list(self._executors)
        for executor in executors:
            executor.close("interpreter shutdown")
        for executor in executors:
            executor.wait()

    # --- starting

    def _keeper(self) -> Keeper:
        from bigm.keeper import Keeper  # only systems elsewhere need one

        return Keeper(self._authority.keeper(), self._settings.timeouts)

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise ConfigError(f"cluster {self.name} belongs to the process that opened it, not to its forked children")
        if self._closing:
            raise ConfigError(f"cluster {self.name} is shut down")

    def _count(self, n: int | None) -> int:
        if n is None:
            n = self.nmach
        if n is None:
            raise ConfigError("how many machines?", hint="give cluster.start a number, or run with --nmach")
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"a cluster starts 1 machine or more, not {n!r}")
        return n

    def _launch(self, count: int, plan: Plan, least: int = 1, digest: Callable[[], str] = lambda: "") -> list[Steward]:
        """Launch, and appoint a steward to each instance."""
        return self._appoint(self._launcher.launch(count, least, digest()), plan)

    def _launch_with(self, count: int, least: int, plan: Plan, given: Bundle | None) -> list[Steward]:
        """Launch machines that are brought a bundle; what is wrong with that is found before they cost anything."""
        if not self._system.capabilities.local:
            self._system.prepare()  # to make a bundle may take a minute
            return self._launch(count, replace(plan, bundle=given or self._bundles.own()), least)
        digest = Digest()
        launching = start_thread(f"bigm-launch {self.name}", self._launch, count, plan, least, digest.known)
        try:
            bundle = given or self._bundles.own()
            digest.tell(bundle.digest)
            plan = replace(plan, bundle=bundle)
        except BaseException:
            digest.tell("")
            with contextlib.suppress(BigmError):
                for steward in launching.result():
                    steward.begin()
                    steward.stop(Cause.CANCELLED)
            raise
        stewards = launching.result()
        for steward in stewards:
            steward.bring(plan)
        return stewards

    def _appoint(self, batch: Batch, plan: Plan) -> list[Steward]:
        alive = {instance.id for instance in batch.instances}

        def settled(steward: Steward) -> None:
            with self._board:
                if steward.machine._left is None:
                    alive.discard(steward.instance.id)
                    self._session.costs.ended(steward.instance.id)
                none = not alive
            if none:
                self._launcher.settle(batch.launch)
            self._tell_executors()

        stewards = []
        with self._board:
            for instance in batch.instances:
                machine = f"m{self._numbered}"
                self._numbered += 1
                steward = Steward(
                    self._common,
                    plan,
                    instance,
                    batch.bootstrap,
                    machine=machine,
                    label=self._session.label(self.name, machine),
                    board=self._board,
                    settled=settled,
                )
                stewards.append(steward)
            self._stewards += stewards
            self._own.update((steward.machine.addr, steward.machine) for steward in stewards)
        for instance in batch.instances:
            price = self._launcher.price if instance.price is None else instance.price
            self._session.costs.began(instance.id, price, self.id)
        self._budget.look()
        return stewards

    def _start_another(self, like: Machine) -> Machine:
        """Start a machine that runs what *like* did."""
        self._check_open()
        plan = next((steward._plan for steward in self._stewards if steward.machine is like), None)
        if plan is None:
            raise ConfigError(f"machine {like.addr} was not started by cluster {self.name}, which cannot replace it")
        [steward] = self._launch(1, plan)
        steward.begin()
        return steward.machine

    def _start_configured(self) -> list[Machine]:
        """Start machines that run functions, as many as the user asked for."""
        self._check_open()
        if self.nmach is None:
            raise ConfigError(
                f"cluster {self.name} has no machines to run functions on, and was not told how many machines to start",
                hint="call cluster.start with a number first, or run with --nmach",
            )
        return self.start()

    def _source(self) -> Source:
        """This cluster, as executors know it."""
        common = self._common
        return Source(
            name=self.name,
            home=common.link.home,
            machines=lambda: self.machines,
            start=self._start_configured,
            another=self._start_another,
            ends=lambda: self._closing,
            users=self._executors,
            later=lambda pause, act: common.clock.after(pause, lambda: common.pool.submit(act)),
            warn=self._session.terminal.warn,
        )

    def _tell_executors(self) -> None:
        """There may be other machines."""
        for executor in list(self._executors):
            executor.refresh()

    # --- ending

    def _end_some(self, machines: Iterable[Machine], timeout: float | None) -> list[Leftover]:
        wanted = owned_machines(machines, (steward.machine for steward in self._stewards), self.name)
        left = end(wanted, self._board, self._settings.timeouts, timeout)
        for leftover in left:
            if leftover.machine._left is not None:
                self._tell_left(leftover)
        return left

    def _tell_left(self, leftover: Leftover) -> None:
        self._session.terminal.warn(f"{leftover.machine.addr} could not be ended: {leftover.error}")

    def _ending(self, timeout: float | None) -> float:
        return self._settings.timeouts.ending() if timeout is None else timeout

    def _end_all(self, timeout: float | None) -> None:
        living = [steward for steward in self._stewards if steward.machine._phase < Phase.ENDED]
        if living and not can_start_threads():
            self._session.terminal.warn("the program ended with a cluster open: no `teardown`, the last output is lost")
            return  # `_close` ends them without ceremony
        try:
            if living:
                self._announce_end(len(living))
            for steward in living:
                steward.stop(Cause.SHUTDOWN)
            with self._board:
                self._board.wait_for(
                    lambda: self._hurried or all(steward.machine._phase is Phase.ENDED for steward in living),
                    self._ending(timeout),
                )
            if self._hurried:
                self._end_at_once()
        except (KeyboardInterrupt, SystemExit):
            self._end_at_once()
            raise

    def _end_for_cost(self, text: str) -> None:
        """The run has cost what it may."""
        living = [steward for steward in self._stewards if steward.machine._phase < Phase.ENDING]
        self._session.run.event("cost", cluster=self.name, text=text, machines=len(living))
        self._session.terminal.warn(f"{text}: ending {counted(len(living))}")
        for steward in living:
            steward.stop(Cause.COST, text)

    def _end_at_once(self) -> None:
        self._session.terminal.warn("interrupted again: ending the machines at once")
        self._system.close()

    def _announce_end(self, count: int) -> None:
        if self._session.interrupted or self._cancelled:
            why = "interrupted" if self._session.interrupted else "cancelled"
            self._session.terminal.phase(f"{why}: ending {counted(count)}; once more ends them at once")
        else:
            self._session.terminal.detail(f"ending {counted(count)}")

    def _close(self) -> None:
        """Let go of everything, and see what is left."""
        with contextlib.ExitStack() as last:
            last.callback(self._session.closed, self)
            last.callback(self._see_what_is_left)
            last.callback(self._common.pool.close)
            last.callback(self._sharing.close)
            last.callback(self._bundles.close)
            for pings in self._dialled.values():
                last.callback(pings.close, f"cluster {self.name} is shut down")
            for steward in self._stewards:
                last.callback(steward.machine.close)
            last.callback(self._system.close)
            if self._common.keeper is not None:
                last.callback(self._common.keeper.close)
            last.callback(self._common.clock.close)

    def _see_what_is_left(self) -> None:
        self._left = self._leftovers()
        left = {leftover.machine for leftover in self._left}
        for steward in self._stewards:
            if steward.machine not in left:
                self._session.costs.ended(steward.instance.id)
        if self._system.capabilities.prices and self._launcher.since is not None:
            self._prove_the_end(self._launcher.since)

    def _prove_the_end(self, since: float) -> None:
        cost = self._session.costs.total(self.id)
        left, text = prove(self._system, now() - since, cost, ran=bool(self._stewards))
        self._session.run.event("left", cluster=self.name, instances=left, cost=cost)
        say = self._session.terminal.phase if left == [] else self._session.terminal.warn
        if text:
            say(text)

    def _leftovers(self) -> list[Leftover]:
        """Ask the system about machines that are not known to have ended; settle the journal as far as can be."""
        doubtful = [s for s in self._stewards if s.machine._phase is not Phase.ENDED or s.machine._left is not None]
        if not doubtful and not self._launcher.unsettled:
            return []
        why: BigmError = BootError("its instance has not ended", hint="its lease will end it")
        try:
            found = [instance for instance in self._system.describe() if instance.state != ENDED]
        except SystemFault as error:
            found, why = [steward.instance for steward in doubtful], error
        living = {instance.id for instance in found}
        left = [Leftover(s.machine, s.machine._left or why) for s in doubtful if s.instance.id in living]
        for leftover in left:
            self._tell_left(leftover)
        for launch in list(self._launcher.unsettled):
            if not any(instance.launch == launch for instance in found):
                self._launcher.settle(launch)
        return left


def _dotted(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings by dotted key: sections may be given as mappings."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found.update({f"{key}.{option}": item for option, item in value.items()})
        else:
            found[key] = value
    return found


def _agent_zip() -> bytes:
    from bigm.bootstrap.agentzip import agent_zip  # only systems elsewhere send it

    return agent_zip()
