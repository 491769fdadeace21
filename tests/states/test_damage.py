"""The builders of damage do what they say, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import damage
from tests.world import STATE_FILES, World

RUNNING = (
    "os-system",
    "posix-system",
    "builtins-eval",
    "python-2-builtins",
    "subprocess",
    "stack-global",
    "instance-opcode",
)

ONE_FILE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncate": ("optimizer.bin", damage.truncate),
    "empty": ("optimizer.bin", damage.empty),
    "flip-byte": ("optimizer.bin", lambda path: damage.flip_byte(path, -1)),
    "flip-member-byte": ("optimizer.bin", lambda path: damage.flip_member_byte(path, "data/1", 3)),
    "put-pickle": (
        "optimizer.bin",
        lambda path: damage.put_pickle(path, damage.HOSTILE_PICKLES["os-system"]),
    ),
    "nan-in-optimizer": ("optimizer.bin", lambda path: damage.nan_in_optimizer(path.parent)),
    "drop-rng-step": ("random_states_0.pkl", lambda path: damage.drop_rng_step(path.parent)),
    "flip-tensor-byte": ("model.safetensors", damage.flip_tensor_byte),
    "nan-in-weights": ("model.safetensors", damage.nan_in_weights),
    "rename-tensors": ("model.safetensors", lambda path: damage.rename_tensors(path, str.upper)),
    "edit-train-state": (
        "train_state.json",
        lambda path: damage.edit_train_state(path.parent, current_step=8),
    ),
}


def contents(state: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in state.iterdir()}


def times(state: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in [state, *state.iterdir()]}


@pytest.mark.parametrize("name", ONE_FILE)
def test_one_file_changes_and_no_time(world: World, name: str) -> None:
    file, break_it = ONE_FILE[name]
    before, before_times = contents(world.latest), times(world.latest)
    break_it(world.latest / file)
    after = contents(world.latest)
    assert {key for key in after if after[key] != before[key]} == {file}
    assert after.keys() == before.keys()
    assert times(world.latest) == before_times


def test_what_is_removed_leaves_the_folder_s_time(world: World) -> None:
    before = times(world.latest)
    damage.remove(world.latest / "scheduler.bin")
    del before["scheduler.bin"]
    assert times(world.latest) == before


def test_a_flipped_member_fails_its_crc(world: World) -> None:
    path = world.latest / "optimizer.bin"
    damage.flip_member_byte(path, "data/1")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() == damage.member_name(path, "data/1")


def test_a_put_pickle_has_a_valid_crc(world: World) -> None:
    path = world.latest / "scheduler.bin"
    damage.put_pickle(path, b"\x80\x02N.")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read(damage.member_name(path, "data.pkl")) == b"\x80\x02N."


def test_an_interrupted_save_ends_in_a_part_of_a_file(world: World) -> None:
    whole = contents(world.latest)
    damage.interrupt_save(world.latest, whole=2, fraction=0.5)
    assert contents(world.latest) == {
        "train_state.json": whole["train_state.json"],
        "model.safetensors": whole["model.safetensors"],
        "optimizer.bin": whole["optimizer.bin"][: len(whole["optimizer.bin"]) // 2],
    }


def test_an_interrupted_overwrite_mixes_two_saves(world: World) -> None:
    older, newer = contents(world.state(2)), contents(world.state(4))
    damage.interrupt_overwrite(world.state(2), world.state(4), replaced=2)
    mixed = contents(world.state(2))
    for name in STATE_FILES:
        assert mixed[name] == (newer if name in STATE_FILES[:2] else older)[name]
    saved = times(world.state(2))
    assert saved["train_state.json"] > saved["random_states_0.pkl"] + 599 * 10**9


def test_added_files_are_the_only_difference(world: World) -> None:
    before, before_times = contents(world.latest), times(world.latest)
    damage.add_custom_checkpoint(world.latest)
    damage.add_process(world.latest)
    damage.add_scaler(world.latest)
    damage.add_leftovers(world.latest)
    after, after_times = contents(world.latest), times(world.latest)
    assert before.items() < after.items()
    assert after.keys() >= {
        "custom_checkpoint_0.pkl",
        "random_states_1.pkl",
        "scaler.pt",
        "model_1.safetensors",
    }
    assert before_times.items() < after_times.items()


def test_a_key_set_to_none_leaves_the_train_state(world: World) -> None:
    damage.edit_train_state(world.latest, current_step=None, note="x")
    assert json.loads((world.latest / "train_state.json").read_text()) == {"current_epoch": 4, "note": "x"}


def test_a_schedule_free_state_has_no_schedule(world: World) -> None:
    damage.make_schedule_free(world.latest)
    assert not (world.latest / "scheduler.bin").exists()


@pytest.mark.parametrize("name", RUNNING)
def test_hostile_pickles_do_run_where_they_are_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / "hostile.pkl").write_bytes(damage.HOSTILE_PICKLES[name])
    load = (
        "import pickle; from subprocess import Popen; "
        "made = pickle.load(open('hostile.pkl', 'rb')); isinstance(made, Popen) and made.wait()"
    )
    subprocess.run([sys.executable, "-c", load], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "harm").exists()


def test_the_world_is_copied_with_its_times(world: World, world_template: Path) -> None:
    template = World(world_template)
    assert times(world.latest) == times(template.latest)
    assert contents(world.latest) == contents(template.latest)
    assert str(world.run) in world.script.read_text()
    assert str(world_template) not in world.script.read_text() + (world.run / "dataset.toml").read_text()


def test_registered_states_are_whole(registered_states: Path) -> None:
    names = {kind: set(contents(registered_states / kind)) for kind in ("safetensors", "bin", "sharded")}
    common = {"custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", "scheduler.bin"}
    assert names["safetensors"] == common | {"model.safetensors"}
    assert names["bin"] == common | {"pytorch_model.bin"}
    shards = {f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    assert names["sharded"] == common | shards | {"model.safetensors.index.json"}
