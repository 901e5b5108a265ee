"""Crawl a web site from a few machines: coroutines that fetch pages, and a driver that knows what was seen.

    bigm run examples/crawler.py http://127.0.0.1:8000/                    all pages of that server, at most 1000
    bigm run examples/crawler.py --nmach 4 URL -- --at-once 50 --most 10000

Serve some pages to try it on with `python -m http.server 8000 --bind 127.0.0.1`.

Each machine fetches several pages at a time, on the event loop of its worker. The driver keeps the frontier: no page is
fetched twice, however often it is linked, and none of another site, nor one that robots.txt forbids. What a machine was
fetching when it was lost is fetched by another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import html.parser
import logging
import string
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from urllib.parse import quote, urljoin, urlsplit, urlunsplit
from urllib.robotparser import RobotFileParser

import bigm

log = logging.getLogger("crawler")

AGENT = "bigm-crawler"
PATIENCE = 10.0  # seconds for a page
LARGEST = 4 << 20  # bytes that are read of one


@dataclass
class Page:
    """What came of a URL: the status is HTTP's, or 0 where the reason says why there is none."""

    url: str
    status: int
    reason: str
    text: str = ""
    links: tuple[str, ...] = ()


class Fetcher:
    """The service: fetches pages, many at a time."""

    async def fetch(self, url: str) -> Page:
        """The page with its text and what it links to; a redirection links to its target. Failures are pages too."""
        try:
            return await asyncio.wait_for(self._fetch(url), PATIENCE)
        except asyncio.TimeoutError:
            return Page(url, 0, f"no answer within {PATIENCE:g} s")
        except (OSError, ValueError) as error:
            return Page(url, 0, str(error))

    async def links(self, url: str) -> Page:
        """The same without the text, which stays here."""
        page = await self.fetch(url)
        page.text = ""
        return page

    async def _fetch(self, url: str) -> Page:
        to = urlsplit(url)
        port = to.port or {"http": 80, "https": 443}[to.scheme]
        reader, writer = await asyncio.open_connection(to.hostname, port, ssl=to.scheme == "https" or None)
        with contextlib.closing(writer):
            # As of HTTP/1.0 the answer ends with the connection, and comes in one piece.
            path = quote(urlunsplit(("", "", to.path or "/", to.query, "")), safe=string.punctuation)
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {to.netloc}\r\nUser-Agent: {AGENT}\r\n\r\n".encode())
            answer = bytearray()
            while len(answer) < LARGEST and (piece := await reader.read(1 << 16)):
                answer += piece
        return parse(url, bytes(answer))


def parse(url: str, answer: bytes) -> Page:
    """A page from an answer of HTTP."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, _, rest = head.partition(b"\r\n")
    version, status, reason = (line.decode("latin-1").split(" ", 2) + ["", ""])[:3]
    if not version.startswith("HTTP/") or not status.isdecimal():
        raise ValueError(f"no answer of HTTP, but {line[:60]!r}")
    headers = BytesHeaderParser().parsebytes(rest)
    page = Page(url, int(status), reason)
    if headers.get_content_maintype() == "text":
        page.text = body.decode(headers.get_content_charset("utf-8"), "replace")
    found = []
    if 300 <= page.status < 400:
        found = [headers.get("Location", "")]
    elif headers.get_content_type() == "text/html":
        anchors = Anchors()
        anchors.feed(page.text)
        found = anchors.found
    page.links = tuple(dict.fromkeys(filter(None, (absolute(url, each) for each in found))))
    return page


class Anchors(html.parser.HTMLParser):
    """Finds what a page links to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def absolute(base: str, link: str) -> str:
    """Where *link* on the page *base* leads, in the one form by which it is known; "" when that is no web page."""
    try:
        to = urlsplit(urljoin(base, link.strip()))
    except ValueError:
        return ""
    if to.scheme not in ("http", "https") or not to.hostname:
        return ""
    return urlunsplit((to.scheme, to.netloc.lower(), to.path or "/", to.query, ""))


