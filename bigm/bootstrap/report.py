"""What an interpreter is: its version, its environment markers, the wheels it takes.

The source of this module is also a program: it is executed by the interpreter in question, which may be any CPython
from 3.6 on, and uses the standard library alone. What a wheel's tags are made of is told rather than the tags
themselves, of which there are a thousand; `bigm.bundle.platforms` makes them.

Source: PEP 425, 508, 600 and 656, in the order in which `packaging.tags` prefers them. A `_manylinux` module in an
interpreter's site-packages, which may deny what its libc can, is not asked. What is said about macOS follows from the
same rules and was not tried there.
"""

import json
import os
import platform
import re
import struct
import subprocess
import sys
import sysconfig

_MANYLINUX = ("x86_64", "aarch64", "ppc64le", "s390x", "loongarch64", "riscv64")  # architectures that have it
_OLD_MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # minor version of glibc -> its name
_EXAMINED_WITHIN = 30.0  # seconds: of an interpreter on a slow network drive

# Annotations are quoted, and there is no `from __future__`, for Python 3.6: one that is too old is to say so.


def report() -> "dict[str, object]":
    """What the running interpreter is.

    Returns:
        dict: "version" ("3.11.7"), "implementation" ("cpython"), "platform" ("linux-x86_64", "musllinux-x86_64",
            "macosx-arm64"), "libc" ("glibc 2.36", "musl 1.2" or ""), "executable", "base_prefix", "venv" (it can make
            virtual environments), "markers" (PEP 508), "abis" (best first), "platforms" (tags of wheels, best first).
    """
    system, machine = platform.system(), _machine()
    glibc, musl = (_glibc(), _musl(sys.executable)) if system == "Linux" else (None, None)
    if system == "Darwin":
        name = f"macosx-{machine}"
        platforms = mac_platforms(_mac_version(), machine)
    else:
        name = f"{'musllinux' if musl and not glibc else system.lower()}-{machine}"
        platforms = linux_platforms(machine, glibc, musl)
    libc = [f"{kind} {of[0]}.{of[1]}" for kind, of in (("glibc", glibc), ("musl", musl)) if of]
    return {
        "version": platform.python_version(),
        "implementation": sys.implementation.name,
        "platform": name,
        "libc": "".join(libc),
        "executable": sys.executable,
        "base_prefix": sys.base_prefix,
        "venv": _can_make_environments(),
        "markers": markers(),
        "abis": _abis(),
        "platforms": platforms,
    }


def examine(python: str) -> "dict[str, object]":
    """Execute an interpreter and have it report; its variables and site-packages have no part in it.

    Args:
        python: path of what looks like an interpreter. Those of pyenv, for one, may be none.
    Returns:
        dict: as of `report`, and "path", which is *python*; where it reports nothing, "path" and "error" alone.
    """
    spec = globals()["__spec__"]
    source = spec.loader.get_data(spec.origin).decode("utf-8")  # on a machine it lies in a zip
    try:
        answer = subprocess.run(
            [python, "-I", "-S", "-B", "-c", source],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_EXAMINED_WITHIN,
        )
        said = answer.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if answer.returncode:
            return {"path": python, "error": said or f"it exits with {answer.returncode}"}
        found = json.loads(answer.stdout.decode("ascii"))
        if isinstance(found, dict) and "markers" in found:
            return dict(found, path=python)
        return {"path": python, "error": "it reports something else"}
    except subprocess.TimeoutExpired:
        return {"path": python, "error": f"it does not report within {_EXAMINED_WITHIN:g} s"}
    except OSError as error:
        return {"path": python, "error": error.strerror or str(error)}
    except ValueError:  # it may have failed all the same: an agent collects its children, and their exit codes
        return {"path": python, "error": said or "it reports something else"}


def markers() -> "dict[str, str]":
    """The environment markers of PEP 508 for the running interpreter."""
    version = sys.implementation.version
    text = ".".join(map(str, version[:3]))
    if version.releaselevel != "final":
        text += version.releaselevel[0] + str(version.serial)
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": text,
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "sys_platform": sys.platform,
    }


def linux_platforms(
    machine: str, glibc: "tuple[int, int] | None" = None, musl: "tuple[int, int] | None" = None
) -> "list[str]":
    """Platform tags of the wheels for a Linux, best first.

    Args:
        machine: architecture, "x86_64".
        glibc: major and minor version of its glibc, or None.
        musl: the same of its musl, or None.
    """
    found = []
    if glibc and machine in _MANYLINUX:
        oldest = 5 if machine == "x86_64" else 17
        for minor in range(glibc[1], oldest - 1, -1):
            found.append(f"manylinux_{glibc[0]}_{minor}_{machine}")
            if minor in _OLD_MANYLINUX:
                found.append(f"{_OLD_MANYLINUX[minor]}_{machine}")
    if musl:
        found += [f"musllinux_{musl[0]}_{minor}_{machine}" for minor in range(musl[1], -1, -1)]
    return [*found, f"linux_{machine}"]


