"""Agents as processes: who may drive them, how workers die, and that nothing outlives a machine."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time

import pytest
from machines import Machine, Place, alive, all_gone
from test_port import HELLO, client_hello

from bigm.authority import Authority
from bigm.bootstrap.agent import agent_command
from bigm.bootstrap.enrol import open_agent
from bigm.bootstrap.records import ENDING, EXITED, SERVING, Launch
from bigm.errors import ConfigError, IdentityError, MayHaveRun, NotAllowed, Unreachable, WireError
from bigm.rpc.client import Client
from bigm.rpc.identity import Identity
from waiting import eventually

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def place():
    with Place() as place:
        yield place


@pytest.fixture(scope="module")
def shared(place):
    """A machine for tests that leave it as it was."""
    machine = place.machine("shared")
    machine.start_workers()
    machine.until(SERVING)
    return machine


@pytest.fixture
def machine(place):
    """A machine of the test's own."""
    machine = place.machine(f"m{len(place.machines)}")
    yield machine
    machine.close()


# a life


def test_a_machine_says_what_it_is(shared):
    info = shared.info
    assert info.identity == shared.credentials.identity.uri
    assert info.pid == shared.pid
    assert 1 <= info.cpus <= (os.cpu_count() or 1)
    assert info.memory > 1 << 28
    assert info.python == ".".join(map(str, sys.version_info[:3]))


def test_a_port_that_is_taken_is_said_in_one_line():
    authority = Authority()
    bootstrap = authority.bootstrap("l0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        launch = Launch(
            cluster=authority.cluster,
            launch="l0",
            ca=bootstrap.ca.decode(),
            cert=bootstrap.cert.decode(),
            key=bootstrap.key.decode(),
            port=port,
        )
        command = agent_command(sys.executable)
        agent = subprocess.run(command, input=launch.to_json() + "\n", capture_output=True, text=True, timeout=30)
    said = f"the agent cannot listen on 127.0.0.1, port {port}: Address already in use\n"
    assert (agent.returncode, agent.stdout, agent.stderr) == (1, "", said)


def test_a_sample_counts_the_worker(shared):
    sample = shared.client.call("Agent.sample")
    assert 0 < sample.memory.used < sample.memory.limit <= sample.memory.total
    assert sample.disk.free > 0
    assert sample.uptime > 0
    if sys.platform == "linux":
        assert sample.workers[0].rss > 1 << 20


def test_a_worker_has_its_arguments_environment_and_folder(machine, tmp_path):
    spec = machine.spec(argv=("prog", "--x"), cwd=str(tmp_path), env={"GREETING": "hello"})
    worker = machine.start_workers(spec)
    identity, pid, *rest = worker.call("Tiny.whoami")
    assert identity == spec.identity
    assert pid == machine.until(SERVING).workers[0].pid
    assert rest == [("prog", "--x"), str(tmp_path), "hello"]


def test_calls_made_while_a_worker_starts_are_answered_and_each_worker_by_itself(machine):
    machine.start_workers(*(machine.spec(proc, main="slow import") for proc in range(3)))
    pids = {machine.worker(proc).call("Tiny.whoami")[1] for proc in range(3)}
    assert len(pids) == 3
    assert {status.pid for status in machine.watch().workers} == pids


def test_a_worker_that_cannot_be_started_is_refused_by_name(machine):
    with pytest.raises(ConfigError, match="/nowhere: No such file or directory"):
        machine.start_workers(machine.spec(cwd="/nowhere"))
    machine.start_workers()


# logs


def collect(machine: Machine, start: int = 0) -> tuple[bytes, bytes]:
    """Both streams of worker 0 up to the final offset, read as the driver does: by offset, with a long poll."""
    offset, out, err = start, b"", b""
    while True:
        report = machine.watch(offset, 1 << 62, 5.0)
        assert report.dropped_bytes == 0
        for record in report.records:
            assert record.offset >= offset
            offset = record.offset + len(record.data)
            if record.source == "w0":
                out, err = (out + record.data, err) if record.stream == "o" else (out, err + record.data)
        if report.drained and offset >= report.end_offset:
            return out, err


