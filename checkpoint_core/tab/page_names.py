"""Names as the page shows and sends them, which are another type than names on the disk.

A name on the disk is any bytes; Python holds those that are no UTF-8 as lone surrogates, which neither HTML nor JSON
can carry. A name on the page is plain text. It is made from a name on the disk in one place, :func:`page_name`, and
leads back to it in one place, :func:`on_disk`, by comparing: nothing that a browser sends is ever made into a path.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:

    class PageName:
        """A run's or a checkpoint's name as the page has it: text at run time, to mypy another type than ``str``.

        ``NewType`` would do for one direction only: a ``NewType`` of ``str`` may stand wherever a name on the disk is
        asked for. What is to be shown says so: ``str(name)``.
        """

        def __bool__(self) -> bool: ...

else:
    PageName = str


def page_name(name: str) -> PageName:
    r"""The name on the page of a name on the disk: ``caf\udce9`` in letters for bytes that are no UTF-8.

    No two names on the disk share one: a name that looks like such letters has its backslashes doubled.
    """
    if "\\ud" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        name = name.replace("\\", "\\\\")
    return received(name.encode("utf-8", "backslashreplace").decode("utf-8"))


def received(text: str | None) -> PageName:
    """What a browser or a program sent for a name; nothing is the empty name."""
    name: PageName = text or ""  # type: ignore[assignment]  # the one door between the two types
    return name


def on_disk(wanted: PageName, names: Iterable[str]) -> str | None:
    """Which of these names on the disk the page's name stands for, if any does."""
    return next((name for name in names if page_name(name) == wanted), None)


#: No run, or no checkpoint.
NOTHING = received("")
