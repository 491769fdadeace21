"""A pickle described through an allow-list: built up as inert descriptions, nothing imported, nothing called.

Two passes. The first walks the opcodes and holds the limits (:mod:`checkpoint_core.formats.pickle_opcodes`). The
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
from typing import Any, ClassVar, NamedTuple

from checkpoint_core.formats import hostile
from checkpoint_core.formats.pickle_opcodes import screen
from checkpoint_core.formats.reader import DamageKind, FormatError

#: Names that are kept to be shown; whether one of them is hostile is told of all.
MAX_FOREIGN_NAMES = 50
#: A real file names about ten objects; each costs a class here.
MAX_NAMES = 1_000
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


def is_allowed(name: str) -> bool:
    """Whether ``torch.load(weights_only=True)`` as accelerate calls it takes an object of this name."""
    return (
        name in _TORCH_PLAIN
        or name in _REBUILDERS
        or name in _OTHER
        or name in _NUMPY
        or _STORAGE_OR_DTYPE.match(name) is not None
    )


class Stub:
    """Stands for an object that the pickle names: keeps what it was called with, does nothing."""

    qualified_name = ""
    #: For a class of storages, the dtype of its elements as torch names it.
    dtype = ""

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


class _NewOrderedDict(OrderedDictStub):
    """The same, made empty: its items follow one by one, each looked at. Python 3 pickles it so."""

    def __init__(self) -> None:
        super().__init__()


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

    def __hash__(self) -> int:
        """Refused: as a key of a table it would be hashed over the whole of its shape, again and again."""
        raise TypeError("a tensor is no key")


class Description(NamedTuple):
    """What a pickle holds: plain Python values, tensors as :class:`Tensor`, other objects as :class:`Stub`."""

    value: Any
    foreign_names: tuple[str, ...]
    #: The storages that it refers to, key to dtype: each must be a member ``data/{key}``.
    storages: dict[str, str]
    #: Every object that it names, as ``module.name``.
    names: frozenset[str] = frozenset()
    #: Whether one of all the foreign names runs code; those that do stand first among ``foreign_names``.
    is_hostile: bool = False

    def refuse_foreign(self) -> None:
        """Raise for names outside the allow-list.

        :raises FormatError: ``FOREIGN``, with the names.
        """
        if self.foreign_names:
            named = ", ".join(self.foreign_names[:5])
            raise FormatError(
                DamageKind.FOREIGN, f"it names {named}", self.foreign_names, is_hostile=self.is_hostile
            )


def describe(data: bytes) -> Description:
    """Describe a pickle without importing or calling anything it names.

    :raises FormatError: ``TRUNCATED`` without its end, ``CORRUPT`` for nonsense, ``UNSUPPORTED`` over a limit; with
        the hostile names that are in it.
    """
    try:
        return _described(data)
    except FormatError as error:
        # What cannot be followed to its end runs as far as it goes.
        error.add_hostile(hostile.names_in([data]))
        raise


def _described(data: bytes) -> Description:
    screened = screen(data)
    # Counts bytes in arguments too: an upper bound is enough, and the count is one pass in C.
    tuples = sum(data.count(opcode) for opcode in (b"t", b"\x85", b"\x86", b"\x87"))
    if tuples > MAX_TUPLES:
        raise FormatError(DamageKind.UNSUPPORTED, f"its pickle holds about {tuples:,} tuples")
    follow = _with_large_stack if tuples > MAX_TUPLES_ON_ANY_STACK else _describe
    if not screened.may_share:
        try:
            return follow(screened.data, _Describer)
        except FormatError:
            if len(screened.data) == len(data):
                raise
    return follow(data, _CarefulDescriber)


def _describe(data: bytes, describer: type[_Names]) -> Description:
    reader = describer(data)
    try:
        value = reader.load()
    except FormatError:
        raise
    except Exception as error:  # whatever hostile bytes provoke in the C unpickler is damage of the file
        raise FormatError(
            DamageKind.CORRUPT, f"its pickle cannot be followed ({type(error).__name__})"
        ) from error
    return Description(value, reader.foreign_names, reader.storages, reader.names, bool(reader.hostile))


_stack_size_lock = threading.Lock()


def _with_large_stack(data: bytes, describer: type[_Names]) -> Description:
    outcome: list[Description | FormatError] = []

    def work() -> None:
        try:
            outcome.append(_describe(data, describer))
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


class _Names:
    """What both unpicklers do with the names and the storages that a pickle refers to."""

    ordered_dict: ClassVar[type[OrderedDictStub]] = OrderedDictStub

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")  # type: ignore[call-arg]
        self.foreign: dict[str, None] = {}
        self.hostile: dict[str, None] = {}
        self.storages: dict[str, str] = {}
        self._stubs: dict[str, Any] = {}

    @property
    def names(self) -> frozenset[str]:
        """Every object named so far."""
        return frozenset(name[:200] for name in self._stubs)

    @property
    def foreign_names(self) -> tuple[str, ...]:
        """The names outside the allow-list, hostile ones first, as many as are shown."""
        return tuple({**self.hostile, **self.foreign})[:MAX_FOREIGN_NAMES]

    def load(self) -> Any:
        """What the pickle holds; of the unpickler's own."""
        return super().load()  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        qualified = f"{module}.{name}"
        stub = self._stubs.get(qualified)
        if stub is None:
            if len(self._stubs) >= MAX_NAMES:
                raise FormatError(DamageKind.UNSUPPORTED, f"its pickle names more than {MAX_NAMES:,} objects")
            stub = self._stubs[qualified] = self._stub(qualified, module, name)
        return stub

    def _stub(self, qualified: str, module: str, name: str) -> Any:
        if qualified == "collections.OrderedDict":
            return self.ordered_dict
        if qualified in _REBUILDERS:
            return _Rebuilder()
        if not is_allowed(qualified):
            self._refuse(qualified, hostile.is_dangerous(module, name))
        if qualified == "numpy.dtype":
            return self._numpy_dtype
        dtype = name.removesuffix("Storage") if module.startswith("torch") else ""
        return type("Stub", (Stub,), {"qualified_name": qualified[:200], "dtype": dtype})

    def _refuse(self, name: str, is_hostile: bool = False) -> None:
        names = self.hostile if is_hostile else self.foreign
        if len(names) < MAX_FOREIGN_NAMES:
            names[name[:200]] = None

    def _numpy_dtype(self, *args: Any) -> Stub:
        """Of numpy's dtypes accelerate lets one through, the random states' (``numpy.dtypes.UInt32DType``)."""
        if args[:1] != ("u4",):
            self._refuse(f"numpy.dtype {str(args[0])[:20] if args else ''}".strip())
        return Stub(*args)

    def persistent_load(self, pid: Any) -> Storage:
        try:
            kind, storage_type, key, device, numel = pid
        except (TypeError, ValueError):
            kind = key = device = numel = storage_type = None
        # Exact types: text made of a hostile structure could be larger than any memory.
        if kind != "storage" or type(key) is not str or type(device) is not str or type(numel) is not int:
            raise FormatError(DamageKind.CORRUPT, "its pickle refers to something that is no storage")
        dtype = self.storages[key] = getattr(storage_type, "dtype", "")
        return Storage(dtype, key, device, numel)


