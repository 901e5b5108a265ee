"""The choice of a machine's Python, and what is said when there is none."""

from __future__ import annotations

import sys

import pytest

from bigm.bootstrap import report
from bigm.bundle import pythons
from bigm.bundle.pythons import Driver, NoPython, check, choose
from bigm.errors import ConfigError, SystemFault

DRIVER = Driver("3.11.7", free=False)


def python(version: str, path: str = "", **more: object) -> dict[str, object]:
    """What an interpreter reports, as far as it matters here."""
    abi = "cp" + "".join(version.split(".")[:2])
    return {
        "path": path or f"/usr/bin/python{version}",
        "version": version,
        "implementation": "cpython",
        "platform": "linux-x86_64",
        "abis": [abi],
        **more,
    }


def broken(path: str, error: str) -> dict[str, object]:
    return {"path": path, "error": error}


def chosen(found: list[dict[str, object]], wanted: str = "", driver: Driver = DRIVER, **more: object) -> object:
    answer = choose(found, wanted, driver, machine="host1", **more)
    return answer["path"] if answer else answer


def test_the_python_of_the_drivers_minor_version_is_taken():
    assert "/usr/bin/python3.11.2" == chosen([python("3.13.0"), python("3.11.2"), python("3.9.2")])


def test_the_very_version_of_the_driver_is_preferred_then_the_newest():
    found = [python("3.11.2"), python("3.11.7"), python("3.11.9")]
    assert "/usr/bin/python3.11.7" == chosen(found)
    assert "/usr/bin/python3.11.9" == chosen(found, driver=Driver("3.11.4", free=False))
    assert "/usr/bin/python3.11.10" == chosen([*found[::2], python("3.11.10")])


def test_of_equal_ones_the_first_found_is_taken():
    assert "/a" == chosen([python("3.11.2", "/a"), python("3.11.2", "/b")])


def test_a_python_of_a_platform_with_dependencies_is_preferred():
    found = [python("3.11.7", "/rosetta", platform="macosx-x86_64"), python("3.11.2", "/own", platform="macosx-arm64")]
    assert "/own" == chosen(found, platforms=["macosx-arm64"])


def test_an_exact_version_is_taken_at_its_word():
    assert "/usr/bin/python3.11.2" == chosen([python("3.11.7"), python("3.11.2")], "3.11.2")
    with pytest.raises(NoPython, match=r"host1 has no Python 3.11.4 that will do: .*it is Python 3.11.7, not 3.11.4"):
        chosen([python("3.11.7")], "3.11.4")


def test_a_path_is_taken_at_its_word_and_its_version_checked():
    found = [python("3.11.7"), python("3.11.2", "/opt/python/bin/python"), python("3.9.2", "/old")]
    assert "/opt/python/bin/python" == chosen(found, "/opt/python/bin/python")
    with pytest.raises(NoPython, match=r"host1 cannot use /old, .*: it is Python 3.9.2, not 3.11"):
        chosen(found, "/old")
    with pytest.raises(NoPython, match=r"host1 cannot use /dir, .*: Permission denied"):
        chosen([broken("/dir", "Permission denied")], "/dir")
    with pytest.raises(NoPython, match=r"host1 has no /none, which the setting python says"):
        chosen(found, "/none")


def test_bundled_is_sent_even_where_one_is_found():
    assert chosen([python("3.11.7")], "bundled") is None


def test_what_is_there_and_too_old_is_listed_newest_first():
    with pytest.raises(NoPython) as failure:
        chosen([python("3.8.10"), python("3.9.2"), broken("/shims/python3.11", "command not found")])
    assert (
        "host1 has no Python 3.11, only 3.9.2 (/usr/bin/python3.9.2), 3.8.10 (/usr/bin/python3.8.10), "
        "too old for workers; "
        'set "python: bundled" to have one sent, install Python 3.11 there, leave that machine out, '
        "or run the program with a version that it has"
    ) == str(failure.value)
    assert isinstance(failure.value, SystemFault)


def test_others_that_are_new_enough_are_not_called_old():
    with pytest.raises(NoPython, match=r"only 3.12.1 \(/usr/bin/python3.12.1\); set"):
        chosen([python("3.12.1")])


def test_nothing_at_all_is_said_with_what_only_looked_like_one():
    with pytest.raises(NoPython, match=r"host1 has no Python 3.11, nor any other \(/shims/python3: not found\); set"):
        chosen([broken("/shims/python3", "not found")])
    with pytest.raises(NoPython, match=r"host1 has no Python 3.11, nor any other; set"):
        chosen([])


def test_another_implementation_or_build_will_not_do():
    with pytest.raises(NoPython, match="it is pypy"):
        chosen([python("3.11.7", implementation="pypy", abis=[])])
    with pytest.raises(NoPython, match="without the GIL, unlike"):
        chosen([python("3.11.7", abis=["cp311t"])])
    with pytest.raises(NoPython, match="with the GIL, unlike"):
        chosen([python("3.13.0")], driver=Driver("3.13.0", free=True))
    assert "/usr/bin/python3.13.0" == chosen([python("3.13.0", abis=["cp313t"])], driver=Driver("3.13.0", free=True))


@pytest.mark.parametrize("wanted", ["", "3.11", "3.11.2", "bundled", "/opt/python/bin/python3"])
def test_a_setting_that_can_be_fulfilled_passes(wanted: str):
    check(wanted, DRIVER)


@pytest.mark.parametrize("wanted", ["python3.11", "3", "bin/python", ">=3.11", "Bundled", "3.11.x"])
def test_a_setting_that_means_nothing_is_refused(wanted: str):
    with pytest.raises(ConfigError, match=r"is no version, as in 3.11, and no absolute path; .*bundled"):
        check(wanted, DRIVER)


def test_another_minor_version_than_the_drivers_is_refused():
    with pytest.raises(ConfigError, match=r"cannot run Python 3.12 for a driver that runs 3.11.7; run the program"):
        check("3.12", DRIVER)


def test_this_process_is_chosen_for_itself():
    found = report.examine(sys.executable)
    assert found == choose([found], "", Driver.here(), machine="here")
    assert pythons.minor_of(str(found["version"])) == Driver.here().minor
