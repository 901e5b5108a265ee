"""What instances cost: asked of AWS with few requests, kept, and never needed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from bigm.systems.ec2.account import Account
from bigm.systems.ec2.options import Options
from bigm.systems.ec2.prices import Prices, in_words
from ec2rig import money
from ec2rig.rig import Rig

TYPES = ("m7i.large", "m7a.large", "m6i.large")


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with Rig() as rig:
        rig.use(monkeypatch)
        yield rig


@pytest.fixture
def prices(rig: Rig, tmp_path: Path) -> Iterator[Prices]:
    account = Account(Options())
    yield Prices(account, tmp_path)
    account.close()


@pytest.mark.parametrize(
    ("purchase", "cost", "asked"),
    [
        ("spot-else-on-demand", 5 * money.SPOT, (1, 0)),
        ("spot", 5 * money.SPOT, (1, 0)),
        ("on-demand", 5 * money.ON_DEMAND, (0, 3)),
        ("2", 3 * money.SPOT + 2 * money.ON_DEMAND, (1, 3)),
        ("7", 5 * money.ON_DEMAND, (0, 3)),
    ],
)
def test_an_estimate_follows_the_way_of_buying(
    rig: Rig, prices: Prices, purchase: str, cost: float, asked: tuple[int, int]
) -> None:
    for _ in range(2):  # what is known is not asked for again
        assert pytest.approx(cost) == prices.estimate(5, TYPES, Options(purchase=purchase))
    assert asked == (len(rig.calls("DescribeSpotPriceHistory")), len(rig.calls("GetProducts")))


def test_an_instance_has_the_price_of_its_type_zone_and_way_of_buying(prices: Prices) -> None:
    assert prices.of("m7i.large", "eu-central-1a", True) is None
    prices.learn(TYPES, spot=True, on_demand=True)
    assert money.SPOT == prices.of("m7i.large", "eu-central-1a", True)
    assert money.ON_DEMAND == prices.of("m7i.large", "eu-central-1a", False)
    assert prices.of("m7i.large", "us-west-2a", True) is None
    assert prices.of("p5.48xlarge", "eu-central-1a", False) is None


def test_prices_on_demand_are_kept_for_a_week(rig: Rig, prices: Prices, tmp_path: Path) -> None:
    prices.learn(TYPES, spot=False, on_demand=True)
    again = Prices(Account(Options()), tmp_path)
    again.learn(TYPES, spot=False, on_demand=True)
    assert 3 == len(rig.calls("GetProducts"))
    assert money.ON_DEMAND == again.of("m7i.large", "", False)
    path = tmp_path / "cache" / "ec2" / "prices-eu-central-1.json"
    eight_days_ago = time.time() - 8 * 86400
    path.write_text(json.dumps({kind: [9.0, eight_days_ago] for kind in TYPES}))
    later = Prices(Account(Options()), tmp_path)
    later.learn(TYPES, spot=False, on_demand=True)
    assert (6, money.ON_DEMAND) == (len(rig.calls("GetProducts")), later.of("m7i.large", "", False))


@pytest.mark.parametrize("content", ["", "[]", '{"m7i.large": 3}', '{"m7i.large": ["x", 1]}'])
def test_what_is_kept_and_damaged_is_asked_for_again(prices: Prices, tmp_path: Path, content: str) -> None:
    path = tmp_path / "cache" / "ec2" / "prices-eu-central-1.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert money.ON_DEMAND == prices.estimate(1, TYPES, Options(purchase="on-demand"))


def test_a_home_that_cannot_be_written_to_hides_no_price(rig: Rig, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file")
    assert money.ON_DEMAND == Prices(Account(Options()), home).estimate(1, TYPES, Options(purchase="on-demand"))


def test_what_may_not_be_asked_is_not_known(rig: Rig, prices: Prices) -> None:
    rig.fail("DescribeSpotPriceHistory", "UnauthorizedOperation")
    rig.fail("GetProducts", "AccessDeniedException")
    assert prices.estimate(1, TYPES, Options(purchase="spot")) is None
    assert prices.estimate(1, TYPES, Options(purchase="on-demand")) is None
    assert 1 * money.SPOT == prices.estimate(1, TYPES, Options(purchase="spot"))  # allowed meanwhile


class Told:
    """An account that tells what it is to."""

    region = "eu-central-1"

    def __init__(self, *history: dict[str, Any]) -> None:
        self.history = history

    def pages(self, operation: str, key: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        assert ("describe_spot_price_history", "SpotPriceHistory") == (operation, key)
        yield from self.history


def spot(kind: str, zone: str, price: str, age: float = 0.0) -> dict[str, Any]:
    when = datetime.now(timezone.utc) - timedelta(seconds=age)
    return {"InstanceType": kind, "AvailabilityZone": zone, "SpotPrice": price, "Timestamp": when}


def test_of_several_spot_prices_the_newest_of_each_zone_holds(tmp_path: Path) -> None:
    told: Any = Told(
        spot("a", "z1", "0.3", 60), spot("a", "z1", "0.2", 5), spot("a", "z1", "0.4", 90), spot("a", "z2", "0.9")
    )
    prices = Prices(told, tmp_path)
    prices.learn(["a"], spot=True, on_demand=False)
    assert (0.2, 0.9) == (prices.of("a", "z1", True), prices.of("a", "z2", True))


def test_likely_is_a_middling_type_in_its_cheapest_zone(tmp_path: Path) -> None:
    told: Any = Told(spot("a", "z1", "0.5"), spot("a", "z2", "0.2"), spot("b", "z1", "0.3"), spot("c", "z1", "0.9"))
    assert 0.3 == Prices(told, tmp_path).estimate(1, ["a", "b", "c"], Options(purchase="spot"))


@pytest.mark.parametrize(
    ("types", "purchase", "words"),
    [
        (["m7i.large"], "spot", "m7i.large, spot"),
        (["m7i.large", "m6i.large"], "spot-else-on-demand", "m7i.large or alike, spot"),
        (["m7i.large"], "on-demand", "m7i.large, on demand"),
        (["m7i.large"], "2", "m7i.large, 2 on demand, others spot"),
    ],
)
def test_what_is_bought_is_said_in_words(types: list[str], purchase: str, words: str) -> None:
    assert words == in_words(types, Options(purchase=purchase))
