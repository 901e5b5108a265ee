"""Settings come from where they should, and every mistake is said with its place."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigm.config import Bundling, Settings, general_keys, load
from bigm.errors import ConfigError
from bigm.timeouts import Timeouts

ROOT = Path(__file__).parent.parent


class Place:
    """A home and a project, and the environment that leads there."""

    def __init__(self, folder: Path) -> None:
        self.home, self.project = folder / "home", folder / "project" / "deep"
        self.home.mkdir()
        self.project.mkdir(parents=True)

    def user(self, text: str) -> None:
        (self.home / "config.yaml").write_text(text)

    def file(self, text: str) -> None:
        (self.project.parent / "bigm.yaml").write_text(text)

    def load(self, overrides: dict[str, object] | None = None, flags: object = None, **variables: str) -> Settings:
        environ = {"BIGM_HOME": str(self.home), **variables}
        if flags is not None:
            environ["BIGM_FLAGS"] = json.dumps(flags)
        return load(overrides, environ=environ, cwd=str(self.project))

    def refused(self, *args: object, **variables: str) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(*args, **variables)  # type: ignore[arg-type]
        assert caught.value.exit_code == 2
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_without_any_source_the_defaults_hold(place: Place) -> None:
    settings = place.load()
    assert (settings.system, settings.nmach, settings.procs) == ("local", None, 1)
    assert settings.timeouts == Timeouts()
    assert {settings.origin(key.name) for key in general_keys()} == {"default"}


def test_each_source_wins_over_the_next(place: Place) -> None:
    place.user("nmach: 1")
    assert (1, f"{place.home}/config.yaml:1") == (place.load().nmach, place.load().origin("nmach"))
    place.file("# a comment\nnmach: 2")
    assert (2, f"{place.project.parent}/bigm.yaml:2") == (place.load().nmach, place.load().origin("nmach"))
    settings = place.load(BIGM_NMACH="3")
    assert (3, "BIGM_NMACH") == (settings.nmach, settings.origin("nmach"))
    settings = place.load(None, {"nmach": "4"}, BIGM_NMACH="3")
    assert (4, "--nmach") == (settings.nmach, settings.origin("nmach"))
    settings = place.load({"nmach": 5}, {"nmach": "4"}, BIGM_NMACH="3")
    assert (5, "argument nmach") == (settings.nmach, settings.origin("nmach"))


def test_an_argument_that_is_none_was_not_given(place: Place) -> None:
    assert place.load({"nmach": None}, BIGM_NMACH="3").nmach == 3


def test_a_profile_wins_over_the_plain_keys_of_its_own_file_only(place: Place) -> None:
    place.user("nmach: 1\nprocs: 1\nprofiles:\n  big:\n    nmach: 50\n    procs: all\n")
    place.file("nmach: 2")
    settings = place.load(BIGM_PROFILE="big")
    assert (settings.nmach, settings.procs, settings.profile) == (2, "all", "big")
    assert settings.origin("procs") == f"{place.home}/config.yaml:6"
    assert place.load(None, {"profile": "big"}).procs == "all"
    assert place.load().procs == 1


def test_an_unknown_profile_is_refused_with_the_nearest(place: Place) -> None:
    place.user("profiles: {small: {nmach: 2}}")
    assert "there is no profile called 'smal'; did you mean 'small'?" == place.refused(BIGM_PROFILE="smal")


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90.0), ("90 s", 90.0), ("1.5h", 5400.0), ("10 min", 600.0), ("250ms", 0.25), ("1e3", 1000.0)],
)
def test_times_carry_units(place: Place, text: str, value: float) -> None:
    place.file(f"timeouts:\n  setup: {text}")
    assert value == place.load().timeouts.setup


@pytest.mark.parametrize("word", ["off", "stderr", "stdout"])
def test_words_are_what_they_look_like_whatever_yaml_thinks_of_them(place: Place, word: str) -> None:
    place.file(f"machine_output: {word}\nlog_ring: 1 MiB\nlocal: {{parent_death: no}}\nname: 007")
    settings = place.load()
    assert (word, 2**20, False, "007") == (
        settings.machine_output,
        settings.log_ring,
        settings.systems["local"]["parent_death"],
        settings.name,
    )


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("hosts: [a, b]", "'ssh.hosts'"),
        ("store: /x", "'bundle.store'"),
        ("system: ssh\nssh: {keep: 1}", "'bundle.keep'"),
    ],
)
def test_a_key_that_belongs_into_a_section_is_found_there(place: Place, text: str, meant: str) -> None:
    place.file(text)
    assert place.refused().endswith(f"; did you mean {meant}?")


def test_an_unknown_key_is_refused_with_file_line_and_the_nearest(place: Place) -> None:
    place.file("procs: 2\nnmachs: 3\n")
    assert f"{place.project.parent}/bigm.yaml:2: unknown key 'nmachs'; did you mean 'nmach'?" == place.refused()
    place.file("timeouts:\n  setups: 3\n")
    assert place.refused().endswith("bigm.yaml:2: unknown key 'timeouts.setups'; did you mean 'timeouts.setup'?")


def test_a_bad_value_is_refused_even_when_another_source_overrides_it(place: Place) -> None:
    place.file("nmach: five")
    where = f"{place.project.parent}/bigm.yaml:1: nmach"
    assert f"{where} must be a whole number from 1, not 'five'" == place.refused(BIGM_NMACH="3")


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "", "1e400"])
def test_a_bad_count_is_refused_by_every_source(place: Place, value: str) -> None:
    said = f"must be a whole number from 1, not {value!r}"
    assert f"--nmach {said}" == place.refused(None, {"nmach": value})
    assert f"argument nmach {said}" == place.refused({"nmach": value})
    if value:  # an empty variable counts as not set
        assert f"BIGM_NMACH {said}" == place.refused(BIGM_NMACH=value)


@pytest.mark.parametrize("value", [True, 2.0, 0, [3]])
def test_a_count_in_the_program_is_a_whole_number(place: Place, value: object) -> None:
    assert f"argument nmach must be a whole number from 1, not {value!r}" == place.refused({"nmach": value})


def test_a_variable_that_resembles_a_setting_is_refused_and_any_other_is_the_users(place: Place) -> None:
    said = "unknown setting BIGM_NMACHS in the environment; did you mean 'BIGM_NMACH'?"
    assert said == place.refused(BIGM_NMACHS="3")
    assert place.load(BIGM_FAVOURITE_COLOUR="blue", BIGM_NAME_OF_MINE="x") == place.load()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nmach: 3\nprocs: ]\n", ":2: this is not YAML: "),
        ("- nmach", ":1: keys and values were expected here, as in `nmach: 5`"),
        ("nmach: 1\nnmach: 2", ":2: 'nmach' stands here a second time"),
        ("timeouts: {setup: {a: 1}}", ":1: a section within a section is not expected here"),
        ("nmach: {a: 1}", ":1: unknown key 'nmach.a'"),
        ("timeouts: 5", ":1: unknown key 'timeouts'"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(place: Place, text: str, said: str) -> None:
    place.file(text)
    assert f"{place.project.parent}/bigm.yaml{said}" in place.refused()


def test_a_file_that_is_no_text_is_refused(place: Place) -> None:
    (place.home / "config.yaml").write_bytes(b"\xff\xfe")
    assert "cannot read" in place.refused()


def test_a_systems_own_section_is_checked_against_its_options(place: Place) -> None:
    place.file("ec2x:\n  region: a\n")
    assert "unknown key 'ec2x.region'" in place.refused()
    place.file("local:\n  colour: blue\n")
    assert "unknown key 'local.colour'" in place.refused()


@given(st.text(max_size=200))
def test_whatever_stands_in_a_file_it_is_settings_or_one_clear_error(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.yaml").write_text(text, encoding="utf-8", errors="replace")
        with contextlib.suppress(ConfigError):
            load(environ={"BIGM_HOME": folder}, cwd=folder)


def test_the_example_has_every_key_and_says_the_defaults(place: Place) -> None:
    place.file((ROOT / "bigm.yaml.example").read_text())
    settings = place.load()
    assert (settings.timeouts, settings.bundle) == (Timeouts(), Bundling())
    for key in general_keys():
        if "." not in key.name:
            assert key.default == getattr(settings, key.name), key.name
    given_keys = {key.name for key in general_keys() if settings.origin(key.name) != "default"}
    unset = {
        "nmach",
        "min_mach",
        "max_cost",
        "name",
        "python",
        "bundle.include",
        "bundle.exclude",
        "bundle.mirror",
        "bundle.requirements",
    }  # named there without a value
    assert {key.name for key in general_keys()} == given_keys | unset
    text = (ROOT / "bigm.yaml.example").read_text()
    assert all(f" {name.rpartition('.')[2]}:\n" in text.replace("\n", "\n ") for name in unset)


def test_every_key_says_what_it_is() -> None:
    assert all(key.what and key.what == key.what.strip(" .") for key in general_keys())
    sections = len(Timeouts.__dataclass_fields__) + len(Bundling.__dataclass_fields__)
    assert len({key.name for key in general_keys()}) == sections + 11


def test_importing_it_costs_no_library() -> None:
    code = "import bigm.config, sys; print([m for m in ('yaml', 'difflib', 'typer', 'rich') if m in sys.modules])"
    assert "[]\n" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30).stdout
