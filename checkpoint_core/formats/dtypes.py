"""Numbers of one dtype as another, as torch rounds them; dtypes are named as in safetensors."""

from __future__ import annotations

from typing import Any

import numpy as np

_TO_NUMPY: dict[str, Any] = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
#: The trainer keeps ``.alpha`` as a whole number in a state, and as a float in the LoRA file.
_SOURCES: dict[str, Any] = {**_TO_NUMPY, "I64": np.int64, "I32": np.int32}


def cast(data: bytes, source: str, target: str) -> bytes | None:
    """Numbers of one dtype as another, rounded as torch rounds (to nearest, ties to even); ``None`` if unknown."""
    if source == target:
        return data
    if source == "BF16":
        values: Any = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif source in _SOURCES:
        values = np.frombuffer(data, _SOURCES[source])
    else:
        return None
    with np.errstate(over="ignore"):
        if target == "F64":
            return bytes(values.astype(np.float64).tobytes())
        # torch goes by float32, from float64 too.
        values = values.astype(np.float32)
        if target in _TO_NUMPY:
            return bytes(values.astype(_TO_NUMPY[target]).tobytes())
    if target == "BF16":
        bits = values.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # Rounding up would carry some NaNs over into zero.
        rounded = np.where(np.isnan(values), 0x7FC0, rounded)
        return bytes(rounded.astype(np.uint16).tobytes())
    return None
