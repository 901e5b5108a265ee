"""What an instance is given at launch: small, whole, and refused before any call where it is wrong."""

from __future__ import annotations

import base64
import gzip
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bigm.authority import Authority
from bigm.bootstrap import oninstance
from bigm.bootstrap.agentzip import agent_digest, disks_program, instance_program
from bigm.bootstrap.records import Launch
from bigm.errors import ConfigError
from bigm.systems.ec2.options import PORT, Options
from bigm.systems.ec2.userdata import LIMIT, MOST_STRIPES, _entry, _File, data_disks, render
from interpreters import find_python

OURS = 6000  # bytes: what is left of EC2's 16,384 is the user's
UNIT = "/etc/systemd/system/bigm.service"
ENDS = "/etc/systemd/system/bigm.service.d/ends.conf"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJwLqwyTkVvYzYv1p0tXf0Yg0pB0Z0m5b2VtYmVyMDAw me@here"


@pytest.fixture(scope="module")
def boot() -> Launch:
    authority = Authority()
    bootstrap = authority.bootstrap("L0123456789ab")
    return Launch(
        cluster=authority.cluster,
        launch="L0123456789ab",
        ca=bootstrap.ca.decode(),
        cert=bootstrap.cert.decode(),
        key=bootstrap.key.decode(),
        agent_digest=agent_digest(),
        lifetime=3600.0,
        drain=5.0,
        linger=30.0,
    )


def document(data: bytes) -> dict:
    text = gzip.decompress(data).decode()
    assert "#cloud-config" == text.splitlines()[0]
    return yaml.safe_load(text)


def written(data: bytes) -> dict[str, str]:
    return {file["path"]: file["content"] for file in document(data)["write_files"]}


def commands(data: bytes) -> list[str]:
    return [" ".join(command) for command in document(data)["bootcmd"]]


def random_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


# What is in it


def test_what_is_ours_fits_its_budget_and_leaves_room_for_the_users_own(boot, record_property, capsys):
    size = len(render(boot, Options(data_gib=64, data_stripes=4)))
    record_property("user_data_bytes", size)
    with capsys.disabled():
        print(f" [user data: {size} of {OURS} bytes; EC2 takes {LIMIT}]", end="")
    assert size < OURS


def test_the_same_launch_makes_the_same_bytes(boot):
    assert render(boot, Options()) == render(boot, Options())


def test_the_agent_is_started_when_its_files_are_written_and_before_anything_slow(boot):
    modules = document(render(boot, Options()))["cloud_init_modules"]
    assert ["write_files", "bootcmd"] == modules[:2]
    assert "systemctl start --no-block bigm.service" == commands(render(boot, Options()))[-1]


def test_boot_listens_on_the_port_of_all_instances(boot):
    assert f'"port":{PORT},' in written(render(boot, Options()))["/opt/bigm/boot.py"]


def test_the_key_is_for_root_alone(boot):
    files = document(render(boot, Options()))["write_files"]
    assert ["/opt/bigm/boot.py"] == [file["path"] for file in files if "PRIVATE KEY" in file["content"]]
    assert ["0600"] == [file["permissions"] for file in files if "PRIVATE KEY" in file["content"]]


def test_two_means_of_their_own_end_an_instance_after_its_lifetime(boot):
    data = render(boot, Options())
    unit, timer = 3600 + 5 + 30, 3600 + 5 + 30 + 60
    assert f"RuntimeMaxSec={unit}\n" in written(data)[ENDS]
    first = commands(data)[0]
    assert first.startswith("systemd-run --no-block --unit=bigm-lifetime ")
    assert first.endswith(f" --on-active={timer} /bin/systemctl poweroff --force")
    assert 2 == first.count("property=DefaultDependencies=no"), "it waits for no other unit, which may hang"


def test_the_agents_end_and_a_reboot_are_the_machines_end(boot):
    data = render(boot, Options())
    assert "ExecStopPost=/bin/systemctl --no-block poweroff\n" in written(data)[ENDS]
    assert "systemctl set-default poweroff.target" in commands(data)


def test_nothing_ends_an_immortal_instance_and_its_console_says_so(boot):
    data = render(boot, Options(immortal=True))
    assert ENDS not in written(data)
    assert "immortal" in commands(data)[0]
    assert [] == [line for line in commands(data) if "poweroff" in line]


def test_limits_are_those_of_the_options(boot):
    assert "LimitNOFILE=5000000\n" in written(render(boot, Options(open_files=5_000_000)))[UNIT]
    assert "sysctl -q -w fs.nr_open=5000000" in commands(render(boot, Options(open_files=5_000_000)))
    assert not any("nr_open" in line for line in commands(render(boot, Options())))


# What users add


def test_files_arrive_as_they_are_with_their_mode(boot, tmp_path):
    text, script, binary = tmp_path / "a.conf", tmp_path / "run.sh", tmp_path / "key.bin"
    text.write_text("# $HOME: 'x'\r\n\tü\n\n")
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    binary.write_bytes(bytes(range(256)))
    pairs = (f"{text}:/etc/a.conf", f"{script}:/opt/run.sh", f"{binary}:/opt/key.bin")
    files = {file["path"]: file for file in document(render(boot, Options(files=pairs)))["write_files"]}
    assert ("# $HOME: 'x'\r\n\tü\n\n", "0644") == (files["/etc/a.conf"]["content"], files["/etc/a.conf"]["permissions"])
    assert "0755" == files["/opt/run.sh"]["permissions"]
    assert "b64" == files["/opt/key.bin"]["encoding"]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_come_through_yaml(content):
    entry = yaml.safe_load(yaml.safe_dump(_entry(_File("/x", content))))
    text = entry["content"]
    assert content == (base64.b64decode(text) if entry.get("encoding") else text.encode())


