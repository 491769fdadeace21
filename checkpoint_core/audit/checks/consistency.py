"""The files of a state against each other: one save or two, the same tensors, bytes that were read in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from checkpoint_core.audit.catalogue.states import file_finding, finding
from checkpoint_core.audit.findings import Finding, FindingKind, StatePart
from checkpoint_core.formats import TrainState, cast
from checkpoint_core.states import (
    DeepFacts,
    EntryKind,
    FileEntry,
    Layout,
    LoraFacts,
    OptimizerFacts,
    SavePoint,
    SchedulerFacts,
    StateFacts,
    WeightsFacts,
    layout,
)
from checkpoint_core.text import some_names
from checkpoint_core.trainer import TOLERANCE_NS, possible_counts

#: Optimizers whose moments have the shapes of the parameters.
_SHAPED = frozenset({"adamw", "adafactor", "adamwschedulefree"})


def check_consistency(facts: StateFacts) -> Iterator[Finding]:
    """Every finding about files that do not belong together."""
    yield from _save_times(facts)
    foreign = tuple(_optimizer_against_weights(facts))
    yield from foreign or _optimizer_against_scheduler(facts)
    if facts.deep:
        yield from _deep(facts, facts.deep)
    else:
        yield from _sample(facts)


def _save_times(facts: StateFacts) -> Iterator[Finding]:
    """A save over an existing directory replaces file by file in its order; killed in between, it leaves the
    first files new and the rest old. The new ones are then a head of the writing order, in that order."""
    # The time of a folder or a link in a file's place tells nothing about a save.
    entries = {entry.name: entry for entry in facts.files if entry.kind is EntryKind.FILE}
    order = [entries[name] for name in _write_order(entries) if name in entries]
    marker = entries.get(layout.RANDOM_STATES)
    if marker is None or facts.layout is not Layout.SD_SCRIPTS:
        return
    newer = [entry for entry in order if entry.modified_ns > marker.modified_ns + TOLERANCE_NS]
    if not newer:
        return
    older = order[len(newer) :]
    if newer != order[: len(newer)] or not (_in_order(newer) and _in_order(older)):
        names = ", ".join(entry.name for entry in newer)
        yield finding("file-times-disordered", evidence=f"{names} are newer than {marker.name}, written last")
    elif [entry.name for entry in newer] != [layout.TRAIN_STATE]:  # a newer train_state.json alone was edited
        yield _interrupted_overwrite(facts, newer, older)


def _write_order(entries: dict[str, FileEntry]) -> tuple[str, ...]:
    """The writing order, with the weights' own name for those that are not in safetensors."""
    weights = layout.WEIGHTS_SAFE if layout.WEIGHTS_SAFE in entries else layout.WEIGHTS_PICKLED
    return tuple(weights if name == layout.WEIGHTS_SAFE else name for name in layout.WRITE_ORDER)


