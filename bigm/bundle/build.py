"""Makes the bundle of a program, mostly the one that runs: its files, bigm's modules and the environment's
distributions, as they are now.

A second run of the same program finds all but what was edited in the driver's store, and starts nothing.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType

from bigm.bootstrap.records import Main
from bigm.bundle import embedded
from bigm.bundle.bundle import Bundle, Dependencies
from bigm.bundle.described import Described
from bigm.bundle.driving import check_drives, driving
from bigm.bundle.layout import Layout, find_layout, project_of
from bigm.bundle.origins import Cache, Origins, layers_for
from bigm.bundle.pexfile import bundle_inside
from bigm.bundle.programs import Programs
from bigm.bundle.requirements import check_python, read_block
from bigm.bundle.sources import Rules, collect, machine_tree
from bigm.config import FLAGS_VARIABLE
from bigm.errors import ProgramError
from bigm.parts import Parts
from bigm.program import main_module, search_path


def cache_folder(home: Path) -> Path:
    """Where the driver keeps what it may need again, in bigm's folder *home*."""
    return home / "cache"


def driver_parts(home: Path) -> Parts:
    """The driver's own store of parts."""
    return Parts(str(cache_folder(home) / "parts"))


def make_bundle(
    home: Path,
    rules: Rules,
    *,
    requirements: str = "",
    tell: Callable[[str], None],
    progress: Callable[[str], None] = lambda text: None,
) -> Bundle:
    """Make the bundle of this process's program.

    Its files are copied into the driver's store: whatever is edited from now on, machines run what is in it. In a
    self-contained pex the bundle is what the file has inside.

    Args:
        home: bigm's folder of this user.
        rules: what of the program's files travels.
        requirements: path of a file that says what it depends on; "": as `bigm.bundle.origins` finds it.
        tell: told what the user should know.
        progress: told in a few words what takes time.
    Raises:
        ProgramError: a file cannot be read, more would travel than may, or the main module would not.
        ConfigError: the environment cannot be bundled.
        BigmError: the store cannot be written.
    """
    if embedded.current() is not None:
        store = driver_parts(home)
        kept = Programs(cache_folder(home), store)
        with kept.adding():
            inside = bundle_inside(store)
            layers = [layer.manifest for layer in inside.dependencies.values()]
            hold = kept.use(inside.program, inside.machine, *layers)
        kept.prune()
        return replace(inside, hold=hold)
    program = Described(main_module(), search_path(), _working_folder())
    return bundle_program(
        program,
        home,
        rules,
        requirements=requirements,
        checked=f'{{"pid": {os.getpid()}}}' in os.environ.get(FLAGS_VARIABLE, ""),
        modules=None,
        tell=tell,
        progress=progress,
    )


def bundle_program(
    program: Described,
    home: Path,
    rules: Rules,
    *,
    requirements: str = "",
    platforms: Sequence[str] = (),
    drives: bool = False,
    checked: bool = False,
    tell: Callable[[str], None],
    progress: Callable[[str], None] = lambda text: None,
    modules: Mapping[str, ModuleType] | None = MappingProxyType({}),
) -> Bundle:
    """Make the bundle of a program that this interpreter could run.

    Args:
        program: how it would run.
        home, rules, requirements, tell, progress: as for `make_bundle`, which also says what is raised.
        platforms: names of those that it has distributions for; none: for machines like this computer.
        drives: a driver is to run from it too, which needs what bigm depends on.
        checked: `bigm run` has said already what of the script's block is not installed here.
        modules: what it has imported; None: what this process has.
    """
    origins = origins_of(program, requirements)
    layout = find_layout(program.main.file, program.sys_path, program.cwd, modules=modules, wanted=origins.names())
    main = place_main(program.main, layout)
    store = driver_parts(home)
    kept = Programs(cache_folder(home), store)
    with kept.adding():
        collected, machine = collect(layout, store, rules), machine_tree(store)
        hold = kept.use(collected.manifest, machine)
    kept.prune()
    if not checked and (lacking := origins.lacking()):
        tell(lacking)
    layers = _layers(driving(origins) if drives else origins, platforms, Cache(store, cache_folder(home), progress))
    for note in dict.fromkeys([*collected.notes, *(note for layer in layers.values() for note in layer.notes)]):
        tell(note)
    if drives:
        check_drives(layers.values())
    return Bundle(
        program=collected.manifest,
        machine=machine,
        dependencies=layers,
        sys_path=layout.search_path,
        main=main,
        cwd=layout.cwd,
        python="{}.{}".format(*sys.version_info),
        store=store,
        left_out=collected.left_out,
        origins=origins,
        hold=hold,
    )


def _layers(origins: Origins, platforms: Sequence[str], cache: Cache) -> dict[str, Dependencies]:
    if not platforms:
        return {"": origins.own_layer(cache)}
    return {platform.name: layer for platform, layer in layers_for(platforms, origins, cache)}


def origins_of(program: Described, requirements: str = "") -> Origins:
    """What says which distributions a program needs.

    Args:
        program: how it would run.
        requirements: path of a file that says it; "".
    Raises:
        ProgramError: the script's own block means nothing, or it is for other Pythons.
    """
    script = Path(program.main.file) if program.main.file else None
    block = read_block(script) if script else None
    if block is not None:
        check_python(block, platform.python_version())
    project = project_of(os.path.realpath(script.parent if script else program.cwd))
    given = Path(requirements).expanduser().absolute() if requirements else None
    return Origins(sys.executable, given=given, block=block, project=Path(project))


def place_main(main: Main, layout: Layout) -> Main:
    """How the main module is imported on machines, with paths in the tree.

    Raises:
        ProgramError: it is a file that lies nowhere in the tree.
    """
    file = layout.place(main.file) if main.file else None
    if main.kind != "path":
        return main._replace(file=file or "")
    if file is None:
        raise ProgramError(
            f"the script {main.value} is among the interpreter's own files, which do not travel",
            hint="run it with -m, or from a folder of your own",
        )
    return main._replace(value=file, file=file)


def _working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.path.dirname(main_module().file) or "/"  # it was removed: it matters for where the program lies only
