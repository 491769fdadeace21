"""Builders that break one thing in a copy of a valid state, and nothing else.

Whatever a builder writes or removes, the times of the file and of its folder stay as they were: times are
evidence (a `train_state.json` newer than the rest tells of an interrupted overwrite), so only the builders
that are about times change them. torch is imported by the builders that need it, when they are called.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.world import STATE_FILES, age

__all__ = [
    "HOSTILE_PICKLES",
    "add_custom_checkpoint",
    "add_leftovers",
    "add_process",
    "add_scaler",
    "age",
    "calling_pickle",
    "drop_rng_step",
    "edit_header",
    "edit_train_state",
    "empty",
    "flip_byte",
    "flip_member_byte",
    "flip_tensor_byte",
    "interrupt_overwrite",
    "interrupt_save",
    "make_schedule_free",
    "member_name",
    "nan_in_optimizer",
    "nan_in_weights",
    "put_pickle",
    "remove",
    "rename_tensors",
    "rewrite_torch_zip",
    "rewrite_zip",
    "truncate",
]

_LENGTH = struct.Struct("<Q")
_NAN = {"F32": b"\x00\x00\xc0\x7f", "BF16": b"\xc0\x7f", "F16": b"\x00\x7e"}


@contextlib.contextmanager
def times_kept(path: Path) -> Iterator[None]:
    """Give a file or folder its old times back at the end."""
    times = path.stat()
    yield
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# Any file


def truncate(path: Path, at: int | None = None) -> None:
    """Keep the first `at` bytes of a file, half of it by default; negative counts from the end."""
    data = path.read_bytes()
    _overwrite(path, data[: len(data) // 2 if at is None else at])


def empty(path: Path) -> None:
    """Leave the file with no bytes."""
    _overwrite(path, b"")


def remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it."""
    with times_kept(path.parent):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def flip_byte(path: Path, offset: int) -> None:
    """Invert the bits of one byte; negative offsets count from the end."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    _overwrite(path, bytes(data))


def _overwrite(path: Path, data: bytes) -> None:
    with times_kept(path):
        path.write_bytes(data)


# torch.save zips


def member_name(path: Path, ending: str) -> str:
    """Return the full name of the one member of a torch zip that ends so, e.g. `data.pkl` or `data/0`."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(f"/{ending}"))
    return name


def flip_member_byte(path: Path, ending: str, offset: int = 0) -> None:
    """Invert one byte of a member's data and leave its CRC-32 as it was, as decaying storage would."""
    with zipfile.ZipFile(path) as archive:
        header_at = archive.getinfo(member_name(path, ending)).header_offset
    # Local header: 30 fixed bytes, of which the last four are the lengths of the name and of the extra field.
    name_length, extra_length = struct.unpack_from("<HH", path.read_bytes(), header_at + 26)
    flip_byte(path, header_at + 30 + name_length + extra_length + offset)


def rewrite_zip(path: Path, edit: Callable[[dict[str, bytes]], Mapping[str, bytes]]) -> None:
    """Write a zip anew from `edit(its members)`, in order, stored and with valid CRCs."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members = dict(edit(members))
    with times_kept(path), zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def put_pickle(path: Path, data: bytes) -> None:
    """Put other bytes in place of a torch zip's `data.pkl`; sizes and CRCs are valid."""
    name = member_name(path, "data.pkl")
    rewrite_zip(path, lambda members: {**members, name: data})


def rewrite_torch_zip(path: Path, transform: Callable[[Any], Any]) -> None:
    """Save with torch what `transform` makes of the loaded object; it may edit in place and return None."""
    import torch

    saved = torch.load(path, weights_only=False)
    changed = transform(saved)
    with times_kept(path):
        torch.save(saved if changed is None else changed, path)


def drop_rng_step(state: Path) -> None:
    """Remove the key that accelerate 0.32 and 0.33 require, as states saved by 0.31 and older lack it."""

    def transform(states: dict[str, Any]) -> None:
        del states["step"]

    rewrite_torch_zip(state / "random_states_0.pkl", transform)


def nan_in_optimizer(state: Path) -> None:
    """Make the first number of a large float32 storage of `optimizer.bin` NaN, with a valid CRC."""

    def edit(members: dict[str, bytes]) -> dict[str, bytes]:
        name = max((name for name in members if "/data/" in name), key=lambda name: len(members[name]))
        return {**members, name: _NAN["F32"] + members[name][4:]}

    rewrite_zip(state / "optimizer.bin", edit)


