"""Whole states: two saves mixed, values that cannot be trained from, other trainers' states, states that are none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.conformance.bases import WRITERS
from tests.conformance.case import EPOCH_4, Case, on_state
from tests.conformance.file_cases import write
from tests.damage import (
    add_custom_checkpoint,
    add_leftovers,
    add_process,
    add_scaler,
    age,
    interrupt_overwrite,
    interrupt_save,
    nan_in_optimizer,
    nan_in_weights,
    rename_tensors,
    rewrite_torch_zip,
    times_kept,
)
from tests.world import RUN_NAME, STATE_FILES, World

_TRAIN_STATE, _WEIGHTS, _OPTIMIZER, _SCHEDULER, _RANDOM = STATE_FILES
Change = Callable[[World], object]

_LAST = f"{RUN_NAME}-state"


def state_cases() -> Iterator[Case]:
    """All of them."""
    yield from _good()
    yield from _interrupted()
    yield from _mixed()
    yield from _contents()
    yield from _extra_files()
    yield from _none_at_all()
    yield from _resumed()
    yield from _real_runs()


def _good() -> Iterator[Case]:
    yield Case("good states: newest accelerate")
    yield Case("good states: newest accelerate, every byte read", deep=True)
    for version in WRITERS:
        row = "2" if version in ("0.25.0", "0.31.0") else ""
        yield Case(f"good states: written by accelerate {version}", row, base=f"written-by-{version}")
    for base in ("adamw", "sgd", "cosine", "rank-8", "single-blocks", "unet-only"):
        yield Case(f"good states: {base}", base=base)
    yield Case(
        "good states: an epoch's state renamed",
        change=lambda world: world.latest.rename(world.run / "best-so-far"),
        given="best-so-far",
    )
    yield Case(
        "good states: an epoch's state copied without times",
        change=lambda world: _touch_all(world.latest),
    )
    yield Case("good states: reached through a link", change=_link, given="latest")


def _touch_all(state: Path) -> None:
    at = (state / _RANDOM).stat().st_mtime_ns
    for number, path in enumerate(sorted(state.iterdir())):
        os.utime(path, ns=(at + number * 1_000_000,) * 2)


def _link(world: World) -> None:
    (world.run / "latest").symlink_to(world.latest)


def _interrupted() -> Iterator[Case]:
    for whole in range(len(STATE_FILES)):
        yield Case(
            f"killed saves: {whole} files whole" if whole else "killed saves: before the first file",
            "36",
            _with_state(lambda state, whole=whole: interrupt_save(state, whole)),
        )
        yield Case(
            f"killed saves: {whole} files whole, half of {STATE_FILES[whole]}",
            "36",
            _with_state(lambda state, whole=whole: interrupt_save(state, whole, 0.5)),
        )


def _with_state(change: Callable[[Path], object]) -> Change:
    return lambda world: change(world.latest)


def _overwrite(world: World, replaced: int) -> None:
    """Another training's save of epoch 4 over this one's; at an epoch the LoRA file is written before its state."""
    other = _base_run(world, "other-seed") / EPOCH_4
    interrupt_overwrite(world.latest, other, replaced)
    written = (world.latest / STATE_FILES[0]).stat().st_mtime_ns
    lora = world.lora(4)
    shutil.copyfile(other.parent / lora.name, lora)
    os.utime(lora, ns=(written, written))


def _mixed() -> Iterator[Case]:
    """A save of epoch 4 over another training's epoch 4, killed on the way; single files of the epoch before."""
    for replaced in range(1, len(STATE_FILES)):
        # Both trainings stand at the same step of the same schedule: with optimizer.bin the state is the newer one's.
        base = "other-seed" if replaced > STATE_FILES.index(_OPTIMIZER) else ""
        yield Case(
            f"mixed saves: {replaced} newer files of another training",
            "36a",
            lambda world, replaced=replaced: _overwrite(world, replaced),
            pristine_base=base,
        )
    for file in STATE_FILES:
        yield Case(f"mixed saves: {file} of epoch 3, its own time", "36a", _exchange(file, own_time=True))
        told = _TOLD_BY_BYTES.get(file, "")
        yield Case(f"mixed saves: {file} of epoch 3, time kept", "36a", _exchange(file), accepted=told)
    yield Case(
        f"mixed saves: {_WEIGHTS} of epoch 3, time kept, every byte read",
        "36a",
        _exchange(_WEIGHTS),
        deep=True,
    )


_TOLD_BY_BYTES = {
    _RANDOM: "Random states do not tell when they were drawn; the image order and noise differ, and that is all.",
}
_EPOCH_SECONDS = 180


def _exchange(file: str, own_time: bool = False) -> Change:
    """Put the file of epoch 3 in its place; with its own time, an epoch's length before."""

    def change(world: World) -> None:
        path = world.latest / file
        write(path, (world.state(3) / file).read_bytes())
        if own_time:
            age(path, _EPOCH_SECONDS)

    return change


