"""A pickle described through an allow-list: built up as inert descriptions, nothing imported, nothing called.

Two passes. The first walks the opcodes (Python ``pickletools``, protocol 2 to 5) and holds the limits on size,
memo and nesting, because the C unpickler has none: one opcode can make it allocate gigabytes of memo. The
second is the C ``pickle.Unpickler`` whose ``find_class`` never imports: every name becomes a stand-in that keeps
its arguments. Names outside the allow-list are reported.

The allow-list is what ``torch.load(weights_only=True)`` takes (torch ``_weights_only_unpickler.py``,
``_get_allowed_globals``) and what accelerate adds to it (accelerate ``utils/other.py``, ``TORCH_SAFE_GLOBALS``).
"""

from __future__ import annotations

import io
import pickle
import re
import threading
from typing import Any, NamedTuple

from checkpoint_core.formats import DamageKind, FormatError

MAX_FOREIGN_NAMES = 50
#: A pickle may use nested tuples as keys; hashing them recurses in C, at 64 bytes of stack a level (measured,
#: CPython 3.10 to 3.13). So many tuples fit the stack of any thread; more get a thread with a stack for them.
MAX_TUPLES_ON_ANY_STACK = 8_000
MAX_TUPLES = 500_000
_LARGE_STACK_BYTES = 64 * 1024 * 1024

_TORCH_PLAIN = frozenset({"torch.Size", "torch.Tensor", "torch.device", "torch.nn.parameter.Parameter"})
_REBUILDERS = frozenset(
    "torch._utils." + name
    for name in (
        "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter",
        "_rebuild_parameter_with_state", "_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_nested_tensor",
        "_rebuild_meta_tensor_no_storage", "_rebuild_device_tensor_from_numpy", "_rebuild_wrapper_subclass",
        "_rebuild_device_tensor_from_cpu_tensor",
    )
)  # fmt: skip
_OTHER = frozenset(
    {
        "collections.OrderedDict", "collections.Counter", "builtins.bytearray", "builtins.complex", "builtins.set",
        "_codecs.encode", "torch._tensor._rebuild_from_type_v2", "torch.serialization._get_layout",
        "torch.storage.TypedStorage", "torch.storage.UntypedStorage",
    }
)  # fmt: skip
#: accelerate adds these for the random states of numpy (since 1.1), under numpy's old and new module name.
_NUMPY = frozenset(
    {
        "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype",
        "numpy.dtypes.UInt32DType",
    }
)  # fmt: skip
_STORAGE_OR_DTYPE = re.compile(
    r"torch\.(cuda\.|sparse\.|cuda\.sparse\.)?[A-Z]\w*(Storage|Tensor)\Z"
    r"|torch\.((b?float|complex|u?int|q?u?int|bits)\d+\w*|bool|per_(channel|tensor)_\w+)\Z"
)

#: Modules through which a pickle runs code when it is loaded; a checkpoint has no use for them.
_DANGEROUS = frozenset(
    "os posix nt subprocess sys runpy importlib shutil socket pty commands webbrowser ctypes code codeop "
    "multiprocessing threading asyncio pickle _pickle operator functools urllib requests http".split()
)
_HARMLESS_BUILTINS = frozenset(
    "bytearray complex set frozenset dict list tuple int float str bytes bool slice range object".split()
)


def is_allowed(name: str) -> bool:
    """Whether ``torch.load(weights_only=True)`` as accelerate calls it takes an object of this name."""
    return (
        name in _TORCH_PLAIN
        or name in _REBUILDERS
        or name in _OTHER
        or name in _NUMPY
        or _STORAGE_OR_DTYPE.match(name) is not None
    )


def is_dangerous(name: str) -> bool:
    """Whether a name belongs to a module that a pickle uses to run code (a hint that the file is hostile)."""
    module, _, attribute = name.rpartition(".")
    if module in ("builtins", "__builtin__"):
        return attribute not in _HARMLESS_BUILTINS
    return module.partition(".")[0] in _DANGEROUS


class Stub:
    """Stands for an object that the pickle names: keeps what it was called with, does nothing."""

    qualified_name = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        """Accept any arguments, as a pickle's NEWOBJ gives them."""
        instance = super().__new__(cls)
        instance.args = args
        instance.state = None
        return instance

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Items that a pickle puts into a dictionary's subclass; of no interest here."""

    def extend(self, items: Any) -> None:
        """Items that a pickle appends to a list's subclass; of no interest here."""

    def append(self, item: Any) -> None:
        """As :meth:`extend`, for one item."""

    def add(self, item: Any) -> None:
        """As :meth:`extend`, for a set's subclass."""


class OrderedDictStub(dict[Any, Any]):
    """Stands for ``collections.OrderedDict``, with its items."""

    def __setstate__(self, state: Any) -> None:
        """An OrderedDict's own attributes; none matter."""


class Storage(NamedTuple):
    """A tensor's bytes by reference: the archive's member ``data/{key}``, ``numel`` elements of ``dtype``."""

    dtype: str
    key: str
    device: str
    numel: int


