"""What was observed in a state and in a LoRA file: values without an opinion.

A reading has three outcomes: the facts, a :class:`Damage` (the file is there but cannot be used, or could not be
read), or ``None`` (the file is absent). Sizes are bytes, times nanoseconds since the epoch, epochs count from 1.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

from checkpoint_core.formats import DamageKind, TrainState
from checkpoint_core.states.layout import Layout, StateName, is_saved_file

T = TypeVar("T")


@dataclass(frozen=True)
class Damage:
    """Why a file gave no facts; ``names`` are the objects outside the allow-list, the first of them.

    ``is_hostile`` is whether one of all the objects that it names runs code when it is loaded.
    """

    kind: DamageKind
    detail: str
    names: tuple[str, ...] = ()
    is_hostile: bool = False


Reading: TypeAlias = "T | Damage | None"


class EntryKind(enum.Enum):
    """What a directory entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    #: A link that leads out of the outputs folder; never followed.
    OUTSIDE_LINK = "outside-link"
    OTHER = "other"


@dataclass(frozen=True)
class FileEntry:
    """One entry of a state directory, as the directory lists it."""

    name: str
    size_bytes: int
    modified_ns: int
    kind: EntryKind = EntryKind.FILE


class WeightsSample(NamedTuple):
    """The first numbers of one tensor, as they lie in the file."""

    name: str
    dtype: str
    data: bytes


@dataclass(frozen=True)
class WeightsFacts:
    """A weights file by its header. ``shapes`` counts the shapes of the trained tensors (all but ``.alpha``)."""

    file: str
    tensor_count: int
    keys_are_lora: bool
    rank: int | None
    shapes: Counter[tuple[int, ...]] = field(repr=False)
    #: Trained tensors by the part of the model that they adapt: ``unet``, ``te1``, ``te3``, or ``other``.
    parts: Counter[str] = field(repr=False)
    #: How many LoRA modules have each rank.
    ranks: Counter[int] = field(repr=False, default_factory=Counter)
    #: The names of the LoRA modules, such as ``lora_unet_double_blocks_0_img_attn_proj``.
    modules: frozenset[str] = field(repr=False, default=frozenset())
    #: ``--network_alpha`` as it was saved in the weights; ``None`` where they hold none or it was not read.
    alpha: float | None = None
    #: Modules of which a tensor is missing or misnamed; the first few.
    unpaired: tuple[str, ...] = ()
    #: A piece of a tensor that training changes: it tells whether two files hold the weights of one moment.
    sample: WeightsSample | None = field(repr=False, default=None)

    @property
    def trained_count(self) -> int:
        """How many trained tensors the file holds."""
        return self.shapes.total()


@dataclass(frozen=True)
class LoraFacts:
    """A LoRA file beside the states; the numbers are its ``ss_*`` metadata, ``None`` where absent.

    Source: sd-scripts ``train_network.py``, ``metadata`` and ``save_model``. ``epoch`` is true over resumes,
    ``steps`` counts from the start of the launch that wrote it.
    """

    file: str
    size_bytes: int
    modified_ns: int
    weights: WeightsFacts
    epoch: int | None
    steps: int | None
    steps_per_epoch: int | None
    session_id: str | None
    trainer_commit: str | None
    #: The class of the optimizer that trained it, without its module: ``AdamW``.
    optimizer: str | None = None


@dataclass(frozen=True)
class OptimizerFacts:
    """``optimizer.bin`` described. ``step`` is the optimizer's own count of updates, over the whole lifetime."""

    family: str
    param_count: int
    group_sizes: tuple[int, ...]
    state_count: int
    learning_rates: tuple[float, ...]
    step: int | None
    schedule_free: bool
    shapes: Counter[tuple[int, ...]] | None = field(repr=False, default=None)
    #: The settings of the first parameter group that are plain values (``weight_decay``, ``betas`` and so on).
    settings: tuple[tuple[str, object], ...] = field(repr=False, default=())
    #: The objects that the file names, such as ``torch._utils._rebuild_tensor_v2``.
    names: frozenset[str] = field(repr=False, default=frozenset())
    #: The rate that the schedule multiplies, of each group that has one (torch ``lr_scheduler.py``, ``initial_lr``).
    initial_rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class SchedulerFacts:
    """``scheduler.bin`` described. ``last_epoch`` counts updates (times processes) over the whole lifetime."""

    last_epoch: int | None
    last_lrs: tuple[float, ...]
    base_lrs: tuple[float, ...]
    names: frozenset[str] = field(repr=False, default=frozenset())


