"""Ends this process, as SIGKILL would, right before its n-th call to the operating system; for test programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

_CALLS = "open write fsync close chmod chown replace rename link unlink utime mkdir rmdir"


def die_at(number: int) -> None:
    """From now on count the calls that write, and end with status 137 before the one of this number (from 0)."""
    count = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if count == number:
                os._exit(137)
            count += 1
            return call(*args, **kwargs)

        return wrapper

    for name in _CALLS.split():
        setattr(os, name, counted(getattr(os, name)))
