"""The recovery options for a run, best first, each with what it keeps and what it loses; pure.

The order: resume the newest that is ready; repair and resume; resume an older one; start from a LoRA file (what was
learned is kept, the optimizer's memory is not); start fresh. A repaired checkpoint that stands further on than the
newest that is ready comes before it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from checkpoint_core.audit import (
    CheckpointReport,
    Finding,
    RunReport,
    Severity,
    StatePart,
    Verdict,
    title,
    title_inside,
)
from checkpoint_core.recovery.repair import RepairPlan
from checkpoint_core.recovery.script_fixes import KEPT_STATES, saving_edits
from checkpoint_core.recovery.set_aside import FOLDER
from checkpoint_core.states import LoraFacts
from checkpoint_core.text import counted, human_bytes
from checkpoint_core.trainer import forecast_sentence, state_sizes

#: What an option loses that loses nothing.
_NOTHING = "Nothing."
#: What is lost with random states.
OTHER_ORDER = "The image order and noise differ from an uninterrupted training."


class OptionKind(enum.Enum):
    """What a recovery option is."""

    RESUME = "resume"
    REPAIR = "repair"
    OLDER = "older"
    WARM_START = "warm-start"
    FRESH = "fresh"
    #: No recovery option from a checkpoint, but one to have checkpoints.
    SAVING = "saving"


@dataclass(frozen=True)
class RecoveryOption:
    """One recovery option.

    ``checkpoint`` is the state directory's name inside the run, ``lora`` the LoRA file's; empty where there is none.
    ``lost_steps`` are updates of training that have to be trained again, counted from the furthest point that is known;
    ``None`` where it cannot be told. ``loses_nothing`` is true where going on from a checkpoint costs nothing.
    ``repair_plan`` is a repair's. ``next_epoch`` is where a warm start goes on.
    """

    kind: OptionKind
    title: str
    keeps: str
    loses: str
    checkpoint: str = ""
    lora: str = ""
    next_epoch: int | None = None
    lost_steps: int | None = None
    forecast: str = ""
    loses_nothing: bool = False
    repair_plan: RepairPlan | None = None


@dataclass(frozen=True)
class RecoveryPlan:
    """The recovery options, best first, and one sentence on where the run stands; ``wait`` while a save is going on.

    ``by_hand`` is the newest checkpoint before the first option's that resumes once the user has done something that
    is not done from here, such as installing a package.
    """

    headline: str
    options: tuple[RecoveryOption, ...]
    wait: bool = False
    by_hand: CheckpointReport | None = None

    @property
    def recommended(self) -> RecoveryOption | None:
        """The best option, if there is a reason to choose one now; giving up a checkpoint that is whole is none."""
        best = next(iter(self.options), None)
        gives_up = self.by_hand is not None and best is not None and not best.checkpoint
        return None if self.wait or gives_up else best


def rank_options(run: RunReport, repair_plans: Mapping[str, RepairPlan]) -> RecoveryPlan:
    """The recovery options for a run.

    :param repair_plans: by the checkpoint's name, the repairs that were planned.
    """
    options = (*_from_checkpoints(run, repair_plans), *_warm_starts(run), _fresh(run), *_saving(run))
    wait = bool(run.checkpoints) and run.checkpoints[0].verdict is Verdict.SAVING
    by_hand = _by_hand(run, options[0].checkpoint)
    return RecoveryPlan(_headline(run, options, wait, by_hand), options, wait, by_hand)


def _by_hand(run: RunReport, first: str) -> CheckpointReport | None:
    """The newest that needs a fix and has no option, of those that are newer than the first option's."""
    for item in run.checkpoints:
        if item.name == first:
            return None
        if item.verdict is Verdict.NEEDS_FIX:
            return item
    return None


def cures_of(item: CheckpointReport) -> str:
    """What makes a checkpoint resume that needs a fix, each cure once."""
    return " ".join(dict.fromkeys(found.cure for found in _fixable(item)))


