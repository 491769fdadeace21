"""What the described contents of a file mean: structures of `formats` to facts, no disk, no opinion."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any

from checkpoint_core.formats import (
    MAX_COUNT,
    DamageKind,
    FormatError,
    SafetensorsHeader,
    Tensor,
    TensorEntry,
    written_count,
)
from checkpoint_core.states.facts import (
    CustomObjectFacts,
    LoraFacts,
    OptimizerFacts,
    RandomStatesFacts,
    SchedulerFacts,
    WeightsFacts,
    WeightsSample,
)

#: Families of optimizers, most telling first, by keys that a parameter's state and its group must both have. Sources:
#: torch ``optim/*.py``, transformers ``Adafactor``, bitsandbytes ``optim/optimizer.py``, prodigyopt, lion-pytorch,
#: dadaptation, schedulefree; all of them saved and read back. The names are those of ``optimizers.py``.
_FAMILIES: tuple[tuple[str, frozenset[str], frozenset[str]], ...] = tuple(
    (family, frozenset(of_state.split()), frozenset(of_group.split()))
    for family, of_state, of_group in (
        ("radamschedulefree", "", "weight_sum silent_sgd_phase"),
        ("sgdschedulefree", "", "weight_sum momentum"),
        ("adamwschedulefree", "", "weight_sum warmup_steps"),
        ("unknown", "", "weight_sum"),
        ("adafactor", "exp_avg_sq_row", ""),
        ("adafactor", "exp_avg_sq_col", ""),
        ("prodigy", "p0", ""),
        ("dadaptadanip", "exp_avg_diff", "numerator_weighted"),
        ("dadaptadan", "exp_avg_diff", "gsq_weighted"),
        ("unknown", "exp_avg_diff", ""),
        ("dadaptadam", "s exp_avg_sq", "numerator_weighted"),
        ("dadaptation", "s exp_avg_sq", "gsq_weighted"),
        ("dadaptlion", "s exp_avg", "numerator_weighted"),
        ("dadaptadagrad", "alphak", ""),
        ("dadaptsgd", "s z", ""),
        ("unknown", "mu_product", ""),
        ("adamw", "exp_avg_sq", ""),
        ("sgd", "momentum_buffer", ""),
        ("lion", "exp_avg", ""),
        # For optimizers that keep nothing per parameter, or have not made a step.
        ("adafactor", "", "relative_step"),
        ("prodigy", "", "d_coef"),
        ("sgd", "", "dampening"),
        ("adamw", "", "amsgrad"),
    )
)
#: bitsandbytes keeps its moments in a table of their own since 0.44 (``optim/optimizer.py``, ``Optimizer8bit``).
_BNB_TABLE = "__bnb_optimizer_quant_state__"
#: schedulefree's optimizers mark their groups so (schedulefree ``adamw_schedulefree.py``).
_SCHEDULE_FREE_KEY = "weight_sum"
#: An optimizer has about fifteen settings; each is a number, a word, or a few numbers.
_MAX_SETTINGS, _MAX_SETTING_LENGTH = 64, 100
_MAX_UNPAIRED = 20
_LORA_PREFIXES = ("lora_", "lycoris_")
_PARTS = (("lora_unet_", "unet"), ("lora_te3_", "te3"), ("lora_te1_", "te1"), ("lora_te_", "te1"))


@lru_cache(maxsize=256)
def _shared(names: frozenset[str]) -> frozenset[str]:
    """The same set for the same names: a thousand states of a few runs name the same few hundred things."""
    return names


def weights_facts(
    file: str, tensors: Iterable[TensorEntry], alpha: float | None = None, sample: WeightsSample | None = None
) -> WeightsFacts:
    """A network's weights by names and shapes; ``alpha`` is the value of one of the ``.alpha`` tensors."""
    return replace(_weights_by_names(tuple(tensors)), file=file, alpha=alpha, sample=sample)


def sample_of(tensors: Iterable[TensorEntry]) -> TensorEntry | None:
    """The tensor to take a sample of.

    ``lora_up`` begins at 0 and changes with every step; a text encoder's may not be trained.
    """
    ups = [tensor for tensor in tensors if ".lora_up." in tensor.name]
    return next((tensor for tensor in ups if tensor.name.startswith("lora_unet_")), next(iter(ups), None))


@lru_cache(maxsize=16)
def _weights_by_names(tensors: tuple[TensorEntry, ...]) -> WeightsFacts:
    """What all files of a run share, with their one table of tensors."""
    trained = [tensor for tensor in tensors if not tensor.name.endswith(".alpha")]
    ranks = Counter(tensor.shape[0] for tensor in trained if tensor.shape and ".lora_down." in tensor.name)
    return WeightsFacts(
        file="",
        tensor_count=len(tensors),
        keys_are_lora=bool(tensors) and all(tensor.name.startswith(_LORA_PREFIXES) for tensor in tensors),
        rank=ranks.most_common(1)[0][0] if ranks else None,
        shapes=Counter(tensor.shape for tensor in trained),
        parts=Counter(_part(tensor.name) for tensor in trained),
        ranks=ranks,
        modules=frozenset(tensor.name.partition(".")[0] for tensor in trained),
        unpaired=_unpaired(tensors),
    )


