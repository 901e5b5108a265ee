"""Interpreters for machines that have none: archives of python-build-standalone, fetched once and verified.

A mirror is the address of one release: a folder that has the archives, and `SHA256SUMS` with the digest of each; or the
address of one archive with its digest behind "#sha256=". An archive is a part of the driver's store, as machines are
sent it, so that the second run needs no network.

    <home>/cache/pythons/<digest>         its record; see `bigm.bundle.holdings`
    <home>/cache/pythons/<digest>.part    what has arrived of it: a fetch that was cut goes on where it ended
    <home>/cache/pythons/fetched.json     which archive is that of a mirror and a platform

Source: the releases of python-build-standalone, "install_only" and "install_only_stripped".
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urldefrag, urljoin

from bigm.bootstrap.locks import held
from bigm.bundle.holdings import PYTHONS, Holdings
from bigm.errors import BigmError, ConfigError
from bigm.parts import PartError, Parts

if TYPE_CHECKING:
    import requests

RELEASE = "https://github.com/astral-sh/python-build-standalone/releases/download/20260623"

_TRIPLES = {
    "linux-x86_64": "x86_64-unknown-linux-gnu",
    "linux-aarch64": "aarch64-unknown-linux-gnu",
    "musllinux-x86_64": "x86_64-unknown-linux-musl",
    "musllinux-aarch64": "aarch64-unknown-linux-musl",
    "macosx-arm64": "aarch64-apple-darwin",
    "macosx-x86_64": "x86_64-apple-darwin",
}
_ARCHIVE = re.compile(r"cpython-(\d+\.\d+\.\d+)\+\d+-([a-z0-9_-]+?)-install_only(_stripped)?\.tar\.gz")
_PIECE = 64 << 10  # bytes; of the piece in which a connection ends nothing is kept
_SUMS_BYTES = 1 << 20  # of SHA256SUMS, which has some 200 KB
KEEP = 1 << 30  # bytes of archives that are kept for later runs; each has 30 MB
_ABANDONED = 7 * 86400.0  # seconds without a byte, after which what has arrived of an archive is removed
_TRIES = 4  # one after another that bring nothing
_PARTIAL, _NO_MORE = 206, 416  # what a server answers that goes on, or has nothing after that byte
_ELSEWHERE = "see what bundle.mirror is, or set it to another place"

Progress = Callable[[int, int], None]  # bytes that are here, of how many; 0: not known


class FetchError(BigmError):
    """An interpreter cannot be fetched: the mirror's fault, the network's, or the setting's. The text says which."""

    exit_code = 75


class Archive(NamedTuple):
    """An interpreter that is here, as a part.

    Args:
        platform: "linux-x86_64".
        version: "3.11.15"; "" where only its address is known.
        digest: sha256, hexadecimal.
        size: bytes.
        hold: keeps it in the store, for as long as it is referred to.
    """

    platform: str
    version: str
    digest: str
    size: int
    hold: object


class _Wanted(NamedTuple):
    """One archive of a mirror."""

    address: str
    digest: str
    version: str


def fetch(
    platform: str,
    python: str,
    *,
    store: Parts,
    cache: Path,
    mirror: str = RELEASE,
    keep: int = KEEP,
    timeout: float = 60.0,
    progress: Progress = lambda received, total: None,
) -> Archive:
    """Have an interpreter for a platform on this computer.

    Args:
        platform: "linux-aarch64", as in `bigm.bundle.platforms`.
        python: minor version, "3.11"; the newest of the release is taken.
        store: the driver's store of parts, which gets it; in the same cache.
        cache: bigm's folder of caches; several processes may use it at once, and the second one finds what the first
            got.
        mirror: as the setting `bundle.mirror`.
        keep: bytes of archives that stay here, the one that was used last first; others go, unless they are used.
        timeout: seconds after which a silent server is given up.
        progress: called as bytes arrive.
    Raises:
        ConfigError: the mirror is no address, or there is no interpreter for that platform.
        FetchError: see there. What has arrived is kept, and the next call goes on from there.
    """
    if platform not in _TRIPLES:
        raise ConfigError(f"there is no interpreter to send to {platform}", hint="install Python there")
    address, fragment = urldefrag(mirror)
    if not re.match(r"https?://.", address):
        raise ConfigError(f"bundle.mirror: {mirror!r} is no http address")
    key = f"{platform} {python} {mirror}"
    folder = cache / PYTHONS
    archives = Parts(store.folder, incoming=str(folder))
    try:
        kept = Holdings(PYTHONS, cache, store)
        with held(str(folder / "lock")), kept.adding():
            wanted = _recorded(folder, key, archives) or _find(address, fragment, platform, python, timeout)
            if archives.have([wanted.digest]):
                _download(wanted, archives, timeout, progress)
                _record(folder, key, wanted)
            size = os.path.getsize(archives.path(wanted.digest))
            hold = kept.use(wanted.digest, {wanted.digest: size})
        kept.prune(keep)
        _remove_abandoned(folder)
    except OSError as error:
        raise FetchError(f"cannot keep an interpreter in {folder}: {error.strerror}", hint="make room there") from error
    return Archive(platform, wanted.version, wanted.digest, size, hold)


