from __future__ import annotations

import dataclasses

from bigm.timeouts import Timeouts


def test_renewals_come_several_times_a_lease_however_many_machines_there_are() -> None:
    timeouts = Timeouts()
    for machines in (1, 10, 200, 10_000, 1_000_000):
        for lease in (timeouts.lease_local, timeouts.lease, 1.0):
            assert 0 < timeouts.renewal_interval(lease, machines) <= lease / 4


def test_every_timeout_is_positive_and_says_what_it_is_for() -> None:
    for item in dataclasses.fields(Timeouts):
        assert item.default > 0
        assert item.metadata["what"]
