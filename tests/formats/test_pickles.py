from __future__ import annotations

import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from checkpoint_core.formats.pickle_opcodes import MAX_OBJECTS
from checkpoint_core.formats.pickles import (
    MAX_NAMES,
    MAX_TUPLES,
    Storage,
    Stub,
    Tensor,
    describe,
    is_allowed,
)
from checkpoint_core.formats.reader import DamageKind, FormatError
from tests.damage import HOSTILE_PICKLES
from tests.world import PROJECT

EPOCH_2 = "tiny-lora-000002-state"
LENGTH = struct.Struct("<L")


def member(real_runs: Path, name: str, run: str = "accelerate-1.6.0-adafactor") -> bytes:
    """The pickle in a file that the real trainer wrote."""
    with zipfile.ZipFile(real_runs / run / EPOCH_2 / name) as archive:
        return archive.read(next(found for found in archive.namelist() if found.endswith("/data.pkl")))


def kind_of(data: bytes) -> DamageKind | None:
    """What is wrong with a pickle, or None when it can be described."""
    try:
        describe(data)
    except FormatError as error:
        return error.kind
    return None


# What is right


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    "value",
    [
        None,
        {"lr": 1e-4, "betas": (0.9, 0.999), "params": [0, 1, 2], "fused": None, "amsgrad": False},
        [0, 1, 255, 256, 65535, 65536, -1, 2**31 - 1, 2**31, 2**40, 2**63, -(2**63), 2**200],
        {"text": "épée", "long": "x" * 300, "empty": "", 7: {}},
        (3, tuple(range(625)), None),
        [1.5, float("inf"), -0.0, [], {}, ()],
    ],
    ids=["none", "group", "integers", "texts", "generator", "others"],
)
def test_plain_values_are_described_as_they_are(value: Any, protocol: int) -> None:
    found = describe(pickle.dumps(value, protocol=protocol))
    assert found.value == value
    assert (found.foreign_names, found.storages) == ((), {})


def _plain_values() -> st.SearchStrategy[Any]:
    keys = st.text(max_size=8) | st.integers()
    leaves = keys | st.floats(allow_nan=False) | st.none() | st.booleans()
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner),
        max_leaves=20,
    )


@given(_plain_values())
def test_whatever_is_plain_is_described_as_it_is(value: Any) -> None:
    assert describe(pickle.dumps(value, protocol=2)).value == value


def test_a_tuple_that_is_used_twice_is_described(real_runs: Path) -> None:
    betas = (0.9, 0.999)
    groups = [{"betas": betas}, {"betas": betas}]
    for protocol in (2, 4):
        assert describe(pickle.dumps(groups, protocol=protocol)).value == groups


def test_an_ordered_dictionary_keeps_its_items() -> None:
    ordered = OrderedDict(first=1, second=[2])
    for protocol in (2, 4):
        found = describe(pickle.dumps(ordered, protocol=protocol))
        assert found.value == {"first": 1, "second": [2]}
        assert found.foreign_names == ()


def test_tensors_are_described_without_their_storages(real_runs: Path) -> None:
    found = describe(member(real_runs, "optimizer.bin"))
    state = found.value["state"]
    moments = [entry["exp_avg_sq_row"] for entry in state.values()]
    assert all(isinstance(moment, Tensor) for moment in moments)
    assert {moment.storage.key for moment in moments} < found.storages.keys()
    assert set(found.storages.values()) == {"Float"}
    assert moments[0].storage == Storage("Float", moments[0].storage.key, "cpu", moments[0].shape[0])
    assert found.foreign_names == ()


@pytest.mark.parametrize("run", ["accelerate-1.6.0-adamw8bit", "accelerate-0.33.0-adafactor"])
@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"])
def test_real_files_name_nothing_foreign(real_runs: Path, run: str, name: str) -> None:
    assert describe(member(real_runs, name, run)).foreign_names == ()


# What is hostile


