"""Runs a program as Python would, and lays out what of it would travel: `travelling.py OUT (-m MODULE | FILE)`.

Prints one line of JSON: what the program printed, and how a machine would run it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path

from bigm.bundle.interpreter import Interpreter
from bigm.bundle.layout import find_layout
from bigm.bundle.sources import collect
from bigm.parts import Parts


def travel(out: Path, words: list[str]) -> dict[str, object]:
    """Run the program and lay its tree out below *out*."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        if words[0] == "-m":
            sys.path[0] = os.getcwd()
            spec = importlib.util.find_spec(words[1])
            script = spec.origin if spec else ""
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            script = os.path.abspath(words[0])
            sys.path[0] = os.path.dirname(os.path.realpath(script))
            runpy.run_path(script, run_name="__main__")
    mine = Interpreter.current()
    others = tuple(filter(None, os.environ.get("TEST_SITE", "").split(":")))  # of the tests' own environment
    layout = find_layout(
        script or "",
        list(map(os.path.abspath, sys.path)),
        os.getcwd(),
        interpreter=replace(mine, site=mine.site + others),
    )
    store = Parts(str(out / "parts"))
    collected = collect(layout, store)
    tree = out / "tree"
    for file in collected.manifest.files:
        (tree / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tree / file.path).write_bytes(Path(store.path(file.digest)).read_bytes())
    return {
        "printed": printed.getvalue(),
        "files": [file.path for file in collected.manifest.files],
        "notes": collected.notes,
        "search_path": layout.search_path,
        "cwd": layout.cwd,
        "script": layout.place(script) if script else None,
    }


if __name__ == "__main__":
    print(json.dumps(travel(Path(sys.argv[1]), sys.argv[2:])))
