"""Every repair does what it promises: the real accelerate resumes what it repaired, and undo brings the damage back.

Repaired are the cases of :mod:`tests.recovery.proof_cases`, and every case of the conformance suite that can be.
Weights, optimizer, schedule, epoch and random generators are compared with the unbroken state to the bit. The releases
are those of tests/test_conformance.py but for 0.31.0, which loads whatever 0.33.0 and 1.6.0 load.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.recovery import transaction
from checkpoint_core.recovery.planning import repair_of
from checkpoint_core.recovery.repair import Choices, RepairPlan
from checkpoint_core.states.layout import Layout
from tests.conformance.agreement import Answer, answer, environment
from tests.conformance.bases import BASES
from tests.conformance.case import Case
from tests.conformance.cases import base_run, make_case, trainer_arguments
from tests.conformance.workbench import Workbench, installed
from tests.recovery.proof_cases import PROOFS, RANDOM, ROUNDED, Proof
from tests.recovery.test_transaction import small_disk
from tests.test_conformance import BY_NAME, RELEASES, bench  # noqa: F401 - the suite's own cases, made once
from tests.world import STEPS_PER_EPOCH, World, copy_world

VERSIONS = tuple(dict.fromkeys(("0.33.0", "1.6.0", installed())))
CASES = {**BY_NAME, **{name: proof.case for name, proof in PROOFS.items()}}

SAID = {
    ROUNDED: "rounded to that file's precision",
    RANDOM: "order and noise differ",
    "learning rate": "learning rate stays the same",
}
"""How a repair says that it loses what :func:`tests.conformance.agreement.answer` finds lost."""


@dataclass(frozen=True)
class StateFix:
    """One repaired case: what the repair says it loses, what the trainer did then, and whether undo was exact.

    ``verdict`` is the one that was promised; ``files`` are those of the state that were written or set aside.
    """

    case: str
    verdict: str
    files: tuple[str, ...]
    does: tuple[str, ...]
    costs: tuple[str, ...]
    answer: str
    why: str
    undone: bool


@dataclass(frozen=True)
class Work:
    """A case that was repaired and waits for the trainer's answer; ``before`` is what it held when it was broken."""

    case: Case
    world: World
    repair_plan: RepairPlan
    record: str
    before: dict[str, bytes]


def copy_case(bench: Workbench, case: Case, root: Path) -> World:  # noqa: F811
    """A copy of a case's folder that names itself."""
    if case.name in PROOFS:
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


def proofs_here(bench: Workbench, version: str) -> Iterator[Proof]:  # noqa: F811
    """The proofs whose writers are there, and that are broken for that release."""
    for proof in PROOFS.values():
        if (bench.bases / proof.case.base).is_dir() and (version == "0.33.0" or not proof.older_only):
            yield proof


def repair(world: World, case: Case, choices: Choices, auditor: Auditor) -> Work | None:
    """Repair a case the way that tab and command line do; ``None`` where nothing is known or needed."""
    run = auditor.audit_run(world.run_name)
    item = next((each for each in run.checkpoints if each.name == case.state), None)
    repair_plan = repair_of(auditor, run, item, choices) if item else None
    if repair_plan is None or not repair_plan.is_needed:
        return None
    before = contents(world)
    record = repair_plan.execute(lambda: auditor.audit_run(world.run_name).checkpoint(case.state))
    return Work(case, world, repair_plan, record.id, before)


def repair_all(bench: Workbench, version: str, folder: Path) -> Iterator[StateFix]:  # noqa: F811
    """Repair every case that can be, for that release, let it resume them all, and take the repairs back."""
    folder.mkdir(parents=True)
    (versions,) = ask(bench, version, folder, [])
    context = environment(versions)
    proofs = [(proof.case, proof.choices) for proof in proofs_here(bench, version)]
    asked = [*((case, Choices()) for case in filter(can_be_asked, bench.cases())), *proofs]
    done = []
    for case, choices in asked:
        world = copy_case(bench, case, folder / case.slug)
        if work := repair(world, case, choices, Auditor(world.outputs, environment=lambda: context)):
            done.append(work)
        else:
            shutil.rmtree(world.root)
    _, *answers = ask(bench, version, folder, [job(bench, work) for work in done])
    for work, seen in zip(done, answers, strict=True):
        transaction.undo(work.world.run, work.record)
        yield found(work, *answer(work.case, seen))


def found(work: Work, told: Answer, why: str) -> StateFix:
    repair_plan = work.repair_plan
    return StateFix(
        case=work.case.name,
        verdict=repair_plan.after.verdict.value,
        files=tuple(file.name for file in repair_plan.plan.files),
        does=repair_plan.does,
        costs=repair_plan.costs,
        answer=told.value,
        why=why,
        undone=contents(work.world) == work.before,
    )


