"""Names that run code, told from names that are only unknown, in whole pickles and in ruins."""

from __future__ import annotations

import pickle

import pytest

from checkpoint_core.formats.hostile import OVERLAP_BYTES, is_dangerous, names_in
from checkpoint_core.formats.pickles import describe, is_allowed
from tests.damage import HOSTILE_PICKLES, calling_pickle


@pytest.mark.parametrize(
    ("module", "name", "dangerous"),
    [
        ("os", "system", True),
        ("builtins", "eval", True),
        ("builtins", "eval.__call__", True),
        ("subprocess", "Popen", True),
        ("multiprocessing.pool", "Pool", True),
        ("torch", "os.system", True),
        ("random", "_os.system", True),
        ("collections", "OrderedDict.__init__.__globals__", True),
        ("builtins", "set", False),
        ("my_project", "Sampler", False),
        ("my_project", "Sampler.Order", False),
        ("numpy.random._pickle", "__randomstate_ctor", False),
        ("osmosis", "system", False),
    ],
)
def test_names_that_run_code_are_told_from_names_that_are_only_unknown(
    module: str, name: str, dangerous: bool
) -> None:
    assert is_dangerous(module, name) is dangerous
    found = describe(calling_pickle(module, name))
    qualified = f"{module}.{name}"
    assert found.foreign_names == (() if is_allowed(qualified) else (qualified,))
    assert found.is_hostile is dangerous


RUNNING = ("os-system", "posix-system", "builtins-eval", "python-2-builtins", "subprocess", "stack-global",
           "instance-opcode")  # fmt: skip


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("before", [0, 1, 5_000])
def test_the_names_are_found_in_ruins(name: str, before: int) -> None:
    data = b"\xfe" * before + HOSTILE_PICKLES[name][:-1]
    assert names_in([data])


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_searched(protocol: int) -> None:
    assert names_in([pickle.dumps(eval, protocol)[:-1]])


def test_a_name_across_two_pieces_is_found_in_their_overlap() -> None:
    data = b"\xfe" * 5_000 + HOSTILE_PICKLES["os-system"]
    for cut in range(4_990, len(data)):
        assert names_in([data[:cut], data[cut - OVERLAP_BYTES :]]), cut


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80\x02]", b"\x80\x02ccollections\nOrderedDict\n", b"cbuiltins\nset\n", b"cosmos\nsystem\n",
     b"X\x03\0\0\0osmosis", b"the os and the sys\n"],
)  # fmt: skip
def test_what_names_no_code_is_not_called_hostile(data: bytes) -> None:
    assert names_in([data]) == ()
