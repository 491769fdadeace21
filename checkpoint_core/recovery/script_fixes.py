"""What has to be changed in the train script so that it fits a checkpoint: edits for its findings; pure.

Each fix takes one finding. That it really helps is not believed but judged: the checkpoint is judged once more with
the changed script before anything is written (:mod:`checkpoint_core.recovery.repair`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from checkpoint_core.audit import CheckpointReport, Severity
from checkpoint_core.recovery.fix import FixCase, FixChoices, ScriptFix
from checkpoint_core.recovery.network_fixes import fix_alpha, fix_groups, fix_parts, fix_rank
from checkpoint_core.scripts import Edit, Remove, ScriptFacts, SetSwitch, SetValue, SetValues
from checkpoint_core.states import LoraFacts, OptimizerFacts
from checkpoint_core.text import counted
from checkpoint_core.trainer import (
    accumulation_steps,
    trainer_optimizer,
    type_to_write,
)

#: How many states a script keeps that is made to save them.
KEPT_STATES = 2


def saving_edits(script: ScriptFacts) -> tuple[Edit, ...]:
    """The edits that let a script save states, the last two by default; none where it saves them already.

    Flags: sd-scripts ``train_util.py`` (``add_training_arguments``).
    """
    if script.save_state or script.hidden is not None:
        return ()
    edits: list[Edit] = [SetSwitch("--save_state")]
    by_steps = script.has("--save_every_n_steps")
    if not by_steps and not script.has("--save_every_n_epochs"):
        edits.append(SetValue("--save_every_n_epochs", "1"))
    if not by_steps and not any(flag.startswith("--save_last_n_") for flag in script.flags):
        edits.append(SetValue("--save_last_n_epochs_state", str(KEPT_STATES)))
    return tuple(edits)


_Fix = Callable[[FixCase], "ScriptFix | None"]


def script_fixes(
    report: CheckpointReport, script: ScriptFacts, choices: FixChoices | None = None
) -> tuple[ScriptFix, ...]:
    """The fixes that are known for a checkpoint's findings about its script, one a finding."""
    case = FixCase(report, script, choices or FixChoices())
    weighty = [found.code for found in report.findings if found.severity is not Severity.INFO]
    # The run's own finding: with the flag the trainer looks for no checkpoint of this machine.
    if script.resume_from_huggingface:
        weighty.append("resume-from-hub")
    found = (_FIXES[code](case) for code in dict.fromkeys(weighty) if code in _FIXES)
    return tuple(_once(fix for fix in found if fix is not None))


def _once(fixes: Iterator[ScriptFix]) -> Iterator[ScriptFix]:
    """The fixes without those whose flags another one sets already: the first finding weighs most."""
    applied: set[str] = set()
    for fix in fixes:
        flags = {edit.flag for edit in fix.edits}
        if not flags & applied:
            yield fix
        applied |= flags


def _optimizer(case: FixCase) -> ScriptFix | None:
    """The optimizer that saved the state, with the arguments without which sd-scripts makes another of it."""
    optimizer = case.report.facts.optimizer
    if not isinstance(optimizer, OptimizerFacts) or optimizer.family == "unknown":
        return None
    lora = case.report.facts.lora
    trained = trainer_optimizer(lora.optimizer) if isinstance(lora, LoraFacts) and lora.optimizer else None
    if trained is not None and trained.family != optimizer.family:
        return None  # the LoRA file of the same save says that optimizer.bin is another training's
    written = type_to_write(optimizer.family)
    edits: list[Edit] = [SetValue("--optimizer_type", written)]
    edits += [Remove(flag) for flag in ("--use_8bit_adam", "--use_lion_optimizer") if case.script.has(flag)]
    arguments = _adafactor_arguments(optimizer) if optimizer.family == "adafactor" else ()
    if arguments:
        edits.append(SetValues("--optimizer_args", arguments))
    elif case.script.has("--optimizer_args"):
        edits.append(Remove("--optimizer_args"))
    told = f" with --optimizer_args {' '.join(arguments)}" if arguments else ""
    note = (
        "The script's --optimizer_args were another optimizer's and are removed; what the checkpoint's optimizer had "
        "comes back with its state."
    )
    is_removed = not arguments and case.script.has("--optimizer_args")
    return ScriptFix(
        "script-optimizer",
        tuple(edits),
        f"--optimizer_type {written}{told}, as in the checkpoint.",
        note=note if is_removed else "",
    )


