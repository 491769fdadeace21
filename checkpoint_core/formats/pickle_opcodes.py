"""The opcodes of a pickle, walked without following them: the limits that the C unpickler does not hold.

One opcode can make that unpickler allocate gigabytes of memo, and a table whose key is a tuple that holds another one
twice, and so on, takes it for ever to hash. Opcodes and their arguments: Python ``pickletools``, protocol 2 to 5.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from checkpoint_core.formats.reader import DamageKind, FormatError

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
#: The bound above: a shorter run was ended by an opcode.
_RUN_OPCODES = 4096
_ANY_PUT = re.compile(_PUT, re.DOTALL)
#: The opcode that gives a tuple a memo index of four bytes; what looks like it inside a text is left out later.
_TUPLE_INDEX = re.compile(rb"(?<=[" + _TUPLES + rb"])r(?=(.{4}))", re.DOTALL)
#: Opcode to the number of bytes of its argument, and of the length of its argument.
_FIXED = {b"K": 1, b"M": 2, b"J": 4, b"G": 8, b"q": 1, b"h": 1, b"r": 4, b"\x80": 1, b"\x95": 8}
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
    walk = _Walk(data)
    walk.to_the_end()
    return Screened(b"".join(walk.kept), walk.may_share())


class _Walk:
    """One pass over the opcodes of a pickle."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.kept: list[bytes] = []
        self._longs = 0
        #: Whether MEMOIZE gives the memo indexes by itself, to tuples too; torch's own protocol 2 does not have it.
        self._numbered = False
        #: The memo indexes of four bytes that ``j`` fetches.
        self._fetched: set[bytes] = set()
        #: The offsets at which texts and names are given their memo index.
        self._texts: set[int] = set()

    def to_the_end(self) -> None:
        """Walk to the STOP opcode, keeping all but the one-byte memo indexes of tuples."""
        data, at, kept_to = self.data, 0, 0
        while True:
            start, at = at, _RUN.match(data, at).end()  # type: ignore[union-attr]  # nothing is a match, too
            if at - start >= _RUN_OPCODES:  # it may have been the bound that ended the run
                continue
            opcode = data[at : at + 1]
            if opcode == b"j":
                self._fetched.add(data[at + 1 : at + 5])
                at += 5
            elif opcode == b".":
                self.kept.append(data[kept_to : at + 1])
                return
            elif opcode and opcode in _TUPLES:
                self.kept.append(data[kept_to : at + 1])
                at = kept_to = self._behind_index(at + 1)
            else:
                at = self._skip(at, opcode)

    def may_share(self) -> bool:
        """Whether a tuple may be fetched by a memo index that was kept."""
        if self._numbered or not self._fetched:
            return self._numbered
        # One pass, however many are fetched: a hostile pickle may fetch a million.
        return any(
            index[1] in self._fetched and index.start() not in self._texts
            for index in _TUPLE_INDEX.finditer(self.data)
        )

    def _skip(self, at: int, opcode: bytes) -> int:
        """The offset behind one opcode that the pattern does not cover, and behind its memo index."""
        data = self.data
        if not opcode:
            raise FormatError(DamageKind.TRUNCATED, "its pickle ends before its STOP")
        if opcode == b"c":
            return self._behind_text(_after_name(data, at))
        if opcode in _SIZED:
            width = _SIZED[opcode]
            self._count_long(opcode)
            return self._behind_text(at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little"))
        end = self._checked(at + 1 + _FIXED.get(opcode, 0))
        _refuse_strange(data, at, opcode)
        self._numbered = self._numbered or opcode == _MEMOIZE
        return end

    def _count_long(self, opcode: bytes) -> None:
        self._longs += opcode == _LONG
        if self._longs > MAX_LONGS:
            raise FormatError(
                DamageKind.UNSUPPORTED, f"its pickle holds more than {MAX_LONGS:,} long integers"
            )

    def _behind_text(self, end: int) -> int:
        self._texts.add(self._checked(end))
        return self._behind_index(end) if self.data[end : end + 1] in (b"q", b"r") else end

    def _behind_index(self, at: int) -> int:
        put = _ANY_PUT.match(self.data, at)
        if put is None:
            self._checked(at + 5)
            raise FormatError(DamageKind.UNSUPPORTED, "its pickle has a memo index that torch never writes")
        return put.end()

    def _checked(self, end: int) -> int:
        if end > len(self.data):
            raise FormatError(DamageKind.TRUNCATED, "its pickle ends inside a value")
        return end


def _refuse_strange(data: bytes, at: int, opcode: bytes) -> None:
    """Raise for what no trainer writes: other opcodes, and those of memo indexes where they do not belong."""
    if opcode == _PROTOCOL and at == 0:
        if data[1] > _MAX_PROTOCOL:
            raise FormatError(DamageKind.UNSUPPORTED, f"its pickle has protocol {data[1]}")
    elif opcode not in (_FRAME, _MEMOIZE, _STACK_GLOBAL):
        raise FormatError(
            DamageKind.UNSUPPORTED, f"its pickle has the opcode {opcode!r} where torch never writes it"
        )


def _after_name(data: bytes, at: int) -> int:
    first = data.find(b"\n", at)
    second = data.find(b"\n", first + 1)
    if first < 0 or second < 0:
        raise FormatError(DamageKind.TRUNCATED, "its pickle ends inside a name")
    return second + 1
