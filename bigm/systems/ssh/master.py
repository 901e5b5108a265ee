"""One connection to a host, by the system's OpenSSH: a master that everything else goes through.

    ssh -M -N -f ... HOST                 dials, asks for no password, and stays in the background
    ssh -S CONTROL HOST sh -c ...         a command
    ssh -S CONTROL -O forward -L ...      a local socket whose connections end at a socket there

All of the user's ssh configuration holds for the master: names, keys, agents, jumps. What goes through it reads no
configuration, only the control socket. A master that the user has running is taken as it is, and never ended.

A master of ours ends by itself some time after the last connection through it, so the driver's keeper can still
release machines when the driver is dead, and nothing is left when both are.

Source: OpenSSH's PROTOCOL.mux, ssh(1), ssh_config(5).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence

from bigm.errors import BootError, ConfigError, CredentialsError, SystemFault, TransientError
from bigm.systems.ssh.errands import Shared

PERSIST = 20  # seconds that a master stays when nothing goes through it
CONNECT = 10.0  # seconds for a host to answer at all, where the user's configuration does not say
ALIVE_INTERVAL = 10  # seconds of silence after which a host is asked whether it is there, three times
_CONTROL_TIMEOUT = 10.0  # seconds for what only asks the master, here
_SHORTEST = 1.0  # seconds for a connection, however little is left
_ERRORS_SHOWN = 4  # last lines of what ssh said

# What ssh says, and whose fault it is. OpenSSH translates none of these.
_CREDENTIALS = ("permission denied", "too many authentication failures", "no supported authentication")
_STRANGER = ("host key verification failed", "remote host identification has changed")
_PASSING = ("connection closed", "connection reset", "kex_exchange_identification", "broken pipe", "exceeded")


class Master:
    """The way to one host.

    Args:
        host: as ssh is told it.
        folder: where sockets are made: short, and nobody else's.
        name: of the sockets in it, unlike any other host's.
        config: path of an ssh configuration instead of the user's, or "".
    """

    def __init__(self, host: str, folder: str, name: str, *, config: str = "") -> None:
        self.host = host
        self._own = os.path.join(folder, name)
        self._control = self._own
        self._options = ["-F", config] if config else []
        self._opening: Shared[bool] = Shared(0.0)  # many lose a connection together, and wait for the same
        self._dialling: subprocess.Popen[bytes] | None = None
        self.generation = 0  # counts connections: what was forwarded through one ends with it

    def __repr__(self) -> str:
        return f"<Master of {self.host} at {self._control}, connection {self.generation}>"

    @property
    def command(self) -> str:
        """What a user types to try the same by hand."""
        return shlex.join(["ssh", *self._options, self.host])

    def is_open(self) -> bool:
        """Whether a master answers at the control socket; asks nobody on the network."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self._control)
            except OSError:
                return False
        return True

    def open(self, timeout: float) -> bool:
        """See that there is a connection; True when it had to be made anew.

        Args:
            timeout: seconds for it to be made.
        Raises:
            SystemFault: it cannot be made; what ssh said, and what to try.
        """
        if self.is_open():
            return False
        deadline = time.monotonic() + timeout
        try:
            return self._opening.get(lambda: self._open(max(_SHORTEST, deadline - time.monotonic())), timeout)
        except TimeoutError:
            raise TransientError(
                f"{self.host}: no connection within {timeout:.0f} s", hint=f"try `{self.command}`"
            ) from None

    def run(self, command: str, program: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a shell's command there, with *program* on its standard input.

        Raises:
            TransientError: it did not end in time, or the connection was lost; it may have run.
        """
        # a session's own ssh must never dial by itself: without the user's configuration it would reach somebody else
        try:
            ran = self._ssh(["-T", "-o", "ProxyCommand=false"], [command], timeout, program)
        except subprocess.TimeoutExpired:
            raise TransientError(
                f"{self.host}: no answer within {timeout:.0f} s", hint=f"try `{self.command}`"
            ) from None
        if ran.returncode == 255:
            raise TransientError(f"{self.host}: the connection was lost: {_last(ran.stderr)}")
        return ran

    def forward(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Have connections to local sockets end there.

        Args:
            pairs: of a path here and a path or "host:port" there.
        Raises:
            SystemFault: ssh would not.
        """
        words = []
        for here, there in pairs:
            _remove(here)
            words += ["-L", f"{here}:{there}"]
        self._command("forward", words)

    def forward_back(self, there: str, here: str) -> None:
        """Have connections to the socket *there*, which does not exist, end at the one *here*.

        Raises:
            SystemFault: the host would not.
        """
        self._command("forward", ["-R", f"{there}:{here}"])

    def forget(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Forward these no more; no harm where they were not."""
        pairs = list(pairs)
        if pairs and self.is_open():
            try:
                self._command("cancel", [word for here, there in pairs for word in ("-L", f"{here}:{there}")])
            except SystemFault:
                pass
        for here, _ in pairs:
            _remove(here)

    def interrupt(self) -> None:
        """Give up a connection that is being made."""
        if (dialling := self._dialling) is not None:
            _kill(dialling)

    def close(self) -> None:
        """End the connection, if it is ours."""
        if self._control == self._own and self.is_open():
            with contextlib.suppress(subprocess.TimeoutExpired):  # it ends by itself, then
                self._ssh(["-O", "exit"], [], _CONTROL_TIMEOUT)

    def patience(self) -> float:
        """Seconds for the host to answer: as the user's configuration says, or `CONNECT`.

        Raises:
            ConfigError: as `settings`.
        """
        return _connect_timeout(self.settings())

    def settings(self) -> dict[str, str]:
        """What ssh knows of the host by its configuration; nothing is dialled.

        Raises:
            ConfigError: the configuration is wrong, or there is no ssh.
        """
        try:
            command = ["ssh", *self._options, "-G", "--", self.host]
            asked = subprocess.run(command, capture_output=True, text=True, timeout=_CONTROL_TIMEOUT)
        except FileNotFoundError:
            raise ConfigError("there is no ssh on this computer", hint="install the client of OpenSSH") from None
        except subprocess.TimeoutExpired:
            raise TransientError(f"{self.host}: ssh did not tell its configuration in time") from None
        if asked.returncode:
            raise ConfigError(f"{self.host}: ssh refuses its configuration: {_last(asked.stderr)}")
        return dict(line.partition(" ")[::2] for line in asked.stdout.splitlines())

    def _open(self, timeout: float) -> bool:
        if self.is_open():
            return False
        settings = self.settings()
        self._control = self._users_own(settings.get("controlpath", "none"))
        if self._control == self._own:
            self._dial(timeout, min(_connect_timeout(settings), timeout))
        self.generation += 1
        return True

    def _users_own(self, path: str) -> str:
        """The control socket at *path* where a master of the user's answers, else our own."""
        self._control = path
        return path if path != "none" and self.is_open() else self._own

    def _dial(self, timeout: float, connect: float) -> None:
        """Make a connection: *timeout* seconds in all, *connect* of them for an address to answer."""
        _remove(self._own)
        command = ["ssh", *self._options, "-M", "-N", "-f", "-S", self._own]
        for option in (
            f"ControlPersist={PERSIST}",
            "BatchMode=yes",  # a question in the middle of a progress bar would never be answered
            f"ConnectTimeout={max(1, int(connect))}",
            "ConnectionAttempts=1",
            f"ServerAliveInterval={ALIVE_INTERVAL}",
            "ServerAliveCountMax=3",
            "ClearAllForwardings=yes",  # those of the user's configuration are for the user
            "ForwardAgent=no",
            "ForwardX11=no",
            "PermitLocalCommand=no",
            "RemoteCommand=none",
            "StreamLocalBindMask=0177",
        ):
            command += ["-o", option]
        with tempfile.TemporaryFile() as said:  # no pipe: the master would keep it open
            try:
                null = subprocess.DEVNULL
                process = subprocess.Popen(
                    [*command, "--", self.host], stdin=null, stdout=null, stderr=said, start_new_session=True
                )
            except FileNotFoundError:
                raise ConfigError("there is no ssh on this computer", hint="install the client of OpenSSH") from None
            self._dialling = process
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                code = -1
            finally:
                _kill(process)
                self._dialling = None
            said.seek(0)
            text = said.read().decode("utf-8", "replace")
        if code:
            raise self._fault(text or f"no answer within {timeout:.0f} s")

    def _fault(self, text: str) -> SystemFault:
        """What ssh said as an error of the right kind."""
        message, low = f"cannot reach {self.host}: {_last(text)}", text.lower()
        if any(words in low for words in _STRANGER):
            return CredentialsError(message, hint=f"look at its key: run `{self.command}` once")
        if any(words in low for words in _CREDENTIALS):
            return CredentialsError(
                message,
                hint=f"`{self.command} true` must work without a question: a key with a passphrase belongs into an "
                "agent (ssh-add)",
            )
        if any(words in low for words in _PASSING):
            return TransientError(message, hint=f"try `{self.command}`")
        return BootError(message, hint=f"try `{self.command}`")

    def _command(self, name: str, arguments: Sequence[str]) -> None:
        try:
            ran = self._ssh(["-O", name, *arguments], [], _CONTROL_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise TransientError(f"{self.host}: its connection does not answer") from None
        if ran.returncode:
            raise TransientError(f"{self.host}: ssh could not {name} a socket: {_last(ran.stderr)}")

    def _ssh(
        self, options: Sequence[str], command: Sequence[str], timeout: float, program: str = ""
    ) -> subprocess.CompletedProcess[str]:
        # "" is for OpenSSH before 8.0 a file that cannot be read; it says so and goes on
        words = ["ssh", "-F", "/dev/null", "-S", self._control, *options, "--", self.host, *command]
        return subprocess.run(
            words, input=program, capture_output=True, text=True, errors="replace", timeout=timeout,
            start_new_session=True,
        )  # fmt: skip


def await_open(master: Master, timeout: float, tries: int = 3) -> bool:
    """As `Master.open`, again when the host closed the door for a moment: many are dialling (MaxStartups).

    Raises:
        SystemFault: as `Master.open`, at the last of the *tries*.
    """
    deadline = time.monotonic() + timeout
    for attempt in range(1, tries + 1):
        try:
            return master.open(max(_SHORTEST, deadline - time.monotonic()))
        except TransientError:
            if attempt == tries or time.monotonic() > deadline:
                raise
            time.sleep(0.2 * attempt)  # the others that dial it announce nothing
    raise AssertionError("unreachable")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-_ERRORS_SHOWN:]).rstrip(".") or "it said nothing"


def _connect_timeout(settings: Mapping[str, str]) -> float:
    theirs = settings.get("connecttimeout", "none")
    return float(theirs) if theirs.isdecimal() and int(theirs) else CONNECT


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End an ssh that dials, with the jumps that it has started; not the master that it has become."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
