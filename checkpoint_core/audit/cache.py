"""What an auditor remembers of an outputs folder: by path, for as long as the path is listed, never the disk's word.

Nothing here reads or judges. Each value is kept with a stamp, what of the disk it was made from; where the stamp
differs it is made anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Generic, TypeVar

from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.environment import RehearsalOutcome
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import LoraFacts, Reading, RunDir, StateFacts, Verified
from checkpoint_core.trainer import DatasetFacts

T = TypeVar("T")


class PathMemory(Generic[T]):
    """Values of one kind by run and path; each step is one operation of a dict, so threads need no lock here."""

    def __init__(self) -> None:
        self._runs: dict[Path, dict[Path, tuple[object, T]]] = {}

    def recall(self, run: Path, path: Path, stamp: object) -> T | None:
        """The value that was kept under that very stamp."""
        known = self._runs.get(run, {}).get(path)
        return known[1] if known is not None and known[0] == stamp else None

    def keep(self, run: Path, path: Path, stamp: object, value: T) -> T:
        """Keep a value in the place of an earlier one, and give it back."""
        self._runs.setdefault(run, {})[path] = (stamp, value)
        return value

    def get(self, run: Path, path: Path, stamp: object, make: Callable[[], T]) -> T:
        """The value of that stamp, made where none is kept."""
        known = self._runs.get(run, {}).get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        return self.keep(run, path, stamp, make())

    def forget_runs(self, others_than: Collection[Path]) -> None:
        """Forget all runs but these."""
        for run in list(self._runs):
            if run not in others_than:
                self._runs.pop(run, None)

    def forget_paths(self, run: Path, others_than: Collection[Path]) -> None:
        """Forget all of a run but these paths."""
        known = self._runs.get(run, {})
        for path in list(known):
            if path not in others_than:
                known.pop(path, None)

    def __len__(self) -> int:
        return sum(len(known) for known in list(self._runs.values()))


class AuditCache:
    """All that an auditor remembers; safe to use from several threads, each run within its :meth:`turn`."""

    def __init__(self) -> None:
        self.scripts: PathMemory[tuple[ScriptFacts | None, str | None]] = PathMemory()
        self.datasets: PathMemory[DatasetFacts | None] = PathMemory()
        self.loras: PathMemory[Reading[LoraFacts]] = PathMemory()
        self.states: PathMemory[StateFacts] = PathMemory()
        self.reports: PathMemory[CheckpointReport] = PathMemory()
        self.verified: PathMemory[Verified] = PathMemory()
        self.rehearsals: PathMemory[RehearsalOutcome] = PathMemory()
        self._turns: dict[Path, threading.Lock] = {}

    def at_another_time(self) -> AuditCache:
        """A cache of its own for another clock; what was fully verified or rehearsed is known to both."""
        other = AuditCache()
        other.verified, other.rehearsals = self.verified, self.rehearsals
        return other

    def turn(self, run: Path) -> threading.Lock:
        """The lock of a run: two that read it for the first time must not undo what the other has judged already.

        Held while a run is read and judged, which starts no process; another run is not held up.
        """
        return self._turns.setdefault(run, threading.Lock())

    def forget_runs(self, others_than: Collection[Path]) -> None:
        """Forget what lies in no run of these: the others are gone."""
        for memory in self._memories:
            memory.forget_runs(others_than)
        for run, turn in list(self._turns.items()):
            if run not in others_than and not turn.locked():
                self._turns.pop(run, None)

    def forget_unlisted(self, found: RunDir) -> None:
        """Forget what a run's folder does not list any more; one that cannot be listed now tells nothing."""
        if found.listing.problem:
            return
        listed = {found.path, *(found.path / entry.name for entry in found.listing.entries)}
        listed |= {state.path for state in found.states}
        for memory in self._memories:
            memory.forget_paths(found.path, listed)

    def __len__(self) -> int:
        return sum(map(len, self._memories))

    @property
    def _memories(self) -> tuple[PathMemory[Any], ...]:
        of_files = (self.scripts, self.datasets, self.loras)
        return (*of_files, self.states, self.reports, self.verified, self.rehearsals)