def test_a_flood_of_two_hundred_thousand_lines_arrives_exact_to_the_byte(machine):
    worker = machine.start_workers()
    call = worker.submit("Tiny.flood", (200_000,))
    ended = machine.dial().submit("Agent.ping")
    call.result(30.0)
    ended.result(5.0)
    final = machine.client.call("Agent.shutdown", (2.0,))
    out, err = collect(machine)
    assert out == b"".join(b"line %d\n" % number for number in range(0, 200_000, 2))
    assert err == b"".join(b"line %d\n" % number for number in range(1, 200_000, 2))
    assert final.drained


def test_reading_again_from_any_offset_gives_the_same_bytes(shared):
    start = shared.watch().end_offset
    shared.worker().call("Tiny.print", ("abcdefghij",))
    eventually(lambda: shared.watch().end_offset >= start + 10)
    for cut in range(10):
        (record,) = shared.watch(start + cut).records
        assert record.data == b"abcdefghij"[cut:]


def test_the_last_words_of_a_worker_are_there_before_the_end(machine):
    worker = machine.start_workers()
    with pytest.raises(WireError):
        worker.call("Tiny.exit", (3,))
    report = machine.client.call("Agent.shutdown", (1.0,))
    assert report.drained
    assert collect(machine) == (b"last words\n", b"")


def test_output_held_open_by_a_daemon_without_name_or_parent_does_not_hold_up_the_end(machine):
    """It is still among the agent's descendants, so it is ended too."""
    worker = machine.start_workers()
    daemon = worker.call("Tiny.hold_output_open")
    started = time.monotonic()
    assert machine.client.call("Agent.shutdown", (1.0,)).drained
    assert time.monotonic() - started < 2.0
    all_gone(daemon)


def test_a_full_disk_for_logs_is_said_and_stops_no_worker(place):
    """RLIMIT_FSIZE refuses as a full disk does; the agent's limit is the tests' own, set around its start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        machine = place.machine(f"m{len(place.machines)}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    try:
        worker = machine.start_workers()
        worker.call("Tiny.flood", (100_000,))
        eventually(lambda: machine.watch(1 << 62).end_offset > 1_000_000)
        report = machine.watch(0)
        said = b""
        while report.next_offset < report.end_offset:
            said += b"".join(record.data for record in report.records if record.source == "agent")
            report = machine.watch(report.next_offset)
        assert worker.call("Tiny.whoami")
        data = b"".join(record.data for record in report.records if record.source == "agent")
        assert b"too large" in said + data or report.dropped_bytes > 0
    finally:
        machine.close()


# deaths of workers


@pytest.mark.parametrize(
    ("method", "args", "cause", "text"),
    [
        ("exit", (3,), "exit", "exited with code 3"),
        ("exit", (0,), "exit", "exited with code 0"),
        ("segfault", (), "signal", "killed by signal 11 (SIGSEGV)"),
        ("eat", (1 << 30,), "exit", "exited with code 1"),
    ],
)
def test_a_worker_that_dies_in_a_call_is_explained_and_the_call_fails_at_once(machine, method, args, cause, text):
    worker = machine.start_workers()
    worker.call("Tiny.whoami")
    started = time.monotonic()
    with pytest.raises(MayHaveRun):
        worker.call(f"Tiny.{method}", args, timeout=30.0)
    report = machine.until(EXITED)
    assert time.monotonic() - started < 2.0
    (status,) = report.workers
    assert status.cause == cause
    assert text in status.text
    assert report.state == SERVING, "the agent lives on and answers"


def test_a_worker_killed_from_outside_is_told_at_once(machine):
    machine.start_workers()
    (status,) = machine.until(SERVING).workers
    os.kill(status.pid, signal.SIGKILL)
    (status,) = machine.until(EXITED).workers
    assert (status.cause, status.signal, status.oom) == ("signal", 9, False)
    assert "killed by signal 9 (SIGKILL)" in status.text


def test_an_import_that_fails_carries_its_traceback(machine):
    machine.start_workers(machine.spec(main="fails to import"))
    (status,) = machine.until(EXITED).workers
    assert (status.cause, status.exit_code) == ("import", 1)
    assert "ModuleNotFoundError" in status.error
    assert status.text.endswith("could not import the program: ModuleNotFoundError: No module named 'gone'")


def test_a_worker_that_ignores_the_request_to_end_is_killed_after_the_grace(machine):
    machine.start_workers(machine.spec(main="ignores SIGTERM"))
    machine.until(SERVING)
    started = time.monotonic()
    report = machine.client.call("Agent.shutdown", (0.3,))
    assert 0.3 <= time.monotonic() - started < 2.0
    assert report.workers[0].signal == signal.SIGKILL
    assert "did not end in the time it was given" in report.workers[0].text


@pytest.mark.root
def test_a_worker_that_runs_out_of_memory_is_told_from_one_that_was_killed(place):
    """A real kill by the kernel, in a memory cgroup of the test's own (v1 or v2, whichever is there)."""
    folder = memory_cgroup("bigm-test-oom", 192 << 20)
    machine = place.machine(f"m{len(place.machines)}")
    try:
        (folder / "cgroup.procs").write_text(str(machine.pid))
        worker = machine.start_workers()
        with pytest.raises(MayHaveRun):
            worker.call("Tiny.devour", timeout=60.0)
        (status,) = machine.until(EXITED).workers
        assert (status.cause, status.oom) == ("memory", True)
        assert "out of memory" in status.text
        machine.client.call("Agent.ping", timeout=5.0)
    finally:
        machine.close()
        eventually(lambda: not (folder / "cgroup.procs").read_text().strip())
        folder.rmdir()


