"""``random_states_0.pkl`` as every accelerate loads it: the same generators, or new ones.

accelerate 0.32 and 0.33 want ``step`` in it, and numpy's state as an array is refused under ``weights_only=True``
unless torch and numpy agree on its name (``checkpointing.py``, ``load_accelerator_state``; ``numpy.random.set_state``
takes a list of numbers as well). Written with ``step`` and plain numbers it loads in all releases from 0.25 to 1.15
(measured).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint_core.formats import (
    DamageKind,
    FileReader,
    FormatError,
    Storage,
    Stub,
    Tensor,
    TorchZip,
    describe,
    write_torch,
)
from checkpoint_core.states import RANDOM_STATES, SCHEDULER

_FOLDER = RANDOM_STATES.removesuffix(".pkl")
_PYTHON, _NUMPY, _TORCH = "random_state", "numpy_random_seed", "torch_manual_seed"
_KEY_WORDS = 624  # of a Mersenne Twister
_TORCH_BYTES = 5056  # of the CPU generator; torch refuses any other length (aten ``CPUGeneratorImpl.cpp``)
#: What Python's and numpy's own check of a state may raise.
_REFUSALS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def rewritten_random_states(path: Path) -> bytes:
    """The same random states with ``step`` (0 where it was missing) and numpy's key as a list; nothing is lost.

    :raises FormatError: when the file cannot be read to its end, names other objects, lacks a generator or holds one
        that would be refused, or holds what cannot be carried over without loss.
    """
    with FileReader(path) as reader:
        saved, storages = _saved(TorchZip(reader))
    plain = {**saved, _NUMPY: _plain_numpy(saved[_NUMPY])}
    if plain.get("step") is None:
        plain = {"step": None, **plain} | {"step": 0}
    try:
        data = write_torch(plain, storages, _FOLDER)
    except TypeError as error:
        raise FormatError(DamageKind.UNSUPPORTED, f"it holds more than random states: {error}") from error
    # Only now: what is written is not endless.
    if not all(map(_is_plain_row, _tensors(plain))):
        raise FormatError(DamageKind.UNSUPPORTED, "it holds more than random states: a part of a tensor")
    _must_be_generators(plain)
    return data


def _saved(archive: TorchZip) -> tuple[dict[Any, Any], dict[str, bytes]]:
    """What the file holds, and the bytes of its storages."""
    archive.verify_all()
    description = describe(archive.pickle_bytes)
    description.refuse_foreign()
    saved = description.value
    if not isinstance(saved, dict) or any(saved.get(key) is None for key in (_PYTHON, _NUMPY, _TORCH)):
        raise FormatError(DamageKind.CORRUPT, "it lacks the state of a random generator")
    members = {key: archive.members.get(f"data/{key}") for key in description.storages}
    return saved, {key: archive.read(member) for key, member in members.items() if member}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif type(value) in (dict, list, tuple):
        for each in value.values() if type(value) is dict else value:
            yield from _tensors(each)


def _is_plain_row(tensor: Tensor) -> bool:
    """Whether it is the whole of its storage in one row, as generators are: others may lie there otherwise."""
    return tensor.shape == (tensor.storage.numel,)


def _must_be_generators(states: dict[Any, Any]) -> None:
    """Python and numpy say themselves whether they take a state; torch takes one of the right length."""
    try:
        random.Random().setstate(states[_PYTHON])
        np.random.RandomState().set_state(states[_NUMPY])
    except _REFUSALS as error:
        raise FormatError(DamageKind.CORRUPT, "a random generator's state has another form") from error
    generator = states[_TORCH]
    kind = (generator.storage.dtype, generator.shape) if isinstance(generator, Tensor) else None
    if kind != ("Byte", (_TORCH_BYTES,)):
        raise FormatError(DamageKind.CORRUPT, "torch's random state has another form")


def _plain_numpy(state: Any) -> tuple[Any, ...]:
    """numpy's ``("MT19937", key, position, has_gauss, cached_gaussian)`` with the key as a list of numbers."""
    if type(state) is not tuple or len(state) != 5:
        raise FormatError(DamageKind.CORRUPT, "numpy's random state has another form")
    key = state[1] if type(state[1]) is list else _array(state[1])
    # numpy itself goes by the first numbers of a longer list, and by any position.
    if len(key) != _KEY_WORDS or type(state[2]) is not int or not 0 <= state[2] <= _KEY_WORDS:
        raise FormatError(DamageKind.CORRUPT, "numpy's random state has another form")
    return (state[0], key, *state[2:])


