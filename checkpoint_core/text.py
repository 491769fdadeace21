"""Text from the disk made safe to show: one line, no control characters, no markup; pure."""

from __future__ import annotations

import re
import unicodedata

#: Characters that turn the reading direction around, so that a name could show itself as another.
_DIRECTION = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: Control characters, line separators, and the halves that stand for undecodable bytes of a name.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: What one of the common file systems refuses in a name.
_NOT_IN_NAMES = re.compile(r'[\\/:*?"<>|]')
_MARKUP = re.compile(r"[`*\[\]<>|~&]|(?<!\w)_|_(?!\w)|\\(?=[!-/:-@\[-`{-~]|\Z)")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def printable(text: str, keep: str = "") -> str:
    """The text with every character that a terminal would obey written as an escape, such as ``\\x1b``.

    :param keep: characters to leave alone, such as the newline.
    """
    return "".join(
        character if character in keep or not _is_unprintable(character) else _escape(character)
        for character in text
    )


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in _UNPRINTABLE or character in _DIRECTION


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that is no UTF-8 (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def file_name(text: str) -> str:
    """A name for a file of ours made from a name of theirs, allowed on every common system."""
    name = _NOT_IN_NAMES.sub("_", printable(text).replace("\\", "_")).strip(" .")
    return name[:120] or "_"


def markdown_text(text: str) -> str:
    """The text as Markdown that shows it as it is."""
    return _MARKUP.sub(lambda found: _ENTITIES.get(found[0], "\\" + found[0]), printable(text))


def markdown_code(text: str) -> str:
    """The text as a code span, in a table's cell too."""
    shown = printable(text).replace("|", "\\|")
    if not shown:
        return ""
    fence = _longer_than_any(shown, 1)
    space = " " if shown.startswith(("`", " ")) or shown.endswith(("`", " ")) else ""
    return f"{fence}{space}{shown}{space}{fence}"


def markdown_block(text: str, language: str = "") -> str:
    """The text as a fenced block that nothing in it can close."""
    shown = printable(text.replace("\r\n", "\n"), keep="\n\t").rstrip("\n")
    fence = _longer_than_any(shown, 3)
    return f"{fence}{language}\n{shown}\n{fence}"


def _longer_than_any(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
