"""Every byte is read: checksums, NaN and Inf, and the weights against the LoRA file of the same save."""

from __future__ import annotations

import os
import shutil
import struct
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.manifest import make_manifest, write_manifest
from checkpoint_core.formats.dtypes import cast
from checkpoint_core.formats.reader import DamageKind
from checkpoint_core.states import layout
from checkpoint_core.states.facts import DeepFacts, LoraFacts, StateFacts
from checkpoint_core.states.verification import (
    VerificationCancelled,
    compare_with_lora,
    has_non_finite,
    verify_state,
)
from tests.builders import safetensors_file
from tests.damage import (
    flip_member_byte,
    flip_tensor_byte,
    nan_in_optimizer,
    nan_in_weights,
    rename_tensors,
    rewrite_zip,
    truncate,
)

RUN, STATE = "accelerate-1.6.0-adafactor", "tiny-lora-000002-state"


@pytest.fixture
def state(real_runs: Path, tmp_path: Path) -> Path:
    """A real state in a copy of its whole run."""
    shutil.copytree(real_runs / RUN, tmp_path / "outputs" / RUN)
    return tmp_path / "outputs" / RUN / STATE


def facts_of(state: Path) -> StateFacts:
    return Auditor(state.parents[1]).audit_run(state.parent.name).checkpoint(state.name).facts


def verify(state: Path) -> DeepFacts:
    return verify_state(facts_of(state))


def lora_of(state: Path, epoch: int = 2) -> Path:
    return state.parent / f"tiny-lora-{epoch:06d}.safetensors"


@pytest.mark.parametrize("run", [RUN, "accelerate-1.6.0-adamw8bit", "accelerate-0.33.0-adafactor"])
@pytest.mark.parametrize("name", [STATE, "tiny-lora-state"])
def test_a_whole_state_has_no_damage_and_equals_its_lora_file(real_runs: Path, run: str, name: str) -> None:
    facts = facts_of(real_runs / run / name)
    deep = verify_state(facts)
    assert (deep.damage, deep.non_finite) == ({}, {})
    assert deep.pair is not None
    assert (deep.pair.same_names, deep.pair.differing) == (True, ())
    assert deep.pair.compared > 0
    assert isinstance(facts.lora, LoraFacts)
    assert deep.pair.lora_file == facts.lora.file
    assert deep.bytes_read > 0.6 * (state_bytes(facts) + facts.lora.size_bytes)


def state_bytes(facts: StateFacts) -> int:
    """The bytes of the files that hold tensors."""
    return sum(
        entry.size_bytes for entry in facts.files if entry.name in (layout.OPTIMIZER, layout.WEIGHTS_SAFE)
    )


def test_the_files_are_read_and_nothing_is_written(state: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in state.parent.rglob("*")}
    verify(state)
    assert {file: file.stat().st_mtime_ns for file in state.parent.rglob("*")} == before


# Changed bytes


@pytest.mark.parametrize("member", ["data/0", "data/5"])
def test_a_flipped_byte_of_the_optimizers_tensors_is_told_by_its_checksum(state: Path, member: str) -> None:
    flip_member_byte(state / layout.OPTIMIZER, member, 2)
    deep = verify(state)
    assert set(deep.damage) == {layout.OPTIMIZER}
    damage = deep.damage[layout.OPTIMIZER]
    assert damage.kind is DamageKind.CORRUPT
    assert member in damage.detail
    assert deep.pair is not None, "a damaged optimizer says nothing about the weights"


@pytest.mark.parametrize(
    ("offset", "told"), [(3, True), (2, True), (0, False)], ids=["high", "middle", "low"]
)
def test_a_flipped_byte_of_the_weights_is_told_where_the_rounding_keeps_it(
    state: Path, offset: int, told: bool
) -> None:
    """The LoRA file holds the upper 16 of 32 bits: what is below them cannot be told, nor does it matter much."""
    flip_tensor_byte(state / layout.WEIGHTS_SAFE, offset=offset)
    pair = verify(state).pair
    assert pair is not None
    assert len(pair.differing) == int(told)


def test_the_lora_file_of_another_epoch_differs(state: Path) -> None:
    shutil.copyfile(lora_of(state, 1), lora_of(state, 2))
    pair = verify(state).pair
    assert pair is not None
    assert pair.same_names
    assert 0 < len(pair.differing) <= pair.compared


