"""One host and the machines of one cluster on it: starts them, asks after them, ends them, and leads to their ports.

Everything goes through one master connection, made when needed and made again when it is lost. What many ask at the
same moment is asked once: fifty machines that lose their connection together have one question.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bigm.bootstrap.agentzip import host_program
from bigm.bootstrap.onhost import WORD
from bigm.bootstrap.records import Launch
from bigm.errors import BootError, SystemFault, TransientError
from bigm.routes import OFF, RELAY, make_route, unix_connect
from bigm.systems.base import ENDED, RUNNING, Instance
from bigm.systems.ssh.errands import Gathered, Shared
from bigm.systems.ssh.master import Master, await_open

DIAL = 20.0  # seconds to connect to a host, with jumps and all; see `master.CONNECT` for its first answer
_START = 60.0  # seconds for a host to start its agents
_ASK = 30.0  # seconds for a host to answer a question; ending machines takes it 12 at most
_REFUSAL = 0.02  # seconds for ssh here to pass a refusal on that it has got
_FRESH = 0.5  # seconds for which an answer holds
_PYTHONS = ("python3.13", "python3.12", "python3.11", "python3.10", "python3.9", "python3")
_FOLDERS = ("/usr/local/bin", "/opt/homebrew/bin", "/usr/bin")  # where a login that is none does not look
_TOO_OLD = 77
_NO_PYTHON = 76
_FAILED = 70  # exit code of `bigm.bootstrap.onhost`

# In double quotes of a shell, and, with all of the script, in single quotes of another, whichever the login's is.
_PROGRAM = f"import sys; sys.version_info < (3, 9) and sys.exit({_TOO_OLD}); import ssl; exec(sys.stdin.read())"
_SCRIPT = (
    'for p in $PYTHONS; do command -v "$p" >/dev/null 2>&1 || continue; '
    f'"$p" -I -S -c "{_PROGRAM}"; r=$?; '
    f'case $r in 0|{_FAILED}) exit $r;; {_TOO_OLD}) echo "$p is older than Python 3.9" >&2;; esac; '
    f'done; echo "tried: $PYTHONS" >&2; exit {_NO_PYTHON}'
)


@dataclass(frozen=True)
class Resident:
    """An agent on a host, as its record there tells.

    Args:
        index: its number on this host; no other of the cluster has it.
        launch: the launch it came from.
        address: where it listens there: the path of a unix socket, or "host:port".
        pid: its process id.
        state: RUNNING or ENDED.
        said: why it failed, or its standard error.
    """

    index: int
    launch: str
    address: str
    pid: int
    state: str = RUNNING
    said: str = ""


class Host:
    """One host, for one cluster.

    Args:
        name: as ssh is told it.
        cluster: the cluster's id.
        folder: for the sockets on this computer.
        number: of the host among all; names its sockets.
        config: path of an ssh configuration, or "".
        python: the interpreter for agents there, or "" for the first that will do.
        direct: agents listen on the address by which ssh came, not on a unix socket.
        relay: path of the local socket that leads machines to others, or "".
    """

    def __init__(
        self,
        name: str,
        cluster: str,
        folder: str,
        number: int,
        *,
        config: str = "",
        python: str = "",
        direct: bool = False,
        relay: str = "",
    ) -> None:
        self.name = name
        self.master = Master(name, folder, f"h{number}", config=config)
        self.folder = ""  # of the cluster, there
        self._cluster = cluster
        self._sockets = os.path.join(folder, f"s{number}-")
        self._pythons = [_from_home(python)] if python else [*_PYTHONS, *(f"{folder}/python3" for folder in _FOLDERS)]
        self._direct = direct
        self._near = f"ssh:{name}#"
        self._relay = relay
        self._proven = False
        self._given_up = False
        self._lock = threading.Lock()
        self._residents: dict[int, Resident] = {}
        self._apart = ""  # the route of machines that no way leads from
        self._ways = threading.Lock()
        self._relayed = 0  # the connection through which machines there reach the relay
        self._looks: Shared[None] = Shared(_FRESH)
        self._ends: Gathered = Gathered(self._end_now)

    def __repr__(self) -> str:
        return f"<Host {self.name}: {len(self.residents)} machines>"

    @property
    def residents(self) -> list[Resident]:
        """The agents that were started here and not ended through us, in their order."""
        with self._lock:
            return [self._residents[index] for index in sorted(self._residents)]

    def start(self, count: int, boot: Launch, indices: Sequence[int]) -> list[Resident]:
        """Start agents, in one command; may return fewer, where a host has no room for all.

        Args:
            count: how many.
            boot: what each is given.
            indices: *count* numbers that no other has, or had.
        Raises:
            SystemFault: the host cannot be reached, or has started none.
        """
        self.reach()
        request: dict[str, Any] = {
            "do": "start",
            "launch": boot._asdict(),
            "folder": self.folder,
            "indices": list(indices)[:count],
            "direct": self._direct,
        }
        try:
            place, *records = self._ask_again(request)
            if self.folder != place["folder"]:  # the former one went with the last agent in it, and the relay's socket
                self.folder, self._relayed = place["folder"], 0
            residents = [_resident(record) for record in records if "pid" in record]
            with self._lock:
                self._residents.update((resident.index, resident) for resident in residents)
            if not residents:
                raise BootError(f"{self.name} could not start an agent: {records[0]['failed']}")
            self.lead()
            self._prove(residents[0])
        except SystemFault:
            with contextlib.suppress(SystemFault):
                self.end(request["indices"])
            raise
        return residents

    def reach(self) -> None:
        """See that there is a connection.

        Raises:
            SystemFault: there is none, so that nothing was started.
        """
        if self._given_up:
            raise BootError(f"{self.name} is dialled no more: the cluster ends")
        if not self.master.is_open():
            await_open(self.master, max(DIAL, self.master.patience()))

    def give_up(self) -> None:
        """Start nothing any more where there is no connection by now."""
        self._given_up = True
        self.master.interrupt()

    def _ask_again(self, request: Mapping[str, object]) -> list[dict[str, Any]]:
        """Ask, and once more when the answer was lost: what was started meanwhile is not started again."""
        try:
            return self._ask(request, _START)
        except TransientError:
            return self._ask(request, _START)

    def _prove(self, resident: Resident) -> None:
        """See that connections arrive: a sshd may have been told to forward none, which only the first would show.

        Raises:
            BootError: they do not.
        """
        if self._proven:
            return
        with unix_connect(self.way(resident.index), DIAL) as probe:
            self.master.run(":", "", _ASK)  # when this has been answered, so has what was asked before
            probe.settimeout(_REFUSAL)
            try:
                refused = probe.recv(1) == b""
            except TimeoutError:
                refused = False
        if refused:
            raise BootError(
                f"the sshd of {self.name} forwards no connections to {resident.address}",
                hint="its AllowStreamLocalForwarding and AllowTcpForwarding must not be `no`",
            )
        self._proven = True

    def lead(self) -> None:
        """Make the local sockets that lead to the agents, and the one there that leads to us, where they are missing.

        Raises:
            SystemFault: ssh would not.
        """
        with self._ways:
            living = [resident for resident in self.residents if resident.state == RUNNING]
            missing = [resident for resident in living if not answers(self.way(resident.index))]
            if missing:
                self.master.forward((self.way(one.index), one.address) for one in missing)
            if self._relay and self._relayed != self.master.generation:
                self._lead_back()

    def _lead_back(self) -> None:
        """Make the socket there by which machines reach others; a host that will have none is only told of."""
        there, generation = f"{self.folder}/{RELAY}", self.master.generation
        apart = ""
        try:
            if self._relayed:  # a socket that has lost its connection stays
                self.master.run(f"rm -f {shlex.quote(there)}", "", _ASK)
            self.master.forward_back(there, self._relay)
        except SystemFault as error:
            apart = f"{OFF}: {error.message}"
        self._apart, self._relayed = apart, generation

    def way(self, index: int) -> str:
        """Path of the local socket that leads to an agent."""
        return f"{self._sockets}{index}"

    def connect(self, index: int, timeout: float) -> socket.socket:
        """Connect to an agent, through a connection that is made again if it was lost.

        Raises:
            OSError: it cannot be reached now.
        """
        try:
            return unix_connect(self.way(index), timeout)
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        try:
            await_open(self.master, min(timeout, DIAL), tries=1)
            self.lead()
        except SystemFault as error:
            raise ConnectionError(str(error)) from error
        return unix_connect(self.way(index), timeout)

    def look(self) -> list[Resident]:
        """Ask the host which of its agents live.

        Raises:
            SystemFault: the host does not tell.
        """
        self._looks.get(self._look_now)
        return self.residents

    def end(self, indices: Iterable[int]) -> dict[int, str]:
        """End agents, and see that nothing is left of them; says for each what is, or "".

        Raises:
            SystemFault: the host does not answer.
        """
        return self._ends.get(indices)

    def instance(self, resident: Resident) -> Instance:
        """A resident as the rest of bigm knows it."""
        ended = resident.state == ENDED
        return Instance(
            id=f"{self.name}#{self._cluster}-{resident.index}",
            locator=resident.address if self._direct else f"{self._near}{resident.index}",
            state=resident.state,
            reason=f"its agent has ended{': ' if resident.said else ''}{resident.said}" if ended else "",
            launch=resident.launch,
            cluster=self._cluster,
            host=self.name,
        )

    def recorded(self, record: Mapping[str, Any]) -> Instance:
        """What a record there tells, of whatever cluster."""
        alive = record["alive"]
        said = record["said"].strip().rpartition("\n")[2]
        return Instance(
            id=f"{self.name}#{record['cluster']}-{record['index']}",
            state=RUNNING if alive else ENDED,
            reason="an agent lives" if alive else f"an agent has ended and left files{': ' if said else ''}{said}",
            launch=record["launch"],
            cluster=record["cluster"],
            host=self.name,
            since=record["started"],
            kept=record["size"],
        )

    @property
    def route(self) -> str:
        """How machines here reach others by the relay."""
        return self._apart or make_route(self._near, self.folder)

    def request(self, request: Mapping[str, object]) -> list[dict[str, Any]]:
        """Ask `bigm.bootstrap.onhost` for something.

        Raises:
            SystemFault: as `start`.
        """
        return self._ask(request, _ASK)

    def close(self) -> None:
        """End the connection."""
        self.master.close()

    def _look_now(self) -> None:
        asked = self.residents
        found = {}
        if any(resident.state == RUNNING for resident in asked):
            found = {record["index"]: record for record in self._ask({"do": "look", "cluster": self._cluster}, _ASK)}
        with self._lock:
            for resident in asked:
                record = found.get(resident.index)
                if resident.index not in self._residents or resident.state == ENDED or (record and record["alive"]):
                    continue
                said = record.get("said", "") if record else ""
                self._residents[resident.index] = replace(resident, state=ENDED, said=said)

    def _end_now(self, indices: Sequence[int]) -> dict[int, str]:
        with self._lock:
            there = [index for index in indices if index in self._residents]
        request = {"do": "end", "cluster": self._cluster, "indices": list(indices)}
        left = {record["index"]: record["left"] for record in self._ask(request, _ASK)}
        ended = [index for index in there if index not in left]
        with self._lock:
            gone = [self._residents.pop(index) for index in ended if index in self._residents]
        self.master.forget((self.way(resident.index), resident.address) for resident in gone)
        return {index: left.get(index, "") for index in indices}

    def _ask(self, request: Mapping[str, object], timeout: float) -> list[dict[str, Any]]:
        await_open(self.master, DIAL)
        script = f'PYTHONS="{" ".join(self._pythons)}"; {_SCRIPT}'
        ran = self.master.run(f"exec sh -c '{script}'", host_program(request), timeout)
        lines = [line[len(WORD) :] for line in ran.stdout.splitlines() if line.startswith(WORD)]
        answers: list[dict[str, Any]] = [json.loads(line) for line in lines]
        if ran.returncode == _NO_PYTHON:
            said = " / ".join(ran.stderr.strip().splitlines()[-4:])
            raise BootError(
                f"{self.name} has no Python 3.9 or later with ssl: {said}",
                hint="install one, or name it with ssh.python",
            )
        failed = next((answer["error"] for answer in answers if "error" in answer), "")
        if ran.returncode or failed:
            said = failed or ran.stderr.strip().rpartition("\n")[2] or f"exit code {ran.returncode}"
            raise BootError(f"{self.name} could not {request['do']} its agents: {said}")
        return answers


def answers(path: str) -> bool:
    """Whether somebody listens at a local socket."""
    try:
        unix_connect(path, 1.0).close()
    except OSError:
        return False
    return True


def _from_home(python: str) -> str:
    """A path as a variable of a shell has it, where "~" means nothing."""
    return f"$HOME{python[1:]}" if python.startswith("~/") else python


def _resident(record: Mapping[str, Any]) -> Resident:
    return Resident(record["index"], record["launch"], record["address"], record["pid"])
