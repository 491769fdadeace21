"""The disk against the saves to come, and what may go: never what the training may still need."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.findings import Verdict
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.formats.reader import DamageKind
from checkpoint_core.recovery.planning import plan_recovery
from checkpoint_core.recovery.retention import RetentionPlan, disk_forecast, plan_retention
from checkpoint_core.scripts.facts import ResumeTarget
from checkpoint_core.states.facts import Damage, LoraFacts
from checkpoint_core.trainer.disk_space import RESERVE_BYTES
from tests.damage import remove, truncate
from tests.judging import audit_world
from tests.world import World


def names(plan: RetentionPlan) -> list[int]:
    """The epochs of the candidates, in their order."""
    return [int(each.name.split("-")[-2]) for each in plan.candidates]


def planned(world: World, in_use: frozenset[str] = frozenset(), links: frozenset[str] = frozenset()):
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    return plan_retention(run, plan_recovery(auditor, run), in_use, links)


def with_verdict(run: RunReport, epoch: int, verdict: Verdict) -> RunReport:
    items = (
        replace(item, verdict=verdict, findings=()) if item.name.endswith(f"-{epoch:06d}-state") else item
        for item in run.checkpoints
    )
    return replace(run, checkpoints=tuple(items))


# The disk


def needed(run: RunReport) -> int:
    told = disk_forecast(run, 10**12)
    assert told.is_enough is True
    assert told.needed_bytes == run.checkpoints[0].forecast.bytes_needed > 0
    return told.needed_bytes


def test_enough_room_has_the_numbers(world: World) -> None:
    run = audit_world(world)
    least = needed(run) + RESERVE_BYTES

    told = disk_forecast(run, least)

    assert (told.is_enough, told.free_bytes) == (True, least)
    assert told.sentence.startswith("The saves to come need ")
    assert "and the disk has 10" in told.sentence


def test_too_little_says_what_comes_of_it_and_how_much_to_free(world: World) -> None:
    run = audit_world(world)

    told = disk_forecast(run, needed(run) - 1)

    assert told.is_enough is False
    assert "the training would stop while saving, and that checkpoint would be damaged" in told.sentence
    assert "free at least 100 MB" in told.sentence


def test_a_disk_filled_to_its_last_byte_is_too_little_without_the_same_threat(world: World) -> None:
    run = audit_world(world)
    told = disk_forecast(run, needed(run) + RESERVE_BYTES - 1)
    assert told.is_enough is False
    assert "a save may stop half-way" in told.sentence


def test_the_reserve_grows_with_what_is_needed(world: World) -> None:
    run = audit_world(world)
    first = run.checkpoints[0]
    huge = replace(first, forecast=replace(first.forecast, bytes_needed=10**12))
    run = replace(run, checkpoints=(huge, *run.checkpoints[1:]))
    assert disk_forecast(run, 10**12 + 10**10 - 1).is_enough is False
    assert disk_forecast(run, 10**12 + 10**10).is_enough is True


def test_it_is_counted_from_where_the_script_resumes_or_the_training_stands(world: World) -> None:
    run = audit_world(world)
    rooms = {item.name: item.forecast.bytes_needed for item in run.checkpoints}
    other = replace(run.checkpoints[2], forecast=replace(run.checkpoints[2].forecast, bytes_needed=7))
    run = replace(run, checkpoints=(*run.checkpoints[:2], other, run.checkpoints[3]))
    target = ResumeTarget("state", "x", other.name)

    resuming = replace(run, facts=replace(run.facts, resume_target=target))

    assert disk_forecast(run, 0).needed_bytes == rooms[run.checkpoints[0].name]
    assert disk_forecast(resuming, 0).needed_bytes == 7
    assert disk_forecast(resuming, 0, start=run.checkpoints[0].name).needed_bytes != 7


def test_what_the_next_save_takes(world: World) -> None:
    run = audit_world(world)
    sizes = [item.facts.size_bytes for item in run.checkpoints]
    lora = max(lora.size_bytes for lora in run.facts.loras if isinstance(lora, LoraFacts))
    assert disk_forecast(run).next_save_bytes == max(sizes[:3]) + lora

    for epoch in (1, 2, 3, 4):
        remove(world.lora(epoch))
    weights = (world.latest / "model.safetensors").stat().st_size
    assert disk_forecast(audit_world(world)).next_save_bytes == max(sizes[:3]) + weights


def test_a_free_space_that_is_not_known_is_no_answer(world: World) -> None:
    run = audit_world(world)
    told = disk_forecast(replace(run, facts=replace(run.facts, free_bytes=None)))
    assert (told.free_bytes, told.is_enough) == (None, None)
    assert "is unknown. The saves to come need" in told.sentence


def test_without_checkpoints_a_lora_file_tells_about_the_size(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        remove(world.state(epoch))
    run = audit_world(world)
    lora = max(lora.size_bytes for lora in run.facts.loras if isinstance(lora, LoraFacts))

    assert disk_forecast(run, 10**12).is_enough is None
    assert disk_forecast(run, 10**12).next_save_bytes == 7 * lora
    assert "unknown until the first checkpoint. The next one needs about" in (
        disk_forecast(run, 10**12).sentence
    )
    assert disk_forecast(run, 3 * lora - 1).is_enough is False

    for epoch in (1, 2, 3, 4):
        remove(world.lora(epoch))
    told = disk_forecast(audit_world(world), 5)
    assert (told.is_enough, told.needed_bytes, told.next_save_bytes) == (None, None, None)


def test_a_script_that_tells_no_saves_is_no_answer(world: World) -> None:
    world.script.unlink()
    told = disk_forecast(audit_world(world), 10**12)
    assert (told.is_enough, told.needed_bytes) == (None, None)
    assert told.sentence.startswith("There is no train script")
    assert disk_forecast(audit_world(world), 10).is_enough is False


def test_a_flag_that_only_the_shell_knows_is_no_answer(world: World) -> None:
    world.edit_script(lambda text: text.replace("--save_every_n_epochs 1", '--save_every_n_epochs "$OFTEN"'))
    told = disk_forecast(audit_world(world), 10**12)
    assert (told.is_enough, told.needed_bytes) == (None, None)
    assert told.sentence.startswith(
        "Which saves are to come could not be told from the train script. The next"
    )


def test_without_one_that_resumes_it_is_no_answer(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")
    told = disk_forecast(audit_world(world), 10**12)
    assert (told.is_enough, told.sentence[:29]) == (None, "No checkpoint resumes as it i")


def test_saves_on_another_disk_are_no_answer(world: World) -> None:
    (world.outputs / "other").mkdir()
    world.edit_script(lambda text: re.sub(r'(--output_dir )("?)[^\s"]+', rf"\1\2{world.outputs}/other", text))
    for epoch in (1, 2, 3, 4):
        told = disk_forecast(audit_world(world), 0)
        assert (told.is_enough, "saves into another folder" in told.sentence) == (None, True)
        remove(world.state(epoch))


# What may go


def test_of_good_ones_all_but_the_newest_two_may_go_oldest_first(world: World) -> None:
    plan = planned(world)

    assert names(plan) == [1, 2]
    assert plan.candidates[0].title == "Epoch 1"
    assert plan.candidates[0].reason == "older: epoch 4 and epoch 3 stay, and can be resumed."
    assert plan.gain_bytes == sum(each.size_bytes for each in plan.candidates) > 0
    assert [each.title for each in plan.kept] == ["Epoch 4", "Epoch 3"]
    assert plan.why_kept(world.state(3).name).startswith("It is the fallback")


def test_damaged_ones_go_first(world: World) -> None:
    truncate(world.state(2) / "optimizer.bin")
    plan = planned(world)
    assert names(plan) == [2, 1]
    assert plan.candidates[0].reason.startswith("damaged: optimizer.bin")


def test_the_last_good_one_and_the_newest_stay(world: World) -> None:
    for epoch in (2, 3, 4):
        truncate(world.state(epoch) / "optimizer.bin")
    plan = planned(world)
    assert names(plan) == [2, 3]
    assert plan.why_kept(world.state(1).name) == "The recommended recovery option starts from it."
    assert plan.why_kept(world.state(4).name) == "It is the newest of all."
    run = audit_world(world)
    assert names(plan_retention(run, None)) == [2, 3]
    assert plan_retention(run, None).why_kept(world.state(1).name).startswith("It is the last good one")


def test_what_is_in_use_linked_or_resumed_from_stays(world: World) -> None:
    first, second = world.state(1).name, world.state(2).name
    assert names(planned(world, in_use=frozenset({first}))) == [2]
    assert names(planned(world, links=frozenset({second}))) == [1]
    run = audit_world(world)
    target = ResumeTarget("state", "x", first)
    plan = plan_retention(replace(run, facts=replace(run.facts, resume_target=target)), None)
    assert names(plan) == [2]
    assert plan.why_kept(first) == "The train script resumes from it."


def test_one_that_needs_a_fix_stays_where_the_best_way_on_repairs_it(world: World) -> None:
    remove(world.latest / "scheduler.bin")
    plan = planned(world)
    assert names(plan) == [1]
    assert plan.why_kept(world.latest.name) == "The recommended recovery option starts from it."


def test_where_none_resumes_two_that_can_be_repaired_stay(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        remove(world.state(epoch) / "scheduler.bin")
    plan = plan_retention(audit_world(world), None)
    assert names(plan) == [1, 2]
    assert plan.candidates[0].reason == "needs a fix: newer ones stay."


@pytest.mark.parametrize("verdict", [Verdict.SAVING, Verdict.UNKNOWN, Verdict.DAMAGED])
def test_what_is_saved_or_could_not_be_judged_or_is_not_to_blame_stays(
    world: World, verdict: Verdict
) -> None:
    run = with_verdict(audit_world(world), 1, verdict)  # without a finding, nothing of the state is to blame
    assert names(plan_retention(run, None)) == [2]


def test_a_folder_that_could_not_be_read_stays(world: World) -> None:
    run = audit_world(world)
    first = run.checkpoints[-1]
    problem = Damage(DamageKind.UNREADABLE, "closed")
    unread = replace(first, verdict=Verdict.DAMAGED, facts=replace(first.facts, problem=problem))
    plan = plan_retention(replace(run, checkpoints=(*run.checkpoints[:-1], unread)), None)
    assert names(plan) == [2]
    assert "could not be read" in plan.why_kept(first.name)


def test_two_of_one_title_are_told_apart(world: World) -> None:
    run = audit_world(world)
    first = run.checkpoints[-1]
    twin = replace(first, name="copy-of-1")
    plan = plan_retention(replace(run, checkpoints=(*run.checkpoints, twin)), None)
    assert [each.title for each in plan.candidates[:2]] == ["Epoch 1, copy-of-1", f"Epoch 1, {first.name}"]


def test_an_empty_run_proposes_nothing(world: World, tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 4):
        remove(world.state(epoch))
    plan = planned(world)
    assert (plan.candidates, plan.kept, plan.gain_bytes) == ((), (), 0)
