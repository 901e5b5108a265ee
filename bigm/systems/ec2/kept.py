"""Answers of AWS that change seldom, kept in bigm's home: files of JSON, each of one region."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

logger = logging.getLogger("bigm.ec2")

SECONDS = 7 * 86400.0  # that an answer is taken to hold


def path_of(home: Path, what: str, region: str) -> Path:
    """The file in bigm's folder *home* that keeps an answer ("types", "prices")."""
    return home / "cache" / "ec2" / f"{what}-{region}.json"


def keep(path: Path, answer: object) -> None:
    """Write it, whole or not at all; a home that cannot be written to only costs the next run some seconds."""
    unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(answer))
        os.replace(unfinished, path)
    except OSError as error:
        logger.info("cannot keep %s: %s", path.name, error)
