"""The stand-in has the shapes and the kinds of what was saved; its loads are those of tests/environment/rehearsal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_core.environment.trainer_side import rehearse
from checkpoint_core.environment.trainer_side.stand_in import (
    EightBitOptimizer,
    PlainOptimizer,
    PlainSchedule,
    StandIn,
    is_schedule_free,
    network_like,
    optimizer_like,
    peek,
    same_bytes,
    schedule_like,
)
from tests.builders import with_header
from tests.damage import empty, make_schedule_free, truncate
from tests.world import World


def parameters(count: int) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(count)]


def saved(
    *sizes: int, keys: tuple[str, ...] = ("step", "exp_avg", "exp_avg_sq"), **settings: Any
) -> dict[str, Any]:
    """An optimizer's state_dict as it was saved, with numbered parameters."""
    numbers = iter(range(sum(sizes)))
    groups = [{"lr": 1e-3, **settings, "params": [next(numbers) for _ in range(size)]} for size in sizes]
    state = {number: {key: torch.zeros(2, 3) for key in keys} for number in range(sum(sizes))}
    return {"state": state, "param_groups": groups}


def test_the_network_has_the_saved_tensors_and_alpha_is_no_parameter(world: World) -> None:
    from safetensors.torch import load_file

    tensors = load_file(world.latest / "model.safetensors")
    network = network_like(world.latest)

    assert {name: (value.shape, value.dtype) for name, value in network.state_dict().items()} == {
        name: (value.shape, value.dtype) for name, value in tensors.items()
    }
    assert {name for name, _ in network.named_buffers()} == {
        name for name in tensors if name.endswith(".alpha")
    }
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_pickled_weights_give_the_same_network(registered_states: Path) -> None:
    shapes = [
        {name: value.shape for name, value in network_like(registered_states / kind).state_dict().items()}
        for kind in ("safetensors", "bin")
    ]

    assert shapes[0] == shapes[1] != {}


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F99", "shape": [1]}}'])
def test_unreadable_weights_give_an_empty_network_for_the_real_load_to_refuse(
    tmp_path: Path, header: bytes
) -> None:
    (tmp_path / "model.safetensors").write_bytes(with_header(header))

    assert network_like(tmp_path).state_dict() == {}


def test_a_header_that_claims_more_than_the_file_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 7 + b"\x7f{}")

    assert network_like(tmp_path).state_dict() == {}


def test_the_optimizer_has_the_saved_groups_in_order() -> None:
    given = parameters(5)
    optimizer = optimizer_like(saved(2, 3), given, only_these=True)

    assert [group["params"] for group in optimizer.param_groups] == [given[:2], given[2:]]


def test_parameters_that_were_frozen_are_left_out() -> None:
    given = parameters(5)

    assert [
        len(group["params"]) for group in optimizer_like(saved(2, 1), given, only_these=True).param_groups
    ] == [2, 1]


def test_an_optimizer_of_more_parameters_than_a_lora_has_is_refused_by_torch() -> None:
    too_many = saved(2, 3)
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        optimizer_like(too_many, parameters(4), only_these=True).load_state_dict(too_many)
    optimizer_like(too_many, parameters(4), only_these=False).load_state_dict(too_many)


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (saved(2, amsgrad=False), torch.optim.AdamW),
        (saved(2, keys=("momentum_buffer",), dampening=0), torch.optim.SGD),
        (
            saved(2, keys=("step", "exp_avg_sq_row", "exp_avg_sq_col", "RMS"), relative_step=False),
            PlainOptimizer,
        ),
        (saved(2, keys=("step", "state1", "state2", "qmap1")), EightBitOptimizer),
        (saved(2, keys=("__bnb_optimizer_quant_state__",)), EightBitOptimizer),
        (None, PlainOptimizer),
        ([], PlainOptimizer),
        ({"state": 1, "param_groups": {}}, PlainOptimizer),
    ],
)
def test_the_optimizer_is_of_the_saved_kind(record: Any, kind: type) -> None:
    optimizer = optimizer_like(record, parameters(2), only_these=True)

    assert type(optimizer) is kind
    if isinstance(record, dict) and isinstance(record["state"], dict):
        optimizer.load_state_dict(record)
        assert len(optimizer.state) == 2


