"""Hosts that cannot be used: each is told with what ssh said and what to try, and the others are used."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sshd
from bigm.errors import BootError, CapacityError, CredentialsError, SystemFault
from bigm.systems.ssh.system import Ssh
from interpreters import find_python
from launching import launch
from waiting import eventually

pytestmark = pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)


@pytest.fixture(scope="module")
def rig() -> Iterator[sshd.Rig]:
    with sshd.Rig() as rig:
        rig.add("good")
        rig.add("stranger", known=False)
        rig.add("locked", settings={"AuthorizedKeysFile": "none", "PasswordAuthentication": "yes"})
        rig.add("refusing").stop()
        rig.add("bare", python="")
        old = rig.add("old", python="3.8" if find_python("3.8") else "")
        if not find_python("3.8"):  # a stand-in, which answers as a Python 3.8 would to what it is asked first
            old.command("python3", "exit 77")
        rig.add("chatty").home.joinpath(".bashrc").write_text("echo welcome; echo BIGM-not; echo trouble >&2\n")
        rig.add("closed", settings={"AllowStreamLocalForwarding": "no"})
        yield rig


@pytest.mark.parametrize(
    ("host", "kind", "message"),
    [
        (
            "stranger",
            CredentialsError,
            r"cannot reach stranger: .*Host key verification failed; look at its key: run `ssh -F ",
        ),
        (
            "locked",
            CredentialsError,
            r"cannot reach locked: .*Permission denied.*`ssh .* true` must work",
        ),
        ("refusing", BootError, r"cannot reach refusing: .*Connection refused.*try `ssh -F \S+ refusing`"),
        ("closed", BootError, r"the sshd of closed forwards no connections to /.*/s; its AllowStreamLocalForwarding"),
        ("no-such-host.invalid", BootError, r"cannot reach no-such-host\.invalid: .*Could not resolve hostname"),
        ("bare", BootError, r"bare has no Python 3\.9 or later with ssl: tried: python3; install one, or name it"),
        (
            "old",
            BootError,
            r"old has no Python 3\.9 or later with ssl: python3 is older than",
        ),
    ],
)
def test_a_host_that_cannot_be_used_is_named_with_what_was_said_and_what_to_try(
    rig: sshd.Rig, host: str, kind: type[SystemFault], message: str
) -> None:
    system = Ssh(hosts=[host], config=rig.config, python="python3")  # the one on PATH: not this computer's others
    try:
        launched = launch(system, 1)
        assert () == launched.instances
        [failure] = launched.failures
        assert kind is type(failure)
        with pytest.raises(kind, match=message):
            raise failure
    finally:
        system.close()
    assert host not in rig.hosts or rig[host].is_empty()


def test_machines_of_hosts_that_fail_go_to_the_others_and_the_failures_are_told(rig: sshd.Rig) -> None:
    system = Ssh(hosts=["refusing*2", "good*3", "stranger*2"], config=rig.config)
    try:
        launched = launch(system, 3)
        assert ["ssh:good#"] * 3 == [one.locator[:9] for one in launched.instances]
        assert {"refusing", "stranger"} == {str(failure).split(":")[0].split()[-1] for failure in launched.failures}
    finally:
        system.close()
    assert rig["good"].is_empty()


def test_more_machines_than_hosts_take_is_said_and_the_rest_are_started(rig: sshd.Rig) -> None:
    system = Ssh(hosts="good*2", config=rig.config)
    try:
        launched = launch(system, 3)
        assert 2 == len(launched.instances)
        with pytest.raises(CapacityError, match=r"all 2 places on the hosts are taken; host\*4 lets a host take four"):
            raise launched.failures[0]
    finally:
        system.close()


def test_what_a_login_prints_is_not_taken_for_an_answer(rig: sshd.Rig) -> None:
    system = Ssh(hosts="chatty", config=rig.config)
    try:
        assert 1 == len(launch(system, 1).instances)
    finally:
        system.close()


def test_an_interpreter_may_be_named(rig: sshd.Rig) -> None:
    python = rig["good"].folder / "bin" / "python3"
    system = Ssh(hosts="bare", config=rig.config, python=str(python))
    try:
        assert 1 == len(launch(system, 1).instances)
    finally:
        system.close()


def test_an_interpreter_may_be_named_as_it_lies_in_the_home_there(rig: sshd.Rig) -> None:
    (rig["bare"].home / "own").mkdir()
    (rig["bare"].home / "own" / "python").symlink_to(rig["good"].folder / "bin" / "python3")
    system = Ssh(hosts="bare", config=rig.config, python="~/own/python")
    try:
        assert 1 == len(launch(system, 1).instances)
    finally:
        system.close()
        shutil.rmtree(rig["bare"].home / "own")


@contextlib.contextmanager
def silent(rig: sshd.Rig, name: str, **client: str) -> Iterator[None]:
    """A host that lets itself be dialled and never says a word, as far as ssh can tell one without a route to it."""
    with socket.create_server(("127.0.0.1", 0)) as server, open(rig.config, "a") as config:
        lines = {"HostName": "127.0.0.1", "Port": str(server.getsockname()[1]), **client}
        config.write(f"Host {name}\n" + "".join(f"  {key} {value}\n" for key, value in lines.items()))
        config.flush()
        yield


def dialling(name: str) -> list[str]:
    """The command lines of each ssh that dials a host."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text().split("\0")
            if words[0] == "ssh" and name in words:
                found.append(" ".join(words))
    return found


def test_a_host_that_says_nothing_is_dialled_once_for_as_long_as_the_users_configuration_says(rig: sshd.Rig) -> None:
    with silent(rig, "mute", ConnectTimeout="2"):
        system = Ssh(hosts=["mute", "good"], config=rig.config)
        try:
            since = time.monotonic()
            launched = launch(system, 2)
            took = time.monotonic() - since
        finally:
            system.close()
    assert 1 == len(launched.instances)
    assert "cannot reach mute: " in str(launched.failures[0])
    assert 1.5 < took < 3.9, "a second attempt would take as long again"


def test_a_launch_says_which_hosts_do_not_answer_and_its_end_is_theirs(rig: sshd.Rig) -> None:
    with silent(rig, "dumb"):
        system = Ssh(hosts=["dumb", "good"], config=rig.config)
        launching = threading.Thread(target=launch, args=(system, 2))
        launching.start()
        try:
            said = "connecting to 2 hosts: dumb does not answer yet"
            eventually(lambda: said == system.waits_for(), 20.0, system.waits_for)
            [command] = dialling("dumb")
            assert "ConnectTimeout=10 " in command
            assert "ConnectionAttempts=1 " in command
        finally:
            system.close()
        launching.join(5.0)
        assert not launching.is_alive()
        assert [] == dialling("dumb")
        assert "" == system.waits_for()
