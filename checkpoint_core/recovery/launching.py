"""What the next start of a run will write over, by its script or by what a press would make of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from checkpoint_core.audit import CheckpointReport, RunReport
from checkpoint_core.recovery.options import OptionKind, RecoveryOption
from checkpoint_core.recovery.replaced import without_known_copies
from checkpoint_core.recovery.set_aside import SetAside, plan_set_aside
from checkpoint_core.scripts import ScriptFacts, path_here
from checkpoint_core.states import LoraFacts, list_directory
from checkpoint_core.trainer import LaunchPoint, Position, launch_from

#: Flags by which the trainer reads a save; what one of them holds has to be known to say what may leave its place.
_READING = ("--resume", "--network_weights", "--base_weights")
#: With these the trainer ends before it saves (accelerate ``accelerator.py``, ``load_state``).
_STOPS_AT_ONCE = ("missing", "lora-file", "run-folder")


def next_set_aside(run: RunReport) -> SetAside:
    """What is set aside before the run's script is started as it is."""
    script, target = run.facts.script, run.facts.resume_target
    if target.kind in _STOPS_AT_ONCE:
        return SetAside()
    point = None
    if target.kind == "state":
        name = target.state_name or ""
        point = next((item.launch for item in run.checkpoints if item.name == name), None)
    elif target.kind in ("none", "empty"):
        point = _from_nothing(run, script)
    return _planned(run, script, point, _reads(run, script, target.state_name or ""))


def set_aside_for(run: RunReport, option: RecoveryOption) -> SetAside:
    """What is set aside before a training that goes on by a recovery option."""
    script = run.facts.script
    if script is None or option.kind is OptionKind.SAVING:
        return SetAside()
    if option.repair_plan is not None:
        return set_aside_from(run, option.repair_plan.after)
    if option.checkpoint:
        return set_aside_from(run, run.checkpoint(option.checkpoint))
    if option.kind is OptionKind.WARM_START:
        script = replace(
            script, initial_epoch=option.next_epoch, initial_step=None, skip_until_initial_step=False
        )
    point = _from_nothing(run, script)
    return _planned(run, script, point, _reads(run, _without_resume(script), option.lora))


def set_aside_from(run: RunReport, item: CheckpointReport) -> SetAside:
    """What is set aside before a training that goes on from a checkpoint, as it was judged."""
    script = item.launch.script
    return _planned(run, script, item.launch, _reads(run, _without_resume(script), item.name))


def _without_resume(script: ScriptFacts | None) -> ScriptFacts | None:
    """The script with another ``--resume`` to come."""
    if script is None:
        return None
    return replace(
        script, flags={flag: values for flag, values in script.flags.items() if flag != "--resume"}
    )


def _planned(
    run: RunReport, script: ScriptFacts | None, point: LaunchPoint | None, reads: frozenset[str] | None
) -> SetAside:
    names = (entry.name for entry in list_directory(run.facts.path, run.facts.path.parent).entries)
    plan = plan_set_aside(names, script, point, reads, _last_epochs(run))
    return without_known_copies(run.facts.path, plan)


def _from_nothing(run: RunReport, script: ScriptFacts | None) -> LaunchPoint:
    """A launch that resumes from no state: from epoch 1, or from where the script's flags say."""
    length = run.facts.likely_steps_per_epoch
    nowhere = Position(None, None, False, length, None, None, None, None, None, None)
    contexts = (item.context for item in run.checkpoints if item.context is not None)
    return launch_from(nowhere, script, next((context.dataset for context in contexts), None))


def _reads(run: RunReport, script: ScriptFacts | None, *names: str) -> frozenset[str] | None:
    """The names in the run's folder that a start of the script reads; ``None`` where they cannot be told.

    :param names: what it reads besides.
    """
    if script is None or script.hidden or any(script.values(flag) is None for flag in _READING):
        return None
    found = {name.split("/")[0] for name in names if name}
    for values in script.flags.values():
        for value in filter(None, values):
            found |= _inside(path_here(value, script, run.facts.path), run.facts.path)
    own = found | {name for each in found for name in _behind(run.facts.path / each, run.facts.path)}
    return frozenset(own)


def _behind(path: Path, run: Path) -> set[str]:
    """What a name in the run leads to, if it is a link."""
    return _inside(path, run) if path.is_symlink() else set()


def _inside(path: Path | None, run: Path) -> set[str]:
    """The names in the run's folder by which a path leads there, as it is written and with all links resolved."""
    if path is None or not os.path.lexists(path):
        return set()
    found = set()
    for resolve in (os.path.abspath, os.path.realpath):
        try:
            parts = Path(resolve(path)).relative_to(resolve(run)).parts
        except ValueError:  # elsewhere, or no path at all
            continue
        found |= set(parts[:1])
    return found


def _last_epochs(run: RunReport) -> dict[str, int]:
    """The epoch at which each state and LoRA file stands, by its name; none for one in the middle of an epoch."""
    states = {
        item.name: item.position.epoch
        for item in run.checkpoints
        if item.position.epoch and not item.position.mid_epoch
    }
    loras = {lora.file: lora.epoch for lora in run.facts.loras if isinstance(lora, LoraFacts) and lora.epoch}
    return {**states, **loras}
