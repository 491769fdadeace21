"""Real trainings, started by the real script, watched by the real watcher, and everything that befalls them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.soak import RUN, make_run, soak
from checkpoint_core.training import launcher, processes
from checkpoint_core.training.launcher import Start
from checkpoint_core.training.log.files import read_journal
from checkpoint_core.training.record import ProcessId, ProcessState, Request, read_record, send_request
from checkpoint_core.training.status import Life, Processes, TrainingStatus, training_status
from tests.recovery.test_transaction import small_disk
from tests.training.test_processes import until

PROJECT = Path(__file__).resolve().parents[2]
QUICK = ("--wait", "0", "--fruitless", "2")


@pytest.fixture(autouse=True)
def _no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # On the processor: other tests train at the same time, and no GPU is shared where none is seen.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run of six epochs, started by plain Python, which costs half of what the launcher does."""
    made = make_run(tmp_path / "fluxgym", 6)
    without_launcher(made)
    yield made
    clear(made)


def clear(run: Path) -> None:
    """End whatever still runs of a run: its watcher first."""
    record = read_record(run)
    if record is not None and processes.is_alive(record.watcher):
        assert record.watcher is not None
        psutil.Process(record.watcher.pid).kill()
    for found in [each for each in processes.find_trainings() if each.run == run.resolve()]:
        for member in processes.members(found.root):
            member.kill()


def without_launcher(run: Path) -> None:
    script = run / "train.sh"
    text = re.sub(r"accelerate launch.*?(?=sd-scripts/)", "python ", script.read_text(), flags=re.DOTALL)
    assert "accelerate launch" not in text
    script.write_text(text)


def status(run: Path) -> TrainingStatus:
    return training_status(run, Processes())


def step(run: Path) -> int:
    return status(run).progress.step or 0


def training_of(run: Path) -> ProcessId | None:
    record = read_record(run)
    return record.training if record is not None else None


def is_over(run: Path) -> bool:
    record = read_record(run)
    return record is not None and not record.status.is_live


def told(run: Path) -> str:
    return "\n".join(f"{line.kind}: {line.text}" for line in read_journal(run))


def start(run: Path, *options: str, bring_back: bool = True) -> None:
    launcher.start_detached(Start(run, bring_back, python=sys.executable, options=(*QUICK, *options)))


def trainer(run: Path) -> psutil.Process:
    """The process that trains, once it has taken a step of this start."""
    until(lambda: status(run).progress.bar_step)
    record = read_record(run)
    assert record is not None
    assert record.training is not None
    return processes.members(record.training)[-1]


def test_killed_in_and_outside_of_saves_it_reaches_its_end_with_the_right_number_of_steps(
    tmp_path: Path,
) -> None:
    soaked = soak(tmp_path, kills=3, seed=3)
    assert soaked.failures == []
    assert soaked.updates == (4 + 3 * 3) * 8


def test_it_outlives_who_started_it_and_is_found_again_with_log_and_progress(run: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from checkpoint_core.training.launcher import Start, start_detached\n"
        "start_detached(Start(Path(sys.argv[1]), True, python=sys.executable))\n"
        "print('started', flush=True); import time; time.sleep(600)\n"
    )
    interface = subprocess.Popen(
        [sys.executable, "-c", program, str(run)], cwd=PROJECT, stdout=subprocess.PIPE, start_new_session=True
    )
    assert interface.stdout is not None
    assert interface.stdout.readline() == b"started\n"
    trainer(run)
    os.killpg(interface.pid, signal.SIGKILL)
    interface.wait()
    before = step(run)

    until(lambda: step(run) > before)
    now = status(run)
    assert (now.life, now.record and now.record.status) == (Life.WATCHED, ProcessState.RUNNING)
    assert (now.progress.epochs, now.progress.steps_per_epoch) == (6, 8)
    assert any(line.startswith("steps:") for line in now.log)
    until(lambda: is_over(run))
    record = read_record(run)
    assert record is not None
    assert (record.status, record.exit_status) == (ProcessState.EXITED, 0)
    assert status(run).progress.step == 48
    assert [point[0] for point in status(run).history.points][-1] == 48
    assert (run / ".manifests").is_dir()


