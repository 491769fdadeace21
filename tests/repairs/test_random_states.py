"""Random states written anew: the same generators to the bit, or new ones that are whole."""

from __future__ import annotations

import io
import random
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from checkpoint_core.formats import DamageKind, FormatError
from checkpoint_core.readers import read_random_states
from checkpoint_core.repairs.random_states import fresh_random_states, rewritten_random_states
from tests.damage import calling_pickle, drop_rng_step, empty, put_pickle, truncate
from tests.world import World

NAME = "random_states_0.pkl"


def strictly(data: bytes) -> Any:
    """As a torch reads it that takes nothing but plain data."""
    return torch.load(io.BytesIO(data), weights_only=True)


def saved(path: Path) -> Any:
    """As it was saved, in a test's own process."""
    return torch.load(path, weights_only=False)


def assert_same(ours: Any, theirs: Any) -> None:
    assert ours["random_state"] == theirs["random_state"]
    assert torch.equal(ours["torch_manual_seed"], theirs["torch_manual_seed"])
    assert numpy.array_equal(ours["numpy_random_seed"][1], theirs["numpy_random_seed"][1])
    assert ours["numpy_random_seed"][2:] == tuple(theirs["numpy_random_seed"][2:])


def test_the_same_generators_without_an_array(world: World) -> None:
    path = world.latest / NAME
    ours = strictly(rewritten_random_states(path))

    assert_same(ours, saved(path))
    assert type(ours["numpy_random_seed"][1]) is list
    assert ours["step"] == saved(path)["step"]


def test_it_loads_into_the_generators(world: World) -> None:
    path = world.latest / NAME
    for load, read in ((saved, path), (strictly, io.BytesIO(rewritten_random_states(path)).getvalue())):
        states = load(read)
        random.setstate(states["random_state"])
        numpy.random.set_state(states["numpy_random_seed"])
        torch.set_rng_state(states["torch_manual_seed"])
        drawn = (random.random(), numpy.random.rand(), torch.rand(1).item())
        if load is saved:
            wanted = drawn
    assert drawn == wanted


def test_a_missing_step_is_put_in_and_a_present_one_kept(world: World) -> None:
    path = world.latest / NAME
    drop_rng_step(world.latest)
    assert strictly(rewritten_random_states(path))["step"] == 0

    states = saved(path)
    torch.save({**states, "step": 17}, path)
    assert strictly(rewritten_random_states(path))["step"] == 17


def test_the_states_of_gpus_and_plain_extras_are_kept(world: World) -> None:
    path = world.latest / NAME
    cuda = [torch.arange(16, dtype=torch.uint8), torch.arange(16, 32, dtype=torch.uint8)]
    torch.save({**saved(path), "torch_cuda_manual_seed": cuda, "mine": {"a": (1, None)}}, path)

    ours = strictly(rewritten_random_states(path))

    assert all(
        torch.equal(one, other) for one, other in zip(ours["torch_cuda_manual_seed"], cuda, strict=True)
    )
    assert ours["mine"] == {"a": (1, None)}


def test_the_real_trainers_files(real_runs: Path) -> None:
    found = sorted(real_runs.glob(f"*-adaf*/*-state/{NAME}"))
    assert len(found) > 6
    for path in found:
        assert_same(strictly(rewritten_random_states(path)), saved(path))


def test_a_file_that_is_rewritten_already_stays_as_it_is(world: World, tmp_path: Path) -> None:
    first = rewritten_random_states(world.latest / NAME)
    (tmp_path / NAME).write_bytes(first)

    assert rewritten_random_states(tmp_path / NAME) == first


@pytest.mark.parametrize("damage", [truncate, empty, lambda path: path.write_bytes(b"PK no zip")])
def test_what_is_beyond_reading_is_told(world: World, damage: Any) -> None:
    damage(world.latest / NAME)
    with pytest.raises(FormatError):
        rewritten_random_states(world.latest / NAME)


@pytest.mark.parametrize("key", ["random_state", "numpy_random_seed", "torch_manual_seed"])
def test_without_a_generator_it_is_not_the_same(world: World, key: str) -> None:
    path = world.latest / NAME
    states = saved(path)
    del states[key]
    torch.save(states, path)

    with pytest.raises(FormatError, match="lacks the state of a random generator"):
        rewritten_random_states(path)


def test_other_objects_are_not_carried_over(world: World) -> None:
    path = world.latest / NAME
    put_pickle(path, calling_pickle("os", "system", "true"))
    with pytest.raises(FormatError) as caught:
        rewritten_random_states(path)
    assert caught.value.kind is DamageKind.FOREIGN


@pytest.mark.parametrize("state", [("MT19937", [1, 2]), "MT19937", ("MT19937", numpy.zeros(3), 0, 0, 0.0)])
def test_another_form_of_numpys_state_is_not_guessed_at(world: World, state: object) -> None:
    path = world.latest / NAME
    torch.save({**saved(path), "numpy_random_seed": state}, path)
    with pytest.raises(FormatError):
        rewritten_random_states(path)


@pytest.mark.parametrize("seed", [0, 1, 42, 123456789, 2**32 - 1])
def test_fresh_states_are_those_of_the_seed(seed: int, tmp_path: Path) -> None:
    ours = strictly(fresh_random_states(seed))

    assert ours["step"] == 0
    assert torch.equal(ours["torch_manual_seed"], torch.Generator().manual_seed(seed).get_state())
    assert ours["random_state"] == random.Random(seed).getstate()
    wanted = numpy.random.RandomState(seed).get_state(legacy=True)
    assert numpy.array_equal(ours["numpy_random_seed"][1], wanted[1])
    assert ours["torch_cuda_manual_seed"] == []
    (tmp_path / NAME).write_bytes(fresh_random_states(seed))
    facts = read_random_states(tmp_path / NAME)
    assert (facts.step, facts.generators, facts.cuda_count) == (0, ("python", "numpy", "torch", "cuda"), 0)


def test_the_reader_takes_a_rewritten_file_for_whole(world: World, tmp_path: Path) -> None:
    shutil.copy(world.latest / NAME, tmp_path / NAME)
    before = read_random_states(tmp_path / NAME)
    (tmp_path / NAME).write_bytes(rewritten_random_states(tmp_path / NAME))
    after = read_random_states(tmp_path / NAME)

    assert (after.step, after.generators, after.cuda_count) == (
        before.step,
        before.generators,
        before.cuda_count,
    )
    assert not any("numpy" in name for name in after.names)
