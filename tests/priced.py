"""A system whose machines have kinds, zones and prices, for tests: each is a real machine on this computer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from bigm.bootstrap.records import Launch
from bigm.errors import CapacityError, SystemFault
from bigm.systems.base import Instance, Launched, Spec
from bigm.systems.local import Local


class Priced(Local):
    """Machines on this computer that are said to be rented.

    Args:
        price: US dollars an hour for each; None: nobody knows.
        room: instances it has room for.
    """

    name = "priced"
    capabilities = dataclasses.replace(Local.capabilities, prices=True)

    def __init__(self, price: float | None = 0.0425, room: int = 1000) -> None:
        super().__init__()
        self.price = price
        self.room = room
        self.specs: list[Spec] = []
        self.ended: set[str] = set()

    def launch(self, n: int, spec: Spec, boot: Launch, launch_id: str) -> Launched:
        self.specs.append(spec)
        fitting = min(n, self.room)
        launched = super().launch(fitting, spec, boot, launch_id) if fitting else Launched(())
        no_room = CapacityError("no room for m0.tiny in nowhere-1a", hint="ask for other types")
        return Launched(tuple(map(self._as_rented, launched.instances)), (no_room,) * (n - fitting))

    def describe(self, ids: Sequence[str] | None = None) -> list[Instance]:
        return list(map(self._as_rented, super().describe(ids)))

    def terminate(self, ids: Iterable[str]) -> dict[str, SystemFault | None]:
        wanted = list(ids)
        self.ended.update(wanted)
        return super().terminate(wanted)

    def _as_rented(self, instance: Instance) -> Instance:
        return dataclasses.replace(instance, type="m0.tiny", zone="nowhere-1a", spot=True, price=self.price)
