"""Names that a pickle uses to run code: told while it is described, and found in the bytes of one that cannot be.

A pickle runs from its first opcode on, so one that is cut short, damaged or over a limit can do its harm all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

#: Modules through which a pickle runs code when it is loaded; a checkpoint has no use for them.
_MODULES = frozenset(
    "os posix nt subprocess sys runpy importlib shutil socket pty commands webbrowser ctypes code codeop "
    "multiprocessing threading asyncio pickle _pickle operator functools urllib requests http".split()
)
_BUILTINS = frozenset({"builtins", "__builtin__"})
_HARMLESS_BUILTINS = frozenset(
    "bytearray complex set frozenset dict list tuple int float str bytes bool slice range object".split()
)
_MOST_NAMES = 20

_MODULE = b"(?:" + b"|".join(sorted(name.encode() for name in _MODULES | _BUILTINS)) + rb")(?:\.[\w.]*)?"
#: The opcodes that import by themselves, with the two lines of their argument (``pickletools``: GLOBAL and INST).
_IMPORT = re.compile(rb"[ci](" + _MODULE + rb")\n([^\n]{1,500})\n")
#: A text that is such a module's name, for STACK_GLOBAL: SHORT_BINUNICODE and SHORT_BINSTRING, BINUNICODE and
#: BINSTRING, BINUNICODE8, and STRING and UNICODE, which end with their line.
_TEXT = re.compile(
    rb"(?:[\x8cU](?P<one>.)|[XT](?P<four>.{4})|\x8d(?P<eight>.{8})|[SV](?P<quote>['\"]?))(?="
    + _MODULE
    + b")",
    re.DOTALL,
)
_WHOLE_MODULE = re.compile(_MODULE)
_LINE = re.compile(rb"[^\n'\"]{0,500}")
#: How much of one find may lie on either side of a border between two pieces.
OVERLAP_BYTES = 1_100


def is_dangerous(module: str, name: str) -> bool:
    """Whether an object belongs to what a pickle uses to run code (a hint that the file is hostile).

    A name with dots is followed from attribute to attribute: ``torch`` and ``os.system`` is the ``os`` that torch uses.
    """
    first, *steps = name.split(".")
    if module in _BUILTINS and first not in _HARMLESS_BUILTINS:
        return True
    through = [first, *steps[:-1]] if steps else []
    return module.partition(".")[0] in _MODULES or any(
        step.startswith("__") or step in _MODULES or step.lstrip("_") in _MODULES for step in through
    )


def names_in(pieces: Iterable[bytes]) -> tuple[str, ...]:
    """The dangerous names in the bytes of a pickle that cannot be described, the first few; none is no proof.

    :param pieces: each begins :data:`OVERLAP_BYTES` before the end of the one before it.
    """
    found: dict[str, None] = {}
    for piece in pieces:
        for name in _names(piece):
            found[name] = None
            if len(found) >= _MOST_NAMES:
                return tuple(found)
    return tuple(found)


def _names(data: bytes) -> Iterator[str]:
    for each in _IMPORT.finditer(data):
        module, name = (part.decode("utf-8", "backslashreplace") for part in each.groups())
        if is_dangerous(module, name):
            yield f"{module}.{name}"
    for each in _TEXT.finditer(data):
        size = each["one"] or each["four"] or each["eight"]
        line = _LINE.match(data, each.end())
        end = each.end() + int.from_bytes(size, "little") if size else line.end() if line else each.end()
        if end - each.end() <= OVERLAP_BYTES and _WHOLE_MODULE.fullmatch(data, each.end(), end):
            yield data[each.end() : end].decode("utf-8", "backslashreplace")
