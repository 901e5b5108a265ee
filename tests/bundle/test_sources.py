"""What travels of the user's folders: real trees of files, collected as a bundle's are."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bigm.bundle import snapshot
from bigm.bundle.embedded import FACTS
from bigm.bundle.layout import find_layout
from bigm.bundle.snapshot import Changed, keep_bytes, keep_file
from bigm.bundle.sources import Collected, Rules, collect, largest, machine_tree
from bigm.config import load
from bigm.errors import ConfigError, ProgramError
from bigm.manifest import Manifest
from bigm.parts import Parts
from waiting import eventually


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(str(tmp_path_factory.mktemp("store") / "parts"))


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A program's folder, with its script."""
    write(tmp_path, "app/main.py")
    return tmp_path / "app"


def write(root: Path, *names: str) -> None:
    """Files of that name below *root*, each containing its name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def collected(app: Path, store: Parts, *, rules: Rules | None = None, entries: tuple[Path, ...] = ()) -> Collected:
    """The program whose script is main.py in *app*, and whose `sys.path` are that folder and *entries*."""
    path = [str(app), *map(str, entries)]
    layout = find_layout(str(app / "main.py"), path, str(app), modules={}, finders=())
    return collect(layout, store, rules or Rules())


def taken(app: Path, store: Parts, **how: Rules) -> list[str]:
    """Paths of what travels of *app*, but for its script."""
    paths = [file.path.removeprefix("app/") for file in collected(app, store, **how).manifest.files]
    assert "main.py" in paths
    return [path for path in paths if path != "main.py"]


def test_modules_and_data_beside_a_script_travel_and_nothing_else(app: Path, store: Parts):
    write(app, "helper.py", "data/a.csv", "../beside.py")
    assert ["data/a.csv", "helper.py"] == taken(app, store)


def test_every_content_and_the_manifest_are_in_the_store(app: Path, store: Parts):
    (app / "run.sh").write_text("#!/bin/sh")
    (app / "run.sh").chmod(0o755)
    manifest = collected(app, store).manifest
    assert {} == store.have([manifest.digest, *(file.digest for file in manifest.files)])
    assert [("app/main.py", False), ("app/run.sh", True)] == [(file.path, file.executable) for file in manifest.files]
    assert "main.py" in Path(store.path(manifest.files[0].digest)).read_text()
    assert manifest == Manifest.from_bytes(Path(store.path(manifest.digest)).read_bytes())


def test_the_store_has_a_snapshot_that_no_edit_changes(app: Path, store: Parts):
    before = collected(app, store).manifest
    (app / "main.py").write_text("edited")
    after = collected(app, store).manifest
    assert before.digest != after.digest
    assert "app/main.py" == Path(store.path(before.files[0].digest)).read_text()


def test_what_is_in_the_store_is_not_written_again(app: Path, store: Parts):
    part = Path(store.path(collected(app, store).manifest.files[0].digest))
    os.utime(part, (1, 1))
    collected(app, store)
    assert 1 == part.stat().st_mtime


def test_a_part_that_a_crash_left_short_is_made_again(app: Path, store: Parts):
    part = Path(store.path(collected(app, store).manifest.files[0].digest))
    part.write_bytes(b"")
    collected(app, store)
    assert "app/main.py" == part.read_text()


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        "sub/.git/config",
        "worktree/.git",
        ".hg/x",
        ".svn/x",
        "__pycache__/a.cpython-311.pyc",
        "old.pyc",
        "node_modules/x/index.js",
        ".mypy_cache/x",
        ".ruff_cache/x",
        ".pytest_cache/x",
        ".tox/x",
        ".nox/x",
        ".ipynb_checkpoints/x",
        "env/pyvenv.cfg",
        "conda/conda-meta/history",
        "cache/CACHEDIR.TAG",
        "build/lib.linux-x86_64-cpython-311/x.so",
        "build/bdist.linux-x86_64/x",
        "dist/x-1.0-py3-none-any.whl",
    ],
)
def test_what_no_machine_needs_is_left_out(app: Path, store: Parts, path: str):
    write(app, path, "kept/x.py")
    assert ["kept/x.py"] == taken(app, store)


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".hidden/x",
        "build/libx/__init__.py",
        "build/__init__.py",
        "build/model.bin",
        "dist/index.html",
        "x.egg-info/entry_points.txt",
        "fast.cpython-311-x86_64-linux-gnu.so",
        "env/bin/python",
        ".gitignore",
    ],
)
def test_what_a_machine_may_need_travels(app: Path, store: Parts, path: str):
    write(app, path)
    if path != "build/libx/__init__.py":  # all that is in it could be setuptools': another entry tells
        assert [path] == taken(app, store)
    else:
        write(app, "build/setup.json")
        assert [path, "build/setup.json"] == taken(app, store)


def test_a_pex_that_bigm_made_is_left_out_and_another_travels(app: Path, store: Parts):
    for name, inside in (("app.pex", FACTS), ("other.pex", "x.py")):
        with zipfile.ZipFile(app / name, "w") as archive:
            archive.writestr(inside, "{}")
    write(app, "text.pex")
    assert ["other.pex", "text.pex"] == taken(app, store)


def test_a_gitignore_leaves_nothing_out(app: Path, store: Parts):
    write(app, "data.csv")
    (app / ".gitignore").write_text("*.csv\n")
    assert [".gitignore", "data.csv"] == taken(app, store)


def test_a_bigmignore_leaves_out_and_a_nearer_one_brings_back(app: Path, store: Parts):
    write(app, "a.csv", "sub/b.csv", "sub/keep.csv", "big/x", "sub/big/y")
    (app / ".bigmignore").write_text("# no tables\n*.csv\n/big/\n")
    (app / "sub" / ".bigmignore").write_text("!keep.csv\n")
    assert [".bigmignore", "sub/.bigmignore", "sub/big/y", "sub/keep.csv"] == taken(app, store)


def test_a_bigmignore_brings_back_what_is_left_out_by_name(app: Path, store: Parts):
    write(app, "node_modules/x.js", "node_modules/.git/x")
    (app / ".bigmignore").write_text("!node_modules\n")
    assert [".bigmignore", "node_modules/x.js"] == taken(app, store)


def test_exclude_is_stronger_than_a_bigmignore_and_include_than_both(app: Path, store: Parts):
    write(app, "a.csv", "b.csv", "c.txt")
    (app / ".bigmignore").write_text("*\n!*.csv\n")
    rules = Rules(include=("b.csv",), exclude=("*.csv",))
    assert ["b.csv"] == taken(app, store, rules=rules)


def test_include_reaches_into_what_is_left_out(app: Path, store: Parts):
    write(app, ".git/HEAD", ".git/objects/x", ".git/objects/y", "env/pyvenv.cfg", "env/share/x", "env/bin/python")
    rules = Rules(include=(".git/HEAD", ".git/objects/*x", "env/share/"))
    assert [".git/HEAD", ".git/objects/x", "env/share/x"] == taken(app, store, rules=rules)


def test_a_folder_that_is_included_has_its_caches_left_out_still(app: Path, store: Parts):
    write(app, "env/pyvenv.cfg", "env/x.py", "env/__pycache__/x.pyc")
    assert ["env/pyvenv.cfg", "env/x.py"] == taken(app, store, rules=Rules(include=("env",)))


def test_what_bigm_keeps_for_itself_travels_in_no_case(app: Path, store: Parts):
    write(app, ".bigm/runs/1/run.json", ".bigm/cache/x", "kept/parts/x", "sub/.bigm/x", "x.py")
    environ = {"BIGM_HOME": str(app / ".bigm"), "BIGM_BUNDLE_STORE": str(app / "kept"), "BIGM_BUNDLE_INCLUDE": "*"}
    rules = Rules.of(load(environ=environ))
    assert ["sub/.bigm/x", "x.py"] == taken(app, store, rules=rules)


def test_the_script_and_folders_of_the_search_path_travel_whatever_is_left_out(app: Path, store: Parts):
    write(app, "node_modules/py/x.py", "node_modules/js/x.js", "vendor/y.py", "vendor/z/z.py")
    (app / ".bigmignore").write_text("*\n")
    entries = (app / "node_modules" / "py", app / "vendor")
    paths = [file.path for file in collected(app, store, entries=entries).manifest.files]
    assert ["app/main.py"] == paths  # the folders do, and what is in them is left out by the user's own line
    (app / ".bigmignore").write_text("vendor/\n")
    paths = [file.path for file in collected(app, store, entries=entries).manifest.files]
    expected = [".bigmignore", "main.py", "node_modules/py/x.py", "vendor/y.py", "vendor/z/z.py"]
    assert ["app/" + path for path in expected] == paths


def test_an_environment_made_in_the_project_folder_itself_is_left_out(app: Path, store: Parts):
    write(app, "pyvenv.cfg", "bin/python", "lib/python3.11/x.py", "include/x.h", "helper.py")
    assert ["helper.py"] == taken(app, store)


def test_what_was_left_out_is_listed(app: Path, store: Parts):
    write(app, ".git/x", "__pycache__/x.pyc", "a.csv", "old.pyc")
    (app / ".bigmignore").write_text("*.csv\n")
    assert [str(app / name) for name in (".git", "a.csv")] == sorted(collected(app, store).left_out)


def test_a_link_stands_for_what_it_leads_to(app: Path, store: Parts):
    write(app, "real/x.csv", "../elsewhere/y.csv")
    (app / "inside.csv").symlink_to("real/x.csv")
    (app / "inside").symlink_to("real")
    (app / "outside").symlink_to(app.parent / "elsewhere")
    (app / "dots.csv").symlink_to("real/../../elsewhere/y.csv")
    found = collected(app, store)
    contents = {
        file.path: Path(store.path(file.digest)).read_text() for file in found.manifest.files if "main" not in file.path
    }
    assert {
        "app/dots.csv": "../elsewhere/y.csv",
        "app/inside.csv": "real/x.csv",
        "app/inside/x.csv": "real/x.csv",
        "app/outside/y.csv": "../elsewhere/y.csv",
        "app/real/x.csv": "real/x.csv",
    } == contents
    assert () == found.notes


@pytest.mark.parametrize("target", [".", "..", "/", "sub", "../app/sub"])
def test_a_link_that_leads_back_is_passed_over_and_named(app: Path, store: Parts, target: str):
    write(app, "sub/x.py")
    (app / "sub" / "loop").symlink_to(os.path.normpath(app / target))
    found = collected(app, store)
    assert ["app/main.py", "app/sub/x.py"] == [file.path for file in found.manifest.files]
    (note,) = found.notes
    assert str(app / "sub" / "loop") in note


def test_two_folders_that_link_to_each_other_end(app: Path, store: Parts):
    write(app, "a/x", "../other/y")
    (app / "a" / "other").symlink_to(app.parent / "other")
    (app.parent / "other" / "back").symlink_to(app / "a")
    assert ["a/other/y", "a/x"] == taken(app, store)


@pytest.mark.parametrize("target", ["nowhere", "dangling"])
def test_a_link_that_leads_nowhere_is_passed_over_and_named(app: Path, store: Parts, target: str):
    (app / "dangling").symlink_to(target)  # the second leads to itself
    found = collected(app, store)
    assert ["app/main.py"] == [file.path for file in found.manifest.files]
    assert [f"the link {app / 'dangling'} leads nowhere: it does not travel"] == list(found.notes)


def test_what_is_no_file_does_not_travel_and_is_not_waited_for(app: Path, store: Parts, monkeypatch):
    os.mkfifo(app / "fifo")
    monkeypatch.chdir(app)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert [] == taken(app, store)
    with pytest.raises(ProgramError, match="no regular file"):
        keep_file(store, str(app / "fifo"))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["secret.txt", "secret/x.txt"])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str):
    """In a folder that everybody can reach: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        app = Path(folder) / "app"
        write(app, "main.py", name)
        secret = app / name.partition("/")[0]
        secret.chmod(0)
        for parent in (Path(folder), *Path(folder).parents):
            if parent.stat().st_mode & 0o055 != 0o055 and parent.parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o055)
        with as_nobody(), pytest.raises(ProgramError, match="Permission denied") as raised:
            collected(app, Parts(folder + "/store"))
        secret.chmod(0o700)
    assert str(secret) in str(raised.value)
    assert ".bigmignore" in raised.value.hint


