"""Looks after one machine, from its instance to its proven end: performs what the table of `bigm.lifecycle` asks.

A steward is pushed by events and performs the actions each transition calls for. What blocks for long is a call that
nobody waits for, whose answer is the next event; what blocks shortly runs in the cluster's pool. So a start that hangs
holds no thread, and the end can come at any moment: the table ignores what is too late.

The agent is followed by one long poll (`Watch`), which brings its output and its workers' deaths. When the poll breaks,
the system is asked whether the instance still lives; when that is not certain the lease decides.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from bigm.authority import Authority
from bigm.board import Board, Countdown
from bigm.bootstrap.enrol import open_agent
from bigm.bootstrap.records import EXITED, SERVING, Info, Report, WorkerSpec, WorkerStatus
from bigm.bundles import Bundles
from bigm.clock import Clock
from bigm.errors import (
    BigmError,
    BootError,
    DeadlineExceeded,
    MachineStopped,
    ProgramError,
    ServiceFailed,
    SystemFault,
    Unreachable,
    WireError,
)
from bigm.leases import Lease, Leases
from bigm.lifecycle import Action, Cause, Event, Phase, State, step
from bigm.machine import Machine
from bigm.peer import Link
from bigm.plan import Plan
from bigm.pool import Pool
from bigm.preemption import Preemption
from bigm.restarts import Restarts
from bigm.rpc.calls import CallFuture
from bigm.rpc.client import Client
from bigm.rpc.tls import Credentials
from bigm.runs import Run
from bigm.sharing import Sharing
from bigm.systems.base import ENDED, Instance, System, Timer
from bigm.terminal import Output
from bigm.timeouts import Timeouts
from bigm.watch import Watch

if TYPE_CHECKING:
    from bigm.installed import Installed  # only machines that are brought a bundle need it
    from bigm.keeper import Keeper  # only systems elsewhere need one
    from bigm.shipping import Shipped

_LOOK_FIRST = 0.02  # seconds after which a broken watch is tried again; doubled from there
_LOOK_MOST = 5.0
_SAID = (Cause.CANCELLED, Cause.COST)  # by whoever ends machines for it, once for all of them


@dataclass(frozen=True)
class Common:
    """What the stewards of one cluster share.

    Args:
        name: the cluster's.
        system: where its instances come from.
        authority: its certificate maker.
        agent: the agent's zip, where instances start with boot; b"" where they start with the agent.
        link: the driver's credentials and timeouts; how to connect is each machine's own.
        pool: threads for what blocks.
        clock: calls what is due.
        leases: renews them.
        keeper: renews them too, where machines are elsewhere.
        sharing: brings shared objects to them.
        bundles: brings them what they are to run.
        run: keeps events, journal and logs.
        output: shows output, and writes it to the logs.
    """

    name: str
    system: System
    authority: Authority
    agent: bytes
    link: Link
    pool: Pool
    clock: Clock
    leases: Leases
    keeper: Keeper | None
    sharing: Sharing
    bundles: Bundles
    run: Run
    output: Output

    @property
    def timeouts(self) -> Timeouts:
        """The cluster's."""
        return self.link.timeouts


