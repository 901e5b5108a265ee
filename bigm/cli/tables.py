"""Tables, times and values as a person reads and writes them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from bigm.config import BYTES, SECONDS, Key

_GAP = 2  # characters between two columns
_TEXT = 14  # characters that the last column needs at least


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    indent: str = "",
    styles: Mapping[str, str] = {},
    spare: Sequence[str] = (),
) -> None:
    """Print rows below their heads: folded to the width of a terminal; elsewhere whole, for other programs.

    Args:
        head: of each column.
        rows: with a cell for each.
        indent: before each line.
        styles: of cells with certain texts, on a terminal, as rich calls them.
        spare: heads of columns that are left out, the first one first, where a terminal is so narrow that words would
            be broken: an id or an address that is broken cannot be copied.
    """
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        console = Console(highlight=False)
        head, rows, fitted = _fitting(head, rows, spare, console.width - len(indent))
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        for title, width in zip(head, fitted, strict=True):
            table.add_column(title, overflow="fold", width=width)
        for row in rows:
            table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row))
        console.print(Padding(table, (0, 0, 0, len(indent))))
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print(indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _fitting(
    head: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], room: int
) -> tuple[Sequence[str], Sequence[Sequence[str]], list[int | None]]:
    """Head and rows without spare columns for whose words there is no room, and the width of each column.

    The last column, which is text, gives way first. No width: there is no room for all words, and rich breaks some.
    """
    left = [*spare]
    while True:
        wanted = [n for n, title in enumerate(head) if title not in spare or title in left]
        columns = [[head[n], *(row[n] for row in rows)] for n in wanted]
        least = [max(len(word) for cell in column for word in cell.split()) for column in columns]
        least[-1] = min(least[-1], _TEXT)
        gaps = _GAP * (len(columns) - 1)
        if sum(least) + gaps <= room or not left:
            break
        left.pop(0)
    widths = [max(map(len, column)) for column in columns]
    surplus = sum(widths) + gaps - room
    for n in sorted(range(len(widths)), key=lambda n: (n + 1 < len(widths), least[n] - widths[n])):
        cut = max(0, min(surplus, widths[n] - least[n]))
        widths[n], surplus = widths[n] - cut, surplus - cut
    kept = [[row[n] for n in wanted] for row in rows]
    return [head[n] for n in wanted], kept, [None if surplus > 0 else width for width in widths]


def without_empty(
    head: Sequence[str], rows: Sequence[Sequence[str]], keep: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table without the columns in which nothing stands, but for those that are to be kept."""
    wanted = [n for n, title in enumerate(head) if title in keep or any(row[n] for row in rows)]
    return [head[n] for n in wanted], [[row[n] for n in wanted] for row in rows]


def duration(seconds: float) -> str:
    """Two digits or so: "3.1 s", "42 s", "7 min", "3 h", "2 d"."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def size(count: int | None) -> str:
    """Three digits or so: "512 B", "3.1 MiB"; "" where it is not known."""
    if count is None:
        return ""
    number, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if number >= 1000:
            number, unit = number / 1024, larger
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


def as_written(key: Key, value: object) -> str:
    """A value as one would write it in a file, with its unit; "" for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(value)
    if key.kind is SECONDS:
        return _with_unit(float(str(value)), (("h", 3600), ("min", 60), ("s", 1)))
    if key.kind is BYTES:
        return _with_unit(float(str(value)), (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)))
    return str(value)


def _with_unit(value: float, units: tuple[tuple[str, int], ...]) -> str:
    unit, size = next((pair for pair in units if value >= 2 * pair[1] and value % pair[1] == 0), units[-1])
    return f"{value / size:g} {unit}"