def test_names_that_are_not_utf8_travel(app: Path, store: Parts):
    name = os.fsdecode(b"caf\xe9.txt")
    (app / name).touch()
    write(app, "sp ace\n.txt")
    manifest = collected(app, store).manifest
    assert [name, "sp ace\n.txt"] == taken(app, store)
    assert manifest == Manifest.from_bytes(manifest.to_bytes())


def test_a_file_that_keeps_changing_is_refused_by_name(app: Path, store: Parts):
    """Its writer never rests; each reading takes longer than a write does."""
    path = app / "busy.bin"
    path.write_bytes(bytes(24 << 20))
    stop = threading.Event()

    def busy() -> None:
        with open(path, "r+b") as file:
            while not stop.is_set():
                file.seek(0)
                file.write(os.urandom(8))
                file.flush()

    writer = threading.Thread(target=busy)
    writer.start()
    try:
        with pytest.raises(Changed, match="it changed each of the") as raised:
            keep_file(store, str(path))
    finally:
        stop.set()
        writer.join()
    assert str(path) in str(raised.value)
    assert [] == [name for name in os.listdir(app.parent) if name.endswith(".new")]


def test_a_file_that_changes_once_is_read_again(app: Path, store: Parts, monkeypatch):
    path = app / "main.py"
    keep_small = snapshot._keep_small

    def edited_after_the_first_look(*args: object) -> str | None:
        monkeypatch.setattr(snapshot, "_keep_small", keep_small)
        digest = keep_small(*args)
        path.write_text("edited")
        return digest

    monkeypatch.setattr(snapshot, "_keep_small", edited_after_the_first_look)
    assert "edited" == Path(store.path(keep_file(store, str(path)).digest)).read_text()


