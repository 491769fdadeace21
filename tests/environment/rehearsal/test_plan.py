"""What may be rehearsed: nothing that an environment would run."""

from __future__ import annotations

import io
import os
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.checks.rehearsal import findings_of
from checkpoint_core.environment.facts import Environment, EnvironmentFacts, EnvironmentProblem
from checkpoint_core.environment.rehearsal.outcome import Refusal, Rehearsal, RehearsalOutcome
from checkpoint_core.environment.rehearsal.plan import hold_as_torch_reads_it, plan_rehearsal
from checkpoint_core.formats.pickles import describe
from checkpoint_core.formats.reader import DamageKind, FileReader, FormatError
from checkpoint_core.formats.torch_zip import TorchZip
from checkpoint_core.states import layout
from checkpoint_core.states.facts import StateFacts
from checkpoint_core.states.layout import Layout
from tests.builders import torch_file
from tests.damage import (
    HOSTILE_PICKLES,
    add_custom_checkpoint,
    add_process,
    add_scaler,
    calling_pickle,
    empty,
    flip_member_byte,
    put_pickle,
    remove,
    rewrite_zip,
    times_kept,
    truncate,
)
from tests.judging import judge_copy, judge_state, make_directory_of, make_outside_link
from tests.world import World


def environment(**packages: str) -> EnvironmentFacts:
    return EnvironmentFacts("python", "a test", "3.10.0", "Linux", tuple(packages.items()))


NEW = environment(torch="2.7.1", accelerate="1.6.0")
OLD = environment(torch="2.3.0", accelerate="0.33.0")
#: accelerate asks it to take weights only, and CVE-2025-32434 gets round that.
HALF = environment(torch="2.5.1", accelerate="1.6.0")


def plan(world: World, trainer: Environment = NEW, **variables: str) -> Rehearsal | Refusal:
    return plan_rehearsal(judge_state(world).facts, trainer, variables)


def refusal(world: World, trainer: Environment = NEW, **variables: str) -> str:
    """The reason for which the latest state is not rehearsed."""
    planned = plan(world, trainer, **variables)
    assert isinstance(planned, Refusal), planned
    return planned.reason


@pytest.mark.parametrize("trainer", [NEW, OLD, HALF])
def test_a_whole_state_may_be_rehearsed_everywhere(world: World, trainer: EnvironmentFacts) -> None:
    add_scaler(world.latest)
    add_process(world.latest)
    planned = plan(world, trainer)

    assert isinstance(planned, Rehearsal)
    assert (planned.executable, planned.state, planned.layout) == ("python", world.latest, Layout.SD_SCRIPTS)
    assert planned.size_bytes == sum(path.stat().st_size for path in world.latest.iterdir())


@pytest.mark.parametrize(
    "run", ["accelerate-1.6.0-adafactor", "accelerate-1.6.0-adamw8bit", "accelerate-0.33.0-adafactor"]
)
def test_what_real_trainers_save_may_be_rehearsed_by_old_versions(
    real_runs: Path, tmp_path: Path, run: str
) -> None:
    facts = judge_copy(real_runs / run / "tiny-lora-000002-state", tmp_path).facts

    assert isinstance(plan_rehearsal(facts, OLD, {}), Rehearsal)


def test_without_a_known_python_nothing_is_rehearsed(world: World) -> None:
    assert "not known" in refusal(world, None)
    assert "it did not answer" in refusal(world, EnvironmentProblem("python", "a test", "it did not answer"))


def test_a_refusal_neither_betters_nor_worsens_the_judgement(world: World) -> None:
    outcome = RehearsalOutcome.refused(Refusal(refusal(world, None)))
    (only,) = findings_of(outcome)

    assert (only.code, only.severity.value) == ("rehearsal-refused", "info")
    assert only.message == "Not rehearsed: the training interpreter is not known (none was named)."


# Hostile and damaged pickles

PICKLES = ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "random_states_1.pkl", "sampler.bin", "scaler.pt",
           "optimizer_1.bin", "custom_checkpoint_0.pkl", "pytorch_model.bin", "Optimizer_1.BIN")  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("trainer", [NEW, OLD])
def test_a_pickle_that_names_code_is_never_loaded(world: World, trainer: EnvironmentFacts, name: str) -> None:
    with times_kept(world.latest):
        (world.latest / name).write_bytes(torch_file(HOSTILE_PICKLES["os-system"]))
        os.utime(world.latest / name, ns=((world.latest / "train_state.json").stat().st_mtime_ns,) * 2)

    reason = refusal(world, trainer)
    assert name in reason
    assert "os.system" in reason


#: They run nothing, and ask for too much of the stack or of memory: the process of the rehearsal has limits.
EXHAUSTING = ("deep-nesting", "deep-tuples", "memory-bomb", "allowed-call-bomb", "self-containing")


