"""How instances are, and how they end: batched, bounded in requests, and in words. On the rig."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest

from bigm.authority import Authority
from bigm.bootstrap.agentzip import agent_digest
from bigm.bootstrap.records import Launch
from bigm.errors import PermissionDenied
from bigm.systems.base import ENDED, INSTANCE, RUNNING, Instance, Spec
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.ends import end_instances
from bigm.systems.ec2.options import Options
from bigm.systems.ec2.system import Ec2
from ec2rig.rig import Rig
from waiting import eventually


class Opened(Ec2):
    """A system that is opened for a cluster of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cluster = Authority().cluster
        self.open(self.cluster)


@pytest.fixture
def make(rig: Rig) -> Iterator[Any]:
    """Makes systems, and closes them."""
    with contextlib.ExitStack() as last:

        def make(**options: Any) -> Opened:
            system = Opened(address_service=rig.address_service, purchase="on-demand", **options)
            last.callback(system.close)
            return system

        yield make


def launch(system: Opened, n: int) -> tuple[Instance, ...]:
    authority = Authority(system.cluster)
    id = f"{authority.cluster}-1"
    credentials = authority.bootstrap(id)
    boot = Launch(
        cluster=authority.cluster,
        launch=id,
        ca=credentials.ca.decode(),
        cert=credentials.cert.decode(),
        key=credentials.key.decode(),
        agent_digest=agent_digest(),
        first_lease=60.0,
    )
    launched = system.launch(n, Spec(), boot, id)
    assert () == launched.failures
    return launched.instances


# --- looking


def test_fifty_machines_that_ask_at_once_are_two_requests_at_most(rig: Rig, make: Any) -> None:
    system = make()
    [one] = launch(system, 1)
    before = len(rig.calls("DescribeInstances"))
    with ThreadPoolExecutor(50) as pool:
        told = list(pool.map(lambda _: system.describe([one.id]), range(50)))
    assert [[RUNNING]] * 50 == [[each.state for each in found] for found in told], rig.describe()
    assert len(rig.calls("DescribeInstances")) - before <= 2


def test_what_was_ended_from_outside_is_told_with_its_reason(rig: Rig, make: Any) -> None:
    system = make()
    one, two = launch(system, 2)
    rig.terminate(one.id)
    rig.kill(two.id)
    eventually(lambda: {ENDED} == {each.state for each in system.describe([one.id, two.id])})
    reasons = {each.id: each.reason for each in system.describe([one.id, two.id])}
    assert "terminated by a request to AWS" in reasons[one.id]
    assert "switched itself off" in reasons[two.id]
    assert [] == system.describe(), "what has ended is not there any more"
    assert [] == system.describe(["i-0123456789abcdef0", "nix"])


def test_a_look_that_fails_is_a_fault_and_the_next_one_is_not(rig: Rig, make: Any) -> None:
    system = make()
    rig.fail("DescribeInstances", "UnauthorizedOperation")
    with pytest.raises(PermissionDenied, match="ec2:DescribeInstances"):
        system.describe()
    assert [] == system.describe()


def test_what_a_machine_last_said_is_its_console(rig: Rig, make: Any) -> None:
    system = make()
    [one] = launch(system, 1)
    eventually(lambda: '"port"' in system.diagnose(one))
    rig.fail("GetConsoleOutput", "UnsupportedOperation")
    assert '"port"' in system.diagnose(one), "types that cannot tell the latest tell what they have"
    rig.fail("GetConsoleOutput", "UnauthorizedOperation", times=2)
    assert "" == system.diagnose(one), "what cannot be had is no fault"


# --- ending


def test_an_id_that_does_not_exist_does_not_keep_the_others_alive(rig: Rig, make: Any) -> None:
    system = make()
    one, two = launch(system, 2)
    ids = [one.id, "i-0123456789abcdef0", "nix", two.id]
    assert dict.fromkeys(ids) == system.terminate(ids)
    assert [] == rig.running()


def test_ends_that_are_asked_for_at_once_are_few_requests(rig: Rig, make: Any) -> None:
    system = make()
    instances = launch(system, 6)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: system.terminate([one.id]), instances))
    assert [] == rig.running()
    assert len(rig.calls("TerminateInstances")) <= 2


