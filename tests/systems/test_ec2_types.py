"""Which types a launch may use, asked of an account that has some of EC2's real ones."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigm.errors import ConfigError
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.options import DEFAULT_TYPES, Options
from bigm.systems.ec2.requirements import Requirements
from bigm.systems.ec2.types import InstanceType, resolve_types, select
from ec2rig.rig import Rig

GIB = 2**30


ACCOUNT = Account(Options())  # reads its surroundings at the first request, when there is a rig


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig, pytest.MonkeyPatch.context() as patch:
        rig.use(patch)
        yield rig


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the list of types as soon as one test has asked for it: moto takes seconds to tell all."""
    return tmp_path_factory.mktemp("home")


def names(home: Path, **options: object) -> list[str]:
    given = Options(**options)  # type: ignore[arg-type]
    return [one.name for one in resolve_types(ACCOUNT, given, home)]


@pytest.mark.usefixtures("rig")
def test_without_a_word_there_are_several_types_of_one_size(tmp_path: Path) -> None:
    found = resolve_types(ACCOUNT, Options(), tmp_path)
    assert list(DEFAULT_TYPES) == [one.name for one in found]
    assert {(2, 8 * GIB, "x86_64", 0, 0)} == {(i.vcpus, i.memory, i.architecture, i.store, i.gpus) for i in found}


def test_types_that_are_named_are_asked_about_by_name_in_one_request(rig: Rig, tmp_path: Path) -> None:
    before = len(rig.calls())
    assert ["m7g.large", "c7g.xlarge"] == names(tmp_path, instance_types=("m7g.large", "c7g.xlarge", "m7g.large"))
    assert ["DescribeInstanceTypes"] == [call.operation for call in rig.calls()[before:]]
    assert [] == list(tmp_path.iterdir())


@pytest.mark.usefixtures("rig")
def test_a_type_that_the_region_has_not_is_told_and_the_others_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "bigm.ec2"):
        assert ["m7i.large"] == names(tmp_path, instance_types=("m7i.large", "m7i.lagre"))
    assert ["ec2.instance_types: eu-central-1 has no m7i.lagre; the others are used"] == caplog.messages


@pytest.mark.usefixtures("rig")
def test_where_no_type_is_left_near_names_are_offered(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"eu-central-1 has no m7i\.lagre and no m9\.big; near are m7i\.large"):
        names(home, instance_types=("m7i.lagre", "m9.big"))


@pytest.mark.usefixtures("rig")
def test_types_of_two_architectures_are_refused_and_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x86_64: m7i\.large; arm64: m7g\.large, c7g\.large.*one architecture"):
        names(tmp_path, instance_types=("m7i.large", "m7g.large", "c7g.large"))


@pytest.mark.usefixtures("rig")
def test_names_and_requirements_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ec2\.instance_types and ec2\.requires are both given"):
        names(tmp_path, instance_types=("m7i.large",), requires="2 vCPU")


@pytest.mark.usefixtures("rig")
@pytest.mark.parametrize(
    ("requires", "first"),
    [
        ("8 vCPU, 32 GiB, arm64, local NVMe", "m7gd.2xlarge"),
        ("8 vCPU, 32 GiB, arm64", "m8g.2xlarge"),
        ("2 vCPU, 4 GiB", "c7i.large"),
        ("2 vCPU, 16 GiB", "r7i.large"),
        ("1 GPU", "g5.xlarge"),
        ("900 GB local NVMe, 2 vCPU", "i4i.xlarge"),
    ],
)
def test_requirements_find_the_least_that_has_them(home: Path, requires: str, first: str) -> None:
    assert first == names(home, requires=requires)[0]


@pytest.mark.usefixtures("rig")
def test_what_no_type_has_is_said(home: Path) -> None:
    with pytest.raises(ConfigError, match="no instance type in eu-central-1 has 900 vCPU, 2 GiB, x86_64; ask for less"):
        names(home, requires="900 vCPU")


def test_the_list_of_all_types_is_asked_for_once_a_week(rig: Rig, home: Path) -> None:
    names(home, requires="4 vCPU")
    (path,) = (home / "cache" / "ec2").iterdir()
    assert "types-eu-central-1.json" == path.name
    asked = len(rig.calls("DescribeInstanceTypes"))
    names(home, requires="4 vCPU")
    assert asked == len(rig.calls("DescribeInstanceTypes"))
    os.utime(path, (0, time.time() - 8 * 86400))
    names(home, requires="4 vCPU")
    assert asked < len(rig.calls("DescribeInstanceTypes"))
    assert path.stat().st_mtime > time.time() - 86400


@pytest.mark.usefixtures("rig")
@pytest.mark.parametrize("text", ["{", '{"version": 1, "types": [{"x": 1}]}'])
def test_a_list_that_cannot_be_read_is_made_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cache" / "ec2" / "types-eu-central-1.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert ["g5.xlarge"] == names(tmp_path, requires="1 GPU")[:1]
    assert json.loads(path.read_text())["types"]


kinds = st.builds(
    InstanceType,
    name=st.from_regex(r"[a-z]{1,3}[1-9][a-z]{0,3}\.(large|xlarge)", fullmatch=True),
    vcpus=st.sampled_from([1, 2, 4, 8]),
    memory=st.sampled_from([GIB, 2 * GIB, 4 * GIB, 16 * GIB]),
    architecture=st.sampled_from(["x86_64", "arm64"]),
    store=st.sampled_from([0, 100, 1000]),
    gpus=st.sampled_from([0, 0, 1, 4]),
    current=st.booleans(),
    burstable=st.booleans(),
    plain=st.booleans(),
)
needs = st.builds(
    Requirements,
    vcpus=st.sampled_from([1, 2, 4]),
    memory=st.sampled_from([GIB, 4 * GIB]),
    architecture=st.sampled_from(["x86_64", "arm64"]),
    store=st.sampled_from([0, 1, 500]),
    gpus=st.sampled_from([0, 1]),
)


@given(st.lists(kinds, unique_by=lambda one: one.name), needs)
def test_all_that_is_selected_has_what_is_wanted_and_the_least_comes_first(
    known: list[InstanceType], wanted: Requirements
) -> None:
    found = select(known, wanted)
    assert len(found) <= 10
    assert len({one.current for one in found}) <= 1, "old generations only where there is no other"
    assert {wanted.architecture} >= {one.architecture for one in found}
    for one in found:
        assert one.vcpus >= wanted.vcpus
        assert one.memory >= wanted.memory
        assert one.store >= wanted.store
        assert bool(one.gpus) == bool(wanted.gpus)
        assert one.plain
        assert not one.burstable
        assert not any(other.vcpus < one.vcpus and other.memory < one.memory for other in found[found.index(one) :]), (
            "none of those behind it is smaller"
        )


@given(st.lists(kinds, unique_by=lambda one: one.name), needs, st.randoms())
def test_the_order_in_which_aws_tells_them_does_not_matter(
    known: list[InstanceType], wanted: Requirements, random
) -> None:  # type: ignore[no-untyped-def]
    found = select(known, wanted)
    random.shuffle(known)
    assert found == select(known, wanted)
