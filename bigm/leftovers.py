"""Instances that no living run owns: whose they were, and their end. What `bigm gc` shows and does.

A system finds instances by their labels, which name the cluster. Which run a cluster was of is told by the runs'
journals: the intent to launch is written before anything is. A run of another computer that shares this home folder
counts as living as long as it has not said that it ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigm.errors import SystemFault
from bigm.runs import ELSEWHERE, RUNNING, RunInfo, list_runs
from bigm.systems.base import Instance, System


@dataclass(frozen=True)
class Leftover:
    """An instance that no run owns which is known to live.

    Args:
        instance: as the system found it.
        run: whose it was; None: no run in this home folder has launched it. It may be one of another home folder, of
            another computer, or one whose folder was removed.
    """

    instance: Instance
    run: RunInfo | None = None


def find_leftovers(system: System, runs_folder: Path) -> list[Leftover]:
    """What *system* finds and no living run of *runs_folder* owns, the oldest first.

    Raises:
        NotSupported: the system cannot tell.
        SystemFault: it cannot be asked.
    """
    found = system.discover()  # before the runs: who launches now has written that first
    owners = {cluster: run for run in list_runs(runs_folder) for cluster in _clusters(run)}
    left = [Leftover(instance, owners.get(instance.cluster)) for instance in found]
    return sorted(
        (one for one in left if one.run is None or one.run.state not in (RUNNING, ELSEWHERE)),
        key=lambda one: (one.instance.since, one.instance.id),
    )


def end_leftovers(system: System, leftovers: Iterable[Leftover]) -> dict[str, SystemFault | None]:
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
