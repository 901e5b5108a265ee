"""Print the table of docs/benchmarks.md, measured here and now: `make bench`.

python benchmarks/run.py                       all of it
python benchmarks/run.py pi machines           only these benchmarks
python benchmarks/run.py --write               and keep the table, with date and machine, in docs/benchmarks.md
python benchmarks/run.py executor --write      keep these rows only; the others stay as they were measured
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import re
import ssl
import sys
import time
from pathlib import Path

from measure import Row, show, table, texts

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
BLOCK = re.compile(r"(<!-- results -->\n)(.*?)(<!-- end of results -->)", re.DOTALL)


def names() -> list[str]:
    """All benchmarks: the modules here that have `rows`, those of calls first."""
    found = [path.stem for path in HERE.glob("*.py") if "\ndef rows(" in path.read_text()]
    return sorted(found, key=lambda name: (not name.startswith("rpc"), name))


def machine() -> str:
    """This computer in one line."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else None
    return (
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores of "
        f"{model[1] if model else platform.processor()}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION.rpartition(' ')[0].rpartition(' ')[0]}"
    )


def main() -> None:
    """Run the benchmarks asked for."""
    parser = argparse.ArgumentParser(description="Measure bigm against its limits.")
    parser.add_argument("names", nargs="*", choices=[[], *names()], metavar="NAME", help=", ".join(names()))
    parser.add_argument("--repeats", type=int, default=5, help="turns of each measurement (default: 5)")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {PAGE.name}")
    options = parser.parse_args()
    if sys.dont_write_bytecode:
        sys.exit("PYTHONDONTWRITEBYTECODE is set: starts would be measured without bytecode; unset it")

    rows: list[Row] = []
    for name in options.names or names():
        begin = time.monotonic()
        rows += importlib.import_module(name).rows(options.repeats)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    print(show(rows))
    if options.write:
        today = datetime.date.today().isoformat()
        which = f"{', '.join(options.names)}: measured" if options.names else "Measured"
        said = f"{which} {today} on {machine()}; load {os.getloadavg()[0]:.1f} when it ended."
        PAGE.write_text(BLOCK.sub(lambda found: found[1] + kept(found[2], said, rows) + found[3], PAGE.read_text()))


def kept(block: str, said: str, rows: list[Row]) -> str:
    """The page's block with *rows* in it: in the place of those of the same name, else behind all others."""
    notes = [line for line in block.splitlines() if line and not line.startswith("|")]
    old = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()[2:] if line[:1] == "|"
    ]
    new = {row.what: texts(row) for row in rows}
    lines = [new.pop(line[0], line) for line in old[2:]] + list(new.values())
    whole = said.startswith("Measured")
    return "\n\n".join([*([] if whole else notes), said, table(lines)]) + "\n"


if __name__ == "__main__":
    main()
