"""The system that a command is about: one that is named on its line, or the configured one."""

from __future__ import annotations

import json
import os

from bigm.config import FLAGS_VARIABLE, Settings, load
from bigm.systems.base import System, make_system


def chosen(name: str | None) -> tuple[Settings, System]:
    """Settings as `bigm run --system NAME` has them, and the system, not opened.

    Raises:
        ConfigError: there is no such system, or a setting is wrong.
    """
    settings = load(environ={**os.environ, FLAGS_VARIABLE: json.dumps({"system": name} if name else {})})
    return settings, make_system(settings.system, settings.systems)
