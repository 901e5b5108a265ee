"""What EC2 tells an instance of its end: notice of its interruption, and advice to leave it.

A spot instance is told two minutes before it is taken away, and sometimes earlier that this has become likely. Its own
metadata service alone says so, and has to be asked again and again; the agent asks, as long as the machine lives.

It is not in the agent's zip, but comes with what installs bundles (`Agent.extend`).

Source: "Spot Instance interruption notices" and "EC2 instance rebalance recommendations" of the EC2 user guide.
"""

from __future__ import annotations

import calendar
import http.client
import json
import threading
import time
from typing import Callable, Optional

from bigm.bootstrap.oninstance import TOKEN_SECONDS, ask

INTERVAL = 5.0  # seconds between two questions, as AWS advises
NOTICE = 120.0  # seconds that are left, where a notice does not say until when
_NOTICE = "latest/meta-data/spot/instance-action"
_ADVICE = "latest/meta-data/events/recommendations/rebalance"
_UNHEARD = 12  # questions in a row that had no answer, a minute's, after which the machine's log is told

Ask = Callable[[str, str, "dict[str, str]"], Optional[str]]


class Notices:
    """Asks for notices, in a thread of its own.

    Args:
        preempt: told how many seconds are left, once; then nothing more is asked.
        advise: told, in words, that it may be better to leave, once.
        say: tells the machine's log something.
        ask: sends one request to the metadata service; see `bigm.bootstrap.oninstance.ask`.
        interval: seconds between two questions.
    """

    def __init__(
        self,
        preempt: Callable[[float], None],
        advise: Callable[[str], None],
        say: Callable[[str], None],
        *,
        ask: Ask = ask,
        interval: float = INTERVAL,
    ) -> None:
        self._preempt = preempt
        self._advise = advise
        self._say = say
        self._ask = ask
        self._interval = interval
        self._advised = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bigm-notices", daemon=True)

    def __repr__(self) -> str:
        return f"<Notices, {'asking' if self._thread.is_alive() else 'not asking'}>"

    def start(self) -> None:
        """Ask from now on."""
        self._thread.start()

    def close(self) -> None:
        """Ask no more, and wait for an answer that is on its way."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        over, unheard = False, 0
        while not (over or self._closed.is_set()):
            try:
                over, unheard = self._look(), 0
            except (OSError, http.client.HTTPException, ValueError) as error:
                unheard += 1
                if unheard == _UNHEARD:
                    self._say(f"the metadata service does not tell of this instance's end: {error}")
            self._closed.wait(self._interval)

    def _look(self) -> bool:
        """Ask once; whether all is told.

        Raises:
            OSError, HTTPException, ValueError: there was no answer.
        """
        token = self._ask("PUT", "latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)})
        if not token:
            raise OSError("it gives no token")
        head = {"X-aws-ec2-metadata-token": token}
        notice = self._ask("GET", _NOTICE, head)
        if notice:
            self._preempt(_seconds_left(str(json.loads(notice).get("time"))))
            return True
        if not self._advised and self._ask("GET", _ADVICE, head):
            self._advised = True
            self._advise("EC2 says that this spot instance is more likely than before to be taken away")
        return False


def _seconds_left(until: str) -> float:
    """Seconds until a time as AWS writes it, "2027-01-31T08:22:00Z"."""
    try:
        return max(0.0, calendar.timegm(time.strptime(until, "%Y-%m-%dT%H:%M:%SZ")) - time.time())
    except ValueError:
        return NOTICE
