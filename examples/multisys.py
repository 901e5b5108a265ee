"""Two clusters side by side in one program, on different systems: processes and threads of this computer.

    bigm run examples/multisys.py

Source: bigmachine cmd/multisys, which does it with a local cluster and one on EC2.
"""

from __future__ import annotations

import argparse
import os

import bigm


class Where:
    """The service: says where it runs."""

    def whoami(self) -> int:
        """The id of the process that serves this machine."""
        return os.getpid()


def main() -> None:
    """The driver's part."""
    argparse.ArgumentParser(description="Open a cluster on local and one on inprocess.").parse_args()
    with bigm.start("local", name="processes") as processes, bigm.start("inprocess", name="threads") as threads:
        clusters = [processes, threads]
        started = [(cluster, cluster.start(cluster.nmach or 2, services={"Where": Where()})) for cluster in clusters]
        for cluster, machines in started:
            cluster.wait(machines)
            for machine in machines:
                place = "here" if machine.call("Where.whoami") == os.getpid() else "another process"
                print(f"{cluster.name}: {machine.addr} is {place}")


if __name__ == "__main__":
    main()
