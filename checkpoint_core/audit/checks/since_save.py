"""The files against the manifest of the first check: damage that came later is told from corruption while saving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from checkpoint_core.audit.catalogue.states import finding, kind_of
from checkpoint_core.audit.findings import (
    DAMAGED_BYTES,
    LOST,
    Finding,
    FindingKind,
    Severity,
    Subject,
    Verdict,
)
from checkpoint_core.states import EntryKind, FileChange, ManifestFacts, StateFacts, layout

#: Of these files a changed byte trains wrongly, and where nothing else tells it, it is damage.
_DECISIVE = ("model", "pytorch_model", layout.OPTIMIZER, layout.SCHEDULER)
#: Damage that is seen only where every byte is read.
_DEEP_ONLY = frozenset({FindingKind.BYTES_CHANGED, FindingKind.NOT_FINITE, FindingKind.DIFFERENT})
#: Verdicts of a first check that say nothing about the save.
_UNDETERMINED = frozenset({Verdict.UNKNOWN.value, Verdict.SAVING.value})

_DAMAGED_LATER = (
    "The save itself was fine: the damage came after it, from the disk, a copy or another program."
)
_WRONG_BYTES = (
    "It may load without a message and train on from wrong numbers. The save itself was fine: the disk, a copy or "
    "another program has changed the file since."
)
_WRONG_BEFORE = "It was corrupt when saved, and the file has changed since."
_TIME_EFFECT = "None, if only its time was changed, as a copy does."
_TIME_CURE = "Press “Verify every byte”: it compares the content with what was saved."
_SEEN_BEFORE = "The first check read every byte and found it; an ordinary look does not see it."


def check_since_save(facts: StateFacts, told: Iterable[Finding]) -> Iterator[Finding]:
    """What differs from the first check, and whether the save was bad then; nothing where all is as it was.

    :param told: what the other checks found; what they say about a file has happened since, where it was good.
    """
    if facts.manifest is None:
        return
    damage = [each for each in told if each.subject is Subject.STATE and _is_damage(each)]
    for name in sorted(facts.manifest.files):
        yield from _file(facts, facts.manifest, name, [each for each in damage if each.file == name])
    yield from _at_save(facts, facts.manifest)


def _is_damage(found: Finding) -> bool:
    """Whether a finding tells what is wrong with a file's bytes; others name a file that is whole."""
    lost = found.kind in LOST and found.severity is not Severity.UNKNOWN
    return lost or found.severity is Severity.ERROR


def _file(facts: StateFacts, manifest: ManifestFacts, name: str, damage: list[Finding]) -> Iterator[Finding]:
    # What the first check has told already is no news of the file.
    later = [each for each in damage if each.code not in manifest.findings]
    same = facts.deep.as_saved.get(name) if facts.deep else None
    how = dict(manifest.changed).get(name)
    if same:  # to the byte, whatever its time is
        return
    if same is False:
        yield _with_effect(_content(name, damage), manifest, later)
    elif how in (FileChange.MISSING, FileChange.SIZE):
        found = finding("changed-since-save", file=name, evidence=_listed(facts, manifest, name))
        yield _with_effect(found, manifest, later)
    elif manifest.was_good and any(each.kind in DAMAGED_BYTES for each in later):
        found = finding("changed-since-save", file=name, evidence="its size is the same, its content is not")
        yield _with_effect(found, manifest, later)
    elif how is FileChange.TIME:
        found = finding("changed-since-save", file=name, evidence="only its time differs")
        yield replace(found, severity=Severity.INFO, effect=_TIME_EFFECT, cure=_TIME_CURE)


def _content(name: str, damage: list[Finding]) -> Finding:
    """Other bytes of the same size: damage by itself, unless a check has told already what is wrong with the file."""
    found = finding("changed-since-save", file=name, evidence="its size is the same, its bytes are not")
    if damage or not (layout.is_saved_file(name) and name.startswith(_DECISIVE)):
        return found
    return replace(found, severity=Severity.ERROR, effect=_WRONG_BYTES)


def _with_effect(found: Finding, manifest: ManifestFacts, later: list[Finding]) -> Finding:
    """When it happened, as far as the first check tells."""
    if not manifest.was_good:
        return replace(found, effect=_WRONG_BEFORE)
    return replace(found, effect=_DAMAGED_LATER) if later else found


def _listed(facts: StateFacts, manifest: ManifestFacts, name: str) -> str:
    entry = facts.file(name)
    if entry is None:
        return "it is gone"
    if entry.kind is not EntryKind.FILE:
        return "it is no regular file any more"
    return f"it had {manifest.files[name].size_bytes:,} bytes and has {entry.size_bytes:,} now"


def _at_save(facts: StateFacts, manifest: ManifestFacts) -> Iterator[Finding]:
    """Damage at birth. A repair has made it good since; without one it is as bad as it was."""
    if manifest.was_good or manifest.verdict in _UNDETERMINED or manifest.repaired:
        return
    found = finding("damaged-at-save", evidence=manifest.findings)
    # Otherwise what only the full check sees would pass for fine at every look after it.
    unseen = facts.deep is None and not manifest.changed and manifest.repaired is not None
    if unseen and _DEEP_ONLY & set(map(kind_of, manifest.findings)):
        found = replace(found, severity=Severity.ERROR, effect=f"{found.effect} {_SEEN_BEFORE}")
    yield found
