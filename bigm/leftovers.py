"""What systems have by label: whose it is, what no living run owns, and its end. For `bigm gc` and `bigm ps`.

A system finds instances, and what else launches have made, by their labels, which name the cluster. Which run a cluster
was of is told by the runs' journals: the intent to launch is written before anything is. A run of another computer that
shares this home folder counts as living as long as it has not said that it ended. What is labelled to have ended by
now is nobody's, whatever is known of its run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigm.errors import SystemFault
from bigm.runs import ELSEWHERE, RUNNING, RunInfo, list_runs
from bigm.systems.base import Instance, System

_SLACK = 600.0  # seconds: an instance ends at its lifetime, and what its run has made a moment later


@dataclass(frozen=True)
class Found:
    """Something that a system has by label.

    Args:
        instance: as the system found it.
        run: whose it is; None: no run in this home folder has launched it. It may be one of another home folder, of
            another computer, or one whose folder was removed.
        expired: it should have ended by itself.
    """

    instance: Instance
    run: RunInfo | None = None
    expired: bool = False

    @property
    def owned(self) -> bool:
        """Whether a run that lives, as far as can be told, has it."""
        lives = self.run is not None and self.run.state in (RUNNING, ELSEWHERE)
        return self.instance.held or (lives and not self.expired)

    @property
    def unknown(self) -> bool:
        """Whether nothing says that its run has ended."""
        return self.run is None and not self.expired


def find_all(system: System, runs_folder: Path, now: Callable[[], float] = time.time) -> list[Found]:
    """What *system* has, with the runs of *runs_folder*, the oldest first.

    Raises:
        NotSupported: the system cannot tell.
        SystemFault: it cannot be asked.
    """
    found = system.discover()  # before the runs: who launches now has written that first
    owners = {cluster: run for run in list_runs(runs_folder) for cluster in _clusters(run)}
    latest = now() - _SLACK
    return [
        Found(one, owners.get(one.cluster), expired=0 < one.expires < latest)
        for one in sorted(found, key=lambda one: (one.since, one.id))
    ]


def find_leftovers(system: System, runs_folder: Path) -> list[Found]:
    """What no run owns that is known to live, of all that `find_all` finds, and raises what it raises."""
    return [one for one in find_all(system, runs_folder) if not one.owned]


def end_leftovers(system: System, leftovers: Iterable[Found]) -> dict[str, SystemFault | None]:
    """End them, and remove what they keep; says for each id what prevented it.

    Raises:
        NotSupported: the system cannot do that.
    """
    instances: Sequence[Instance] = [one.instance for one in leftovers]
    return system.remove(instances) if instances else {}


def _clusters(run: RunInfo) -> Iterator[str]:
    """The clusters for which *run* has launched, or was about to."""
    try:
        lines = (run.folder / "journal").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            intent = json.loads(line).get("intent", {})
        except (ValueError, AttributeError):
            continue  # torn by a full disk, or not whole yet
        if cluster := intent.get("cluster"):
            yield str(cluster)