class Crawl:
    """The driver's side: what was seen, what is to be fetched, and what came of it.

    Args:
        machines: who fetches.
        first: where to begin; nothing of other sites is fetched.
        at_once: pages that each machine fetches at a time.
        most: pages to fetch.
    """

    def __init__(self, machines: Sequence[bigm.Machine], first: str, *, at_once: int, most: int) -> None:
        self.machines, self.first, self.most = machines, first, most
        self.free = deque(machine for _ in range(at_once) for machine in machines)
        self.frontier = deque([first])
        self.found_on = {first: ""}  # all that was seen, and where first
        self.pages: list[Page] = []
        self.lost: Exception = RuntimeError("there are no machines")
        self.rules = RobotFileParser()

    async def run(self) -> None:
        """Fetch until there is nothing more."""
        robots = await self.machines[0].acall("Fetcher.fetch", urljoin(self.first, "/robots.txt"))
        self.rules.parse(robots.text.splitlines() if robots.status == 200 else [])
        running: dict[asyncio.Future[Page], tuple[bigm.Machine, str]] = {}
        begin = said = time.monotonic()
        try:
            while True:
                while self.frontier and self.free and len(self.pages) + len(running) < self.most:
                    machine, url = self.free.popleft(), self.frontier.popleft()
                    call = machine.options(idempotent=True).acall("Fetcher.links", url)
                    running[asyncio.ensure_future(call)] = machine, url
                if self.frontier and not self.free and not running:
                    raise self.lost  # no machine is left
                if not running:
                    return
                for call in (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0]:
                    self._take(call, *running.pop(call))
                if time.monotonic() - said > 1:
                    said = time.monotonic()
                    rate = len(self.pages) / (said - begin)
                    log.info("%d pages, %d to go, %.0f pages/s", len(self.pages), len(self.frontier), rate)
        finally:
            for call in running:
                call.cancel()

    def _take(self, call: asyncio.Future[Page], machine: bigm.Machine, url: str) -> None:
        try:
            page = call.result()
        except bigm.MachineStopped as error:
            self.frontier.appendleft(url)  # for another: this one is not free any more
            self.lost = error
            return
        self.free.append(machine)
        self.pages.append(page)
        for link in page.links:
            same_site = urlsplit(link)[:2] == urlsplit(self.first)[:2]
            if link not in self.found_on and same_site and self.rules.can_fetch(AGENT, link):
                self.found_on[link] = url
                self.frontier.append(link)


def site(text: str) -> str:
    """A command-line argument: a URL."""
    url = absolute(text, "")
    if not url:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL, such as http://127.0.0.1:8000/")
    return url


def positive(text: str) -> int:
    """A command-line argument that counts something."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main() -> None:
    """The driver's part."""
    parser = argparse.ArgumentParser(description="Crawl a web site on a cluster.")
    parser.add_argument("url", type=site, help="where to begin")
    parser.add_argument("--at-once", type=positive, default=10, metavar="N", help="on each machine (default: 10)")
    parser.add_argument("--most", type=positive, default=1000, metavar="N", help="pages to fetch (default: 1000)")
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y/%m/%d %H:%M:%S", level="INFO")

    with bigm.start() as cluster:
        machines = cluster.start(cluster.nmach or 3, services={"Fetcher": Fetcher()})
        cluster.wait(machines)
        crawl, begin = Crawl(machines, args.url, at_once=args.at_once, most=args.most), time.monotonic()
        asyncio.run(crawl.run())
        seconds = time.monotonic() - begin

    dead = [page for page in crawl.pages if not 200 <= page.status < 400]
    for page in sorted(dead, key=lambda page: page.url):
        where = crawl.found_on[page.url]
        print(f"{page.status or '---'} {page.url} ({page.reason}{f', linked from {where}' if where else ''})")
    count = len(crawl.pages)
    print(f"{count} pages, {len(dead)} of them dead, {len(machines)} machines, {count / seconds:.0f} pages/s")
    sys.exit(len(dead) == count)


if __name__ == "__main__":
    main()
