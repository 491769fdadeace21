"""The generated parts of the documents: what stands between two marks, ``<!-- NAME: begin -->`` and ``end``."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def with_block(text: str, name: str, block: str) -> str:
    """A document's text with another block between its two marks.

    :raises ValueError: when the marks are missing.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"the document must hold {begin} and {end}")
    return f"{before}{begin}\n{block}\n{end}{after}"


def write_block(document: str, name: str, block: str) -> None:
    """Write the block into a document of this checkout."""
    path = PROJECT / document
    path.write_text(with_block(path.read_text("utf-8"), name, block), "utf-8", newline="\n")
