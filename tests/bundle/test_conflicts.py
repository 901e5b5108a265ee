"""What distributions ask of one another and do not get. That such an environment travels: test_dependencies.py."""

from __future__ import annotations

from bigm.bundle.conflicts import Metadata, conflicts


def test_what_is_missing_or_of_another_version_is_named_and_what_extras_ask_for_is_not():
    needy = Metadata("needy", "1.0", ("alpha>=7", "absent", "extra-only; extra == 'more'", "beta"))
    installed = {"needy": needy, "alpha": Metadata("alpha", "1.5", ()), "beta": Metadata("beta", "2.0", ())}
    assert [
        "needy 1.0 requires alpha>=7, and alpha 1.5 is installed",
        "needy 1.0 requires absent, and absent is not installed",
    ] == list(map(str, conflicts(installed, {})))
