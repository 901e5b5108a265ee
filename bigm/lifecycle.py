"""A machine's life as one table, and every timeout and cause of death of the house. Pure: no clock, socket or thread.

A machine moves through phases, each of which belongs to one of four states:

    UNSTARTED -> STARTING -> RUNNING -> STOPPED

Events push it, `step` says where to, and which actions that calls for; whoever owns the machine performs them and
reports their outcome as the next event. Phases only grow, so a state is never left for an earlier one, STOPPED is
final, and an event that comes too late changes nothing.

`python -m bigm.lifecycle` prints docs/lifecycle.md from what stands here.

Source: bigmachine machine.go (State, loop), where a state could move back; distributed's WorkerState for the form.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, fields


class State(enum.IntEnum):
    """What a user sees of a machine's life; later states compare greater."""

    UNSTARTED = 0
    STARTING = 1
    RUNNING = 2
    STOPPED = 3

    def __str__(self) -> str:
        return self.name


class Phase(enum.IntEnum):
    """Where in its life a machine is; later phases compare greater."""

    UNSTARTED = 0
    LAUNCHING = 1
    ENROLLING = 2
    SPAWNING = 3
    REGISTERING = 4
    SETTING_UP = 5
    SERVING = 6
    ENDING = 7
    ENDED = 8

    @property
    def state(self) -> State:
        """The state this phase belongs to."""
        if self is Phase.UNSTARTED:
            return State.UNSTARTED
        if self < Phase.SERVING:
            return State.STARTING
        return State.RUNNING if self is Phase.SERVING else State.STOPPED

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


class Event(enum.Enum):
    """What happens to a machine; the value says it in words."""

    START = "the user asks for it"
    LAUNCHED = "the system says where its instance is"
    ENROLLED = "the agent answers under the machine's own name"
    SPAWNED = "every worker has imported the program"
    REGISTERED = "every worker has every service"
    READY = "every `setup` has returned"
    STOP = "the user shuts it down or cancels it"
    FAILED = "a step of its start failed, or took too long"
    DIED = "a worker, the agent or the instance is gone, or the lease is lost"
    GONE = "nothing of it is left, or what is left has been said"


class Action(enum.Enum):
    """What a transition calls for; the value says it in words."""

    LAUNCH = "launch an instance"
    ENROL = "enrol it"
    SPAWN = "start its workers"
    REGISTER = "register the services"
    SET_UP = "run `setup`"
    OPEN_CALLS = "let calls go out"
    FAIL_CALLS = "fail its calls with the cause"
    WIND_UP = "end what is left of it"
    SETTLE = "settle the journal"


@dataclass(frozen=True)
class Message:
    """One arrow of the bootstrap sequence: who tells whom what."""

    sender: str
    receiver: str
    text: str


_MESSAGES = {
    Action.LAUNCH: (
        Message("driver", "system", "launch(n, bootstrap certificate, launch id), journalled before"),
        Message("system", "agent", "instance starts: boot or agent listens"),
        Message("system", "driver", "where it is"),
    ),
    Action.ENROL: (
        Message("driver", "agent", "dial, pin the bootstrap certificate"),
        Message("driver", "agent", "the agent's source, where only boot listens"),
        Message("driver", "agent", "enrol(name, certificate, key): once"),
        Message("driver", "agent", "keepalive(seconds), from now on"),
        Message("driver", "agent", "watch(offset), from now on: logs and deaths"),
    ),
    Action.SPAWN: (
        Message("driver", "agent", "start_workers(program, arguments, certificates)"),
        Message("agent", "worker", "fork, specification over a socket pair"),
        Message("worker", "worker", "import the program"),
    ),
    Action.REGISTER: (Message("driver", "worker", "Supervisor.register(name, pickled service)"),),
    Action.SET_UP: (Message("driver", "worker", "Supervisor.setup(context)"),),
    Action.OPEN_CALLS: (Message("driver", "worker", "calls"),),
}

# The table: (phase, event) -> (next phase, actions). A pair that is not here changes nothing.
_START = {
    (Phase.UNSTARTED, Event.START): (Phase.LAUNCHING, (Action.LAUNCH,)),
    (Phase.LAUNCHING, Event.LAUNCHED): (Phase.ENROLLING, (Action.ENROL,)),
    (Phase.ENROLLING, Event.ENROLLED): (Phase.SPAWNING, (Action.SPAWN,)),
    (Phase.SPAWNING, Event.SPAWNED): (Phase.REGISTERING, (Action.REGISTER,)),
    (Phase.REGISTERING, Event.REGISTERED): (Phase.SETTING_UP, (Action.SET_UP,)),
    (Phase.SETTING_UP, Event.READY): (Phase.SERVING, (Action.OPEN_CALLS,)),
}
_END = {
    (phase, event): (Phase.ENDING, (Action.FAIL_CALLS, Action.WIND_UP))
    for phase in Phase
    if phase < Phase.ENDING
    for event in (Event.STOP, Event.FAILED, Event.DIED)
}
TABLE = {**_START, **_END, (Phase.ENDING, Event.GONE): (Phase.ENDED, (Action.SETTLE,))}


