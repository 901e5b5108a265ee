"""A program as it would be if it ran here: main module, search path and working folder, told without running it.

Inside of a run `bigm.program` tells the same of the program that runs.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from bigm.bootstrap.records import Main


@dataclass(frozen=True)
class Described:
    """A program of this interpreter.

    Args:
        main: how its main module is run; paths are of this computer, absolute.
        sys_path: its search path, absolute.
        cwd: its working folder, absolute.
    """

    main: Main
    sys_path: tuple[str, ...]
    cwd: str


def describe(file: str, *, module: str = "") -> Described:
    """What `python FILE`, or `python -m MODULE`, would be, started here.

    Args:
        file: of the script, or of the module: that of its `__main__`, if it is a package.
        module: name of the module; "": FILE is run as a script.
    """
    file, cwd = os.path.abspath(file), os.getcwd()
    first = cwd if module else os.path.dirname(os.path.realpath(file))
    safe = getattr(sys.flags, "safe_path", False)  # of Python 3.11: -P, PYTHONSAFEPATH
    # Our own first entry is where the command `bigm` is, or the working folder.
    rest = sys.path if safe else sys.path[1:]
    path = (*([] if safe else [first]), *map(os.path.abspath, rest))
    return Described(_main(file, module), tuple(dict.fromkeys(path)), cwd)


def _main(file: str, module: str) -> Main:
    if not module:
        return Main("path", file, file)
    is_package = os.path.basename(file) == "__main__.py" and not module.endswith("__main__")
    return Main("module", f"{module}.__main__" if is_package else module, file)
