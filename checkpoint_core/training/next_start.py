"""From where a crashed training goes on: the recovery plan's best checkpoint that is whole to its last byte."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from checkpoint_core.audit import Auditor, RunReport, Verdict
from checkpoint_core.environment import rehearse_state
from checkpoint_core.recovery import (
    OptionKind,
    RecoveryOption,
    RepairFailed,
    ResumeRefused,
    StateChangedSinceShown,
    apply_option,
    change_of,
    look_again,
    plan_recovery,
    transaction,
)
from checkpoint_core.scripts import SCRIPT_TROUBLE
from checkpoint_core.states import LoraFacts, RecordUnusable, VerificationCancelled
from checkpoint_core.text import counted

#: Options that keep the training as it is: any other is a person's to choose.
_FROM_CHECKPOINTS = (OptionKind.RESUME, OptionKind.REPAIR, OptionKind.OLDER)
#: Each look reads one checkpoint more to its last byte; a run has hundreds at most.
_MOST_LOOKS = 1_000
_FINISHED = (
    "The training had reached its last epoch; there is nothing left to train. To train further, choose more epochs in "
    "the tab."
)
_TROUBLE = (
    *SCRIPT_TROUBLE,
    RepairFailed,
    ResumeRefused,
    StateChangedSinceShown,
    RecordUnusable,
    VerificationCancelled,
)


@dataclass(frozen=True)
class NextStart:
    """What the next start does: ``checkpoint`` is the state's name, empty where it begins as the script says."""

    checkpoint: str
    told: str


@dataclass(frozen=True)
class NoStart:
    """Why it is not started again, in the user's words."""

    why: str


def choose_start(
    auditor: Auditor,
    name: str,
    refused: Collection[str] = (),
    abandoned: Collection[str] = (),
    cancelled: Callable[[], bool] = lambda: False,
) -> NextStart | NoStart:
    """Choose the checkpoint, repair what it needs, and write it into the train script.

    Each checkpoint that comes into question is fully verified first, so that one with flipped bits or NaN is
    passed over. Checkpoints that the trainer has just refused are too.

    :param auditor: one that knows that nothing is being saved.
    :param refused: names of states that the trainer would not load.
    :param abandoned: names of states of an earlier training, which the user has rolled back past.
    """
    try:
        transaction.finish_interrupted((auditor.outputs / name).absolute())
        return _choose(auditor, name, frozenset(refused), frozenset(abandoned), cancelled)
    except _TROUBLE as error:
        return NoStart(str(error))


def _choose(
    auditor: Auditor,
    name: str,
    refused: frozenset[str],
    abandoned: frozenset[str],
    cancelled: Callable[[], bool],
) -> NextStart | NoStart:
    for _ in range(_MOST_LOOKS):
        # What may not be chosen is not there for the plan either: it ends with the first that is ready.
        run = _without(auditor.audit_run(name), refused | abandoned)
        options = plan_recovery(auditor, run).options
        if any(_is_longer(each) and _has_lora(run, each.checkpoint) for each in options):
            return NoStart(_FINISHED)
        option = next((each for each in options if _is_fit(each)), None)
        if option is None:
            return _without_checkpoint(_without(auditor.audit_run(name), abandoned), options)
        facts = run.checkpoint(option.checkpoint).facts
        if facts.deep is None:
            auditor.verify(name, option.checkpoint, cancelled=cancelled)
            continue  # what that told may change the plan
        item = run.checkpoint(option.checkpoint)
        if item.verdict.resumes and item.needs_rehearsal and item.rehearsal is None:
            auditor.rehearse(name, option.checkpoint, rehearse_state)
            continue
        apply_option(option, change_of(run, option), look_again(auditor, run.name, option.checkpoint))
        return NextStart(option.checkpoint, f"{option.title}. Loses: {option.loses}")
    return NoStart("The checkpoints keep changing: another program is writing into the run's folder.")


def _without(run: RunReport, names: frozenset[str]) -> RunReport:
    return replace(run, checkpoints=tuple(item for item in run.checkpoints if item.name not in names))


def _is_fit(option: RecoveryOption) -> bool:
    return option.kind in _FROM_CHECKPOINTS and not _is_longer(option)


def _is_longer(option: RecoveryOption) -> bool:
    """Whether an option makes a finished training longer, which is never done by itself."""
    return option.repair_plan is not None and option.repair_plan.more_epochs is not None


def _has_lora(run: RunReport, checkpoint: str) -> bool:
    """Whether the LoRA file of a save is there: the trainer's last act, after the last state."""
    return isinstance(run.checkpoint(checkpoint).facts.lora, LoraFacts)


def left_behind(run: RunReport, resumed_from: str) -> frozenset[str]:
    """The checkpoints that a training which begins now has rolled back past, by choosing where it begins.

    Who resumes from epoch 8 though there is an epoch 12, or starts fresh, does not want epoch 12 after a crash. To be
    asked at the start: the trainer's retention may remove the checkpoint that it began at.

    :param resumed_from: the state's name from which it begins, empty where it starts over or from elsewhere.
    """
    began = next((item.position.step for item in run.checkpoints if item.name == resumed_from), None)
    steps = ((item.name, item.position.step) for item in run.checkpoints if item.name != resumed_from)
    if not resumed_from:
        return frozenset(name for name, _ in steps)
    return frozenset(name for name, step in steps if step is not None and began is not None and step > began)


def abandoned(run: RunReport, behind: Collection[str], started_ns: int) -> frozenset[str]:
    """Of the checkpoints that were rolled back past those that this training has not saved anew since."""
    earlier = (item.name for item in run.checkpoints if item.facts.saved_ns < started_ns)
    return frozenset(name for name in earlier if name in behind)


def _is_first_save(run: RunReport) -> bool:
    """Whether all that was lost is the training's first save: no more than a crash before it loses."""
    script = run.facts.script
    only = run.checkpoints[0] if len(run.checkpoints) == 1 else None
    return (
        only is not None
        and only.verdict is Verdict.DAMAGED
        and script is not None
        and script.lacks("--resume")
    )


def _without_checkpoint(run: RunReport, options: tuple[RecoveryOption, ...]) -> NextStart | NoStart:
    if any(_is_longer(option) for option in options):
        return NoStart(_FINISHED)
    if _is_first_save(run):
        steps = next((option.lost_steps for option in options if option.kind is OptionKind.FRESH), None)
        again = f" {counted(steps, 'step')} {'is' if steps == 1 else 'are'} trained again." if steps else ""
        return NextStart("", f"It starts over: the first save was cut off and there is no other.{again}")
    if run.checkpoints:
        told = "; ".join(option.title for option in options) or "none is known"
        return NoStart(
            "No checkpoint can be resumed without a loss that you should decide on. Choose a recovery option "
            f"yourself: {told}."
        )
    if run.facts.resume_target.kind not in ("none", "state"):
        return NoStart(
            "The train script resumes from a place that is not there. Choose a recovery option in the tab, then start "
            "again."
        )
    return NextStart("", "No checkpoint had been saved yet: it begins as the train script says.")
