"""Whether writes fit on the disk, and how large the saves to come are: the one definition of enough; pure."""

from __future__ import annotations

import enum

from checkpoint_core.states import LoraFacts, StateFacts, layout

#: Left free beside the saves: the trainer writes sample images and logs between them, and a disk that is filled to
#: the last byte fails whoever writes next. The share stands for saves that differ a little in size.
RESERVE_BYTES = 100_000_000
_RESERVE_SHARE = 100
#: Left free beside what is written once and checked at once, as by a repair: a full disk is a reason to repair.
_SPARE_BYTES = 1_000_000
#: The size of a state in LoRA files: weights in float32 beside one in bfloat16, and up to two moments of each number
#: (torch ``AdamW``: ``exp_avg`` and ``exp_avg_sq``).
_LEAST_OF_LORA, _MOST_OF_LORA = 2, 6
#: A state, the LoRA file beside it, which is no larger, and nothing else.
_SAVE_OF_STATE = 2


class DiskRoom(enum.Enum):
    """How what is needed compares with what is free."""

    ENOUGH = "enough"
    #: It fits, and leaves less than the reserve.
    TIGHT = "tight"
    TOO_LITTLE = "too-little"


def disk_room(needed_bytes: int, free_bytes: int) -> DiskRoom:
    """Whether the saves of a training fit."""
    if free_bytes < needed_bytes:
        return DiskRoom.TOO_LITTLE
    return DiskRoom.TIGHT if bytes_to_free(needed_bytes, free_bytes) else DiskRoom.ENOUGH


def bytes_to_free(needed_bytes: int, free_bytes: int) -> int:
    """What has to be freed until there is enough for the saves of a training; 0 where there is."""
    return max(0, needed_bytes + max(RESERVE_BYTES, needed_bytes // _RESERVE_SHARE) - free_bytes)


def with_spare(needed_bytes: int) -> int:
    """What has to be free for a single write of this program."""
    return needed_bytes + _SPARE_BYTES


def most_of_save(state_bytes: int) -> int:
    """The most that a save takes whose state is of that size, without a look at its LoRA file."""
    return _SAVE_OF_STATE * state_bytes


def state_sizes(lora_bytes: int) -> tuple[int, int]:
    """The least and the most that a state takes beside a LoRA file of that size."""
    return _LEAST_OF_LORA * lora_bytes, _MOST_OF_LORA * lora_bytes


def lora_size(facts: StateFacts) -> int:
    """Of the LoRA file of the same save; else of the state's weights, which are at least as large."""
    return facts.lora.size_bytes if isinstance(facts.lora, LoraFacts) else weights_size(facts)


def weights_size(facts: StateFacts) -> int:
    """Of the state's weights; 0 where they are not there."""
    weights = facts.file(layout.WEIGHTS_SAFE)
    return weights.size_bytes if weights else 0
