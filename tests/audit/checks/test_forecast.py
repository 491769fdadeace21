"""What the resumed run would do with the rate, the names and the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.checks.forecast import check_forecast
from checkpoint_core.audit.context import CheckContext
from checkpoint_core.audit.findings import Finding, Severity, Subject
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.states.facts import SchedulerFacts, StateFacts
from checkpoint_core.states.layout import Layout
from checkpoint_core.trainer.dataset import read_dataset
from checkpoint_core.trainer.dataset_config import DatasetFacts
from checkpoint_core.trainer.forecast import make_forecast
from checkpoint_core.trainer.launch import launch_from
from checkpoint_core.trainer.position import Position, locate
from tests.audit.checks.conftest import STEPS_PER_EPOCH
from tests.judging import audit_world
from tests.world import World

EPOCH_1, EPOCH_2, LAST = "stepped-000001-state", "stepped-000002-state", "stepped-state"
STEP_8 = "stepped-step00000008-state"


def told(
    run: RunReport,
    state: str,
    flags: Mapping[str, str | None] | None = None,
    changes: Mapping[str, object] | None = None,
    **context: object,
) -> list[Finding]:
    """What is found of a state of the run, with other flags in the script and other surroundings."""
    facts = replace(run.checkpoint(state).facts, **(changes or {}))  # type: ignore[arg-type]
    context = CheckContext(
        run.facts.path,
        with_flags(run.facts.script, flags or {}),
        STEPS_PER_EPOCH,
        **context,  # type: ignore[arg-type]
    )
    return planned(facts, locate(facts, context.script, STEPS_PER_EPOCH), context)


def planned(facts: StateFacts, position: Position, context: CheckContext) -> list[Finding]:
    """What is found, with the outlook that the judgement makes."""
    launch = launch_from(position, context.script, context.dataset)
    return list(
        check_forecast(facts, launch, context, make_forecast(facts, launch, context.names_where_saved))
    )


def with_flags(script: ScriptFacts | None, flags: Mapping[str, str | None]) -> ScriptFacts:
    """The script with these flags, or without those that are None."""
    assert script is not None
    kept = {flag: values for flag, values in script.flags.items() if flag not in flags}
    added = {flag: (value,) for flag, value in flags.items() if value is not None}
    epochs = flags.get("--max_train_epochs") or script.max_train_epochs
    return replace(script, flags={**kept, **added}, max_train_epochs=None if epochs is None else int(epochs))


def codes(findings: list[Finding]) -> list[str]:
    return [each.code for each in findings]


# Rows 32 and 33: the learning rate


@pytest.mark.parametrize(
    ("scheduler", "zero"),
    [
        (SchedulerFacts(24, (0.0, 0.0), (8e-4, 8e-4)), True),
        (SchedulerFacts(24, (0.0, 1e-9), (8e-4, 8e-4)), False),
        (SchedulerFacts(0, (0.0, 0.0), (8e-4, 8e-4)), False),  # a warm-up's first step
        (SchedulerFacts(24, (0.0,), (0.0,)), False),  # Adafactor's own schedule
        (SchedulerFacts(24, (), (8e-4,)), False),
        (SchedulerFacts(None, (0.0,), (8e-4,)), False),
        (None, False),
    ],
)
@pytest.mark.parametrize("layout", Layout)
def test_without_a_script_a_rate_of_zero_stays(
    stepped: RunReport, scheduler: SchedulerFacts | None, zero: bool, layout: Layout
) -> None:
    facts = replace(stepped.checkpoint(EPOCH_2).facts, scheduler=scheduler, layout=layout)
    found = planned(facts, locate(facts, None, None), CheckContext(stepped.facts.path))
    assert [each.code for each in found] == ["learning-rate-zero"] * zero


def test_a_real_cosine_schedule_ends_at_zero_and_not_before(stepped: RunReport) -> None:
    ended = {
        item.name for item in stepped.checkpoints if "learning-rate-zero" in codes(told(stepped, item.name))
    }
    assert ended == {"stepped-state", "stepped-step00000024-state"}


@pytest.mark.parametrize(
    ("state", "flags", "code"),
    [
        (EPOCH_2, {}, None),
        (EPOCH_2, {"--max_train_epochs": "5"}, "learning-rate-jumps"),
        (EPOCH_2, {"--lr_scheduler": "constant"}, "learning-rate-jumps"),
        (EPOCH_2, {"--lr_scheduler": "linear"}, "learning-rate-jumps"),
        (EPOCH_2, {"--lr_scheduler": "cosine_annealing"}, None),  # not known
        (EPOCH_2, {"--lr_scheduler_type": "CosineAnnealingLR"}, None),
        (LAST, {"--max_train_epochs": "5"}, "learning-rate-jumps"),
        (
            LAST,
            {"--max_train_epochs": "5", "--lr_scheduler": "polynomial", "--learning_rate": "8e-4"},
            "learning-rate-jumps",
        ),
        (LAST, {"--max_train_epochs": "5", "--lr_scheduler": "other"}, "learning-rate-zero"),  # as it stands
    ],
)
def test_the_rate_goes_on_as_the_script_s_schedule_says(
    stepped: RunReport, state: str, flags: dict[str, str | None], code: str | None
) -> None:
    assert codes(told(stepped, state, flags)) == ([code] if code else [])


def test_the_jump_is_told_with_both_rates(stepped: RunReport) -> None:
    """16 of 24 steps done under a cosine: a quarter of 8e-4; of 40 steps the 18th rate is 0.617 of it."""
    (jump,) = told(stepped, EPOCH_2, {"--max_train_epochs": "5"})
    assert "goes from 2e-4 to 4.93e-4 after the first step" in jump.message
    assert (jump.severity, jump.subject) == (Severity.WARNING, Subject.SCRIPT)


def test_more_epochs_of_a_linear_schedule_that_the_steps_have_outrun_teach_nothing(
    stepped: RunReport,
) -> None:
    """Epochs that were trained again have counted in the schedule: it ends before the training does."""
    scheduler = SchedulerFacts(60, (0.0,), (8e-4,))
    flags = {"--lr_scheduler": "linear", "--max_train_epochs": "5"}
    (zero,) = told(stepped, EPOCH_2, flags, changes={"scheduler": scheduler})
    assert (zero.code, zero.severity) == ("learning-rate-zero", Severity.FIXABLE)


def test_a_schedule_that_the_script_ends_at_once_teaches_nothing(stepped: RunReport) -> None:
    scheduler = SchedulerFacts(40, (2e-4,), (8e-4,))
    found = told(stepped, EPOCH_2, {"--lr_scheduler": "linear"}, changes={"scheduler": scheduler})
    assert codes(found) == ["learning-rate-zero"]


def test_other_images_are_another_number_of_steps(stepped: RunReport) -> None:
    dataset = DatasetFacts("dataset.toml", (16, 16))
    assert codes(told(stepped, EPOCH_2, dataset=dataset)) == ["learning-rate-jumps"]
    assert codes(told(stepped, EPOCH_2, dataset=replace(dataset, batches=(8, 8)))) == []


# Row 31: names, and what retention deletes


def test_names_with_step_numbers_that_are_there_collide(stepped: RunReport) -> None:
    names = frozenset({EPOCH_1, STEP_8, "stepped-step00000004-state", "stepped-step00000012.safetensors"})
    (collide,) = told(stepped, EPOCH_1, {"--save_every_n_steps": "4"}, names=names)
    assert (collide.code, collide.severity) == ("step-names-collide", Severity.WARNING)
    assert (
        "counts its steps from 1 again and overwrites stepped-step00000004-state, stepped-step"
        in collide.message
    )
    assert codes(told(stepped, EPOCH_1, {"--save_every_n_steps": "5"}, names=names)) == []
    assert codes(told(stepped, EPOCH_1, names=names)) == []


def test_many_names_are_not_listed_in_full(stepped: RunReport) -> None:
    names = frozenset(f"stepped-step{step:08d}-state" for step in range(1, 17))
    (collide,) = told(stepped, EPOCH_1, {"--save_every_n_steps": "1"}, names=names)
    assert "stepped-step00000003-state and 13 more" in collide.message


@pytest.mark.parametrize(
    ("state", "flags", "when"),
    [
        (EPOCH_2, {"--save_last_n_epochs_state": "1"}, "epoch 3"),
        (EPOCH_2, {"--save_last_n_epochs": "2"}, "epoch 4"),
        (EPOCH_2, {"--save_last_n_epochs_state": "9"}, None),
        (EPOCH_2, {}, None),
        (LAST, {"--save_last_n_epochs_state": "1"}, None),
    ],
)
def test_a_checkpoint_that_retention_will_delete(
    stepped: RunReport, state: str, flags: dict[str, str | None], when: str | None
) -> None:
    longer = {"--max_train_epochs": "6", "--lr_scheduler": "unknown", **flags}
    names = frozenset(item.name for item in stepped.checkpoints)
    scheduler = SchedulerFacts(16, (2e-4,), (8e-4,))
    found = told(stepped, state, longer, names=names, changes={"scheduler": scheduler})
    assert codes(found) == (["state-will-be-removed"] if when else [])
    if when:
        assert (found[0].severity, found[0].message) == (
            Severity.INFO,
            f"The script's retention deletes this checkpoint at {when}.",
        )


# Row 36: the disk, and where the saves go


def test_saves_that_do_not_fit(stepped: RunReport) -> None:
    facts = stepped.checkpoint(EPOCH_1).facts
    needed = 2 * (facts.size_bytes + lora_size(facts))  # epoch 2, and the last
    (full,) = told(stepped, EPOCH_1, free_bytes=needed - 1)
    assert (full.code, full.subject, full.severity) == ("saves-do-not-fit", Subject.RUN, Severity.WARNING)
    assert codes(told(stepped, EPOCH_1, free_bytes=needed)) == []
    assert codes(told(stepped, EPOCH_1, free_bytes=None)) == []
    # What the saves would write over is set aside by the start, and goes on taking its room.
    kept = frozenset({"stepped-state", "stepped.safetensors"})
    assert codes(told(stepped, EPOCH_1, free_bytes=needed, names=kept)) == []
    assert codes(told(stepped, EPOCH_1, free_bytes=needed - 1, names=kept)) == ["saves-do-not-fit"]


def lora_size(facts: StateFacts) -> int:
    size = getattr(facts.lora, "size_bytes", None)
    assert isinstance(size, int)
    return size


def test_a_script_that_saves_into_another_folder(stepped: RunReport) -> None:
    (other,) = told(stepped, EPOCH_1, elsewhere=Path("/gym/outputs/dog"))
    assert (other.code, other.file) == ("output-elsewhere", "train.sh")
    assert other.message == "The train script saves into /gym/outputs/dog, which is not this run's folder."


def test_nothing_is_planned_for_the_other_layout_or_a_directory_that_cannot_be_read(
    stepped: RunReport,
) -> None:
    for changes in ({"layout": Layout.ACCELERATE_OBJECTS}, {"files": ()}):
        assert told(stepped, EPOCH_1, changes=changes, elsewhere=Path("/gym"), free_bytes=0) == []


def test_a_stock_run_gives_no_finding(world: World) -> None:
    run = audit_world(world)
    assert run.facts.script is not None
    names = frozenset(path.name for path in world.run.iterdir())
    dataset = read_dataset(run.facts.script, world.run)
    for item in run.checkpoints:
        context = CheckContext(world.run, run.facts.script, 8, dataset=dataset, names=names, free_bytes=10**9)
        assert planned(item.facts, item.position, context) == []
