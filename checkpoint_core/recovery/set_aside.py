"""Which of a run's saves the coming launch will write over, and where each is kept instead; pure.

sd-scripts ``train_util.py`` (``get_epoch_ckpt_name`` and its siblings): every epoch from the launch's first on, the
steps of the launch's own count, and the last save, which has no number. Sample images bear the second in which they
were made (``flux_train_utils.py``, ``sample_image_inference``), so no launch writes over an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.trainer import LaunchPoint, SaveRules, changes, launch_of, save_rules

#: In the run's folder; the name begins with a dot, so that it is never taken for a state.
FOLDER = ".replaced"
_ENDS = r"(?P<state>-state)|\.(?:safetensors|ckpt|pt)"


@dataclass(frozen=True)
class SavedName:
    """The name of one save: ``epoch`` or ``step`` is its number; the last save of a training has neither."""

    name: str
    is_state: bool
    epoch: int | None = None
    step: int | None = None

    @property
    def is_last(self) -> bool:
        """Whether it is what the trainer saves at the end."""
        return self.epoch is None and self.step is None


@dataclass(frozen=True)
class Kept:
    """One save that is set aside.

    ``is_copy``: the original stays in its place, because the start reads it or somebody may be using it. ``beside`` is
    the name in the run's folder under which it is kept; empty where that is in ``.replaced``.
    """

    save: SavedName
    is_copy: bool = False
    beside: str = ""


@dataclass(frozen=True)
class SetAside:
    """All that is set aside before a start; nothing where the launch writes over nothing."""

    kept: tuple[Kept, ...] = ()

    @property
    def hidden(self) -> str:
        """What goes into ``.replaced``, in words: ``epochs 8 to 12 and the finished LoRA``; may be empty."""
        return described(each.save for each in self.kept if not each.beside)

    @property
    def beside(self) -> str:
        """The names under which the last saves are kept beside, in words."""
        return listed([each.beside for each in self.kept if each.beside])

    @property
    def sentence(self) -> str:
        """What is kept and where, for whoever is about to start; empty where nothing is set aside."""
        told = []
        if hidden := self.hidden:
            told.append(f"Kept in {FOLDER}: {hidden}.")
        if self.beside:
            told.append(f"The last save is kept as {self.beside}.")
        return " ".join(told)


def described(saves: Iterable[SavedName]) -> str:
    """Saves in words: ``epochs 8 to 12, the saves of step 250 and the finished LoRA``."""
    all_saves = tuple(saves)
    epochs = sorted({save.epoch for save in all_saves if save.epoch is not None})
    steps = sorted({save.step for save in all_saves if save.step is not None})
    parts = [_numbers("epoch", epochs)] if epochs else []
    parts += [f"the saves of {_numbers('step', steps)}"] if steps else []
    parts += ["the finished LoRA"] if any(save.is_last and not save.is_state for save in all_saves) else []
    parts += ["the last state"] if any(save.is_last and save.is_state for save in all_saves) else []
    return listed(parts)


def _numbers(word: str, numbers: list[int]) -> str:
    return f"{word} {numbers[0]:,}" if len(numbers) == 1 else f"{word}s {numbers[0]:,} to {numbers[-1]:,}"


def listed(parts: list[str]) -> str:
    """Words as a list: ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def plan_set_aside(
    names: Iterable[str],
    script: ScriptFacts | None,
    point: LaunchPoint | None,
    reads: frozenset[str] | None,
    last_epochs: Mapping[str, int],
) -> SetAside:
    """What a launch would write over.

    Where it cannot be told at which epoch it begins, that is everything of its output name.

    :param names: what lies in the run's folder.
    :param point: the launch; ``None`` where nothing about it can be told.
    :param reads: the names there that the start itself reads, which stay; ``None`` where they cannot be told, so that
        everything stays and is copied.
    :param last_epochs: the epoch at which the last save stands, by the names of its LoRA file and its state.
    """
    there = frozenset(names)
    start, rules = _start(point), _rules(script, point)
    steps = _step_names(rules, point) if start is not None else None
    kept = []
    for save in saves_in(sorted(there), script):
        if save.epoch is not None and start is not None and save.epoch < start:
            continue
        if save.step is not None and steps is not None and save.name not in steps:
            continue
        beside = _beside(save, start, rules, last_epochs.get(save.name)) if save.is_last else ""
        beside = "" if beside in there else beside
        is_read = reads is None or save.name in reads
        # A finished LoRA may be in use by whoever makes images with it, and costs little to copy.
        kept.append(Kept(save, is_read or bool(beside and not save.is_state), beside))
    return SetAside(tuple(kept))


def saves_in(names: Iterable[str], script: ScriptFacts | None) -> Iterator[SavedName]:
    """Those of the names that are saves of the script's output name; of any, where that cannot be told."""
    pattern = _pattern(script)
    for name in names:
        if found := pattern.match(name):
            epoch, step = (int(found[key]) if found[key] else None for key in ("epoch", "step"))
            yield SavedName(name, found["state"] is not None, epoch, step)


def _pattern(script: ScriptFacts | None) -> re.Pattern[str]:
    epoch = step = last = ".+"
    if script is not None and script.output_name:
        epoch = step = last = re.escape(script.output_name)
    elif script is not None and script.lacks("--output_name"):
        epoch, step, last = "epoch", "at", "last"
    saves = rf"(?:{epoch}-(?P<epoch>\d{{6,}})|{step}-step(?P<step>\d{{8,}})|{last})"
    # On Windows a name in other letters is the same file.
    return re.compile(rf"{saves}(?:{_ENDS})\Z", re.IGNORECASE | re.DOTALL | re.ASCII)


def _start(point: LaunchPoint | None) -> int | None:
    """The earliest epoch at which the launch may begin."""
    if point is None or point.undecided or not point.start_epochs:
        return None
    known = [epoch for epoch in point.start_epochs if epoch is not None]
    return min(known) if len(known) == len(point.start_epochs) else None


def _rules(script: ScriptFacts | None, point: LaunchPoint | None) -> SaveRules | None:
    return save_rules(script, point.last_epoch if point else None) if script else None


def _step_names(rules: SaveRules | None, point: LaunchPoint | None) -> frozenset[str] | None:
    """The names with a step number that the launch writes; ``None`` where they cannot be told."""
    if rules is None or point is None:
        return None
    if not rules.every_steps:
        return frozenset()
    launch = launch_of(point)
    told = changes(rules, launch) if launch else None
    return frozenset(each.name for each in told if each.at_step and not each.is_removal) if told else None


def _beside(save: SavedName, start: int | None, rules: SaveRules | None, epoch: int | None) -> str:
    """The epoch's name for the last save of a training that now goes on; empty where it cannot bear it."""
    if start is None or rules is None or epoch is None or epoch >= start:
        return ""
    # The trainer's retention removes old saves by their names, and so would remove this one.
    if (rules.kept_epoch_states if save.is_state else rules.kept_epochs) is not None:
        return ""
    return rules.epoch_name(epoch) + ("-state" if save.is_state else rules.suffix)


def without(plan: SetAside, names: frozenset[str]) -> SetAside:
    """The plan without the copies of these names, which are kept already."""
    return replace(
        plan, kept=tuple(each for each in plan.kept if not (each.is_copy and each.save.name in names))
    )