def memory_cgroup(name: str, limit: int):
    """A new memory cgroup below the root."""
    from pathlib import Path

    v2, v1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
    if (v1 / "memory.limit_in_bytes").exists():
        folder = v1 / name
        folder.mkdir(exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(str(limit))
        return folder
    if "memory" not in (v2 / "cgroup.subtree_control").read_text().split():
        pytest.skip("no memory cgroup can be made here")
    folder = v2 / name
    folder.mkdir(exist_ok=True)
    (folder / "memory.max").write_text(str(limit))
    (folder / "memory.swap.max").write_text("0")
    return folder


# nothing survives


@LINUX
@pytest.mark.parametrize("end", ["shutdown", "agent killed", "agent told to end", "driver gone", "lease lost"])
def test_no_daemon_survives_its_machine(place, end):
    lease = end == "lease lost"
    name = f"m{len(place.machines)}"
    machine = place.machine(name, enrol=not lease, parent_pipe=not lease, local=not lease)
    if lease:
        machine.enrol()  # the first keepalive, which replaces the time to be leased in, comes when all is set
    worker = machine.start_workers()
    pids = [worker.call("Tiny.whoami")[1], *worker.call("Tiny.daemons")]
    assert all(alive(pid) for pid in pids)
    if end == "shutdown":
        assert machine.client.call("Agent.shutdown", (1.0,)).drained
        machine.client.call("Agent.exit")
    elif end == "agent killed":
        os.kill(machine.pid, signal.SIGKILL)
    elif end == "agent told to end":
        os.kill(machine.pid, signal.SIGTERM)
    elif end == "driver gone":
        machine.process.stdin.close()
    else:
        machine.client.call("Agent.keepalive", (0.3,))
    machine.ended()
    if end == "agent killed":
        os.kill(pids.pop(), signal.SIGKILL)  # it has no environment, and nobody is left who knows its ancestry
    all_gone(*pids)
    eventually(lambda: not os.path.exists(machine.info.folder))
    machine.close()


def test_without_a_parent_pipe_a_closed_standard_input_ends_nothing(place):
    machine = place.machine(f"m{len(place.machines)}", parent_pipe=False)
    machine.process.stdin.close()
    machine.client.call("Agent.ping", timeout=5.0)
    machine.client.call("Agent.release")
    machine.ended()
    machine.close()


def test_a_machine_nobody_enrols_ends_after_its_first_lease(place):
    machine = place.machine("never", enrol=False, first_lease=0.5, parent_pipe=False)
    assert machine.ended() == 0
    machine.close()


def test_a_lifetime_ends_a_leased_machine(place):
    machine = place.machine(f"m{len(place.machines)}", lifetime=0.5, linger=0.1, parent_pipe=False)
    assert machine.ended() == 0
    machine.close()


# who is who


def test_a_client_without_a_certificate_gets_nothing(shared):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["bigm-rpc/1"])
    with socket.create_connection(("127.0.0.1", shared.port), 5.0) as raw:
        tls = context.wrap_socket(raw, server_hostname="machine.x")
        with tls, contextlib.suppress(ssl.SSLError, ConnectionError):
            assert tls.recv(1) == b"", "it was greeted"