def test_units_are_written_enabled_and_started(boot, tmp_path):
    unit = tmp_path / "watcher.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    data = render(boot, Options(units=(str(unit),)))
    assert "[Service]\nExecStart=/bin/true\n" == written(data)["/etc/systemd/system/watcher.service"]
    assert "systemctl enable --now --no-block watcher.service" == commands(data)[-1]


def test_keys_are_texts_or_files(boot, tmp_path):
    file = tmp_path / "id.pub"
    file.write_text(f"# mine\n{KEY}\n\n{KEY}2\n")
    data = render(boot, Options(ssh_keys=(KEY, str(file))))
    assert [KEY, KEY, f"{KEY}2"] == document(data)["ssh_authorized_keys"]


# What is refused


def refused(boot: Launch, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        render(boot, Options(**options))
    return str(caught.value)


def test_what_ec2_would_not_take_is_refused_and_the_largest_file_is_named(boot, tmp_path):
    small, large = random_file(tmp_path / "small", 2000), random_file(tmp_path / "large", 12000)
    text = refused(boot, files=(f"{small}:/small", f"{large}:/large"))
    assert "EC2 takes 16384" in text
    assert str(large) in text
    assert str(small) not in text


def test_what_cannot_be_read_is_named_with_its_option(boot, tmp_path):
    assert f"files names {tmp_path}/none" in refused(boot, files=(f"{tmp_path}/none:/there",))
    assert "units names no.service" in refused(boot, units=("no.service",))
    assert "ssh_keys names no.pub" in refused(boot, ssh_keys=("no.pub",))


@pytest.mark.parametrize("pair", ["here", "here:", ":/there", "here:there"])
def test_a_pair_of_paths_is_a_pair_and_absolute_there(boot, pair):
    assert repr(pair) in refused(boot, files=(pair,))


@pytest.mark.parametrize("name", ["watcher", "bigm.service", "a b.service", "x.conf"])
def test_a_unit_has_a_name_that_systemd_and_bigm_accept(boot, tmp_path, name):
    (tmp_path / name).write_text("[Service]\n")
    assert repr(name) in refused(boot, units=(str(tmp_path / name),))


def test_a_private_key_is_not_sent_by_mistake(boot, tmp_path):
    file = tmp_path / "id"
    file.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    assert "a private key" in refused(boot, ssh_keys=(str(file),))


def test_too_few_open_files_are_refused(boot):
    assert "open_files is 10" in refused(boot, open_files=10)


# Data disks


def test_data_disks_are_as_many_as_stripes_and_together_as_large_as_asked():
    assert [] == data_disks(Options())
    disks = data_disks(Options(data_gib=100, data_stripes=3))
    assert ["/dev/sdb", "/dev/sdc", "/dev/sdd"] == [disk["DeviceName"] for disk in disks]
    assert {"VolumeSize": 34, "VolumeType": "gp3", "Throughput": 250, "DeleteOnTermination": True} == disks[0]["Ebs"]
    assert MOST_STRIPES == len(data_disks(Options(data_gib=16 * 25, data_stripes=25)))


@pytest.mark.parametrize(("gib", "stripes"), [(-1, 1), (100, 0), (1000, 26), (31, 2), (0, 2)])
def test_sizes_of_data_disks_that_cannot_be_had_are_refused(gib, stripes):
    with pytest.raises(ConfigError, match="data_"):
        data_disks(Options(data_gib=gib, data_stripes=stripes))


# On the instance


class Metadata(BaseHTTPRequestHandler):
    """A metadata service that answers to a token alone, below a path."""

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        wanted = ("/imds/latest/api/token", "21600")
        right = wanted == (self.path, self.headers["X-aws-ec2-metadata-token-ttl-seconds"])
        self.answer(200 if right else 404, "t0ken")

    def do_GET(self) -> None:
        known = {"/imds/latest/meta-data/local-ipv4": "127.77.1.2"}
        right = self.headers["X-aws-ec2-metadata-token"] == "t0ken"
        self.answer((200 if self.path in known else 404) if right else 401, known.get(self.path, "no such thing"))


@pytest.fixture
def metadata(monkeypatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="metadata")
    thread.start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/imds/")
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("metadata")
def test_boot_listens_on_the_address_that_the_metadata_service_tells(boot, capfd):
    assert "127.77.1.2" == oninstance.prepare(boot._replace(port=PORT)._asdict())["host"]
    assert f"listens on 127.77.1.2, port {PORT}" in capfd.readouterr().err
    assert "" == oninstance.ask_metadata("latest/meta-data/nothing")


def test_boot_listens_on_all_addresses_where_no_metadata_service_answers(boot, monkeypatch, capfd):
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    assert "0.0.0.0" == oninstance.prepare(boot._asdict())["host"]
    assert "does not answer" in capfd.readouterr().err


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_programs_of_instances_are_read_by_every_python(boot, version):
    python = find_python(version)
    if not python:
        pytest.skip(f"no Python {version} here")
    for program in (instance_program(boot), disks_program(2)):
        check = [python, "-I", "-S", "-c", "import sys; compile(sys.stdin.read(), 'program', 'exec')"]
        done = subprocess.run(check, input=program, capture_output=True, text=True, timeout=30)
        assert (0, "") == (done.returncode, done.stderr)