def test_a_stop_ends_the_whole_tree_and_the_last_save_is_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "fluxgym", 30)  # by accelerate launch: a launcher, and the trainer below it
    try:
        start(run)
        trainer(run)
        record = read_record(run)
        assert record is not None
        assert record.training is not None
        tree = processes.members(record.training)
        assert len(tree) >= 2
        launcher.stop(run)
        until(lambda: is_over(run))

        assert not [each for each in tree if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        ended = read_record(run)
        assert ended is not None
        assert ended.status is ProcessState.STOPPED
        assert "bad-save" not in told(run)
    finally:
        clear(run)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to ignore")
def test_a_stop_is_gentle_though_fluxgym_was_started_in_the_background(run: Path) -> None:
    script = run / "train.sh"
    script.write_text(script.read_text().replace("--max_train_epochs 6", "--max_train_epochs 300"))
    program = (
        "import signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script's `&` leaves it\n"
        "from checkpoint_core.training.launcher import Start, start_detached\n"
        "start_detached(Start(Path(sys.argv[1]), True, python=sys.executable))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(run)], cwd=PROJECT, check=True)
    trainer(run)
    launcher.stop(run)
    until(lambda: is_over(run))
    record = read_record(run)
    assert record is not None
    assert record.status is ProcessState.STOPPED
    assert "KeyboardInterrupt" in "\n".join(status(run).log)


def test_a_script_that_fails_at_once_is_not_started_again(run: Path) -> None:
    script = run / "train.sh"
    script.write_text(script.read_text().replace("--max_train_epochs 6", "--max_train_epochs six"))
    start(run)
    until(lambda: is_over(run))
    record = read_record(run)
    assert record is not None
    assert (record.status, record.attempt) == (ProcessState.FATAL, 1)
    assert "A restart would not help." in record.message


#: What a script may end in, that hides what became of the trainer; and whether the log is then read here.
HIDING = {
    "2>&1 | tee outputs/soaked-cat/console.log": True,
    "|| echo failed": True,
    "\necho all done": True,
    "> outputs/soaked-cat/console.log 2>&1": False,
    "nohup > outputs/soaked-cat/console.log 2>&1 &": False,
}


def ending_in(run: Path, ending: str) -> None:
    script = run / "train.sh"
    text = script.read_text().rstrip().removesuffix("\\").rstrip()
    if ending.startswith("nohup "):
        text, ending = text.replace("python ", "nohup python ", 1), ending.removeprefix("nohup ")
    script.write_text(f"{text} {ending}\n")


def process_that_trains(run: Path) -> psutil.Process:
    """The trainer of a run, once it has saved its second epoch, wherever its log goes."""
    until(lambda: (run / f"{RUN}-000002-state" / "random_states_0.pkl").is_file())
    training = training_of(run)
    assert training is not None
    (found,) = (each for each in processes.members(training) if each.name().startswith("python"))
    return found


@pytest.mark.parametrize("ending", HIDING)
def test_a_script_whose_end_hides_the_trainers_is_a_crash_all_the_same(run: Path, ending: str) -> None:
    ending_in(run, ending)
    start(run)
    process_that_trains(run).kill()
    until(lambda: is_over(run))

    record = read_record(run)
    assert record is not None
    assert (record.status, record.attempt) == (ProcessState.EXITED, 2), told(run)
    assert "from soaked-cat-00000" in told(run)
    assert "had not trained a step" not in told(run)
    if not HIDING[ending]:
        assert "Its output goes elsewhere" in told(run)


def test_a_trainer_that_finds_no_images_has_trained_nothing_though_its_status_is_0(run: Path) -> None:
    trainer_file = run.parent.parent / "sd-scripts" / "flux_train_network.py"
    no_data = "ERROR    No data found. Please verify arguments (train_data_dir must be the parent of folders)"
    trainer_file.write_text(f"print({no_data!r})\n")
    start(run)
    until(lambda: is_over(run))
    record = read_record(run)
    assert record is not None
    assert (record.status, record.attempt, record.exit_status) == (ProcessState.FATAL, 1, 0)
    assert record.message.startswith("Nothing was trained: no images were found")


def test_the_same_error_twice_before_a_step_ends_it(run: Path) -> None:
    trainer_file = run.parent.parent / "sd-scripts" / "flux_train_network.py"
    trainer_file.write_text("import os\nraise RuntimeError(f'wrong weather for process {os.getpid()}')\n")
    start(run, "--fruitless", "5")
    until(lambda: is_over(run))
    record = read_record(run)
    assert record is not None
    assert (record.status, record.attempt) == (ProcessState.FATAL, 2)
    assert "It said: “RuntimeError: wrong weather for process" in record.message
    assert "It ended twice with the same error before it had trained a step." in record.message


def test_a_restart_need_not_be_waited_for(run: Path) -> None:
    trainer_file = run.parent.parent / "sd-scripts" / "flux_train_network.py"
    trains, fails = trainer_file.read_text(), "raise RuntimeError('not yet')\n"
    trainer_file.write_text(fails)
    start(run, "--wait", "600")
    until(lambda: "waiting: " in told(run))
    trainer_file.write_text(trains)
    launcher.retry(run)
    until(lambda: is_over(run))
    record = read_record(run)
    assert record is not None
    assert (record.status, record.attempt) == (ProcessState.EXITED, 2), told(run)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not rename a folder in use")
def test_a_run_that_was_renamed_while_it_trains_can_be_stopped(run: Path) -> None:
    script = run / "train.sh"
    script.write_text(script.read_text().replace("--max_train_epochs 6", "--max_train_epochs 300"))
    start(run)
    training = trainer(run)
    renamed = run.rename(run.with_name("renamed-cat"))
    record = read_record(renamed)
    assert record is not None
    assert record.watcher is not None
    assert launcher.stop(renamed) == "Stopped."
    assert not training.is_running()
    assert not processes.is_alive(record.watcher)
    after = read_record(renamed)
    assert after is not None
    assert after.status is ProcessState.STOPPED


def test_a_trainer_that_hangs_is_ended_and_brought_back(run: Path) -> None:
    start(run, "--hang-minutes", "0.1")
    hung = trainer(run)
    hung.suspend()  # neither output nor progress, and no processor time

    until(lambda: "hang: " in told(run))
    until(lambda: is_over(run))
    assert not hung.is_running()
    record = read_record(run)
    assert record is not None
    assert (record.status, record.attempt) == (ProcessState.EXITED, 2), told(run)


def test_the_newest_state_was_corrupted_and_an_older_one_is_taken(run: Path) -> None:
    start(run, "--wait", "3")
    until(lambda: len(list(run.glob("*-0*-state/random_states_0.pkl"))) >= 2)
    trainer(run).kill()
    until(lambda: "crashed: " in told(run))
    newest = max(run.glob("*-0*-state"), key=lambda path: path.name)
    with (newest / "optimizer.bin").open("r+b") as file:
        file.seek(-3000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 255]))

    until(lambda: "chosen: " in told(run))
    chosen = re.search(r"Start 2 from (\S+)\.\n?", told(run))
    until(lambda: is_over(run))
    record = read_record(run)
    assert record is not None
    assert record.status is ProcessState.EXITED, told(run)
    assert chosen is None or chosen[1] != newest.name


