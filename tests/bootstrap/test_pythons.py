"""Interpreters are found, and believed only when they run."""

from __future__ import annotations

import os
import sys

import pytest

from bigm.bootstrap import pythons
from bigm.bootstrap.pythons import PythonError


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    """A PATH of one empty folder, and an agent whose own interpreter is nowhere."""
    monkeypatch.setattr(pythons, "_PLACES", ())
    monkeypatch.setattr(sys, "_base_executable", str(tmp_path / "own" / "python3"), raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def script(path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_an_interpreter_is_found_by_its_minor_version_once(somewhere):
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    base = os.path.realpath(sys.executable)
    for name in (f"python{minor}", "python3", "python"):
        os.symlink(base, somewhere / name)
    (found,) = pythons.find(minor)
    assert os.path.realpath(found["path"]) == base
    assert found["version"] == ".".join(map(str, sys.version_info[:3]))
    assert pythons.find("3.2") == []
    assert [each["version"] for each in pythons.find()] == [found["version"]]


def test_the_agents_own_interpreter_is_found_wherever_it_lies(somewhere):
    os.mkdir(somewhere / "own")
    os.symlink(os.path.realpath(sys.executable), somewhere / "own" / "python3")
    (found,) = pythons.find(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert os.path.realpath(found["path"]) == os.path.realpath(sys.executable)


def test_what_only_looks_like_an_interpreter_is_left_out(somewhere):
    script(somewhere / "python3.11", "echo 'pyenv: python3.11: command not found' >&2; exit 127")
    script(somewhere / "python3", "echo hello")
    (somewhere / "python").write_text("no program")
    assert pythons.find("3.11") == []
    assert pythons.find() == []


def test_a_script_that_runs_an_interpreter_stands_for_that(somewhere):
    base = os.path.realpath(sys.executable)
    script(somewhere / "python3", f'exec {base} "$@"')
    (found,) = pythons.find()
    assert base == found["path"]


def test_what_an_interpreter_said_is_remembered_until_it_is_another_file(somewhere):
    cache = somewhere / "cache"
    calls = somewhere / "calls"
    text = f'echo >> {calls}; exec {os.path.realpath(sys.executable)} "$@"'
    script(somewhere / "python3", text)
    script(somewhere / "python", "exit 1")
    first = pythons.find("", str(cache))
    assert first == pythons.find("", str(cache))
    assert "\n" == calls.read_text()
    script(somewhere / "python3", text + "; exit 1")
    pythons.find("", str(cache))
    assert "\n\n" == calls.read_text()
    cache.write_text("[half of")
    assert first == pythons.find("", str(cache))


def test_virtual_environments_come_last(somewhere):
    os.symlink(os.path.realpath(sys.executable), somewhere / "python3")
    environment = somewhere / "environment" / "bin"
    environment.mkdir(parents=True)
    (environment.parent / "pyvenv.cfg").write_text(f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n")
    os.symlink(os.path.realpath(sys.executable), environment / "python3")
    os.environ["PATH"] = f"{environment}:{somewhere}"
    assert [str(somewhere / "python3"), str(environment / "python3")] == [each["path"] for each in pythons.find()]


def test_an_interpreters_paths_do_not_depend_on_the_environment(monkeypatch):
    expected = pythons.paths(sys.executable)
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    assert expected == pythons.paths(sys.executable)
    assert os.path.realpath(os.path.dirname(os.__file__)) in map(os.path.realpath, expected["stdlib"])
    assert not {*expected["stdlib"]} & {*expected["site"]}


def test_what_does_not_run_says_why(tmp_path):
    script(tmp_path / "python3", "echo 'no such thing' >&2; exit 3")
    with pytest.raises(PythonError, match="does not run as a Python: no such thing"):
        pythons.paths(str(tmp_path / "python3"))
    with pytest.raises(PythonError, match="cannot be run: No such file"):
        pythons.paths(str(tmp_path / "python4"))
