"""Bytes to structure: each module reads one file format and executes nothing of what it reads."""

from __future__ import annotations

from checkpoint_core.formats import hostile
from checkpoint_core.formats.dtypes import cast
from checkpoint_core.formats.pickles import Description, Storage, Stub, Tensor, describe
from checkpoint_core.formats.reader import MAX_COUNT, DamageKind, FileReader, FormatError, unreadable
from checkpoint_core.formats.safetensors import ITEM_BITS, SafetensorsHeader, TensorEntry, read_header
from checkpoint_core.formats.torch_writer import write_torch
from checkpoint_core.formats.torch_zip import (
    END,
    END64,
    END64_LOCATOR,
    END64_LOCATOR_MAGIC,
    END_MAGIC,
    LOCAL_MAGIC,
    Member,
    TorchZip,
)
from checkpoint_core.formats.train_state import TrainState, read_train_state
from checkpoint_core.formats.values import (
    count_in,
    needed_count,
    needed_text,
    number_in,
    text_in,
    written_count,
)

__all__ = [
    "END",
    "END64",
    "END64_LOCATOR",
    "END64_LOCATOR_MAGIC",
    "END_MAGIC",
    "ITEM_BITS",
    "LOCAL_MAGIC",
    "MAX_COUNT",
    "DamageKind",
    "Description",
    "FileReader",
    "FormatError",
    "Member",
    "SafetensorsHeader",
    "Storage",
    "Stub",
    "Tensor",
    "TensorEntry",
    "TorchZip",
    "TrainState",
    "cast",
    "count_in",
    "describe",
    "hostile",
    "needed_count",
    "needed_text",
    "number_in",
    "read_header",
    "read_train_state",
    "text_in",
    "unreadable",
    "write_torch",
    "written_count",
]
