"""The state against the script's settings: network, optimizer, learning rate.

Nothing here says that a state is damaged: it fits another script. What the script leaves open (a variable, a
``--config_file``, another network module) is judged neither as right nor as wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.checks.optimizer import check_optimizer_settings
from checkpoint_core.audit.findings import Finding
from checkpoint_core.environment import TrainerFacts
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import Layout, StateFacts, WeightsFacts, layout
from checkpoint_core.trainer import MODULE, LoraDifference, LoraPlan, difference, optimizer_of, plan_network


def check_settings(
    facts: StateFacts, script: ScriptFacts | None, trainer: TrainerFacts | None
) -> Iterator[Finding]:
    """Every finding about settings of the script that do not fit the state."""
    if script is None or facts.layout is not Layout.SD_SCRIPTS or facts.problem:
        return
    # Such a reason holds for every flag: a word that only the shell knows may give any of them once more.
    if script.why_unknown("--save_state"):
        return
    yield from _trainer(script, trainer)
    yield from _precision(facts, script)
    plan = plan_network(script)
    module = script.network_module
    if plan is None and module not in (None, MODULE) and isinstance(facts.weights, WeightsFacts):
        yield finding("script-network-unlisted", given=f"--network_module {module}")
    gap = _gap(facts, plan)
    if plan and gap and isinstance(facts.weights, WeightsFacts):
        if gap.foreign:
            yield finding("weights-modules-unknown", file=facts.weights.file, evidence=_some(gap.foreign))
        yield from _parts(plan, gap)
        yield from _rank(facts.weights, plan, gap)
        yield from _alpha(facts.weights, plan, script)
    yield from check_optimizer_settings(facts, script, None if _is_other(gap) else plan)


def _trainer(script: ScriptFacts, trainer: TrainerFacts | None) -> Iterator[Finding]:
    asked = optimizer_of(script)
    if asked and asked[0].schedule_free and trainer and "schedule-free" not in trainer.features:
        yield finding("trainer-too-old-schedule-free", folder=trainer.folder, given=asked[0].name)


def _precision(facts: StateFacts, script: ScriptFacts) -> Iterator[Finding]:
    """accelerate loads ``scaler.pt`` wherever it has a scaler, and it has one under fp16 on a GPU.

    Source: ``accelerator.py`` (``__init__``) and ``checkpointing.py`` (``load_accelerator_state``); read, not tried.
    """
    if script.value("--mixed_precision") == "fp16" and facts.files and facts.file(layout.SCALER) is None:
        yield finding("script-mixed-precision")


def _gap(facts: StateFacts, plan: LoraPlan | None) -> LoraDifference | None:
    weights = facts.weights
    if plan is None or not isinstance(weights, WeightsFacts) or not weights.keys_are_lora:
        return None
    return difference(plan, weights.modules)


def _is_other(gap: LoraDifference | None) -> bool:
    return gap is None or bool(gap.unexpected or gap.missing or gap.parts != gap.planned_parts)


_PART_NAMES = {
    "te1": "the CLIP text encoder", "te3": "the T5 text encoder", "double": "double blocks", "single": "single blocks",
    "in": "input layers", "other": "parts of another model",
}  # fmt: skip


def _parts(plan: LoraPlan, gap: LoraDifference) -> Iterator[Finding]:
    if not _is_other(gap):
        return
    cures: list[str] = []
    if gap.parts != gap.planned_parts:
        evidence = f"it holds {_names(gap.parts)}, the script trains {_names(gap.planned_parts)}"
        # Ranks of 0 and selections of blocks leave out whole parts, too.
        cures = [] if plan.type_ranks or plan.blocks else list(_part_cures(gap.parts, gap.planned_parts))
    elif gap.unexpected:
        evidence = f"the script leaves out {_some(gap.unexpected)}"
    else:
        evidence = f"the script adds {_some(gap.missing)}"
    cure = " and ".join(cures) or "set --network_args back to what the run was started with"
    yield finding("script-parts", evidence=evidence, cure=cure[0].upper() + cure[1:])


def _some(modules: tuple[str, ...]) -> str:
    # A pickled file may name its tensors with halves of characters, which cannot be printed.
    name = modules[0][:100].encode("utf-8", "backslashreplace").decode("utf-8")
    return name if len(modules) == 1 else f"{len(modules)} modules, such as {name}"


def _names(parts: frozenset[str]) -> str:
    names = [name for part, name in _PART_NAMES.items() if part in parts]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names) or "nothing"


def _part_cures(have: frozenset[str], planned: frozenset[str]) -> Iterator[str]:
    """What to change in the script, part by part; nothing where the parts do not tell it."""
    blocks = {"double", "single"}
    trained, asked = have & blocks, planned & blocks
    if trained and asked and trained != asked:
        if trained == blocks:
            yield "remove train_blocks from --network_args (FluxGym adds train_blocks=single for VRAM 12G)"
        else:
            (only,) = trained
            hint = " (FluxGym: VRAM 12G)" if only == "single" else ""
            yield f'set --network_args "train_blocks={only}"{hint}'
    if ("te1" in have) != ("te1" in planned):
        yield f"{'remove' if 'te1' in have else 'add'} --network_train_unet_only"
    if ("te3" in have) != ("te3" in planned) and "te1" in have:
        yield f"{'add' if 'te3' in have else 'remove'} train_t5xxl=True in --network_args"
    if ("in" in have) != ("in" in planned):
        yield f"{'add' if 'in' in have else 'remove'} in_dims in --network_args"
    if bool(trained) != bool(asked):
        yield f"{'remove' if trained else 'add'} --network_train_text_encoder_only"


def _rank(weights: WeightsFacts, plan: LoraPlan, gap: LoraDifference) -> Iterator[Finding]:
    if len(weights.modules) != weights.ranks.total() or not gap.rank_counts - weights.ranks:
        return
    other = replace(plan, split_qkv=not plan.split_qkv)
    if len(weights.ranks) == len(gap.rank_counts) == 1 and not plan.type_ranks:
        cure = f"Set --network_dim {weights.rank} in the train script again"
    elif not difference(other, weights.modules).rank_counts - weights.ranks:
        cure = f"{'Remove' if plan.split_qkv else 'Add'} split_qkv=True in --network_args"
    else:
        cure = "Set --network_dim and the ranks in --network_args back to those that the run was started with"
    yield finding("script-rank", saved=_ranks(weights.ranks), given=_ranks(gap.rank_counts), cure=cure)


def _ranks(counts: Counter[int]) -> str:
    """``4``, or ``4 (266 modules) and 16 (38 modules)``."""
    if len(counts) == 1:
        return str(next(iter(counts)))
    shown = [f"{rank} ({count} modules)" for rank, count in sorted(counts.items())[:4]]
    return " and ".join([", ".join(shown[:-1]), shown[-1]])


def _alpha(weights: WeightsFacts, plan: LoraPlan, script: ScriptFacts) -> Iterator[Finding]:
    # An alpha of 0 stands for the rank (``LoRAModule.__init__``).
    same_rank = weights.rank if len(weights.ranks) == 1 and plan.rank == weights.rank else None
    given, saved = plan.alpha or same_rank, weights.alpha
    # bfloat16, for those who train with --full_bf16, keeps three digits.
    if given is None or not saved or math.isclose(given, saved, rel_tol=0.004):
        return
    flag = "--network_alpha"
    yield finding(
        "script-alpha",
        saved=f"{saved:g}",
        given=f"{flag} {plan.alpha:g}" if script.has(flag) else f"no {flag}, which means {given:g}",
        factor=f"{given / saved:.3g}",
    )
