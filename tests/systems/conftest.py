"""An account of EC2's for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from waiting import eventually

if TYPE_CHECKING:
    from ec2rig.rig import Rig


@pytest.fixture(scope="module")
def cloud() -> Iterator[Rig]:
    """One account for all tests of a module, which leave it empty."""
    from ec2rig.rig import Rig  # seconds, which tests of other systems need not pay

    with Rig() as rig:
        yield rig


@pytest.fixture
def rig(cloud: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """The same for one test; modules whose tests cannot share an account have a fixture of this name of their own."""
    cloud.use(monkeypatch)
    cloud.renew()
    yield cloud
    eventually(cloud.is_empty)
