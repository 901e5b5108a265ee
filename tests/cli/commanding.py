"""The command as a process of its own, and a program for it that talks."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple

TALK = """
import os, sys, time
import bigm

class Talk:
    def say(self, lines):
        for number in range(int(lines)):
            print("line", number)
        print("to stderr", file=sys.stderr)
        return int(lines)

    def nap(self, seconds):
        print("napping", flush=True)
        time.sleep(float(seconds))

    def die(self, _):
        os.kill(os.getpid(), 9)

    def boom(self, _):
        raise LookupError("boom")

def main(what="say", value="3"):
    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach or 1, services={"Talk": Talk()})
        cluster.wait(machines)
        if what == "exit":
            sys.exit(int(value))
        calls = [machine.submit(f"Talk.{what}", value) for machine in machines]
        print(sum(call.result() or 0 for call in calls))

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


class Said(NamedTuple):
    """How the command ended, and what it said."""

    status: int | str | None
    out: str
    err: str


def bigm_line(*words: str) -> list[str]:
    """The command as a process of its own."""
    return [sys.executable, "-m", "bigm", *words]


def run_bigm(*words: str, timeout: float = 60.0, **variables: str) -> Said:
    """Run the command as a process of its own, to its end."""
    done = subprocess.run(
        bigm_line(*words),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **variables},
    )
    return Said(done.returncode, done.stdout, done.stderr)
