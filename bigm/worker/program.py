"""The user's program on a machine: how its main module is imported, and what `bigm.start` is there.

The rule is the one of multiprocessing's spawn. The main module is executed once more, under the name `__bigm_main__`,
so that what is guarded by `if __name__ == "__main__":` does not run. It stands in `sys.modules` under both names, and
on the driver too (`bigm.program.share_main`): classes pickled as `__main__.X` there and as `__bigm_main__.X` here are
found everywhere.

A program without a guard reaches its `bigm.start()` during that import: there it never returns, the worker serves.

Source: multiprocessing/spawn.py (prepare, _fixup_main_from_path) and runpy.py, which return copies of a module's
globals; here the module itself stays, so that a function sees the same globals as its callers.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import threading
import traceback
from importlib.machinery import ModuleSpec, PathFinder
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Callable, NoReturn, Optional

from bigm.bootstrap.records import Main
from bigm.errors import ConfigError, ProgramError

MAIN = "__bigm_main__"

_GUARD = 'what only the driver does belongs under `if __name__ == "__main__":`, which does not run on machines'

_serve: Optional[Callable[[], NoReturn]] = None  # set once, at the start of a worker process


def is_driver() -> bool:
    """Whether this process is the driver: False in the worker processes of machines."""
    return _serve is None


def become_machine(serve: Callable[[], NoReturn]) -> None:
    """Make this process a worker for good.

    Args:
        serve: says that the program is imported and answers calls until the process ends; never returns.
    """
    global _serve
    _serve = serve


def start(*args: object, **kwargs: object) -> NoReturn:
    """What `bigm.start` is on a machine: serves, and never returns.

    Raises:
        ConfigError: not reached by the import of the program but called by a service; the user's fault.
    """
    if _serve is None or threading.current_thread() is not threading.main_thread() or not _importing():
        raise ConfigError(
            "bigm.start() was called by a service on a machine",
            hint="machines form no clusters; what `setup(self, cluster)` is given can dial other machines",
        )
    _release_imports()
    _serve()


def import_main(main: Main) -> None:
    """Import the program's main module as `__bigm_main__`; returns at once where it has none.

    Raises:
        ProgramError: it raised, or ended by SystemExit; the message tells the user what and where. The user's fault.
    """
    if main.kind == "none":
        return
    module = ModuleType(MAIN)
    sys.modules[MAIN] = sys.modules["__main__"] = module
    try:
        exec(main_code(main, module), module.__dict__)
    except BaseException as error:
        raise ProgramError(_said(main, error)) from error


def main_code(main: Main, module: ModuleType) -> CodeType:
    """The code of a main module, and what Python tells *module* about itself before it is executed there.

    Args:
        main: of kind "path" or "module".
        module: new; its name may be another than "__main__".
    Raises:
        OSError, SyntaxError, ValueError, ModuleNotFoundError: as Python does; the user's fault.
    """
    return _code_from_path(main, module) if main.kind == "path" else _code_from_name(main, module)


def _code_from_path(main: Main, module: ModuleType) -> CodeType:
    """As `python value` does: nothing is read from or written to a bytecode cache."""
    module.__file__ = main.value
    with io.open_code(main.value) as file:
        return compile(file.read(), main.value, "exec", dont_inherit=True)


def _code_from_name(main: Main, module: ModuleType) -> CodeType:
    """As `python -m value` does; `__main__` itself is that of a folder or zip file which stands in `sys.path`."""
    spec = PathFinder.find_spec(main.value) if main.value == "__main__" else importlib.util.find_spec(main.value)
    code = _loaded(spec, main.value) if spec else None
    if spec is None or code is None:
        raise ModuleNotFoundError(f"No module named {main.value!r}", name=main.value)
    module.__file__ = spec.origin
    module.__spec__ = spec
    module.__loader__ = spec.loader
    module.__package__ = spec.parent
    return code


def _loaded(spec: ModuleSpec, name: str) -> Optional[CodeType]:
    get_code = getattr(spec.loader, "get_code", None)
    return get_code(name) if get_code else None


def _importing() -> bool:
    """Whether the main module is being executed further down the stack of this thread."""
    frame: Optional[FrameType] = sys._getframe()
    while frame is not None:
        if frame.f_code is import_main.__code__:
            return True
        frame = frame.f_back
    return False


def _release_imports() -> None:
    """Let other threads use modules whose import never ends, because it is what called `bigm.start()`.

    The import system lets a second thread wait for a module as long as it is marked so; unpickling a service whose
    class stands above an unguarded `bigm.start()` in such a module would wait for ever.
    """
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if isinstance(spec, ModuleSpec) and getattr(spec, "_initializing", False):
            spec._initializing = False  # type: ignore[attr-defined]  # private, and the same in 3.9 to 3.14


def _said(main: Main, error: BaseException) -> str:
    """The failure for the user: what was imported, what happened, what to try, and the traceback of the user's code."""
    where = main.value if main.kind == "path" else f"{main.value} ({main.file})"
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SystemExit):
        what = f"it called sys.exit({error.code!r})"
    shown = "".join(traceback.format_exception(type(error), error, _users_part(error.__traceback__))).rstrip()
    return f"the program's main module {where} could not be imported: {what}; {_advice(error)}\n{shown}"


def _advice(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return "the driver's Python may be newer than the machine's"
    if isinstance(error, ModuleNotFoundError):
        return f"sys.path there is {sys.path}"
    return _GUARD


def _users_part(trace: Optional[TracebackType]) -> Optional[TracebackType]:
    """*trace* without the frames above the user's own."""
    own = (__file__, importlib.util.__file__)
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file not in own and not file.startswith("<frozen importlib"):
            break
        trace = trace.tb_next
    return trace
