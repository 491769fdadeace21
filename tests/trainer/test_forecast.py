"""The outlook against what the small trainer then really does, and its sentence."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.context import CheckContext
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.demo.options import TrainOptions
from checkpoint_core.demo.trainer import train
from checkpoint_core.formats.reader import DamageKind
from checkpoint_core.formats.train_state import TrainState
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.scripts.reading import script_facts
from checkpoint_core.scripts.script import TrainScript, dialect_of
from checkpoint_core.states.facts import Damage, OptimizerFacts, StateFacts
from checkpoint_core.states.layout import Layout
from checkpoint_core.trainer.dataset_config import DatasetFacts
from checkpoint_core.trainer.forecast import Forecast, forecast_sentence, make_forecast
from checkpoint_core.trainer.launch import launch_from
from checkpoint_core.trainer.position import Position, locate
from tests.audit.checks.conftest import (
    RUN,
    STEPS_PER_EPOCH,
    make_resumed_run,
    make_stepped_run,
    stepped_options,
)
from tests.world import command_line, once

EPOCH_1, EPOCH_2 = f"{RUN}-000001-state", f"{RUN}-000002-state"
MID_EPOCH_2 = f"{RUN}-step00000012-state"
LAST = f"{RUN}-state"
DATASET = DatasetFacts("dataset.toml", (STEPS_PER_EPOCH, STEPS_PER_EPOCH))


@pytest.fixture(scope="session")
def stepped_root(shared_dir: Path) -> Path:
    return once(shared_dir, "stepped", make_stepped_run)


@pytest.fixture(scope="session")
def resumed_root(shared_dir: Path) -> Path:
    return once(shared_dir, "resumed", make_resumed_run)


def script_of(options: TrainOptions) -> ScriptFacts:
    """The facts of a script with these flags; those that are the small trainer's own are left out."""
    words = ["accelerate launch sd-scripts/flux_train_network.py", *command_line(options)]
    text = re.sub(r" --(steps_per_epoch|loss_log) \S+| --quiet", "", " ".join(words))
    return script_facts(TrainScript.parse(text.encode(), dialect_of(Path("train.sh"))), "train.sh")


def resuming(run: Path, state: str, **changes: object) -> TrainOptions:
    """The flags of the stepped run, resumed from one of its states."""
    return replace(stepped_options(run), resume=str(run / state), **changes)  # type: ignore[arg-type]


def forecast_of(facts: StateFacts, position: Position, context: CheckContext) -> Forecast | None:
    launch = launch_from(position, context.script, context.dataset)
    return make_forecast(facts, launch, context.names_where_saved)


def forecast_on(options: TrainOptions, **context: object) -> Forecast | None:
    """The outlook on a resume with these flags, of the state that they name."""
    assert options.resume is not None
    run, state = options.output_dir, Path(options.resume)
    facts = Auditor(run.parent).audit_run(run.name).checkpoint(state.name).facts
    script = script_of(options)
    names = frozenset(path.name for path in run.iterdir())
    values = {"steps_per_epoch": STEPS_PER_EPOCH, "dataset": DATASET, "names": names, **context}
    context = CheckContext(run, script, **values)  # type: ignore[arg-type]
    return forecast_of(facts, locate(facts, script, context.steps_per_epoch), context)


@dataclass
class Watched:
    """What a launch of the trainer said and did."""

    epochs: list[int]
    rates: list[float]
    saved: list[str]
    removed: list[str]

    @property
    def states(self) -> list[str]:
        return [name for name in self.saved if name.endswith("-state")]


def watch(
    options: TrainOptions, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Watched:
    """Run the trainer and note down its epochs, the rate of each step, and the names that it saved and removed."""
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(max(group["lr"] for group in optimizer.param_groups))
    )
    caplog.clear()
    try:
        with caplog.at_level(logging.INFO):
            train(options)
    finally:
        hook.remove()
    output = capsys.readouterr().out
    loras = [Path(path).name for path in re.findall(r"saving checkpoint: (.*)", output)]
    log = "\n".join(caplog.messages)
    states = [
        Path(path).parent.name for path in re.findall(r"^save train state to (.*?) at ", log, re.MULTILINE)
    ]
    return Watched(
        epochs=[int(epoch) for epoch in re.findall(r"^epoch (\d+)/", output, re.MULTILINE)],
        rates=rates,
        saved=[*states, *loras],
        removed=[Path(path).name for path in re.findall(r"^removing old state: (.*)", log, re.MULTILINE)],
    )


