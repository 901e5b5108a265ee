"""What of an environment a kind of machine needs: some distributions and all that these lead to, there.

Requirements depend on the platform: what an environment on macOS has for macOS alone is not asked for on Linux, and
what only Linux needs is not installed here.
"""

from __future__ import annotations

import email.parser
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement

from bigm.bundle.conflicts import metadata_of
from bigm.bundle.environment import Installed, normal


class Edge(NamedTuple):
    """One distribution's requirement of another; whatever extras it is for."""

    name: str
    requirement: Requirement
    extras: frozenset[str]

    def holds(self, markers: Mapping[str, str]) -> bool:
        """Whether it does for an environment, with any extra or with none."""
        marker = self.requirement.marker
        return marker is None or any(marker.evaluate({**markers, "extra": extra}) for extra in ("", *self.extras))


def needed(
    distributions: Iterable[Installed],
    here: Mapping[str, str],
    there: Mapping[str, str],
    roots: Iterable[str] | None = None,
) -> list[Installed]:
    """The distributions of an environment that machines need.

    Args:
        distributions: what is installed here.
        here: markers of this environment.
        there: markers of the machines'.
        roots: requirements that all follows from; None: what is installed and no other distribution asks for.
    """
    known = {each.name: each for each in distributions}
    edges = {name: list(_edges(each)) for name, each in known.items()}
    if roots is None:
        asked = {edge.name for name in edges for edge in edges[name] if edge.name != name and edge.holds(here)}
        waiting = [name for name in known if name not in asked] or list(known)
        waiting += _in_circles(edges, waiting, here)
    else:
        wanted = [Requirement(text) for text in roots]
        waiting = [normal(r.name) for r in wanted if r.marker is None or r.marker.evaluate({**there, "extra": ""})]
    return [known[name] for name in sorted(_reached(edges, waiting, there))]


def _reached(edges: Mapping[str, list[Edge]], names: Iterable[str], markers: Mapping[str, str]) -> set[str]:
    waiting = [name for name in names if name in edges]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [edge.name for edge in edges[name] if edge.name in edges and edge.holds(markers)]
    return found


def _in_circles(edges: Mapping[str, list[Edge]], roots: Iterable[str], markers: Mapping[str, str]) -> list[str]:
    """What only asks for one another, so that nothing leads there: all of it counts as asked for."""
    return sorted(edges.keys() - _reached(edges, roots, markers))


def _edges(each: Installed) -> Iterator[Edge]:
    described = metadata_of(each)
    headers = email.parser.HeaderParser().parsestr(each.read("METADATA").decode("utf-8", "replace"))
    extras = frozenset(map(str, headers.get_all("Provides-Extra", [])))
    for text in described.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # of a distribution older than the rules
        yield Edge(normal(requirement.name), requirement, extras)