def test_bytes_of_the_8_bit_optimizer_stay_bytes() -> None:
    record = saved(1, keys=("state1",))
    record["state"][0]["state1"] = torch.zeros(6, dtype=torch.uint8)
    (parameter,) = given = parameters(1)
    optimizer = optimizer_like(record, given, only_these=True)
    optimizer.load_state_dict(record)

    assert optimizer.state[parameter]["state1"].dtype is torch.uint8


def test_a_schedule_is_of_the_saved_kind_and_loads_its_functions() -> None:
    optimizer = optimizer_like(saved(1, 1), parameters(2), only_these=True)
    functions = schedule_like({"lr_lambdas": [{"warmup": 3}, None], "last_epoch": 7}, optimizer)
    functions.load_state_dict({"lr_lambdas": [{"warmup": 3}, None], "last_epoch": 7})
    plain = schedule_like({"last_epoch": 7}, optimizer)
    plain.load_state_dict({"last_epoch": 7})

    assert isinstance(functions, torch.optim.lr_scheduler.LambdaLR)
    assert (functions.last_epoch, functions.lr_lambdas[0].warmup) == (7, 3)
    assert isinstance(plain, PlainSchedule)
    assert plain.last_epoch == 7


def test_schedule_free_optimizers_are_known_by_their_groups(world: World) -> None:
    assert not is_schedule_free(peek(world.latest / "optimizer.bin"))
    make_schedule_free(world.latest)
    assert is_schedule_free(peek(world.latest / "optimizer.bin"))


def test_peeking_reads_no_numbers_and_never_raises(world: World) -> None:
    path = world.latest / "optimizer.bin"
    entry = peek(path)["state"][0]
    assert entry["exp_avg_sq_row"].device.type == "meta"
    for damage in (truncate, empty, Path.unlink):
        damage(path)
        assert peek(path) is None


def test_nan_is_the_same_as_itself_and_one_bit_is_not() -> None:
    numbers = torch.tensor([1.0, float("nan")])
    other = numbers.clone()
    other.view(torch.uint8)[0] ^= 1

    assert same_bytes(numbers, numbers.clone())
    assert not same_bytes(numbers, other)
    assert not same_bytes(numbers, numbers.double())
    assert same_bytes(torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(1.0, dtype=torch.bfloat16))


def test_an_exception_is_described_by_its_place_in_the_libraries() -> None:
    try:
        torch.load(Path("no-such-file"))
    except FileNotFoundError as error:
        described = rehearse.described(error)

    assert described["exception"] == "FileNotFoundError"
    assert "no-such-file" in described["message"]
    assert described["frames"][-1].startswith("serialization.py:")
    assert not any("test_stand_in" in frame for frame in described["frames"])


def test_the_stamp_of_a_state_changes_with_any_file_of_it(world: World) -> None:
    stamps = [rehearse.state_stamp(world.latest), rehearse.state_stamp(world.latest)]
    truncate(world.latest / "scheduler.bin")
    stamps.append(rehearse.state_stamp(world.latest))
    (world.latest / "dangling").symlink_to("nowhere")
    stamps.append(rehearse.state_stamp(world.latest))

    assert stamps[0] == stamps[1]
    assert len(set(stamps)) == 3


def test_what_accelerate_gave_up_is_heard_behind_any_number_of_lines(world: World) -> None:
    stand_in = StandIn(world.latest, "sd-scripts")
    for _ in range(500):
        stand_in.heard("Loading states from a checkpoint")
    assert not stand_in.gave_up
    stand_in.heard("Could not load random states")
    stand_in.heard("Loading in 0 custom states")

    assert stand_in.gave_up
    assert len(stand_in.log_lines) == 100
