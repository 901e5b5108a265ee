"""The self-contained pex: one file that has a program, its distributions and bigm, and forms machines from itself.

pex builds it of the same three layers that travel to machines by `bigm run`: the dependency layer (`Dependencies`, one
for each platform), bigm's own modules, and the program's tree, which is data below `bigm.bundle.embedded.FOLDER`. Of
equal layers the file is equal, byte for byte: all in it has one date, and nothing of this computer is written down.

Where it runs, machines get the file itself as their dependency layer (`bundle_inside`), and make an environment of it
as of any other pex: neither an index nor a tool that builds anything is needed there.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bigm.bootstrap import trees
from bigm.bundle import embedded
from bigm.bundle.bundle import Bundle, Dependencies
from bigm.bundle.merged import merge
from bigm.bundle.pex import PexFailed, run_pex
from bigm.bundle.platforms import Platform
from bigm.bundle.snapshot import keep_bytes, keep_file
from bigm.bundle.sources import machine_tree, size_text
from bigm.errors import ConfigError, ProgramError
from bigm.manifest import File, Manifest
from bigm.parts import Parts

# Runs before pex does, in any Python: on another platform pex would list all wheels, and all tags that do not fit.
_PREAMBLE = """\
import os, sys
_here = ("macosx-" if sys.platform == "darwin" else "linux-") + os.uname()[4]
if _here not in [_name.replace("musl", "") for _name in {names}]:
    sys.stderr.write("bigm: %s is for %s, and this is %s\\n" % (sys.argv[0], ", ".join({names}), _here))
    sys.stderr.write("bigm: make it for that, too: bigm bundle --platform %s ...\\n" % _here)
    sys.exit(2)
"""

ENTRY_POINT = "bigm.cli.embedded:main"
_LAYOUT = ("--layout", "zipapp", "--venv", "prepend", "--sh-boot", "--include-tools")
_INFO = "PEX-INFO"  # pex's description of a pex, JSON
_ON_MACHINES = "__main__.py"  # the file, as the only one of the layer: what is run to make an environment


def build(
    output: Path, bundle: Bundle, platforms: Mapping[str, Platform], *, cache: Path, scie: bool = False
) -> list[Path]:
    """Make a self-contained pex.

    Args:
        output: the file, which is replaced when all has gone well.
        bundle: what is in it, with a dependency layer for each platform that it is to run on.
        platforms: those, by the names that `bundle.dependencies` has for them; "": that of this interpreter.
        cache: a folder for what is temporary, removed at the end.
        scie: make executables that have a Python in them, too: one for each platform, beside *output* and named like
            it. pex fetches what it needs for that.
    Returns:
        list: the files that were made, *output* first.
    Raises:
        ConfigError: as `check_output`.
        PexFailed: pex failed, with its words; or the disk is full.
    """
    check_output(output, scie=scie, platforms=[name for name in platforms if name])
    cache.mkdir(parents=True, exist_ok=True)
    names = sorted(platform.name for platform in platforms.values())
    program = embedded.Program(bundle.main, bundle.sys_path, bundle.cwd, bundle.python, tuple(names))
    with tempfile.TemporaryDirectory(prefix="pexfile-", dir=cache) as folder:
        work = Path(folder)
        lay_out(program, bundle.program, bundle.machine, bundle.store, str(work / "sources"))
        (work / "preamble.py").write_text(_PREAMBLE.format(names=names))
        layers = [(platforms[name], layer) for name, layer in sorted(bundle.dependencies.items())]
        requirements = merge(layers, bundle.store, work / "layer")
        arguments = ["--pex-repository", str(work / "layer"), "--intransitive", *requirements]
        arguments += ["--sources-directory", str(work / "sources"), "--preamble-file", str(work / "preamble.py")]
        arguments += ["--entry-point", ENTRY_POINT, *_LAYOUT, *_targets(platforms, work)]
        made = work / "made" / output.name
        made.parent.mkdir()
        # A cache of its own: pex would take a distribution that was patched in place for the one it knows.
        run = functools.partial(run_pex, output=made, root=work / "root", work=work / "tmp")
        if scie:
            _with_python(run, [*arguments, "--scie", "eager", "--scie-python-version", bundle.python])
        else:
            run(arguments)
        return [_deliver(path, output) for path in sorted(made.parent.iterdir(), key=lambda path: path != made)]


def _targets(platforms: Mapping[str, Platform], work: Path) -> list[str]:
    """What tells pex what its file is for: nothing where that is this interpreter."""
    found = ["--python", sys.executable] if "" in platforms and len(platforms) > 1 else []
    for name, platform in sorted(platforms.items()):
        if name:
            (work / f"{name}.json").write_text(platform.to_json())
            found += ["--complete-platform", str(work / f"{name}.json")]
    return found


def _with_python(run: Callable[[list[str]], None], arguments: list[str]) -> None:
    try:
        run(arguments)
    except PexFailed as error:
        raise PexFailed(
            f"an executable with a Python in it cannot be made: {error.message}",
            hint="pex fetches a Python and a launcher for it from GitHub; leave out --scie to have the .pex alone",
        ) from error


def check_output(output: Path, *, scie: bool = False, platforms: Sequence[str] = ()) -> None:
    """Find out whether *output* could be written, before much is done for it.

    Args:
        output: the file.
        scie: executables are to be made beside it.
        platforms: names of those that it is for, where they were chosen.
    Raises:
        ConfigError: it is a folder, or its folder does not exist or may not be written; or something else than
            `bigm bundle` has made the file that is there.
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
    executable = output.with_suffix("")  # as pex names it; with the platform behind, where there are several
    beside = [executable, *(executable.with_name(f"{executable.name}-{name}") for name in platforms)]
    for path in (output, *(beside if scie else ())):
        _check_ours(path)


