"""Which servers are looked at, so that no call keeps the turn for too long."""

from __future__ import annotations

import weakref

from bigm.rpc.turns import Turns
from waiting import eventually


class Idle:
    """A server that runs no call."""

    inline = None
    inline_since = 0.0
    watched = False


def test_a_server_that_has_run_nothing_for_a_while_is_let_go_of() -> None:
    turns, server = Turns(), Idle()
    kept = weakref.ref(server)
    turns.watch(server)  # type: ignore[arg-type]  # a part of one
    del server
    eventually(lambda: kept() is None, message="the last server is kept alive")
