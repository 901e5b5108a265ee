"""`bigm doctor ec2`, `bigm gc --system ec2`, `bigm ps --system ec2`, and `bigm run --dry-run`: what they say and do."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from commanding import Said

from bigm.systems.ec2.options import Options
from bigm.systems.ec2.policy import needs, policy


@pytest.mark.parametrize(("region", "partition"), [("cn-north-1", "aws-cn"), ("", "aws")])
def test_the_policy_is_printed_without_asking_anybody(
    command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, region: str, partition: str
) -> None:
    monkeypatch.setenv("AWS_REGION", region)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said = command("doctor", "ec2", "--policy")
    assert (0, "") == (said.status, said.err)
    assert policy(needs(Options()), partition) == json.loads(said.out)
