"""Prints what documents say of the command, the keys and a machine's life: `python -m bigm.cli.docs`, in the
project's folder.

Rewrites `bigm.yaml.example` and docs/lifecycle.md, and in docs/ every block between `<!-- NAME -->` and
`<!-- end of NAME -->`. A test fails when one of them is stale.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer.main

from bigm.cli.app import app
from bigm.cli.lifecycle import lifecycle_page
from bigm.cli.tables import as_written
from bigm.config import BYTES, SECONDS, TEXT, TRUTH, general_keys, system_keys
from bigm.errors import PermissionDenied
from bigm.systems.ec2.faults import TABLE, Fault
from bigm.systems.ec2.policy import NEEDS, Need

_WIDTH = 80
PAGES = ("docs/cli.md", "docs/configuration.md", "docs/ec2.md", "docs/troubleshooting.md")
LIFECYCLE = "docs/lifecycle.md"
EXAMPLE = "bigm.yaml.example"


def files(folder: Path) -> dict[Path, str]:
    """Every file that is printed, with what it should hold."""
    pages = {folder / name: fill((folder / name).read_text(encoding="utf-8")) for name in PAGES}
    return {**pages, folder / LIFECYCLE: lifecycle_page(), folder / EXAMPLE: example()}


def fill(page: str) -> str:
    """A page with its blocks printed anew."""
    for name, content in _BLOCKS.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, mark, rest = page.partition(start)
        if mark:
            page = f"{before}{start}{content()}\n{end}{rest.partition(end)[2]}"
    return page


def help_pages() -> str:
    """The help of every command, as it is shown 80 columns wide."""
    return "\n\n".join(f"## {name}\n\n```text\n{text}\n```" for name, text in _helps(_command(), None, "bigm"))


def key_table(beginning: str = "") -> str:
    """The table of keys, or of those that begin so."""
    rows = ["| key | variable | default | what it is | value |", "| --- | --- | --- | --- | --- |"]
    for key in [*general_keys(), *system_keys()]:
        if not key.name.startswith(beginning):
            continue
        default, words = as_written(key, key.default) or "none", key.kind.unit or key.kind.words
        rows.append(f"| `{key.name}` | `{key.variable}` | {default} | {key.what} | {words} |")
    return "\n".join(rows)


def action_table() -> str:
    """The table of what AWS has to allow."""
    rows = ["| action | on | for | without it |", "| --- | --- | --- | --- |"]
    by_action: dict[str, list[Need]] = {}
    for need in NEEDS:
        by_action.setdefault(need.action, []).append(need)
    for action, found in by_action.items():
        first = found[0]
        when = f"; with `{first.option}`" if first.option else f"; not with `{first.unless}`" if first.unless else ""
        scopes = "; ".join(need.scope.what for need in found)
        rows.append(f"| `{action}` | {scopes} | {first.purpose}{when} | {first.without} |")
    return "\n".join(rows)


def fault_table() -> str:
    """The table of what AWS answers when it refuses something."""
    rows = ["| AWS says | it means | what to try | exit code |", "| --- | --- | --- | --- |"]
    codes: dict[tuple[str, str, int], list[str]] = {}
    for code, fault in TABLE.items():
        told = ("a permission is lacking, which is named", "allow it; `bigm doctor ec2 --policy` prints all")
        text, hint = told if fault == Fault(PermissionDenied) else (fault.text or "what it adds in words", fault.hint)
        codes.setdefault((text, hint, fault.kind.exit_code), []).append(code)
    for (text, hint, status), found in codes.items():
        rows.append(f"| {', '.join(f'`{code}`' for code in found)} | {text} | {hint} | {status} |")
    return "\n".join(rows)


def example() -> str:
    """The text of bigm.yaml.example: every key, with its default."""
    lines = [*_EXAMPLE_HEAD.splitlines(), ""]
    section = ""
    for key in [*general_keys(), *system_keys()]:
        before, _, name = key.name.rpartition(".")
        if before != section:
            section = before
            lines += [f"# {_SECTIONS.get(before, f'The system {before!r}.')}", f"{before}:"]
        indent = "  " if section else ""
        words = "" if key.kind in (TEXT, TRUTH, SECONDS, BYTES) else f" ({key.kind.words})"
        lines += textwrap.wrap(key.what + words, 100, initial_indent=indent + "# ", subsequent_indent=indent + "# ")
        lines += [f"{indent}{name}: {as_written(key, key.default)}".rstrip(), ""]
    return "\n".join([*lines, _EXAMPLE_END])


def _command() -> Any:
    return typer.main.get_command(app)


def _helps(command: Any, parent: Any, name: str) -> Iterator[tuple[str, str]]:
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=_WIDTH, **command.context_settings
    )
    yield context.command_path, command.get_help(context)
    for child, inner in getattr(command, "commands", {}).items():
        yield from _helps(inner, context, child)


_BLOCKS: dict[str, Callable[[], str]] = {
    "commands": help_pages,
    "keys": key_table,
    "options of ec2": lambda: key_table("ec2."),
    "actions": action_table,
    "faults of ec2": fault_table,
}
_SECTIONS = {
    "bundle": "What is brought to machines. Docs: docs/bundles.md.",
    "timeouts": "Every limit in time. Docs: docs/lifecycle.md.",
    "ec2": "The system 'ec2': instances in your AWS account. Docs: docs/ec2.md.",
    "ssh": "The system 'ssh': hosts that you reach by ssh. Docs: docs/ssh.md.",
}
_EXAMPLE_HEAD = """\
# Every setting of bigm, with its default; printed by `python -m bigm.cli.docs`.
#
# Copy what you want to change to bigm.yaml in your project's folder, or to ~/.bigm/config.yaml for all your projects.
# Arguments of bigm.start, flags of `bigm run` and BIGM_* variables win over files; `bigm config show` tells what holds.
# Times may be written as 90, 90 s, 10 min or 24 h, sizes as 1048576 or 64 MiB.
# A key without a value counts as not given."""
_EXAMPLE_END = """\
# Named sets of keys that win over the plain ones of the same file: `bigm run --profile big`, or BIGM_PROFILE=big.
profiles:
  big:
    nmach: 50
    procs: all
"""


def main() -> None:
    """Rewrite the files in the working folder."""
    for path, text in files(Path.cwd()).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"rewrote {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