def _array(stub: Any) -> list[int]:
    """The numbers of numpy's pickled array: ``__setstate__((version, shape, dtype, is_fortran, bytes))``."""
    state = stub.state if isinstance(stub, Stub) else None
    _, shape, dtype, _, data = state if type(state) is tuple and len(state) == 5 else (None,) * 5
    if isinstance(data, Stub):
        data = _latin1(data.args)
    if shape != (_KEY_WORDS,) or type(data) is not bytes or len(data) != 4 * _KEY_WORDS:
        raise FormatError(DamageKind.CORRUPT, "numpy's random state has another form")
    return [int(word) for word in np.frombuffer(data, f"{_byte_order(dtype)}u4")]


def _latin1(args: tuple[Any, ...]) -> bytes | None:
    """Protocol 2 has no bytes: they are written as text in Latin-1, ``_codecs.encode(text, "latin1")``."""
    if len(args) != 2 or type(args[0]) is not str or args[1] != "latin1":
        return None
    try:
        return args[0].encode("latin-1")
    except UnicodeEncodeError:
        return None


def _byte_order(dtype: Any) -> str:
    details = dtype.state if isinstance(dtype, Stub) else None
    return ">" if type(details) is tuple and len(details) > 1 and details[1] == ">" else "<"


def fresh_random_states(seed: int) -> bytes:
    """New random states with ``step``, of generators that were seeded with ``seed`` (0 to 2**32 - 1).

    The list for CUDA is empty: accelerate sets as many GPUs' generators as it holds, and they stay where the trainer's
    own seed left them. Without that entry it would say “Could not load random states”.
    """
    seed %= 2**32
    generator = _torch_generator(seed)
    numpy_state: Any = np.random.RandomState(seed).get_state(legacy=True)
    key = [int(word) for word in numpy_state[1]]
    states = {
        "step": 0,
        _PYTHON: random.Random(seed).getstate(),
        _NUMPY: (str(numpy_state[0]), key, int(numpy_state[2]), int(numpy_state[3]), float(numpy_state[4])),
        _TORCH: Tensor(Storage("Byte", "0", "cpu", len(generator)), 0, (len(generator),)),
        "torch_cuda_manual_seed": [],
    }
    return write_torch(states, {"0": generator}, _FOLDER)


def _torch_generator(seed: int) -> bytes:
    """What ``torch.manual_seed(seed).get_state()`` gives on the CPU, 5,056 bytes.

    Source: aten ``CPUGeneratorImpl.cpp`` (``CPUGeneratorImplStateLegacy`` and ``CPUGeneratorImplState``) and
    ``MT19937RNGEngine.h`` (``init_with_uint32``).
    """
    head = struct.pack("<QiiQ", seed, 1, 1, 0)
    words = struct.pack(f"<{_KEY_WORDS}Q", *_seeded(seed))
    # normal_x, normal_y, normal_rho, normal_is_valid with its padding; next_float_normal_sample and whether it is one.
    return head + words + struct.pack("<dddi4x", 0.0, 0.0, 0.0, 0) + struct.pack("<f?3x", 0.0, False)


def _seeded(seed: int) -> Iterator[int]:
    word = seed
    yield word
    for index in range(1, _KEY_WORDS):
        word = (1812433253 * (word ^ (word >> 30)) + index) & 0xFFFFFFFF
        yield word


def rebuilt_scheduler(base_lrs: Sequence[float], last_lrs: Sequence[float], last_epoch: int) -> bytes:
    """The file as accelerate saves it.

    :param base_lrs: the rate that the schedule multiplies, of each parameter group.
    :param last_lrs: the present rate of each group.
    :param last_epoch: the updates so far, each counted once a process.
    """
    state = {
        "base_lrs": [float(rate) for rate in base_lrs],
        "last_epoch": last_epoch,
        "_step_count": last_epoch + 1,
        "_get_lr_called_within_step": False,
        "_last_lr": [float(rate) for rate in last_lrs],
        "lr_lambdas": [{} for _ in base_lrs],
    }
    return write_torch(state, {}, SCHEDULER.removesuffix(".bin"))
