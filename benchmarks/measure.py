"""What every benchmark shares: a row of the table, repeats that alternate, medians.

Only ratios within one run mean anything: a shared machine's speed changes by the minute. So each figure has its limit
measured beside it, in turns, and the ratio is taken of medians.

A benchmark is a module of this folder with a function `rows(repeats: int) -> list[Row]`; `run.py` knows them by name.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: what was measured.
        ours: bigm's figure, with its unit.
        limit: the limit's figure beside it, and what it is; "" where the ratio is itself the figure.
        ratio: ours to the limit; or the figure itself, in the unit that `reach` has.
        reach: what the ratio must keep to.
        aim: what it should.
        above: the ratio must be at least so much; else at most. `reach` and `aim` None: no bound, as measured.
        note: what else there is to say: fairness, peak memory.
    """

    what: str
    ours: str
    limit: str
    ratio: float
    reach: float | None = None
    aim: float | None = None
    above: bool = False
    unit: str = "x"
    note: str = ""

    @property
    def verdict(self) -> str:
        """How it did: "aim", "reach", "missed", or "" without a bound."""
        if self.reach is None or self.aim is None:
            return ""
        sign = -1 if self.above else 1
        if sign * self.ratio <= sign * self.aim:
            return "aim"
        return "reach" if sign * self.ratio <= sign * self.reach else "missed"


def alternate(measures: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Run each of *measures* in turn, *repeats* times; the median of what each returned."""
    seen: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            seen[name].append(measure())
    return {name: statistics.median(values) for name, values in seen.items()}


def show(rows: list[Row]) -> str:
    """The rows as a Markdown table, aligned, so that it reads on a terminal too."""
    return table([texts(row) for row in rows])


def table(rows: list[list[str]]) -> str:
    """The same of rows whose cells are texts already."""
    lines = [["what", "bigm", "limit beside it", "ratio", "reach", "aim", "reached", "note"], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def texts(row: Row) -> list[str]:
    """A row's cells."""

    def bound(value: float | None) -> str:
        return "" if value is None else f"{'>=' if row.above else '<='} {value:g} {row.unit}"

    ratio = f"{row.ratio:.3g} {row.unit}"
    return [row.what, row.ours, row.limit, ratio, bound(row.reach), bound(row.aim), row.verdict, row.note]
