"""Machines on hosts that the user can reach by ssh: nothing is installed there but a Python, only port 22 is needed.

`Host` has one connection to each; agents are started by one command for each host, listen on unix sockets, and stay
when the command ends. What ends them is their lease, like anywhere; the driver's keeper releases them before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bigm.bootstrap.records import Launch
from bigm.errors import BootError, CapacityError, ConfigError, SystemFault
from bigm.routes import OFF
from bigm.systems.base import Capabilities, Finding, Instance, Launched, Spec, System
from bigm.systems.ssh.doctor import examine
from bigm.systems.ssh.errands import each
from bigm.systems.ssh.host import Host, answers
from bigm.systems.ssh.hosts import parse_hosts, places, read_hosts, share_out
from bigm.systems.ssh.relay import Relay

_DRIVER, _DIRECT = "driver", "direct"
_PEERS = (_DRIVER, _DIRECT, OFF)
_LONGEST = 60  # characters of the folder for sockets, whose paths may have 103
_PREFIX, _UNFINISHED = "bigm-ssh-", "bigm-new-"
_MAKING = 60.0  # seconds after which a folder that is not finished never will be
_SETTLES = 10.0  # seconds for hosts to have started what an interrupted launch has asked them for
_NAMED = 3  # hosts that a line names


class Ssh(System):
    """Agents on hosts, over ssh. The arguments are the options."""

    @dataclasses.dataclass(frozen=True)
    class Options:
        """The section `ssh` of the configuration: the arguments of the system."""

        hosts: tuple[str, ...] = dataclasses.field(
            default=(),
            metadata={"what": "hosts to start machines on, as ssh knows them; host*4 takes four machines"},
        )
        hosts_file: str = dataclasses.field(
            default="", metadata={"what": "a file with a host in each line, besides hosts"}
        )
        config: str = dataclasses.field(
            default="", metadata={"what": "an ssh configuration to use instead of ~/.ssh/config, as ssh -F does"}
        )
        python: str = dataclasses.field(
            default="", metadata={"what": "the interpreter for agents on the hosts; empty: the first from 3.9 on"}
        )

        peers: str = dataclasses.field(
            default="driver",
            metadata={
                "what": "how machines call one another: by way of the `driver`, `direct` where they can dial each "
                "other's addresses, or not at all (`off`)"
            },
        )

        in_place: bool = dataclasses.field(
            default=False,
            metadata={
                "what": "the hosts have this computer's files, as with homes on a file server: machines run the "
                "program and its environment where they are, instead of being sent them"
            },
        )

    name = "ssh"

    def __init__(
        self,
        *,
        hosts: Sequence[str] | str = (),
        hosts_file: str = "",
        config: str = "",
        python: str = "",
        peers: str = _DRIVER,
        in_place: bool = False,
    ) -> None:
        words = hosts.split(",") if isinstance(hosts, str) else list(hosts)
        found = parse_hosts([word for word in words if word.strip()])
        found += read_hosts(hosts_file) if hosts_file else []
        self._slots = places(found)
        self._config = _readable(config)
        if not _is_word(python):
            raise ConfigError(f"ssh.python: {python!r} is no path of an interpreter", hint="it may have no spaces")
        self._python = python
        if peers not in _PEERS:
            raise ConfigError(f"ssh.peers must be {', '.join(_PEERS[:-1])} or {_PEERS[-1]}, not {peers!r}")
        self._peers = peers
        self.capabilities = Capabilities(ends="agent", in_place=in_place, peers=peers == _DIRECT)
        self._relay: Relay | None = None
        self._cluster = ""
        self._folder = ""
        self._guard = -1  # a descriptor that says by its lock that the folder is in use
        self._lock = threading.Lock()
        self._launching = threading.Lock()
        self._starting = 0  # hosts that are starting agents, perhaps for a launch that was interrupted
        self._started = threading.Condition()
        self._hosts: dict[str, Host] = {}
        self._dialled = 0  # hosts that a launch wants to reach
        self._silent: dict[str, None] = {}  # those of them that have not answered yet
        self._failed: dict[str, SystemFault] = {}
        self._overlooked: dict[str, SystemFault] = {}
        self._numbered = 0

    def __repr__(self) -> str:
        return f"<Ssh: {len(self._slots)} hosts, {sum(len(host.residents) for host in self._all())} instances>"

    def open(self, cluster: str) -> None:
        self._check_hosts()
        self._cluster = cluster
        if not self._folder:
            self._folder, self._guard = _make_folder()
            relay = os.path.join(self._folder, "relay") if self._peers == _DRIVER else ""
            self._relay = Relay(relay, self._dial) if relay else None
            self._hosts = {
                name: Host(
                    name,
                    cluster,
                    self._folder,
                    number,
                    config=self._config,
                    python=self._python,
                    direct=self._peers == _DIRECT,
                    relay=relay,
                )
                for number, name in enumerate(self._slots)
            }

    def launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
        with self._launching:
            known = [found for found in self._described() if found.launch == launch_id]
            return Launched(tuple(known)) if known else self._launch(n, boot, launch_id)

    def waits_for(self) -> str:
        silent = list(self._silent)
        if not silent:
            return ""
        named = silent if len(silent) <= _NAMED else [*silent[:_NAMED], f"{len(silent) - _NAMED} others"]
        verb = "does" if len(silent) == 1 else "do"
        hosts = f"{self._dialled} host{'' if self._dialled == 1 else 's'}"
        return f"connecting to {hosts}: {', '.join(named)} {verb} not answer yet"

    def describe(self, ids: Sequence[str] | None = None) -> list[Instance]:
        wanted = self._by_host([one.id for one in self._described()] if ids is None else ids)
        each(list(wanted), lambda host: host.look())
        return [one for one in self._described() if ids is None or one.id in ids]

    def connect(self, instance: Instance, timeout: float) -> socket.socket:
        host, index = self._find(instance.id)
        if host is None:
            raise ConnectionError(f"{instance.id} is no instance of this cluster")
        return host.connect(index, timeout)

    def keeper_address(self, instance: Instance) -> str:
        host, index = self._find(instance.id)
        return host.way(index) if host is not None else ""

    def route(self, instance: Instance) -> str:
        host, _ = self._find(instance.id)
        return host.route if host is not None and self._peers == _DRIVER else OFF if self._peers == OFF else ""

    def terminate(self, ids: Iterable[str]) -> dict[str, SystemFault | None]:
        wanted = list(ids)
        outcome: dict[str, SystemFault | None] = dict.fromkeys(wanted)

        def end(item: tuple[Host, dict[str, int]]) -> None:
            host, indices = item
            try:
                left = host.end(indices.values())
            except SystemFault as error:
                outcome.update(dict.fromkeys(indices, error))
                return
            for id, index in indices.items():
                if left[index]:
                    outcome[id] = BootError(f"{host.name}: {left[index]}")

        each(list(self._by_host(wanted).items()), end)
        return outcome

    def diagnose(self, instance: Instance) -> str:
        host, index = self._find(instance.id)
        with contextlib.suppress(SystemFault):
            if host is not None:
                return next((one.said for one in host.look() if one.index == index), "")
        return ""

    def places(self) -> dict[str, int]:
        self._check_hosts()
        return dict(self._slots)

    def overlooked(self) -> dict[str, SystemFault]:
        return {name: self._overlooked[name] for name in self._slots if name in self._overlooked}

    def discover(self) -> list[Instance]:
        found: list[Instance] = []
        self._overlooked = {}

        def look(host: Host) -> None:
            try:
                found.extend(map(host.recorded, host.request({"do": "look", "sizes": True})))
            except SystemFault as error:
                self._overlooked[host.name] = error  # the others are not to be hidden by it

        with self._visit() as hosts:
            each(hosts, look)
        return sorted(found, key=lambda one: one.id)

    def remove(self, instances: Sequence[Instance]) -> dict[str, SystemFault | None]:
        outcome: dict[str, SystemFault | None] = {one.id: None for one in instances}

        def end(host: Host) -> None:
            for one in instances:
                if one.host != host.name:
                    continue
                index = int(one.id.rpartition("-")[2])
                try:
                    for left in host.request({"do": "end", "cluster": one.cluster, "indices": [index]}):
                        outcome[one.id] = BootError(f"{host.name}: {left['left']}")
                except SystemFault as error:
                    outcome[one.id] = error

        with self._visit() as hosts:
            each(hosts, end)
        return outcome

    def doctor(self) -> Iterator[Finding]:
        with self._visit() as hosts:
            yield from examine(hosts)

    @contextlib.contextmanager
    def _visit(self) -> Iterator[list[Host]]:
        """The hosts, for whoever asks them something without a cluster; with no connection left behind."""
        self._check_hosts()
        folder, guard = _make_folder()
        hosts = [
            Host(name, "", folder, number, config=self._config, python=self._python)
            for number, name in enumerate(self._slots)
        ]
        try:
            yield hosts
        finally:
            each(hosts, Host.close)
            os.close(guard)
            shutil.rmtree(folder, ignore_errors=True)

    def _check_hosts(self) -> None:
        if not self._slots:
            raise ConfigError("the system ssh has no hosts", hint="name some: --hosts a,b or ssh.hosts in bigm.yaml")

    def close(self) -> None:
        if not self._folder:
            return
        for host in self._all():
            host.give_up()
        with self._started:  # what an interrupted launch has asked hosts for
            self._started.wait_for(lambda: not self._starting, _SETTLES)
        self.terminate([one.id for one in self._described()])
        hosts, self._hosts = self._all(), {}
        each(hosts, Host.close)
        if self._relay is not None:
            self._relay.close()
        os.close(self._guard)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = ""

    # --- launching

    def _launch(self, n: int, boot: Launch, launch_id: str) -> Launched:
        """Share *n* machines out over the hosts, and those of hosts that fail over the others."""
        boot = boot._replace(launch=launch_id)
        instances: dict[int, Instance] = {}
        tried: dict[str, SystemFault] = {}
        hosts = self._hosts
        while len(instances) < n and (room := self._room(tried)):
            shares = share_out(n - len(instances), room)
            numbers = {name: self._numbers(count) for name, count in shares.items()}

            def start(name: str, numbers: dict[str, list[int]] = numbers) -> None:
                host = hosts[name]
                try:
                    with self._counted():
                        self._reach(host)
                        residents = host.start(len(numbers[name]), boot, numbers[name])
                except SystemFault as error:
                    tried[name] = error
                    return
                if len(residents) < len(numbers[name]):
                    tried[name] = BootError(f"{name} started only {len(residents)} of {len(numbers[name])} agents")
                instances.update((one.index, host.instance(one)) for one in residents)

            self._dialled, self._silent = len(shares), dict.fromkeys(shares)
            try:
                each(list(shares), start)
            finally:
                self._silent = {}
        self._failed.update(tried)
        failures = list(dict.fromkeys(tried.values()))
        if len(instances) < n and not failures:
            taken = f"all {sum(self._slots.values())} places on the hosts are taken"
            failures.append(CapacityError(taken, hint="host*4 lets a host take four machines"))
        return Launched(tuple(instances[index] for index in sorted(instances)), tuple(failures))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._started:
            self._starting += 1
        try:
            yield
        finally:
            with self._started:
                self._starting -= 1
                self._started.notify_all()

    def _reach(self, host: Host) -> None:
        try:
            host.reach()
        finally:
            self._silent.pop(host.name, None)

    def _room(self, tried: dict[str, SystemFault]) -> dict[str, int]:
        """How many machines each host still takes; of those that failed before only when there are no others."""
        room = {
            name: self._slots[name] - len(host.residents) for name, host in self._hosts.items() if name not in tried
        }
        room = {name: free for name, free in room.items() if free > 0}
        return {name: free for name, free in room.items() if name not in self._failed} or room

    def _numbers(self, count: int) -> list[int]:
        with self._lock:
            first = self._numbered
            self._numbered += count
        return list(range(first, first + count))

    # --- finding

    def _all(self) -> list[Host]:
        return list(self._hosts.values())

    def _described(self) -> list[Instance]:
        return [host.instance(one) for host in self._all() for one in host.residents]

    def _dial(self, locator: str, timeout: float) -> socket.socket:
        """Connect to the machine at a locator, for another of the cluster."""
        found = next((one for one in self._described() if one.locator == locator), None)
        if found is None:
            raise ConnectionError(f"there is no machine at {locator}")
        return self.connect(found, timeout)

    def _find(self, id: str) -> tuple[Host | None, int]:
        name, _, rest = id.rpartition("#")
        cluster, _, index = rest.rpartition("-")
        host = self._hosts.get(name)
        return (host, int(index)) if host is not None and cluster == self._cluster and index.isdecimal() else (None, -1)

    def _by_host(self, ids: Iterable[str]) -> dict[Host, dict[str, int]]:
        found: dict[Host, dict[str, int]] = {}
        for id in ids:
            host, index = self._find(id)
            if host is not None:
                found.setdefault(host, {})[id] = index
        return found


def _readable(config: str) -> str:
    if not config:
        return ""
    path = Path(config).expanduser().absolute()
    if not os.access(path, os.R_OK):
        raise ConfigError(f"ssh.config: cannot read {path}")
    return str(path)


def _is_word(text: str) -> bool:
    return all(letter.isalnum() or letter in "/._+-~" for letter in text) and not text.startswith("-")


def _make_folder() -> tuple[str, int]:
    """A folder for sockets, locked as long as we live; and none that a killed driver has left."""
    place = tempfile.gettempdir()
    place = place if len(place) <= _LONGEST and ":" not in place else "/tmp"  # a colon ends a path, for ssh
    for left in Path(place).glob(_PREFIX + "*"):
        _remove_abandoned(left)
    for left in Path(place).glob(_UNFINISHED + "*"):
        _remove_unfinished(left)
    new = tempfile.mkdtemp(prefix=_UNFINISHED, dir=place)
    guard = os.open(os.path.join(new, "lock"), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(guard, fcntl.LOCK_EX)
    folder = new.replace(_UNFINISHED, _PREFIX)
    os.rename(new, folder)  # locked already: whoever looks for what is left never sees it without
    return folder, guard


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder whose driver is dead, and whose masters have ended."""
    try:
        if folder.stat().st_uid != os.getuid() or any(answers(str(path)) for path in folder.glob("h*")):
            return
        with open(folder / "lock", "rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # in use, or being made, or gone


def _remove_unfinished(folder: Path) -> None:
    """Remove a folder whose driver was killed while it made it."""
    with contextlib.suppress(OSError):  # it is gone, or finished
        found = folder.stat()
        if found.st_uid == os.getuid() and time.time() - found.st_mtime > _MAKING:
            shutil.rmtree(folder, ignore_errors=True)
