"""Environments on a machine: a real pex unpacks itself, once for all who share a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from layers import greeting
from machines import Place, all_gone
from test_installer import extended, send

from bigm.bootstrap.venvs import VenvError, _hear
from interpreters import find_python
from waiting import eventually


@pytest.fixture(scope="module")
def layer(tmp_path_factory) -> dict[str, bytes]:
    return greeting(tmp_path_factory.mktemp("layer"))


@pytest.fixture
def place():
    with Place() as place:
        yield place


@pytest.fixture
def store(tmp_path) -> str:
    return str(tmp_path / "store")


def run(python: str, code: str) -> str:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout


NEWER = [pytest.param(minor, marks=pytest.mark.slow) for minor in ("3.11", "3.12", "3.13")]


@pytest.mark.parametrize("minor", ["3.10", *NEWER])
def test_an_environment_has_the_layer_and_the_interpreter_it_was_asked_for(place, store, layer, minor):
    python = find_python(minor)
    if not python:
        pytest.skip(f"no Python {minor} here")
    machine = extended(place.machine())
    machine.client.call("Installer.open", (store,))
    assert {} == machine.client.call("Installer.find_environment", ("key", python))
    made = machine.client.call("Installer.environment", (send(machine, layer), "key", python), timeout=60)
    assert made == machine.client.call("Installer.find_environment", ("key", python))
    assert made["python"].startswith(store)
    assert made["version"].startswith(f"{minor}.")
    assert made["stdlib"] == machine.client.call("Installer.stdlib", (python,))["stdlib"]
    assert made["site"] == [f"{store}/kept/{made['python'].split('/')[-3]}/lib/python{minor}/site-packages"]
    assert "hello\n" == run(made["python"], "import greeting; greeting.hello()")
    path = run(made["python"], "import sys; print(sys.path[1:])")
    assert f"{[*made['stdlib'], *made['site']]}\n" == path
    answer = subprocess.run([f"{os.path.dirname(made['python'])}/greeting-hello"], capture_output=True, timeout=30)
    assert answer.stdout == b"hello\n"


def test_what_left_its_group_and_holds_the_pipe_is_not_waited_for(tmp_path):
    """As a build that daemonises: it is the agent that ends it, by its mark, with the machine."""
    script = 'echo hello; setsid sleep 30 & echo $! > "$0.new"; mv "$0.new" "$0"; wait'
    process = subprocess.Popen(
        ["sh", "-c", script, str(tmp_path / "pid")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    eventually((tmp_path / "pid").exists)
    left = int((tmp_path / "pid").read_text())
    eventually(lambda: os.getsid(left) == left)
    since = time.monotonic()
    said = _hear(process, 0.1)
    assert ["hello", "it was not done within 0 s"] == said
    assert time.monotonic() - since < 20.0
    os.kill(left, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{left}/cwd"))


def test_what_a_user_has_set_does_not_reach_pex(place, store, layer, monkeypatch, tmp_path):
    (tmp_path / "greeting.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('the wrong one')")
    for name, value in {
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": "/nowhere",
        "PEX_PATH": "/nowhere",
        "PEX_MODULE": "nothing",
        "PEX_PYTHON": "/nowhere/python",
        "PEX_ROOT": str(tmp_path / "root"),
        "PIP_INDEX_URL": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    machine = extended(place.machine())
    machine.client.call("Installer.open", (store,))
    made = machine.client.call("Installer.environment", (send(machine, layer), "key", sys.executable), timeout=60)
    assert not (tmp_path / "root").exists()
    monkeypatch.undo()
    assert "hello\n" == run(made["python"], "import greeting; greeting.hello()")


def test_machines_that_share_a_store_make_an_environment_once(place, store, layer):
    machines = [extended(place.machine(f"m{n}")) for n in range(3)]
    for machine in machines:
        machine.client.call("Installer.open", (store,))
    digest = send(machines[0], layer)
    made: list[dict[str, object]] = []

    def make(machine) -> None:
        made.append(machine.client.call("Installer.environment", (digest, "key", sys.executable), timeout=60))

    threads = [threading.Thread(target=make, args=(machine,), name=f"test-{machine.name}") for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert made[0] == made[1] == made[2]
    assert 2 == len(os.listdir(f"{store}/kept"))  # it and its lock
    inode = os.stat(str(made[0]["python"])).st_ino
    machines[0].client.call("Installer.environment", (digest, "key", sys.executable), timeout=60)
    assert inode == os.stat(str(made[0]["python"])).st_ino


@pytest.mark.slow
def test_one_that_was_not_finished_is_made_again(place, store, layer):
    machine = extended(place.machine())
    machine.client.call("Installer.open", (store,))
    digest = send(machine, layer)
    made = machine.client.call("Installer.environment", (digest, "key", sys.executable), timeout=60)
    name = made["python"].split("/")[-3]
    machine.client.call("Agent.exit")
    machine.ended()
    with open(f"{store}/kept/{name}.lock", "w"):  # as whoever makes it leaves it until the end
        os.unlink(f"{made['site'][0]}/greeting/__init__.py")
    other = extended(place.machine("m1"))
    other.client.call("Installer.open", (store,))
    assert {} == other.client.call("Installer.find_environment", ("key", sys.executable))
    again = other.client.call("Installer.environment", (digest, "key", sys.executable), timeout=60)
    assert "hello\n" == run(again["python"], "import greeting; greeting.hello()")


def test_what_pex_says_is_in_the_error_and_nothing_is_left(place, store, layer):
    machine = extended(place.machine())
    machine.client.call("Installer.open", (store,))
    (wheel,) = [path for path in layer if path.startswith(".deps/")]
    digest = send(machine, {**layer, wheel: b"no wheel"})
    with pytest.raises(VenvError, match="pex cannot make an environment for") as caught:
        machine.client.call("Installer.environment", (digest, "key", sys.executable), timeout=60)
    assert "zip" in str(caught.value)
    assert {} == machine.client.call("Installer.find_environment", ("key", sys.executable))
    (user,) = [name for name in os.listdir(f"{store}/users") if "." not in name]
    assert [] == os.listdir(f"{store}/users/{user}")


def test_an_interpreter_that_is_not_there_is_named(place, store, layer):
    machine = extended(place.machine())
    machine.client.call("Installer.open", (store,))
    with pytest.raises(VenvError, match="no Python /nowhere/python3"):
        machine.client.call("Installer.environment", (send(machine, layer), "key", "/nowhere/python3"))


ORPHAN = """
import os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
folder = sys.argv[-1]
open({said!r} + "~", "w").write(str(os.getpid()) + " " + folder)
os.rename({said!r} + "~", {said!r})
while not os.path.exists({go!r}):
    time.sleep(0.01)
