"""What is said of a bundle: every file and distribution, with its size."""

from __future__ import annotations

import json
import os

from bigm.bootstrap.records import Main
from bigm.bundle.bundle import Bundle, Dependencies
from bigm.bundle.listing import Line, facts, listing, texts, totals
from bigm.manifest import File, Manifest
from bigm.parts import Parts

DIGEST = "ab" * 32


def made(*program: File, left_out: tuple[str, ...] = ()) -> Bundle:
    layer = Manifest(
        [
            File("PEX-INFO", DIGEST, 100),
            File(".deps/numpy-2.1.0-cp311-cp311-linux_x86_64.whl", DIGEST, 5_000_000),
            File(".deps/ruamel.yaml-0.18-py3-none-any.whl", DIGEST, 2000),
        ]
    )
    names = ("numpy 2.1.0", "odd 1.0", "ruamel-yaml 0.18")
    return Bundle(
        program=Manifest(program),
        machine=Manifest([File("bigm/__init__.py", DIGEST, 1000)]),
        dependencies={"": Dependencies(layer, "key", "3.11", names)},
        sys_path=(("program", "app"),),
        main=Main(),
        cwd="app",
        python="3.11",
        store=Parts("/nowhere"),
        left_out=left_out,
    )


def test_every_file_and_every_distribution_is_listed_with_its_size():
    left_out = ("/project/app/.git",)
    bundle = made(File("app/main.py", DIGEST, 10), File("app/data.csv", DIGEST, 2500), left_out=left_out)
    assert [
        Line("program", "app/data.csv", 2500),
        Line("program", "app/main.py", 10),
        Line("distributions", "numpy 2.1.0", 5_000_000),
        Line("distributions", "odd 1.0", None),
        Line("distributions", "ruamel-yaml 0.18", 2000),
        Line("left out", "/project/app/.git"),
    ] == listing(bundle)
    assert [
        Line("program", "2 files", 2510),
        Line("distributions", "3", 5_002_100),
        Line("bigm", "1 files", 1000),
    ] == totals(bundle)


def test_sizes_are_for_people_and_names_stay_on_one_line():
    odd = "app/a\nb" + os.fsdecode(b"\xe9") + "ü"
    assert [["program", "app/a\\nb\\udce9ü", "2.5 kB"], ["left out", "/x", ""]] == texts(
        [Line("program", odd, 2500), Line("left out", "/x")]
    )


def test_the_facts_are_json_and_say_the_same():
    bundle = made(File("app/" + os.fsdecode(b"\xe9"), DIGEST, 10), left_out=("/x",))
    said = json.loads(json.dumps(facts(bundle)))
    assert bundle.digest == said["digest"]
    assert [{"path": "app/" + os.fsdecode(b"\xe9"), "size": 10, "digest": DIGEST}] == said["program"]["files"]
    assert ["numpy 2.1.0", "odd 1.0", "ruamel-yaml 0.18"] == said["distributions"][""]["names"]
    assert ["/x"] == said["left_out"]
