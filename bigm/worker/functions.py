"""The service every worker has for running functions. Whoever may call services may call it.

It is there once the program is imported, so a function that has an import path is found by it, and the machine's own is
run.
"""

from __future__ import annotations

from typing import Any, Callable

NAME = "Functions"


class Functions:
    """Built-in service of a worker."""

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run *function* with its arguments, and return what it returns.

        Args:
            function: what to run; found or rebuilt here by pickle.
            args: its own, as are *kwargs*.
        """
        return function(*args, **kwargs)