def test_a_certificate_of_another_clusters_authority_is_refused_by_both_sides(shared):
    other = Authority(cluster=shared.place.authority.cluster)
    with pytest.raises(IdentityError):
        shared.dial(other.driver()).call("Agent.ping", timeout=10.0)


def test_a_name_of_another_cluster_is_refused_even_under_our_authority(shared):
    """As if the authority had made a mistake: the name counts as well as the signature."""
    authority = shared.place.authority
    authority.cluster, cluster = "ffffffffffff", authority.cluster
    try:
        stranger = authority.driver()
    finally:
        authority.cluster = cluster
    with pytest.raises((IdentityError, Unreachable)):
        shared.dial(stranger).call("Agent.ping", timeout=10.0)


def test_an_expired_certificate_is_refused_by_the_agent_and_by_the_driver(place):
    import datetime

    past = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=30)
    with Place(Authority(place.authority.cluster, lifetime=1.0, now=past)) as old:
        machine = old.machine("m0", enrol=False)
        with pytest.raises((IdentityError, Unreachable)) as info:
            machine.enrol()
        assert "expired" in str(info.value)


def test_the_bootstrap_certificate_is_good_for_nothing_after_enrolment(shared):
    with pytest.raises(IdentityError):
        shared.dial(expected=shared.bootstrap.identity).call("Agent.ping", timeout=10.0)
    with pytest.raises(NotAllowed):
        shared.dial(shared.bootstrap).call("Agent.ping", timeout=10.0)


def test_a_machines_certificate_drives_neither_another_machine_nor_itself(place, shared):
    other = place.authority.machine("m77")
    for credentials in (other, shared.credentials, place.authority.worker("shared", 0)):
        client = shared.dial(credentials)
        assert client.call("Agent.ping", timeout=10.0) > 0
        for method, args in (("shutdown", (0.0,)), ("start_workers", ([],)), ("keepalive", (1.0,)), ("exit", ())):
            with pytest.raises(NotAllowed):
                client.call(f"Agent.{method}", args, timeout=10.0)


def test_a_machine_that_answers_at_another_machines_address_is_recognised(place, shared):
    expected = Identity(place.authority.cluster, "machine", "m78")
    with pytest.raises(IdentityError, match=r"machine/m78.*machine/shared"):
        shared.dial(expected=expected).call("Agent.ping", timeout=10.0)


def test_a_worker_that_answers_for_another_machines_worker_is_recognised(place, shared):
    expected = Identity(place.authority.cluster, "worker", "m78", 0)
    with pytest.raises(IdentityError):
        shared.dial(expected=expected).call("Tiny.whoami", timeout=10.0)


def test_a_machine_of_another_launch_is_not_enrolled_though_its_authority_is_ours(place):
    machine = place.machine(f"m{len(place.machines)}", enrol=False)
    machine.bootstrap = place.authority.bootstrap(machine.launch.launch)  # same name, another key
    with pytest.raises(IdentityError, match="another certificate than the one it was launched with"):
        machine.enrol()
    machine.close()


