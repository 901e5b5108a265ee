"""A user's mistake is one message and exit code 2, before anything is started; a bug of bigm's says that it is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commanding import Said

import bigm.cli.app

Command = Callable[..., Said]


def refused(said: Said) -> str:
    """The message of a mistake: nothing else was said, and no stack trace."""
    assert said.status == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


def test_a_program_that_does_not_exist_is_refused_with_a_near_one(command: Command, work: Path) -> None:
    (work / "bigpi.py").write_text("")
    assert "bigm: there is no program 'bigpy.py'\nbigm: did you mean 'bigpi.py'?\n" == refused(
        command("run", "bigpy.py")
    )


@pytest.mark.parametrize("word", ["nope.py", "src/nope.py"])
def test_what_two_names_of_programs_have_in_common_without_fail_makes_them_not_alike(
    command: Command, work: Path, word: str
) -> None:
    (work / "src").mkdir()
    for folder in (work, work / "src"):
        (folder / "helper.py").write_text("")
    assert f"bigm: there is no program {word!r}\n" == refused(command("bundle", word))
    assert "did you mean 'src/helper.py'?" in refused(command("run", "src/helpr.py"))


def test_a_folder_is_refused(command: Command, work: Path) -> None:
    (work / "pkg").mkdir()
    assert "bigm: pkg is a folder, not a program\nbigm: name the script in it\n" == refused(command("run", "pkg"))
    (work / "pkg/__main__.py").write_text("")
    assert "`bigm run -m pkg` runs a package" in refused(command("run", "pkg"))


@pytest.mark.parametrize("content", [b"\x00\x01ELF", b"\xff\xfe\x00", b"# coding: nonsense\n"])
def test_what_is_not_python_text_is_refused(command: Command, work: Path, content: bytes) -> None:
    (work / "x.py").write_bytes(content)
    assert refused(command("run", "x.py")).startswith("bigm: x.py: this is not Python") or content.startswith(b"\x00")
    assert "x.py" in refused(command("run", "x.py"))


def test_a_syntax_error_is_said_with_file_line_and_the_line(command: Command, work: Path) -> None:
    (work / "x.py").write_text("import bigm\n\nif True:\n    x = = 1\n")
    said = refused(command("run", "x.py")).splitlines()
    assert ["bigm: x.py:4: invalid syntax", "    x = = 1", "        ^"] == said


def test_an_unreadable_program_is_refused(command: Command, work: Path) -> None:
    if os.geteuid() == 0:
        (work / "x.py").symlink_to("x.py")  # root reads everything; a loop it cannot
        assert "there is no program 'x.py'" in refused(command("run", "x.py"))
    else:
        (work / "x.py").write_text("")
        (work / "x.py").chmod(0)
        assert "bigm: cannot read x.py: Permission denied" in refused(command("run", "x.py"))


def test_a_module_that_does_not_exist_is_refused(command: Command, work: Path) -> None:
    assert "bigm: there is no module 'nope'\n" in refused(command("run", "-m", "nope.main"))
    (work / "pkg").mkdir()
    (work / "pkg/__init__.py").write_text("raise SystemExit('imported by the command')")
    assert "bigm: there is no module 'pkg.nope'\n" in refused(command("run", "-m", "pkg.nope"))
    assert "bigm: pkg is a package without a __main__ module\n" in refused(command("run", "-m", "pkg"))


def test_a_module_that_lies_in_src_is_found_there_by_the_hint(command: Command, work: Path) -> None:
    (work / "src" / "inside").mkdir(parents=True)
    (work / "src" / "inside" / "__init__.py").touch()
    said = refused(command("run", "-m", "inside.main"))
    assert "bigm: it is in src/: install the project (pip install -e .), or set PYTHONPATH=src; searched from" in said


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_bad_number_of_machines_is_refused(command: Command, talk: Path, value: str, place: str) -> None:
    line = ["--nmach", value, "talk.py"] if place == "before" else ["talk.py", f"--nmach={value}"]
    assert f"bigm: --nmach must be a whole number from 1, not {value!r}\n" == refused(command("run", *line))


def test_an_option_without_its_value_and_an_unknown_one_are_refused(command: Command, talk: Path) -> None:
    assert "Option '--nmach' requires an argument" in refused(command("run", "talk.py", "--nmach"))
    assert "No such option: --systm" in refused(command("run", "--systm", "local", "talk.py"))
    assert "PROGRAM" in refused(command("run"))


def test_a_mistake_in_a_file_is_refused_before_the_program_starts(command: Command, talk: Path, work: Path) -> None:
    (work / "bigm.yaml").write_text("procs: 2\nnmachs: 4\n")
    expected = f"bigm: {work}/bigm.yaml:2: unknown key 'nmachs'\nbigm: did you mean 'nmach'?\n"
    assert expected == refused(command("run", "talk.py"))


def test_an_unknown_system_is_refused(command: Command, talk: Path) -> None:
    assert "there is no system called 'ec3'" in refused(command("run", "talk.py", "--system", "ec3"))


def test_hosts_of_a_system_that_has_none_are_refused(command: Command, talk: Path) -> None:
    said = refused(command("run", "--hosts", "a,b", "talk.py", "--system", "local"))
    expected = "bigm: --hosts names hosts of ssh, and the system that is asked for is 'local'"
    assert [expected, "bigm: leave out one of the two"] == said.splitlines()


def test_an_interpreter_that_does_not_exist_is_refused(command: Command, talk: Path) -> None:
    assert "bigm: there is no interpreter 'python9.9'\n" in refused(command("run", "--python", "python9.9", "talk.py"))
    assert "is not a Python that can be used" in refused(command("run", "--python", "/bin/false", "talk.py"))


def test_an_interpreter_without_bigm_is_refused_with_what_to_do(
    command: Command, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it may lead there after all
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=60)
    python = f"{tmp_path}/venv/bin/python"
    said = refused(command("run", "--python", python, "talk.py"))
    assert said.startswith(f"bigm: {python} cannot import bigm\nbigm: install it there ({python} -m pip install bigm)")
    monkeypatch.setenv("VIRTUAL_ENV", f"{tmp_path}/venv")
    assert said == refused(command("run", "talk.py"))


def test_a_syntax_error_is_judged_by_the_interpreter_that_is_to_run_it(command: Command, work: Path) -> None:
    """The probe of another interpreter says what this one says."""
    (work / "x.py").write_text("x = = 1\n")
    links = work / "bin"
    links.mkdir()
    script = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    (links / "python").write_text(script)
    (links / "python").chmod(0o755)
    assert refused(command("run", "x.py")) == refused(command("run", "--python", str(links / "python"), "x.py"))


def test_runs_and_machines_that_do_not_exist_are_refused(command: Command) -> None:
    assert "bigm: there are no runs in" in refused(command("logs"))
    assert "bigm: there is no run 'x'" in refused(command("ps", "x"))


def test_a_bug_says_that_it_is_one(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(bigm.cli.app, "app", broken)
    said = command("ps")
    assert said.status == 70
    assert "ZeroDivisionError: oops" in said.err
    assert "this is a bug in bigm, not in your program" in said.err


def test_ctrl_c_in_a_command_is_no_stack_trace(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bigm.cli.app, "app", interrupted)
    assert Said(130, "", "") == command("logs", "-f")
