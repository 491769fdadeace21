"""Each file of a state alone: absent, empty, cut off, its bytes changed, its contents not the trainer's."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.conformance.case import ONLY_BYTES_TELL, SUMS_UNCHECKED, Case, on_state
from tests.damage import (
    HOSTILE_PICKLES,
    drop_rng_step,
    edit_header,
    empty,
    flip_byte,
    flip_member_byte,
    flip_tensor_byte,
    put_pickle,
    remove,
    rewrite_torch_zip,
    rewrite_zip,
    times_kept,
    truncate,
)
from tests.judging import make_dangling, make_directory_of
from tests.world import STATE_FILES, World

Damage = Callable[[Path], object]

_TRAIN_STATE, _WEIGHTS, _OPTIMIZER, _SCHEDULER, _RANDOM = STATE_FILES
_ARCHIVES = (_OPTIMIZER, _SCHEDULER, _RANDOM)
_ROWS = {_TRAIN_STATE: "14", _WEIGHTS: "13", _OPTIMIZER: "11", _SCHEDULER: "11", _RANDOM: "3"}
_ABSENT_ROWS = {_TRAIN_STATE: "29a", _WEIGHTS: "8", _OPTIMIZER: "10", _SCHEDULER: "10", _RANDOM: "3"}
_EMPTY_ROWS = {**_ROWS, _OPTIMIZER: "12", _SCHEDULER: "12"}


def file_cases() -> Iterator[Case]:
    """All of them."""
    yield from _gone_or_cut()
    yield from _archives()
    yield from _weights()
    yield from _train_state()
    yield from _random_states()


def write(path: Path, data: bytes) -> None:
    """Put other bytes in a file, its times kept."""
    with times_kept(path):
        path.write_bytes(data)


def _gone_or_cut() -> Iterator[Case]:
    for file in STATE_FILES:
        yield Case(f"{file}: absent", _ABSENT_ROWS[file], on_state(file, remove))
        yield Case(f"{file}: 0 bytes", _EMPTY_ROWS[file], on_state(file, empty))
        for told, at in (("1 byte", 1), ("8 bytes", 8), ("half", None), ("all but the last byte", -1)):
            yield Case(f"{file}: cut to {told}", _ROWS[file], on_state(file, _cut(at)))
        yield Case(f"{file}: a directory in its place", _ABSENT_ROWS[file], on_state(file, make_directory_of))
        yield Case(f"{file}: a link to nowhere", _ABSENT_ROWS[file], on_state(file, make_dangling))
        zeros, told = on_state(file, _zero_second_half), ONLY_BYTES_TELL if file == _WEIGHTS else ""
        yield Case(f"{file}: zeros instead of its second half", _ROWS[file], zeros, accepted=told)
        yield Case(f"{file}: a text in its place", _ROWS[file], on_state(file, _text))
    told = f"{_WEIGHTS}: zeros instead of its second half, every byte read"
    yield Case(told, "13", on_state(_WEIGHTS, _zero_second_half), deep=True)


def _cut(at: int | None) -> Damage:
    return lambda path: truncate(path, at)


def _zero_second_half(path: Path) -> None:
    """As a file system leaves a file whose blocks were never written before the power went."""
    data = path.read_bytes()
    write(path, data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def _text(path: Path) -> None:
    write(path, b"<html>404: not found</html>" * 20)


# torch.save archives


def _archives() -> Iterator[Case]:
    for file in _ARCHIVES:
        row = _ROWS[file]
        yield Case(f"{file}: cut before the end record", row, on_state(file, _cut(-22)))
        yield Case(f"{file}: cut before the directory", row, on_state(file, _cut_directory))
        yield Case(f"{file}: bytes after the end", row, on_state(file, _append))
        changes: tuple[tuple[str, Damage], ...] = (
            ("the first header's signature", lambda path: flip_byte(path, 0)),
            ("the first header's stored CRC", lambda path: flip_byte(path, 14)),
            ("the directory's signature", lambda path: flip_byte(path, _directory(path))),
            ("a name in the directory", lambda path: flip_byte(path, _directory(path) + 48)),
            ("the pickle's CRC in the directory", lambda path: flip_byte(path, _directory(path) + 16)),
            ("the end record", lambda path: flip_byte(path, -22)),
            ("the pickle's first byte", lambda path: flip_member_byte(path, "data.pkl")),
            ("the pickle's middle", lambda path: flip_member_byte(path, "data.pkl", 60)),
            ("the pickle's last byte", _flip_stop),
            ("the byte order's record", lambda path: flip_member_byte(path, "byteorder")),
            ("the format's version", lambda path: flip_member_byte(path, "version")),
        )
        for told, damage in changes:
            spared = SUMS_UNCHECKED if (file, told) in _HARMLESS else ""
            name = f"{file}: changed byte in {told}"
            yield Case(name, row, on_state(file, damage), deep=True, accepted=spared)
        yield Case(f"{file}: no data.pkl in it", row, on_state(file, _without_pickle))
        yield Case(
            f"{file}: an empty list", row, on_state(file, lambda path: put_pickle(path, b"\x80\x02]."))
        )
        yield Case(
            f"{file}: an empty dictionary", row, on_state(file, lambda path: put_pickle(path, b"\x80\x02}."))
        )
        yield Case(
            f"{file}: unfinished pickle", row, on_state(file, lambda path: put_pickle(path, b"\x80\x02]"))
        )
        for told in ("os-system", "builtins-eval", "getattr-walk"):
            refused = "torch refuses it here; an older torch runs it." if file == _RANDOM else ""
            yield Case(f"{file}: hostile ({told})", "26", on_state(file, _hostile(told)), accepted=refused)
    for file in (_OPTIMIZER, _RANDOM):
        changed = on_state(file, lambda path: flip_member_byte(path, "data/0", 3))
        yield Case(f"{file}: changed byte in a tensor", _ROWS[file], changed, deep=True)
        yield Case(f"{file}: a tensor's data missing", _ROWS[file], on_state(file, _without_a_tensor))


_HARMLESS = {
    (_OPTIMIZER, "the pickle's CRC in the directory"),
    (_SCHEDULER, "the pickle's CRC in the directory"),
    (_SCHEDULER, "the pickle's middle"),
}


def _directory(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return archive.start_dir


def _cut_directory(path: Path) -> None:
    truncate(path, _directory(path))


def _append(path: Path) -> None:
    write(path, path.read_bytes() + b"\0" * 64)


def _flip_stop(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = archive.infolist()[0].file_size
    flip_member_byte(path, "data.pkl", size - 1)


def _without_pickle(path: Path) -> None:
    rewrite_zip(path, lambda members: {key: data for key, data in members.items() if "data.pkl" not in key})


def _without_a_tensor(path: Path) -> None:
    rewrite_zip(path, lambda members: {key: data for key, data in members.items() if "/data/0" not in key})


def _hostile(told: str) -> Damage:
    return lambda path: put_pickle(path, HOSTILE_PICKLES[told])


# model.safetensors


def _weights() -> Iterator[Case]:
    changes: tuple[tuple[str, Damage], ...] = (
        ("a header longer than the file", lambda path: _put_length(path, 1 << 20)),
        ("a header of no length", lambda path: _put_length(path, 0)),
        ("a header cut short", lambda path: _put_length(path, 100)),
        ("a changed byte in the header", lambda path: flip_byte(path, 40)),
        ("offsets past the end", lambda path: _shift_last(path, 4096)),
        ("overlapping offsets", lambda path: _shift_last(path, -4)),
        ("a shape that does not fit", _wrong_shape),
        ("an unknown dtype", _unknown_dtype),
        ("a tensor less", _without_last_tensor),
        ("bytes after the tensors", _append),
    )
    for told, damage in changes:
        yield Case(f"{_WEIGHTS}: {told}", "13", on_state(_WEIGHTS, damage))
    yield Case(
        f"{_WEIGHTS}: changed high byte in a tensor",
        "13",
        on_state(_WEIGHTS, lambda path: flip_tensor_byte(path, offset=3)),
        deep=True,
    )


def _put_length(path: Path, length: int) -> None:
    write(path, struct.pack("<Q", length) + path.read_bytes()[8:])


def _last(header: dict[str, Any]) -> dict[str, Any]:
    """The entry of the tensor that ends the file."""
    return max((value for key, value in header.items() if key != "__metadata__"), key=_end_of)


def _end_of(entry: dict[str, Any]) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    return end, begin


def _shift_last(path: Path, by: int) -> None:
    def edit(header: dict[str, Any]) -> dict[str, Any]:
        entry = _last(header)
        entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]
        return header

    edit_header(path, edit)


def _wrong_shape(path: Path) -> None:
    def edit(header: dict[str, Any]) -> dict[str, Any]:
        name = next(name for name in header if name.endswith("lora_up.weight"))
        header[name]["shape"] = [*header[name]["shape"], 2]
        return header

    edit_header(path, edit)


def _unknown_dtype(path: Path) -> None:
    def edit(header: dict[str, Any]) -> dict[str, Any]:
        _last(header)["dtype"] = "F33"
        return header

    edit_header(path, edit)


def _without_last_tensor(path: Path) -> None:
    """A file of one tensor less, whole in itself."""
    removed = 0

    def edit(header: dict[str, Any]) -> dict[str, Any]:
        nonlocal removed
        last = _last(header)
        begin, end = last["data_offsets"]
        removed = end - begin
        return {key: value for key, value in header.items() if value is not last}

    edit_header(path, edit)
    truncate(path, -removed)


# train_state.json


def _train_state() -> Iterator[Case]:
    texts = {
        "an empty object": ("15", "{}"),
        "a list": ("14", "[4, 32]"),
        "null": ("14", "null"),
        "an unclosed brace": ("14", '{"current_epoch": 4, "current_step": 32'),
        "a byte order mark": ("14", '\ufeff{"current_epoch": 4, "current_step": 32}'),
        "no current_step": ("15", '{"current_epoch": 4}'),
        "no current_epoch": ("", '{"current_step": 32}'),
        "a text as current_step": ("15", '{"current_epoch": 4, "current_step": "32"}'),
        "null as current_step": ("15", '{"current_epoch": 4, "current_step": null}'),
        "a fraction as current_step": ("15", '{"current_epoch": 4, "current_step": 32.5}'),
        "a whole float as current_step": ("15", '{"current_epoch": 4, "current_step": 32.0}'),
        "NaN as current_step": ("15", '{"current_epoch": 4, "current_step": NaN}'),
        "a negative current_step": ("29", '{"current_epoch": 4, "current_step": -8}'),
        "0 as current_step": ("29", '{"current_epoch": 4, "current_step": 0}'),
        "an earlier current_step": ("29", '{"current_epoch": 4, "current_step": 16}'),
        "a later current_step": ("29", '{"current_epoch": 4, "current_step": 48}'),
        "a current_step past the end": ("28", '{"current_epoch": 4, "current_step": 640}'),
        "another current_epoch": ("29", '{"current_epoch": 2, "current_step": 32}'),
        "a text as current_epoch": ("", '{"current_epoch": "4", "current_step": 32}'),
        "further keys": ("", '{"current_epoch": 4, "current_step": 32, "note": "mine"}'),
        "spaces and line ends": ("", '\r\n{\r\n  "current_epoch": 4,\r\n  "current_step": 32\r\n}\r\n'),
        "a key twice": ("29", '{"current_epoch": 4, "current_step": 32, "current_step": 8}'),
    }
    for told, (row, text) in texts.items():
        yield Case(f"{_TRAIN_STATE}: {told}", row, on_state(_TRAIN_STATE, _put(text.encode())))
    utf16 = json.dumps({"current_epoch": 4, "current_step": 32}).encode("utf-16")
    yield Case(f"{_TRAIN_STATE}: UTF-16", "14", on_state(_TRAIN_STATE, _put(utf16)))


def _put(data: bytes) -> Damage:
    return lambda path: write(path, data)


# random_states_0.pkl


def _random_states() -> Iterator[Case]:
    yield Case(f"{_RANDOM}: without step", "2", on_state("", drop_rng_step))
    edits: tuple[tuple[str, str, Callable[[dict[str, Any]], object]], ...] = (
        ("portable (numpy's key as plain numbers)", "1", _plain_numbers),
        ("portable, without step", "2", lambda saved: (_plain_numbers(saved), saved.pop("step"))),
        ("without numpy's part", "3", lambda saved: saved.pop("numpy_random_seed")),
        ("without python's part", "3", lambda saved: saved.pop("random_state")),
        ("without torch's part", "3", lambda saved: saved.pop("torch_manual_seed")),
        ("a step of 8", "", lambda saved: saved.update(step=8)),
        ("the states of 2 GPUs", "5", _two_gpus),
    )
    for told, row, edit in edits:
        yield Case(f"{_RANDOM}: {told}", row, on_state(_RANDOM, _edited(edit)))
    yield Case(f"{_RANDOM}: saved with numpy 1", "4", on_state(_RANDOM, _numpy_1))


def _edited(edit: Callable[[dict[str, Any]], object]) -> Damage:
    def transform(saved: dict[str, Any]) -> dict[str, Any]:
        edit(saved)
        return saved

    return lambda path: rewrite_torch_zip(path, transform)


def _plain_numbers(saved: dict[str, Any]) -> None:
    name, keys, *rest = saved["numpy_random_seed"]
    saved["numpy_random_seed"] = (name, [int(key) for key in keys], *rest)


def with_plain_random_states(case: Case) -> Case:
    """The case with random states that every release of accelerate loads under every torch."""

    def change(world: World) -> None:
        _edited(_plain_numbers)(world.run / case.state / _RANDOM)
        case.change(world)

    return replace(case, name=f"plain random states: {case.name.replace(':', ',')}", change=change)


def _two_gpus(saved: dict[str, Any]) -> None:
    saved["torch_cuda_manual_seed"] = [saved["torch_manual_seed"].clone()] * 2


def _numpy_1(path: Path) -> None:
    """The same file as numpy 1 would have it: numpy 2 renamed the module of `_reconstruct`."""

    def edit(members: dict[str, bytes]) -> dict[str, bytes]:
        return {key: data.replace(b"numpy._core.", b"numpy.core.") for key, data in members.items()}

    rewrite_zip(path, edit)
