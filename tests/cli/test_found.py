"""What a system has by label is shown with its runs, whatever it is, and nobody's is told from somebody's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from commanding import Said, run_bigm

from bigm.config import load
from bigm.errors import TransientError
from bigm.leftovers import find_all, find_leftovers
from bigm.runs import Run
from bigm.systems.base import Instance, System
from bigm.systems.local import Local

NOW = time.time()
MACHINE = Instance(
    id="i-1", cluster="aa", zone="eu-central-1a", type="m7i.large", spot=True, since=NOW - 60, user="eve"
)
TEMPLATE = Instance(id="lt-1", cluster="aa", kind="launch template", since=NOW - 61, user="eve")


@pytest.fixture
def having(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Local]:
    """Has the system `local` have these things, as a provider that keeps records would."""

    def have(*things: Instance) -> Local:
        monkeypatch.setattr(Local, "discover", lambda self: list(things))
        monkeypatch.setattr(Local, "remove", lambda self, found: dict.fromkeys(one.id for one in found))
        return Local()

    return have


def rows(said: Said) -> list[list[str]]:
    return [line.split() for line in said.out.splitlines()]


def ids(found: Iterable[object]) -> list[str]:
    return [one.instance.id for one in found]  # type: ignore[attr-defined]


def test_ps_of_a_system_tells_what_it_has_with_its_runs(
    command: Callable[..., Said], having: Callable[..., System]
) -> None:
    having(MACHINE, TEMPLATE)
    run = Run.create(load(), "pi.py")
    run.intent("launch", system="local", cluster="aa")
    said = command("ps", "--system", "local")
    assert (0, "") == (said.status, said.err)
    head, template, machine = rows(said)
    assert ["KIND", "INSTANCE", "WHERE", "CLUSTER", "AGE", "RUN", "WHAT"] == head
    assert ["launch", "template", "lt-1", "aa"] == template[:4]
    assert ["instance", "i-1", "eu-central-1a", "aa"] == machine[:4]
    assert [run.id, "(running)", "m7i.large", "spot"] == machine[-4:]
    facts = json.loads(command("ps", "--system", "local", "--json").out)
    assert [("launch template", run.id), ("instance", run.id)] == [(one["kind"], one["run"]) for one in facts]


def test_ps_of_a_system_without_anything_says_so(command: Callable[..., Said]) -> None:
    assert Said(0, "there is nothing on inprocess\n", "") == command("ps", "--system", "inprocess")


def test_ps_of_a_system_tells_of_the_machines_that_a_living_driver_holds(work: Path) -> None:
    (work / "look.py").write_text(
        "import bigm, subprocess, sys\n"
        "with bigm.start() as cluster:\n"
        "    cluster.wait(cluster.start(2))\n"
        "    for words in (['ps', '--system', 'local'], ['gc']):\n"
        "        subprocess.run([sys.executable, '-m', 'bigm', *words])\n"
        "    print('cluster', cluster.id)\n"
    )
    said = run_bigm("run", "look.py")
    *_, (_, cluster) = rows(said)
    assert 2 == sum(cluster in line and "-look-" in line and "(running)" in line for line in said.out.splitlines()), (
        said
    )


def test_what_should_have_ended_is_nobodys_whoever_may_have_launched_it(
    having: Callable[..., System], tmp_path: Path
) -> None:
    now = time.time()  # the module's may be half an hour old
    late = Instance(id="late", cluster="bb", expires=now - 3600)
    due = Instance(id="due", cluster="bb", expires=now - 60)
    soon = Instance(id="soon", cluster="bb", expires=now + 60)
    system = having(late, due, soon)
    assert [("due", True), ("late", False), ("soon", True)] == [
        (one.instance.id, one.unknown) for one in find_leftovers(system, tmp_path)
    ]
    run = Run.create(load(), "pi.py")
    run.intent("launch", system="local", cluster="bb")
    assert ["late"] == ids(find_leftovers(system, load().runs_folder)), "its run lives, and has forgotten it"
    assert ["due", "late", "soon"] == ids(find_all(system, load().runs_folder))


def test_what_is_ended_is_counted_by_kind(command: Callable[..., Said], having: Callable[..., System]) -> None:
    having(MACHINE, TEMPLATE, Instance(id="vol-1", kind="disk", cluster="aa"), Instance(id="vol-2", kind="disk"))
    said = command("gc", "--unknown")
    assert "bigm: would end 1 machine, 2 disks, 1 launch template; --yes does\n" in said.err
    said = command("gc")
    assert "bigm: 1 machine, 2 disks, 1 launch template of runs that are not known here; --unknown" in said.err
    assert said.out.splitlines()[-1] != "ended 0 machines"
    assert "ended 1 machine, 2 disks, 1 launch template\n" in command("gc", "--unknown", "--yes").out


def test_where_a_system_could_not_look_is_said(
    command: Callable[..., Said], having: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    having()
    monkeypatch.setattr(Local, "overlooked", lambda self: {"eu-west-9": TransientError("no route")})
    for words in (["gc"], ["ps", "--system", "local"]):
        said = command(*words)
        assert (75, "") == (said.status, said.out)
        assert "bigm: eu-west-9 was not looked at: no route" == said.err.splitlines()[-1]


def test_a_system_without_permissions_has_no_policy(command: Callable[..., Said]) -> None:
    assert Said(2, "", "bigm: local has no permissions to be given\n") == command("doctor", "local", "--policy")
