"""Interpreters unpacked on a machine: they run, and nothing is written outside of their folder."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import Place

from bigm.bootstrap import interpreter
from bigm.bootstrap.folders import StoreError
from bigm.bootstrap.interpreter import InterpreterError, unpack
from bigm.parts import PartError
from interpreters import find_python
from standalone import make_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("archive") / "python.tar.gz"
    make_archive(path)
    yield path
    path.unlink()


def test_an_interpreter_runs_where_it_is_unpacked(archive: Path, tmp_path: Path):
    folder = tmp_path / "here"
    facts = unpack(str(archive), str(folder))
    python = folder / str(facts["python"])
    code = "import sys, ssl, json; print(*sys.version_info[:3], sys.prefix)"
    answer = subprocess.run([python, "-I", "-B", "-c", code], capture_output=True, text=True, timeout=60)
    assert "{} {} {} {}\n".format(*sys.version_info[:3], folder) == answer.stdout, answer.stderr
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) == facts["size"]


def test_an_environment_can_be_made_of_it(archive: Path, tmp_path: Path):
    unpack(str(archive), str(tmp_path / "here"))
    python = tmp_path / "here" / "bin" / "python3"
    subprocess.run([python, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=60)
    code = "import sys; print(sys.base_prefix)"
    answer = subprocess.run([tmp_path / "venv/bin/python", "-c", code], capture_output=True, text=True, timeout=60)
    assert f"{tmp_path}/here\n" == answer.stdout


def test_a_machine_unpacks_it_once_for_all_who_share_a_store(archive: Path, tmp_path: Path):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with Place() as place:
        machines = [place.machine(), place.machine()]
        for machine in machines:
            machine.client.call("Agent.extend", ("",))
            machine.client.call("Installer.open", (str(tmp_path / "store"),))
        first, second = (machine.client for machine in machines)
        assert {} == first.call("Installer.find_interpreter", (digest,))
        with pytest.raises(PartError, match="is not here"):
            first.call("Installer.interpreter", (digest,))
        with archive.open("rb") as file:
            size = 0
            while piece := file.read(1 << 20):
                size = first.call("Installer.put", (digest, size, piece, False))
        first.call("Installer.put", (digest, size, b"", True))
        found = first.call("Installer.interpreter", (digest,))
        assert "{}.{}.{}".format(*sys.version_info) == found["version"]
        os.unlink(tmp_path / "store" / "parts" / digest)
        assert found == second.call("Installer.interpreter", (digest,))
        assert found == second.call("Installer.find_interpreter", (digest,))
        assert found == second.call("Installer.examine", (found["path"],))


def test_it_unpacks_on_python_3_9(archive: Path, tmp_path: Path):
    python = find_python("3.9")
    if not python:
        pytest.skip("no Python 3.9 here")
    root = str(Path(interpreter.__file__).parents[2])
    imports = f"import sys; sys.path.insert(0, {root!r}); from bigm.bootstrap import interpreter"
    code = f"{imports}; interpreter.unpack(*sys.argv[1:])"
    command = [python, "-I", "-S", "-B", "-c", code, archive, tmp_path / "here"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert 0 == answer.returncode, answer.stderr
    assert os.access(tmp_path / "here" / "bin" / "python3", os.X_OK)


class Made:
    """An archive made of single members."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tar = tarfile.open(path, "w:gz")

    def __enter__(self) -> Made:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def file(self, name: str, text: str = "", mode: int = 0o755) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(text), mode
        self._tar.addfile(member, io.BytesIO(text.encode()))

    def other(self, name: str, kind: bytes, target: str = "") -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        self._tar.addfile(member)


