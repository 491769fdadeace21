"""FluxGym's program run as its own, and its page put back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpoint_core.tab.host.mounting import run_app, snapshot
from tests.world import PROJECT


def test_what_was_added_is_taken_back_and_the_rest_stays() -> None:
    tab = SimpleNamespace(children=["gallery"])
    tabs = SimpleNamespace(children=[tab])
    leaf = object()
    page = SimpleNamespace(blocks={1: tabs, 2: tab, 3: leaf}, fns={0: "refresh"})
    restore = snapshot(page)
    added = SimpleNamespace(children=[])
    tabs.children.append(added)
    page.blocks[4] = added
    page.fns[1] = "ours"

    restore()

    assert page.blocks == {1: tabs, 2: tab, 3: leaf}
    assert page.fns == {0: "refresh"}
    assert tabs.children == [tab]
    assert tab.children == ["gallery"]


def test_a_parent_that_was_given_new_children_and_another_parent_is_as_it_was() -> None:
    page = SimpleNamespace(children=[], parent=None, fns={})
    column = SimpleNamespace(children=[], parent=page)
    tabs = SimpleNamespace(children=["gym"], parent=column)
    page.blocks = {1: column, 2: tabs}
    restore = snapshot(page)
    # What Gradio does to a block that is entered once more and left.
    tabs.parent, tabs.children = page, [*tabs.children, "ours"]
    page.children = ["ours too"]

    restore()

    assert (tabs.parent, tabs.children, page.children) == (column, ["gym"], [])


APP = """
import os, sys
import beside
print(__name__, __file__ == os.path.abspath("app.py"), os.getcwd(), sys.argv[1:], beside.WHOSE)
"""


def test_an_app_runs_as_it_would_by_itself(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "beside.py").write_text("WHOSE = 'the host'")
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "beside.py").write_text("WHOSE = 'ours'")
    (ours / "start.py").write_text(
        f"import sys; sys.path.append({str(PROJECT)!r})\n"
        "from pathlib import Path\nfrom checkpoint_core.tab.host.mounting import run_app\n"
        f"run_app(Path({str(tmp_path)!r}), ['--share', 'x'])\n"
    )

    done = subprocess.run(
        [sys.executable, str(ours / "start.py")], capture_output=True, text=True, check=True
    )

    assert done.stdout == f"__main__ True {tmp_path} ['--share', 'x'] the host\n"


MESSY = (
    "import os, sys; os.chdir('/'); sys.path += 'x'; sys.path = ['y']; sys.argv += 'a'; sys.argv = ['b']\n"
)
ENDS = {
    "returns": ("", None),
    "fails": ("1 / 0", ZeroDivisionError),
    "exits": ("raise SystemExit(3)", SystemExit),
    "is interrupted": ("raise KeyboardInterrupt", KeyboardInterrupt),
    "is no Python": ("def", SyntaxError),
    "changes all and returns": (MESSY, None),
    "changes all and fails": (MESSY + "1 / 0", ZeroDivisionError),
}


def process() -> tuple[object, ...]:
    """What an app may change of its process: the lists themselves and what they hold."""
    return os.getcwd(), id(sys.path), list(sys.path), id(sys.argv), list(sys.argv), sys.modules["__main__"]


@pytest.mark.parametrize(("app", "error"), ENDS.values(), ids=ENDS)
def test_however_an_app_ends_the_process_is_as_it_was(
    tmp_path: Path, app: str, error: type[BaseException] | None
) -> None:
    (tmp_path / "app.py").write_text(app)
    before = process()

    if error is None:
        run_app(tmp_path, ["--share"])
    else:
        with pytest.raises(error):
            run_app(tmp_path, ["--share"])

    assert process() == before


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_an_app_that_is_not_there_changes_nothing(tmp_path: Path, folder: str) -> None:
    before = process()

    with pytest.raises(FileNotFoundError):
        run_app(tmp_path / folder, [])

    assert process() == before


def test_a_folder_can_be_named_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gym").mkdir()
    (tmp_path / "gym" / "app.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)

    run_app(Path("gym"), [])

    assert (tmp_path / "gym" / "ran").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let go of the folder that one stands in")
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_working_folder_that_was_removed_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    (tmp_path / "app.py").write_text(
        "1 / 0" if when == "before" else f"import os; os.rmdir({str(gone)!r}); 1 / 0"
    )
    if when == "before":
        gone.rmdir()

    with pytest.raises(ZeroDivisionError):
        run_app(tmp_path, [])
