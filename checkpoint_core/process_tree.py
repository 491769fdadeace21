"""A process and everything below it, as the system lists them now."""

from __future__ import annotations

import psutil


def tree_of(pid: int) -> list[psutil.Process]:
    """The process of that number and everything below it; empty where it has gone, or may not be seen."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []
