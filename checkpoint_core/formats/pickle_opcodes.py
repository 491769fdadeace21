"""The opcodes of a pickle, walked without following them: the limits that the C unpickler does not hold.

One opcode can make that unpickler allocate gigabytes of memo, and a table whose keys are tuples that hold each other
twice takes it for ever. Opcodes and their arguments: Python ``pickletools``, protocol 2 to 5.
"""

from __future__ import annotations

import re

from checkpoint_core.formats import DamageKind, FormatError

# Opcodes with arguments of fixed length, as one pattern so that runs of them are matched in C: torch's pickles
# are nearly all of this kind. A memo index has at most 20 bits. Opcodes that torch never writes (sets, pops,
# extensions, instances, text) are left out. The bound on the repetition bounds the memory that the matcher takes.
_PUT = rb"(?:q.|r..[\x00-\x0f]\x00)"
_GET = rb"h.|j..[\x00-\x0f]\x00"
#: Opcodes that push something that is no tuple; short texts (the keys of storages) and integers are among them.
_PUSH = (
    rb"(?:[\x88\x89N\]})R\x81Q]|K.|M..|J....|G.{8}|\x8a(?:\x01.|\x04.{4}|\x05.{5})"
    rb"|X(?:\x01\0\0\0.|\x02\0\0\0..|\x03\0\0\0...|\x04\0\0\0....|\x05\0\0\0.{5}))"
)
_PLAIN = rb"[tuaesb(\x85\x86\x87]"
_FIXED = re.compile(b"(?:%b|%b|%b|%b){0,4096}" % (_PUSH, _PLAIN, _GET, _PUT), re.DOTALL)
#: A run of the same up to a memo index that is fetched, or one that may stand for a tuple: after no push.
_MEMO = re.compile(
    b"(?:%b(?:%b|(?![qr]))|%b){0,4096}(%b|%b)?" % (_PUSH, _PUT, _PLAIN, _PUT, _GET), re.DOTALL
)
_ANY_PUT = re.compile(_PUT, re.DOTALL)
#: Opcode to the number of bytes that hold the length of its argument.
_SIZED = {b"X": 4, b"\x8c": 1, b"U": 1, b"C": 1, b"B": 4, b"T": 4, b"\x8a": 1, b"\x8d": 8, b"\x8e": 8}
_MAX_PROTOCOL = 5
_FRAME, _MEMOIZE, _STACK_GLOBAL, _LONG = b"\x95", b"\x94", b"\x93", b"\x8a"
#: Integers beyond 40 bits can be chosen so that all collide as keys of one table.
_MAX_LONGS = 10_000


def check_opcodes(data: bytes) -> bool:
    """Hold the limits before anything is built; one pass, no memory.

    :returns: whether a tuple may be used twice, so that following the pickle in C could take forever.
    :raises FormatError: ``TRUNCATED`` without the STOP opcode, ``UNSUPPORTED`` for an opcode that neither torch
        nor numpy writes or for a memo index or a length beyond reason.
    """
    at, longs, numbered = 0, 0, False
    memo: set[bytes] = set()
    while True:
        start = at
        while (run := _FIXED.match(data, at)) and run.end() > at:
            at = run.end()
        memo.update(_MEMO.findall(data, start, at))
        opcode = data[at : at + 1]
        if opcode == b".":
            return numbered or not _indexes(memo, b"qr").isdisjoint(_indexes(memo, b"hj"))
        # MEMOIZE counts by itself; torch's own protocol 2 does not have it.
        numbered = numbered or opcode == _MEMOIZE
        longs += opcode == _LONG
        if longs > _MAX_LONGS:
            raise FormatError(
                DamageKind.UNSUPPORTED, f"its pickle holds more than {_MAX_LONGS:,} long integers"
            )
        at = _skip(data, at, opcode)


def _indexes(memo: set[bytes], opcodes: bytes) -> set[int]:
    """The memo indexes that some opcodes name, with arguments of one or four bytes."""
    return {int.from_bytes(used[1:], "little") for used in memo if used and used[0] in opcodes}


def _skip(data: bytes, at: int, opcode: bytes) -> int:
    """The offset behind one opcode that the pattern does not cover, and behind the memo index that it is given."""
    if not opcode:
        raise FormatError(DamageKind.TRUNCATED, "its pickle ends before its STOP")
    if opcode in _SIZED:
        width = _SIZED[opcode]
        end = at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")
    elif opcode == b"c":
        end = _after_name(data, at)
    elif opcode == b"\x80" and at == 0:
        if data[1:2] > bytes([_MAX_PROTOCOL]):
            raise FormatError(DamageKind.UNSUPPORTED, f"its pickle has protocol {data[1]}")
        end = 2
    elif opcode == _FRAME:
        return at + 9
    elif opcode in (_MEMOIZE, _STACK_GLOBAL):
        return at + 1
    else:
        raise FormatError(
            DamageKind.UNSUPPORTED, f"its pickle has the opcode {opcode!r}, which torch never writes"
        )
    if end > len(data):
        raise FormatError(DamageKind.TRUNCATED, "its pickle ends inside a value")
    put = _ANY_PUT.match(data, end)
    return put.end() if put else end


def _after_name(data: bytes, at: int) -> int:
    first = data.find(b"\n", at)
    second = data.find(b"\n", first + 1)
    if first < 0 or second < 0:
        raise FormatError(DamageKind.TRUNCATED, "its pickle ends inside a name")
    return second + 1
