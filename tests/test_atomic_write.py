"""The one writer: atomic, with a way back, and old or new wherever it is killed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from checkpoint_core import atomic_write
from checkpoint_core.atomic_write import ChangedMeanwhile, WriteFailed, backups_of, new_file, replace_bytes

OLD, NEW = b"old script\n" * 50, b"new script\n" * 60
ROOT = str(Path(atomic_write.__file__).resolve().parents[1])
posix_only = pytest.mark.skipif(os.name == "nt", reason="modes, links and limits of POSIX systems")

# In the n-th folder the writer dies, as under SIGKILL, right before its n-th call to the operating system.
_KILLED = """
import os, sys
from pathlib import Path
from checkpoint_core.atomic_write import replace_bytes
new = bytes.fromhex(sys.argv[1])
real_write = os.write
def write_in_dying(script, die_at):
    count = 0
    def counted(call):
        def wrapper(*args, **kwargs):
            nonlocal count
            if count == die_at:
                os._exit(137)
            count += 1
            if call is real_write:
                return call(args[0], bytes(args[1])[:200])
            return call(*args, **kwargs)
        return wrapper
    for name in "open read write fsync close chmod chown replace rename link unlink stat listdir".split():
        setattr(os, name, counted(getattr(os, name)))
    replace_bytes(script, new, expected=None, keep=3)
    os._exit(0)
