"""Which saves a launch would write over: by the epoch at which it begins, its own steps, and what it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from checkpoint_core.recovery.set_aside import SetAside, plan_set_aside
from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.trainer.launch import launch_from
from checkpoint_core.trainer.position import Position

FLAGS: dict[str, tuple[str | None, ...]] = {
    "--output_name": ("cat",),
    "--save_every_n_epochs": ("1",),
    "--save_state": (),
}
SCRIPT = ScriptFacts(
    "train.sh", "train_network.py", output_name="cat", save_state=True, max_train_epochs=12, flags=FLAGS
)
NAMES = (
    *(f"cat-{epoch:06d}-state" for epoch in range(1, 12)),
    *(f"cat-{epoch:06d}.safetensors" for epoch in range(1, 12)),
    *("cat.safetensors", "cat-state", "train.sh", "sample", "cats-000009-state", ".replaced"),
)
LAST = {"cat-state": 12, "cat.safetensors": 12}
READS = frozenset({"cat-000007-state"})


def plan(
    script: ScriptFacts = SCRIPT,
    names: tuple[str, ...] = NAMES,
    reads: frozenset[str] | None = READS,
    epoch: int | None = 7,
) -> SetAside:
    """What a launch from the state of an epoch, with ten steps an epoch, sets aside."""
    done = epoch * 10 if epoch is not None else None
    after = epoch + 1 if epoch is not None else None
    position = Position(epoch, done, False, 10, epoch, done, done, done, after, after)
    point = launch_from(position, script) if epoch is not None else None
    return plan_set_aside(names, script, point, reads, LAST)


def names_of(made: SetAside) -> set[str]:
    return {each.save.name for each in made.kept}


def test_everything_from_the_first_epoch_on_and_the_last_save_go_aside() -> None:
    made = plan()

    expected = {f"cat-{epoch:06d}{end}" for epoch in range(8, 12) for end in ("-state", ".safetensors")}
    assert names_of(made) == expected | {"cat.safetensors", "cat-state"}
    assert not any(each.is_copy or each.beside for each in made.kept)
    assert made.sentence == "Kept in .replaced: epochs 8 to 11, the finished LoRA and the last state."


def test_more_epochs_keep_the_last_save_under_its_epochs_name() -> None:
    longer = replace(SCRIPT, max_train_epochs=20)
    made = plan(longer, reads=frozenset({"cat-state"}), epoch=12)

    assert {each.save.name: (each.is_copy, each.beside) for each in made.kept} == {
        "cat.safetensors": (True, "cat-000012.safetensors"),
        "cat-state": (True, "cat-000012-state"),
    }
    assert made.sentence == "The last save is kept as cat-000012-state and cat-000012.safetensors."


def test_the_epochs_name_is_not_used_where_the_trainer_would_remove_it_or_where_it_is_taken() -> None:
    flags = {**FLAGS, "--save_last_n_epochs": ("2",)}
    made = plan(replace(SCRIPT, max_train_epochs=20, flags=flags), reads=frozenset({"cat-state"}), epoch=12)
    assert {each.save.name: (each.is_copy, each.beside) for each in made.kept} == {
        "cat.safetensors": (False, ""),
        "cat-state": (True, ""),
    }

    taken = (*NAMES, "cat-000012.safetensors", "cat-000012-state")
    made = plan(replace(SCRIPT, max_train_epochs=20), taken, frozenset({"cat-state"}), 12)
    assert not any(each.beside for each in made.kept)


def test_only_steps_that_the_launch_counts_again_go_aside() -> None:
    flags = {**FLAGS, "--save_every_n_steps": ("20",)}
    names = tuple(f"cat-step{step:08d}-state" for step in range(20, 121, 20))
    made = plan(replace(SCRIPT, flags=flags), names)

    assert names_of(made) == {"cat-step00000020-state", "cat-step00000040-state"}
    assert made.sentence == "Kept in .replaced: the saves of steps 20 to 40."
    assert names_of(plan(names=names)) == set()


@pytest.mark.parametrize(
    "script",
    [
        replace(SCRIPT, unknown=(("--initial_epoch", "only the shell knows"),)),
        replace(SCRIPT, unknown=(("--max_train_epochs", "only the shell knows"),)),
    ],
)
def test_where_the_beginning_cannot_be_told_everything_but_what_is_read_goes_aside(
    script: ScriptFacts,
) -> None:
    made = plan(script)
    assert len(made.kept) == 24
    assert [each.save.name for each in made.kept if each.is_copy] == ["cat-000007-state"]
    assert names_of(plan(epoch=None)) == names_of(made)


def test_where_what_is_read_cannot_be_told_everything_stays_and_is_copied() -> None:
    assert all(each.is_copy for each in plan(reads=None).kept)


def test_of_an_output_name_that_cannot_be_told_every_save_is_meant() -> None:
    unknown = replace(SCRIPT, output_name=None, hidden="a --config_file", flags={})
    assert "cats-000009-state" in names_of(plan(unknown, epoch=None))
    absent = replace(SCRIPT, output_name=None, flags={})
    assert names_of(plan(absent, ("epoch-000009.safetensors", "last-state", "cat-000009-state"))) == {
        "epoch-000009.safetensors",
        "last-state",
    }


def test_an_output_name_that_ends_in_digits_is_not_taken_for_an_epoch() -> None:
    script = replace(SCRIPT, output_name="cat-000003", flags={**FLAGS, "--output_name": ("cat-000003",)})
    made = plan(script, ("cat-000003-state", "cat-000003-000005-state", "cat-000003-000009-state"))
    assert names_of(made) == {"cat-000003-state", "cat-000003-000009-state"}


def test_other_model_files_and_one_of_another_case_are_saves_too() -> None:
    assert names_of(plan(names=("cat-000009.ckpt", "CAT-000010.safetensors", "cat-000009.txt"))) == {
        "cat-000009.ckpt",
        "CAT-000010.safetensors",
    }


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("cat-000009-state",), "Kept in .replaced: epoch 9."),
        (("cat.safetensors",), "Kept in .replaced: the finished LoRA."),
        (("cat-000002-state",), ""),
    ],
)
def test_the_sentence_says_what_is_kept(names: tuple[str, ...], sentence: str) -> None:
    assert plan(names=names).sentence == sentence
