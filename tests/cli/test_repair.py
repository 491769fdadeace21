"""The commands that repair: what they show, do, refuse and take back."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.recovery import transaction
from checkpoint_core.states.repair_records import APPLYING, read_records, with_status, write_record
from tests.cli.test_app import Done, given_to_the_trainer, resume_argument
from tests.damage import edit_train_state, remove, truncate
from tests.world import World


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_repair_shows_the_plan_and_writes_nothing(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    before, script = bytes_of(world.latest), world.script.read_bytes()

    done = Done("repair", world.latest)

    assert done.code == 0
    assert "scheduler.bin (missing, then" in done.words
    assert "Resumes after epoch 4 of 8, trains 4 epochs (32 steps)" in done.words
    assert "+  --resume" in done.out
    assert "Nothing was written. To apply it, run the same command with --apply." in done.out
    assert (bytes_of(world.latest), world.script.read_bytes()) == (before, script)
    assert not (world.run / "repairs.json").exists()


def test_lost_random_states_are_told_with_a_lost_schedule(world: World) -> None:
    truncate(world.latest / "scheduler.bin")
    remove(world.latest / "random_states_0.pkl")

    done = Done("repair", world.latest)

    assert "Loses: The image order and noise differ" in done.words
    assert "random_states_0.pkl (missing, then" in done.words


def test_repair_apply_and_undo(world: World) -> None:
    truncate(world.latest / "scheduler.bin")
    before, script = bytes_of(world.latest), world.script.read_bytes()

    done = Done("repair", world.latest, "--apply")

    assert done.code == 0
    assert "Repaired." in done.out
    assert "To train, run this in" in done.out
    assert resume_argument(world) == str(world.latest)
    assert Done("check", world.latest).code == 0

    undone = Done("repair", world.latest, "--undo")

    assert undone.code == 0
    assert "is as it was before the repair" in undone.out
    assert (bytes_of(world.latest), world.script.read_bytes()) == (before, script)
    again = Done("repair", world.latest, "--undo")
    assert (again.code, "There is nothing to undo" in again.err) == (2, True)


def test_an_undo_tells_that_the_script_was_edited_since(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    Done("repair", world.latest, "--apply")
    world.edit_script(lambda text: text.replace("--seed 42", "--seed 43"))
    edited = world.script.read_bytes()

    done = Done("repair", world.latest, "--undo")

    assert done.code == 0
    assert "was changed since and is left as it is" in done.words
    assert world.script.read_bytes() == edited


def test_what_is_beyond_repair_is_told(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    done = Done("repair", world.latest, "--apply")

    assert done.code == 1
    assert "No known repair lets this checkpoint resume" in done.err
    assert "optimizer-truncated" in done.out


def test_what_needs_no_repair_says_so(world: World) -> None:
    done = Done("repair", world.latest)
    assert done.code == 0
    assert "Epoch 4 resumes as it is; no repair is needed." in done.words


def test_the_epoch_can_be_corrected_in_the_state(world: World) -> None:
    edit_train_state(world.latest, current_step=16)

    assert Done("repair", world.latest, "--epoch-in-state", "--apply").code == 0
    assert (world.latest / "train_state.json").read_bytes() == b'{"current_epoch": 4, "current_step": 32}'
    assert "--initial_epoch" not in given_to_the_trainer(world)


def test_repair_as_json(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    done = Done("repair", world.latest, "--json")

    assert done.json["kind"] == "repair"
    assert (done.json["can_resume"], done.json["needs_repair"]) == (True, True)
    assert len(done.json["changes"]) == 1
    assert "--resume" in done.json["diff"]


def test_recover_shows_the_ways_and_takes_the_first(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    shown = Done("recover", world.run)
    assert shown.code == 0
    assert "1. Repair epoch 4 and resume (recommended)" in shown.words
    assert (
        "2. Resume from epoch 3 Keeps: Everything that was trained up to epoch 3. "
        "Kept in .replaced: epoch 4. Loses: 8 steps" in shown.words
    )
    assert not (world.run / "repairs.json").exists()

    applied = Done("recover", world.run, "--apply")
    assert applied.code == 0
    assert resume_argument(world) == str(world.latest)
    assert f"repair {world.latest} --undo" in applied.words


def test_recover_names_the_command_that_undoes_a_resume(world: World) -> None:
    before = world.script.read_bytes()
    applied = Done("recover", world.run, "--apply")

    assert f"python -m checkpoint_core resume {world.run} --undo" in applied.words
    assert Done("resume", world.run, "--undo").code == 0
    assert world.script.read_bytes() == before


def test_recover_takes_the_way_that_is_named(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    dry = Done("recover", world.run, "--option", 2)
    assert "Nothing was written" in dry.out
    assert resume_argument(world) is None

    assert Done("recover", world.run, "--way", 2, "--apply").code == 0
    assert resume_argument(world) == str(world.state(3))


def test_recover_as_json(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    found = Done("recover", world.run, "--json").json

    assert found["kind"] == "recovery"
    assert [option["kind"] for option in found["ways"]] == ["older", "warm-start", "fresh"]
    assert [option["recommended"] for option in found["ways"]] == [True, False, False]
    assert found["ways"][0]["lost_steps"] == 8
    assert found["ways"][1]["next_epoch"] == 5


def test_a_run_beyond_resuming_ends_with_1(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")
    done = Done("recover", world.run)
    assert done.code == 1
    assert "all checkpoints are damaged beyond repair" in done.words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("repair", "LATEST", "--apply", "--undo"), "Give either --apply or --undo"),
        (("repair", "LATEST", "--json", "--apply"), "Give either --json or --apply"),
        (("recover", "RUN", "--json", "--apply"), "Leave it out to apply one"),
        (("recover", "RUN", "--way", "9"), "There are 3 options"),
        (("repair", "RUN/nothing-state"), "has no checkpoint"),
        (("recover", "RUN/nothing"), "There is no folder"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(world: World, arguments: tuple[str, ...], sentence: str) -> None:
    named = [part.replace("LATEST", str(world.latest)).replace("RUN", str(world.run)) for part in arguments]
    done = Done(*named)
    assert done.code == 2
    assert sentence in " ".join(done.err.split())


def test_a_repair_that_was_interrupted_is_finished_first(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    Done("repair", world.latest, "--apply")
    (record,) = read_records(world.run)
    write_record(world.run, with_status(record, APPLYING))

    done = Done("recover", world.run, "--json")

    assert "had been interrupted; it is finished now (applied)" in done.err
    assert done.json["ways"][0]["kind"] == "resume"
    assert transaction.undoable(world.run, world.latest.name) is not None


def test_a_broken_record_refuses_and_says_what_to_do(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    (world.run / "repairs.json").write_text("{")
    done = Done("repair", world.latest, "--apply")

    assert done.code == 1
    assert "could not be read as a record of repairs" in " ".join(done.err.split())
    assert not Auditor(world.outputs).audit_run(world.run_name).checkpoint(world.latest.name).verdict.resumes
