"""Layers for other platforms, resolved by real pex and pip from folders of wheels that are made here."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from environments import make_environment, make_wheel

from bigm.bundle import platforms, resolution
from bigm.bundle.bundle import Dependencies
from bigm.bundle.environment import DependencyError, Environment, environment_of
from bigm.bundle.pex import PexFailed
from bigm.bundle.requirements import Requirements, find_lock, read_file, read_lock
from bigm.bundle.resolution import NoWheel, of_environment, platform_layer
from bigm.bundle.whereabouts import whereabouts_of
from bigm.parts import Parts

MINOR = "{}.{}".format(*sys.version_info)
ABI = "cp{}{}".format(*sys.version_info)
HERE = platforms.named("linux-x86_64", MINOR)
ARM = platforms.named("linux-aarch64", MINOR)
ARM_TAG = f"{ABI}-{ABI}-manylinux_2_17_aarch64.manylinux2014_aarch64"
HERE_TAG = f"{ABI}-{ABI}-manylinux_2_17_x86_64.manylinux2014_x86_64"

# The only pip that pex need not have from an index is its own.
pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="pex has no pip of its own for this Python")


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(resolution, "PIP", "vendored")
    return folder


@pytest.fixture(scope="module")
def pex_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pex makes a pip of its own in its cache, once."""
    return tmp_path_factory.mktemp("pex")


