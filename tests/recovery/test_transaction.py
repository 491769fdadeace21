"""A repair is carried out whole or not at all, wherever it is killed, and reverted to the byte."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.recovery import transaction
from checkpoint_core.recovery.changes import ChangeSet, CopyOf, FileRepair, NewBytes
from checkpoint_core.scripts.change import ScriptChange, ScriptChangedSinceShown
from checkpoint_core.states.discovery import list_directory
from checkpoint_core.states.facts import FileEntry
from checkpoint_core.states.repair_records import APPLIED, UNDONE, RecordUnusable, read_records
from tests.world import PROJECT

BEFORE = {
    "train_state.json": b"{}",
    "optimizer.bin": b"optimizer" * 100,
    "custom_checkpoint_0.pkl": b"stray",
    "random_states_0.pkl": b"old random states",
}
LORA, SCRIPT, NEW_SCRIPT = b"lora" * 500, b"#!/bin/bash\nold\n", b"#!/bin/bash\nnew\n"
AFTER = {
    "train_state.json": b'{"current_epoch": 4}',
    "optimizer.bin": BEFORE["optimizer.bin"],
    "random_states_0.pkl": b"new random states",
    "model.safetensors": LORA,
}
SAVED_NS = 1_700_000_000_000_000_000


def make_run(folder: Path) -> Path:
    """A run with one state that lacks its weights, and the LoRA file of the same save."""
    run = folder / "outputs" / "cat"
    state = run / "cat-000004-state"
    state.mkdir(parents=True)
    for name, data in BEFORE.items():
        (state / name).write_bytes(data)
        os.utime(state / name, ns=(SAVED_NS, SAVED_NS))
    (run / "cat-000004.safetensors").write_bytes(LORA)
    (run / "train.sh").write_bytes(SCRIPT)
    return run


def plan_of(run: Path) -> ChangeSet:
    """A repair that writes two files anew, one from the LoRA file, sets one aside, and changes the script."""
    state = run / "cat-000004-state"
    listing = list_directory(state, run.parent).entries
    entries = {entry.name: entry for entry in listing}
    status = (run / "cat-000004.safetensors").stat()
    lora = FileEntry("cat-000004.safetensors", status.st_size, status.st_mtime_ns)

    def changed(name: str, content: NewBytes | CopyOf | None) -> FileRepair:
        return FileRepair(name, entries.get(name), content, SAVED_NS, "it is changed.", "", frozenset({"x"}))

    return ChangeSet(
        run,
        state,
        listing,
        (
            changed("random_states_0.pkl", NewBytes(AFTER["random_states_0.pkl"])),
            changed("train_state.json", NewBytes(AFTER["train_state.json"])),
            changed("custom_checkpoint_0.pkl", None),
            changed("model.safetensors", CopyOf(run / lora.name, lora)),
        ),
        ScriptChange(run / "train.sh", SCRIPT, NEW_SCRIPT),
    )


def contents(run: Path) -> tuple[dict[str, bytes], bytes]:
    """The state's files and the script."""
    state = run / "cat-000004-state"
    return {path.name: path.read_bytes() for path in state.iterdir()}, (run / "train.sh").read_bytes()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def test_everything_is_changed_as_planned_and_recorded(run: Path) -> None:
    record = transaction.apply(plan_of(run))

    assert contents(run) == (AFTER, NEW_SCRIPT)
    assert record.status == APPLIED
    assert read_records(run) == (record,)
    kept = transaction.originals(run, record)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        name: BEFORE[name] for name in ("train_state.json", "custom_checkpoint_0.pkl", "random_states_0.pkl")
    }
    assert (run / "train.sh.bak").read_bytes() == SCRIPT
    assert json.loads((run / "repairs.json").read_bytes())["repairs"][0]["state"] == "cat-000004-state"


def test_a_repaired_file_bears_the_time_of_the_save(run: Path) -> None:
    transaction.apply(plan_of(run))

    times = {path.name: path.stat().st_mtime_ns for path in (run / "cat-000004-state").iterdir()}
    assert set(times.values()) == {SAVED_NS}


def test_undo_brings_every_byte_and_time_back(run: Path) -> None:
    record = transaction.apply(plan_of(run))

    undone = transaction.undo(run, record.id)

    assert contents(run) == (BEFORE, SCRIPT)
    assert undone.status == UNDONE
    assert transaction.undoable(run, "cat-000004-state") is None
    times = {path.stat().st_mtime_ns for path in (run / "cat-000004-state").iterdir()}
    assert times == {SAVED_NS}
    with pytest.raises(transaction.NothingToUndo, match="already reverted"):
        transaction.undo(run, record.id)


def test_an_undo_names_what_it_brought_back_and_nothing_else(run: Path) -> None:
    both = transaction.apply(plan_of(run))
    script_alone, state_alone = replace(both, files=()), replace(both, script=None)
    state, script = (
        "cat-000004-state is as it was before the repair.",
        "train.sh is as it was before the repair.",
    )
    left = "train.sh was changed since and is left as it is."

    assert transaction.restored(both, keeps_script=False) == (state, script)
    assert transaction.restored(both, keeps_script=True) == (state, left)
    assert transaction.restored(script_alone, keeps_script=False) == (script,)
    assert transaction.restored(script_alone, keeps_script=True) == (left,)
    assert transaction.restored(state_alone, keeps_script=False) == (state,)


