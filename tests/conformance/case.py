"""What a case is: a run, one thing done to it, and where the training should go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint_core.states.layout import Layout
from tests.world import RUN_NAME, STEPS_PER_EPOCH, World

EPOCH_4 = f"{RUN_NAME}-000004-state"

ONLY_BYTES_TELL = (
    "Names, sizes and times are those of a good state; reading every byte tells, as another case shows."
)
SUMS_UNCHECKED = (
    "torch verifies no checksum, and whether the bytes or their sum have changed cannot be told; this change happens "
    "to leave every value as it was."
)


@dataclass(frozen=True)
class Case:
    """One state and one script, as a user might have them.

    :param name: stable; its part before the colon is its group.
    :param row: the row of the failure catalogue; empty for what is no failure.
    :param change: done to a copy of the base; nothing by default.
    :param base: the run of :mod:`tests.conformance.bases` that is copied.
    :param state: the state directory's name in the run's folder.
    :param given: what is given as the state instead, relative to the run's folder.
    :param flags: changes of the train script, old text to new; the old text must be there.
    :param batches: batches in an epoch of the dataset that the trainer finds.
    :param epoch: where the training should go on, counted from 1.
    :param skip: batches of that epoch that were trained already.
    :param deep: judged with every byte read.
    :param pristine_base: the base whose state of the same name should have been loaded; the case's own by default.
    :param accepted: why our verdict rightly differs from the trainer's answer, where it does.
    """

    name: str
    row: str = ""
    change: Callable[[World], object] = field(default=lambda world: None, repr=False)
    base: str = "stock"
    state: str = EPOCH_4
    given: str = ""
    flags: tuple[tuple[str, str], ...] = ()
    batches: int = STEPS_PER_EPOCH
    epoch: int = 5
    skip: int = 0
    deep: bool = False
    pristine_base: str = ""
    accepted: str = ""

    @property
    def group(self) -> str:
        """The cases that are shown together."""
        return self.name.partition(":")[0]

    @property
    def slug(self) -> str:
        """The name as a folder."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)

    @property
    def layout(self) -> Layout | None:
        """The layout to judge by, where no script tells it."""
        return Layout.ACCELERATE_OBJECTS if self.base.startswith("registered") else None


def on_state(name: str, damage: Callable[[Path], object], state: str = EPOCH_4) -> Callable[[World], object]:
    """The damage done to one file of a state."""
    return lambda world: damage(world.run / state / name)
