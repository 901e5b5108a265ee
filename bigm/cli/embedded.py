"""Where a self-contained pex starts: `./bigpi.pex [ARGS]` is what `bigm run bigpi.py [ARGS]` was where it was made.

Without typer, whose import is half of a start's time: what stands behind PROGRAM on a line of `bigm run` is split by
one function, and there are three options to read.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import MutableMapping, Sequence

from bigm.bundle import embedded
from bigm.cli import reminder, show_error
from bigm.cli.arguments import flags_of, split_arguments
from bigm.config import FLAGS_VARIABLE, load
from bigm.errors import BigmError, ConfigError, ProgramError


def main() -> None:
    """Run the program inside: the entry point of every self-contained pex."""
    try:
        arguments = take_flags(sys.argv[1:], os.environ)
        try:
            program = embedded.find()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProgramError(
                f"{os.environ.get(embedded.FILE_VARIABLE, 'this file')} has no program that can be read: {error}",
                hint="make it anew with `bigm bundle`",
            ) from error
    except BigmError as error:
        show_error(error)
        sys.exit(error.exit_code)
    embedded.run(program, arguments)


def take_flags(line: Sequence[str], environ: MutableMapping[str, str]) -> list[str]:
    """Set in *environ* what bigm's options on *line* say, as `bigm run` does; the program's own arguments remain.

    After `bigm run x.pex` there is nothing to do: it has taken its options, and all the rest is the program's.

    Raises:
        ConfigError: an option lacks its value, or has a bad one. The user's fault.
    """
    if f'{{"pid": {os.getpid()}}}' in environ.get(FLAGS_VARIABLE, ""):
        return list(line)
    split = split_arguments(["program", *line])
    if split.lacks_value:
        raise ConfigError(f"option {split.options[-1]} requires an argument")
    flags = flags_of(split.options)
    environ[FLAGS_VARIABLE] = json.dumps({**flags, "run": {"pid": os.getpid()}})
    if flags:
        load(environ=environ)  # a mistake is said now, and not after the program's first ten minutes
    reminder.arm(os.path.basename(environ.get(embedded.FILE_VARIABLE, "")) or "it")
    return split.arguments
