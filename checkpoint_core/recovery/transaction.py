"""Carries a repair out, reverts it, and finishes one that was interrupted; a state is never left half repaired.

New files are made to the end in ``.repairs/ID/after`` and originals kept in ``.repairs/ID/before``, both down to the
disk, before ``repairs.json`` says “applying” and the first file changes place. From then on both sides stay there until
the record says “applied” or “undone”: each file takes its place in one step, and :func:`finish_interrupted` takes up
what is left, whenever the process died.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import secrets
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from checkpoint_core.atomic_write import (
    WriteFailed,
    keep_as,
    links_work,
    locked,
    own_folder,
    put,
    remove_own_folder,
    stage,
)
from checkpoint_core.recovery.changes import ChangeSet, CopyOf, FileRepair, NewBytes
from checkpoint_core.scripts import ScriptChange, ScriptChangedSinceShown
from checkpoint_core.states import (
    FileEntry,
    FileRecord,
    RepairRecord,
    ScriptRecord,
    free_bytes,
    list_directory,
    read_records,
    repair_records,
    with_status,
    write_record,
)
from checkpoint_core.text import human_bytes
from checkpoint_core.trainer import with_spare
from checkpoint_core.version import __version__

#: The end of a folder's name in ``.repairs`` while its repair is prepared.
_UNBEGUN = ".part"
#: The script as it is to be, and as it was, in ``.repairs/ID``.
_SCRIPT, _OLD_SCRIPT = "script-after", "script-before"


class StateChangedSinceShown(RuntimeError):
    """The state is no longer the one that the plan was made for; nothing was changed."""


class NothingToUndo(LookupError):
    """No repair of that state can be reverted; the text says why."""


def apply(plan: ChangeSet) -> RepairRecord:
    """Repair the state and change the script as planned; :func:`undo` brings both back as they were.

    :raises StateChangedSinceShown: when a file of the state is not as it was when the plan was made.
    :raises ScriptChangedSinceShown: when the script is not; nothing was changed in either case.
    :raises WriteFailed: when there is no room, or a file could not be read or written; the state is then as it was,
        or the text says where the originals are kept.
    :raises RecordUnusable: when ``repairs.json`` is not readable.
    """
    with locked(plan.run / repair_records.FOLDER):
        # What an earlier repair left may be of this state: the plan is held against what it is after that.
        finish_interrupted_locked(plan.run)
        _check_unchanged(plan)
        _check_room(plan)
        record = _prepared(plan)
        try:
            write_record(plan.run, record)
        except BaseException:
            remove_own_folder(_folder(plan.run, record.id))
            raise
        try:
            return _finish(plan.run, record)
        except Exception as error:
            _take_back(plan.run, record, str(error))
            if isinstance(error, WriteFailed):
                raise
            raise WriteFailed(
                f"{record.state} was not repaired ({error}). It is as it was before."
            ) from error
        except BaseException:  # the program is being ended
            _take_back(plan.run, record, "The repair was cancelled.")
            raise


def _take_back(run: Path, record: RepairRecord, why: str) -> None:
    """Bring a state back whose repair failed on its way.

    :raises WriteFailed: when that fails too.
    """
    try:
        _finish_undo(run, with_status(record, repair_records.UNDOING))
    except Exception as error:
        raise WriteFailed(
            f"{why} What had been repaired of {record.state} could not be reverted either ({error}). The originals "
            f"are kept in {originals(run, record)}; the repair is finished as soon as the disk allows it."
        ) from error


def _check_unchanged(plan: ChangeSet) -> None:
    now = list_directory(plan.state, plan.run.parent)
    sources = [file.content for file in plan.files if isinstance(file.content, CopyOf)]
    if now.entries != plan.listing or any(_entry(source.path) != source.entry for source in sources):
        raise StateChangedSinceShown(
            f"{plan.state.name} was changed after it was shown here; nothing was repaired. Look at it again."
        )
    script = plan.script
    if script is not None and not script.is_current:
        raise ScriptChangedSinceShown(script.path)


def _entry(path: Path) -> FileEntry | None:
    entries = list_directory(path.parent, path.parent).entries
    return next((entry for entry in entries if entry.name == path.name), None)


def _check_room(plan: ChangeSet) -> None:
    free, needed = free_bytes(plan.run), plan.bytes_needed
    # FAT and many network shares have no hard links: each file then lies there twice, kept and in its place.
    if not links_work(plan.run):
        needed += plan.bytes_needed + plan.bytes_kept
    needed = with_spare(needed)
    if free is not None and free < needed:
        raise WriteFailed(
            errno.ENOSPC,
            f"The repair needs {human_bytes(needed)} and the disk has {human_bytes(free)} left; nothing was changed. "
            "Make room on the disk and try again.",
        )


def _folder(run: Path, identity: str) -> Path:
    return run / repair_records.FOLDER / identity


def _prepared(plan: ChangeSet) -> RepairRecord:
    """Everything made and kept, and the record that says so; on failure nothing of it is left."""
    moment = datetime.now(timezone.utc)
    identity = f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    # It takes its own name when it is whole: rename(2) is one step, and whatever still bears the other may go.
    folder = _folder(plan.run, identity + _UNBEGUN)
    try:
        after, before = own_folder(folder / "after"), own_folder(folder / "before")
        files = tuple(_prepared_file(plan, file, after, before) for file in plan.files)
        script = _prepared_script(plan.script, folder)
        # No file of the state has been touched up to here, so an interruption costs nothing but this folder.
        put(folder, _folder(plan.run, identity))
    except BaseException:
        remove_own_folder(folder)
        raise
    return RepairRecord(
        id=identity,
        state=plan.state.relative_to(plan.run).as_posix(),
        made_at=f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        tool_version=__version__,
        status=repair_records.APPLYING,
        files=files,
        script=script,
    )


def _prepared_script(change: ScriptChange | None, folder: Path) -> ScriptRecord | None:
    if change is None or change.is_noop:
        return None
    before, after = stage(folder / _OLD_SCRIPT, [change.before]), stage(folder / _SCRIPT, [change.after])
    return ScriptRecord(change.path.name, before, after)


def _prepared_file(plan: ChangeSet, file: FileRepair, after: Path, before: Path) -> FileRecord:
    here = plan.state / file.name
    earlier = new = None
    if file.before is not None:
        keep_as(here, before / file.name)
        # Of what is kept: where the file was replaced meanwhile, that is what can come back.
        earlier = _digest_if_there(before / file.name)
    if file.content is not None:
        like = here if file.before is not None else plan.state / _any_file(plan)
        new = stage(after / file.name, _pieces(file.content), file.modified_ns, like)
    return FileRecord(file.name, earlier, new, file.does)


def _any_file(plan: ChangeSet) -> str:
    return next(entry.name for entry in plan.listing)


def _pieces(content: NewBytes | CopyOf) -> Iterator[bytes]:
    if isinstance(content, NewBytes):
        yield content.data
        return
    with content.path.open("rb") as source:
        yield from iter(lambda: source.read(1 << 20), b"")


def _digest_if_there(path: Path) -> str | None:
    """SHA-256 of a file in hex, ``None`` where there is none."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as source:
            for piece in iter(lambda: source.read(1 << 20), b""):
                digest.update(piece)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def _finish(run: Path, record: RepairRecord) -> RepairRecord:
    """Put every file in its place that is not there yet; one that somebody changed since is left alone."""
    state, folder = _state(run, record), _folder(run, record.id)
    for file in record.files:
        here, new = state / file.name, folder / "after" / file.name
        # In its place already, before an interruption, or changed by somebody since: either is left as it is. Its
        # bytes tell, for a repaired file bears the time of the save.
        if _digest_if_there(here) != file.before or file.before == file.after:
            continue
        if file.after is None:
            put(here, new)
        else:
            _place(new, here)
    # Last, for the script leads a training to this state, and from then on one may be started.
    if record.script:
        _change_script(run, record.script, folder / _SCRIPT, record.script.before)
    done = with_status(record, repair_records.APPLIED)
    write_record(run, done)
    _tidy(folder / "after")
    return done


