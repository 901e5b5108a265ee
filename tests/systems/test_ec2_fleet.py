"""Launches: how instances are bought, what they are like, and what becomes of errors. On the rig."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest

from bigm import __version__
from bigm.authority import Authority
from bigm.bootstrap.agentzip import agent_digest
from bigm.bootstrap.records import Launch
from bigm.errors import CapacityError, ConfigError, PermissionDenied, QuotaError, ThrottledError, TransientError
from bigm.systems.base import Launched, Spec
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.system import Ec2
from ec2rig.cloud import IMAGES
from ec2rig.rig import PORT, Rig
from waiting import eventually


@pytest.fixture
def group(rig: Rig) -> str:
    """A security group that lets the rig's address in."""
    ec2 = boto3.client("ec2")
    found = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["test"]}])["SecurityGroups"]
    if found:
        return str(found[0]["GroupId"])
    group = str(ec2.create_security_group(GroupName="test", Description="test")["GroupId"])
    ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=PORT, ToPort=PORT, CidrIp=f"{rig.address}/32"
    )
    return group


class Driver:
    """A system that is opened, and launches as a cluster does."""

    def __init__(self, group: str, **options: Any) -> None:
        self.authority = Authority()
        self.system = Ec2(image=IMAGES[0].id, security_groups=(group,), **{"purchase": "on-demand", **options})
        self.system.open(self.authority.cluster)

    def launch(self, n: int, number: int = 1, title: str = "", timeout: float = 60.0) -> Launched:
        launch = f"{self.authority.cluster}-{number}"
        credentials = self.authority.bootstrap(launch)
        boot = Launch(
            cluster=self.authority.cluster,
            launch=launch,
            ca=credentials.ca.decode(),
            cert=credentials.cert.decode(),
            key=credentials.key.decode(),
            agent_digest=agent_digest(),
            first_lease=60.0,
        )
        return self.system.launch(n, Spec(title=title, timeout=timeout), boot, launch)


@pytest.fixture
def make(group: str) -> Iterator[Any]:
    """Makes drivers, and closes them."""
    with contextlib.ExitStack() as last:

        def make(**options: Any) -> Driver:
            driver = Driver(group, **options)
            last.callback(driver.system.close)
            return driver

        yield make


def targets(rig: Rig) -> list[tuple[int, int]]:
    """How many spot and on-demand instances each request has asked for."""
    asked = [call.parameters["TargetCapacitySpecification"] for call in rig.calls("CreateFleet")]
    return [(one["SpotTargetCapacity"], one["OnDemandTargetCapacity"]) for one in asked]


# --- how instances are bought


@pytest.mark.parametrize(
    ("purchase", "asked", "spot"),
    [
        ("on-demand", [(0, 3)], 0),
        ("spot", [(3, 0)], 3),
        ("spot-else-on-demand", [(3, 0)], 3),
        ("1", [(2, 1)], 2),
        ("5", [(0, 3)], 0),
    ],
)
def test_instances_are_bought_as_is_said(
    rig: Rig, make: Any, purchase: str, asked: list[tuple[int, int]], spot: int
) -> None:
    launched = make(purchase=purchase).launch(3)
    assert ((), 3) == (launched.failures, len(launched.instances))
    assert asked == targets(rig)
    assert spot == sum(bool(one.spot) for one in launched.instances)


def test_where_there_is_too_little_spot_capacity_the_rest_is_bought_on_demand(rig: Rig, make: Any) -> None:
    rig.limit(2, spot=True)
    launched = make(purchase="spot-else-on-demand").launch(5)
    assert ((), 5) == (launched.failures, len(launched.instances))
    assert [(5, 0), (0, 3)] == targets(rig)
    assert 2 == sum(bool(one.spot) for one in launched.instances)


def test_so_many_on_demand_are_so_many_of_the_cluster(rig: Rig, make: Any) -> None:
    driver = make(purchase="3")
    driver.launch(2, 1)
    driver.launch(2, 2)
    assert [(0, 2), (1, 1)] == targets(rig)


def test_a_way_of_buying_that_is_none_is_refused(rig: Rig) -> None:
    with pytest.raises(ConfigError, match=r"ec2\.purchase must be .* or a number, not 'cheap'"):
        Ec2(purchase="cheap")


