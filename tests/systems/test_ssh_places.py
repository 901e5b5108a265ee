"""Hosts that are not as one would like them, and agents there."""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import sshd
from bigm.bootstrap.records import Info
from bigm.errors import CredentialsError
from bigm.systems.base import ENDED, RUNNING
from bigm.systems.ssh.system import Ssh
from launching import Launching
from waiting import eventually

pytestmark = pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)


@pytest.fixture
def rig() -> Iterator[sshd.Rig]:
    with sshd.Rig() as rig:
        yield rig


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """A small file system of the test's own."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True, timeout=10)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=10)


def lives_and_ends(system: Ssh) -> Info:
    """One machine is started, asked what it is, and ended."""
    try:
        launching = Launching(system)
        [instance] = launching.launch(1).instances
        client, info = launching.enrol(instance)
        client.close()
        [described] = system.describe([instance.id])
        assert RUNNING == described.state
        assert {instance.id: None} == system.terminate([instance.id])
        return info
    finally:
        system.close()


def test_a_host_behind_another_is_reached_as_the_users_configuration_says(rig: sshd.Rig) -> None:
    rig.add("jump")
    rig.add("inner", ssh={"ProxyCommand": f"ssh -F {rig.config} -W %h:%p jump"})
    assert str(rig["inner"].tmp) in lives_and_ends(Ssh(hosts="inner", config=rig.config)).folder
    assert rig["jump"].is_empty()
    assert rig["inner"].is_empty()


def test_a_connection_that_the_user_has_is_used_and_outlives_us(rig: sshd.Rig) -> None:
    control = rig.folder / "mine"
    rig.add("alpha", ssh={"ControlPath": str(control)})
    ssh = ["ssh", "-F", rig.config]
    subprocess.run([*ssh, "-M", "-N", "-f", "alpha"], check=True, timeout=30, stderr=subprocess.DEVNULL)
    try:
        connections = rig["alpha"].log().count("Accepted publickey")
        lives_and_ends(Ssh(hosts="alpha", config=rig.config))
        assert connections == rig["alpha"].log().count("Accepted publickey")
        subprocess.run([*ssh, "-O", "check", "alpha"], check=True, timeout=30, capture_output=True)
    finally:
        subprocess.run([*ssh, "-O", "exit", "alpha"], check=True, timeout=30, capture_output=True)


@pytest.mark.root
def test_a_home_where_nothing_can_be_written_is_done_without(rig: sshd.Rig) -> None:
    with mounted(rig.folder / "ro", "ro,size=64k") as home:
        rig.add("alpha", home=home)
        lives_and_ends(Ssh(hosts="alpha", config=rig.config))
        assert rig["alpha"].is_empty()


@pytest.mark.root
def test_a_home_from_which_nothing_can_be_run_is_no_hindrance(rig: sshd.Rig) -> None:
    with mounted(rig.folder / "noexec", "noexec,size=64k") as home:
        rig.add("alpha", home=home)
        lives_and_ends(Ssh(hosts="alpha", config=rig.config))
        assert rig["alpha"].is_empty()


@pytest.mark.root
def test_a_host_whose_disk_is_full_says_so_and_has_no_machine(rig: sshd.Rig) -> None:
    """There is room for the folder of a machine, and for nothing in it."""
    with mounted(rig.folder / "full", "size=64k") as tmp:
        rig.add("alpha", tmp=tmp)
        system = Ssh(hosts="alpha", config=rig.config)
        try:
            launching = Launching(system)
            [instance] = launching.launch(1).instances
            fill(tmp)
            with contextlib.suppress(Exception):  # whatever a driver sees of an agent that dies meanwhile
                launching.enrol(instance)
            eventually(lambda: system.describe([instance.id])[0].state == ENDED, 20.0)
            assert "No space left on device" in system.describe([instance.id])[0].reason
            assert "No space left on device" in system.diagnose(instance)
        finally:
            system.close()
        os.unlink(tmp / "filler")
        assert rig["alpha"].is_empty()


@pytest.mark.root
def test_a_host_that_has_room_for_some_agents_starts_those_and_others_take_the_rest(rig: sshd.Rig) -> None:
    with mounted(rig.folder / "tiny", "nr_inodes=16") as tmp:  # three for each agent, and some for its folder
        rig.add("small", tmp=tmp)
        rig.add("big")
        system = Ssh(hosts="small*9,big*5", config=rig.config)
        try:
            launched = Launching(system).launch(6)
            assert 6 == len(launched.instances), launched.failures
            assert 0 < len([one for one in launched.instances if one.host == "small"]) < 5
            assert ["small started only"] == [str(failure)[:18] for failure in launched.failures]
        finally:
            system.close()
        assert rig["small"].is_empty()
    assert rig["big"].is_empty()


def fill(folder: Path) -> None:
    """Write until nothing more can be written."""
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


# --- how a user proves who they are, and says which hosts there are


def keygen(*words: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *words], check=True, timeout=30, stdin=subprocess.DEVNULL)


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent without keys, which ssh finds as a user's."""
    path = str(tmp_path_factory.mktemp("agent") / "a")
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        eventually(lambda: os.path.exists(path))
        yield
        process.terminate()


