"""The one composition that tab and command line share: outputs folder -> facts -> findings -> verdicts."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from checkpoint_core.audit.checks.environment import check_run_environment
from checkpoint_core.audit.checks.run_level import check_run
from checkpoint_core.audit.context import CheckContext, RunFacts
from checkpoint_core.audit.manifest_diff import RunManifests
from checkpoint_core.audit.reports import AuditReport, CheckpointReport, RunReport, UnknownName, state_name
from checkpoint_core.audit.verdict import guarded, judge
from checkpoint_core.environment import Environment, RehearsalOutcome
from checkpoint_core.scripts import ScriptFacts, find_script, output_elsewhere, read_script, resume_target
from checkpoint_core.states import (
    CUSTOM_OBJECT,
    RECENT_NS,
    TRAIN_STATE,
    FileEntry,
    Layout,
    Listing,
    LoraFacts,
    Progress,
    Reading,
    RunDir,
    StateDir,
    StateFacts,
    Verified,
    discovery,
    inspection,
    parse_state_name,
    verify_state,
)
from checkpoint_core.trainer import DatasetFacts, dataset_key, locate, read_dataset

__all__ = [
    "AuditReport",
    "Auditor",
    "CheckpointReport",
    "RunReport",
    "UnknownName",
    "audit_outputs",
    "judge",
]


_FREE_STEP_BYTES = 100_000_000


@dataclass(frozen=True)
class _Remembered:
    key: object
    facts: StateFacts
    report: CheckpointReport | None = None
    context: CheckContext | None = None


class Auditor:
    """Audits one outputs folder, again and again; what has not changed on the disk is not read again.

    :param outputs: FluxGym's ``outputs`` folder.
    :param layout: judge every state by this layout, instead of by the trainer that the script names.
    :param clock: nanoseconds since the epoch.
    :param environment: asked once an audit for the Python that trains; by default nothing is judged about it.
    """

    def __init__(
        self,
        outputs: Path | str,
        layout: Layout | None = None,
        clock: Callable[[], int] = time.time_ns,
        environment: Callable[[], Environment] = lambda: None,
    ) -> None:
        self.outputs = Path(outputs)
        self.layout = layout
        self._clock = clock
        self._ask_environment = environment
        # Two that read the same run for the first time must not undo what the other has judged already.
        self._turn = threading.Lock()
        self._states: dict[Path, _Remembered] = {}
        self._loras: dict[Path, tuple[FileEntry, Reading[LoraFacts]]] = {}
        self._scripts: dict[Path, tuple[FileEntry | None, tuple[ScriptFacts | None, str | None]]] = {}
        self._deep: dict[Path, Verified] = {}
        self._datasets: dict[Path, tuple[object, DatasetFacts | None]] = {}
        self._rehearsals: dict[Path, tuple[Listing, Environment, RehearsalOutcome]] = {}

    def at_later_time(self, nanoseconds: int) -> Auditor:
        """An auditor of the same folder whose clock is ahead; what was read to its last byte is known to both."""
        later = Auditor(self.outputs, self.layout, lambda: self._clock() + nanoseconds, self._ask_environment)
        later._deep, later._rehearsals = self._deep, self._rehearsals
        return later

    def audit(self, progress: Callable[[str], None] | None = None) -> AuditReport:
        """All runs; ``progress`` is called with the name of each before it is read.

        :raises OutputsFolderError: when the folder is missing or unreadable.
        """
        runs, environment = [], self._ask_environment()
        for found in discovery.find_runs(self.outputs):
            if progress:
                progress(found.path.name)
            with self._turn:
                runs.append(self._run(found, environment))
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
        found = discovery.find_run(self.outputs / name, self.outputs)
        environment = self._ask_environment()
        with self._turn:
            return self._run(found, environment)

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
        self._deep[facts.path] = Verified(facts, verify_state(facts, progress, cancelled))
        return self.audit_run(run).checkpoint(checkpoint)

    def rehearse(
        self,
        run: str,
        checkpoint: str,
        rehearse: Callable[[StateFacts, Environment], RehearsalOutcome],
    ) -> CheckpointReport:
        """Load one checkpoint for trial and judge it anew; kept until one of its files or the environment changes.

        :param rehearse: carries the rehearsal out.
        :raises UnknownName: for an unknown run or checkpoint.
        """
        before = self.audit_run(run).checkpoint(checkpoint)
        facts = before.facts
        outcome = rehearse(facts, before.environment)
        listing = Listing(facts.files, facts.modified_ns)
        self._rehearsals[facts.path] = (listing, before.environment, outcome)
        return self.audit_run(run).checkpoint(checkpoint)

    def context(self, checkpoint: CheckpointReport) -> CheckContext:
        """What a checkpoint was judged against, without a rehearsal: to judge it as it would be after a change.

        :raises UnknownName: when it was not judged here.
        """
        known = self._states.get(checkpoint.facts.path)
        if known is None or known.context is None:
            raise UnknownName(f"The checkpoint {checkpoint.name!r} is not known here; refresh.")
        return replace(known.context, rehearsal=None, recent=False)

    def _rehearsal(self, facts: StateFacts, environment: Environment) -> RehearsalOutcome | None:
        known = self._rehearsals.get(facts.path)
        now = (Listing(facts.files, facts.modified_ns), environment)
        return known[2] if known and known[:2] == now else None

    def _run(self, found: RunDir, environment: Environment) -> RunReport:
        script, problem = self._script(found)
        entries = {entry.name: entry for entry in found.listing.entries}
        loras = {
            name: self._lora(found.path / name, entry)
            for name, entry in entries.items()
            if name.endswith(".safetensors")
        }
        manifests = RunManifests(found, self.outputs)
        states = tuple(self._state(state, script, loras, manifests) for state in found.states)
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
        context = self._context_of(facts, frozenset(entries), environment)
        reports = tuple(self._report(state, context) for state in states)
        ordered = tuple(sorted(reports, key=lambda report: (report.order, report.name), reverse=True))
        findings = (
            *guarded(lambda: check_run(facts)),
            *guarded(lambda: check_run_environment(context.environment)),
        )
        return RunReport(facts, ordered, findings, context.environment)

    def _context_of(self, facts: RunFacts, names: frozenset[str], environment: Environment) -> CheckContext:
        """What all states of a run are judged against."""
        return CheckContext(
            run=facts.path,
            script=facts.script,
            steps_per_epoch=facts.steps_per_epoch or _implied(facts.states, facts.script),
            environment=environment,
            dataset=self._dataset(facts),
            names=names,
            elsewhere=output_elsewhere(facts.script, facts.path),
            # In steps, because what else happens on the disk changes it from one look to the next.
            free_bytes=facts.free_bytes - facts.free_bytes % _FREE_STEP_BYTES
            if facts.free_bytes
            else facts.free_bytes,
        )

    def _dataset(self, facts: RunFacts) -> DatasetFacts | None:
        if facts.script is None:
            return None
        key, known = dataset_key(facts.script, facts.path), self._datasets.get(facts.path)
        if known is None or known[0] != key:
            known = self._datasets[facts.path] = (key, read_dataset(facts.script, facts.path))
        return known[1]

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
        self,
        found: StateDir,
        script: ScriptFacts | None,
        loras: dict[str, Reading[LoraFacts]],
        manifests: RunManifests,
    ) -> StateFacts:
        output_name = script.output_name if script else None
        lora = loras.get(parse_state_name(found.path.name, output_name).lora_file)
        choice = self.choose_layout(script, {entry.name for entry in found.listing.entries})
        key = (found.listing, output_name, lora, choice, manifests.stamp(found.path))
        known = self._states.get(found.path)
        now = self._clock()
        if known is None or known.key != key or known.facts.changed:
            facts = inspection.inspect_state(found, self.outputs, choice, output_name, lora, now)
            facts = replace(facts, manifest=manifests.facts(facts))
            known = self._states[found.path] = _Remembered(key, facts)
        read = self._deep.get(found.path)
        wanted = read.deep if read and read.still_holds(known.facts) else None
        if known.facts.deep is not wanted:
            known = self._states[found.path] = _Remembered(key, replace(known.facts, deep=wanted))
        return known.facts

    def choose_layout(self, script: ScriptFacts | None, files: set[str]) -> tuple[Layout, str]:
        """The layout to judge by: the user's, the script's trainer's, or what the files look like."""
        if self.layout is not None:
            return self.layout, "chosen by you"
        if script is not None:
            return layout_of_trainer(script.trainer), f"from the trainer in {script.file}"
        if CUSTOM_OBJECT in files and TRAIN_STATE not in files:
            return Layout.ACCELERATE_OBJECTS, "from the files, for want of a train script"
        return Layout.SD_SCRIPTS, "assumed, for want of a train script"

    def _report(self, facts: StateFacts, context: CheckContext) -> CheckpointReport:
        recent = facts.changed or abs(self._clock() - facts.saved_ns) < RECENT_NS
        rehearsal = self._rehearsal(facts, context.environment)
        if recent or rehearsal:
            context = replace(context, recent=recent, rehearsal=rehearsal)
        known = self._states[facts.path]
        if known.report is None or known.report.facts is not facts or known.context != context:
            report = judge(facts, context)
            known = self._states[facts.path] = replace(known, report=report, context=context)
        assert known.report is not None  # noqa: S101 - made above
        return known.report