CASES = {
    "from an epoch": (EPOCH_1, {}),
    "from an epoch, saved every step": (EPOCH_2, {"save_every_n_steps": 1}),
    "in the middle of an epoch": (MID_EPOCH_2, {}),
    "in the middle of an epoch, skipping": (MID_EPOCH_2, {"skip_until_initial_step": True}),
    "more epochs than before": (EPOCH_2, {"max_train_epochs": 5}),
    "more epochs after the end": (LAST, {"max_train_epochs": 5, "save_every_n_steps": None}),
    "every second epoch": (EPOCH_1, {"max_train_epochs": 6, "save_every_n_epochs": 2}),
    "ended by steps": (EPOCH_1, {"max_train_epochs": None, "max_train_steps": 20}),
    "the first epoch again, ended by steps": (
        EPOCH_2,
        {"max_train_epochs": None, "max_train_steps": 20, "initial_epoch": 1},
    ),
    "few states kept": (
        EPOCH_2,
        {"max_train_epochs": 5, "save_last_n_epochs_state": 1, "save_last_n_steps_state": 8},
    ),
    "few of all kept": (EPOCH_1, {"max_train_epochs": 5, "save_last_n_epochs": 2, "save_last_n_steps": 4}),
    "a state at the end alone": (EPOCH_2, {"save_state": False, "save_state_on_train_end": True}),
    "no states": (EPOCH_2, {"save_state": False}),
    "a step given": (EPOCH_2, {"initial_step": 10}),
    "a constant rate from here on": (EPOCH_2, {"lr_scheduler": "constant"}),
}