def mac_platforms(version: "tuple[int, int]", machine: str) -> "list[str]":
    """Platform tags of the wheels for a macOS, best first.

    Args:
        version: its major and minor version, from (10, 4) on.
        machine: "arm64" or "x86_64".
    """
    intel = ["x86_64", "intel", "fat64", "fat3", "universal2", "universal"]
    formats = intel if machine == "x86_64" else [machine, "universal2"]
    news = [(major, 0) for major in range(version[0], 10, -1)]
    olds = [(10, minor) for minor in range(16 if news else version[1], 3, -1)]
    found = [f"macosx_{major}_{minor}_{form}" for major, minor in news for form in formats]
    if news and machine == "arm64":
        formats = ["universal2"]  # the other half of such a file may be as old as this
    return found + [f"macosx_{major}_{minor}_{form}" for major, minor in olds for form in formats]


def _machine() -> str:
    """The architecture this interpreter was built for, which on a 64-bit kernel may be a 32-bit one."""
    if platform.system() == "Darwin":
        return platform.mac_ver()[2]
    machine = sysconfig.get_platform().partition("-")[2].replace("-", "_").replace(".", "_")
    if sys.maxsize <= 2**32:
        return {"x86_64": "i686", "aarch64": "armv8l"}.get(machine, machine)
    return machine


def _abis() -> "list[str]":
    """ABI tags, best first: "cp311"; with a letter for a build without the GIL or for debugging."""
    if sys.implementation.name != "cpython":
        return []
    free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    plain = f"cp{sys.version_info[0]}{sys.version_info[1]}{free}"
    pymalloc = "m" if sys.version_info < (3, 8) else ""
    return [plain + "d" + pymalloc, plain] if sysconfig.get_config_var("Py_DEBUG") else [plain + pymalloc]


def _glibc() -> "tuple[int, int] | None":
    """Major and minor version of the glibc in use, or None."""
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):  # another libc does not know the question
        return None
    return _pair(re.match(r"glibc (\d+)\.(\d+)", text))


def _musl(executable: str) -> "tuple[int, int] | None":
    """Major and minor version of the musl that loads *executable*, or None; the loader itself tells."""
    loader = _elf_loader(executable)
    if "musl" not in os.path.basename(loader):
        return None
    try:
        answer = subprocess.run([loader], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _pair(re.match(r"musl.*\nVersion (\d+)\.(\d+)", answer.stderr.decode("ascii", "replace")))


def _pair(found: "re.Match[str] | None") -> "tuple[int, int] | None":
    return (int(found.group(1)), int(found.group(2))) if found else None


def _elf_loader(executable: str) -> str:
    """Path of the loader that a 64-bit ELF file names, or ""."""
    try:
        with open(executable, "rb") as file:
            head = file.read(64)
            if head[:5] != b"\x7fELF\x02":
                return ""
            order = "<" if head[5] == 1 else ">"
            start = struct.unpack_from(order + "Q", head, 32)[0]
            size, count = struct.unpack_from(order + "HH", head, 54)
            for n in range(count):
                file.seek(start + n * size)
                kind, _, offset, _, _, length = struct.unpack(order + "IIQQQQ", file.read(40))
                if kind == 3:  # PT_INTERP
                    file.seek(offset)
                    return os.fsdecode(file.read(length).rstrip(b"\0"))
    except (OSError, struct.error):
        pass  # it runs all the same: a wrapper, or a file that only may be executed
    return ""


def _mac_version() -> "tuple[int, int]":
    """Major and minor version of this macOS."""
    text = platform.mac_ver()[0]
    if text.startswith("10.16"):  # what a Python says that was built with an old SDK, unless it is told not to
        code = "import platform; print(platform.mac_ver()[0])"
        environ = {"SYSTEM_VERSION_COMPAT": "0"}
        text = subprocess.check_output([sys.executable, "-sS", "-c", code], env=environ, timeout=10).decode("ascii")
    return _pair(re.match(r"(\d+)\.(\d+)", text)) or (10, 9)


def _can_make_environments() -> bool:
    try:
        import venv  # noqa: F401
    except ImportError:  # Debian has it in a package of its own
        return False
    return True


if __name__ == "__main__":
    print(json.dumps(report()))
