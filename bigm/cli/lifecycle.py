"""docs/lifecycle.md, printed from the table of `bigm.lifecycle` and the record of `bigm.timeouts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

from bigm.lifecycle import ENDS, START, TABLE, Action, Cause, Event, Phase, State, step
from bigm.timeouts import Timeouts


def lifecycle_page() -> str:
    """The text of docs/lifecycle.md."""
    return _PAGE.format(
        diagram=_diagram(), sequence=_sequence(), table=_table(), causes=_causes(), timeouts=_timeouts(), lease=_lease()
    )


class Message(NamedTuple):
    """One arrow of the bootstrap sequence: who tells whom what."""

    sender: str
    receiver: str
    text: str


MESSAGES = {
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
    Action.SHIP: (
        Message("driver", "agent", "where it is to run a bundle: extend, open a store"),
        Message("driver", "agent", "have(digests)?, the parts that no machine has"),
        Message("driver", "agent", "fetch(digests) from other machines"),
        Message("driver", "agent", "lay out the program, make its environment"),
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

_PAGE = """\
# A machine's life

<!-- printed by `python -m bigm.cli.docs`; do not edit -->

After reading this page you can tell from a machine's state and cause what happened to it, and which timeout to turn
when yours is a slow place. It is printed from what the driver runs by: the table in `bigm/lifecycle.py` and the record
in `bigm/timeouts.py`.

A machine moves through phases, and only forward; each belongs to one of four states. `STOPPED` is final and keeps its
cause. Whatever is not in the table changes nothing, so an event that comes too late (a worker's death after the
shutdown) cannot bring a machine back or replace the first cause. A worker that is to be started anew when it dies is no
event either: its machine stays `RUNNING` without it.

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
    for (phase, event), (after, _) in START.items():
        lines.append(f"    {_node(phase)} --> {_node(after)}: {event.name}")
    ends = " / ".join(event.name for event in ENDS)
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
        event = next(event for (before, event) in START if before is phase)
        phase, actions = step(phase, event)
        lines.append(f"    Note over driver: {phase.state}, {phase}")
        messages = [message for action in actions for message in MESSAGES[action]]
        lines += [f"    {message.sender}->>{message.receiver}: {message.text}" for message in messages]
        finished = phase.state is State.RUNNING
    return "\n".join(lines)


def _table() -> str:
    rows = [
        (f"{phase.state}, {phase}", f"{event.name}: {event.value}", f"{after.state}, {after}", _actions(actions))
        for (phase, event), (after, actions) in {
            **START,
            (Phase.ENDING, Event.GONE): TABLE[Phase.ENDING, Event.GONE],
        }.items()
    ]
    after, actions = TABLE[Phase.SERVING, Event.DIED]
    rows[-1:-1] = [
        ("anything before", f"{event.name}: {event.value}", f"{after.state}, {after}", _actions(actions))
        for event in ENDS
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