@pytest.mark.parametrize(("state", "changes"), CASES.values(), ids=list(CASES))
def test_the_trainer_does_what_the_outlook_says(
    stepped_root: Path,
    tmp_path: Path,
    state: str,
    changes: dict[str, object],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Path(shutil.copytree(stepped_root / "outputs" / RUN, tmp_path / "outputs" / RUN))
    compare(resuming(run, state, **changes), capsys, caplog)


def test_a_state_that_was_saved_after_a_resume_too(
    resumed_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Path(shutil.copytree(resumed_root / "outputs" / RUN, tmp_path / "outputs" / RUN))
    forecast = compare(resuming(run, EPOCH_2, lr_scheduler="constant"), capsys, caplog)
    assert (forecast.start_epoch, forecast.should_start) == (2, 3)
    assert forecast_sentence(forecast).startswith("Starts at epoch 2 of 3 although epoch 2 is done, trains 2")


def compare(
    options: TrainOptions, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Forecast:
    """Hold the outlook against the launch; returns it."""
    forecast = forecast_on(options)
    assert forecast is not None
    before = {path.name for path in options.output_dir.iterdir()}
    did = watch(options, capsys, caplog)
    assert forecast.start_epoch == did.epochs[0]
    assert (forecast.last_epoch, forecast.epochs_left) == (did.epochs[-1], len(did.epochs))
    assert forecast.steps_left == len(did.rates)
    assert forecast.learning_rate == pytest.approx(did.rates[0], abs=1e-12)
    assert forecast.later_rate == pytest.approx(did.rates[1], abs=1e-12)
    assert forecast.saves_left == len(did.states)
    assert (forecast.next_save is None) == (not did.states)
    if forecast.next_save:
        assert did.states[0] in when_named(forecast.next_save, options, forecast.last_epoch)
    overwritten = {name for name in did.saved if "-step" in name} & before
    assert set(forecast.collisions) == overwritten
    assert [name for name, _ in forecast.will_remove] == [
        name for name in did.removed if name in before and name not in did.states
    ]
    return forecast


def when_named(when: str, options: TrainOptions, last: int | None) -> set[str]:
    """The names that a state saved at that moment may have."""
    kind, number = when.split()
    if kind == "step":
        return {f"{RUN}-step{int(number):08d}-state"}
    return {LAST} if int(number) == last else {f"{RUN}-{int(number):06d}-state"}


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        (LAST, {}),
        (EPOCH_2, {"max_train_epochs": 2}),
        (EPOCH_1, {"initial_epoch": 4}),
        (MID_EPOCH_2, {"max_train_epochs": None, "max_train_steps": 12}),
    ],
)
def test_nothing_left_to_train_is_what_the_trainer_says_too(
    stepped_root: Path, state: str, changes: dict[str, object]
) -> None:
    options = resuming(stepped_root / "outputs" / RUN, state, **changes)
    forecast = forecast_on(options)
    assert forecast is not None
    assert (forecast.stops_at_once, forecast.epochs_left, forecast.saves_left) == (True, 0, 0)
    with pytest.raises(AssertionError, match="max_train_steps should be greater than initial step"):
        train(replace(options, quiet=True))


def test_the_room_that_the_saves_take(
    stepped_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Path(shutil.copytree(stepped_root / "outputs" / RUN, tmp_path / "outputs" / RUN))
    options = resuming(run, EPOCH_2, max_train_epochs=6)
    forecast = forecast_on(options)
    assert forecast is not None
    assert forecast.bytes_needed is not None
    before = max(path.stat().st_mtime_ns for path in run.rglob("*"))
    watch(options, capsys, caplog)
    # What it writes over is set aside by a start, so that all that it writes takes room.
    assert forecast.bytes_needed == pytest.approx(size_of_newer(run, before), rel=0.01)


def size_of_newer(folder: Path, than_ns: int) -> int:
    files = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(status.st_size for status in files if status.st_mtime_ns > than_ns)


# What is not known is left out


def told(run: RunReport, state: str, script: ScriptFacts | None, **context: object) -> Forecast | None:
    facts = run.checkpoint(state).facts
    values = {"steps_per_epoch": STEPS_PER_EPOCH, **context}
    context = CheckContext(run.facts.path, script, **values)  # type: ignore[arg-type]
    return forecast_of(facts, locate(facts, script, context.steps_per_epoch), context)


@pytest.fixture
def stepped(stepped_root: Path) -> RunReport:
    return Auditor(stepped_root / "outputs").audit_run(RUN)


def test_without_a_script_only_the_beginning_is_told(stepped: RunReport) -> None:
    forecast = told(stepped, EPOCH_2, None)
    assert forecast is not None
    assert forecast_sentence(forecast) == "Resumes after epoch 2, learning rate 2e-4."


def test_flags_that_only_the_shell_knows_are_left_out(stepped: RunReport) -> None:
    script = stepped.facts.script
    assert script is not None
    hiding = replace(script, hidden="$EXTRA may hold further flags")
    forecast = told(stepped, EPOCH_2, hiding)
    assert forecast is not None
    assert (forecast.epochs_left, forecast.saves_left, forecast.later_rate) == (1, None, None)
    assert "save" not in forecast_sentence(forecast)


def test_an_open_start_and_end(stepped: RunReport) -> None:
    script = replace(stepped.facts.script, unknown=(("--initial_epoch", "a variable"),))  # type: ignore[type-var]
    assert told(stepped, EPOCH_2, script) is None


def test_a_dataset_that_leaves_the_length_open_leaves_the_steps_out(stepped: RunReport) -> None:
    dataset = DatasetFacts("dataset.toml", (9, 12))
    forecast = told(stepped, EPOCH_2, stepped.facts.script, dataset=dataset)
    assert forecast is not None
    assert (forecast.start_epoch, forecast.steps_left) == (2, None)
    wide = told(stepped, EPOCH_2, stepped.facts.script, dataset=replace(dataset, batches=(7, 12)))
    assert wide is not None
    assert (wide.start_epoch, wide.steps_left) == (3, 8)  # as when it was saved


def test_skipping_with_accumulation_counts_no_steps(stepped: RunReport) -> None:
    script = stepped.facts.script
    assert script is not None
    flags = {**script.flags, "--gradient_accumulation_steps": ("2",)}
    skipping = replace(script, skip_until_initial_step=True, flags=flags, max_train_epochs=9)
    forecast = told(stepped, EPOCH_1, skipping)
    assert forecast is not None
    assert (forecast.start_epoch, forecast.should_start, forecast.steps_left) == (3, 2, None)
    past = told(stepped, EPOCH_2, replace(skipping, max_train_epochs=4))
    assert past is not None
    assert (past.start_epoch, past.epochs_left, past.saves_left, past.stops_at_once) == (5, 0, 1, False)


def test_a_run_s_script_that_saves_elsewhere_overwrites_nothing_here(stepped: RunReport) -> None:
    script = stepped.facts.script
    assert script is not None
    stepwise = replace(script, flags={**script.flags, "--save_every_n_steps": ("4",)})
    names = frozenset(item.name for item in stepped.checkpoints)
    here = told(stepped, EPOCH_1, stepwise, names=names)
    assert here is not None
    assert len(here.collisions) == 4
    copied = replace(stepwise, output_dir="/gym/outputs/other")
    for script, elsewhere in ((copied, None), (stepwise, Path("/other/outputs/stepped"))):
        there = told(stepped, EPOCH_1, script, names=names, elsewhere=elsewhere)
        assert there is not None
        assert there.collisions == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"layout": Layout.ACCELERATE_OBJECTS},
        {"problem": Damage(DamageKind.UNREADABLE, "Permission denied")},
        {"train_state": Damage(DamageKind.CORRUPT, "it is not valid JSON")},
        {"train_state": TrainState(2, None)},
    ],
)
def test_there_is_no_outlook_on_what_does_not_start(stepped: RunReport, changes: dict[str, object]) -> None:
    facts = replace(stepped.checkpoint(EPOCH_2).facts, **changes)  # type: ignore[arg-type]
    context = CheckContext(stepped.facts.path, stepped.facts.script, STEPS_PER_EPOCH)
    assert forecast_of(facts, locate(facts, context.script, STEPS_PER_EPOCH), context) is None


