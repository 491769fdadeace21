"""What a script gives for a flag: a value, certainly none, or that it cannot be told."""

from __future__ import annotations

import pytest

from checkpoint_core.trainer.given import Undetermined, given_or, given_values, is_given
from tests.trainer.test_lora_network import script


def test_a_flags_value_is_told_absent_or_not_told() -> None:
    flags = script(network_dim=("8",), unet_lr=(None,), sdpa=())
    assert given_values(flags, "--network_dim") == ("8",)
    assert given_values(flags, "--network_alpha") == given_values(flags, "--sdpa") == ()
    assert given_or(flags, "--network_alpha", "1") == "1"
    assert is_given(flags, "--sdpa")
    with pytest.raises(Undetermined, match="--unet_lr"):
        given_values(flags, "--unet_lr")
    for flag in ("--unet_lr", "--sdpa"):
        with pytest.raises(Undetermined, match=flag):
            given_or(flags, flag, "1")


def test_what_hides_flags_leaves_the_absent_ones_open() -> None:
    flags = script(hidden="$MORE may hold flags")
    for ask in (given_values, is_given):
        with pytest.raises(Undetermined, match="MORE"):
            ask(flags, "--network_dim")
    with pytest.raises(Undetermined, match="MORE"):
        given_or(flags, "--network_dim", "4")
