"""Requests to an account: which are repeated, and what they say when they fail."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigm.errors import CapacityError, ConfigError, CredentialsError, ThrottledError, TransientError
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.options import Options
from ec2rig.rig import Rig


@pytest.fixture
def account(rig: Rig) -> Iterator[Account]:
    account = Account(Options())
    yield account
    account.close()


def test_what_only_asks_is_asked_again_while_aws_is_busy(rig: Rig, account: Account) -> None:
    rig.fail("DescribeSubnets", "RequestLimitExceeded", times=2)
    assert account.ask("describe_subnets")["Subnets"]
    assert ["RequestLimitExceeded", "RequestLimitExceeded", ""] == [call.code for call in rig.calls("DescribeSubnets")]


def test_pages_are_asked_again_too(rig: Rig, account: Account) -> None:
    rig.fail("DescribeSubnets", "RequestLimitExceeded")
    assert list(account.pages("describe_subnets", "Subnets"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("RequestLimitExceeded", ThrottledError),
        ("InternalError", TransientError),
        ("InsufficientInstanceCapacity", CapacityError),
    ],
)
def test_what_makes_something_is_sent_once(rig: Rig, account: Account, code: str, kind: type[Exception]) -> None:
    rig.fail("CreateSecurityGroup", code, times=9)
    with pytest.raises(kind, match="CreateSecurityGroup in eu-central-1 failed"):
        account.make("create_security_group", GroupName="bigm", Description="x")
    assert 1 == len(rig.calls("CreateSecurityGroup"))


def test_a_lost_reply_is_a_transient_error(rig: Rig, account: Account) -> None:
    rig.lose_reply("CreateSecurityGroup")
    with pytest.raises(TransientError):
        account.make("create_security_group", GroupName="bigm", Description="x")


def test_the_option_names_the_region_before_aws_s_settings(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert "eu-west-1" == Account(Options()).region
    monkeypatch.setenv("AWS_REGION", "eu-west-2")  # which boto3 does not read, and all other tools do
    assert "eu-west-2" == Account(Options()).region
    assert "us-east-2" == Account(Options(region="us-east-2")).region


def test_without_a_region_nothing_is_asked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match=r"AWS's settings name none; name one: ec2\.region"):
        Account(Options()).ask("describe_subnets")
    assert [] == rig.calls()


def test_a_profile_that_does_not_exist_is_named(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="nix"):
        Account(Options(aws_profile="nix")).ask("describe_subnets")


def test_without_credentials_it_is_said_how_to_give_some(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match="have no credentials; give some: `aws configure`"):
        Account(Options()).ask("describe_subnets")


def test_an_endpoint_that_is_none_is_the_settings_fault(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nix")
    with pytest.raises(ConfigError, match="nix"):
        Account(Options()).ask("describe_subnets")


def test_an_answer_that_is_not_aws_s_is_said_to_be_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    class LoginPage(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html><p>Please log in.</html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), LoginPage) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
            with pytest.raises(TransientError, match="what answered is not AWS; is there such a region"):
                Account(Options()).make("describe_subnets")
        finally:
            server.shutdown()
            thread.join()


def test_boto3_is_imported_for_the_first_request_and_not_before(tmp_path: Path) -> None:
    program = (
        "import sys; from bigm.systems.base import make_system; "
        "make_system('ec2', {'ec2': {'region': 'eu-central-1'}}); print('boto3' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert "False\n" == said.stdout, said.stderr