@pytest.fixture
def layer(tmp_path: Path, pex_root: Path) -> Callable[..., Dependencies]:
    store = Parts(str(tmp_path / "cache" / "parts"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "pex").symlink_to(pex_root)

    def resolve(wanted: Requirements, environment: Environment | None = None, **more: object) -> Dependencies:
        platform = more.pop("platform", ARM)
        return platform_layer(platform, wanted, store, tmp_path / "cache", environment=environment, **more)

    return resolve


def environment(tmp_path: Path, *what: Path) -> Environment:
    return environment_of(whereabouts_of(str(make_environment(tmp_path / "venv", *what))))


def names(found: Dependencies) -> list[str]:
    return [each for each in found.distributions if not each.startswith("cloudpickle ")]


def test_an_environment_is_had_in_the_same_versions_with_the_wheels_of_the_platform(
    tmp_path: Path, index: Path, layer: Callable[..., Dependencies]
):
    """What is pure comes from here, though the index lacks it; what is not comes from there, and not the newer one."""
    here = tmp_path / "here"
    here.mkdir()
    wheels = [
        make_wheel(here, "fast", "1.0", files={"fast.py": "PLACE = 'here'\n"}, tag=HERE_TAG),
        make_wheel(here, "pure", "2.0", requires=["fast"], scripts={"pure": "pure:VERSION"}),
    ]
    for version in ("1.0", "1.1"):
        make_wheel(index, "fast", version, files={"fast.py": "PLACE = 'there'\n"}, tag=ARM_TAG)
    found = environment(tmp_path, *wheels)
    told: list[str] = []
    made = layer(of_environment(found, HERE, ARM), found, progress=told.append)
    assert ["fast 1.0", "pure 2.0"] == names(made)
    assert any(each.startswith("cloudpickle ") for each in made.distributions)
    assert [f"resolving what is installed here for linux-aarch64 with Python {MINOR}"] == told
    assert [] == platforms.misfits(made, ARM)
    assert 1 == len(platforms.misfits(made, HERE))
    paths = [file.path for file in made.manifest.files]
    assert {"__main__.py", "PEX-INFO"} <= set(paths)

    assert made.key == layer(of_environment(found, HERE, ARM), found, progress=told.append).key
    assert 1 == len(told), "the second time nothing is resolved"


def test_what_has_no_wheel_is_named_all_of_it(tmp_path: Path, index: Path, layer: Callable[..., Dependencies]):
    for name in ("one", "two"):
        make_wheel(index, name, "1.0", tag=HERE_TAG)
    make_wheel(index, "three", "1.0", requires=["two==1.0"], tag=ARM_TAG)
    with pytest.raises(NoWheel) as failure:
        layer(Requirements("the block in x.py", ("one==1.0", "three")))
    assert (
        f"one==1.0, two==1.0 have no wheel for linux-aarch64 with Python {MINOR}; only wheels are taken: "
        "build them on such a machine (pip wheel) and name the folder in PIP_FIND_LINKS, take other versions, "
        "or run the driver on such a machine"
    ) == str(failure.value)


def test_a_name_that_no_index_knows_is_doubted(index: Path, layer: Callable[..., Dependencies]):
    with pytest.raises(NoWheel, match=r"^no version of reqeusts was found on the index: is the name right\?; if so, "):
        layer(Requirements("the block in x.py", ("reqeusts>1",)))
    make_wheel(index, "one", "1.0", tag=HERE_TAG)
    with pytest.raises(
        NoWheel, match=r"^one==1.0 has no wheel for .*; no version of reqeusts was found on the index: "
    ):
        layer(Requirements("the block in x.py", ("reqeusts", "one==1.0")))


@pytest.mark.slow
def test_what_exists_as_source_only_has_no_wheel(tmp_path: Path, index: Path, layer: Callable[..., Dependencies]):
    (index / "source_only-1.0.tar.gz").write_bytes(b"never opened")
    with pytest.raises(
        NoWheel, match=r"no version of source-only was found .*only wheels are taken, for linux-aarch64"
    ):
        layer(Requirements("requirements.txt", ("source-only",)))


@pytest.mark.slow
def test_a_conflict_is_told_in_pips_words_without_its_stack(
    tmp_path: Path, index: Path, layer: Callable[..., Dependencies]
):
    make_wheel(index, "base", "1.0")
    make_wheel(index, "base", "2.0")
    make_wheel(index, "old", "1.0", requires=["base<2"])
    make_wheel(index, "new", "1.0", requires=["base>=2"])
    with pytest.raises(DependencyError) as failure:
        layer(Requirements("the block in x.py", ("old", "new")))
    assert "cannot resolve the block in x.py for linux-aarch64" in str(failure.value)
    assert "base" in str(failure.value)
    assert "Traceback" not in str(failure.value)
    assert not isinstance(failure.value, (NoWheel, PexFailed))


@pytest.mark.slow
def test_an_environment_at_odds_with_itself_is_had_as_it_is(
    tmp_path: Path, index: Path, layer: Callable[..., Dependencies]
):
    here = tmp_path / "here"
    here.mkdir()
    found = environment(
        tmp_path, make_wheel(here, "base", "1.0"), make_wheel(here, "new", "1.0", requires=["base>=2", "absent"])
    )
    wanted = of_environment(found, HERE, ARM)
    assert ("new 1.0 requires base>=2, and base 1.0 is installed",) == wanted.notes
    make_wheel(index, "absent", "1.0")
    made = layer(wanted, found)
    assert ["absent 1.0", "base 1.0", "new 1.0"] == names(made)
    assert wanted.notes == made.notes


@pytest.mark.slow
def test_what_is_for_this_platform_alone_is_left_out_and_for_that_one_taken(
    tmp_path: Path, index: Path, layer: Callable[..., Dependencies]
):
    here = tmp_path / "here"
    here.mkdir()
    found = environment(
        tmp_path,
        make_wheel(here, "app", requires=["intel; platform_machine == 'x86_64'", "arm; platform_machine == 'aarch64'"]),
        make_wheel(here, "intel", requires=["deep"], tag=HERE_TAG),
        make_wheel(here, "deep", tag=HERE_TAG),
    )
    make_wheel(index, "arm", tag=ARM_TAG)
    assert ["app 1.0", "arm 1.0"] == names(layer(of_environment(found, HERE, ARM), found))


@pytest.mark.slow
def test_only_what_a_block_asks_for_is_taken_of_an_environment(
    tmp_path: Path, index: Path, layer: Callable[..., Dependencies]
):
    here = tmp_path / "here"
    here.mkdir()
    found = environment(
        tmp_path,
        make_wheel(here, "app", requires=["lib"]),
        make_wheel(here, "lib"),
        make_wheel(here, "unrelated"),
    )
    assert ["app 1.0", "lib 1.0"] == names(layer(of_environment(found, HERE, ARM, roots=["app>=1"]), found))


@pytest.mark.slow
def test_an_editable_project_is_described_without_its_modules(
    tmp_path: Path, index: Path, layer: Callable[..., Dependencies]
):
    here = tmp_path / "here"
    here.mkdir()
    python = make_environment(tmp_path / "venv", make_wheel(here, "my-project", "3.0", scripts={"mine": "mine:main"}))
    (info,) = (tmp_path / "venv").rglob("my_project-3.0.dist-info")
    (info / "direct_url.json").write_text('{"url": "file:///project", "dir_info": {"editable": true}}')
    found = environment_of(whereabouts_of(str(python)))
    made = layer(of_environment(found, HERE, ARM), found)
    assert ["my-project 3.0"] == names(made)
    (wheel,) = (file for file in made.manifest.files if "my_project" in file.path)
    packed = zipfile.ZipFile(io.BytesIO(Parts(str(tmp_path / "cache" / "parts")).get(wheel.digest, 0, wheel.size)))
    assert {"METADATA", "WHEEL", "RECORD", "entry_points.txt"} <= {
        name.rpartition("/")[2] for name in packed.namelist()
    }
    assert "my_project.py" not in packed.namelist()


@pytest.mark.slow
def test_a_requirements_file_is_resolved_with_what_it_names(
    tmp_path: Path, index: Path, layer: Callable[..., Dependencies]
):
    make_wheel(index, "first", "1.0", tag=ARM_TAG)
    make_wheel(index, "second", "1.0")
    make_wheel(index, "second", "2.0")
    (tmp_path / "more.txt").write_text("second==1.0\n")
    (tmp_path / "requirements.txt").write_text("first\n-r more.txt\n")
    made = layer(read_file(tmp_path / "requirements.txt"))
    assert ["first 1.0", "second 1.0"] == names(made)
    (tmp_path / "more.txt").write_text("second==2.0\n")
    assert ["first 1.0", "second 2.0"] == names(layer(read_file(tmp_path / "requirements.txt")))


@pytest.mark.slow
def test_an_index_out_of_reach_is_told_from_a_missing_wheel(
    layer: Callable[..., Dependencies], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DependencyError, match="the package index is out of reach; see PIP_INDEX_URL"):
        layer(Requirements("the block in x.py", ("anything",)))


@pytest.mark.slow
def test_a_lock_of_uv_gives_its_versions_for_each_platform(
    tmp_path: Path, index: Path, layer: Callable[..., Dependencies]
):
    """cloudpickle, which the lock has not, is added; a platform that the lock has no wheel for is named."""
    for tag in (HERE_TAG, ARM_TAG):
        make_wheel(index, "fast", "1.0", tag=tag)
    make_wheel(index, "pure", "2.0", requires=["fast"])
    make_wheel(index, "tool", "1.0")
    (tmp_path / "pyproject.toml").write_text(
        f'[project]\nname = "app"\nversion = "1"\nrequires-python = ">={MINOR}"\ndependencies = ["pure"]\n'
        '[dependency-groups]\ndev = ["tool"]\n'
    )
    uv = str(Path(sys.executable).parent / "uv")
    options = ["--offline", "--no-index", "--find-links", str(index), "--python", sys.executable, "--quiet"]
    subprocess.run([uv, "lock", *options], cwd=tmp_path, check=True, timeout=60)
    make_wheel(index, "pure", "3.0")
    lock = find_lock(tmp_path)
    assert lock is not None
    made = layer(read_lock(lock))
    assert ["fast 1.0", "pure 2.0"] == names(made)
    assert any(each.startswith("cloudpickle ") for each in made.distributions)
    with pytest.raises(NoWheel, match=r"fast==1(\.0)? has no wheel for macosx-arm64 with Python"):
        layer(read_lock(lock), platform=platforms.named("macosx-arm64", MINOR))


@pytest.mark.slow
def test_a_lock_of_poetry_gives_the_versions_of_what_the_project_asks_for(
    tmp_path: Path, index: Path, layer: Callable[..., Dependencies]
):
    for version in ("1.0", "2.0"):
        make_wheel(index, "fast", version, tag=ARM_TAG)
        make_wheel(index, "pure", version, requires=["fast"])
    (tmp_path / "pyproject.toml").write_text('[tool.poetry.dependencies]\npython = "^3.10"\npure = "^1.0"\n')
    (tmp_path / "poetry.lock").write_text(
        '[[package]]\nname = "fast"\nversion = "1.0"\n[[package]]\nname = "pure"\nversion = "1.0"\n'
        '[metadata]\nlock-version = "2.1"\n'
    )
    lock = find_lock(tmp_path)
    assert lock is not None
    assert ["fast 1.0", "pure 1.0"] == names(layer(read_lock(lock)))
