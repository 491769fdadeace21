"""Each file of a state by itself, broken in one way at a time, in both layouts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.audit.checks.integrity import check_integrity
from checkpoint_core.audit.findings import Severity
from checkpoint_core.states.facts import RandomStatesFacts
from checkpoint_core.states.layout import Layout
from tests.damage import (
    HOSTILE_PICKLES,
    add_custom_checkpoint,
    add_leftovers,
    add_process,
    add_scaler,
    calling_pickle,
    drop_rng_step,
    empty,
    flip_byte,
    flip_member_byte,
    interrupt_save,
    make_schedule_free,
    put_pickle,
    remove,
    rename_tensors,
    rewrite_torch_zip,
    times_kept,
    truncate,
)
from tests.judging import (
    codes,
    compress,
    found,
    judge_copy,
    judge_state,
    make_dangling,
    make_directory_of,
    make_outside_link,
    outcome,
)
from tests.world import STATE_FILES, World

Break = Callable[[Path], None]

HARMLESS_CALL = calling_pickle("some_project.parts", "Holder", 1)


def foreign(path: Path) -> None:
    put_pickle(path, HARMLESS_CALL)


def broken_record(path: Path) -> None:
    flip_member_byte(path, "data.pkl", 20)


def no_zip(path: Path) -> None:
    with times_kept(path):
        path.write_bytes(b"no zip at all" * 100)


def broken_header(path: Path) -> None:
    flip_byte(path, 9)


TORCH_BREAKS: list[tuple[str, Break]] = [
    ("missing", remove),
    ("empty", empty),
    ("truncated", truncate),
    ("truncated", lambda path: truncate(path, -1)),
    ("corrupt", broken_record),
    ("corrupt", no_zip),
    ("foreign", foreign),
    ("unreadable", make_directory_of),
    ("unreadable", make_dangling),
    ("unreadable", make_outside_link),
    ("unsupported", compress),
]
WEIGHTS_BREAKS: list[tuple[str, Break]] = [
    ("missing", remove),
    ("empty", empty),
    ("truncated", truncate),
    ("truncated", lambda path: truncate(path, -1)),
    ("truncated", lambda path: truncate(path, 5)),
    ("corrupt", broken_header),
    ("unreadable", make_directory_of),
    ("unreadable", make_dangling),
    ("unreadable", make_outside_link),
]
UNTOLD = ("unreadable", "unsupported")
PARTS = {"optimizer.bin": "optimizer", "scheduler.bin": "scheduler"}


def test_the_valid_world_is_ready_and_nothing_is_found(world: World) -> None:
    for epoch in (1, 2, 3, 4):
        assert outcome(judge_state(world, epoch)) == ("ready", [])


@pytest.mark.parametrize("file", PARTS)
@pytest.mark.parametrize(("kind", "break_it"), TORCH_BREAKS)
def test_a_broken_optimizer_or_scheduler(world: World, file: str, kind: str, break_it: Break) -> None:
    break_it(world.latest / file)
    report = judge_state(world)
    # The optimizer holds what the schedule held; nothing holds what the optimizer held.
    rebuilt = file == "scheduler.bin" and kind != "foreign"
    verdict = "unknown" if kind in UNTOLD else "needs-fix" if rebuilt else "damaged"
    assert outcome(report) == (verdict, [f"{PARTS[file]}-{kind}"])
    assert found(report, f"{PARTS[file]}-{kind}").file == file
    assert judge_state(world, 3).verdict.value == "ready"


@pytest.mark.parametrize(("kind", "break_it"), TORCH_BREAKS)
def test_broken_random_states_alone_are_a_warning(world: World, kind: str, break_it: Break) -> None:
    break_it(world.latest / "random_states_0.pkl")
    report = judge_state(world)
    assert outcome(report) == ("ready-with-warnings", [f"random-states-{kind}"])
    assert found(report, f"random-states-{kind}").file == "random_states_0.pkl"


@pytest.mark.parametrize("name", sorted(HOSTILE_PICKLES))
def test_whatever_is_in_the_random_states_they_alone_never_damage(world: World, name: str) -> None:
    put_pickle(world.latest / "random_states_0.pkl", HOSTILE_PICKLES[name])
    report = judge_state(world)
    assert report.verdict.value in ("ready-with-warnings", "needs-fix")
    assert not (world.root / "harm").exists()


@pytest.mark.parametrize("at", range(0, 2600, 97))
def test_random_states_cut_anywhere_are_a_warning(world: World, at: int) -> None:
    path = world.latest / "random_states_0.pkl"
    truncate(path, min(at, path.stat().st_size - 1))
    assert judge_state(world).verdict.value == "ready-with-warnings"


def test_random_states_that_name_code_are_no_mere_warning(world: World) -> None:
    put_pickle(world.latest / "random_states_0.pkl", HOSTILE_PICKLES["os-system"])
    report = judge_state(world)
    assert outcome(report) == ("needs-fix", ["random-states-hostile"])
    assert "os.system" in found(report, "random-states-hostile").message


def globals_of(*names: str) -> bytes:
    """A pickle that only names these objects, in this order."""
    return b"".join(b"c%b\n%b\n" % tuple(map(str.encode, name.rsplit(".", 1))) for name in names)


MANY = tuple(f"mine.Object{number}" for number in range(1_100))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02(" + globals_of(*MANY[:50], "posix.system") + b"t.",
        b"\x80\x02(" + globals_of(*MANY[:500], "posix.system", *MANY[500:900]) + b"t.",
        b"\x80\x02(" + globals_of(*MANY, "posix.system") + b"t.",
        b"\x80\x02(" + globals_of("posix.system"),
        HOSTILE_PICKLES["instance-opcode"],
        HOSTILE_PICKLES["dotted-name"],
    ],
    ids=["fifty", "hundreds", "over-the-limit", "cut", "instance", "dotted"],
)
def test_no_limit_hides_what_is_hostile_in_random_states(world: World, data: bytes) -> None:
    path = world.latest / "random_states_0.pkl"
    put_pickle(path, data)
    report = judge_state(world)
    assert outcome(report) == ("needs-fix", ["random-states-hostile"])
    assert "system" in found(report, "random-states-hostile").message or b"ios" in data


def test_a_bare_pickle_that_an_old_torch_would_run_is_hostile(world: World) -> None:
    (world.latest / "random_states_0.pkl").write_bytes(HOSTILE_PICKLES["os-system"])
    assert found(judge_state(world), "random-states-hostile").message.endswith("os.system.")


@pytest.mark.parametrize("before", [0, 50, 900])
def test_what_runs_code_is_foreign_everywhere_however_many_names_come_first(
    world: World, before: int
) -> None:
    put_pickle(world.latest / "optimizer.bin", b"\x80\x02(" + globals_of(*MANY[:before], "os.system") + b"t.")
    report = judge_state(world)
    assert report.verdict.value == "damaged"
    assert "optimizer-foreign" in [each.code for each in report.findings]


def test_random_states_without_a_step_are_a_warning(world: World) -> None:
    drop_rng_step(world.latest)
    assert outcome(judge_state(world)) == ("ready-with-warnings", ["random-states-no-step"])


@pytest.mark.parametrize(("kind", "break_it"), WEIGHTS_BREAKS)
def test_broken_weights_without_a_lora_file_beside_them(world: World, kind: str, break_it: Break) -> None:
    remove(world.lora(4))
    break_it(world.latest / "model.safetensors")
    report = judge_state(world)
    assert outcome(report) == ("unknown" if kind in UNTOLD else "damaged", [f"weights-{kind}"])
    assert found(report, f"weights-{kind}").file == "model.safetensors"


@pytest.mark.parametrize(("kind", "break_it"), WEIGHTS_BREAKS)
def test_lost_weights_can_be_rebuilt_from_the_lora_file(world: World, kind: str, break_it: Break) -> None:
    break_it(world.latest / "model.safetensors")
    report = judge_state(world)
    assert outcome(report) == ("unknown" if kind in UNTOLD else "needs-fix", [f"weights-{kind}"])
    if kind not in UNTOLD:
        assert f"Copy {world.lora(4).name} into the directory" in found(report, f"weights-{kind}").cure


def test_the_cure_of_lost_weights_makes_the_state_ready(world: World) -> None:
    remove(world.latest / "model.safetensors")
    shutil.copy2(world.lora(4), world.latest / "model.safetensors")
    assert outcome(judge_state(world)) == ("ready", [])


def test_a_lora_file_of_another_network_rebuilds_nothing(world: World) -> None:
    remove(world.latest / "model.safetensors")
    rewrite_torch_zip(world.latest / "optimizer.bin", _without_a_parameter)
    assert judge_state(world).verdict.value == "damaged"


def _without_a_parameter(optimizer: dict) -> None:  # type: ignore[type-arg]
    optimizer["state"].pop(optimizer["param_groups"][0]["params"].pop())


def test_weights_of_a_whole_model_cannot_be_resumed(world: World) -> None:
    rename_tensors(world.latest / "model.safetensors", lambda name: f"text_model.{name}")
    assert outcome(judge_state(world)) == ("damaged", ["weights-not-lora"])


def test_an_optimizer_of_another_set_of_tensors(world: World) -> None:
    rewrite_torch_zip(world.latest / "optimizer.bin", _without_a_parameter)
    report = judge_state(world)
    assert outcome(report) == ("damaged", ["optimizer-params-mismatch"])
    assert "doesn't match the size of optimizer's group" in report.findings[0].effect


@pytest.mark.parametrize("index", [0, 3])
def test_a_stray_registered_object_is_named(world: World, index: int) -> None:
    add_custom_checkpoint(world.latest, index)
    report = judge_state(world)
    assert outcome(report) == ("needs-fix", ["stray-custom-object"])
    assert found(report, "stray-custom-object").file == f"custom_checkpoint_{index}.pkl"


@pytest.mark.parametrize("add", [add_leftovers, add_process, add_scaler])
def test_harmless_leftovers_change_nothing_but_the_list_of_files(world: World, add: Break) -> None:
    before = judge_state(world)
    add(world.latest)
    after = judge_state(world)
    assert len(after.facts.files) > len(before.facts.files)
    same = replace(after.facts, files=before.facts.files, observed_ns=before.facts.observed_ns)
    # What the saves to come need is reckoned from the size of this one.
    assert replace(after, facts=same, forecast=before.forecast) == before
    assert add is add_process or after.facts.saved_ns == before.facts.saved_ns


def schedule_free(world: World) -> None:
    """The world's latest state and its script, as if the run had been trained by a schedule-free optimizer."""
    make_schedule_free(world.latest)
    world.edit_script(
        lambda text: text.replace("--optimizer_type adafactor", "--optimizer_type AdamWScheduleFree")
    )


