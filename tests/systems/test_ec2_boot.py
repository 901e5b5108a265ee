"""Real cloud-init and systemd: machines that are given what EC2's are, boot, serve their driver, and switch off.

All boot side by side, in a minute or several; each test waits for what its machine does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml

from bigm.authority import Authority
from bigm.bootstrap.records import Launch
from bigm.systems.ec2.options import PORT, Options
from bigm.systems.ec2.userdata import render
from ec2rig.rig import Rig, claim_network
from virtual import VirtualGuest, VirtualMachine, image, missing
from waiting import eventually

pytestmark = [pytest.mark.boot, pytest.mark.skipif(bool(missing()), reason=missing() or "there is all it takes")]

BOOT = 900.0  # seconds, with a processor that is emulated, and shared with others
DISKS = (16 << 30, 16 << 30)  # bytes
PROGRAM = """
import os, resource, sys, tempfile, threading
import bigm

class Here:
    def look(self):
        print("looking", flush=True)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return sys.version_info[:2], tempfile.gettempdir(), os.environ["HOME"], files, os.getuid()

    def stay(self):
        print("staying", flush=True)
        threading.Event().wait(600)

with bigm.start() as cluster:
    [machine] = cluster.start(1, services={"Here": Here()})
    cluster.wait([machine])
    print(machine.call("Here.look"), flush=True)
    machine.call("Here.stay")
"""
NO_LONGEST = "[Service]\nRuntimeMaxSec=infinity\n"
REBOOT = (
    "[Unit]\nAfter=bigm.service\n[Service]\nExecStart=/bin/systemctl reboot\n[Install]\nWantedBy=multi-user.target\n"
)


def user_data(options: Options, lifetime: float = 3600.0) -> bytes:
    """What a machine is launched with whose agent nobody will ever send."""
    authority = Authority()
    bootstrap = authority.bootstrap("b0")
    launch = Launch(
        cluster=authority.cluster,
        launch="b0",
        ca=bootstrap.ca.decode(),
        cert=bootstrap.cert.decode(),
        key=bootstrap.key.decode(),
        lifetime=lifetime,
        drain=1.0,
        linger=1.0,
    )
    return render(launch, options)


def ends(machine: VirtualMachine) -> str:
    """Wait until it has switched itself off; what it said."""
    machine.off(BOOT)
    return machine.console


@pytest.fixture(autouse=True)
def _is_not_taken_for_one_that_hangs() -> None:
    faulthandler.cancel_dump_traceback_later()


def given_files(options: Options, folder: Path) -> dict[str, Path]:
    """What cloud-init is given, and the units it would write, as files; by their names."""
    text = gzip.decompress(user_data(options))
    (folder / "user-data").write_bytes(text)
    for file in yaml.safe_load(text)["write_files"]:
        if file["path"].startswith("/etc/systemd/system/"):
            path = folder / file["path"].removeprefix("/etc/systemd/system/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(file["content"])
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("immortal", [False, True])
def test_cloud_init_and_systemd_find_nothing_wrong_with_what_they_are_given(tmp_path, immortal):
    key, unit = "ssh-ed25519 AAAA me", tmp_path / "own.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    options = Options(immortal=immortal, ssh_keys=(key,), units=(str(unit),), files=(f"{unit}:/opt/own",))
    files = given_files(options, tmp_path)
    for command in (
        ["cloud-init", "schema", "--config-file", files["user-data"]],
        ["systemd-analyze", "verify", files["bigm.service"]],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Unknown" not in done.stderr, done.stderr


@pytest.fixture(scope="module")
def booting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, VirtualMachine]]:
    """All machines of this module but one, switched on."""
    image()
    folder = tmp_path_factory.mktemp("given")
    (folder / "longer.conf").write_text(NO_LONGEST)
    (folder / "again.service").write_text(REBOOT)
    longer = f"{folder}/longer.conf:/etc/systemd/system/bigm.service.d/longer.conf"
    given = {
        "old": user_data(Options(), lifetime=10.0),
        "older": user_data(Options(files=(longer,)), lifetime=10.0),
        "again": user_data(Options(units=(f"{folder}/again.service",))),
    }
    claim, network = claim_network()
    with contextlib.ExitStack() as stack:
        stack.enter_context(claim)
        yield {
            name: stack.enter_context(VirtualMachine(tmp_path_factory.mktemp(name), data, host=str(host), port=PORT))
            for (name, data), host in zip(given.items(), ip_network(network).hosts())
        }


class VirtualRig(Rig):
    """Its instances are virtual machines."""

    def make_guest(self, instance, user_data, ended):
        """One that is reached at the instance's own address."""
        return VirtualGuest(
            self.folder / instance.id,
            lambda folder: VirtualMachine(folder, user_data, host=instance.private_ip, port=PORT, disks=DISKS),
            ended,
        )


@pytest.mark.usefixtures("booting")  # which boot meanwhile
def test_a_command_forms_a_machine_which_ends_when_its_driver_is_killed(tmp_path):
    """The whole way: requests, user data, boot, certificates, bundle, calls, logs; and the end of the instance."""
    program = tmp_path / "program" / "program.py"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    (tmp_path / "none.txt").touch()
    variables = {"BIGM_TIMEOUTS_BOOT": str(BOOT), "BIGM_TIMEOUTS_LEASE": "60", "BIGM_TIMEOUTS_STALL": "120"}
    variables |= {"BIGM_EC2_DATA_GIB": "32", "BIGM_EC2_DATA_STRIPES": "2"}
    command = [sys.executable, "-m", "bigm", "run", "--system", "ec2", "--requirements", "none.txt", str(program)]
    with VirtualRig() as rig, open(tmp_path / "out", "w+") as out, open(tmp_path / "errors", "w+") as errors:
        variables["BIGM_EC2_ADDRESS_SERVICE"] = rig.address_service
        environment = {**os.environ, **rig.environ, **variables, "HOME": str(tmp_path)}
        driver = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=errors)

        def said() -> str:
            return (tmp_path / "errors").read_text() + (tmp_path / "out").read_text() + rig.describe()[-4000:]

        try:
            eventually(lambda: "staying" in (tmp_path / "errors").read_text() or driver.poll() is not None, BOOT, said)
            assert driver.poll() is None, said()
        finally:
            driver.kill()
            driver.wait()
        assert f"{sys.version_info[:2]}, '/mnt/data/tmp', '/root', 1048576, 0)" in (tmp_path / "out").read_text()
        eventually(lambda: not rig.running(), BOOT, said)
        assert "bigm: /mnt/data is /dev/vdb and /dev/vdc striped" in rig.describe()
        assert "reboot: Power down" in rig.describe()
        assert "Client.InstanceInitiatedShutdown" in {each.state_reason.code for each in rig.cloud.instances()}


def test_the_units_longest_time_ends_a_machine_whose_agent_does_not(booting):
    said = ends(booting["old"])
    assert "bigm: the agent has ended: timeout" in said
    assert "reboot: Power down" in said


def test_a_timer_of_its_own_ends_a_machine_whose_unit_does_not(booting):
    said = ends(booting["older"])
    assert "bigm: the agent has ended: timeout" not in said
    assert "reboot: Power down" in said


def test_a_reboot_ends_a_machine(booting):
    said = ends(booting["again"])
    assert 2 == booting["again"].boots()
    assert 1 == said.count("listens on")
