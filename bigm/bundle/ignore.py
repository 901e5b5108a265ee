"""Patterns of a .gitignore, as git reads them: which entries of a folder are named by a list of lines.

Entry by entry, as git does it while it walks: a pattern that names a folder says nothing of what is in it. That is the
walker's affair, which does not enter a folder that is left out. pathspec answers for whole paths instead (everything
below a folder matches what the folder matches), so that no folder could be passed over before a later `!` line for
something in it is known to be void; and importing it takes longer than hashing a thousand files.

Source: gitignore(5) and git's wildmatch.c; what both say is compared with git itself in tests/bundle/test_ignore.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "digit": "0-9",
    "lower": "a-z",
    "space": "\\s",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
_CLASS = re.compile(r"\[:(\w+):\]")


class _Pattern(NamedTuple):
    """One line. `regex` is for the path, or for the name alone where the line has no slash but at its end."""

    regex: re.Pattern[str]
    of_path: bool
    of_folders: bool
    names: bool  # False: a line with "!"
    steps: tuple[str, ...]


class Patterns:
    """The patterns of one file or setting, relative to one folder.

    Args:
        lines: in order; the last one that matches counts. Empty ones, comments and what is no pattern are passed over.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._patterns = [pattern for line in lines if (pattern := _read(line)) is not None]

    def __repr__(self) -> str:
        return f"<Patterns: {len(self._patterns)}>"

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def names(self, path: str, folder: bool) -> bool | None:
        """Whether these patterns name an entry: True, False (a line with "!" does), None (they do not mention it).

        Args:
            path: relative to the folder the patterns are for, with "/".
            folder: it is one.
        """
        name = path.rpartition("/")[2]
        for pattern in reversed(self._patterns):
            if (folder or not pattern.of_folders) and pattern.regex.fullmatch(path if pattern.of_path else name):
                return pattern.names
        return None

    def lead_into(self, folder: str) -> bool:
        """Whether a pattern with a slash may name something in *folder*, a relative path."""
        steps = folder.split("/")
        return any(pattern.names and pattern.of_path and _lead(pattern.steps, steps) for pattern in self._patterns)


def _lead(pattern: tuple[str, ...], steps: list[str]) -> bool:
    for wanted, step in zip(pattern, steps, strict=False):
        if _is_any(wanted):
            return True
        if not re.fullmatch(_of_step(wanted), step, re.DOTALL):
            return False
    return len(pattern) > len(steps)


def _read(line: str) -> _Pattern | None:
    text = _without_spaces(line.rstrip("\r\n"))
    if text.startswith("#"):
        return None
    names = not text.startswith("!")
    text = text if names else text[1:]
    of_folders = text.endswith("/")
    text = text[:-1] if of_folders else text
    of_path = "/" in text
    text = text.removeprefix("/")
    if not text:
        return None
    steps = tuple(text.split("/"))
    try:
        regex = re.compile(_of_steps(steps) if of_path else _of_step(text), re.DOTALL)
    except (re.error, _NoPattern):
        return None  # as git: a range that is none names nothing
    return _Pattern(regex, of_path, of_folders, names, steps)


def _without_spaces(line: str) -> str:
    """Spaces at the end do not count, unless a backslash stands before them."""
    end = position = 0
    while position < len(line):
        if line[position] == "\\":
            position += 1
            end = position + 1
        elif line[position] != " ":
            end = position + 1
        position += 1
    return line[:end]


def _is_any(step: str) -> bool:
    return len(step) > 1 and not step.strip("*")


def _of_steps(steps: tuple[str, ...]) -> str:
    """The expression for a whole path; `**` stands for any number of folders, at the end for all that is below."""
    found = ""
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        if _is_any(step):
            found += ".+" if last else "(?:.+/)?"
        else:
            found += _of_step(step) + ("" if last else "/")
    return found


class _NoPattern(Exception):
    """The text ends within a range or an escape."""


def _of_step(step: str) -> str:
    """The expression for one name: `*` and `?`, ranges, escapes."""
    found, position = "", 0
    while position < len(step):
        char = step[position]
        position += 1
        if char == "*":
            found += "[^/]*"
        elif char == "?":
            found += "[^/]"
        elif char == "[":
            text, position = _range(step, position)
            found += text
        else:
            char, position = _char(step, position - 1)
            found += re.escape(char)
    return re.sub(r"(\[\^/\]\*)+", r"[^/]*", found)  # `**` within a name is `*`: no need to try both


def _range(step: str, position: int) -> tuple[str, int]:
    """The expression for the range that begins behind the bracket before *position*, and the position behind it.

    One that runs backwards, `[b-a]`, is its first character alone, as in git.
    """
    inside, before, negated = "", "", position < len(step) and step[position] in "!^"
    position += negated
    first = position
    while position < len(step) and (step[position] != "]" or position == first):
        named = _CLASS.match(step, position)
        if named:
            if named[1] not in _CLASSES:
                raise _NoPattern
            inside += _CLASSES[named[1]]
            before, position = "", named.end()
        elif step[position] == "-" and before and step[position + 1 : position + 2] not in ("", "]"):
            last, position = _char(step, position + 1)
            inside += f"{re.escape(before)}-{re.escape(last)}" if before <= last else ""
            before = ""
        else:
            before, position = _char(step, position)
            inside += re.escape(before)
    if position == len(step):
        raise _NoPattern
    return f"(?!/)[{'^' if negated else ''}{inside}]", position + 1


def _char(step: str, position: int) -> tuple[str, int]:
    """The character at *position*, or the one that is escaped there, and the position behind it."""
    position += step[position] == "\\"
    if position == len(step):
        raise _NoPattern
    return step[position], position + 1