def test_a_state_without_a_scheduler_is_ready_when_the_optimizer_needs_none(world: World) -> None:
    schedule_free(world)
    assert outcome(judge_state(world)) == ("ready", [])


def test_random_states_alone_never_damage_a_schedule_free_state(world: World) -> None:
    schedule_free(world)
    remove(world.latest / "random_states_0.pkl")
    assert outcome(judge_state(world)) == ("ready-with-warnings", ["random-states-missing"])


@pytest.mark.parametrize("whole", range(6))
@pytest.mark.parametrize("fraction", [None, 0, 0.5])
def test_a_save_killed_at_any_write(world: World, whole: int, fraction: float | None) -> None:
    if whole == 5 and fraction is not None:
        fraction = None
    interrupt_save(world.latest, whole, fraction)
    report = judge_state(world)
    if whole >= 4:
        assert report.verdict.value == ("ready" if whole == 5 else "ready-with-warnings")
    else:  # with the optimizer whole, the schedule can be written anew
        assert report.verdict.value == ("needs-fix" if whole == 3 else "damaged")
    if whole == 0 and fraction is None:
        assert codes(report) == ["state-empty"]
    for name in STATE_FILES[whole + (fraction is not None) : 5]:
        if name != "train_state.json" and (whole or fraction is not None):
            assert name in [each.file for each in report.findings]


