"""What has to be changed in the train script so that it fits a checkpoint: edits for its findings; pure.

Each cure takes one finding. That it really cures is not believed but judged: the checkpoint is judged once more with
the changed script before anything is written (:mod:`checkpoint_core.recovery.repair`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from checkpoint_core.audit.findings import Severity
from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.scripts.change import Edit, Remove, SetSwitch, SetValue, SetValues
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.states.facts import LoraFacts, OptimizerFacts, WeightsFacts
from checkpoint_core.trainer.lora_network import LoraPlan, difference, plan_network
from checkpoint_core.trainer.optimizers import trainer_optimizer, type_to_write
from checkpoint_core.trainer.param_groups import plan_groups, plan_rates
from checkpoint_core.trainer.position import Position, accumulation_steps

#: How many states a script keeps that is made to save them.
KEPT_STATES = 2


@dataclass(frozen=True)
class FixChoices:
    """What a cure leaves to the user.

    :param more_epochs: how many further epochs a finished run trains.
    :param skip_trained_steps: pass over the steps of an unfinished epoch that were trained already.
    """

    more_epochs: int = 8
    skip_trained_steps: bool = False


@dataclass(frozen=True)
class ScriptFix:
    """The edits that cure one finding: ``does`` says what is changed, ``costs`` what is lost, ``note`` what to know."""

    code: str
    edits: tuple[Edit, ...]
    does: str
    costs: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Case:
    report: CheckpointReport
    script: ScriptFacts
    choices: FixChoices

    @property
    def position(self) -> Position:
        return self.report.position


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


_Cure = Callable[[_Case], "ScriptFix | None"]


def script_fixes(
    report: CheckpointReport, script: ScriptFacts, choices: FixChoices | None = None
) -> tuple[ScriptFix, ...]:
    """The cures that are known for a checkpoint's findings about its script, one a finding."""
    case = _Case(report, script, choices or FixChoices())
    weighty = [found.code for found in report.findings if found.severity is not Severity.INFO]
    # The run's own finding: with the flag the trainer looks for no checkpoint of this machine.
    if script.resume_from_huggingface:
        weighty.append("resume-from-hub")
    found = (_CURES[code](case) for code in dict.fromkeys(weighty) if code in _CURES)
    return tuple(_once(cure for cure in found if cure is not None))


def _once(fixes: Iterator[ScriptFix]) -> Iterator[ScriptFix]:
    """The cures without those whose flags another one sets already: the first finding weighs most."""
    applied: set[str] = set()
    for cure in fixes:
        flags = {edit.flag for edit in cure.edits}
        if not flags & applied:
            yield cure
        applied |= flags


def _rank(case: _Case) -> ScriptFix | None:
    weights, plan = case.report.facts.weights, plan_network(case.script)
    if not isinstance(weights, WeightsFacts) or plan is None:
        return None
    if len(weights.ranks) == 1 and weights.rank and not plan.type_ranks and not plan.split_qkv:
        edit = SetValue("--network_dim", str(weights.rank))
        return ScriptFix("script-rank", (edit,), f"--network_dim {weights.rank}, as in the checkpoint.")
    return _split_qkv(case.script, weights, plan)


def _split_qkv(script: ScriptFacts, weights: WeightsFacts, plan: LoraPlan) -> ScriptFix | None:
    """The pairs of a divided layer are saved as one, so the saved ranks tell whether it was divided."""
    given = _arguments(script)
    other = replace(plan, split_qkv=not plan.split_qkv)
    if given is None or difference(other, weights.modules).rank_counts - weights.ranks:
        return None
    args = {key: value for key, value in given.items() if key != "split_qkv"}
    if other.split_qkv:
        args["split_qkv"] = "True"
    does = f"split_qkv=True {'added to' if other.split_qkv else 'removed from'} --network_args."
    return ScriptFix("script-rank", (_with_arguments(args),), does)


def _arguments(script: ScriptFacts) -> dict[str, str] | None:
    """``--network_args`` by name; ``None`` where they cannot be told."""
    given = script.values("--network_args")
    if given is None or any("=" not in argument for argument in given):
        return None
    return dict(argument.split("=", 1) for argument in given)


def _with_arguments(args: dict[str, str]) -> Edit:
    values = tuple(f"{key}={value}" for key, value in args.items())
    return SetValues("--network_args", values) if values else Remove("--network_args")


def _alpha(case: _Case) -> ScriptFix | None:
    weights = case.report.facts.weights
    if not isinstance(weights, WeightsFacts) or not weights.alpha:
        return None
    value = f"{weights.alpha:g}"
    edit = SetValue("--network_alpha", value)
    return ScriptFix("script-alpha", (edit,), f"--network_alpha {value}, as in the checkpoint.")


