"""The self-contained pex: one file that has a program, its distributions and bigm, and forms machines from itself.

pex builds it of three things, the same that travel to machines by `bigm run`:

* the distributions of the environment, frozen, bigm left out;
* bigm's own modules as they are here, with the metadata that tells its systems (`bigm.systems.base.find_system`);
* the program's tree as data, below `bigm.bundle.embedded.FOLDER`.

Of equal inputs the file is equal, byte for byte: files have one date, and nothing of this computer is written down.

Where it runs, machines get the file itself as their dependency layer, so that neither an index nor pex is needed.
"""

from __future__ import annotations

import os
import zipfile
from importlib.metadata import distribution

from bigm.bootstrap import trees
from bigm.bundle import embedded
from bigm.errors import ProgramError
from bigm.manifest import Manifest
from bigm.parts import Parts

ENTRY_POINT = "bigm.cli.embedded:main"
_METADATA = ("METADATA", "entry_points.txt")  # what importlib.metadata is asked for
_END_OF_ZIP = b"PK\x05\x06"
_END_SIZE = 22  # bytes, without a comment, which pex writes none of


def is_pexfile(path: str) -> bool:
    """Whether *path* is a self-contained pex, made by `bigm bundle`. Reads a few bytes of what is no zip file."""
    try:
        with open(path, "rb") as file:
            file.seek(-_END_SIZE, os.SEEK_END)
            if not file.read().startswith(_END_OF_ZIP):
                return False
        with zipfile.ZipFile(path) as archive:
            return embedded.FACTS in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def read_program(path: str) -> embedded.Program:
    """The program inside a self-contained pex.

    Raises:
        ProgramError: it cannot be read, or is of a later version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return embedded.Program.from_json(archive.read(embedded.FACTS).decode("ascii"))
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        hint = "make it anew with `bigm bundle`"
        raise ProgramError(f"cannot read the program in {path}: {error}", hint=hint) from error


def lay_out(program: embedded.Program, tree: Manifest, machine: Manifest, store: Parts, folder: str) -> None:
    """Make *folder* the sources of a self-contained pex: bigm with its metadata, and the program as data.

    Args:
        program: how it is run.
        tree: its files.
        machine: bigm's modules.
        store: has the content of both.
        folder: to be made.
    """
    trees.write(machine, store, folder, work=os.path.dirname(folder))
    own = os.path.join(folder, embedded.FOLDER)
    os.mkdir(own)
    trees.write(tree, store, os.path.join(folder, embedded.TREE), work=own)
    _write(os.path.join(folder, embedded.MANIFEST), tree.to_bytes())
    _write(os.path.join(folder, embedded.FACTS), program.to_json().encode("ascii"))
    bigm = distribution("bigm")
    metadata = os.path.join(folder, f"bigm-{bigm.version}.dist-info")
    os.mkdir(metadata)
    for name in _METADATA:
        text = bigm.read_text(name)
        if text is not None:
            _write(os.path.join(metadata, name), text.encode())


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
    os.utime(path, (trees.MTIME, trees.MTIME))
