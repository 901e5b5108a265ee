from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigm.errors import ConfigError
from bigm.systems.ec2.requirements import Requirements, parse_requirements

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8 vCPU, 32 GiB, arm64, local NVMe", Requirements(8, 32 * GIB, "arm64", 1)),
        ("32gib,8 CPUs", Requirements(8, 32 * GIB)),
        ("  4   cores ,16 GB of  memory , AMD64", Requirements(4, 16 * GIB)),
        ("0.5 GiB", Requirements(1, GIB / 2)),
        ("1 TiB RAM, 2 GPUs", Requirements(memory=1024 * GIB, gpus=2)),
        ("GPU", Requirements(gpus=1)),
        ("931.32 GiB local ssd", Requirements(store=931.32)),
        ("1000 GB instance store, aarch64", Requirements(architecture="arm64", store=1e12 / GIB)),
        ("2 vCPU", Requirements(2, 2 * GIB, "x86_64", 0, 0)),
    ],
)
def test_what_people_write_is_read(text: str, expected: Requirements) -> None:
    assert expected == parse_requirements(text)


@pytest.mark.parametrize("text", ["", "8 vCPU,", "fast", "8", "8 vCPU 32 GiB", "-1 vCPU", "8 vCPU; 2 GiB", "1e3 GiB"])
def test_what_can_not_be_required_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"ec2\.requires: '.*' is nothing that can be required.*; write as in"):
        parse_requirements(text)


@pytest.mark.parametrize("text", ["8 vCPU, 4 cores", "arm64, x86", "2 GiB, 4 GiB memory", "nvme, 8 GiB local NVMe"])
def test_nothing_is_said_twice(text: str) -> None:
    with pytest.raises(ConfigError, match="says again what another part says"):
        parse_requirements(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_requirements(text), Requirements)


wholes = st.integers(1, 4000)


@given(
    st.builds(
        Requirements,
        vcpus=wholes,
        memory=wholes.map(lambda gib: gib * GIB),
        architecture=st.sampled_from(["x86_64", "arm64"]),
        store=st.integers(0, 4000),
        gpus=st.integers(0, 16),
    )
)
def test_requirements_are_written_as_they_are_read(wanted: Requirements) -> None:
    assert wanted == parse_requirements(str(wanted))


@given(st.permutations(["8 vCPU", "32 GiB", "arm64", "local NVMe", "1 GPU"]), st.booleans())
def test_neither_order_nor_case_matters(parts: list[str], upper: bool) -> None:
    text = ", ".join(parts)
    assert Requirements(8, 32 * GIB, "arm64", 1, 1) == parse_requirements(text.upper() if upper else text)
