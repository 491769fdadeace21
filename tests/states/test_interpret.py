"""What described contents mean: optimizers by their keys, counts that can count, a LoRA by its metadata."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_core.formats.pickles import Storage, Tensor
from checkpoint_core.formats.reader import MAX_COUNT, DamageKind, FormatError
from checkpoint_core.formats.safetensors import SafetensorsHeader, TensorEntry
from checkpoint_core.states.facts import CustomObjectFacts, OptimizerFacts
from checkpoint_core.states.interpret import (
    custom_object_facts,
    lora_facts,
    optimizer_facts,
    random_states_facts,
    scheduler_facts,
    weights_facts,
)


def tensor(*shape: int, key: str = "0") -> Tensor:
    return Tensor(Storage("Float", key, "cpu", math.prod(shape)), 0, shape)


def entry(name: str, *shape: int) -> TensorEntry:
    return TensorEntry(name, "F32", shape, 0, 0)


def adamw(**group: Any) -> dict[str, Any]:
    """An AdamW of two parameters, as torch saves it; a keyword replaces an option of its one group."""
    moments = [{"step": tensor(), "exp_avg": t, "exp_avg_sq": t} for t in (tensor(4, 16), tensor(16, 4))]
    options = {"lr": 1e-4, "betas": (0.9, 0.999), "amsgrad": False, "params": [0, 1], **group}
    return {"state": dict(enumerate(moments)), "param_groups": [options]}


def facts(saved: Any, scalar: float | None = 16.0) -> OptimizerFacts:
    return optimizer_facts(saved, lambda _: scalar)


# Weights


def test_a_lora_is_told_by_its_keys_with_rank_shapes_and_parts() -> None:
    tensors = [
        entry("lora_unet_a.lora_down.weight", 4, 16),
        entry("lora_unet_a.lora_up.weight", 16, 4),
        entry("lora_unet_a.alpha"),
        entry("lora_te1_b.lora_down.weight", 4, 8),
        entry("lora_te3_c.lora_up.weight", 8, 4),
    ]
    found = weights_facts("model.safetensors", tensors)
    assert (found.tensor_count, found.trained_count, found.rank, found.keys_are_lora) == (5, 4, 4, True)
    assert found.shapes == Counter({(4, 16): 1, (16, 4): 1, (4, 8): 1, (8, 4): 1})
    assert found.parts == Counter(unet=2, te1=1, te3=1)
    assert found.modules == {"lora_unet_a", "lora_te1_b", "lora_te3_c"}
    assert (found.ranks, found.alpha) == (Counter({4: 2}), None)


def test_the_rank_is_the_most_frequent_one_and_split_layers_count() -> None:
    tensors = [entry(f"lora_unet_{i}.lora_down.{i}.weight", 16, 64) for i in range(3)]
    tensors.append(entry("lora_unet_b.lora_down.weight", 4, 64))
    assert weights_facts("f", tensors).rank == 16


@pytest.mark.parametrize(
    "tensors",
    [[], [entry("encoder.weight", 4)], [entry("lora_unet_a.lora_up.weight", 4), entry("text_model.bias", 4)]],
    ids=["empty", "model", "mixed"],
)
def test_what_is_no_lora_is_told(tensors: list[TensorEntry]) -> None:
    """An old trainer saved the whole model."""
    assert not weights_facts("f", tensors).keys_are_lora


def test_weights_without_a_down_tensor_have_no_rank() -> None:
    assert (
        weights_facts("f", [entry("lora_unet_a.lora_down.weight"), entry("lora_unet_a.alpha")]).rank is None
    )


# LoRA metadata


def lora(**metadata: str) -> Any:
    header = SafetensorsHeader((entry("lora_unet_a.lora_down.weight", 4, 16),), metadata)
    return lora_facts("cat-000002.safetensors", 900, 1, header)


def test_a_loras_metadata_is_read() -> None:
    found = lora(
        ss_epoch="2",
        ss_steps="16",
        ss_num_batches_per_epoch="8",
        ss_session_id="77",
        ss_sd_scripts_commit_hash="abc",
    )
    assert (found.epoch, found.steps, found.steps_per_epoch) == (2, 16, 8)
    assert (found.session_id, found.trainer_commit, found.weights.rank) == ("77", "abc", 4)


@pytest.mark.parametrize(
    ("batches", "accumulation", "steps"),
    [
        ("8", "1", 8),
        ("8", "4", 2),
        ("9", "4", 3),
        ("8", "0", 8),
        ("8", "None", 8),
        ("0", "1", None),
        ("", "1", None),
    ],
)
def test_steps_of_an_epoch_are_batches_by_accumulation_rounded_up(
    batches: str, accumulation: str, steps: int | None
) -> None:
    found = lora(ss_num_batches_per_epoch=batches, ss_gradient_accumulation_steps=accumulation)
    assert found.steps_per_epoch == steps


@pytest.mark.parametrize("text", ["", "two", "-1", "1.5", "²", "9" * 30, "None"])
def test_metadata_that_is_no_number_is_not_known(text: str) -> None:
    assert lora(ss_epoch=text, ss_steps=text).epoch is None


def test_a_lora_without_metadata_is_still_a_lora() -> None:
    found = lora()
    assert (found.epoch, found.steps, found.steps_per_epoch, found.session_id) == (None, None, None, None)


# Optimizers


def test_an_adamw_is_described() -> None:
    found = facts(adamw())
    assert (found.family, found.step, found.learning_rates) == ("adamw", 16, (1e-4,))
    assert (found.param_count, found.group_sizes, found.state_count) == (2, (2,), 2)
    assert found.shapes == Counter({(4, 16): 1, (16, 4): 1})
    assert not found.schedule_free


MOMENTS = {"exp_avg": tensor(4), "exp_avg_sq": tensor(4)}
TWO, THREE, SGD = (0.9, 0.999), (0.9, 0.999, 0.9999), (0.9, 0)
FAMILIES = [
    ({"step": 8, "state1": tensor(4), "state2": tensor(4), "qmap1": tensor(256)}, {}, "adamw8bit"),
    ({"step": 8, "state1": tensor(4), "state2": tensor(4)}, {"betas": TWO}, "adamw8bit"),
    ({"step": 8, "state1": tensor(4), "state2": tensor(4)}, {"betas": THREE}, "ademamix8bit"),
    ({"step": 8, "state1": tensor(4)}, {"betas": TWO}, "lion8bit"),
    ({"step": 8, "state1": tensor(4)}, {"betas": SGD}, "sgd8bit"),
    (
        {"step": 8, "__bnb_optimizer_quant_state__": {"state1": tensor(4), "state2": tensor(4)}},
        {},
        "adamw8bit",
    ),
    ({"step": 8, "__bnb_optimizer_quant_state__": {"state1": tensor(4)}}, {"betas": list(SGD)}, "sgd8bit"),
    ({"step": 8, "__bnb_optimizer_quant_state__": [1]}, {"betas": TWO}, "unknown"),
    ({"step": 8, "exp_avg_sq_row": tensor(4), "exp_avg_sq_col": tensor(16)}, {}, "adafactor"),
    ({"step": 8, **MOMENTS, "p0": tensor(4), "s": tensor(4)}, {"d_coef": 1.0}, "prodigy"),
    ({"step": 8, **MOMENTS, "s": tensor(4)}, {"numerator_weighted": 0.0}, "dadaptadam"),
    ({"step": 8, **MOMENTS, "s": tensor(4)}, {"gsq_weighted": 0.0}, "dadaptation"),
    ({"step": 8, **MOMENTS, "exp_avg_diff": tensor(4)}, {"gsq_weighted": 0.0}, "dadaptadan"),
    ({"step": 8, **MOMENTS, "exp_avg_diff": tensor(4)}, {"numerator_weighted": 0.0}, "dadaptadanip"),
    ({"step": 8, **MOMENTS, "exp_avg_diff": tensor(4)}, {}, "unknown"),
    ({"exp_avg": tensor(4), "s": tensor(4)}, {"numerator_weighted": 0.0}, "dadaptlion"),
    ({"alphak": tensor(4), "sk": tensor(4), "x0": tensor(4)}, {"gsq_weighted": 0.0}, "dadaptadagrad"),
    ({"z": tensor(4), "s": tensor(4), "x0": tensor(4)}, {"numerator_weighted": 0.0}, "dadaptsgd"),
    ({"z": tensor(4), "exp_avg_sq": tensor(4)}, {"weight_sum": 1.0, "warmup_steps": 0}, "adamwschedulefree"),
    (
        {"z": tensor(4), "exp_avg_sq": tensor(4)},
        {"weight_sum": 1.0, "silent_sgd_phase": True},
        "radamschedulefree",
    ),
    ({"z": tensor(4)}, {"weight_sum": 1.0, "momentum": 0.9, "warmup_steps": 0}, "sgdschedulefree"),
    ({"z": tensor(4), "exp_avg_sq": tensor(4)}, {"weight_sum": 1.0}, "unknown"),
    ({"step": 8, **MOMENTS, "mu_product": tensor()}, {}, "unknown"),
    ({"step": 8, **MOMENTS}, {}, "adamw"),
    ({"momentum_buffer": tensor(4)}, {"dampening": 0}, "sgd"),
    ({"exp_avg": tensor(4)}, {}, "lion"),
    ({}, {"relative_step": True}, "adafactor"),
    ({}, {"dampening": 0}, "sgd"),
    ({}, {"amsgrad": False}, "adamw"),
    ({"something": 1}, {"else": 2}, "unknown"),
]


@pytest.mark.parametrize(("state", "group", "family"), FAMILIES)
def test_the_family_is_told_by_its_own_keys(
    state: dict[str, Any], group: dict[str, Any], family: str
) -> None:
    saved = {"state": {0: state} if state else {}, "param_groups": [{"params": [0], "lr": 1.0, **group}]}
    assert facts(saved).family == family


def test_the_settings_are_the_plain_values_of_the_first_group() -> None:
    odd = {
        "params": [0],
        3: 4,
        "n" * 101: 1,
        "big": 10**400,
        "long": "x" * 101,
        "row": [0.0] * 9,
        "deep": [(1,)],
    }
    plain = {
        "lr": 1e-4,
        "betas": [0.9, 0.999],
        "beta1": None,
        "foreach": True,
        "rate": math.inf,
        "mode": "max",
    }
    found = facts({"state": {}, "param_groups": [{**odd, **plain, "moment": tensor(4)}, {"lr": 5.0}]})
    assert found.settings == tuple({**plain, "betas": (0.9, 0.999)}.items())
    assert facts({"state": {}, "param_groups": []}).settings == ()


def test_a_group_of_endless_settings_is_cut_off() -> None:
    group = {f"key{number}": number for number in range(10_000)}
    assert len(facts({"state": {}, "param_groups": [group]}).settings) < 100


def test_the_plain_settings_are_found_behind_any_others() -> None:
    others = {number: number for number in range(500)}
    saved = {"state": {}, "param_groups": [{**others, "weight_decay": 0.1}]}
    assert facts(saved).settings == (("weight_decay", 0.1),)


@pytest.mark.parametrize("untrained", [0, 1, 49, 50, 300])
def test_parameters_that_were_never_trained_hide_neither_family_nor_step(untrained: int) -> None:
    told = {"step": 8, "exp_avg_sq_row": tensor(4), "exp_avg_sq_col": tensor(4)}
    state: dict[int, dict[str, Any]] = {number: {} for number in range(untrained)}
    found = facts({"state": {**state, untrained: told}, "param_groups": [{"params": [0]}]})
    assert (found.family, found.step) == ("adafactor", 8)


def test_one_large_table_that_is_meant_a_million_times_is_read_once() -> None:
    table = {f"key{number}": number for number in range(20_000)}
    saved = {"state": dict.fromkeys(range(200_000), table), "param_groups": []}
    assert facts(saved).family == "unknown"


def test_the_names_in_a_file_are_handed_on() -> None:
    names = frozenset({"torch.FloatStorage"})
    assert optimizer_facts(adamw(), lambda _: None, names).names == names
    assert scheduler_facts({"last_epoch": 8}, names).names == names
    assert random_states_facts({}, names).names == names
    assert custom_object_facts({}, names).names == custom_object_facts(None, names).names == names


def test_adafactors_factored_moments_give_the_parameters_shape_back() -> None:
    state = {"exp_avg_sq_row": tensor(16), "exp_avg_sq_col": tensor(4)}
    batched = {"exp_avg_sq_row": tensor(3, 16), "exp_avg_sq_col": tensor(3, 4)}
    vector = {"exp_avg_sq": tensor(7)}
    found = facts({"state": {0: state, 1: batched, 2: vector}, "param_groups": []})
    assert found.shapes == Counter({(16, 4): 1, (3, 16, 4): 1, (7,): 1})


def test_shapes_are_not_known_where_one_parameters_moments_are_strange() -> None:
    saved = adamw()
    saved["state"][1] = {"exp_avg": "text"}
    assert facts(saved).shapes is None


def test_a_schedule_free_optimizer_is_told_and_counts_in_its_group() -> None:
    saved = adamw(weight_sum=8.0, k=8)
    for state in saved["state"].values():
        del state["step"]
    found = facts(saved)
    assert found.schedule_free
    assert found.step == 8


@pytest.mark.parametrize(
    ("step", "expected"),
    [(8, 8), (8.0, 8), (0, 0), (-1, None), (8.5, None), (True, None), ("8", None), (math.nan, None), (math.inf, None)],
)  # fmt: skip
def test_a_step_that_cannot_count_is_not_known(step: object, expected: int | None) -> None:
    saved = {"state": {0: {"step": step}}, "param_groups": []}
    assert facts(saved).step == expected


@pytest.mark.parametrize(("scalar", "expected"), [(16.0, 16), (None, None), (math.nan, None), (1e300, None)])
def test_a_step_in_a_tensor_is_read_from_it(scalar: float | None, expected: int | None) -> None:
    assert facts(adamw(), scalar).step == expected


def test_learning_rates_are_the_finite_numbers_of_the_groups() -> None:
    rates = [1e-4, 0, math.nan, math.inf, 10**400, None, True, "1e-4", tensor()]
    saved = {"state": {}, "param_groups": [{"params": [], "lr": rate} for rate in rates]}
    assert facts(saved).learning_rates == (1e-4, 0.0)


@pytest.mark.parametrize(
    "saved", [None, [], "text", {}, {"state": {}}, {"param_groups": 1}, {"state": {}, "param_groups": {}}]
)
def test_what_is_no_optimizer_is_damage(saved: object) -> None:
    with pytest.raises(FormatError) as caught:
        facts(saved)
    assert caught.value.kind is DamageKind.CORRUPT


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(tensor(2, 3)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["step", "exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col", "params", "lr", "k"]
)


@given(
    ANYTHING | st.dictionaries(st.integers(), st.dictionaries(KEYS, ANYTHING)),
    ANYTHING | st.lists(st.dictionaries(KEYS, ANYTHING), max_size=3),
    st.none() | st.floats(),
)
def test_whatever_an_optimizer_file_holds_is_described_or_damage(
    state: object, groups: object, scalar: float | None
) -> None:
    try:
        found = facts({"state": state, "param_groups": groups}, scalar)
    except FormatError:
        return
    assert found.step is None or 0 <= found.step <= MAX_COUNT
    assert all(math.isfinite(rate) for rate in found.learning_rates)


# The small records


def test_a_scheduler_is_described() -> None:
    found = scheduler_facts({"last_epoch": 16, "_last_lr": [5e-5], "base_lrs": [1e-4]})
    assert (found.last_epoch, found.last_lrs, found.base_lrs) == (16, (5e-5,), (1e-4,))


@pytest.mark.parametrize("count", [-1, True, "16", math.nan, MAX_COUNT + 1, [16], None])
def test_a_count_that_cannot_count_is_not_known(count: object) -> None:
    assert scheduler_facts({"last_epoch": count}).last_epoch is None
    assert random_states_facts({"step": count}).step is None
    assert custom_object_facts({"step": count, "epoch": count}) == CustomObjectFacts(None, None)


def test_random_states_tell_their_generators() -> None:
    saved = {
        "step": 0,
        "random_state": (3, (1, 2), None),
        "numpy_random_seed": ("MT19937", [1], 1, 0, 0.0),
        "torch_manual_seed": tensor(5056),
        "torch_cuda_manual_seed": [tensor(16), tensor(16)],
    }
    found = random_states_facts(saved)
    assert (found.step, found.generators, found.cuda_count) == (0, ("python", "numpy", "torch", "cuda"), 2)
    del saved["step"], saved["torch_cuda_manual_seed"]
    found = random_states_facts(saved)
    assert (found.step, found.generators, found.cuda_count) == (None, ("python", "numpy", "torch"), 0)


@pytest.mark.parametrize("read", [scheduler_facts, random_states_facts])
@pytest.mark.parametrize("value", [None, [], 3, "text"])
def test_a_record_that_is_no_table_is_damage(read: Any, value: object) -> None:
    with pytest.raises(FormatError) as caught:
        read(value)
    assert caught.value.kind is DamageKind.CORRUPT


@pytest.mark.parametrize("value", [None, [1, 2], 3])
def test_a_registered_object_need_not_be_a_table(value: object) -> None:
    assert custom_object_facts(value) == CustomObjectFacts(None, None)


def test_a_registered_object_tells_step_and_epoch() -> None:
    assert custom_object_facts({"step": 24, "epoch": 3, "more": []}) == CustomObjectFacts(24, 3)


@given(ANYTHING)
def test_whatever_a_record_holds_is_described_or_damage(value: object) -> None:
    for read in (scheduler_facts, random_states_facts, custom_object_facts):
        try:
            assert read(value) is not None
        except FormatError as error:
            assert error.kind is DamageKind.CORRUPT  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize("key", ["base_lrs", "_last_lr"])
@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_schedule_whose_rates_are_no_numbers_is_corrupt(key: str, rate: float) -> None:
    with pytest.raises(FormatError, match="NaN or Inf"):
        scheduler_facts({"last_epoch": 8, key: [8e-4, rate]})
