"""The files of a state against each other: times, optimizer against weights, learning rate, every byte."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.checks.consistency import check_consistency
from checkpoint_core.audit.findings import Finding, Severity
from checkpoint_core.audit.reports import CheckpointReport, RunReport
from checkpoint_core.formats.reader import DamageKind
from checkpoint_core.states.facts import (
    Damage,
    DeepFacts,
    LoraFacts,
    OptimizerFacts,
    StateFacts,
    WeightsFacts,
    WeightsLoraPair,
)
from tests.damage import edit_train_state, interrupt_overwrite, times_kept
from tests.judging import codes, found, judge_state, outcome
from tests.world import STATE_FILES, World

SECOND = 1_000_000_000


def save_again(world: World, replaced: int, seconds_later: float = 600) -> CheckpointReport:
    """The latest state after a kill while the same save was written over it once more."""
    same = shutil.copytree(world.latest, world.root / "same")
    interrupt_overwrite(world.latest, same, replaced, seconds_later)
    return judge_state(world)


def shift(state: Path, seconds: Sequence[float]) -> None:
    """Move the times of the files, in the order of a save, by so many seconds each."""
    for name, moved in zip(STATE_FILES, seconds, strict=True):
        at = (state / name).stat().st_mtime_ns + round(moved * SECOND)
        os.utime(state / name, ns=(at, at))


@pytest.mark.parametrize("rates", [1, 3])
def test_a_schedule_of_other_groups_is_of_another_training(world: World, rates: int) -> None:
    import torch

    path = world.latest / "scheduler.bin"
    saved = torch.load(path, weights_only=True)
    with times_kept(path):
        torch.save({**saved, **{key: [1e-3] * rates for key in ("base_lrs", "_last_lr")}}, path)

    report = judge_state(world)

    assert outcome(report) == ("damaged", ["scheduler-groups-differ"])
    assert f"learning rates for {rates} parameter groups, the optimizer has 2" in report.findings[0].message


# Two saves in one directory


@pytest.mark.parametrize("replaced", [2, 3, 4])
def test_an_overwrite_by_another_epoch_killed_at_each_boundary(world: World, replaced: int) -> None:
    interrupt_overwrite(world.latest, world.state(3), replaced)
    report = judge_state(world)
    # With the optimizer replaced the schedule could be made anew, but the old one's count no longer fits the name.
    decided = {2: ("damaged", "mixed-saves"), 3: ("unknown", "position-unknown")}
    verdict, code = decided.get(replaced, ("ready-with-warnings", "random-states-older"))
    assert report.verdict.value == verdict
    assert codes(report)[0] == code


def test_an_overwrite_killed_after_its_first_file_is_never_called_ready(world: World) -> None:
    interrupt_overwrite(world.latest, world.state(3), 1)
    report = judge_state(world)
    assert outcome(report) == ("unknown", ["position-unknown"])
    assert (
        "the name says epoch 4, train_state.json epoch 3, scheduler.bin 32 steps"
        in report.findings[0].message
    )


@pytest.mark.parametrize("replaced", [1, 2, 3, 4, 5])
def test_a_save_over_itself_is_judged_by_what_was_not_replaced(world: World, replaced: int) -> None:
    expected = {
        1: [],  # the same numbers: an edit could not do less harm
        2: ["mixed-saves"],
        3: ["random-states-older"],  # the older schedule stands where the newer would
        4: ["random-states-older"],
        5: [],
    }
    assert codes(save_again(world, replaced)) == expected[replaced]


def test_the_mixed_files_are_named_with_the_time_between_them(world: World) -> None:
    message = found(save_again(world, 2, 3 * 3600), "mixed-saves").message
    assert "train_state.json and model.safetensors are 3 hours newer than optimizer.bin" in message


@pytest.mark.parametrize(("seconds", "told"), [(1.5, []), (2.5, ["mixed-saves"])])
def test_a_spread_within_two_seconds_is_one_save(world: World, seconds: float, told: list[str]) -> None:
    assert codes(save_again(world, 2, seconds)) == told


def test_an_edited_train_state_is_not_a_second_save(world: World) -> None:
    edit_train_state(world.latest, current_step=32)
    shift(world.latest, (7200, 0, 0, 0, 0))
    assert outcome(judge_state(world)) == ("ready", [])


@pytest.mark.parametrize("gap", [0, 0.004])
def test_a_copy_that_lost_its_times_is_ready(world: World, gap: float) -> None:
    names = sorted(STATE_FILES)
    start = world.latest.stat().st_mtime_ns
    for number, name in enumerate(names):
        os.utime(world.latest / name, ns=(start + round(number * gap * SECOND),) * 2)
    assert outcome(judge_state(world)) == ("ready", [])


@pytest.mark.parametrize(
    "seconds", [(240, 180, 120, 60, 0), (0, 180, 0, 0, 0), (0, 0, 0, 90, 0), (30, 60, 90, 60, 0)]
)
def test_times_out_of_order_are_a_warning_that_tells_what_to_do(
    world: World, seconds: tuple[float, ...]
) -> None:
    shift(world.latest, seconds)
    report = judge_state(world)
    assert outcome(report) == ("ready-with-warnings", ["file-times-disordered"])
    assert "Verify every byte" in report.findings[0].cure


def test_a_slow_copy_in_the_order_of_a_save_is_ready(world: World) -> None:
    shift(world.latest, (0, 60, 120, 180, 240))
    assert outcome(judge_state(world)) == ("ready", [])


# Rules on facts alone


@pytest.fixture
def facts(stepped: RunReport) -> StateFacts:
    return stepped.checkpoint("stepped-000002-state").facts


def told(facts: StateFacts) -> list[Finding]:
    return list(check_consistency(facts))


def optimizer_of(facts: StateFacts) -> OptimizerFacts:
    assert isinstance(facts.optimizer, OptimizerFacts)
    return facts.optimizer


def weights_of(facts: StateFacts) -> WeightsFacts:
    assert isinstance(facts.weights, WeightsFacts)
    return facts.weights


def test_whole_facts_give_no_finding(facts: StateFacts) -> None:
    assert told(facts) == []


def test_an_optimizer_for_another_number_of_tensors(facts: StateFacts) -> None:
    count = optimizer_of(facts).param_count
    broken = replace(facts, optimizer=replace(optimizer_of(facts), param_count=count + 1))
    (only,) = told(broken)
    assert (only.code, only.file) == ("optimizer-params-mismatch", "optimizer.bin")
    assert f"saved for {count + 1} tensors, the weights have {count}" in only.message


def test_a_part_that_was_not_trained_is_missing_rightly(facts: StateFacts) -> None:
    weights, optimizer = weights_of(facts), optimizer_of(facts)
    unet = weights.parts["unet"]
    assert unet < weights.trained_count, "the small network trains a text encoder too"
    only_unet = replace(optimizer, param_count=unet, shapes=None)
    assert told(replace(facts, optimizer=only_unet)) == []
    assert [
        each.code for each in told(replace(facts, optimizer=replace(only_unet, param_count=unet - 1)))
    ] == ["optimizer-params-mismatch"]


def test_an_optimizer_for_tensors_of_other_shapes(facts: StateFacts) -> None:
    optimizer = optimizer_of(facts)
    assert optimizer.shapes is not None
    shapes = Counter({(8, *shape[1:]): count for shape, count in optimizer.shapes.items()})
    (only,) = told(replace(facts, optimizer=replace(optimizer, shapes=shapes)))
    assert only.code == "optimizer-shapes-mismatch"
    assert "×" in only.message


def test_moments_of_unknown_shape_are_no_mismatch(facts: StateFacts) -> None:
    eight_bit = replace(optimizer_of(facts), family="adamw8bit", shapes=Counter({(1, 1): 3}))
    assert told(replace(facts, optimizer=eight_bit)) == []


# What reading every byte told


GOOD = DeepFacts({}, {}, None, 1_234_567)


@pytest.mark.parametrize(
    ("deep", "code", "words"),
    [
        (
            replace(GOOD, damage={"optimizer.bin": Damage(DamageKind.CORRUPT, "data/3 fails its checksum")}),
            "optimizer-bytes-changed",
            "data/3 fails its checksum",
        ),
        (
            replace(
                GOOD, damage={"pytorch_model.bin": Damage(DamageKind.CORRUPT, "data/0 fails its checksum")}
            ),
            "weights-bytes-changed",
            "pytorch_model.bin",
        ),
        (
            replace(GOOD, non_finite={"model.safetensors": ("a", "b", "c", "d", "e")}),
            "weights-not-finite",
            "a, b, c and 2 more",
        ),
        (
            replace(GOOD, non_finite={"optimizer.bin": ("exp_avg of parameter 0",)}),
            "optimizer-not-finite",
            "NaN or Inf",
        ),
        (
            replace(GOOD, pair=WeightsLoraPair("x.safetensors", True, ("lora_a", "lora_b"), 12)),
            "weights-differ-from-lora",
            "2 of 12 tensors differ, such as lora_a, lora_b",
        ),
    ],
)
def test_what_the_bytes_tell_is_never_fine(facts: StateFacts, deep: DeepFacts, code: str, words: str) -> None:
    lasting = told(replace(facts, deep=deep))
    assert [each.code for each in lasting] == [code, "bytes-verified"]
    assert lasting[0].severity is Severity.ERROR
    assert words in lasting[0].message


def test_good_bytes_are_told_as_information(facts: StateFacts) -> None:
    pair = WeightsLoraPair("x.safetensors", True, (), 12)
    lasting = told(replace(facts, deep=replace(GOOD, pair=pair)))
    assert [(each.code, each.severity) for each in lasting] == [
        ("weights-match-lora", Severity.INFO),
        ("bytes-verified", Severity.INFO),
    ]
    assert "1,234,567 bytes" in lasting[1].message


def test_a_lora_file_of_other_tensors_vouches_for_nothing(facts: StateFacts) -> None:
    pair = WeightsLoraPair("x.safetensors", False, (), 0)
    assert [each.code for each in told(replace(facts, deep=replace(GOOD, pair=pair)))] == ["bytes-verified"]


@pytest.mark.parametrize(("later", "code"), [(0, "weights-differ-from-lora"), (3600, "lora-newer")])
def test_a_lora_file_of_a_later_save_cannot_vouch(facts: StateFacts, later: int, code: str) -> None:
    assert isinstance(facts.lora, LoraFacts)
    lora = replace(facts.lora, modified_ns=facts.saved_ns + later * SECOND)
    deep = replace(GOOD, pair=WeightsLoraPair(lora.file, True, ("lora_a",), 12))
    assert code in [each.code for each in told(replace(facts, lora=lora, deep=deep))]


def test_the_train_state_of_the_world_is_what_these_tests_take_it_for(world: World) -> None:
    record = json.loads((world.latest / "train_state.json").read_text())
    assert record == {"current_epoch": 4, "current_step": 32}


def test_a_split_qkv_is_saved_merged_and_trained_apart(facts: StateFacts) -> None:
    weights, optimizer = weights_of(facts), optimizer_of(facts)
    assert "lora_unet_single_blocks_0_linear1" in weights.modules
    rank = min(weights.ranks)
    merged = replace(weights, ranks=weights.ranks - Counter({rank: 1}) + Counter({4 * rank: 1}))
    count = optimizer.param_count + 6
    apart = replace(optimizer, param_count=count, state_count=count)

    assert told(replace(facts, weights=merged, optimizer=apart)) == []
    for other in (
        replace(apart, param_count=apart.param_count + 1),
        replace(apart, param_count=apart.param_count - 1),
    ):
        (only,) = told(replace(facts, weights=merged, optimizer=other))
        assert only.code == "optimizer-params-mismatch"
    # Without the larger rank nothing was merged.
    (only,) = told(replace(facts, optimizer=apart))
    assert only.code == "optimizer-params-mismatch"


def test_an_optimizer_that_forgot_tensors_cannot_be_judged(facts: StateFacts) -> None:
    optimizer = optimizer_of(facts)
    for count in (optimizer.param_count - 1, 0):
        (only,) = told(replace(facts, optimizer=replace(optimizer, state_count=count)))
        assert (only.code, only.severity) == ("optimizer-state-incomplete", Severity.UNKNOWN)
        assert f"remembers {count} of its {optimizer.param_count} tensors" in only.message
    # Plain SGD keeps nothing, and before the first step there is nothing to remember.
    assert told(replace(facts, optimizer=replace(optimizer, state_count=0, family="sgd"))) == []


def test_an_optimizer_and_a_schedule_that_counted_otherwise_are_of_two_saves(facts: StateFacts) -> None:
    optimizer = optimizer_of(facts)
    assert optimizer.step is not None
    (only,) = told(replace(facts, optimizer=replace(optimizer, step=optimizer.step - 8)))
    assert (only.code, only.severity) == ("optimizer-step-differs", Severity.UNKNOWN)
    assert f"counted {optimizer.step - 8} updates, the schedule {optimizer.step}" in only.message


def test_each_process_counts_for_the_schedule(facts: StateFacts) -> None:
    optimizer = optimizer_of(facts)
    assert optimizer.step is not None
    halved = replace(facts, optimizer=replace(optimizer, step=optimizer.step // 2))
    second = replace(facts.files[0], name="random_states_1.pkl")

    assert [each.code for each in told(halved)] == ["optimizer-step-differs"]
    assert told(replace(halved, files=(*facts.files, second))) == []


def test_the_weights_of_another_epoch_are_told_by_a_piece_of_them(world: World) -> None:
    shutil.copy2(world.state(3) / "model.safetensors", world.latest / "model.safetensors")

    report = judge_state(world)

    assert report.verdict.value == "damaged"
    assert found(report, "weights-differ-from-lora").evidence.endswith("lora_up.weight differs")


def test_a_lora_file_of_another_epoch_or_a_later_save_is_no_witness(world: World, facts: StateFacts) -> None:
    weights = weights_of(facts)
    assert weights.sample is not None
    assert isinstance(facts.lora, LoraFacts)
    other = replace(weights, sample=weights.sample._replace(data=bytes(len(weights.sample.data))))
    assert [each.code for each in told(replace(facts, weights=other))] == ["weights-differ-from-lora"]
    assert facts.lora.epoch is not None
    for witness in (
        replace(facts.lora, epoch=facts.lora.epoch + 1),
        replace(facts.lora, modified_ns=facts.saved_ns + 120 * SECOND),
    ):
        assert told(replace(facts, weights=other, lora=witness)) == []
