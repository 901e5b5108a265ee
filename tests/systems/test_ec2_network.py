"""The network of a cluster: who is let in, and the ways to instances. Asked of an account, dialled on real sockets."""

from __future__ import annotations

import ipaddress
import itertools
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bigm.errors import ConfigError, PermissionDenied, QuotaError, TransientError
from bigm.systems.ec2 import network as subject
from bigm.systems.ec2 import vpc
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.address import address_towards, ask_service, parse_address
from bigm.systems.ec2.labels import Labels, expired
from bigm.systems.ec2.network import Network, check_way, fill_in
from bigm.systems.ec2.options import PORT, Options
from bigm.systems.ec2.rules import Rule, allow, leftover_rules, lets_in, revoke, rules_of
from ec2rig.rig import Rig
from proxies import proxy_command
from waiting import eventually

HOME = "203.0.113.7/32"


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig(address="203.0.113.7") as rig, pytest.MonkeyPatch.context() as patch:
        rig.use(patch)
        yield rig


@pytest.fixture
def account(rig: Rig) -> Iterator[Account]:
    account = Account(Options())
    yield account
    account.close()


def make(account: Account, rig: Rig, cluster: str = "c0", **options: object) -> Network:
    given = Options(**{"address_service": rig.address_service, **options})  # type: ignore[arg-type]
    return Network(account, given, Labels(cluster, "me", {}))


def host_in(rig: Rig) -> str:
    """An address in the rig's own network, which no instance gets and no other rig uses."""
    return str(ipaddress.IPv4Network(rig.cloud.subnets()[0].cidr_block)[-2])


def addresses(account: Account, cluster: str = "c0") -> list[str]:
    return sorted(rule.address for rule in rules_of(account, cluster))


def test_the_default_network_is_used_with_a_group_that_only_we_can_enter(rig: Rig, account: Account) -> None:
    network = make(account, rig)
    network.open(2e9)
    assert rig.cloud.zones() == sorted(network.subnets.values())
    (group,) = account.ask("describe_security_groups", GroupIds=list(network.groups))["SecurityGroups"]
    assert "bigm" == group["GroupName"]
    ours, one_another = sorted(group["IpPermissions"], key=lambda rule: rule["IpProtocol"], reverse=True)
    assert ("tcp", PORT, PORT) == (ours["IpProtocol"], ours["FromPort"], ours["ToPort"])
    assert [HOME] == [source["CidrIp"] for source in ours["IpRanges"]]
    assert [group["GroupId"]] == [pair["GroupId"] for pair in one_another["UserIdGroupPairs"]]
    assert [] == one_another["IpRanges"]
    (rule,) = rules_of(account, "c0")
    assert ("c0", "me", False, True) == (
        rule.cluster,
        rule.tags["bigm:user"],
        expired(rule.tags),
        expired(rule.tags, 3e9),
    )
    network.open(2e9)
    network.close()
    assert [] == addresses(account)
    network.close()


def test_opening_takes_six_requests_the_first_time_and_three_the_next(rig: Rig, account: Account) -> None:
    make(account, rig).open(2e9)
    first = [call.operation for call in rig.calls()]
    assert [
        "DescribeSubnets",
        "DescribeSecurityGroups",
        "CreateSecurityGroup",
        "DescribeSecurityGroups",
        "AuthorizeSecurityGroupIngress",
        "AuthorizeSecurityGroupIngress",
    ] == first
    make(account, rig, "c1", own_address="203.0.113.8").open(2e9)
    assert ["DescribeSubnets", "DescribeSecurityGroups", "AuthorizeSecurityGroupIngress"] == [
        call.operation for call in rig.calls()[len(first) :]
    ]


