from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace

import pytest

import bigm
from bigm.runs import read_events, read_run
from bigm.systems.base import ENDED, Instance
from bigm.systems.local import Local
from cluster_services import Counter
from metadata import metadata_service
from waiting import eventually


class Warned(Counter):
    """Says what it is told."""

    def preempted(self, seconds: float) -> None:
        print(f"told {seconds:.0f}", flush=True)


def test_what_the_provider_tells_an_instance_reaches_user_program_and_services(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with metadata_service() as (address, metadata):
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
        with bigm.start("local") as cluster:
            [machine] = cluster.start(1, services={"W": Warned()})
            machine.wait(timeout=60.0)
            heard: list[float] = []
            machine.on_preempt(lambda _, seconds: heard.append(seconds))
            machine._agent.call("Agent.extend", ("",))
            for _ in range(2):
                machine._agent.call("Installer.watch_notices")
            run, label = cluster._session.run, cluster._stewards[0].label

            def events(name: str) -> list[dict[str, object]]:
                return [e for e in read_events(run.folder) if e["event"] == name and e["machine"] == label]

            def notice() -> str:
                return next(
                    one.notice for one in read_run(run.folder.parent, run.id).machines() if one.machine == label
                )

            metadata.advise_rebalance()
            eventually(lambda: events("rebalance"), timeout=30.0)
            assert ([], "more likely than before") == (
                heard,
                notice()[len("EC2 says that this spot instance is ") :][:23],
            )
            metadata.interrupt(120.0)
            eventually(lambda: heard, timeout=30.0)
            assert 100.0 < heard[0] <= 120.0
            assert "it will be taken away at " in notice()
            eventually(lambda: "told 1" in (run.folder / "logs" / f"{label}.log").read_text())
            assert bigm.State.RUNNING == machine.state
            assert (1, 1) == (len(events("rebalance")), len(events("preempted")))
    said = capfd.readouterr().err
    assert f"{label}: EC2 says that this spot instance is more likely than before to be taken away\n" in said
    assert f"{label}: the system will take it away in 1" in said


@pytest.mark.parametrize(
    ("reason", "cause", "words"),
    [
        ("AWS took the spot instance back", "gone", "its instance is gone: AWS took the spot instance back"),
        ("", "signal", "the agent was told to end by SIGTERM"),
    ],
)
def test_an_agent_that_its_computer_tells_to_end_ends_with_what_the_system_knows(
    reason: str, cause: str, words: str
) -> None:
    class Leaving(Local):
        """Ends its instances from outside, as a provider does."""

        def describe(self, ids: Sequence[str] | None = None) -> list[Instance]:
            found = super().describe(ids)
            return [replace(one, state=ENDED, reason=reason) for one in found] if reason else found

    with bigm.start(Leaving()) as cluster:
        [machine] = cluster.start(1, services={"W": Warned()})
        machine.wait(timeout=60.0)
        os.kill(machine._agent.call("Agent.info").pid, signal.SIGTERM)
        with pytest.raises(bigm.MachineStopped, match=words) as caught:
            machine.call("W.sleep", 60.0)
        assert cause == caught.value.cause