# --- what is asked for


def test_a_launch_is_one_template_and_one_fleet_and_the_template_is_deleted(rig: Rig, make: Any) -> None:
    make().launch(3)
    made = [call.operation for call in rig.calls() if not call.operation.startswith("Describe")]
    assert ["CreateLaunchTemplate", "CreateFleet", "DeleteLaunchTemplate"] == made[-3:]
    assert [] == boto3.client("ec2").describe_launch_templates()["LaunchTemplates"]


def test_the_request_has_its_token_its_pools_and_no_maximum_price(rig: Rig, make: Any) -> None:
    driver = make(purchase="spot", instance_types=("m7i.large", "m6i.large"))
    driver.launch(1)
    [call] = rig.calls("CreateFleet")
    asked = call.parameters
    assert ("instant", f"{driver.authority.cluster}-1") == (asked["Type"], asked["ClientToken"])
    assert {"AllocationStrategy": "price-capacity-optimized"} == asked["SpotOptions"]
    [config] = asked["LaunchTemplateConfigs"]
    zones = len(rig.cloud.zones())
    assert ["m7i.large"] * zones + ["m6i.large"] * zones == [one["InstanceType"] for one in config["Overrides"]]
    assert zones == len({one["SubnetId"] for one in config["Overrides"]})


def test_all_that_is_made_is_tagged_by_the_request_that_makes_it(rig: Rig, make: Any) -> None:
    driver = make(user="ann", tags=("team=blue",))
    driver.launch(1, title="bigpi.py 3fa2 --samples 5")
    wanted = {
        "Name": "bigm ann bigpi.py 3fa2 --samples 5",
        "bigm:cluster": driver.authority.cluster,
        "bigm:launch": f"{driver.authority.cluster}-1",
        "bigm:user": "ann",
        "bigm:version": __version__,
        "team": "blue",
    }
    [template], [fleet] = rig.calls("CreateLaunchTemplate"), rig.calls("CreateFleet")
    specifications = [
        *template.parameters["TagSpecifications"],
        *template.parameters["LaunchTemplateData"]["TagSpecifications"],
        *fleet.parameters["TagSpecifications"],
    ]
    kinds = ["launch-template", "network-interface", "fleet", "instance", "volume"]
    assert kinds == [one["ResourceType"] for one in specifications]
    for one in specifications:
        tags = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        assert tags.pop("bigm:expires").isdecimal()
        assert wanted == tags
    assert [] == rig.calls("CreateTags"), "nothing is tagged afterwards"


def test_instances_end_with_their_shutdown_and_guard_their_metadata(rig: Rig, make: Any, group: str) -> None:
    make(root_gib=20, data_gib=64, data_stripes=2, key_pair="", instance_profile="worker").launch(1)
    [call] = rig.calls("CreateLaunchTemplate")
    data = call.parameters["LaunchTemplateData"]
    assert "terminate" == data["InstanceInitiatedShutdownBehavior"]
    assert ("required", 1) == (
        data["MetadataOptions"]["HttpTokens"],
        data["MetadataOptions"]["HttpPutResponseHopLimit"],
    )
    disks = {disk["DeviceName"]: disk["Ebs"] for disk in data["BlockDeviceMappings"]}
    assert {IMAGES[0].root: 20, "/dev/sdb": 32, "/dev/sdc": 32} == {
        name: disk["VolumeSize"] for name, disk in disks.items()
    }
    assert all(("gp3", True) == (disk["VolumeType"], disk["DeleteOnTermination"]) for disk in disks.values())
    [card] = data["NetworkInterfaces"]
    assert ([group], True) == (card["Groups"], card["AssociatePublicIpAddress"])
    assert {"Name": "worker"} == data["IamInstanceProfile"]
    assert b"\x1f\x8b" == base64.b64decode(data["UserData"])[:2]


def test_a_private_way_asks_for_no_public_address(rig: Rig, make: Any) -> None:
    make(connect="private").launch(1)
    [call] = rig.calls("CreateLaunchTemplate")
    assert "AssociatePublicIpAddress" not in call.parameters["LaunchTemplateData"]["NetworkInterfaces"][0]


