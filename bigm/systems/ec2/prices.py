"""What instances cost by the hour, as AWS tells: spot prices by type and zone, others by type.

Nothing depends on a price: where AWS does not tell in time, or may not be asked, it is not known, and nothing is said.
Spot prices are asked for once in a run, with one request for all types. Those on demand change a few times a year, and
are kept in bigm's home for a week.

Source: DescribeSpotPriceHistory, which also tells the prices of now; GetProducts of the price list, us-east-1's.
"""

from __future__ import annotations

import json
import logging
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bigm.errors import BigmError
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.kept import SECONDS, keep, path_of
from bigm.systems.ec2.options import Options

logger = logging.getLogger("bigm.ec2")

_LINUX = {  # the one product of a type that bigm launches; all others of it have licences, or a host of their own
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
}


class Prices:
    """Prices of one region, in US dollars an hour. Any thread.

    Args:
        account: who is asked, and where.
        home: bigm's folder, for what is kept.
    """

    def __init__(self, account: Account, home: Path) -> None:
        self._account = account
        self._home = home
        self._asking = threading.Lock()
        self._spot: dict[str, dict[str, float]] = {}  # by type and zone
        self._on_demand: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Prices: {len(self._spot)} types as spot, {len(self._on_demand)} on demand>"

    def learn(self, types: Sequence[str], *, spot: bool, on_demand: bool) -> None:
        """Ask for prices that are not known yet. It blocks, a minute where AWS is busy; what fails stays unknown."""
        with self._asking:
            try:
                if spot:
                    self._learn_spot([kind for kind in types if kind not in self._spot])
                if on_demand:
                    self._learn_on_demand([kind for kind in types if kind not in self._on_demand])
            except BigmError as error:
                logger.info("prices are not known: %s", error)

    def learn_within(self, seconds: float, types: Sequence[str], *, spot: bool, on_demand: bool) -> None:
        """The same, for so long; then it goes on by itself. At once where all is known."""
        missing = [
            kind for kind in types if (spot and kind not in self._spot) or (on_demand and kind not in self._on_demand)
        ]
        if not missing:
            return
        thread = threading.Thread(
            target=self.learn,
            args=(types,),
            kwargs={"spot": spot, "on_demand": on_demand},
            name="bigm-prices",
            daemon=True,
        )
        thread.start()
        thread.join(seconds)

    def of(self, kind: str, zone: str, spot: bool | None) -> float | None:
        """The price of an instance, as far as it is known. Asks nobody."""
        return self._spot.get(kind, {}).get(zone) if spot else self._on_demand.get(kind)

    def likely(self, types: Sequence[str], spot: bool) -> float | None:
        """What one instance will cost, of whichever of *types*.

        Of spot that is a middling one, since AWS weighs the price against the danger of an interruption; else the
        cheapest, since that is what is asked for.
        """
        if not spot:
            return min((self._on_demand[kind] for kind in types if kind in self._on_demand), default=None)
        cheapest = [min(zones.values()) for kind, zones in self._spot.items() if kind in types and zones]
        return statistics.median(cheapest) if cheapest else None

    def estimate(self, n: int, types: Sequence[str], options: Options) -> float | None:
        """What *n* instances cost, bought as *options* say. It blocks as `learn` does."""
        on_demand = on_demand_of(n, options)
        self.learn(types, spot=on_demand < n, on_demand=on_demand > 0)
        prices = [(n - on_demand, self.likely(types, True)), (on_demand, self.likely(types, False))]
        costs = [None if price is None else count * price for count, price in prices if count]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def _learn_spot(self, types: Sequence[str]) -> None:
        if not types:
            return
        newest: dict[tuple[str, str], dict[str, Any]] = {}
        for item in self._account.pages(
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=list(types),
            ProductDescriptions=["Linux/UNIX"],
            StartTime=time.time(),
        ):
            pool = item["InstanceType"], item["AvailabilityZone"]
            if pool not in newest or newest[pool]["Timestamp"] < item["Timestamp"]:
                newest[pool] = item
        for (kind, zone), item in newest.items():
            self._spot.setdefault(kind, {})[zone] = float(item["SpotPrice"])

    def _learn_on_demand(self, types: Sequence[str]) -> None:
        if not types:
            return
        kept = _read(self._path)
        for kind in types:
            if kind not in kept and (price := self._ask_on_demand(kind)) is not None:
                kept[kind] = [price, time.time()]
                keep(self._path, kept)
            if kind in kept:
                self._on_demand[kind] = kept[kind][0]

    def _ask_on_demand(self, kind: str) -> float | None:
        wanted = {"instanceType": kind, "regionCode": self._account.region, **_LINUX}
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
        answer = self._account.ask("get_products", service="pricing", ServiceCode="AmazonEC2", Filters=filters)
        return next(filter(None, map(_price_of, answer.get("PriceList", ()))), None)

    @property
    def _path(self) -> Path:
        return path_of(self._home, "prices", self._account.region)


def on_demand_of(n: int, options: Options) -> int:
    """How many of *n* instances are bought on demand, as far as that is known before they are launched."""
    if options.purchase.isdecimal():
        return min(n, int(options.purchase))
    return n if options.purchase == "on-demand" else 0


def in_words(types: Sequence[str], options: Options) -> str:
    """What is bought, for people: "m7i-flex.large or alike, spot"."""
    kinds = types[0] if len(types) == 1 else f"{types[0]} or alike"
    if options.purchase.isdecimal():
        return f"{kinds}, {options.purchase} on demand, others spot"
    return f"{kinds}, {'on demand' if options.purchase == 'on-demand' else 'spot'}"


def _price_of(product: str) -> float | None:
    """The price of a product of the price list, which has terms, and these dimensions, each for a range of use."""
    terms = json.loads(product).get("terms", {}).get("OnDemand", {}).values()
    dimensions = [dimension for term in terms for dimension in term.get("priceDimensions", {}).values()]
    prices = [float(one["pricePerUnit"].get("USD", 0.0)) for one in dimensions if one.get("unit") == "Hrs"]
    return next((price for price in prices if price > 0.0), None)


def _read(path: Path) -> dict[str, list[float]]:
    """What is kept and not too old: by type, the price and when it was asked for."""
    try:
        kept = json.loads(path.read_text())
        return {kind: [float(price), when] for kind, (price, when) in kept.items() if time.time() - when < SECONDS}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
