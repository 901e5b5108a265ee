"""Which Python the workers of real machines get: one that is there, one that is named, or one that is sent."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bigm
from bigm.bundle.bundle import Bundle
from bigm.parts import Parts
from handmade import MINOR, make_bundle
from standalone import make_archive

BASE = os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(Parts(str(tmp_path / "driver")), data=b"hello")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {"bundle": {"store": str(tmp_path / "store")}}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """The address of an archive, with its digest."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    make_archive(folder / "python.tar.gz")
    digest = hashlib.sha256((folder / "python.tar.gz").read_bytes()).hexdigest()
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="mirror")
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/python.tar.gz#sha256={digest}"
        server.shutdown()
        thread.join()


def executable(cluster: bigm.Cluster, bundle: Bundle) -> str:
    """The interpreter of a machine's worker."""
    [machine] = cluster.start(1, bundle=bundle)
    cluster.wait(timeout=60.0)
    found: str = machine._clients[0].call("Supervisor.info").executable
    return found


def test_workers_run_the_python_whose_path_is_set(bundle: Bundle, settings: dict[str, Any]) -> None:
    with bigm.start("local", python=BASE, **settings) as cluster:
        assert os.path.realpath(executable(cluster, bundle)) == BASE


def test_a_version_is_found_among_those_that_are_there(
    bundle: Bundle, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{os.path.dirname(BASE)}{os.pathsep}{os.environ['PATH']}")
    with bigm.start("local", python=MINOR, **settings) as cluster:
        assert f"python{MINOR}" in os.path.realpath(executable(cluster, bundle))


def test_a_path_with_no_python_is_said_before_the_workers_start(bundle: Bundle, settings: dict[str, Any]) -> None:
    with bigm.start("local", python="/nowhere/python", **settings) as cluster:
        [machine] = cluster.start(1, bundle=bundle)
        with pytest.raises(bigm.BootError, match=r"m0 .*cannot use /nowhere/python, as the setting python says"):
            cluster.wait(timeout=30.0)
        assert machine.cause == "ship"


def test_a_version_that_the_driver_does_not_run_is_refused_before_anything_starts(
    bundle: Bundle, settings: dict[str, Any]
) -> None:
    with bigm.start("local", python="3.1", **settings) as cluster:
        with pytest.raises(bigm.ConfigError, match=r"machines cannot run Python 3\.1"):
            cluster.start(1, bundle=bundle)
        assert cluster.machines == []


def test_an_interpreter_is_fetched_sent_and_found_again(
    bundle: Bundle, settings: dict[str, Any], mirror: str, tmp_path: Path
) -> None:
    settings["bundle"]["mirror"] = mirror
    for _ in range(2):
        with bigm.start("local", python="bundled", **settings) as cluster:
            python = executable(cluster, bundle)
            assert python.startswith(str(tmp_path / "store" / "kept" / "python-"))
        shutil.rmtree(tmp_path / "mirror", ignore_errors=True)  # the second time nobody asks for it


def test_a_mirror_that_has_something_else_is_said(bundle: Bundle, settings: dict[str, Any], mirror: str) -> None:
    settings["bundle"]["mirror"] = mirror[:-4] + "0000"
    with bigm.start("local", python="bundled", **settings) as cluster:
        cluster.start(1, bundle=bundle)
        with pytest.raises(bigm.BigmError, match="could not be brought its bundle"):
            cluster.wait(timeout=60.0)
