from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from environments import install, make_environment, make_layer, make_wheel, site_packages

from bigm.bundle.environment import DependencyError
from bigm.bundle.pex import PexFailed, run_pex
from bigm.errors import ConfigError
from waiting import eventually

ROOT = Path(__file__).parents[2]


def start(python: Path, cache: Path) -> subprocess.Popen[str]:
    """Another process that makes a layer, and prints what is said, then its digest."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bigm.bundle.dependencies import dependency_layer\n"
        "from bigm.parts import Parts\n"
        "cache = Path(sys.argv[2])\n"
        "say = lambda text: print(text, flush=True)\n"
        "say(dependency_layer(sys.argv[1], Parts(str(cache / 'parts')), cache, progress=say).manifest.digest)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, python, cache],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def pex_processes(cache: Path) -> list[int]:
    """Processes that work for pex in *cache*."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"PEX_ROOT={cache}" in (entry / "environ").read_bytes().decode("utf-8", "replace"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_what_hangs_is_ended_with_all_it_has_started(tmp_path: Path):
    """As with an index that takes connections and never answers."""
    (tmp_path / "work" / "pex").mkdir(parents=True)  # what `-m pex` finds first
    (tmp_path / "work" / "pex" / "__init__.py").touch()
    (tmp_path / "work" / "pex" / "__main__.py").write_text(
        "import subprocess, sys\nprint('asking the index', flush=True)\nsubprocess.run(['sleep', '60'])\n"
    )
    with pytest.raises(PexFailed, match=r"was not done within 5 s:\n  asking the index"):
        run_pex(["x"], tmp_path / "out", root=tmp_path / "root", work=tmp_path / "work", longest=5.0)
    eventually(lambda: not pex_processes(tmp_path / "root"))


def test_a_distribution_without_record_is_named(python: Path, tmp_path: Path):
    (site_packages(python) / "alpha-1.5.dist-info" / "RECORD").unlink()
    with pytest.raises(DependencyError, match=r"1 distributions of .* have no RECORD .*: alpha 1.5; .*python -m venv"):
        make_layer(python, tmp_path / "cache")


def test_a_distribution_without_metadata_is_named(python: Path, tmp_path: Path):
    (site_packages(python) / "alpha-1.5.dist-info" / "METADATA").unlink()
    with pytest.raises(DependencyError, match=r"alpha 1.5 in .* cannot be bundled: METADATA .*--force-reinstall alpha"):
        make_layer(python, tmp_path / "cache")


def test_what_conda_links_to_its_own_libraries_is_refused(python: Path, tmp_path: Path, wheels: Path):
    """It would be imported nowhere else."""
    install(python, make_wheel(wheels, "native", tag=f"cp3{sys.version_info[1]}-none-linux_x86_64"))
    (python.parents[1] / "conda-meta").mkdir()
    for installer in site_packages(python).glob("*.dist-info/INSTALLER"):
        installer.write_text("conda\n")
    with pytest.raises(DependencyError, match=r"^native 1.0 come from conda .*with pip"):
        make_layer(python, tmp_path / "cache")


def test_a_cache_that_cannot_be_made_is_named(python: Path, tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot bundle the dependencies in .*/cache/layers: .* BIGM_HOME"):
        make_layer(python, tmp_path / "cache")


def test_what_is_no_python_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="/nowhere/python does not tell where its packages are"):
        make_layer(Path("/nowhere/python"), tmp_path)


def test_pex_is_quoted_without_its_stack_and_can_be_asked_for_more(python: Path, warm: Path):
    metadata = site_packages(python) / "alpha-1.5.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: foo (bar\n")
    with pytest.raises(DependencyError) as caught:
        make_layer(python, warm)
    assert "pex cannot bundle the dependencies and exits with 1:" == caught.value.message.splitlines()[0]
    assert "invalid Requires-Dist metadata value in alpha 1.5" in caught.value.message
    assert "Traceback" not in str(caught.value)
    assert "  File" not in str(caught.value)

    variable, *command = shlex.split(caught.value.hint.partition(": ")[2])
    name, _, value = variable.partition("=")
    done = subprocess.run(command, env={**os.environ, name: value}, capture_output=True, text=True, timeout=60)
    assert "invalid Requires-Dist metadata value in alpha 1.5" in done.stderr, "it does the same again, and tells more"


@pytest.mark.parametrize(
    ("version", "message"),
    [("", "made by pex, which is not installed; .*pip install"), ("1.6.8", "made by pex 2.100 to 2.x, not 1.6.8")],
)
def test_a_pex_that_is_missing_or_old_is_said_with_what_to_install(
    tmp_path: Path, wheels: Path, version: str, message: str
):
    files = {"pex/__init__.py": "raise RuntimeError", "pex/version.py": f'__version__ = "{version}"\n'}
    old = [make_wheel(wheels, "pex", version, files=files)] if version else []
    python = make_environment(tmp_path / "env", *old)
    code = "from bigm.bundle.pex import pex_version; pex_version()"
    done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert re.search(message, done.stderr)


@pytest.mark.slow
def test_an_interrupt_ends_pex_and_leaves_nothing_half_made(python: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    with start(python, cache) as process:
        eventually(lambda: pex_processes(cache), 30)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=10)[1]
    eventually(lambda: not pex_processes(cache), 5)
    left = [path for path in (cache / "layers").iterdir() if path.name != "seen"]
    assert [0] * len(left) == [path.stat().st_size for path in left], "locks, and no more"
    assert [] == list((cache / "layers").glob("*.work"))


@pytest.mark.slow
def test_a_killed_attempt_is_taken_up_by_the_next(python: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    with start(python, cache) as process:
        eventually(lambda: pex_processes(cache), 30)
        process.kill()
    layer = make_layer(python, cache)
    assert ["alpha 1.5", "beta-tools 2.0"] == [each for each in layer.distributions if "cloudpickle" not in each]
    assert [] == list((cache / "layers").glob("*.work"))
    eventually(lambda: not pex_processes(cache), 30)


@pytest.mark.slow
def test_of_two_processes_one_makes_the_layer_and_one_waits(python: Path, tmp_path: Path):
    with start(python, tmp_path / "cache") as first, start(python, tmp_path / "cache") as second:
        said = [process.communicate(timeout=60)[0].splitlines() for process in (first, second)]
    assert said[0][-1] == said[1][-1], "the digest"
    words = [line for lines in said for line in lines if "distributions with pex" in line]
    assert 1 == len(words)
    assert "waiting for another run that bundles the same distributions" in said[0] + said[1]


@pytest.mark.root
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("6m", "the disk is full: .* has [0-5] MB left"),
        ("4k", "cannot bundle the dependencies in .*: No space left on device"),
    ],
)
def test_a_full_disk_is_said_with_what_to_do(python: Path, tmp_path: Path, size: str, message: str):
    cache = tmp_path / "cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", cache], check=True, timeout=10)
    try:
        with pytest.raises(ConfigError, match=f"{message}.*BIGM_HOME"):
            make_layer(python, cache)
    finally:
        subprocess.run(["umount", cache], check=True, timeout=10)