def ask(
    bench: Workbench,  # noqa: F811
    version: str,
    folder: Path,
    jobs: list[dict[str, object]],
) -> list[dict[str, object]]:
    """The release's versions, and its answers to all jobs, in one process."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    paths = (str(folder / "jobs.json"), str(folder / "answers.json"))
    bench.releases.run(version, "tests.conformance.loader", *paths)
    return [json.loads(line) for line in (folder / "answers.json").read_text(encoding="utf-8").splitlines()]


def job(bench: Workbench, work: Work) -> dict[str, object]:  # noqa: F811
    case, base = work.case, base_run(bench.bases, work.case.base)
    return {
        "state": str(work.world.run / case.state),
        "pristine": str(base_run(bench.bases, case.pristine_base or case.base) / case.state),
        "layout": Layout.SD_SCRIPTS.value,
        "tiny_flux": case.base not in BASES,
        "arguments": trainer_arguments(work.world.script, case.batches),
        "pristine_arguments": trainer_arguments(base / "train.sh", STEPS_PER_EPOCH),
    }


def repaired(bench: Workbench, version: str) -> list[StateFix]:  # noqa: F811
    """The repaired cases of a release, worked out by the first process that asks."""
    if not RELEASES.has(version):
        pytest.skip(f"accelerate {version} is not in the folder that ACCELERATE_VERSIONS names")
    kept = bench.folder / f"repaired-{version}.json"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            rows = [vars(each) for each in repair_all(bench, version, bench.folder / f"repaired-{version}")]
            kept.write_text(json.dumps(rows), encoding="utf-8")
    return [StateFix(**row) for row in json.loads(kept.read_text(encoding="utf-8"))]


def is_ours(each: StateFix) -> bool:
    """Whether the answer is about the repair: the small trainer has no bitsandbytes, some verdicts differ rightly."""
    return not CASES[each.case].accepted and not any("adamw8bit" in line for line in each.does)


def answer_of(proof: Proof) -> tuple[str, str]:
    return (Answer.DIFFERS if proof.loses else Answer.RIGHT).value, proof.loses


def said(each: StateFix) -> set[str]:
    """What the repair said that it loses, in the words of the answer."""
    return {why for why, words in SAID.items() if words in " ".join(each.costs)}


def told(each: StateFix) -> str:
    return f"{each.case}: {' '.join(each.does)} Costs: {each.costs}. It {each.answer}: {each.why}"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_repaired_resumes_rightly(bench: Workbench, version: str) -> None:  # noqa: F811
    found = repaired(bench, version)

    assert len(found) > 100
    wrong = [each for each in found if each.answer in (Answer.FAILS.value, Answer.WRONG.value)]
    assert [told(each) for each in wrong if is_ours(each)] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_repair_loses_what_it_says_and_nothing_else(bench: Workbench, version: str) -> None:  # noqa: F811
    asked = [each for each in repaired(bench, version) if each.verdict == "ready" and is_ours(each)]
    ready = [each for each in asked if each.answer in (Answer.RIGHT.value, Answer.DIFFERS.value)]

    assert len([each for each in ready if not each.costs]) > 70
    assert [told(each) for each in ready if said(each) != set(filter(None, each.why.split(", ")))] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_each_damage_is_repaired_whoever_wrote_the_state(bench: Workbench, version: str) -> None:  # noqa: F811
    found = {each.case: each for each in repaired(bench, version)}
    expected = {proof.case.name: answer_of(proof) for proof in proofs_here(bench, version)}

    assert len(expected) > 20
    seen = {name: (found[name].answer, found[name].why) for name in expected if name in found}
    assert seen == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_a_wrong_epoch_is_cured_where_the_user_chose(bench: Workbench, version: str) -> None:  # noqa: F811
    cured = [each for each in repaired(bench, version) if "cured in the" in each.case]

    assert len(cured) >= 5
    for each in cured:
        in_state = "train_state.json" in each.files
        in_script = any(line.startswith("--initial_epoch") for line in each.does)
        assert (in_state, in_script) == ((True, False) if each.case.endswith("state") else (False, True))


@pytest.mark.parametrize("version", VERSIONS)
def test_undo_gives_every_broken_byte_back(bench: Workbench, version: str) -> None:  # noqa: F811
    assert [each.case for each in repaired(bench, version) if not each.undone] == []


def test_on_a_full_disk_nothing_is_repaired_and_nothing_changed(world_template: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        world = copy_world(world_template, disk / "fluxgym")
        (world.latest / "model.safetensors").unlink()
        auditor = Auditor(world.outputs)
        run = auditor.audit_run(world.run_name)
        repair_plan = repair_of(auditor, run, run.checkpoint(world.latest.name))
        assert repair_plan is not None
        (disk / "fill").write_bytes(b"x" * (shutil.disk_usage(disk).free - 1_000_000))
        before = contents(world)

        with pytest.raises(WriteFailed, match="nothing was changed"):
            repair_plan.execute(lambda: auditor.audit_run(world.run_name).checkpoint(world.latest.name))

        assert contents(world) == before
        assert not (world.run / "repairs.json").exists()
