"""EC2 on this computer: moto keeps the account, and every instance is a real process that runs its real user data.

    with Rig() as rig:
        rig.fail("CreateFleet", "InsufficientInstanceCapacity")
        subprocess.run([..., "bigm", "run", ...], env={**os.environ, **rig.environ})
        assert not rig.running()

Each instance has an address of its own on the loopback interface, and a metadata service. What none of its security
groups opens to `Rig.address` cannot be reached: until one does its port swallows every connection, as EC2 does, and its
process waits; that a rule is closed again later is not felt. What cloud-init and systemd do is proved by the boot test.
"""

from __future__ import annotations

import base64
import contextlib
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from ec2rig.cloud import ACCOUNT, Cloud, image_by_id
from ec2rig.door import Call, Door, Fault
from ec2rig.fleets import Fleets, Pool
from ec2rig.guest import Guest
from ec2rig.imds import Metadata
from ec2rig.money import describe_spot_price_history, get_products, get_service_quota
from ec2rig.wire import Reply, Request
from interpreters import all_but_pythons, find_python
from waiting import eventually

PORT = 8410
OTHER_REGION = "eu-west-1"  # is enabled, and empty
GRACE = 2.0  # seconds from TerminateInstances to the end of what has not ended by itself


class _Handler(WSGIRequestHandler):
    """Requests are recorded, not logged."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing."""