def test_without_train_state_it_starts_at_the_first_epoch(stepped: RunReport) -> None:
    facts = replace(stepped.checkpoint(EPOCH_2).facts, train_state=None)
    context = CheckContext(stepped.facts.path, stepped.facts.script, STEPS_PER_EPOCH)
    forecast = forecast_of(facts, locate(facts, context.script, STEPS_PER_EPOCH), context)
    assert forecast is not None
    assert (forecast.start_epoch, forecast.should_start, forecast.epochs_left) == (1, 3, 3)


def test_a_state_without_a_schedule_has_its_optimizer_s_rate(stepped: RunReport) -> None:
    facts = replace(stepped.checkpoint(EPOCH_2).facts, scheduler=None)
    assert isinstance(facts.optimizer, OptimizerFacts)
    context = CheckContext(stepped.facts.path, stepped.facts.script, STEPS_PER_EPOCH)
    forecast = forecast_of(facts, locate(facts, context.script, STEPS_PER_EPOCH), context)
    assert forecast is not None
    assert (forecast.learning_rate, forecast.later_rate) == (max(facts.optimizer.learning_rates), None)


# The sentence


PLAIN = Forecast(
    done_epoch=12,
    should_start=13,
    start_epoch=13,
    last_epoch=16,
    epochs_left=4,
    steps_left=1000,
    learning_rate=8e-4,
    later_rate=8e-4,
    next_save="epoch 16",
    saves_left=1,
)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "Resumes after epoch 12 of 16, trains 4 epochs (1,000 steps), learning rate 8e-4, next save at epoch 16.",
        ),
        (
            {"epochs_left": 1, "steps_left": 1, "last_epoch": 13, "next_save": "step 250"},
            "Resumes after epoch 12 of 13, trains 1 epoch (1 step), learning rate 8e-4, next save at step 250.",
        ),
        (
            {"steps_left": None, "learning_rate": None, "saves_left": 0, "next_save": None},
            "Resumes after epoch 12 of 16, trains 4 epochs, saves no further checkpoint.",
        ),
        (
            {
                "epochs_left": None,
                "last_epoch": None,
                "learning_rate": None,
                "saves_left": None,
                "next_save": None,
            },
            "Resumes after epoch 12.",
        ),
        (
            {"repeated_steps": 4, "later_rate": 6e-4, "saves_left": None, "next_save": None},
            "Resumes at the beginning of epoch 13 of 16 (4 steps are trained again), trains 4 epochs (1,000 steps), "
            "learning rate 8e-4 at first, then 6e-4.",
        ),
        (
            {"skipped_steps": 1, "saves_left": None},
            "Resumes in epoch 13 of 16 after its first 1 step, trains 4 epochs (1,000 steps), learning rate 8e-4.",
        ),
        (
            {
                "start_epoch": 15,
                "epochs_left": 2,
                "steps_left": None,
                "saves_left": None,
                "learning_rate": 0.0,
            },
            "Starts at epoch 15 of 16 although only epoch 12 is done, trains 2 epochs, learning rate 0 at first, "
            "then 8e-4.",
        ),
        (
            {
                "start_epoch": 3,
                "done_epoch": 12,
                "epochs_left": None,
                "learning_rate": None,
                "saves_left": None,
            },
            "Starts at epoch 3 of 16 although epoch 12 is done.",
        ),
        (
            {
                "start_epoch": 3,
                "should_start": None,
                "epochs_left": None,
                "learning_rate": None,
                "saves_left": None,
            },
            "Starts at epoch 3 of 16.",
        ),
        (
            {"done_epoch": 0, "should_start": 1, "start_epoch": 1, "learning_rate": None, "saves_left": None},
            "Starts at epoch 1 of 16, trains 4 epochs (1,000 steps).",
        ),
        (
            {"start_epoch": None, "epochs_left": None, "learning_rate": None, "saves_left": None},
            "Trains up to epoch 16.",
        ),
        (
            {"stops_at_once": True, "done_epoch": 16},
            "Trains nothing: epoch 16 is done, and the script trains 16 epochs.",
        ),
        (
            {"stops_at_once": True},
            "Trains nothing: the trainer takes the training for finished.",
        ),
    ],
)
def test_the_sentence_says_what_is_known(changes: dict[str, object], sentence: str) -> None:
    forecast = replace(PLAIN, **changes)  # type: ignore[arg-type]
    if "next_save" not in changes and forecast.saves_left is None:
        forecast = replace(forecast, next_save=None)
    assert forecast_sentence(forecast) == sentence