def _last_activity(found: RunDir) -> int:
    """When something was last saved in a run: the newest file or state, else the folder itself."""
    # What is kept in hidden folders (manifests, repairs) is no work of a training.
    times = [entry.modified_ns for entry in found.listing.entries if not entry.name.startswith(".")]
    return max(
        [*times, *(state.listing.modified_ns for state in found.states)], default=found.listing.modified_ns
    )


def _implied(states: tuple[StateFacts, ...], script: ScriptFacts | None) -> int | None:
    """Steps per epoch from a sibling that no resume came before, for runs without LoRA files."""
    positions = (locate(state, script, None) for state in states)
    return next((position.steps_per_epoch for position in positions if position.steps_per_epoch), None)


def audit_outputs(outputs: Path | str, layout: Layout | None = None) -> AuditReport:
    """Audit an outputs folder once.

    :raises OutputsFolderError: when the folder is missing or unreadable.
    """
    return Auditor(outputs, layout).audit()


#: ``_train_network.py`` and its siblings: every sd-scripts trainer for LoRA networks ends so.
_SD_SCRIPTS_TRAINER = re.compile(r"(\w*train_network\.py|sd-scripts[\\/].*\.py)\Z")


def layout_of_trainer(trainer: str) -> Layout:
    """The layout that a training script named in ``train.sh`` reads and writes."""
    return Layout.SD_SCRIPTS if _SD_SCRIPTS_TRAINER.search(trainer) else Layout.ACCELERATE_OBJECTS
