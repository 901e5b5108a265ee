"""The instances of one cluster: how AWS last described them, and their end. Few requests, however many ask.

Found by the cluster's tag, in one request for all. What a launch was answered with and AWS does not show yet, which may
take seconds, is known by its id.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from bigm.errors import ConfigError, SystemFault
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.ends import end_instances
from bigm.systems.ec2.gathering import Gathering
from bigm.systems.ec2.labels import of_cluster
from bigm.systems.ec2.refusals import as_fault
from bigm.systems.ec2.states import Seen, read_instance

_LOOK_INTERVAL = 1.0  # seconds between two requests that ask how instances are, however many machines ask
_END_INTERVAL = 0.5  # seconds between two requests that end instances
_MOMENT = 0.1  # seconds for all machines of a cluster to say that they are to end
_ENDING = 60.0  # seconds for AWS to say of all instances that they end


class Inventory:
    """What there is of a cluster. May be used from several threads.

    Args:
        account: where.
        cluster: its id.
    """

    def __init__(self, account: Account, cluster: str) -> None:
        self._account = account
        self._cluster = cluster
        self._looks = Gathering(self._look, interval=_LOOK_INTERVAL)
        self._ends = Gathering(self._end, interval=_END_INTERVAL, moment=_MOMENT)
        self._seen: dict[str, Seen] = {}
        self._made: dict[str, None] = {}  # ids that launches were answered with, until they are ended

    def __repr__(self) -> str:
        alive = sum(not seen.gone for seen in self._seen.values())
        return f"<Inventory of {self._cluster}: {alive} instances>"

    @property
    def last(self) -> dict[str, Seen]:
        """The instances by id, as the last look has found them. Asks nobody."""
        return self._seen

    def look(self) -> dict[str, Seen]:
        """The instances by id, those that ended within the last hour too.

        Raises:
            SystemFault: AWS does not tell.
        """
        return self._looks.ask()

    def made(self, ids: Iterable[str]) -> None:
        """A launch was answered with these."""
        self._made.update(dict.fromkeys(ids))

    def end(self, ids: Iterable[str]) -> dict[str, SystemFault | None]:
        """End these instances, of whatever cluster; says for each what prevented it."""
        wanted = list(dict.fromkeys(ids))
        outcome = self._ends.ask(wanted) if wanted else {}
        return {id: outcome.get(id) for id in wanted}

    def end_all(self, patience: float) -> None:
        """End all that there is, until AWS says that it ends.

        Args:
            patience: seconds for which more may appear, of a launch whose answer was lost.
        """
        began = time.monotonic()
        while (self._end_living() and time.monotonic() < began + _ENDING) or time.monotonic() < began + patience:
            continue  # each look waits its turn

    def _end_living(self) -> bool:
        """End what lives; whether that is to be looked at again."""
        try:
            seen = self.look()
        except SystemFault:
            self.end([*self._seen, *self._made])
            return False
        living = [one.id for one in seen.values() if not one.gone]
        outcome = self.end([*living, *(id for id in list(self._made) if id not in seen)])
        return any(error is None for error in outcome.values())

    def _look(self, ids: set[str]) -> dict[str, Seen]:
        try:
            found = self._account.pages("describe_instances", "Reservations", Filters=of_cluster(self._cluster))
            described = [read_instance(item) for reservation in found for item in reservation["Instances"]]
        except ConfigError as error:  # the settings were right when it was opened
            raise as_fault(error) from error
        self._seen = {seen.id: seen for seen in described}
        return self._seen

    def _end(self, ids: set[str]) -> dict[str, SystemFault | None]:
        outcome = end_instances(self._account, ids)
        for id in [id for id, error in outcome.items() if error is None]:
            self._made.pop(id, None)
        return outcome
