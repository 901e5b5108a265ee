"""The driver's program, as it is described to machines: its main module, and where its modules are found.

What the machines do with it is in `bigm.worker.program`.
"""

from __future__ import annotations

import os
import sys

from bigm.bootstrap.records import Main
from bigm.rpc import codec
from bigm.worker.program import MAIN, is_driver

__all__ = ["interpreter_options", "is_driver", "main_module", "search_path", "share_main"]

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


def share_main() -> None:
    """Let what machines and this process pickle of its main module be found on the other side.

    A machine names things `__bigm_main__.X`. What it could not import from here (a prompt, a notebook, and whatever is
    added to a program by `python -i`) travels by value.
    """
    sys.modules[MAIN] = sys.modules["__main__"]
    if main_module().kind == "none" or sys.flags.interactive:
        codec.send_main_by_value()


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
