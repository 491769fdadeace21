"""What is remembered, and that it is forgotten with what lay on the disk."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.cache import AuditCache, PathMemory
from checkpoint_core.environment.facts import Environment
from checkpoint_core.environment.rehearsal.outcome import RehearsalOutcome, RehearsalStatus
from checkpoint_core.formats import DamageKind
from checkpoint_core.states import discovery
from checkpoint_core.states.facts import Damage, StateFacts
from tests.environments import environment
from tests.world import World

CAT, DOG = Path("outputs/cat"), Path("outputs/dog")


def test_a_value_is_made_once_for_each_stamp() -> None:
    memory: PathMemory[int | None] = PathMemory()
    made: list[int | None] = []

    def make(value: int | None) -> int | None:
        made.append(value)
        return value

    assert [memory.get(CAT, CAT / "a", 1, lambda: make(None)) for _ in range(2)] == [None, None]
    assert memory.get(CAT, CAT / "a", 2, lambda: make(7)) == 7
    assert memory.get(DOG, CAT / "a", 2, lambda: make(8)) == 8
    assert made == [None, 7, 8]
    assert (memory.recall(CAT, CAT / "a", 2), memory.recall(CAT, CAT / "a", 1)) == (7, None)
    assert len(memory) == 2


def test_what_is_not_named_is_forgotten() -> None:
    memory: PathMemory[int] = PathMemory()
    for run in (CAT, DOG):
        for name in ("a", "b"):
            memory.keep(run, run / name, None, 1)

    memory.forget_paths(CAT, {CAT / "b"})
    assert memory.recall(CAT, CAT / "a", None) is None
    assert memory.recall(CAT, CAT / "b", None) == memory.recall(DOG, DOG / "a", None) == 1
    memory.forget_runs({CAT})
    memory.forget_paths(DOG, ())
    assert len(memory) == 1


def loaded(_: StateFacts, __: Environment) -> RehearsalOutcome:
    return RehearsalOutcome(RehearsalStatus.LOADED)


def looked_at(world: World, auditor: Auditor) -> None:
    """Everything that can be remembered of the run."""
    auditor.audit()
    auditor.verify(world.run_name, world.latest.name)
    auditor.rehearse(world.run_name, world.latest.name, loaded)


def test_runs_that_come_and_go_leave_nothing_behind(world: World) -> None:
    cache = AuditCache()
    auditor = Auditor(world.outputs, environment=environment, cache=cache)
    looked_at(world, auditor)
    known = len(cache)
    assert (
        known == 1 + 1 + 4 + 4 + 4 + 1 + 1
    )  # script, dataset, LoRA files, facts, reports, every byte, rehearsal

    for number in range(3):
        run = world.outputs / f"run-{number}"
        shutil.copytree(world.run, run)
        auditor.audit()
        auditor.verify(run.name, world.latest.name)
        auditor.rehearse(run.name, world.latest.name, loaded)
        assert len(cache) == 2 * known
        shutil.rmtree(run)
        auditor.audit_run(world.run_name)
        assert len(cache) == known


def test_states_and_lora_files_that_go_are_forgotten(world: World) -> None:
    cache = AuditCache()
    auditor = Auditor(world.outputs, environment=environment, cache=cache)
    auditor.audit()
    without = len(cache)
    copy, lora = world.run / "copy-state", world.run / "copy.safetensors"
    shutil.copytree(world.latest, copy)
    shutil.copy2(world.lora(4), lora)
    auditor.verify(world.run_name, copy.name)
    auditor.rehearse(world.run_name, copy.name, loaded)
    assert len(cache) == without + 5  # facts, report, every byte, rehearsal; the LoRA file

    shutil.rmtree(copy)
    lora.unlink()
    auditor.audit()
    assert len(cache) == without


def test_a_script_that_goes_is_forgotten(world: World) -> None:
    cache = AuditCache()
    auditor = Auditor(world.outputs, cache=cache)
    auditor.audit()
    assert len(cache.scripts) == 1
    world.script.unlink()
    auditor.audit()
    assert len(cache.scripts) == 0


def test_a_later_look_shares_what_took_long_and_forgets_it_too(world: World) -> None:
    cache = AuditCache()
    auditor = Auditor(world.outputs, environment=environment, cache=cache)
    looked_at(world, auditor)
    later = auditor.at_later_time(10**12)
    known = later.audit_run(world.run_name).checkpoint(world.latest.name)
    assert known.facts.deep is not None
    assert known.rehearsal is not None

    shutil.rmtree(world.latest)
    later.audit()
    assert len(cache.verified) == len(cache.rehearsals) == 0


def test_a_folder_that_cannot_be_listed_for_once_costs_no_second_verification(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    auditor = Auditor(world.outputs)
    auditor.verify(world.run_name, world.latest.name)
    real = discovery.find_run
    with monkeypatch.context() as patch:

        def unreadable(path: Path, outputs: Path | None = None) -> discovery.RunDir:
            problem = Damage(DamageKind.UNREADABLE, "the network drive sleeps")
            return replace(real(path, outputs), listing=discovery.Listing((), 0, problem), states=())

        patch.setattr(discovery, "find_run", unreadable)
        assert auditor.audit_run(world.run_name).checkpoints == ()
    assert auditor.audit_run(world.run_name).checkpoint(world.latest.name).facts.deep is not None


def test_each_run_has_a_turn_of_its_own_which_goes_with_it() -> None:
    cache = AuditCache()
    turn = cache.turn(CAT)
    assert cache.turn(CAT) is turn
    assert cache.turn(DOG) is not turn
    with turn:
        cache.forget_runs({DOG})
        assert cache.turn(CAT) is turn
    cache.forget_runs({DOG})
    assert cache.turn(CAT) is not turn
