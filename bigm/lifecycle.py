"""A machine's life as one table. Pure: no clock, socket or thread.

A machine moves through phases, each of which belongs to one of four states:

    UNSTARTED -> STARTING -> RUNNING -> STOPPED

Events push it, `step` says where to, and which actions that calls for; whoever owns the machine performs them and
reports their outcome as the next event. Phases only grow, so a state is never left for an earlier one, STOPPED is
final, and an event that comes too late changes nothing.

docs/lifecycle.md is printed from what stands here (`bigm.cli.lifecycle`).

Source: bigmachine machine.go (State, loop), where a state could move back; distributed's WorkerState for the form.
"""

from __future__ import annotations

import enum

from bigm.causes import Cause as Cause


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
    SHIPPING = 3
    SPAWNING = 4
    REGISTERING = 5
    SETTING_UP = 6
    SERVING = 7
    ENDING = 8
    ENDED = 9

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
    SHIPPED = "what it is to run is there, or need not be brought"
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
    SHIP = "ship what it lacks of the bundle"
    SPAWN = "start its workers"
    REGISTER = "register the services"
    SET_UP = "run `setup`"
    OPEN_CALLS = "let calls go out"
    FAIL_CALLS = "fail its calls with the cause"
    WIND_UP = "end what is left of it"
    SETTLE = "settle the journal"


# The table: (phase, event) -> (next phase, actions). A pair that is not here changes nothing.
START = {
    (Phase.UNSTARTED, Event.START): (Phase.LAUNCHING, (Action.LAUNCH,)),
    (Phase.LAUNCHING, Event.LAUNCHED): (Phase.ENROLLING, (Action.ENROL,)),
    (Phase.ENROLLING, Event.ENROLLED): (Phase.SHIPPING, (Action.SHIP,)),
    (Phase.SHIPPING, Event.SHIPPED): (Phase.SPAWNING, (Action.SPAWN,)),
    (Phase.SPAWNING, Event.SPAWNED): (Phase.REGISTERING, (Action.REGISTER,)),
    (Phase.REGISTERING, Event.REGISTERED): (Phase.SETTING_UP, (Action.SET_UP,)),
    (Phase.SETTING_UP, Event.READY): (Phase.SERVING, (Action.OPEN_CALLS,)),
}
ENDS = (Event.STOP, Event.FAILED, Event.DIED)  # from wherever a machine is
_END = {
    (phase, event): (Phase.ENDING, (Action.FAIL_CALLS, Action.WIND_UP))
    for phase in Phase
    if phase < Phase.ENDING
    for event in ENDS
}
TABLE = {**START, **_END, (Phase.ENDING, Event.GONE): (Phase.ENDED, (Action.SETTLE,))}


def step(phase: Phase, event: Event) -> tuple[Phase, tuple[Action, ...]]:
    """The phase after *event*, and what that calls for. An event that *phase* does not know is too late: no change."""
    return TABLE.get((phase, event), (phase, ()))