def step(phase: Phase, event: Event) -> tuple[Phase, tuple[Action, ...]]:
    """The phase after *event*, and what that calls for. An event that *phase* does not know is too late: no change."""
    return TABLE.get((phase, event), (phase, ()))


class Cause(str, enum.Enum):
    """Why a machine stopped: a stable word for programs. `sentence` says it to people."""

    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"
    LAUNCH = "launch"
    BOOT = "boot"
    ENROL = "enrol"
    IMPORT = "import"
    SERVICE = "service"
    SETUP = "setup"
    EXIT = "exit"
    SIGNAL = "signal"
    MEMORY = "memory"
    HUNG = "hung"
    LEASE = "lease"
    SLEPT = "slept"
    DRIVER = "driver"
    LIFETIME = "lifetime"
    AGENT_LOST = "agent-lost"
    GONE = "gone"

    def __str__(self) -> str:
        return self.value

    @property
    def sentence(self) -> str:
        """The cause in plain words, lower case, no full stop."""
        return _SENTENCES[self]


_SENTENCES = {
    Cause.SHUTDOWN: "it was shut down",
    Cause.CANCELLED: "it was cancelled",
    Cause.LAUNCH: "its instance could not be launched",
    Cause.BOOT: "its instance was launched, but its agent never answered",
    Cause.ENROL: "its agent could not be enrolled",
    Cause.IMPORT: "the program could not be imported there",
    Cause.SERVICE: "a service could not be rebuilt there",
    Cause.SETUP: "the `setup` of a service failed or took too long",
    Cause.EXIT: "a worker ended by itself",
    Cause.SIGNAL: "a worker was killed by a signal",
    Cause.MEMORY: "the kernel killed a worker for want of memory",
    Cause.HUNG: "a worker stopped answering its agent",
    Cause.LEASE: "the driver did not renew its lease in time",
    Cause.SLEPT: "the driver's computer slept longer than the lease",
    Cause.DRIVER: "the driver ended",
    Cause.LIFETIME: "its maximum lifetime is over",
    Cause.AGENT_LOST: "its agent is gone",
    Cause.GONE: "its instance is gone",
}


def _seconds(default: float, what: str) -> float:
    value: float = field(default=default, metadata={"what": what})
    return value


@dataclass(frozen=True)
class Timeouts:
    """Every timeout and interval, in seconds on a monotonic clock. There are none elsewhere."""

    # the lease
    lease: float = _seconds(90.0, "a machine elsewhere ends when its lease was not renewed for this long")
    lease_local: float = _seconds(60.0, "the same on the driver's own computer")
    first_lease: float = _seconds(600.0, "a launched instance ends when it was not enrolled and leased by then")
    lifetime: float = _seconds(86400.0, "a machine ends at this age whatever happens")
    renewal: float = _seconds(5.0, "a lease is renewed this often; more often where a twelfth of it is less")
    renewal_pace: float = _seconds(0.01, "the renewals of two machines are this far apart: with many, each comes later")
    keepalive: float = _seconds(10.0, "one renewal may take this long")

    # a start
    launch: float = _seconds(600.0, "a system may take this long to launch")
    boot: float = _seconds(300.0, "a launched instance must answer within this time")
    dial: float = _seconds(10.0, "one attempt to connect and shake hands")
    redial: float = _seconds(0.5, "pause between two attempts to reach an instance that does not answer yet")
    handshake: float = _seconds(10.0, "a peer that connects must have shaken hands and said hello within this time")
    enrol: float = _seconds(30.0, "one enrolment")
    stall: float = _seconds(60.0, "shipping fails when no byte moved for this long, however much there is to ship")
    workers: float = _seconds(300.0, "a worker must have imported the program and serve within this time")
    register: float = _seconds(120.0, "a service must be rebuilt within this time")
    setup: float = _seconds(600.0, "every `setup` must return within this time")

    # a life
    watch: float = _seconds(20.0, "an agent answers a watch after this long even when there is nothing to say")
    ping: float = _seconds(5.0, "an agent that is alive answers a ping within this time")
    verdict: float = _seconds(2.0, "after a lost connection the agent has this long to tell whether a worker died")
    retry: float = _seconds(120.0, "`retry_call` gives up after this long where it has no timeout of its own")
    heartbeat: float = _seconds(5.0, "an agent sends its workers a heartbeat this often")
    heartbeat_lost: float = _seconds(60.0, "a worker ends when it has not heard its agent for this long")

    # an end
    teardown: float = _seconds(10.0, "every `teardown` must return within this time")
    grace: float = _seconds(3.0, "a worker told to end is killed after this long")
    drain: float = _seconds(5.0, "the last output of ended workers is read for this long")
    linger: float = _seconds(15.0, "an agent that shut down waits this long for its last output to be fetched")
    terminate: float = _seconds(60.0, "a system may take this long to end instances")

    def lease_of(self, local: bool) -> float:
        """The lease of a machine on this computer, or elsewhere."""
        return self.lease_local if local else self.lease

    def ending(self) -> float:
        """The longest that all steps of a machine's end may take."""
        return self.teardown + self.grace + 2 * self.drain + self.linger + self.terminate + 2 * self.ping

    def renewal_interval(self, lease: float, machines: int) -> float:
        """Seconds between two renewals of one machine's lease, when *machines* are leased by this driver."""
        return min(max(min(self.renewal, lease / 12), machines * self.renewal_pace), lease / 4)


