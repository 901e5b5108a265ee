"""Interpreters fetched from a mirror: real HTTP from a server that cuts, refuses, lies and falls silent."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigm.bundle import standalone
from bigm.bundle.standalone import FetchError, fetch
from bigm.errors import ConfigError
from bigm.parts import Parts

CONTENT = os.urandom(3 << 20)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "cpython-3.11.15+20260623-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz"


class Mirror(http.server.ThreadingHTTPServer):
    """A release on loopback, and what is wrong with it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {NAME: CONTENT}
        self.asked: list[tuple[str, str]] = []  # paths and ranges
        self.cut_after: list[int] = []  # bytes of the next answers before each is cut
        self.ranges = True
        self.status = 200
        self.silent = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/20260623"

    def sums(self, digests: dict[str, str] | None = None) -> None:
        """Publish the digests of all files, or others."""
        found = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        lines = [f"{digest}  {name}" for name, digest in {**found, **(digests or {})}.items()]
        self.files["SHA256SUMS"] = "\n".join(lines).encode()

    def asked_for_archives(self) -> list[str]:
        """The ranges asked for, one for each request that was not about digests."""
        return [wanted for path, wanted in self.asked if path != "SHA256SUMS"]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2].replace("%2B", "+")
        wanted = self.headers.get("Range", "")
        self.server.asked.append((name, wanted))
        data = self.server.files.get(name)
        start = int(wanted[len("bytes=") : -1]) if wanted and self.server.ranges else 0
        status = self.server.status if name != "SHA256SUMS" else 200
        if data is None:
            status = 404
        elif status == 200 and start:
            status = 416 if start >= len(data) else 206
        body = data[start:] if data and status in (200, 206) else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut_after and name != "SHA256SUMS":
            body = body[: self.server.cut_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        if self.server.silent.is_set():
            self.wfile.flush()
            self.connection.recv(1)  # until the client gives up

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror() as server:
        server.sums()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="mirror")
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def store_in(cache: Path) -> Parts:
    return Parts(str(cache / "parts"))


def get(server: Mirror, cache: Path, **more: object) -> standalone.Archive:
    given = {"store": store_in(cache), "cache": cache, "mirror": server.address, "timeout": 10, **more}
    return fetch("linux-x86_64", "3.11", **given)


def content(server: Mirror, cache: Path) -> bytes:
    return Path(store_in(cache).path(get(server, cache).digest)).read_bytes()


def arrive(cache: Path) -> None:
    """All of the archive has arrived, and was not verified."""
    (cache / "pythons").mkdir(exist_ok=True)
    Parts(str(cache / "parts"), incoming=str(cache / "pythons")).put(DIGEST, 0, CONTENT, last=False)


