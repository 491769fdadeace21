"""Setting aside and bringing back: whole or not at all wherever it is killed, and never out of the run's folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from checkpoint_core.recovery import replaced
from checkpoint_core.recovery.replaced import (
    NothingToRestore,
    SetAsideFailed,
    finish_interrupted,
    remove_replaced,
    restore,
    set_aside_saves,
    without_known_copies,
)
from checkpoint_core.recovery.replaced_records import DONE, read_replaced
from checkpoint_core.recovery.set_aside import Kept, SavedName, SetAside
from tests.recovery.test_transaction import small_disk
from tests.world import PROJECT

SAVED_NS = 1_700_000_000_000_000_000
PLAN = SetAside(
    (
        Kept(SavedName("cat-000008-state", True, 8)),
        Kept(SavedName("cat-000008.safetensors", False, 8)),
        Kept(SavedName("cat-state", True), is_copy=True, beside="cat-000012-state"),
        Kept(SavedName("cat.safetensors", False), is_copy=True),
    )
)


def make_run(folder: Path) -> Path:
    """A run with two states and their LoRA files."""
    run = folder / "outputs" / "cat"
    for name in ("cat-000008", "cat"):
        (run / f"{name}-state").mkdir(parents=True)
        for file in ("train_state.json", "optimizer.bin"):
            (run / f"{name}-state" / file).write_bytes(f"{name} {file}".encode() * 50)
        (run / f"{name}.safetensors").write_bytes(f"{name} lora".encode() * 50)
    for path in sorted(run.rglob("*"), reverse=True):
        os.utime(path, ns=(SAVED_NS, SAVED_NS))
    return run


def contents(run: Path) -> dict[str, bytes]:
    """The run's own files by their path, without what is hidden."""
    files = {path.relative_to(run).as_posix(): path for path in run.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".")}


