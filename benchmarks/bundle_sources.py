"""A program's files, collected a second time with nothing changed, against hashing them.

The limit is what anything must do that names files by their content: list the folders, read and hash each file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure import Row, alternate

from bigm.bundle.layout import find_layout
from bigm.bundle.sources import collect, machine_tree
from bigm.parts import Parts

FILES = 1000
OF_A_BIG_PROJECT = 10_000


def rows(repeats: int) -> list[Row]:
    """The second run of projects of the standard library's own files, in folders of forty; and of bigm itself."""
    return [row for count in (FILES, OF_A_BIG_PROJECT) for row in _project(count, repeats)] + [_own(repeats)]


def _project(count: int, repeats: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app"
        size = _fill(app, count)
        store = Parts(folder + "/parts")
        begin = time.perf_counter()
        _collect(app, store)
        first = time.perf_counter() - begin
        found = alternate(
            {
                "ours": lambda: _timed(lambda: _collect(app, store)),
                "hash": lambda: _timed(lambda: _hash(app)),
                "cpu": lambda: _timed(lambda: _collect(app, store), time.process_time),
            },
            repeats,
        )
    what = f"bundle step, {count:,} source files, {size / 1e6:.0f} MB, nothing changed"
    ours, limit = f"{found['ours'] * 1e3:.1f} ms", f"{found['hash'] * 1e3:.1f} ms (hashing the tree)"
    note = f"the first time, which copies all: {first * 1e3:.0f} ms"
    made = [Row(what, ours, limit, found["ours"] / found["hash"], reach=3, aim=2, note=note)]
    if count == FILES:
        cpu = found["cpu"] * 1e3  # what it takes on a computer that does nothing else: it is one thread
        made.append(Row(f"{what}: CPU time", f"{cpu:.1f} ms", "", cpu, reach=100, aim=60, unit="ms"))
    return made


def _own(repeats: int) -> Row:
    """bigm's own modules, which each bundle has."""
    with tempfile.TemporaryDirectory() as folder:
        store = Parts(folder)
        machine_tree(store)
        ours = alternate({"ours": lambda: _timed(lambda: machine_tree(store))}, repeats)["ours"]
    return Row("bundle step, bigm's own modules", f"{ours * 1e3:.1f} ms", "", ours * 1e3, unit="ms")


def _fill(app: Path, count: int) -> int:
    """A script and *count* files like those of the standard library; returns their bytes."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts and path.is_file())
    size = 0
    for number in range(count):
        target = app / f"package{number // 40}" / f"module{number}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources[number % len(sources)], target)
        with open(target, "a") as file:
            file.write(f"\n# {number}\n")  # no two are equal
        size += target.stat().st_size
    (app / "main.py").write_text("")
    return size


def _collect(app: Path, store: Parts) -> None:
    collect(find_layout(str(app / "main.py"), [str(app)], str(app)), store)


def _hash(app: Path) -> None:
    for folder, _, names in os.walk(app):
        for name in names:
            with open(os.path.join(folder, name), "rb", buffering=0) as file:
                hashlib.sha256(file.read()).hexdigest()


def _timed(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    begin = clock()
    run()
    return clock() - begin
