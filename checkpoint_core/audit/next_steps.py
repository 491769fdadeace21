"""What to do next with a run, in sentences, the best first; pure."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_core.audit.auditor import CheckpointReport
from checkpoint_core.audit.findings import Severity, Verdict
from checkpoint_core.audit.reports import RunReport, find_latest_resumable
from checkpoint_core.audit.wording import title
from checkpoint_core.states import LoraFacts

_TO_CURE = (Severity.FIXABLE, Severity.WARNING, Severity.UNKNOWN)


def next_steps(run: RunReport) -> tuple[str, ...]:
    """What to do, in the order to consider it: mend the newest, resume an older one, start from a LoRA file."""
    return tuple(dict.fromkeys((*_from_checkpoints(run), *_from_run(run))))


def _from_checkpoints(run: RunReport) -> Iterator[str]:
    best = find_latest_resumable(run).checkpoint
    newer = run.checkpoints[: run.checkpoints.index(best)] if best else run.checkpoints
    if any(item.verdict is Verdict.SAVING for item in newer):
        yield "The latest checkpoint is being saved. Wait until the save is finished, then look again."
    mendable = next((item for item in newer if item.verdict is Verdict.NEEDS_FIX), None)
    if mendable:
        yield _mend(mendable)
    if best:
        yield f"{'Or resume' if mendable else 'Resume'} from {_named(best)}: it will resume as it is."
    elif run.checkpoints and not mendable:
        yield "No checkpoint resumes, and no cure is known that keeps the training state."
        yield from _warm_start(run)


def _mend(checkpoint: CheckpointReport) -> str:
    fixes = [found for found in checkpoint.findings if found.severity is Severity.FIXABLE]
    causes = " ".join(dict.fromkeys(found.message for found in fixes))
    cures = " ".join(dict.fromkeys(found.cure for found in fixes))
    return f"To go on from {_named(checkpoint)}: {cures} Why: {causes}"


def _warm_start(run: RunReport) -> Iterator[str]:
    """The learned weights survive in the newest LoRA file that tells its epoch (sd-scripts ``--network_weights``)."""
    known = [lora for lora in run.facts.loras if isinstance(lora, LoraFacts) and lora.epoch is not None]
    if known:
        lora = max(known, key=lambda item: (item.epoch or 0, item.modified_ns))
        yield (
            f"Start from the LoRA file {lora.file} instead: --network_weights with its path and --initial_epoch "
            f"{(lora.epoch or 0) + 1}. It keeps what was learned; the optimizer and the learning rate schedule "
            "start anew."
        )


def _from_run(run: RunReport) -> Iterator[str]:
    for found in run.findings:
        if found.severity in _TO_CURE:
            yield f"{found.message} {found.cure}"
        elif not run.checkpoints:
            yield found.cure


def _named(checkpoint: CheckpointReport) -> str:
    called = title(checkpoint)
    return called if called == checkpoint.name else f"{called} ({checkpoint.name})"