def test_clusters_of_one_address_each_have_a_rule_and_take_only_their_own_away(rig: Rig, account: Account) -> None:
    networks = [make(account, rig, f"c{number}") for number in range(3)]
    for network in networks:
        network.open(2e9)
    networks[0].close()
    assert [[], [HOME], [HOME]] == [addresses(account, f"c{number}") for number in range(3)]
    (group,) = account.ask("describe_security_groups", GroupIds=list(networks[1].groups))["SecurityGroups"]
    ports = [(rule["FromPort"], rule["ToPort"]) for rule in group["IpPermissions"] if rule["IpProtocol"] == "tcp"]
    assert [(PORT, PORT + 1), (PORT, PORT + 2)] == sorted(ports)
    for network in networks:
        network.close()


def test_two_drivers_that_make_the_group_at_once_share_it(rig: Rig, account: Account) -> None:
    late = make(account, rig, "c1", own_address="203.0.113.9")

    def other(_: object) -> None:  # between the look of the first and what it makes
        thread = threading.Thread(target=late.open, args=(2e9,), name="other")
        thread.start()
        thread.join()

    rig.after("DescribeSecurityGroups", other)
    network = make(account, rig)
    network.open(2e9)
    assert network.groups == late.groups
    assert [[HOME], ["203.0.113.9/32"]] == [addresses(account, "c0"), addresses(account, "c1")]
    assert 2 == len(rig.calls("CreateSecurityGroup")), "the second of which was refused"


def test_a_group_that_aws_does_not_know_yet_after_making_it_is_waited_for(
    rig: Rig, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vpc, "_PAUSE", 0.01)
    rig.fail("AuthorizeSecurityGroupIngress", "InvalidGroup.NotFound", times=2)
    make(account, rig).open(2e9)
    assert [HOME] == addresses(account)
    assert 4 == len(rig.calls("AuthorizeSecurityGroupIngress"))


def test_the_name_of_the_group_is_its_own_whatever_name_a_user_gives_to_machines(rig: Rig, account: Account) -> None:
    named = Network(account, Options(own_address=HOME), Labels("c0", "me", {"Name": "mine"}))
    named.open(2e9)
    (group,) = account.ask("describe_security_groups", GroupIds=list(named.groups))["SecurityGroups"]
    assert [{"Key": "Name", "Value": "bigm"}] == group["Tags"], "which the policy allows to be opened"


def test_an_account_without_a_default_network_is_told_what_to_run(rig: Rig, account: Account) -> None:
    rig.cloud.remove_network()
    with pytest.raises(ConfigError, match=r"ec2\.subnets names none; .*create-default-vpc --region eu-central-1"):
        make(account, rig).open(2e9)


