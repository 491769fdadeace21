"""What versions do with a state's pickles: each row was measured with the real accelerate, where torch 2.13 runs.

Measured: accelerate 0.25, 0.31, 0.33, 0.34.2, 1.0.1, 1.1.1, 1.6 and 1.15 with numpy 1.24.4, 1.25.2, 1.26.0, 1.26.4 and
2.4.6. What torch before 2.6 does follows from its sources.
"""

from __future__ import annotations

import pytest

from checkpoint_core.environment.pickle_support import (
    RandomStates,
    is_older,
    is_unusual,
    loads_weights_only,
    random_states,
    refused_names,
    saved_by_numpy_2,
    version_of,
    with_version,
)
from checkpoint_core.formats.reader import DamageKind
from checkpoint_core.states.facts import Damage, RandomStatesFacts, Reading
from tests.environments import environment

TORCH = frozenset({"_codecs.encode", "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"})
ARRAY = frozenset({"numpy.ndarray", "numpy.dtype"})
NUMPY_1 = TORCH | ARRAY | {"numpy.core.multiarray._reconstruct"}
NUMPY_2 = TORCH | ARRAY | {"numpy._core.multiarray._reconstruct"}
RESTORED, LOST, STOPS = RandomStates.RESTORED, RandomStates.LOST, RandomStates.STOPS


def saved(names: frozenset[str] = NUMPY_2, step: int | None = 0) -> RandomStatesFacts:
    return RandomStatesFacts(step, ("python", "numpy", "torch"), 0, names)


GOOD = saved()
NO_STEP = saved(step=None)
PLAIN = saved(TORCH)
PLAIN_NO_STEP = saved(TORCH, step=None)
OLD_NAMES = saved(NUMPY_1)
BROKEN = Damage(DamageKind.TRUNCATED, "the archive's directory, written last, is missing")

#: What becomes of GOOD, NO_STEP, a missing or broken file, PLAIN and PLAIN_NO_STEP.
MEASURED = {
    ("0.25.0", "2.13.0"): (LOST, LOST, LOST, RESTORED, RESTORED),
    ("0.31.0", "2.13.0"): (LOST, LOST, LOST, RESTORED, RESTORED),
    ("0.33.0", "2.13.0"): (STOPS, STOPS, STOPS, RESTORED, STOPS),
    ("0.34.2", "2.13.0"): (LOST, LOST, LOST, RESTORED, RESTORED),
    ("1.0.1", "2.13.0"): (LOST, LOST, LOST, RESTORED, RESTORED),
    ("1.1.1", "2.13.0"): (RESTORED, RESTORED, LOST, RESTORED, RESTORED),
    ("1.6.0", "2.13.0"): (RESTORED, RESTORED, LOST, RESTORED, RESTORED),
    ("1.15.0", "2.13.0"): (RESTORED, RESTORED, LOST, RESTORED, RESTORED),
}
#: The edges, and torch 2.5 and older, which loads everything.
BY_THE_SOURCES = {
    ("0.32.0", "2.6.0"): MEASURED["0.33.0", "2.13.0"],
    ("0.31.0", "2.5.1"): (RESTORED, RESTORED, LOST, RESTORED, RESTORED),
    ("0.32.0", "2.5.1"): (RESTORED, STOPS, STOPS, RESTORED, STOPS),
    ("0.33.0", "2.5.1+cu121"): (RESTORED, STOPS, STOPS, RESTORED, STOPS),
    ("0.34.0", "2.5.1"): (RESTORED, RESTORED, LOST, RESTORED, RESTORED),
    ("1.0.1", "2.5.1"): (RESTORED, RESTORED, LOST, RESTORED, RESTORED),
    ("1.1.0", "2.3.1"): (RESTORED, RESTORED, LOST, RESTORED, RESTORED),
    ("1.1.0", "2.4.0"): (RESTORED, RESTORED, LOST, RESTORED, RESTORED),
    ("1.0.1", "2.6.0"): MEASURED["1.0.1", "2.13.0"],
}


@pytest.mark.parametrize(("versions", "outcomes"), [*MEASURED.items(), *BY_THE_SOURCES.items()])
def test_what_becomes_of_the_random_states(
    versions: tuple[str, str], outcomes: tuple[RandomStates, ...]
) -> None:
    there = environment(accelerate=versions[0], torch=versions[1])
    readings: tuple[Reading[RandomStatesFacts], ...] = (GOOD, NO_STEP, None, PLAIN, PLAIN_NO_STEP)

    assert tuple(random_states(reading, there) for reading in readings) == outcomes
    assert random_states(BROKEN, there) is random_states(None, there)