def causes_of(item: CheckpointReport) -> str:
    """Why a checkpoint needs a fix, each cause once."""
    return " ".join(dict.fromkeys(found.message for found in _fixable(item)))


def _fixable(item: CheckpointReport) -> Iterator[Finding]:
    return (found for found in item.findings if found.severity is Severity.FIXABLE)


def _headline(
    run: RunReport, options: tuple[RecoveryOption, ...], wait: bool, by_hand: CheckpointReport | None
) -> str:
    if wait:
        return "The newest checkpoint is being saved right now. Wait until the save is finished."
    if not run.checkpoints:
        return "There are no checkpoints to resume from."
    if options[0].kind in (OptionKind.RESUME, OptionKind.OLDER):
        return f"{options[0].title}: no repair is needed."
    best = options[0].repair_plan
    if best is not None and best.more_epochs:
        finished = next(found for found in best.checkpoint.findings if found.code == "run-finished")
        return f"{finished.message} {_with_loss(options[0])}"
    if best is not None:
        return _with_loss(options[0])
    if by_hand is not None:
        return f"{title(by_hand)} resumes once this is done: {cures_of(by_hand)}"
    only = "the only checkpoint is" if len(run.checkpoints) == 1 else "all checkpoints are"
    return f"No checkpoint can be resumed ({only} damaged beyond repair). {_with_loss(options[0])}"


def _with_loss(option: RecoveryOption) -> str:
    return f"{option.title}; nothing is lost." if option.loses_nothing else f"{option.title}. {option.loses}"


def _from_checkpoints(run: RunReport, repair_plans: Mapping[str, RepairPlan]) -> Iterator[RecoveryOption]:
    """Checkpoints from the newest on, down to the first that is ready: older ones only lose more.

    Of those that can be repaired, only the newest, and older ones whose repair loses less.
    """
    furthest, least = _furthest_step(run), None
    for item in run.checkpoints:
        lost = _lost(furthest, item.position.step)
        repair_plan = repair_plans.get(item.name)
        if item.verdict.resumes:
            yield _resume(run, item, lost)
            if repair_plan is not None and repair_plan.is_needed:
                yield _repair(item, repair_plan, lost)
            return
        if repair_plan is not None and (least is None or len(repair_plan.costs) < least):
            least = len(repair_plan.costs)
            yield _repair(item, repair_plan, lost)


def _resume(run: RunReport, item: CheckpointReport, lost: int | None) -> RecoveryOption:
    newest = item is run.checkpoints[0]
    losses = _losses(lost, () if lost or newest else (_lost_sentence(lost),), item)
    return RecoveryOption(
        kind=OptionKind.RESUME if newest else OptionKind.OLDER,
        title=f"Resume from {title_inside(item)}",
        keeps=f"Everything that was trained up to {title_inside(item)}.",
        loses=losses or _NOTHING,
        checkpoint=item.name,
        lost_steps=lost,
        forecast=forecast_sentence(item.forecast) if item.forecast else "",
        loses_nothing=not losses,
    )


def _repair(item: CheckpointReport, repair_plan: RepairPlan, lost: int | None) -> RecoveryOption:
    losses = _losses(lost, repair_plan.costs, repair_plan.after)
    return RecoveryOption(
        kind=OptionKind.REPAIR,
        title=_repair_title(item, repair_plan),
        keeps=f"Weights, optimizer and schedule as they were at {title_inside(item)}.",
        loses=losses or _NOTHING,
        checkpoint=item.name,
        lost_steps=lost,
        forecast=repair_plan.forecast,
        loses_nothing=not losses,
        repair_plan=repair_plan,
    )


def _losses(lost: int | None, costs: tuple[str, ...], then: CheckpointReport) -> str:
    """What resuming from a checkpoint loses, empty where nothing.

    ``then`` is the checkpoint as it is when the training goes on from it.
    """
    told = [_lost_sentence(lost)] if lost else []
    told += costs
    if any(
        found.part is StatePart.RANDOM_STATES and found.severity is Severity.WARNING
        for found in then.findings
    ):
        told.append(OTHER_ORDER)
    return " ".join(dict.fromkeys(told))


