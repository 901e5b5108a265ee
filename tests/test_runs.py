"""A run's folder says what happened, also while it is written, when the disk fails, and when the driver is killed."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigm.bootstrap.records import LogRecord
from bigm.config import Settings
from bigm.errors import ConfigError
from bigm.runs import (
    DIED,
    ELSEWHERE,
    ENDED,
    MAX_LINE,
    RUNNING,
    Lines,
    LogLine,
    MachineInfo,
    Run,
    follow_logs,
    list_runs,
    process_mark,
    prune,
    read_events,
    read_run,
)
from waiting import eventually


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", keep_runs=3)


@pytest.fixture
def run(settings: Settings) -> Run:
    return Run.create(settings, "dir/big-pi.py", ["-n", "3"])


def record(data: bytes, source: str = "w0", stream: str = "o", time: float = 1.0) -> LogRecord:
    return LogRecord(0, time, source, stream, data)


def texts(lines: Iterator[LogLine]) -> list[tuple[str, str, str, bytes]]:
    return [(line.machine, line.source, line.stream, line.text) for line in lines]


# --- the folder


def test_an_id_is_readable_and_sorts_by_time(run: Run) -> None:
    assert re.fullmatch(r"\d{8}-\d{6}-big-pi-[0-9a-f]{4}", run.id)
    assert run.folder.name == run.id


def test_a_run_is_read_back_as_it_was_written(settings: Settings, run: Run) -> None:
    info = read_run(settings.runs_folder)
    assert info == run.info
    assert (info.program, info.argv, info.pid, info.state) == ("dir/big-pi.py", ("-n", "3"), os.getpid(), RUNNING)


def test_only_the_user_may_read_it(run: Run) -> None:
    assert 0o700 == run.folder.stat().st_mode & 0o777
    assert 0o600 == (run.folder / "run.json").stat().st_mode & 0o777


def test_its_end_and_status_are_kept(settings: Settings, run: Run) -> None:
    run.finish(78, "machine m0 stopped")
    info = read_run(settings.runs_folder)
    assert (info.state, info.status, info.error) == (ENDED, 78, "machine m0 stopped")
    assert info.ended >= info.started


def test_a_killed_driver_is_told_from_a_living_one_and_from_another_process_of_the_same_number(
    settings: Settings,
) -> None:
    code = "import sys; from pathlib import Path; from bigm.config import Settings; from bigm.runs import Run; "
    code += f"Run.create(Settings(home=Path({str(settings.home)!r})), 'x'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        info = read_run(settings.runs_folder)
        assert info.state == RUNNING
        driver.kill()
        eventually(lambda: info.state == DIED, 5.0, "a killed driver, not yet waited for, has died")
    assert info.state == DIED
    assert replace(info, pid=os.getpid()).state == DIED  # its number, taken by another process
    assert replace(info, host="elsewhere").state == ELSEWHERE


def test_this_process_has_a_mark_and_none_that_is_dead() -> None:
    assert process_mark(os.getpid()) == process_mark(os.getpid()) is not None
    assert process_mark(2**22 + 1) is None


def test_machines_are_told_by_their_latest_events(settings: Settings, run: Run) -> None:
    run.event("machine", machine="m0", state="STARTING", procs=2)
    run.event("machine", machine="m1", state="STARTING")
    run.event("machine", machine="m0", state="RUNNING", addr="127.0.0.1:7/m0", cluster="x")
    run.event("machine", machine="m0", state="STOPPED", cause="signal", text="SIGSEGV")
    first, second = read_run(settings.runs_folder).machines()
    assert (first.machine, first.state, first.addr, first.procs) == ("m0", "STOPPED", "127.0.0.1:7/m0", 2)
    assert (first.cause, first.text) == ("signal", "SIGSEGV")
    assert first.until >= first.since > 0
    assert (second.machine, second.state, second.until) == ("m1", "STARTING", 0.0)


def test_a_local_machine_whose_driver_was_killed_has_stopped_when_its_agent_is_gone() -> None:
    with subprocess.Popen(["sleep", "60"]) as agent:
        machine = MachineInfo("m0", "RUNNING", pid=agent.pid, local=True)
        assert machine.orphaned() == machine
        agent.kill()
    stopped = machine.orphaned()
    assert (stopped.state, stopped.cause, stopped.text) == ("STOPPED", "driver", "the driver ended")
    elsewhere = replace(machine, local=False)
    assert elsewhere.orphaned() == elsewhere


def test_a_machine_of_a_killed_run_is_told_by_its_agent(settings: Settings, run: Run) -> None:
    run.event("machine", machine="m0", state="RUNNING")
    run.event("enrolled", machine="m0", pid=2**22 + 1, local=True)
    info = read_run(settings.runs_folder)
    assert [machine.state for machine in info.machines()] == ["RUNNING"]
    assert [machine.state for machine in replace(info, process="another").machines()] == ["STOPPED"]


def test_events_of_many_threads_are_whole_lines(run: Run) -> None:
    threads = [threading.Thread(target=lambda: [run.event("x", n=n) for n in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 400 == len(list(read_events(run.folder)))


def test_a_torn_event_is_passed_over(run: Run) -> None:
    run.event("one")
    with open(run.folder / "events.jsonl", "ab") as file:
        file.write(b'{"time": 1, "ev')
    assert ["one"] == [event["event"] for event in read_events(run.folder)]


def test_a_launch_is_journalled_before_and_settled_after(run: Run) -> None:
    run.intent("l1", system="local", n=5)
    run.settled("l1")
    first, second = [json.loads(line) for line in (run.folder / "journal").read_text().splitlines()]
    assert ("l1", {"system": "local", "n": 5}) == (first["launch"], first["intent"])
    assert ("l1", True) == (second["launch"], second["settled"])


def test_old_runs_go_when_a_run_ends_and_live_ones_stay(settings: Settings) -> None:
    live = Run.create(settings, "live")
    ended = [Run.create(settings, f"ended{n}") for n in range(6)]
    for other in ended:
        other.finish(0)
    left = {info.id for info in list_runs(settings.runs_folder)}
    newest = {info.id for info in sorted(list_runs(settings.runs_folder), key=lambda info: info.id)[-3:]}
    assert live.id in left
    assert newest <= left
    assert len(left) <= 4
    prune(settings.runs_folder, 1)
    assert live.id in {info.id for info in list_runs(settings.runs_folder)}


def test_a_run_is_found_by_id_part_last_and_folder(settings: Settings, run: Run) -> None:
    for which in ("last", run.id, run.id[:-1], "big-pi", str(run.folder)):
        assert run.id == read_run(settings.runs_folder, which).id


def test_what_names_no_run_or_several_is_refused(settings: Settings, run: Run) -> None:
    with pytest.raises(ConfigError, match="there is no run 'nope'"):
        read_run(settings.runs_folder, "nope")
    Run.create(settings, "big-pi")
    with pytest.raises(ConfigError, match="several runs are called like 'big-pi'"):
        read_run(settings.runs_folder, "big-pi")
    with pytest.raises(ConfigError, match="there are no runs"):
        read_run(settings.home / "none")


# --- logs


def test_a_log_keeps_time_source_and_stream_of_each_line(run: Run) -> None:
    log = run.log("m0")
    log.write([record(b"one\ntw", time=1.25), record(b"err\n", "w1", "e", time=2), record(b"o\nthree", time=3)])
    expected = "1.250000 w0 o one\n2.000000 w1 e err\n1.250000 w0 o two\n"
    assert expected == (run.folder / "logs/m0.log").read_text()
    log.finish()
    assert expected + "3.000000 w0 o three\n" == (run.folder / "logs/m0.log").read_text()
    assert log is run.log("m0")


@given(st.lists(st.tuples(st.sampled_from(["w0", "w1"]), st.binary(min_size=1, max_size=6)), max_size=30))
def test_lines_are_the_output_however_it_was_cut(pieces: list[tuple[str, bytes]]) -> None:
    lines = Lines()
    got = {"w0": b"", "w1": b""}
    blocks = [*lines.feed(record(data, source) for source, data in pieces), *lines.rest()]
    for _, source, _, block in blocks:
        assert block.endswith(b"\n")
        got[source] += block
    for source, data in got.items():
        sent = b"".join(piece for name, piece in pieces if name == source)
        assert data == (sent if not sent or sent.endswith(b"\n") else sent + b"\n")
    assert not lines.waiting()


def test_a_line_without_an_end_is_cut_and_nothing_of_it_lost() -> None:
    lines = Lines()
    blocks = list(lines.feed([record(b"x" * MAX_LINE), record(b"y\n")]))
    assert [b"x" * MAX_LINE + b"\n", b"y\n"] == [block for *_, block in blocks]


def test_what_is_not_utf_8_is_kept_as_it_came(settings: Settings, run: Run) -> None:
    run.log("m0").write([record(b"\xff\x1b[31m \r\x00\n")])
    assert [b"\xff\x1b[31m \r\x00"] == [line.text for line in follow_logs(read_run(settings.runs_folder))]


def test_logs_of_machines_are_merged_by_time(settings: Settings, run: Run) -> None:
    run.log("m0").write([record(b"a\n", time=1), record(b"c\n", time=3)])
    run.log("m1").write([record(b"b\n", time=2), record(b"d\n", time=4)])
    info = read_run(settings.runs_folder)
    assert [b"a", b"b", b"c", b"d"] == [line.text for line in follow_logs(info)]
    assert [("m1", "w0", "o", b"b"), ("m1", "w0", "o", b"d")] == texts(follow_logs(info, "m1"))


def test_following_shows_what_is_written_meanwhile_and_ends_with_the_run(settings: Settings, run: Run) -> None:
    run.log("m0").write([record(b"before\n")])
    rounds = 0

    def sleep(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            run.log("m0").write([record(b"half")])
            run.log("m1").write([record(b"another machine\n", time=2)])
        elif rounds == 2:
            run.log("m0").write([record(b" whole\n", time=3)])
        else:
            run.log("m0").write([record(b"the last line\n", time=4)])
            run.finish(0)

    lines = follow_logs(read_run(settings.runs_folder), follow=True, sleep=sleep)
    assert [b"before", b"another machine", b"half whole", b"the last line"] == [line.text for line in lines]


# --- when the disk fails


def test_an_unwritable_home_is_said_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said: list[str] = []
    run = Run.create(Settings(home=tmp_path / "file"), "x", warn=said.append)
    try:
        assert len(said) == 1
        assert f"cannot write to {tmp_path}/file/runs: Not a directory; this run is kept in {run.folder}" == said[0]
        run.event("x")
        assert run.id == read_run(tmp_path, str(run.folder)).id
    finally:
        import shutil

        shutil.rmtree(run.folder.parent)


def test_a_full_disk_is_said_once_and_the_run_goes_on(settings: Settings) -> None:
    said: list[str] = []
    run = Run.create(settings, "x", warn=said.append)
    log = run.log("m0")
    log.write([record(b"kept\n")])
    with _full_disk(run.folder / "logs/m0.log"):
        log.write([record(b"not kept\n")])
        log.write([record(b"nor this\n")])
    log.write([record(b"kept again\n")])
    assert [f"cannot write to {run.folder}: {os.strerror(errno.EFBIG)}; the run goes on, its record has gaps"] == said
    kept = texts(follow_logs(run.info))
    assert ("m0", "w0", "o", b"kept") == kept[0]
    assert ("m0", "w0", "o", b"kept again") == kept[-1]
    assert any(
        source == "bigm" and b"bytes of the log could not be written here" in text for _, source, _, text in kept
    )


class _full_disk:
    """Makes this process's files end where *path* ends now: the kernel refuses the next byte, as a full disk does."""

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size

    def __enter__(self) -> None:
        import signal

        self._handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self._limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._size, self._limit[1]))

    def __exit__(self, *exc: object) -> None:
        import signal

        resource.setrlimit(resource.RLIMIT_FSIZE, self._limit)
        signal.signal(signal.SIGXFSZ, self._handler)
