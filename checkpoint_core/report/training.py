"""How a run's training stands, for programs and in lines of text; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from checkpoint_core.text import human_seconds, local_time, utc_time
from checkpoint_core.training import Life, ProcessState, Progress, TrainingStatus

_STATUS_WORDS = {
    ProcessState.STARTING: "Starting",
    ProcessState.RUNNING: "Training",
    ProcessState.STOPPING: "Stopping",
    ProcessState.BACKOFF: "Crashed; restarting soon",
    ProcessState.EXITED: "Finished",
    ProcessState.STOPPED: "Stopped",
    ProcessState.FATAL: "Crashed",
}


def status_word(status: TrainingStatus) -> str:
    """How it stands, in a word or two."""
    if status.life is Life.UNWATCHED:
        return "Training, not monitored"
    if status.life is Life.LOST:
        return "Lost"
    return _STATUS_WORDS[status.record.status] if status.record else "Not started here"


def status_sentence(status: TrainingStatus) -> str:
    """What there is to say besides, in the user's words; empty where there is nothing."""
    if status.life is Life.UNWATCHED:
        return (
            "It runs, but nothing monitors it: its saves are not checked, and it does not restart after a crash. "
            "Press “Monitor this training” to change that."
        )
    if status.life is Life.LOST and status.record and status.record.status is ProcessState.STARTING:
        return (
            "Its monitor ended before the training began, so nothing was trained. Its last words are in "
            ".training/watcher.log in the run's folder. Try again; if it happens again, send the diagnosis."
        )
    if status.life is Life.LOST:
        return (
            "It was running, but it and its monitor are gone: the machine was switched off, or both were killed. "
            "Choose a checkpoint to resume from."
        )
    return status.record.message if status.record else ""


def progress_facts(progress: Progress) -> Iterator[tuple[str, str]]:
    """The numbers of a training, each with its name; only those that are known."""
    total = _total(progress)
    if progress.epoch is not None:
        yield "Epoch", f"{progress.epoch}{f' of {progress.epochs}' if progress.epochs else ''}"
    if progress.step is not None:
        yield "Step", f"{progress.step:,}{f' of {total:,}' if total else ''}"
    if progress.seconds_per_step:
        speed = progress.seconds_per_step
        yield "Speed", f"{speed:.2f} s a step" if speed >= 1 else f"{1 / speed:.2f} steps a second"
    if progress.seconds_left is not None:
        yield "Time left", human_seconds(progress.seconds_left)
    if progress.loss is not None:
        yield "Loss", f"{progress.loss:.4g}" if math.isfinite(progress.loss) else "not a number (NaN)"
    if progress.last_saved:
        yield "Last saved", progress.last_saved


def share_done(progress: Progress) -> float | None:
    """How much of the whole training is done, 0 to 1; ``None`` where that is not known."""
    total = _total(progress)
    return min(1.0, progress.step / total) if progress.step is not None and total else None


def _total(progress: Progress) -> int | None:
    if progress.epochs and progress.steps_per_epoch:
        return progress.epochs * progress.steps_per_epoch
    return progress.bar_total if not progress.first_step else None


def training_lines(status: TrainingStatus) -> Iterator[str]:
    """How it stands, its warnings and its journal, a line each."""
    yield f"{status_word(status)}. {status_sentence(status)}".strip()
    facts = "  ".join(f"{name}: {value}" for name, value in progress_facts(status.progress))
    if facts:
        yield facts
    if status.record:
        yield from (f"Warning: {each}" for each in status.record.warnings)
    yield from (f"{local_time(line.at_ns)}  {line.text}" for line in status.journal)


def training_json(status: TrainingStatus) -> dict[str, Any]:
    """The same for programs; see docs/report-schema.md."""
    record = status.record
    return {
        "life": status.life.value,
        "word": status_word(status),
        "status": record.status.value if record else None,
        "attempt": record.attempt if record else None,
        "started_at": utc_time(record.started_ns) if record else None,
        "bring_back": record.bring_back if record else None,
        "resumed_from": (record.resumed_from or None) if record else None,
        "exit_status": record.exit_status if record else None,
        "message": status_sentence(status),
        "warnings": list(record.warnings) if record else [],
        "progress": status.progress.to_json(),
        "journal": [
            {"at": utc_time(line.at_ns), "kind": line.kind, "text": line.text} for line in status.journal
        ],
    }
