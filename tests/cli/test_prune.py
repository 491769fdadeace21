"""``prune``: what it shows, removes one by one, and refuses."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from checkpoint_core.cli.prune import prune
from checkpoint_core.states import inspection
from tests.damage import truncate
from tests.world import World

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(prune)


@app.callback()
def _several() -> None:
    """Makes ``prune`` a command by name, as in the real program."""


class Done:
    """How the command ended."""

    def __init__(self, *arguments: object) -> None:
        given = ["prune", *(str(argument) for argument in arguments)]
        result = CliRunner().invoke(app, given, env={"COLUMNS": "80"})
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr
        self.words = " ".join(self.out.split())

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "free_bytes", lambda path: 10**12)


def test_it_shows_the_disk_and_the_proposal_and_removes_nothing(world: World) -> None:
    truncate(world.state(2) / "optimizer.bin")
    done = Done(world.run)

    assert done.code == 0
    assert re.search(r"The saves to come need .* and the disk has 1.0 TB left\.", done.words)
    assert done.words.index("persian-cat-000002-state (Epoch 2,") < done.words.index("000001-state (Epoch 1,")
    assert "These stay: persian-cat-000004-state (Epoch 4):" in done.words
    assert world.state(1).is_dir()


def test_too_little_room_is_status_1_and_an_unknown_room_2(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "free_bytes", lambda path: 1000)
    done = Done(world.run)
    assert (done.code, "would stop while saving" in done.words) == (1, True)
    monkeypatch.setattr(inspection, "free_bytes", lambda path: None)
    assert Done(world.run).code == 2


def test_it_removes_what_is_named_and_nothing_else(world: World) -> None:
    # A name, and a path as a shell completes it.
    done = Done(world.run, "--remove", world.state(1).name, "--remove", f"{world.state(2)}{os.sep}")

    assert done.code == 0
    assert re.search(r"Removed: persian-cat-000002-state, persian-cat-000001-state\. Freed .*\.", done.words)
    assert [world.state(epoch).exists() for epoch in (1, 2, 3, 4)] == [False, False, True, True]


def test_it_refuses_what_may_not_go(world: World) -> None:
    done = Done(world.run, "--remove", world.state(1).name, "--remove", world.latest.name)
    assert (done.code, "Refused: persian-cat-000004-state stays: " in done.err) == (1, True)
    assert world.state(1).is_dir()


@pytest.mark.parametrize("arguments", [("--remove", "nonsense"), ("--json", "--remove", "x")])
def test_wrong_usage_is_status_2(world: World, arguments: tuple[str, ...]) -> None:
    assert Done(world.run, *arguments).code == 2
    assert Done(world.run / "nowhere").code == 2


def test_json_is_all_there_is(world: World) -> None:
    told = Done(world.run, "--json").json
    assert (told["kind"], told["run"], told["disk"]["is_enough"]) == ("retention", world.run_name, True)
    assert [each["title"] for each in told["candidates"]] == ["Epoch 1", "Epoch 2"]
    assert [each["title"] for each in told["kept"]] == ["Epoch 4", "Epoch 3"]
    # docs/report-schema.md: what other programs read by these names.
    assert {tuple(each) for each in told["candidates"]} == {("name", "title", "size_bytes", "reason")}
    assert {tuple(each) for each in told["kept"]} == {("name", "title", "why")}


def test_what_a_killed_removal_left_is_removed(world: World) -> None:
    left = world.run / ".removing-0123456789abcdef"
    world.state(1).rename(left)
    done = Done(world.run)
    assert "A removal had been interrupted" in done.err
    assert not left.exists()