def _check_ours(path: Path) -> None:
    """Replace nothing but what was made here: a slip of the keyboard must not cost the program's source."""
    if path.exists() and not embedded.is_made(str(path)):
        raise ConfigError(
            f"{path} exists, and `bigm bundle` has not made it: it is left as it is",
            hint="remove it, or name another file: -o FILE.pex",
        )


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
        kept = _keep_pex(store, path)
    keep_bytes(store, tree.to_bytes())
    layer = Manifest([kept])
    keep_bytes(store, layer.to_bytes())
    python = "{}.{}".format(*sys.version_info)
    names = tuple(sorted(text.partition(";")[0].replace("==", " ") for text in distributions))
    return Bundle(
        program=tree,
        machine=machine_tree(store),
        dependencies=dict.fromkeys(program.platforms, Dependencies(layer, f"pexfile-{kept.digest}", python, names)),
        sys_path=program.sys_path,
        main=program.main,
        cwd=program.cwd,
        python=python,
        store=store,
    )


def _keep_pex(store: Parts, path: str) -> File:
    """Have the pex in the store: all of the file, or what of it is the pex in an executable that has a Python, too.

    Source: "Packaging a scie executable" of scie-jump: a launcher, files of which the last is a zip, a line of JSON.
    """
    if embedded.is_pexfile(path):
        return File(_ON_MACHINES, *keep_file(store, path))
    data = Path(path).read_bytes()
    end = data.rindex(embedded.END_OF_ZIP)
    size, offset = struct.unpack_from("<II", data, end + 12)  # of the zip's directory, which lies just before its end
    data = data[end - size - offset : end + embedded.END_SIZE]
    return File(_ON_MACHINES, keep_bytes(store, data), len(data))


def _info(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)
    return found


def _deliver(made: Path, beside: Path) -> Path:
    """Move a file to where it is wanted, at once, though that may be another disk; returns its path."""
    output = beside.with_name(made.name)
    _check_ours(output)  # again: pex names what it makes besides, and that took a while
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        shutil.copyfile(made, unfinished)
        unfinished.chmod(made.stat().st_mode & 0o777)
        unfinished.replace(output)
        return output
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        size, free = made.stat().st_size, shutil.disk_usage(output.absolute().parent).free
        raise ConfigError(
            f"cannot write {output}: {error.strerror}; it has {size_text(size)}, and {size_text(free)} are free there",
            hint="make room, or name another file: -o FILE.pex",
        ) from error
