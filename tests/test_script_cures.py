"""Each cure really cures: the changed script is read anew, and judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_core.audit import Auditor
from checkpoint_core.facts import ScriptFacts
from checkpoint_core.mending import Choices, Mend
from checkpoint_core.script_change import Remove, SetSwitch, SetValue, SetValues
from checkpoint_core.script_cures import CureChoices, saving_edits
from checkpoint_core.script_facts import read_script
from checkpoint_core.ways_on import mend_of
from tests.checks.conftest import RUN, make_stepped_run
from tests.damage import edit_train_state, remove
from tests.fake_accelerate import FakeAccelerate
from tests.judging import codes
from tests.world import World, once

Edit = Callable[[str], str]


def swap(old: str, new: str) -> Edit:
    return lambda text: text.replace(old, new)


def add(line: str) -> Edit:
    return lambda text: f"{text.rstrip()} \\\n  {line}\n"


def planned(world: World, choices: Choices | None = None) -> tuple[list[str], Mend | None]:
    """The codes of what was found at the newest state, and the plan."""
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    item = run.checkpoint(world.latest.name)
    return codes(item), mend_of(auditor, run, item, choices)


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
    found, mend = planned(world)

    assert found[0] == code
    assert mend is not None
    assert [(cure.code, cure.edits) for cure in mend.cures] == [(code, edits)]
    assert mend.after.verdict.resumes
    assert code not in codes(mend.after)


def test_the_optimizer_comes_back_with_its_arguments(world: World) -> None:
    kept = FakeAccelerate(world.root / "before").arguments(world.script.read_bytes())

    def edit(text: str) -> str:
        without = text.replace(
            '--optimizer_args "relative_step=False" "scale_parameter=False" "warmup_init=False"', ""
        )
        return without.replace("--optimizer_type adafactor", "--optimizer_type adamw8bit")

    world.edit_script(edit)
    found, mend = planned(world)
    assert found == ["script-optimizer"]
    assert mend is not None
    assert mend.plan.script is not None

    now = FakeAccelerate(world.root / "after").arguments(mend.plan.script.after)
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
    assert [cure.edits for cure in by_script.cures] == [(SetValue("--initial_epoch", "5"),)]
    assert not by_script.changes_state
    assert by_script.notes == (
        "Checkpoints that are saved from here on need it again; it is set when you resume from one of them here.",
    )
    _, by_state = planned(world, Choices(epoch_in_state=True))
    assert by_state is not None
    assert (by_state.cures, [file.name for file in by_state.plan.files]) == ((), ["train_state.json"])


def test_two_findings_that_want_the_same_flag_set_it_once(world: World) -> None:
    remove(world.latest / "train_state.json")
    world.edit_script(swap("--max_train_epochs 8", "--max_train_epochs 4"))
    _, mend = planned(world)

    assert mend is not None
    flags = [edit.flag for cure in mend.cures for edit in cure.edits]
    assert sorted(flags) == ["--initial_epoch", "--max_train_epochs"]


def test_a_changed_schedule_is_told(world: World) -> None:
    world.edit_script(swap("--max_train_epochs 8", "--max_train_epochs 4"))
    world.edit_script(swap("--lr_scheduler constant_with_warmup", "--lr_scheduler cosine"))
    _, mend = planned(world)

    assert mend is not None
    assert any("laid out anew over 12 epochs" in note for note in mend.notes)


def test_steps_that_were_trained_are_skipped_on_request_only(shared_dir: Path) -> None:
    root = once(shared_dir, "stepped", make_stepped_run)
    auditor = Auditor(root / "outputs")
    run = auditor.audit_run(RUN)
    item = next(each for each in run.checkpoints if each.position.repeated_steps)
    assert codes(item) == ["mid-epoch"]

    plain = mend_of(auditor, run, item)
    asked = mend_of(auditor, run, item, Choices(script=CureChoices(skip_trained_steps=True)))

    assert plain is not None
    assert asked is not None
    assert (plain.is_needed, asked.is_needed) == (False, True)
    assert [cure.edits for cure in asked.cures] == [(SetSwitch("--skip_until_initial_step"),)]
    assert "mid-epoch" not in codes(asked.after)
    assert f"after its first {item.position.repeated_steps} step" in asked.outlook


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
    found, mend = planned(world)

    assert mend is None
    assert "script-flag-unknown" in found or "position-unknown" in found
