"""Whatever is started, by the real script and the small real trainer: what was in the run is in it afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.findings import Verdict
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.demo import trainer
from checkpoint_core.demo.fluxgym_files import GymFolder, write_run_files
from checkpoint_core.demo.options import TrainOptions, parse_options
from checkpoint_core.recovery.launching import next_set_aside
from checkpoint_core.recovery.options import OptionKind
from checkpoint_core.recovery.planning import apply_option, change_of, look_again, plan_recovery, repair_of
from checkpoint_core.recovery.replaced import SetAsideFailed, set_aside_saves
from checkpoint_core.recovery.replaced_records import read_replaced
from checkpoint_core.scripts.change import plan_fresh, plan_resume
from checkpoint_core.training.log.files import read_journal
from checkpoint_core.training.next_start import NextStart, choose_start
from checkpoint_core.training.watcher import LiveRun
from tests.training.test_processes import until
from tests.world import PROJECT, age, once, run_small_trainer

RUN, EPOCHS, STEPS = "cat", 4, 8
SAVING = ("--save_state",)
_TRAINER = f"import sys\nsys.path.insert(0, {str(PROJECT)!r})\nfrom checkpoint_core.demo.trainer import main\nmain()\n"


def options_of(gym: GymFolder, **changes: object) -> TrainOptions:
    given = TrainOptions(
        output_dir=gym.run_dir,
        output_name=RUN,
        max_train_epochs=EPOCHS,
        steps_per_epoch=STEPS,
        save_every_n_epochs=1,
        save_state=True,
    )
    return replace(given, **changes)  # type: ignore[arg-type]


def write_gym(root: Path, saving: tuple[str, ...] = SAVING) -> GymFolder:
    """A FluxGym folder whose script starts the small trainer by plain Python."""
    gym = GymFolder(root, RUN)
    write_run_files(gym, options_of(gym), saving)
    program = root / "sd-scripts" / "flux_train_network.py"
    program.parent.mkdir(parents=True)
    program.write_text(_TRAINER, encoding="utf-8")
    script = gym.run_dir / "train.sh"
    text = script.read_text(encoding="utf-8")
    command = text[text.index("accelerate launch") : text.index("sd-scripts/")]
    script.write_text(text.replace(command, f"{sys.executable} "), encoding="utf-8")
    return gym


def make_finished(root: Path) -> None:
    run_small_trainer(options_of(write_gym(root)))


def make_crashed(root: Path) -> None:
    run_small_trainer(options_of(write_gym(root), stop_after_step=3 * STEPS + 3))


def make_resumed_twice(root: Path) -> None:
    gym = write_gym(root)
    run_small_trainer(options_of(gym, stop_after_step=STEPS + 3))
    for done, stop in ((1, STEPS + 3), (2, None)):
        state = gym.run_dir / f"{RUN}-{done:06d}-state"
        run_small_trainer(options_of(gym, resume=str(state), initial_epoch=done + 1, stop_after_step=stop))


def make_without_states(root: Path) -> None:
    run_small_trainer(options_of(write_gym(root, ()), save_state=False, stop_after_step=3 * STEPS + 3))


SHAPES: dict[str, Callable[[Path], None]] = {
    "finished": make_finished,
    "crashed": make_crashed,
    "resumed-twice": make_resumed_twice,
    "without-states": make_without_states,
}


@pytest.fixture(autouse=True)
def _on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a shape of run, trained once for all tests."""
    shared = tmp_path_factory.getbasetemp().parent
    return lambda shape: once(shared, f"set-aside-{shape}", lambda root: SHAPES[shape](root / "gym"))


@pytest.fixture
def copy_of(trained: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run of that shape, a day old, whose script names its own places; returns the run's folder."""

    def copied(shape: str) -> Path:
        gym = write_gym(tmp_path / "fluxgym", () if shape == "without-states" else SAVING)
        source = trained(shape) / "gym" / "outputs" / RUN
        for entry in source.iterdir():
            if entry.name.startswith(RUN):
                copy = shutil.copytree if entry.is_dir() else shutil.copy2
                copy(entry, gym.run_dir / entry.name)
        age(gym.run_dir, 86_400)
        return gym.run_dir

    return copied


def digests(run: Path) -> dict[str, str]:
    """Every file of a run that is not the tool's own, by its path: SHA-256 of what it holds."""
    files = (path for path in run.rglob("*") if path.is_file())
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not (name := path.relative_to(run).as_posix()).startswith(".")
    }


def everything(run: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in run.rglob("*") if path.is_file()}


def assert_kept(run: Path, before: dict[str, str]) -> None:
    now = everything(run)
    assert [name for name, digest in before.items() if digest not in now] == []


