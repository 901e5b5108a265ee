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
    """One distribution's requirement of another."""

    name: str
    requirement: Requirement
    extras: frozenset[str]

    def holds(self, markers: Mapping[str, str], asked: Iterable[str] = ("",)) -> bool:
        """Whether it does for an environment, with one of the extras that are asked for; "" for none."""
        marker = self.requirement.marker
        return marker is None or any(marker.evaluate({**markers, "extra": extra}) for extra in asked)

    def holds_with_any(self, markers: Mapping[str, str]) -> bool:
        """The same, whatever extras may be asked for."""
        return self.holds(markers, ("", *self.extras))


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
        found = _all_but_foreign(edges, here, there)
    else:
        found = _following(edges, [Requirement(text) for text in roots], there)
    return [known[name] for name in sorted(found)]


def _all_but_foreign(
    edges: Mapping[str, list[Edge]], here: Mapping[str, str], there: Mapping[str, str]
) -> frozenset[str]:
    """All but what is only asked for on platforms like this one. Any extra may have been asked for: nobody knows."""
    asked = {edge.name for name in edges for edge in edges[name] if edge.name != name and edge.holds_with_any(here)}
    roots = edges.keys() - asked
    circles = edges.keys() - _reached(edges, roots, here)  # ask for one another alone: all count as asked for
    return _reached(edges, roots | circles, there)


def _reached(edges: Mapping[str, list[Edge]], roots: Iterable[str], markers: Mapping[str, str]) -> frozenset[str]:
    waiting = list(roots)
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [edge.name for edge in edges[name] if edge.name in edges and edge.holds_with_any(markers)]
    return frozenset(found)


def _following(
    edges: Mapping[str, list[Edge]], roots: Iterable[Requirement], markers: Mapping[str, str]
) -> frozenset[str]:
    """What some requirements lead to, with the extras that they ask for."""
    waiting = [each for each in roots if each.marker is None or each.marker.evaluate({**markers, "extra": ""})]
    found: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = normal(wanted.name)
        for extra in ("", *wanted.extras):
            if name in edges and (name, extra) not in found:
                found.add((name, extra))
                waiting += [edge.requirement for edge in edges[name] if edge.holds(markers, (extra,))]
    return frozenset(name for name, _ in found)


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
