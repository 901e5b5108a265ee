"""What AWS says went wrong, in bigm's errors and words."""

from __future__ import annotations

import pytest
from botocore import exceptions

from bigm.errors import (
    BigmError,
    CapacityError,
    ConfigError,
    CredentialsError,
    PermissionDenied,
    QuotaError,
    SystemFault,
    ThrottledError,
    TransientError,
)
from bigm.systems.ec2.faults import DROP, ELSEWHERE, GIVE_UP, RETRY, TABLE, look_up, make_error, translate

# (code, class, what a launch does, a word of the hint, exit code)
LISTED = [
    ("InsufficientInstanceCapacity", CapacityError, ELSEWHERE, "types", 77),
    ("UnfulfillableCapacity", CapacityError, ELSEWHERE, "types", 77),
    ("InsufficientFreeAddressesInSubnet", CapacityError, ELSEWHERE, "ec2.subnets", 77),
    ("VcpuLimitExceeded", QuotaError, GIVE_UP, "quotas/L-1216C47A", 77),
    ("MaxSpotInstanceCountExceeded", QuotaError, ELSEWHERE, "quotas/L-34B43A08", 77),
    ("InstanceLimitExceeded", QuotaError, GIVE_UP, "bigm gc", 77),
    ("MaxFleetCountExceeded", QuotaError, GIVE_UP, "bigm gc", 77),
    ("Unsupported", ConfigError, DROP, "ec2.instance_types", 2),
    ("InvalidParameterValue", ConfigError, DROP, "", 2),
    ("UnauthorizedOperation", PermissionDenied, GIVE_UP, "--policy", 76),
    ("AccessDenied", PermissionDenied, GIVE_UP, "--policy", 76),
    ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", PermissionDenied, ELSEWHERE, "service-linked-role", 76),
    ("RequestLimitExceeded", ThrottledError, RETRY, "again", 75),
    ("ServiceUnavailable", TransientError, RETRY, "again", 75),
    ("InternalError", TransientError, RETRY, "again", 75),
    ("InvalidAMIID.NotFound", ConfigError, GIVE_UP, "ec2.image", 2),
    ("InvalidSubnetID.NotFound", ConfigError, GIVE_UP, "ec2.subnets", 2),
    ("InvalidGroup.NotFound", ConfigError, GIVE_UP, "ec2.security_groups", 2),
    ("InvalidKeyPair.NotFound", ConfigError, GIVE_UP, "ec2.key_pair", 2),
    ("ExpiredToken", CredentialsError, GIVE_UP, "aws sso login", 76),
    ("AuthFailure", CredentialsError, GIVE_UP, "aws sts get-caller-identity", 76),
]


@pytest.mark.parametrize(("code", "kind", "then", "hint", "exit_code"), LISTED)
def test_each_listed_code_has_its_class_its_hint_and_its_exit_code(
    code: str, kind: type[BigmError], then: str, hint: str, exit_code: int
) -> None:
    error = _answered(code, "Something happened.")
    assert kind is type(error)
    assert hint in error.hint
    assert exit_code == error.exit_code
    assert then == look_up(code).then
    assert error.message.startswith("CreateFleet in eu-central-1 failed: ")
    assert code == getattr(error, "code", code), "the code is kept for those who look it up"


def test_a_code_that_nobody_knows_is_a_fault_of_the_system_with_what_aws_said() -> None:
    error = _answered("SomethingNew", "The moon is full.")
    assert type(error) is SystemFault
    assert "CreateFleet in eu-central-1 failed: the moon is full" == error.message
    assert GIVE_UP == look_up("SomethingNew").then


def test_a_lack_of_permission_names_the_action_that_aws_names() -> None:
    said = (
        "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/me is not authorized "
        "to perform: ec2:RunInstances on resource: arn:aws:ec2:eu-central-1:123456789012:instance/* because no "
        "identity-based policy allows the ec2:RunInstances action. Encoded authorization failure message: AbC-123_x"
    )
    error = _answered("UnauthorizedOperation", said)
    assert "lack the permission ec2:RunInstances" in error.message
    assert "AbC" not in str(error), "nobody can read that"


def test_a_lack_of_permission_that_names_none_is_one_of_the_request() -> None:
    error = _answered("UnauthorizedOperation", "You are not authorized to perform this operation.")
    assert "lack the permission ec2:CreateFleet" in error.message


def test_a_bad_instance_profile_is_told_from_other_bad_values() -> None:
    said = "Value (nix) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
    assert "ec2.instance_profile" in _answered("InvalidParameterValue", said).hint


def test_an_error_of_a_pool_says_which() -> None:
    error = make_error(
        "InsufficientInstanceCapacity",
        "We currently do not have sufficient capacity.",
        attempt="cannot launch 3 of 5 instances in eu-central-1",
        place="spot m7i.large in eu-central-1a",
    )
    assert (
        "cannot launch 3 of 5 instances in eu-central-1: AWS has no such capacity there now "
        "(spot m7i.large in eu-central-1a)" == error.message
    )


@pytest.mark.parametrize(
    ("raised", "kind", "hint"),
    [
        (exceptions.NoCredentialsError(), CredentialsError, "aws configure"),
        (exceptions.ProfileNotFound(profile="nix"), ConfigError, "list-profiles"),
        (exceptions.UnauthorizedSSOTokenError(), CredentialsError, "aws sso login"),
        (exceptions.CredentialRetrievalError(provider="process", error_msg="no"), CredentialsError, "aws sso login"),
        (exceptions.EndpointConnectionError(endpoint_url="https://ec2"), TransientError, "bigm doctor ec2"),
        (exceptions.ReadTimeoutError(endpoint_url="https://ec2"), TransientError, "bigm doctor ec2"),
        (exceptions.ParamValidationError(report="no"), ConfigError, "bigm.yaml"),
        (exceptions.NoRegionError(), ConfigError, "AWS_REGION"),
    ],
)
def test_what_goes_wrong_before_aws_answers_is_translated_too(
    raised: Exception, kind: type[BigmError], hint: str
) -> None:
    error = translate(raised, attempt="DescribeInstances in eu-central-1 failed")
    assert type(error) is kind
    assert hint in error.hint


def test_every_row_that_gives_up_for_good_says_what_to_do() -> None:
    silent = {code for code, row in TABLE.items() if not row.hint and row.kind is not PermissionDenied}
    assert {
        "InvalidParameterValue",  # AWS's own words name the value
        "InvalidParameterCombination",
        "InvalidFleetConfiguration",
        "InvalidInstanceID.NotFound",
        "InvalidAction",
    } == silent


def _answered(code: str, message: str) -> BigmError:
    raised = exceptions.ClientError({"Error": {"Code": code, "Message": message}}, "CreateFleet")
    return translate(raised, attempt="CreateFleet in eu-central-1 failed", action="ec2:CreateFleet")
