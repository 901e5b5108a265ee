from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bigm.lifecycle import TABLE, Action, Cause, Event, Phase, State, step

EVENTS = st.lists(st.sampled_from(Event))
GOOD_START = [
    Event.START,
    Event.LAUNCHED,
    Event.ENROLLED,
    Event.SHIPPED,
    Event.SPAWNED,
    Event.REGISTERED,
    Event.READY,
]


def walk(events: list[Event]) -> list[Phase]:
    phases = [Phase.UNSTARTED]
    for event in events:
        phases.append(step(phases[-1], event)[0])
    return phases


def test_a_good_start_ends_in_running_and_lets_calls_out_once() -> None:
    phase, done = Phase.UNSTARTED, []
    for event in GOOD_START:
        phase, actions = step(phase, event)
        done += actions
    assert phase.state is State.RUNNING
    assert done == [
        Action.LAUNCH,
        Action.ENROL,
        Action.SHIP,
        Action.SPAWN,
        Action.REGISTER,
        Action.SET_UP,
        Action.OPEN_CALLS,
    ]


@given(EVENTS)
def test_no_sequence_of_events_moves_a_machine_backwards_or_out_of_stopped(events: list[Event]) -> None:
    phases = walk(events)
    assert all(before <= after and before.state <= after.state for before, after in zip(phases, phases[1:]))


@given(EVENTS)
def test_every_action_is_called_for_at_most_once_in_a_life(events: list[Event]) -> None:
    phase, done = Phase.UNSTARTED, []
    for event in events:
        phase, actions = step(phase, event)
        done += actions
    assert len(done) == len(set(done))


@given(EVENTS)
def test_whatever_ends_a_machine_fails_its_calls_and_winds_it_up(events: list[Event]) -> None:
    phase, done = Phase.UNSTARTED, []
    for event in events:
        phase, actions = step(phase, event)
        done += actions
    assert (phase.state is State.STOPPED) == (Action.FAIL_CALLS in done) == (Action.WIND_UP in done)


def test_every_phase_before_the_end_can_end_at_once() -> None:
    for phase in Phase:
        for event in (Event.STOP, Event.FAILED, Event.DIED):
            assert step(phase, event)[0] >= Phase.ENDING


def test_every_event_and_every_action_has_its_place_in_the_table() -> None:
    assert {event for _, event in TABLE} == set(Event)
    assert {action for _, actions in TABLE.values() for action in actions} == set(Action)


def test_every_cause_has_a_sentence_and_reads_as_its_word() -> None:
    for cause in Cause:
        assert cause.sentence
        assert str(cause) == cause == cause.value
