"""Changes to a run's train script: planned, shown as a diff, carried out in one step, and undone."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from checkpoint_core.atomic_write import ChangedMeanwhile, WriteFailed, backups_of, replace_bytes
from checkpoint_core.scripts.paths import ResumeValue, resume_value
from checkpoint_core.scripts.script import TrainScript, dialect_of, find_script
from checkpoint_core.scripts.tokens import Dialect, InexpressiblePath, ScriptNotUnderstood


class NoScript(LookupError):
    """The run has no train script."""

    def __init__(self, run_dir: Path, name: str) -> None:
        """Say which run, and that FluxGym writes the script."""
        super().__init__(
            f'{run_dir} has no {name}. FluxGym\'s "Start training" writes it; start the run there once.'
        )


class ScriptChangedSinceShown(RuntimeError):
    """The script is no longer the one that was shown; nothing was written."""

    def __init__(self, path: Path) -> None:
        """Name the script and say what to do."""
        super().__init__(
            f"{path.name} was changed after it was shown here; nothing was written. "
            "Look at the new preview and try again."
        )


class ScriptUnreadable(RuntimeError):
    """The script is there and cannot be read; nothing was written."""

    def __init__(self, path: Path, error: OSError) -> None:
        """Name the script, say why, and what to do."""
        super().__init__(
            f"{path.name} could not be read ({error.strerror or error}); nothing was written. Make it readable for "
            "this user, then refresh."
        )


#: What can be wrong with a script or with writing it, each with a text for the user.
SCRIPT_TROUBLE = (
    NoScript,
    ScriptUnreadable,
    ScriptNotUnderstood,
    InexpressiblePath,
    ScriptChangedSinceShown,
    WriteFailed,
)


class Writer(Protocol):
    """What writes a change: `atomic_write.replace_bytes`, or a stand-in in a test."""

    def __call__(self, path: Path, data: bytes, *, expected: bytes | None) -> Path | None:
        """Replace the file's bytes; returns the backup's path."""


@dataclass(frozen=True, slots=True)
class SetValue:
    """Set a flag to a value."""

    flag: str
    value: str


@dataclass(frozen=True, slots=True)
class SetValues:
    """Set a flag that takes several values."""

    flag: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetSwitch:
    """Set a flag that takes no value."""

    flag: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a flag out."""

    flag: str


Edit = SetValue | SetValues | SetSwitch | Remove


@dataclass(frozen=True)
class Receipt:
    """What a carried out change needs to be undone; plain values, so that it can be stored and made again.

    The digests are SHA-256 in hex, of the script before and after.
    """

    path: Path
    backup: Path | None
    before_digest: str
    after_digest: str

    def undo(self) -> None:
        """Bring the earlier bytes back in one step, the undone ones kept as the newest backup.

        Raises ScriptChangedSinceShown when the script was changed since (a later edit is never overwritten),
        LookupError when no backup holds the earlier bytes any more, WriteFailed.
        """
        if self.before_digest == self.after_digest:
            return
        current = _bytes_of(self.path) if os.path.isfile(self.path) else b""
        if _sha256(current) != self.after_digest:
            raise ScriptChangedSinceShown(self.path)
        _write(replace_bytes, self.path, self._earlier(), current)

    def _earlier(self) -> bytes:
        """The earlier bytes; a later change may have moved the backup to another number."""
        for backup in backups_of(Path(os.path.realpath(self.path))):
            data = backup.read_bytes()
            if _sha256(data) == self.before_digest:
                return data
        raise LookupError(
            f"No backup of {self.path.name} holds the earlier script any more; undo is not possible. "
            "The script is as it was."
        )


@dataclass(frozen=True)
class ScriptChange:
    """A planned change of a script: `summary` says what is done, `notes` what else to know."""

    path: Path
    before: bytes
    after: bytes
    summary: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_noop(self) -> bool:
        """Whether the script already says what is wanted."""
        return self.before == self.after

    @property
    def diff(self) -> str:
        """A unified diff to read, empty when nothing changes; carriage returns show where the sides differ."""
        before, after = _lines(self.before), _lines(self.after)
        if {line.endswith("\r\n") for line in before + after if line.endswith("\n")} == {True}:
            before, after = ([line.replace("\r\n", "\n") for line in side] for side in (before, after))
        name = self.path.name
        parts = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")
        return "".join(_diff_line(part) for part in parts)

    def writes_as(self, other: ScriptChange) -> bool:
        """Whether the other change makes the same of the same script, however it is told."""
        return (self.path, self.before, self.after) == (other.path, other.before, other.after)

    @property
    def is_current(self) -> bool:
        """Whether the script on the disk is still the one that was shown."""
        try:
            return self.path.read_bytes() == self.before
        except OSError:
            return False

    def execute(self, write: Writer | None = None) -> Receipt:
        """Write the script, a backup beside it; a change that changes nothing writes nothing.

        Raises ScriptChangedSinceShown when the file is no longer what was shown, WriteFailed.
        """
        before_digest, after_digest = _sha256(self.before), _sha256(self.after)
        if self.is_noop:
            if not self.is_current:  # it was right as it was shown; what is there now is another script
                raise ScriptChangedSinceShown(self.path)
            return Receipt(self.path, None, before_digest, after_digest)
        backup = _write(write or replace_bytes, self.path, self.after, self.before)
        return Receipt(self.path, backup, before_digest, after_digest)


