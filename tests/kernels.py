"""A real notebook: its kernel is a process, which is told what to run, and interrupted, as Jupyter does it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Notebook:
    """Runs cells in a kernel and shows what they put out.

    Args:
        client: of nbclient, whose kernel runs.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    @property
    def pid(self) -> int:
        """The kernel's process."""
        return self.client.km.provisioner.pid

    def run(self, code: str) -> Cell:
        """Run a cell to its end, whatever that is."""
        import nbformat

        cell = nbformat.v4.new_code_cell(code)
        self.client.nb.cells.append(cell)
        self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        return Cell(cell.outputs)

    def run_and_interrupt(self, code: str, when: Callable[[], object]) -> Cell:
        """Run a cell, and interrupt the kernel once *when* says so."""
        import os
        import signal

        def interrupt() -> None:
            when()
            os.killpg(os.getpgid(self.pid), signal.SIGINT)  # what Jupyter's own button does

        thread = threading.Thread(target=interrupt, name="interrupt")
        thread.start()
        try:
            return self.run(code)
        finally:
            thread.join()


class Cell:
    """What a cell has put out."""

    def __init__(self, outputs: list[Any]) -> None:
        self.outputs = outputs

    def __repr__(self) -> str:
        return f"<Cell {self.outputs}>"

    def stream(self, name: str = "stdout") -> str:
        """All that it wrote there."""
        return "".join(each.text for each in self.outputs if each.output_type == "stream" and each.name == name)

    @property
    def error(self) -> str:
        """Name of the exception that ended it, or ""."""
        return next((each.ename for each in self.outputs if each.output_type == "error"), "")

    def shown(self, kind: str = "text/plain") -> str:
        """What it displayed, and its value."""
        return "".join(each.data.get(kind, "") for each in self.outputs if "data" in each)


@contextmanager
def notebook(folder: Path) -> Iterator[Notebook]:
    """A notebook in *folder* whose kernel is ended afterwards, as Jupyter ends it."""
    import nbformat
    from nbclient import NotebookClient

    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        client = NotebookClient(
            nbformat.v4.new_notebook(),
            timeout=60,
            kernel_name="python3",
            allow_errors=True,
            resources={"metadata": {"path": str(folder)}},
        )
        with client.setup_kernel():
            yield Notebook(client)