def test_an_unreadable_state_directory_is_unknown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from checkpoint_core.states import discovery

    real = discovery.os.scandir

    def refusing(path: Path) -> object:
        if Path(path) == world.latest:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(discovery.os, "scandir", refusing)
    report = judge_state(world)
    assert outcome(report) == ("unknown", ["state-unreadable"])
    assert "Permission denied" in report.findings[0].message


# accelerate with registered objects

OBJECTS = Layout.ACCELERATE_OBJECTS
REQUIRED = {
    "custom_checkpoint_0.pkl": "custom-object",
    "optimizer.bin": "optimizer",
    "random_states_0.pkl": "random-states",
    "scheduler.bin": "scheduler",
}


@pytest.fixture
def registered(registered_states: Path, tmp_path: Path) -> Path:
    """A copy of the state with one weights file, to break."""
    state = tmp_path / "outputs" / "lone-run" / "safetensors"
    shutil.copytree(registered_states / "safetensors", state)
    return state


@pytest.mark.parametrize("kind", ["safetensors", "bin", "sharded"])
def test_whole_states_with_registered_objects_are_ready(
    registered_states: Path, tmp_path: Path, kind: str
) -> None:
    report = judge_copy(registered_states / kind, tmp_path)
    assert report.facts.layout is OBJECTS
    assert outcome(report) == ("ready", [])
    assert (report.position.epoch, report.position.step) == (3, 24)


@pytest.mark.parametrize("file", REQUIRED)
@pytest.mark.parametrize(("kind", "break_it"), TORCH_BREAKS)
def test_each_required_file_of_the_second_layout(
    registered: Path, tmp_path: Path, file: str, kind: str, break_it: Break
) -> None:
    break_it(registered / file)
    report = judge_copy(registered, tmp_path, OBJECTS)
    code = f"{REQUIRED[file]}-{kind}"
    if (file, kind) == ("custom_checkpoint_0.pkl", "foreign"):
        assert outcome(report) == (
            "unknown",
            ["environment-loads-unchecked"],
        )  # accelerate takes it unseen since 1.1
        return
    assert code in codes(report)
    assert found(report, code).file == file
    # Without them their users do not resume; yet the training's own state is whole.
    lost = "needs-fix" if file == "random_states_0.pkl" else "unknown" if kind in UNTOLD else "damaged"
    assert report.verdict.value == lost


