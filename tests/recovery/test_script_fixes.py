"""Each cure really cures: the changed script is read anew, and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.context import CheckContext
from checkpoint_core.audit.findings import Severity
from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.audit.verdict import judge
from checkpoint_core.recovery.fix import FixChoices, ScriptFix
from checkpoint_core.recovery.planning import repair_of
from checkpoint_core.recovery.repair import Choices, RepairPlan
from checkpoint_core.recovery.script_fixes import saving_edits, script_fixes
from checkpoint_core.scripts.change import Remove, SetSwitch, SetValue, SetValues, plan_edits
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.scripts.reading import read_script, script_facts
from checkpoint_core.scripts.script import TrainScript, dialect_of
from checkpoint_core.states.facts import OptimizerFacts, SchedulerFacts
from checkpoint_core.trainer.dataset_config import DatasetFacts
from checkpoint_core.trainer.lora_network import full_size_modules
from tests.audit.checks.conftest import RUN, make_stepped_run
from tests.audit.checks.test_settings import TEXT_ENCODER, full_size, network
from tests.damage import edit_train_state, remove
from tests.fake_accelerate import FakeAccelerate
from tests.judging import codes
from tests.judging import found as only
from tests.world import World, once

Edit = Callable[[str], str]


def swap(old: str, new: str) -> Edit:
    return lambda text: text.replace(old, new)


def add(line: str) -> Edit:
    return lambda text: f"{text.rstrip()} \\\n  {line}\n"


def planned(world: World, choices: Choices | None = None) -> tuple[list[str], RepairPlan | None]:
    """The codes of what was found at the newest state, and the plan."""
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    item = run.checkpoint(world.latest.name)
    return codes(item), repair_of(auditor, run, item, choices)


@pytest.mark.parametrize(
    ("edit", "code", "edits"),
    [
        (swap("--network_dim 4", "--network_dim 16"), "script-rank", (SetValue("--network_dim", "4"),)),
        (add("--network_alpha 16"), "script-alpha", (SetValue("--network_alpha", "1"),)),
        (add('--network_args "train_blocks=single"'), "script-parts", (Remove("--network_args"),)),
        (
            add('--network_args "train_blocks=single" "rank_dropout=0.1"'),
            "script-parts",
            (SetValues("--network_args", ("rank_dropout=0.1",)),),
        ),
        (add("--network_train_unet_only"), "script-parts", (Remove("--network_train_unet_only"),)),
        (
            swap("--max_train_epochs 8", "--max_train_epochs 4"),
            "run-finished",
            (SetValue("--max_train_epochs", "12"),),
        ),
        (
            swap("--max_train_epochs 8", "--max_train_steps 32"),
            "run-finished",
            (SetValue("--max_train_epochs", "12"), Remove("--max_train_steps")),
        ),
        (add("--initial_epoch 2"), "script-initial-epoch", (Remove("--initial_epoch"),)),
        (add("--initial_step 8"), "script-initial-epoch", (Remove("--initial_step"),)),
    ],
)
def test_the_script_is_set_right(world: World, edit: Edit, code: str, edits: tuple[object, ...]) -> None:
    world.edit_script(edit)
    found, repair_plan = planned(world)

    assert found[0] == code
    assert repair_plan is not None
    assert [(cure.code, cure.edits) for cure in repair_plan.fixes] == [(code, edits)]
    assert repair_plan.after.verdict.resumes
    assert code not in codes(repair_plan.after)


def test_the_optimizer_comes_back_with_its_arguments(world: World) -> None:
    kept = FakeAccelerate(world.root / "before").arguments(world.script.read_bytes())

    def edit(text: str) -> str:
        without = text.replace(
            '--optimizer_args "relative_step=False" "scale_parameter=False" "warmup_init=False"', ""
        )
        return without.replace("--optimizer_type adafactor", "--optimizer_type adamw8bit")

    world.edit_script(edit)
    found, repair_plan = planned(world)
    assert found == ["script-optimizer"]
    assert repair_plan is not None
    assert repair_plan.plan.script is not None

    now = FakeAccelerate(world.root / "after").arguments(repair_plan.plan.script.after)
    for flag, count in (("--optimizer_type", 1), ("--optimizer_args", 3)):
        at, was = now.index(flag), kept.index(flag)
        assert now[at : at + count + 1] == kept[was : was + count + 1]


def test_an_optimizer_of_another_training_is_not_what_the_script_is_set_to(world: World) -> None:
    """The LoRA file of the same save says Adafactor; a script set to what lies there would train on from it."""
    import torch

    parameters = [torch.nn.Parameter(torch.zeros(2, 2))]
    optimizer = torch.optim.AdamW(parameters)
    parameters[0].grad = torch.ones(2, 2)
    optimizer.step()
    torch.save(optimizer.state_dict(), world.latest / "optimizer.bin")

    assert planned(world)[1] is None


def test_a_wrong_position_is_told_to_the_script_or_the_state(world: World) -> None:
    edit_train_state(world.latest, current_step=16)

    found, by_script = planned(world)
    assert found == ["position-relative"]
    assert by_script is not None
    assert [cure.edits for cure in by_script.fixes] == [(SetValue("--initial_epoch", "5"),)]
    assert not by_script.changes_state
    assert by_script.notes == (
        "Checkpoints that are saved from here on need it again; it is set when you resume from one of them here.",
    )
    _, by_state = planned(world, Choices(epoch_in_state=True))
    assert by_state is not None
    assert (by_state.fixes, [file.name for file in by_state.plan.files]) == ((), ["train_state.json"])


def test_two_findings_that_want_the_same_flag_set_it_once(world: World) -> None:
    remove(world.latest / "train_state.json")
    world.edit_script(swap("--max_train_epochs 8", "--max_train_epochs 4"))
    _, repair_plan = planned(world)

    assert repair_plan is not None
    flags = [edit.flag for cure in repair_plan.fixes for edit in cure.edits]
    assert sorted(flags) == ["--initial_epoch", "--max_train_epochs"]


def test_a_changed_schedule_is_told(world: World) -> None:
    world.edit_script(swap("--max_train_epochs 8", "--max_train_epochs 4"))
    world.edit_script(swap("--lr_scheduler constant_with_warmup", "--lr_scheduler cosine"))
    _, repair_plan = planned(world)

    assert repair_plan is not None
    assert any("recalculated over 12 epochs" in note for note in repair_plan.notes)


def test_steps_that_were_trained_are_skipped_on_request_only(shared_dir: Path) -> None:
    root = once(shared_dir, "stepped", make_stepped_run)
    auditor = Auditor(root / "outputs")
    run = auditor.audit_run(RUN)
    item = next(each for each in run.checkpoints if each.position.repeated_steps)
    assert codes(item) == ["mid-epoch"]

    plain = repair_of(auditor, run, item)
    asked = repair_of(auditor, run, item, Choices(script=FixChoices(skip_trained_steps=True)))

    assert plain is not None
    assert asked is not None
    assert (plain.is_needed, asked.is_needed) == (False, True)
    assert [cure.edits for cure in asked.fixes] == [(SetSwitch("--skip_until_initial_step"),)]
    assert "mid-epoch" not in codes(asked.after)
    assert f"after its first {item.position.repeated_steps} step" in asked.forecast


def script_of(world: World) -> ScriptFacts:
    facts, problem = read_script(world.script)
    assert facts is not None, problem
    return facts


def test_a_script_that_saves_is_left_alone(world: World) -> None:
    assert saving_edits(script_of(world)) == ()


def test_saving_fits_what_the_script_has(world: World) -> None:
    world.edit_script(lambda text: text.replace("--save_state", "--seed 1"))
    epochs = [edit.flag for edit in saving_edits(script_of(world))]
    world.edit_script(add("--save_every_n_steps 5"))
    steps = [edit.flag for edit in saving_edits(script_of(world))]

    assert epochs == ["--save_state", "--save_last_n_epochs_state"]
    assert steps == ["--save_state"]


def test_a_variable_that_may_hold_the_flag_is_not_guessed_at(world: World) -> None:
    world.edit_script(add("$MORE"))
    found, repair_plan = planned(world)

    assert repair_plan is None
    assert "script-flag-unknown" in found or "position-unknown" in found


# Each cure alone, by its own effect


def latest(world: World, **changes: object) -> tuple[CheckpointReport, CheckContext]:
    """The newest state with other facts, and what it is judged against."""
    auditor = Auditor(world.outputs)
    item = auditor.audit_run(world.run_name).checkpoint(world.latest.name)
    return judge(replace(item.facts, **changes), context := auditor.context(item)), context  # type: ignore[arg-type]


def grave(report: CheckpointReport) -> set[str]:
    """The codes that hold a training up."""
    return {each.code for each in report.findings if each.severity not in (Severity.INFO, Severity.WARNING)}


def cured(item: CheckpointReport, context: CheckContext, code: str) -> ScriptFix:
    """The finding's cure, after proof: the script is changed, read and judged, and nothing grave is new."""
    assert context.script is not None
    assert code in grave(item)
    (cure,) = (each for each in script_fixes(item, context.script) if each.code == code)
    change = plan_edits(context.run, cure.edits)
    script = script_facts(TrainScript.parse(change.after, dialect_of(change.path)), change.path.name)
    after = judge(item.facts, replace(context, script=script))
    assert grave(after) <= grave(item) - {code}
    return cure


