"""The self-contained pex: one file that has a program, its distributions and bigm, and forms machines from itself.

pex builds it of the same three layers that travel to machines by `bigm run`: the dependency layer (`Dependencies`, one
for each platform), bigm's own modules, and the program's tree, which is data below `bigm.bundle.embedded.FOLDER`. Of
equal layers the file is equal, byte for byte: all in it has one date, and nothing of this computer is written down.

Where it runs, machines get the file itself as their dependency layer (`bundle_inside`), and make an environment of it
as of any other pex: neither an index nor a tool that builds anything is needed there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bigm.bootstrap import trees
from bigm.bundle import embedded
from bigm.bundle.bundle import Bundle, Dependencies
from bigm.bundle.pex import run_pex
from bigm.bundle.snapshot import keep_bytes, keep_file
from bigm.bundle.sources import machine_tree
from bigm.errors import ConfigError, ProgramError
from bigm.manifest import File, Manifest
from bigm.parts import Parts

ENTRY_POINT = "bigm.cli.embedded:main"
_LAYOUT = ("--layout", "zipapp", "--venv", "prepend", "--sh-boot", "--include-tools")
_INFO = "PEX-INFO"  # pex's description of a pex, JSON
_ON_MACHINES = "__main__.py"  # the file, as the only one of the layer: what is run to make an environment


def build(output: Path, bundle: Bundle, *, cache: Path, options: Iterable[str] = ()) -> None:
    """Make a self-contained pex.

    Args:
        output: the file, which is replaced when all has gone well.
        bundle: what is in it, with a dependency layer for each platform that it is to run on.
        cache: a folder for what is temporary, removed at the end.
        options: further ones for pex.
    Raises:
        ConfigError: the output cannot be written.
        PexFailed: pex failed, with its words; or the disk is full.
    """
    check_output(output)
    cache.mkdir(parents=True, exist_ok=True)
    program = embedded.Program(bundle.main, bundle.sys_path, bundle.cwd, bundle.python)
    with tempfile.TemporaryDirectory(prefix="pexfile-", dir=cache) as folder:
        work = Path(folder)
        lay_out(program, bundle.program, bundle.machine, bundle.store, str(work / "sources"))
        requirements = _lay_out_layers(list(bundle.dependencies.values()), bundle.store, work)
        made = work / output.name
        arguments = ["--pex-repository", str(work / "layer"), "--intransitive", *requirements]
        arguments += ["--sources-directory", str(work / "sources"), "--entry-point", ENTRY_POINT]
        # A cache of its own: pex would take a distribution that was patched in place for the one it knows.
        run_pex([*arguments, *_LAYOUT, *options], made, root=work / "root", work=work / "tmp")
        _deliver(made, output)


def check_output(output: Path) -> None:
    """Find out whether *output* could be written, before much is done for it.

    Raises:
        ConfigError: it is a folder, or its folder does not exist or may not be written.
    """
    folder = output.absolute().parent
    if output.is_dir():
        raise ConfigError(f"cannot write {output}: it is a folder", hint="name a file in it: -o FILE.pex")
    if not folder.is_dir():
        raise ConfigError(
            f"cannot write {output}: there is no folder {folder}", hint="make it, or name another: -o FILE.pex"
        )
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {output}: {folder} may not be written", hint="name another file: -o FILE.pex")


def lay_out(program: embedded.Program, tree: Manifest, machine: Manifest, store: Parts, folder: str) -> None:
    """Make *folder* the sources of a self-contained pex: bigm, and the program as data.

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
    for name, content in ((embedded.MANIFEST, tree.to_bytes()), (embedded.FACTS, program.to_json().encode("ascii"))):
        Path(folder, name).write_bytes(content)


def bundle_inside(store: Parts) -> Bundle:
    """What machines run of the self-contained pex that this process runs; nothing of it is looked for elsewhere.

    Args:
        store: gets what it lacks of it.
    Raises:
        ProgramError: the file is gone, or has been replaced by another meanwhile.
    """
    path = os.environ.get(embedded.FILE_VARIABLE, "")
    with embedded.opened(path) as archive:
        if _info(archive.read(_INFO)) != _info(Path(sys.prefix, _INFO).read_bytes()):
            raise ProgramError(f"{path} is no longer what this program was started from", hint="start it again")
        program = embedded.find()
        tree = Manifest.from_bytes(archive.read(embedded.MANIFEST))
        for file in tree.files:
            if store.have([file.digest]):
                keep_bytes(store, archive.read(f"{embedded.TREE}/{file.path}"))
        distributions = _info(archive.read(_INFO))["requirements"]
    keep_bytes(store, tree.to_bytes())
    kept = keep_file(store, path)
    layer = Manifest([File(_ON_MACHINES, *kept)])
    keep_bytes(store, layer.to_bytes())
    python = "{}.{}".format(*sys.version_info)
    names = tuple(sorted(text.replace("==", " ") for text in distributions))
    return Bundle(
        program=tree,
        machine=machine_tree(store),
        dependencies={"": Dependencies(layer, f"pexfile-{kept.digest}", python, names)},
        sys_path=program.sys_path,
        main=program.main,
        cwd=program.cwd,
        python=python,
        store=store,
    )


def _info(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)
    return found


def _lay_out_layers(layers: Sequence[Dependencies], store: Parts, work: Path) -> list[str]:
    """Make `work/layer`, one packed pex of all *layers*; returns its requirements."""
    target = work / "layer"
    for number, layer in enumerate(layers):
        folder = work / f"layer-{number}"
        trees.write(layer.manifest, store, str(folder), work=str(work))
        if not number:
            folder.rename(target)
            continue
        for wheel in (folder / ".deps").iterdir():
            if not (target / ".deps" / wheel.name).exists():
                wheel.rename(target / ".deps" / wheel.name)
        info, more = _info((target / _INFO).read_bytes()), _info((folder / _INFO).read_bytes())
        info["distributions"] |= more["distributions"]
        info["requirements"] = sorted({*info["requirements"], *more["requirements"]})
        (target / _INFO).write_text(json.dumps(info))
    return sorted(_info((target / _INFO).read_bytes())["requirements"])


def _deliver(made: Path, output: Path) -> None:
    """Move a file to where it is wanted, at once, though that may be another disk."""
    fd, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.absolute().parent)
    try:
        with open(made, "rb") as source, open(fd, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        os.chmod(name, made.stat().st_mode & 0o777)
        os.replace(name, output)
    except OSError as error:
        free = shutil.disk_usage(output.absolute().parent).free >> 20
        raise ConfigError(
            f"cannot write {output}: {error.strerror} ({made.stat().st_size >> 20} MB are needed, {free} MB are free)",
            hint="name another file: -o FILE.pex",
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)