#: What each hostile pickle is taken for: its foreign names, or what is wrong with it.
HOSTILE = {
    "os-system": ("os.system",),
    "posix-system": ("posix.system",),
    "builtins-eval": ("builtins.eval",),
    "python-2-builtins": ("__builtin__.exec",),
    "subprocess": ("subprocess.Popen",),
    "stack-global": ("os.system",),
    "instance-opcode": DamageKind.UNSUPPORTED,
    "dotted-name": ("torch.os.system",),
    "getattr-walk": ("builtins.getattr",),
    "extension-registry": DamageKind.UNSUPPORTED,
    "deep-nesting": (),
    "deep-tuples": (),
    "huge-memo-index": DamageKind.UNSUPPORTED,
    "unknown-memo-index": DamageKind.CORRUPT,
    "huge-long4": DamageKind.UNSUPPORTED,
    "negative-long4": DamageKind.UNSUPPORTED,
    "huge-long1-text": DamageKind.UNSUPPORTED,
    "huge-claimed-text": DamageKind.TRUNCATED,
    "huge-claimed-bytearray": DamageKind.UNSUPPORTED,
    "huge-claimed-frame": DamageKind.CORRUPT,
    "memory-bomb": (),
    "duplicates-bomb": DamageKind.UNSUPPORTED,
    "allowed-call-bomb": (),
    "self-containing": (),
    "stack-underflow": DamageKind.CORRUPT,
    "no-stop": DamageKind.TRUNCATED,
    "nothing": DamageKind.TRUNCATED,
    "unknown-opcode": DamageKind.UNSUPPORTED,
}


def test_every_hostile_pickle_has_its_expectation() -> None:
    assert HOSTILE.keys() == HOSTILE_PICKLES.keys()


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_hostile_pickles_are_told_and_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = HOSTILE[name]
    if isinstance(expected, DamageKind):
        with pytest.raises(FormatError) as caught:
            describe(HOSTILE_PICKLES[name])
        assert caught.value.kind is expected
    else:
        assert describe(HOSTILE_PICKLES[name]).foreign_names == expected
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_called_becomes_a_stub_that_kept_its_arguments() -> None:
    value = describe(HOSTILE_PICKLES["os-system"]).value
    assert isinstance(value, Stub)
    assert (value.qualified_name, value.args) == ("os.system", ("echo harm > harm",))


