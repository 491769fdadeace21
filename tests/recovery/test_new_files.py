"""Random states written anew: the same generators to the bit, or new ones that are whole."""

from __future__ import annotations

import importlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from checkpoint_core.formats.reader import DamageKind, FormatError
from checkpoint_core.recovery.new_files import fresh_random_states, rebuilt_scheduler, rewritten_random_states
from checkpoint_core.states.readers import read_random_states
from tests.conformance.bases import WRITERS
from tests.conformance.workbench import Releases, installed
from tests.damage import calling_pickle, drop_rng_step, empty, put_pickle, truncate
from tests.world import World

NAME = "random_states_0.pkl"
RELEASES = Releases.from_environment()


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

    # accelerate counts on from it: nothing is no number to count on from.
    torch.save({**states, "step": None}, path)
    assert strictly(rewritten_random_states(path))["step"] == 0


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


def _swapped(words: Any) -> Any:
    return words.astype(">u4")


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("order", [numpy.asarray, _swapped])
def test_numpys_array_is_read_however_it_was_pickled(
    world: World, protocol: int, module: str, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numpy 2 renamed the module; protocol 2 writes bytes as text; a machine may have the other byte order."""
    path, name = world.latest / NAME, "_reconstruct"
    states = saved(path)
    kind, words, *rest = states["numpy_random_seed"]
    reconstruct = getattr(importlib.import_module("numpy._core.multiarray"), name)
    monkeypatch.setattr(reconstruct, "__module__", f"{module}.multiarray")
    torch.save({**states, "numpy_random_seed": (kind, order(words), *rest)}, path, pickle_protocol=protocol)
    assert f"{module}.multiarray.{name}" in read_random_states(path).names

    assert strictly(rewritten_random_states(path))["numpy_random_seed"][1] == words.tolist()


WORDS = numpy.random.RandomState(3).get_state(legacy=True)[1]


@pytest.mark.parametrize(
    "state",
    [
        ("MT19937", [1, 2]),
        "MT19937",
        ("MT19937", numpy.zeros(3), 0, 0, 0.0),
        ("MT19937", [1, 2], 0, 0, 0.0),
        ("MT19937", [0] * 625, 0, 0, 0.0),
        ("MT19937", [2**40] * 624, 0, 0, 0.0),
        ("MT19937", WORDS.reshape(2, 312), 0, 0, 0.0),
        ("MT19937", WORDS, 625, 0, 0.0),
        ("MT19937", WORDS, "0", 0, 0.0),
        ("PCG64", WORDS, 0, 0, 0.0),
    ],
)
def test_another_form_of_numpys_state_is_not_guessed_at(world: World, state: object) -> None:
    path = world.latest / NAME
    torch.save({**saved(path), "numpy_random_seed": state}, path)
    with pytest.raises(FormatError):
        rewritten_random_states(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("random_state", (3, (1, 2), None)),
        ("random_state", "state"),
        ("torch_manual_seed", 5),
        ("torch_manual_seed", torch.zeros(16, dtype=torch.uint8)),
        ("torch_manual_seed", torch.zeros(5048, dtype=torch.uint8)),
        ("torch_manual_seed", torch.zeros(5056, dtype=torch.int8)),
    ],
)
def test_what_a_generator_would_refuse_is_told(world: World, key: str, value: object) -> None:
    path = world.latest / NAME
    torch.save({**saved(path), key: value}, path)
    with pytest.raises(FormatError, match="another form"):
        rewritten_random_states(path)


@pytest.mark.parametrize(
    "extra",
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(10)[3:6],
        torch.arange(10)[::2],
        torch.ones(1).expand(3),
        torch.ones(3, dtype=torch.uint16),
        torch.ones(3, dtype=torch.complex64).conj(),
    ],
)
def test_what_would_not_come_out_the_same_is_not_written(world: World, extra: torch.Tensor) -> None:
    path = world.latest / NAME
    torch.save({**saved(path), "mine": extra}, path)
    with pytest.raises(FormatError, match="holds more than random states"):
        rewritten_random_states(path)


def test_a_small_file_that_unfolds_to_an_endless_one_is_told(world: World) -> None:
    path = world.latest / NAME
    value: list[object] = []
    for _ in range(15):
        value = [value] * 10
    torch.save({**saved(path), "mine": value}, path)
    with pytest.raises(FormatError, match="holds too much"):
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


def draws(states: Any) -> list[float]:
    """What the generators give next."""
    python, array, generator = random.Random(), numpy.random.RandomState(), torch.Generator()
    python.setstate(states["random_state"])
    array.set_state(states["numpy_random_seed"])
    generator.set_state(states["torch_manual_seed"])
    return [python.random(), array.rand(), torch.rand(1, generator=generator).item()]


def states_as_saved(world: World, real_runs: Path) -> dict[str, Any]:
    """Files of several releases, with the list that a machine with GPUs adds; the first ones had no step."""
    found = {"this one": saved(world.latest / NAME)}
    found["an early one"] = {key: value for key, value in found["this one"].items() if key != "step"}
    for path in sorted(real_runs.glob(f"accelerate-*/*-000002-state/{NAME}")):
        found[path.parts[-3]] = saved(path)
    assert len(found) == 5
    return {name: {**states, "torch_cuda_manual_seed": []} for name, states in found.items()}


@pytest.mark.parametrize("version", dict.fromkeys((*WRITERS, installed())))
def test_each_accelerate_loads_them_without_a_word(
    world: World, real_runs: Path, tmp_path: Path, version: str
) -> None:
    if not RELEASES.has(version):
        pytest.skip(f"accelerate {version} is not in the folder that ACCELERATE_VERSIONS names")
    wanted = states_as_saved(world, real_runs)
    for name, states in wanted.items():
        (tmp_path / name).mkdir()
        torch.save(states, tmp_path / name / NAME)
        (tmp_path / name / NAME).write_bytes(rewritten_random_states(tmp_path / name / NAME))
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / NAME).write_bytes(fresh_random_states(5))
    wanted["fresh"] = strictly(fresh_random_states(5))

    answers = asked(version, tmp_path, list(wanted))

    has_step = version not in ("0.25.0", "0.31.0")  # accelerate reads it since 0.32
    for name, states in wanted.items():
        assert answers[name]["said"] == ["All random states loaded successfully"]
        assert answers[name]["drawn"] == draws(states)
        assert answers[name]["step"] == (states.get("step", 0) if has_step else None)


def test_the_ones_as_saved_are_refused(world: World, tmp_path: Path) -> None:
    """What is cured: accelerate 0.33 with a newer torch."""
    if not RELEASES.has("0.33.0"):
        pytest.skip("accelerate 0.33.0 is not in the folder that ACCELERATE_VERSIONS names")

    answer = asked("0.33.0", tmp_path, [str(world.latest)])[str(world.latest)]

    assert answer["said"] == ["Could not load random states"]
    assert answer["step"] is None
    assert answer["drawn"] != draws(saved(world.latest / NAME))


def asked(version: str, folder: Path, states: list[str]) -> dict[str, Any]:
    """What that accelerate does with the random states in these folders."""
    answers = folder / "answers.json"
    program = "tests.recovery.load_random_states"
    RELEASES.run(version, program, str(answers), *(str(folder / name) for name in states))
    return dict(zip(states, json.loads(answers.read_text(encoding="utf-8")), strict=True))


def rates(state: Any, formula: Any) -> list[float]:
    """The rates of the next steps, from a state that a real LambdaLR has loaded."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in state["base_lrs"]]
    optimizer = torch.optim.SGD(groups, lr=state["base_lrs"][0])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, formula)
    schedule.load_state_dict(state)
    found = []
    for _ in range(5):
        optimizer.step()
        schedule.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("formula", [lambda step: 1.0, lambda step: max(0.0, 1 - step / 64)])
def test_it_goes_on_as_the_lost_one(world: World, formula: Any) -> None:
    lost = torch.load(world.latest / "scheduler.bin", weights_only=True)
    ours = torch.load(
        io.BytesIO(rebuilt_scheduler(lost["base_lrs"], lost["_last_lr"], lost["last_epoch"])),
        weights_only=True,
    )

    assert rates(ours, formula) == rates(lost, formula)


def test_it_equals_the_real_trainers_files(real_runs: Path) -> None:
    found = sorted(real_runs.glob("accelerate-*/*-state/scheduler.bin"))
    assert len(found) == 12
    for path in found:
        lost = torch.load(path, weights_only=True)
        data = rebuilt_scheduler(lost["base_lrs"], lost["_last_lr"], lost["last_epoch"])
        ours = torch.load(io.BytesIO(data), weights_only=True)
        # Formulas without attributes of their own are saved as empty tables or as nothing, by torch's version.
        assert [formula or {} for formula in lost["lr_lambdas"]] == ours["lr_lambdas"]
        assert ours == {**{key: lost[key] for key in ours}, "lr_lambdas": ours["lr_lambdas"]}
        assert set(lost) - set(ours) <= {"_is_initial", "verbose"}
