"""A home of its own for each test, a program that talks, and the command: in this process, or as one of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commanding import TALK, Said

import bigm.cli
import bigm.cli.run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """bigm's folder, empty; the working folder is an empty one, too."""
    folder, work = tmp_path / "home", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    monkeypatch.setenv("BIGM_HOME", str(folder))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(work)
    return folder


@pytest.fixture
def work(home: Path) -> Path:
    """The working folder."""
    return Path.cwd()


@pytest.fixture
def talk(work: Path) -> Path:
    """A program whose machine says lines: `talk.py [say N | nap SECONDS | die | boom | exit STATUS]`."""
    path = work / "talk.py"
    path.write_text(TALK)
    return path


@pytest.fixture
def command(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Runs the command in this process: what must not become a program."""
    monkeypatch.setattr(bigm.cli.run, "become", lambda plan, environ: pytest.fail(f"became {plan}"))
    handler = signal.getsignal(signal.SIGPIPE)

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["bigm", *words])
        with pytest.raises(SystemExit) as caught:
            bigm.cli.main()
        captured = capsys.readouterr()
        return Said(caught.value.code, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGPIPE, handler)
