"""Events in, transfers out: whole simulations of a fan-out, without a byte being sent."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from bigm.fanout import CRATE, DRIVER, Fanout, Transfer

MB = 1_000_000
Fails = Callable[[Transfer], bool]


def simulate(fanout: Fanout, stores: dict[str, set[str]], fails: Fails = lambda transfer: False) -> list[Transfer]:
    """Carry out transfers, the oldest first, until none is left; what was sent. Checks that no limit is passed."""
    running: list[Transfer] = []
    done: list[Transfer] = []
    for _ in range(10_000):
        running += fanout.next()
        if not running:
            return done
        assert sum(transfer.source == DRIVER for transfer in running) <= 4
        for name in stores:
            assert sum(transfer.source == name for transfer in running) <= 2
        transfer = running.pop(0)
        if transfer.source != DRIVER:
            assert stores[transfer.source].issuperset(transfer.digests)
        lost = fails(transfer)
        if not lost:
            stores[transfer.target].update(transfer.digests)
            done.append(transfer)
        fanout.finished(transfer, transfer.digests if lost else ())
    raise AssertionError(f"it does not come to an end: {fanout!r}")


def join_all(fanout: Fanout, names: list[str], sizes: dict[str, int]) -> dict[str, set[str]]:
    for name in names:
        fanout.join(name, sizes, list(sizes))
    return {name: set() for name in names}


def sent(transfers: list[Transfer], source: str = DRIVER) -> int:
    return sum(transfer.size for transfer in transfers if transfer.source == source)


def test_the_driver_sends_one_copy_to_eight_stores() -> None:
    fanout, sizes = Fanout(), {f"p{n}": 10 * MB for n in range(10)}
    stores = join_all(fanout, list("ABCDEFGH"), sizes)
    done = simulate(fanout, stores)
    assert sent(done) == 100 * MB
    assert all(held == set(sizes) for held in stores.values())


def test_the_driver_begins_with_different_parts_for_different_stores() -> None:
    fanout, sizes = Fanout(), {f"p{n}": 10 * MB for n in range(10)}
    join_all(fanout, list("ABCD"), sizes)
    begun = fanout.next()
    assert {transfer.target for transfer in begun} == set("ABCD")
    assert len({transfer.digests for transfer in begun}) == 4


def test_one_big_part_goes_from_store_to_store() -> None:
    fanout = Fanout()
    stores = join_all(fanout, list("ABCDEFGH"), {"p": 100 * MB})
    assert sent(simulate(fanout, stores)) == 100 * MB


def test_small_parts_travel_together() -> None:
    fanout, sizes = Fanout(), {f"p{n}": 1000 for n in range(2000)}
    stores = join_all(fanout, ["A"], sizes)
    done = simulate(fanout, stores)
    assert len(done) == 2
    assert all(transfer.size <= CRATE for transfer in done)


def test_what_a_store_has_already_comes_from_it() -> None:
    fanout, sizes = Fanout(), {"p": 10 * MB, "q": 1000}
    fanout.join("A", sizes, [])
    fanout.join("B", sizes, ["p", "q"])
    done = simulate(fanout, {"A": set(sizes), "B": set()})
    assert sent(done) == 0


def test_without_peers_the_driver_sends_all_to_all() -> None:
    fanout = Fanout(peers=False)
    stores = join_all(fanout, list("ABC"), {"p": 10 * MB, "q": 1000})
    assert sent(simulate(fanout, stores)) == 3 * (10 * MB + 1000)


def test_a_source_that_fails_is_dropped_and_the_driver_fills_in() -> None:
    fanout = Fanout()
    stores = join_all(fanout, list("ABC"), {"p": 10 * MB})
    first = fanout.next()[0].target
    fanout = Fanout()
    stores = join_all(fanout, list("ABC"), {"p": 10 * MB})
    done = simulate(fanout, stores, lambda transfer: transfer.source == first)
    assert all(held == {"p"} for held in stores.values())
    assert sent(done) == 20 * MB  # to the first, and to one that the first could not give it to
    assert not [transfer for transfer in done if transfer.source == first]


def test_who_can_fetch_from_nobody_is_given_all_by_the_driver_after_a_few_attempts() -> None:
    fanout, sizes, tried = Fanout(), {f"p{n}": 10 * MB for n in range(9)}, []
    stores = join_all(fanout, list("ABCDEF"), sizes)

    def fails(transfer: Transfer) -> bool:
        lost = transfer.target == "F" and transfer.source != DRIVER
        tried.extend([transfer] * lost)
        return lost

    simulate(fanout, stores, fails)
    assert stores["F"] == set(sizes)
    assert len(tried) <= 3


def test_a_store_that_leaves_in_the_middle_holds_up_nobody() -> None:
    fanout = Fanout()
    join_all(fanout, list("ABC"), {"p": 10 * MB})
    [first] = fanout.next()
    fanout.leave(first.target)
    fanout.finished(first, first.digests)
    assert not fanout.lacks(first.target)
    rest = {name: set[str]() for name in "ABC" if name != first.target}
    simulate(fanout, rest)
    assert all(held == {"p"} for held in rest.values())


def test_what_a_store_is_known_to_lack_is_counted_once() -> None:
    """As where machines that share it want bundles that have files in common, at the same time."""
    fanout, sizes = Fanout(), {"own": 1 * MB, "common": 10 * MB, "small": 1000}
    assert 11 * MB == fanout.join("A", sizes, ["own", "common"])
    fanout.next()
    assert 0 == fanout.join("A", {"common": 10 * MB}, ["common"])
    assert 1000 == fanout.join("A", {"common": 10 * MB, "small": 1000}, ["common", "small"])
    stores: dict[str, set[str]] = {"A": set()}
    for transfer in [*fanout._stores["A"].coming.values()]:
        fanout.finished(transfer)
        stores["A"].update(transfer.digests)
    simulate(fanout, stores)
    assert 10 * MB == fanout.join("A", {"common": 10 * MB}, ["common"]), "it was there, and was removed"


def test_a_part_that_vanished_from_a_store_is_sent_again() -> None:
    fanout = Fanout()
    stores = join_all(fanout, ["A", "B"], {"p": 10 * MB})
    simulate(fanout, stores)
    fanout.join("A", {"p": 10 * MB}, ["p"])
    stores["A"].clear()
    assert sent(simulate(fanout, stores), "B") == 10 * MB


@given(
    sizes=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 3 * CRATE), max_size=20),
    held=st.lists(st.sets(st.integers(0, 19)), min_size=1, max_size=6),
    losses=st.lists(st.booleans(), max_size=40),
    peers=st.booleans(),
)
def test_whatever_is_lost_on_the_way_all_stores_get_all(
    sizes: dict[str, int], held: list[set[int]], losses: list[bool], peers: bool
) -> None:
    digests = list(sizes)
    stores = {f"s{n}": {digests[i] for i in each if i < len(digests)} for n, each in enumerate(held)}
    fanout = Fanout(peers=peers)
    for name, has in stores.items():
        fanout.join(name, sizes, [digest for digest in digests if digest not in has])
    rest = iter(losses)
    simulate(fanout, stores, lambda transfer: next(rest, False))
    assert all(has == set(sizes) and not fanout.lacks(name) for name, has in stores.items())
