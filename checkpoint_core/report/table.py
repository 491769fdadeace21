"""The checkpoints as a pandas table: raw values for programs, and a display twin for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from checkpoint_core.audit import VERDICT_WORDS, Auditor, AuditReport, CheckpointReport, Verdict, note
from checkpoint_core.environment import environment_source
from checkpoint_core.states import LoraFacts, OptimizerFacts, RandomStatesFacts, SchedulerFacts, WeightsFacts
from checkpoint_core.text import human_bytes, local_time, number_or_dash

#: Column to pandas dtype, in the table's order. Integers are nullable: ``<NA>`` where a value cannot be known.
COLUMNS: dict[str, str] = {
    "run": "string",
    "state": "string",  # the state directory's name, below the run's folder
    "verdict": "string",  # ready, ready-with-warnings, needs-fix, damaged, saving, unknown
    "epoch": "Int64",  # finished epoch (of a step's state: the one under way), counted from 1
    "step": "Int64",  # optimizer updates since the start of the training
    "current_step": "Int64",  # as train_state.json has it: since the start of the last launch
    "lifetime_step": "Int64",  # as the scheduler counted, repeated epochs included
    "saved_at": "datetime64[ns, UTC]",
    "size_bytes": "Int64",
    "layout": "string",
    "rank": "Int64",  # of the LoRA (network_dim)
    "tensor_count": "Int64",  # tensors in the weights file
    "optimizer": "string",  # family: adamw8bit, adamw, adafactor, …
    "learning_rate": "Float64",  # of the first parameter group at the save
    "rng_step": "Int64",  # accelerate's own counter in random_states_0.pkl, not the training step
    "lora_file": "string",  # the LoRA file of the same save, if it is there
    "finding_codes": "string",  # joined by spaces, the deciding one first
    "note": "string",  # the one thing to know
    "path": "string",
}


def to_dataframe(report: AuditReport) -> pd.DataFrame:
    """One row a checkpoint, runs by name, each run's newest checkpoint first; columns as :data:`COLUMNS`.

    ``saved_at`` is in UTC. An empty report gives an empty table with the same columns and dtypes.
    """
    rows = [_row(checkpoint) for run in report.runs for checkpoint in run.checkpoints]
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    series = {name: pd.Series(values, dtype=COLUMNS[name]) for name, values in columns.items()}
    table: pd.DataFrame = pd.DataFrame(series)
    return table


def _timestamp(nanoseconds: int) -> pd.Timestamp | None:
    """A point in time in UTC; ``None`` for one that a broken clock put beyond what pandas can hold."""
    try:
        moment: pd.Timestamp = pd.Timestamp(nanoseconds, unit="ns", tz="UTC")
    except (ValueError, OverflowError):
        return None
    return moment


def _unicode(text: str) -> str:
    """A name of the disk as text that every program takes: bytes that are no UTF-8 become ``\\xff``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _row(checkpoint: CheckpointReport) -> dict[str, Any]:
    facts, position = checkpoint.facts, checkpoint.position
    weights = facts.weights if isinstance(facts.weights, WeightsFacts) else None
    optimizer = facts.optimizer if isinstance(facts.optimizer, OptimizerFacts) else None
    return {
        "run": _unicode(checkpoint.run),
        "state": _unicode(checkpoint.name),
        "verdict": checkpoint.verdict.value,
        "epoch": position.epoch,
        "step": position.step,
        "current_step": position.current_step,
        "lifetime_step": position.lifetime_step,
        "saved_at": _timestamp(facts.saved_ns),
        "size_bytes": facts.size_bytes,
        "layout": facts.layout.value,
        "rank": weights.rank if weights else None,
        "tensor_count": weights.tensor_count if weights else None,
        "optimizer": optimizer.family if optimizer else None,
        "learning_rate": learning_rate(checkpoint),
        "rng_step": facts.random_states.step if isinstance(facts.random_states, RandomStatesFacts) else None,
        "lora_file": _unicode(facts.lora.file) if isinstance(facts.lora, LoraFacts) else None,
        "finding_codes": " ".join(found.code for found in checkpoint.findings),
        "note": _unicode(note(checkpoint)),
        "path": _unicode(str(facts.path)),
    }


def learning_rate(checkpoint: CheckpointReport) -> float | None:
    """The learning rate at the save: the scheduler's word, else the optimizer's."""
    scheduler, optimizer = checkpoint.facts.scheduler, checkpoint.facts.optimizer
    if isinstance(scheduler, SchedulerFacts) and scheduler.last_lrs:
        return scheduler.last_lrs[0]
    if isinstance(optimizer, OptimizerFacts) and optimizer.learning_rates:
        return optimizer.learning_rates[0]
    return None


def to_display(table: pd.DataFrame) -> pd.DataFrame:
    """The display twin: the same rows in the same order, every value as text in the user's local time.

    Columns: State, Checkpoint, Epoch, Step, Saved, Size, What to know (and Run first, where there is more than one).
    """
    shown: pd.DataFrame = pd.DataFrame(
        {
            "Run": table["run"],
            "State": [VERDICT_WORDS[Verdict(value)] for value in table["verdict"]],
            "Checkpoint": table["state"],
            "Epoch": [_number_text(value) for value in table["epoch"]],
            "Step": [_number_text(value) for value in table["step"]],
            "Saved": ["–" if pd.isna(value) else local_time(value.value) for value in table["saved_at"]],
            "Size": [human_bytes(int(value)) for value in table["size_bytes"]],
            "What to know": table["note"],
        },
        dtype="string",
    )
    if table["run"].nunique() <= 1:
        del shown["Run"]
    return shown


def _number_text(value: Any) -> str:
    return number_or_dash(None if pd.isna(value) else int(value))


def load_table(outputs: Path | str, run: str | None = None, python: Path | str | None = None) -> pd.DataFrame:
    """The table of an outputs folder, or of one of its runs, in one call.

    :param python: the training interpreter, if it is not found in FluxGym's folder.
    :raises OutputsFolderError: when the folder is missing or unreadable.
    :raises UnknownName: when there is no such run.
    """
    environment = environment_source(Path(outputs).absolute().parent, chosen=Path(python) if python else None)
    auditor = Auditor(outputs, environment=environment)
    if run is None:
        return to_dataframe(auditor.audit())
    return to_dataframe(AuditReport(auditor.outputs, 0, (auditor.audit_run(run),), ()))
