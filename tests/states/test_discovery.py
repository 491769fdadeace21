"""Runs and states are found by name and by content; no link is followed out of the outputs folder."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpoint_core.states.discovery import (
    OutputsFolderError,
    RunDir,
    _is_link,
    find_run,
    find_runs,
    is_no_run,
    list_directory,
    run_paths,
    skipped_entries,
)
from checkpoint_core.states.facts import EntryKind

STATES = [f"cat-{epoch:06d}-state" for epoch in (1, 2)]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """One run, `cat`, with two states and their LoRA files; contents are of no interest here."""
    folder = tmp_path / "fluxgym" / "outputs"
    for name in STATES:
        state = folder / "cat" / name
        state.mkdir(parents=True)
        for file in ("train_state.json", "model.safetensors", "optimizer.bin"):
            (state / file).write_text(file)
        (folder / "cat" / f"{name.removesuffix('-state')}.safetensors").touch()
    (folder / "cat" / "train.sh").touch()
    return folder


def only_run(outputs: Path) -> RunDir:
    (run,) = find_runs(outputs)
    return run


def state_names(run: RunDir) -> list[str]:
    return [state.path.relative_to(run.path).as_posix() for state in run.states]


def test_the_valid_world_has_one_run_with_two_states(outputs: Path) -> None:
    run = only_run(outputs)
    assert run.path == outputs / "cat"
    assert state_names(run) == STATES
    assert [entry.name for entry in run.states[0].listing.entries] == [
        "model.safetensors",
        "optimizer.bin",
        "train_state.json",
    ]
    assert run.states[0].listing.entries[0].size_bytes == len("model.safetensors")
    assert run.skipped == ()


def test_samples_and_hidden_folders_are_no_runs(outputs: Path) -> None:
    for name in ("sample", ".cache", ".ipynb_checkpoints"):
        shutil.copytree(outputs / "cat", outputs / name)
        assert is_no_run(name)
    (outputs / "notes.txt").touch()
    assert [path.name for path in run_paths(outputs)] == ["cat"]


def test_samples_and_hidden_folders_of_a_run_are_no_states(outputs: Path) -> None:
    for name in ("sample", ".trash-000003-state"):
        shutil.copytree(outputs / "cat" / STATES[0], outputs / "cat" / name)
    assert state_names(only_run(outputs)) == STATES


def test_a_run_without_states_is_found(outputs: Path) -> None:
    (outputs / "dog").mkdir()
    assert [(run.path.name, len(run.states)) for run in find_runs(outputs)] == [("cat", 2), ("dog", 0)]


def test_an_empty_outputs_folder_has_no_runs(tmp_path: Path) -> None:
    assert run_paths(tmp_path) == ()


def test_a_renamed_copy_is_found_by_its_content(outputs: Path) -> None:
    shutil.copytree(outputs / "cat" / STATES[0], outputs / "cat" / "the good one (copy)")
    assert state_names(only_run(outputs)) == [*STATES, "the good one (copy)"]


def test_a_directory_named_so_is_a_state_even_when_it_is_empty(outputs: Path) -> None:
    """A save that was killed before its first file leaves it so."""
    (outputs / "cat" / "cat-000003-state").mkdir()
    assert state_names(only_run(outputs)) == [*STATES, "cat-000003-state"]


def test_accelerates_own_naming_is_found_one_level_deep(outputs: Path) -> None:
    folder = outputs / "cat" / "checkpoints"
    for name in ("checkpoint_0", "checkpoint_1", "checkpoints/checkpoint_2"):
        shutil.copytree(outputs / "cat" / STATES[0], folder / name)
    (folder / "notes").mkdir()
    assert state_names(only_run(outputs)) == [*STATES, "checkpoints/checkpoint_0", "checkpoints/checkpoint_1"]


@pytest.mark.parametrize("place", ["outputs", "run"])
def test_a_folder_linked_from_outside_is_skipped_with_its_reason(outputs: Path, place: str) -> None:
    elsewhere = outputs.parent / "elsewhere"
    shutil.copytree(outputs / "cat" / STATES[0], elsewhere / "dog-000001-state")
    if place == "outputs":
        (outputs / "dog").symlink_to(elsewhere)
        (skipped,) = skipped_entries(outputs)
    else:
        (outputs / "cat" / "dog-000001-state").symlink_to(elsewhere / "dog-000001-state")
        (skipped,) = only_run(outputs).skipped
    assert state_names(only_run(outputs)) == STATES
    assert skipped.name.startswith("dog")
    assert "leads out of the outputs folder" in skipped.reason


def test_a_file_linked_from_outside_is_no_file_of_the_state(outputs: Path) -> None:
    secret = outputs.parent / "secret"
    secret.write_text("x" * 1000)
    target = outputs / "cat" / STATES[0] / "optimizer.bin"
    target.unlink()
    target.symlink_to(secret)
    (entry,) = (
        entry for entry in only_run(outputs).states[0].listing.entries if entry.name == "optimizer.bin"
    )
    assert (entry.kind, entry.size_bytes) == (EntryKind.OUTSIDE_LINK, 0)


def test_a_link_to_a_place_inside_is_followed(outputs: Path) -> None:
    (outputs / "cat" / "latest").symlink_to(STATES[1])
    state = outputs / "cat" / STATES[0]
    (state / "optimizer.bin").unlink()
    (state / "optimizer.bin").symlink_to(outputs / "cat" / STATES[1] / "optimizer.bin")
    run = only_run(outputs)
    assert state_names(run) == [*STATES, "latest"]
    assert {entry.kind for entry in run.states[0].listing.entries} == {EntryKind.FILE}


def test_an_outputs_folder_that_is_a_link_itself_is_inside_itself(outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "short").symlink_to(outputs)
    (outputs / "cat" / "latest").symlink_to(STATES[1])
    assert state_names(only_run(tmp_path / "short")) == [*STATES, "latest"]


def test_links_that_lead_in_circles_or_nowhere_hide_nothing(outputs: Path) -> None:
    run = outputs / "cat"
    (run / "round").symlink_to("round")
    (run / "there").symlink_to("back")
    (run / "back").symlink_to("there")
    (run / "up").symlink_to("..")
    (run / "nowhere-000009-state").symlink_to("gone")
    (run / "checkpoints").symlink_to(".")
    (run / STATES[0] / "scheduler.bin").symlink_to("scheduler.bin")
    found = only_run(outputs)
    assert {Path(name).name for name in state_names(found)} == set(STATES)
    kinds = {entry.name: entry.kind for entry in found.states[0].listing.entries}
    assert kinds["scheduler.bin"] is EntryKind.OTHER


def test_what_is_no_regular_file_is_told_apart(outputs: Path) -> None:
    state = outputs / "cat" / STATES[0]
    os.mkfifo(state / "pipe")
    (state / "folder").mkdir()
    kinds = {entry.name: entry.kind for entry in only_run(outputs).states[0].listing.entries}
    assert kinds["pipe"] is EntryKind.OTHER
    assert kinds["folder"] is EntryKind.DIRECTORY


def test_a_junction_of_windows_is_taken_for_a_link() -> None:
    """`os.DirEntry.is_symlink` is false for one, and following it may lead to another drive."""
    junction = SimpleNamespace(st_mode=stat.S_IFDIR | 0o777, st_file_attributes=0x400 | 0x10)
    folder = SimpleNamespace(st_mode=stat.S_IFDIR | 0o777, st_file_attributes=0x10)
    assert _is_link(junction)  # type: ignore[arg-type]
    assert not _is_link(folder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "two\nlines",
        "ende\x1b[31mrot",
        "Котёнок 猫",
        "a & b; $(rm) `x`",
        "-rf",
        "%TEMP%",
    ],
)
def test_strange_names_are_found_as_they_are(outputs: Path, name: str) -> None:
    (outputs / "cat").rename(outputs / name)
    run = only_run(outputs)
    assert run.path.name == name
    assert len(run.states) == 2


def test_names_that_are_no_utf_8_are_found(outputs: Path) -> None:
    raw = os.fsencode(outputs) + b"/caf\xe9"
    os.mkdir(raw)
    os.mkdir(raw + b"/caf\xe9-000001-state")
    run = next(run for run in find_runs(outputs) if os.fsencode(run.path) == raw)
    assert len(run.states) == 1


def test_a_folder_that_cannot_be_read_is_told_and_hides_no_other(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not bind root, who runs the tests in a container: the system call is made to refuse."""
    real = os.scandir

    def refuse(path: os.PathLike[str]) -> object:
        if Path(path).name == STATES[0]:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("checkpoint_core.states.discovery.os.scandir", refuse)
    first, second = only_run(outputs).states
    assert first.listing.problem is not None
    assert first.listing.problem.detail == "Permission denied"
    assert second.listing.problem is None


def test_a_run_that_disappears_between_two_looks_has_a_problem_and_no_states(outputs: Path) -> None:
    run = find_run(outputs / "gone", outputs)
    assert run.states == ()
    assert run.listing.problem is not None


def test_a_missing_outputs_folder_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(OutputsFolderError, match=r"There is no folder .*nowhere.*beside its app\.py"):
        run_paths(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(OutputsFolderError):
        run_paths(tmp_path / "file")


def test_entries_are_listed_by_name_with_their_times(outputs: Path) -> None:
    state = outputs / "cat" / STATES[0]
    os.utime(state / "optimizer.bin", ns=(0, 123_456_789_000))
    listing = list_directory(state, outputs)
    assert [entry.name for entry in listing.entries] == sorted(os.listdir(state))
    assert {entry.name: entry.modified_ns for entry in listing.entries}["optimizer.bin"] == 123_456_789_000
    assert listing.modified_ns == state.stat().st_mtime_ns