def test_every_tensor_that_differs_is_counted(tmp_path: Path) -> None:
    names = [f"lora_unet_{number}.lora_up.weight" for number in range(100)]
    ours, theirs = tmp_path / "model.safetensors", tmp_path / "lora.safetensors"
    ours.write_bytes(safetensors_file(dict.fromkeys(names, ("F32", (1,), b"\x00\x00\x00\x00"))))
    theirs.write_bytes(safetensors_file(dict.fromkeys(names, ("F32", (1,), b"\x00\x00\x80?"))))
    pair = compare_with_lora(ours, theirs)
    assert pair is not None
    assert len(pair.differing) == 100


def test_a_lora_file_with_other_tensors_cannot_vouch(state: Path) -> None:
    rename_tensors(lora_of(state), lambda name: f"other_{name}")
    pair = verify(state).pair
    assert pair is not None
    assert not pair.same_names


def test_a_tensor_of_another_shape_differs(tmp_path: Path) -> None:
    name = "lora_unet_a.lora_up.weight"
    ours, theirs = tmp_path / "model.safetensors", tmp_path / "lora.safetensors"
    ours.write_bytes(safetensors_file({name: ("F32", (4,), bytes(16))}))
    theirs.write_bytes(safetensors_file({name: ("F32", (5,), bytes(20))}))
    pair = compare_with_lora(ours, theirs)
    assert pair is not None
    assert pair.differing == (name,)


@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_without_a_lora_file_there_is_no_pairing(state: Path, how: str) -> None:
    if how == "missing":
        lora_of(state).unlink()
    else:
        truncate(lora_of(state))
    deep = verify(state)
    assert deep.pair is None
    assert deep.damage == {}