class Tensor(NamedTuple):
    """A described tensor; nothing of its data has been read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]


class Description(NamedTuple):
    """What a pickle holds: plain Python values, tensors as :class:`Tensor`, other objects as :class:`Stub`."""

    value: Any
    foreign_names: tuple[str, ...]
    #: The storages that it refers to, key to dtype: each must be a member ``data/{key}``.
    storages: dict[str, str]


def describe(data: bytes) -> Description:
    """Describe a pickle without importing or calling anything it names.

    :raises FormatError: ``TRUNCATED`` without its end, ``CORRUPT`` for nonsense, ``UNSUPPORTED`` over a limit.
    """
    check_opcodes(data)
    # Counts bytes in arguments too: an upper bound is enough, and the count is one pass in C.
    tuples = sum(data.count(opcode) for opcode in (b"t", b"\x85", b"\x86", b"\x87"))
    if tuples > MAX_TUPLES:
        raise FormatError(DamageKind.UNSUPPORTED, f"its pickle holds about {tuples:,} tuples")
    if tuples > MAX_TUPLES_ON_ANY_STACK:
        return _with_large_stack(data)
    return _describe(data)


def _describe(data: bytes) -> Description:
    reader = _Describer(data)
    try:
        value = reader.load()
    except FormatError:
        raise
    except Exception as error:  # whatever hostile bytes provoke in the C unpickler is damage of the file
        raise FormatError(DamageKind.CORRUPT, f"its pickle cannot be followed ({type(error).__name__})") from error
    return Description(value, tuple(reader.foreign), reader.storages)


_stack_size_lock = threading.Lock()


def _with_large_stack(data: bytes) -> Description:
    outcome: list[Description | FormatError] = []

    def work() -> None:
        try:
            outcome.append(_describe(data))
        except FormatError as error:
            outcome.append(error)

    with _stack_size_lock:
        before = threading.stack_size(_LARGE_STACK_BYTES)
        try:
            thread = threading.Thread(target=work, name="describe-pickle", daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if isinstance(outcome[0], FormatError):
        raise outcome[0]
    return outcome[0]


class _Describer(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
        self.foreign: dict[str, None] = {}
        self.storages: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        qualified = f"{module}.{name}"
        if qualified == "collections.OrderedDict":
            return OrderedDictStub
        if qualified in _REBUILDERS:
            return _TensorStub.named(qualified)
        if not is_allowed(qualified) and len(self.foreign) < MAX_FOREIGN_NAMES:
            self.foreign[qualified[:200]] = None
        return type("Stub", (Stub,), {"qualified_name": qualified[:200]})

    def persistent_load(self, pid: Any) -> Storage:
        try:
            kind, storage_type, key, device, numel = pid
            if kind != "storage":
                raise ValueError(kind)
            dtype = getattr(storage_type, "qualified_name", "").rpartition(".")[2].removesuffix("Storage")
            self.storages[str(key)] = dtype
            return Storage(dtype, str(key), str(device), int(numel))
        except (TypeError, ValueError) as error:
            raise FormatError(DamageKind.CORRUPT, "its pickle refers to something that is no storage") from error


class _TensorStub(Stub):
    """``torch._utils._rebuild_tensor_v2(storage, storage_offset, size, stride, …)`` becomes a :class:`Tensor`."""

    @classmethod
    def named(cls, qualified: str) -> type[_TensorStub]:
        return _TENSOR_STUBS[qualified]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """The tensor's description; parameters wrap one, whose description they pass on."""
        if args and isinstance(args[0], Tensor):
            return args[0]
        if len(args) >= 3 and isinstance(args[0], Storage) and isinstance(args[2], tuple):
            return Tensor(args[0], args[1] if isinstance(args[1], int) else 0, args[2])
        return super().__new__(cls, *args)


_TENSOR_STUBS = {name: type("TensorStub", (_TensorStub,), {"qualified_name": name}) for name in _REBUILDERS}

# Opcodes with arguments of fixed length, as one pattern so that runs of them are matched in C: torch's pickles
# are nearly all of this kind. A memo index has at most 20 bits: a larger one would make the C unpickler allocate
# a table up to it. Opcodes that torch never writes (sets, pops, extensions, instances, text) are left out.
_FIXED = re.compile(
    rb"(?:[\x88\x89N\]})tesau\x85\x86\x87Rb\x81\x93\x94Q(]|[Khq].|M..|J....|[rj]..[\x00-\x0f]\x00|G.{8})*", re.DOTALL
)
#: Opcode to the number of bytes that hold the length of its argument.
_SIZED = {b"X": 4, b"\x8c": 1, b"U": 1, b"C": 1, b"B": 4, b"T": 4, b"\x8a": 1, b"\x8b": 4, b"\x8d": 8, b"\x8e": 8}
_MAX_PROTOCOL = 5


def check_opcodes(data: bytes) -> None:
    """Hold the limits before anything is built; one pass, no memory.

    :raises FormatError: ``TRUNCATED`` without the STOP opcode, ``UNSUPPORTED`` for an opcode that neither torch
        nor numpy writes or for a memo index or a length beyond reason.
    """
    at = 0
    while True:
        run = _FIXED.match(data, at)
        at = run.end() if run else at
        opcode = data[at : at + 1]
        if opcode == b".":
            return
        at = _skip(data, at, opcode)


def _skip(data: bytes, at: int, opcode: bytes) -> int:
    """The offset behind one opcode that the pattern does not cover."""
    if not opcode:
        raise FormatError(DamageKind.TRUNCATED, "its pickle ends before its STOP")
    if opcode in _SIZED:
        width = _SIZED[opcode]
        end = at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")
    elif opcode == b"\x80":
        if data[at + 1 : at + 2] > bytes([_MAX_PROTOCOL]):
            raise FormatError(DamageKind.UNSUPPORTED, f"its pickle has protocol {data[at + 1]}")
        end = at + 2
    elif opcode == b"\x95":
        end = at + 9
    elif opcode == b"c":
        first = data.find(b"\n", at)
        second = data.find(b"\n", first + 1)
        if first < 0 or second < 0:
            raise FormatError(DamageKind.TRUNCATED, "its pickle ends inside a name")
        end = second + 1
    else:
        raise FormatError(DamageKind.UNSUPPORTED, f"its pickle has the opcode {opcode!r}, which torch never writes")
    if end > len(data):
        raise FormatError(DamageKind.TRUNCATED, "its pickle ends inside a value")
    return end
