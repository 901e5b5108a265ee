"""bigm in a notebook and at IPython's prompt: tables, a line that shows progress, and what interrupting a cell ends.

Nothing here imports IPython: whoever runs in it has it already, and in any other program every function says so at
once. What is asked of IPython is public: `get_ipython`, `display`, and its events.
"""

from __future__ import annotations

import html
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from bigm.errors import BigmError
from bigm.lifecycle import Cause, State
from bigm.systems.base import Instance


class Row(Protocol):
    """A machine, as far as a table shows it."""

    addr: str
    id: str
    cause: Cause | None
    error: BigmError | None
    instance: Instance | None
    maxprocs: int

    @property
    def procs(self) -> int:
        """Its workers."""

    @property
    def state(self) -> State:
        """How it is."""


_HEAD = ("machine", "state", "address", "type", "CPUs", "procs", "cause")


def shell() -> Any:
    """IPython's shell, where this process is one, else None."""
    ipython = sys.modules.get("IPython")
    get = getattr(ipython, "get_ipython", None)
    return get() if get is not None else None


def is_notebook() -> bool:
    """Whether code is run in cells, by a kernel."""
    return getattr(shell(), "kernel", None) is not None


def name() -> str:
    """What the notebook is called, as far as a kernel can know: Jupyter's server tells those that it starts."""
    return Path(os.environ.get("JPY_SESSION_NAME") or "notebook").stem


class Line:
    """A line in the output of the running cell, which takes the place of what it showed before."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Show *text*; for any thread."""
        data = {"text/plain": text}
        if self._handle is None:
            self._handle = sys.modules["IPython"].display.display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class Cells:
    """While it is `on`, interrupting a cell cancels the calls that were made while it ran.

    A future that nobody waits for in the moment of the interrupt would otherwise go on: a cell that has submitted eight
    calls waits for one of them.
    """

    def __init__(self) -> None:
        self._shell: Any = None
        self._began = time.monotonic()

    def on(self) -> None:
        """Begin to listen to IPython's events, if there is one."""
        self._shell = shell()
        if self._shell is not None:
            self._began = time.monotonic()
            for event, function in self._events():
                self._shell.events.register(event, function)

    def off(self) -> None:
        """Listen no more."""
        if self._shell is not None:
            for event, function in self._events():
                self._shell.events.unregister(event, function)
            self._shell = None

    def _events(self) -> Sequence[tuple[str, Callable[..., None]]]:
        return ("pre_run_cell", self._begins), ("post_run_cell", self._ended)

    def _begins(self, info: object) -> None:
        self._began = time.monotonic()

    def _ended(self, result: Any) -> None:
        if isinstance(result.error_in_exec, KeyboardInterrupt):
            from bigm.rpc.client import cancel_since  # who only shows something need not have it

            cancel_since(self._began)


def machines_table(machines: Iterable[Row]) -> str:
    """Machines as a table in HTML: each with its state, address, workers, and why it ended."""
    rows = [
        (m.id, str(m.state), m.addr, _type(m), str(m.maxprocs or ""), str(m.procs or ""), _cause(m)) for m in machines
    ]
    if not rows:
        return "<i>no machines</i>"
    wanted = [n for n, title in enumerate(_HEAD) if title != "type" or any(row[n] for row in rows)]
    head = "".join(f"<th style='text-align:left'>{_HEAD[n]}</th>" for n in wanted)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(row[n])}</td>" for n in wanted) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def cluster_table(title: str, machines: Iterable[Row]) -> str:
    """The same under a line that names the cluster."""
    return f"<div>{html.escape(title)}</div>{machines_table(machines)}"


def _type(machine: Row) -> str:
    if machine.instance is None:
        return ""
    return f"{machine.instance.type} (spot)" if machine.instance.spot else machine.instance.type


def _cause(machine: Row) -> str:
    if machine.cause is None:
        return ""
    return f"{machine.cause}: {machine.error.message}" if machine.error is not None else str(machine.cause)
