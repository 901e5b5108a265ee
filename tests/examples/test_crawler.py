from __future__ import annotations

import asyncio
import collections
import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

import bigm
import crawler
from example_programs import refuses, run_example

PAGES = 60
ODD = {
    "/robots.txt": "User-agent: *\nDisallow: /private/\n",
    "/": '<a href="/1">one</a> <a href="2#part">two</a> <a href=/gone>x</a> <a href="/old">y</a> <a>no</a>'
    '<a href="mailto:me@here">m</a> <a href="http://[">bad</a> <a href="http://elsewhere.invalid/">far</a>'
    '<a href="/private/page">secret</a> <a href="/text">t</a> <a href="/broken">b</a>',
    "/text": '<a href="/never">no link, but text</a>',
}


class Site:
    """Pages that link to one another in a ring and back, dead links, a redirection, and what a crawler must not do."""

    def __init__(self) -> None:
        self.hits: collections.Counter[str] = collections.Counter()
        self.at_once = self.most_at_once = 0
        self.slow: set[str] = set()  # paths of pages that wait for `go`
        self.go = threading.Event()
        site, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with lock:
                    site.hits[self.path] += 1
                    site.at_once += 1
                    site.most_at_once = max(site.most_at_once, site.at_once)
                try:
                    if self.path in site.slow:
                        site.go.wait(20)
                    self.answer()
                finally:
                    with lock:
                        site.at_once -= 1

            def answer(self) -> None:
                if self.path == "/old":
                    self.send_response(302)
                    self.send_header("Location", "/1")
                    self.end_headers()
                elif self.path == "/broken":
                    self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
                elif self.path in ODD or self.path[1:].isdigit():
                    page = int(self.path[1:]) if self.path[1:].isdigit() else 0
                    ring = "".join(f'<a href="/{(page + step) % PAGES + 1}">on</a>' for step in (0, 1, 7))
                    self.send_response(200)
                    self.send_header("Content-Type", "text/plain" if self.path == "/text" else "text/html")
                    self.end_headers()
                    self.wfile.write(ODD.get(self.path, f'{ring}<a href="/">home</a>').encode())
                else:
                    self.send_error(404)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.go.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def crawl(cluster: bigm.Cluster, site: Site, n: int = 2, *, at_once: int = 5, most: int = 1000) -> crawler.Crawl:
    machines = cluster.start(n, services={"Fetcher": crawler.Fetcher()})
    cluster.wait(machines)
    return crawler.Crawl(machines, site.url, at_once=at_once, most=most)


def expected(site: Site) -> set[str]:
    return {site.url + path for path in ["", "gone", "old", "text", "broken", *map(str, range(1, PAGES + 1))]}


@pytest.mark.parametrize("system", ["local", "inprocess"])
def test_it_fetches_each_page_once_and_names_the_dead_links(system: str, site: Site):
    shown = run_example("crawler", site.url, system=system)
    *dead, last = shown.stdout.splitlines()
    assert [
        f"--- {site.url}broken (no answer of HTTP, but b'SSH-2.0-OpenSSH', linked from {site.url})",
        f"404 {site.url}gone (Not Found, linked from {site.url})",
    ] == dead
    assert last.startswith(f"{PAGES + 5} pages, 2 of them dead, 2 machines, ")
    assert {1} == set(site.hits.values())
    assert expected(site) | {site.url + "robots.txt"} == {site.url + path[1:] for path in site.hits}


def test_each_machine_fetches_so_many_pages_at_a_time_and_no_more(cluster: bigm.Cluster, site: Site):
    crawling = crawl(cluster, site, 1, at_once=2)
    site.slow |= {"/1", "/2"}  # what the first page links to first

    async def go_when_both_wait() -> None:
        running = asyncio.ensure_future(crawling.run())
        while not (site.hits["/1"] and site.hits["/2"]):
            await asyncio.sleep(0.01)  # the server runs in threads, and cannot wake this loop
        site.go.set()
        await running

    asyncio.run(asyncio.wait_for(go_when_both_wait(), 20))
    assert expected(site) == {page.url for page in crawling.pages}
    assert 2 == site.most_at_once


def test_it_stops_at_the_most_pages(cluster: bigm.Cluster, site: Site):
    crawling = crawl(cluster, site, most=17)
    asyncio.run(crawling.run())
    assert 17 == len(crawling.pages) == sum(site.hits.values()) - 1


def test_what_a_lost_machine_was_fetching_is_fetched_by_another(cluster: bigm.Cluster, faults, site: Site):
    crawling = crawl(cluster, site, 2)
    site.slow.add("/")

    async def lose_one() -> None:
        running = asyncio.ensure_future(crawling.run())
        while not site.hits["/"]:
            await asyncio.sleep(0.01)  # as above
        await asyncio.to_thread(faults.kill, crawling.machines[0])
        site.go.set()
        await running

    asyncio.run(asyncio.wait_for(lose_one(), 20))
    assert expected(site) == {page.url for page in crawling.pages}
    assert 2 == site.hits["/"], "the machine that was killed, and another"


def test_without_any_machine_left_it_says_why(cluster: bigm.Cluster, faults, site: Site):
    crawling = crawl(cluster, site, 1)
    site.slow.add("/")

    async def lose_all() -> None:
        running = asyncio.ensure_future(crawling.run())
        while not site.hits["/"]:
            await asyncio.sleep(0.01)  # as above
        await asyncio.to_thread(faults.kill, crawling.machines[0])
        await running

    with pytest.raises(bigm.MachineStopped, match="m0"):
        asyncio.run(asyncio.wait_for(lose_all(), 20))


def test_a_server_that_does_not_answer_is_a_dead_link(cluster: bigm.Cluster, site: Site, monkeypatch):
    """On machines that are processes the patience is the program's own, of ten seconds."""
    monkeypatch.setattr(crawler, "PATIENCE", 0.2)
    crawling = crawl(cluster, site, 1)
    site.slow.add("/")
    asyncio.run(crawling.run())
    assert [(0, site.url)] == [(page.status, page.url) for page in crawling.pages]
    assert crawling.pages[0].reason.startswith("no answer within")


def test_a_site_that_is_not_there_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    shown = run_example("crawler", f"http://127.0.0.1:{port}", system="inprocess", code=1)
    assert shown.stdout.startswith(f"--- http://127.0.0.1:{port}/ (")
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(
    ("base", "link", "found"),
    [
        ("http://a/b/c", "../d?x=1#y", "http://a/d?x=1"),
        ("http://A:80/", "", "http://a:80/"),
        ("http://a", " /b ", "http://a/b"),
        ("http://a/", "//c/d", "http://c/d"),
        ("http://a/", "javascript:alert()", ""),
        ("http://a/", "http://[", ""),
        ("http://a/", "http:///x", "http://a/x"),
    ],
)
def test_a_link_has_one_form(base: str, link: str, found: str):
    assert found == crawler.absolute(base, link)


def test_pages_of_any_alphabet_are_read():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=latin-1\r\n\r\n"
    assert ("http://a/grüße",) == crawler.parse("http://a/", head + b"<a href='/gr\xfc\xdfe'>").links


def test_mistakes_are_told_before_anything_is_started():
    assert "'index.html' is no URL, such as http://127.0.0.1:8000/" in refuses("crawler", "index.html")
    assert "'file:///etc/passwd' is no URL" in refuses("crawler", "file:///etc/passwd")
    assert "invalid positive value: '0'" in refuses("crawler", "--most", "0", "http://a/")