def test_an_original_is_never_reached_through_the_repaired_file(run: Path) -> None:
    record = transaction.apply(plan_of(run))
    with (run / "cat-000004-state" / "random_states_0.pkl").open("r+b") as file:  # as a trainer saves over it
        file.write(b"XXX")

    assert (transaction.originals(run, record) / "random_states_0.pkl").read_bytes() == BEFORE[
        "random_states_0.pkl"
    ]
    with pytest.raises(transaction.StateChangedSinceShown, match="was changed after the repair"):
        transaction.undo(run, record.id)
    assert (run / "cat-000004-state" / "train_state.json").read_bytes() == AFTER["train_state.json"]


def test_an_undo_leaves_a_script_that_was_edited_since(run: Path) -> None:
    record = transaction.apply(plan_of(run))
    (run / "train.sh").write_bytes(b"edited\n")

    assert transaction.keeps_its_script(run, record)
    transaction.undo(run, record.id)

    assert contents(run) == (BEFORE, b"edited\n")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            lambda run: (run / "cat-000004-state" / "optimizer.bin").write_bytes(b"x"),
            transaction.StateChangedSinceShown,
        ),
        (lambda run: (run / "cat-000004-state" / "new.bin").write_bytes(b""), transaction.StateChangedSinceShown),
        (lambda run: (run / "cat-000004.safetensors").write_bytes(b"another"), transaction.StateChangedSinceShown),
        (lambda run: (run / "train.sh").write_bytes(b"edited"), ScriptChangedSinceShown),
        (lambda run: (run / "train.sh").unlink(), ScriptChangedSinceShown),
    ],
)  # fmt: skip
def test_what_was_changed_since_it_was_shown_is_not_repaired(
    run: Path, change: Callable[[Path], object], error: type[Exception]
) -> None:
    plan = plan_of(run)
    change(run)
    state = {path.name: path.read_bytes() for path in (run / "cat-000004-state").iterdir()}

    with pytest.raises(error):
        transaction.apply(plan)

    assert {path.name: path.read_bytes() for path in (run / "cat-000004-state").iterdir()} == state
    assert not (run / "repairs.json").exists()


