"""What the command line's exit status says; pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from checkpoint_core.audit import CheckpointReport, RunReport, Verdict


class ExitCode(enum.IntEnum):
    """The three answers to “will it resume?”."""

    RESUMES = 0
    #: It will not, or the command was refused.
    DOES_NOT = 1
    #: It could not be told (yet), or the command was used wrongly.
    COULD_NOT_TELL = 2


_UNDECIDED = (Verdict.SAVING, Verdict.UNKNOWN)


def of_checkpoint(checkpoint: CheckpointReport) -> ExitCode:
    """The answer for one checkpoint; one that is still being saved cannot be told yet."""
    if checkpoint.verdict.resumes:
        return ExitCode.RESUMES
    return ExitCode.COULD_NOT_TELL if checkpoint.verdict in _UNDECIDED else ExitCode.DOES_NOT


def of_run(run: RunReport) -> ExitCode:
    """One checkpoint that resumes is enough; with none, a doubtful one keeps the answer open."""
    answers = {of_checkpoint(checkpoint) for checkpoint in run.checkpoints}
    if ExitCode.RESUMES in answers:
        return ExitCode.RESUMES
    undecided = ExitCode.COULD_NOT_TELL in answers or run.facts.problem is not None
    return ExitCode.COULD_NOT_TELL if undecided else ExitCode.DOES_NOT


def of_runs(runs: Iterable[RunReport]) -> ExitCode:
    """Every run that has checkpoints must have one that resumes; no checkpoint at all resumes nothing."""
    answers = {of_run(run) for run in runs if run.checkpoints or run.facts.problem}
    if not answers or ExitCode.DOES_NOT in answers:
        return ExitCode.DOES_NOT
    return max(answers)
