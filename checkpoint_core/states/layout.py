"""What a run and a state directory are: the file names and name patterns of the trainer.

Sources: sd-scripts ``library/train_util.py`` (``EPOCH_STATE_NAME``, ``STEP_STATE_NAME``, ``LAST_STATE_NAME``)
and accelerate ``utils/constants.py`` and ``checkpointing.py``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

TRAIN_STATE = "train_state.json"
WEIGHTS_SAFE = "model.safetensors"
WEIGHTS_SAFE_INDEX = "model.safetensors.index.json"
WEIGHTS_PICKLED = "pytorch_model.bin"
WEIGHTS_PICKLED_INDEX = "pytorch_model.bin.index.json"
OPTIMIZER = "optimizer.bin"
SCHEDULER = "scheduler.bin"
RANDOM_STATES = "random_states_0.pkl"
CUSTOM_OBJECT = "custom_checkpoint_0.pkl"
#: Only under fp16.
SCALER = "scaler.pt"

#: The order in which a save writes its files; ``random_states_0.pkl`` last, so it marks a finished save.
WRITE_ORDER = (TRAIN_STATE, WEIGHTS_SAFE, OPTIMIZER, SCHEDULER, RANDOM_STATES)

#: A directory with any of these is a state directory, whatever its name.
STATE_MARKERS = frozenset({OPTIMIZER, SCHEDULER, RANDOM_STATES, TRAIN_STATE, CUSTOM_OBJECT})

#: Folders of a run or of ``outputs`` that are never runs or states (FluxGym writes sample images there).
NOT_A_RUN = frozenset({"sample"})

#: In a run's folder, the manifests of its states; the name begins with a dot, so it is never taken for a state.
MANIFESTS_FOLDER = ".manifests"

#: accelerate's automatic naming saves to ``checkpoints/checkpoint_N`` (``accelerator.py``, ``save_state``).
AUTOMATIC_FOLDER = "checkpoints"

RANDOM_STATES_PATTERN = re.compile(r"random_states_(\d+)\.pkl\Z")
CUSTOM_OBJECT_PATTERN = re.compile(r"custom_checkpoint_(\d+)\.pkl\Z")

# Zero-padded by the trainer; no count of steps has more than 18 digits, nor fits a table of 64-bit integers.
_EPOCH_STATE = re.compile(r"(?P<name>.+)-(?P<number>[0-9]{6,18})-state\Z", re.DOTALL)
_STEP_STATE = re.compile(r"(?P<name>.+)-step(?P<number>[0-9]{8,18})-state\Z", re.DOTALL)
_LAST_STATE = re.compile(r"(?P<name>.+)-state\Z", re.DOTALL)


class Layout(enum.Enum):
    """Which trainer's files a state directory holds, hence which are required."""

    #: What kohya-ss/sd-scripts writes: ``train_state.json`` beside accelerate's files, no registered objects.
    SD_SCRIPTS = "sd-scripts"
    #: accelerate with ``register_for_checkpointing``: ``custom_checkpoint_0.pkl`` holds ``step`` and ``epoch``.
    ACCELERATE_OBJECTS = "accelerate-objects"


class SavePoint(enum.Enum):
    """When a state was saved, as its name tells."""

    EPOCH = "epoch"
    STEP = "step"
    LAST = "last"
    OTHER = "other"


@dataclass(frozen=True)
class StateName:
    """What the name of a state directory tells; a hint, never proof.

    ``number`` is the epoch (counted from 1) or the step in the name, ``stem`` the name without ``-state``:
    the LoRA file saved at the same moment is ``{stem}.safetensors``.
    """

    text: str
    save_point: SavePoint
    number: int | None
    output_name: str | None

    @property
    def stem(self) -> str:
        """The name without its ``-state``."""
        return self.text.removesuffix("-state")

    @property
    def lora_file(self) -> str:
        """The name of the LoRA file that the trainer writes at the same moment."""
        return f"{self.stem}.safetensors"


def parse_state_name(text: str, output_name: str | None = None) -> StateName:
    """Read a directory name by the trainer's three patterns.

    An ``output_name`` that itself ends in six digits makes ``{output_name}-state`` look like an epoch's
    state; giving it decides.
    """
    if output_name is not None and text == f"{output_name}-state":
        return StateName(text, SavePoint.LAST, None, output_name)
    for save_point, pattern in ((SavePoint.STEP, _STEP_STATE), (SavePoint.EPOCH, _EPOCH_STATE)):
        if match := pattern.match(text):
            return StateName(text, save_point, int(match["number"]), match["name"])
    if match := _LAST_STATE.match(text):
        return StateName(text, SavePoint.LAST, None, match["name"])
    return StateName(text, SavePoint.OTHER, None, None)


def looks_like_state(file_names: Iterable[str]) -> bool:
    """Whether a directory's files make it a state, whatever it is called (a renamed copy, ``checkpoint_0``)."""
    names = set(file_names)
    return bool(names & STATE_MARKERS) or bool(names & {WEIGHTS_SAFE_INDEX, WEIGHTS_PICKLED_INDEX})


#: accelerate ``checkpointing.py`` (``save_accelerator_state``); split weights end in ``-00001-of-00002``.
_SAVED_FILE = re.compile(
    r"(train_state\.json|(model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin)(\.index\.json)?"
    r"|optimizer\.bin|scheduler\.bin|random_states_\d+\.pkl|custom_checkpoint_\d+\.pkl)\Z"
)


def is_saved_file(name: str) -> bool:
    """Whether a save writes a file of that name that the trainer reads again; leftovers are none."""
    return _SAVED_FILE.match(name) is not None
