"""FluxGym's program run as its own, and its page put back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from checkpoint_core.tab.host.mounting import snapshot
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
