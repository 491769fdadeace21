"""Removing checkpoints: exactly what was confirmed, whole or not at all, wherever it is interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint_core import atomic_write
from checkpoint_core.atomic_write import WriteFailed, remove_confirmed
from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.manifest import manifest_name
from checkpoint_core.audit.reports import RunReport
from checkpoint_core.recovery import transaction
from checkpoint_core.recovery.planning import repair_of
from checkpoint_core.recovery.removal import (
    Look,
    Removal,
    RemovalRefused,
    finish_removals,
    links_in,
    look_again_at_run,
    plan_removal,
    retention_of,
)
from checkpoint_core.recovery.retention import RetentionPlan
from checkpoint_core.states.discovery import find_run
from checkpoint_core.states.layout import MANIFESTS_FOLDER
from tests.damage import remove
from tests.world import PROJECT, World, age

posix_only = pytest.mark.skipif(os.name == "nt", reason="modes and links of POSIX systems")


def seen(world: World) -> tuple[RunReport, RetentionPlan]:
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    return run, retention_of(auditor, run)


def removal(world: World, *epochs: int) -> Removal:
    run, plan = seen(world)
    return plan_removal(run, [world.state(epoch).name for epoch in epochs], plan)


def look(world: World) -> Look:
    return look_again_at_run(Auditor(world.outputs), world.run_name)


def epochs(world: World) -> list[int]:
    """The epochs whose states lie in the run whole."""
    return [epoch for epoch in (1, 2, 3, 4) if (world.state(epoch) / "random_states_0.pkl").is_file()]


def hidden(world: World) -> list[str]:
    return [name for name in os.listdir(world.run) if name.startswith(".removing-")]


def test_exactly_the_chosen_ones_go_and_lora_files_stay(world: World) -> None:
    planned = removal(world, 1, 2)
    assert epochs(world) == [1, 2, 3, 4]
    assert len(planned.lines) == 2
    assert planned.lines[-1].startswith(f"{world.state(1).name} is removed (")

    done = planned.execute(look(world))

    assert done.names == (world.state(2).name, world.state(1).name)
    assert done.freed_bytes == sum(state.size_bytes for state in planned.states) > 0
    assert epochs(world) == [3, 4]
    assert world.lora(1).is_file()
    assert hidden(world) == []


def test_its_manifest_goes_with_it(world: World) -> None:
    folder = world.run / MANIFESTS_FOLDER
    folder.mkdir()
    manifests = [folder / manifest_name(world.state(epoch).name) for epoch in (1, 2)]
    for path in manifests:
        path.write_text("{}")

    removal(world, 1).execute(look(world))

    assert [path.exists() for path in manifests] == [False, True]


def test_originals_of_its_repair_stay(world: World) -> None:
    remove(world.state(1) / "scheduler.bin")
    auditor = Auditor(world.outputs)
    run = auditor.audit_run(world.run_name)
    record = repair_of(auditor, run, run.checkpoint(world.state(1).name)).execute(
        lambda: auditor.audit_run(world.run_name).checkpoint(world.state(1).name)
    )
    world.edit_script(lambda text: text.replace(world.state(1).name, world.state(4).name))

    removal(world, 1).execute(look(world))

    assert epochs(world) == [2, 3, 4]
    assert transaction.originals(world.run, record).is_dir()


@pytest.mark.parametrize(
    "name", ["persian-cat-000004-state", "persian-cat-000003-state", "../persian-cat", "", "sample", "/etc"]
)
def test_what_is_no_candidate_is_refused(world: World, name: str) -> None:
    run, plan = seen(world)
    with pytest.raises(RemovalRefused, match=r"stays: .*Nothing was removed"):
        plan_removal(run, [world.state(1).name, name], plan)


def test_nothing_chosen_is_refused(world: World) -> None:
    with pytest.raises(RemovalRefused, match="no checkpoint was chosen"):
        removal(world)


@pytest.mark.parametrize("changed", [1, 2])
def test_one_that_was_changed_since_stops_all(world: World, changed: int) -> None:
    planned = removal(world, 1, 2)
    age(world.state(changed) / "optimizer.bin", 100)

    with pytest.raises(RemovalRefused, match="was changed after it was shown"):
        planned.execute(look(world))
    assert epochs(world) == [1, 2, 3, 4]


def test_one_that_is_gone_stops_all(world: World) -> None:
    planned = removal(world, 1, 2)
    remove(world.state(2))
    with pytest.raises(RemovalRefused, match="is not there any more"):
        planned.execute(look(world))
    assert epochs(world) == [1, 3, 4]


def test_one_that_a_training_has_loaded_since_stops_all(world: World) -> None:
    planned = removal(world, 1, 2)
    again = look_again_at_run(
        Auditor(world.outputs), world.run_name, lambda: frozenset({world.state(2).name})
    )
    with pytest.raises(RemovalRefused, match="The training that is running uses it"):
        planned.execute(again)
    assert epochs(world) == [1, 2, 3, 4]


def test_one_that_has_become_the_last_good_one_stops_all(world: World) -> None:
    planned = removal(world, 1, 2)
    for epoch in (3, 4):
        remove(world.state(epoch) / "optimizer.bin")
    with pytest.raises(RemovalRefused, match="can't be removed any more"):
        planned.execute(look(world))
    assert epochs(world) == [1, 2, 3, 4]


# Links


@posix_only
def test_a_state_that_is_a_link_and_its_target_stay(world: World) -> None:
    moved = world.outputs / "elsewhere"
    world.state(1).rename(moved)
    world.state(1).symlink_to(moved)
    (world.run / "alias-000002-state").symlink_to(world.state(2))
    run, plan = seen(world)

    assert links_in(run) == {world.state(1).name, "alias-000002-state", world.state(2).name}
    assert plan.candidates == ()
    with pytest.raises(RemovalRefused, match="It is a link"):
        removal(world, 1)


@posix_only
def test_a_state_that_became_a_link_since_stops_all(world: World) -> None:
    planned = removal(world, 1, 2)
    moved = world.outputs / "elsewhere"
    world.state(1).rename(moved)
    world.state(1).symlink_to(moved)
    with pytest.raises(RemovalRefused, match="It is a link"):
        planned.execute(look(world))
    assert (epochs(world), moved.is_dir()) == ([1, 2, 3, 4], True)


@posix_only
def test_the_writer_itself_refuses_a_link_and_brings_the_others_back(world: World) -> None:
    moved = world.outputs / "elsewhere"
    world.state(2).rename(moved)
    world.state(2).symlink_to(moved)
    places = [(world.state(epoch), world.run / f".removing-{epoch:016d}") for epoch in (1, 2)]
    with pytest.raises(WriteFailed, match="nothing was removed"):
        remove_confirmed(places)
    assert epochs(world) == [1, 2, 3, 4]
    assert hidden(world) == []


@posix_only
def test_links_inside_a_state_are_removed_and_not_followed(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.mkdir()
    (outside / "precious.txt").write_text("x")
    (world.state(1) / "notes").symlink_to(outside)
    age(world.state(1), 10)

    removal(world, 1).execute(look(world))

    assert (outside / "precious.txt").is_file()
    assert epochs(world) == [2, 3, 4]


@posix_only
def test_a_file_that_lies_elsewhere_too_frees_nothing(world: World, tmp_path: Path) -> None:
    os.link(world.state(1) / "optimizer.bin", tmp_path / "kept")
    planned = removal(world, 1)
    size = (tmp_path / "kept").stat().st_size
    assert (
        planned.execute(look(world)).freed_bytes == sum(state.size_bytes for state in planned.states) - size
    )


# What the disk refuses


@posix_only
@pytest.mark.parametrize("protected", ["", "optimizer.bin"])
def test_a_write_protected_one_stops_all(world: World, protected: str) -> None:
    path = world.state(1) / protected
    path.chmod(0o555 if path.is_dir() else 0o444)
    with pytest.raises(RemovalRefused, match="is write-protected"):
        removal(world, 1, 2).execute(look(world))
    assert epochs(world) == [1, 2, 3, 4]
    path.chmod(0o755)


def test_one_that_cannot_leave_its_name_brings_all_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, planned = os.rename, removal(world, 1, 2)

    def rename(source: Path, target: Path) -> None:
        if source == world.state(1):
            raise PermissionError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr(atomic_write.os, "rename", rename)
    with pytest.raises(WriteFailed, match=r"nothing was removed\. Allow writing to it"):
        planned.execute(look(world))
    assert (epochs(world), hidden(world)) == ([1, 2, 3, 4], [])


def test_what_could_not_be_removed_is_never_under_its_own_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = removal(world, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(atomic_write.os, "unlink", refuse)
        patch.setattr(atomic_write.shutil, "rmtree", refuse)
        with pytest.raises(WriteFailed, match="the next removal finishes the job"):
            planned.execute(look(world))

    assert not world.state(1).exists()
    assert len(hidden(world)) == 2
    assert [state.path.name for state in find_run(world.run).states] == [
        world.state(epoch).name for epoch in (3, 4)
    ]
    assert finish_removals(world.run)
    assert hidden(world) == []
    assert not finish_removals(world.run)


def refuse(*arguments: object, **named: object) -> None:
    raise PermissionError(13, "Permission denied")


_KILLED = """
import os, sys
from pathlib import Path
from checkpoint_core.atomic_write import remove_confirmed
def dying(call, die_at):
    count = 0
    def wrapper(*args, **kwargs):
        nonlocal count
        if count == die_at:
            os._exit(137)
        count += 1
        return call(*args, **kwargs)
    return wrapper