class Rig:
    """An account, and its instances. A context: at its end every process has ended.

    Args:
        region: the one there is.
        address: this computer's, as EC2 sees it; it is what `address_service` tells.
    """

    def __init__(self, *, region: str = "eu-central-1", address: str = "198.51.100.7") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ec2rig-")).resolve()
        self.address = address
        self.told = address
        self._claim, self.network = claim_network()
        self.cloud = Cloud(region, self.network)
        self.fleets = Fleets(self.cloud)
        self.guests: dict[str, Guest] = {}
        self.metadata: dict[str, Metadata] = {}
        self.boots: Callable[[int], float] = lambda number: 0.0
        self._commands = all_but_pythons(self.folder / "commands")
        self._closed: dict[str, _BlackHole] = {}
        self._waking: list[threading.Timer] = []
        self._lock = threading.RLock()
        self._door = Door(
            own={
                "CreateFleet": self.fleets.create,
                "GetConsoleOutput": self._console,
                "DescribeSpotPriceHistory": lambda asked: describe_spot_price_history(asked, self.cloud.zones()),
                "GetProducts": get_products,
                "GetServiceQuota": get_service_quota,
                "DescribeRegions": lambda _: {"Regions": [{"RegionName": name} for name in (region, OTHER_REGION)]},
            },
            pages={"imds": self._imds, "address": lambda *_: Reply(200, "text/plain", self.told.encode() + b"\n")},
            changed=self._changed,
        )
        self._server = make_server("127.0.0.1", 0, self._door, threaded=True, request_handler=_Handler)
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self._server.log = lambda kind, message, *_: print(message, file=sys.stderr)  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="rig", daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        self.address_service = f"{self.endpoint}/address"
        self.environ = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "rig",
            "AWS_DEFAULT_REGION": region,
            "AWS_CONFIG_FILE": str(self.folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "BIGM_EC2_ADDRESS_SERVICE": self.address_service,
        }

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._lock:
            for timer in self._waking:
                timer.cancel()
            for hole in self._closed.values():
                hole.close()
        for guest in self.guests.values():
            guest.stop()
        self._claim.close()
        shutil.rmtree(self.folder)

    def use(self, patch: Any) -> None:
        """Have AWS's tools in this process use this account, until *patch*, a `pytest.MonkeyPatch`, is undone."""
        for name, value in self.environ.items():
            patch.setenv(name, value)
        patch.delenv("AWS_REGION", raising=False)

    # What has been asked, and what is to go wrong.

    def calls(self, operation: str = "") -> list[Call]:
        """The requests so far, of one operation or all."""
        return [call for call in self._door.calls if operation in ("", call.operation)]

    def fail(self, operation: str, code: str, *, times: int = 1, seconds: float = float("inf")) -> None:
        """Refuse requests of *operation* ("*": any) with an error, so many times or seconds, whichever is sooner."""
        self._door.faults.append(Fault(operation, code, times, time.monotonic() + seconds))

    def renew(self) -> None:
        """Nothing fails any more, and nothing has been asked: for the next test."""
        self.recover()
        self._door.calls.clear()

    def recover(self) -> None:
        """Nothing fails any more."""
        self._door.faults.clear()
        self.fleets.pools.clear()

    def lose_reply(self, operation: str, *, times: int = 1, first: Callable[[Request], None] | None = None) -> None:
        """Perform *operation*, call *first*, and close the connection instead of answering."""
        self._door.faults.append(Fault(operation, times=times, lost="after", first=first))

    def close_connection(self, operation: str, *, times: int = 1) -> None:
        """Close the connection before *operation* has an effect."""
        self._door.faults.append(Fault(operation, times=times, lost="before"))

    def delay(self, operation: str, seconds: float, *, times: int = 1) -> None:
        """Let *operation* take so many seconds longer."""
        self._door.faults.append(Fault(operation, times=times, delay=seconds))

    def after(self, operation: str, function: Callable[[Request], None], *, times: int = 1) -> None:
        """Call *function* when *operation* has had its effect, and before it is answered."""
        self._door.faults.append(Fault(operation, times=times, first=function))

    def limit(
        self,
        left: int = 0,
        code: str = "InsufficientInstanceCapacity",
        *,
        type: str = "",
        zone: str = "",
        spot: bool | None = None,
    ) -> None:
        """Let there be only so many instances more of a type, in a zone, spot or not; "" and None are any."""
        self.fleets.pools.append(Pool(left, code, type, zone, spot))

    # Instances.

    def make_guest(self, instance: Any, user_data: bytes, ended: Callable[[], None]) -> Guest:
        """What runs in an instance, and calls *ended* when it has ended; not started yet."""
        image = image_by_id(instance.image_id)
        return Guest(
            self.folder / instance.id,
            user_data=user_data,
            python=_python(image.minor if image else ""),
            commands=self._commands,
            environ={"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{self.endpoint}/imds/{instance.id}"},
            ended=ended,
        )

    def running(self) -> list[str]:
        """Ids of the instances that are not terminated, in the order they were launched."""
        with self._door.quiet():
            return [each.id for each in self.cloud.instances() if each.state != "terminated"]

    def is_empty(self) -> bool:
        """Whether nothing runs: no instance, no process of one, and no volume is left."""
        with self._door.quiet():
            volumes = list(self.cloud.ec2.volumes)
        return not self.running() and not volumes and not any(each.processes() for each in list(self.guests.values()))

    def terminate(self, id: str) -> None:
        """End an instance as somebody at the console does."""
        with self._door.quiet():
            self.cloud.ec2.terminate_instances([id])
        self._changed()

    def take_away(self, id: str) -> None:
        """End an instance silently: nobody on the other side of a connection is told; nothing comes any more."""
        with self._lock:
            self.guests[id].signal(signal.SIGSTOP)
        with self._door.quiet():
            self.cloud.ec2.terminate_instances([id])

    def recycle(self, id: str) -> str:
        """Let the next instance have the address of one that was taken away; which that is."""
        self.guests[id].stop()
        instance = self.cloud.instance(id)
        address = str(instance.private_ip)
        with self._door.quiet():
            self.cloud.ec2.get_subnet(instance.subnet_id).del_subnet_ip(address)
        return address

    def kill(self, id: str) -> None:
        """Kill the process of an instance, whose end it is."""
        eventually(lambda: self.guests[id].process is not None)  # AWS answers before an instance boots
        process = self.guests[id].process
        assert process is not None
        process.kill()

    def move(self, address: str) -> None:
        """This computer has another address from now on."""
        self.address = self.told = address
        self._changed()

    def describe(self) -> str:
        """What every instance said, for the message of a test that fails."""
        return "\n".join(f"{id}: {guest.console()}" for id, guest in list(self.guests.items()))

    def _changed(self) -> None:
        """Start what was launched, and end what was terminated."""
        with self._lock, self._door.quiet():
            instances = self.cloud.instances()
            for number, instance in enumerate(instances):
                if instance.state == "running" and instance.id not in self.guests:
                    self._make(number, instance)
            for id, hole in list(self._closed.items()):
                if self.cloud.is_open(self.cloud.instance(id), PORT, self.address):
                    hole.close()
                    del self._closed[id]
                    self._wake(0.0, self.guests[id])
            ended = [each for each in instances if each.state == "terminated" and each.id in self.guests]
        for instance in ended:
            hole = self._closed.pop(instance.id, None)
            if hole is not None:
                hole.close()
            threading.Thread(target=self.guests[instance.id].stop, args=(GRACE,), daemon=True).start()

    def _make(self, number: int, instance: Any) -> None:
        """Make what is to run in an instance, and start it as soon as its turn comes."""
        data = base64.b64decode(str(instance.user_data or ""))
        identity = {
            "accountId": ACCOUNT,
            "instanceId": instance.id,
            "privateIp": instance.private_ip,
            "instanceType": instance.instance_type,
            "imageId": instance.image_id,
            "availabilityZone": instance.placement.zone,
            "region": self.cloud.region,
        }
        self.metadata[instance.id] = Metadata(identity, data)
        guest = self.guests[instance.id] = self.make_guest(instance, data, lambda: self._ended(instance.id))
        if self.cloud.is_open(instance, PORT, self.address):
            self._wake(self.boots(number), guest)
        else:
            self._closed[instance.id] = _BlackHole(instance.private_ip)

    def _wake(self, delay: float, guest: Guest) -> None:
        """Start a guest in *delay* seconds; infinity is never."""
        if delay < threading.TIMEOUT_MAX:
            timer = threading.Timer(delay, guest.start)
            timer.daemon = True
            self._waking.append(timer)
            timer.start()

    def _ended(self, id: str) -> None:
        """The process of an instance has exited: that was its shutdown."""
        with self._door.quiet():
            self.cloud.ec2.terminate_instances([id])
            self.cloud.instance(id).state_reason.code = "Client.InstanceInitiatedShutdown"
            self.cloud.instance(
                id
            ).state_reason.message = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"

    def _imds(self, environ: dict[str, Any], path: str) -> Reply:
        id, _, rest = path[1:].partition("/")
        return self.metadata[id].ask(environ, f"/{rest}")

    def _console(self, asked: dict[str, Any]) -> dict[str, Any]:
        guest = self.guests.get(asked["InstanceId"])
        said = guest.console() if guest else ""
        return {"InstanceId": asked["InstanceId"], "Output": base64.b64encode(said.encode()).decode()}


class _BlackHole:
    """The agent's port at an address where nothing gets through: its queue is full, so that Linux drops what comes."""

    def __init__(self, address: str) -> None:
        self._sockets = [socket.socket()]
        self._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sockets[0].bind((address, PORT))
        self._sockets[0].listen(0)
        for _ in range(3):
            self._sockets.append(socket.socket())
            self._sockets[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self._sockets[-1].connect((address, PORT))

    def close(self) -> None:
        """Let it through."""
        for each in self._sockets[::-1]:
            each.close()


def claim_network() -> tuple[socket.socket, str]:
    """A network that no other rig on this computer has while the socket is open."""
    for number in random.sample(range(64, 128), 64):
        claim = socket.socket()
        try:
            claim.bind((f"127.{number}.255.254", PORT))
        except OSError:
            claim.close()
            continue
        return claim, f"127.{number}.0.0/16"
    raise RuntimeError("there are as many rigs on this computer as there can be")


@cache
def _python(minor: str) -> str:
    found = find_python(minor) if minor not in ("", "{}.{}".format(*sys.version_info)) else ""
    return os.path.realpath(found or sys.executable)
