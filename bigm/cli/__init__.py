"""The command `bigm`: reads arguments, calls one function, prints. One file for each command.

Everything heavy is imported by whoever needs it: `bigm run` passes through here before each program.
"""

from __future__ import annotations

import signal
import sys

from bigm.errors import BigmError

BUG = 70


def main() -> None:
    """Run the command line and end the process: errors become one message each, a bug in bigm exit code 70."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `bigm logs | head` ends as other tools do
    try:
        from bigm.cli.app import app

        app(prog_name="bigm")
    except BigmError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:  # noqa: BLE001  # whatever it is, nobody below expected it
        import traceback

        traceback.print_exc()
        print(_REPORT, file=sys.stderr)
        sys.exit(BUG)


def show_error(error: BigmError) -> None:
    """Say on standard error what happened, and what to try."""
    print(f"bigm: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"bigm: {error.hint}", file=sys.stderr)


_REPORT = """\
bigm: this is a bug in bigm, not in your program
bigm: please report it, with the lines above, the command, and what `bigm --version` prints"""
