"""What a host is asked to do, in this very process: what it is careful about. With ssh: `tests/systems/test_ssh.py`."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from bigm.bootstrap import onhost


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(onhost.tempfile, "tempdir", str(tmp_path / "tmp"))


def test_a_folder_of_the_name_that_ours_had_is_used_no_more_when_it_is_somebody_elses(tmp_path: Path) -> None:
    theirs, link = tmp_path / "theirs", tmp_path / "tmp" / "bigm-abc"
    theirs.mkdir()
    link.symlink_to(theirs)
    request = {"do": "start", "launch": {"cluster": "c"}, "folder": str(link), "indices": [], "direct": False}
    [place] = onhost.start(request)
    assert place["folder"] != str(link)
    assert os.listdir(theirs) == []


def test_two_who_ask_at_once_whether_an_agent_lives_do_not_take_one_another_for_it(tmp_path: Path) -> None:
    record = tmp_path / "c-0.json"
    record.touch()
    with open(record, "rb") as other:  # as `is_alive` of another process has it for a moment
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not onhost.is_alive(str(record))
    with open(record, "rb+") as agent:
        fcntl.flock(agent, fcntl.LOCK_EX)
        assert onhost.is_alive(str(record))
