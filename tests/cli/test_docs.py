"""What documents say of the command and of the keys is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bigm import errors, lifecycle
from bigm.cli.docs import EXAMPLE, LIFECYCLE, PAGES, files
from bigm.cli.lifecycle import MESSAGES

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", [*PAGES, LIFECYCLE, EXAMPLE])
def test_printed_pages_are_fresh(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stale? Run `python -m bigm.cli.docs` in the project's folder."""
    monkeypatch.setenv("COLUMNS", "200")  # the width of whoever runs this does not matter
    assert files(ROOT)[ROOT / name] == (ROOT / name).read_text()


def test_no_sentence_in_a_list_of_commands_is_cut_and_each_line_names_its_program_alike() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    lists = re.findall(r"^Commands:\n(.*?)^```", page, re.M | re.S)
    assert len(lists) == 2
    assert [] == [line for text in lists for line in text.splitlines() if line.endswith("...")]
    usages = re.findall(r"^Usage: bigm (run|bundle) \[OPTIONS\] PROGRAM", page, re.M)
    assert ["run", "bundle"] == usages


def test_every_step_of_a_start_is_shown_in_the_bootstrap_sequence() -> None:
    assert set(MESSAGES) == {action for _, actions in lifecycle.START.values() for action in actions}


def test_every_exit_code_an_error_carries_is_documented() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    documented = set(re.findall(r"^\| (\d+) \|", page, re.M))
    carried = {
        str(cls.exit_code) for cls in vars(errors).values() if isinstance(cls, type) and hasattr(cls, "exit_code")
    }
    assert carried <= documented
    assert {"2", "70", "75", "76", "77", "78", "79", "130", "143"} <= documented


def test_messages_that_troubleshooting_explains_are_messages_of_bigm() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "bigm").rglob("*.py"))
    messages = [
        text for text in re.findall(r"`([^`]+)`\*\*", page) if not text.startswith(("No such option", "cause:"))
    ]
    pieces = [
        piece.strip(" :;,")
        for text in messages
        for piece in re.split(r"\.\.\.|[;:]|machines (?=could)|service|'[^']*'|\S*[/\d]\S*|\b[Xm0]\b", text)
    ]
    assert len(messages) > 15
    of_pythons = {"invalid syntax", "cannot pickle", "No space left on device"}
    assert [] == [piece for piece in pieces if len(piece) > 6 and piece not in source and piece not in of_pythons]
    causes = re.findall(r"`cause: (\w+)`", page)
    assert set(causes) <= {cause.value for cause in lifecycle.Cause}