def test_a_file_that_is_removed_meanwhile_was_never_there(app: Path, store: Parts, monkeypatch):
    write(app, "a.tmp")
    layout = find_layout(str(app / "main.py"), [str(app)], str(app), modules={}, finders=())

    def removed_first(store: Parts, path: str) -> snapshot.Kept:
        (app / "a.tmp").unlink(missing_ok=True)
        return keep_file(store, path)

    monkeypatch.setattr("bigm.bundle.sources.keep_file", removed_first)
    assert ["app/main.py"] == [file.path for file in collect(layout, store).manifest.files]


def test_a_big_file_is_kept_without_being_held_in_memory(app: Path, store: Parts):
    data = os.urandom(20 << 20)
    (app / "big.bin").write_bytes(data)
    kept = keep_file(store, str(app / "big.bin"))
    assert data == Path(store.path(kept.digest)).read_bytes()
    assert kept == keep_file(store, str(app / "big.bin"))


def test_a_sparse_file_of_5_gb_is_refused_before_it_is_read(app: Path, store: Parts):
    with open(app / "disk.img", "wb") as file:
        file.truncate(5 * 10**9)
    write(app, "small.csv")
    with pytest.raises(ProgramError) as raised:
        collected(app, store)
    message = str(raised.value)
    assert "5.0 GB" in message
    assert "the largest: app/disk.img (5.0 GB)" in message
    assert f"{app}/.bigmignore" in raised.value.hint
    assert not os.path.exists(store.path("0" * 64).rpartition("/")[0]), "nothing was read into the store"
    (app / ".bigmignore").write_text("*.img\n")
    assert [".bigmignore", "small.csv"] == taken(app, store)


