"""The sizes of what is sent to an instance, and that it is the same each time."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import zipfile
import zlib

import pytest

from bigm.authority import Authority
from bigm.bootstrap.agentzip import (
    BOOT_LIMIT,
    ZIP_LIMIT,
    agent_digest,
    agent_zip,
    boot_program,
    extension_zip,
    host_program,
)
from bigm.bootstrap.records import Launch
from interpreters import find_python


def a_launch() -> Launch:
    authority = Authority()
    credentials = authority.bootstrap("L0123456789ab")
    return Launch(
        cluster=authority.cluster,
        launch="L0123456789ab",
        ca=authority.ca.decode(),
        cert=credentials.cert.decode(),
        key=credentials.key.decode(),
        agent_digest=agent_digest(),
    )


def test_boot_with_its_certificates_fits_its_budget(record_property, capsys):
    size = len(gzip.compress(boot_program(a_launch()).encode(), 9))
    record_property("boot_bytes_gzipped", size)
    with capsys.disabled():
        print(f" [boot with certificates: {size} of {BOOT_LIMIT} bytes gzipped]", end="")
    assert size < BOOT_LIMIT


def test_the_agents_zip_fits_its_budget(record_property, capsys):
    size = len(agent_zip())
    record_property("agent_zip_bytes", size)
    with capsys.disabled():
        print(f" [agent zip: {size} of {ZIP_LIMIT} bytes]", end="")
    assert size < ZIP_LIMIT


def test_the_agents_zip_is_the_same_each_time_and_holds_readable_source():
    again = subprocess.run(
        [sys.executable, "-c", "from bigm.bootstrap.agentzip import agent_digest; print(agent_digest())"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.strip()
    assert agent_digest() == again
    with zipfile.ZipFile(io.BytesIO(zlib.decompress(agent_zip()))) as archive:
        assert b'"""' in archive.read("bigm/bootstrap/agent.py")
        assert "bigm/bootstrap/boot.py" not in archive.namelist()


def test_the_extension_has_what_installs_a_bundle_and_nothing_that_the_agent_has(capsys):
    with capsys.disabled():
        print(f" [extension: {len(extension_zip())} bytes]", end="")
    with zipfile.ZipFile(io.BytesIO(extension_zip())) as archive:
        added = set(archive.namelist())
    with zipfile.ZipFile(io.BytesIO(zlib.decompress(agent_zip()))) as archive:
        there = set(archive.namelist())
    assert {"bigm/bootstrap/installer.py", "bigm/manifest.py"} <= added
    assert set() == added & there


def test_boot_reads_the_very_launch_it_was_given():
    launch = a_launch()._replace(folder="/a'b\"c\\d\n")
    program = boot_program(launch).replace("boot(json", "print(json.dumps(json")[:-1] + ")\n"
    printed = subprocess.run(
        [sys.executable, "-I", "-S", "-"], input=program, capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert Launch.from_json(printed) == launch


@pytest.mark.parametrize("version", ["3.9", "3.11", "3.13"])
def test_programs_for_hosts_are_read_by_every_python_whichever_the_drivers_is(version):
    python = find_python(version)
    if not python:
        pytest.skip(f"no Python {version} here")
    programs = [boot_program(a_launch()), host_program({"do": "start"})]
    assert [] == [mark for mark in ("#", '"""') if mark in programs[1]]
    for program in programs:
        check = [python, "-I", "-S", "-c", "import sys; compile(sys.stdin.read(), 'program', 'exec')"]
        done = subprocess.run(check, input=program, capture_output=True, text=True, timeout=30)
        assert (0, "") == (done.returncode, done.stderr)
