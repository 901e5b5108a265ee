"""`bigm bundle` says what is wrong before it does anything that takes time.

What it makes is tested in tests/bundle/test_pexfile.py.
"""

from __future__ import annotations

import contextlib
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from commanding import Said

from bigm.bootstrap.records import Main
from bigm.bundle.bundle import Bundle
from bigm.bundle.embedded import FACTS, Program
from bigm.bundle.pexfile import check_output
from bigm.cli import packing
from bigm.manifest import File, Manifest
from bigm.parts import Parts
from bigm.terminal import Terminal

Command = Callable[..., Said]


def test_a_program_that_is_not_there_is_named_with_one_that_is(command: Command, talk: Path) -> None:
    said = command("bundle", "tolk.py")
    assert (2, "") == (said.status, said.out)
    assert "bigm: there is no program 'tolk.py'\nbigm: did you mean 'talk.py'?\n" == said.err


def test_what_is_no_python_is_not_packed(command: Command, work: Path) -> None:
    (work / "x.py").write_text("def broken(:\n")
    said = command("bundle", "x.py")
    assert 2 == said.status
    assert "bigm: x.py:1: invalid syntax" in said.err
    assert [] == list(work.glob("*.pex"))


def test_a_self_contained_pex_is_not_packed_again(command: Command, work: Path) -> None:
    with zipfile.ZipFile(work / "x.pex", "w") as archive:
        minor = "{}.{}".format(*sys.version_info)
        archive.writestr(FACTS, Program(Main("path", "x.py", "x.py"), (), "", minor, ()).to_json())
    said = command("bundle", "x.pex", "-o", "y.pex")
    assert (2, "bigm: x.pex is a self-contained pex already\n") == (said.status, said.err.splitlines(True)[0])


class Watched(Terminal):
    """Notes which lines it would keep up to date."""

    shown: ClassVar[list[str]] = []

    @contextlib.contextmanager
    def live(self, status: Callable[[], str]) -> Iterator[None]:
        self.shown.append(status())
        yield


def test_what_takes_long_has_a_line_that_counts_the_seconds(
    command: Command, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watched, "shown", [])
    monkeypatch.setattr(packing, "Terminal", Watched)
    monkeypatch.setattr(packing, "bundle_program", lambda *_, **__: None)
    monkeypatch.setattr(packing, "build", lambda *_, **__: [])
    assert 0 == command("bundle", "talk.py").status
    assert ["making the bundle", "packing talk.pex"] == Watched.shown


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("none/x.pex", "bigm: cannot write none/x.pex: there is no folder {work}/none"),
        (".", "bigm: cannot write .: it is a folder"),
    ],
)
def test_an_output_that_cannot_be_written_is_said_at_once(
    command: Command, talk: Path, output: str, message: str
) -> None:
    said = command("bundle", "talk.py", "-o", output)
    assert (2, message.format(work=talk.parent)) == (said.status, said.err.splitlines()[0])


@pytest.mark.parametrize(
    ("words", "there"),
    [
        (["-o", "talk.py"], "talk.py"),
        (["-o", "data.csv"], "data.csv"),
        ([], "talk.pex"),
        (["--scie"], "talk"),
        (["--scie", "--platform", "linux-x86_64"], "talk-linux-x86_64"),
    ],
)
def test_a_file_that_bigm_bundle_has_not_made_is_not_replaced(
    command: Command, talk: Path, words: list[str], there: str
) -> None:
    path = talk.with_name(there)
    path.write_text(before := path.read_text() if path.exists() else "1,2\n")
    said = command("bundle", "talk.py", *words)
    message = f"bigm: {there} exists, and `bigm bundle` has not made it: it is left as it is"
    assert [message, "bigm: remove it, or name another file: -o FILE.pex"] == said.err.splitlines()
    assert (2, before) == (said.status, path.read_text())


@pytest.mark.parametrize("behind", [b"", b'{"scie": {"lift": {}}}\n'])
def test_a_file_that_bigm_bundle_has_made_may_be_replaced(work: Path, behind: bytes) -> None:
    with zipfile.ZipFile(work / "x.pex", "w") as archive:
        archive.writestr(FACTS, "{}")
    (work / "x").write_bytes(b"\x7fELF" + (work / "x.pex").read_bytes() + behind)
    check_output(work / "x.pex", scie=True)


def test_what_would_travel_is_told_in_all_and_below_it_one_by_one(
    command: Command, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Bundle(
        program=Manifest([File("talk.py", "ab" * 32, 10)]),
        machine=Manifest([File("bigm/__init__.py", "ab" * 32, 1000)]),
        dependencies={},
        sys_path=(),
        main=Main(),
        cwd="",
        python="3.11",
        store=Parts("/nowhere"),
    )
    monkeypatch.setattr("bigm.cli.packing.bundle_program", lambda *_, **__: made)
    said = command("bundle", "talk.py", "--list")
    totals, _, files = said.out.partition("\n\n")
    assert ["LAYER", "program", "bigm"] == [line.split()[0] for line in totals.splitlines()]
    assert ["LAYER", "program"] == [line.split()[0] for line in files.splitlines()]


def test_a_platform_that_there_is_not_is_said_with_those_that_there_are(command: Command, talk: Path) -> None:
    said = command("bundle", "talk.py", "--platform", "sparc")
    assert (2, "bigm: there is no platform called 'sparc'") == (said.status, said.err.splitlines()[0])
    assert "linux-aarch64" in said.err.splitlines()[1]
