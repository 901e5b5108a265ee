"""`bigm run --dry-run`: what would be run, launched and brought to machines, told without doing it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from bigm.config import Settings
from bigm.systems.base import Spec, System, make_system

if TYPE_CHECKING:
    from bigm.bundle.bundle import Bundle

_IN_PLACE = "nothing: machines run this environment where it is"


def show(words: list[str], python: str, travels: Bundle | str, settings: Settings, *, as_json: bool) -> None:
    """Print it.

    Args:
        words: the interpreter's arguments.
        python: the interpreter.
        travels: what machines would be brought, or a sentence on that.
        settings: what the run would have.
        as_json: as JSON, for other programs.
    """
    facts: dict[str, object] = {
        "program": " ".join(words),
        "interpreter": python,
        "system": settings.system,
        "machines": settings.nmach or "as many as the program says",
        "workers": settings.procs,
        "run folder": str(settings.runs_folder),
    }
    system = make_system(settings.system, settings.systems)
    facts.update(system.preview())
    if system.capabilities.prices:
        facts["price"] = _price(system, settings.nmach or 1)
    places = system.places()
    if places:
        facts["hosts"] = places if as_json else ", ".join(f"{host} (takes {n})" for host, n in places.items())
    if places and (settings.nmach or 0) > sum(places.values()):
        text = f"{settings.nmach} machines are wanted, and the hosts take {sum(places.values())}"
        print(f"bigm: {text}; host*4 lets a host take four", file=sys.stderr)
    if as_json:
        print(json.dumps({**facts, "travels": _facts(travels, settings)}, indent=1))
        return
    for name, value in [*facts.items(), *_lines(travels, settings)]:
        print(f"{name:12} {value}")


def what_travels(file: str, module: str, settings: Settings) -> Bundle | str:
    """What machines would be brought, made as it would be; or, in words, why nothing is.

    Args:
        file: of the program, or of the module.
        module: its name, where it is run as one.
        settings: what the run would have.
    Raises:
        ConfigError: the system's options are wrong, or the program cannot be bundled.
    """
    from bigm.bundle import embedded
    from bigm.bundle.build import bundle_program
    from bigm.bundle.described import describe
    from bigm.bundle.sources import Rules
    from bigm.terminal import Terminal

    system = make_system(settings.system, settings.systems)
    if system.capabilities.in_place and not settings.bundle.rehearse:
        return _IN_PLACE
    if embedded.is_pexfile(file):
        return "what is inside of the file"
    terminal = Terminal.of(settings)
    return bundle_program(
        describe(file, module=module),
        settings.home,
        Rules.of(settings),
        requirements=settings.bundle.requirements,
        tell=terminal.warn,
        progress=terminal.phase,
    )


def _price(system: System, machines: int) -> str:
    price = system.estimate(machines, Spec())
    count = f"{machines} machine{'' if machines == 1 else 's'}"
    return f"about ${price:.2f} an hour for {count}" if price is not None else "not known"


def _lines(travels: Bundle | str, settings: Settings) -> list[tuple[str, str]]:
    from bigm.bundle.listing import texts, totals

    if isinstance(travels, str):
        return [("travels", travels)]
    rows = [("travels", f"{layer}: {what}, {size}") for layer, what, size in texts(totals(travels))]
    return [*rows, ("kept there", settings.bundle.store or "as long as the machine lives"), ("bundle", travels.digest)]


def _facts(bundle: Bundle | str, settings: Settings) -> dict[str, object] | str:
    if isinstance(bundle, str):
        return bundle
    layers = bundle.dependencies.values()
    return {
        "digest": bundle.digest,
        "python": bundle.python,
        "program": {"files": len(bundle.program.files), "size": bundle.program.size},
        "bigm": {"files": len(bundle.machine.files), "size": bundle.machine.size},
        "distributions": {
            "names": sorted({name for layer in layers for name in layer.distributions}),
            "size": sum(layer.manifest.size for layer in layers),
        },
        "store": settings.bundle.store,
    }
