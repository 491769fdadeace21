"""The opcodes of a pickle, walked without following them: the limits that the C unpickler does not hold.

One opcode can make that unpickler allocate gigabytes of memo, and a table whose key is a tuple that holds another one
twice, and so on, takes it for ever to hash. Opcodes and their arguments: Python ``pickletools``, protocol 2 to 5.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from checkpoint_core.formats import DamageKind, FormatError

_PUT = rb"(?:q.|r..[\x00-\x0f]\x00)"
_TUPLES = b"t\x85\x86\x87"
# Opcodes with arguments of fixed length, as one pattern so that runs of them are matched in C: torch's pickles
# are nearly all of this kind. A memo index stands only where a pickle has one, and has at most 20 bits; that of a
# tuple must have more than one byte here, so that only the opcode ``j`` could fetch it. Opcodes that torch never
# writes (sets, pops, extensions, instances, text) are left out. The bound on the repetition bounds the memory that
# the matcher takes.
_RUN = re.compile(
    rb"(?:[(uesab)NQ\x88\x89]|[hK].|[]}R\x81]" + _PUT + rb"?"
    rb"|[" + _TUPLES + rb"](?:r(?!.\0\0\0)..[\x00-\x0f]\x00|(?![qr]))"
    rb"|M..|J....|G.{8}|\x8a(?:\x01.|\x04.{4}|\x05.{5})"
    # The keys of storages are short numbers as text.
    rb"|X(?:\x01\0\0\0\d|\x02\0\0\0\d\d|\x03\0\0\0\d{3}|\x04\0\0\0\d{4}|\x05\0\0\0\d{5})" + _PUT + rb"?"
    rb"){0,4096}",
    re.DOTALL,
)
_ANY_PUT = re.compile(_PUT, re.DOTALL)
#: Opcode to the number of bytes of its argument, and of the length of its argument.
_FIXED = {b"K": 1, b"M": 2, b"J": 4, b"G": 8, b"q": 1, b"h": 1, b"r": 4, b"j": 4, b"\x80": 1, b"\x95": 8}
_SIZED = {b"X": 4, b"\x8c": 1, b"U": 1, b"C": 1, b"B": 4, b"T": 4, b"\x8a": 1, b"\x8d": 8, b"\x8e": 8}
_PROTOCOL, _FRAME, _MEMOIZE, _STACK_GLOBAL, _LONG = b"\x80", b"\x95", b"\x94", b"\x93", b"\x8a"
_MAX_PROTOCOL = 5
#: Integers beyond 40 bits can be chosen so that all collide as keys of one table.
MAX_LONGS = 10_000
#: Lists, tables and calls; the pickle of 100,000 tensors has half as many.
MAX_OBJECTS = 1_000_000


class Screened(NamedTuple):
    """A pickle within the limits.

    ``data`` leaves out the one-byte memo indexes of tuples, so that no tuple can be used twice; a pickle that
    fetches one fails. ``may_share`` is whether tuples may be used twice in another way.
    """

    data: bytes
    may_share: bool


def screen(data: bytes) -> Screened:
    """Hold the limits before anything is built; one pass, no memory but a copy.

    :raises FormatError: ``TRUNCATED`` without the STOP opcode, ``UNSUPPORTED`` for an opcode that neither torch
        nor numpy writes or for a memo index, a length or a number of objects beyond reason.
    """
    # Counts bytes in arguments too: an upper bound is enough, and each count is one pass in C.
    objects = sum(data.count(opcode) for opcode in (b"]", b"}", b"R", b"\x81"))
    if objects > MAX_OBJECTS:
        raise FormatError(DamageKind.UNSUPPORTED, f"its pickle holds about {objects:,} objects")
    at = kept_to = longs = 0
    numbered, fetched, kept = False, set[bytes](), list[bytes]()
    while True:
        while (run := _RUN.match(data, at)) and run.end() > at:
            at = run.end()
        opcode = data[at : at + 1]
        if opcode and opcode in _TUPLES and (put := _ANY_PUT.match(data, at + 1)):
            kept.append(data[kept_to : at + 1])
            at = kept_to = put.end()
            continue
        if opcode == b".":
            kept.append(data[kept_to : at + 1])
            return Screened(b"".join(kept), numbered or any(_is_of_tuple(index, data) for index in fetched))
        end = _skip(data, at, opcode)
        # MEMOIZE numbers the tuples by itself; torch's own protocol 2 does not have it.
        numbered = numbered or opcode == _MEMOIZE
        if opcode == b"j":
            fetched.add(data[at + 1 : end])
        longs += opcode == _LONG
        if longs > MAX_LONGS:
            raise FormatError(
                DamageKind.UNSUPPORTED, f"its pickle holds more than {MAX_LONGS:,} long integers"
            )
        at = end


def _is_of_tuple(index: bytes, data: bytes) -> bool:
    """Whether a memo index of four bytes may stand for a tuple."""
    return any(bytes([opcode]) + b"r" + index in data for opcode in _TUPLES)


def _skip(data: bytes, at: int, opcode: bytes) -> int:
    """The offset behind one opcode that the pattern does not cover, and behind the memo index that it is given."""
    if not opcode:
        raise FormatError(DamageKind.TRUNCATED, "its pickle ends before its STOP")
    takes_index = opcode == b"c" or opcode in _SIZED
    if opcode == b"c":
        end = _after_name(data, at)
    elif opcode in _SIZED:
        width = _SIZED[opcode]
        end = at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")
    else:
        end = at + 1 + _FIXED.get(opcode, 0)
    if end > len(data):
        raise FormatError(DamageKind.TRUNCATED, "its pickle ends inside a value")
    _refuse_strange(data, at, opcode)
    put = _ANY_PUT.match(data, end) if takes_index else None
    return put.end() if put else end


def _refuse_strange(data: bytes, at: int, opcode: bytes) -> None:
    """Raise for what no trainer writes: other opcodes, and a memo index that is too large or in a strange place."""
    if opcode == _PROTOCOL and at == 0:
        if data[1] > _MAX_PROTOCOL:
            raise FormatError(DamageKind.UNSUPPORTED, f"its pickle has protocol {data[1]}")
    elif opcode not in _KNOWN or (opcode == b"j" and data[at + 3 : at + 5] >= b"\x10"):
        raise FormatError(
            DamageKind.UNSUPPORTED, f"its pickle has the opcode {opcode!r} where torch never writes it"
        )


_KNOWN = {b"c", b"j", _FRAME, _MEMOIZE, _STACK_GLOBAL, *_SIZED}


def _after_name(data: bytes, at: int) -> int:
    first = data.find(b"\n", at)
    second = data.find(b"\n", first + 1)
    if first < 0 or second < 0:
        raise FormatError(DamageKind.TRUNCATED, "its pickle ends inside a name")
    return second + 1
