"""The system that a command is about: one that is named on its line, or the configured one."""

from __future__ import annotations

import json
import os

from bigm.cli.arguments import system_of
from bigm.config import FLAGS_VARIABLE, Settings, load
from bigm.systems.base import System, make_system


def chosen(name: str | None, hosts: str | None = None, regions: str | None = None) -> tuple[Settings, System]:
    """Settings as `bigm run --system NAME --hosts A,B` has them, and the system, not opened.

    Args:
        name: of the system; None: the configured one.
        hosts: what `--hosts` says.
        regions: what `--region` says.
    Raises:
        ConfigError: there is no such system, it has no hosts, or a setting is wrong.
    """
    given = {"system": system_of(name or None, hosts, regions), "ssh.hosts": hosts, "ec2.regions": regions}
    flags = {key: value for key, value in given.items() if value is not None}
    settings = load(environ={**os.environ, FLAGS_VARIABLE: json.dumps(flags)})
    return settings, make_system(settings.system, settings.systems)
