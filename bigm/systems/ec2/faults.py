"""What goes wrong with AWS, in words: a table from its error codes to bigm's errors, and what a launch does about each.

Everything botocore raises is translated here, once; nothing else in the system catches it. Source: "Error codes for the
Amazon EC2 API", and botocore/exceptions.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bigm.errors import (
    BigmError,
    CapacityError,
    ConfigError,
    CredentialsError,
    InstanceGone,
    NotSupported,
    PermissionDenied,
    QuotaError,
    SystemFault,
    ThrottledError,
    TransientError,
)

# What a launch does about an error.
ELSEWHERE = "elsewhere"  # this pool (a type in a subnet, as spot or on demand) has nothing now; others may
DROP = "drop"  # this pool never works; others may
RETRY = "retry"  # the same again, after a pause
GIVE_UP = "give up"  # nothing helps but the user

_NAMED = 300  # characters of AWS's own message that are shown
_POLICY = "`bigm doctor ec2 --policy` prints all that bigm needs"
QUOTA_PAGE = "https://console.aws.amazon.com/servicequotas/home/services/ec2/quotas"
VCPUS_ON_DEMAND, VCPUS_SPOT = "L-1216C47A", "L-34B43A08"  # quotas of vCPUs of the standard families
_RENEW = "renew them (`aws sso login`, `aws configure`), and see them with `aws sts get-caller-identity`"


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Args:
        kind: the class of the error.
        then: what a launch does about it.
        text: what happened, in words; "" takes AWS's own message.
        hint: what to try, as a sentence of its own, or "".
    """

    kind: type[BigmError]
    then: str = GIVE_UP
    text: str = ""
    hint: str = ""


def _quota(text: str, code: str = "", then: str = GIVE_UP) -> Fault:
    ask = f"ask for more at {QUOTA_PAGE}" + (f"/{code}" if code else "") + ", or end what runs there (`bigm gc`)"
    return Fault(QuotaError, then, text, ask)


def _option(name: str, what: str) -> Fault:
    return Fault(ConfigError, GIVE_UP, "", f"ec2.{name} must name {what} of this region, see `bigm doctor ec2`")


_CAPACITY = Fault(CapacityError, ELSEWHERE, "AWS has no such capacity there now", "try later, or name more types")
_SLOWLY = Fault(ThrottledError, RETRY, "AWS asks to slow down", "try again in a minute")
_FAILED = Fault(TransientError, RETRY, "AWS failed for a reason of its own", "try again")
_DENIED = Fault(PermissionDenied)
_EXPIRED = Fault(CredentialsError, GIVE_UP, "the credentials have expired", _RENEW)
_WRONG = Fault(CredentialsError, GIVE_UP, "AWS does not accept the credentials", _RENEW)
_NOT_THERE = Fault(ConfigError, DROP, "", "name others with ec2.instance_types, or another region")

