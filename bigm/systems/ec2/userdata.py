"""What an instance is given at launch, for cloud-init: boot, its unit, the ends of its life, and what users add.

It must be small (EC2 takes 16,384 bytes) and start the agent early. What is the same for everybody stands in
`templates/ec2-*`; what users add (files, units, keys) is data, and is written as YAML by a library, never pasted.

Two things end an instance besides its driver and its lease, should its agent hang: the unit's longest time, and a timer
that is set before anything else and knows nothing of the unit. The end of the unit, however it came, is the machine's
end, which the launch makes the instance's (shutdown behaviour: terminate). A reboot ends it too.

Source: cloud-init's documentation (cloud config, bootcmd, write_files), systemd.service(5), systemd-run(1).
"""

from __future__ import annotations

import base64
import gzip
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

import yaml

from bigm.bootstrap.agentzip import disks_program, instance_program
from bigm.bootstrap.records import Launch
from bigm.errors import ConfigError
from bigm.systems.ec2.options import PORT, Options

LIMIT = 16384  # bytes, as they are sent: EC2 counts before it encodes them
MOST_STRIPES = 25
LEAST_STRIPE = 16  # GiB
DATA_THROUGHPUT = 250  # MiB/s of each data disk; a gp3 has 125 when it is not asked for more
_STOPPING = 30.0  # seconds for all but the last output of an agent that is told to end
_SECOND_MEANS = 60.0  # seconds after the unit's longest time
_UNITS = "/etc/systemd/system"
_UNIT_NAME = re.compile(r"[\w:.@-]+\.(service|socket|device|mount|automount|swap|target|path|timer|slice)")
_KEY = re.compile(r"(ssh-(rsa|dss|ed25519)|ecdsa-sha2-\S+|sk-\S+) [A-Za-z0-9+/]+=*( .*)?")


@dataclass(frozen=True)
class _File:
    """A file that an instance is given.

    Args:
        path: there.
        content: its bytes.
        mode: its permissions.
        source: the option and the file here that it comes from, or "" where it is bigm's own.
    """

    path: str
    content: bytes
    mode: int = 0o644
    source: str = ""


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, for people who look at what an instance was given."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def render(boot: Launch, options: Options) -> bytes:
    """The user data of a launch: gzipped `#cloud-config`.

    Args:
        boot: what boot is given; where it listens is filled in here, and on the instance.
        options: of them the files, units and keys are read here.
    Raises:
        ConfigError: an option is wrong, a file cannot be read, or all of it is larger than EC2 takes.
    """
    given = _files(options.files) + _units(options.units)
    document = yaml.safe_load(_template("ec2-user-data.yaml"))
    document["write_files"] = [_entry(file) for file in [*_own_files(boot, options), *given]]
    document["bootcmd"] = _commands(boot, options)
    if options.ssh_keys:
        document["ssh_authorized_keys"] = _keys(options.ssh_keys)
    text = "#cloud-config\n" + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1 << 20)
    data = gzip.compress(text.encode(), 9, mtime=0)
    if len(data) > LIMIT:
        raise _too_large(len(data), given)
    return data


def data_disks(options: Options) -> list[dict[str, Any]]:
    """The data disks of an instance, as `BlockDeviceMappings` of a launch has them; none without `data_gib`.

    Raises:
        ConfigError: sizes that cannot be had.
    """
    size, stripes = options.data_gib, options.data_stripes
    if size < 0:
        raise ConfigError(f"data_gib is {size}", hint="it counts GiB, from 0")
    if not 1 <= stripes <= MOST_STRIPES:
        raise ConfigError(f"data_stripes is {stripes}", hint=f"it is 1 to {MOST_STRIPES}")
    if stripes > 1 and size < stripes * LEAST_STRIPE:
        raise ConfigError(
            f"{size} GiB (data_gib) on {stripes} disks (data_stripes) are less than {LEAST_STRIPE} GiB on each",
            hint=f"ask for {stripes * LEAST_STRIPE} GiB, or for fewer disks",
        )
    disk = {
        "VolumeSize": math.ceil(size / stripes),
        "VolumeType": "gp3",
        "Throughput": DATA_THROUGHPUT,
        "DeleteOnTermination": True,
    }
    names = [f"/dev/sd{letter}" for letter in "bcdefghijklmnopqrstuvwxyz"]
    return [{"DeviceName": name, "Ebs": disk} for name in names[: stripes if size else 0]]


