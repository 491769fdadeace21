"""What to do next with a run, in sentences: the recovery plan's own order, and the run's findings; pure.

Nothing is ranked here, so that the sentences and the options beside them never contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_core.audit import CheckpointReport, RunReport, Severity, title
from checkpoint_core.recovery.options import OptionKind, RecoveryOption, RecoveryPlan, causes_of, cures_of

_NEEDS_ATTENTION = (Severity.FIXABLE, Severity.WARNING, Severity.UNKNOWN)
_AS_IT_IS = (OptionKind.RESUME, OptionKind.OLDER)


def next_steps(run: RunReport, recovery: RecoveryPlan) -> tuple[str, ...]:
    """What to do, the recommended option first, then what else resumes, then what needs attention."""
    return tuple(dict.fromkeys((*_from_options(run, recovery), *_from_findings(run, recovery))))


def _from_options(run: RunReport, recovery: RecoveryPlan) -> Iterator[str]:
    if recovery.wait:
        yield "The latest checkpoint is being saved. Wait until the save is finished, then look again."
    steps = list(_from_checkpoints(run, recovery))
    if recovery.by_hand is not None:
        # After the recommended option where there is one: it is what the user has to do without this program.
        steps.insert(1 if recovery.recommended else 0, _fix(recovery.by_hand))
    yield from steps or _without_checkpoint(run, recovery)


def _from_checkpoints(run: RunReport, recovery: RecoveryPlan) -> Iterator[str]:
    """The first repair that stands before what resumes as it is, and that."""
    options = [option for option in recovery.options if option.checkpoint]
    resumes = next((option for option in options if option.kind in _AS_IT_IS), None)
    repaired = options[0] if options and options[0] is not resumes else None
    if repaired:
        yield _fix(run.checkpoint(repaired.checkpoint))
    if resumes:
        checkpoint = run.checkpoint(resumes.checkpoint)
        yield f"{'Or resume' if repaired else 'Resume'} from {_named(checkpoint)}: it will resume as it is."


def _fix(checkpoint: CheckpointReport) -> str:
    return f"To resume from {_named(checkpoint)}: {cures_of(checkpoint)} Why: {causes_of(checkpoint)}"


def _without_checkpoint(run: RunReport, recovery: RecoveryPlan) -> Iterator[str]:
    best = recovery.recommended
    if best is None or (best.kind is OptionKind.FRESH and not run.checkpoints):
        return  # nothing was trained: what the run lacks is all there is to say
    why = (
        "No checkpoint can be resumed, and no lossless fix is known."
        if run.checkpoints
        else "There is no checkpoint to resume from."
    )
    yield f"{why} {_warm_start(best) if best.kind is OptionKind.WARM_START else _FRESH}"


_FRESH = "Start fresh instead: the training begins at epoch 1; what is there is kept in .replaced."


def _warm_start(option: RecoveryOption) -> str:
    """The learned weights survive in a LoRA file (sd-scripts ``--network_weights``)."""
    return (
        f"Start from the LoRA file {option.lora} instead: --network_weights with its path and --initial_epoch "
        f"{option.next_epoch}. It keeps what was learned; the optimizer and the learning rate schedule start over."
    )


def _from_findings(run: RunReport, recovery: RecoveryPlan) -> Iterator[str]:
    has_option = recovery.recommended is not None and recovery.recommended.kind is not OptionKind.FRESH
    for found in run.findings:
        if found.severity in _NEEDS_ATTENTION:
            yield f"{found.message} {found.cure}"
        elif not run.checkpoints and not has_option:
            yield found.cure


def _named(checkpoint: CheckpointReport) -> str:
    called = title(checkpoint)
    return called if called == checkpoint.name else f"{called} ({checkpoint.name})"
