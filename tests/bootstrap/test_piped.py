from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigm.bootstrap.piped import Commands
from proxies import proxy_command
from waiting import eventually


@pytest.fixture
def commands() -> Iterator[Commands]:
    made = Commands()
    yield made
    made.close()


def lives(pid: int) -> bool:
    """Whether there is such a process; a zombie counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def announced(path: Path) -> int:
    """The number that a command has written to a file."""
    return int(eventually(lambda: path.exists() and path.read_text().strip()))


def test_bytes_pass_in_both_directions_however_many(commands: Commands) -> None:
    data = os.urandom(1 << 20)
    with commands.dial("cat", 5.0) as sock:
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        received = b""
        while len(received) < len(data):
            received += sock.recv(1 << 16)
        sender.join()
    assert data == received


def test_a_command_leads_to_a_port(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with commands.dial(proxy_command("127.0.0.1", listener.getsockname()[1]), 5.0) as sock:
            there, _ = listener.accept()
            with there:
                sock.sendall(b"hello")
                assert b"hello" == there.recv(5)
                there.sendall(b"you")
                assert b"you" == sock.recv(3)
            assert b"" == sock.recv(1), "the command has ended with its connection, and so has ours"


@pytest.mark.parametrize("stubborn", [False, True], ids=["sleeping", "deaf to SIGTERM"])
def test_a_command_ends_with_its_connection_and_leaves_no_zombie(
    commands: Commands, tmp_path: Path, stubborn: bool
) -> None:
    """Though it reads nothing and would stay: the shell's child too."""
    here = tmp_path / "pid"
    trap = "trap '' TERM; " if stubborn else ""
    sock = commands.dial(f"sh -c {shlex.quote(f'{trap}echo $$ > {here}; sleep 1000; sleep 1000')}", 5.0)
    pid = announced(here)
    assert lives(pid)
    sock.close()
    eventually(lambda: not lives(pid))
    assert "" == commands.said("sleep 1000"), "what we have ended has not failed"


def test_what_a_command_failed_with_is_raised_by_the_next_attempt(commands: Commands) -> None:
    command = "sh -c 'echo first >&2; echo ssh: connect to host bastion port 22: No route to host >&2; exit 255'"
    with commands.dial(command, 5.0) as sock:
        assert b"" == sock.recv(1), "nothing can be said about the first but that it is over"
    with pytest.raises(ConnectionError, match=r"ended with code 255: first / ssh: connect to host bastion.*No route"):
        commands.dial(command, 5.0).close()


def test_a_command_that_works_again_is_waited_for_once(commands: Commands, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    command = f"sh -c 'test -e {flag} || exit 7; cat'"
    with commands.dial(command, 5.0) as sock:
        assert b"" == sock.recv(1)
    assert "the proxy command ended with code 7 and said nothing" == commands.said(command)
    flag.touch()
    with commands.dial(command, 5.0) as sock:
        sock.sendall(b"x")
        assert b"x" == sock.recv(1)
    assert "" == commands.said(command)


def test_no_command_is_left_at_the_end(tmp_path: Path) -> None:
    commands = Commands()
    paths = [tmp_path / str(number) for number in range(3)]
    socks = [commands.dial(f"sh -c 'echo $$ > {path}; sleep 1000'", 5.0) for path in paths]
    pids = [announced(path) for path in paths]
    commands.close()
    assert [] == [pid for pid in pids if lives(pid)]
    assert [b""] * 3 == [sock.recv(1) for sock in socks]
    for sock in socks:
        sock.close()


def test_a_command_dies_with_the_process_that_dialled_it(tmp_path: Path) -> None:
    """As `ssh -W` does: one that reads what it is to send."""
    here = tmp_path / "pid"
    code = (
        "import time; from bigm.bootstrap.piped import Commands\n"
        f"sock = Commands().dial('sh -c \"echo $$ > {here}; exec cat\"', 5.0); time.sleep(1000)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    try:
        pid = announced(here)
    finally:
        driver.kill()
        driver.wait()
    eventually(lambda: not lives(pid))


def test_descriptors_do_not_add_up(commands: Commands) -> None:
    def count() -> int:
        return len(os.listdir("/dev/fd"))

    commands.dial("cat", 5.0).close()
    eventually(lambda: "0 running" in repr(commands))
    before = count()
    for _ in range(10):
        commands.dial("cat", 5.0).close()
    eventually(lambda: "0 running" in repr(commands) and count() <= before)
