"""`bigm doctor ec2`, `bigm gc --system ec2`, `bigm ps --system ec2`, and `bigm run --dry-run`: what they say and do."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commanding import Said

from bigm.cli import dryrun
from bigm.config import load
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.doctor import Place, examine
from bigm.systems.ec2.options import Options
from bigm.systems.ec2.policy import needs, policy
from ec2rig.leaving import SOON, leave
from ec2rig.rig import OTHER_REGION, Rig


@pytest.mark.parametrize(("region", "partition"), [("cn-north-1", "aws-cn"), ("", "aws")])
def test_the_policy_is_printed_without_asking_anybody(
    command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, region: str, partition: str
) -> None:
    monkeypatch.setenv("AWS_REGION", region)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said = command("doctor", "ec2", "--policy")
    assert (0, "") == (said.status, said.err)
    assert policy(needs(Options()), partition) == json.loads(said.out)


@pytest.fixture(scope="module")
def cloud() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


@pytest.fixture
def rig(cloud: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """An account that is as it was made, but for what tests have launched."""
    cloud.use(monkeypatch)
    yield cloud
    cloud.recover()


def found(said: Said) -> dict[str, list[str]]:
    """What the findings about AWS say, as "state: text; hint", by what was looked at."""
    checks: dict[str, list[str]] = {}
    for one in json.loads(said.out):
        if one["subject"].startswith("AWS"):
            text = "; ".join(filter(None, (one["text"], one["hint"])))
            checks.setdefault(one["check"], []).append(f"{one['state']}: {text}")
    return checks


def test_doctor_tells_of_an_account_in_order_what_a_run_would_use(command: Callable[..., Said], rig: Rig) -> None:
    said = command("doctor", "ec2", "--json")
    assert 0 == said.status, said
    texts = {check: text for check, (text,) in found(said).items()}
    assert texts["credentials"] == "ok: arn:aws:sts::123456789012:user/moto, from the environment"
    assert texts["clock"] == "ok: right"
    assert texts["types"].startswith("ok: m7i-flex.large, m7i.large,")
    assert texts["types"].endswith("m7i-flex.large has 2 vCPUs, 8 GiB")
    assert texts["image"].startswith("ok: ami-")
    assert "subnets in eu-central-1a, eu-central-1b" in texts["network"]
    assert texts["own address"].startswith(f"ok: {rig.address}/32, as ")
    assert texts["permissions"].endswith("actions that can be asked about are allowed")
    assert texts["quota, spot"] == "ok: 64 vCPUs, for 32 machines of m7i-flex.large"
    assert ([], []) == (rig.running(), list(rig.cloud.ec2.launch_templates)), "nothing was made"


@pytest.mark.parametrize(
    ("operation", "status", "text"),
    [
        (
            "RunInstances",
            75,
            "failed: ec2:RunInstances is not allowed: what CreateFleet does in your name; `bigm doctor",
        ),
        ("CreateFleet", 0, "warning: not known of CreateFleet: nothing of bigm's is there to ask about"),
        ("DescribeVolumes", 0, "warning: ec2:DescribeVolumes is not allowed: disks that are left; `bigm gc` cannot"),
        ("TerminateInstances", 0, "warning: not known of TerminateInstances: nothing of bigm's is there to ask about"),
    ],
)
def test_doctor_names_the_action_that_is_missing(
    command: Callable[..., Said], rig: Rig, operation: str, status: int, text: str
) -> None:
    rig.fail(operation, "UnauthorizedOperation", times=9)
    said = command("doctor", "ec2", "--json")
    assert status == said.status, said
    (told,) = found(said)["permissions"]
    assert told.startswith(text), told


@pytest.mark.parametrize(
    ("operation", "code", "check", "words"),
    [
        ("GetCallerIdentity", "ExpiredToken", "credentials", "renew them (`aws sso login`"),
        ("DescribeSubnets", "UnauthorizedOperation", "network", "lack the permission ec2:DescribeSubnets"),
        ("GetParameter", "ParameterNotFound", "image", "ec2.image must name an image"),
    ],
)
def test_doctor_tells_what_certainly_fails_and_what_to_do(
    command: Callable[..., Said], rig: Rig, operation: str, code: str, check: str, words: str
) -> None:
    rig.fail(operation, code, times=9)
    said = command("doctor", "ec2", "--json")
    assert 75 == said.status, said
    (told,) = found(said)[check]
    assert told.startswith("failed: ")
    assert words in told


def test_doctor_without_credentials_says_where_they_are_looked_for(
    command: Callable[..., Said], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    said = command("doctor", "ec2")
    assert 75 == said.status
    assert "AWS's settings have no credentials; give some: `aws configure`" in said.out


def test_doctor_without_a_region_names_the_ways_to_give_one(
    command: Callable[..., Said], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    said = command("doctor", "ec2")
    assert 75 == said.status
    assert "name one: ec2.region in bigm.yaml, AWS_REGION=" in said.out


@pytest.mark.parametrize(("offset", "state", "side"), [(-100, "warning", "behind"), (1000, "failed", "ahead")])
def test_a_clock_that_is_wrong_is_told(rig: Rig, tmp_path: Path, offset: int, state: str, side: str) -> None:
    place = Place(Account(Options()), Options(), tmp_path, "3.11")
    findings = examine(place, lambda: None, now=lambda: time.time() + offset)
    clock = next(one for one in findings if one.check == "clock")
    seconds = int(re.sub(r"\D", "", clock.text))  # AWS tells whole ones
    assert (state, f"this computer's is {seconds} s {side}") == (clock.state, clock.text)
    assert abs(seconds - abs(offset)) <= 2


def listed(said: Said) -> set[str]:
    return {one["instance"] for one in json.loads(said.out)}


def test_gc_removes_in_all_regions_what_should_have_ended_and_is_known_to_nobody(
    command: Callable[..., Said], rig: Rig
) -> None:
    here, there = leave("c1"), leave("c2", region=OTHER_REGION)
    others = leave("c3", user="somebody-else")
    said = command("gc", "--system", "ec2")
    assert 0 == said.status, said
    assert "bigm: would end 2 disks, 2 launch templates, 2 rules; --yes does" in said.err, said
    assert {*here, *there} == listed(command("gc", "--system", "ec2", "--json"))
    assert set(there) == listed(command("ps", "--region", OTHER_REGION, "--json"))
    said = command("gc", "--system", "ec2", "--yes")
    assert (0, True) == (said.status, "ended 2 disks, 2 launch templates, 2 rules\n" in said.out), said
    assert "nothing is left on ec2\n" == command("gc", "--system", "ec2").out
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGM_EC2_USER", "somebody-else")
        assert set(others) == listed(command("gc", "--system", "ec2", "--yes", "--json"))


def test_gc_leaves_what_may_be_of_a_run_on_another_computer(command: Callable[..., Said], rig: Rig) -> None:
    ids = leave("c4", expires=SOON)
    said = command("gc", "--system", "ec2", "--yes")
    assert "of runs that are not known here; --unknown takes them too" in said.err
    assert set(ids) == listed(command("gc", "--system", "ec2", "--yes", "--unknown", "--json"))
    assert Said(0, "there is nothing on ec2\n", "") == command("ps", "--system", "ec2")


def test_gc_says_which_region_it_could_not_look_at(command: Callable[..., Said], rig: Rig) -> None:
    rig.fail("DescribeRegions", "UnauthorizedOperation")
    said = command("gc", "--system", "ec2")
    assert 75 == said.status
    assert "bigm: every other region was not looked at: DescribeRegions in eu-central-1 failed" in said.err


def test_gc_says_what_could_not_be_removed_and_removes_the_rest(command: Callable[..., Said], rig: Rig) -> None:
    template, rule, disk = leave("c5")
    rig.fail("DeleteVolume", "UnauthorizedOperation")
    said = command("gc", "--system", "ec2", "--yes", "--json")
    assert 75 == said.status
    assert {template: True, rule: True, disk: False} == {one["instance"]: one["ended"] for one in json.loads(said.out)}
    assert {disk} == listed(command("gc", "--system", "ec2", "--yes", "--json"))


def test_a_dry_run_says_what_would_be_launched_and_launches_nothing(
    rig: Rig, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(rig.calls())
    settings = load({"system": "ec2", "nmach": 5})
    dryrun.show(["pi.py"], sys.executable, "nothing", settings, as_json=False)
    told = {
        name: text.strip() for name, _, text in (line.partition(" ") for line in capsys.readouterr().out.splitlines())
    }
    assert told["types"].startswith("m7i-flex.large, ")
    assert told["image"].startswith("ami-")
    assert "subnets in eu-central-1a" in told["network"]
    assert "price" in told
    assert all(call.operation.startswith(("Describe", "Get")) for call in rig.calls()[before:])