name, die_at, run, *states = sys.argv[1:]
setattr(os, name, dying(getattr(os, name), int(die_at)))
remove_confirmed([(Path(run, state), Path(run, ".removing-%016d" % n)) for n, state in enumerate(states)])
"""


@posix_only
@pytest.mark.parametrize(
    ("call", "die_at", "left"),
    [
        ("rename", 0, [1, 2, 3, 4]),
        ("rename", 1, [2, 3, 4]),
        ("unlink", 0, [3, 4]),
        ("unlink", 3, [3, 4]),
        ("rmdir", 0, [3, 4]),
        ("rmdir", 1, [3, 4]),
    ],
)
def test_killed_anywhere_each_is_whole_or_gone(world: World, call: str, die_at: int, left: list[int]) -> None:
    states = [world.state(epoch).name for epoch in (1, 2)]
    command = [sys.executable, "-c", _KILLED, call, str(die_at), str(world.run), *states]
    done = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    assert done.returncode == 137, done.stderr

    assert epochs(world) == left
    found = [state.path.name for state in find_run(world.run).states]
    assert found == [world.state(epoch).name for epoch in left]

    if 2 in left:
        run, plan = seen(world)
        plan_removal(run, [world.state(2).name], plan).execute(look(world))
    finish_removals(world.run)
    assert hidden(world) == []
    assert epochs(world) == [epoch for epoch in left if epoch != 2]


def test_only_what_a_removal_left_is_taken_up(world: World) -> None:
    (world.run / ".removing-mine").mkdir()
    (world.run / ".removing-0000000000000000").write_text("a file")
    assert not finish_removals(world.run)
    removal(world, 1).execute(look(world))
    assert sorted(hidden(world)) == [".removing-0000000000000000", ".removing-mine"]
