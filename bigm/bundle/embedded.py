"""The program inside a self-contained pex: found in the environment that pex has made of the file, and executed.

A pex has the program's tree as data, below `_bigm_program/`, beside what says how it is run (`program.json`) and what
is in it (`manifest.json`, of which machines' bundles are made and which a start does not read). `bigm.bundle.pexfile`
writes and reads the file; this module lies on the program's path and imports next to nothing.

The program is to be the same as under `bigm run`: same main module, same order of `sys.path`, same traceback.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, NamedTuple

import bigm
from bigm.bootstrap.records import Main
from bigm.bundle.bundle import PROGRAM, SITE
from bigm.errors import ProgramError
from bigm.worker import program as programs

if TYPE_CHECKING:
    import zipfile

FOLDER = "_bigm_program"  # in the file, and in the site-packages of the environment made of it
TREE = f"{FOLDER}/tree"
FACTS = f"{FOLDER}/program.json"
MANIFEST = f"{FOLDER}/manifest.json"
FORMAT = 1  # of FACTS

_MARK = "__bigm_program__"  # in the main module of a program that `run` runs

FILE_VARIABLE = "PEX"  # pex's own: the file that the environment was made of


END_OF_ZIP = b"PK\x05\x06"  # what the last bytes of a zip file begin with
END_SIZE = 22  # how many those are, without a comment, which pex writes none of


class Program(NamedTuple):
    """A program inside a pex, as FACTS tells it.

    Args:
        main: how its main module is run; `value` (of kind "path") and `file` are paths in the tree.
        sys_path: its order, as pairs of place (as in `Bundle.sys_path`) and path.
        cwd: its working folder on machines, in the tree; "" is the tree's root.
        python: minor version of Python it was made with, "3.11".
        platforms: what it runs on, "linux-x86_64", sorted.
    """

    main: Main
    sys_path: tuple[tuple[str, str], ...]
    cwd: str
    python: str
    platforms: tuple[str, ...]

    def to_json(self) -> str:
        """The same text for the same program."""
        return json.dumps({"format": FORMAT, **self._asdict()}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is something else, or of a later format.
        """
        facts = json.loads(text)
        if facts["format"] != FORMAT:
            raise ValueError(f"it has format {facts['format']}, and this is bigm {bigm.__version__}")
        entries = tuple((str(place), str(path)) for place, path in facts["sys_path"])
        return cls(Main(*facts["main"]), entries, str(facts["cwd"]), str(facts["python"]), tuple(facts["platforms"]))


def is_pexfile(path: str) -> bool:
    """Whether *path* is a self-contained pex, made by `bigm bundle`. Reads a few bytes of what is no zip file."""
    try:
        with open(path, "rb") as file:
            file.seek(-END_SIZE, os.SEEK_END)
            if not file.read().startswith(END_OF_ZIP):
                return False
        with opened(path) as archive:
            return FACTS in archive.namelist()
    except (OSError, ProgramError):
        return False


def is_made(path: str) -> bool:
    """Whether *path* was made by `bigm bundle`: a self-contained pex, or an executable that has one and a Python."""
    try:
        with opened(path) as archive:
            return FACTS in archive.namelist()
    except ProgramError:
        return False


def read_program(path: str) -> Program:
    """The program inside a self-contained pex.

    Raises:
        ProgramError: it cannot be read, or is of a later version.
    """
    with opened(path) as archive:
        return Program.from_json(archive.read(FACTS).decode("ascii"))


@contextmanager
def opened(path: str) -> Iterator[zipfile.ZipFile]:
    """A self-contained pex for reading; what goes wrong inside is said as a fault of the file.

    Raises:
        ProgramError: it cannot be read, or has not what was read from it.
    """
    import zipfile  # which a start does without

    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        hint = "make it anew with `bigm bundle`"
        raise ProgramError(f"cannot read the program in {path or 'its pex'}: {error}", hint=hint) from error


def site_folder() -> str:
    """Where bigm is installed: in a self-contained pex beside the program."""
    return os.path.dirname(os.path.dirname(os.path.abspath(bigm.__file__)))


def current() -> Program | None:
    """The program of a self-contained pex that this process runs; None when it runs another one."""
    found: Program | None = getattr(sys.modules["__main__"], _MARK, None)
    return found


def find() -> Program:
    """The program inside the pex that this process runs.

    Raises:
        OSError, ValueError, KeyError, TypeError: there is none, or it is of a later version.
    """
    with open(os.path.join(site_folder(), FACTS), encoding="ascii") as file:
        return Program.from_json(file.read())


def run(program: Program, arguments: Sequence[str]) -> None:
    """Run *program* as this process's main module, with *arguments* behind its name in `sys.argv`; its errors pass."""
    tree = os.path.join(site_folder(), TREE)
    sys.path[:] = search_path(program.sys_path, tree, site_folder(), sys.path)
    main = program.main
    if main.kind == "path":
        main = main._replace(value=os.path.join(tree, main.value))
    module = ModuleType("__main__")
    setattr(module, _MARK, program)
    boot, sys.modules["__main__"] = sys.modules["__main__"], module
    led_here = (getattr(boot, "__file__", ""), __file__, programs.__file__, sys._getframe(1).f_code.co_filename)
    sys.excepthook = _Hook(led_here)
    code = programs.main_code(main, module)
    sys.argv[:] = [str(module.__file__), *arguments]
    exec(code, module.__dict__)


def search_path(entries: Sequence[tuple[str, str]], tree: str, site: str, current: Sequence[str]) -> list[str]:
    """`sys.path` in the order that *entries* tell, from what this interpreter has.

    Args:
        entries: pairs of place and path.
        tree: folder of the program's tree.
        site: the environment's site-packages.
        current: this interpreter's own; what of it is not of the environment is the standard library.
    """
    environment = os.path.dirname(os.path.dirname(os.path.dirname(site)))  # .../lib/python3.11/site-packages
    rest = [entry for entry in current if not (entry + os.sep).startswith(environment + os.sep)]
    found: list[str] = []
    for place, path in entries:
        if place in (PROGRAM, SITE):
            found.append(os.path.join(tree if place == PROGRAM else site, path).rstrip(os.sep))
        else:
            found += rest
    return list(dict.fromkeys(found))


class _Hook:
    """Shows an exception as Python does, without the frames that led to the program. `bigm.session` hooks before it.

    Args:
        own: files whose frames are not the program's.
    """

    def __init__(self, own: Sequence[str]) -> None:
        self._own = frozenset(own)

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        while trace is not None and trace.tb_frame.f_code.co_filename in self._own:
            trace = trace.tb_next
        sys.__excepthook__(kind, error.with_traceback(trace), trace)
