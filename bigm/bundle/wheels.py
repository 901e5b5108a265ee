"""Wheels made again of what is installed: for machines of another platform, where the index need not be asked for them.

What is made so is exactly what is installed here, and came from wherever it came. It can be done for what is the same
on every platform: distributions of Python files alone, and the metadata of projects whose modules travel otherwise.
"""

from __future__ import annotations

import base64
import email.parser
import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from bigm.bundle.conflicts import metadata_of
from bigm.bundle.environment import Installed

_DATE = (1980, 1, 1, 0, 0, 0)
_NOT_PACKED = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}  # what installers note beside a wheel's own
_DESCRIBING = {"METADATA", "WHEEL", "entry_points.txt", "top_level.txt"}


def is_portable(each: Installed) -> bool:
    """Whether a distribution is the same on all platforms, and can be made a wheel of again."""
    if each.in_place:
        return True
    tags = _tags(each)
    return bool(tags) and all(tag.endswith("-none-any") for tag in tags) and None not in _files(each)


def repack(each: Installed, folder: Path) -> Path:
    """Make the wheel of a distribution that `is_portable`; the same bytes each time.

    Args:
        folder: where the wheel is put.
    Raises:
        OSError: a file is gone, or cannot be written.
    """
    described = metadata_of(each)
    stem = f"{described.name.replace('-', '_').replace('.', '_')}-{described.version.replace('-', '_')}"
    info = f"{stem}.dist-info"
    tags = ["py3-none-any"] if each.in_place else _tags(each)
    path = folder / f"{stem}-{_compressed(tags)}.whl"
    content = {name: os.path.join(each.site, name) for name in _files(each) if name} if not each.in_place else {}
    own = os.path.basename(each.folder)
    for name in sorted(os.listdir(each.folder)):
        if name not in _NOT_PACKED and (not each.in_place or name in _DESCRIBING):
            content[f"{own}/{name}"] = os.path.join(each.folder, name)
    record = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        for name, source in sorted(content.items()):
            if os.path.isdir(source):
                continue
            data = _wheel_file(tags) if each.in_place and name == f"{own}/WHEEL" else Path(source).read_bytes()
            name = f"{info}{name[len(own) :]}" if name.startswith(f"{own}/") else name
            record.append(f'"{name}",sha256={_hash(data)},{len(data)}\n')
            wheel.writestr(_entry(name, os.access(source, os.X_OK)), data)
        wheel.writestr(_entry(f"{info}/RECORD", False), "".join(record) + f"{info}/RECORD,,\n")
    return path


def _files(each: Installed) -> list[str | None]:
    """Paths of its files below site-packages, but those in its .dist-info; None among them: some lie elsewhere."""
    return list(_listed(each))


def _listed(each: Installed) -> Iterator[str | None]:
    own = os.path.basename(each.folder) + "/"
    for path, _ in each.files():
        if path.startswith("../../../bin/") and b"_scripts]" in each.read("entry_points.txt"):
            continue  # installers make commands anew
        if path.startswith("../") or os.path.isabs(path):
            yield None
        elif not path.startswith(own) or path.count("/") > 1:  # licenses/, sboms/
            yield path


def _tags(each: Installed) -> list[str]:
    found = email.parser.HeaderParser().parsestr(each.read("WHEEL").decode("utf-8", "replace"))
    return [str(tag) for tag in found.get_all("Tag", [])]


def _compressed(tags: list[str]) -> str:
    """Tags as a file name has them: "py2.py3-none-any"."""
    parts = zip(*(tag.split("-") for tag in tags), strict=True)
    return "-".join(".".join(dict.fromkeys(part)) for part in parts)


def _wheel_file(tags: list[str]) -> bytes:
    return (
        "Wheel-Version: 1.0\nGenerator: bigm\nRoot-Is-Purelib: true\n" + "".join(f"Tag: {t}\n" for t in tags)
    ).encode()


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")


def _entry(name: str, executable: bool) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    return entry
