"""What travels, told line by line: the files of the program, the distributions, bigm itself, and what stays here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bigm.bundle.bundle import Bundle, Dependencies
from bigm.bundle.sources import size_text
from bigm.manifest import Manifest

_WHEELS = ".deps/"  # of a packed pex


class Line(NamedTuple):
    """One thing that travels, or that does not.

    Args:
        layer: "program", "distributions" or "bigm"; "left out" for what stays here.
        what: a path in the tree, a distribution and its version, a path on this computer.
        size: bytes, as they travel; None where that is not known.
    """

    layer: str
    what: str
    size: int | None = None


def listing(bundle: Bundle) -> list[Line]:
    """All of the user's that travels, in the order of layers and names, then what does not; `totals` has bigm."""
    lines = [Line("program", file.path, file.size) for file in bundle.program.files]
    for platform, layer in sorted(bundle.dependencies.items()):
        behind = f" ({platform})" if platform else ""
        lines += [Line("distributions", name + behind, size) for name, size in _distributions(layer)]
    return lines + [Line("left out", path) for path in bundle.left_out]


def totals(bundle: Bundle) -> list[Line]:
    """One line for each layer: how much of what, and how many bytes in all."""
    lines = [Line("program", f"{len(bundle.program.files)} files", bundle.program.size)]
    for platform, layer in sorted(bundle.dependencies.items()):
        behind = f" ({platform})" if platform else ""
        lines.append(Line("distributions", f"{len(layer.distributions)}{behind}", layer.manifest.size))
    return [*lines, Line("bigm", f"{len(bundle.machine.files)} files", bundle.machine.size)]


def texts(lines: Sequence[Line]) -> list[list[str]]:
    """Lines as cells of a table: layer, what, size."""
    return [[line.layer, _printable(line.what), "" if line.size is None else size_text(line.size)] for line in lines]


def facts(bundle: Bundle) -> dict[str, object]:
    """The same for programs, to be written as JSON."""
    return {
        "digest": bundle.digest,
        "python": bundle.python,
        "program": _files(bundle.program),
        "bigm": _files(bundle.machine),
        "distributions": {
            platform: {"size": layer.manifest.size, "names": list(layer.distributions)}
            for platform, layer in bundle.dependencies.items()
        },
        "left_out": list(bundle.left_out),
    }


def _files(manifest: Manifest) -> dict[str, object]:
    files = [{"path": file.path, "size": file.size, "digest": file.digest} for file in manifest.files]
    return {"size": manifest.size, "files": files}


def _distributions(layer: Dependencies) -> list[tuple[str, int | None]]:
    """Each distribution, and the size of its wheel."""
    sizes: dict[str, int] = {}
    for file in layer.manifest.files:
        if file.path.startswith(_WHEELS):
            wheel = file.path[len(_WHEELS) :].partition("/")[0]
            key = _key(*wheel.split("-")[:2]) if wheel.count("-") > 1 else wheel
            sizes[key] = sizes.get(key, 0) + file.size
    return [(name, sizes.get(_key(*name.split(" ")[:2]))) for name in layer.distributions]


def _key(name: str, version: str = "") -> str:
    """As a wheel's file name begins, whatever the spelling."""
    return f"{name.replace('-', '_').replace('.', '_').lower()}-{version}"


def _printable(text: str) -> str:
    """A path on one line: names may have line ends, or bytes that are no text."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
