"""One run's folder to facts, and to what its states are judged against; what has not changed is not read again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from checkpoint_core.audit.cache import AuditCache
from checkpoint_core.audit.context import CheckContext, RunFacts
from checkpoint_core.audit.manifest_diff import RunManifests
from checkpoint_core.audit.reports import state_name
from checkpoint_core.environment import Environment
from checkpoint_core.scripts import (
    ScriptFacts,
    find_script,
    other_runs,
    output_elsewhere,
    read_script,
    resume_target,
)
from checkpoint_core.states import (
    CUSTOM_OBJECT,
    RECENT_NS,
    TRAIN_STATE,
    FileEntry,
    Layout,
    Listing,
    LoraFacts,
    Reading,
    RunDir,
    StateDir,
    StateFacts,
    inspection,
    parse_state_name,
)
from checkpoint_core.trainer import DatasetFacts, dataset_key, read_dataset

#: Free space is told in steps, because what else happens on the disk changes it from one look to the next.
_FREE_STEP_BYTES = 100_000_000


@dataclass(frozen=True)
class RunReader:
    """Reads the runs of one outputs folder; the one place where facts and contexts are made for a judgement.

    :param outputs: FluxGym's ``outputs`` folder.
    :param layout: read every state by this layout, instead of by the trainer that the script names.
    :param script: read every state with this script, instead of the run's own.
    :param clock: nanoseconds since the epoch.
    :param cache: what is remembered from one look to the next.
    """

    outputs: Path
    layout: Layout | None
    script: ScriptFacts | None
    clock: Callable[[], int]
    cache: AuditCache

    def facts(self, found: RunDir) -> RunFacts:
        """A run as it was listed, with its script, its LoRA files and its states."""
        script, problem = self._script(found)
        loras = self._loras(found)
        manifests = RunManifests(found, self.outputs)
        return RunFacts(
            name=found.path.name,
            path=found.path,
            modified_ns=_last_activity(found),
            script=script,
            script_problem=problem,
            resume_target=resume_target(
                script, found.path, {state_name(state.path, found.path): state.path for state in found.states}
            ),
            states=tuple(self._state(found.path, each, script, loras, manifests) for each in found.states),
            loras=tuple(loras.values()),
            skipped=found.skipped,
            free_bytes=inspection.free_bytes(found.path),
            problem=found.listing.problem,
            other_runs=other_runs(script, found.path),
        )

    def context(self, found: RunDir, facts: RunFacts, environment: Environment) -> CheckContext:
        """What all states of a run are judged against."""
        free = facts.free_bytes
        return CheckContext(
            run=facts.path,
            script=facts.script,
            steps_per_epoch=facts.likely_steps_per_epoch,
            environment=environment,
            dataset=self._dataset(facts),
            names=frozenset(entry.name for entry in found.listing.entries),
            elsewhere=output_elsewhere(facts.script, facts.path),
            free_bytes=free - free % _FREE_STEP_BYTES if free else free,
        )

    def context_of(self, state: StateFacts, context: CheckContext) -> CheckContext:
        """What one state is judged against: besides what is the run's, its age and its rehearsal."""
        recent = state.changed or abs(self.clock() - state.saved_ns) < RECENT_NS
        stamp = rehearsal_stamp(state, context.environment)
        rehearsal = self.cache.rehearsals.recall(context.run, state.path, stamp)
        return replace(context, recent=recent, rehearsal=rehearsal) if recent or rehearsal else context

    def _script(self, found: RunDir) -> tuple[ScriptFacts | None, str | None]:
        if self.script is not None:
            return self.script, None
        path = find_script(found.path)
        if path is None:
            return None, None
        entry = next((entry for entry in found.listing.entries if entry.name == path.name), None)
        return self.cache.scripts.get(found.path, path, entry, lambda: read_script(path))

    def _loras(self, found: RunDir) -> dict[str, Reading[LoraFacts]]:
        def inspected(path: Path, entry: FileEntry) -> Reading[LoraFacts]:
            return self.cache.loras.get(found.path, path, entry, lambda: inspection.inspect_lora(path, entry))

        entries = (entry for entry in found.listing.entries if entry.name.endswith(".safetensors"))
        return {entry.name: inspected(found.path / entry.name, entry) for entry in entries}

    def _dataset(self, facts: RunFacts) -> DatasetFacts | None:
        script, run = facts.script, facts.path
        if script is None:
            return None
        return self.cache.datasets.get(run, run, dataset_key(script, run), lambda: read_dataset(script, run))

    def _state(
        self,
        run: Path,
        found: StateDir,
        script: ScriptFacts | None,
        loras: dict[str, Reading[LoraFacts]],
        manifests: RunManifests,
    ) -> StateFacts:
        output_name = script.output_name if script else None
        lora = loras.get(parse_state_name(found.path.name, output_name).lora_file)
        choice = choose_layout(self.layout, script, {entry.name for entry in found.listing.entries})
        stamp = (found.listing, output_name, lora, choice, manifests.stamp(found.path))
        facts = self.cache.states.recall(run, found.path, stamp)
        if facts is None or facts.changed:
            facts = inspection.inspect_state(found, self.outputs, choice, output_name, lora, self.clock())
            facts = replace(facts, manifest=manifests.facts(facts))
            self.cache.states.keep(run, found.path, stamp, facts)
        read = self.cache.verified.recall(run, found.path, None)
        deep = read.deep if read and read.still_holds(facts) else None
        if facts.deep is deep:
            return facts
        return self.cache.states.keep(run, found.path, stamp, replace(facts, deep=deep))


def rehearsal_stamp(state: StateFacts, environment: Environment) -> object:
    """What a rehearsal holds for: the state's files and the environment."""
    return Listing(state.files, state.modified_ns), environment


def _last_activity(found: RunDir) -> int:
    """When something was last saved in a run: the newest file or state, else the folder itself."""
    # What is kept in hidden folders (manifests, repairs) is no work of a training.
    times = [entry.modified_ns for entry in found.listing.entries if not entry.name.startswith(".")]
    return max(
        [*times, *(state.listing.modified_ns for state in found.states)], default=found.listing.modified_ns
    )


def choose_layout(chosen: Layout | None, script: ScriptFacts | None, files: set[str]) -> tuple[Layout, str]:
    """The layout to judge by: the user's, the script's trainer's, or what the files look like."""
    if chosen is not None:
        return chosen, "chosen by you"
    if script is not None:
        return layout_of_trainer(script.trainer), f"from the trainer in {script.file}"
    if CUSTOM_OBJECT in files and TRAIN_STATE not in files:
        return Layout.ACCELERATE_OBJECTS, "from the files, because there is no train script"
    return Layout.SD_SCRIPTS, "assumed, because there is no train script"


#: ``_train_network.py`` and its siblings: every sd-scripts trainer for LoRA networks ends so.
_SD_SCRIPTS_TRAINER = re.compile(r"(\w*train_network\.py|sd-scripts[\\/].*\.py)\Z")


def layout_of_trainer(trainer: str) -> Layout:
    """The layout that a training script named in ``train.sh`` reads and writes."""
    return Layout.SD_SCRIPTS if _SD_SCRIPTS_TRAINER.search(trainer) else Layout.ACCELERATE_OBJECTS