def _change_script(run: Path, script: ScriptRecord, kept: Path, from_digest: str) -> None:
    """Write a script that is kept, unless it is written, or was changed by somebody since."""
    if _script_digest(run / script.name) != from_digest:
        return
    path = run / script.name
    with contextlib.suppress(ScriptChangedSinceShown):
        ScriptChange(path, path.read_bytes(), kept.read_bytes()).execute()


def _state(run: Path, record: RepairRecord) -> Path:
    return run.joinpath(*record.state.split("/"))


def _place(source: Path, here: Path) -> None:
    """Let a kept file take its place in one step, and stay where it is kept."""
    # A rename takes the name away from where it came from, so a second name moves; what is kept must stay until the
    # record says that all is in its place, for an interrupted repair begins again from it.
    moving = source.parent / f".{secrets.token_hex(4)}"
    keep_as(source, moving)
    put(moving, here)


def _tidy(folder: Path) -> None:
    """Remove what the record needs no longer.

    A trainer that saves over this state opens its files in their place (``torch.save``: ``open(name, "wb")``), and
    would write through the links into what is kept.
    """
    with contextlib.suppress(WriteFailed):
        remove_own_folder(folder)


def finish_interrupted(run: Path) -> tuple[RepairRecord, ...]:
    """Finish what was interrupted, a repair or its undoing; returns what was finished.

    :raises WriteFailed: when a file could not be put in its place; try again.
    :raises RecordUnusable: when ``repairs.json`` is not readable.
    """
    if not any(record.is_interrupted for record in read_records(run)):
        return ()
    with locked(run / repair_records.FOLDER):
        return finish_interrupted_locked(run)


