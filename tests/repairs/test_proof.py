"""Every repair does what it promises: the real accelerate resumes what was repaired, on every case of the conformance
suite that can be repaired, and undo gives the broken bytes back.

Weights, optimizer, schedule, epoch and random generators are compared with the unbroken state to the bit. The releases
are those of tests/test_conformance.py but for 0.31.0, which loads whatever 0.33.0 and 1.6.0 load.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from checkpoint_core.audit import Auditor
from checkpoint_core.layout import Layout
from checkpoint_core.repairs import workshop
from checkpoint_core.ways_on import mend_of
from tests.conformance.agreement import Answer, answer, environment
from tests.conformance.bases import BASES, WRITERS
from tests.conformance.case import Case
from tests.conformance.cases import base_run, make_case, trainer_arguments
from tests.conformance.workbench import Workbench, installed
from tests.damage import add_custom_checkpoint, empty, remove, truncate
from tests.test_conformance import BY_NAME, RELEASES, bench  # noqa: F401 - the suite's own cases, made once
from tests.world import SETTLED_SECONDS, STEPS_PER_EPOCH, World, age

VERSIONS = tuple(dict.fromkeys(("0.33.0", "1.6.0", installed())))


@dataclass(frozen=True)
class Repaired:
    """One repaired case: what the repair says it loses, what the trainer did then, and whether undo was exact.

    ``verdict`` is the one that was promised.
    """

    case: str
    verdict: str
    does: tuple[str, ...]
    costs: tuple[str, ...]
    answer: str
    why: str
    undone: bool


def add_old_object(state: Path) -> None:
    """A registered object of another project, as old as the state."""
    add_custom_checkpoint(state)
    age(state / "custom_checkpoint_0.pkl", SETTLED_SECONDS)


def both(state: Path) -> None:
    """What a save leaves that is killed in its last but one file."""
    remove(state / "scheduler.bin")
    remove(state / "random_states_0.pkl")


BREAKS: dict[str, Callable[[Path], object]] = {
    "as it was saved": lambda state: None,
    "no train_state.json": lambda state: remove(state / "train_state.json"),
    "half a train_state.json": lambda state: truncate(state / "train_state.json"),
    "half the weights": lambda state: truncate(state / "model.safetensors"),
    "no scheduler": lambda state: remove(state / "scheduler.bin"),
    "no scheduler, no random states": both,
    "half the random states": lambda state: truncate(state / "random_states_0.pkl"),
    "a stray object": add_old_object,
    "everything small": lambda state: [both(state), add_old_object(state), empty(state / "train_state.json")],
}
"""What is done to a state of every release that writes them."""

WRITTEN = {
    case.name: case
    for writer in WRITERS
    for name, damage in BREAKS.items()
    for case in [
        Case(
            f"written by {writer}: {name}",
            base=f"written-by-{writer}",
            change=lambda w, d=damage: d(w.latest),
        )
    ]
}
CASES = {**BY_NAME, **WRITTEN}


def copy_case(bench: Workbench, case: Case, root: Path) -> World:  # noqa: F811
    """A copy of a case's folder that names itself."""
    if case.name in WRITTEN:
        return make_case(case, bench.bases, root)
    world = bench.world(case)
    shutil.copytree(world.root, root, symlinks=True)
    copy = World(root, world.run_name)
    for path in (copy.script, copy.run / "dataset.toml"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(str(world.root).encode(), str(root).encode()))
    return copy


def contents(world: World) -> dict[str, bytes]:
    """All files of a run but the record of its repairs and the script's backups."""
    return {
        path.relative_to(world.run).as_posix(): path.read_bytes()
        for path in world.run.rglob("*")
        if path.is_file() and path.name != "repairs.json" and not path.name.startswith("train.sh.bak")
    }


def can_be_asked(case: Case) -> bool:
    return case.layout is not Layout.ACCELERATE_OBJECTS and not case.given and not case.deep


