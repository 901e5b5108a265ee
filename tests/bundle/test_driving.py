"""A file that a driver is to run from has what bigm depends on, or is not made."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import bigm
from bigm.bundle.bundle import Dependencies
from bigm.bundle.driving import check_drives, driving
from bigm.bundle.environment import DependencyError
from bigm.bundle.origins import Origins
from bigm.bundle.requirements import Block
from bigm.manifest import Manifest

ALL = ("boto3 1", "cloudpickle 3", "cryptography 4", "packaging 24", "pex 2", "psutil 5", "PyYAML 6", "requests 2")
if sys.version_info < (3, 11):
    ALL += ("tomli 2",)


def layer(*distributions: str) -> Dependencies:
    return Dependencies(Manifest(()), "key", "3.11", distributions)


def test_a_layer_without_something_that_bigm_depends_on_is_refused_by_its_name():
    check_drives([layer(*ALL, "rich 13", "typer 0.28")])
    with pytest.raises(DependencyError, match=r"would have no cryptography, typer, which bigm depends on; add bigm to"):
        check_drives([layer(*ALL, "rich 13", "typer 0.28"), layer(*set(ALL) - {"cryptography 4"}, "rich 13")])


def test_a_block_that_says_what_there_is_to_be_gets_bigm():
    origins = Origins("/python", block=Block(Path("x.py"), ("numpy",), ""))
    assert ("numpy", f"bigm=={bigm.__version__}") == driving(origins).block.dependencies  # type: ignore[union-attr]


def test_without_a_block_nothing_is_added():
    origins = Origins("/python", given=Path("requirements.txt"))
    assert origins == driving(origins)
