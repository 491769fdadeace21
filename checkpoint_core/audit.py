"""The one composition that tab and command line share: outputs folder -> facts -> findings -> verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from checkpoint_core import discovery, inspection
from checkpoint_core.catalogue import finding
from checkpoint_core.checks.compatibility import check_compatibility
from checkpoint_core.checks.consistency import check_consistency
from checkpoint_core.checks.integrity import check_integrity
from checkpoint_core.checks.run import check_run
from checkpoint_core.discovery import Listing, RunDir, StateDir
from checkpoint_core.facts import (
    DeepFacts,
    FileEntry,
    LoraFacts,
    Reading,
    RunFacts,
    ScriptFacts,
    Skipped,
    StateFacts,
)
from checkpoint_core.findings import Finding, Severity, Verdict, by_weight, fold
from checkpoint_core.inspection import RECENT_NS
from checkpoint_core.layout import CUSTOM_OBJECT, TRAIN_STATE, Layout, parse_state_name
from checkpoint_core.position import Position, locate
from checkpoint_core.script_facts import read_script, resume_target
from checkpoint_core.surroundings import Surroundings
from checkpoint_core.train_script import find_script
from checkpoint_core.verification import Progress, verify_state


class UnknownName(LookupError):
    """No run or checkpoint of that name is a plain child of the outputs folder."""


@dataclass(frozen=True)
class CheckpointReport:
    """One checkpoint: what was observed, where it stands, what was found, and the verdict.

    ``name`` is the state directory's path below the run's folder, with ``/`` on every system: its plain name, or
    ``checkpoints/checkpoint_0`` for accelerate's automatic naming.
    """

    run: str
    name: str
    facts: StateFacts
    position: Position
    findings: tuple[Finding, ...]
    verdict: Verdict

    @property
    def order(self) -> tuple[int, int, int]:
        """By training position, then time; larger is newer."""
        known = self.position
        return (known.epoch or 0, known.step or 0, self.facts.saved_ns)


@dataclass(frozen=True)
class RunReport:
    """One run with its checkpoints, newest first."""

    facts: RunFacts
    checkpoints: tuple[CheckpointReport, ...]
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """The run's folder name."""
        return self.facts.name

    def checkpoint(self, name: str) -> CheckpointReport:
        """The checkpoint of that name.

        :raises UnknownName: when the run has none.
        """
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        raise UnknownName(
            f"The run {self.name!r} has no checkpoint {name!r}. It may have been removed; refresh."
        )


@dataclass(frozen=True)
class AuditReport:
    """An outputs folder, its runs by name."""

    outputs: Path
    made_ns: int
    runs: tuple[RunReport, ...]
    skipped: tuple[Skipped, ...]

    def run(self, name: str) -> RunReport:
        """The run of that name.

        :raises UnknownName: when there is none.
        """
        for run in self.runs:
            if run.name == name:
                return run
        raise UnknownName(f"There is no run {name!r} in {self.outputs}. It may have been removed; refresh.")


@dataclass(frozen=True)
class _Remembered:
    key: object
    facts: StateFacts
    report: CheckpointReport | None = None
    report_key: object = None


