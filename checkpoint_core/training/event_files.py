"""The loss from TensorBoard's event files, for trainings whose own log is not to be had here.

sd-scripts writes them where ``--logging_dir`` is given (``train_util.py``, ``prepare_accelerator``): below that folder
``{log_prefix}{time}/network_train/events.out.tfevents.…``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from checkpoint_core.audit.auditor import RunReport
from checkpoint_core.training.log.progress import LossHistory
from checkpoint_core.training.tensorboard import read_scalars

_TAG = "loss/average"
#: Some 80,000 steps.
_MAX_BYTES = 8_000_000
_MAX_FILES = 1_000
#: A file is read anew no sooner than so many times as long as it took.
_PATIENCE = 20


class EventLosses:
    """The losses of runs by their event files, read again only when they grew and some time has passed.

    :param clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[Path, tuple[object, float, LossHistory]] = {}

    def of(self, run: RunReport, pids: Collection[int]) -> LossHistory:
        """The losses of the newest event file that a training writes; none where there is no such file.

        :param pids: the training's processes. A file's name tells which one writes it (TensorBoard
            ``event_file_writer.py``: time, host, process, count), and runs often share a folder.
        """
        folder = _logging_folder(run)
        newest = _newest(folder, pids) if folder is not None else None
        if newest is None:
            return LossHistory()
        stamp, path = newest
        known = self._known.get(run.facts.path)
        if known is None or (known[0] != (stamp, path) and self._clock() >= known[1]):
            begun = self._clock()
            losses = _read(path)
            again = self._clock() + _PATIENCE * (self._clock() - begun)
            known = self._known[run.facts.path] = ((stamp, path), again, losses)
        return known[2]


def _read(path: Path) -> LossHistory:
    history = LossHistory()
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError:
        return history
    for scalar in read_scalars(data, {_TAG}):
        history.add(scalar.step, scalar.value)
    return history


def _logging_folder(run: RunReport) -> Path | None:
    script = run.facts.script
    named = script.value("--logging_dir") if script else None
    return run.facts.path.parent.parent / named if named else None


def _newest(folder: Path, pids: Collection[int]) -> tuple[int, Path] | None:
    """The event file that was written last, with its time, of those that are where the trainer puts them."""
    found: list[tuple[int, Path]] = []
    try:
        for path in folder.glob("*/*/events.out.tfevents.*"):
            if not {str(pid) for pid in pids} & set(path.name.split(".")[3:]):
                continue
            found.append((path.stat().st_mtime_ns, path))
            if len(found) >= _MAX_FILES:
                break
    except OSError:
        return None
    return max(found, default=None)
