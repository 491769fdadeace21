"""The state's optimizer and learning rate against the script's; called by :mod:`.settings`."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass

from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.findings import Finding
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.states import LoraFacts, OptimizerFacts, SchedulerFacts, StateFacts, WeightsFacts, layout
from checkpoint_core.text import counted
from checkpoint_core.trainer import (
    LoraPlan,
    PlannedGroup,
    TrainerOptimizer,
    changes_to,
    optimizer_of,
    plan_groups,
    plan_rates,
    possible_counts,
    stop_with,
    type_to_write,
)

#: A setting is a number, a word or a few of them; longer ones are no setting, and parsing them costs time.
_MAX_ARGUMENT_LENGTH = 200
#: Settings that change the speed of a step alone, or that the learning rate's own check tells.
_NO_SETTINGS = frozenset({"foreach", "fused", "capturable", "differentiable", "lr", "initial_lr"})


def check_optimizer_settings(
    facts: StateFacts, script: ScriptFacts, plan: LoraPlan | None
) -> Iterator[Finding]:
    """Every finding about the optimizer, its groups and its settings.

    :param plan: the network that the script describes, ``None`` where that is not the state's, or cannot be told.
    """
    optimizer = facts.optimizer
    # DeepSpeed saves its optimizer in files of its own.
    if not isinstance(optimizer, OptimizerFacts) or not script.lacks("--deepspeed"):
        return
    asked, planned = optimizer_of(script), _planned(facts, script, plan)
    other_groups = tuple(_other_groups(facts, optimizer, planned))
    yield from other_groups
    if asked and asked[0].family != optimizer.family:
        yield from _other_optimizer(optimizer, *asked)
        return
    if asked:
        yield from _arguments(optimizer, script)
    else:
        yield from _unlisted(facts, script)
    if not other_groups:
        yield from _learning_rate(facts, optimizer, script, planned)


def _unlisted(facts: StateFacts, script: ScriptFacts) -> Iterator[Finding]:
    """An optimizer that is not known here: the LoRA file of the same save tells whether it is still the same."""
    written, lora = script.value("--optimizer_type"), facts.lora
    trained = lora.optimizer if isinstance(lora, LoraFacts) else None
    if written and trained and written.rpartition(".")[2] != trained:
        yield finding("script-optimizer-unlisted", file=layout.OPTIMIZER, given=written, saved=trained)


@dataclass(frozen=True)
class _Planned:
    """What the script's flags give the optimizer; ``None`` for what they do not tell."""

    network: LoraPlan | None
    rates: tuple[float, float, float] | None
    groups: tuple[PlannedGroup, ...] | None


def _planned(facts: StateFacts, script: ScriptFacts, network: LoraPlan | None) -> _Planned:
    rates, weights = plan_rates(script), facts.weights
    if network is None or rates is None or not isinstance(weights, WeightsFacts):
        return _Planned(network, rates, None)
    return _Planned(network, rates, plan_groups(network, weights.parts, rates))


def _other_groups(facts: StateFacts, optimizer: OptimizerFacts, planned: _Planned) -> Iterator[Finding]:
    """The same tensors in other groups: a part left out by a learning rate of 0, or LoRA+."""
    weights, saved = facts.weights, optimizer.group_sizes
    network, rates, groups = planned.network, planned.rates, planned.groups
    if network is None or rates is None or groups is None or not isinstance(weights, WeightsFacts):
        return
    given = tuple(group.size for group in groups)
    # An optimizer that cannot belong to these weights is damage, and told so.
    if given == saved or optimizer.param_count not in possible_counts(weights.parts):
        return
    size = "contains a parameter group that doesn't match the size of optimizer's group"
    changes = changes_to(saved, network, weights.parts, rates)
    cure = (
        " and ".join(changes) or "set learning rates and --network_args back to what the run was started with"
    )
    yield finding(
        "script-groups",
        file=layout.OPTIMIZER,
        evidence=f"{_sizes(given)} instead of {_sizes(saved)}",
        error=size if len(given) == len(saved) else "has a different number of parameter groups",
        cure=cure[0].upper() + cure[1:],
    )


def _sizes(sizes: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, sizes[:8])) + (", …" if len(sizes) > 8 else "")
    return f"{counted(len(sizes), 'group')} of {shown} tensors"