def _adafactor_arguments(optimizer: OptimizerFacts) -> tuple[str, ...]:
    """FluxGym's own three (``app.py``); without ``relative_step=False`` sd-scripts replaces the schedule."""
    saved = dict(optimizer.settings)
    names = ("relative_step", "scale_parameter", "warmup_init")
    return tuple(f"{name}={saved[name]}" for name in names if type(saved.get(name)) is bool)


def _more_epochs(case: FixCase) -> ScriptFix | None:
    epoch, script = case.position.epoch, case.script
    if epoch is None:
        return None
    last = epoch + case.choices.more_epochs
    edits: list[Edit] = [SetValue("--max_train_epochs", str(last))]
    steps = ""
    if script.has("--max_train_steps"):
        edits.append(Remove("--max_train_steps"))
        steps = " in the place of --max_train_steps"
    more = counted(case.choices.more_epochs, "more epoch")
    schedule = script.value("--lr_scheduler") or "constant"
    note = "" if schedule.startswith("constant") else (
        f"The schedule ({schedule}) is recalculated over {last} epochs, so the learning rate jumps."
    )  # fmt: skip
    does = f"--max_train_epochs {last}{steps}: it trains {more}."
    return ScriptFix("run-finished", tuple(edits), does, note=note)


_EVERY_RESUME = (
    "Checkpoints that are saved from here on need it again; it is set when you resume from one of them here."
)


def _initial_epoch(code: str) -> _Fix:
    def cure(case: FixCase) -> ScriptFix | None:
        following = case.position.next_epoch
        if following is None:
            return None
        edits: tuple[Edit, ...] = (SetValue("--initial_epoch", str(following)),)
        if case.script.has("--initial_step"):  # the trainer prefers it
            edits += (Remove("--initial_step"),)
        does = f"--initial_epoch {following}: it continues at the right epoch."
        return ScriptFix(code, edits, does, note=_EVERY_RESUME)

    return cure


def _script_epoch(case: FixCase) -> ScriptFix | None:
    """The script's own epoch is wrong: it goes where the checkpoint knows better, else it is set right."""
    position = case.position
    if position.start_epoch is None or position.start_epoch != position.next_epoch:
        return _initial_epoch("script-initial-epoch")(case)
    flags = [flag for flag in ("--initial_epoch", "--initial_step") if case.script.has(flag)]
    does = f"{' and '.join(flags)} removed: the checkpoint itself says where to continue."
    return ScriptFix("script-initial-epoch", tuple(Remove(flag) for flag in flags), does) if flags else None


def _always(code: str, edit: Edit, does: str, costs: str = "") -> _Fix:
    """A cure that is the same for every checkpoint."""
    return lambda _: ScriptFix(code, (edit,), does, costs)


def _skip(case: FixCase) -> ScriptFix | None:
    """Only on request, and only where upstream counts rightly: one batch an update, and a count of this launch."""
    if not case.choices.skip_trained_steps or accumulation_steps(case.script) != 1:
        return None
    if case.position.is_relative is not False or case.script.has("--initial_epoch"):
        return None
    does = "--skip_until_initial_step: the steps of the unfinished epoch that were trained already are passed over."
    return ScriptFix("mid-epoch", (SetSwitch("--skip_until_initial_step"),), does)


_FIXES: dict[str, _Fix] = {
    "script-rank": fix_rank,
    "script-alpha": fix_alpha,
    "script-parts": fix_parts,
    "script-groups": fix_groups,
    "script-optimizer": _optimizer,
    "run-finished": _more_epochs,
    **{
        code: _initial_epoch(code) for code in ("position-relative", "train-state-missing", "dataset-changed")
    },
    "script-initial-epoch": _script_epoch,
    "script-initial-step": _always(
        "script-initial-step",
        Remove("--initial_step"),
        "--initial_step removed: the checkpoint itself says where to continue.",
    ),
    "skip-accumulation": _always(
        "skip-accumulation",
        Remove("--skip_until_initial_step"),
        "--skip_until_initial_step removed: with gradient accumulation the trainer skips too much.",
    ),
    "mid-epoch": _skip,
    "resume-from-hub": _always(
        "resume-from-hub",
        Remove("--resume_from_huggingface"),
        "--resume_from_huggingface removed: the checkpoint lies on this machine.",
    ),
    "learning-rate-zero": _always(
        "learning-rate-zero",
        SetValue("--lr_scheduler", "constant"),
        "--lr_scheduler constant: the learning rate is that of the beginning again, from the second step on.",
        "The learning rate stays the same to the end; its schedule has run out.",
    ),
}