def test_describing_leaves_no_trace_in_the_process() -> None:
    """BUILD sets attributes of what lies on the stack: here of the stand-in for torch's own function."""
    poison = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00poisonedK\x01sb."
    assert kind_of(poison) is DamageKind.CORRUPT
    slots = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00poisonedK\x01s\x86b."
    assert kind_of(slots) is DamageKind.CORRUPT
    stand_in = describe(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.").value
    assert not hasattr(stand_in, "poisoned")


def nested_key(levels: int) -> bytes:
    """A table whose key is a tuple in a tuple in a tuple …"""
    return b"\x80\x02})" + b"\x85" * levels + b"K\x01s."


def doubling_tuples(levels: int, put: bytes = b"q", get: bytes = b"h") -> bytes:
    """A tuple that holds another one twice, which holds another one twice, …: 2**levels in all."""

    def index(number: int, opcode: bytes) -> bytes:
        return opcode + (bytes([number]) if opcode in b"qh" else LENGTH.pack(number))

    parts = [b")" + index(0, put)]
    for level in range(1, levels):
        parts.append(index(level - 1, get) + b"\x86" + index(level, put))
    return b"".join(parts)


def as_key(value: bytes) -> bytes:
    return b"\x80\x02}" + value + b"K\x01s."


def tensor_of_shape(shape: bytes) -> bytes:
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape + b"))NtR"


#: Each takes the C unpickler longer than anybody lives, or more memory than there is, or its stack.
ENDLESS = {
    "doubling-key": as_key(doubling_tuples(100)),
    "doubling-key-long-indexes": as_key(doubling_tuples(100, b"r", b"j")),
    "doubling-key-mixed-indexes": as_key(doubling_tuples(100, b"r", b"h")),
    "doubling-key-memoized": b"\x80\x04}" + b")\x94" + b"".join(
        b"h" + bytes([level]) + b"\x86\x94" for level in range(99)
    ) + b"K\x01s.",
    "doubling-key-after-build": as_key(doubling_tuples(100).replace(b"\x86", b"\x86Nb")),
    "doubling-key-after-append": as_key(doubling_tuples(100).replace(b"\x86", b"\x86(e")),
    "doubling-key-other-indexes": as_key(doubling_tuples(100, b"q", b"j")),
    "doubling-key-put-again": as_key(doubling_tuples(100) + b"q\xc8h\xc8"),
    "doubling-key-among-items": b"\x80\x02}(" + doubling_tuples(100) + b"K\x01u.",
    "doubling-key-of-ordered": b"\x80\x02ccollections\nOrderedDict\n]" + doubling_tuples(100) + b"K\x01\x86a\x85R.",
    "doubling-device": b"\x80\x02(X\x07\x00\x00\x00storageNX\x01\x00\x00\x000" + doubling_tuples(100) + b"K\x01tQ.",
    "doubling-shape": b"\x80\x02" + tensor_of_shape(doubling_tuples(100)) + b".",
    "deep-key": nested_key(400_000),
    "too-deep-key": nested_key(MAX_TUPLES + 1),
    "deep-shape": b"\x80\x02" + tensor_of_shape(b")" + b"\x85" * 7_000) + b".",
    "tensor-for-a-key": as_key(tensor_of_shape(b"(" + b"K\x01" * 100_000 + b"t")),
    "many-names": b"\x80\x02(" + b"".join(b"ca\n%d\n" % number for number in range(MAX_NAMES + 1)) + b"t.",
    "one-name-often": b"\x80\x02(" + b"cos\nsystem\n" * 200_000 + b"t.",
    "many-marks": b"\x80\x02" + b"(" * 1_000_000 + b"t" * 1_000_000 + b".",
    "many-lists": b"\x80\x02(" + b"]" * 1_000_000 + b"t.",
    "many-nested-stubs": b"\x80\x02N" + b"\x85q\x01" * 1_000 + b"cos\nsystem\nq\x02" + b"h\x02h\x01R" * 1_000 + b".",
    "colliding-integers": b"\x80\x02}(" + b"".join(
        pickle.dumps(number * (2**61 - 1), 2)[2:-1] + b"N" for number in range(5, 20_000)
    ) + b"u.",
    "huge-integer-as-key-often": b"\x80\x02}(\x8b" + LENGTH.pack(1_000_000) + b"\x01" * 1_000_000 + b"q\x01N"
    + b"h\x01N" * 100_000 + b"u.",
}  # fmt: skip

_DESCRIBE = """
import resource, sys, threading
from checkpoint_core.formats.reader import FormatError
from checkpoint_core.formats.pickles import describe
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30,) * 2)
def work():
    try:
        found = describe(open(sys.argv[1], 'rb').read())
    except FormatError as error:
        print(error.kind.name)
    else:
        print('DESCRIBED', *found.foreign_names)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("name", ENDLESS)
def test_what_would_take_for_ever_is_refused_or_described(tmp_path: Path, name: str) -> None:
    """In a thread of another process, as a server of the tab runs it; with 2 GiB of memory."""
    path = tmp_path / "hostile.pkl"
    path.write_bytes(ENDLESS[name])
    done = subprocess.run(
        [sys.executable, "-c", _DESCRIBE, str(path)],
        cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    expected = {
        "deep-key": "DESCRIBED",
        "one-name-often": "DESCRIBED os.system",
        "many-lists": "DESCRIBED",
        "many-nested-stubs": "DESCRIBED os.system",
    }
    kinds = ("CORRUPT", "UNSUPPORTED")
    assert done.stdout.strip() in ((expected[name],) if name in expected else kinds)


def test_a_large_pickle_takes_no_more_memory_than_its_values() -> None:
    """The walk over the opcodes must not keep anything for each of them."""
    data = b"\x80\x02(" + b"K\x01" * 4_000_000 + b"t."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    describe(data)
    taken_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken_kib < 120_000


# What is broken


@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"])
def test_a_pickle_cut_anywhere_is_truncated(real_runs: Path, name: str) -> None:
    data = member(real_runs, name)
    describe(data)
    for size in range(0, len(data), 1 if len(data) < 1000 else 37):
        with pytest.raises(FormatError) as caught:
            describe(data[:size])
        assert caught.value.kind is DamageKind.TRUNCATED, size


@given(st.binary(max_size=200))
@example(b"\x80")
@example(b"\x80\x06.")
@example(b"\x80\x02X\xff\xff\xff\xff.")
@example(b"\x80\x02cos\nsystem.")
@example(b"\x80\x02.")
@example(b"\x80\x02}}s.")
@example(b"\x80\x02(Q.")
@example(b"\x80\x02N\x80\x02q\x05.")
def test_random_bytes_raise_nothing_but_format_errors(noise: bytes) -> None:
    for data in (noise, b"\x80\x02" + noise + b".", b"\x80\x04]q\x00}" + noise + b"."):
        kind_of(data)


@given(st.data())
def test_a_real_pickle_with_changed_bytes_raises_nothing_but_format_errors(
    real_runs: Path, data: st.DataObject
) -> None:
    changed = bytearray(member(real_runs, "scheduler.bin"))
    for _ in range(data.draw(st.integers(1, 5))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    kind_of(bytes(changed))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x80\x06N.", DamageKind.UNSUPPORTED),
        (b"\x80\x02I1\n.", DamageKind.UNSUPPORTED),
        (b"\x80\x02\x8f.", DamageKind.UNSUPPORTED),
        (b"\x80\x02N\x80\x02.", DamageKind.UNSUPPORTED),
        (b"\x80\x02cos\nsys", DamageKind.TRUNCATED),
        (b"\x80\x02X\x05\x00\x00\x00abc", DamageKind.TRUNCATED),
        (b"\x80\x02NQ.", DamageKind.CORRUPT),
        (b"\x80\x02(X\x07\x00\x00\x00storageNNNNtQ.", DamageKind.CORRUPT),
        (b"\x80\x02(NNNNNtQ.", DamageKind.CORRUPT),
        (b"\x80\x02h\x05.", DamageKind.CORRUPT),
        (b"\x80\x02}]K\x01s.", DamageKind.CORRUPT),
        (b"\x80\x02NR.", DamageKind.CORRUPT),
        (b"\x80\x02" + tensor_of_shape(b"NN\x86") + b".", DamageKind.CORRUPT),
    ],
    ids=[
        "protocol-6", "text-opcode", "set", "second-protocol", "cut-name", "cut-text", "no-storage",
        "storage-of-nothing", "other-reference", "unknown-memo", "list-as-key", "calls-none", "shape-of-nothing",
    ],
)  # fmt: skip
def test_nonsense_is_named(data: bytes, kind: DamageKind) -> None:
    assert kind_of(data) is kind


def test_names_with_halves_of_characters_can_be_printed() -> None:
    name = "\ud800x".encode("utf-8", "surrogatepass")
    data = b"\x80\x04\x8c\x02os\x8c" + bytes([len(name)]) + name + b"\x93."
    error = FormatError(DamageKind.FOREIGN, *describe(data).foreign_names, names=describe(data).foreign_names)
    assert error.names == ("os.\\ud800x",)
    assert error.detail.encode() == b"os.\\ud800x"


def harmless(count: int) -> bytes:
    return b"".join(b"cmine\nObject%d\n" % number for number in range(count))


@pytest.mark.parametrize("before", [0, 1, 49, 50, 51, 200, MAX_NAMES - 1])
@pytest.mark.parametrize("after", [0, 60])
def test_hostile_is_told_of_all_names_however_few_are_kept(before: int, after: int) -> None:
    after = min(after, MAX_NAMES - 1 - before)
    found = describe(b"\x80\x02(" + harmless(before) + b"cposix\nsystem\n" + harmless(before + after) + b"t.")
    assert found.is_hostile
    assert found.foreign_names[0] == "posix.system"
    assert len(found.foreign_names) == min(before + after + 1, 50)
    assert not describe(b"\x80\x02(" + harmless(before) + b"t.").is_hostile


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02(" + harmless(MAX_NAMES + 1) + b"cposix\nsystem\nt.",
        b"\x80\x02cposix\nsystem\n(",
        b"\x80\x02cposix\nsystem\n\xff.",
        b"\x80\x02aaaacposix\nsystem\n.",
        b"\x80\x02" + b"]" * (MAX_OBJECTS + 1) + b"cposix\nsystem\n.",
        HOSTILE_PICKLES["instance-opcode"],
        b"\x80\x02V" + b"9" * 10 + b"\ncbuiltins\neval\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93(",
    ],
    ids=["names", "cut", "opcode", "stack", "objects", "instance", "text", "stack-global"],
)
def test_what_cannot_be_described_is_hostile_all_the_same(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        describe(data)
    assert caught.value.is_hostile
    assert caught.value.names


def test_no_more_than_fifty_foreign_names_are_kept() -> None:
    names = b"".join(b"cos\nsystem%d\n" % number for number in range(80))
    found = describe(b"\x80\x02(" + names + b"t.")
    assert found.foreign_names == tuple(f"os.system{number}" for number in range(50))


# The allow-list


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "builtins.getattr",
        "__builtin__.eval", "builtins.__import__", "sys.exit", "importlib.import_module", "pickle.loads",
        "torch.load", "torch.hub.load", "torch.os.system", "torch.jit.load", "torch.Tensor.__reduce__",
        "torch.serialization.load", "torch.storage._load_from_bytes", "numpy.load", "numpy.core.multiarray.load",
        "collections.namedtuple", "functools.partial", "operator.attrgetter", "torch.nn.Module", "x.torch.Size",
        "torch.FloatStorage.x", "torch.FloatStorage\n", "",
    ],
)  # fmt: skip
def test_what_runs_code_is_not_allowed(name: str) -> None:
    assert not is_allowed(name)


def test_everything_that_torch_and_accelerate_allow_is_allowed() -> None:
    """For the versions that are installed; torch keeps the list as names, accelerate as objects."""
    from accelerate.utils import other
    from torch._weights_only_unpickler import _get_allowed_globals

    refused = {name for name in _get_allowed_globals() if not is_allowed(name)}
    assert {name for name in refused if not name.startswith(_UNUSED_IN_TRAINING)} == set()
    safe = [found if isinstance(found, tuple) else (found, None) for found in other.TORCH_SAFE_GLOBALS]
    names = {name or f"{kept.__module__}.{kept.__qualname__}" for kept, name in safe}
    assert {name for name in names if not is_allowed(name)} == set()


#: Tensors that are spread over several machines; no LoRA trainer saves them.
_UNUSED_IN_TRAINING = ("torch.distributed.", "torch.nested.")


def test_nothing_that_torch_refuses_of_the_common_modules_is_allowed() -> None:
    import builtins
    import os

    import torch
    from torch._weights_only_unpickler import _get_allowed_globals

    allowed = _get_allowed_globals().keys()
    for module in (builtins, os, torch, torch.serialization, torch._utils):
        for name in vars(module):
            qualified = f"{module.__name__}.{name}"
            if is_allowed(qualified):
                assert qualified in allowed or qualified.startswith("torch.q") or "Storage" in name, qualified


def test_a_hundred_thousand_fetches_are_screened_in_one_pass() -> None:
    """A pass for each of them would take minutes."""
    fetches = b"".join(b"j" + struct.pack("<L", 256 + index) for index in range(100_000))
    with pytest.raises(FormatError) as caught:
        describe(b"\x80\x02]q\x00(" + fetches + b"N" * 1_000_000 + b"e.")
    assert caught.value.kind is DamageKind.CORRUPT
