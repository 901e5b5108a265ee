"""What a driver leaves in an account that was killed at the worst moments: made by plain boto3, found by tags alone."""

from __future__ import annotations

import getpass
import time

import boto3

LATE, SOON = time.time() - 3600, time.time() + 3600


def leave(cluster: str, *, expires: float = LATE, user: str = "", region: str = "") -> list[str]:
    """Leave one thing of each kind but instances: the ids of a launch template, a rule and a disk.

    Args:
        cluster: whose they are.
        expires: when they should have gone.
        user: whose the cluster is; "": this user's.
        region: where; "": the rig's own.
    """
    tags = {"bigm:cluster": cluster, "bigm:user": user or getpass.getuser(), "bigm:expires": str(int(expires))}
    ec2 = boto3.client("ec2", region_name=region or None)

    def tagged(kind: str) -> list[dict[str, object]]:
        return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]

    made = ec2.create_launch_template(
        LaunchTemplateName=f"bigm-{cluster}",
        LaunchTemplateData={"ImageId": "ami-1"},
        TagSpecifications=tagged("launch-template"),
    )
    group = ec2.create_security_group(GroupName=cluster, Description="x")["GroupId"]
    rule = ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "IpRanges": [{"CidrIp": "192.0.2.1/32"}]},
        ],
        TagSpecifications=tagged("security-group-rule"),
    )
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    disk = ec2.create_volume(AvailabilityZone=zone, Size=8, TagSpecifications=tagged("volume"))
    ids = [made["LaunchTemplate"]["LaunchTemplateId"], rule["SecurityGroupRules"][0]["SecurityGroupRuleId"]]
    return [*ids, disk["VolumeId"]]