def _other_optimizer(optimizer: OptimizerFacts, given: TrainerOptimizer, asked: str) -> Iterator[Finding]:
    if optimizer.family == "unknown":
        # Without moments there is nothing in it that could be known.
        if optimizer.state_count:
            yield finding("script-optimizer-unknown", file=layout.OPTIMIZER, given=asked)
        return
    stop = stop_with(optimizer.family, given)
    written = type_to_write(optimizer.family)
    hints = {"adafactor": " (FluxGym: VRAM 16G or 12G)", "adamw8bit": " (FluxGym: VRAM 20G)"}
    yield finding(
        "script-optimizer",
        file=layout.OPTIMIZER,
        saved=written.rpartition(".")[2],
        given=asked,
        consequence=f"The trainer stops {stop.stage.value}: {stop.error}"
        if stop
        else "No error appears: it trains on, with moments, settings and a learning rate that were another optimizer's",
        written=written,
        hint=hints.get(optimizer.family, ""),
    )


def _arguments(optimizer: OptimizerFacts, script: ScriptFacts) -> Iterator[Finding]:
    """``load_state_dict`` replaces the groups' settings by the state's (torch ``optim/optimizer.py``)."""
    given = _given_arguments(optimizer, script)
    saved = dict(optimizer.settings)
    changed = [
        f"{key}={value!r} (the checkpoint has {saved[key]!r})"
        for key, value in given.items()
        if key in saved and key not in _NO_SETTINGS and not _same(value, saved[key])
    ]
    if changed:
        yield finding("script-optimizer-args", file=layout.OPTIMIZER, evidence=", ".join(changed))


def _given_arguments(optimizer: OptimizerFacts, script: ScriptFacts) -> dict[str, object]:
    """``--optimizer_args`` as ``get_optimizer`` of sd-scripts reads them; those that stop it are left out."""
    if not (script.has("--optimizer_args") or script.lacks("--optimizer_args")):
        return {}
    texts = script.values("--optimizer_args")
    if texts is None:
        return {}
    given: dict[str, object] = {}
    for text in texts:
        key, _, written = text.partition("=")
        if len(text) <= _MAX_ARGUMENT_LENGTH:
            try:
                given[key] = ast.literal_eval(written)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
    if optimizer.family == "adafactor":
        # get_optimizer's own default, and what it makes of warmup_init.
        given["relative_step"] = given.get("relative_step", True) or given.get("warmup_init", False)
    return given


def _same(given: object, saved: object) -> bool:
    return (tuple(given) if isinstance(given, list) else given) == saved


def _learning_rate(
    facts: StateFacts, optimizer: OptimizerFacts, script: ScriptFacts, planned: _Planned
) -> Iterator[Finding]:
    """The scheduler's ``base_lrs`` come back with the state; a schedule-free optimizer keeps the rate itself."""
    file, saved = layout.OPTIMIZER, optimizer.learning_rates if optimizer.schedule_free else ()
    if isinstance(facts.scheduler, SchedulerFacts):
        file, saved = layout.SCHEDULER, facts.scheduler.base_lrs
    # Adafactor's relative step makes its rate of the count of steps, other schedules of a library set their own.
    if not saved or dict(optimizer.settings).get("relative_step") or not script.lacks("--lr_scheduler_type"):
        return
    changed = dict.fromkeys(
        f"{given:g} (the checkpoint has {kept:g})" for given, kept in _other_rates(script, planned, saved)
    )
    if changed:
        yield finding("script-learning-rate", file=file, evidence=", ".join(changed))


def _other_rates(
    script: ScriptFacts, planned: _Planned, saved: tuple[float, ...]
) -> Iterator[tuple[float, float]]:
    """The script's rates that are not the state's, each with the state's."""
    if planned.groups is not None:
        if len(planned.groups) == len(saved):
            rates = (group.rate for group in planned.groups)
            yield from (pair for pair in zip(rates, saved, strict=True) if not _close(*pair))
    # Of another network it is only known that a single rate must be found among its groups'.
    elif (
        script.network_module
        and planned.rates
        and all(map(script.lacks, ("--unet_lr", "--text_encoder_lr", "--network_args")))
    ):
        given = planned.rates[0]
        if not any(_close(given, kept) for kept in saved):
            yield given, saved[0]


def _close(given: float, kept: float) -> bool:
    return math.isclose(given, kept, rel_tol=1e-6)