def _contents() -> Iterator[Case]:
    yield Case("contents: NaN in the weights", "25", on_state(_WEIGHTS, nan_in_weights), deep=True)
    yield Case("contents: NaN in the optimizer", "25", _with_state(nan_in_optimizer), deep=True)
    yield Case("contents: Inf in the optimizer", "25", on_state(_OPTIMIZER, _inf), deep=True)
    yield Case(
        "contents: the LoRA file of the epoch as weights",
        "13",
        _lora_as_weights(4),
        accepted="It is the cure for lost weights, and the rounding (below 0.0005) was told with the cure.",
    )
    yield Case(
        "contents: the LoRA file of another epoch as weights",
        "36a",
        _lora_as_weights(3),
    )
    yield Case(
        "contents: the LoRA file of another epoch as weights, every byte read",
        "36a",
        _lora_as_weights(3),
        deep=True,
    )
    for told, rename in (("a whole model", _whole_model), ("other modules", _other_modules)):
        yield Case(f"contents: weights of {told}", "18", on_state(_WEIGHTS, _renamed(rename)))
    for base, told in (
        ("rank-8", "rank 8"),
        ("single-blocks", "single blocks only"),
        ("unet-only", "no text encoder"),
    ):
        yield Case(f"contents: weights of a run with {told}", "16", _from_base(base, _WEIGHTS))
        yield Case(f"contents: optimizer of a run with {told}", "19", _from_base(base, _OPTIMIZER))
    yield Case("contents: optimizer of AdamW", "20", _from_base("adamw", _OPTIMIZER))
    yield Case("contents: optimizer of SGD", "20", _from_base("sgd", _OPTIMIZER))
    yield Case("contents: optimizer without its groups", "19", on_state(_OPTIMIZER, _dropped("param_groups")))
    yield Case("contents: optimizer without its state", "36a", on_state(_OPTIMIZER, _dropped("state")))
    yield Case("contents: optimizer with an empty state", "36a", on_state(_OPTIMIZER, _edited(_no_moments)))
    yield Case("contents: optimizer with one entry less", "36a", on_state(_OPTIMIZER, _edited(_one_less)))
    yield Case("contents: optimizer groups in the other order", "19", on_state(_OPTIMIZER, _edited(_turned)))
    yield Case("contents: scheduler without last_epoch", "11", on_state(_SCHEDULER, _dropped("last_epoch")))
    yield Case("contents: scheduler without base_lrs", "11", on_state(_SCHEDULER, _dropped("base_lrs")))


def _edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def transform(saved: dict[str, Any]) -> dict[str, Any]:
        edit(saved)
        return saved

    return lambda path: rewrite_torch_zip(path, transform)


def _dropped(key: str) -> Callable[[Path], object]:
    return _edited(lambda saved: saved.pop(key))


def _no_moments(saved: dict[str, Any]) -> None:
    saved["state"] = {}


def _one_less(saved: dict[str, Any]) -> None:
    del saved["state"][max(saved["state"])]


def _turned(saved: dict[str, Any]) -> None:
    saved["param_groups"].reverse()


def _inf(path: Path) -> None:
    def edit(saved: dict[str, Any]) -> None:
        saved["state"][0]["exp_avg_sq_row"][0] = float("inf")

    _edited(edit)(path)


def _lora_as_weights(epoch: int) -> Change:
    return lambda world: write(world.latest / _WEIGHTS, world.lora(epoch).read_bytes())


def _whole_model(name: str) -> str:
    return name.replace("lora_te1_", "").replace("lora_unet_", "")


def _other_modules(name: str) -> str:
    return name.replace("img_attn", "img_attention")