def _parts(case: _Case) -> ScriptFix | None:
    """The trained parts: blocks and text encoders, as :mod:`checkpoint_core.audit.checks.settings` tells them."""
    weights, plan = case.report.facts.weights, plan_network(case.script)
    if not isinstance(weights, WeightsFacts) or plan is None or plan.type_ranks or plan.blocks:
        return None
    gap = difference(plan, weights.modules)
    have, planned = gap.parts, gap.planned_parts
    dims = _input_dims(weights, plan) if "in" in have else ""
    if "other" in have or ("in" in have - planned and not dims):
        return None
    edits, told = list(_network_args(case.script, have, planned, dims)), []
    if ("te1" in have) != ("te1" in planned):
        flag = "--network_train_unet_only"
        edits.append(Remove(flag) if "te1" in have else SetSwitch(flag))
        told.append(f"{flag} {'removed' if 'te1' in have else 'added'}")
    blocks = {"double", "single"}
    if bool(have & blocks) != bool(planned & blocks):
        flag = "--network_train_text_encoder_only"
        edits.append(Remove(flag) if have & blocks else SetSwitch(flag))
        told.append(f"{flag} {'removed' if have & blocks else 'added'}")
    if any(edit.flag == "--network_args" for edit in edits):
        told.append("--network_args with the checkpoint's parts of the model")
    return ScriptFix("script-parts", tuple(edits), f"{' and '.join(told)}.") if edits else None


def _network_args(
    script: ScriptFacts, have: frozenset[str], planned: frozenset[str], dims: str
) -> Iterator[Edit]:
    before = _arguments(script)
    if before is None:
        return
    after = dict(before)
    trained, asked = have & {"double", "single"}, planned & {"double", "single"}
    if trained and trained != asked:
        after.pop("train_blocks", None)
        if len(trained) == 1:
            after["train_blocks"] = next(iter(trained))
    if "te1" in have and ("te3" in have) != (before.get("train_t5xxl") == "True"):
        after.pop("train_t5xxl", None)
        if "te3" in have:
            after["train_t5xxl"] = "True"
    if ("in" in have) != ("in" in planned):
        after.pop("in_dims", None)
        if dims:
            after["in_dims"] = dims
    if after != before:
        yield _with_arguments(after)


#: ``in_dims`` has a rank for each of img, time, vector, guidance and txt (``lora_flux.py``, ``create_network``).
_INPUT_COUNT = 5


def _input_dims(weights: WeightsFacts, plan: LoraPlan) -> str:
    """``in_dims`` of the weights; empty where their modules have several ranks, and it stays open which has which."""
    if len(weights.ranks) != 1 or not weights.rank:
        return ""
    dims = []
    for at in range(_INPUT_COUNT):
        one = tuple(int(each == at) for each in range(_INPUT_COUNT))
        alone = replace(plan, parts=frozenset({"in"}), input_ranks=one)
        dims.append(weights.rank if any(map(alone.rank_of, weights.modules)) else 0)
    return ",".join(map(str, dims))


_PLUS = ("loraplus_lr_ratio", "loraplus_text_encoder_lr_ratio", "loraplus_unet_lr_ratio")


def _groups(case: _Case) -> ScriptFix | None:
    """Learning rates of 0 and LoRA+: the fewest changes that make the groups of the checkpoint's optimizer.

    A part's own rate need not be known: it comes back with ``scheduler.bin``. LoRA+'s ratio is not guessed at.
    """
    optimizer, weights = case.report.facts.optimizer, case.report.facts.weights
    if not isinstance(optimizer, OptimizerFacts) or not isinstance(weights, WeightsFacts):
        return None
    for edits in sorted(_group_edits(case.script), key=len):
        script = _changed(case.script, edits)
        plan, rates = plan_network(script), plan_rates(script)
        groups = plan_groups(plan, weights.parts, rates) if plan is not None and rates is not None else None
        if groups is not None and tuple(group.size for group in groups) == optimizer.group_sizes:
            does = f"{' and '.join(map(_told, edits))}: the optimizer then has the checkpoint's groups."
            return ScriptFix("script-groups", edits, does)
    return None


def _group_edits(script: ScriptFacts) -> Iterator[tuple[Edit, ...]]:
    """Every combination of a change, or none, of either learning rate and of LoRA+."""
    text, transformer, plus = "--text_encoder_lr", "--unet_lr", list[Edit]()
    args = _arguments(script) or {}
    if any(key in args for key in _PLUS):
        plus.append(_with_arguments({key: value for key, value in args.items() if key not in _PLUS}))
    # Without a rate of its own a part has --learning_rate.
    removals = [[Remove(flag)] if script.has(flag) else [] for flag in (text, transformer)]
    zeros = SetValues(text, ("0",)), SetValue(transformer, "0")
    for chosen in product((None, *removals[0], zeros[0]), (None, *removals[1], zeros[1]), (None, *plus)):
        yield tuple(edit for edit in chosen if edit is not None)


