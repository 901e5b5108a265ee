"""Layers and interpreters for machines of any kind, from blocks, environments, locks and files."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from environments import make_environment, make_wheel
from test_standalone import CONTENT, DIGEST, Mirror

from bigm.bootstrap import report
from bigm.bootstrap.records import Main
from bigm.bundle import platforms, resolution
from bigm.bundle.bundle import Bundle, Dependencies
from bigm.bundle.environment import DependencyError
from bigm.bundle.origins import Cache, Origins, check_script, layers_for
from bigm.bundle.requirements import Block
from bigm.bundle.resolution import NoWheel
from bigm.bundle.standalone import FetchError
from bigm.bundle.supply import Supply, _Once
from bigm.errors import BigmError, ConfigError
from bigm.manifest import File, Manifest
from bigm.parts import Parts

MINOR = "{}.{}".format(*sys.version_info)
ABI = "cp{}{}".format(*sys.version_info)
ARM_TAG = f"{ABI}-{ABI}-manylinux2014_aarch64"
HERE = platforms.of_report(report.report())

needs_index = pytest.mark.skipif(sys.version_info >= (3, 12), reason="pex has no pip of its own for this Python")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in (("FIND_LINKS", str(folder)), ("CONFIG_FILE", "/dev/null"), ("NO_INDEX", "1")):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(resolution, "PIP", "vendored")
    return folder


@pytest.fixture
def cache(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path / "cache"
    folder.mkdir()
    shared = tmp_path_factory.getbasetemp() / "pex-of-supplies"
    shared.mkdir(exist_ok=True)
    (folder / "pex").symlink_to(shared)  # where pex makes a pip of its own, once
    return Cache(Parts(str(folder / "parts")), folder)


def bundle(cache: Cache, origins: Origins | None = None, **layers: Dependencies) -> Bundle:
    empty = Manifest([])
    found = {name.replace("any", ""): of for name, of in layers.items()}
    return Bundle(empty, empty, found, (), Main(), "", MINOR, cache.store, origins=origins)


def layer_of(*wheels: str) -> Dependencies:
    return Dependencies(Manifest(File(f".deps/{wheel}", "0" * 64, 1) for wheel in wheels), "key", MINOR, wheels)


def names(found: Dependencies) -> list[str]:
    return [each for each in found.distributions if not each.startswith("cloudpickle ")]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    return folder


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def supply(tmp_path: Path, told: list[str]) -> Supply:
    return Supply(tmp_path, "", told.append)


def test_a_machine_like_this_computer_gets_the_bundles_own_layer(cache: Cache, supply: Supply):
    layer = layer_of("pure-1-py3-none-any.whl")
    assert layer is supply.layer(bundle(cache, any=layer), report.report())
    assert supply.layer(bundle(cache), report.report()) is None


def test_a_bundle_that_has_nothing_for_a_machine_is_refused_with_what_to_do(cache: Cache, supply: Supply):
    layer = layer_of(f"fast-1-{ARM_TAG}.whl")
    with pytest.raises(
        ConfigError, match=r"fast-1-.*aarch64.whl does not run there; make it with --platform linux-x86_64 too"
    ):
        supply.layer(bundle(cache, any=layer), report.report())
    with pytest.raises(
        ConfigError, match=r"has nothing for linux-x86_64 with glibc .*, only for linux_aarch64; make it"
    ):
        supply.layer(bundle(cache, linux_aarch64=layer), report.report())


@needs_index
def test_what_does_not_run_on_a_machine_is_resolved_for_it_once(
    tmp_path: Path, made: Path, index: Path, cache: Cache, supply: Supply, told: list[str]
):
    """As where the driver's computer is newer or of another architecture than the machine."""
    python = make_environment(
        tmp_path / "venv", make_wheel(made, "fast", tag=f"{ABI}-{ABI}-{HERE.tags[0].rpartition('-')[2]}")
    )
    make_wheel(index, "fast", tag=f"{ABI}-{ABI}-manylinux2014_x86_64")
    old = {**report.report(), "platforms": report.linux_platforms("x86_64", glibc=(2, 17)), "libc": "glibc 2.17"}
    own = bundle(cache, Origins(str(python)), any=layer_of(f"fast-1-{ABI}-{ABI}-manylinux_2_36_x86_64.whl"))
    layers: list[object] = []
    threads = [threading.Thread(target=lambda: layers.append(supply.layer(own, old))) for _ in "123"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layers[0] is layers[1] is layers[2]
    assert ["fast 1.0"] == names(layers[0])
    assert 1 == len(told), told


@needs_index
def test_a_failure_is_told_to_every_machine_and_asked_for_once(
    tmp_path: Path, made: Path, index: Path, cache: Cache, supply: Supply, told: list[str]
):
    python = make_environment(tmp_path / "venv", make_wheel(made, "fast", tag=f"{ABI}-{ABI}-manylinux2014_x86_64"))
    arm = {
        **report.report(),
        "platforms": report.linux_platforms("aarch64", glibc=(2, 31)),
        "platform": "linux-aarch64",
    }
    own = bundle(cache, Origins(str(python)), any=layer_of(f"fast-1-{ABI}-{ABI}-manylinux2014_x86_64.whl"))
    for _ in range(2):
        with pytest.raises(NoWheel, match=r"fast==1.0 has no wheel for linux-aarch64"):
            supply.layer(own, arm)
    assert 1 == len(told)


class Door:
    """A lock that tells who comes."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.came.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_failure_that_may_pass_is_for_those_who_wait_and_tried_again_for_who_comes_later():
    """An index that is out of reach for a minute must not be the end of a cluster that lives for days."""
    once, failures, outcomes = _Once(), [], [DependencyError("the index is out of reach"), "layer"]
    once._lock = door = Door()  # type: ignore[assignment]

    def get() -> object:
        if len(outcomes) == 2:
            second.start()
            assert all(door.came.acquire(timeout=10.0) for _ in "12")  # ourselves, and the second
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def ask() -> None:
        with pytest.raises(DependencyError) as caught:
            once.get(get)
        failures.append(caught.value)

    second = threading.Thread(target=ask)
    ask()
    second.join()
    assert failures[0] is failures[1]
    assert ["layer", "layer"] == [once.get(get), once.get(get)]


@pytest.mark.parametrize(
    ("failure", "times"),
    [
        (FetchError("reset"), 2),
        (DependencyError("no answer"), 2),
        (NoWheel("none"), 1),
        (ConfigError("no such platform"), 1),
    ],
)
def test_only_what_the_user_alone_can_help_is_not_tried_again(failure: BigmError, times: int):
    once, tries = _Once(), []

    def get() -> None:
        tries.append(1)
        raise failure

    for _ in "12":
        with pytest.raises(type(failure)):
            once.get(get)
    assert times == len(tries)


def test_what_a_block_asks_for_and_is_not_here_is_told(tmp_path: Path, made: Path):
    python = make_environment(tmp_path / "venv", make_wheel(made, "lib", "1.0"))
    block = Block(tmp_path / "x.py", ("lib>=2", "absent"), "")
    assert ["lib>=2 (1.0 is installed)", "absent (not installed)"] == Origins(str(python), block=block).missing()
    assert [] == Origins(str(python)).missing()


def test_a_block_that_is_met_here_makes_a_layer_of_what_it_asks_for(tmp_path: Path, made: Path, cache: Cache):
    """And of nothing else that is installed, without an index."""
    wheels = [make_wheel(made, "app", requires=["lib"]), make_wheel(made, "lib"), make_wheel(made, "unrelated")]
    python = make_environment(tmp_path / "venv", *wheels)
    block = Block(tmp_path / "x.py", ("app",), "")
    assert ["app 1.0", "lib 1.0"] == names(Origins(str(python), block=block).own_layer(cache))
    assert ["app 1.0", "lib 1.0", "unrelated 1.0"] == names(Origins(str(python)).own_layer(cache))


def test_a_script_is_looked_at_for_what_its_interpreter_lacks(tmp_path: Path, made: Path):
    python = str(make_environment(tmp_path / "venv", make_wheel(made, "lib", "1.0")))
    script = tmp_path / "x.py"
    script.write_text("# /// script\n# dependencies = ['lib', 'absent']\n# ///\n")
    lacking = (
        f"{script} asks for what {python} has not; machines that are brought a bundle get it: absent (not installed)"
    )
    assert lacking == check_script(script, python)
    script.write_text("# /// script\n# dependencies = ['lib']\n# requires-python = '>=3.10.1'\n# ///\n")
    assert "" == check_script(script, python)
    script.write_text("# /// script\n# requires-python = '<3.10'\n# ///\n")
    for interpreter in (python, sys.executable):
        with pytest.raises(ConfigError, match=r"x.py requires Python <3.10, and this is 3\."):
            check_script(script, interpreter)


@needs_index
@pytest.mark.slow
def test_a_block_that_is_not_met_here_is_resolved(tmp_path: Path, made: Path, index: Path, cache: Cache):
    python = make_environment(tmp_path / "venv", make_wheel(made, "lib", "1.0"))
    make_wheel(index, "lib", "2.0")
    block = Block(tmp_path / "x.py", ("lib>=2",), "")
    assert ["lib 2.0"] == names(Origins(str(python), block=block).own_layer(cache))


@needs_index
@pytest.mark.slow
def test_a_file_that_is_named_comes_before_all_else(tmp_path: Path, made: Path, index: Path, cache: Cache):
    python = make_environment(tmp_path / "venv", make_wheel(made, "lib", "1.0"))
    make_wheel(index, "lib", "3.0")
    (tmp_path / "wanted.txt").write_text("lib==3.0\n")
    origins = Origins(str(python), given=tmp_path / "wanted.txt", block=Block(tmp_path / "x.py", ("lib",), ""))
    assert ["lib 3.0"] == names(origins.own_layer(cache))
    arm = platforms.named("linux-aarch64", MINOR)
    assert ["lib 3.0"] == names(origins.layer_for(arm, cache))


@needs_index
@pytest.mark.slow
def test_an_environment_that_cannot_be_read_is_replaced_by_the_projects_file(
    tmp_path: Path, made: Path, index: Path, cache: Cache
):
    python = make_environment(tmp_path / "venv", make_wheel(made, "lib", "1.0"))
    (info,) = (tmp_path / "venv").rglob("lib-1.0.dist-info")
    (info / "RECORD").unlink()
    with pytest.raises(DependencyError, match="no RECORD"):
        Origins(str(python), project=tmp_path).own_layer(cache)
    make_wheel(index, "lib", "2.0")
    (tmp_path / "requirements.txt").write_text("lib\n")
    assert ["lib 2.0"] == names(Origins(str(python), project=tmp_path).own_layer(cache))


@needs_index
@pytest.mark.slow
def test_layers_for_several_platforms_are_made_each_of_its_own_wheels(
    tmp_path: Path, made: Path, index: Path, cache: Cache
):
    wheel = make_wheel(made, "fast", tag=f"{ABI}-{ABI}-manylinux2014_x86_64")
    python = make_environment(tmp_path / "venv", wheel)
    for tag in ("manylinux2014_aarch64", "macosx_11_0_arm64"):
        make_wheel(index, "fast", tag=f"{ABI}-{ABI}-{tag}")
    found = layers_for(["linux-x86_64", "linux-aarch64", "macosx-arm64"], Origins(str(python)), cache)
    assert ["linux-x86_64", "linux-aarch64", "macosx-arm64"] == [platform.name for platform, _ in found]
    for platform, layer in found:
        assert [] == platforms.misfits(layer, platform)
        assert ["fast 1.0"] == names(layer)


def test_a_platform_named_twice_or_for_another_python_is_refused(tmp_path: Path, cache: Cache):
    other = tmp_path / "other.json"
    other.write_text(platforms.named("linux-aarch64", "3.9").to_json())
    with pytest.raises(ConfigError, match=r"other.json is for Python 3.9, and this is"):
        layers_for([str(other)], Origins(sys.executable), cache)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror() as server:
        server.files = {f"cpython-{MINOR}.9+1-x86_64-unknown-linux-gnu-install_only.tar.gz": CONTENT}
        server.sums()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="mirror")
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_interpreter_is_fetched_once_and_is_a_part_of_the_bundle(
    tmp_path: Path, mirror: Mirror, cache: Cache, told: list[str]
):
    found = Supply(tmp_path, mirror.address, told.append)
    for _ in range(2):
        assert (DIGEST, len(CONTENT)) == found.interpreter(bundle(cache), "linux-x86_64")
    assert {} == cache.store.have([DIGEST])
    assert 1 == len(mirror.asked_for_archives())
    assert f"fetching Python {MINOR} for linux-x86_64: 3.1 of 3.1 MB" == told[-1]
    assert len(told) <= 6
    with pytest.raises(FetchError, match="names no interpreter"):
        found.interpreter(bundle(cache), "linux-aarch64")