def plan_resume(
    run_dir: Path, state_name: str, *, dialect: Dialect | None = None, edits: Sequence[Edit] = ()
) -> ScriptChange:
    """Plan to let the run's script resume from one of its state directories, in the script's own world.

    `edits` are made besides.

    Raises NoScript, ScriptUnreadable, ScriptNotUnderstood, InexpressiblePath, ValueError for a name that is no plain
    child.
    """
    path = _script_path(run_dir, dialect)
    data = _bytes_of(path)
    script = TrainScript.parse(data, dialect_of(path))
    resume = resume_value(script, run_dir, state_name)
    wanted = [*edits, SetValue("--resume", resume.value)]
    return _plan(path, data, wanted, [resume.note] if resume.note else [])


def plan_fresh(run_dir: Path, *, dialect: Dialect | None = None) -> ScriptChange:
    """Plan to take `--resume` out of the run's script; raises NoScript, ScriptUnreadable, ScriptNotUnderstood."""
    return plan_edits(run_dir, [Remove("--resume")], dialect=dialect)


def plan_edits(
    run_dir: Path, edits: Sequence[Edit], *, dialect: Dialect | None = None, notes: Sequence[str] = ()
) -> ScriptChange:
    """Plan edits of the run's script; raises as :func:`plan_resume`."""
    path = _script_path(run_dir, dialect)
    return _plan(path, _bytes_of(path), edits, notes)


def value_in_script(run_dir: Path, name: str) -> ResumeValue:
    """The path of something in the run's folder as the script's own machine knows it; raises as `plan_resume`."""
    path = _script_path(run_dir, None)
    return resume_value(TrainScript.parse(_bytes_of(path), dialect_of(path)), run_dir, name)


def _script_path(run_dir: Path, dialect: Dialect | None) -> Path:
    """The script of this dialect, or the one that the platform runs."""
    if dialect is None:
        path = find_script(run_dir)
    else:
        wanted = run_dir / f"train.{dialect.value}"
        path = wanted if os.path.isfile(wanted) else None
    if path is None:
        raise NoScript(run_dir, f"train.{dialect.value}" if dialect else "train.sh or train.bat")
    return path


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ScriptUnreadable(path, error) from error


def _plan(path: Path, data: bytes, edits: Sequence[Edit], notes: Sequence[str]) -> ScriptChange:
    script = TrainScript.parse(data, dialect_of(path))
    summary: list[str] = []
    for edit in edits:
        script, line = _edited(script, edit)
        summary.append(line)
    everything = [*notes, *script.notes, *_code_page_notes(script, edits)]
    return ScriptChange(path, data, script.to_bytes(), tuple(summary), tuple(dict.fromkeys(everything)))


def _edited(script: TrainScript, edit: Edit) -> tuple[TrainScript, str]:
    """The script after one edit, and the edit in words."""
    had = script.has(edit.flag)
    if isinstance(edit, SetValue):
        earlier = script.value(edit.flag)
        changed = script.with_value(edit.flag, edit.value)
        if changed == script:
            return changed, f"{edit.flag} is {edit.value} already"
        if had and earlier != edit.value:
            return changed, f"{edit.flag} changed from {earlier or 'nothing'} to {edit.value}"
        return changed, f"{edit.flag} set to {edit.value}"
    if isinstance(edit, SetValues):
        return _edited_values(script, edit)
    if isinstance(edit, SetSwitch):
        return script.with_switch(edit.flag), f"{edit.flag} was set already" if had else f"{edit.flag} added"
    return script.without(edit.flag), f"{edit.flag} removed" if had else f"{edit.flag} was not set"


def _edited_values(script: TrainScript, edit: SetValues) -> tuple[TrainScript, str]:
    before, given = script.values(edit.flag), " ".join(edit.values)
    changed = script.with_values(edit.flag, edit.values)
    if changed == script:
        return changed, f"{edit.flag} is {given} already"
    if script.has(edit.flag) and before != edit.values:
        return changed, f"{edit.flag} changed from {' '.join(before) or 'nothing'} to {given}"
    return changed, f"{edit.flag} set to {given}"


def _code_page_notes(script: TrainScript, edits: Sequence[Edit]) -> list[str]:
    """cmd reads a batch file in its console's code page, and FluxGym writes it in UTF-8."""
    foreign = any(isinstance(edit, SetValue) and not edit.value.isascii() for edit in edits)
    if script.dialect is Dialect.BAT and foreign and "65001" not in script.text:
        return [
            "The path has letters that cmd reads correctly only in code page 65001: run `chcp 65001` first."
        ]
    return []


def _write(write: Writer, path: Path, data: bytes, expected: bytes) -> Path | None:
    try:
        return write(path, data, expected=expected)
    except ChangedMeanwhile as error:
        raise ScriptChangedSinceShown(path) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _lines(data: bytes) -> list[str]:
    """The lines with their ends; bytes that are no UTF-8 are shown as escapes."""
    parts = data.decode("utf-8", "backslashreplace").split("\n")
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _diff_line(line: str) -> str:
    """One line of the diff with a carriage return made visible and a missing last line end spelled out."""
    visible = line.replace("\r", "␍")
    return visible if visible.endswith("\n") else visible + "\n\\ No newline at end of file\n"