def test_launching_again_by_the_same_id_launches_nothing(rig: Rig, make: Any) -> None:
    driver = make()
    first = driver.launch(2)
    again = driver.launch(2)
    assert {one.id for one in first.instances} == {one.id for one in again.instances}
    assert 1 == len(rig.calls("CreateFleet"))


# --- what goes wrong


def test_two_zones_without_capacity_leave_the_third(rig: Rig, make: Any) -> None:
    first, second, *_ = rig.cloud.zones()
    rig.limit(zone=first)
    rig.limit(zone=second)
    launched = make(instance_types=("m7i.large",)).launch(3)
    assert ((), 3) == (launched.failures, len(launched.instances))
    assert {first, second}.isdisjoint(one.zone for one in launched.instances)


def test_a_part_of_a_fleet_is_returned_with_the_causes_counted(rig: Rig, make: Any) -> None:
    rig.limit(2)
    launched = make(purchase="spot", instance_types=("m7i.large",)).launch(5)
    assert 2 == len(launched.instances)
    [failure] = launched.failures
    assert CapacityError is type(failure)
    zones = ", ".join(rig.cloud.zones()[1:])  # the first gave what it had
    assert failure.message.startswith("cannot launch 3 of 5 instances in eu-central-1: AWS has no such capacity")
    assert failure.message.endswith(f"(spot m7i.large in {zones})")


def test_without_any_capacity_each_way_of_buying_is_a_cause(rig: Rig, make: Any) -> None:
    rig.limit(0)
    launched = make(purchase="spot-else-on-demand", instance_types=("m7i.large",)).launch(2)
    assert () == launched.instances
    assert [(2, 0), (0, 2)] == targets(rig)
    assert ["spot", "on-demand"] == [failure.message.partition("(")[2].split()[0] for failure in launched.failures]


def test_a_want_of_capacity_for_the_whole_request_is_not_repeated(rig: Rig, make: Any) -> None:
    rig.fail("CreateFleet", "InsufficientInstanceCapacity", times=9)
    launched = make(purchase="on-demand").launch(1)
    assert [CapacityError] == [type(failure) for failure in launched.failures]
    assert 1 == len(rig.calls("CreateFleet"))


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        ("VcpuLimitExceeded", QuotaError, "quotas/L-1216C47A"),
        ("UnauthorizedOperation", PermissionDenied, "bigm doctor ec2 --policy"),
        ("InvalidKeyPair.NotFound", ConfigError, r"ec2\.key_pair"),
    ],
)
@pytest.mark.parametrize("operation", ["CreateFleet", "CreateLaunchTemplate"])
def test_what_only_the_user_can_mend_ends_a_launch_at_once(
    rig: Rig, make: Any, operation: str, code: str, kind: type[Exception], hint: str
) -> None:
    rig.fail(operation, code, times=9)
    with pytest.raises(kind, match=hint):
        make(purchase="spot-else-on-demand").launch(2)
    assert 1 == len(rig.calls(operation))
    assert [] == boto3.client("ec2").describe_launch_templates()["LaunchTemplates"]


def test_a_quota_of_the_pools_ends_a_launch_without_another_try_on_demand(rig: Rig, make: Any) -> None:
    rig.limit(1, "InstanceLimitExceeded")
    launched = make(purchase="spot-else-on-demand").launch(2)
    assert 1 == len(launched.instances), "what there is is kept"
    assert [QuotaError] == [type(failure) for failure in launched.failures]
    assert 1 == len(rig.calls("CreateFleet"))


@pytest.mark.parametrize("code", ["MaxSpotInstanceCountExceeded", "AuthFailure.ServiceLinkedRoleCreationNotPermitted"])
@pytest.mark.parametrize("whole", [True, False])
def test_what_an_account_lacks_for_spot_alone_is_bought_on_demand(rig: Rig, make: Any, code: str, whole: bool) -> None:
    if whole:
        rig.fail("CreateFleet", code)
    else:
        rig.limit(0, code, spot=True)
    launched = make(purchase="spot-else-on-demand").launch(2)
    assert ((), [False, False]) == (launched.failures, [one.spot for one in launched.instances])


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "ServiceUnavailable", "InternalError"])
def test_aws_s_own_trouble_is_waited_out_with_the_same_token(rig: Rig, make: Any, code: str) -> None:
    rig.fail("CreateFleet", code, times=2)
    assert 1 == len(make().launch(1).instances)
    calls = rig.calls("CreateFleet")
    assert [code, code, ""] == [call.code for call in calls]
    assert 1 == len({call.parameters["ClientToken"] for call in calls})


