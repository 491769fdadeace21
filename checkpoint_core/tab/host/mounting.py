"""FluxGym from outside: its program run as its own, and its page put back as it was. Needs nothing of Gradio."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_app(fluxgym: Path, arguments: list[str]) -> None:
    """Run ``app.py`` as ``python app.py`` in its folder would; returns when it ends.

    :param arguments: what stands behind ``app.py`` on its command line.
    """
    os.chdir(fluxgym)
    # This project moves to the end of the path: nothing of FluxGym is shadowed by it.
    here, sys.path[0] = sys.path[0], str(fluxgym)
    sys.path.append(here)
    app = str(fluxgym / "app.py")
    sys.argv = [app, *arguments]
    runpy.run_path(app, run_name="__main__")


def snapshot(page: Any) -> Callable[[], None]:
    """Remember a page; the function that is returned takes back all that was added to it since.

    :param page: a ``gr.Blocks``: ``blocks`` are its components and ``fns`` its events, by their numbers.
    """
    tables: list[dict[int, Any]] = [page.blocks, page.fns]
    known = [set(table) for table in tables]
    parents = [block.children for block in page.blocks.values() if hasattr(block, "children")]
    children = [list(each) for each in parents]

    def restore() -> None:
        for table, keys in zip(tables, known, strict=True):
            for key in set(table) - keys:
                del table[key]
        for now, before in zip(parents, children, strict=True):
            now[:] = before

    return restore