@pytest.mark.parametrize(
    ("kind", "weights"), [("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")]
)
@pytest.mark.parametrize(
    ("damage", "break_it"), [("missing", remove), ("empty", empty), ("truncated", truncate)]
)
def test_the_weights_of_the_second_layout(
    registered_states: Path, tmp_path: Path, kind: str, weights: str, damage: str, break_it: Break
) -> None:
    state = tmp_path / "outputs" / "lone-run" / kind
    shutil.copytree(registered_states / kind, state)
    break_it(state / weights)
    report = judge_copy(state, tmp_path, OBJECTS)
    # Nothing tells any more which of the forms the lost weights had.
    file = "model.safetensors" if damage == "missing" else weights
    assert outcome(report) == ("damaged", [f"weights-{damage}"])
    assert found(report, f"weights-{damage}").file == file


@pytest.mark.parametrize("break_it", [remove, empty, truncate])
def test_a_shard_or_the_index_of_split_weights(
    registered_states: Path, tmp_path: Path, break_it: Break
) -> None:
    shards = sorted(path.name for path in (registered_states / "sharded").glob("model*"))
    assert len(shards) > 2
    for number, name in enumerate(shards):
        folder = tmp_path / str(number)
        state = folder / "outputs" / "lone-run" / "sharded"
        shutil.copytree(registered_states / "sharded", state)
        break_it(state / name)
        report = judge_copy(state, folder, OBJECTS)
        assert report.verdict.value == "damaged", name
        assert codes(report)[0].startswith("weights-"), name


@pytest.mark.parametrize(
    ("record", "evidence"),
    [
        ({"epoch": 3}, "step"),
        ({"step": 24}, "epoch"),
        ({"other": 1}, "step and no epoch"),
        ({"step": "24", "epoch": 3}, "step"),
        ([24, 3], "step and no epoch"),
    ],
)
def test_a_registered_object_without_its_numbers(
    registered: Path, tmp_path: Path, record: object, evidence: str
) -> None:
    remove(registered / "custom_checkpoint_0.pkl")
    add_custom_checkpoint(registered, record=record)
    report = judge_copy(registered, tmp_path, OBJECTS)
    assert outcome(report) == ("damaged", ["custom-object-no-step"])
    assert report.findings[0].evidence == evidence


def test_the_users_layout_outweighs_the_scripts(world: World) -> None:
    report = judge_state(world, layout=OBJECTS)
    assert outcome(report) == ("damaged", ["custom-object-missing"])
    assert (report.facts.layout, report.facts.layout_source) == (OBJECTS, "chosen by you")


def test_no_finding_of_integrity_is_mere_information(world: World) -> None:
    for name in STATE_FILES[1:]:
        remove(world.latest / name)
    assert all(
        each.severity is not Severity.INFO or each.code == "counts-from-zero"
        for each in judge_state(world).findings
    )


@pytest.mark.parametrize(
    ("lost", "told"),
    [({"python"}, "python"), ({"numpy", "torch"}, "numpy and torch"), ({"cuda"}, None)],
)
def test_random_states_that_lack_a_generator(world: World, lost: set[str], told: str | None) -> None:
    facts = judge_state(world).facts
    reading = facts.random_states
    assert isinstance(reading, RandomStatesFacts)
    kept = tuple(name for name in ("python", "numpy", "torch", "cuda") if name not in lost)
    findings = list(check_integrity(replace(facts, random_states=replace(reading, generators=kept))))

    assert [each.code for each in findings] == ["random-states-incomplete"] * (told is not None)
    for each in findings:
        assert each.message == f"random_states_0.pkl lacks the random state of {told}."


def test_a_changed_letter_in_a_tensor_s_name_is_damage(world: World) -> None:
    weights = world.latest / "model.safetensors"
    with times_kept(weights):
        data = weights.read_bytes()
        weights.write_bytes(data.replace(b"img_attn_proj.lora_down", b"img_attn_prok.lora_down", 1))

    report = judge_state(world)

    assert found(report, "weights-names-broken").evidence == (
        "lora_unet_double_blocks_0_img_attn_proj, lora_unet_double_blocks_0_img_attn_prok"
    )
    # The LoRA file of the same save has the right names.
    assert report.verdict.value in ("needs-fix", "unknown")
