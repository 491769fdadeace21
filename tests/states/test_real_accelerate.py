"""The real `Accelerator.load_state` has the last word: what is called ready loads, what is called damaged raises.

Each case breaks one thing in a state of the valid world, is judged, and is then resumed from for one step by the
small trainer, which calls the installed accelerate with sd-scripts' hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.findings import Verdict
from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.demo.trainer import train
from checkpoint_core.formats.pickles import Tensor, describe
from checkpoint_core.formats.reader import FileReader
from checkpoint_core.formats.torch_zip import TorchZip
from checkpoint_core.states import layout, readers
from checkpoint_core.states.layout import Layout
from tests.damage import (
    HOSTILE_PICKLES,
    add_custom_checkpoint,
    add_leftovers,
    add_process,
    add_scaler,
    drop_rng_step,
    edit_train_state,
    empty,
    flip_member_byte,
    put_pickle,
    remove,
    rename_tensors,
    times_kept,
    truncate,
)
from tests.judging import judge_copy, judge_state
from tests.registered_states import TrainingPosition
from tests.world import STATE_FILES, World, resume_options

Damage = Callable[[Path], object]
DTYPE_NAMES = {"Float": torch.float32, "Long": torch.int64, "Byte": torch.uint8, "BFloat16": torch.bfloat16}


def on(name: str, damage: Damage) -> Damage:
    """The damage done to one file of a state."""
    return lambda state: damage(state / name)


def write_text(path: Path) -> None:
    """Put a text in a file's place, its times kept: it must not look as if it were being saved."""
    with times_kept(path):
        path.write_text("no archive")


LOADS: dict[str, Damage] = {
    "whole": lambda state: None,
    "leftovers": add_leftovers,
    "scaler": add_scaler,
    "second process": add_process,
    "random states missing": on(layout.RANDOM_STATES, remove),
    "random states empty": on(layout.RANDOM_STATES, empty),
    "random states truncated": on(layout.RANDOM_STATES, truncate),
    "random states without step": drop_rng_step,
    "random states no archive": on(layout.RANDOM_STATES, write_text),
    "random states no pickle": on(layout.RANDOM_STATES, lambda path: put_pickle(path, b"\x80\x02]")),
}
RAISES: dict[str, Damage] = {
    **{f"{name} missing": on(name, remove) for name in STATE_FILES[1:4]},
    **{f"{name} empty": on(name, empty) for name in STATE_FILES[:4]},
    **{f"{name} truncated": on(name, truncate) for name in STATE_FILES[:4]},
    "optimizer.bin hostile": on(
        layout.OPTIMIZER, lambda path: put_pickle(path, HOSTILE_PICKLES["os-system"])
    ),
    "scheduler.bin hostile": on(
        layout.SCHEDULER, lambda path: put_pickle(path, HOSTILE_PICKLES["builtins-eval"])
    ),
    "optimizer.bin a list": on(layout.OPTIMIZER, lambda path: put_pickle(path, b"\x80\x02]q\x00.")),
    "train_state.json without its step": lambda state: edit_train_state(state, current_step=None),
    "stray custom object": add_custom_checkpoint,
    "other tensors": on(
        layout.WEIGHTS_SAFE, lambda path: rename_tensors(path, lambda name: name.replace("lora_", "unet."))
    ),
}


def resume_one_step(world: World, epoch: int = 4) -> None:
    train(resume_options(world, epoch, stop_after_step=1, quiet=True))


@pytest.mark.parametrize("case", LOADS)
def test_what_is_called_ready_loads_and_trains(world: World, case: str) -> None:
    LOADS[case](world.latest)
    assert judge_state(world).verdict.resumes
    resume_one_step(world)


@pytest.mark.parametrize("case", RAISES)
def test_what_is_called_broken_raises(
    world: World, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    RAISES[case](world.latest)
    report = judge_state(world)
    assert report.verdict in (Verdict.DAMAGED, Verdict.NEEDS_FIX)
    with pytest.raises(Exception):  # noqa: B017, PT011 - the library's own, which differ between its releases
        resume_one_step(world)
    assert not (tmp_path / "harm").exists()


def test_changed_bytes_of_a_tensor_load_silently_and_are_told_by_reading_every_byte(world: World) -> None:
    """torch verifies no checksum (measured): that a state loads does not make it whole."""
    flip_member_byte(world.latest / layout.OPTIMIZER, "data/0")
    resume_one_step(world)
    report = Auditor(world.outputs).verify(world.run_name, world.latest.name)
    assert (report.verdict, report.findings[0].code) == (Verdict.DAMAGED, "optimizer-bytes-changed")


# Registered objects


@contextmanager
def registered_objects() -> Iterator[tuple[Accelerator, TrainingPosition]]:
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    network = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 32))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    accelerator.prepare(network, optimizer, schedule)
    position = TrainingPosition(0, 0)
    accelerator.register_for_checkpointing(position)
    yield accelerator, position
    AcceleratorState._reset_state(reset_partial_state=True)


