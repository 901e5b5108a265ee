"""`bigm run` with real machines: whose output goes where, exit codes, signals, logs and ps beside a live run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commanding import Said, bigm_line, run_bigm

from bigm.bootstrap.records import LogRecord
from bigm.config import load
from bigm.runs import Run, read_run

Command = Callable[..., Said]


def say(machine: str, lines: int) -> list[str]:
    """What a machine of talk.py prints, as it is shown; its two streams are shown in the order they were read."""
    return sorted([*(f"{machine} | line {number}" for number in range(lines)), f"{machine} | to stderr"])


def test_stdout_is_the_programs_and_stderr_has_every_line_of_every_machine(talk: Path, command: Command) -> None:
    said = run_bigm("run", "talk.py", "--nmach", "2", "--", "say", "2000")
    assert (0, "4000\n") == (said.status, said.out)
    shown = said.err.splitlines()
    assert "bigm: starting 2 machines on local" == shown.pop(0)
    for machine in ("m0", "m1"):
        mine = [line for line in shown if line.startswith(f"{machine} | ")]
        assert say(machine, 2000) == sorted(mine)
        assert mine == command("logs", "--machine", machine).out.splitlines(), "logs afterwards say what was shown"
    assert 2 * 2001 == len(shown)
    (run,) = json.loads(command("ps", "--json").out)
    assert ("ended", 0, "talk.py", ["say", "2000"]) == (run["state"], run["status"], run["program"], run["argv"])
    assert {("STOPPED", "shutdown")} == {(machine["state"], machine["cause"]) for machine in run["machines"]}


@contextmanager
def live(*words: str) -> Iterator[subprocess.Popen[str]]:
    """`bigm run` of talk.py whose machines are napping."""
    with subprocess.Popen(
        bigm_line("run", "talk.py", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            yield run
        finally:
            run.kill()


def await_napping(run: subprocess.Popen[str]) -> None:
    assert run.stderr is not None
    said = []
    for line in run.stderr:
        said.append(line)
        if line == "m0 | napping\n":
            return
    raise AssertionError(f"it ended: {''.join(said)}")


def test_a_live_run_is_seen_from_elsewhere_and_sigterm_ends_it_with_143(
    talk: Path, home: Path, command: Command
) -> None:
    with live("--nmach", "2", "nap", "60") as run:
        await_napping(run)
        with subprocess.Popen(bigm_line("logs", "-f"), stdout=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            assert {"m0 | napping\n", "m1 | napping\n"} == {follower.stdout.readline() for _ in range(2)}
            listed = command("ps").out
            assert run.pid == read_run(home / "runs").pid
            assert f"{read_run(home / 'runs').id}: talk.py nap 60" in listed
            rows = [line.split()[:3] for line in listed.splitlines() if line.startswith("  m")]
            assert [["m0", "RUNNING"], ["m1", "RUNNING"]] == [row[:2] for row in rows]
            assert all(row[2].startswith("127.0.0.1:") for row in rows)
            run.send_signal(signal.SIGTERM)
            assert 143 == run.wait(20)
            assert "" == follower.stdout.read(), "the follower shows nothing more"
            assert 0 == follower.wait(5), "the follower ends with the run"
    assert "exit 143" in command("ps").out


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)]
)
def test_ctrl_c_and_a_closed_terminal_have_their_exit_codes(talk: Path, number: int, status: int) -> None:
    with live("nap", "60") as run:
        await_napping(run)
        run.send_signal(number)
        _, err = run.communicate(timeout=20)
        assert status == run.returncode
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (("exit", "7"), 7, ""),
        (("boom",), 1, "LookupError: boom"),
        (("die",), 78, "m0"),
    ],
)
def test_a_program_that_ends_by_itself_has_its_own_exit_code(
    talk: Path, home: Path, line: tuple[str, ...], status: int, said: str
) -> None:
    ended = run_bigm("run", "talk.py", *line)
    assert status == ended.status
    assert said in ended.err
    assert status == read_run(home / "runs").status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("ConfigError", 2),
        ("BootError", 75),
        ("CredentialsError", 76),
        ("QuotaError", 77),
        ("MachineStopped", 78),
        ("BigmError", 70),
    ],
)
def test_an_error_of_bigms_that_nobody_handles_is_one_line_and_its_exit_code(
    work: Path, error: str, status: int
) -> None:
    (work / "x.py").write_text(
        f"import bigm\nfrom bigm.errors import {error}\nwith bigm.start():\n    raise {error}('what happened')\n"
    )
    done = subprocess.run([sys.executable, "x.py"], capture_output=True, text=True, timeout=60)
    assert (status, "", "bigm: what happened\n") == (done.returncode, done.stdout, done.stderr)


def test_a_call_that_the_program_made_wrongly_is_no_bug_and_its_line_is_shown(work: Path) -> None:
    (work / "x.py").write_text(
        "import bigm, threading\n"
        "class Service:\n"
        "    def __init__(self):\n"
        "        self.key = threading.Lock()\n"
        "def main():\n"
        "    with bigm.start('inprocess') as cluster:\n"
        "        cluster.start(1, services={'S': Service()})\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    said = run_bigm("run", "x.py")
    assert 1 == said.status
    assert 'x.py", line 7, in main' in said.err
    assert "NotPicklable: cannot send service 'S': service 'S'.key" in said.err


@pytest.mark.slow
def test_a_setup_that_raises_ends_the_program_with_75(work: Path) -> None:
    (work / "x.py").write_text(
        "import bigm\n"
        "class Bad:\n"
        "    def setup(self, cluster):\n"
        "        raise OSError('no scratch disk')\n"
        "def main():\n"
        "    with bigm.start() as cluster:\n"
        "        cluster.wait(cluster.start(1, services={'Bad': Bad()}))\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    said = run_bigm("run", "x.py")
    assert said.status == 75
    assert "no scratch disk" in said.err


@pytest.mark.slow
def test_a_maximum_lifetime_that_is_over_ends_the_program_with_79(talk: Path) -> None:
    said = run_bigm("run", "talk.py", "nap", "60", BIGM_TIMEOUTS_LIFETIME="4 s")
    assert said.status == 79
    assert "lifetime" in said.err


# --- what is run


def test_a_program_that_starts_nothing_is_told_so_before_or_after(work: Path) -> None:
    (work / "plain.py").write_text("print('hello')")
    said = run_bigm("run", "plain.py")
    note = "bigm: plain.py does not mention bigm: unless a module it imports does, no machine is started\n"
    assert (0, "hello\n", note) == said
    (work / "plain.py").write_text("import bigm\nprint('hello')")
    note = "bigm: the program ended without calling bigm.start(): no machine was started\n"
    assert (0, "hello\n", note) == run_bigm("run", "plain.py")
    (work / "plain.py").write_text("import bigm\nraise SystemError('mine')")
    said = run_bigm("run", "plain.py")
    assert said.status == 1
    assert "SystemError: mine" in said.err
    assert "bigm:" not in said.err


def test_an_option_of_bigms_that_went_to_the_program_is_named(work: Path) -> None:
    parse = "import argparse\nfrom bigm import start\nargparse.ArgumentParser().parse_args()\n"
    (work / "x.py").write_text(parse)
    said = run_bigm("run", "x.py", "--hosts", "a,b", "--bundle")
    assert 2 == said.status
    assert [
        "bigm: --hosts behind PROGRAM is the program's: put it before PROGRAM",
        "bigm: --bundle behind PROGRAM is the program's: put it before PROGRAM",
    ] == said.err.splitlines()[-2:]
    (work / "x.py").write_text("import bigm")
    first = "bigm: the program ended without calling bigm.start(): no machine was started"
    second = "bigm: --name behind PROGRAM is the program's: put it before PROGRAM"
    assert [first, second] == run_bigm("run", "x.py", "--name=mine", "--epochs", "3").err.splitlines()
    (work / "x.py").write_text("import bigm\nbigm.start('inprocess').shutdown()")
    assert "behind" not in run_bigm("run", "-q", "x.py", "--name", "mine").err


def test_a_pex_that_is_started_by_itself_names_the_variable(work: Path) -> None:
    parse = "import sys, os, bigm.cli.embedded as e\ne.take_flags(sys.argv[1:], os.environ)\n"
    line = [sys.executable, "-c", parse, "--nmach", "2", "--hosts", "a"]
    done = subprocess.run(line, env={**os.environ, "PEX": "/x/app.pex"}, capture_output=True, text=True, timeout=60)
    assert "bigm: --hosts behind app.pex is the program's: set BIGM_SSH_HOSTS instead" in done.stderr.splitlines()


def test_what_the_program_starts_is_not_reminded(work: Path) -> None:
    (work / "x.py").write_text(
        "import subprocess, sys\nimport bigm.cluster\n"
        "subprocess.run([sys.executable, '-c', 'import bigm'], check=True)\n"
    )
    assert (0, "", "") == run_bigm("run", "x.py")


def test_arguments_modules_and_interpreter_arrive(work: Path) -> None:
    (work / "pkg").mkdir()
    (work / "pkg/__init__.py").touch()
    (work / "pkg/main.py").write_text("import sys  # bigm\nprint(__name__, sys.argv[1:], sys.executable)")
    arguments = ["-n", "5", "--name", "--", "x y", "--system"]
    expected = f"__main__ {['-n', '5', '--name', 'x y', '--system']} {sys.executable}\n"
    assert expected == run_bigm("run", "-m", "pkg.main", *arguments).out
    assert expected == run_bigm("run", "--nmach", "3", "pkg/main.py", *arguments).out


def test_an_installed_command_is_a_program(home: Path) -> None:
    """`pytest` is one that is installed here."""
    assert run_bigm("run", "pytest", "--version").out.startswith("pytest ")


def test_flags_reach_the_program_over_variables_and_files(work: Path) -> None:
    (work / "bigm.yaml").write_text("nmach: 1\nprocs: 2\n")
    (work / "x.py").write_text(
        "import bigm.config\ns = bigm.config.load()\nprint(s.nmach, s.procs, s.name, s.machine_output, s.verbosity)"
    )
    said = run_bigm(
        "run", "-v", "--name", "mine", "--machine-output", "off", "x.py", "--nmach", "4", BIGM_NMACH="3", BIGM_NAME="no"
    )
    assert "4 2 mine off verbose\n" == said.out


@pytest.mark.parametrize("words", [["--hosts", "a*2,b"], ["--hosts=a*2,b", "--system", "ssh"]])
def test_hosts_mean_ssh_whatever_else_is_configured(work: Path, words: list[str]) -> None:
    (work / "x.py").write_text("from bigm.config import load\ns = load()\nprint(s.system, *s.systems['ssh']['hosts'])")
    assert "ssh a*2 b\n" == run_bigm("run", *words, "x.py", BIGM_SYSTEM="local").out


def test_a_dry_run_says_what_would_be_and_starts_nothing(talk: Path, home: Path, command: Command) -> None:
    said = command("run", "--dry-run", "--json", "talk.py", "--nmach", "4", "--", "-x")
    facts = json.loads(said.out)
    assert ("talk.py -x", sys.executable, "local", 4) == (
        facts["program"],
        facts["interpreter"],
        facts["system"],
        facts["machines"],
    )
    assert not (home / "runs").exists()


def test_a_dry_run_on_hosts_lists_them_and_warns_of_too_few(
    talk: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["run", "--dry-run", "--hosts", "a,b*2", "--nmach", "4", "talk.py"]
    monkeypatch.setenv("BIGM_SSH_IN_PLACE", "true")  # nothing to bundle
    said = command(*line)
    assert "hosts        a (takes 1), b (takes 2)" in said.out.splitlines()
    assert "bigm: 4 machines are wanted, and the hosts take 3; host*4 lets a host take four\n" == said.err
    fewer = ["run", "--dry-run", "--json", "--hosts", "a,b*2", "--nmach", "3", "talk.py"]
    said = command(*fewer)
    assert ({"a": 1, "b": 2}, "") == (json.loads(said.out)["hosts"], said.err)


def test_a_cause_with_a_traceback_takes_one_line_of_the_table(home: Path, command: Command) -> None:
    text = "machine a:1/m0 stopped: Bad could not be set up\nTraceback (most recent call last):\n  File"
    run = Run.create(load(), "x.py")
    run.event("machine", machine="m0", state="STOPPED", addr="a:1/m0", cause="setup", text=text)
    run.event("machine", machine="m1", state="STOPPED", addr="a:2/m1", cause="setup")
    run.finish(75)
    rows = command("ps", "last").out.splitlines()[-2:]
    cells = [re.split(r"  +", row.strip()) for row in rows]
    assert [("m0", "Bad could not be set up"), ("m1", "setup")] == [(row[0], row[-1]) for row in cells]
    assert text == json.loads(command("ps", "last", "--json").out)[0]["machines"][0]["text"]


# --- readers that leave, disks that fail


def test_a_reader_that_leaves_ends_logs_quietly(home: Path) -> None:
    run = Run.create(load(), "x")
    run.log("m0").write([LogRecord(0, 0.0, "w0", "o", b"line\n" * 20000)])
    with subprocess.Popen(bigm_line("logs"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as logs:
        assert logs.stdout is not None
        assert logs.stderr is not None
        assert b"m0 | line\n" == logs.stdout.readline()
        logs.stdout.close()
        assert b"" == logs.stderr.read()
        assert -signal.SIGPIPE == logs.wait(10)


@pytest.mark.slow
def test_a_closed_stderr_does_not_end_a_run(talk: Path, command: Command) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            bigm_line("run", "talk.py", "say", "1000"), stdout=subprocess.PIPE, stderr=writing, timeout=60
        )
    finally:
        os.close(writing)
    assert (0, b"1000\n") == (done.returncode, done.stdout)
    assert 1001 == len(command("logs").out.splitlines())


@pytest.mark.slow
def test_a_home_that_cannot_be_written_to_is_said_and_the_run_goes_on(talk: Path, home: Path, command: Command) -> None:
    (home / "runs").write_text("in the way")
    said = run_bigm("run", "talk.py")
    assert (0, "3\n") == (said.status, said.out)
    assert f"bigm: cannot write to {home}/runs: " in said.err
    folder = Path(said.err.partition("this run is kept in ")[2].partition("\n")[0])
    assert say("m0", 3) == sorted(command("logs", str(folder)).out.splitlines())
    subprocess.run(["rm", "-r", str(folder.parent)], check=True, timeout=10)
