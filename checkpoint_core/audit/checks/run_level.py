"""The run as a whole: its script, where ``--resume`` points, and the room on the disk."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint_core.audit.catalogue.states import finding
from checkpoint_core.audit.context import RunFacts
from checkpoint_core.audit.findings import Finding
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.text import human_bytes
from checkpoint_core.trainer import DiskRoom, disk_room, most_of_save


def check_run(facts: RunFacts) -> Iterator[Finding]:
    """Every finding about a run that is not about one of its checkpoints."""
    if facts.problem:
        yield finding("run-unreadable", detail=facts.problem.detail)
        return
    yield from _script(facts)
    yield from _beginning(facts)
    yield from _disk_space(facts)


def _script(facts: RunFacts) -> Iterator[Finding]:
    if facts.script_problem:
        yield finding("script-not-understood", detail=facts.script_problem)
    elif facts.script is None:
        yield finding("no-script")
    elif _saves_no_states(facts.script):
        yield finding("no-save-state" if facts.states else "no-states-not-saved", file=facts.script.file)
    if not facts.states and (facts.script is None or not _saves_no_states(facts.script)):
        yield finding("no-states-yet")
    if facts.script is not None:
        yield from _unread_flags(facts.script)


def _saves_no_states(script: ScriptFacts) -> bool:
    """Whether it is certain that the script saves none: the flag may stand in what could not be read."""
    hidden = script.config_file is not None or script.why_unknown("--save_state", "--config_file")
    return not script.save_state and not hidden


def _unread_flags(script: ScriptFacts) -> Iterator[Finding]:
    """What the script may say besides the flags that were read; one finding a reason."""
    for reason in dict.fromkeys(reason for _, reason in script.unknown):
        flags = ", ".join(flag for flag, why in script.unknown if why == reason)
        yield finding("script-flag-unknown", file=script.file, flags=flags, reason=reason)
    yield from unread_config(script)


def unread_config(script: ScriptFacts | None) -> Iterator[Finding]:
    """That further flags may come from a file, which concerns each checkpoint too."""
    if script is not None and script.config_file is not None:
        yield finding("script-config-file", file=script.file, evidence=script.config_file)


_TARGET_CODES = {
    "empty": "resume-empty",
    "missing": "resume-missing",
    "lora-file": "resume-lora-file",
    "run-folder": "resume-run-folder",
    "other-world": "resume-other-world",
    "hub": "resume-from-hub",
}


def _beginning(facts: RunFacts) -> Iterator[Finding]:
    """What the training begins with: a state of this run, of another one, or new weights at a late epoch."""
    script, others, target = facts.script, facts.other_runs, facts.resume_target
    if script is None:
        return
    if other := others.get("--resume"):
        yield finding("resume-other-run", file=script.file, evidence=target.value, run=other)
        return
    yield from _resume_target(facts)
    if target.kind not in ("none", "empty"):
        return  # whatever --network_weights holds, a state that is resumed from overwrites it
    if other := others.get("--network_weights"):
        value = script.value("--network_weights") or ""
        yield finding("weights-other-run", file=script.file, evidence=value, run=other)
    if _begins_late_with_nothing(script):
        yield finding("initial-epoch-alone", file=script.file, epoch=script.initial_epoch)


def _begins_late_with_nothing(script: ScriptFacts) -> bool:
    """Whether it is certain that the script passes over epochs without anything that was trained in them."""
    flags = ("--initial_epoch", "--resume", "--network_weights", "--config_file")
    unknown = script.hidden or script.config_file is not None or script.why_unknown(*flags)
    return not unknown and (script.initial_epoch or 1) > 1 and not script.has("--network_weights")


def _resume_target(facts: RunFacts) -> Iterator[Finding]:
    target, script = facts.resume_target, facts.script
    if script is None or target.kind not in _TARGET_CODES:
        return
    match = f"; {target.state_name} is the state of the same save" if target.state_name else ""
    yield finding(
        _TARGET_CODES[target.kind],
        file=script.file,
        evidence=target.value,
        line=script.resume_line,
        match=match,
    )


def _disk_space(facts: RunFacts) -> Iterator[Finding]:
    needed = most_of_save(max((state.size_bytes for state in facts.states), default=0))
    if facts.free_bytes is not None and disk_room(needed, facts.free_bytes) is DiskRoom.TOO_LITTLE:
        yield finding("disk-space-low", free=human_bytes(facts.free_bytes), needed=human_bytes(needed))