def _repair_title(item: CheckpointReport, repair_plan: RepairPlan) -> str:
    if repair_plan.changes_state:
        return f"Repair {title_inside(item)} and resume"
    if repair_plan.more_epochs:
        return f"Train {counted(repair_plan.more_epochs, 'more epoch')} from {title_inside(item)} on"
    return f"Fix the train script and resume from {title_inside(item)}"


def _warm_starts(run: RunReport) -> Iterator[RecoveryOption]:
    """From the newest LoRA file that tells its epoch (sd-scripts ``--network_weights`` and ``--initial_epoch``)."""
    known = [lora for lora in run.facts.loras if isinstance(lora, LoraFacts) and lora.epoch is not None]
    if not known:
        return
    lora = max(known, key=lambda item: (item.epoch or 0, item.modified_ns))
    epoch = lora.epoch or 0
    lost = _lost(_furthest_step(run), _lora_step(lora))
    again = f" {_lost_sentence(lost)}" if lost else ""
    yield RecoveryOption(
        kind=OptionKind.WARM_START,
        title=f"Start from the LoRA file of epoch {epoch}",
        keeps=f"What was learned up to epoch {epoch}, as it is in {lora.file}.",
        loses=f"The optimizer's memory and the learning rate schedule start over.{again}",
        lora=lora.file,
        next_epoch=epoch + 1,
        lost_steps=lost,
    )


def _fresh(run: RunReport) -> RecoveryOption:
    steps = _furthest_step(run)
    trained = f" ({steps:,} steps)" if steps else ""
    return RecoveryOption(
        kind=OptionKind.FRESH,
        title="Start fresh",
        keeps="Nothing.",
        loses=f"Everything that was trained{trained}: it begins at epoch 1; what is there is kept in {FOLDER}.",
        lost_steps=steps,
    )


def _saving(run: RunReport) -> Iterator[RecoveryOption]:
    """For a script that saves no checkpoints: what it takes to have some the next time."""
    script = run.facts.script
    if script is None or not saving_edits(script):
        return
    sizes = [item.facts.size_bytes for item in run.checkpoints if item.facts.size_bytes]
    loras = [lora.size_bytes for lora in run.facts.loras if isinstance(lora, LoraFacts)]
    if sizes:
        told = f"Each checkpoint takes about {human_bytes(max(sizes))}."
    elif loras:
        least, most = (human_bytes(size) for size in state_sizes(max(loras)))
        told = f"Each checkpoint takes about {least} to {most}."
    else:
        told = "The size of a checkpoint is unknown until the first one."
    free = (
        f" The disk has {human_bytes(run.facts.free_bytes)} left." if run.facts.free_bytes is not None else ""
    )
    yield RecoveryOption(
        kind=OptionKind.SAVING,
        title="Save checkpoints while it trains",
        keeps=f"The last {KEPT_STATES} checkpoints, unless the script says otherwise, so that a crash loses little.",
        loses=f"Disk space. {told}{free}",
    )


def _lora_step(lora: LoraFacts) -> int | None:
    return lora.epoch * lora.steps_per_epoch if lora.epoch is not None and lora.steps_per_epoch else None


def _furthest_step(run: RunReport) -> int | None:
    """The furthest step that anything of the run tells of, damaged checkpoints and LoRA files included."""
    steps = [item.position.step for item in run.checkpoints]
    steps += [_lora_step(lora) for lora in run.facts.loras if isinstance(lora, LoraFacts)]
    return max((step for step in steps if step is not None), default=None)


def _lost(furthest: int | None, step: int | None) -> int | None:
    return max(0, furthest - step) if furthest is not None and step is not None else None


def _lost_sentence(lost: int | None) -> str:
    if lost is None:
        return "How many steps have to be trained again is not known."
    if lost == 0:
        return "No step has to be trained again."
    return f"{counted(lost, 'step')} {'has' if lost == 1 else 'have'} to be trained again."