def _values(edit: Edit) -> tuple[str, ...]:
    if isinstance(edit, SetValue):
        return (edit.value,)
    return edit.values if isinstance(edit, SetValues) else ()


def _changed(script: ScriptFacts, edits: tuple[Edit, ...]) -> ScriptFacts:
    """The script's facts with other values, for flags that are read from its table of flags alone."""
    flags = {**script.flags, **{edit.flag: _values(edit) for edit in edits}}
    gone = {edit.flag for edit in edits if isinstance(edit, Remove)}
    return replace(script, flags={flag: values for flag, values in flags.items() if flag not in gone})


def _told(edit: Edit) -> str:
    return f"{edit.flag} {' '.join(_values(edit)) or 'removed'}"


def _optimizer(case: _Case) -> ScriptFix | None:
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


def _more_epochs(case: _Case) -> ScriptFix | None:
    epoch, script = case.position.epoch, case.script
    if epoch is None:
        return None
    last = epoch + case.choices.more_epochs
    edits: list[Edit] = [SetValue("--max_train_epochs", str(last))]
    steps = ""
    if script.has("--max_train_steps"):
        edits.append(Remove("--max_train_steps"))
        steps = " in the place of --max_train_steps"
    number = case.choices.more_epochs
    noun = "epoch" if number == 1 else "epochs"
    schedule = script.value("--lr_scheduler") or "constant"
    note = "" if schedule.startswith("constant") else (
        f"The schedule ({schedule}) is laid out anew over {last} epochs, so the learning rate jumps."
    )  # fmt: skip
    does = f"--max_train_epochs {last}{steps}: it trains {number} more {noun}."
    return ScriptFix("run-finished", tuple(edits), does, note=note)


_EVERY_RESUME = (
    "Checkpoints that are saved from here on need it again; it is set when you resume from one of them here."
)


def _initial_epoch(code: str) -> _Cure:
    def cure(case: _Case) -> ScriptFix | None:
        following = case.position.next_epoch
        if following is None:
            return None
        edits: tuple[Edit, ...] = (SetValue("--initial_epoch", str(following)),)
        if case.script.has("--initial_step"):  # the trainer prefers it
            edits += (Remove("--initial_step"),)
        does = f"--initial_epoch {following}: it goes on at the right epoch."
        return ScriptFix(code, edits, does, note=_EVERY_RESUME)

    return cure


def _script_epoch(case: _Case) -> ScriptFix | None:
    """The script's own epoch is wrong: it goes where the checkpoint knows better, else it is set right."""
    position = case.position
    if position.start_epoch is None or position.start_epoch != position.next_epoch:
        return _initial_epoch("script-initial-epoch")(case)
    flags = [flag for flag in ("--initial_epoch", "--initial_step") if case.script.has(flag)]
    does = f"{' and '.join(flags)} removed: the checkpoint itself says where to go on."
    return ScriptFix("script-initial-epoch", tuple(Remove(flag) for flag in flags), does) if flags else None


def _always(code: str, edit: Edit, does: str, costs: str = "") -> _Cure:
    """A cure that is the same for every checkpoint."""
    return lambda _: ScriptFix(code, (edit,), does, costs)


def _skip(case: _Case) -> ScriptFix | None:
    """Only on request, and only where upstream counts rightly: one batch an update, and a count of this launch."""
    if not case.choices.skip_trained_steps or accumulation_steps(case.script) != 1:
        return None
    if case.position.is_relative is not False or case.script.has("--initial_epoch"):
        return None
    does = "--skip_until_initial_step: the steps of the unfinished epoch that were trained already are passed over."
    return ScriptFix("mid-epoch", (SetSwitch("--skip_until_initial_step"),), does)


_CURES: dict[str, _Cure] = {
    "script-rank": _rank,
    "script-alpha": _alpha,
    "script-parts": _parts,
    "script-groups": _groups,
    "script-optimizer": _optimizer,
    "run-finished": _more_epochs,
    **{
        code: _initial_epoch(code) for code in ("position-relative", "train-state-missing", "dataset-changed")
    },
    "script-initial-epoch": _script_epoch,
    "script-initial-step": _always(
        "script-initial-step",
        Remove("--initial_step"),
        "--initial_step removed: the checkpoint itself says where to go on.",
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