@dataclass(frozen=True)
class RandomStatesFacts:
    """``random_states_0.pkl`` described. ``step`` is accelerate's own counter, not the training step."""

    step: int | None
    generators: tuple[str, ...]
    cuda_count: int
    names: frozenset[str] = field(repr=False, default=frozenset())


@dataclass(frozen=True)
class CustomObjectFacts:
    """``custom_checkpoint_0.pkl`` described."""

    step: int | None
    epoch: int | None
    names: frozenset[str] = field(repr=False, default=frozenset())


@dataclass(frozen=True)
class WeightsLoraPair:
    """The state's weights, cast to the LoRA file's dtype, against the LoRA file of the same epoch, to the bit."""

    lora_file: str
    same_names: bool
    differing: tuple[str, ...]
    compared: int


@dataclass(frozen=True)
class DeepFacts:
    """What reading every byte told: damage by file, tensors with NaN or Inf by file, and the pairing."""

    damage: dict[str, Damage]
    non_finite: dict[str, tuple[str, ...]]
    pair: WeightsLoraPair | None
    bytes_read: int
    #: Whether a file's bytes are those that its manifest tells, by file; only those that could be compared.
    as_saved: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class ManifestFile:
    """One file of a state as it was when the state was first checked; ``sha256`` is in hex."""

    size_bytes: int
    modified_ns: int
    sha256: str


class FileChange(enum.Enum):
    """How a file differs from its manifest, as far as a directory's listing tells."""

    #: There is no regular file of that name any more.
    MISSING = "missing"
    SIZE = "size"
    TIME = "time"


@dataclass(frozen=True)
class ManifestFacts:
    """A state's files against the manifest that was written when the save was first checked.

    ``files`` are those that can be compared: a repair has changed others rightly. ``repaired`` names these; ``None``
    where the record of repairs could not be read, and nothing is compared then.
    """

    checked_at_ns: int
    #: The verdict of the first check, and the codes of what it found about the state, the deciding one first.
    verdict: str
    findings: tuple[str, ...]
    was_good: bool
    files: dict[str, ManifestFile]
    changed: tuple[tuple[str, FileChange], ...]
    repaired: frozenset[str] | None = frozenset()

    def without(self, names: frozenset[str]) -> ManifestFacts:
        """The same where those files were repaired."""
        return replace(
            self,
            files={name: file for name, file in self.files.items() if name not in names},
            changed=tuple((name, how) for name, how in self.changed if name not in names),
            repaired=None if self.repaired is None else self.repaired | names,
        )


@dataclass(frozen=True)
class StateFacts:
    """Everything observed in one state directory.

    ``observed_ns`` is the clock at the observation; ``changed`` whether the directory changed meanwhile.
    """

    path: Path
    name: StateName
    layout: Layout
    layout_source: str
    observed_ns: int
    changed: bool
    modified_ns: int
    files: tuple[FileEntry, ...]
    problem: Damage | None
    train_state: Reading[TrainState]
    weights: Reading[WeightsFacts]
    optimizer: Reading[OptimizerFacts]
    scheduler: Reading[SchedulerFacts]
    random_states: Reading[RandomStatesFacts]
    custom_object: Reading[CustomObjectFacts]
    lora: Reading[LoraFacts]
    deep: DeepFacts | None = None
    #: ``None`` where no manifest of this save could be read.
    manifest: ManifestFacts | None = None

    @property
    def size_bytes(self) -> int:
        """The sum of all files in it."""
        return sum(entry.size_bytes for entry in self.files)

    @property
    def saved_ns(self) -> int:
        """When the save was finished: the newest of the files that a save writes, or of any file where there are
        none of these, or the directory itself where there are no files."""
        files = [entry for entry in self.files if entry.kind is EntryKind.FILE]
        written = [entry for entry in files if is_saved_file(entry.name)] or files
        return max((entry.modified_ns for entry in written), default=self.modified_ns)

    def file(self, name: str) -> FileEntry | None:
        """The entry of that name, if there is one."""
        return next((entry for entry in self.files if entry.name == name), None)


@dataclass(frozen=True)
class Skipped:
    """An entry that was not looked into, and why."""

    name: str
    reason: str
