"""Count the words of texts on a few machines: map, shuffle from machine to machine, reduce.

    bigm run examples/wordcount.py *.txt                        the twenty most frequent words
    bigm run examples/wordcount.py --nmach 8 -- --top 0 *.txt   all of them, as they come, on eight machines

A word is what McIlroy's pipeline takes for one: letters in a row, as small letters.

    cat *.txt | tr -cs A-Za-z '\\n' | tr A-Z a-z | sort | uniq -c | sort -rn | head -20

The driver deals pieces of the texts to whichever machine asks for one. Each machine counts its pieces, and keeps the
counts on its disk. Then each machine is responsible for the words with one remainder of a hash: it reads their counts
from all machines, as sorted streams that it merges. Nobody holds more than a piece of anything in memory.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import heapq
import itertools
import logging
import operator
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import bigm

log = logging.getLogger("wordcount")

PIECE = 1 << 20  # bytes of text that are dealt out at a time
LONGEST = 8 << 20  # bytes without a gap between words: what has none in so many is no text
DISTINCT = 200_000  # words a machine counts in memory (some 20 MB) before it puts them on its disk
BATCH = 1000  # counts that travel together
GAP = re.compile(rb"[\x00-@\[-`{-\x7f]")  # ASCII that is no letter: no word and no character goes on across it
WORD = re.compile(r"[^\W\d_]+")  # letters of any alphabet

Count = tuple[str, int]


class Words:
    """The service: counts words, and adds up what others have counted. One on each machine."""

    def setup(self, cluster: bigm.Cluster) -> None:
        """Open the counts: a database in a file without a name, which SQLite keeps mostly on disk."""
        self.counts = sqlite3.connect("", check_same_thread=False)
        self.counts.execute("CREATE TABLE counts (part, word, n)")
        self.lock = threading.Lock()  # several others read at a time

    def map(self, pieces: Iterable[bytes], parts: int) -> int:
        """Count the words of *pieces*, for *parts* reducing machines; how many words there were."""
        total, words = 0, collections.Counter[str]()
        for piece in pieces:
            found = WORD.findall(piece.decode(errors="replace").lower())
            total += len(found)
            words.update(found)
            if len(words) > DISTINCT:
                self._keep(words, parts)
                words.clear()
        self._keep(words, parts)
        return total

    def part(self, index: int) -> Iterator[list[Count]]:
        """The counts of one part that this machine made, sorted by word, in batches."""
        with self.lock:
            rows = self.counts.execute(
                "SELECT word, sum(n) FROM counts WHERE part = ? GROUP BY word ORDER BY word", (index,)
            )
        while True:
            with self.lock:
                batch = rows.fetchmany(BATCH)
            if not batch:
                return
            yield batch

    def reduce(self, index: int, machines: Sequence[bigm.Machine]) -> Iterator[list[Count]]:
        """The counts of one part, added up over all *machines*."""
        with contextlib.ExitStack() as streams:
            parts = [streams.enter_context(machine.stream("Words.part", index)) for machine in machines]
            rows = heapq.merge(*map(itertools.chain.from_iterable, parts))
            totals = (
                (word, sum(n for _, n in counts)) for word, counts in itertools.groupby(rows, operator.itemgetter(0))
            )
            while batch := list(itertools.islice(totals, BATCH)):
                yield batch

    def _keep(self, words: collections.Counter[str], parts: int) -> None:
        # Python's own hash of a word differs from process to process; this one is the same everywhere.
        rows = ((zlib.crc32(word.encode()) % parts, word, n) for word, n in words.items())
        with self.lock:
            self.counts.executemany("INSERT INTO counts VALUES (?, ?, ?)", rows)


def read(paths: Sequence[Path]) -> Iterator[bytes]:
    """The texts in pieces that begin and end between words."""
    for path in paths:
        rest = b""
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                gap = max((match.end() for match in GAP.finditer(piece)), default=0)
                if gap:
                    yield rest + piece[:gap]
                    rest = b""
                rest += piece[gap:]
                if len(rest) > LONGEST:
                    raise ValueError(f"{path} has a word of more than {LONGEST >> 20} MiB: is it a text?")
        yield rest


class Deal:
    """Deals pieces to machines as these ask for them, and says how far that is."""

    def __init__(self, pieces: Iterator[bytes], size: int) -> None:
        self._pieces, self._size = pieces, size
        self._lock = threading.Lock()
        self._dealt = 0
        self._said = time.monotonic()

    def hand(self) -> Iterator[bytes]:
        """The pieces for one machine."""
        while True:
            with self._lock:
                piece = next(self._pieces, None)
                if piece is None:
                    return
                self._dealt += len(piece)
                if time.monotonic() > self._said + 1:
                    self._said = time.monotonic()
                    log.info("dealt %.1f of %.1f MB", self._dealt / 1e6, self._size / 1e6)
            yield piece


def count(machines: Sequence[bigm.Machine], paths: Sequence[Path]) -> Iterator[Count]:
    """The words of all texts, each with its count, in no order. *machines* have a new service `Words` each."""
    size = sum(path.stat().st_size for path in paths)
    deal, begin = Deal(read(paths), size), time.monotonic()
    log.info("mapping %s bytes of text on %d machines", f"{size:,}", len(machines))
    total = mapped(machines, deal)
    log.info("mapped %s words in %.1f s; shuffling", f"{total:,}", time.monotonic() - begin)
    parts = [machine.stream("Words.reduce", index, machines) for index, machine in enumerate(machines)]
    for part in parts:
        yield from itertools.chain.from_iterable(part)
    log.info("done after %.1f s", time.monotonic() - begin)


def text(name: str) -> Path:
    """A command-line argument that names a text."""
    try:
        with Path(name).open("rb"):
            return Path(name)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {name}: {error.strerror}") from None


def mapped(machines: Sequence[bigm.Machine], deal: Deal) -> int:
    """Have *machines* count all pieces; how many words there were."""
    calls = [machine.submit("Words.map", deal.hand(), len(machines)) for machine in machines]
    try:
        return sum(call.result() for call in concurrent.futures.as_completed(calls))
    finally:  # with a machine its counts are lost: then the others need not go on
        for call in calls:
            call.cancel()


def natural(number: str) -> int:
    """A command-line argument that is a count, or 0."""
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{number!r} is no whole number from 0")
    return int(number)


def main() -> None:
    """The driver's part."""
    parser = argparse.ArgumentParser(description="Count the words of texts on a cluster.")
    parser.add_argument("texts", type=text, nargs="+", metavar="TEXT", help="a file")
    parser.add_argument(
        "--top", type=natural, default=20, metavar="N", help="only the N most frequent words (default: 20; 0: all)"
    )
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y/%m/%d %H:%M:%S", level="INFO")

    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach or 3, services={"Words": Words()}, procs=1)
        cluster.wait(machines)
        counts = count(machines, args.texts)
        if args.top:
            counts = iter(heapq.nsmallest(args.top, counts, key=lambda each: (-each[1], each[0])))
        for word, n in counts:
            print(f"{n:7} {word}")


if __name__ == "__main__":
    main()
