"""joblib's parallel loops on the workers of an executor, and with them scikit-learn's `n_jobs`.

Optional: joblib is imported here and nowhere else, so this module is there for whoever has it.

    import joblib
    import bigm.joblib

    with cluster.executor() as pool, joblib.parallel_config("bigm", executor=pool):
        joblib.Parallel()(joblib.delayed(f)(x) for x in xs)

Source: joblib's own backend for dask (`joblib/_dask.py`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import joblib  # type: ignore[import-untyped]  # as it comes
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase  # type: ignore[import-untyped]

from bigm.executor import Executor


class Backend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib is not typed
    """What joblib calls a backend: how it hands its batches to an executor. Registered as "bigm" by this import.

    Args:
        executor: who runs them. It is left open.
        options: what joblib gives every backend.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = False
    default_n_jobs = -1

    def __init__(self, executor: Executor, **options: Any) -> None:
        super().__init__(**options)
        self._executor = executor
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<Backend of {self._executor!r}>"

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many batches run at a time: *n_jobs*, at most as many as the executor can; negative: of those, from
        their end."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        slots = self._executor.slots
        if n_jobs is None:
            return slots
        return max(1, min(n_jobs, slots) if n_jobs > 0 else slots + 1 + n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], None] | None = None) -> Future[Any]:
        """Run a batch; *callback* is told of its end."""
        future = self._executor.submit(func)
        self._futures.add(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch that has ended."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Drop the batches that wait: one has failed, or nobody wants the rest."""
        for future in list(self._futures):
            future.cancel()


joblib.register_parallel_backend("bigm", Backend)
