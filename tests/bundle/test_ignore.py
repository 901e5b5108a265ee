"""Patterns of a .bigmignore: they name what git says they name."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigm.bundle.anchors import Anchor, Layout
from bigm.bundle.ignore import Patterns
from bigm.bundle.sources import collect
from bigm.parts import Parts


@pytest.mark.parametrize(
    ("line", "path", "folder", "expected"),
    [
        ("*.csv", "data/a.csv", False, True),
        ("data", "a/data", True, True),
        ("data/", "data", False, None),
        ("data/", "a/data", True, True),
        ("/data", "data", False, True),
        ("/data", "a/data", False, None),
        ("a/b", "a/b", False, True),
        ("a/b", "x/a/b", False, None),
        ("**/b", "x/a/b", False, True),
        ("**/b", "b", False, True),
        ("a/**/b", "a/b", False, True),
        ("a/**/b", "a/x/y/b", False, True),
        ("a/**", "a", True, None),
        ("a/**", "a/x/y", False, True),
        ("a*", "ab/c", False, None),
        ("a?c", "abc", False, True),
        ("[a-c]x", "bx", False, True),
        ("[!a-c]x", "bx", False, None),
        ("[]]x", "]x", False, True),
        ("[[:digit:]]x", "7x", False, True),
        ("[a", "[a", False, None),
        ("[b-a]x", "bx", False, True),
        ("[a-b-d]x", "cx", False, None),
        ("[\\]-a]x", "^x", False, True),
        ("\\#a", "#a", False, True),
        ("#a", "#a", False, None),
        ("!a", "a", False, False),
        ("\\!a", "!a", False, True),
        ("a  ", "a", False, True),
        ("a\\ ", "a ", False, True),
        ("a\r\n", "a", False, True),
        ("", "a", False, None),
        ("/", "a", True, None),
        ("a\\", "a\\", False, None),
        ("*", "a\nb", False, True),
    ],
)
def test_a_line_names_an_entry(line: str, path: str, folder: bool, expected: bool | None):
    assert expected is Patterns([line]).names(path, folder)


def test_the_last_line_that_matches_counts():
    patterns = Patterns(["*.csv", "!keep.csv", "/data/*.csv"])
    assert [True, False, True] == [patterns.names(path, False) for path in ("a.csv", "keep.csv", "data/keep.csv")]


@pytest.mark.parametrize(
    ("line", "folder", "expected"),
    [
        ("a/b/c", "a", True),
        ("a/b/c", "a/b", True),
        ("a/b/c", "a/b/c", False),
        ("a/*/c", "a/x", True),
        ("a/b", "x", False),
        ("**/c", "x/y", True),
        ("c", "x", False),
        ("!a/b", "a", False),
    ],
)
def test_a_pattern_tells_which_folders_it_leads_into(line: str, folder: str, expected: bool):
    assert expected is Patterns([line]).lead_into(folder)


# `a**` is left out: git 2.39 compares a pointer into the pattern with one into the path there.
steps = st.text("ab*?", min_size=1, max_size=3).filter(lambda step: "**" not in step) | st.sampled_from(
    ["**", "[ab]", "[!a]", "[b-a]", "\\a", "a b"]
)
lines = st.builds(
    lambda bang, start, parts, end: bang + start + "/".join(parts) + end,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(steps, min_size=1, max_size=3),
    st.sampled_from(["", "", "/", " ", "[", "\\"]),  # a bracket that is not closed stands last: git closes it anywhere
)
names = st.text("ab", min_size=1, max_size=2)
files = st.lists(st.lists(names, min_size=1, max_size=4).map("/".join), min_size=1, max_size=8)


def write(root: Path, paths: list[str]) -> None:
    """Those of the files that do not stand in another's way."""
    for path in paths:
        try:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        except OSError:
            continue


@settings(max_examples=150)
@given(st.lists(lines, max_size=4), st.lists(lines, max_size=3), files)
def test_what_is_taken_is_what_git_would_take(top: list[str], nested: list[str], paths: list[str]):
    """With a .bigmignore in the project and another one in a folder of it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "p"
        write(root, [*paths, "a/x"])
        (root / ".bigmignore").write_text("\n".join(top) + "\n")
        if (root / "a").is_dir():
            (root / "a" / ".bigmignore").write_text("\n".join(nested) + "\n")
        environ = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_DIR": f"{folder}/git", "GIT_WORK_TREE": str(root)}
        for command in (["init", "-q"], ["ls-files", "-z", "--others", "--exclude-per-directory=.bigmignore"]):
            said = subprocess.run(
                ["git", *command], cwd=root, env=environ, check=True, capture_output=True, text=True, timeout=30
            )
        taken = collect(Layout((Anchor(str(root), "p"),)), Parts(folder + "/store")).manifest.files
        assert sorted(filter(None, said.stdout.split("\0"))) == [file.path[len("p/") :] for file in taken]