for die_at, folder in enumerate(sys.argv[2:]):
    child = os.fork()
    if not child:
        try:
            write_in_dying(Path(folder, "train.sh"), die_at)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def exit_codes_of_dying_writers(folders: list[Path], new: bytes) -> list[int]:
    """Let a writer die in each folder, one call later each time: 137 where it died, 0 where it did not."""
    told = subprocess.run(
        [sys.executable, "-c", _KILLED, new.hex(), *map(str, folders)],
        env=dict(os.environ, PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(code) for code in told.stdout.split()]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script in a folder of its own."""
    path = tmp_path / "train.sh"
    path.write_bytes(OLD)
    return path


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


def test_the_bytes_are_replaced_and_the_earlier_ones_kept(script: Path) -> None:
    backup = replace_bytes(script, NEW, expected=OLD)
    assert script.read_bytes() == NEW
    assert backup == script.with_name("train.sh.bak")
    assert backup.read_bytes() == OLD
    assert names(script) == {"train.sh", "train.sh.bak"}


def test_a_file_that_is_not_as_expected_is_left_alone(script: Path) -> None:
    with pytest.raises(ChangedMeanwhile, match=r"train\.sh was changed"):
        replace_bytes(script, NEW, expected=b"something else")
    assert script.read_bytes() == OLD
    assert names(script) == {"train.sh"}


def test_a_change_during_the_write_is_noticed(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def somebody_saves(path: Path, status: os.stat_result) -> None:
        script.write_bytes(b"somebody's edit")

    monkeypatch.setattr(atomic_write, "_keep_owner_and_mode", somebody_saves)
    with pytest.raises(ChangedMeanwhile):
        replace_bytes(script, NEW, expected=OLD)
    assert script.read_bytes() == b"somebody's edit"
    assert not [name for name in names(script) if name.endswith(".tmp")]


def test_the_same_bytes_write_nothing(script: Path) -> None:
    before = script.stat()
    assert replace_bytes(script, OLD, expected=OLD) is None
    assert script.stat().st_ino == before.st_ino
    assert names(script) == {"train.sh"}


def test_backups_are_numbered_newest_first_and_bounded(script: Path) -> None:
    for number in range(8):
        replace_bytes(script, b"%d" % number, expected=None, keep=3)
    assert [backup.read_bytes() for backup in backups_of(script)] == [b"6", b"5", b"4"]
    assert names(script) == {"train.sh", "train.sh.bak", "train.sh.bak.1", "train.sh.bak.2"}


def test_a_gap_in_the_backups_loses_none(script: Path) -> None:
    script.with_name("train.sh.bak.1").write_bytes(b"older")
    replace_bytes(script, NEW, expected=OLD, keep=2)
    assert script.with_name("train.sh.bak.1").read_bytes() == b"older"
    assert script.with_name("train.sh.bak").read_bytes() == OLD


def test_no_way_back_at_all_is_the_callers_mistake(script: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        replace_bytes(script, NEW, expected=OLD, keep=0)


@posix_only
def test_the_mode_is_kept_on_script_and_backup(script: Path) -> None:
    script.chmod(0o751)
    backup = replace_bytes(script, NEW, expected=OLD)
    assert backup is not None
    assert [stat.S_IMODE(path.stat().st_mode) for path in (script, backup)] == [0o751, 0o751]


@posix_only
@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root may give a file away")
def test_the_owner_is_kept(script: Path) -> None:
    os.chown(script, 12345, 23456)
    script.chmod(0o640)
    replace_bytes(script, NEW, expected=OLD)
    status = script.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o640)


@posix_only
def test_without_the_group_its_rights_go_to_nobody(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    script.chmod(0o664)
    status = os.stat_result([*script.stat()[:5], script.stat().st_gid + 1, *script.stat()[6:]])
    monkeypatch.setattr(os, "chown", refused)
    atomic_write._keep_owner_and_mode(script, status)
    assert stat.S_IMODE(script.stat().st_mode) == 0o604


@posix_only
def test_a_link_is_followed_and_stays_a_link(script: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "train.sh"
    link.parent.mkdir()
    link.symlink_to(Path("..") / "train.sh")
    backup = replace_bytes(link, NEW, expected=OLD)
    assert link.is_symlink()
    assert script.read_bytes() == NEW
    assert backup == script.with_name("train.sh.bak")


@posix_only
def test_a_write_protected_script_is_respected(script: Path) -> None:
    script.chmod(0o444)
    with pytest.raises(WriteFailed, match=r"write-protected.*as it was before.*Allow writing"):
        replace_bytes(script, NEW, expected=OLD)
    assert script.read_bytes() == OLD
    assert names(script) == {"train.sh"}


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="still exists"):
        replace_bytes(tmp_path / "gone.sh", NEW, expected=None)


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "chmod"])
def test_any_refusal_of_the_system_leaves_the_old_file_and_no_litter(
    script: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(WriteFailed, match=r"No space left.*as it was before.*Make room") as caught:
        replace_bytes(script, NEW, expected=OLD)
    monkeypatch.undo()
    assert caught.value.errno == 28
    assert script.read_bytes() == OLD
    assert names(script) == {"train.sh"}


@posix_only
def test_a_folder_that_cannot_be_listed_or_synced_is_written_all_the_same(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder with the rights -wx: names can be made in it, but it cannot be opened."""
    system_open = os.open

    def refused(*_: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    def open_no_folder(path: Path, flags: int, *mode: int) -> int:
        return system_open(path, flags, *mode) if path != script.parent else int(refused()[0])

    monkeypatch.setattr(os, "listdir", refused)
    monkeypatch.setattr(os, "open", open_no_folder)
    backup = replace_bytes(script, NEW, expected=OLD)
    monkeypatch.undo()
    assert backup is not None
    assert (script.read_bytes(), backup.read_bytes()) == (NEW, OLD)


@posix_only
def test_a_real_limit_on_the_file_size_leaves_the_old_file(script: Path) -> None:
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from checkpoint_core.atomic_write import WriteFailed, replace_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: replace_bytes(Path(sys.argv[1]), b'x' * 5000, expected=None)\n"
        "except WriteFailed as error: print(error.errno, error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(script)],
        env=dict(os.environ, PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Make room" in told
    assert script.read_bytes() == OLD
    assert not [name for name in names(script) if name.endswith(".tmp")]


def folder_with_backups(folder: Path) -> Path:
    """A script with two backups, so that the moving of backups can be cut short as well."""
    folder.mkdir()
    (folder / "train.sh").write_bytes(OLD)
    (folder / "train.sh.bak").write_bytes(b"one before")
    (folder / "train.sh.bak.1").write_bytes(b"two before")
    return folder


@posix_only
def test_killed_before_any_system_call_every_file_is_old_or_new(tmp_path: Path) -> None:
    folders = [folder_with_backups(tmp_path / str(call)) for call in range(80)]
    codes = exit_codes_of_dying_writers(folders, NEW)
    # It died before every single one of its calls, and then came to its end.
    assert codes == sorted(codes, reverse=True)
    assert set(codes) == {137, 0}
    assert codes.count(137) > 30
    for folder in folders:
        script = (folder / "train.sh").read_bytes()
        kept = {path.read_bytes() for path in folder.glob("train.sh.bak*")}
        assert script in (OLD, NEW)
        assert {b"one before", b"two before"} <= kept <= {b"one before", b"two before", OLD}
        assert script == OLD or OLD in kept
    assert {(folder / "train.sh").read_bytes() for folder in folders} == {OLD, NEW}


@posix_only
def test_after_a_killed_writer_the_next_one_finds_its_way(tmp_path: Path) -> None:
    folders = [folder_with_backups(tmp_path / str(call)) for call in range(60)]
    exit_codes_of_dying_writers(folders, NEW)
    for folder in folders:
        before = (folder / "train.sh").read_bytes()
        replace_bytes(folder / "train.sh", b"next", expected=before)
        assert (folder / "train.sh").read_bytes() == b"next"
        assert (folder / "train.sh.bak").read_bytes() == before


def test_leftovers_of_a_killed_writer_are_removed_once_they_are_old(script: Path) -> None:
    old, fresh = script.with_name(".train.sh.0123abcd.tmp"), script.with_name(".train.sh.89abcdef.tmp")
    others = [
        script.with_name(name) for name in (".train.sh.notes.tmp", ".train.bat.0123abcd.tmp", ".train.sh.tmp")
    ]
    for path in (old, fresh, *others):
        path.write_bytes(b"left")
    long_ago = os.stat(old).st_mtime - atomic_write.STALE_AFTER_SECONDS - 60
    for path in (old, *others):
        os.utime(path, (long_ago, long_ago))
    replace_bytes(script, NEW, expected=OLD)
    assert not old.exists()
    assert fresh.exists()
    assert all(path.exists() for path in others)


def test_two_writers_at_once_lose_nothing(script: Path) -> None:
    """Each writer's bytes are either the file now or in a backup."""
    texts = [json.dumps({"writer": number}).encode() for number in range(8)]
    threads = [
        threading.Thread(target=replace_bytes, args=(script, text), kwargs={"expected": None, "keep": 10})
        for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {script.read_bytes(), *(backup.read_bytes() for backup in backups_of(script))} == {OLD, *texts}


def test_a_writer_that_waits_too_long_says_so(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_write, "_LOCK_WAIT_SECONDS", 0.0)
    with atomic_write._locked(script), pytest.raises(WriteFailed, match="another window"):
        replace_bytes(script, NEW, expected=OLD)
    assert script.read_bytes() == OLD


def test_a_report_is_written_whole_and_without_backups(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    assert new_file(path, b"first") == path
    new_file(path, b"second")
    assert path.read_bytes() == b"second"
    assert names(path) == {"report.md"}


def test_a_report_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="was not written"):
        new_file(tmp_path / "no such folder" / "report.md", b"text")


def test_a_file_that_takes_its_own_other_place_leaves_the_first(tmp_path: Path) -> None:
    """For two names of one file rename(2) does nothing, and says that it did."""
    here, there = tmp_path / "here", tmp_path / "there"
    for make in (
        lambda: atomic_write.keep_as(here, there),
        lambda: there.write_bytes(b"other"),
        lambda: None,
    ):
        here.write_bytes(NEW)
        make()
        atomic_write.put(here, there)
        assert (here.exists(), there.read_bytes()) == (False, NEW)
        there.unlink()


@posix_only
def test_a_link_is_no_other_name_of_its_file(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.write_bytes(NEW)
    there.symlink_to(here)
    atomic_write.put(here, there)
    assert (here.exists(), there.is_symlink(), there.read_bytes()) == (False, False, NEW)
