"""The program that machines.py starts: machines that answer once, then idle until standard input ends."""

from __future__ import annotations

import sys

import bigm


class Echo:
    """The service."""

    def ping(self) -> bool:
        """Answer."""
        return True


def main() -> None:
    """The driver's part."""
    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach or 5, services={"Echo": Echo()})
        for call in [machine.submit("Echo.ping") for machine in machines]:
            call.result()
        print("answered", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
