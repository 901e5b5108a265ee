"""The driver's program, as it is described to machines: its main module, and where its modules are found.

What the machines do with it is in `bigm.worker.program`.
"""

from __future__ import annotations

import os
import sys

from bigm.bootstrap.records import Main
from bigm.errors import ProgramError
from bigm.worker.program import MAIN, is_driver

__all__ = ["alias_main", "interpreter_options", "is_driver", "main_module", "require_import_path", "search_path"]

# Programs that run other people's code: their own main module means nothing to a machine, and may run tests when
# imported (unittest's does).
_RUNNERS = frozenset({"pytest", "py.test", "unittest", "ipython", "ipykernel", "ipykernel_launcher"})


def main_module() -> Main:
    """How this program's main module is imported on a machine; kind "none" at a prompt, in a notebook, under pytest."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    file = os.path.abspath(getattr(main, "__file__", None) or "")
    if spec is not None:
        runner = spec.name.partition(".")[0].lower() in _RUNNERS
        return Main() if runner else Main("module", spec.name, file)
    # `python -c`, a prompt and standard input have no file; a notebook may name one that does not exist.
    if not os.path.isfile(file) or os.path.basename(file).lower() in _RUNNERS:
        return Main()
    return Main("path", file, file)


def alias_main() -> None:
    """Let what a machine pickles as of its main module be found here."""
    sys.modules[MAIN] = sys.modules["__main__"]


def search_path() -> tuple[str, ...]:
    """`sys.path`, in its order, such that it means the same in another working folder."""
    return tuple(os.path.abspath(entry) for entry in sys.path)


def interpreter_options() -> dict[str, str]:
    """The options this interpreter was given (-O, -W, -X dev, -X utf8, -B), as the variables that mean the same."""
    options = {
        "PYTHONOPTIMIZE": str(sys.flags.optimize or ""),
        "PYTHONWARNINGS": ",".join(sys.warnoptions),
        "PYTHONDEVMODE": "1" if sys.flags.dev_mode else "",
        "PYTHONUTF8": "1" if sys.flags.utf8_mode else "",
        "PYTHONDONTWRITEBYTECODE": "1" if sys.flags.dont_write_bytecode else "",
    }
    return {name: value for name, value in options.items() if value}


def require_import_path(service: object) -> None:
    """Refuse a service whose class no machine could import.

    Raises:
        ProgramError: it is defined at a prompt, in `python -c` or on standard input. The user's fault.
    """
    cls = type(service)
    if cls.__module__ == "__main__" and main_module().kind == "none":
        raise ProgramError(
            f"machines cannot import class {cls.__qualname__}: it was defined at a prompt, in a notebook, "
            "in `python -c` or on standard input",
            hint="define it in a file, and import it from there",
        )