def _unpaired(tensors: Iterable[TensorEntry]) -> tuple[str, ...]:
    """Modules that lack one of a LoRA's two matrices; none in a network of another kind (``lora_flux.py``)."""
    have: dict[str, set[str]] = {"lora_down": set(), "lora_up": set(), "alpha": set()}
    for tensor in tensors:
        module, _, rest = tensor.name.partition(".")
        have.setdefault(rest.partition(".")[0], set()).add(module)
    down, up = have["lora_down"], have["lora_up"]
    lonely = (down ^ up) | (have["alpha"] - down if down else set())
    return tuple(sorted(lonely))[:_MAX_UNPAIRED]


def _part(name: str) -> str:
    for prefix, part in _PARTS:
        if name.startswith(prefix):
            return part
    return "other"


def lora_facts(
    file: str,
    size_bytes: int,
    modified_ns: int,
    header: SafetensorsHeader,
    sample: WeightsSample | None = None,
) -> LoraFacts:
    """A LoRA file by its header and its ``ss_*`` metadata."""
    metadata = header.metadata
    batches = written_count(metadata.get("ss_num_batches_per_epoch"))
    accumulation = written_count(metadata.get("ss_gradient_accumulation_steps")) or 1
    return LoraFacts(
        file=file,
        size_bytes=size_bytes,
        modified_ns=modified_ns,
        weights=weights_facts(file, header.tensors, sample=sample),
        epoch=written_count(metadata.get("ss_epoch")),
        steps=written_count(metadata.get("ss_steps")),
        # sd-scripts train_network.py: num_update_steps_per_epoch = ceil(batches / accumulation)
        steps_per_epoch=-(-batches // accumulation) if batches else None,
        session_id=metadata.get("ss_session_id"),
        trainer_commit=metadata.get("ss_sd_scripts_commit_hash"),
        # “transformers.optimization.Adafactor(relative_step=False,…)”: train_util.py, get_optimizer
        optimizer=metadata.get("ss_optimizer", "").partition("(")[0].rpartition(".")[2] or None,
    )


def optimizer_facts(
    value: Any, read_scalar: Callable[[Tensor], float | None], names: frozenset[str] = frozenset()
) -> OptimizerFacts:
    """An optimizer's ``state_dict``; ``read_scalar`` gives the value of a one-element tensor.

    :param names: the objects that the file names.
    :raises FormatError: ``CORRUPT`` when it is not the ``state_dict`` of an optimizer.
    """
    table = value if isinstance(value, dict) else {}
    state, param_groups = table.get("state"), table.get("param_groups")
    if not isinstance(state, dict) or not isinstance(param_groups, list):
        raise FormatError(DamageKind.CORRUPT, "it does not hold an optimizer's state and param_groups")
    groups = [group for group in param_groups if isinstance(group, dict)]
    entries = [entry for entry in state.values() if isinstance(entry, dict)]
    sizes = tuple(len(group["params"]) for group in groups if isinstance(group.get("params"), list))
    return OptimizerFacts(
        family=_family(entries, groups),
        param_count=sum(sizes),
        group_sizes=sizes,
        state_count=len(entries),
        learning_rates=tuple(_floats(group.get("lr") for group in groups)),
        step=_optimizer_step(entries, groups, read_scalar),
        schedule_free=any(_SCHEDULE_FREE_KEY in group for group in groups),
        shapes=_parameter_shapes(entries),
        settings=tuple(islice(_settings(groups[0]), _MAX_SETTINGS)) if groups else (),
        names=_shared(names),
        initial_rates=tuple(_floats(group.get("initial_lr") for group in groups)),
    )


def _family(entries: list[dict[Any, Any]], groups: list[dict[Any, Any]]) -> str:
    tables = (entry.get(_BNB_TABLE) for entry in entries)
    moments = [*entries, *(table for table in tables if isinstance(table, dict))]
    # Each once: a hostile file may refer to one large table a million times.
    keys = {key for entry in {id(each): each for each in moments}.values() for key in entry}
    group_keys = {key for group in groups for key in group}
    if "state1" in keys:
        return _bnb_family(keys, groups[0].get("betas") if groups else None)
    return next(
        (family for family, state, group in _FAMILIES if state <= keys and group <= group_keys), "unknown"
    )


def _bnb_family(keys: set[Any], betas: Any) -> str:
    """bitsandbytes calls every moment alike; AdEMAMix has three betas, SGD's second one is 0 (``optim/sgd.py``)."""
    count = len(betas) if type(betas) in (list, tuple) else 0
    if "state2" in keys:
        return "ademamix8bit" if count == 3 else "adamw8bit"
    return "sgd8bit" if count == 2 and betas[1] == 0 else "lion8bit"


def _settings(group: dict[Any, Any]) -> Iterator[tuple[str, object]]:
    """The plain values of a parameter group: numbers, words, and short rows of them (as tuples)."""
    for key, value in group.items():
        row = tuple(value) if type(value) in (list, tuple) and len(value) <= 8 else None
        if type(key) is not str or len(key) > _MAX_SETTING_LENGTH or key == "params":
            continue
        if _is_plain(value):
            yield key, value
        elif row is not None and all(map(_is_plain, row)):
            yield key, row


def _is_plain(value: Any) -> bool:
    if type(value) is int:
        return abs(value) <= MAX_COUNT
    return value is None or type(value) in (bool, float) or _is_word(value)


def _is_word(value: Any) -> bool:
    return type(value) is str and len(value) <= _MAX_SETTING_LENGTH


def _optimizer_step(
    entries: list[dict[Any, Any]], groups: list[dict[Any, Any]], read_scalar: Callable[[Tensor], float | None]
) -> int | None:
    """The count of updates: of a parameter (torch, Adafactor, 8-bit), else of a group (schedulefree ``k``)."""
    counted = (each for each in entries if "step" in each or "k" in each)
    # The first that counts; a parameter that was never trained counts nothing.
    for holder in (*islice(counted, 1), *groups[:1]):
        step = holder.get("step", holder.get("k"))
        if isinstance(step, Tensor):
            step = read_scalar(step)
        if (count := _whole_number(step)) is not None:
            return count
    return None


def _parameter_shapes(entries: list[dict[Any, Any]]) -> Counter[tuple[int, ...]] | None:
    """The shapes of the parameters that the optimizer keeps moments of, or ``None`` where they cannot be told."""
    shapes: Counter[tuple[int, ...]] = Counter()
    for entry in entries:
        row, column = entry.get("exp_avg_sq_row"), entry.get("exp_avg_sq_col")
        moment = entry.get("exp_avg_sq", entry.get("exp_avg"))
        if isinstance(row, Tensor) and isinstance(column, Tensor):
            # Adafactor factors the last two dimensions: row drops the last, column the one before it.
            shapes[row.shape + column.shape[-1:]] += 1
        elif isinstance(moment, Tensor):
            shapes[moment.shape] += 1
        else:
            return None
    return shapes or None


def scheduler_facts(value: Any, names: frozenset[str] = frozenset()) -> SchedulerFacts:
    """A scheduler's ``state_dict``; ``names`` are the objects that the file names.

    :raises FormatError: ``CORRUPT`` when it is not one.
    """
    if not isinstance(value, dict) or "last_epoch" not in value:
        raise FormatError(DamageKind.CORRUPT, "it does not hold a scheduler's state")
    rates = [*_items(value.get("base_lrs")), *_items(value.get("_last_lr"))]
    if any(type(rate) is float and not math.isfinite(rate) for rate in rates):
        raise FormatError(DamageKind.CORRUPT, "its learning rates hold NaN or Inf")
    return SchedulerFacts(
        last_epoch=_whole_number(value.get("last_epoch")),
        last_lrs=tuple(_floats(_items(value.get("_last_lr")))),
        base_lrs=tuple(_floats(_items(value.get("base_lrs")))),
        names=_shared(names),
    )


#: Key in the file to the generator it restores (accelerate ``checkpointing.py``, ``save_accelerator_state``).
_GENERATORS = {
    "random_state": "python",
    "numpy_random_seed": "numpy",
    "torch_manual_seed": "torch",
    "torch_cuda_manual_seed": "cuda",
}


def random_states_facts(value: Any, names: frozenset[str] = frozenset()) -> RandomStatesFacts:
    """The random states of one process; ``names`` are the objects that the file names.

    :raises FormatError: ``CORRUPT`` when it is no dictionary.
    """
    if not isinstance(value, dict):
        raise FormatError(DamageKind.CORRUPT, "it does not hold a table of random states")
    cuda = value.get("torch_cuda_manual_seed")
    return RandomStatesFacts(
        step=_whole_number(value.get("step")),
        generators=tuple(name for key, name in _GENERATORS.items() if value.get(key) is not None),
        cuda_count=len(cuda) if isinstance(cuda, list) else 0,
        names=_shared(names),
    )


def custom_object_facts(value: Any, names: frozenset[str] = frozenset()) -> CustomObjectFacts:
    """A registered object's ``state_dict``, of which ``step`` and ``epoch`` are wanted; ``names`` as above."""
    if not isinstance(value, Mapping):
        return CustomObjectFacts(None, None, names=_shared(names))
    step, epoch = _whole_number(value.get("step")), _whole_number(value.get("epoch"))
    return CustomObjectFacts(step, epoch, names=_shared(names))


def _whole_number(value: object) -> int | None:
    """A whole number that can count something; ``None`` for anything else (NaN, a negative, one beyond reason)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value) if value == int(value) else None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _floats(values: Iterable[Any]) -> Iterable[float]:
    """The finite numbers among the values."""
    for value in values:
        if type(value) in (int, float) and abs(value) <= sys.float_info.max:
            yield float(value)
