"""The `ssh` system, on hosts that are real sshds of this computer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import sshd
from bigm.systems.ssh.system import Ssh
from bigm.testing import check_system

pytestmark = pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)


@pytest.fixture(scope="module")
def rig() -> Iterator[sshd.Rig]:
    with sshd.Rig() as rig:
        rig.add("alpha", python="3.11")
        rig.add("beta", python="3.9")
        yield rig


def test_ssh_keeps_the_contract_of_systems(rig: sshd.Rig) -> None:
    check_system(lambda: Ssh(hosts=["alpha", "beta"], config=rig.config))
    assert [rig["alpha"].files(), rig["beta"].files()] == [[], []]
