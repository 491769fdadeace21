"""The loss from TensorBoard's files where the script writes them."""

from __future__ import annotations

from pathlib import Path

from checkpoint_core.audit.auditor import Auditor, RunReport
from checkpoint_core.training.event_files import EventLosses
from tests.training.test_tensorboard import event, record, simple
from tests.world import World


def audited(world: World) -> RunReport:
    return Auditor(world.outputs).audit_run(world.run_name)


def write_events(folder: Path, losses: list[float]) -> Path:
    path = folder / "20260101" / "network_train" / "events.out.tfevents.1767225600.my.host.4711.0"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(record(event("loss/average", step, simple(loss))) for step, loss in enumerate(losses, 1))
    path.write_bytes(data)
    return path


def test_without_a_folder_for_them_there_are_none(world: World) -> None:
    assert EventLosses().of(audited(world), {4711}).points == ()


def test_the_losses_of_the_script_s_own_folder_are_read_again_when_they_grow(world: World) -> None:
    world.edit_script(lambda text: f"{text} \\\n  --logging_dir logs")
    now = [0.0]
    losses = EventLosses(lambda: now[0])
    assert losses.of(audited(world), {4711, 12}).points == ()
    write_events(world.root / "logs", [0.5, 0.25])
    assert losses.of(audited(world), {4711, 12}).points == ((1, 0.5), (2, 0.25))
    write_events(world.root / "logs", [0.5, 0.25, 0.125])
    assert losses.of(audited(world), {4711, 12}).points[-1] == (3, 0.125)


def test_another_training_that_writes_into_the_same_folder_is_not_shown(world: World) -> None:
    world.edit_script(lambda text: f"{text} \\\n  --logging_dir logs")
    write_events(world.root / "logs", [0.5])
    assert EventLosses().of(audited(world), {12}).points == ()