def _renamed(rename: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda path: rename_tensors(path, rename)


def _from_base(base: str, file: str) -> Change:
    """The file of the same epoch of another base."""
    return lambda world: write(world.latest / file, (_base_run(world, base) / EPOCH_4 / file).read_bytes())


def _base_run(world: World, base: str) -> Path:
    """Where a base lies, seen from a case (`Workbench`)."""
    return world.root.parents[1] / "bases" / base / "outputs" / RUN_NAME


def _extra_files() -> Iterator[Case]:
    yield Case("extra files: leftovers", "36b", _with_state(add_leftovers))
    yield Case("extra files: a scaler", "24", _with_state(add_scaler))
    yield Case("extra files: random states of a second process", "6", _with_state(add_process))
    yield Case("extra files: a registered object", "27", _with_state(add_custom_checkpoint))
    yield Case(
        "extra files: pytorch_model.bin beside model.safetensors",
        "36b",
        _with_state(lambda state: _beside(state, "pytorch_model.bin", b"garbage")),
    )
    for name in ("sampler.bin", "optimizer_1.bin", "scheduler_1.bin", "model_1.safetensors", "notes.txt"):
        yield Case(
            f"extra files: a broken {name}",
            "36b",
            _with_state(lambda state, name=name: _beside(state, name, b"garbage")),
        )
    yield Case(
        "extra files: a broken scaler.pt",
        "24",
        _with_state(lambda state: _beside(state, "scaler.pt", b"garbage")),
    )


def _beside(state: Path, name: str, data: bytes) -> None:
    with times_kept(state):
        (state / name).write_bytes(data)


def _none_at_all() -> Iterator[Case]:
    yield Case("no state: nothing there", "9", given="persian-cat-000009-state")
    yield Case("no state: a LoRA file", "7", given=f"{RUN_NAME}-000004.safetensors")
    yield Case("no state: the run's folder", "8", given=".")
    yield Case("no state: a file of a state", "7", given=f"{EPOCH_4}/optimizer.bin")
    yield Case(
        "no state: another folder",
        "8",
        lambda world: (world.run / "sample").mkdir(),
        given="sample",
    )
    yield Case("no state: a link to nowhere", "9", _dangling, given="latest")


def _dangling(world: World) -> None:
    (world.run / "latest").symlink_to(world.run / "removed")


def _resumed() -> Iterator[Case]:
    def case(told: str, row: str, base: str, number: int, **rest: Any) -> Case:
        state = f"{RUN_NAME}-{number:06d}-state"
        return Case(f"after a resume: {told}", row, base=base, state=state, epoch=number + 1, **rest)

    yield case("the state resumed from", "", "resumed", 2)
    yield case("an epoch later", "29", "resumed", 3)
    yield case("two epochs later", "29", "resumed", 4)
    yield case("two epochs later, --initial_epoch", "29", "resumed", 4, flags=_add("--initial_epoch 5"))
    yield case("resumed again with --initial_epoch", "29", "resumed-rightly", 5)
    yield case("again, --initial_epoch", "29", "resumed-rightly", 6, flags=_add("--initial_epoch 7"))
    yield case("epochs repeated silently", "29", "resumed-silently", 3)
    yield case("epochs repeated silently, two", "29", "resumed-silently", 4)
    yield case("a warm start", "29", "warm-start", 3)
    yield case("a warm start, --initial_epoch", "29", "warm-start", 4, flags=_add("--initial_epoch 5"))
    for step, epoch, skip in ((5, 1, 5), (10, 2, 2), (20, 3, 4), (30, 4, 6)):
        state = f"{RUN_NAME}-step{step:08d}-state"
        told = f"step {step}, in the middle of epoch {epoch}"
        yield Case(f"after a resume: {told}", "30", base="steps", state=state, epoch=epoch, skip=skip)
        yield Case(
            f"after a resume: {told}, skipping",
            "30",
            base="steps",
            state=state,
            epoch=epoch,
            skip=skip,
            flags=_add("--skip_until_initial_step"),
        )
    more = (("--max_train_epochs 4", "--max_train_epochs 6"),)
    for base in ("finished", "finished-linear", "finished-cosine"):
        told = f"a {base.replace('-', ' (')}{')' if '-' in base else ''} run"
        yield Case(f"after the end: {told}", "28", base=base, state=_LAST)
        yield Case(f"after the end: {told}, more epochs", "33", base=base, state=_LAST, flags=more)
    again = _add("--initial_epoch 4")
    yield Case(
        "after the end: a finished (linear) run, its last epoch again",
        "32",
        base="finished-linear",
        state=_LAST,
        flags=again,
    )


def _add(flag: str) -> tuple[tuple[str, str], ...]:
    return (("--save_state", f"--save_state \\\n  {flag}"),)


_REAL = "real-runs/"


def _real_runs() -> Iterator[Case]:
    """What the unedited trainer wrote; the killed runs equal the whole one to the bit, up to the kill."""
    whole = f"{_REAL}accelerate-1.6.0-adafactor"

    def case(run: str, number: int, row: str = "", **rest: Any) -> Case:
        state = f"tiny-lora-{number:06d}-state"
        told = f"real runs: {run}, epoch {number}{rest.pop('told', '')}"
        return Case(told, row, base=f"{_REAL}{run}", state=state, epoch=number + 1, **rest)

    for run in ("accelerate-1.6.0-adafactor", "accelerate-0.33.0-adafactor"):
        yield case(run, 1)
        yield case(run, 2, deep=True, told=", every byte read")
        yield case(run, 3, "28")
    for run in ("killed-after-json", "killed-in-optimizer", "killed-in-rng", "killed-while-overwriting"):
        yield case(run, 1)
        row = "36a" if run.endswith("overwriting") else "36"
        yield case(run, 2, row, pristine_base=whole)
    for number in (1, 2, 3, 4, 5):
        yield case("resumed-once", number, "29" if number > 2 else "")
    for optimizer in ("adafactor", "adamw", "sgdnesterov"):
        flags = (("--optimizer_type adamw8bit", f"--optimizer_type {optimizer}"),)
        yield case("accelerate-1.6.0-adamw8bit", 2, "20", flags=flags, told=f", then {optimizer}")