def test_what_prevented_the_end_of_each_is_told(rig: Rig, make: Any) -> None:
    system = make()
    one, two = launch(system, 2)
    rig.fail("TerminateInstances", "UnauthorizedOperation", times=3)
    told = system.terminate([one.id, two.id])
    assert [PermissionDenied, PermissionDenied] == [type(told[id]) for id in (one.id, two.id)]
    assert 2 == len(rig.running())


@pytest.mark.parametrize("code", ["UnsupportedOperation", "UnknownParameter"])
def test_where_the_quick_end_is_not_to_be_had_instances_end_all_the_same(rig: Rig, make: Any, code: str) -> None:
    system = make()
    (one,) = launch(system, 1)
    rig.fail("TerminateInstances", code)
    assert {one.id: None} == system.terminate([one.id])
    assert [] == rig.running()
    assert [True, None] == [call.parameters.get("SkipOsShutdown") for call in rig.calls("TerminateInstances")]


def test_an_instance_that_is_protected_leaves_the_others_to_their_end(rig: Rig, make: Any) -> None:
    system = make()
    one, two, three = launch(system, 3)
    boto3.client("ec2").modify_instance_attribute(InstanceId=two.id, DisableApiTermination={"Value": True})
    try:
        told = system.terminate([one.id, two.id, three.id])
        assert (None, None) == (told[one.id], told[three.id])
        assert "protected" in str(told[two.id])
        assert [two.id] == rig.running()
    finally:
        boto3.client("ec2").modify_instance_attribute(InstanceId=two.id, DisableApiTermination={"Value": False})


def test_more_than_a_thousand_are_ended_by_a_thousand(rig: Rig) -> None:
    ids = [f"i-{number:017x}" for number in range(1, 1003)]
    sent: list[int] = []

    class Counting(Account):
        def ask(self, operation: str, *, service: str = "ec2", **parameters: Any) -> dict[str, Any]:
            sent.append(len(parameters["InstanceIds"]))
            return {}

    account = Counting(Options())
    assert dict.fromkeys(ids) == end_instances(account, ids)
    assert [1000, 2] == sent
    account.close()


def test_close_ends_everything_of_the_cluster_and_nothing_else(rig: Rig, make: Any) -> None:
    mine, other = make(), make()
    launch(mine, 2)
    [kept] = launch(other, 1)
    mine.close()
    assert [kept.id] == rig.running()
    assert [] == mine.describe()
    mine.close()


def test_close_tries_again_while_aws_is_in_trouble(rig: Rig, make: Any) -> None:
    system = make()
    launch(system, 1)
    rig.fail("TerminateInstances", "InternalError", times=2)
    system.close()
    assert [] == rig.running()


def test_a_close_that_cannot_look_ends_what_it_knows_of(rig: Rig, make: Any) -> None:
    system = make()
    launch(system, 1)
    rig.fail("DescribeInstances", "UnauthorizedOperation", times=99)
    system.close()
    assert [] == rig.running()


def test_a_close_that_meets_a_bug_shuts_the_driver_out_all_the_same(
    rig: Rig, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make()
    launch(system, 1)
    assert [f"{rig.address}/32"] == rig.cloud.let_in()
    with monkeypatch.context() as patch:
        patch.setattr(system._opened(), "end_all", lambda patience: {}["Reservations"])
        with pytest.raises(KeyError):
            system.close()
    assert [] == rig.cloud.let_in()
    system.close()
    assert [] == rig.running()


def test_a_close_while_aws_is_down_gives_up_each_question_after_seconds(rig: Rig, make: Any) -> None:
    system = make()
    [one] = launch(system, 1)
    rig.fail("*", "ServiceUnavailable", times=1000)
    system.close()
    asked = Counter(call.operation for call in rig.calls() if call.code)
    assert {"DescribeInstances", "TerminateInstances", "DescribeSecurityGroupRules"} == set(asked)
    assert {4} == set(asked.values()), "three pauses, of a second, two and four at most"
    rig.recover()
    finder = Ec2()
    assert one.id in finder.remove(finder.discover())


def test_what_others_have_left_is_found_by_its_tags_and_removed(rig: Rig, make: Any) -> None:
    system = make()
    one, two = launch(system, 2)
    finder = Ec2()
    found = {each.id: each for each in finder.discover() if each.kind == INSTANCE}
    assert {one.id, two.id} == set(found)
    assert system.cluster == found[one.id].cluster
    assert found[one.id].since > 0
    assert {one.id: None} == finder.remove([found[one.id]])
    assert [two.id] == [each.id for each in finder.discover() if each.kind == INSTANCE]
