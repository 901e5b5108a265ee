"""Paths of this computer become paths of the tree, and tell apart there what is apart here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigm.bundle.anchors import Anchor, Layout, named
from bigm.bundle.interpreter import Interpreter, is_within
from bigm.bundle.layout import find_layout, is_wide, project_of
from bigm.manifest import File, Manifest

# No such folder is on any computer: nothing here is a link.
names = st.sampled_from(["a", "b", "2", "3", "_editable", "root"])
folders = st.lists(names, min_size=1, max_size=3).map(lambda steps: "/bigm-nowhere/" + "/".join(steps))
inside = st.lists(names, min_size=1, max_size=3).map("/".join)


def laid_out(paths: list[str]) -> Layout:
    """Anchors as they are found: none within another."""
    outer = [path for path in paths if not any(path != other and is_within(path, other) for other in paths)]
    return Layout(tuple(named(Anchor(path) for path in outer)))


@given(st.lists(folders, min_size=1, max_size=5, unique=True), st.lists(st.tuples(folders, inside), max_size=6))
def test_no_two_files_have_the_same_place_and_all_places_fit_into_one_tree(paths, more):
    layout = laid_out(paths)
    files = {f"{anchor.path}/{below}" for anchor in layout.anchors for _, below in more}
    files = {file for file in files if not any(other != file and is_within(other, file) for other in files)}
    places = [layout.place(file) for file in files]
    assert None not in places
    assert len(files) == len(Manifest(File(str(place), "", 0) for place in places).files)


@given(st.lists(folders, min_size=1, max_size=5, unique=True), inside, inside)
def test_the_way_between_siblings_is_the_same_in_the_tree(paths, one, other):
    layout = laid_out(paths)
    for here in layout.anchors:
        for there in layout.anchors:
            if os.path.dirname(here.path) == os.path.dirname(there.path):
                way = os.path.relpath(f"{there.path}/{other}", f"{here.path}/{one}")
                start = layout.place(f"{here.path}/{one}")
                assert layout.place(f"{there.path}/{other}") == os.path.normpath(f"{start}/{way}")


@given(st.lists(folders, min_size=1, max_size=5, unique=True), folders)
def test_what_is_in_no_anchor_has_no_place(paths, path):
    layout = laid_out(paths)
    within = any(is_within(path, anchor.path) for anchor in layout.anchors)
    assert within == (layout.place(path) is not None)


@pytest.fixture
def bare(tmp_path: Path) -> Interpreter:
    """An interpreter that has its folders below a temporary one."""
    for name in ("py/lib/python3.11/site-packages", "py/bin"):
        (tmp_path / name).mkdir(parents=True)
    lib = str(tmp_path / "py/lib/python3.11")
    return Interpreter((lib,), (lib + "/site-packages",), (str(tmp_path / "py/bin"),))


def layout_of(script: str, path: list[str], cwd: str, interpreter: Interpreter, *modules: ModuleType) -> Layout:
    return find_layout(
        script, path, cwd, interpreter=interpreter, modules={module.__name__: module for module in modules}, finders=()
    )


def test_the_search_path_keeps_its_order_and_names_whose_each_entry_is(tmp_path: Path, bare: Interpreter):
    (tmp_path / "app").mkdir()
    lib, site = bare.stdlib[0], bare.site[0]
    os.makedirs(site + "/vendored")
    path = [str(tmp_path / "app"), lib, str(tmp_path / "missing"), site, site + "/vendored", lib]
    assert (("program", "app"), ("stdlib", ""), ("site", ""), ("site", "vendored")) == layout_of(
        "", path, str(tmp_path / "app"), bare
    ).search_path


def test_neither_the_interpreter_nor_a_command_of_it_is_an_anchor(tmp_path: Path, bare: Interpreter):
    path = [str(tmp_path / "py/bin"), *bare.stdlib, *bare.site]
    assert () == layout_of("", path, str(tmp_path / "py/bin"), bare).anchors


def test_at_a_prompt_the_project_of_the_working_folder_travels_if_the_search_path_leads_into_it(
    tmp_path: Path, bare: Interpreter
):
    (tmp_path / "p" / "notebooks").mkdir(parents=True)
    (tmp_path / "p" / "setup.cfg").touch()
    (tmp_path / "other").mkdir()
    cwd = str(tmp_path / "p" / "notebooks")
    assert [str(tmp_path / "p")] == [anchor.path for anchor in layout_of("", [cwd], cwd, bare).anchors]
    assert "p/notebooks" == layout_of("", [cwd], cwd, bare).cwd
    other = str(tmp_path / "other")
    assert [other] == [anchor.path for anchor in layout_of("", [other], cwd, bare).anchors]


def test_a_project_ends_below_what_is_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".git").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert str(tmp_path / "a" / "b") == project_of(str(tmp_path / "a" / "b"))
    (tmp_path / "a" / "pyproject.toml").touch()
    assert str(tmp_path / "a") == project_of(str(tmp_path / "a" / "b"))
    assert [True, True, True, False] == [
        is_wide(path) for path in (str(tmp_path), "/", str(tmp_path.parent), str(tmp_path / "a"))
    ]


def test_a_path_through_a_link_has_the_place_of_what_it_leads_to(tmp_path: Path, bare: Interpreter):
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    layout = layout_of("", [str(tmp_path / "link")], "/", bare)
    assert "real/sub/x.py" == layout.place(str(tmp_path / "link" / "sub" / "x.py"))
    assert "real" == layout.place(str(tmp_path / "link") + "/")
    assert (("program", "real"),) == layout.search_path


def test_an_imported_module_is_an_anchor_only_where_nothing_else_has_it(tmp_path: Path, bare: Interpreter):
    for name in ("app/known.py", "elsewhere/plugin.py", "elsewhere/other.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def module(name: str, file: str) -> ModuleType:
        made = ModuleType(name)
        made.__file__ = str(tmp_path / file)
        return made

    modules = [module("known", "app/known.py"), module("plugin", "elsewhere/plugin.py")]
    modules += [module("loaded_by_path", "elsewhere/other.py"), module("vanished", "elsewhere/vanished.py"), sys]
    layout = layout_of("", [str(tmp_path / "app")], str(tmp_path / "app"), bare, *modules)
    assert [None, frozenset({"plugin.py"})] == [anchor.only for anchor in layout.anchors]
    assert None is layout.place(str(tmp_path / "elsewhere" / "other.py"))
    assert (("program", "app"), ("program", "elsewhere")) == layout.search_path


def test_where_something_says_what_travels_other_editable_projects_stay(
    tmp_path: Path, bare: Interpreter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    site = Path(bare.site[0])
    for name in ("asked-for", "imported", "unrelated"):
        (tmp_path / name / "src" / name.replace("-", "_")).mkdir(parents=True)
        (site / f"{name}.pth").write_text(f"{tmp_path / name / 'src'}\n")
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "direct_url.json").write_text(
            f'{{"url": "file://{tmp_path / name}", "dir_info": {{"editable": true}}}}'
        )
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").touch()
    path = [
        str(tmp_path / "app"),
        str(site),
        *(str(tmp_path / name / "src") for name in ("asked-for", "imported", "unrelated")),
    ]
    module = ModuleType("imported")
    module.__path__ = [str(tmp_path / "imported" / "src" / "imported")]

    def travelling(wanted: frozenset[str] | None) -> list[str]:
        layout = find_layout(
            str(tmp_path / "app/main.py"), path, str(tmp_path / "app"),
            interpreter=bare, modules={"imported": module}, finders=(), wanted=wanted,
        )  # fmt: skip
        return [anchor.name for anchor in layout.anchors if not anchor.copy]

    assert ["app", "asked-for", "imported", "unrelated"] == travelling(None)
    assert ["app", "asked-for", "imported"] == travelling(frozenset({"asked-for"}))
    monkeypatch.setenv("PYTHONPATH", path[-1])
    assert "src" in travelling(frozenset())
