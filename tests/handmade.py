"""Bundles of a few files, made by hand: with bigm in them, and without distributions."""

from __future__ import annotations

import sys

from bigm.bootstrap.records import Main
from bigm.bundle.bundle import PROGRAM, STDLIB, Bundle
from bigm.bundle.snapshot import keep_bytes
from bigm.bundle.sources import machine_tree
from bigm.manifest import File, Manifest
from bigm.parts import Parts

MINOR = "{}.{}".format(*sys.version_info)


def make_bundle(store: Parts, **files: bytes) -> Bundle:
    """A bundle whose program's folder is `app` and has *files*; it has no main module."""
    tree = Manifest(File(f"app/{name}", keep_bytes(store, data), len(data)) for name, data in files.items())
    keep_bytes(store, tree.to_bytes())
    return Bundle(tree, machine_tree(store), {}, ((PROGRAM, "app"), (STDLIB, "")), Main(), "app", MINOR, store)
