"""The recovery options: their order, what each keeps and loses, and what is said where little is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.recovery.fix import FixChoices
from checkpoint_core.recovery.options import OptionKind, RecoveryPlan
from checkpoint_core.recovery.planning import apply_option, change_of, plan_recovery
from checkpoint_core.recovery.repair import Choices
from tests.damage import remove, truncate
from tests.world import World


def recovery(world: World, choices: Choices | None = None) -> RecoveryPlan:
    auditor = Auditor(world.outputs)
    return plan_recovery(auditor, auditor.audit_run(world.run_name), choices)


def kinds(found: RecoveryPlan) -> list[tuple[str, int | None]]:
    """Each way's kind and the steps that it loses."""
    return [(option.kind.value, option.lost_steps) for option in found.options]


def test_a_good_run_resumes_and_nothing_is_lost(world: World) -> None:
    found = recovery(world)

    assert kinds(found) == [("resume", 0), ("warm-start", 0), ("fresh", 32)]
    assert found.recommended is found.options[0]
    assert found.options[0].loses == "Nothing."
    assert found.options[0].forecast.startswith("Resumes after epoch 4 of 8")
    assert found.headline == "Resume from epoch 4: no repair is needed."


def test_a_repair_that_loses_nothing_comes_before_an_older_checkpoint(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    found = recovery(world)

    assert kinds(found) == [("repair", 0), ("older", 8), ("warm-start", 0), ("fresh", 32)]
    assert found.headline == "Repair epoch 4 and resume; nothing is lost."
    assert found.options[1].loses == "8 steps have to be trained again."


def test_lost_random_states_are_never_called_nothing(world: World) -> None:
    remove(world.latest / "random_states_0.pkl")
    assert recovery(world).options[0].loses.startswith("The image order and noise differ")
    world.edit_script(lambda text: text.replace("--network_dim 4", "--network_dim 8"))
    first = recovery(world).options[0]
    assert (first.kind, first.loses[:32]) == (OptionKind.REPAIR, "The image order and noise differ")


def test_what_cannot_be_repaired_is_passed_over(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    truncate(world.state(3) / "optimizer.bin")
    found = recovery(world)

    assert kinds(found) == [("older", 16), ("warm-start", 0), ("fresh", 32)]
    assert found.options[0].title == "Resume from epoch 2"


def test_of_several_that_need_the_same_repair_only_the_newest_is_told(world: World) -> None:
    for epoch in (3, 4):
        remove(world.state(epoch) / "scheduler.bin")

    assert kinds(recovery(world))[:2] == [("repair", 0), ("older", 16)]


def test_an_older_one_whose_repair_loses_less_is_told_too(world: World) -> None:
    truncate(world.latest / "model.safetensors")  # from the LoRA file, rounded
    remove(world.state(3) / "scheduler.bin")
    found = recovery(world)

    assert kinds(found)[:3] == [("repair", 0), ("repair", 8), ("older", 16)]
    assert "rounded to that file's precision" in found.options[0].loses
    assert found.options[1].loses == "8 steps have to be trained again."


def test_the_only_checkpoint_is_damaged(world: World) -> None:
    for epoch in (1, 2, 3):
        remove(world.state(epoch))
    truncate(world.latest / "optimizer.bin")
    found = recovery(world)

    assert kinds(found) == [("warm-start", 0), ("fresh", 32)]
    assert found.headline == (
        "No checkpoint can be resumed (the only checkpoint is damaged beyond repair). Start from the LoRA file of "
        "epoch 4. The optimizer's memory and the learning rate schedule start over."
    )


def test_without_a_lora_file_only_the_beginning_is_left(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")
        remove(world.lora(epoch))
    found = recovery(world)

    assert [option.kind for option in found.options] == [OptionKind.FRESH]
    assert "all checkpoints are damaged beyond repair" in found.headline


def test_a_finished_run_is_offered_more_epochs(world: World) -> None:
    world.edit_script(lambda text: text.replace("--max_train_epochs 8", "--max_train_epochs 4"))

    first = recovery(world).options[0]
    assert (first.title, first.loses) == ("Train 8 more epochs from epoch 4 on", "Nothing.")
    first = recovery(world, Choices(script=FixChoices(more_epochs=1))).options[0]
    assert first.title == "Train 1 more epoch from epoch 4 on"
    assert first.forecast.startswith("Resumes after epoch 4 of 5, trains 1 epoch (8 steps)")


def test_a_script_that_saves_nothing_is_offered_to_save(world: World) -> None:
    world.edit_script(lambda text: text.replace("--save_state", "").rstrip("\\ \n") + "\n")
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    option = plan_recovery(auditor, run).options[-1]

    assert option.kind is OptionKind.SAVING
    assert "Each checkpoint takes about 40" in option.loses
    change = change_of(run, option)
    assert change is not None
    assert change.summary[0] == "--save_state added"
    assert "--save_last_n_epochs_state set to 2" in change.summary


def test_a_save_that_goes_on_is_waited_for(world: World) -> None:
    remove(world.latest / "optimizer.bin")
    saved = max(path.stat().st_mtime_ns for path in world.latest.iterdir())
    auditor = Auditor(world.outputs, clock=lambda: saved + 1)
    found = plan_recovery(auditor, auditor.audit_run(world.run_name))

    assert found.wait
    assert found.recommended is None
    assert "being saved right now" in found.headline


def test_a_run_without_checkpoints(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        remove(world.state(epoch))
    found = recovery(world)

    assert [option.kind for option in found.options] == [OptionKind.WARM_START, OptionKind.FRESH]
    assert found.headline == "There are no checkpoints to resume from."


def test_a_warm_start_writes_its_flags_and_takes_the_others_out(world: World) -> None:
    world.edit_script(lambda text: text.rstrip() + ' \\\n  --resume "gone" \\\n  --initial_step 3\n')
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    option = next(
        option for option in plan_recovery(auditor, run).options if option.kind is OptionKind.WARM_START
    )
    change = change_of(run, option)
    assert change is not None

    applied = apply_option(option, change, lambda: run.checkpoints[0])

    text = world.script.read_text(encoding="utf-8")
    assert f'--network_weights "{world.lora(4)}"' in text
    assert '--initial_epoch "5"' in text
    assert "--resume" not in text
    assert "--initial_step" not in text
    assert applied.receipt is not None
    applied.receipt.undo()
    assert world.script.read_bytes() == change.before


def test_a_run_without_a_script_has_ways_but_no_repairs(world: World) -> None:
    remove(world.script)
    remove(world.latest / "scheduler.bin")

    assert kinds(recovery(world))[0] == ("older", 8)


def test_a_lora_of_another_machine_is_named_as_the_script_does(world: World, tmp_path: Path) -> None:
    world.edit_script(
        lambda text: text.replace(str(world.run), f"/workspace/fluxgym/outputs/{world.run_name}")
    )
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    option = next(
        option for option in plan_recovery(auditor, run).options if option.kind is OptionKind.WARM_START
    )
    change = change_of(run, option)

    assert change is not None
    wanted = f"/workspace/fluxgym/outputs/{world.run_name}/{world.lora(4).name}"
    assert wanted.encode() in change.after
    assert any("another machine" in note for note in change.notes)


@pytest.mark.parametrize("number", [0, 1])
def test_every_way_of_a_broken_run_can_be_gone(world: World, number: int) -> None:
    remove(world.latest / "scheduler.bin")
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    option = plan_recovery(auditor, run).options[number]

    apply_option(
        option, change_of(run, option), lambda: auditor.audit_run(run.name).checkpoint(option.checkpoint)
    )

    now = auditor.audit_run(run.name)
    assert now.facts.resume_target.state_name == option.checkpoint
    assert now.checkpoint(option.checkpoint).verdict.resumes
