"""The dependency layer of an environment with numpy, pandas and requests: made for the first time, and found again.

The limit of the first is pex itself, with the same distributions in the same layout and nothing cached either; of the
second, the start of Python, which each run pays anyway. Needs a package index the first time: the environment is kept
in the temporary folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measure import Row, alternate

WANTED = ("numpy", "pandas", "requests", "cloudpickle")
ENVIRONMENT = Path(tempfile.gettempdir()) / f"bigm-bench-dependencies-{sys.version_info[0]}.{sys.version_info[1]}"

_LAYER = """
import sys, time
from pathlib import Path
from bigm.bundle.dependencies import dependency_layer
from bigm.parts import Parts
cache = Path(sys.argv[1])
begin = time.perf_counter()
layer = dependency_layer(sys.executable, Parts(str(cache / "parts")), cache)
print(time.perf_counter() - begin, layer.manifest.size, len(layer.distributions))
"""


def rows(repeats: int) -> list[Row]:
    """Made and found again, in turns with their limits."""
    python = _environment()
    with tempfile.TemporaryDirectory(prefix="bigm-bench-") as name:
        folder = Path(name)
        pins = _pins(python)
        made = alternate(
            {
                "ours": lambda: _layer(python, folder / "ours", anew=True),
                "pex": lambda: _pex(python, pins, folder / "pex"),
            },
            (repeats + 1) // 2,
        )
        again = alternate(
            {"ours": lambda: _layer(python, folder / "ours"), "python": lambda: _timed([python, "-I", "-c", ""])},
            repeats,
        )
        sizes = f"{len(pins)} distributions, {_bytes(folder / 'pex' / 'layer') / 1e6:.0f} MB packed"
    return [
        Row(
            "dependency layer: numpy, pandas, requests, nothing cached",
            f"{made['ours']:.2f} s",
            f"{made['pex']:.2f} s, pex with the same inputs",
            made["ours"] / made["pex"],
            reach=1.2,
            aim=1.1,
            note=f"{sizes}; every file is read before, to see whether it was changed in place",
        ),
        Row(
            "dependency layer: the same again",
            f"{again['ours'] * 1e3:.0f} ms",
            f"{again['python'] * 1e3:.0f} ms, the start of Python",
            again["ours"] / again["python"],
            reach=3,
            aim=1,
            note="pex is not started",
        ),
    ]


def _environment() -> Path:
    """The environment's interpreter. bigm and pex come from ours: installed there, they would be bundled too."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *WANTED], check=True)
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], check=True)
    ours = [str(Path(__file__).parents[1]), *(path for path in sys.path if path.endswith("site-packages"))]
    (site,) = (ENVIRONMENT / "lib").glob("python*/site-packages")
    (site / "ours.pth").write_text("\n".join(ours))
    return python


def _pins(python: Path) -> list[str]:
    listed = "[each.name + '==' + each.version for each in importlib.metadata.distributions(path=sys.argv[1:])]"
    code = f"import importlib.metadata, sys; print(*{listed})"
    (site,) = (ENVIRONMENT / "lib").glob("python*/site-packages")
    found = subprocess.run([python, "-c", code, site], check=True, capture_output=True, text=True).stdout.split()
    return [pin for pin in found if not pin.startswith("pip==")]


def _layer(python: Path, cache: Path, *, anew: bool = False) -> float:
    """Seconds as the driver sees them, without its start."""
    if anew:
        shutil.rmtree(cache, ignore_errors=True)
    done = subprocess.run([python, "-c", _LAYER, cache], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[0])


def _pex(python: Path, pins: list[str], folder: Path) -> float:
    """Seconds of pex with the same distributions, layout and options, and no cache."""
    from bigm.bundle.pex import LAYOUT, OFFLINE

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = [*LAYOUT, *OFFLINE, "--venv-repository", str(ENVIRONMENT), *pins, "-o", str(folder / "layer")]
    return _timed([sys.executable, "-m", "pex", *options], {"PEX_ROOT": str(folder / "root"), "TMPDIR": str(folder)})


def _timed(command: Sequence[Path | str], more: dict[str, str] | None = None) -> float:
    begin = time.perf_counter()
    subprocess.run(command, env={**os.environ, **(more or {})}, check=True, capture_output=True)
    return time.perf_counter() - begin


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
