"""One definition of enough: its bounds, and how large what is to come may be."""

from __future__ import annotations

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.states.facts import LoraFacts
from checkpoint_core.trainer.disk_space import (
    RESERVE_BYTES,
    DiskRoom,
    bytes_to_free,
    disk_room,
    lora_size,
    state_sizes,
    with_spare,
)
from tests.world import World

GB = 10**9


@pytest.mark.parametrize(
    ("needed", "free", "room", "lacking"),
    [
        (GB, GB - 1, DiskRoom.TOO_LITTLE, RESERVE_BYTES + 1),
        (GB, GB, DiskRoom.TIGHT, RESERVE_BYTES),
        (GB, GB + RESERVE_BYTES - 1, DiskRoom.TIGHT, 1),
        (GB, GB + RESERVE_BYTES, DiskRoom.ENOUGH, 0),
        (100 * GB, 101 * GB - 1, DiskRoom.TIGHT, 1),
        (100 * GB, 101 * GB, DiskRoom.ENOUGH, 0),
        (0, 0, DiskRoom.TIGHT, RESERVE_BYTES),
    ],
)
def test_the_saves_fit_or_fit_with_too_little_left(
    needed: int, free: int, room: DiskRoom, lacking: int
) -> None:
    assert disk_room(needed, free) is room
    assert bytes_to_free(needed, free) == lacking


def test_a_small_write_of_ours_does_not_wait_for_the_reserve_of_a_training() -> None:
    assert 500 < with_spare(500) < RESERVE_BYTES


def test_a_state_lies_between_the_sizes_that_its_lora_file_tells(world: World) -> None:
    facts = Auditor(world.outputs).audit_run(world.run_name).checkpoints[0].facts
    assert isinstance(facts.lora, LoraFacts)

    least, most = state_sizes(facts.lora.size_bytes)
    assert least <= facts.size_bytes <= most
    assert lora_size(facts) == facts.lora.size_bytes
