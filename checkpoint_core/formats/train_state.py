"""``train_state.json``, written first of all by sd-scripts' save hook (``train_network.py``, ``save_model_hook``)."""

from __future__ import annotations

import json
from dataclasses import dataclass

from checkpoint_core.formats.reader import DamageKind, FileReader, FormatError
from checkpoint_core.formats.values import count_in

_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class TrainState:
    """``current_epoch`` counts from 1 and stays true; ``current_step`` counts from the start of the last launch.

    ``None`` where the file lacks the key: the trainer reads ``current_step`` alone and cannot do without it.
    """

    current_epoch: int | None
    current_step: int | None


def read_train_state(reader: FileReader) -> TrainState:
    """Read the two numbers.

    :raises FormatError: ``CORRUPT`` for broken JSON (the trainer: ``JSONDecodeError``) or a ``current_step`` that is
        no whole number (the trainer: ``TypeError``).
    """
    if reader.size > _MAX_BYTES:
        raise FormatError(DamageKind.CORRUPT, f"it has {reader.size:,} bytes; a real one has about 40")
    try:
        # Not utf-8-sig: the trainer opens it as UTF-8, and its JSON reader refuses a byte order mark.
        data = json.loads(reader.at(0, reader.size).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(DamageKind.CORRUPT, "it is not valid JSON") from error
    if not isinstance(data, dict):
        raise FormatError(DamageKind.CORRUPT, "it is not a JSON object")
    epoch, step = data.get("current_epoch"), data.get("current_step")
    if step is not None and count_in(step) is None:
        shown = repr(step)[:40] if isinstance(step, (str, int, float)) else f"a {type(step).__name__}"
        raise FormatError(DamageKind.CORRUPT, f"current_step is {shown}, not a step count")
    # The trainer never reads current_epoch back, so a strange one does no harm there.
    return TrainState(count_in(epoch), step)
