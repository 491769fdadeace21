"""Words for people that tab, report and command line share; pure."""

from __future__ import annotations

from checkpoint_core.audit.findings import Severity, Subject, Verdict
from checkpoint_core.audit.reports import CheckpointReport, RunReport, find_latest_resumable
from checkpoint_core.environment import TRAINING_PACKAGES, Environment, EnvironmentProblem
from checkpoint_core.states import SavePoint
from checkpoint_core.text import counted

#: A verdict as the table shows it.
VERDICT_WORDS = {
    Verdict.READY: "Ready",
    Verdict.READY_WITH_WARNINGS: "Ready, with warnings",
    Verdict.NEEDS_FIX: "Needs a fix",
    Verdict.DAMAGED: "Damaged",
    Verdict.SAVING: "Being saved",
    Verdict.UNKNOWN: "Could not tell",
}


def note(checkpoint: CheckpointReport) -> str:
    """The one thing to know about a checkpoint, empty where there is nothing."""
    first = next((found for found in checkpoint.findings if found.severity is not Severity.INFO), None)
    return first.message if first else ""


def title(checkpoint: CheckpointReport) -> str:
    """What a checkpoint is called in a sentence: ``Epoch 12``, ``Step 250``, or the directory's name."""
    position, save_point = checkpoint.position, checkpoint.facts.name.save_point
    if save_point is SavePoint.STEP and position.step is not None:
        return f"Step {position.step:,}"
    if save_point is not SavePoint.OTHER and position.epoch is not None:
        return f"Epoch {position.epoch}"
    return checkpoint.name


def title_inside(checkpoint: CheckpointReport) -> str:
    """The title in the middle of a sentence; a directory's name keeps its capitals."""
    called = title(checkpoint)
    return called if called == checkpoint.name else called.lower()


_PLAIN_JUDGEMENTS = {
    Verdict.READY: "It will resume.",
    Verdict.READY_WITH_WARNINGS: "It will resume, with the differences described below.",
    Verdict.NEEDS_FIX: "It won't resume correctly as is; a lossless fix is available.",
    Verdict.DAMAGED: "This checkpoint is damaged: it cannot be resumed.",
    Verdict.SAVING: "It is being saved right now.",
    Verdict.UNKNOWN: "It could not be judged.",
}
#: Of a checkpoint that is not itself to blame: what the environment, the script, or both do with it.
_BLAMELESS_JUDGEMENTS = {
    (Verdict.NEEDS_FIX, (Subject.ENVIRONMENT,)): "this environment cannot load it as it is.",
    (Verdict.NEEDS_FIX, (Subject.SCRIPT,)): "the train script does not fit it.",
    (
        Verdict.NEEDS_FIX,
        (Subject.SCRIPT, Subject.ENVIRONMENT),
    ): "neither train script nor environment fits it.",
    (Verdict.UNKNOWN, (Subject.ENVIRONMENT,)): "it is unclear whether this environment can load it.",
    (Verdict.UNKNOWN, (Subject.SCRIPT,)): "it is unclear what the train script would do with it.",
}


def judgement(checkpoint: CheckpointReport) -> str:
    """The verdict as a sentence that names whom it concerns: the checkpoint, the environment or the script."""
    if checkpoint.verdict.resumes and isinstance(checkpoint.environment, EnvironmentProblem):
        return "It will resume, as far as its files and the train script show. The training interpreter is not known."
    told = _BLAMELESS_JUDGEMENTS.get((checkpoint.verdict, checkpoint.concerns))
    if told is None:
        return _PLAIN_JUDGEMENTS[checkpoint.verdict]
    own = [
        found
        for found in checkpoint.findings
        if found.subject is Subject.STATE and found.severity is not Severity.INFO
    ]
    return f"The checkpoint {'itself can be resumed' if own else 'is fine'}; {told}"


def environment_line(environment: Environment) -> str:
    """The training interpreter, in one line; empty where nobody asked for it."""
    if environment is None:
        return ""
    if isinstance(environment, EnvironmentProblem):
        reason = environment.reason
        if environment.executable:
            return f"{environment.executable}: {reason}."
        return f"{reason[:1].upper()}{reason[1:]}."
    named = [f"{name} {environment.version(name) or 'not installed'}" for name in ("accelerate", "torch")]
    cuda = f"CUDA {environment.torch_cuda}" if environment.torch_cuda else "no CUDA"
    gpus = "GPUs not known" if environment.gpus is None else ", ".join(environment.gpus) or "no GPU seen"
    lacking = [name for name in TRAINING_PACKAGES if environment.version(name) is None]
    lacks = f"; it lacks {' and '.join(lacking)}, which sd-scripts needs" if lacking else ""
    return (
        f"Python {environment.python} with {', '.join(named)} ({cuda}; {gpus}): {environment.executable}, "
        f"{environment.source}{lacks}"
    )


_STATE_PHRASES = {
    Verdict.READY: "is ready",
    Verdict.READY_WITH_WARNINGS: "is ready, with warnings",
    Verdict.NEEDS_FIX: "needs a fix",
    Verdict.DAMAGED: "is damaged",
    Verdict.SAVING: "is being saved",
    Verdict.UNKNOWN: "could not be judged",
}


def phrase(checkpoint: CheckpointReport, latest: bool = False) -> str:
    """One sentence about a checkpoint: what it is, its state, and the reason."""
    told = note(checkpoint)
    reason = f": {_inside_sentence(told)}" if told else "."
    return (
        f"{title(checkpoint)}{', the latest,' if latest else ''} {_STATE_PHRASES[checkpoint.verdict]}{reason}"
    )


def _inside_sentence(message: str) -> str:
    """A sentence without its capital, where it follows a colon; names, NaN and LoRA keep theirs."""
    word = message.partition(" ")[0]
    return message[0].lower() + message[1:] if word[1:].islower() or word == "A" else message


def headline(run: RunReport) -> str:
    """The one thing to know about a run.

    ``Epoch 12 is ready. Epoch 13, the latest, is damaged: optimizer.bin is truncated: …``
    """
    if not run.checkpoints:
        first = next(iter(run.findings), None)
        return f"{first.message} {first.cure}" if first else "There are no checkpoints yet."
    newest, best = run.checkpoints[0], find_latest_resumable(run).checkpoint
    if best is None:
        return (
            f"None of the {len(run.checkpoints)} checkpoints resumes as it is. {phrase(newest, latest=True)}"
        )
    if best is newest:
        return f"{phrase(newest, latest=True)}"
    return f"{title(best)} {_STATE_PHRASES[best.verdict]}. {phrase(newest, latest=True)}"


def run_summary(run: RunReport) -> str:
    """A run at a glance, for the picker: how many checkpoints, and whether it goes on."""
    count = len(run.checkpoints)
    if not count:
        return "no checkpoints"
    best = find_latest_resumable(run).checkpoint
    checkpoints = counted(count, "checkpoint")
    return f"{checkpoints}, none ready" if best is None else f"{checkpoints}, {title_inside(best)} ready"