def repair_all(bench: Workbench, version: str, folder: Path) -> list[Repaired]:  # noqa: F811
    """Repair every case that can be, for that release, let it resume them all, and take the repairs back."""
    probe = folder / "probe.json"
    probe.parent.mkdir(parents=True)
    probe.write_text("[]")
    bench.releases.run(version, "tests.conformance.loader", str(probe), str(folder / "versions.json"))
    around = environment(json.loads((folder / "versions.json").read_text()))
    made = []
    written = [case for case in WRITTEN.values() if (bench.bases / case.base).is_dir()]
    for case in filter(can_be_asked, (*bench.cases(), *written)):
        world = copy_case(bench, case, folder / case.slug)
        auditor = Auditor(world.outputs, environment=lambda: around)
        run = auditor.audit_run(world.run_name)
        item = next((each for each in run.checkpoints if each.name == case.state), None)
        mend = mend_of(auditor, run, item) if item else None
        if mend is None or not mend.is_needed:
            shutil.rmtree(world.root)
            continue
        before = contents(world)
        record = mend.execute(lambda a=auditor, w=world, c=case: a.audit_run(w.run_name).checkpoint(c.state))
        made.append((case, world, mend, record, before))
    jobs = [job(bench, case, world) for case, world, *_ in made]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    bench.releases.run(
        version, "tests.conformance.loader", str(folder / "jobs.json"), str(folder / "answers.json")
    )
    _, *lines = (folder / "answers.json").read_text(encoding="utf-8").splitlines()
    found = []
    for (case, world, mend, record, before), line in zip(made, lines, strict=True):
        told, why = answer(case, json.loads(line))
        workshop.undo(world.run, record.id)
        undone = contents(world) == before
        found.append(
            Repaired(case.name, mend.after.verdict.value, mend.does, mend.costs, told.value, why, undone)
        )
    return found


def job(bench: Workbench, case: Case, world: World) -> dict[str, object]:  # noqa: F811
    base = base_run(bench.bases, case.base)
    return {
        "state": str(world.run / case.state),
        "pristine": str(base_run(bench.bases, case.pristine_base or case.base) / case.state),
        "layout": Layout.SD_SCRIPTS.value,
        "tiny_flux": case.base not in BASES,
        "arguments": trainer_arguments(world.script, case.batches),
        "pristine_arguments": trainer_arguments(base / "train.sh", STEPS_PER_EPOCH),
    }


def repaired(bench: Workbench, version: str) -> list[Repaired]:  # noqa: F811
    """The repaired cases of a release, worked out by the first process that asks."""
    if not RELEASES.has(version):
        pytest.skip(f"accelerate {version} is not in the folder that ACCELERATE_VERSIONS names")
    kept = bench.folder / f"repaired-{version}.json"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            rows = [vars(each) for each in repair_all(bench, version, bench.folder / f"repaired-{version}")]
            kept.write_text(json.dumps(rows), encoding="utf-8")
    return [Repaired(**row) for row in json.loads(kept.read_text(encoding="utf-8"))]


def is_ours(each: Repaired) -> bool:
    """Whether the answer is about the repair: the small trainer has no bitsandbytes, some verdicts differ rightly."""
    return not CASES[each.case].accepted and not any("adamw8bit" in line for line in each.does)


def told(each: Repaired) -> str:
    return f"{each.case}: {' '.join(each.does)} Costs: {each.costs}. It {each.answer}: {each.why}"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_repaired_resumes_rightly(bench: Workbench, version: str) -> None:  # noqa: F811
    found = repaired(bench, version)

    assert len(found) > 60
    wrong = [each for each in found if each.answer in (Answer.FAILS.value, Answer.WRONG.value)]
    assert [told(each) for each in wrong if is_ours(each)] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_repair_that_promises_to_lose_nothing_loses_nothing(bench: Workbench, version: str) -> None:  # noqa: F811
    lossless = [each for each in repaired(bench, version) if not each.costs and each.verdict == "ready"]

    assert len(lossless) > 40
    other = [each for each in lossless if each.answer != Answer.RIGHT.value]
    assert [told(each) for each in other if is_ours(each)] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_states_of_every_writer_are_repaired(bench: Workbench, version: str) -> None:  # noqa: F811
    found = {each.case: each for each in repaired(bench, version) if each.case in WRITTEN}
    writers = [writer for writer in WRITERS if RELEASES.has(writer)]

    expected = [name for name in BREAKS if name not in ("as it was saved", "half the random states")]
    if version == "0.33.0":  # the one that stops over random states
        expected = list(BREAKS)
    missing = [f"written by {each}: {name}" for each in writers for name in expected]
    assert [name for name in missing if name not in found] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_undo_gives_every_broken_byte_back(bench: Workbench, version: str) -> None:  # noqa: F811
    assert [each.case for each in repaired(bench, version) if not each.undone] == []