@pytest.mark.parametrize(
    ("accelerate", "torch", "numpy", "outcomes"),
    [
        # The state of numpy 2, the state of numpy 1, and one with plain numbers.
        ("1.15.0", "2.13.0", "2.4.6", (RESTORED, LOST, RESTORED)),
        ("1.15.0", "2.13.0", "1.26.4", (LOST, RESTORED, RESTORED)),
        ("1.6.0", "2.13.0", "1.26.4", (LOST, RESTORED, RESTORED)),
        ("1.1.1", "2.13.0", "1.26.0", (LOST, RESTORED, RESTORED)),
        ("1.1.1", "2.13.0", "1.25.2", (LOST, RESTORED, RESTORED)),
        ("1.1.1", "2.13.0", "1.24.4", (LOST, LOST, RESTORED)),
        ("1.0.1", "2.13.0", "1.26.4", (LOST, LOST, RESTORED)),
        ("0.33.0", "2.13.0", "1.26.4", (STOPS, STOPS, RESTORED)),
        # Without torch's refusal it is the import that decides: numpy 1.26.1 can be asked for both names.
        ("1.0.1", "2.5.1", "2.4.6", (RESTORED, RESTORED, RESTORED)),
        ("1.0.1", "2.5.1", "1.26.1", (RESTORED, RESTORED, RESTORED)),
        ("1.0.1", "2.5.1", "1.26.0", (LOST, RESTORED, RESTORED)),
        ("1.0.1", "2.5.1", "1.24.4", (LOST, RESTORED, RESTORED)),
        ("0.33.0", "2.5.1", "1.24.4", (STOPS, RESTORED, RESTORED)),
        ("1.15.0", "2.3.1", "1.26.0", (LOST, RESTORED, RESTORED)),
    ],
)
def test_numpy_renamed_its_module(
    accelerate: str, torch: str, numpy: str, outcomes: tuple[RandomStates, ...]
) -> None:
    there = environment(accelerate=accelerate, torch=torch, numpy=numpy)

    assert tuple(random_states(reading, there) for reading in (GOOD, OLD_NAMES, PLAIN)) == outcomes
    refused = [bool(refused_names(reading.names, there)) for reading in (GOOD, OLD_NAMES, PLAIN)]
    assert refused == [outcome is not RESTORED for outcome in outcomes]


@pytest.mark.parametrize(
    ("accelerate", "torch", "answer"),
    [
        ("0.33.0", "2.5.1", False),
        ("0.33.0", "2.6.0", True),
        ("1.0.1", "2.5.1", False),
        ("1.1.0", "2.3.1", False),
        ("1.1.0", "2.4.0", True),
        ("1.15.0", "2.13.0", True),
    ],
)
def test_when_torch_refuses_what_it_does_not_know(accelerate: str, torch: str, answer: bool) -> None:
    assert loads_weights_only(environment(accelerate=accelerate, torch=torch)) is answer


def test_the_refused_objects_are_named() -> None:
    assert refused_names(NUMPY_2, environment()) == ()
    assert refused_names(NUMPY_1, environment()) == ("numpy.core.multiarray._reconstruct",)
    assert refused_names(NUMPY_2, environment(accelerate="1.0.1")) == (
        "numpy._core.multiarray._reconstruct", "numpy.dtype", "numpy.ndarray"
    )  # fmt: skip
    assert refused_names(TORCH, environment(accelerate="0.25.0")) == ()
    uint32 = NUMPY_2 | {"numpy.dtypes.UInt32DType"}
    assert refused_names(uint32, environment()) == ()


def test_which_numpy_saved_a_file() -> None:
    assert [saved_by_numpy_2(names) for names in (NUMPY_2, NUMPY_1, TORCH)] == [True, False, False]


# Versions


@pytest.mark.parametrize(
    ("version", "older"),
    [
        ("1.0.1", True),
        ("1.1", False),
        ("1.1.0", False),
        ("1.1.0.dev0", False),
        ("1.1rc1+local", False),
        ("0.34.2", True),
        ("1.10.0", False),
        (None, False),
        ("unknown", False),
    ],
)
def test_versions_are_compared_as_versions(version: str | None, older: bool) -> None:
    assert is_older(environment(accelerate=version), "accelerate", "1.1") is older


def test_a_version_can_be_exchanged_in_thought() -> None:
    there = environment(accelerate="0.33.0")
    better = with_version(there, "accelerate", "1.1")
    assert [str(version_of(each, "accelerate")) for each in (there, better)] == ["0.33.0", "1.1"]
    assert better.version("torch") == there.version("torch")


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ({}, None),
        ({"accelerate": "0.25.0", "torch": "2.0.1+cu118"}, None),
        ({"torch": "2.13.1"}, None),
        ({"numpy": "1.16.0"}, None),
        ({"accelerate": None}, None),
        (
            {"accelerate": "0.24.1"},
            "accelerate 0.24.1 is outside the versions that were tried (0.25 to 1.15)",
        ),
        (
            {"accelerate": "1.16.0"},
            "accelerate 1.16.0 is outside the versions that were tried (0.25 to 1.15)",
        ),
        ({"torch": "1.13.1"}, "torch 1.13.1 is outside the versions that were tried (2.0 to 2.13)"),
        ({"torch": "3.0.0"}, "torch 3.0.0 is outside the versions that were tried (2.0 to 2.13)"),
        ({"accelerate": "1.2.0.dev0"}, "accelerate 1.2.0.dev0 is a pre-release"),
        ({"torch": "2.6.0a0+gitabc"}, "torch 2.6.0a0+gitabc is a pre-release"),
        ({"torch": "main"}, "torch calls its version main, which cannot be compared"),
    ],
)
def test_versions_that_nobody_has_tried_are_told(versions: dict[str, str | None], reason: str | None) -> None:
    assert is_unusual(environment(**versions)) == reason
