from __future__ import annotations

import pytest

from bigm.tally import Tally, amount


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (34_100, "34.1 kB"), (120e6, "120 MB"), (5e12, "5000 GB")]
)
def test_amounts_are_for_people(size: float, text: str) -> None:
    assert amount(size) == text


def test_nothing_is_said_when_nothing_is_on_its_way() -> None:
    tally = Tally(lambda: 0.0)
    tally.wants("s", 0)
    assert tally.status() == ""


def test_bytes_of_a_part_that_is_not_whole_count_and_are_not_counted_twice() -> None:
    now = [0.0]
    tally = Tally(lambda: now[0])
    tally.wants("s", 10_000_000)
    tally.moved("s", 4_000_000)
    now[0] = 2.0
    assert tally.status() == "shipped 4.0 MB of 10.0 MB, 2.0 MB/s"
    tally.arrived("s", 6_000_000, sent=True)
    assert tally.status() == "shipped 6.0 MB of 10.0 MB, 3.0 MB/s"
    tally.arrived("s", 4_000_000, sent=False)
    assert tally.status() == ""


def test_the_summary_comes_when_all_is_there_and_it_was_worth_a_word() -> None:
    now = [0.0]
    tally = Tally(lambda: now[0])
    tally.wants("a", 300)
    tally.arrived("a", 300, sent=True)
    assert tally.summary() == ""
    tally.wants("a", 10_000_000)
    tally.wants("b", 10_000_000)
    tally.arrived("a", 10_000_000, sent=True)
    assert tally.summary() == ""
    now[0] = 2.0
    tally.arrived("b", 10_000_000, sent=False)
    assert tally.summary() == "shipped 20.0 MB to 2 computers in 2.0 s, 10.0 MB of it from this one"


def test_what_a_store_that_is_dropped_lacks_is_not_waited_for() -> None:
    tally = Tally(lambda: 0.0)
    tally.wants("a", 5_000_000)
    tally.wants("b", 5_000_000)
    tally.arrived("a", 5_000_000, sent=True)
    assert tally.status() == "shipped 5.0 MB of 10.0 MB"
    tally.drop("b")
    assert tally.status() == ""