class _Describer(_Names, pickle.Unpickler):
    """The C unpickler, for what :func:`~checkpoint_core.formats.pickle_opcodes.screen` finds harmless."""


#: The standard library's unpickler in Python, whose opcodes can be given methods of one's own.
_PythonUnpickler: Any = pickle._Unpickler  # noqa: SLF001 - pickle.Unpickler is the one in C, with no such methods


class _CarefulDescriber(_Names, _PythonUnpickler):  # type: ignore[misc]
    """The same in Python, ten times slower; it looks at each key before the key is hashed."""

    ordered_dict = _NewOrderedDict
    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def _set_item(self) -> None:
        _refuse_tuple(self.stack[-2])
        self.load_setitem()

    def _set_items(self) -> None:
        for key in self.stack[::2]:
            _refuse_tuple(key)
        self.load_setitems()

    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items


def _refuse_tuple(key: object) -> None:
    # A tuple that holds another one twice, and so on, takes 2**levels operations to hash, and no trainer's file
    # has tuples for keys.
    if isinstance(key, tuple):
        raise FormatError(DamageKind.UNSUPPORTED, "its pickle has a table with a tuple for a key")


_LENGTHS = frozenset({int})


class _Rebuilder:
    """Stands for ``torch._utils._rebuild_tensor_v2(storage, storage_offset, size, stride, …)`` and its siblings."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        if len(args) >= 3 and type(args[0]) is Storage and type(args[2]) is tuple:
            shape = args[2]
            if not _LENGTHS.issuperset(map(type, shape)):
                raise FormatError(DamageKind.CORRUPT, "its pickle has a tensor whose shape is not of numbers")
            return Tensor(args[0], args[1] if type(args[1]) is int else 0, shape)
        # A parameter wraps a tensor: its description is the tensor's.
        return args[0] if args and type(args[0]) is Tensor else Stub(*args)

    def __setstate__(self, state: Any) -> None:
        raise TypeError("a function has no state")
