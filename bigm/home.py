"""Where bigm keeps what is this user's: the configuration, what runs leave behind, and what is cached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bigm.errors import ConfigError


def home_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """bigm's folder of this user: `BIGM_HOME`, else `~/.bigm`. It need not exist."""
    try:
        return Path(environ.get("BIGM_HOME") or "~/.bigm").expanduser().absolute()
    except RuntimeError as error:  # a user without a home, as in many containers
        raise ConfigError(f"this user has no home folder: {error}", hint="set HOME or BIGM_HOME") from error
