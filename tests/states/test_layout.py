"""File names and name patterns of the trainers, held against what the real libraries call their files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_core.audit.run_reader import layout_of_trainer
from checkpoint_core.states.layout import (
    STATE_MARKERS,
    WRITE_ORDER,
    Layout,
    SavePoint,
    is_saved_file,
    looks_like_state,
    parse_state_name,
)
from tests.world import STATE_FILES


@pytest.mark.parametrize(
    ("text", "output_name", "save_point", "number", "name"),
    [
        ("cat-000004-state", None, SavePoint.EPOCH, 4, "cat"),
        ("cat-000004-state", "cat", SavePoint.EPOCH, 4, "cat"),
        ("cat-1000000-state", None, SavePoint.EPOCH, 1_000_000, "cat"),
        ("cat-step00000250-state", None, SavePoint.STEP, 250, "cat"),
        ("cat-state", None, SavePoint.LAST, None, "cat"),
        ("cat-00004-state", None, SavePoint.LAST, None, "cat-00004"),
        ("cat-step250-state", None, SavePoint.LAST, None, "cat-step250"),
        # An output name that itself ends in six digits: only the script's --output_name decides.
        ("cat-202411-state", None, SavePoint.EPOCH, 202_411, "cat"),
        ("cat-202411-state", "cat-202411", SavePoint.LAST, None, "cat-202411"),
        ("cat-202411-000004-state", "cat-202411", SavePoint.EPOCH, 4, "cat-202411"),
        ("cat-step00000250-state", "cat-step00000250", SavePoint.LAST, None, "cat-step00000250"),
        ("my-state-000004-state", None, SavePoint.EPOCH, 4, "my-state"),
        ("Katze ü\n<b>-000004-state", None, SavePoint.EPOCH, 4, "Katze ü\n<b>"),
        ("cat-٠٠٠٠٠٤-state", None, SavePoint.LAST, None, "cat-٠٠٠٠٠٤"),
        ("cat-" + "9" * 200 + "-state", None, SavePoint.LAST, None, "cat-" + "9" * 200),
        ("cat-000004", None, SavePoint.OTHER, None, None),
        ("cat-000004-state.bak", None, SavePoint.OTHER, None, None),
        ("cat-000004-state\n", None, SavePoint.OTHER, None, None),
        ("-state", None, SavePoint.OTHER, None, None),
        ("checkpoint_0", None, SavePoint.OTHER, None, None),
        ("", None, SavePoint.OTHER, None, None),
    ],
)
def test_a_name_is_read_by_the_trainers_patterns(
    text: str, output_name: str | None, save_point: SavePoint, number: int | None, name: str | None
) -> None:
    parsed = parse_state_name(text, output_name)
    assert (parsed.save_point, parsed.number, parsed.output_name) == (save_point, number, name)
    assert parsed.text == text


@given(st.text(min_size=1), st.integers(0, 10**9))
def test_every_name_that_the_trainer_makes_is_read_back(name: str, number: int) -> None:
    """The format strings of sd-scripts library/train_util.py: EPOCH_STATE_NAME, STEP_STATE_NAME, LAST_STATE_NAME."""
    for text, save_point, told in (
        (f"{name}-{number:06d}-state", SavePoint.EPOCH, number),
        (f"{name}-step{number:08d}-state", SavePoint.STEP, number),
        (f"{name}-state", SavePoint.LAST, None),
    ):
        parsed = parse_state_name(text, name)
        assert (parsed.save_point, parsed.number, parsed.output_name) == (save_point, told, name)
        assert parsed.lora_file == text.removesuffix("-state") + ".safetensors"


def test_the_lora_file_of_the_same_moment_is_named() -> None:
    assert parse_state_name("cat-000004-state").lora_file == "cat-000004.safetensors"
    assert parse_state_name("cat-step00000250-state").lora_file == "cat-step00000250.safetensors"
    assert parse_state_name("cat-state").lora_file == "cat.safetensors"


@pytest.mark.parametrize("marker", sorted(STATE_MARKERS | {"model.safetensors.index.json"}))
def test_one_file_of_a_state_makes_a_directory_a_state(marker: str) -> None:
    assert looks_like_state([marker, "notes.txt"])


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["notes.txt", "image.png"],
        # A folder of models that somebody downloaded is none.
        ["model.safetensors", "config.json"],
        ["pytorch_model.bin"],
        ["Optimizer.bin", "optimizer.bin.part"],
    ],
)
def test_a_directory_of_other_files_is_none(names: list[str]) -> None:
    assert not looks_like_state(names)


def test_the_small_trainer_writes_the_files_in_our_order() -> None:
    assert WRITE_ORDER == STATE_FILES


@pytest.mark.parametrize(
    "name",
    [
        *WRITE_ORDER,
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "random_states_1.pkl",
        "custom_checkpoint_12.pkl",
    ],
)
def test_the_files_of_a_save_are_known(name: str) -> None:
    assert is_saved_file(name)


@pytest.mark.parametrize(
    "name",
    ".tmpA1b2C3 .DS_Store model_1.safetensors optimizer_1.bin sampler.bin scaler.pt Thumbs.db "
    "model.safetensors.part optimizer.bin~ random_states_x.pkl".split(),
)
def test_leftovers_are_no_files_of_a_save(name: str) -> None:
    assert not is_saved_file(name)


@pytest.mark.parametrize(
    ("trainer", "layout"),
    [
        ("sd-scripts/flux_train_network.py", Layout.SD_SCRIPTS),
        ("/app/sd-scripts/sdxl_train_network.py", Layout.SD_SCRIPTS),
        ("sd-scripts\\flux_train_network.py", Layout.SD_SCRIPTS),
        ("train_network.py", Layout.SD_SCRIPTS),
        ("D:\\kohya\\flux_train_network.py", Layout.SD_SCRIPTS),
        ("sd-scripts/flux_train.py", Layout.SD_SCRIPTS),
        ("train.py", Layout.ACCELERATE_OBJECTS),
        ("train_text_to_image_lora.py", Layout.ACCELERATE_OBJECTS),
        ("train_network.py.bak", Layout.ACCELERATE_OBJECTS),
    ],
)
def test_the_layout_follows_the_trainer(trainer: str, layout: Layout) -> None:
    assert layout_of_trainer(trainer) is layout
