"""What is asked of AWS is what docs/ec2.md lists, however many machines there are, and what the policy allows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bigm.systems.base import Spec
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.labels import CLUSTER, Labels
from bigm.systems.ec2.network import Network
from bigm.systems.ec2.options import Options
from bigm.systems.ec2.policy import LAUNCH, NEEDS
from bigm.systems.ec2.system import Ec2
from bigm.systems.ec2.vpc import GROUP
from ec2rig.leaving import leave
from ec2rig.rig import Rig
from launching import Launching
from waiting import eventually

PAGE = Path(__file__).parent.parent.parent / "docs" / "ec2.md"
FREE = {"GetCallerIdentity"}  # everybody may
UNSEEN = {"CreateTags", "CreateServiceLinkedRole", "PassRole", "RunInstances"}  # by AWS itself, for another request


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Rig]:
    with Rig() as rig:
        rig.use(monkeypatch)
        monkeypatch.setenv("BIGM_HOME", str(tmp_path))
        yield rig
        eventually(rig.is_empty)


def requests(rig: Rig, act: Callable[[], None]) -> Counter[str]:
    """What *act* asks AWS to do; not what it only asks whether it may."""
    before = len(rig.calls())
    act()
    return Counter(call.operation for call in rig.calls()[before:] if not call.parameters.get("DryRun"))


def run(rig: Rig, n: int) -> None:
    """What a run does with its system: an estimate, a launch, a look, and the end."""
    system = Ec2(address_service=rig.address_service)
    system.estimate(n, Spec())
    launched = Launching(system).launch(n)
    assert n == len(launched.instances), launched.failures
    system.describe()
    system.close()


def listed() -> dict[str, str]:
    """The requests of the page, and how often it says they are sent."""
    block = PAGE.read_text().partition("<!-- requests -->")[2].partition("<!-- end of requests -->")[0]
    return {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", block, re.MULTILINE)}


def test_the_requests_of_a_run_are_those_of_the_page_however_many_machines_there_are(rig: Rig) -> None:
    run(rig, 1)  # the first of an account makes the group, which the page tells below its table
    counts = {name: int(times) for name, times in listed().items() if times.isdigit()}
    for n in (1, 4):
        asked = requests(rig, lambda n=n: run(rig, n))
        assert set() == set(asked) - set(listed())
        assert counts == {name: asked[name] for name in counts}


def test_the_policy_allows_what_is_asked_and_nothing_else(rig: Rig) -> None:
    def everything() -> None:
        run(rig, 1)
        system = Ec2(address_service=rig.address_service)
        list(system.doctor())
        [instance] = Launching(system).launch(1).instances
        system.diagnose(instance)
        system.close()
        by_bastion = Options(connect="ssh", proxy_command="nc %h %p")
        network = Network(Account(by_bastion), by_bastion, Labels.of("c", by_bastion))
        network.open(0.0)
        network.close()

    asked = set(requests(rig, everything))
    leave("left")
    system = Ec2(address_service=rig.address_service)
    asked |= set(requests(rig, lambda: system.remove(system.discover()) and None))
    allowed = {need.operation for need in NEEDS}
    assert (set(), set()) == (asked - allowed - FREE, allowed - asked - UNSEEN)


def tagged(specifications: list[dict[str, Any]], key: str) -> dict[str, str]:
    """The value of a tag by the kind of what bears it."""
    found = {(each["ResourceType"], tag["Key"]): tag["Value"] for each in specifications for tag in each["Tags"]}
    return {kind: value for (kind, name), value in found.items() if name == key}


def test_what_is_made_has_the_tags_without_which_the_policy_would_forbid_it(rig: Rig) -> None:
    run(rig, 1)
    [template], [fleet], [group] = (
        rig.calls(operation) for operation in ("CreateLaunchTemplate", "CreateFleet", "CreateSecurityGroup")
    )
    made = tagged(fleet.parameters["TagSpecifications"], CLUSTER)
    made |= tagged(template.parameters["LaunchTemplateData"]["TagSpecifications"], CLUSTER)
    assert {resource.split(":")[-1].removesuffix("/*") for resource in LAUNCH.resources} == set(made)
    assert {"launch-template"} == set(tagged(template.parameters["TagSpecifications"], CLUSTER))
    assert {"security-group": GROUP} == tagged(group.parameters["TagSpecifications"], "Name")