def _in_order(entries: list[FileEntry]) -> bool:
    times = [entry.modified_ns for entry in entries]
    # Files of one save may carry the same coarse clock tick in either order.
    return all(first <= second + TOLERANCE_NS // 100 for first, second in zip(times, times[1:], strict=False))


def _interrupted_overwrite(facts: StateFacts, newer: list[FileEntry], older: list[FileEntry]) -> Finding:
    gap = (newer[0].modified_ns - older[-1].modified_ns) / 1_000_000_000
    evidence = (
        f"{_names(newer)} {'is' if len(newer) == 1 else 'are'} {_duration(gap)} newer than {_names(older)}; "
        "a save over an existing checkpoint was interrupted"
    )
    old_names = {entry.name for entry in older}
    if old_names == {layout.RANDOM_STATES} or (
        old_names == {layout.SCHEDULER, layout.RANDOM_STATES} and _same_count(facts)
    ):
        return finding("random-states-older", file=layout.RANDOM_STATES, evidence=evidence)
    return finding("mixed-saves", evidence=evidence)


def _same_count(facts: StateFacts) -> bool:
    """Whether an older scheduler stands at the optimizer's step: then it is the same as the one it lacks."""
    if not isinstance(facts.optimizer, OptimizerFacts) or not isinstance(facts.scheduler, SchedulerFacts):
        return False
    return facts.optimizer.step is not None and facts.optimizer.step == facts.scheduler.last_epoch


def _names(entries: list[FileEntry]) -> str:
    names = [entry.name for entry in entries]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _optimizer_against_weights(facts: StateFacts) -> Iterator[Finding]:
    optimizer, weights = facts.optimizer, facts.weights
    if not isinstance(optimizer, OptimizerFacts) or not isinstance(weights, WeightsFacts):
        return
    if not weights.keys_are_lora:
        return
    split = _tensors_merged(weights)
    counts = possible_counts(weights.parts)
    if split and optimizer.param_count in possible_counts(weights.parts + Counter(unet=split)):
        return
    if optimizer.param_count not in counts:
        yield finding(
            "optimizer-params-mismatch",
            file=layout.OPTIMIZER,
            optimizer_count=optimizer.param_count,
            weights_count=weights.trained_count,
        )
    elif optimizer.family in _SHAPED and optimizer.shapes and optimizer.shapes - weights.shapes:
        shape, count = (optimizer.shapes - weights.shapes).most_common(1)[0]
        evidence = f"{count} of shape {'×'.join(map(str, shape)) or 'scalar'} are not among the weights"
        yield finding("optimizer-shapes-mismatch", file=layout.OPTIMIZER, evidence=evidence)


def _optimizer_against_scheduler(facts: StateFacts) -> Iterator[Finding]:
    """Both count the updates from the first step on, the scheduler once a process (accelerate ``scheduler.py``)."""
    optimizer, scheduler = facts.optimizer, facts.scheduler
    if not isinstance(optimizer, OptimizerFacts) or not isinstance(scheduler, SchedulerFacts):
        return
    groups, rates = len(optimizer.group_sizes), len(scheduler.base_lrs)
    # LambdaLR has a formula and a rate for each group (torch ``lr_scheduler.py``): more stop the load, fewer the step.
    if groups and rates and groups != rates:
        yield finding("scheduler-groups-differ", file=layout.SCHEDULER, rates=rates, groups=groups)
    if not scheduler.last_epoch:
        return
    # Plain SGD keeps nothing, and an optimizer that is not known here keeps it elsewhere.
    if optimizer.state_count < optimizer.param_count and optimizer.family not in ("sgd", "unknown"):
        yield finding(
            "optimizer-state-incomplete",
            file=layout.OPTIMIZER,
            state_count=optimizer.state_count,
            param_count=optimizer.param_count,
        )
    saved = sum(1 for entry in facts.files if layout.RANDOM_STATES_PATTERN.match(entry.name)) or 1
    if optimizer.step is not None and scheduler.last_epoch not in (optimizer.step, optimizer.step * saved):
        yield finding(
            "optimizer-step-differs",
            file=layout.OPTIMIZER,
            optimizer_step=optimizer.step,
            scheduler_step=scheduler.last_epoch,
        )


def _tensors_merged(weights: WeightsFacts) -> int:
    """How many tensors more the optimizer holds than the file, where qkv was split.

    sd-scripts trains ``linear1`` of a single block as four pairs then, and saves them as one of four times the rank
    (``lora_flux.py``, ``LoRANetwork.state_dict``).
    """
    split = sum(name.endswith("_linear1") and "_single_blocks_" in name for name in weights.modules)
    rank = min(weights.ranks, default=0)
    return 6 * split if rank and weights.ranks[4 * rank] == split else 0


def _deep(facts: StateFacts, deep: DeepFacts) -> Iterator[Finding]:
    for file, damage in sorted(deep.damage.items()):
        yield file_finding(_part(file), FindingKind.BYTES_CHANGED, file=file, detail=damage.detail)
    for file, names in sorted(deep.non_finite.items()):
        yield file_finding(_part(file), FindingKind.NOT_FINITE, file=file, evidence=some_names(names))
    # The LoRA file is rounded: it cannot vouch for bytes that are known to have changed since the save.
    vouched = deep.as_saved.get(layout.WEIGHTS_SAFE) is not False
    if deep.pair is not None and deep.pair.same_names and (vouched or deep.pair.differing):
        yield _pairing(facts, deep)
    yield finding("bytes-verified", evidence=f"{deep.bytes_read:,} bytes")


def _part(file: str) -> StatePart:
    """The part of which every byte is read: the weights may lie in several files."""
    return StatePart.OPTIMIZER if file == layout.OPTIMIZER else StatePart.WEIGHTS


def _sample(facts: StateFacts) -> Iterator[Finding]:
    """A piece of one tensor against the LoRA file of the same save: the weights of another moment differ in it."""
    if not isinstance(facts.weights, WeightsFacts) or not isinstance(facts.lora, LoraFacts):
        return
    ours, theirs = facts.weights.sample, facts.lora.weights.sample
    if ours is None or theirs is None or ours.name != theirs.name or not _is_of_same_save(facts.lora, facts):
        return
    rounded = cast(ours.data, ours.dtype, theirs.dtype)
    if rounded is not None and rounded != theirs.data:
        yield finding(
            "weights-differ-from-lora",
            file=facts.weights.file,
            lora_file=facts.lora.file,
            evidence=f"{ours.name} differs",
        )


def _is_of_same_save(lora: LoraFacts, facts: StateFacts) -> bool:
    """Whether the files bear out what their names say: an epoch's LoRA file knows its epoch."""
    state = facts.train_state
    epoch = state.current_epoch if isinstance(state, TrainState) else None
    # A step's LoRA file holds the epochs that were finished before it.
    if (
        facts.name.save_point is not SavePoint.STEP
        and None not in (lora.epoch, epoch)
        and lora.epoch != epoch
    ):
        return False
    return not _is_newer(lora, facts)


def _is_newer(lora: LoraFacts, facts: StateFacts) -> bool:
    """Whether a LoRA file is of a later save than the one that was finished last in the directory."""
    marker = facts.file(layout.RANDOM_STATES)
    finished_ns = marker.modified_ns if marker else facts.saved_ns
    return lora.modified_ns > finished_ns + 30 * TOLERANCE_NS


def _pairing(facts: StateFacts, deep: DeepFacts) -> Finding:
    pair = deep.pair
    assert pair is not None  # noqa: S101 - the caller has looked
    if not pair.differing:
        return finding("weights-match-lora", file=layout.WEIGHTS_SAFE, lora_file=pair.lora_file)
    if isinstance(facts.lora, LoraFacts) and _is_newer(facts.lora, facts):
        return finding("lora-newer", file=pair.lora_file, lora_file=pair.lora_file)
    evidence = (
        f"{len(pair.differing)} of {pair.compared} tensors differ, such as {some_names(pair.differing)}"
    )
    return finding(
        "weights-differ-from-lora", file=layout.WEIGHTS_SAFE, lora_file=pair.lora_file, evidence=evidence
    )