def _find(address: str, fragment: str, platform: str, python: str, timeout: float) -> _Wanted:
    """What the mirror has for the platform."""
    if address.endswith(".tar.gz"):
        digest = fragment.removeprefix("sha256=").lower()
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ConfigError(
                f"bundle.mirror: {address} is one archive, and nothing says its digest", hint='add "#sha256=..." to it'
            )
        match = _ARCHIVE.fullmatch(unquote(address.rpartition("/")[2]))
        return _Wanted(address, digest, match[1] if match else "")
    folder = address.rstrip("/") + "/"
    found: list[tuple[tuple[int, ...], bool, _Wanted]] = []
    for digest, name in _sums(urljoin(folder, "SHA256SUMS"), timeout):
        match = _ARCHIVE.fullmatch(name)
        if match and match[2] == _TRIPLES[platform] and match[1].startswith(f"{python}."):
            wanted = _Wanted(urljoin(folder, quote(name)), digest, match[1])
            found.append((tuple(map(int, match[1].split("."))), bool(match[3]), wanted))
    if not found:
        raise FetchError(
            f"{folder}SHA256SUMS names no interpreter of Python {python} for {platform}",
            hint="set bundle.mirror to a release that has one",
        )
    return max(found)[2]  # of the newest version, the one without debugging symbols


def _sums(address: str, timeout: float) -> Iterator[tuple[str, str]]:
    """Digest and file name of all that a release has."""
    try:
        with _request(address, timeout) as answer:
            text = b"".join(_pieces(answer, _SUMS_BYTES)).decode("utf-8", "replace")
    except _Cut as cut:
        raise FetchError(f"cannot fetch {address}: {cut}", hint=_ELSEWHERE) from cut
    lines = [re.fullmatch(r"([0-9a-f]{64}) [ *](\S+)", line.strip()) for line in text.splitlines()]
    found = [(match[1], match[2]) for match in lines if match]
    if not found:
        raise FetchError(f"{address} has no digests in it", hint=_ELSEWHERE)
    return iter(found)


def _download(wanted: _Wanted, archives: Parts, timeout: float, progress: Progress) -> None:
    """Fetch an archive, going on after each cut as long as something arrives."""
    failures = 0
    while (before := archives.have([wanted.digest]).get(wanted.digest)) is not None:
        try:
            _go_on(wanted, archives, before, timeout, progress)
        except _Cut as cut:
            received = archives.have([wanted.digest])[wanted.digest]
            failures = failures + 1 if received == before else 0
            if failures == _TRIES:
                raise FetchError(
                    f"cannot fetch {wanted.address}: {cut}; {received >> 10} KiB of it are here and kept",
                    hint="try again, or set bundle.mirror to another place",
                ) from cut


def _go_on(wanted: _Wanted, archives: Parts, received: int, timeout: float, progress: Progress) -> None:
    with _request(wanted.address, timeout, received) as answer:
        offset = received if answer.status_code in (_PARTIAL, _NO_MORE) else 0  # else it begins anew
        total = offset + int(answer.headers.get("Content-Length") or 0)
        if answer.status_code != _NO_MORE:
            for piece in _pieces(answer):
                offset += len(piece)
                archives.put(wanted.digest, offset - len(piece), piece, last=False)
                progress(offset, total)
            if offset < total:
                raise _Cut("the connection ended early")
    try:
        if archives.put(wanted.digest, offset, b"", last=True) != offset:
            raise _Cut("it has become shorter than what is here of it")
    except PartError as error:
        raise FetchError(
            f"{wanted.address} is not what its digest says: {error.message}",
            hint="the mirror or the digest is wrong; nothing of it is used",
        ) from error


class _Cut(Exception):
    """The connection failed in a way that may be over a moment later."""


def _pieces(answer: requests.Response, limit: int = 1 << 40) -> Iterator[bytes]:
    import requests

    try:
        for piece in answer.iter_content(_PIECE):
            limit -= len(piece)
            if limit < 0:
                raise FetchError(f"{answer.url} is longer than what is expected there", hint=_ELSEWHERE)
            yield piece
    except requests.RequestException as error:
        raise _Cut(_said(error)) from error


def _request(address: str, timeout: float, offset: int = 0) -> requests.Response:
    import requests  # only who fetches pays for it

    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
    try:
        answer = requests.get(address, headers=headers, stream=True, timeout=timeout)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _Cut(_said(error)) from error
    except requests.RequestException as error:
        raise FetchError(f"cannot fetch {address}: {error}", hint=_ELSEWHERE) from error
    status = answer.status_code
    if status < 400 or (status == _NO_MORE and offset):
        return answer
    answer.close()
    if status >= 500:
        raise _Cut(f"{status} {answer.reason}")
    raise FetchError(f"cannot fetch {address}: {status} {answer.reason}", hint=_ELSEWHERE)


def _said(error: BaseException) -> str:
    """What happened, without the objects that requests names around it."""
    text = str(error)
    if found := re.search(r"\[Errno -?\d+\] ([^'\")]+)", text):
        return found[1].lower()
    if "timed out" in text:
        return "the server is silent"
    if "IncompleteRead" in text or "Connection aborted" in text:
        return "the connection ended early"
    return text


def _recorded(folder: Path, key: str, archives: Parts) -> _Wanted | None:
    """What an earlier fetch found, if it is still here."""
    try:
        wanted = _Wanted(*json.loads((folder / "fetched.json").read_text())[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if archives.have([wanted.digest]) else wanted


def _record(folder: Path, key: str, wanted: _Wanted) -> None:
    file = folder / "fetched.json"
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    unfinished = file.with_suffix(".new")
    unfinished.write_text(json.dumps({**known, key: wanted}))
    unfinished.replace(file)


def _remove_abandoned(folder: Path) -> None:
    """Remove what arrived of archives that nobody has gone on fetching for long."""
    for path in folder.glob("*.part"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _ABANDONED:
                path.unlink()
