"""Whose argument is whose is decided by its place, and nothing is lost on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigm.cli.arguments import ALSO_AFTER, flags_of, split_arguments

WORDS = st.text("ab-=", max_size=4)
VALUES = st.text("xyz0", min_size=1, max_size=3)
# What a program may be given without a `--`: anything but the three names that are bigm's behind it, too.
PROGRAMS_OWN = WORDS.filter(lambda word: word != "--")
OPTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([*ALSO_AFTER, "--name", "--python"]), VALUES).map(list),
        st.tuples(st.sampled_from([*ALSO_AFTER, "--name"]), VALUES).map(lambda pair: ["=".join(pair)]),
        st.sampled_from(["-q", "-v", "--dry-run", "--unknown"]).map(lambda word: [word]),
    ),
    max_size=4,
).map(lambda groups: [word for group in groups for word in group])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x.py", ([], "x.py", [])),
        ("x.py --system ec2 --nmach 5", (["--system", "ec2", "--nmach", "5"], "x.py", [])),
        ("x.py --nmach 3 -- -n 100", (["--nmach", "3"], "x.py", ["-n", "100"])),
        ("--nmach 3 -q x.py -q --nmach=4", (["--nmach", "3", "-q", "--nmach=4"], "x.py", ["-q"])),
        ("x.py a --procs all b", (["--procs", "all"], "x.py", ["a", "b"])),
        ("x.py --name mine", ([], "x.py", ["--name", "mine"])),
        ("x.py -- --system x --", ([], "x.py", ["--system", "x", "--"])),
        ("-- x.py --system x", ([], "x.py", ["--system", "x"])),
        ("-m pkg.main -v --nmach 2", (["-m", "--nmach", "2"], "pkg.main", ["-v"])),
        ("-mpkg.main -v", (["-m"], "pkg.main", ["-v"])),
        ("x.py --nmach", (["--nmach"], "x.py", [])),
        ("--nmach", (["--nmach"], None, [])),
        ("-m", (["-m"], None, [])),
        ("--", ([], None, [])),
        ("", ([], None, [])),
    ],
)
def test_the_documented_lines_split_as_they_say(line: str, expected: object) -> None:
    assert expected == tuple(split_arguments(line.split()))


@given(OPTIONS, st.lists(PROGRAMS_OWN), st.lists(WORDS))
def test_what_stands_before_the_program_is_bigms_and_behind_dashes_the_programs(
    options: list[str], plain: list[str], raw: list[str]
) -> None:
    split = split_arguments([*options, "x.py", *plain, "--", *raw])
    assert (options, "x.py", [*plain, *raw]) == tuple(split)


@given(
    st.lists(st.one_of(PROGRAMS_OWN.map(lambda word: [word]), st.tuples(st.sampled_from(ALSO_AFTER), VALUES).map(list)))
)
def test_behind_the_program_the_three_options_are_found_anywhere_and_the_order_stays(groups: list[list[str]]) -> None:
    split = split_arguments(["x.py", *(word for group in groups for word in group)])
    assert [word for group in groups if len(group) == 2 for word in group] == split.options
    assert [group[0] for group in groups if len(group) == 1] == split.arguments


@given(st.lists(st.one_of(WORDS, st.sampled_from([*ALSO_AFTER, "--", "-m", "x.py"]))))
def test_no_word_is_lost_or_made_up_but_the_dashes_and_a_glued_m(line: list[str]) -> None:
    options, program, arguments = split_arguments(line)
    words = [*options, *([] if program is None else [program]), *arguments]
    assert sorted("".join(line).replace("-", "")) == sorted("".join(words).replace("-", ""))
    assert len(words) in range(len(line) - 1, len(line) + 2)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("--nmach 3 --system=ssh", {"nmach": "3", "system": "ssh"}),
        ("--machine-output off --nmach 3 --nmach=4", {"machine_output": "off", "nmach": "4"}),
        ("--nmach=", {"nmach": ""}),
        (
            "--min-mach 2 --max-cost=0.5 --max-lifetime 2h",
            {"min_mach": "2", "max_cost": "0.5", "timeouts.lifetime": "2h"},
        ),
    ],
)
def test_options_are_read_by_the_names_of_settings(line: str, expected: dict[str, str]) -> None:
    assert expected == flags_of(line.split())
