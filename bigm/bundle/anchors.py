"""Where the user's folders lie in the program's tree: the records, and how paths of this computer become paths there.

Each anchor lies there under its own name, below a number where that name is taken; siblings on this computer are
siblings there, so that `../data` leads to the same file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from bigm.bundle.bundle import PROGRAM
from bigm.bundle.interpreter import Interpreter, is_within

MAPPED = "_editable"  # in the tree: packages that are imported under other names than their folders have


@dataclass(frozen=True)
class Anchor:
    """One folder of the user's, or one zip file, and where it lies in the tree.

    Args:
        path: absolute, without links.
        name: its path in the tree.
        only: names of the entries that are taken; None: all.
        wanted: paths below it that are on `sys.path` or the script itself: they travel whatever is left out.
        copy: it lies in the tree at another place already, and stands here once more to be imported by this name.
    """

    path: str
    name: str = ""
    only: frozenset[str] | None = None
    wanted: frozenset[str] = frozenset()
    copy: bool = False

    def relative(self, path: str) -> str | None:
        """*path* as seen from here, "" for the anchor itself; None when it is not of this anchor."""
        if not is_within(path, self.path):
            return None
        below = path[len(self.path) :].lstrip("/")
        if below and self.only is not None and below.partition("/")[0] not in self.only:
            return None
        return below


@dataclass(frozen=True)
class Layout:
    """Where everything of the user's lies in the program's tree.

    Args:
        anchors: none within another, but for copies.
        search_path: what `sys.path` is on machines, as `bigm.bundle.bundle.Bundle.sys_path`.
        cwd: the working folder there, as a path in the tree; "" is its root.
        notes: what the user should know.
    """

    anchors: tuple[Anchor, ...]
    search_path: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    notes: tuple[str, ...] = ()

    def place(self, path: str) -> str | None:
        """Where a file or folder of this computer is in the tree, whether or not it travels; None: it is not in it.

        Args:
            path: absolute. One that leads through a link to an anchor is found too.
        """
        folder, name = os.path.split(os.path.normpath(path))
        found = (os.path.normpath(path), os.path.join(os.path.realpath(folder), name), os.path.realpath(path))
        for candidate in dict.fromkeys(found):
            for anchor in sorted(self.anchors, key=lambda anchor: len(anchor.path), reverse=True):
                below = None if anchor.copy else anchor.relative(candidate)
                if below is not None:
                    return f"{anchor.name}/{below}" if below else anchor.name
        return None


def named(anchors: Iterable[Anchor]) -> Iterator[Anchor]:
    """Give each anchor its name in the tree: its own, below a number where another has it already.

    Siblings get the same number.
    """
    taken = {MAPPED}
    by_parent: dict[str, list[Anchor]] = {}
    for anchor in anchors:
        by_parent.setdefault(os.path.dirname(anchor.path), []).append(anchor)
    for siblings in by_parent.values():
        names = [os.path.basename(anchor.path) or "root" for anchor in siblings]
        number = 1
        prefix = ""
        while not taken.isdisjoint([prefix + name for name in names]) or prefix.rstrip("/") in taken:
            number += 1
            prefix = f"{number}/"
        taken.update([prefix.rstrip("/")] if prefix else [])
        for anchor, name in zip(siblings, names, strict=True):
            taken.add(prefix + name)
            yield replace(anchor, name=prefix + name)


def search_path(layout: Layout, sys_path: Sequence[str], interpreter: Interpreter) -> Iterator[tuple[str, str]]:
    """What `sys.path` is on machines, as `bigm.bundle.bundle.Bundle.sys_path`: each entry's place, once.

    What is neither the interpreter's nor in the tree (a folder that does not exist) is passed over.
    """
    seen = set()
    for entry in sys_path:
        place = interpreter.place(entry) or interpreter.place(os.path.realpath(entry))
        if place is None:
            path = layout.place(entry)
            place = (PROGRAM, path) if path is not None else None
        if place is not None and place not in seen:
            seen.add(place)
            yield place
