"""One reader per kind of file: what real files tell, what broken ones raise, and how little of them is read."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoint_core.formats.reader import DamageKind, FileReader, FormatError
from checkpoint_core.states import layout, readers
from checkpoint_core.states.facts import CustomObjectFacts, OptimizerFacts, WeightsFacts
from tests.builders import safetensors_file, torch_file
from tests.damage import HOSTILE_PICKLES, flip_member_byte, put_pickle, rewrite_zip
from tests.registered_states import EPOCH, STEP

ADAFACTOR, ADAMW8BIT = "accelerate-1.6.0-adafactor", "accelerate-1.6.0-adamw8bit"
STATE = "tiny-lora-000002-state"
READERS: dict[str, Callable[[Path], object]] = {
    "optimizer.bin": readers.read_optimizer,
    "scheduler.bin": readers.read_scheduler,
    "random_states_0.pkl": readers.read_random_states,
    "custom_checkpoint_0.pkl": readers.read_custom_object,
}


@pytest.fixture
def state(real_runs: Path, tmp_path: Path) -> Path:
    """A copy of a real state of the second epoch, 8 steps an epoch."""
    return shutil.copytree(real_runs / ADAFACTOR / STATE, tmp_path / STATE)


@pytest.fixture
def registered(registered_states: Path, tmp_path: Path) -> Path:
    """A copy of the states with registered objects."""
    return shutil.copytree(registered_states, tmp_path / "registered")


def weights_of(directory: Path) -> WeightsFacts:
    return readers.read_weights(directory, frozenset(os.listdir(directory)))


def refused(read: Callable[[], object]) -> FormatError:
    with pytest.raises(FormatError) as caught:
        read()
    return caught.value


# What real files tell


@pytest.mark.parametrize(("run", "family"), [(ADAFACTOR, "adafactor"), (ADAMW8BIT, "adamw8bit")])
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_real_optimizers_tell_family_step_and_counts(
    real_runs: Path, run: str, family: str, epoch: int
) -> None:
    path = real_runs / run / f"tiny-lora-{epoch:06d}-state"
    found, weights = readers.read_optimizer(path / layout.OPTIMIZER), weights_of(path)
    assert (found.family, found.step, found.schedule_free) == (family, epoch * 8, False)
    assert found.param_count == found.state_count == weights.trained_count > 0
    assert found.shapes is None or found.shapes == weights.shapes


def test_the_steps_of_adamw_are_read_from_their_tensors(registered_states: Path) -> None:
    found = readers.read_optimizer(registered_states / "bin" / layout.OPTIMIZER)
    assert (found.family, found.step, found.learning_rates) == ("adamw", 3, (1e-3,))
    assert found.shapes == Counter({(32, 32): 2, (32,): 2})


def test_real_schedulers_and_random_states_tell_their_counts(state: Path) -> None:
    scheduler = readers.read_scheduler(state / layout.SCHEDULER)
    assert (scheduler.last_epoch, scheduler.last_lrs, scheduler.base_lrs) == (16, (8e-4, 8e-4), (8e-4, 8e-4))
    random_states = readers.read_random_states(state / layout.RANDOM_STATES)
    assert random_states.step == 0
    assert set(random_states.generators) >= {"python", "numpy", "torch"}


def test_real_weights_tell_modules_ranks_and_alpha(real_runs: Path) -> None:
    first, other = (weights_of(real_runs / run / STATE) for run in (ADAFACTOR, ADAMW8BIT))
    assert (first.ranks, first.alpha, len(first.modules)) == (Counter({4: 28}), 1.0, 28)
    assert "lora_unet_single_blocks_1_linear2" in first.modules
    assert other.modules is first.modules, "the names of a thousand states would fill the memory"


@pytest.mark.parametrize(("run", "betas"), [(ADAFACTOR, None), (ADAMW8BIT, (0.9, 0.999))])
def test_real_optimizers_tell_their_settings(real_runs: Path, run: str, betas: tuple[float, float]) -> None:
    settings = dict(readers.read_optimizer(real_runs / run / STATE / layout.OPTIMIZER).settings)
    assert settings.get("betas") == betas
    assert settings["lr"] == settings["initial_lr"] == 8e-4
    assert "params" not in settings


def test_what_a_file_names_is_told(state: Path) -> None:
    assert "torch.FloatStorage" in readers.read_optimizer(state / layout.OPTIMIZER).names
    assert readers.read_scheduler(state / layout.SCHEDULER).names == frozenset()
    assert "numpy.ndarray" in readers.read_random_states(state / layout.RANDOM_STATES).names


def test_random_states_of_accelerate_0_33_are_told_too(real_runs: Path) -> None:
    path = real_runs / "accelerate-0.33.0-adafactor" / STATE / layout.RANDOM_STATES
    assert readers.read_random_states(path).step is not None


def test_a_registered_object_tells_step_and_epoch(registered_states: Path) -> None:
    found = readers.read_custom_object(registered_states / "bin" / layout.CUSTOM_OBJECT)
    assert found == CustomObjectFacts(STEP, EPOCH)


def test_a_real_lora_tells_epoch_steps_and_rank(real_runs: Path) -> None:
    path = real_runs / ADAFACTOR / "tiny-lora-000002.safetensors"
    found = readers.read_lora(path, path.stat().st_size, 7)
    assert (found.epoch, found.steps, found.steps_per_epoch, found.modified_ns) == (2, 16, 8, 7)
    assert found.weights.rank == weights_of(real_runs / ADAFACTOR / STATE).rank
    assert found.weights.keys_are_lora


# Weights in each form


def test_weights_are_the_same_in_every_form(registered_states: Path) -> None:
    forms = {kind: weights_of(registered_states / kind) for kind in ("safetensors", "bin", "sharded")}
    assert {kind: found.file for kind, found in forms.items()} == {
        "safetensors": layout.WEIGHTS_SAFE,
        "bin": layout.WEIGHTS_PICKLED,
        "sharded": layout.WEIGHTS_SAFE_INDEX,
    }
    assert all(found.shapes == Counter({(32, 32): 2, (32,): 2}) for found in forms.values())
    assert all(found.tensor_count == 4 for found in forms.values())


ALPHAS = [
    ("F32", struct.pack("<f", 2.5), 2.5),
    ("F64", struct.pack("<d", 2.5), 2.5),
    ("F16", struct.pack("<e", 2.5), 2.5),
    ("BF16", struct.pack("<f", 2.5)[2:], 2.5),
    ("I64", struct.pack("<q", 4), 4.0),
    ("I32", struct.pack("<i", 4), 4.0),
    ("U8", b"\4", None),
]


@pytest.mark.parametrize(("dtype", "data", "alpha"), ALPHAS)
def test_the_first_alpha_is_read_in_every_dtype_that_a_trainer_saves(
    tmp_path: Path, dtype: str, data: bytes, alpha: float | None
) -> None:
    down = ("F32", (1, 2), bytes(8))
    file = {"a.lora_down.weight": down, "a.alpha": (dtype, (), data), "b.alpha": ("F32", (), bytes(4))}
    (tmp_path / layout.WEIGHTS_SAFE).write_bytes(safetensors_file(file))
    assert weights_of(tmp_path).alpha == alpha


@pytest.mark.parametrize("shape", [(0,), (3,)])
def test_an_alpha_that_is_no_number_is_not_known(tmp_path: Path, shape: tuple[int, ...]) -> None:
    file = {"a.alpha": ("F32", shape, bytes(4 * shape[0]))}
    (tmp_path / layout.WEIGHTS_SAFE).write_bytes(safetensors_file(file))
    assert weights_of(tmp_path).alpha is None


def test_pickled_weights_tell_their_alpha(tmp_path: Path) -> None:
    alpha = torch.tensor(2.5, dtype=torch.bfloat16)
    torch.save({"a.lora_down.weight": torch.zeros(4, 2), "a.alpha": alpha}, tmp_path / layout.WEIGHTS_PICKLED)
    found = weights_of(tmp_path)
    assert (found.alpha, found.ranks, found.modules) == (2.5, Counter({4: 1}), frozenset({"a"}))


def test_pickled_shards_are_read(registered: Path) -> None:
    state = registered / "bin"
    (state / layout.WEIGHTS_PICKLED).rename(state / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": {"0.weight": "pytorch_model-00001-of-00001.bin"}}
    (state / layout.WEIGHTS_PICKLED_INDEX).write_text(json.dumps(index))
    found = weights_of(state)
    assert (found.file, found.tensor_count) == (layout.WEIGHTS_PICKLED_INDEX, 4)


def shard(state: Path) -> Path:
    return next(iter(sorted(state.glob("model-*-of-*.safetensors"))))


def test_a_missing_shard_is_named(registered: Path) -> None:
    missing = shard(registered / "sharded")
    missing.unlink()
    error = refused(lambda: weights_of(registered / "sharded"))
    assert (error.kind, error.detail) == (DamageKind.CORRUPT, f"it names {missing.name}, which is missing")


@pytest.mark.parametrize(("size", "kind"), [(0, DamageKind.EMPTY), (-1, DamageKind.TRUNCATED)])
def test_a_broken_shard_is_named(registered: Path, size: int, kind: DamageKind) -> None:
    broken = shard(registered / "sharded")
    os.truncate(broken, size % broken.stat().st_size if size else 0)
    error = refused(lambda: weights_of(registered / "sharded"))
    assert error.kind is kind
    assert error.detail.startswith(f"{broken.name}: ")


def test_a_shard_that_is_no_file_of_the_folder_could_not_be_read(registered: Path) -> None:
    """As for any link out of the outputs folder: nothing is known, not even damage."""
    linked = shard(registered / "sharded")
    names = frozenset(os.listdir(linked.parent)) - {linked.name}
    error = refused(lambda: readers.read_weights(linked.parent, names))
    assert error.kind is DamageKind.UNREADABLE
    assert linked.name in error.detail


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": ["b"]}}',
        '{"weight_map": {"a": "b", "c": 1}}',
        '{"weight_map": {"a": "../../secret.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "..\\\\secret"}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": ""}}',
        '{"weight_map": {"a": "null\\u0000byte"}}',
        '{"weight_map": {"a": "half\\ud800"}}',
        "[" * 50_000,
    ],
)
def test_an_index_that_is_none_or_leads_elsewhere_is_damage(registered: Path, index: str) -> None:
    state = registered / "sharded"
    (state / layout.WEIGHTS_SAFE_INDEX).write_text(index)
    assert refused(lambda: weights_of(state)).kind is DamageKind.CORRUPT


def test_an_index_without_shards_holds_no_weights(registered: Path) -> None:
    (registered / "sharded" / layout.WEIGHTS_SAFE_INDEX).write_text('{"weight_map": {}}')
    assert weights_of(registered / "sharded").tensor_count == 0


# What broken files raise


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("hostile", HOSTILE_PICKLES)
def test_a_hostile_pickle_runs_nothing_and_raises_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hostile: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(torch_file(HOSTILE_PICKLES[hostile]))
    try:
        found = READERS[name](tmp_path / name)
    except FormatError:
        found = None
    # A registered object may be anything; one that is no table tells nothing but the names in it.
    if isinstance(found, CustomObjectFacts):
        found = replace(found, names=frozenset())
    assert found in (None, CustomObjectFacts(None, None))
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"])
def test_names_outside_the_allow_list_are_reported(state: Path, name: str) -> None:
    put_pickle(state / name, HOSTILE_PICKLES["os-system"])
    error = refused(lambda: READERS[name](state / name))
    assert (error.kind, error.names) == (DamageKind.FOREIGN, ("os.system",))
    assert "os.system" in error.detail


@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"])
def test_a_pickle_of_something_else_is_damage(state: Path, name: str) -> None:
    put_pickle(state / name, b"\x80\x02]q\x00.")
    assert refused(lambda: READERS[name](state / name)).kind is DamageKind.CORRUPT


def test_a_tensor_without_its_bytes_is_damage(state: Path) -> None:
    path = state / layout.OPTIMIZER

    def drop(members: dict[str, bytes]) -> dict[str, bytes]:
        name = next(name for name in members if name.endswith("/data/1"))
        return {key: data for key, data in members.items() if key != name}

    rewrite_zip(path, drop)
    error = refused(lambda: readers.read_optimizer(path))
    assert (error.kind, error.detail) == (DamageKind.CORRUPT, "the bytes of tensor 1 are not in it")


@pytest.mark.parametrize("name", ["scheduler.bin", "random_states_0.pkl"])
def test_every_byte_of_a_small_record_is_held_by_its_checksum(state: Path, name: str) -> None:
    for member in ("data.pkl", "version"):
        copy = state / f"copy-of-{name}"
        shutil.copy(state / name, copy)
        flip_member_byte(copy, member)
        assert refused(lambda copy=copy: READERS[name](copy)).kind is DamageKind.CORRUPT  # type: ignore[misc]


def test_flipped_bytes_of_the_torch_generator_are_told(state: Path) -> None:
    flip_member_byte(state / layout.RANDOM_STATES, "data/0", 100)
    error = refused(lambda: readers.read_random_states(state / layout.RANDOM_STATES))
    assert "data/0" in error.detail


# How little is read


def test_describing_an_optimizer_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the directory and the small records: the tensors of a real file are gigabytes."""
    torch = pytest.importorskip("torch")
    parameters = [torch.nn.Parameter(torch.zeros(512, 512)) for _ in range(4)]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    path = tmp_path / layout.OPTIMIZER
    torch.save(optimizer.state_dict(), path)
    lengths: list[int] = []
    read = FileReader._read

    def counting(reader: FileReader, offset: int, length: int) -> bytes:
        lengths.append(length)
        return read(reader, offset, length)

    monkeypatch.setattr(FileReader, "_read", counting)
    found = readers.read_optimizer(path)
    assert isinstance(found, OptimizerFacts)
    assert (found.step, found.param_count) == (1, 4)
    assert path.stat().st_size > 8_000_000
    assert sum(lengths) < 100_000


def test_describing_weights_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / layout.WEIGHTS_SAFE
    path.write_bytes(safetensors_file({"lora_unet_a.lora_down.weight": ("F32", (512, 2048), bytes(4 << 20))}))
    lengths: list[int] = []
    read = FileReader._read

    def counting(reader: FileReader, offset: int, length: int) -> bytes:
        lengths.append(length)
        return read(reader, offset, length)

    monkeypatch.setattr(FileReader, "_read", counting)
    assert weights_of(tmp_path).rank == 512
    assert sum(lengths) < 1000
