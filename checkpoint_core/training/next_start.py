"""From where a crashed training goes on: the recovery plan's best checkpoint that is whole to its last byte."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.findings import Verdict
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.environment.rehearsal.run import rehearse_state
from checkpoint_core.recovery import transaction as workshop
from checkpoint_core.recovery.options import Kind, Way
from checkpoint_core.recovery.planning import change_of, look_again, plan_recovery, take
from checkpoint_core.recovery.repair import MendFailed
from checkpoint_core.recovery.resume import ResumeRefused
from checkpoint_core.recovery.transaction import StateChangedSinceShown
from checkpoint_core.scripts.change import SCRIPT_TROUBLE
from checkpoint_core.states.facts import LoraFacts
from checkpoint_core.states.repair_records import RecordUnusable
from checkpoint_core.states.verification import VerificationCancelled

#: Ways that keep the training as it is: any other is a person's to choose.
_FROM_CHECKPOINTS = (Kind.RESUME, Kind.REPAIR, Kind.OLDER)
#: Each look reads one checkpoint more to its last byte; a run has hundreds at most.
_MOST_LOOKS = 1_000
_FINISHED = (
    "The training had reached its last epoch; there is nothing left to train. To train further, choose more epochs in "
    "the tab."
)
_TROUBLE = (
    *SCRIPT_TROUBLE,
    MendFailed,
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

    Each checkpoint that comes into question is read to its last byte first, so that one with flipped bits or NaN is
    passed over. Checkpoints that the trainer has just refused are too.

    :param auditor: one that knows that nothing is being saved.
    :param refused: names of states that the trainer would not load.
    :param abandoned: names of states of an earlier training, which the user has gone back behind.
    """
    try:
        workshop.settle((auditor.outputs / name).absolute())
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
        ways = plan_recovery(auditor, run).ways
        if any(_is_longer(each) and _has_lora(run, each.checkpoint) for each in ways):
            return NoStart(_FINISHED)
        way = next((each for each in ways if _is_fit(each)), None)
        if way is None:
            return _without_checkpoint(_without(auditor.audit_run(name), abandoned), ways)
        facts = run.checkpoint(way.checkpoint).facts
        if facts.deep is None:
            auditor.verify(name, way.checkpoint, cancelled=cancelled)
            continue  # what that told may change the plan
        item = run.checkpoint(way.checkpoint)
        if item.verdict.resumes and item.needs_rehearsal and item.rehearsal is None:
            auditor.rehearse(name, way.checkpoint, rehearse_state)
            continue
        take(way, change_of(run, way), look_again(auditor, run.name, way.checkpoint))
        return NextStart(way.checkpoint, f"{way.title}. Loses: {way.loses}")
    return NoStart(
        "The checkpoints change while they are looked at: something else writes into the run's folder."
    )


def _without(run: RunReport, names: frozenset[str]) -> RunReport:
    return replace(run, checkpoints=tuple(item for item in run.checkpoints if item.name not in names))


def _is_fit(way: Way) -> bool:
    return way.kind in _FROM_CHECKPOINTS and not _is_longer(way)


def _is_longer(way: Way) -> bool:
    """Whether a way makes a finished training longer, which is never done by itself."""
    return way.mend is not None and way.mend.more_epochs is not None


def _has_lora(run: RunReport, checkpoint: str) -> bool:
    """Whether the LoRA file of a save is there: the trainer's last act, after the last state."""
    return isinstance(run.checkpoint(checkpoint).facts.lora, LoraFacts)


def left_behind(run: RunReport, resumed_from: str) -> frozenset[str]:
    """The checkpoints that a training which begins now has gone back behind, by choosing where it begins.

    Who resumes from epoch 8 though there is an epoch 12, or starts fresh, does not want epoch 12 after a crash. To be
    asked at the start: the trainer's retention may remove the checkpoint that it began at.

    :param resumed_from: the state's name from which it begins, empty where it begins anew or from elsewhere.
    """
    began = next((item.position.step for item in run.checkpoints if item.name == resumed_from), None)
    steps = ((item.name, item.position.step) for item in run.checkpoints if item.name != resumed_from)
    if not resumed_from:
        return frozenset(name for name, _ in steps)
    return frozenset(name for name, step in steps if step is not None and began is not None and step > began)


def abandoned(run: RunReport, behind: Collection[str], started_ns: int) -> frozenset[str]:
    """Of the checkpoints that were gone back behind those that this training has not saved anew since."""
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


def _without_checkpoint(run: RunReport, ways: tuple[Way, ...]) -> NextStart | NoStart:
    if any(_is_longer(way) for way in ways):
        return NoStart(_FINISHED)
    if _is_first_save(run):
        steps = next((way.lost_steps for way in ways if way.kind is Kind.FRESH), None)
        lost = f" {steps:,} steps are trained again." if steps else ""
        return NextStart("", f"The first save was cut off, and there is no other: it begins anew.{lost}")
    if run.checkpoints:
        told = "; ".join(way.title for way in ways) or "none is known"
        return NoStart(
            "No checkpoint can be resumed without a loss that you should decide on. Choose one of the ways on "
            f"yourself: {told}."
        )
    if run.facts.resume_target.kind not in ("none", "state"):
        return NoStart(
            "The train script resumes from a place that is not there. Choose a way on in the tab, then start again."
        )
    return NextStart("", "No checkpoint had been saved yet: it begins as the train script says.")
