"""A driver for the tests of how drivers end: python driver_program.py HOW [LEASE [slowly]]. Prints its workers' ids."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time

import bigm
from cluster_services import Mortal
from waiting import eventually


def main(how: str, lease: float) -> None:
    settings = {"local": {"parent_death": how != "orphaned"}, "timeouts": {"lease_local": lease, "teardown": 60.0}}
    if how.startswith("await"):
        asyncio.run(awaiting(how, settings))
        return
    cluster = bigm.start("local", **settings)
    if how == "atexit":
        machines = show(cluster)
        threading.Thread(target=lambda: print(machines[0].call("M.sleep", 0.5), flush=True)).start()
        return
    if how == "after":
        with cluster:
            show(cluster)
        sys.exit(7)
    with cluster:
        machines = show(cluster)
        if how == "call":
            machines[0].call("M.sleep", 60.0)
        elif how == "lost":
            machines[0].call("M.kill", 9)
        elif how == "raise":
            raise LookupError("the user's own")
        elif how == "exit":
            sys.exit(7)
        elif how == "config":
            cluster.start(0, services={"M": Mortal()})
        elif how == "fork":
            fork(machines[0])
        elif how == "forked":
            if not os.fork():
                time.sleep(60.0)
                os._exit(0)
            time.sleep(60.0)
        elif how == "gil":
            ctypes.PyDLL(None).usleep(ctypes.c_uint(60_000_000))
        else:
            time.sleep(60.0)


def show(cluster: bigm.Cluster) -> list[bigm.Machine]:
    machines = cluster.start(2, services={"M": Slow() if "slowly" in sys.argv else Mortal()})
    cluster.wait(machines, timeout=30.0)
    print(*(machine.call("M.pid") for machine in machines), flush=True)
    return machines


async def awaiting(how: str, settings: dict[str, object]) -> None:
    """The same in a coroutine."""
    async with bigm.start("local", **settings) as cluster:
        machines = await cluster.astart(2, services={"M": Slow() if "slowly" in sys.argv else Mortal()})
        await cluster.await_state(timeout=30.0)
        print(*await cluster.agather(machine.acall("M.pid") for machine in machines), flush=True)
        if how == "await-aside":
            threading.Thread(target=press_aside).start()
        if how == "await-call":
            await machines[0].acall("M.sleep", 60.0)
        elif how == "await-exit":
            sys.exit(7)
        else:
            await asyncio.sleep(60.0)


def press_aside() -> None:
    """Once the cluster ends, Ctrl-C as it comes in the moment before the loop waits: Python notes it, and waits on."""
    ends = eventually(lambda: [each for each in threading.enumerate() if each.name.startswith("bigm-shutdown")], 60.0)
    loop = threading.main_thread().ident
    eventually(lambda: not ends[0].is_alive() or sys._current_frames()[loop].f_code.co_name == "select")
    signal.pthread_kill(
        threading.get_ident(), signal.SIGINT
    )  # this thread's system call is interrupted, not the loop's


class Slow(Mortal):
    """Takes its time to end."""

    def teardown(self) -> None:
        time.sleep(30.0)


def fork(machine: bigm.Machine) -> None:
    """Children that call, leave the block, and exit; the parent's cluster goes on."""
    for how in ("call", "leave", "exit", "signal"):
        pid = os.fork()
        if not pid:
            if how == "call":
                os._exit(0 if machine.call("M.pid") else 1)
            if how == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60.0)
            if how == "exit":
                sys.exit(0)
            return
        _, status = os.waitpid(pid, 0)
        print(how, status, flush=True)
    print("parent", machine.state, machine.call("M.echo"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 60.0)