@pytest.mark.parametrize("code", ["InvalidLaunchTemplateId.NotFound", "InvalidGroup.NotFound", "InternalError"])
def test_zones_that_do_not_know_yet_what_was_just_made_are_asked_again(rig: Rig, make: Any, code: str) -> None:
    rig.limit(0, code)
    rig.after("CreateFleet", lambda _: rig.fleets.pools.clear())
    launched = make(purchase="spot-else-on-demand").launch(2)
    assert ((), [True, True]) == (launched.failures, [one.spot for one in launched.instances])
    assert 2 == len({call.parameters["ClientToken"] for call in rig.calls("CreateFleet")})


def test_a_lost_reply_is_asked_for_again_and_nothing_is_launched_twice(rig: Rig, make: Any) -> None:
    rig.lose_reply("CreateFleet")
    launched = make().launch(2)
    assert ((), 2) == (launched.failures, len(launched.instances))
    assert sorted(one.id for one in launched.instances) == sorted(rig.running())


def test_instances_of_a_lost_reply_are_found_by_their_tag_where_aws_does_not_tell_of_them_again(
    rig: Rig, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig._door, "terse", True)
    rig.lose_reply("CreateFleet")
    launched = make(purchase="spot-else-on-demand").launch(2)
    assert sorted(one.id for one in launched.instances) == sorted(rig.running())
    assert 2 == len(rig.calls("CreateFleet")), "and none beside them on demand"


def test_a_lost_reply_about_the_template_is_asked_for_again(rig: Rig, make: Any) -> None:
    rig.lose_reply("CreateLaunchTemplate")
    assert 1 == len(make().launch(1).instances)
    assert [] == boto3.client("ec2").describe_launch_templates()["LaunchTemplates"]


def test_the_end_of_the_cluster_ends_a_launch_that_waits_for_aws(rig: Rig, make: Any) -> None:
    rig.fail("CreateFleet", "RequestLimitExceeded", times=1000)
    driver = make()
    raised: list[BaseException] = []

    def launch() -> None:
        with pytest.raises(ThrottledError) as caught:
            driver.launch(1)
        raised.append(caught.value)

    thread = threading.Thread(target=launch, name="launch")
    thread.start()
    eventually(lambda: len(rig.calls("CreateFleet")) > 1)
    driver.system.close()
    thread.join(10.0)
    assert raised
    assert [] == boto3.client("ec2").describe_launch_templates()["LaunchTemplates"]


def test_what_a_launch_makes_while_the_cluster_ends_is_ended(rig: Rig, make: Any) -> None:
    arrived = threading.Event()
    rig.after("CreateFleet", lambda request: arrived.set())
    rig.delay("DescribeInstances", 1.0)
    driver = make()
    thread = threading.Thread(target=driver.launch, args=(2,), name="launch")
    thread.start()
    assert arrived.wait(20.0)
    driver.system.close()
    eventually(lambda: not rig.running())
    thread.join(20.0)
    assert not thread.is_alive()


@pytest.mark.parametrize("operation", ["CreateLaunchTemplate", "CreateFleet", "DeleteLaunchTemplate"])
def test_what_an_interrupted_launch_has_made_is_ended_though_its_answer_is_lost(
    rig: Rig, make: Any, operation: str
) -> None:
    rig.after(operation, lambda request: os.kill(os.getpid(), signal.SIGINT))
    driver = make()
    with pytest.raises(KeyboardInterrupt):
        driver.launch(2)
    assert (2 if operation != "CreateLaunchTemplate" else 0) == len(rig.running())
    driver.system.close()
    assert [] == rig.running()
    assert [] == boto3.client("ec2").describe_launch_templates()["LaunchTemplates"]


