"""The policy is one that IAM takes, and allows no more than the table says."""

from __future__ import annotations

import json
from typing import Any

from bigm.systems.ec2.options import Options
from bigm.systems.ec2.policy import NEEDS, needs, partition_of, policy

LARGEST = 6144  # characters of a managed policy that IAM takes, without white space
PLAIN = Options()


def statements(options: Options = PLAIN) -> list[dict[str, Any]]:
    found = policy(needs(options))["Statement"]
    assert isinstance(found, list)
    return found


def actions(options: Options = PLAIN) -> set[str]:
    return {action for statement in statements(options) for action in statement["Action"]}


def test_all_that_bigm_can_need_fits_into_one_policy() -> None:
    text = json.dumps(policy(NEEDS), separators=(",", ":"))
    assert LARGEST > len(text)


def test_each_statement_has_a_name_of_its_own_that_iam_takes() -> None:
    names = [statement["Sid"] for statement in statements()]
    assert len(set(names)) == len(names)
    assert all(name.isalnum() for name in names)


def test_what_changes_something_is_limited_to_some_resources() -> None:
    unlimited = [action for one in statements() if one["Resource"] == "*" for action in one["Action"]]
    assert [] == [action for action in unlimited if not action.partition(":")[2].startswith(("Describe", "Get"))]


def test_what_ends_or_opens_something_is_limited_to_what_has_tags_of_bigm() -> None:
    ending = ("Terminate", "Delete", "Authorize", "Revoke")
    for one in statements():
        if any(action.partition(":")[2].startswith(ending) for action in one["Action"]):
            assert "aws:ResourceTag" in json.dumps(one.get("Condition")) or one["Resource"] == [
                "arn:aws:ec2:*:*:security-group-rule/*"
            ], one


def test_tags_are_given_only_to_what_is_being_made() -> None:
    (one,) = [one for one in statements() if "ec2:CreateTags" in one["Action"]]
    assert ["ec2:CreateAction"] == list(one["Condition"]["StringEquals"])


def test_options_decide_what_is_needed() -> None:
    assert "iam:PassRole" not in actions()
    assert "iam:PassRole" in actions(Options(instance_profile="worker"))
    assert "ec2:AuthorizeSecurityGroupIngress" in actions()
    assert "ec2:AuthorizeSecurityGroupIngress" not in actions(Options(security_groups=("sg-1",)))


def test_other_partitions_have_their_own_names() -> None:
    assert ["aws", "aws", "aws-cn"] == [partition_of(region) for region in ("", "eu-central-1", "cn-north-1")]
    assert "arn:aws:" not in json.dumps(policy(NEEDS, "aws-cn"))