def judge_registered(state: Path, folder: Path) -> CheckpointReport:
    return judge_copy(state, folder, Layout.ACCELERATE_OBJECTS)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_states_with_registered_objects_load_and_tell_the_same_position(
    registered_states: Path, tmp_path: Path, kind: str
) -> None:
    report = judge_registered(registered_states / kind, tmp_path)
    assert report.verdict.resumes
    with registered_objects() as (accelerator, position):
        accelerator.load_state(str(report.facts.path))
    custom = report.facts.custom_object
    assert (custom.step, custom.epoch) == (position.step, position.epoch)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", [layout.CUSTOM_OBJECT, layout.OPTIMIZER, layout.SCHEDULER, layout.WEIGHTS_SAFE]
)
@pytest.mark.parametrize("damage", [remove, empty, truncate])
def test_broken_states_with_registered_objects_raise(
    registered_states: Path, tmp_path: Path, name: str, damage: Damage
) -> None:
    state = judge_registered(registered_states / "safetensors", tmp_path).facts.path
    damage(state / name)
    assert not judge_registered(state, tmp_path).verdict.resumes
    with registered_objects() as (accelerator, _), pytest.raises(Exception):  # noqa: B017, PT011 - as above
        accelerator.load_state(str(state))


# What the real readers see is what is described


@pytest.mark.parametrize("run", ["accelerate-1.6.0-adafactor", "accelerate-1.6.0-adamw8bit", "resumed-once"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_torch_reads_the_same_out_of_a_real_state(real_runs: Path, run: str, epoch: int) -> None:
    state = real_runs / run / f"tiny-lora-{epoch:06d}-state"
    optimizer, scheduler, random_states = (load(state / name) for name in STATE_FILES[2:])
    told = readers.read_optimizer(state / layout.OPTIMIZER)
    assert told.step == int(optimizer["state"][0]["step"])
    assert told.learning_rates == tuple(group["lr"] for group in optimizer["param_groups"])
    assert told.group_sizes == tuple(len(group["params"]) for group in optimizer["param_groups"])
    told_schedule = readers.read_scheduler(state / layout.SCHEDULER)
    assert (told_schedule.last_epoch, told_schedule.last_lrs) == (
        scheduler["last_epoch"],
        tuple(scheduler["_last_lr"]),
    )
    assert readers.read_random_states(state / layout.RANDOM_STATES).step == random_states["step"]
    weights = load_file(state / layout.WEIGHTS_SAFE)
    told_weights = readers.read_weights(state, frozenset({layout.WEIGHTS_SAFE}))
    assert told_weights.tensor_count == len(weights)
    trained = [tensor.shape for name, tensor in weights.items() if not name.endswith(".alpha")]
    assert told_weights.shapes.total() == len(trained)
    assert set(told_weights.shapes) == {tuple(shape) for shape in trained}


@pytest.mark.parametrize("run", ["accelerate-1.6.0-adafactor", "accelerate-1.6.0-adamw8bit"])
def test_every_described_tensor_is_the_one_that_torch_loads(real_runs: Path, run: str) -> None:
    path = real_runs / run / "tiny-lora-000002-state" / layout.OPTIMIZER
    loaded = load(path)
    with FileReader(path) as reader:
        archive = TorchZip(reader)
        described = describe(archive.pickle_bytes).value
        compared = 0
        assert described["param_groups"] == loaded["param_groups"]
        assert described["state"].keys() == loaded["state"].keys()
        for index, entry in loaded["state"].items():
            compared += compare(described["state"][index], entry, archive)
    assert compared > 100


def compare(ours: Any, theirs: Any, archive: TorchZip) -> int:
    """Compare a described value with the loaded one; returns how many tensors were compared to the byte."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        return sum(compare(ours[key], value, archive) for key, value in theirs.items())
    if not isinstance(theirs, torch.Tensor):
        assert ours == theirs
        return 0
    assert isinstance(ours, Tensor)
    assert ours.shape == tuple(theirs.shape)
    assert DTYPE_NAMES[ours.storage.dtype] == theirs.dtype
    assert archive.read(archive.members[f"data/{ours.storage.key}"]) == bytes(
        theirs.untyped_storage().tolist()
    )
    return 1


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)
