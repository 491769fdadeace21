"""What sd-scripts' ``networks/lora_flux.py`` would create from a script's flags: modules, ranks, alpha.

Source: ``create_network``, ``LoRANetwork.__init__`` and ``apply_to`` of that module, and ``flux_train_network.py``.
Where a flag cannot be told, or means something that is not followed here, there is no plan: ``None``, which is
neither right nor wrong.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.trainer.given import Undetermined, given_or, given_values, is_given

MODULE = "networks.lora_flux"
#: Parts of a model, in the order in which the optimizer's groups are made.
TEXT_ENCODERS = ("te1", "te3")
#: ``NUM_DOUBLE_BLOCKS`` and ``NUM_SINGLE_BLOCKS``, and the layers of a block that get a LoRA.
BLOCKS = {"double": 19, "single": 38}
_LAYERS = {
    "double": tuple(
        f"{side}_{layer}"
        for side in ("img", "txt")
        for layer in ("attn_qkv", "attn_proj", "mlp_0", "mlp_2", "mod_lin")
    ),
    "single": ("linear1", "linear2", "modulation_lin"),
}
#: ``--network_args`` that set a rank, each with what a module's name must contain; the first that fits counts.
_TYPE_DIMS = (
    ("img_attn_dim", ("img_attn",)), ("txt_attn_dim", ("txt_attn",)), ("img_mlp_dim", ("img_mlp",)),
    ("txt_mlp_dim", ("txt_mlp",)), ("img_mod_dim", ("img_mod",)), ("txt_mod_dim", ("txt_mod",)),
    ("single_dim", ("single_blocks", "linear")), ("single_mod_dim", ("modulation",)),
)  # fmt: skip
_INPUTS = ("_img_in", "_time_in", "_vector_in", "_guidance_in", "_txt_in")
_TRAINED_BLOCKS = {
    "all": frozenset({"double", "single"}),
    "double": frozenset({"double"}),
    "single": frozenset({"single"}),
}
_BLOCK = re.compile(r"lora_unet_(double|single)_blocks_(\d{1,4})_")


@dataclass(frozen=True)
class LoraPlan:
    """The network that a script's flags describe.

    ``parts`` are those that get LoRA modules: ``te1``, ``te3``, ``double``, ``single``, ``in``. ``type_ranks``,
    ``input_ranks`` and ``blocks`` are the ranks and the blocks that ``--network_args`` set apart; a rank of 0 leaves
    a module out. ``plus`` is LoRA+'s ratio for the text encoders and for the transformer.
    """

    rank: int
    alpha: float
    parts: frozenset[str]
    type_ranks: tuple[tuple[tuple[str, ...], int], ...]
    input_ranks: tuple[int, ...]
    blocks: tuple[tuple[str, frozenset[int]], ...]
    split_qkv: bool
    plus: tuple[float | None, float | None]
    has_rates_by_name: bool

    def rank_of(self, module: str) -> int:
        """The rank of a module as it is saved, 0 where it would not be created.

        With ``split_qkv`` the pairs of one layer are saved as one (``LoRANetwork.state_dict``).
        """
        part = part_of(module)
        if part not in self.parts:
            return 0
        if part in TEXT_ENCODERS:
            return self.rank
        if part == "in":
            given = zip(_INPUTS, self.input_ranks, strict=False)
            return next((rank for name, rank in given if name in module), 0)
        block = _BLOCK.match(module)
        chosen = dict(self.blocks).get(part)
        if block is None or (chosen is not None and int(block[2]) not in chosen):
            return 0
        fitting = (rank for words, rank in self.type_ranks if all(word in module for word in words))
        return next(fitting, self.rank) * self._pairs(module)

    def _pairs(self, module: str) -> int:
        if not self.split_qkv:
            return 1
        if "double" in module and "qkv" in module:
            return 3
        return 4 if "single" in module and "linear1" in module else 1

    def created_parts(self) -> frozenset[str]:
        """The parts of which at least one module would be created in a Flux of full size."""
        blocks = {part_of(name) for name in full_size_modules() if self.rank_of(name)}
        inputs = {"in"} if any(self.input_ranks) and "in" in self.parts else set()
        return frozenset(blocks | inputs | (self.parts & set(TEXT_ENCODERS)))


def part_of(module: str) -> str:
    """The part of the model that a module adapts, as in :class:`LoraPlan`; ``other`` for a foreign name."""
    for prefix in TEXT_ENCODERS:
        if module.startswith(f"lora_{prefix}_"):
            return prefix
    if not module.startswith("lora_unet_"):
        return "other"
    block = _BLOCK.match(module)
    return block[1] if block else "in"


def _is_foreign(module: str) -> bool:
    """Whether a module's name is that of a block, and of a layer that ``lora_flux`` does not adapt."""
    block = _BLOCK.match(module)
    return block is not None and module[block.end() :] not in _LAYERS[block[1]]


@lru_cache(maxsize=1)
def full_size_modules() -> tuple[str, ...]:
    """The names of the modules in the blocks of a Flux of full size, 304."""
    return tuple(
        f"lora_unet_{part}_blocks_{index}_{layer}"
        for part, count in BLOCKS.items()
        for index in range(count)
        for layer in _LAYERS[part]
    )


