"""Worker processes, real ones, with this test as their agent and as their driver."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bigm.authority import Authority
from bigm.bootstrap.control import FAILED, AgentEnd
from bigm.bootstrap.records import SERVING, Main, WorkerSpec
from bigm.errors import Busy, NotAllowed, WireError
from bigm.rpc.client import Client
from bigm.rpc.tls import Credentials
from waiting import eventually

ROOT = Path(__file__).parents[2]
COMMAND = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bigm.worker.launcher import main; main(%d)"
SERVICE = """
import os, sys, threading, time
class Thing:
    def report(self):
        return sys.argv, sys.path[0], os.getcwd(), sys.stdin.read()
    def modules(self):
        return sorted(sys.modules)
    def names(self):
        return [thread.name for thread in threading.enumerate()]
    def busy(self):
        while True: pass
    def crash(self):
        import ctypes; ctypes.string_at(0)
    def leave(self):
        os._exit(7)
"""


class Running:
    """A worker process and the agent's end of its control channel."""

    def __init__(self, folder: Path, program: str, **spec: Any) -> None:
        path = folder / "prog.py"
        path.write_text(program)
        self.authority = Authority()
        credentials = self.authority.worker("m0", 0)
        self.identity = credentials.identity
        self.spec = WorkerSpec(
            proc=0,
            python=sys.executable,
            identity=credentials.identity.uri,
            ca=credentials.ca,
            cert=credentials.cert,
            key=credentials.key,
            main=Main("path", str(path), str(path)),
            argv=(str(path), "-x", "1"),
            sys_path=(str(folder), *sys.path),
        )
        self.spec = self.spec._replace(**spec)
        self.output = tempfile.TemporaryFile()
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", COMMAND % theirs.fileno()],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            cwd=folder,
            start_new_session=True,
        )
        theirs.close()
        self.agent = AgentEnd(ours)
        self.agent.start(self.spec, 10.0)
        self._clients: list[Client] = []

    def client(self, credentials: Credentials | None = None) -> Client:
        client = Client(
            self._connect, credentials or self.authority.driver(), self.identity, name="m0", dial_timeout=None
        )
        self._clients.append(client)
        return client

    def serving(self) -> Client:
        """A driver's client of it once it serves."""
        assert (SERVING, "") == self.hears(), self.said()
        return self.client()

    def hears(self) -> tuple[str, str]:
        """What the worker says next to its agent; ("", "") when it is gone."""
        said, open_ = self.agent.heard()
        while open_ and not said:
            assert select.select([self.agent], [], [], 20)[0], "the worker says nothing"
            said, open_ = self.agent.heard()
        return said[0] if said else ("", "")

    def said(self) -> str:
        self.output.seek(0)
        return self.output.read().decode()

    def ended(self) -> int:
        return self.process.wait(20)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.process.kill()
        self.process.wait()
        self.agent.close()
        self.output.close()

    def _connect(self, timeout: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        handed = self.agent.hand_over(theirs)
        theirs.close()
        if not handed:
            ours.close()
            raise ConnectionRefusedError("the worker is gone")
        return ours


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(program: str = SERVICE, **spec: Any) -> Running:
        running.append(Running(tmp_path, program, **spec))
        return running[-1]

    yield start
    for worker in running:
        worker.close()


def register(client: Client, cls: str, name: str = "Thing") -> None:
    """Register an instance of a class of the program, as the driver's pickle of it would look."""
    pickled = b"c__main__\n" + cls.encode() + b"\n)\x81."
    client.call("Supervisor.register", (name, pickled), timeout=20.0)


def test_it_looks_like_the_program_with_an_empty_standard_input(start: Callable[..., Running], tmp_path: Path):
    worker = start()
    client = worker.serving()
    register(client, "Thing")
    argv, first, cwd, stdin = client.call("Thing.report", timeout=20.0)
    assert [f"{tmp_path}/prog.py", "-x", "1"] == argv
    assert (str(tmp_path), str(tmp_path), "") == (first, cwd, stdin)


def test_its_start_imports_nothing_that_costs(start: Callable[..., Running]):
    client = start(SERVICE + "import bigm\nbigm.start()").serving()
    register(client, "Thing")
    costly = {"typer", "rich", "boto3", "requests", "yaml", "asyncio", "numpy", "cryptography", "bigm.cluster"}
    assert set() == costly & set(client.call("Thing.modules", timeout=20.0))
    assert all(name.startswith(("bigm-", "MainThread")) for name in client.call("Thing.names", timeout=20.0))


def test_it_answers_while_the_program_is_still_imported(start: Callable[..., Running], tmp_path: Path):
    os.mkfifo(tmp_path / "gate")
    worker = start(SERVICE + f"open({str(tmp_path / 'gate')!r}).read()")
    client = worker.client()
    assert worker.process.pid == client.call("Supervisor.getpid", timeout=20.0)
    registered = client.submit("Supervisor.register", ("Thing", b"c__main__\nThing\n)\x81."), timeout=20.0)
    assert client.call("Supervisor.ping", timeout=20.0) > 0
    assert not registered.done()  # the class is not there yet
    (tmp_path / "gate").write_text("")
    assert None is registered.result(20.0)
    assert (SERVING, "") == worker.hears()


def test_an_import_that_fails_is_told_and_ends_it(start: Callable[..., Running], tmp_path: Path):
    worker = start("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n1/0\n")
    state, text = worker.hears()
    assert (FAILED, 1) == (state, worker.ended())
    assert f"{tmp_path}/prog.py could not be imported: ZeroDivisionError: division by zero" in text


def test_an_unguarded_start_serves_and_never_returns(start: Callable[..., Running]):
    worker = start(SERVICE + "import bigm\nbigm.start(system='no such')\nprint('returned')\n")
    client = worker.serving()
    register(client, "Thing")
    assert client.call("Thing.modules", timeout=20.0)
    assert "" == worker.said()


def test_it_ends_at_once_with_its_agent_however_busy(start: Callable[..., Running]):
    worker = start()
    client = worker.serving()
    register(client, "Thing")
    client.submit("Thing.busy")
    client.call("Supervisor.ping", timeout=20.0)
    worker.agent.close()
    assert -signal.SIGKILL == worker.ended()
    assert "m0 ends: its agent is gone" in worker.said()


def test_it_ends_with_its_agent_during_the_import(start: Callable[..., Running], tmp_path: Path):
    os.mkfifo(tmp_path / "gate")
    worker = start(f"open({str(tmp_path / 'gate')!r}).read()")
    worker.client().call("Supervisor.ping", timeout=20.0)
    worker.agent.close()
    assert -signal.SIGKILL == worker.ended()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_ends_with_its_agent_while_it_holds_the_gil(tmp_path: Path):
    """The agent here is a process of its own that is killed; the program holds the GIL in one regular expression."""
    (tmp_path / "agent.py").write_text(
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "from test_launcher import Running\n"
        "worker = Running(Path(sys.argv[3]), Path(sys.argv[4]).read_text())\n"
        "worker.serving()\n"
        "print(worker.process.pid, flush=True)\n"
        "input()\n"
    )
    (tmp_path / "program.py").write_text(
        "import os, re, threading\n"
        "def hog():\n"
        f"    with open({str(tmp_path / 'gate')!r}) as gate: gate.read()\n"
        f"    open({str(tmp_path / 'hogging')!r}, 'w').close()\n"
        "    re.match('(a+)+$', 'a' * 64 + 'b')\n"
        "threading.Thread(target=hog).start()\n"
    )
    os.mkfifo(tmp_path / "gate")
    tests = Path(__file__).parent
    agent = subprocess.Popen(
        [sys.executable, "agent.py", str(tests), str(tests.parent), str(tmp_path), "program.py"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert agent.stdout
    with agent:
        pid = int(agent.stdout.readline())
        try:
            (tmp_path / "gate").write_text("")
            eventually((tmp_path / "hogging").exists, 20.0)
            agent.kill()
            eventually(lambda: not lives(pid), 20.0, "the worker outlived its agent")
        finally:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_ends_when_its_agent_falls_silent(start: Callable[..., Running]):
    worker = start(heartbeat_lost=0.3)
    assert -signal.SIGKILL == worker.ended()
    assert "m0 ends: its agent was not heard of for 0.3 s" in worker.said()


def test_it_ends_when_its_agent_falls_silent_and_reads_its_output_no_more(start: Callable[..., Running]):
    worker = start(
        "import fcntl, os\n"
        "read, write = os.pipe()\n"
        "os.dup2(write, 2)\n"
        "os.write(2, bytes(fcntl.fcntl(2, fcntl.F_GETPIPE_SZ)))\n",
        heartbeat_lost=0.3,
    )
    assert -signal.SIGKILL == worker.ended()


def test_it_ends_with_its_agent_though_its_output_is_closed(start: Callable[..., Running]):
    worker = start("import os; os.close(2)")
    worker.serving()
    worker.agent.close()
    assert -signal.SIGKILL == worker.ended()


def test_told_to_end_it_tears_down_and_does_not_wait_for_threads(start: Callable[..., Running]):
    worker = start(
        "import atexit, threading, time\n"
        "atexit.register(print, 'at exit')\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "class Thing:\n"
        "    def teardown(self): print('torn down')\n"
    )
    register(worker.serving(), "Thing")
    worker.process.terminate()
    assert 0 == worker.ended()
    assert "torn down\nat exit\n" == worker.said()


def test_an_interrupt_is_not_its_business(start: Callable[..., Running]):
    worker = start()
    client = worker.serving()
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.pid == client.call("Supervisor.getpid", timeout=20.0)


def test_a_segmentation_fault_shows_where(start: Callable[..., Running]):
    worker = start()
    client = worker.serving()
    register(client, "Thing")
    with pytest.raises(WireError):
        client.call("Thing.crash", timeout=20.0)
    assert -signal.SIGSEGV == worker.ended()
    assert "in crash" in worker.said()


def test_only_the_driver_drives_it(start: Callable[..., Running]):
    worker = start()
    driver = worker.serving()
    register(driver, "Thing")
    driver.call("Supervisor.setup", ("127.0.0.1:1/m0", "cluster"), timeout=20.0)
    authority = worker.authority
    for peer in (authority.machine("m1"), authority.worker("m1", 0)):
        client = worker.client(peer)
        assert client.call("Supervisor.ping", timeout=20.0) > 0
        assert client.call("Thing.modules", timeout=20.0)
        with pytest.raises(NotAllowed, match=r"machine/m1.* may not call Supervisor.register"):
            client.call("Supervisor.register", ("Other", b""), timeout=20.0)
    for peer in (authority.keeper(), authority.bootstrap("l0")):
        with pytest.raises(NotAllowed):
            worker.client(peer).call("Thing.modules", timeout=20.0)


def test_other_machines_are_put_off_until_the_driver_says_that_all_is_there(start: Callable[..., Running]):
    worker = start()
    driver, peer = worker.serving(), worker.client(worker.authority.worker("m1", 0))
    register(driver, "Thing")
    assert driver.call("Thing.modules", timeout=20.0)
    for method in ("Thing.modules", "Functions.run", "Other.method"):
        with pytest.raises(Busy, match="is still starting"):
            peer.call(method, timeout=20.0)
    driver.call("Supervisor.register", ("Thing", b"", True), timeout=20.0)
    assert peer.call("Thing.modules", timeout=20.0)


def test_what_pickles_of_its_main_module_is_the_programs(start: Callable[..., Running]):
    """`__main__` on a worker is the program, not the launcher."""
    client = start("class Thing:\n    def cls(self): return type(self)\n").serving()
    register(client, "Thing")
    future = client.submit("Thing.cls", timeout=20.0)
    with pytest.raises((pickle.UnpicklingError, ImportError, AttributeError), match=r"Thing|__bigm_main__"):
        future.result(20.0)  # this driver has another main module, and none of that name


def test_another_python_than_the_bundles_is_refused_before_the_program_is_imported(start: Callable[..., Running]):
    worker = start("import os; os._exit(9)", minor="3.1")
    state, text = worker.hears()
    assert state == FAILED
    assert "and the bundle is for 3.1" in text
    assert worker.ended() == 1


def test_it_reports_the_digest_of_the_bundle_it_runs(start: Callable[..., Running]):
    minor = "{}.{}".format(*sys.version_info)
    client = start(bundle="ab" * 32, minor=minor).serving()
    assert client.call("Supervisor.info").bundle == "ab" * 32
