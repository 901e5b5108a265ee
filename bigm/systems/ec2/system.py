"""Machines are instances in the user's AWS account, in one region, with nothing prepared there.

This module puts the parts together and has no knowledge of its own: requests are sent by `account`, what exists is read
by `states`, launches are made by `fleet`. What ends an instance, besides its driver: its lease, its lifetime by two
means, and its own end, which AWS makes the instance's.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bigm.bootstrap.records import Launch
from bigm.errors import BigmError, BootError, CapacityError, ConfigError, SystemFault, TransientError
from bigm.home import home_folder
from bigm.systems.base import ENDED, Capabilities, Finding, Instance, Launched, Spec, System
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.doctor import Place, examine, preview
from bigm.systems.ec2.fleet import Fleet, Order, Outcome, check_purchase
from bigm.systems.ec2.images import Image, resolve_image
from bigm.systems.ec2.inventory import Inventory
from bigm.systems.ec2.labels import Labels, parse_tags
from bigm.systems.ec2.network import Network, check_way
from bigm.systems.ec2.options import Options
from bigm.systems.ec2.policy import needs, partition_of, policy
from bigm.systems.ec2.prices import Prices, in_words
from bigm.systems.ec2.refusals import as_fault, explain
from bigm.systems.ec2.remains import Remains
from bigm.systems.ec2.states import Seen
from bigm.systems.ec2.types import InstanceType, resolve_types
from bigm.systems.ec2.userdata import render

logger = logging.getLogger("bigm.ec2")

_ADDRESSES = 60.0  # seconds for new instances to have addresses; AWS takes five
_SETTLES = 20.0  # seconds for a launch that nobody waits for to be over
_APPEARS = 5.0  # seconds after which what an interrupted launch has made is found by its tags
_GRACE = 600.0  # seconds beyond the lifetime after which tags say that an instance is over: it had to boot
_PRICES = 2.0  # seconds that a launch waits for the prices of what it has launched
_LINES = 25  # of a console that are shown


class Ec2(System):
    """Instances of EC2. The arguments are the options; see `bigm.systems.ec2.options`."""

    Options = Options

    name = "ec2"

    def __init__(self, **arguments: Any) -> None:
        self._options = options = Options(**{name: _as_list(name, value) for name, value in arguments.items()})
        check_purchase(options)
        parse_tags(options.tags)
        check_way(options)
        self.capabilities = Capabilities(ends="provider", hard_deadline=True, notice=120.0, prices=True)
        self._account = Account(options)
        self._remains = Remains(self._account, options)
        self._inventory: Inventory | None = None
        self._fleet: Fleet | None = None
        self._network: Network | None = None
        self._kinds: tuple[list[InstanceType], Image] | None = None
        self._labels: Labels | None = None
        self._given_up = threading.Event()
        self._closing = threading.Lock()
        self._closed = False
        self._flying = 0  # launches that are not over
        self._landed = threading.Condition()
        self._interrupted = False  # a launch was, by the user or the network, and nobody knows what it made
        self._launches: set[str] = set()
        self._waits = ""
        self._deciding = threading.Lock()
        self._types: list[InstanceType] = []
        self._prices: Prices | None = None

    def __repr__(self) -> str:
        return f"<Ec2: {self._inventory or 'not opened'}>"

    def open(self, cluster: str) -> None:
        if self._inventory is not None:
            return
        self._account.region  # noqa: B018  # without one there is nothing to be made
        self._inventory = Inventory(self._account, cluster)
        self._labels = Labels.of(cluster, self._options)
        self._network = Network(self._account, self._options, self._labels)
        self._fleet = Fleet(self._account, self._options, self._labels, self._given_up)

    def launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
        with self._in_flight():
            if launch_id in self._launches:
                known = [one.instance for one in self._opened().look().values() if one.instance.launch == launch_id]
                if known:
                    return Launched(tuple(known))
            self._launches.add(launch_id)
            try:
                return self._launch(n, spec, boot, launch_id)
            finally:
                self._waits = ""

    def waits_for(self) -> str:
        return self._waits

    def describe(self, ids: Sequence[str] | None = None) -> list[Instance]:
        if self._inventory is None:
            return []
        seen = self._inventory.look()
        if ids is None:
            return [one.instance for one in seen.values() if not one.gone]
        return [seen[id].instance for id in dict.fromkeys(ids) if id in seen]

    def connect(self, instance: Instance, timeout: float) -> socket.socket:
        if self._network is None:
            raise ConnectionError(f"{instance.id} is no instance of a cluster of this system")
        return self._network.connect(self.keeper_address(instance), timeout)

    def keeper_address(self, instance: Instance) -> str:
        seen = self._inventory.last.get(instance.id) if self._inventory is not None else None
        return self._network.address(seen.id, seen.private, seen.public) if seen and self._network else ""

    def terminate(self, ids: Iterable[str]) -> dict[str, SystemFault | None]:
        return self._opened().end(ids)

    def diagnose(self, instance: Instance) -> str:
        for latest in (True, False):  # not every type can tell what it said last
            with contextlib.suppress(SystemFault, ConfigError):
                answer = self._account.ask("get_console_output", InstanceId=instance.id, Latest=latest)
                said = answer.get("Output", "")
                return "\n".join(str(said).strip().splitlines()[-_LINES:])
        return ""

    def prepare(self) -> None:
        self._choose()

    def offer(self, spec: Spec) -> str:
        return in_words(self._type_names(), self._options)

    def estimate(self, n: int, spec: Spec) -> float | None:
        try:
            return self._price_list().estimate(n, self._type_names(), self._options)
        except (SystemFault, ConfigError):
            return None

    def discover(self) -> list[Instance]:
        return self._remains.discover()

    def overlooked(self) -> dict[str, SystemFault]:
        return dict(self._remains.overlooked)

    def remove(self, instances: Sequence[Instance]) -> dict[str, SystemFault | None]:
        return self._remains.remove(instances)

    def preview(self) -> dict[str, str]:
        return preview(self._place())

    def doctor(self) -> Iterator[Finding]:
        return examine(self._place(), lambda: self.estimate(1, Spec()))

    def _place(self) -> Place:
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        return Place(self._account, self._options, home_folder(), minor)

    def policy(self) -> str:
        try:
            region = self._account.region
        except ConfigError:  # one that has no region yet may have a policy
            region = ""
        return json.dumps(policy(needs(self._options), partition_of(region)), indent=2)

    def close(self) -> None:
        self._given_up.set()  # before the lock: whoever ends it already waits for what hears this
        with self._closing:
            if self._fleet is not None and not self._closed:
                self._close(self._fleet)
                self._closed = True

    def _close(self, fleet: Fleet) -> None:
        with self._landed:
            self._landed.wait_for(lambda: not self._flying, _SETTLES)
        self._account.hasten()
        with contextlib.ExitStack() as last:  # whatever becomes of the first, the others are done too
            last.callback(self._account.close)
            if self._network is not None:
                last.callback(self._network.close)
            last.callback(fleet.delete_templates)
            self._opened().end_all(_APPEARS if self._interrupted or self._flying else 0.0)

    # --- launching

    @contextlib.contextmanager
    def _in_flight(self) -> Iterator[None]:
        with self._landed:
            self._flying += 1
        try:
            yield
        except BaseException as error:
            if isinstance(error, TransientError) or not isinstance(error, BigmError):  # the answer may be lost
                self._interrupted = True
            raise
        finally:
            with self._landed:
                self._flying -= 1
                self._landed.notify_all()

    def _launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
        assert self._fleet is not None
        assert self._labels is not None
        deadline = time.monotonic() + spec.timeout
        self._waits = f"finding out what to launch in {self._account.region}"
        order = self._order(spec, boot, launch_id)
        self._waits = f"launching {n} instances in {self._account.region}"
        outcome = self._fleet.launch(n, order, deadline)
        self._opened().made(outcome.ids)
        try:
            instances, failures = self._await_addresses(outcome, deadline)
        except BigmError:
            self.terminate(outcome.ids)  # nobody would know how to reach them
            raise
        region = self._account.region
        missing = explain(n, len(outcome.ids), outcome.refusals, order.subnets, region)
        if not outcome.ids and missing and isinstance(missing[0], ConfigError):
            raise missing[0]  # the user's to mend, as when AWS says it of the whole request
        failures = [*map(as_fault, missing), *failures]
        if not instances and not failures:
            failures = [CapacityError(f"AWS launched nothing in {region}")]
        return Launched(tuple(self._priced(instances)), tuple(failures))

    def _resolve_types(self) -> list[InstanceType]:
        """The types that launches may use; asked for once, with an estimate or a launch, whichever comes first."""
        with self._deciding:
            if not self._types:
                self._types = resolve_types(self._account, self._options, home_folder())
            return self._types

    def _type_names(self) -> list[str]:
        return [one.name for one in self._resolve_types()]

    def _price_list(self) -> Prices:
        with self._deciding:
            if self._prices is None:
                self._prices = Prices(self._account, home_folder())
            return self._prices

    def _priced(self, instances: Sequence[Instance]) -> list[Instance]:
        """The same with their prices, where AWS tells them quickly: they are booting meanwhile."""
        prices = self._price_list()
        for spot in (True, False):
            kinds = sorted({one.type for one in instances if one.spot is spot})
            prices.learn_within(_PRICES, kinds, spot=spot, on_demand=not spot)
        return [replace(one, price=prices.of(one.type, one.zone, one.spot)) for one in instances]

    def _order(self, spec: Spec, boot: Launch, launch_id: str) -> Order:
        """Decide all that a launch leaves open."""
        assert self._labels is not None
        assert self._network is not None
        options = self._options
        expires = 0.0 if options.immortal else time.time() + boot.lifetime + _GRACE
        if options.immortal:
            logger.warning("ec2.immortal: these instances outlive their driver, and cost money until you end them")
        types, image = self._choose()
        self._network.open(expires)
        return Order(
            launch=launch_id,
            image=image.id,
            root_device=image.root_device,
            types=tuple(one.name for one in types),
            subnets=self._network.subnets,
            groups=self._network.groups,
            user_data=render(boot, options),
            tags=self._labels.tags(launch=launch_id, expires=expires, title=spec.title),
        )

    def _choose(self) -> tuple[list[InstanceType], Image]:
        """Types and image, once for a cluster: a newer image would make machines that are unlike the others."""
        if self._kinds is None:
            types = self._resolve_types()
            minor = f"{sys.version_info.major}.{sys.version_info.minor}"
            self._kinds = types, resolve_image(self._account, self._options, minor, types[0].architecture)
        return self._kinds

    def _await_addresses(self, outcome: Outcome, deadline: float) -> tuple[list[Instance], list[SystemFault]]:
        """Wait until each instance can be dialled, or has ended already."""
        deadline = min(deadline, time.monotonic() + _ADDRESSES)
        inventory, waiting = self._opened(), dict.fromkeys(outcome.ids)
        while waiting:
            self._waits = f"instances launched: {len(outcome.ids)}; without an address yet: {len(waiting)}"
            seen = inventory.look()
            waiting = {id: None for id in waiting if id not in seen or not self._is_settled(seen[id])}
            if self._given_up.is_set() or time.monotonic() > deadline:
                break
        self.terminate(waiting)
        found = [inventory.last[id] for id in outcome.ids if id in inventory.last and id not in waiting]
        failures = [seen.failure() for seen in found if seen.instance.state == ENDED]
        failures += [_without_address(id, self._options.connect) for id in waiting]
        return [seen.instance for seen in found if seen.instance.state != ENDED], failures

    def _is_settled(self, seen: Seen) -> bool:
        address = seen.public if self._options.connect == "public" else seen.private
        return seen.instance.state == ENDED or bool(address)

    def _opened(self) -> Inventory:
        assert self._inventory is not None, "it is opened before anything is launched"
        return self._inventory


def _as_list(name: str, value: Any) -> Any:
    """A list that is given as words with commas, by whoever makes the system by hand, as a list."""
    if isinstance(value, str) and isinstance(getattr(Options, name, ""), tuple):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


def _without_address(id: str, connect: str) -> SystemFault:
    hint = "name subnets that lead to the internet with ec2.subnets, or say ec2.connect: private or ssh"
    kind = "public address" if connect == "public" else "address"
    return BootError(
        f"instance {id} has got no {kind} in {_ADDRESSES:.0f} s, and was ended",
        hint=hint if connect == "public" else "",
    )
