"""The optimizer's groups that a script's flags describe, and the changes that would make others."""

from __future__ import annotations

from collections import Counter

import pytest

from checkpoint_core.trainer.param_groups import changes_to, plan_groups, plan_rates
from tests.trainer.test_lora_network import plan, script

PARTS = Counter(te1=144, unet=608)
BOTH = (1e-4, 1e-4, 1e-4)


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ({}, (2e-6, 2e-6, 2e-6)),
        ({"learning_rate": ("8e-4",)}, (8e-4, 8e-4, 8e-4)),
        ({"learning_rate": ("8e-4",), "unet_lr": ("1e-4",)}, (8e-4, 8e-4, 1e-4)),
        ({"learning_rate": ("8e-4",), "text_encoder_lr": ("0",)}, (0.0, 0.0, 8e-4)),
        ({"text_encoder_lr": ("1e-5", "2e-5")}, (1e-5, 2e-5, 2e-6)),
        ({"text_encoder_lr": ()}, (2e-6, 2e-6, 2e-6)),
        ({"learning_rate": ("fast",)}, None),
        ({"unet_lr": (None,)}, None),
        ({"unet_lr": ()}, None),
    ],
)
def test_each_part_has_its_learning_rate(
    flags: dict[str, tuple[str | None, ...]], rates: tuple[float, ...] | None
) -> None:
    assert plan_rates(script(**flags)) == rates


@pytest.mark.parametrize(
    ("args", "rates", "groups"),
    [
        ((), BOTH, [(144, 1e-4), (608, 1e-4)]),
        ((), (0.0, 0.0, 1e-4), [(608, 1e-4)]),
        ((), (1e-5, 0.0, 0.0), [(144, 1e-5)]),
        (("loraplus_lr_ratio=16",), BOTH, [(72, 1e-4), (72, 1.6e-3), (304, 1e-4), (304, 1.6e-3)]),
        (("loraplus_unet_lr_ratio=4",), BOTH, [(144, 1e-4), (304, 1e-4), (304, 4e-4)]),
        (("loraplus_lr_ratio=16", "loraplus_text_encoder_lr_ratio=2"), BOTH,
         [(72, 1e-4), (72, 2e-4), (304, 1e-4), (304, 1.6e-3)]),
        (("loraplus_lr_ratio=0",), BOTH, [(144, 1e-4), (608, 1e-4)]),
    ],
)  # fmt: skip
def test_a_part_is_a_group_and_two_with_lora_plus(
    args: tuple[str, ...], rates: tuple[float, float, float], groups: list[tuple[int, float]]
) -> None:
    found = plan_groups(plan(*args), PARTS, rates)
    assert found is not None
    assert [group.size for group in found] == [size for size, _ in groups]
    assert [group.rate for group in found] == pytest.approx([rate for _, rate in groups])


@pytest.mark.parametrize(
    "args", [("split_qkv=True", "train_blocks=single"), ("network_reg_lrs=single=1e-5",)]
)
def test_groups_that_the_saved_tensors_do_not_tell_are_not_planned(args: tuple[str, ...]) -> None:
    assert plan_groups(plan(*args), PARTS, BOTH) is None


@pytest.mark.parametrize(
    ("saved", "args", "rates", "changes"),
    [
        ((144, 608), (), BOTH, ()),
        ((608,), (), BOTH, ("set --text_encoder_lr to 0",)),
        ((144, 608), (), (0.0, 0.0, 1e-4), ("set --text_encoder_lr to the learning rate that this part had",)),
        ((144,), (), BOTH, ("set --unet_lr to 0",)),
        ((144, 304, 304), (), BOTH, ("add loraplus_unet_lr_ratio (or loraplus_lr_ratio) to --network_args",)),
        ((144, 608), ("loraplus_unet_lr_ratio=4",), BOTH,
         ("remove loraplus_unet_lr_ratio (or loraplus_lr_ratio) from --network_args",)),
        ((700, 52), (), BOTH, ()),
    ],
)  # fmt: skip
def test_the_fewest_changes_that_make_the_saved_groups_are_told(
    saved: tuple[int, ...], args: tuple[str, ...], rates: tuple[float, float, float], changes: tuple[str, ...]
) -> None:
    assert changes_to(saved, plan(*args), PARTS, rates) == changes