@pytest.mark.parametrize("case", sorted(HOSTILE_PICKLES.keys() - set(EXHAUSTING)))
def test_no_pickle_that_runs_something_reaches_an_old_torch(world: World, case: str) -> None:
    put_pickle(world.latest / layout.OPTIMIZER, HOSTILE_PICKLES[case])

    assert layout.OPTIMIZER in refusal(world, OLD)


@pytest.mark.parametrize("damage", [truncate, lambda path: flip_member_byte(path, "data.pkl", 30)])
def test_a_damaged_pickle_is_only_loaded_where_torch_refuses_by_itself(
    world: World, damage: Callable[[Path], None]
) -> None:
    damage(world.latest / layout.OPTIMIZER)

    assert isinstance(plan(world, NEW), Rehearsal)
    for trainer in (OLD, HALF, environment(accelerate="1.6.0")):
        assert "loaded unchecked" in refusal(world, trainer)
    assert "loaded unchecked" in refusal(world, NEW, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")


def test_an_empty_file_holds_nothing_to_fear(world: World) -> None:
    empty(world.latest / layout.OPTIMIZER)

    assert isinstance(plan(world, OLD), Rehearsal)


def test_a_damaged_registered_object_is_never_loaded(registered_states: Path, tmp_path: Path) -> None:
    facts = judge_copy(registered_states / "safetensors", tmp_path, Layout.ACCELERATE_OBJECTS).facts
    assert isinstance(plan_rehearsal(facts, NEW, {}), Rehearsal)
    truncate(facts.path / layout.CUSTOM_OBJECT)
    facts = judge_copy(registered_states / "safetensors", tmp_path, Layout.ACCELERATE_OBJECTS).facts
    planned = plan_rehearsal(facts, NEW, {})

    assert isinstance(planned, Refusal)
    assert layout.CUSTOM_OBJECT in planned.reason


def test_a_bare_pickle_and_the_old_format_are_not_rehearsed_by_an_old_torch(world: World) -> None:
    path = world.latest / layout.OPTIMIZER
    with times_kept(path):
        path.write_bytes(HOSTILE_PICKLES["os-system"])
    assert "loaded unchecked" in refusal(world, OLD)
    with times_kept(path):
        torch.save({}, path, _use_new_zipfile_serialization=False)
    for trainer in (OLD, NEW):
        assert "could not be judged" in refusal(world, trainer)


def test_split_weights_are_the_trainers_own_to_load(registered_states: Path, tmp_path: Path) -> None:
    facts = judge_copy(registered_states / "sharded", tmp_path, Layout.ACCELERATE_OBJECTS).facts
    planned = plan_rehearsal(facts, NEW, {})

    assert isinstance(planned, Refusal)
    assert "split into several files" in planned.reason


# Files made to be read in two ways


def pickled(text: str) -> bytes:
    """A pickle of a text."""
    return b"\x80\x02X" + struct.pack("<I", len(text)) + text.encode() + b"."


def described(path: Path) -> object:
    with FileReader(path) as reader:
        return describe(TorchZip(reader).pickle_bytes).value


def assert_told_apart(path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        hold_as_torch_reads_it(path)
    assert caught.value.kind is DamageKind.CORRUPT


def test_an_archive_behind_a_pickle_is_told_from_one_that_torch_wrote(tmp_path: Path) -> None:
    """torch unpickles from the beginning of whatever does not begin as an archive."""
    path, plain = tmp_path / "polyglot", tmp_path / "plain"
    archive = io.BytesIO(calling_pickle("os", "system", "echo harm > harm"))
    archive.seek(0, os.SEEK_END)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as members:
        members.writestr(zipfile.ZipInfo("archive/data.pkl"), pickled("benign"))
    path.write_bytes(archive.getvalue())
    plain.write_bytes(torch_file(pickled("benign")))

    assert described(plain) == "benign"
    with pytest.raises(FormatError, match="not a torch file"):
        described(path)
    assert_told_apart(path)
    hold_as_torch_reads_it(plain)


def two_directories(first: bytes, second: bytes) -> bytes:
    """An archive whose small end record leads to one pickle and whose 64-bit one to another."""
    shown, hidden = torch_file(first), torch_file(second)
    directory_at = struct.unpack_from("<L", hidden, len(hidden) - 6)[0]
    directory_size, count = struct.unpack_from("<L", hidden, len(hidden) - 10)[0], 2
    body, end = shown[:-22], shown[-22:]
    moved = bytearray(hidden[directory_at : directory_at + directory_size])
    at = 0
    while at < len(moved):
        name, extra, comment = struct.unpack_from("<3H", moved, at + 28)
        offset = struct.unpack_from("<L", moved, at + 42)[0]
        struct.pack_into("<L", moved, at + 42, offset + len(body))
        at += 46 + name + extra + comment
    body += hidden[:directory_at]
    start = len(body)
    body += bytes(moved)
    large = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(moved), start)
    return body + large + struct.pack("<4sLQL", b"PK\x06\x07", 0, len(body), 1) + end


def test_an_archive_with_two_directories_is_told_from_one_that_torch_wrote(tmp_path: Path) -> None:
    path, real = tmp_path / "two", tmp_path / "real"
    path.write_bytes(two_directories(pickled("benign"), pickled("hidden")))
    torch.save("benign", real)

    assert torch.load(path, weights_only=True) == "hidden"
    assert_told_apart(path)
    hold_as_torch_reads_it(real)


@pytest.mark.parametrize("member", ["DATA.PKL", "constants.pkl", "code/x.py"])
def test_a_member_that_torch_does_not_write_is_not_let_pass(tmp_path: Path, member: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(torch_file(pickled("benign")))
    hold_as_torch_reads_it(path)
    rewrite_zip(path, lambda members: {**members, f"archive/{member}": pickled("hidden")})

    assert_told_apart(path)


def test_bytes_behind_the_end_are_not_let_pass(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(torch_file(pickled("benign")))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"more"

    assert described(path) == "benign"
    assert_told_apart(path)


# States that are not still, and what leads elsewhere


def test_a_state_that_is_being_saved_is_not_rehearsed(world: World) -> None:
    facts = judge_state(world).facts
    assert plan_rehearsal(replace(facts, changed=True), NEW, {}) == Refusal("it is being saved")
    remove(world.latest / layout.RANDOM_STATES)
    assert isinstance(plan(world), Rehearsal)
    os.utime(world.latest / layout.SCHEDULER)
    assert refusal(world) == "it is being saved"


def observed(world: World) -> StateFacts:
    return judge_state(world).facts


@pytest.mark.parametrize(
    "change",
    [
        lambda state: os.utime(state / layout.OPTIMIZER),
        lambda state: truncate(state / layout.OPTIMIZER),
        lambda state: remove(state / layout.SCHEDULER),
        add_custom_checkpoint,
        shutil.rmtree,
    ],
    ids=["time", "size", "removed", "added", "gone"],
)
def test_a_state_that_has_changed_since_it_was_judged_is_not_rehearsed(
    world: World, change: Callable[[Path], object]
) -> None:
    facts = observed(world)
    change(world.latest)
    planned = plan_rehearsal(facts, NEW, {})

    assert isinstance(planned, Refusal)
    assert "changed since" in planned.reason or "could not be read" in planned.reason


def test_a_file_that_changes_while_it_is_judged_is_not_rehearsed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = observed(world)
    from checkpoint_core.environment.rehearsal import plan

    def judge_slowly(path: Path) -> None:
        hold_as_torch_reads_it(path)
        os.utime(world.latest / layout.WEIGHTS_SAFE, ns=(time.time_ns(),) * 2)

    monkeypatch.setattr(plan, "hold_as_torch_reads_it", judge_slowly)
    assert plan_rehearsal(facts, NEW, {}) == Refusal("its files changed while they were looked at")


def test_links_out_of_the_folder_and_what_is_no_file_are_not_followed(world: World) -> None:
    make_outside_link(world.latest / layout.WEIGHTS_SAFE)
    assert refusal(world) == "model.safetensors is a link that leads out of the outputs folder"
    remove(world.latest / layout.WEIGHTS_SAFE)
    assert isinstance(plan(world), Rehearsal)
    make_directory_of(world.latest / layout.OPTIMIZER)
    assert refusal(world) == "optimizer.bin is no regular file"


def test_what_the_trainer_never_loads_is_not_looked_at(world: World, tmp_path: Path) -> None:
    with times_kept(world.latest):
        (world.latest / "notes.pkl").write_bytes(HOSTILE_PICKLES["os-system"])
        (world.latest / "elsewhere").symlink_to(tmp_path)

    assert isinstance(plan(world, OLD), Rehearsal)


def test_a_directory_that_cannot_be_listed_is_not_rehearsed(world: World) -> None:
    facts = observed(world)
    world.latest.rename(world.run / "moved")

    planned = plan_rehearsal(facts, NEW, {})
    assert isinstance(planned, Refusal)
    assert "could not be read" in planned.reason


def test_every_state_of_the_world_may_be_rehearsed(world: World) -> None:
    report = Auditor(world.outputs).audit_run(world.run_name)

    assert all(isinstance(plan_rehearsal(item.facts, NEW, {}), Rehearsal) for item in report.checkpoints)