@pytest.mark.parametrize(
    ("flags", "code", "edits"),
    [
        ("--text_encoder_lr 0", "script-groups", (Remove("--text_encoder_lr"),)),
        ("--unet_lr 0", "script-groups", (Remove("--unet_lr"),)),
        (
            '--network_args "loraplus_lr_ratio=16" "rank_dropout=0.1"',
            "script-groups",
            (SetValues("--network_args", ("rank_dropout=0.1",)),),
        ),
        (
            '--text_encoder_lr 0 --network_args "loraplus_unet_lr_ratio=16"',
            "script-groups",
            (Remove("--text_encoder_lr"), Remove("--network_args")),
        ),
        ("--initial_step 36 --skip_until_initial_step", "script-initial-step", (Remove("--initial_step"),)),
    ],
)
def test_a_flag_that_was_added_is_taken_back(
    world: World, flags: str, code: str, edits: tuple[object, ...]
) -> None:
    world.edit_script(add(flags))
    assert cured(*latest(world), code).edits == edits


def test_a_part_that_was_not_trained_is_left_out_again(world: World) -> None:
    """The text encoder was left out by a learning rate of 0: the optimizer has the transformer's group alone."""
    item, _ = latest(world)
    optimizer, scheduler = item.facts.optimizer, item.facts.scheduler
    assert isinstance(optimizer, OptimizerFacts)
    assert isinstance(scheduler, SchedulerFacts)
    count = optimizer.group_sizes[1]
    alone = replace(optimizer, group_sizes=(count,), param_count=count, state_count=count)
    schedule = replace(scheduler, last_lrs=scheduler.last_lrs[1:], base_lrs=scheduler.base_lrs[1:])

    cure = cured(*latest(world, optimizer=alone, scheduler=schedule), "script-groups")

    assert cure.edits == (SetValues("--text_encoder_lr", ("0",)),)
    assert cure.does == "--text_encoder_lr 0: the optimizer then has the checkpoint's groups."