def test_what_a_launch_has_made_whose_answer_never_came_is_waited_for_and_ended(
    rig: Rig, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make()
    rig.lose_reply("CreateFleet")
    rig.fail("CreateFleet", "InternalError", times=1000)
    with pytest.raises(TransientError):
        driver.launch(2, timeout=2.0)
    pages, looks = Account.pages, []

    def late(account: Account, operation: str, *words: Any, **parameters: Any) -> Any:
        looks.append(operation)
        found = pages(account, operation, *words, **parameters)
        return [] if operation == "describe_instances" and looks.count(operation) < 3 else found

    monkeypatch.setattr(Account, "pages", late)
    driver.system.close()
    assert [] == rig.running()


def test_a_close_that_was_interrupted_can_be_made_again(rig: Rig, make: Any) -> None:
    driver = make()
    driver.launch(1)
    rig.after("DescribeInstances", lambda request: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        driver.system.close()
    assert rig.running()
    driver.system.close()
    assert [] == rig.running()


def test_a_launch_waits_no_longer_for_aws_than_it_is_told(rig: Rig, make: Any) -> None:
    rig.fail("CreateFleet", "RequestLimitExceeded", times=1000)
    with pytest.raises(ThrottledError):
        make().launch(1, timeout=2.0)
    assert 1 <= len(rig.calls("CreateFleet")) < 10


def test_two_launches_at_a_time_have_a_template_each(rig: Rig, make: Any) -> None:
    rig.fail("CreateFleet", "RequestLimitExceeded", times=2)
    driver = make()
    with ThreadPoolExecutor(2) as pool:
        launched = list(pool.map(lambda number: driver.launch(1, number), (1, 2)))
    assert [1, 1] == [len(one.instances) for one in launched]
    assert 2 == len(rig.calls("DeleteLaunchTemplate"))


def test_instances_that_nothing_ends_are_warned_of_and_have_no_end_in_their_tags(
    rig: Rig, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    make(immortal=True).launch(1)
    assert "cost money until you end them" in caplog.text
    [call] = rig.calls("CreateFleet")
    tags = {tag["Key"] for one in call.parameters["TagSpecifications"] for tag in one["Tags"]}
    assert "bigm:expires" not in tags


def test_an_instance_that_ends_at_once_is_a_failure_with_aws_s_reason(rig: Rig, make: Any) -> None:
    def end_one(request: object) -> None:
        id = rig.running()[0]
        rig.terminate(id)
        rig.cloud.instance(id).state_reason.code = "Client.VolumeLimitExceeded"

    rig.after("CreateFleet", end_one)
    launched = make().launch(2)
    assert 1 == len(launched.instances)
    [failure] = launched.failures
    assert QuotaError is type(failure)
    assert "ended at once: it could not start: the account's quota of EBS storage is used up" in failure.message


def test_an_instance_that_gets_no_public_address_is_ended_and_said_why(
    rig: Rig, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hide(request: object) -> None:
        for instance in rig.cloud.instances():
            for interface in instance.nics.values():
                interface.public_ip = None

    monkeypatch.setattr("bigm.systems.ec2.system._ADDRESSES", 1.5)
    rig.after("CreateFleet", hide)
    launched = make().launch(1)
    assert () == launched.instances
    assert ["name subnets that lead to the internet"] == [one.hint[:38] for one in launched.failures]
    assert [] == rig.running()


def test_lists_may_be_given_as_words_with_commas(rig: Rig) -> None:
    assert ("m7i.large", "m6i.large") == Ec2(instance_types="m7i.large, m6i.large")._options.instance_types


def test_instances_that_cannot_be_looked_at_after_their_launch_are_ended(rig: Rig, make: Any) -> None:
    rig.fail("DescribeInstances", "UnauthorizedOperation", times=99)
    with pytest.raises(PermissionDenied, match="ec2:DescribeInstances"):
        make().launch(2)
    assert 1 == len(rig.calls("CreateFleet"))
    assert [] == rig.running()


def test_what_aws_does_not_show_in_time_is_ended_by_its_id(
    rig: Rig, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make()
    monkeypatch.setattr(driver.system._opened(), "look", lambda: {})  # as in the first seconds
    monkeypatch.setattr("bigm.systems.ec2.system._ADDRESSES", 1.0)
    launched = driver.launch(1)
    assert ((), 1) == (launched.instances, len(launched.failures))
    assert [] == rig.running()