def document() -> str:
    """The text of docs/lifecycle.md."""
    return _PAGE.format(
        diagram=_diagram(), sequence=_sequence(), table=_table(), causes=_causes(), timeouts=_timeouts(), lease=_lease()
    )


_PAGE = """\
# A machine's life

<!-- printed by `python -m bigm.lifecycle`; do not edit -->

After reading this page you can tell from a machine's state and cause what happened to it, and which timeout to turn
when yours is a slow place. All of it is printed from one table, `bigm/lifecycle.py`, which the driver runs by.

A machine moves through phases, and only forward; each belongs to one of four states. `STOPPED` is final and keeps its
cause. Whatever is not in the table changes nothing, so an event that comes too late (a worker's death after the
shutdown) cannot bring a machine back or replace the first cause.

## States

```mermaid
{diagram}
```

`STOPPED` begins with the phase *ending*: calls have failed, while what is left of the machine is torn down, its last
output is read and its instance is terminated; *ended* follows when nothing is left.

## The bootstrap sequence

```mermaid
{sequence}
```

On `local` the agent starts directly; its source is not sent.

## The table

{table}

## Causes

`machine.error.cause` and the `cause` of the events in `events.jsonl` are one of these words.

{causes}

## Leases

{lease}

## Timeouts

All in seconds, counted on monotonic clocks; keys of the section `timeouts` in `bigm.yaml`.

{timeouts}
"""


def _diagram() -> str:
    lines = ["stateDiagram-v2", "    [*] --> unstarted"]
    for state in (State.STARTING, State.STOPPED):
        lines.append(f"    state {state} {{")
        lines += [f"        {_node(phase)}" for phase in Phase if phase.state is state]
        lines.append("    }")
    for (phase, event), (after, _) in _START.items():
        lines.append(f"    {_node(phase)} --> {_node(after)}: {event.name}")
    ends = " / ".join(sorted({event.name for _, event in _END}))
    for state in (State.UNSTARTED, State.STARTING, State.RUNNING):
        source = state if state is State.STARTING else _node(next(phase for phase in Phase if phase.state is state))
        lines.append(f"    {source} --> ending: {ends}")
    lines += ["    ending --> ended: GONE", "    ended --> [*]"]
    return "\n".join(lines)


def _node(phase: Phase) -> str:
    return phase.name.lower()


def _sequence() -> str:
    lines = ["sequenceDiagram", *(f"    participant {who}" for who in ("driver", "system", "agent", "worker"))]
    phase, finished = Phase.UNSTARTED, False
    while not finished:
        event = next(event for (before, event) in _START if before is phase)
        phase, actions = step(phase, event)
        lines.append(f"    Note over driver: {phase.state}, {phase}")
        messages = [message for action in actions for message in _MESSAGES[action]]
        lines += [f"    {message.sender}->>{message.receiver}: {message.text}" for message in messages]
        finished = phase.state is State.RUNNING
    return "\n".join(lines)


def _table() -> str:
    rows = [
        (f"{phase.state}, {phase}", f"{event.name}: {event.value}", f"{after.state}, {after}", _actions(actions))
        for (phase, event), (after, actions) in {
            **_START,
            (Phase.ENDING, Event.GONE): TABLE[Phase.ENDING, Event.GONE],
        }.items()
    ]
    after, actions = TABLE[Phase.SERVING, Event.DIED]
    rows[-1:-1] = [
        ("anything before", f"{event.name}: {event.value}", f"{after.state}, {after}", _actions(actions))
        for event in (Event.STOP, Event.FAILED, Event.DIED)
    ]
    return _grid(("in", "when", "goes to", "and"), rows)


def _actions(actions: tuple[Action, ...]) -> str:
    return ", ".join(action.value for action in actions)


def _causes() -> str:
    return _grid(("cause", "the machine stopped because"), [(f"`{cause}`", cause.sentence) for cause in Cause])


def _timeouts() -> str:
    defaults = Timeouts()
    rows = [
        (f"`{item.name}`", f"{_short(getattr(defaults, item.name))}", str(item.metadata["what"]))
        for item in fields(Timeouts)
    ]
    return _grid(("key", "default", "meaning"), rows)


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 1 else f"{seconds:.3g}"


def _lease() -> str:
    timeouts = Timeouts()
    rows = [
        (
            f"{count}",
            *(f"{timeouts.renewal_interval(lease, count):.4g} s" for lease in (timeouts.lease_local, timeouts.lease)),
        )
        for count in (1, 200, 1000, 5000)
    ]
    return _grid(("machines", "renewed every (local)", "renewed every (elsewhere)"), rows)


def _grid(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


if __name__ == "__main__":
    print(document(), end="")