def test_a_watcher_that_was_killed_is_replaced_and_the_training_never_stopped(run: Path) -> None:
    start(run)
    training = trainer(run)
    record = read_record(run)
    assert record is not None
    assert record.watcher is not None
    psutil.Process(record.watcher.pid).kill()
    until(lambda: status(run).life is Life.UNWATCHED)
    launcher.watch_detached(Start(run, True, options=QUICK))
    until(lambda: status(run).life is Life.WATCHED)
    assert training.is_running()

    until(lambda: is_over(run))
    after = read_record(run)
    assert after is not None
    assert (after.status, after.attempt) == (ProcessState.EXITED, 1)
    assert status(run).progress.step == 48


def test_a_training_from_a_terminal_is_recognised_watched_and_brought_back(run: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    terminal = subprocess.Popen(
        ["bash", "outputs/soaked-cat/train.sh"],
        cwd=run.parent.parent,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: status(run).found)
    assert status(run).life is Life.UNWATCHED
    launcher.watch_detached(Start(run, True, python=sys.executable, options=QUICK))
    until(lambda: "adopted: " in told(run) and training_of(run))
    until(lambda: list(run.glob("*-0*-state/random_states_0.pkl")))
    for member in processes.members(status(run).record.training):  # type: ignore[union-attr, arg-type]
        member.kill()
    terminal.wait()

    until(lambda: is_over(run))
    record = read_record(run)
    assert record is not None
    assert (record.status, record.attempt) == (ProcessState.EXITED, 2), told(run)


def test_a_trainer_that_its_launcher_left_behind_is_still_the_training(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "fluxgym", 60
    )  # by accelerate launch, in a terminal: no session tells what belongs to it
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    terminal = subprocess.Popen(
        ["bash", "outputs/soaked-cat/train.sh"],
        cwd=run.parent.parent,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: list(run.glob("*-0*-state/random_states_0.pkl")))
        launcher.watch_detached(Start(run, True, python=sys.executable, options=QUICK))
        until(lambda: "adopted: " in told(run) and training_of(run))
        found = status(run).record
        assert found is not None
        assert found.training is not None
        *launchers, left = sorted(processes.members(found.training), key=lambda each: each.create_time())
        time.sleep(2)  # the watcher has looked
        for each in launchers:
            each.kill()
        terminal.wait()
        newest = len(list(run.glob("*.safetensors")))
        until(lambda: len(list(run.glob("*.safetensors"))) > newest + 4)
        assert left.is_running()
        assert status(run).life is Life.WATCHED
        assert "crashed: " not in told(run)
        launcher.stop(run)
        until(lambda: is_over(run))
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
    finally:
        clear(run)


def test_a_full_disk_ends_it_with_a_plain_word(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        run = make_run(disk / "fluxgym", 40)
        without_launcher(run)
        script = run / "train.sh"
        script.write_text(script.read_text().replace("  --save_last_n_epochs_state 3", "  --network_alpha 1"))
        (disk / "fill").write_bytes(b"x" * 1_500_000)
        try:
            start(run)
            until(lambda: is_over(run))
            record = read_record(run)
            assert record is not None
            assert record.status is ProcessState.FATAL, told(run)
            assert re.search("room|full|space", record.message), record.message
            assert "would not help" in record.message or "no room" in record.message
        finally:
            clear(run)


def test_what_is_asked_while_it_runs_is_heeded(run: Path) -> None:
    start(run)
    trainer(run)
    send_request(run, Request.LEAVE)
    until(lambda: "setting: " in told(run))
    trainer(run).kill()
    until(lambda: is_over(run))
    record = read_record(run)
    assert record is not None
    assert (record.status, record.attempt, record.bring_back) == (ProcessState.FATAL, 1, False)


def test_the_run_s_folder_is_judged_as_before(run: Path) -> None:
    from checkpoint_core.audit.auditor import Auditor

    start(run)
    until(lambda: is_over(run))
    time.sleep(0)
    names = {item.name for item in Auditor(run.parent).audit_run(RUN).checkpoints}
    assert names == {f"{RUN}-000003-state", f"{RUN}-000004-state", f"{RUN}-000005-state", f"{RUN}-state"}