def test_a_lora_file_of_an_unknown_dtype_tells_nothing(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "model.safetensors", tmp_path / "lora.safetensors"
    ours.write_bytes(safetensors_file({"lora_unet_a.lora_up.weight": ("F32", (4,), bytes(16))}))
    theirs.write_bytes(safetensors_file({"lora_unet_a.lora_up.weight": ("F8_E4M3", (4,), bytes(4))}))
    assert compare_with_lora(ours, theirs) is None


# NaN and Inf


def test_nan_in_the_weights_is_named(state: Path) -> None:
    nan_in_weights(state / layout.WEIGHTS_SAFE)
    (name,) = verify(state).non_finite[layout.WEIGHTS_SAFE]
    assert name.endswith("lora_up.weight")


def test_nan_in_the_optimizer_is_named_with_its_parameter(state: Path) -> None:
    nan_in_optimizer(state)
    deep = verify(state)
    assert deep.damage == {}
    (name,) = deep.non_finite[layout.OPTIMIZER]
    assert name.startswith("exp_avg")
    assert " of parameter " in name


def test_nan_in_the_optimizer_of_bitsandbytes_is_named(real_runs: Path, tmp_path: Path) -> None:
    """Its moments lie in a table of their own inside each parameter's."""
    run = "accelerate-1.6.0-adamw8bit"
    shutil.copytree(real_runs / run, tmp_path / "outputs" / run)
    nan_in_optimizer(tmp_path / "outputs" / run / STATE)
    (name,) = verify(tmp_path / "outputs" / run / STATE).non_finite[layout.OPTIMIZER]
    assert name.startswith("state1 of parameter ")


def test_many_bad_tensors_are_named_up_to_a_bound(state: Path) -> None:
    def spoil(members: dict[str, bytes]) -> dict[str, bytes]:
        nan = b"\x00\x00\xc0\x7f"
        return {
            name: nan + data[4:] if "/data/" in name and len(data) > 4 else data
            for name, data in members.items()
        }

    rewrite_zip(state / layout.OPTIMIZER, spoil)
    assert len(verify(state).non_finite[layout.OPTIMIZER]) == 20


def test_nan_in_pickled_and_in_split_weights_is_named(registered_states: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(registered_states, tmp_path / "outputs" / "run")
    shard = min((copy / "sharded").glob("model-*-of-*.safetensors"))
    nan_in_weights(
        shard, next(name for name in ("0.weight", "1.weight", "0.bias") if f'"{name}"' in _text(shard))
    )
    deep = verify(copy / "sharded")
    assert list(deep.non_finite) == [shard.name]

    def spoil(members: dict[str, bytes]) -> dict[str, bytes]:
        return {
            name: b"\x00\x00\x80\x7f" + data[4:] if name.endswith("/data/0") else data
            for name, data in members.items()
        }

    rewrite_zip(copy / "bin" / layout.WEIGHTS_PICKLED, spoil)
    assert verify(copy / "bin").non_finite[layout.WEIGHTS_PICKLED] == ("0.weight",)


def _text(path: Path) -> str:
    return path.read_bytes()[:1000].decode("latin-1")


@pytest.mark.parametrize("dtype", ["F16", "Half", "BF16", "BFloat16", "F32", "Float", "F64", "Double"])
def test_nan_and_inf_are_found_in_every_dtype_of_floats(dtype: str) -> None:
    kinds = {"F16": "<e", "Half": "<e", "F32": "<f", "Float": "<f", "F64": "<d", "Double": "<d"}

    def pack(value: float) -> bytes:
        return struct.pack(kinds[dtype], value) if dtype in kinds else struct.pack("<f", value)[2:]

    finite = b"".join(pack(value) for value in (0.0, -1.5, 65504.0, 6e-8))
    assert not has_non_finite(finite, dtype)
    for value in (float("nan"), float("inf"), float("-inf")):
        assert has_non_finite(finite + pack(value), dtype)


@pytest.mark.parametrize("dtype", ["I64", "U8", "BOOL", "Long", "Byte", "F8_E4M3", ""])
def test_integers_are_always_finite(dtype: str) -> None:
    assert not has_non_finite(b"\xff" * 64, dtype)


# Progress, cancelling, and files that change meanwhile


def test_progress_never_goes_back_and_ends_at_the_whole(state: Path) -> None:
    seen: list[tuple[int, int]] = []
    facts = facts_of(state)
    verify_state(facts, progress=lambda done, total: seen.append((done, total)))
    assert isinstance(facts.lora, LoraFacts)
    total = state_bytes(facts) + facts.lora.size_bytes
    assert {each for _, each in seen} == {total}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)
    assert len(seen) > 50


def test_progress_ends_at_the_whole_even_when_a_file_is_damaged(state: Path) -> None:
    flip_member_byte(state / layout.OPTIMIZER, "data/0")
    seen: list[tuple[int, int]] = []
    verify_state(facts_of(state), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]


def test_cancelling_stops_between_two_pieces(state: Path) -> None:
    seen: list[int] = []
    with pytest.raises(VerificationCancelled):
        verify_state(facts_of(state), lambda done, _: seen.append(done), lambda: len(seen) >= 3)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("change", "file", "kind"),
    [
        (lambda state: (state / layout.OPTIMIZER).unlink(), layout.OPTIMIZER, DamageKind.UNREADABLE),
        (lambda state: os.truncate(state / layout.OPTIMIZER, 0), layout.OPTIMIZER, DamageKind.EMPTY),
        (lambda state: truncate(state / layout.WEIGHTS_SAFE), layout.WEIGHTS_SAFE, DamageKind.TRUNCATED),
    ],
    ids=["removed", "emptied", "cut"],
)
def test_a_file_that_changes_after_the_first_look_is_damage(
    state: Path, change: Callable[[Path], object], file: str, kind: DamageKind
) -> None:
    facts = facts_of(state)
    change(state)
    deep = verify_state(facts)
    assert {name: damage.kind for name, damage in deep.damage.items()} == {file: kind}


def test_an_index_that_changes_after_the_first_look_is_damage(
    registered_states: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(registered_states / "sharded", tmp_path / "outputs" / "run" / "sharded")
    facts = facts_of(copy)
    (copy / layout.WEIGHTS_SAFE_INDEX).write_text("{")
    assert list(verify_state(facts).damage) == [layout.WEIGHTS_SAFE_INDEX]


def test_files_that_could_not_be_read_before_are_left_to_that_finding(state: Path) -> None:
    truncate(state / layout.OPTIMIZER)
    (state / layout.WEIGHTS_SAFE).unlink()
    deep = verify(state)
    assert (deep.damage, deep.non_finite, deep.pair, deep.bytes_read) == ({}, {}, None, 0)


# Rounding as torch rounds

DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "I64": "int64"}
FLOATS = ("F16", "BF16", "F32", "F64")
#: Ties of bfloat16 and of float16, subnormals of each, and numbers on both sides of float16's largest.
EDGES = [
    *(1 + k / 256 for k in range(1, 6)),
    *(1 + k / 2048 for k in range(1, 6)),
    *(6e-8, 3e-8, 2.98e-8, 1e-40, 1.4e-45, 9.2e-41, -0.0),
    *(65504.0, 65519.0, 65520.0, 65536.0, 3.3895e38, 3.4028e38, float("inf")),
]  # fmt: skip