def _own_files(boot: Launch, options: Options) -> list[_File]:
    if options.open_files < 1024:
        raise ConfigError(f"open_files is {options.open_files}", hint="no process there would start; give 1024 or more")
    stop = math.ceil(boot.drain + boot.linger + _STOPPING)
    unit = _template("ec2-bigm.service", stop=stop, open_files=options.open_files)
    disks = len(data_disks(options))
    own = [
        _File("/opt/bigm/boot.py", instance_program(boot._replace(port=PORT)).encode(), 0o600),
        _File("/opt/bigm/disks.py", disks_program(disks).encode()),
        _File(f"{_UNITS}/bigm.service", unit.encode()),
    ]
    if not options.immortal:
        ends = _template("ec2-ends.conf", longest=_longest(boot))
        own.append(_File(f"{_UNITS}/bigm.service.d/ends.conf", ends.encode()))
    return own


def _commands(boot: Launch, options: Options) -> list[list[str]]:
    """What cloud-init runs as soon as the files are written; each whatever became of those before."""
    commands = []
    if options.immortal:
        commands.append(["sh", "-c", "echo bigm: immortal: nothing ends this instance > /dev/console"])
    else:
        after = f"--on-active={math.ceil(_longest(boot) + _SECOND_MEANS)}"
        early = "DefaultDependencies=no"  # of all that a start that hangs would not reach
        timer = [
            "systemd-run",
            "--no-block",
            "--unit=bigm-lifetime",
            f"--property={early}",
            f"--timer-property={early}",
        ]
        commands.append([*timer, after, "/bin/systemctl", "poweroff", "--force"])
        commands.append(["systemctl", "set-default", "poweroff.target"])  # where a reboot leads
    if options.open_files > 1 << 20:  # the most that some kernels allow any process
        commands.append(["sysctl", "-q", "-w", f"fs.nr_open={options.open_files}"])
    commands.append(["systemctl", "daemon-reload"])
    commands.append(["systemctl", "start", "--no-block", "bigm.service"])
    names = [os.path.basename(path) for path in options.units]
    if names:
        commands.append(["systemctl", "enable", "--now", "--no-block", *names])
    return commands


def _longest(boot: Launch) -> int:
    """Seconds after which the unit ends an agent that should have ended by itself."""
    return math.ceil(boot.lifetime + boot.drain + boot.linger)


def _files(pairs: Sequence[str]) -> list[_File]:
    """What the option `files` names."""
    found = []
    for pair in pairs:
        here, _, there = pair.rpartition(":")
        if not here or not there.startswith("/"):
            raise ConfigError(
                f"files has {pair!r}", hint="each is path-here:path-there, and the path there begins with a slash"
            )
        content = _read("files", here)
        executable = os.access(os.path.expanduser(here), os.X_OK)
        found.append(_File(there, content, 0o755 if executable else 0o644, f"files: {here}"))
    return found


def _units(paths: Sequence[str]) -> list[_File]:
    """What the option `units` names."""
    found = []
    for path in paths:
        name = os.path.basename(path)
        if not _UNIT_NAME.fullmatch(name) or name == "bigm.service":
            raise ConfigError(
                f"units has {path}, and {name!r} is no name that a unit of yours can have",
                hint="its ending says what it is, as in watcher.service; bigm.service is bigm's own",
            )
        found.append(_File(f"{_UNITS}/{name}", _read("units", path), source=f"units: {path}"))
    return found


def _keys(given: Sequence[str]) -> list[str]:
    """The lines of `ssh_keys`: each is a public key, or a file of such."""
    keys = []
    for each in given:
        lines = [each] if _KEY.fullmatch(each.strip()) else _read("ssh_keys", each).decode(errors="replace").split("\n")
        lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        wrong = [line for line in lines if not _KEY.fullmatch(line)]
        if wrong or not lines:
            what = "a private key" if any("PRIVATE KEY" in line for line in lines) else "no public key"
            raise ConfigError(f"ssh_keys has {each}, which is {what}", hint="name the file that ends in .pub")
        keys += lines
    return keys


def _read(option: str, path: str) -> bytes:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return file.read(1 << 24)
    except OSError as error:
        raise ConfigError(f"ec2.{option} names {path}, which cannot be read: {error.strerror}") from error


def _entry(file: _File) -> dict[str, Any]:
    """A file as cloud-init's write_files has it."""
    entry = {"path": file.path, "permissions": f"{file.mode:04o}"}
    try:
        text = file.content.decode()
    except UnicodeDecodeError:
        return {**entry, "encoding": "b64", "content": base64.b64encode(file.content).decode()}
    return {**entry, "content": text}


def _template(name: str, **values: object) -> str:
    return Template(files("bigm.templates").joinpath(name).read_text()).substitute(values)


def _too_large(size: int, given: Sequence[_File]) -> ConfigError:
    message = f"what an instance is given at launch has {size} bytes, compressed, and EC2 takes {LIMIT}"
    if not given:
        return ConfigError(message, hint="give fewer keys")
    largest = max(given, key=lambda file: len(gzip.compress(file.content)))
    return ConfigError(
        f"{message}; most of it is {largest.source} ({len(largest.content)} bytes)",
        hint="leave it to the program to bring: files of its folder travel in the bundle",
    )