def with_passphrase(rig: sshd.Rig) -> Path:
    """A key with a passphrase, which a host `safe` takes and no other."""
    key = rig.folder / "safe_key"
    keygen("-t", "ed25519", "-N", "a secret", "-f", str(key))
    rig.add("safe", settings={"AuthorizedKeysFile": f"{key}.pub"}, ssh={"IdentityFile": str(key)})
    return key


@pytest.mark.slow
def test_a_key_with_a_passphrase_is_not_asked_for_and_its_hint_says_where_it_belongs(
    rig: sshd.Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with_passphrase(rig)
    system = Ssh(hosts="safe", config=rig.config)
    try:
        [failure] = Launching(system).launch(1).failures
        assert isinstance(failure, CredentialsError)
        assert "Permission denied" in str(failure)
        assert f"`ssh -F {rig.config} safe true` must work" in failure.hint
        assert "ssh-add" in failure.hint
    finally:
        system.close()


@pytest.mark.slow
@pytest.mark.usefixtures("agent")
def test_a_key_with_a_passphrase_is_used_from_an_agent(rig: sshd.Rig, tmp_path: Path) -> None:
    key = with_passphrase(rig)
    answer = tmp_path / "answer"
    answer.write_text("#!/bin/sh\necho a secret\n")
    answer.chmod(0o700)
    environ = {**os.environ, "SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
    subprocess.run(["ssh-add", "-q", str(key)], env=environ, check=True, timeout=30, stdin=subprocess.DEVNULL)
    assert str(rig["safe"].tmp) in lives_and_ends(Ssh(hosts="safe", config=rig.config)).folder
    assert rig["safe"].is_empty()


@pytest.mark.slow
def test_a_certificate_of_the_user_is_used(rig: sshd.Rig) -> None:
    authority, key = rig.folder / "authority", rig.folder / "certified"
    for path in (authority, key):
        keygen("-t", "ed25519", "-N", "", "-f", str(path))
    settings = {"AuthorizedKeysFile": "none", "TrustedUserCAKeys": f"{authority}.pub"}
    rig.add("trusting", settings=settings, ssh={"IdentityFile": str(key)})
    system = Ssh(hosts="trusting", config=rig.config)
    try:
        [failure] = Launching(system).launch(1).failures
        assert isinstance(failure, CredentialsError), "the key alone is nobody's"
    finally:
        system.close()
    keygen("-s", str(authority), "-I", "a user", "-n", getpass.getuser(), f"{key}.pub")  # makes certified-cert.pub
    assert str(rig["trusting"].tmp) in lives_and_ends(Ssh(hosts="trusting", config=rig.config)).folder
    assert rig["trusting"].is_empty()


@pytest.mark.slow
def test_hosts_are_read_from_a_file(rig: sshd.Rig, tmp_path: Path) -> None:
    rig.add("alpha")
    rig.add("beta")
    (tmp_path / "hosts").write_text("# mine\nalpha*2\n\nbeta  # the new one\n")
    system = Ssh(hosts_file=str(tmp_path / "hosts"), config=rig.config)
    try:
        found = Launching(system).launch(3).instances
        assert ["alpha", "alpha", "beta"] == sorted(instance.host for instance in found)
    finally:
        system.close()
    assert rig["alpha"].is_empty()
    assert rig["beta"].is_empty()