class Steward:
    """Looks after one machine.

    Args:
        common: what it shares with the others.
        plan: what the machine is to run.
        instance: where it is.
        bootstrap: what its launch was given.
        machine: its id.
        label: what it is called in this run.
        board: notified when the machine's state has changed.
        settled: called when it has ended, with its instance.
    """

    def __init__(
        self,
        common: Common,
        plan: Plan,
        instance: Instance,
        bootstrap: Credentials,
        *,
        machine: str,
        label: str,
        board: Board,
        settled: Callable[[Steward], None],
    ) -> None:
        self.instance = instance
        self.label = label
        self._common = common
        self._plan = plan
        self._bootstrap = bootstrap
        self._settled = settled
        self._lock = threading.Lock()
        self._enrolling = threading.Lock()
        self._watch: Watch | None = None
        self._info: Info | None = None
        self._installed: Installed | None = None
        self._supervisors: tuple[Client, ...] = ()
        self._restarts: Restarts | None = None
        self._statuses: tuple[WorkerStatus, ...] = ()
        self._look_again = _LOOK_FIRST
        link = replace(common.link, connect=lambda _, timeout: common.system.connect(instance, timeout))
        self.machine = Machine(
            f"{instance.locator}/{machine}", link, board=board, stop=self.stop, instance=instance, doubt=self._doubt
        )
        self._preemption = Preemption(
            self.machine,
            instance,
            label,
            run=common.run,
            terminal=common.output.terminal,
            clock=common.leases.clock,
            submit=lambda work: self._in_pool(work, Cause.GONE),
        )

    def __repr__(self) -> str:
        return f"<Steward of {self.machine!r}>"

    # --- events

    def begin(self) -> None:
        """Start the machine, whose instance is launched."""
        self._common.leases.clock.after(self._common.timeouts.lifetime, self._outlived)
        self.push(Event.START)
        self.push(Event.LAUNCHED)

    def _outlived(self) -> None:
        """Its time is over. The agent ends by that as well, and so does what the provider knows of it."""
        text = f"its lifetime of {self._common.timeouts.lifetime:g} s is over"
        self._soon(Event.DIED, Cause.LIFETIME, self._stopped(Cause.LIFETIME, text))

    def bring(self, plan: Plan) -> None:
        """What the machine is to run, with its bundle, which was made while it was launched. Before `begin`."""
        self._plan = plan

    def push(self, event: Event, cause: Cause | None = None, error: BigmError | None = None) -> None:
        """Take the step that *event* asks for, and perform its actions. Must not be called on the I/O thread.

        Args:
            event: what happened.
            cause: with STOP, FAILED and DIED: why.
            error: the same for whoever waits for the machine or calls it.
        """
        with self._lock:
            before = self.machine._phase
            after, actions = step(before, event)
            if after is before:
                return
            self.machine._enter(after, cause, error)
            news = after.state is not before.state or after is Phase.ENDED
            if news:
                self._record(after)  # under the lock: of the events of one machine the last one counts
        if news:
            self._tell(after)
            self.machine._announce()
        for action in actions:
            self._perform(action)

    def stop(self, cause: Cause, text: str = "") -> None:
        """End the machine, because the user wants it, or has wanted it for this case."""
        error = None if cause is Cause.SHUTDOWN else self._stopped(cause, text)
        self.push(Event.STOP, cause, error)

    def _soon(self, *push: Any) -> None:
        """Push from a thread that must not wait."""
        self._in_pool(functools.partial(self.push, *push), Cause.BOOT)

    def _record(self, phase: Phase) -> None:
        machine = self.machine
        self._common.run.event(
            "machine" if phase is not Phase.ENDED else "ended",
            machine=self.label,
            cluster=self._common.name,
            state=str(phase.state),
            addr=machine.addr,
            procs=machine.procs,
            cause=str(machine.cause or ""),
            text=machine.error.message if machine.error else "",
            **self.instance.facts(),
        )

    def _tell(self, phase: Phase) -> None:
        machine, cause = self.machine, self.machine.cause
        terminal = self._common.output.terminal
        if phase is Phase.ENDING and machine.error is not None and cause not in _SAID:
            terminal.warn(str(machine.error))
        elif phase is not Phase.ENDED:
            terminal.detail(f"machine {machine.addr} {phase.state}")

    def _perform(self, action: Action) -> None:
        match action:
            case Action.LAUNCH:
                pass  # the cluster's, since one launch makes many instances
            case Action.ENROL:
                self._in_pool(self._enrol, Cause.ENROL)
            case Action.SHIP:
                self._ship()
            case Action.SPAWN:
                self._in_pool(self._spawn, Cause.BOOT)
            case Action.REGISTER:
                self._register()
            case Action.SET_UP:
                self._set_up()
            case Action.OPEN_CALLS:
                self._open_calls()
            case Action.FAIL_CALLS:
                self.machine._fail()
            case Action.WIND_UP:
                self._in_pool(self._wind_up, Cause.GONE)
            case Action.SETTLE:
                self._settled(self)

    def _in_pool(self, work: Callable[[], None], cause: Cause) -> None:
        self._common.pool.submit(self._guarded, work, cause)

    def _guarded(self, work: Callable[[], None], cause: Cause) -> None:
        """Do *work*; whatever it raises, even a mistake of our own, ends the machine and no wait hangs."""
        try:
            work()
        except WireError as error:
            self._failed_later(cause, error)
        except BigmError as error:
            self.push(Event.FAILED, cause, error)
        except Exception as error:  # noqa: BLE001
            said = f"machine {self.machine.addr} met a bug: {type(error).__name__}: {error}"
            failure = MachineStopped(said, cause=cause)
            failure.__cause__ = error
            if self.machine.state is State.STOPPED:
                self._common.output.terminal.warn(said)
            self.push(Event.FAILED, cause, failure)

    def _failed_later(self, cause: Cause, error: WireError) -> None:
        """A lost connection explains nothing; the agent's or the system's word, which is on its way, does."""
        self._common.clock.after(
            self._common.timeouts.verdict, functools.partial(self._soon, Event.FAILED, cause, error)
        )

    # --- the start

    def _enrol(self) -> None:
        common, machine = self._common, self.machine
        agent, info = self._reach_agent(common.authority.machine(machine.id))
        with self._enrolling:
            if machine.state is State.STOPPED:  # meanwhile; whoever winds it up has not known of this agent
                agent.close()
                return
            maxprocs = self._plan.cpus or info.cpus
            machine._enrolled(info, agent, maxprocs if self._plan.procs == "all" else self._plan.procs, maxprocs)
            self._info = info
            self._hold_lease(agent)
            self._follow(agent)
        common.run.event(
            "enrolled",
            machine=self.label,
            instance=self.instance.id,
            pid=info.pid,
            host=info.hostname,
            maxprocs=machine.maxprocs,
            memory=info.memory,
            local=common.system.capabilities.local,
        )
        self.push(Event.ENROLLED)

    def _follow(self, agent: Client) -> None:
        output, log = self._common.output, self._common.run.log(self.label)
        self._watch = Watch(
            agent,
            self._common.timeouts,
            show=functools.partial(output.write, self.label, log, procs=self.machine.procs),
            reported=self._reported,
            broken=functools.partial(self._common.pool.submit, self._lost_sight),
        )
        self._watch.ask()

    def _reach_agent(self, credentials: Credentials) -> tuple[Client, Info]:
        """Dial until the instance answers, is known to have ended, or has had its time."""
        timeouts, machine, link = self._common.timeouts, self.machine, self.machine._link
        deadline = time.monotonic() + timeouts.boot
        while True:
            try:
                return open_agent(
                    lambda timeout: link.connect("", timeout),
                    link.credentials,
                    credentials,
                    self._bootstrap,
                    name=f"agent of {machine.id}",
                    agent=self._common.agent,
                    dial_timeout=timeouts.dial,
                    timeout=timeouts.enrol,
                )
            except (OSError, Unreachable) as error:
                ended = self._ended()
                if ended or time.monotonic() > deadline:
                    raise self._boot_error(ended or f"it did not answer within {timeouts.boot:g} s: {error}") from error
            with machine._board:
                if machine._board.wait_for(lambda: machine.state is State.STOPPED, timeouts.redial):
                    raise BootError(f"machine {machine.addr} was stopped while it started")

    def _boot_error(self, what: str) -> BootError:
        said = self._common.system.diagnose(self.instance)
        hint = f"its instance said: {said}" if said else ""
        return BootError(f"instance {self.instance.id} of machine {self.machine.id} did not start: {what}", hint=hint)

    def _hold_lease(self, agent: Client) -> None:
        common = self._common
        local = common.system.capabilities.local
        lease = Lease(
            agent,
            common.timeouts.lease_of(local),
            lost=self._lose_lease,
            unhealthy=functools.partial(common.pool.submit, self._unhealthy),
            clock=common.leases.clock,
        )
        self.machine._lease = lease
        common.leases.hold(lease)
        if common.keeper is not None:
            common.keeper.add(self.machine.id, common.system.keeper_address(self.instance), lease.seconds)

    def _ship(self) -> None:
        if self._plan.bundle is None:  # they run the driver's own environment
            self.push(Event.SHIPPED)
            return
        assert self._info is not None
        self._common.bundles.shipping.install(
            self.machine, self._info, self._plan.bundle, done=self._shipped, failed=self._not_shipped
        )

    def _shipped(self, shipped: Shipped) -> None:
        """The bundle is there; on a thread that must not wait."""
        self._installed = shipped.installed
        self.machine.bundle = shipped.installed.bundle
        self._common.run.event(
            "shipped",
            machine=self.label,
            cluster=self._common.name,
            bundle=shipped.installed.bundle,
            parts=shipped.parts,
            sent=shipped.sent,
            fetched=shipped.fetched,
            seconds=round(shipped.seconds, 3),
        )
        self._soon(Event.SHIPPED)

    def _not_shipped(self, error: BigmError) -> None:
        if isinstance(error, WireError):
            self._failed_later(Cause.SHIP, error)
            return
        what = f"machine {self.machine.addr} could not be brought its bundle: {error.message}"
        failure = error if isinstance(error, SystemFault) else BootError(what, hint=error.hint)
        failure.__cause__ = error if failure is not error else None
        self._soon(Event.FAILED, Cause.SHIP, failure)

    def _spawn(self) -> None:
        common, machine = self._common, self.machine
        specs = [self._spec(proc) for proc in range(machine.procs)]
        common.clock.after(common.timeouts.workers, self._workers_late)
        machine._agent.call("Agent.start_workers", (specs,), timeout=common.timeouts.enrol)

    def _spec(self, proc: int) -> WorkerSpec:
        plan, common = self._plan, self._common
        assert self._info is not None
        worker = common.authority.worker(self.machine.id, proc)
        spec = WorkerSpec(
            proc=proc,
            python=plan.python or self._info.executable,
            identity=worker.identity.uri,
            ca=worker.ca,
            cert=worker.cert,
            key=worker.key,
            main=plan.main,
            argv=plan.argv,
            sys_path=plan.sys_path,
            env=plan.env,
            inherit_env=plan.inherit_env,
            cwd=plan.cwd,
            procs=self.machine.procs,
            heartbeat=common.timeouts.heartbeat,
            timeouts=asdict(common.timeouts),
            restart=plan.restart,
            root=plan.root,
            route=common.system.route(self.instance),
        )
        return spec if self._installed is None else self._installed.adapt(spec)

    def _workers_late(self) -> None:
        if self.machine._phase is Phase.SPAWNING:
            error = ProgramError(
                f"machine {self.machine.addr} did not import the program within {self._common.timeouts.workers:g} s",
                hint="raise timeouts.workers if it needs longer",
            )
            self._soon(Event.FAILED, Cause.IMPORT, error)

    def _register(self) -> None:
        self._supervisors = self.machine._add_workers(self.machine.procs)
        if self.machine.state is State.STOPPED:  # meanwhile; whoever winds it up may not have seen them
            for supervisor in self._supervisors:
                supervisor.close()
            return
        assert self._info is not None
        self._common.sharing.up(self.machine, self._supervisors, self._info.folder)
        waiting = Countdown(len(self._supervisors), functools.partial(self._soon, Event.REGISTERED))
        for supervisor in self._supervisors:
            self._one_after_the_other(supervisor, self._registrations(), self._failed_later, waiting.one_less)

    def _set_up(self) -> None:
        setup = self._setups()
        if not setup:
            self.push(Event.READY)
            return
        waiting = Countdown(len(self._supervisors), functools.partial(self._soon, Event.READY))
        for supervisor in self._supervisors:
            self._one_after_the_other(supervisor, setup, self._failed_later, waiting.one_less)

    def _registrations(self) -> list[_Step]:
        """What registers the services on a worker. In their order, because `setup` runs in that of registration."""
        services, timeout = list(self._plan.services.items()), self._common.timeouts.register
        last = len(services) - 1 if not self._plan.setup else -1
        return [
            _Step(
                "register", (name, pickled, n == last), timeout, Cause.SERVICE, f"service {name!r} could not be rebuilt"
            )
            for n, (name, pickled) in enumerate(services)
        ]

    def _setups(self) -> list[_Step]:
        """What sets them up; where there are none it tells the worker that nothing more comes."""
        if not self._plan.setup and self._plan.services:
            return []
        args = (self.machine.addr, self._common.name)
        return [_Step("setup", args, self._common.timeouts.setup, Cause.SETUP, "`setup`")]

    def _one_after_the_other(
        self, supervisor: Client, steps: Sequence[_Step], lost: _Lost, done: Callable[[], None]
    ) -> None:
        """Take *steps* on a worker, as long as each succeeds, and call *done* after the last."""
        if not steps:
            done()
            return
        step, *rest = steps

        def answered(reply: CallFuture) -> None:
            if self._succeeded(reply, step.cause, step.what, lost):
                self._one_after_the_other(supervisor, rest, lost, done)

        supervisor.submit_internal(f"Supervisor.{step.method}", step.args, timeout=step.timeout, done=answered)

    def _open_calls(self) -> None:
        """Let calls go out, on the connections by which the services were registered."""
        if self.machine._open(self._supervisors):
            self._supervisors = ()
            if self._plan.restart:
                self._restarts = self._have_workers_restarted()
                self._restarts.reported(self._statuses)
        if self._preemption.is_announced:
            self._preemption.warn_services(self.machine._clients)

    def _succeeded(self, reply: CallFuture, cause: Cause, what: str, lost: _Lost) -> bool:
        """Look at the answer of a step; on the I/O thread. A failure ends the machine; *lost* decides of a lost one."""
        try:
            reply.result()
        except DeadlineExceeded as error:
            failure = ServiceFailed(f"machine {self.machine.addr}: {what} did not end in time: {error.message}")
            failure.__cause__ = error
            self._soon(Event.FAILED, cause, failure)
        except WireError as error:
            lost(cause, error)
        except Exception as error:  # noqa: BLE001
            self._soon(
                Event.FAILED, cause, error if isinstance(error, BigmError) else ServiceFailed(f"{what}: {error!r}")
            )
        else:
            return True
        return False

    # --- the life

    def _reported(self, report: Report) -> None:
        """The agent's news; on the I/O thread."""
        self._look_again = _LOOK_FIRST
        phase = self.machine._phase
        if phase < Phase.ENDING:
            self._preemption.reported(report)
        gone = next((status for status in report.workers if status.state == EXITED), None)
        if report.cause == Cause.SIGNAL and phase < Phase.ENDING:
            self._in_pool(functools.partial(self._told_to_end, report.text), Cause.GONE)
        elif report.cause and phase < Phase.ENDING:
            cause = Cause(report.cause)
            self._soon(Event.DIED, cause, self._stopped(cause, report.text))
        elif self._plan.restart and phase is Phase.SERVING:
            self._statuses = report.workers
            if self._restarts is not None:
                self._restarts.reported(report.workers)
        elif gone is not None and phase < Phase.ENDING:
            self._soon(Event.DIED, Cause(gone.cause), self._worker_died(gone))
        elif phase is Phase.SPAWNING and [status.state for status in report.workers] == [SERVING] * self.machine.procs:
            self._soon(Event.SPAWNED)

    def _told_to_end(self, text: str) -> None:
        """Its computer has told the agent to end: when that is the end of its instance, the system knows why."""
        reason = self._ended()
        if self._preemption.is_announced:
            reason = reason or "it was taken away, as announced"
        cause = Cause.GONE if reason else Cause.SIGNAL
        self.push(Event.DIED, cause, self._stopped(cause, reason or text))

    def _lost_sight(self) -> None:
        """The watch broke; in the pool. Ask the system, else look again, ever more rarely: the lease sets the limit."""
        assert self._watch is not None
        ended = self._ended()
        if ended:
            self._gone(ended)
            self._watch.lost()
        else:
            self._look_again = min(2 * self._look_again, _LOOK_MOST)
            self._common.clock.after(self._look_again, self._watch.ask)

    def _gone(self, reason: str) -> None:
        lease = self.machine._lease
        expected = Cause.GONE if self._preemption.is_announced else Cause.AGENT_LOST
        cause = self._lease_cause() if lease is not None and lease.overdue else expected
        self.push(Event.DIED, cause, self._stopped(cause, reason))

    def _lose_lease(self) -> None:
        """On the thread of the lease's clock, which must not wait, but may stand still until this is done."""
        clock = self._common.leases.clock
        self._common.pool.submit(self._lease_lost, clock, clock.hold())

    def _lease_lost(self, clock: Timer, token: object) -> None:
        try:
            cause = self._lease_cause()
            self.push(Event.DIED, cause, self._stopped(cause))
        finally:
            clock.release(token)

    def _lease_cause(self) -> Cause:
        lease = self.machine._lease
        return Cause.SLEPT if lease and self._common.clock.slept(2 * lease.seconds) > lease.seconds else Cause.LEASE

    def _doubt(self, client: Client) -> None:
        """Calls were lost. If a worker died, its agent's report is on its way; else nothing will be known."""
        if self.machine._phase >= Phase.ENDING:  # the verdict is known: it holds for the calls of its own end too
            client.close(self.machine._stopped())
            return
        self._common.clock.after(self._common.timeouts.verdict, client.resolve)

    def _unhealthy(self, text: str) -> None:
        self._common.run.event("unhealthy", machine=self.label, text=text)
        self._common.output.terminal.warn(f"{self.label}: {text}")

    def _ended(self) -> str:
        """How the instance ended, as the system says, or ""."""
        try:
            found = self._common.system.describe([self.instance.id])
        except SystemFault:
            return ""  # the provider is not at hand; the lease decides
        if not found:
            return "its instance does not exist any more"
        return (found[0].reason or "its instance has ended") if found[0].state == ENDED else ""

    def _stopped(self, cause: Cause, text: str = "") -> MachineStopped:
        said = f"{cause.sentence}: {text}" if text else cause.sentence
        return MachineStopped(f"machine {self.machine.addr} stopped: {said}", cause=cause)

    def _worker_died(self, status: WorkerStatus) -> BigmError:
        if status.cause == Cause.IMPORT:
            return ProgramError(f"machine {self.machine.addr}: {status.error or status.text}")
        return self._stopped(Cause(status.cause), status.text)

    # --- workers that are started anew

    def _have_workers_restarted(self) -> Restarts:
        return Restarts(
            self.machine,
            early=self._common.timeouts.early,
            start=lambda proc: self._in_pool(functools.partial(self._respawn, proc), Cause.BOOT),
            prepare=self._prepare_again,
            give_up=lambda status, text: self._soon(
                Event.DIED, Cause(status.cause), self._stopped(Cause(status.cause), text)
            ),
            told=self._tell_worker,
        )

    def _respawn(self, proc: int) -> None:
        if self.machine._phase is Phase.SERVING:
            self.machine._agent.call("Agent.start_workers", ([self._spec(proc)],), timeout=self._common.timeouts.enrol)

    def _prepare_again(self, client: Client, done: Callable[[], None]) -> None:
        def lost(cause: Cause, error: WireError) -> None:
            """Unless it has died meanwhile, which its next life makes good."""
            self._common.clock.after(self._common.timeouts.verdict, lambda: self._give_up_on(client, cause, error))

        self._common.sharing.again(self.machine, client)
        self._one_after_the_other(client, [*self._registrations(), *self._setups()], lost, done)

    def _give_up_on(self, client: Client, cause: Cause, error: WireError) -> None:
        if self._restarts is not None and self._restarts.is_current(client):
            self._soon(Event.FAILED, cause, error)

    def _tell_worker(self, status: WorkerStatus, serves: bool) -> None:
        state = State.RUNNING if serves else State.STOPPED
        text = "" if serves else status.text
        self._common.run.event(
            "worker", machine=self.label, proc=status.proc, state=str(state), cause=status.cause, text=text
        )
        terminal = self._common.output.terminal
        if serves:
            terminal.detail(f"{self.label}: worker {status.proc} is back")
        else:
            terminal.warn(f"{self.label}: {status.text}; it is started anew")

    # --- the end

    def _wind_up(self) -> None:
        with self._enrolling:
            lease = self.machine._lease
        try:
            if lease is not None:
                self._take_leave(lease)
        finally:
            self._terminate()

    def _take_leave(self, lease: Lease) -> None:
        """End what is left, in the order in which each can still tell of the one before."""
        machine, common = self.machine, self._common
        graceful = machine.cause is Cause.SHUTDOWN
        if graceful and self._plan.teardown:
            self._tear_down()
        for supervisor in self._supervisors:
            supervisor.close()
        if self._restarts is not None:
            self._restarts.close()
        self._silence_agent(common.timeouts.grace if graceful else 0.0)
        common.leases.drop(lease)
        if common.keeper is not None:
            common.keeper.remove(machine.id)
        machine._agent.close()
        if self._plan.bundle is not None:
            common.bundles.gone(machine)

    def _tear_down(self) -> None:
        timeout = self._common.timeouts.teardown
        supervisors = self.machine._add_workers(self.machine.procs)  # those of before have failed with the calls
        for call in [supervisor.submit("Supervisor.teardown", timeout=timeout) for supervisor in supervisors]:
            try:
                failures = call.result()
            except BigmError as error:
                failures = (f"teardown on {self.label} failed: {error}",)
            for text in failures:
                self._common.output.terminal.warn(text)
        for supervisor in supervisors:
            supervisor.close()

    def _silence_agent(self, grace: float) -> None:
        """Let the agent end its workers, read their output to its end, and let it go."""
        timeouts, agent = self._common.timeouts, self.machine._agent
        assert self._watch is not None
        try:
            final = agent.call("Agent.shutdown", (grace,), timeout=grace + 2 * timeouts.drain + timeouts.ping)
        except BigmError as error:
            self._watch.abandon(str(error))
            return
        self._watch.finish(final.end_offset, timeouts.linger)
        with contextlib.suppress(WireError):  # its answer may be lost with the agent
            agent.call("Agent.exit", timeout=timeouts.ping)

    def _terminate(self) -> None:
        id = self.instance.id
        try:
            self.machine._left = self._common.system.terminate([id]).get(id)
        except SystemFault as error:
            self.machine._left = error
        finally:
            self.push(Event.GONE)


_Lost = Callable[[Cause, WireError], None]


@dataclass(frozen=True)
class _Step:
    """One call to a worker's supervisor while it starts.

    Args:
        method: of the supervisor.
        args: its arguments.
        timeout: seconds it may take.
        cause: what a failure stops the machine with.
        what: what failed then, in words.
    """

    method: str
    args: tuple[object, ...]
    timeout: float
    cause: Cause
    what: str
