"""What the driver sends to an instance: boot as a program, and the agent as a zip of readable source.

A machine that is to take a bundle gets an extension besides: those modules that this needs and the agent has not.

All are deterministic: the same bigm makes the same bytes, so the digest may ride in the launch.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Optional

import bigm
from bigm.bootstrap.records import Launch

BOOT_LIMIT = 4000  # bytes, gzipped, of boot with its certificates: user data has 16 KB, and more to say than this
ZIP_LIMIT = 64 << 10  # bytes: sent to each instance before anything can begin
_ENTRY = "bigm.bootstrap.machine"
_EXTENSION = "bigm.bootstrap.installer"
_LEFT_OUT = ("bigm.rpc.byvalue", "bigm.rpc.unpicklable")  # for what is no record: an agent sends nothing else
_DATE = (1980, 1, 1, 0, 0, 0)


@functools.lru_cache(maxsize=1)
def agent_zip() -> bytes:
    """The agent and what it stands on: a zip that Python can import from, compressed as a whole.

    One stream over all files is a sixth smaller than a stream for each.
    """
    return zlib.compress(_zip(_files(_ENTRY), zipfile.ZIP_STORED), 9)


def agent_digest() -> str:
    """sha256 of `agent_zip`, hexadecimal, for `Launch.agent_digest`."""
    return hashlib.sha256(agent_zip()).hexdigest()


@functools.lru_cache(maxsize=1)
def extension_zip() -> bytes:
    """What `Agent.extend` is told the digest of: a zip to import from, which travels to the agent as a part."""
    files = sorted({*_files(_EXTENSION)} - {*_files(_ENTRY)})
    return _zip(files, zipfile.ZIP_DEFLATED)


def extension_digest() -> str:
    """sha256 of `extension_zip`, hexadecimal."""
    return hashlib.sha256(extension_zip()).hexdigest()


def boot_program(launch: Launch) -> str:
    """Source of a program that is boot with *launch* in it: for user data, a pipe, or `python3 -I -S -c`."""
    return f"{_stripped('bootstrap/boot.py')}\nboot(json.loads({launch.to_json()!r}))\n"


def instance_program(launch: Launch) -> str:
    """Source of what a cloud instance runs: boot with *launch*, on the address that its metadata service tells."""
    parts = _stripped("bootstrap/boot.py"), _stripped("bootstrap/oninstance.py")
    return "\n".join([*parts, f"boot(prepare(json.loads({launch.to_json()!r})))\n"])


def disks_program(expected: int) -> str:
    """Source of what a cloud instance runs before, as root: makes one file system of its data disks.

    Args:
        expected: how many are attached by the launch, besides those that are the instance's own.
    """
    return f"{_stripped('bootstrap/disks.py')}\nmain({expected})\n"


def host_program(request: Mapping[str, object]) -> str:
    """Source of a program that is `bigm.bootstrap.onhost` with *request* in it; where it starts agents, with boot."""
    if request["do"] == "start":
        request = {**request, "boot": _stripped("bootstrap/boot.py")}
    return f"{_stripped('bootstrap/onhost.py')}\nmain(json.loads({json.dumps(request)!r}))\n"


@functools.cache
def _stripped(name: str) -> str:
    """Source of a file without what only its readers need.

    Cut from the text, not printed from its tree: what Python 3.12 prints, an older one on the host may not read.
    """
    source = _source(name).decode()
    lines = source.splitlines()
    dropped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            dropped.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip()
        if token.type == tokenize.NL and not lines[row - 1].strip():
            dropped.add(row)
    return "\n".join(line for row, line in enumerate(lines, 1) if row not in dropped)


def _zip(files: Sequence[str], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=9) as archive:
        for name in files:
            entry = zipfile.ZipInfo(f"bigm/{name}", _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, _source(name), compression)
    return buffer.getvalue()


def _files(entry: str) -> list[str]:
    """The files of bigm that *entry* imports, directly or not."""
    found: set[str] = set()
    wanted = [entry]
    while wanted:
        module = wanted.pop()
        name = _file(module)
        if name is None or name in found or module in _LEFT_OUT:
            continue
        found.add(name)
        wanted.append(module.rpartition(".")[0])
        wanted += _imports(ast.parse(_source(name)))
    return sorted(found)


def _imports(tree: ast.AST) -> list[str]:
    """What may be a module in the imports of a source, at whatever depth they stand; not those for type checkers."""
    found: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            found += _imports(node)
    return found


def _file(module: str) -> Optional[str]:
    """Path of a module below the package, or None when it is none of ours."""
    package, *parts = module.split(".")
    if package != "bigm":
        return None
    for name in ("/".join(parts) + ".py", "/".join([*parts, "__init__.py"])):
        if os.path.isfile(os.path.join(_root(), name)):
            return name
    return None


def _source(name: str) -> bytes:
    with open(os.path.join(_root(), name), "rb") as file:
        return file.read()


def _root() -> str:
    return os.path.dirname(os.path.abspath(bigm.__file__))
