"""Which hosts a user names, and how machines are shared out over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigm.errors import ConfigError
from bigm.systems.ssh.hosts import Slots, parse_hosts, places, read_hosts, share_out
from bigm.systems.ssh.system import Ssh


def test_a_star_says_how_many_machines_a_host_takes_and_without_it_is_one() -> None:
    words = ["a", "b*4", "me@c.example.org*2", "[::1]"]
    assert [Slots("a"), Slots("b", 4), Slots("me@c.example.org", 2), Slots("[::1]")] == parse_hosts(words)


def test_a_host_that_is_named_twice_takes_the_sum() -> None:
    assert {"a": 3, "b": 1} == places(parse_hosts(["a", "b", "a*2"]))


@pytest.mark.parametrize("word", ["", "a*0", "a*x", "a*99999", "-oProxyCommand=x", "a b", "a/b", "a;b", "'a'"])
def test_what_is_no_host_is_refused_and_above_all_what_ssh_would_take_for_an_option(word: str) -> None:
    with pytest.raises(ConfigError, match=r"ssh\.hosts: .* is no host; write host"):
        parse_hosts([word])


def test_a_file_of_hosts_has_one_in_a_line_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# mine\n\na*2\n  b  # the slow one\n")
    assert [Slots("a", 2), Slots("b")] == read_hosts(str(path))
    path.write_text("a\nb c\n")
    with pytest.raises(ConfigError, match=rf"{path}:2: 'b c' is no host"):
        read_hosts(str(path))
    with pytest.raises(ConfigError, match=r"cannot read the hosts in .*: No such file"):
        read_hosts(str(tmp_path / "none"))


def test_machines_are_spread_over_hosts_before_any_is_filled() -> None:
    assert {"a": 2, "b": 2} == share_out(4, {"a": 4, "b": 4})
    assert {"b": 2} == share_out(2, {"a": 1, "b": 4})
    assert {"a": 1, "b": 1} == share_out(9, {"a": 1, "b": 1, "c": 0})


def test_a_system_without_hosts_says_how_to_name_some() -> None:
    with pytest.raises(ConfigError, match="has no hosts; name some: --hosts"):
        Ssh().open("c0")


def test_settings_that_cannot_be_are_refused_before_anything_is_dialled(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ssh\.config: cannot read .*none"):
        Ssh(hosts="a", config=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"ssh\.python: '\$\(reboot\)' is no path of an interpreter"):
        Ssh(hosts="a", python="$(reboot)")