def kept(run: Path) -> set[bytes]:
    return {path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def test_it_lies_under_its_own_name_with_its_times_and_what_is_read_stays(run: Path) -> None:
    before = contents(run)
    done = set_aside_saves(run, lambda: PLAN)

    assert done is not None
    folder = run / ".replaced" / done.id
    assert sorted(path.name for path in folder.iterdir()) == [
        "cat-000008-state",
        "cat-000008.safetensors",
        "cat.safetensors",
        "record.json",
    ]
    now = contents(run)
    assert {name for name in before if name not in now} == {
        "cat-000008-state/train_state.json",
        "cat-000008-state/optimizer.bin",
        "cat-000008.safetensors",
    }
    assert now["cat-000012-state/optimizer.bin"] == before["cat-state/optimizer.bin"]
    for path in (
        run / "cat-000012-state",
        run / "cat-000012-state" / "optimizer.bin",
        folder / "cat.safetensors",
    ):
        assert path.stat().st_mtime_ns == SAVED_NS
    assert (folder / "cat.safetensors").stat().st_ino != (run / "cat.safetensors").stat().st_ino
    assert read_replaced(run) == (done,)
    assert done.told.startswith("epoch 8 and the finished LoRA, in .replaced/")


def test_a_start_that_writes_over_nothing_leaves_no_trace(run: Path) -> None:
    assert set_aside_saves(run, SetAside) is None
    assert not (run / ".replaced").exists()


def test_what_comes_back_displaces_nothing(run: Path) -> None:
    before = contents(run)
    done = set_aside_saves(run, lambda: PLAN)
    assert done is not None
    (run / "cat-000008.safetensors").write_bytes(b"trained anew")
    (run / "cat.safetensors").write_bytes(b"finished anew")

    _, other = restore(run, done.id)

    assert {**contents(run), **before} == contents(run)
    assert other is not None
    assert read_replaced(run) == (other,)
    assert {b"trained anew", b"finished anew"} <= kept(run)
    restore(run, other.id)
    assert contents(run)["cat.safetensors"] == b"finished anew"
    with pytest.raises(NothingToRestore, match="Nothing was set aside under the name"):
        restore(run, done.id)


def test_it_is_removed_only_by_name(run: Path) -> None:
    done = set_aside_saves(run, lambda: PLAN)
    assert done is not None
    with pytest.raises(NothingToRestore):
        remove_replaced(run, "../../cat")
    assert remove_replaced(run, done.id) == done.size_bytes
    assert list((run / ".replaced").iterdir()) == []


def test_a_copy_is_made_once_however_often_it_is_started(run: Path) -> None:
    copies = SetAside(PLAN.kept[3:])
    set_aside_saves(run, lambda: copies)

    assert without_known_copies(run, copies) == SetAside()
    (run / "cat.safetensors").write_bytes(b"another")
    assert without_known_copies(run, copies) == copies


@pytest.mark.parametrize("name", [b"caf\xe9-000008-state", "猫-000008-state".encode(), b"a\nb-000008-state"])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_any_name_goes_aside_and_comes_back(run: Path, name: bytes) -> None:
    text = os.fsdecode(name)
    (run / "cat-000008-state").rename(run / text)
    before = contents(run)
    done = set_aside_saves(run, lambda: SetAside((Kept(SavedName(text, True, 8)),)))
    assert done is not None
    assert not (run / text).exists()
    assert [entry.name for entry in read_replaced(run)[0].entries] == [text]
    restore(run, done.id)
    assert contents(run) == before


def test_a_link_changes_its_place_itself_and_is_never_followed(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    (run / "cat-000008-state").rename(outside)
    (run / "cat-000008-state").symlink_to(outside)
    done = set_aside_saves(run, lambda: SetAside(PLAN.kept[:1]))

    assert done is not None
    assert (run / ".replaced" / done.id / "cat-000008-state").is_symlink()
    assert len(list(outside.iterdir())) == 2
    remove_replaced(run, done.id)
    assert len(list(outside.iterdir())) == 2


def test_a_link_that_would_have_to_be_copied_refuses_the_start(run: Path, tmp_path: Path) -> None:
    (run / "cat-state" / "optimizer.bin").rename(tmp_path / "optimizer.bin")
    (run / "cat-state" / "optimizer.bin").symlink_to(tmp_path / "optimizer.bin")
    before = contents(run)
    with pytest.raises(SetAsideFailed, match=r"cat-state/optimizer\.bin is a link"):
        set_aside_saves(run, lambda: PLAN)
    assert contents(run) == before
    assert not (run / ".replaced").exists()


def test_a_linked_folder_is_not_written_into(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (run / ".replaced").symlink_to(tmp_path / "other")
    with pytest.raises(SetAsideFailed, match="is a link"):
        set_aside_saves(run, lambda: PLAN)
    assert list((tmp_path / "other").iterdir()) == []
    assert read_replaced(run) == ()


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", ".repairs"])
def test_a_record_that_leads_elsewhere_is_not_believed(run: Path, name: str) -> None:
    done = set_aside_saves(run, lambda: PLAN)
    assert done is not None
    path = run / ".replaced" / done.id / "record.json"
    document = json.loads(path.read_bytes())
    document["entries"][0]["name"] = name
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_replaced(run) == ()


_KILLED = """
import os, sys
from pathlib import Path
from checkpoint_core.recovery.replaced import restore, set_aside_saves
from tests.recovery.killing import die_at
from tests.recovery.test_replaced import PLAN
for number, folder in enumerate(sys.argv[2:]):
    run = Path(folder)
    child = os.fork()
    if not child:
        try:
            done = set_aside_saves(run, lambda: PLAN) if sys.argv[1] == "restore" else None
            if done:
                (run / "cat-000008.safetensors").write_bytes(b"trained anew")
            die_at(number)
            restore(run, done.id) if done else set_aside_saves(run, lambda: PLAN)
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the deaths are those of a forked process")
@pytest.mark.parametrize("what", ["set-aside", "restore"])
def test_killed_at_any_call_nothing_is_lost_and_the_next_look_finishes_it(tmp_path: Path, what: str) -> None:
    runs = [make_run(tmp_path / str(number)) for number in range(220)]
    before = contents(runs[0])
    codes = killed(what, runs)

    assert codes[-1] == 0, "it makes more calls than there are runs to die in"
    assert codes.count(137) > 30
    for run, code in zip(runs, codes, strict=True):
        assert set(before.values()) <= kept(run)
        finish_interrupted(run)
        assert set(before.values()) <= kept(run)
        assert all(record.status == DONE for record in read_replaced(run))
        now = contents(run)
        if what == "set-aside" and code == 137 and not read_replaced(run):
            assert {**now, **before} == now
        if what == "restore":
            assert b"trained anew" in kept(run)
        # And the next one starts from there as if nothing had been.
        there = [each for each in PLAN.kept if (run / each.save.name).exists() and not each.beside]
        set_aside_saves(run, lambda there=there: SetAside(tuple(there)))  # type: ignore[misc]
        assert set(before.values()) <= kept(run)


@pytest.mark.skipif(shutil.which("mount") is None, reason="a full disk is made with mount")
@pytest.mark.parametrize("left", [0, 4096, 16384, 65536])
def test_a_full_disk_starts_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        run = make_run(disk)
        before = contents(run)
        # The room is gone after it was looked at, so that it ends in the middle of the work.
        monkeypatch.setattr(replaced, "free_bytes", lambda _: None)
        fill = disk / "fill"
        with fill.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        os.truncate(fill, max(0, fill.stat().st_size - left))
        failed = ""
        try:
            set_aside_saves(run, lambda: PLAN)
        except SetAsideFailed as error:
            failed = str(error)
        fill.unlink()
        finish_interrupted(run)
        assert set(before.values()) <= kept(run)
        if failed:
            assert "nothing was started" in failed
            assert contents(run) == before


def test_too_little_room_for_copies_is_told_before_anything_moves(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaced, "free_bytes", lambda _: 1000)
    before = contents(run)
    with pytest.raises(SetAsideFailed, match=r"the disk has 1\.0 kB left"):
        set_aside_saves(run, lambda: PLAN)
    assert contents(run) == before
