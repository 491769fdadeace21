"""Removes checkpoints that were confirmed one by one: all of the chosen, or none where one of them may not go.

Each leaves its name in one step, before the first byte of it goes: a state that is half removed under its own name
could be taken for one that resumes, and without ``train_state.json`` the training would begin at epoch 1. What a
removal left that was killed is hidden from everything else, and is removed at the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoint_core.atomic_write import WriteFailed, locked, remove_confirmed, remove_set_aside
from checkpoint_core.audit import Auditor, RunReport, forget_manifest
from checkpoint_core.recovery import transaction
from checkpoint_core.recovery.planning import plan_recovery
from checkpoint_core.recovery.retention import RetentionPlan, plan_retention
from checkpoint_core.states import FileEntry, repair_records
from checkpoint_core.text import human_bytes

_ASIDE = re.compile(r"\.removing-[0-9a-f]{16}\Z")

#: Looks at the run as it lies on the disk now, and plans anew what may go.
Look = Callable[[], "tuple[RunReport, RetentionPlan]"]


class RemovalRefused(RuntimeError):
    """A checkpoint may not go, or is not as it was shown; nothing was removed. The text says why."""


@dataclass(frozen=True)
class Chosen:
    """A checkpoint that is to go, as it was when that was confirmed."""

    name: str
    size_bytes: int
    listing: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Removed:
    """What was removed, and the room that it gave; a file with a hard link elsewhere gives none."""

    names: tuple[str, ...]
    freed_bytes: int


@dataclass(frozen=True)
class Removal:
    """The checkpoints of a run that are to go."""

    run: Path
    states: tuple[Chosen, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The plan in sentences, one a checkpoint."""
        return tuple(f"{each.name} is removed ({human_bytes(each.size_bytes)})." for each in self.states)

    def execute(self, look: Look) -> Removed:
        """Remove them; LoRA files, and originals that repairs keep, stay.

        :param look: must not change the run: no repair and no other removal can go on meanwhile.
        :raises RemovalRefused: when one of them was changed since it was shown or may not go any more.
        :raises WriteFailed: when one could not be removed; the text says what then is there.
        :raises RecordUnusable: when ``repairs.json`` is not readable; nothing was removed.
        """
        with locked(self.run / repair_records.FOLDER):
            # An interrupted repair would look for its state for ever.
            transaction.finish_interrupted_locked(self.run)
            _finish_locked(self.run)
            self._check(*look())
            freed = sum(_freed_by(_place(self.run, state.name)) for state in self.states)
            places = [(_place(self.run, state.name), _aside(self.run)) for state in self.states]
            try:
                remove_confirmed(places)
            finally:
                self._forget_manifests()
        return Removed(tuple(state.name for state in self.states), freed)

    def _forget_manifests(self) -> None:
        for state in self.states:
            if not os.path.lexists(_place(self.run, state.name)):
                # One that stays is told from a later save of that name by the times in it.
                with contextlib.suppress(WriteFailed):
                    forget_manifest(self.run, state.name)

    def _check(self, run: RunReport, plan: RetentionPlan) -> None:
        links, listings = links_in(run), {item.name: item.facts.files for item in run.checkpoints}
        for state in self.states:
            if run.facts.path != self.run or state.name not in listings:
                raise RemovalRefused(f"{state.name} is not there any more. {_NOTHING_REMOVED}")
            if listings[state.name] != state.listing:
                raise RemovalRefused(f"{state.name} was changed after it was shown. {_NOTHING_REMOVED}")
            if state.name in links or plan.candidate(state.name) is None:
                why = plan.why_kept(state.name) or "It is a link."
                raise RemovalRefused(f"{state.name} can't be removed any more: {why} {_NOTHING_REMOVED}")
            _check_protection(self.run, state.name)


_NOTHING_REMOVED = "Nothing was removed. Look at the checkpoints again."


def plan_removal(run: RunReport, names: Sequence[str], plan: RetentionPlan) -> Removal:
    """Plan to remove the checkpoints of these names and no others.

    :param plan: what may go, as it was shown.
    :raises RemovalRefused: when one of them is no candidate, or none is named.
    """
    if not names:
        raise RemovalRefused("Nothing was removed, because no checkpoint was chosen.")
    chosen = dict.fromkeys(names)
    for name in chosen:
        if plan.candidate(name) is None:
            why = plan.why_kept(name) or "The run has no such checkpoint."
            raise RemovalRefused(f"{name} stays: {why} Nothing was removed.")
    items = (item for item in run.checkpoints if item.name in chosen)
    states = tuple(Chosen(item.name, item.facts.size_bytes, item.facts.files) for item in items)
    return Removal(run.facts.path, states)


def retention_of(auditor: Auditor, run: RunReport, in_use: frozenset[str] = frozenset()) -> RetentionPlan:
    """What may go of a run, after a look at its recovery options and at links."""
    return plan_retention(run, plan_recovery(auditor, run), in_use, links_in(run))


def look_again_at_run(auditor: Auditor, run: str, in_use: Callable[[], frozenset[str]] | None = None) -> Look:
    """What :meth:`Removal.execute` asks; ``in_use`` is asked then, for a training may have begun since."""

    def look() -> tuple[RunReport, RetentionPlan]:
        now = auditor.audit_run(run)
        return now, retention_of(auditor, now, in_use() if in_use else frozenset())

    return look


def links_in(run: RunReport) -> frozenset[str]:
    """The checkpoints that are links or lie behind one, and those to which a link in the run leads."""
    home = os.path.realpath(run.facts.path)
    own = {item.name: os.path.join(home, *item.name.split("/")) for item in run.checkpoints}
    real = {name: os.path.realpath(path) for name, path in own.items()}
    linked = {name for name in own if real[name] != own[name]}
    targets = {real[name] for name in linked}
    return frozenset(name for name in own if name in linked or real[name] in targets)


def finish_removals(run: Path) -> bool:
    """Remove what a removal left that was killed; whether there was something.

    :raises WriteFailed: when it could not be removed.
    """
    if not _left_behind(run):
        return False
    with locked(run / repair_records.FOLDER):
        _finish_locked(run)
    return True


def _finish_locked(run: Path) -> None:
    for folder in _left_behind(run):
        remove_set_aside(folder)


def _left_behind(run: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        found = (run / name for name in os.listdir(run) if _ASIDE.match(name))
        return [path for path in found if path.is_dir() and not path.is_symlink()]
    return []


def _aside(run: Path) -> Path:
    """A hidden name, under which nothing looks for checkpoints; short, for a state's own may be as long as allowed."""
    return run / f".removing-{secrets.token_hex(8)}"


def _place(run: Path, name: str) -> Path:
    return run.joinpath(*name.split("/"))


def _check_protection(run: Path, name: str) -> None:
    """Who took the right to write from a checkpoint meant it to stay; the system itself would let it go in part."""
    folder = _place(run, name)
    for path in (folder, *_inside(folder)):
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode) and not status.st_mode & stat.S_IWUSR:
            shown = path.relative_to(run).as_posix()
            raise RemovalRefused(
                f"{shown} is write-protected. Nothing was removed. Allow writing to it if the checkpoint may go."
            )


def _inside(folder: Path) -> Iterator[Path]:
    """Everything below a folder; links are not followed."""
    for home, folders, files in os.walk(folder):
        yield from (Path(home, name) for name in (*folders, *files))


def _freed_by(folder: Path) -> int:
    own = (os.lstat(path) for path in _inside(folder))
    return sum(each.st_size for each in own if stat.S_ISREG(each.st_mode) and each.st_nlink == 1)