class Auditor:
    """Audits one outputs folder, again and again; what has not changed on the disk is not read again.

    :param outputs: FluxGym's ``outputs`` folder.
    :param layout: judge every state by this layout, instead of by the trainer that the script names.
    :param clock: nanoseconds since the epoch.
    """

    def __init__(
        self, outputs: Path | str, layout: Layout | None = None, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.outputs = Path(outputs)
        self.layout = layout
        self._clock = clock
        self._states: dict[Path, _Remembered] = {}
        self._loras: dict[Path, tuple[FileEntry, Reading[LoraFacts]]] = {}
        self._scripts: dict[Path, tuple[FileEntry | None, tuple[ScriptFacts | None, str | None]]] = {}
        self._deep: dict[Path, tuple[Listing, Reading[LoraFacts], DeepFacts]] = {}

    def audit(self, progress: Callable[[str], None] | None = None) -> AuditReport:
        """All runs; ``progress`` is called with the name of each before it is read.

        :raises OutputsFolderError: when the folder is missing or unreadable.
        """
        runs = []
        for found in discovery.find_runs(self.outputs):
            if progress:
                progress(found.path.name)
            runs.append(self._run(found))
        return AuditReport(self.outputs, self._clock(), tuple(runs), discovery.skipped_entries(self.outputs))

    def run_names(self) -> tuple[str, ...]:
        """The names of all runs, without reading them.

        :raises OutputsFolderError: when the folder is missing or unreadable.
        """
        return tuple(path.name for path in discovery.run_paths(self.outputs))

    def audit_run(self, name: str) -> RunReport:
        """One run by its name.

        :raises UnknownName: when the name is not a plain child of the outputs folder that is a run.
        """
        if name not in self.run_names():
            raise UnknownName(
                f"There is no run {name!r} in {self.outputs}. It may have been removed; refresh."
            )
        return self._run(discovery.find_run(self.outputs / name, self.outputs))

    def verify(
        self,
        run: str,
        checkpoint: str,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> CheckpointReport:
        """Read every byte of one checkpoint and judge it anew; kept until one of its files or its LoRA changes.

        :raises UnknownName: for an unknown run or checkpoint.
        :raises VerificationCancelled: when ``cancelled`` returned true.
        """
        facts = self.audit_run(run).checkpoint(checkpoint).facts
        before = Listing(facts.files, facts.modified_ns)
        self._deep[facts.path] = (before, facts.lora, verify_state(facts, progress, cancelled))
        return self.audit_run(run).checkpoint(checkpoint)

    def _run(self, found: RunDir) -> RunReport:
        script, problem = self._script(found)
        entries = {entry.name: entry for entry in found.listing.entries}
        loras = {
            name: self._lora(found.path / name, entry)
            for name, entry in entries.items()
            if name.endswith(".safetensors")
        }
        states = tuple(self._state(state, script, loras) for state in found.states)
        facts = RunFacts(
            name=found.path.name,
            path=found.path,
            modified_ns=_last_activity(found),
            script=script,
            script_problem=problem,
            resume_target=resume_target(
                script, found.path, {state_name(state.path, found.path): state.path for state in found.states}
            ),
            states=states,
            loras=tuple(loras.values()),
            skipped=found.skipped,
            free_bytes=inspection.free_bytes(found.path),
            problem=found.listing.problem,
        )
        steps = facts.steps_per_epoch or _implied(states, script)
        reports = tuple(self._report(state, facts, steps) for state in states)
        ordered = tuple(sorted(reports, key=lambda report: (report.order, report.name), reverse=True))
        return RunReport(facts, ordered, tuple(guarded(lambda: check_run(facts))))

    def _script(self, found: RunDir) -> tuple[ScriptFacts | None, str | None]:
        path = find_script(found.path)
        if path is None:
            return None, None
        entry = next((entry for entry in found.listing.entries if entry.name == path.name), None)
        known = self._scripts.get(path)
        if known is None or known[0] != entry:
            known = self._scripts[path] = (entry, read_script(path))
        return known[1]

    def _lora(self, path: Path, entry: FileEntry) -> Reading[LoraFacts]:
        known = self._loras.get(path)
        if known is None or known[0] != entry:
            known = self._loras[path] = (entry, inspection.inspect_lora(path, entry))
        return known[1]

    def _state(
        self, found: StateDir, script: ScriptFacts | None, loras: dict[str, Reading[LoraFacts]]
    ) -> StateFacts:
        output_name = script.output_name if script else None
        lora = loras.get(parse_state_name(found.path.name, output_name).lora_file)
        choice = self.choose_layout(script, {entry.name for entry in found.listing.entries})
        key = (found.listing, output_name, lora, choice)
        known = self._states.get(found.path)
        now = self._clock()
        if known is None or known.key != key or known.facts.changed:
            facts = inspection.inspect_state(found, self.outputs, choice, output_name, lora, now)
            known = self._states[found.path] = _Remembered(key, facts)
        deep = self._deep.get(found.path)
        wanted = deep[2] if deep and deep[:2] == (found.listing, lora) else None
        if known.facts.deep is not wanted:
            known = self._states[found.path] = _Remembered(key, replace(known.facts, deep=wanted))
        return known.facts

    def choose_layout(self, script: ScriptFacts | None, files: set[str]) -> tuple[Layout, str]:
        """The layout to judge by: the user's, the script's trainer's, or what the files look like."""
        if self.layout is not None:
            return self.layout, "chosen by you"
        if script is not None:
            return script.layout, f"from the trainer in {script.file}"
        if CUSTOM_OBJECT in files and TRAIN_STATE not in files:
            return Layout.ACCELERATE_OBJECTS, "from the files, for want of a train script"
        return Layout.SD_SCRIPTS, "assumed, for want of a train script"

    def _report(self, facts: StateFacts, run: RunFacts, steps_per_epoch: int | None) -> CheckpointReport:
        now = self._clock()
        recent = facts.changed or abs(now - facts.saved_ns) < RECENT_NS
        key = (id(facts), run.script, steps_per_epoch, recent)
        known = self._states[facts.path]
        if known.report is None or known.report_key != key:
            report = judge(facts, Surroundings(run.path, run.script, steps_per_epoch, recent))
            known = self._states[facts.path] = replace(known, report=report, report_key=key)
        assert known.report is not None  # noqa: S101 - made above
        return known.report


def _last_activity(found: RunDir) -> int:
    """When something was last saved in a run: the newest file or state, else the folder itself."""
    times = [entry.modified_ns for entry in found.listing.entries]
    return max(
        [*times, *(state.listing.modified_ns for state in found.states)], default=found.listing.modified_ns
    )


def _implied(states: tuple[StateFacts, ...], script: ScriptFacts | None) -> int | None:
    """Steps per epoch from a sibling that no resume came before, for runs without LoRA files."""
    positions = (locate(state, script, None) for state in states)
    return next((position.steps_per_epoch for position in positions if position.steps_per_epoch), None)


def state_name(state: Path, run: Path) -> str:
    """What a state directory is called inside its run's folder."""
    return state.relative_to(run).as_posix()


def judge(facts: StateFacts, around: Surroundings) -> CheckpointReport:
    """Facts to a verdict; pure."""
    position = locate(facts, around.script, around.steps_per_epoch)
    findings = [
        *guarded(lambda: check_integrity(facts)),
        *guarded(lambda: check_consistency(facts)),
        *guarded(lambda: check_compatibility(facts, position, around.script)),
    ]
    if facts.changed or (around.recent and any(_is_unfinished(found) for found in findings)):
        findings = [finding("save-in-progress")]
    ordered = by_weight(findings)
    return CheckpointReport(
        around.run.name, state_name(facts.path, around.run), facts, position, ordered, fold(ordered)
    )


_UNFINISHED = ("-missing", "-empty", "-truncated", "-interrupted", "-corrupt")
_UNFINISHED_CODES = frozenset({"state-empty", "mixed-saves", "random-states-older", "train-state-broken"})


def _is_unfinished(found: Finding) -> bool:
    """Whether a save that is still going on would look like that."""
    return found.severity is not Severity.INFO and (
        found.code.endswith(_UNFINISHED) or found.code in _UNFINISHED_CODES
    )


def guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check's findings; a check that crashes becomes “could not tell” and never hides the others."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - any defect of a check must not pass for a clean bill
        yield finding("check-crashed", evidence=f"{type(error).__name__}: {error}"[:300])


@dataclass(frozen=True)
class LatestResumable:
    """The newest checkpoint that will resume, and why newer ones were passed over (name to reason)."""

    checkpoint: CheckpointReport | None
    passed_over: tuple[tuple[str, str], ...]


def find_latest_resumable(run: RunReport) -> LatestResumable:
    """The newest checkpoint, by training position and then time, that will resume as it stands."""
    passed_over: list[tuple[str, str]] = []
    for checkpoint in run.checkpoints:
        if checkpoint.verdict.resumes:
            return LatestResumable(checkpoint, tuple(passed_over))
        passed_over.append((checkpoint.name, f"{checkpoint.verdict.value}: {checkpoint.findings[0].message}"))
    return LatestResumable(None, tuple(passed_over))


def audit_outputs(outputs: Path | str, layout: Layout | None = None) -> AuditReport:
    """Audit an outputs folder once.

    :raises OutputsFolderError: when the folder is missing or unreadable.
    """
    return Auditor(outputs, layout).audit()
