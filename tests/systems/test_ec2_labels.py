"""Tags of what is made in an account, and states of instances in words."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from bigm.errors import BootError, CapacityError, ConfigError, QuotaError
from bigm.systems.base import ENDED, RUNNING, STARTING
from bigm.systems.ec2.labels import CLUSTER, EXPIRES, LAUNCH, NAME, Labels, expired, parse_tags, read_tags
from bigm.systems.ec2.options import Options
from bigm.systems.ec2.states import read_instance

BEGAN = datetime.datetime(2026, 5, 4, 12, 0, tzinfo=datetime.timezone.utc)


def tags(title: str = "", **options: Any) -> dict[str, str]:
    made = Labels.of("c1", Options(user="ann", **options)).tags(launch="c1-1", expires=1000.9, title=title)
    return read_tags({"Tags": made})


def test_the_tags_say_cluster_launch_user_end_and_version() -> None:
    found = tags()
    assert ("c1", "c1-1", "1000") == (found[CLUSTER], found[LAUNCH], found[EXPIRES])
    assert "ann" == found["bigm:user"]
    assert found["bigm:version"]


def test_the_name_says_user_program_digest_and_arguments_in_255_characters() -> None:
    assert "bigm ann bigpi.py 3fa2 --samples 5" == tags("bigpi.py 3fa2 --samples 5")[NAME]
    assert 255 == len(tags("x" * 400)[NAME])


def test_arguments_that_xml_has_no_words_for_are_spaces_in_the_name() -> None:
    assert "bigm ann ü.py a b ☃ c" == tags("ü.py a\nb\x01☃\udcff c")[NAME]
    assert "a b" == Labels.of("c1", Options(user="a\x02b")).user


def test_the_users_own_tags_are_added_and_may_rename() -> None:
    found = tags(tags=("team = blue", "Name=mine", "empty="))
    assert ("blue", "mine", "") == (found["team"], found[NAME], found["empty"])


@pytest.mark.parametrize(
    "word", ["nix", "=x", "aws:a=b", "bigm:cluster=x", f"{'k' * 129}=v", f"k={'v' * 257}", "a=b\nc", "a\x01=b"]
)
def test_what_is_no_tag_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"ec2\.tags"):
        parse_tags([word])


def test_more_tags_than_aws_takes_are_refused() -> None:
    with pytest.raises(ConfigError, match="45 are more than the 44"):
        parse_tags([f"k{n}=v" for n in range(45)])


def test_an_end_that_has_passed_is_seen_in_the_tags() -> None:
    assert expired({EXPIRES: "1000"}, now=1001.0)
    assert not expired({EXPIRES: "1000"}, now=999.0)
    assert not expired({}, now=999.0), "what has no end has not ended"


def described(state: str = "running", code: str = "", message: str = "", **more: Any) -> dict[str, Any]:
    return {
        "InstanceId": "i-0123456789abcdef0",
        "InstanceType": "m7i.large",
        "State": {"Name": state},
        "StateReason": {"Code": code, "Message": message},
        "Placement": {"AvailabilityZone": "eu-central-1a"},
        "LaunchTime": BEGAN,
        "PrivateIpAddress": "172.31.0.4",
        "Tags": [{"Key": CLUSTER, "Value": "c1"}, {"Key": LAUNCH, "Value": "c1-1"}],
        **more,
    }


def test_a_running_instance_is_read() -> None:
    seen = read_instance(described(PublicIpAddress="203.0.113.7", InstanceLifecycle="spot"))
    one = seen.instance
    assert (RUNNING, "", "c1", "c1-1") == (one.state, one.reason, one.cluster, one.launch)
    assert ("m7i.large", "eu-central-1a", True) == (one.type, one.zone, one.spot)
    assert "172.31.0.4:8410" == one.locator, "machines dial one another inside the network"
    assert "203.0.113.7" == seen.public
    assert BEGAN.timestamp() == one.since


def test_an_instance_that_is_launched_a_moment_ago_has_no_address_yet() -> None:
    one = read_instance(described("pending", PrivateIpAddress=None)).instance
    assert (STARTING, "") == (one.state, one.locator)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("Server.SpotInstanceTermination", "AWS took the spot instance back"),
        ("Client.UserInitiatedShutdown", "it was terminated by a request to AWS"),
        ("Client.InstanceInitiatedShutdown", "it switched itself off"),
        ("Server.InsufficientInstanceCapacity", "AWS has no capacity of this type there now"),
        ("Client.VolumeLimitExceeded", "quota of EBS storage is used up"),
        ("Client.InternalError", "a key to encrypt it"),
    ],
)
def test_why_an_instance_ended_is_said_in_words(code: str, words: str) -> None:
    seen = read_instance(described("terminated", code, f"{code}: something"))
    assert ENDED == seen.instance.state
    assert seen.gone
    assert words in seen.instance.reason


def test_a_reason_that_nobody_knows_is_told_as_aws_tells_it_and_with_its_time() -> None:
    more = {"StateTransitionReason": "User initiated (2026-05-04 12:00:01 GMT)"}
    one = read_instance(described("terminated", "Server.New", "Server.New: the moon is full.", **more)).instance
    assert "the moon is full, at 2026-05-04 12:00:01 GMT" == one.reason


def test_a_stopped_instance_has_ended_but_is_not_gone() -> None:
    seen = read_instance(described("stopped", "Client.UserInitiatedShutdown"))
    assert ENDED == seen.instance.state
    assert not seen.gone, "it costs on, and is terminated at the end"
    assert "stopped" in seen.instance.reason


def test_what_ended_at_once_is_a_failure_of_the_launch_by_its_cause() -> None:
    kinds = {
        "Server.InsufficientInstanceCapacity": CapacityError,
        "Client.VolumeLimitExceeded": QuotaError,
        "Client.InternalError": BootError,
    }
    for code, kind in kinds.items():
        failure = read_instance(described("terminated", code)).failure()
        assert kind is type(failure)
        assert "i-0123456789abcdef0 (m7i.large in eu-central-1a) ended at once" in failure.message
