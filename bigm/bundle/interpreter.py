"""Which paths belong to a Python and its installed distributions, and which are the user's own."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from dataclasses import dataclass

from bigm.bundle.bundle import SITE, STDLIB

_PACKAGES = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True)
class Interpreter:
    """The folders of one Python. All are absolute; each is held under its real path too.

    Args:
        stdlib: where its standard library is, a zip file among them.
        site: its folders of installed distributions, those of the user and of its base interpreter among them.
        commands: folders of commands that it has installed.
    """

    stdlib: tuple[str, ...]
    site: tuple[str, ...]
    commands: tuple[str, ...]

    @classmethod
    def current(cls) -> Interpreter:
        """The one that runs this process."""
        paths = sysconfig.get_paths()
        library = paths["stdlib"]
        zipped = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
        stdlib = [library, sysconfig.get_config_var("DESTSHARED") or library, os.path.join(library, os.pardir, zipped)]
        sites = [paths["purelib"], paths["platlib"], *site.getsitepackages()]
        if site.ENABLE_USER_SITE:
            sites.append(site.getusersitepackages())
        for base in {sys.base_prefix, sys.base_exec_prefix} - {sys.prefix}:
            sites += site.getsitepackages([base])
        commands = [paths["scripts"], os.path.join(site.getuserbase(), "bin"), "/usr/bin", "/usr/local/bin"]
        return cls(_both(stdlib), _both(sites), _both(commands))

    def place(self, path: str) -> tuple[str, str] | None:
        """Where *path* lies: (SITE, path within site-packages), (STDLIB, ""), or None: it is the user's.

        Args:
            path: absolute.
        """
        for folder in self.site:
            if is_within(path, folder):
                return SITE, path[len(folder) :].lstrip("/")
        for folder in self.stdlib:
            if is_within(path, folder) and _PACKAGES.isdisjoint(path[len(folder) :].split("/")):
                return STDLIB, ""
        return None

    def owns(self, path: str) -> bool:
        """Whether *path* is the interpreter's, or in a folder of commands that it has installed."""
        return self.place(path) is not None or self.is_command(path)

    def is_command(self, path: str) -> bool:
        """Whether *path* is a folder of installed commands, or in it."""
        return any(is_within(path, folder) for folder in self.commands)


def is_within(path: str, folder: str) -> bool:
    """Whether *path* is *folder* or lies in it. Both absolute and normal; links are not looked at."""
    return path == folder or path.startswith(folder if folder.endswith("/") else folder + "/")


def _both(folders: list[str]) -> tuple[str, ...]:
    """Each of *folders* as it is named and as it really is, without doubles."""
    names = [os.path.normpath(folder) for folder in folders]
    return tuple(dict.fromkeys([*names, *map(os.path.realpath, names)]))