os.makedirs(folder + "/half")
os.unlink({said!r})
"""


HALF = """
import os, sys
folder = sys.argv[-1]
os.makedirs(folder + "/bin")
os.symlink(sys.executable, folder + "/bin/python")
print("out of wheels", flush=True)
os.kill(os.getpid(), 9)
"""


def test_half_an_environment_is_none(place, store, layer):
    """Whoever collects the exit code: an agent with workers collects all its children."""
    machine = extended(place.machine())
    machine.start_workers()
    machine.client.call("Installer.open", (store,))
    digest = send(machine, {**layer, "__main__.py": HALF.encode()})
    for _ in range(2):
        with pytest.raises(VenvError, match=f"pex cannot make an environment for {sys.executable}: out of wheels"):
            machine.client.call("Installer.environment", (digest, "key", sys.executable), timeout=60)
    assert {} == machine.client.call("Installer.find_environment", ("key", sys.executable))
    assert [] == [name for name in os.listdir(f"{store}/kept") if "." not in name]


def test_a_machine_that_ends_takes_along_what_makes_its_environment(place, store, layer, tmp_path):
    said, go = tmp_path / "said", tmp_path / "go"
    machine = extended(place.machine())
    machine.client.call("Installer.open", (store,))
    endless = send(machine, {**layer, "__main__.py": ORPHAN.format(said=str(said), go=str(go)).encode()})
    machine.client.submit("Installer.environment", (endless, "key", sys.executable))
    pid = int(eventually(lambda: said.exists() and said.read_text()).split()[0])
    machine.client.call("Agent.release")
    machine.ended()
    all_gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells who waits for a lock")
def test_what_a_killed_machine_was_making_has_ended_before_the_next_one_makes_it(place, store, layer, tmp_path):
    said, go = tmp_path / "said", tmp_path / "go"
    first = extended(place.machine("m0", folder=str(tmp_path / "m0")))
    first.client.call("Installer.open", (store,))
    orphan = send(first, {**layer, "__main__.py": ORPHAN.format(said=str(said), go=str(go)).encode()})
    first.client.submit("Installer.environment", (orphan, "key", sys.executable))
    folder = eventually(lambda: said.exists() and said.read_text()).split()[1]
    first.process.kill()
    first.ended()
    second = extended(place.machine("m1"))
    second.client.call("Installer.open", (store,))
    call = second.client.submit("Installer.environment", (send(second, layer), "key", sys.executable))
    making = os.stat(f"{folder}.making").st_ino

    def waits() -> bool:
        with open("/proc/locks") as locks:
            return any("->" in line and f":{making} " in line for line in locks)

    eventually(waits)
    go.touch()
    made = call.result(60)
    assert not said.exists()
    assert not os.path.exists(f"{folder}/half")
    assert "hello\n" == run(made["python"], "import greeting; greeting.hello()")