def audited(run: Path) -> RunReport:
    return Auditor(run.parent).audit_run(RUN)


def train(run: Path) -> bool:
    """Start the run's script as the watcher does, but in this process; whether it found something left to train."""
    set_aside_saves(run, lambda: next_set_aside(audited(run)))
    script = audited(run).facts.script
    assert script is not None
    words = [word for flag, values in script.flags.items() for word in (flag, *values) if word is not None]
    try:
        trainer.train(replace(parse_options(words), quiet=True, stop_after_step=None))
    except AssertionError as error:
        assert "max_train_steps should be greater" in str(error)  # noqa: PT017 - upstream's own words
        return False
    return True


def choices_of(run: Path) -> list[str]:
    """Every start that a run offers: its recovery options, each checkpoint, fresh."""
    found = audited(run)
    options = plan_recovery(Auditor(run.parent), found).options
    kinds = [f"option {number}" for number, each in enumerate(options) if each.kind is not OptionKind.SAVING]
    return [*kinds, *(item.name for item in found.checkpoints), "fresh"]


def prepare(run: Path, choice: str) -> None:
    """Write a choice into the run's script, as a press does."""
    auditor, found = Auditor(run.parent), audited(run)
    if choice == "fresh":
        plan_fresh(run).execute()
    elif choice.startswith("option "):
        option = plan_recovery(auditor, found).options[int(choice.removeprefix("option "))]
        apply_option(option, change_of(found, option), look_again(auditor, RUN, option.checkpoint))
    elif (item := found.checkpoint(choice)).verdict.resumes:
        plan_resume(run, choice).execute()
    elif (plan := repair_of(auditor, found, item)) is not None:
        plan.execute(look_again(auditor, RUN, choice))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_start_loses_a_byte_of_what_was_there(
    copy_of: Callable[[str], Path], tmp_path: Path, shape: str
) -> None:
    run, template = copy_of(shape), tmp_path / "template"
    shutil.copytree(run, template)
    trained = 0
    for choice in choices_of(run):
        shutil.rmtree(run)
        shutil.copytree(template, run)
        before = digests(run)
        prepare(run, choice)

        trained += train(run)

        assert_kept(run, before)
        # And once more, as after a crash or by a second press.
        before = digests(run)
        trained += train(run)
        assert_kept(run, before)
    assert trained > 2


@pytest.mark.parametrize("shape", ["crashed", "without-states"])
def test_bringing_back_loses_nothing(copy_of: Callable[[str], Path], shape: str) -> None:
    run = copy_of(shape)
    before = digests(run)

    chosen = choose_start(Auditor(run.parent), RUN)

    assert isinstance(chosen, NextStart)
    assert train(run)
    assert_kept(run, before)


def test_the_watcher_sets_aside_before_it_starts_and_says_so(copy_of: Callable[[str], Path]) -> None:
    run = copy_of("finished")
    plan_resume(run, f"{RUN}-000002-state").execute()
    before = digests(run)
    io = LiveRun(Auditor(run.parent), RUN, variables=dict(os.environ))

    attempt = io.start()

    until(lambda: not attempt.is_running())
    assert attempt.exit_status == 0
    assert_kept(run, before)
    (kept,) = read_replaced(run)
    told = [line.text for line in read_journal(run) if line.kind == "set-aside"]
    assert told == [
        f"Set aside before the start: epoch 3, the finished LoRA and the last state, in .replaced/{kept.id}."
    ]


def test_more_epochs_keep_the_finished_lora_and_state_under_their_epochs_name(
    copy_of: Callable[[str], Path],
) -> None:
    run = copy_of("finished")
    before = digests(run)
    prepare(run, "option 0")

    assert train(run)

    after = digests(run)
    assert after["cat-000004.safetensors"] == before["cat.safetensors"]
    assert after["cat-000004-state/optimizer.bin"] == before["cat-state/optimizer.bin"]
    assert after["cat.safetensors"] != before["cat.safetensors"]
    assert not read_replaced(run)
    item = audited(run).checkpoint("cat-000004-state")
    assert item.verdict is not Verdict.DAMAGED
    assert item.position.epoch == 4


def test_a_start_that_cannot_set_aside_starts_nothing(copy_of: Callable[[str], Path]) -> None:
    run = copy_of("finished")
    prepare(run, "option 0")
    (run / "cat.safetensors").rename(run / "elsewhere")
    (run / "cat.safetensors").symlink_to("elsewhere")
    before = digests(run)

    with pytest.raises(SetAsideFailed, match=r"cat\.safetensors is a link"):
        LiveRun(Auditor(run.parent), RUN, variables=dict(os.environ)).start()

    assert digests(run) == before
    assert not read_replaced(run)