def finish_interrupted_locked(run: Path) -> tuple[RepairRecord, ...]:
    """As :func:`finish_interrupted`, under the lock; also removes what a repair left that died before it began."""
    interrupted = [record for record in read_records(run) if record.is_interrupted]
    done = [
        _finish(run, record) if record.status == repair_records.APPLYING else _finish_undo(run, record)
        for record in interrupted
    ]
    _sweep(run)
    return tuple(done)


def _sweep(run: Path) -> None:
    """Remove what never began. Any other folder may hold the only copy of an original, whatever the record says."""
    home = run / repair_records.FOLDER
    for folder in list(home.iterdir()) if home.is_dir() else []:
        if folder.name.endswith(_UNBEGUN) and folder.is_dir() and not folder.is_symlink():
            remove_own_folder(folder)


def undoable(run: Path, state: str) -> RepairRecord | None:
    """The newest repair of a state that was carried out and not reverted; ``state`` as in the record."""
    made = [each for each in read_records(run) if each.state == state]
    return next((each for each in reversed(made) if each.status == repair_records.APPLIED), None)


def undo(run: Path, identity: str) -> RepairRecord:
    """Bring the originals of a repair back, and the script's earlier text, unless the state was changed since.

    A script that was changed since is left as it is: :func:`keeps_its_script` tells so beforehand.

    :raises NothingToUndo: when there is no such repair, or it was reverted already.
    :raises StateChangedSinceShown: when a repaired file was changed since; nothing is reverted.
    :raises WriteFailed: when a file could not be written; try again.
    :raises RecordUnusable: when ``repairs.json`` is not readable.
    """
    with locked(run / repair_records.FOLDER):
        finish_interrupted_locked(run)
        record = next((each for each in read_records(run) if each.id == identity), None)
        if record is None or record.status != repair_records.APPLIED:
            raise NothingToUndo(
                "This repair was already reverted, or its record is gone. Nothing was changed."
            )
        _check_undoable(run, record)
        undoing = with_status(record, repair_records.UNDOING)
        write_record(run, undoing)
        return _finish_undo(run, undoing)


def originals(run: Path, record: RepairRecord) -> Path:
    """Where the originals of a repair are kept."""
    return _folder(run, record.id) / "before"


def keeps_its_script(run: Path, record: RepairRecord) -> bool:
    """Whether an undo would leave the train script alone, because it was changed after the repair."""
    if record.script is None:
        return False
    return _script_digest(run / record.script.name) not in (record.script.after, record.script.before)


def _script_digest(path: Path) -> str | None:
    """SHA-256 in hex; ``None`` where there is no file that can be read, so that it is left alone."""
    try:
        return _digest_if_there(path)
    except OSError:
        return None


def restored(record: RepairRecord, keeps_script: bool) -> tuple[str, ...]:
    """What an undo brought back, in sentences: a repair may have changed the state, the train script, or both."""
    state = (f"{record.state} is as it was before the repair.",) if record.files else ()
    if record.script is None:
        return state
    name = record.script.name
    was = "was changed since and is left as it is" if keeps_script else "is as it was before the repair"
    return (*state, f"{name} {was}.")


def _check_undoable(run: Path, record: RepairRecord) -> None:
    state, before = _state(run, record), _folder(run, record.id) / "before"
    for file in record.files:
        if file.before is not None and _digest_if_there(before / file.name) != file.before:
            raise NothingToUndo(
                f"The original {file.name} is not in {before} any more, so the repair cannot be reverted. "
                "Nothing was changed."
            )
        if _digest_if_there(state / file.name) != file.after:
            raise StateChangedSinceShown(
                f"{record.state}/{file.name} was changed after the repair; nothing was reverted. The original "
                f"lies in {before}."
            )


def _finish_undo(run: Path, record: RepairRecord) -> RepairRecord:
    """Put every original back that is not in its place yet; a script that was changed since is left alone."""
    state, folder = _state(run, record), _folder(run, record.id)
    # First, as it was last: no training is led to a state that is half taken back.
    if record.script:
        _change_script(run, record.script, folder / _OLD_SCRIPT, record.script.after)
    for file in record.files:
        here, kept = state / file.name, folder / "before" / file.name
        if _digest_if_there(here) == file.before:
            continue
        if file.before is None:
            put(here, own_folder(folder / "after") / file.name)
        else:
            _place(kept, here)
    done = with_status(record, repair_records.UNDONE)
    write_record(run, done)
    _tidy(folder)
    return done