def test_too_little_room_is_told_before_anything_is_written(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(WriteFailed, match=r"the disk has 1\.0 MB left; nothing was changed"):
        transaction.apply(plan_of(run))

    assert contents(run) == (BEFORE, SCRIPT)
    assert not (run / ".repairs").exists()


def test_a_disk_without_links_gets_copies(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    record = transaction.apply(plan_of(run))
    assert contents(run) == (AFTER, NEW_SCRIPT)
    transaction.undo(run, record.id)
    assert contents(run) == (BEFORE, SCRIPT)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{\"repairs\": [{}]}",
        b"{\"repairs\": 7}",
        b"\xff\xfe",
        b'{"repairs": [{"id": "20260101T000000Z-00000000", "state": "../..", "made_at": "", "tool_version": "",'
        b' "status": "applying", "files": []}]}',
        b'{"repairs": [{"id": "../../x", "state": "s", "made_at": "", "tool_version": "", "status": "applied",'
        b' "files": []}]}',
        b'{"repairs": [{"id": "20260101T000000Z-00000000", "state": "s", "made_at": "", "tool_version": "",'
        b' "status": "applying", "files": [{"name": "../train.sh", "before": null, "after": null, "does": ""}]}]}',
    ],
)  # fmt: skip
def test_a_record_of_another_hand_stops_the_repair_and_is_kept(run: Path, text: bytes) -> None:
    (run / "repairs.json").write_bytes(text)

    with pytest.raises(RecordUnusable, match="could not be read as a record of repairs"):
        transaction.apply(plan_of(run))

    assert contents(run) == (BEFORE, SCRIPT)
    assert (run / "repairs.json").read_bytes() == text


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), RuntimeError("?"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("at", range(4))
def test_whatever_fails_half_way_the_state_is_as_it_was(
    run: Path, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException
) -> None:
    step = iter(range(99))

    def failing(work: Callable[..., None]) -> Callable[..., None]:
        def once(*arguments: object) -> None:
            if next(step) == at:
                raise error
            work(*arguments)

        return once

    # Three files take their place, and then the script is changed.
    monkeypatch.setattr(transaction, "_place", failing(transaction._place))
    monkeypatch.setattr(transaction, "_change_script", failing(transaction._change_script))
    with pytest.raises((WriteFailed, KeyboardInterrupt)):
        transaction.apply(plan_of(run))

    assert contents(run)[0] == BEFORE
    (record,) = read_records(run)
    assert record.status == UNDONE


def test_where_even_taking_back_fails_it_says_where_the_originals_are(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(transaction, "_place", failing)
    monkeypatch.setattr(transaction, "_finish_undo", failing)
    with pytest.raises(WriteFailed, match="could not be reverted either") as caught:
        transaction.apply(plan_of(run))

    (record,) = read_records(run)
    assert record.is_interrupted
    assert str(transaction.originals(run, record)) in str(caught.value)
    monkeypatch.undo()
    transaction.finish_interrupted(run)
    assert contents(run) == (AFTER, NEW_SCRIPT)


def test_of_a_write_that_fails_half_way_nothing_is_left(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.replace, []

    def failing(source: Path, target: Path) -> None:
        if Path(target).name == "train_state.json" and not calls:
            calls.append(target)
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(WriteFailed):
        transaction.apply(plan_of(run))

    assert calls
    assert contents(run) == (BEFORE, SCRIPT)
    assert [record.status for record in read_records(run)] == [UNDONE]


# In the n-th run the repair dies, as under SIGKILL, right before its n-th call to the operating system.
_KILLED = """
import os, sys
from pathlib import Path
from checkpoint_core.recovery import transaction
from tests.recovery.killing import die_at
from tests.recovery.test_transaction import plan_of
for number, folder in enumerate(sys.argv[2:]):
    run = Path(folder)
    child = os.fork()
    if not child:
        try:
            record = sys.argv[1] == "undo" and transaction.apply(plan_of(run))
            die_at(number)
            transaction.undo(run, record.id) if record else transaction.apply(plan_of(run))
            os._exit(0)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def killed(what: str, runs: list[Path]) -> list[int]:
    """Let it die in each run, one call later each time: 137 where it died, 0 where it did not."""
    told = subprocess.run(
        [sys.executable, "-c", _KILLED, what, *map(str, runs)],
        env=dict(os.environ, PYTHONPATH=str(PROJECT)),
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(code) for code in told.stdout.split()]


def many(tmp_path: Path, count: int) -> Iterator[Path]:
    for number in range(count):
        yield make_run(tmp_path / str(number))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the deaths are those of a forked process")
@pytest.mark.parametrize("what", ["repair", "undo"])
def test_killed_at_any_call_it_is_found_whole_on_one_side_or_the_other(tmp_path: Path, what: str) -> None:
    runs = list(many(tmp_path, 260))
    codes = killed(what, runs)

    assert codes[-1] == 0, "the writer makes more calls than there are runs to die in"
    assert codes.count(137) > 60
    sides = set()
    for run, code in zip(runs, codes, strict=True):
        transaction.finish_interrupted(run)
        found = contents(run)
        assert found in ((BEFORE, SCRIPT), (AFTER, NEW_SCRIPT)), run
        sides.add((code, found == (AFTER, NEW_SCRIPT)))
        assert not any(record.is_interrupted for record in read_records(run))
    assert {(137, True), (137, False)} <= sides
    # And the next repair starts from there as if nothing had been.
    for run in runs[:40:5]:
        if contents(run) == (BEFORE, SCRIPT):
            transaction.apply(plan_of(run))
            assert contents(run) == (AFTER, NEW_SCRIPT)


def test_leftovers_of_a_repair_that_never_began_go_with_the_next(run: Path) -> None:
    left = run / ".repairs" / "20260101T000000Z-00000000.part" / "after"
    left.mkdir(parents=True)
    (left / "x").write_bytes(b"x")

    record = transaction.apply(plan_of(run))

    assert [path.name for path in (run / ".repairs").iterdir()] == [record.id]


def test_originals_outlive_a_record_that_was_lost(run: Path) -> None:
    first = transaction.apply(plan_of(run))
    (run / "repairs.json").unlink()
    state = run / "cat-000004-state"
    (state / "random_states_0.pkl").write_bytes(b"broken again")

    again = replace(plan_of(run), script=None)
    transaction.apply(replace(again, files=again.files[:1]))

    kept = transaction.originals(run, first) / "random_states_0.pkl"
    assert kept.read_bytes() == BEFORE["random_states_0.pkl"]


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A disk of its own in memory; skips where this user may not make one."""
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="a full disk is made with mount")
@pytest.mark.parametrize("left", [0, 4096, 65536, 400_000])
def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    with small_disk(tmp_path / "disk", "3m") as disk:
        run = make_run(disk)
        plan = plan_of(run)
        # The room is gone after it was looked at, so that it ends in the middle of the work.
        monkeypatch.setattr(transaction, "_check_room", lambda _: None)
        fill = disk / "fill"
        with fill.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        os.truncate(fill, max(0, fill.stat().st_size - left))
        failure = None
        try:
            transaction.apply(plan)
        except WriteFailed as error:
            failure = str(error)
        fill.unlink()
        transaction.finish_interrupted(run)
        assert failure is None or "Make room on the disk" in failure
        assert contents(run) == ((BEFORE, SCRIPT) if failure else (AFTER, NEW_SCRIPT))
        assert not any(record.is_interrupted for record in read_records(run))