def test_subnets_are_of_one_network_and_one_in_each_zone(rig: Rig, account: Account) -> None:
    first, second, *_ = rig.cloud.subnets()
    network = make(account, rig, subnets=(second.id, first.id))
    network.open(2e9)
    assert {first.id: first.availability_zone, second.id: second.availability_zone} == dict(network.subnets)
    network.close()
    vpc = account.ask("create_vpc", CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    strange = account.ask("create_subnet", VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    with pytest.raises(ConfigError, match=r"ec2\.subnets are of several VPCs"):
        make(account, rig, subnets=(first.id, strange)).open(2e9)
    with pytest.raises(ConfigError, match=r"ec2\.subnets must name subnets"):
        make(account, rig, subnets=("subnet-0123456789abcdef0",)).open(2e9)


def test_security_groups_that_are_named_are_checked_and_left_as_they_are(rig: Rig, account: Account) -> None:
    mine = rig.cloud.default_group()
    network = make(account, rig, security_groups=(mine,))
    network.open(2e9)
    assert (mine,) == network.groups
    network.close()
    assert [] == rig.calls("AuthorizeSecurityGroupIngress") + rig.calls("RevokeSecurityGroupIngress")
    vpc = account.ask("create_vpc", CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    strange = account.ask("create_security_group", GroupName="g", Description="g", VpcId=vpc)["GroupId"]
    with pytest.raises(ConfigError, match=r"ec2\.security_groups: sg-\w+ are not of vpc-"):
        make(account, rig, security_groups=(strange,)).open(2e9)
    with pytest.raises(ConfigError, match=r"ec2\.security_groups must name groups"):
        make(account, rig, security_groups=("sg-0123456789abcdef0",)).open(2e9)


def test_a_group_that_is_full_loses_rules_of_clusters_that_are_over_first(rig: Rig, account: Account) -> None:
    make(account, rig, "past", own_address="192.0.2.1").open(1.0)
    make(account, rig, "other", own_address="192.0.2.2").open(2e9)
    rig.fail("AuthorizeSecurityGroupIngress", "RulesPerSecurityGroupLimitExceeded")
    make(account, rig).open(2e9)
    assert {"other", "c0"} == {rule.cluster for rule in leftover_rules(account)}
    rig.fail("AuthorizeSecurityGroupIngress", "RulesPerSecurityGroupLimitExceeded")
    with pytest.raises(QuotaError, match="as many rules as it may have"):
        make(account, rig, "c1").open(2e9)


def test_a_permission_that_is_lacking_is_named(rig: Rig, account: Account) -> None:
    rig.fail("AuthorizeSecurityGroupIngress", "UnauthorizedOperation")
    with pytest.raises(PermissionDenied, match="ec2:AuthorizeSecurityGroupIngress"):
        make(account, rig).open(2e9)


def test_a_rule_whose_reply_was_lost_is_revoked_too(rig: Rig, account: Account) -> None:
    rig.lose_reply("AuthorizeSecurityGroupIngress", times=2)
    network = make(account, rig)
    network.open(2e9)
    assert 1 <= len(addresses(account))
    network.close()
    assert [] == addresses(account)


def test_a_rule_that_cannot_be_revoked_is_told_and_found_by_its_tags(
    rig: Rig, account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    network = make(account, rig)
    network.open(2e9)
    rig.fail("RevokeSecurityGroupIngress", "ExpiredToken", times=9)
    with caplog.at_level(logging.WARNING, "bigm.ec2"):
        network.close()
    assert "a rule of the security group sg-" in caplog.text
    rig.recover()
    assert ["c0"] == [rule.cluster for rule in leftover_rules(account)]
    revoke(account, [*leftover_rules(account), Rule("sgr-0123456789abcdef0", network.groups[0], HOME, {})])
    assert [] == leftover_rules(account)


def test_a_rule_serves_later_launches_too_and_is_made_anew_before_it_is_past(rig: Rig, account: Account) -> None:
    network = make(account, rig)
    now = time.time()
    for expires in (now + 1000, now + 900, now + 1900):
        network.open(expires)
    (former,) = rules_of(account, "c0")
    assert now + 1900 < int(former.tags["bigm:expires"]) < now + 2000
    network.open(now + 3000)
    (rule,) = rules_of(account, "c0")
    assert now + 5900 < int(rule.tags["bigm:expires"]) < now + 6000
    network.open(0.0)
    assert ["bigm:expires" in rule.tags for rule in rules_of(account, "c0")] == [False]
    changes = [call.operation[:6] for call in rig.calls() if call.operation.endswith("SecurityGroupIngress")]
    assert ["Author", "Revoke"] * 2 == [change for change, _ in itertools.groupby(changes)], (
        "at no moment is there none"
    )


# --- a computer that moves


@pytest.fixture
def silent(rig: Rig) -> Iterator[str]:
    """The address of a port that swallows what is sent to it."""
    from ec2rig.rig import _BlackHole

    hole = _BlackHole(host_in(rig))
    yield f"{host_in(rig)}:{PORT}"
    hole.close()


def test_a_computer_that_has_moved_is_let_in_again_while_it_dials(
    rig: Rig, account: Account, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_SILENCE", 0.1)
    network = make(account, rig)
    network.open(2e9)
    rig.move("198.51.100.1")
    with pytest.raises(TimeoutError):
        network.connect(silent, 1.0)
    eventually(lambda: ["198.51.100.1/32", HOME] == addresses(account))
    eventually(lambda: "has just been opened to this computer's address 198.51.100.1/32" in network.said(silent))
    network.close()
    assert [] == addresses(account)


def test_many_dials_that_fail_ask_for_the_address_once(
    rig: Rig, account: Account, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_SILENCE", 0.1)
    network = make(account, rig)
    network.open(2e9)

    def dial() -> None:
        with pytest.raises(TimeoutError, match="no answer in time"):
            network.connect(silent, 0.5)

    threads = [threading.Thread(target=dial, name=f"dial{number}") for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: network.said(silent))
    assert 1 == len(rig.calls("DescribeSecurityGroupRules"))
    with pytest.raises(TimeoutError, match=rf"port {PORT} is open to {HOME}; perhaps the network here lets"):
        network.connect(silent, 0.5)
    network.close()


def test_a_rule_that_somebody_has_removed_comes_back(
    rig: Rig, account: Account, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_SILENCE", 0.1)
    network = make(account, rig)
    network.open(2e9)
    revoke(account, rules_of(account, "c0"))
    with pytest.raises(TimeoutError):
        network.connect(silent, 0.5)
    eventually(lambda: [HOME] == addresses(account))
    network.close()


def test_groups_of_the_users_own_that_shut_us_out_are_named(
    rig: Rig, account: Account, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_SILENCE", 0.1)
    monkeypatch.setattr(subject, "_PAUSE", 0.0)
    group = rig.cloud.default_group()
    network = make(account, rig, security_groups=(group,))
    network.open(2e9)
    with pytest.raises(TimeoutError):
        network.connect(silent, 0.5)
    eventually(
        lambda: f"no rule of {group} (ec2.security_groups) lets {HOME} in on port {PORT}" == network.said(silent)
    )
    rule = allow(account, group, "203.0.113.0/24", Labels("c9", "me", {}).tags())
    with pytest.raises(TimeoutError):
        network.connect(silent, 0.5)
    eventually(lambda: f"{group} let {HOME} in; perhaps the network here" in network.said(silent))
    network.close()
    assert [rule] == leftover_rules(account)


def test_an_address_service_that_fails_is_the_explanation(
    rig: Rig, account: Account, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_SILENCE", 0.1)
    network = make(account, rig)
    network.open(2e9)
    rig.told = "no such thing"
    with pytest.raises(TimeoutError):
        network.connect(silent, 0.5)
    eventually(lambda: "cannot find out this computer's public address" in network.said(silent))
    assert [HOME] == addresses(account)
    network.close()


# --- our own address


def test_the_service_is_asked_and_what_is_wrong_with_it_is_said(rig: Rig) -> None:
    assert HOME == ask_service(rig.address_service)
    rig.told = "0.0.0.0/0"
    with pytest.raises(TransientError, match=r"it answered '0\.0\.0\.0/0'"):
        ask_service(rig.address_service)
    rig.told = "<html>welcome</html>"
    with pytest.raises(TransientError, match=r"it answered '<html>welcome</html>'; say it with ec2\.own_address"):
        ask_service(rig.address_service)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransientError, match=r"it cannot be reached; say it .* ec2\.address_service"):
        ask_service(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.7", HOME),
        (" 203.0.113.7\n", HOME),
        ("203.0.113.99/24", "203.0.113.0/24"),
        ("10.0.0.0/8", "10.0.0.0/8"),
    ],
)
def test_an_address_is_read_as_a_network(text: str, expected: str) -> None:
    assert expected == parse_address(text)


@pytest.mark.parametrize("text", ["", "me", "203.0.113.7/33", "2001:db8::1", "203.0.113"])
def test_what_is_no_address_is_refused_when_the_system_is_made(text: str) -> None:
    with pytest.raises(ConfigError, match=r"ec2\.own_address: .* is no IPv4 address; write as in"):
        parse_address(text)
    if text:
        with pytest.raises(ConfigError, match=r"ec2\.own_address"):
            check_way(Options(own_address=text))


def test_towards_private_addresses_the_kernel_tells_ours() -> None:
    assert "127.0.0.1/32" == address_towards("127.0.0.1")


def test_by_private_addresses_the_port_is_open_to_ours_in_that_network(rig: Rig, account: Account) -> None:
    network = make(account, rig, connect="private")
    network.open(2e9)
    assert ["127.0.0.1/32"] == addresses(account)
    assert f"10.0.0.9:{PORT}" == network.address("i-1", "10.0.0.9", "203.0.113.50")
    network.close()


# --- the ways


def test_an_instance_is_dialled_at_its_public_address(rig: Rig, account: Account) -> None:
    network = make(account, rig)
    assert f"203.0.113.50:{PORT}" == network.address("i-1", "10.0.0.9", "203.0.113.50")
    with pytest.raises(ConnectionError, match="the instance has no public address"):
        network.connect(network.address("i-1", "10.0.0.9", ""), 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with network.connect(address, 5.0) as sock:
            assert 5.0 == sock.gettimeout()
            assert sock.getpeername() == listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        network.connect(address, 5.0)


def test_through_a_command_driver_and_keeper_go_the_same_way(rig: Rig, account: Account) -> None:
    with socket.create_server((host_in(rig), PORT)) as listener:
        command = proxy_command("%h", "%p")
        network = make(account, rig, connect="ssh", proxy_command=command)
        address = network.address("i-1", host_in(rig), "")
        assert "|" + command.replace("%h", host_in(rig)).replace("%p", str(PORT)) == address
        with network.connect(address, 5.0) as sock:
            there, _ = listener.accept()
            with there:
                sock.sendall(b"hello")
                assert b"hello" == there.recv(5)
    network.close()


def test_through_a_command_the_port_is_open_within_the_network_or_to_whom_the_user_names(
    rig: Rig, account: Account
) -> None:
    network = make(account, rig, connect="ssh", proxy_command="ssh -W %h:%p bastion")
    network.open(2e9)
    assert [rig.network] == addresses(account)
    network.close()
    network = make(account, rig, connect="ssh", proxy_command="ssh -W %h:%p bastion", own_address="10.0.0.5")
    network.open(2e9)
    assert ["10.0.0.5/32"] == addresses(account)
    network.close()


def test_a_proxy_command_is_filled_in() -> None:
    assert "ssh -W 10.0.0.9:8410 i-1 50%" == fill_in("ssh -W %h:%p %n 50%%", "i-1", "10.0.0.9")


@pytest.mark.parametrize("command", ["nc %x", "nc %", "", "  "])
def test_a_proxy_command_that_means_nothing_is_refused_when_the_system_is_made(command: str) -> None:
    with pytest.raises(ConfigError, match=r"ec2\.proxy_command"):
        check_way(Options(connect="ssh", proxy_command=command))


def test_a_way_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ec2\.connect must be public, private or ssh, not 'vpn'"):
        check_way(Options(connect="vpn"))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT, "CidrIpv4": HOME}, True),
        ({"IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535, "CidrIpv4": "0.0.0.0/0"}, True),
        ({"IpProtocol": "-1", "FromPort": -1, "ToPort": -1, "CidrIpv4": "203.0.113.0/24"}, True),
        ({"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIpv4": "0.0.0.0/0"}, False),
        ({"IpProtocol": "udp", "FromPort": PORT, "ToPort": PORT, "CidrIpv4": "0.0.0.0/0"}, False),
        ({"IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT, "CidrIpv4": "203.0.113.8/32"}, False),
        ({"IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT, "CidrIpv6": "::/0"}, False),
    ],
)
def test_a_rule_lets_in_whom_it_names_at_the_port_it_names(rule: dict[str, object], expected: bool) -> None:
    assert expected == lets_in([{"IsEgress": False, **rule}], HOME)
    assert not lets_in([{"IsEgress": True, **rule}], HOME)