def test_an_interpreter_is_fetched_verified_and_becomes_a_part(mirror: Mirror, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    archive = get(mirror, tmp_path, progress=lambda *state: seen.append(state))
    assert ("linux-x86_64", "3.11.15", DIGEST, len(CONTENT)) == archive[:4]
    assert (len(CONTENT), len(CONTENT)) == seen[-1]
    assert seen == sorted(seen)
    assert CONTENT == Path(store_in(tmp_path).path(DIGEST)).read_bytes()


def test_an_archive_lies_once_in_the_caches_and_goes_when_it_is_not_used(mirror: Mirror, tmp_path: Path):
    archive = get(mirror, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [store_in(tmp_path).path(DIGEST)] == [str(path) for path in files if path.stat().st_size > 100_000]
    other = NAME.replace("3.11.15", "3.12.1")
    mirror.files[other] = b"another" * 1000
    mirror.sums()
    fetch("linux-x86_64", "3.12", store=store_in(tmp_path), cache=tmp_path, mirror=mirror.address, keep=10_000)
    assert {} == store_in(tmp_path).have([DIGEST]), "it is used"
    del archive
    fetch("linux-x86_64", "3.12", store=store_in(tmp_path), cache=tmp_path, mirror=mirror.address, keep=10_000)
    assert [DIGEST] == list(store_in(tmp_path).have([DIGEST]))


def test_what_has_arrived_of_an_archive_and_nobody_goes_on_with_is_removed(mirror: Mirror, tmp_path: Path):
    get(mirror, tmp_path)
    old, new = tmp_path / "pythons" / f"{'a' * 64}.part", tmp_path / "pythons" / f"{'b' * 64}.part"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    get(mirror, tmp_path)
    assert (False, True) == (old.exists(), new.exists())


def test_the_second_time_nothing_is_asked(mirror: Mirror, tmp_path: Path):
    first = get(mirror, tmp_path)
    asked = len(mirror.asked)
    assert first[:4] == get(mirror, tmp_path)[:4]
    assert asked == len(mirror.asked)


def test_the_newest_of_the_minor_version_is_taken_and_without_symbols(mirror: Mirror, tmp_path: Path):
    triple = "20260623-x86_64-unknown-linux-gnu"
    others = {
        f"cpython-3.11.9+{triple}-install_only_stripped.tar.gz": b"older",
        f"cpython-3.11.15+{triple}-install_only.tar.gz": b"with symbols",
        f"cpython-3.12.1+{triple}-install_only_stripped.tar.gz": b"another minor version",
        "cpython-3.11.16+20260623-x86_64-unknown-linux-musl-install_only_stripped.tar.gz": b"another libc",
        "cpython-3.11.16+20260623-x86_64_v4-unknown-linux-gnu-install_only_stripped.tar.gz": b"newer processors",
        f"cpython-3.11.16+{triple}-freethreaded-install_only_stripped.tar.gz": b"without the GIL",
        f"cpython-3.11.16+{triple}-debug-full.tar.zst": b"another form",
    }
    mirror.files.update(others)
    mirror.sums()
    assert DIGEST == get(mirror, tmp_path).digest


def test_each_platform_has_its_own(mirror: Mirror, tmp_path: Path):
    name = "cpython-3.12.4+20260623-aarch64-apple-darwin-install_only.tar.gz"
    mirror.files[name] = b"for a Mac"
    mirror.sums()
    store = store_in(tmp_path)
    archive = fetch("macosx-arm64", "3.12", store=store, cache=tmp_path, mirror=mirror.address)
    assert b"for a Mac" == Path(store.path(archive.digest)).read_bytes()
    with pytest.raises(FetchError, match=r"SHA256SUMS names no interpreter of Python 3.12 for linux-x86_64"):
        fetch("linux-x86_64", "3.12", store=store, cache=tmp_path, mirror=mirror.address)


def test_one_archive_can_be_named_with_its_digest(mirror: Mirror, tmp_path: Path):
    mirror.files = {"python.tar.gz": CONTENT}
    archive = get(mirror, tmp_path, mirror=f"{mirror.address}/python.tar.gz#sha256={DIGEST}")
    assert ("", DIGEST) == (archive.version, archive.digest)
    with pytest.raises(ConfigError, match="nothing says its digest"):
        get(mirror, tmp_path, mirror=f"{mirror.address}/python.tar.gz")


def test_a_fetch_that_is_cut_goes_on_where_it_ended(mirror: Mirror, tmp_path: Path):
    mirror.cut_after = [1_500_000, 1_000_000]
    assert CONTENT == content(mirror, tmp_path)
    ranges = mirror.asked_for_archives()
    assert 3 == len(ranges)
    assert "" == ranges[0]
    starts = [int(wanted[len("bytes=") : -1]) for wanted in ranges[1:]]
    assert 0 < starts[0] <= 1_500_000 < starts[1] <= 2_500_000


def test_what_has_arrived_is_kept_for_the_next_run(mirror: Mirror, tmp_path: Path):
    mirror.cut_after = [1_200_000, 0, 0, 0, 0]
    with pytest.raises(FetchError, match=r"ended early; \d+ KiB of it are here and kept; try again"):
        get(mirror, tmp_path)
    asked = len(mirror.asked)
    assert CONTENT == content(mirror, tmp_path)
    (path, wanted) = mirror.asked[-1]
    assert (NAME, asked + 2) == (path, len(mirror.asked))
    assert int(wanted[len("bytes=") : -1]) >= 1_000_000


def test_a_server_that_cannot_go_on_sends_it_all_again(mirror: Mirror, tmp_path: Path):
    mirror.ranges = False
    mirror.cut_after = [1_500_000]
    assert CONTENT == content(mirror, tmp_path)


def test_an_end_that_was_not_verified_is_verified(mirror: Mirror, tmp_path: Path):
    """As when the driver is killed between the last byte and the rename."""
    arrive(tmp_path)
    assert CONTENT == content(mirror, tmp_path)


def test_a_server_that_has_less_than_is_here_is_given_up(mirror: Mirror, tmp_path: Path):
    arrive(tmp_path)
    mirror.ranges, mirror.files[NAME] = False, CONTENT[:1000]
    with pytest.raises(FetchError, match="it has become shorter than what is here of it"):
        get(mirror, tmp_path)
    assert len(mirror.asked_for_archives()) == 4


def test_a_wrong_content_is_refused_and_forgotten(mirror: Mirror, tmp_path: Path):
    mirror.files[NAME] = b"x" + CONTENT[1:]
    for _ in range(2):
        with pytest.raises(FetchError, match=r"is not what its digest says: .*nothing of it is used"):
            get(mirror, tmp_path)
    mirror.files[NAME] = CONTENT
    assert CONTENT == content(mirror, tmp_path)
    assert ["", "", ""] == mirror.asked_for_archives()


def test_a_release_that_is_not_there_is_said_to_be(mirror: Mirror, tmp_path: Path):
    mirror.files = {}
    with pytest.raises(FetchError, match=r"cannot fetch http://.*/20260623/SHA256SUMS: 404 Not Found; see what"):
        get(mirror, tmp_path)
    mirror.files["SHA256SUMS"] = b"<html>welcome</html>"
    with pytest.raises(FetchError, match="has no digests in it"):
        get(mirror, tmp_path)
    mirror.sums({NAME: DIGEST})
    del mirror.files["SHA256SUMS"]
    mirror.sums({NAME: DIGEST})
    with pytest.raises(FetchError, match=r"cannot fetch http://.*%2B20260623.*: 404 Not Found"):
        get(mirror, tmp_path)


def test_a_server_in_trouble_is_tried_again_then_given_up(mirror: Mirror, tmp_path: Path):
    mirror.status = 503
    with pytest.raises(FetchError, match=r"503 Service Unavailable; 0 KiB"):
        get(mirror, tmp_path)
    assert 4 == len(mirror.asked_for_archives())


def test_an_unreachable_mirror_is_said_to_be(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/release"
        with pytest.raises(FetchError, match=rf"cannot fetch {address}/SHA256SUMS: connection refused; see what"):
            fetch("linux-x86_64", "3.11", store=store_in(tmp_path), cache=tmp_path, mirror=address)


def test_a_silent_server_is_given_up(mirror: Mirror, tmp_path: Path):
    mirror.silent.set()
    mirror.cut_after = [1000, 1000, 1000, 1000, 1000]
    with pytest.raises(FetchError, match="the server is silent"):
        get(mirror, tmp_path, mirror=f"{mirror.address}/{NAME}#sha256={DIGEST}", timeout=0.2)


@pytest.mark.parametrize("address", ["", "release", "ftp://there/release", "file:///tmp"])
def test_a_mirror_that_is_no_address_is_refused(address: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="is no http address"):
        fetch("linux-x86_64", "3.11", store=store_in(tmp_path), cache=tmp_path, mirror=address)


def test_a_platform_without_interpreters_is_said_to_be(tmp_path: Path):
    with pytest.raises(ConfigError, match="no interpreter to send to linux-s390x; install"):
        fetch("linux-s390x", "3.11", store=store_in(tmp_path), cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_named(mirror: Mirror):
    with pytest.raises(FetchError, match="cannot keep an interpreter in /dev/null/pythons: "):
        get(mirror, Path("/dev/null"))


def test_two_runs_at_once_fetch_it_once(mirror: Mirror, tmp_path: Path):
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(content(mirror, tmp_path))) for _ in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [CONTENT, CONTENT] == found
    assert 1 == len(mirror.asked_for_archives())
