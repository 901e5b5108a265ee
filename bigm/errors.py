"""Every error bigm raises on purpose, in one tree.

The branch answers three questions: whose fault is it, did the call reach the other side, can trying again help.

    BigmError
    |-- ConfigError               the user's settings or arguments; fix them
    |   `-- ProgramError          the driver program itself cannot be started or imported
    |-- WireError                 a call got no answer; the service's method never raised this
    |   |-- Unreachable           certainly did not start; trying again can help
    |   |   `-- Busy              the other side refused before starting; try again later
    |   |-- MayHaveRun            the connection was lost while the call was in flight
    |   |   `-- WorkerDied        with the worker that ran it, which is started anew; with the cause
    |   |-- DeadlineExceeded      the caller's own limit; may have run
    |   |-- MachineStopped        the machine ended, with the cause; calls in flight may have run
    |   |-- IdentityError         the other side is not who was expected, or we are not welcome; do not retry
    |   |-- PayloadTooLarge       the call or its reply is above a limit; do not retry
    |   `-- ProtocolError         the other side does not speak this protocol
    |-- CallError                 the other side refused the call before the method started; fix the call
    |   |-- NoSuchMethod          no such service or method there, or it is not public
    |   |-- NotAllowed            this caller's role may not call that method
    |   `-- NotPicklable          an argument, reply or service cannot be pickled; names the path to it
    |-- ServiceError              the method raised something that cannot be rebuilt here; carries it as text
    |-- GroupError                calls of a group failed, each with its own error (`bigm.groups`)
    |-- ServiceFailed             a service could not be rebuilt or set up on a machine
    `-- SystemFault               a system could not provide, describe or end instances
        |-- CredentialsError      |-- PermissionDenied     |-- QuotaError      |-- CapacityError
        |-- ThrottledError        |-- TransientError       |-- BootError       |-- InstanceGone
        `-- NotSupported

Exceptions of the user's own services are none of these: they are raised in the caller as themselves.

Each class carries the exit code that a program ends with when it does not handle the error (`docs/cli.md`).
"""

from __future__ import annotations


class BigmError(Exception):
    """Root of the tree.

    Args:
        message: what was attempted, where, what happened; lower case, no full stop.
        hint: what to try, as a sentence of its own, or "".
    """

    exit_code = 70

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def message(self) -> str:
        """What was attempted, where, and what happened, without the hint."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ConfigError(BigmError):
    """A setting, flag or argument is wrong. The user's fault; trying again does not help."""

    exit_code = 2


class ProgramError(ConfigError):
    """The driver program cannot be found, read or imported. The user's fault."""


class WireError(BigmError):
    """A call got no answer. Never raised by a service's method."""

    exit_code = 78


class Unreachable(WireError):
    """The call certainly did not start. Trying again can help."""


class Busy(Unreachable):
    """The other side had as many calls as it accepts and refused this one before it started. Try again later."""


class MayHaveRun(WireError):
    """The connection was lost while the call was in flight: its method may have run, wholly or in part.

    Only the caller knows whether trying again is safe; `options(idempotent=True)` says so beforehand.
    """


class WorkerDied(MayHaveRun):
    """The worker that ran the call died, and its machine starts it anew. The method may have run, wholly or in part.

    Args:
        message: which worker, and how it died.
        cause: one of the words of `bigm.lifecycle`, as of `MachineStopped`.
    """

    def __init__(self, message: str = "", *, cause: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.cause = cause


class DeadlineExceeded(WireError, TimeoutError):
    """The caller's own time limit passed. The method may have run; the other side was asked to stop it."""

    exit_code = 78


class MachineStopped(WireError):
    """The machine is STOPPED. Calls in flight may have run; no call to it can succeed any more.

    Args:
        message: which machine and why, in words.
        cause: one of the stable words of `bigm.lifecycle` ("shutdown", "lease", "signal", "memory", ...), or "".
    """

    def __init__(self, message: str = "", *, cause: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.cause = cause
        if cause in ("lifetime", "cost"):
            self.exit_code = 79


class IdentityError(WireError):
    """The other side is not who was expected, or it refuses who we are. Do not retry."""


class PayloadTooLarge(WireError):
    """A call or its reply is above a limit that the message names. Do not retry."""


class ProtocolError(WireError):
    """The other side does not speak this protocol, or not this version of it."""


class CallError(BigmError):
    """The other side refused the call before the method started. The caller's fault."""

    exit_code = 1


class NoSuchMethod(CallError):
    """No such service or method there, or it is not public; near matches are named."""


class NotAllowed(CallError):
    """The caller's role may not call that method."""


class NotPicklable(CallError, TypeError):
    """An argument, a reply or a service cannot be pickled; the message names the path to the bad attribute."""


class ServiceError(BigmError):
    """The method raised an exception that cannot be rebuilt in the caller; it is carried as text.

    Args:
        type_name: qualified name of the exception's class.
        text: the exception's message.
        traceback: the remote traceback, as Python prints it.
    """

    exit_code = 1

    def __init__(self, type_name: str, text: str = "", traceback: str = "", *, hint: str = "") -> None:
        super().__init__(f"{type_name}: {text}" if text else type_name, hint=hint)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback


class ServiceFailed(BigmError):
    """A service could not be rebuilt or set up on a machine, which is therefore STOPPED. The service's fault."""

    exit_code = 75


class SystemFault(BigmError):
    """A system could not provide, describe or end instances.

    Args:
        message: what was attempted and what happened.
        code: the provider's own code, or "".
    """

    exit_code = 75

    def __init__(self, message: str = "", *, code: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class CredentialsError(SystemFault):
    """No credentials, or expired ones. Trying again helps after they are renewed."""

    exit_code = 76


class PermissionDenied(SystemFault):
    """The credentials lack a permission, which the message names. Do not retry."""

    exit_code = 76


class QuotaError(SystemFault):
    """The account's quota is exhausted. Trying again helps after it is raised or something ended."""

    exit_code = 77


class CapacityError(SystemFault):
    """The place has no capacity now. Trying elsewhere or later can help."""

    exit_code = 77


class ThrottledError(SystemFault):
    """The provider asks to slow down. Try again after a pause."""


class TransientError(SystemFault):
    """The provider failed for a reason of its own. Try again."""


class BootError(SystemFault):
    """An instance was launched and never became a machine; the message shows what it said."""


class InstanceGone(SystemFault):
    """The instance no longer exists."""


class NotSupported(SystemFault):
    """The system cannot do that at all. Do not retry."""

    exit_code = 2