def torch_cast(data: bytes, source: str, target: str) -> bytes:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numbers = torch.frombuffer(bytearray(data), dtype=getattr(torch, DTYPES[source]))
        raw: bytes = numbers.to(getattr(torch, DTYPES[target])).view(torch.uint8).numpy().tobytes()
    return raw


@pytest.mark.parametrize("target", FLOATS)
@pytest.mark.parametrize("source", FLOATS)
@settings(max_examples=30, deadline=None)  # the first example imports torch
@given(numbers=st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=20))
@example(numbers=EDGES)
@example(numbers=[-number for number in EDGES])
def test_numbers_are_cast_as_torch_casts_them(source: str, target: str, numbers: list[float]) -> None:
    data = cast(np.array(numbers, np.float32).tobytes(), "F32", source)
    assert data is not None
    assert cast(data, source, target) == torch_cast(data, source, target)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_doubles_are_rounded_by_way_of_floats_as_torch_does(numbers: list[float]) -> None:
    data = np.array(numbers, np.float64).tobytes()
    for target in ("F16", "BF16", "F32"):
        assert cast(data, "F64", target) == torch_cast(data, "F64", target)


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001])
def test_nan_stays_nan(bits: int) -> None:
    for target in ("F16", "BF16"):
        data = cast(struct.pack("<L", bits), "F32", target)
        assert data is not None
        assert has_non_finite(data, target)


@pytest.mark.parametrize("target", ["F16", "BF16", "F32"])
def test_a_whole_alpha_becomes_the_float_that_the_trainer_saves(target: str) -> None:
    for alpha in (1, 4, 16, 257, 65521):
        data = struct.pack("<q", alpha)
        assert cast(data, "I64", target) == torch_cast(data, "I64", target)


def test_an_unknown_dtype_is_not_cast() -> None:
    assert cast(bytes(4), "F32", "F8_E4M3") is None
    assert cast(bytes(4), "F32", "I32") is None
    assert cast(bytes(1), "U8", "F32") is None
    assert cast(b"\x07", "U8", "U8") == b"\x07"


# Against the manifest of the first check


def with_manifest(state: Path) -> StateFacts:
    """The facts of a state whose manifest was written an hour after its save."""
    report = Auditor(state.parents[1]).audit_run(state.parent.name).checkpoint(state.name)
    saved = report.facts.saved_ns
    write_manifest(state.parent, make_manifest(report, clock=lambda: saved + 3600 * 10**9))
    return facts_of(state)


def test_every_file_is_held_against_the_manifest(state: Path) -> None:
    assert verify(state).as_saved == {}
    facts = with_manifest(state)
    deep = verify_state(facts)
    assert deep.as_saved == dict.fromkeys((entry.name for entry in facts.files), True)
    assert deep.bytes_read == verify_state(replace(facts, manifest=None)).bytes_read


def test_a_byte_that_the_rounding_hides_is_told_by_the_manifest(state: Path) -> None:
    with_manifest(state)
    flip_tensor_byte(state / layout.WEIGHTS_SAFE)
    deep = verify(state)
    assert deep.pair is not None
    assert deep.pair.differing == ()
    assert [name for name, same in deep.as_saved.items() if not same] == [layout.WEIGHTS_SAFE]


def test_files_of_another_size_or_that_are_gone_are_not_hashed(state: Path) -> None:
    with_manifest(state)
    truncate(state / layout.SCHEDULER)
    (state / layout.RANDOM_STATES).unlink()
    assert verify(state).as_saved.keys().isdisjoint({layout.SCHEDULER, layout.RANDOM_STATES})
    assert verify(state).as_saved[layout.OPTIMIZER]


def test_a_file_that_disappears_before_it_is_hashed_is_left_out(state: Path) -> None:
    facts = with_manifest(state)
    (state / layout.TRAIN_STATE).unlink()
    assert layout.TRAIN_STATE not in verify_state(facts).as_saved


def test_hashing_is_counted_and_can_be_cancelled(state: Path) -> None:
    facts = with_manifest(state)
    seen: list[tuple[int, int]] = []
    verify_state(facts, lambda *numbers: seen.append(numbers))
    plain: list[tuple[int, int]] = []
    verify_state(replace(facts, manifest=None), lambda *numbers: plain.append(numbers))
    assert seen == sorted(seen)
    assert seen[-1] == (seen[-1][1],) * 2
    assert seen[-1][1] == plain[-1][1] + facts.size_bytes

    calls = iter(range(10_000))
    with pytest.raises(VerificationCancelled):
        verify_state(facts, cancelled=lambda: next(calls) > len(plain))