def test_a_second_enrolment_is_refused_whoever_asks(place, shared):
    other = place.authority.machine("m79")
    with pytest.raises(NotAllowed, match="enrolled already"):
        shared.client.call("Agent.enrol", (other.identity.uri, other.cert, other.key))
    with pytest.raises(IdentityError):
        open_agent(shared.connect, place.driver, other, shared.bootstrap, name="m79")


def test_an_enrolment_whose_reply_was_lost_is_settled_under_the_machines_name(place, shared):
    """As the driver does it again: the agent is found to be what it was to become."""
    client, info = open_agent(shared.connect, place.driver, shared.credentials, shared.bootstrap, name="shared")
    assert info.identity == shared.credentials.identity.uri
    client.close()


def test_nothing_but_enrolment_is_answered_before_enrolment(place):
    machine = place.machine(f"m{len(place.machines)}", enrol=False)
    client = machine.dial(expected=machine.bootstrap.identity)
    assert client.call("Agent.ping") >= 0
    for method, args in (("start_workers", ([],)), ("keepalive", (60.0,)), ("watch", (0, 0, 0.0)), ("exit", ())):
        with pytest.raises(NotAllowed, match="not enrolled"):
            client.call(f"Agent.{method}", args)
    machine.close()


# what comes to the port


def test_garbage_half_hellos_and_silence_do_not_keep_a_good_client_waiting(shared):
    agent_hello = client_hello(shared.credentials.identity.server_name)
    worker_hello = client_hello(Identity(shared.place.authority.cluster, "worker", "shared", 0).server_name)
    bad = [b"", b"\x16", HELLO[:60], os.urandom(200), b"GET / HTTP/1.1\r\n\r\n", agent_hello, worker_hello]
    sockets = []
    for data in bad * 20:
        connection = shared.connect(5.0)
        connection.sendall(data)
        sockets.append(connection)
    latency = []
    for _ in range(5):
        started = time.monotonic()
        client = shared.dial()
        client.call("Agent.ping", timeout=5.0)
        worker = shared.worker()
        worker.call("Tiny.whoami", timeout=5.0)
        latency.append(time.monotonic() - started)
        client.close()
        worker.close()
    assert sorted(latency)[2] < 1.0
    for connection in sockets:
        connection.close()


@LINUX
def test_an_agent_out_of_descriptors_says_so_and_goes_on_when_there_are_some_again(machine):
    used = len(os.listdir(f"/proc/{machine.pid}/fd"))
    limits = resource.prlimit(machine.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(machine.pid, resource.RLIMIT_NOFILE, (used + 4, limits[1]))
    silent = [machine.connect(5.0) for _ in range(10)]
    eventually(lambda: b"Too many open files" in b"".join(r.data for r in machine.watch().records))
    for connection in silent:
        connection.close()
    machine.dial().call("Agent.ping", timeout=10.0)


@LINUX
def test_an_idle_machine_rests(place):
    """Few threads, and no wakeups to speak of."""
    machine = place.machine(f"m{len(place.machines)}")
    machine.start_workers()
    machine.until(SERVING)
    machine.client.call("Agent.ping")

    def switches() -> int:
        total = 0
        for task in os.listdir(f"/proc/{machine.pid}/task"):
            with open(f"/proc/{machine.pid}/task/{task}/status") as status:
                total += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
        return total

    names = set()
    for task in os.listdir(f"/proc/{machine.pid}/task"):
        with open(f"/proc/{machine.pid}/task/{task}/comm") as comm:
            names.add(comm.read().strip())
    assert len(os.listdir(f"/proc/{machine.pid}/task")) <= 8, names

    def rests() -> bool:
        before = switches()
        with pytest.raises(subprocess.TimeoutExpired):
            machine.process.wait(0.5)
        return switches() - before <= 4

    eventually(rests, 10.0)
    machine.close()


def test_a_driver_that_closes_and_comes_back_finds_its_machine(place, shared):
    with_old = shared.client.call("Agent.ping")
    again = Client(shared.connect, place.driver, shared.credentials.identity, name="again")
    assert again.call("Agent.ping") >= with_old
    again.close()
    assert shared.watch().state != ENDING
