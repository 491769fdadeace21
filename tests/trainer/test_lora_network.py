"""The network that a script's flags describe: parts, ranks, blocks; and no plan where that is not told."""

from __future__ import annotations

import pytest

from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.states.layout import Layout
from checkpoint_core.trainer.lora_network import (
    MODULE,
    LoraPlan,
    difference,
    finite,
    full_size_modules,
    part_of,
    plan_network,
)


def script(*args: str, hidden: str | None = None, **flags: tuple[str | None, ...]) -> ScriptFacts:
    """A script with these ``--network_args`` and flags."""
    given: dict[str, tuple[str | None, ...]] = {f"--{name}": values for name, values in flags.items()}
    if args:
        given["--network_args"] = args
    trainer = "sd-scripts/flux_train_network.py"
    return ScriptFacts(
        "train.sh", trainer, Layout.SD_SCRIPTS, network_module=MODULE, flags=given, hidden=hidden
    )


def plan(*args: str, **flags: tuple[str | None, ...]) -> LoraPlan:
    found = plan_network(script(*args, **flags))
    assert found is not None
    return found


def test_a_flux_of_full_size_has_304_modules_in_its_blocks() -> None:
    names = full_size_modules()
    assert len(set(names)) == len(names) == 304
    assert "lora_unet_double_blocks_18_txt_mod_lin" in names
    assert "lora_unet_single_blocks_37_modulation_lin" in names


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "te1"),
        ("lora_te3_encoder_block_0", "te3"),
        ("lora_unet_double_blocks_0_img_attn_qkv", "double"),
        ("lora_unet_single_blocks_37_linear1", "single"),
        ("lora_unet_time_in_in_layer", "in"),
        ("lora_te_text_model", "other"),
        ("", "other"),
    ],
)
def test_the_part_of_a_module_is_in_its_name(module: str, part: str) -> None:
    assert part_of(module) == part


def test_a_script_without_flags_trains_everything_at_rank_four() -> None:
    found = plan()
    assert (found.rank, found.alpha, found.parts) == (4, 1.0, {"te1", "double", "single"})
    assert {found.rank_of(name) for name in full_size_modules()} == {4}
    assert found.rank_of("lora_unet_img_in") == found.rank_of("lora_te3_encoder") == 0


@pytest.mark.parametrize(
    ("args", "module", "rank"),
    [
        (("img_attn_dim=2",), "lora_unet_double_blocks_0_img_attn_qkv", 2),
        (("img_attn_dim=2",), "lora_unet_double_blocks_0_txt_attn_qkv", 8),
        (("txt_mod_dim=0",), "lora_unet_double_blocks_0_txt_mod_lin", 0),
        (("single_dim=2",), "lora_unet_single_blocks_0_linear2", 2),
        (("single_dim=2",), "lora_unet_single_blocks_0_modulation_lin", 8),
        (("single_mod_dim=3",), "lora_unet_single_blocks_0_modulation_lin", 3),
        (("img_attn_dim=2",), "lora_te1_img_attn", 8),
        (("in_dims=[1,2,0,4,5]",), "lora_unet_time_in_out_layer", 2),
        (("in_dims=1,2,0,4,5",), "lora_unet_vector_in_in_layer", 0),
        (("in_dims=1,2,0,4,5",), "lora_unet_txt_in", 5),
        (("split_qkv=True", "train_blocks=single"), "lora_unet_single_blocks_0_linear1", 32),
        (("split_qkv=true",), "lora_unet_single_blocks_0_linear1", 8),
        (("train_double_block_indices=0,4-7",), "lora_unet_double_blocks_5_img_mlp_0", 8),
        (("train_double_block_indices=0,4-7",), "lora_unet_double_blocks_3_img_mlp_0", 0),
        (("train_double_block_indices=none",), "lora_unet_single_blocks_3_linear1", 8),
        (("train_single_block_indices=all",), "lora_unet_single_blocks_3_linear1", 8),
        (("train_t5xxl=True",), "lora_te3_encoder", 8),
        (("rank_dropout=0.1", "a=b=c"), "lora_unet_single_blocks_3_linear1", 8),
    ],
)  # fmt: skip
def test_each_module_has_the_rank_that_its_name_asks_for(
    args: tuple[str, ...], module: str, rank: int
) -> None:
    assert plan(*args, network_dim=("8",)).rank_of(module) == rank


@pytest.mark.parametrize(
    ("args", "flags", "parts"),
    [
        ((), {"network_train_unet_only": ()}, {"double", "single"}),
        (("in_dims=1,1,1,1,1",), {"network_train_text_encoder_only": ()}, {"te1"}),
        (("train_blocks=single",), {}, {"te1", "single"}),
        (("train_blocks=all", "in_dims=0,0,0,0,0"), {}, {"te1", "double", "single"}),
        (("single_dim=0", "single_mod_dim=0"), {}, {"te1", "double"}),
        (("single_dim=0",), {}, {"te1", "double", "single"}),
        (("train_double_block_indices=none",), {}, {"te1", "single"}),
    ],
)
def test_parts_are_created_where_a_module_of_them_is(
    args: tuple[str, ...], flags: dict[str, tuple[str, ...]], parts: set[str]
) -> None:
    assert plan(*args, **flags).created_parts() == parts


@pytest.mark.parametrize(
    "arg",
    ["in_dims=1,2,3", "in_dims=a", "img_attn_dim=x", "train_double_block_indices=19", "train_blocks=", "plain",
     "train_single_block_indices=5-2", "loraplus_lr_ratio=inf", "network_reg_dims=.*=8"],
)  # fmt: skip
def test_what_the_trainer_refuses_or_finds_by_pattern_gives_no_plan(arg: str) -> None:
    assert plan_network(script(arg)) is None


@pytest.mark.parametrize("flag", ["network_dim", "network_alpha", "network_args", "network_train_unet_only"])
def test_a_flag_whose_value_only_the_shell_knows_gives_no_plan(flag: str) -> None:
    assert plan_network(script(**{flag: (None,)})) is None


def test_flags_that_may_be_hidden_give_no_plan() -> None:
    assert plan_network(script(hidden="--config_file more.toml is not read here")) is None


def test_names_without_end_are_only_names() -> None:
    found = plan()
    for name in (
        "lora_unet_double_blocks_" + "9" * 5000 + "_x",
        "lora_unet_double_blocks_",
        "lora_unet_" * 999,
    ):
        assert found.rank_of(name) == 0


def test_a_difference_counts_the_ranks_of_the_modules_that_both_have() -> None:
    modules = frozenset(
        {"lora_te1_a", "lora_unet_single_blocks_0_linear1", "lora_unet_double_blocks_0_img_mlp_0"}
    )
    found = difference(plan("train_blocks=single", "single_dim=2"), modules)
    assert found.unexpected == ("lora_unet_double_blocks_0_img_mlp_0",)
    assert (found.missing, found.rank_counts) == ((), {4: 1, 2: 1})


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "", "eight"])
def test_only_finite_numbers_are_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"finite|float"):
        finite(text)