def test_the_limit_is_a_rule(app: Path, store: Parts):
    (app / "data.bin").write_bytes(bytes(2000))
    with pytest.raises(ProgramError, match=r"no more than 1.0 kB"):
        collected(app, store, rules=Rules(limit=1000))
    assert ["data.bin"] == taken(app, store, rules=Rules(limit=3000))


def test_the_ten_largest_are_named_above_20_mb_and_not_below(app: Path, store: Parts):
    for number in range(12):
        (app / f"{number:02}.bin").write_bytes(bytes([number]) * (1_600_000 + number))
    assert () == collected(app, store, rules=Rules(exclude=("11.bin",))).notes
    (app / "12.bin").write_bytes(bytes(3_000_000))
    found = collected(app, store)
    assert ["app/12.bin", *(f"app/{number:02}.bin" for number in range(11, 2, -1))] == [
        file.path for file in largest(found.manifest)
    ]
    (note,) = found.notes
    assert note.startswith("the program's files are 22.2 MB; the largest: app/12.bin (3.0 MB), app/11.bin (1.6 MB), ")


def test_small_files_are_not_named_beside_a_large_one(app: Path, store: Parts):
    (app / "large.bin").write_bytes(bytes(21_000_000))
    (app / "small.bin").write_bytes(bytes(999_999))
    (note,) = collected(app, store).notes
    assert "the program's files are 22.0 MB; the largest: app/large.bin (21.0 MB)" == note


def test_a_store_that_cannot_be_written_is_named(app: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot keep parts .*file/parts: Not a directory") as raised:
        collected(app, Parts(str(tmp_path / "file" / "parts")))
    assert "BIGM_HOME" in raised.value.hint


def test_many_at_once_keep_the_same_content(tmp_path: Path):
    parts = Parts(str(tmp_path / "parts"))
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(keep_bytes(parts, b"x" * 10**6))) for _ in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(digests) == 8, 10, lambda: f"{digests}")
    assert 1 == len(set(digests))
    assert [digests[0]] == os.listdir(tmp_path / "parts")


def test_bigm_itself_travels_with_its_templates_and_without_caches(store: Parts):
    manifest = machine_tree(store)
    paths = {file.path for file in manifest.files}
    assert {"bigm/__init__.py", "bigm/worker/launcher.py", "bigm/templates/__init__.py"} <= paths
    assert [] == [path for path in paths if "__pycache__" in path or not path.startswith("bigm/")]
    assert {} == store.have([manifest.digest, *(file.digest for file in manifest.files)])
