"""A state directory to facts: one damaged file never hides the others, and nothing on the disk raises."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_core.formats.reader import DamageKind
from checkpoint_core.scripts.paths import same_place
from checkpoint_core.states import inspection, layout
from checkpoint_core.states.discovery import StateDir, list_directory
from checkpoint_core.states.facts import Damage, LoraFacts, StateFacts, WeightsFacts
from checkpoint_core.states.inspection import RECENT_NS, free_bytes, inspect_lora, inspect_state, reading
from checkpoint_core.states.layout import Layout, SavePoint
from tests.damage import HOSTILE_PICKLES, add_leftovers, age, put_pickle, truncate

STATE = "tiny-lora-000002-state"
LATER_NS = 4_000_000_000 * 10**9
PARTS = {
    layout.TRAIN_STATE: "train_state",
    layout.WEIGHTS_SAFE: "weights",
    layout.OPTIMIZER: "optimizer",
    layout.SCHEDULER: "scheduler",
    layout.RANDOM_STATES: "random_states",
}


@pytest.fixture
def state(real_runs: Path, tmp_path: Path) -> Path:
    """A copy of a real state inside a run inside outputs."""
    return shutil.copytree(
        real_runs / "accelerate-1.6.0-adafactor" / STATE, tmp_path / "outputs" / "run" / STATE
    )


def inspect(state: Path, now_ns: int = LATER_NS, output_name: str | None = None) -> StateFacts:
    outputs = state.parents[1]
    found = StateDir(state, list_directory(state, outputs))
    return inspect_state(found, outputs, (Layout.SD_SCRIPTS, "assumed"), output_name, None, now_ns)


def test_a_whole_state_has_facts_for_each_of_its_files(state: Path) -> None:
    facts = inspect(state)
    for name in PARTS.values():
        assert not isinstance(getattr(facts, name), (Damage, type(None)))
    assert facts.custom_object is None
    assert facts.problem is None
    assert facts.size_bytes == sum(file.stat().st_size for file in state.iterdir())
    assert (facts.name.save_point, facts.name.number) == (SavePoint.EPOCH, 2)
    assert (facts.layout, facts.layout_source, facts.observed_ns) == (Layout.SD_SCRIPTS, "assumed", LATER_NS)


def _unlink(path: Path) -> None:
    path.unlink()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _outside(path: Path) -> None:
    target = path.parents[3] / path.name
    shutil.move(path, target)
    path.symlink_to(target)


BREAKS: dict[str, tuple[Callable[[Path], object], DamageKind | None]] = {
    "missing": (_unlink, None),
    "empty": (lambda path: os.truncate(path, 0), DamageKind.EMPTY),
    "pipe": (_fifo, DamageKind.UNREADABLE),
    "folder": (_folder, DamageKind.UNREADABLE),
    "dangling": (_dangling, DamageKind.UNREADABLE),
    "outside": (_outside, DamageKind.UNREADABLE),
    "text": (lambda path: path.write_text("this is no such file"), DamageKind.CORRUPT),
}


@pytest.mark.parametrize("broken", PARTS)
@pytest.mark.parametrize("how", BREAKS)
def test_one_broken_file_is_one_damage_and_hides_no_other(state: Path, broken: str, how: str) -> None:
    break_it, kind = BREAKS[how]
    break_it(state / broken)
    facts = inspect(state)
    for file, name in PARTS.items():
        found = getattr(facts, name)
        if file != broken:
            assert not isinstance(found, (Damage, type(None)))
        elif kind is None:
            assert found is None
        else:
            assert isinstance(found, Damage)
            assert found.kind is kind
            assert found.detail


def test_the_reason_of_an_outside_link_is_told(state: Path) -> None:
    _outside(state / layout.OPTIMIZER)
    damage = inspect(state).optimizer
    assert isinstance(damage, Damage)
    assert "leads out of the outputs folder" in damage.detail


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_without_permission_could_not_be_read(state: Path) -> None:
    (state / layout.OPTIMIZER).chmod(0)
    damage = inspect(state).optimizer
    (state / layout.OPTIMIZER).chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert isinstance(damage, Damage)
    assert (damage.kind, damage.detail) == (DamageKind.UNREADABLE, "Permission denied")


def test_the_names_that_a_hostile_file_uses_are_facts(state: Path) -> None:
    put_pickle(state / layout.OPTIMIZER, HOSTILE_PICKLES["os-system"])
    damage = inspect(state).optimizer
    assert isinstance(damage, Damage)
    assert (damage.kind, damage.names) == (DamageKind.FOREIGN, ("os.system",))


def test_a_shard_that_leads_outside_is_not_followed(registered_states: Path, tmp_path: Path) -> None:
    state = shutil.copytree(registered_states / "sharded", tmp_path / "outputs" / "run" / "sharded")
    _outside(min(state.glob("model-*-of-*.safetensors")))
    damage = inspect(state).weights
    assert isinstance(damage, Damage)
    assert damage.kind is DamageKind.UNREADABLE


def test_a_state_that_disappears_is_a_problem_and_nothing_else(state: Path) -> None:
    shutil.rmtree(state)
    facts = inspect(state)
    assert facts.problem is not None
    assert (facts.files, facts.weights, facts.optimizer) == ((), None, None)


# Errors as values


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(2, "No such file"), DamageKind.UNREADABLE),
        (PermissionError(13, "Permission denied"), DamageKind.UNREADABLE),
        (OSError(5, "Input/output error"), DamageKind.UNREADABLE),
        (MemoryError(), DamageKind.UNSUPPORTED),
        (RecursionError(), DamageKind.UNSUPPORTED),
        (ValueError("a defect of ours"), DamageKind.UNSUPPORTED),
    ],
)
def test_whatever_a_reader_raises_is_could_not_tell(error: Exception, kind: DamageKind) -> None:
    def read() -> None:
        raise error

    damage = reading(read)
    assert isinstance(damage, Damage)
    assert damage.kind is kind


# Times


def test_a_state_that_changes_while_it_is_read_is_marked(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = inspection.readers.read_scheduler

    def growing(path: Path) -> object:
        truncate(state / layout.OPTIMIZER)
        return real(path)

    monkeypatch.setattr(inspection.readers, "read_scheduler", growing)
    saved_ns = (state / layout.RANDOM_STATES).stat().st_mtime_ns
    assert inspect(state, now_ns=saved_ns + RECENT_NS // 2).changed


def test_a_recent_state_that_rests_is_not_marked(state: Path) -> None:
    saved_ns = (state / layout.RANDOM_STATES).stat().st_mtime_ns
    assert not inspect(state, now_ns=saved_ns + RECENT_NS // 2).changed


def test_leftovers_change_neither_the_time_of_the_save_nor_what_is_read(state: Path) -> None:
    before = inspect(state)
    add_leftovers(state)
    for leftover in (".DS_Store", ".tmpA1b2C3", "optimizer_1.bin"):
        age(state / leftover, -86_400)
    after = inspect(state)
    assert after.saved_ns == before.saved_ns
    assert [getattr(after, name) for name in PARTS.values()] == [
        getattr(before, name) for name in PARTS.values()
    ]


def test_a_save_is_finished_with_its_newest_file(state: Path) -> None:
    os.utime(state / layout.SCHEDULER, ns=(LATER_NS, LATER_NS))
    assert inspect(state).saved_ns == LATER_NS


def test_without_a_file_of_a_save_any_file_tells_the_time_and_without_any_the_folder(state: Path) -> None:
    for file in list(state.iterdir()):
        file.unlink()
    (state / ".tmpA1b2C3").touch()
    os.utime(state / ".tmpA1b2C3", ns=(7, 7))
    assert inspect(state).saved_ns == 7
    (state / ".tmpA1b2C3").unlink()
    assert inspect(state).saved_ns == state.stat().st_mtime_ns


# LoRA files and places


def test_a_lora_file_is_facts_or_damage(real_runs: Path, tmp_path: Path) -> None:
    path = Path(
        shutil.copy(real_runs / "accelerate-1.6.0-adafactor" / "tiny-lora-000002.safetensors", tmp_path)
    )
    (entry,) = list_directory(tmp_path, tmp_path).entries
    found = inspect_lora(path, entry)
    assert isinstance(found, LoraFacts)
    assert isinstance(found.weights, WeightsFacts)
    truncate(path)
    damage = inspect_lora(path, entry)
    assert isinstance(damage, Damage)
    assert damage.kind is DamageKind.TRUNCATED


def test_free_space_and_places(state: Path, tmp_path: Path) -> None:
    assert (free_bytes(tmp_path) or 0) > 0
    assert free_bytes(tmp_path / "nowhere") is None
    (tmp_path / "link").symlink_to(state)
    assert same_place(tmp_path / "link", state)
    assert not same_place(state, tmp_path)
    assert not same_place(state, tmp_path / "nowhere")
