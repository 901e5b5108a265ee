"""`bigm doctor` says what is wrong before a machine is started, and its exit code whether anything certainly fails."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commanding import Said, bigm_line, run_bigm

from bigm.errors import TransientError
from bigm.systems.local import Local
from bigm.systems.ssh.system import Ssh
from screens import Screen

NO_TLS_1_3 = """
openssl_conf = of_this_computer
[of_this_computer]
ssl_conf = ssl
[ssl]
system_default = policy
[policy]
MaxProtocol = TLSv1.2
"""


def finding(said: Said, check: str) -> dict[str, str]:
    (found,) = [each for each in json.loads(said.out) if each["check"] == check]
    return dict(found)


def test_a_computer_in_order_is_said_to_be_and_nothing_is_changed(command: Callable[..., Said], home: Path) -> None:
    home.rmdir()
    said = command("doctor")
    assert (0, "") == (said.status, said.err), said
    head, titles, *rows = said.out.splitlines()
    assert ("this computer", ["CHECK", "STATE", "FOUND"]) == (head, titles.split())
    assert {"Python", "TLS 1.3", "open files", "loopback", "ptrace"} <= {row.split("  ")[1] for row in rows}
    assert not home.exists()


def test_as_json_it_tells_all_it_knows(command: Callable[..., Said]) -> None:
    said = command("doctor", "inprocess", "--json")
    found = finding(said, "loopback")
    assert {"subject", "check", "state", "text", "hint"} == set(found)
    assert ("this computer", "ok") == (found["subject"], found["state"])
    assert "ptrace" not in said.out, "its machines are no processes"


def test_a_policy_that_forbids_tls_1_3_fails(work: Path) -> None:
    (work / "openssl.cnf").write_text(NO_TLS_1_3)
    said = run_bigm("doctor", "--json", OPENSSL_CONF=str(work / "openssl.cnf"))
    found = finding(said, "TLS 1.3")
    assert (75, "failed") == (said.status, found["state"])
    assert "OPENSSL_CONF" in found["hint"]


def limited(soft: int) -> Said:
    done = subprocess.run(
        bigm_line("doctor", "--json"),
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft)),
    )
    return Said(done.returncode, done.stdout, done.stderr)


def test_a_limit_of_open_files_warns_of_few_machines_and_fails_for_none(home: Path) -> None:
    said = limited(128)
    found = finding(said, "open files")
    assert (0, "warning", "128, enough for about 12 machines") == (said.status, found["state"], found["text"])
    assert found["hint"] == "raise the limit: ulimit -n 128"
    said = limited(60)
    assert (75, "failed") == (said.status, finding(said, "open files")["state"])


def test_a_home_that_cannot_be_written_to_is_a_warning_where_nothing_is_bundled(work: Path) -> None:
    (work / "file").write_text("")
    said = run_bigm("doctor", "local", "--json", BIGM_HOME=str(work / "file" / "home"))
    found = finding(said, "bigm's folder")
    assert (0, "warning") == (said.status, found["state"])
    assert "BIGM_HOME names another" in found["hint"]


@pytest.mark.parametrize(("text", "words"), [('__version__ = "1.6.0"', "not 1.6.0"), ("", "not an unknown one")])
def test_a_pex_that_bigm_does_not_know_is_a_warning_on_this_computer(work: Path, text: str, words: str) -> None:
    (work / "old/pex").mkdir(parents=True)
    (work / "old/pex/__init__.py").write_text("")
    (work / "old/pex/version.py").write_text(text)
    path = os.pathsep.join(filter(None, [str(work / "old"), os.environ.get("PYTHONPATH")]))
    said = run_bigm("doctor", "local", "--json", PYTHONPATH=path)
    found = finding(said, "pex")
    assert (0, "warning", True) == (said.status, found["state"], found["text"].endswith(words))
    assert "pip install" in found["hint"]


def test_a_system_that_does_not_exist_and_bad_settings_are_mistakes(command: Callable[..., Said], work: Path) -> None:
    said = command("doctor", "lokal")
    assert (2, "bigm: there is no system called 'lokal'") == (said.status, said.err.splitlines()[0])
    (work / "bigm.yaml").write_text("nmach: none\n")
    said = command("doctor")
    assert (2, "bigm.yaml:1: nmach must be") == (said.status, said.err.partition("work/")[2][:26])


@pytest.mark.parametrize("line", ["doctor", "doctor ssh", "gc"])
def test_hosts_may_be_named_on_the_line(
    command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    looked: list[str] = []

    def visit(self: Ssh) -> None:
        looked.extend(self._slots)
        raise TransientError("out of reach")

    monkeypatch.setattr(Ssh, "_visit", visit)
    assert 75 == command(*line.split(), "--hosts", "a,b*2").status
    assert ["a", "b"] == looked
    assert 2 == command("doctor", "local", "--hosts", "a").status
    assert 2 == command("gc", "--system", "local", "--hosts", "a").status


def test_what_a_system_cannot_find_out_is_a_finding_too(
    command: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def doctor(self: Local) -> None:
        from bigm.errors import CredentialsError

        raise CredentialsError("no credentials were found", hint="log in")

    monkeypatch.setattr(Local, "doctor", doctor)
    said = command("doctor", "local")
    assert 75 == said.status
    assert "failed  no credentials were found; log in" in said.out


def test_on_a_terminal_it_is_coloured_and_fits(home: Path) -> None:
    screen = Screen(bigm_line("doctor"))
    try:
        assert 0 == screen.end()
    finally:
        screen.close()
    assert re.search(r"\x1b\[32mok *\x1b\[0m  127.0.0.1 answers", screen.seen)
    lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", screen.seen).split("\r\n")
    assert max(map(len, lines)) <= 80