TABLE: dict[str, Fault] = {
    # no capacity in this pool
    "InsufficientInstanceCapacity": _CAPACITY,
    "InsufficientHostCapacity": _CAPACITY,
    "InsufficientReservedInstanceCapacity": _CAPACITY,
    "InsufficientCapacity": _CAPACITY,
    "UnfulfillableCapacity": _CAPACITY,
    "SpotMaxPriceTooLow": _CAPACITY,
    "InsufficientFreeAddressesInSubnet": Fault(
        CapacityError, ELSEWHERE, "the subnet has no free addresses", "name others with ec2.subnets"
    ),
    # the account's limits
    "VcpuLimitExceeded": _quota(f"the quota of on-demand vCPUs ({VCPUS_ON_DEMAND}) is used up", VCPUS_ON_DEMAND),
    "InstanceLimitExceeded": _quota("the quota of instances of this type is used up"),
    "MaxSpotInstanceCountExceeded": _quota(f"the quota of spot vCPUs ({VCPUS_SPOT}) is used up", VCPUS_SPOT, ELSEWHERE),
    "MaxFleetCountExceeded": _quota("the quota of fleets in this region is used up"),
    "MaxIOPSLimitExceeded": _quota("the quota of provisioned IOPS is used up"),
    "VolumeLimitExceeded": _quota("the quota of EBS storage is used up"),
    "RulesPerSecurityGroupLimitExceeded": _quota("the security group has as many rules as it may have", "L-0EA8095F"),
    "SecurityGroupLimitExceeded": _quota("the VPC has as many security groups as it may have", "L-E79EC296"),
    "LaunchTemplateLimitExceeded": _quota("the region has as many launch templates as it may have"),
    "PendingVerification": Fault(QuotaError, GIVE_UP, "", "AWS verifies new accounts: try again in some hours"),
    "OptInRequired": Fault(PermissionDenied, GIVE_UP, "", "enable the region or the service in the account first"),
    # a pool that cannot work
    "Unsupported": _NOT_THERE,
    "UnsupportedOperation": _NOT_THERE,
    "InvalidParameterValue": Fault(ConfigError, DROP),
    "InvalidParameterCombination": Fault(ConfigError, DROP),
    "InvalidFleetConfiguration": Fault(ConfigError, DROP),
    # permission
    "UnauthorizedOperation": _DENIED,
    "AccessDenied": _DENIED,
    "AccessDeniedException": _DENIED,
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": Fault(
        PermissionDenied,
        ELSEWHERE,
        "the role that spot instances need does not exist, and may not be made",
        "allow iam:CreateServiceLinkedRole, or have it made once: "
        "`aws iam create-service-linked-role --aws-service-name spot.amazonaws.com`; "
        "with ec2.purchase: on-demand none is needed",
    ),
    # credentials
    "AuthFailure": Fault(
        CredentialsError,
        GIVE_UP,
        "AWS does not accept the credentials, or the account has not enabled this region",
        _RENEW,
    ),
    "InvalidClientTokenId": _WRONG,
    "UnrecognizedClientException": _WRONG,
    "SignatureDoesNotMatch": _WRONG,
    "InvalidAccessKeyId": _WRONG,
    "MissingAuthenticationToken": _WRONG,
    "IncompleteSignature": _WRONG,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "RequestExpired": Fault(CredentialsError, GIVE_UP, "", f"this computer's clock may be wrong; else {_RENEW}"),
    # AWS's own trouble
    "RequestLimitExceeded": _SLOWLY,
    "RequestThrottled": _SLOWLY,
    "Throttling": _SLOWLY,
    "ThrottlingException": _SLOWLY,
    "TooManyRequestsException": _SLOWLY,
    "EC2ThrottledException": _SLOWLY,
    "InternalError": _FAILED,
    "InternalFailure": _FAILED,
    "ServerInternal": _FAILED,
    "ServiceUnavailable": _FAILED,
    "ServiceUnavailableException": _FAILED,
    "Unavailable": _FAILED,
    # what an option names
    "InvalidAMIID.NotFound": _option("image", "an image"),
    "InvalidAMIID.Malformed": _option("image", "an image"),
    "InvalidAMIID.Unavailable": _option("image", "an image"),
    "ParameterNotFound": _option("image", "an image, or an SSM parameter that does,"),
    "InvalidSubnetID.NotFound": _option("subnets", "subnets"),
    "InvalidSubnet": _option("subnets", "subnets"),
    "InvalidGroup.NotFound": _option("security_groups", "groups"),
    "InvalidGroupId.Malformed": _option("security_groups", "groups"),
    "InvalidSecurityGroupID.NotFound": _option("security_groups", "groups"),
    "InvalidKeyPair.NotFound": _option("key_pair", "a key pair"),
    "InvalidInstanceType": _option("instance_types", "types"),
    "InvalidIamInstanceProfileArn.Malformed": _option("instance_profile", "an instance profile"),
    "InvalidLaunchTemplateId.NotFound": Fault(TransientError, RETRY, "", "try again"),  # made a moment ago
    "InvalidLaunchTemplateName.NotFoundException": Fault(TransientError, RETRY, "", "try again"),
    "InvalidInstanceID.NotFound": Fault(InstanceGone),
    "InvalidUserData.Malformed": Fault(ConfigError, GIVE_UP, "", "look at ec2.files and ec2.units"),
    "VPCIdNotSpecified": Fault(ConfigError, GIVE_UP, "the account has no default VPC", "name subnets with ec2.subnets"),
    "OperationNotPermitted": Fault(PermissionDenied, GIVE_UP, "", "it is protected against being ended"),
    "InvalidAction": Fault(NotSupported),
}