@dataclass(frozen=True)
class LoraDifference:
    """A plan against the modules of a state: names that only one of them has, and the ranks that the plan expects.

    ``foreign`` are modules of the state that no plan makes.
    """

    foreign: tuple[str, ...]
    unexpected: tuple[str, ...]
    missing: tuple[str, ...]
    parts: frozenset[str]
    planned_parts: frozenset[str]
    ranks: tuple[tuple[int, int], ...]

    @property
    def rank_counts(self) -> Counter[int]:
        """How many of the modules that both have the plan gives each rank."""
        return Counter(dict(self.ranks))


@lru_cache(maxsize=64)
def difference(plan: LoraPlan, modules: frozenset[str]) -> LoraDifference:
    """Hold a plan against a state's modules.

    Single missing modules are told only of blocks whose last one is there: a smaller model has fewer.
    """
    ranks = {name: plan.rank_of(name) for name in modules}
    full = [
        part
        for part, count in BLOCKS.items()
        if any(name.startswith(f"lora_unet_{part}_blocks_{count - 1}_") for name in modules)
    ]
    return LoraDifference(
        foreign=tuple(sorted(filter(_is_foreign, modules))),
        unexpected=tuple(sorted(name for name, rank in ranks.items() if not rank)),
        missing=tuple(
            name
            for name in full_size_modules()
            if part_of(name) in full and plan.rank_of(name) and name not in modules
        ),
        parts=frozenset(map(part_of, modules)),
        planned_parts=plan.created_parts(),
        ranks=tuple(Counter(rank for rank in ranks.values() if rank).items()),
    )


def plan_network(script: ScriptFacts) -> LoraPlan | None:
    """The network that the script's flags describe; ``None`` where it cannot be told."""
    # With --dim_from_weights rank, alpha and modules come out of a file (``create_network_from_weights``).
    if script.network_module != MODULE or not script.lacks("--dim_from_weights"):
        return None
    try:
        if given_values(script, "--model_type") not in ((), ("flux",)):
            return None
        return _plan(script, _network_args(script))
    except (Undetermined, ValueError):  # what cannot be told, or the trainer itself refuses
        return None


def _network_args(script: ScriptFacts) -> dict[str, str]:
    given = given_values(script, "--network_args")
    if any("=" not in argument for argument in given):
        raise ValueError("not key=value")
    return dict(argument.split("=", 1) for argument in given)


def _plan(script: ScriptFacts, args: dict[str, str]) -> LoraPlan:
    if "network_reg_dims" in args:
        raise ValueError("ranks by regular expression")
    return LoraPlan(
        rank=int(given_or(script, "--network_dim", "4")),
        alpha=finite(given_or(script, "--network_alpha", "1")),
        parts=_parts(script, args),
        type_ranks=tuple((words, int(args[key])) for key, words in _TYPE_DIMS if key in args),
        input_ranks=_input_ranks(args),
        blocks=tuple(
            (part, _selection(args[key], count))
            for part, count in BLOCKS.items()
            if (key := f"train_{part}_block_indices") in args
        ),
        split_qkv=args.get("split_qkv") == "True",
        plus=_plus(args),
        has_rates_by_name="network_reg_lrs" in args,
    )


def _parts(script: ScriptFacts, args: dict[str, str]) -> frozenset[str]:
    trained = args.get("train_blocks", "all")
    if trained not in _TRAINED_BLOCKS:
        raise ValueError("no such blocks")
    parts: frozenset[str] = frozenset()
    if not is_given(script, "--network_train_text_encoder_only"):
        parts |= _TRAINED_BLOCKS[trained] | ({"in"} if "in_dims" in args else set())
    if not is_given(script, "--network_train_unet_only"):
        parts |= set(TEXT_ENCODERS if args.get("train_t5xxl") == "True" else TEXT_ENCODERS[:1])
    return parts


def _input_ranks(args: dict[str, str]) -> tuple[int, ...]:
    if "in_dims" not in args:
        return ()
    text = args["in_dims"].strip()
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    ranks = tuple(int(rank) for rank in inner.split(","))
    if len(ranks) != len(_INPUTS):
        raise ValueError("not one rank for each input")
    return ranks


def _selection(text: str, count: int) -> frozenset[int]:
    """The blocks that a selection such as ``0,4-7`` means (``create_network``, ``parse_block_selection``)."""
    if text in ("all", "none", ""):
        return frozenset(range(count) if text == "all" else ())
    chosen: set[int] = set()
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        start, end = int(first), int(last or first)
        if not 0 <= start <= end < count:
            raise ValueError("no such block")
        chosen.update(range(start, end + 1))
    return frozenset(chosen)


def _plus(args: dict[str, str]) -> tuple[float | None, float | None]:
    every, text, transformer = (
        finite(args[key]) if key in args else None
        for key in ("loraplus_lr_ratio", "loraplus_text_encoder_lr_ratio", "loraplus_unet_lr_ratio")
    )
    return text or every or None, transformer or every or None


def finite(text: str) -> float:
    """A number as the trainer's argparse reads it.

    :raises ValueError: for text that is none, NaN and infinity.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number
