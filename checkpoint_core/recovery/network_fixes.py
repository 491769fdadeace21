"""Edits that let a train script build the network and the parameter groups that were saved; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from checkpoint_core.recovery.fix import FixCase, ScriptFix
from checkpoint_core.scripts import Edit, Remove, ScriptFacts, SetSwitch, SetValue, SetValues
from checkpoint_core.states import OptimizerFacts, WeightsFacts
from checkpoint_core.trainer import LoraPlan, difference, plan_groups, plan_network, plan_rates


def fix_rank(case: FixCase) -> ScriptFix | None:
    """The rank that was saved: ``--network_dim``, or whether qkv layers are divided."""
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


def fix_alpha(case: FixCase) -> ScriptFix | None:
    """The alpha that was saved: ``--network_alpha``."""
    weights = case.report.facts.weights
    if not isinstance(weights, WeightsFacts) or not weights.alpha:
        return None
    value = f"{weights.alpha:g}"
    edit = SetValue("--network_alpha", value)
    return ScriptFix("script-alpha", (edit,), f"--network_alpha {value}, as in the checkpoint.")


def fix_parts(case: FixCase) -> ScriptFix | None:
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


def fix_groups(case: FixCase) -> ScriptFix | None:
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
