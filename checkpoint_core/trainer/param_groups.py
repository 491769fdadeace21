"""The optimizer's parameter groups that sd-scripts makes of a script's flags, with their learning rates.

Source: ``networks/lora_flux.py``, ``prepare_optimizer_params_with_multiple_te_lrs``: one group for each part of the
model, two with LoRA+, none for a part whose learning rate is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product

from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.trainer.given import Undetermined, given_or, given_values
from checkpoint_core.trainer.lora_network import TEXT_ENCODERS, LoraPlan, finite

#: Parts of the model in the order of their groups, as :class:`~checkpoint_core.states.facts.WeightsFacts` calls them.
PARTS = (*TEXT_ENCODERS, "unet")


@dataclass(frozen=True)
class PlannedGroup:
    """One parameter group of the optimizer that the flags describe; ``rate`` is its learning rate."""

    part: str
    size: int
    rate: float


def plan_groups(
    plan: LoraPlan, parts: Counter[str], rates: tuple[float, float, float]
) -> tuple[PlannedGroup, ...] | None:
    """The optimizer's groups for a network with so many tensors in each part, ``None`` where that cannot be told.

    A part whose learning rate is 0 gets no group.

    :param parts: trained tensors by part, ``unet`` for the whole transformer, as in
        :class:`~checkpoint_core.states.facts.WeightsFacts`.
    :param rates: as of :func:`plan_rates`.
    """
    # split_qkv saves several tensors as one; rates by a regular expression make groups of their own.
    if plan.split_qkv or plan.has_rates_by_name:
        return None
    groups = []
    for part, rate in zip(PARTS, rates, strict=True):
        ratio = plan.plus[part == "unet"]
        size = parts.get(part, 0)
        if ratio is None:
            groups.append(PlannedGroup(part, size, rate))
        else:
            groups.append(PlannedGroup(part, size - size // 2, rate))
            groups.append(PlannedGroup(part, size // 2, rate * ratio))
    return tuple(group for group in groups if group.size and group.rate)


def possible_counts(parts: Counter[str]) -> set[int]:
    """How many tensors an optimizer of these weights may hold: a part whose learning rate is 0 is left out."""
    sizes = tuple(parts.values())
    return {sum(chosen) for some in range(1, len(sizes) + 1) for chosen in combinations(sizes, some)}


def plan_rates(script: ScriptFacts) -> tuple[float, float, float] | None:
    """The learning rates that the flags give CLIP, T5 and the transformer; ``None`` where they cannot be told."""
    try:
        every = given_or(script, "--learning_rate", "2e-6")
        text = given_values(script, "--text_encoder_lr") or (every,)
        transformer = given_or(script, "--unet_lr", every)
        return finite(text[0]), finite(text[min(1, len(text) - 1)]), finite(transformer)
    except (Undetermined, ValueError):
        return None


def changes_to(
    saved: tuple[int, ...], plan: LoraPlan, parts: Counter[str], rates: tuple[float, float, float]
) -> tuple[str, ...]:
    """The fewest changes of flags after which a script would make groups of the sizes ``saved``, in words.

    Nothing where no choice of trained parts and of LoRA+ makes them.
    """
    now = _Arrangement(tuple(map(bool, rates)), tuple(ratio is not None for ratio in plan.plus))
    fitting = (
        tuple(_changes(now, arrangement, parts))
        for arrangement in _arrangements()
        if arrangement.sizes(plan, parts) == saved
    )
    return min(fitting, key=len, default=())


@dataclass(frozen=True)
class _Arrangement:
    """Which parts are trained, and whether LoRA+ divides the text encoders and the transformer."""

    trained: tuple[bool, ...]
    plus: tuple[bool, ...]

    def sizes(self, plan: LoraPlan, parts: Counter[str]) -> tuple[int, ...]:
        """The sizes of the groups that it makes."""
        text, transformer = (1.0 if on else None for on in self.plus)
        te1, te3, unet = map(float, self.trained)
        groups = plan_groups(replace(plan, plus=(text, transformer)), parts, (te1, te3, unet)) or ()
        return tuple(group.size for group in groups)


def _arrangements() -> Iterator[_Arrangement]:
    for trained in product((True, False), repeat=len(PARTS)):
        for plus in product((True, False), repeat=2):
            yield _Arrangement(trained, plus)


def _changes(now: _Arrangement, then: _Arrangement, parts: Counter[str]) -> Iterator[str]:
    flags = ("--text_encoder_lr", "the second value of --text_encoder_lr", "--unet_lr")
    for part, flag, before, after in zip(PARTS, flags, now.trained, then.trained, strict=True):
        if before != after and parts[part]:
            yield f"set {flag} to {'the learning rate that this part had' if after else '0'}"
    for name, before, after in zip(("text_encoder", "unet"), now.plus, then.plus, strict=True):
        if before != after:
            verb = "add" if after else "remove"
            yield f"{verb} loraplus_{name}_lr_ratio (or loraplus_lr_ratio) {'to' if after else 'from'} --network_args"
