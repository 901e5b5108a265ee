"""Tables on a terminal of 80 columns, where not all columns have room."""

from __future__ import annotations

import contextlib
import re
import sys

import pytest

from screens import Screen

PROGRAM = """
from bigm.cli.tables import print_table
print_table(("INSTANCE", "WHERE", "CLUSTER", "RUN", "WHAT"), [{row!r}], spare=("CLUSTER", "WHERE"))
"""
INSTANCE, CLUSTER, RUN = "lt-0123456789abcdef0", "0123456789ab", "20261127-165000-bigpi-3f2a (running)"


def lines(*row: str) -> list[str]:
    with contextlib.closing(Screen([sys.executable, "-c", PROGRAM.format(row=row)])) as screen:
        assert 0 == screen.end()
        return re.sub(r"\x1b\[[0-9]*m", "", screen.seen).splitlines()


def test_what_has_room_is_shown_whole_in_one_line():
    assert ["INSTANCE", "WHERE", "CLUSTER", "RUN", "WHAT"] == lines("i-0", "a", CLUSTER, "none", "spot")[0].split()
    assert 2 == len(lines("i-0", "a", CLUSTER, "none", "spot"))


@pytest.mark.parametrize("what", ["", "a text of many words that has to be folded, and is"])
def test_words_are_not_broken_where_a_column_can_be_spared(what: str):
    shown = lines(INSTANCE, "eu-central-1a", CLUSTER, RUN, what)
    assert ["INSTANCE", "WHERE", "RUN", "WHAT"] == shown[0].split()
    assert [INSTANCE, "eu-central-1a", RUN.split()[0]] == shown[1].split()[:3]
    assert all(len(line) <= 80 for line in shown)
    assert what.split() == [word for line in shown for word in line.split() if word in what.split()]


def test_without_room_for_the_words_they_are_broken_rather_than_lost():
    shown = lines("i" * 60, "", "", "r" * 60, "text")
    assert (60, 60) == tuple("".join(shown[1:]).count(letter) for letter in "ir")