def test_a_ratio_of_lora_plus_is_not_guessed(world: World) -> None:
    item, _ = latest(world)
    optimizer = item.facts.optimizer
    assert isinstance(optimizer, OptimizerFacts)
    text, transformer = optimizer.group_sizes
    halves = (text, transformer - transformer // 2, transformer // 2)
    plus, context = latest(world, optimizer=replace(optimizer, group_sizes=halves))

    assert "script-groups" in codes(plus)
    assert context.script is not None
    assert "script-groups" not in [cure.code for cure in script_fixes(plus, context.script)]


_SPLIT = {name: 16 if "linear1" in name else 4 for name in full_size(4, "single")}
_INPUTS = {**full_size(), "lora_unet_img_in": 4, "lora_unet_txt_in": 4}


@pytest.mark.parametrize(
    ("modules", "flags", "code", "edits"),
    [
        (_SPLIT, ("train_blocks=single",), "script-rank",
         (SetValues("--network_args", ("train_blocks=single", "split_qkv=True")),)),
        (full_size(4, "single"), ("train_blocks=single", "split_qkv=True"), "script-rank",
         (SetValues("--network_args", ("train_blocks=single",)),)),
        (full_size(4, "single"), ("rank_dropout=0.1",), "script-parts",
         (SetValues("--network_args", ("rank_dropout=0.1", "train_blocks=single")),)),
        (dict.fromkeys(full_size_modules(), 4), (), "script-parts", (SetSwitch("--network_train_unet_only"),)),
        ({TEXT_ENCODER: 4}, (), "script-parts", (SetSwitch("--network_train_text_encoder_only"),)),
        ({**full_size(), "lora_te3_a": 4}, (), "script-parts",
         (SetValues("--network_args", ("train_t5xxl=True",)),)),
        (_INPUTS, (), "script-parts", (SetValues("--network_args", ("in_dims=4,0,0,0,4",)),)),
        (full_size(), ("in_dims=4,4,4,4,4",), "script-parts", (Remove("--network_args"),)),
    ],
)  # fmt: skip
def test_the_network_is_set_right_and_the_words_name_the_same_flags(
    world: World, modules: dict[str, int], flags: tuple[str, ...], code: str, edits: tuple[object, ...]
) -> None:
    if flags:
        world.edit_script(add("--network_args " + " ".join(f'"{flag}"' for flag in flags)))
    item, context = latest(world, weights=network(modules), optimizer=None)
    cure = cured(item, context, code)

    assert cure.edits == edits
    words = only(item, code).cure
    assert all(edit.flag in words for edit in cure.edits)


def test_input_layers_of_a_rank_of_their_own_are_not_guessed(world: World) -> None:
    weights = network({**full_size(), "lora_unet_img_in": 2})
    item, context = latest(world, weights=weights, optimizer=None)

    assert "script-parts" in codes(item)
    assert context.script is not None
    assert "script-parts" not in [cure.code for cure in script_fixes(item, context.script)]


def test_a_schedule_that_has_run_out_becomes_a_constant_one(world: World) -> None:
    world.edit_script(swap("--lr_scheduler constant_with_warmup", "--lr_scheduler linear"))
    item, _ = latest(world)
    assert isinstance(item.facts.scheduler, SchedulerFacts)
    ended = replace(item.facts.scheduler, last_epoch=70, last_lrs=(0.0, 0.0))

    cure = cured(*latest(world, scheduler=ended), "learning-rate-zero")

    assert cure.edits == (SetValue("--lr_scheduler", "constant"),)
    assert cure.costs


def test_without_train_state_the_script_says_the_epoch(world: World) -> None:
    cure = cured(*latest(world, train_state=None), "train-state-missing")
    assert cure.edits == (SetValue("--initial_epoch", "5"),)


@pytest.mark.parametrize("flags", ["--seed 1", "--initial_step 32"])
def test_other_images_need_the_epoch_in_the_script(world: World, flags: str) -> None:
    """The trainer prefers --initial_step, so it has to go."""
    world.edit_script(add(flags))
    item, context = latest(world)
    context = replace(context, dataset=DatasetFacts("dataset.toml", (16, 16)))

    cure = cured(judge(item.facts, context), context, "dataset-changed")

    removed = (Remove("--initial_step"),) if "step" in flags else ()
    assert cure.edits == (SetValue("--initial_epoch", "5"), *removed)


def test_skipping_with_accumulation_is_taken_out(world: World) -> None:
    world.edit_script(add("--skip_until_initial_step --gradient_accumulation_steps 2"))
    item, context = latest(world)
    context = replace(context, dataset=DatasetFacts("dataset.toml", (16, 16)))

    cure = cured(judge(item.facts, context), context, "skip-accumulation")

    assert cure.edits == (Remove("--skip_until_initial_step"),)


def test_a_checkpoint_of_this_machine_is_not_looked_for_on_the_hub(world: World) -> None:
    world.edit_script(add("--resume someone/cat --resume_from_huggingface"))
    _, repair_plan = planned(world)
    assert repair_plan is not None
    assert repair_plan.plan.script is not None
    assert [cure.code for cure in repair_plan.fixes] == ["resume-from-hub"]

    handed = FakeAccelerate(world.root / "after").arguments(repair_plan.plan.script.after)
    assert handed[handed.index("--resume") + 1] == str(world.latest)
    assert "--resume_from_huggingface" not in handed
    repair_plan.plan.script.execute()
    assert codes(Auditor(world.outputs).audit_run(world.run_name)) == []
