"""Bundles brought to real machines of this computer, over real connections that are cut, and from peers that lie."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bigm
from bigm.bundle.bundle import Bundle
from bigm.clock import Clock
from bigm.fanout import DRIVER, Transfer
from bigm.parts import Parts
from bigm.shipping import Shipping, Terms
from bigm.systems.base import Instance
from bigm.systems.local import Local
from bigm.timeouts import Timeouts
from handmade import make_bundle
from waiting import eventually

MB = 1_000_000


class Counted(Parts):
    """A driver's store that counts what is read of it: what is sent, and sent again."""

    read = 0

    def get(self, digest: str, offset: int, size: int) -> bytes:
        data = super().get(digest, offset, size)
        self.read += len(data)
        return data


class Cut(Local):
    """Machines whose connections can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []

    def connect(self, instance: Instance, timeout: float) -> socket.socket:
        sock = super().connect(instance, timeout)
        self.sockets.append(sock.dup())
        return sock

    def cut(self) -> None:
        """Cut all that there are."""
        sockets, self.sockets = self.sockets, []
        for sock in sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was closed meanwhile
            sock.close()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Bundle]:
    """Makes bundles of a few files."""
    return functools.partial(make_bundle, Counted(str(tmp_path / "driver")))


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {"bundle": {"store": str(tmp_path / "store")}}


PRIVATE = {"bundle": {"store": ""}}  # each machine has a store of its own, as if it were on a computer of its own


def shipped(cluster: bigm.Cluster) -> list[dict[str, Any]]:
    lines = (cluster._session.run.folder / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [event for event in events if event["event"] == "shipped" and event["cluster"] == cluster.name]


def test_a_machine_runs_what_was_brought_to_it(make: Callable[..., Bundle], settings: dict[str, Any]) -> None:
    bundle = make(data=b"hello")
    with bigm.start("local", **settings) as cluster:
        [machine] = cluster.start(1, bundle=bundle)
        cluster.wait(timeout=30.0)
        assert machine.run(os.listdir, ".") == ["data"]
        assert machine.run(os.getcwd).endswith("/app")
        info = machine._clients[0].call("Supervisor.info")
        assert machine.bundle == info.bundle == bundle.digest
        assert info.sys_path[0] == info.cwd
        assert str(Path(__file__).parents[1]) not in info.sys_path


def test_machines_of_one_computer_are_sent_one_copy_and_the_next_run_nothing(
    make: Callable[..., Bundle], settings: dict[str, Any]
) -> None:
    bundle = make(data=os.urandom(3 * MB))
    with bigm.start("local", **settings) as cluster:
        cluster.start(3, bundle=bundle)
        cluster.wait(timeout=60.0)
        assert sum(event["sent"] for event in shipped(cluster)) == sum(bundle.parts().values())
    with bigm.start("local", **settings) as cluster:
        cluster.start(2, bundle=bundle)
        cluster.wait(timeout=60.0)
        assert [event["sent"] for event in shipped(cluster)] == [0, 0]


def test_what_two_bundles_have_in_common_is_counted_once(make: Callable[..., Bundle], settings: dict[str, Any]) -> None:
    """Else the line that shows it would stop short of its end, and go on for as long as the cluster."""
    common = os.urandom(20 * MB)
    with bigm.start("local", **settings) as cluster:
        for text in (b"first", b"second"):
            cluster.start(1, bundle=make(common=common, own=text))
        cluster.wait(timeout=60.0)
        tally = cluster._bundles.shipping.tally
        assert tally.here == tally.wanted
        assert "" == tally.status()


def test_an_edited_file_is_kilobytes(make: Callable[..., Bundle], settings: dict[str, Any]) -> None:
    big = os.urandom(2 * MB)
    with bigm.start("local", **settings) as cluster:
        for text in (b"first", b"second"):
            [machine] = cluster.start(1, bundle=make(big=big, small=text))
            cluster.wait([machine], timeout=30.0)
            sent = shipped(cluster)[-1]["sent"]
        assert machine.run(Path.read_bytes, Path("small")) == b"second"
    assert 0 < sent < 10_000


def test_a_connection_that_is_cut_in_the_middle_of_a_part_costs_no_more_than_pieces(
    make: Callable[..., Bundle], settings: dict[str, Any]
) -> None:
    bundle = make(data=os.urandom(60 * MB))
    size = sum(bundle.parts().values())
    store = bundle.store
    assert isinstance(store, Counted)
    system, cuts = Cut(), []
    with bigm.start(system, **settings) as cluster:

        def cut_at(mark: int) -> None:
            eventually(lambda: store.read > mark, 30.0)
            cuts.append(store.read)
            system.cut()

        store.read = 0
        threads = [threading.Thread(target=cut_at, args=(mark,)) for mark in (8 * MB, 30 * MB)]
        for thread in threads:
            thread.start()
        [machine] = cluster.start(1, bundle=bundle)
        cluster.wait(timeout=60.0)
        for thread in threads:
            thread.join(30.0)
        assert machine.run(os.path.getsize, "data") == 60 * MB
        assert all(at < size for at in cuts)
        assert store.read < size + 12 * MB


def test_machines_fetch_from_one_another_so_that_the_driver_sends_one_copy(make: Callable[..., Bundle]) -> None:
    bundle = make(**{f"data{n}": os.urandom(2 * MB) for n in range(6)})
    with bigm.start("local", **PRIVATE) as cluster:
        machines = cluster.start(5, bundle=bundle)
        cluster.wait(timeout=60.0)
        size = sum(bundle.parts().values())
        sent = sum(event["sent"] for event in shipped(cluster))
        assert sent + sum(event["fetched"] for event in shipped(cluster)) == 5 * size
        assert sent <= 1.1 * size
        assert {machine.run(os.path.getsize, "data3") for machine in machines} == {2 * MB}


def test_what_a_peer_has_damaged_comes_from_the_driver(make: Callable[..., Bundle]) -> None:
    bundle = make(data=os.urandom(2 * MB))
    [digest] = [file.digest for file in bundle.program.files]
    with bigm.start("local", **PRIVATE) as cluster:
        [first] = cluster.start(1, bundle=bundle)
        cluster.wait(timeout=30.0)
        part = Path(first._agent.call("Agent.info").folder, "store", "parts", digest)
        part.write_bytes(bytes(2 * MB))
        [second] = cluster.start(1, bundle=bundle)
        cluster.wait(timeout=30.0)
        assert second.run(Path.read_bytes, Path("data")).strip(bytes(1))
        assert shipped(cluster)[-1]["sent"] >= 2 * MB


@pytest.mark.parametrize("size", [1000, 3 * MB])
@pytest.mark.parametrize("short", [0, 10])
def test_what_is_damaged_on_this_computer_is_said_and_there_again_in_the_next_run(
    make: Callable[..., Bundle], settings: dict[str, Any], size: int, short: int
) -> None:
    data = os.urandom(size)
    bundle = make(data=data)
    part = Path(bundle.store.path(bundle.program.files[0].digest))
    part.write_bytes(bytes(size - short))
    with bigm.start("local", **settings) as cluster:
        [machine] = cluster.start(1, bundle=bundle)
        with pytest.raises(bigm.BigmError, match="on this computer is damaged"):
            cluster.wait(timeout=30.0)
        assert not part.exists()
        [machine] = cluster.start(1, bundle=make(data=data))
        cluster.wait([machine], timeout=30.0)
        assert data == machine.run(Path.read_bytes, Path("data"))


def test_a_peer_that_vanishes_is_replaced_by_the_driver(make: Callable[..., Bundle]) -> None:
    bundle = make(**{f"data{n}": os.urandom(4 * MB) for n in range(4)})
    with bigm.start("local", **PRIVATE) as cluster:
        [first] = cluster.start(1, bundle=bundle)
        cluster.wait(timeout=30.0)
        os.kill(first._agent.call("Agent.info").pid, signal.SIGKILL)
        [second] = cluster.start(1, bundle=bundle)
        cluster.wait([second], timeout=60.0)
        assert second.run(os.path.getsize, "data3") == 4 * MB


def test_two_clusters_bring_the_same_to_one_store_at_once(
    make: Callable[..., Bundle], settings: dict[str, Any]
) -> None:
    bundle = make(**{f"data{n}": os.urandom(3 * MB) for n in range(4)})
    with bigm.start("local", **settings) as one, bigm.start("local", **settings) as other:
        machines = [*one.start(2, bundle=bundle), *other.start(2, bundle=bundle)]
        one.wait(timeout=60.0)
        other.wait(timeout=60.0)
        assert {machine.run(os.path.getsize, "data2") for machine in machines} == {3 * MB}
    store = Path(settings["bundle"]["store"])
    assert list(store.rglob("*.part")) == []


def test_a_part_that_was_removed_from_a_store_meanwhile_is_sent_again(
    make: Callable[..., Bundle], settings: dict[str, Any]
) -> None:
    bundle = make(data=b"precious")
    [digest] = [file.digest for file in bundle.program.files]
    with bigm.start("local", **settings) as cluster:
        cluster.start(1, bundle=bundle)
        cluster.wait(timeout=30.0)
        [part] = Path(settings["bundle"]["store"]).rglob(digest)
        part.unlink()
        [machine] = cluster.start(1, bundle=bundle)
        cluster.wait([machine], timeout=30.0)
        assert machine.run(Path.read_bytes, Path("data")) == b"precious"


def test_a_store_that_cannot_be_is_said_and_another_is_taken(
    make: Callable[..., Bundle], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with bigm.start("local", bundle={"store": str(tmp_path / "file" / "store")}) as cluster:
        cluster.start(1, bundle=make(data=b""))
        cluster.wait(timeout=30.0)
    shutil.rmtree(Path.home() / ".cache")
    assert str(tmp_path / "file") in capfd.readouterr().err


def test_a_driver_whose_part_is_gone_says_so_and_can_go_on_when_it_is_there_again(
    make: Callable[..., Bundle], settings: dict[str, Any]
) -> None:
    bundle = make(data=b"precious")
    [digest] = [file.digest for file in bundle.program.files]
    os.unlink(bundle.store.path(digest))
    with bigm.start("local", **settings) as cluster:
        [machine] = cluster.start(1, bundle=bundle)
        with pytest.raises(bigm.BootError, match=f"could not be brought its bundle: part {digest[:12]} is not here"):
            cluster.wait(timeout=30.0)
        assert machine.cause == "ship"
        make(data=b"precious")
        [machine] = cluster.start(1, bundle=bundle)
        cluster.wait([machine], timeout=30.0)
        assert machine.run(Path.read_bytes, Path("data")) == b"precious"


def test_threads_of_this_process_run_no_bundle(make: Callable[..., Bundle]) -> None:
    with bigm.start("inprocess") as cluster, pytest.raises(bigm.NotSupported, match="run no bundle"):
        cluster.start(1, bundle=make(data=b""))


def test_what_is_no_bundle_is_refused() -> None:
    with (
        bigm.start("local") as cluster,
        pytest.raises(bigm.ConfigError, match=r"takes a bundle that cluster\.bundle has made"),
    ):
        cluster.start(1, bundle="bigpi.py")  # type: ignore[arg-type]


def test_a_machine_that_is_cancelled_while_it_is_shipped_to_ends_and_others_go_on(
    make: Callable[..., Bundle], settings: dict[str, Any]
) -> None:
    bundle = make(**{f"data{n}": os.urandom(8 * MB) for n in range(4)})
    store = bundle.store
    assert isinstance(store, Counted)
    with bigm.start("local", **settings) as cluster:
        store.read = 0
        machines = cluster.start(3, bundle=bundle)
        eventually(lambda: store.read > MB, 30.0)
        machines[0].cancel()
        cluster.wait(machines[1:], timeout=60.0)
        assert machines[1].run(os.path.getsize, "data3") == 8 * MB


def test_a_program_that_cannot_be_bundled_leaves_no_machine(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "big").write_bytes(bytes(5000))
    monkeypatch.syspath_prepend(tmp_path / "app")
    wishes = {**settings["bundle"], "rehearse": True, "limit": 1000}
    with bigm.start("local", bundle=wishes) as cluster:
        with pytest.raises(bigm.ProgramError, match=r"no more than 1\.0 kB may travel"):
            cluster.start(2)
        eventually(lambda: all(steward.machine._phase.name == "ENDED" for steward in cluster._stewards), 20.0)
        assert cluster.machines == []


def test_a_part_of_which_all_bytes_are_there_is_ended(tmp_path: Path) -> None:
    """As when the disk of a machine refused it its name: it has all of it, and not the part."""
    driver, store, data = Parts(str(tmp_path / "driver")), Parts(str(tmp_path / "store")), os.urandom(2 * MB)
    digest = hashlib.sha256(data).hexdigest()
    for parts, last in ((driver, True), (store, False)):
        parts.put(digest, 0, data, last=last)
    terms = Terms(peers=False, extension=bytes, store="", keep=0)
    clock = Clock("test")
    shipping = Shipping("c", terms, timeouts=Timeouts(), clock=clock, submit=print, warn=print, say=print)
    clock.close()
    shipping._contents[digest] = (driver, len(data))
    steps = shipping._send(Transfer("s", DRIVER, (digest,), len(data)))
    assert next(steps)[:2] == ("Installer.have", ([digest],))
    method, args, _ = steps.send(store.have([digest]))
    assert method == "Installer.put"
    store.put(*args[:3], last=args[3])
    assert store.have([digest]) == {}