def look_up(code: str, message: str = "") -> Fault:
    """The row of an error *code*; of one that is not in the table, a `SystemFault` that a launch gives up for."""
    if code == "InvalidParameterValue" and "iamInstanceProfile" in message:
        return _option("instance_profile", "an instance profile")
    if code in TABLE:
        return TABLE[code]
    if code.startswith(("Throttl", "RequestLimit")):
        return _SLOWLY
    return Fault(SystemFault)


def make_error(code: str, message: str, *, attempt: str, action: str = "", place: str = "") -> BigmError:
    """The error for what AWS answered.

    Args:
        code: AWS's word for it.
        message: AWS's own text.
        attempt: what was attempted and where, in words: "cannot launch instances in eu-central-1".
        action: the permission that it needs, "ec2:CreateFleet", or "".
        place: the pools it is about, in words, or "".
    """
    row = look_up(code, message)
    said = _plain(message)
    happened = row.text or said or code
    if row.text and said and row.kind not in (CapacityError, QuotaError):
        happened = f"{row.text}: {said}"
    text, hint = f"{attempt}: {happened}{f' ({place})' if place else ''}", row.hint
    if row.kind is PermissionDenied and not row.hint:
        lacking = _lacking(message) or action
        text = f"{attempt}: the credentials lack the permission {lacking}" if lacking else text
        hint = f"allow it; {_POLICY}"
    return _build(row.kind, text, code, hint)


def translate(error: Exception, *, attempt: str, action: str = "") -> BigmError:
    """The error for what botocore raised; see `make_error`.

    A reply that was lost is a `TransientError`: what was asked for may have happened.
    """
    from botocore import exceptions as b

    if isinstance(error, b.ClientError):
        answer = error.response.get("Error", {})
        return make_error(str(answer.get("Code", "")), str(answer.get("Message", "")), attempt=attempt, action=action)
    said = f"{attempt}: {str(error).rstrip('.')[:_NAMED]}"
    if isinstance(error, b.ProfileNotFound):
        return ConfigError(said, hint="`aws configure list-profiles` shows those there are; see ec2.aws_profile")
    if isinstance(error, b.NoRegionError):
        return no_region()
    if isinstance(error, (b.NoCredentialsError, b.PartialCredentialsError)):
        return CredentialsError(
            f"{attempt}: AWS's settings have no credentials", code=type(error).__name__, hint=_no_credentials()
        )
    if isinstance(error, _of(b, "CredentialRetrievalError", "TokenRetrievalError", "SSOError", "LoginError")):
        return CredentialsError(said, code=type(error).__name__, hint=_RENEW)
    if isinstance(error, b.ParamValidationError):
        return ConfigError(said, hint="look at the settings of the section ec2 in bigm.yaml")
    return TransientError(said, code=type(error).__name__, hint="is this computer connected? `bigm doctor ec2` looks")


def no_region() -> ConfigError:
    """AWS's settings name no region, and bigm has none of its own."""
    return ConfigError(
        "the system ec2 has no region: AWS's settings name none",
        hint="name one: ec2.region in bigm.yaml, AWS_REGION=eu-central-1, or `aws configure set region eu-central-1`",
    )


def _no_credentials() -> str:
    return "give some: `aws configure`, `aws sso login`, AWS_PROFILE, or ec2.aws_profile in bigm.yaml"


def _of(module: object, *names: str) -> tuple[type[Exception], ...]:
    """Those exceptions that this botocore has."""
    return tuple(getattr(module, name) for name in names if hasattr(module, name))


def _build(kind: type[BigmError], text: str, code: str, hint: str) -> BigmError:
    return kind(text, code=code, hint=hint) if issubclass(kind, SystemFault) else kind(text, hint=hint)


def _plain(message: str) -> str:
    """AWS's message without what nobody can read, in one line, lower case at its beginning, without a full stop."""
    text = re.sub(r"\s*Encoded authorization failure message: \S+", "", message)
    text = " ".join(text.split()).rstrip(".")[:_NAMED]
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _lacking(message: str) -> str:
    """The permission that AWS's message names, or ""."""
    found = re.search(r"perform:? ([\w-]+:\w+)", message)
    return found[1] if found else ""
