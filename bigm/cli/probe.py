"""Looks at a program before it is run: is it Python, and does its interpreter have bigm? Prints one JSON object.

Runs as a file of its own in the interpreter that is to run the program, so it imports nothing of bigm's but `bigm`, and
annotations and grammar that Python 3.6 has. `bigm run` calls it in place when that interpreter is its own.
"""

import sys
import tokenize


def examine(path: str) -> "tuple[str, bool]":
    """What is wrong with the text of *path*, in words, or ""; and whether it mentions bigm at all."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        return f"{path}: this is not Python: {error}", True
    except OSError as error:
        return f"cannot read {path}: {error.strerror}", True
    try:
        compile(text, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        return _shown(path, error), True
    except ValueError as error:  # null bytes, as Pythons before 3.12 say it
        return f"{path}: this is not Python: {error}", True
    return "", "bigm" in text


def _shown(path: str, error: SyntaxError) -> str:
    where = f"{path}:{error.lineno}: {error.msg}"
    line = (error.text or "").rstrip()
    if not line or "\0" in line:
        return where
    stripped = line.lstrip()
    column = max((error.offset or 1) - 1 - (len(line) - len(stripped)), 0)
    return f"{where}\n    {stripped}\n    {' ' * column}^"


if __name__ == "__main__":
    import json
    import os

    program = sys.argv[1]
    sys.path[0] = os.path.dirname(os.path.abspath(program)) if program else os.getcwd()
    try:
        from bigm import __version__ as version
    except ImportError:
        version = ""
    problem, mentions = examine(program) if program else ("", True)
    minor = "{}.{}".format(*sys.version_info)
    print(json.dumps({"bigm": version, "python": minor, "problem": problem, "mentions": mentions}))
