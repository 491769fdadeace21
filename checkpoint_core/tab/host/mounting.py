"""FluxGym from outside: its program run as its own, and its page put back as it was. Needs nothing of Gradio."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def run_app(fluxgym: Path, arguments: list[str]) -> None:
    """Run ``app.py`` as ``python app.py`` in its folder would; returns when it ends.

    The working folder, ``sys.path`` and ``sys.argv`` are the app's while it runs; however it ends, they are put back.

    :param arguments: what stands behind ``app.py`` on its command line.
    :raises OSError: when there is no such folder.
    """
    folder = fluxgym.absolute()
    app = str(folder / "app.py")
    with _process_put_back():
        os.chdir(folder)
        # This project moves to the end of the path: nothing of FluxGym is shadowed by it.
        sys.path[:] = [str(folder), *sys.path[1:], *sys.path[:1]]
        sys.argv = [app, *arguments]
        runpy.run_path(app, run_name="__main__")


@contextmanager
def _process_put_back() -> Iterator[None]:
    """Put the working folder, ``sys.path`` and ``sys.argv`` back at the end, the same lists with the same items."""
    folder = _working_folder()
    lists = {name: (getattr(sys, name), list(getattr(sys, name))) for name in ("path", "argv")}
    try:
        yield
    finally:
        for name, (same, items) in lists.items():
            same[:] = items
            setattr(sys, name, same)
        with suppress(OSError):  # removed meanwhile: there is nothing to go back to
            os.chdir(folder)


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # the folder was removed, which Linux allows
        return os.curdir


def snapshot(page: Any) -> Callable[[], None]:
    """Remember a page; the function that is returned takes back all that was added to it since.

    :param page: a ``gr.Blocks``: ``blocks`` are its components and ``fns`` its events, by their numbers.
    """
    tables: list[dict[int, Any]] = [page.blocks, page.fns]
    known = [set(table) for table in tables]
    # Gradio gives a parent a new list of children when its `with` closes, and itself a parent when it is entered.
    places = [
        (block, getattr(block, "parent", None), _children(block)) for block in (page, *page.blocks.values())
    ]

    def restore() -> None:
        for table, keys in zip(tables, known, strict=True):
            for key in set(table) - keys:
                del table[key]
        for block, parent, children in places:
            if hasattr(block, "parent"):
                block.parent = parent
            if children is not None:
                block.children = list(children)

    return restore


def _children(block: Any) -> list[Any] | None:
    return list(block.children) if hasattr(block, "children") else None