def make_schedule_free(state: Path) -> None:
    """Make the state look as a schedule-free optimizer leaves it: no `scheduler.bin`, its keys in the groups."""

    def transform(optimizer: dict[str, Any]) -> None:
        for group in optimizer["param_groups"]:
            group.update(train_mode=False, k=8, weight_sum=8.0, lr_max=group["lr"], r=0.0, warmup_steps=0)
        for tensors in optimizer["state"].values():
            row, column = tensors.pop("exp_avg_sq_row"), tensors.pop("exp_avg_sq_col")
            # Both have the parameter's shape, of which Adafactor's two lack one dimension each.
            tensors["exp_avg_sq"] = row.unsqueeze(-1) * column.unsqueeze(-2)
            tensors["z"] = tensors["exp_avg_sq"].clone()

    rewrite_torch_zip(state / "optimizer.bin", transform)
    remove(state / "scheduler.bin")


# safetensors files


def _header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = _LENGTH.unpack_from(data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def edit_header(path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Replace a safetensors file's header by `edit(header)`; the tensors' bytes stay."""
    header, tensors = _header(path)
    text = json.dumps(edit(header)).encode()
    # The format aligns the tensors to 8 bytes by padding the header with spaces.
    text += b" " * (-len(text) % 8)
    _overwrite(path, _LENGTH.pack(len(text)) + text + tensors)


def rename_tensors(path: Path, rename: Callable[[str], str]) -> None:
    """Rename every tensor of a safetensors file."""
    edit_header(
        path, lambda header: {key if key == "__metadata__" else rename(key): header[key] for key in header}
    )


def _tensor_offset(path: Path, name: str) -> int:
    header, tensors = _header(path)
    offset: int = path.stat().st_size - len(tensors) + header[name]["data_offsets"][0]
    return offset


def _first_weight(path: Path) -> str:
    return next(name for name in sorted(_header(path)[0]) if name.endswith("lora_up.weight"))


def flip_tensor_byte(path: Path, name: str | None = None, offset: int = 0) -> None:
    """Invert one byte of a tensor's data, by default of the first `lora_up.weight`; only its values tell."""
    flip_byte(path, _tensor_offset(path, name or _first_weight(path)) + offset)


def nan_in_weights(path: Path, name: str | None = None) -> None:
    """Make the first number of a tensor NaN, by default of the first `lora_up.weight`."""
    name = name or _first_weight(path)
    at, number = _tensor_offset(path, name), _NAN[_header(path)[0][name]["dtype"]]
    data = path.read_bytes()
    _overwrite(path, data[:at] + number + data[at + len(number) :])


# Whole states


def edit_train_state(state: Path, **changes: object) -> None:
    """Set keys of `train_state.json`, e.g. `current_step=8` for steps relative to a resume; None removes one."""
    path = state / "train_state.json"
    record = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    text = json.dumps({key: value for key, value in record.items() if value is not None})
    _overwrite(path, text.encode())


def interrupt_save(state: Path, whole: int, fraction: float | None = None) -> None:
    """Leave a state as a save killed after `whole` files leaves it, with a `fraction` of the next file."""
    for name in STATE_FILES[whole + (fraction is not None) :]:
        remove(state / name)
    if fraction is not None:
        path = state / STATE_FILES[whole]
        truncate(path, int(path.stat().st_size * fraction))


def interrupt_overwrite(state: Path, newer: Path, replaced: int, seconds_later: float = 600) -> None:
    """Leave `state` as a kill leaves it while the save `newer` is written over it, `replaced` files along.

    The replaced files carry times `seconds_later` than the state's last file.
    """
    done = (state / STATE_FILES[-1]).stat().st_mtime_ns + round(seconds_later * 1e9)
    for number, name in enumerate(STATE_FILES[:replaced]):
        shutil.copyfile(newer / name, state / name)
        os.utime(state / name, ns=(done + number * 1_000_000,) * 2)


def add_custom_checkpoint(state: Path, index: int = 0, record: object = None) -> None:
    """Add `custom_checkpoint_N.pkl`, holding a step and an epoch unless told otherwise."""
    import torch

    with times_kept(state):
        record = {"step": 16, "epoch": 2} if record is None else record
        torch.save(record, state / f"custom_checkpoint_{index}.pkl")


def add_process(state: Path, index: int = 1) -> None:
    """Add the random states of another process, as several GPUs leave them."""
    with times_kept(state):
        shutil.copy2(state / "random_states_0.pkl", state / f"random_states_{index}.pkl")


def add_scaler(state: Path) -> None:
    """Add the `scaler.pt` of a training with `--mixed_precision fp16`."""
    import torch

    with times_kept(state):
        torch.save(torch.amp.GradScaler("cpu").state_dict(), state / "scaler.pt")


def add_leftovers(state: Path) -> None:
    """Add files that the trainer never reads: an unfinished temporary file, a desktop's notes, second models."""
    with times_kept(state):
        (state / ".tmpA1b2C3").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
        (state / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
        shutil.copy2(state / "model.safetensors", state / "model_1.safetensors")
        shutil.copy2(state / "optimizer.bin", state / "optimizer_1.bin")
        shutil.copy2(state / "scheduler.bin", state / "sampler.bin")


# Pickles that mean harm


def calling_pickle(module: str, name: str, *arguments: object) -> bytes:
    """Return a pickle that calls `module.name(*arguments)` when it is loaded; protocol 2, as torch writes."""
    # pickle.dumps ends in STOP and begins with two bytes of PROTO; only what lies between is wanted.
    packed = pickle.dumps(arguments, protocol=2)[2:-1]
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + packed + b"R."


def _stack_global_pickle(module: str, name: str, argument: str) -> bytes:
    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


def _doubling_pickle(levels: int) -> bytes:
    """Return a pickle of a few bytes a level that stands for 2**levels lists ("billion laughs")."""
    parts = [b"\x80\x02]q\x00"]
    for level in range(1, levels):
        parts.append(b"]q" + bytes([level]) + b"(h" + bytes([level - 1]) + b"h" + bytes([level - 1]) + b"e")
    return b"".join(parts) + b"."


HOSTILE_PICKLES: Mapping[str, bytes] = {
    "os-system": calling_pickle("os", "system", "echo harm > harm"),
    "posix-system": calling_pickle("posix", "system", "echo harm > harm"),
    "builtins-eval": calling_pickle("builtins", "eval", "open('harm', 'w')"),
    "python-2-builtins": calling_pickle("__builtin__", "exec", "open('harm', 'w')"),
    "subprocess": calling_pickle("subprocess", "Popen", ["sh", "-c", "echo harm > harm"]),
    "stack-global": _stack_global_pickle("os", "system", "echo harm > harm"),
    "instance-opcode": b"(S'echo harm > harm'\nios\nsystem\n.",
    "dotted-name": calling_pickle("torch", "os.system", "echo harm > harm"),
    "getattr-walk": calling_pickle("builtins", "getattr", "", "__class__"),
    "extension-registry": b"\x80\x02\x82\x01.",
    "deep-nesting": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep-tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "huge-memo-index": b"\x80\x02]r\xff\xff\xff\xff.",
    "unknown-memo-index": b"\x80\x02j\xff\xff\xff\xff.",
    "huge-long4": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "negative-long4": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "huge-long1-text": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "huge-claimed-text": b"\x80\x04\x8d" + _LENGTH.pack(1 << 50) + b"a.",
    "huge-claimed-bytearray": b"\x80\x05\x96" + _LENGTH.pack(1 << 50) + b"a.",
    "huge-claimed-frame": b"\x80\x04\x95" + _LENGTH.pack(1 << 62) + b"].",
    "memory-bomb": _doubling_pickle(200),
    "duplicates-bomb": b"\x80\x02]" + b"2" * 1_000_000 + b".",
    "allowed-call-bomb": calling_pickle("builtins", "bytearray", 1 << 40),
    "self-containing": b"\x80\x02]q\x00h\x00a.",
    "stack-underflow": b"\x80\x02aaaa.",
    "no-stop": b"\x80\x02]",
    "nothing": b"",
    "unknown-opcode": b"\x80\x02\xff.",
}
"""Pickles that run something, exhaust something, or are none, by what they try.

Loading those that run something with `pickle.loads` leaves a file named `harm` in the working folder; a
test can look for it.
"""
