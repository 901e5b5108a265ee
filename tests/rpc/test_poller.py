from __future__ import annotations

import os

from bigm.rpc.poller import Poller


def test_a_closed_poller_lets_go_of_nothing_in_a_forked_child():
    """Its descriptors have gone to others by then."""
    poller = Poller()
    poller.close()
    pipes = [os.pipe() for _ in range(4)]  # takes the numbers that became free
    poller.disown()
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)
