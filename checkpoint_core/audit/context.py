"""What a state is judged against: the run around it, the script, the dataset, the training environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from checkpoint_core.environment import Environment, RehearsalOutcome
from checkpoint_core.scripts import ResumeTarget, ScriptFacts
from checkpoint_core.states import Damage, LoraFacts, Reading, SavePoint, Skipped, StateFacts
from checkpoint_core.trainer import DatasetFacts, implied_steps_per_epoch


@dataclass(frozen=True)
class RunFacts:
    """One run: its folder, its script, its states and LoRA files."""

    name: str
    path: Path
    modified_ns: int
    script: ScriptFacts | None
    script_problem: str | None
    resume_target: ResumeTarget
    states: tuple[StateFacts, ...]
    loras: tuple[Reading[LoraFacts], ...]
    skipped: tuple[Skipped, ...]
    free_bytes: int | None
    problem: Damage | None = None
    #: Flag to the other run that it leads into, of the script's flags that name what the training begins with.
    other_runs: Mapping[str, str] = field(default_factory=dict)

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer updates in an epoch, from the newest LoRA file that tells, or ``None``."""
        told = [lora for lora in self.loras if isinstance(lora, LoraFacts) and lora.steps_per_epoch]
        return max(told, key=lambda lora: lora.modified_ns).steps_per_epoch if told else None

    @property
    def likely_steps_per_epoch(self) -> int | None:
        """The same, where no LoRA file tells from the newest state that no resume came before."""
        # Of either kind the newest: sd-scripts counts an epoch's updates anew at every start (``train_network.py``,
        # ``num_update_steps_per_epoch``), and the dataset as it was last is nearest to that of the next one.
        implied = max(self._implied, key=lambda state: state[0], default=(None, None))[1]
        return self.steps_per_epoch or implied

    @property
    def _implied(self) -> Iterator[tuple[tuple[bool, int], int]]:
        """What each state tells of an epoch's length, with its weight."""
        for state in self.states:
            if steps := implied_steps_per_epoch(state, self.script):
                # ``--max_train_steps`` may end a training inside an epoch, whose steps the last state then understates.
                yield (state.name.save_point is SavePoint.EPOCH, state.saved_ns), steps


@dataclass(frozen=True)
class CheckContext:
    """Everything around one state that its verdict depends on.

    :param run: the run's folder, above the state.
    :param steps_per_epoch: optimizer updates in an epoch when the states were saved, as the run's LoRA files tell.
    :param recent: the state's files were written so lately that the save may be going on.
    :param environment: ``None`` where nobody asked for it.
    :param dataset: ``None`` where the script names no dataset that can be read.
    :param names: everything that lies in the run's folder.
    :param elsewhere: the folder of this machine that ``--output_dir`` names, where it is not the run's own.
    :param free_bytes: free space on the disk of the run.
    :param rehearsal: how the state's rehearsal in this environment ended, if there was one.
    """

    run: Path
    script: ScriptFacts | None = None
    steps_per_epoch: int | None = None
    recent: bool = False
    environment: Environment = None
    dataset: DatasetFacts | None = None
    names: frozenset[str] = frozenset()
    elsewhere: Path | None = None
    free_bytes: int | None = None
    rehearsal: RehearsalOutcome | None = None

    @property
    def names_where_saved(self) -> frozenset[str]:
        """What lies where a launch saves; a script copied from another run saves into that run's folder."""
        written = self.script.output_dir if self.script else None
        is_here = self.elsewhere is None and (
            written is None or PureWindowsPath(written).name == self.run.name
        )
        return self.names if is_here else frozenset()
