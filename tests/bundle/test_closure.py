"""What follows from requirements, and what of an environment is for one platform alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigm.bundle.closure import needed
from bigm.bundle.environment import Installed

LINUX = {"sys_platform": "linux"}
MAC = {"sys_platform": "darwin"}


@pytest.fixture
def installed(tmp_path: Path):
    """Makes what is installed: requirements by name, and the extras that each has."""

    def make(extras: str = "", **requires: list[str]) -> list[Installed]:
        found = []
        for name, lines in requires.items():
            name = name.replace("_", "-")
            folder = tmp_path / f"{name}-1.dist-info"
            folder.mkdir(exist_ok=True)
            text = "".join(f"Requires-Dist: {line}\n" for line in lines)
            text += "".join(f"Provides-Extra: {extra}\n" for extra in extras.split())
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{text}")
            found.append(Installed(name, "1", str(folder)))
        return found

    return make


def names(found: list[Installed]) -> list[str]:
    return [each.name for each in found]


def test_requirements_lead_to_what_they_ask_for_and_no_further(installed):
    found = installed(app=["lib>=1", "other ; sys_platform == 'darwin'"], lib=["deep"], deep=[], other=[], more=["lib"])
    assert ["app", "deep", "lib"] == names(needed(found, LINUX, LINUX, ["App"]))
    assert ["app", "deep", "lib", "other"] == names(needed(found, LINUX, MAC, ["app"]))
    assert ["more"] == names(needed(found, LINUX, LINUX, ["more ; sys_platform == 'linux'"]))[2:]
    assert [] == names(needed(found, LINUX, LINUX, ["more ; sys_platform == 'darwin'"]))


def test_extras_are_followed_where_they_are_asked_for(installed):
    found = installed(
        "socks test",
        web=["socket ; extra == 'socks'", "checker ; extra == 'test'", "web[socks] ; extra == 'test'"],
        socket=[],
        checker=[],
    )
    assert ["web"] == names(needed(found, LINUX, LINUX, ["web"]))
    assert ["socket", "web"] == names(needed(found, LINUX, LINUX, ["web[socks]"]))
    assert ["checker", "socket", "web"] == names(needed(found, LINUX, LINUX, ["web[test]"]))


def test_of_an_environment_all_is_needed_but_what_is_for_this_platform_alone(installed):
    found = installed(
        "fast",
        app=["native ; sys_platform == 'linux'", "quick ; extra == 'fast' and sys_platform == 'linux'", "lib"],
        native=["below"],
        below=[],
        quick=[],
        lib=["below ; sys_platform == 'linux'"],
        alone=[],
    )
    assert 6 == len(needed(found, LINUX, LINUX))
    assert ["alone", "app", "lib"] == names(needed(found, LINUX, MAC))


def test_what_asks_for_one_another_alone_counts_as_asked_for(installed):
    found = installed(one=["two"], two=["one"], three=["three[x]"])
    assert ["one", "three", "two"] == names(needed(found, LINUX, MAC))


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefg"), max_size=4), min_size=1))
def test_on_the_same_platform_everything_is_needed_however_it_hangs_together(tmp_path_factory, graph):
    folder = tmp_path_factory.mktemp("site")
    found = []
    for name, lines in graph.items():
        info = folder / f"{name}-1.dist-info"
        info.mkdir()
        text = "".join(f"Requires-Dist: {line}\n" for line in lines)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n{text}")
        found.append(Installed(name, "1", str(info)))
    assert sorted(graph) == names(needed(found, LINUX, LINUX))
