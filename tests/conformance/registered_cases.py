"""States of a project that registers an object with accelerate, as tests/registered_states.py writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.conformance.case import Case
from tests.damage import add_custom_checkpoint, empty, nan_in_weights, remove, rewrite_torch_zip, truncate
from tests.world import STATE_FILES, World

Change = Callable[[World], object]

_, _WEIGHTS, _OPTIMIZER, _SCHEDULER, _RANDOM = STATE_FILES
_CUSTOM = "custom_checkpoint_0.pkl"
_STATE = "state"


def registered_cases() -> Iterator[Case]:
    """All of them."""
    yield _object_case("safetensors", "as saved")
    yield _object_case("bin", "as saved")
    shards = (
        "Projects that save their weights in shards read them themselves; accelerate's load_state does not."
    )
    yield _object_case("sharded", "as saved", accepted=shards)
    files = (_WEIGHTS, _OPTIMIZER, _SCHEDULER, _RANDOM, _CUSTOM)
    rows = {_WEIGHTS: "13", _OPTIMIZER: "11", _SCHEDULER: "11", _RANDOM: "3", _CUSTOM: "27"}
    for file in files:
        required = "The users of this layout hold every file to be required." if file == _RANDOM else ""
        for told, damage in (("absent", remove), ("0 bytes", empty), ("half", truncate)):
            change = _in_registered(file, damage)
            yield _object_case("safetensors", f"{file} {told}", rows[file], change, accepted=required)
    for told, damage in (("absent", remove), ("0 bytes", empty), ("half", truncate)):
        file = "pytorch_model.bin"
        yield _object_case("bin", f"{file} {told}", "13", _in_registered(file, damage))
    for key in ("step", "epoch"):
        yield _object_case(
            "safetensors", f"object without {key}", "27", _in_registered(_CUSTOM, _without(key))
        )
    yield _object_case("safetensors", "object a list", "27", _in_registered(_CUSTOM, _as_list))
    unknown = "How many objects a project registers is not known here; this one registers one."
    yield _object_case("safetensors", "two objects", "27", _second_object, accepted=unknown)
    yield _object_case(
        "safetensors", "NaN in the weights", "25", _in_registered(_WEIGHTS, _nan_plain), deep=True
    )


def _object_case(
    kind: str, told: str, row: str = "", change: Change = lambda world: None, **rest: Any
) -> Case:
    return Case(
        f"registered objects: {kind}, {told}",
        row,
        change,
        base=f"registered/{kind}",
        state=_STATE,
        epoch=4,
        pristine_base="registered/safetensors",
        **rest,
    )


def _in_registered(file: str, damage: Callable[[Path], object]) -> Change:
    return lambda world: damage(world.run / _STATE / file)


def _as_list(path: Path) -> None:
    rewrite_torch_zip(path, lambda saved: list(saved.items()))


def _second_object(world: World) -> None:
    add_custom_checkpoint(world.run / _STATE, 1)


def _nan_plain(path: Path) -> None:
    nan_in_weights(path, "0.weight")


def _without(key: str) -> Callable[[Path], object]:
    return lambda path: rewrite_torch_zip(
        path, lambda saved: {name: value for name, value in saved.items() if name != key}
    )