# Each a list of members that together lead out of the folder.
LEADING_OUT = {
    "absolute": [("file", "/evil")],
    "parent": [("file", "python/../../evil")],
    "parent of the one folder": [("file", "../evil")],
    "absolute link": [("link", "python/lib", "/")],
    "link up": [("link", "python/lib", "../..")],
    "link up later": [("link", "python/a/lib", "b/../../..")],
    "file below a link": [("link", "python/lib", "bin"), ("file", "python/lib/evil")],
    "folder below a link": [("link", "python/lib", "bin"), ("folder", "python/lib/evil")],
    "link below a link": [("link", "python/a", "bin"), ("link", "python/a/b", "../..")],
    "hard link out": [("hard", "python/bin/evil", "python/../../evil")],
    "absolute hard link": [("hard", "python/bin/evil", "/etc/passwd")],
    "hard link below a link": [("link", "python/a", "bin"), ("hard", "python/evil", "python/a/python3")],
    "link made shallower": [("link", "python/a/b/c", "../../bin"), ("hard", "python/c", "python/a/b/c")],
}


@pytest.mark.parametrize("members", LEADING_OUT.values(), ids=LEADING_OUT.keys())
def test_an_archive_that_leads_out_is_refused_and_writes_nothing(members: list[tuple[str, ...]], tmp_path: Path):
    inner = tmp_path / "inner"
    inner.mkdir()
    with Made(tmp_path / "evil.tar.gz") as made:
        kinds = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "folder": tarfile.DIRTYPE}
        for kind, *names in members:
            if kind == "file":
                made.file(*names)
            else:
                made.other(names[0], kinds[kind], *names[1:])
    with pytest.raises(InterpreterError, match="outside of its folder"):
        unpack(str(made.path), str(inner / "python"))
    assert ["evil.tar.gz", "inner"] == sorted(os.listdir(tmp_path))
    assert [] == os.listdir(inner)


def test_devices_are_refused(tmp_path: Path):
    with Made(tmp_path / "device.tar.gz") as made:
        made.other("python/fifo", tarfile.FIFOTYPE)
    with pytest.raises(InterpreterError, match="has a device in it: 'python/fifo'"):
        unpack(str(made.path), str(tmp_path / "python"))


def test_a_damaged_archive_is_said_to_be_and_leaves_nothing(archive: Path, tmp_path: Path):
    whole = archive.read_bytes()
    for content in (b"", b"no gzip", whole[: len(whole) // 2], whole[:100_000] + bytes(1000) + whole[101_000:]):
        path = tmp_path / "damaged.tar.gz"
        path.write_bytes(content)
        with pytest.raises(InterpreterError, match="damaged"):
            unpack(str(path), str(tmp_path / "python"))
        assert ["damaged.tar.gz"] == os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("python/readme", "", "there is no bin/python3"),
        ("python/bin/python3", "\x7fELF of another architecture", "Exec format error"),
        ("python/bin/python3", "#!/bin/sh\necho 'GLIBC_2.99 not found' >&2; exit 1\n", "GLIBC_2.99 not found"),
    ],
)
def test_what_does_not_run_here_is_refused_with_what_it_said(name: str, text: str, error: str, tmp_path: Path):
    with Made(tmp_path / "other.tar.gz") as made:
        made.file(name, text)
    with pytest.raises(InterpreterError, match=f"does not run here: .*{error}.*another architecture"):
        unpack(str(made.path), str(tmp_path / "python"))
    assert ["other.tar.gz"] == os.listdir(tmp_path)


def test_modes_are_those_of_a_program_or_of_a_file(tmp_path: Path):
    with Made(tmp_path / "modes.tar.gz") as made:
        made.file("python/bin/python3", "#!/bin/sh\nexec " + sys.executable + ' "$@"\n', mode=0o6777)
        made.file("python/lib/x.py", mode=0o666)
        made.other("python/lib/y.py", tarfile.LNKTYPE, "python/lib/x.py")
    unpack(str(made.path), str(tmp_path / "python"))
    assert 0o755 == (tmp_path / "python/bin/python3").stat().st_mode & 0o7777
    assert 0o644 == (tmp_path / "python/lib/x.py").stat().st_mode & 0o7777
    assert os.path.samefile(tmp_path / "python/lib/x.py", tmp_path / "python/lib/y.py")


def test_a_folder_that_cannot_be_written_is_named(archive: Path, tmp_path: Path):
    with pytest.raises(StoreError, match=r"cannot unpack an interpreter in /dev/null: Not a directory"):
        unpack(str(archive), "/dev/null/python")
