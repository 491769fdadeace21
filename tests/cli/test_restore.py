"""``restore``, and what ``resume`` and ``prune`` say of what is set aside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from checkpoint_core.cli.app import app
from checkpoint_core.recovery.replaced import set_aside_saves
from checkpoint_core.recovery.replaced_records import Replaced, read_replaced
from checkpoint_core.recovery.set_aside import Kept, SavedName, SetAside
from checkpoint_core.training.status import TrainingStatus
from tests.world import World


class Done:
    """How a command ended."""

    def __init__(self, *arguments: object) -> None:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def aside(world: World) -> Replaced:
    """The world with its newest state set aside."""
    name = world.latest.name
    done = set_aside_saves(world.run, lambda: SetAside((Kept(SavedName(name, True, 4)),)))
    assert done is not None
    return done


def test_it_lists_and_changes_nothing(world: World, aside: Replaced) -> None:
    done = Done("restore", world.run)
    assert done.code == 0
    assert f"{aside.id}: epoch 4 (" in done.out
    assert "Nothing was changed." in done.out
    assert not world.latest.exists()
    assert Done("restore", world.run, "--json").json["replaced"][0]["names"] == [world.latest.name]


def test_with_apply_it_brings_back_the_newest_or_the_named(world: World, aside: Replaced) -> None:
    assert Done("restore", world.run, "20260101T000000Z-00000000", "--apply").code == 2
    done = Done("restore", world.run, "--apply")
    assert (done.code, world.latest.is_dir()) == (0, True)
    assert "Brought back: epoch 4." in done.out
    assert Done("restore", world.run).out == "Nothing was set aside.\n"


def test_while_the_run_trains_nothing_is_brought_back_or_removed(
    world: World, aside: Replaced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingStatus, "is_running", property(lambda _: True))
    for command in (("restore", world.run, "--apply"), ("prune", world.run, "--remove-replaced", aside.id)):
        done = Done(*command)
        assert (done.code, done.err) == (
            1,
            "Refused: this run is training. Stop it first, or let it finish.\n",
        )
    assert read_replaced(world.run) == (aside,)


def test_prune_lists_what_is_kept_and_removes_it_by_name(world: World, aside: Replaced) -> None:
    assert f"Kept from being overwritten: {aside.id}: epoch 4" in Done("prune", world.run).out
    assert Done("prune", world.run, "--json").json["replaced"][0]["size_bytes"] == aside.size_bytes
    done = Done("prune", world.run, "--remove-replaced", aside.id)
    assert done.code == 0
    assert "are free again." in done.out
    assert read_replaced(world.run) == ()
    assert Done("prune", world.run, "--remove-replaced", aside.id).code == 2


def test_resume_and_recover_say_what_a_start_would_set_aside(world: World) -> None:
    done = Done("resume", world.run, "--state", world.state(2).name, "--dry-run")
    assert "Before it starts: Kept in .replaced: epochs 3 to 4." in done.out
    assert "Kept in .replaced: epochs 1 to 4." in " ".join(Done("recover", world.run).out.split())
