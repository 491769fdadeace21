"""Planning, showing, carrying out and undoing a change of a run's script, and the script's own world."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from checkpoint_core.atomic_write import WriteFailed
from checkpoint_core.scripts.change import (
    NoScript,
    Receipt,
    Remove,
    ScriptChange,
    ScriptChangedSinceShown,
    ScriptUnreadable,
    SetSwitch,
    SetValue,
    SetValues,
    plan_edits,
    plan_fresh,
    plan_resume,
)
from checkpoint_core.scripts.paths import resume_value
from checkpoint_core.scripts.script import TrainScript, dialect_of
from checkpoint_core.scripts.tokens import Dialect, InexpressiblePath, ScriptNotUnderstood
from tests.cmd_rules import handed_to_accelerate
from tests.fake_accelerate import FakeAccelerate

STATE = "my-lora-000002-state"


def write_script(run: Path, output_dir: str, name: str = "train.sh") -> Path:
    mark, newline = ("^", "\r\n") if name.endswith(".bat") else ("\\", "\n")
    lines = [
        "accelerate launch",
        "  sd-scripts/flux_train_network.py",
        f'  --output_dir "{output_dir}"',
        "  --seed 42 ",
    ]
    path = run / name
    path.write_bytes(f" {mark}{newline}".join(lines).encode() + mark.encode())
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with a script that names it rightly."""
    folder = tmp_path / "fluxgym" / "outputs" / "my-lora"
    folder.mkdir(parents=True)
    write_script(folder, str(folder))
    return folder


def resume_of(path: Path) -> str | None:
    return TrainScript.parse(path.read_bytes(), dialect_of(path)).value("--resume")


def test_a_plan_writes_nothing_and_shows_the_line(run: Path) -> None:
    before = (run / "train.sh").read_bytes()
    change = plan_resume(run, STATE)
    assert (run / "train.sh").read_bytes() == before
    assert change.summary == (f"--resume set to {run / STATE}",)
    assert change.notes == ()
    assert change.diff.splitlines() == [
        "--- a/train.sh",
        "+++ b/train.sh",
        "@@ -1,4 +1,5 @@",
        " accelerate launch \\",
        "   sd-scripts/flux_train_network.py \\",
        f'   --output_dir "{run}" \\',
        "-  --seed 42 \\",
        "\\ No newline at end of file",
        "+  --seed 42 \\",
        f'+  --resume "{run / STATE}" \\',
        "\\ No newline at end of file",
    ]


def test_execute_and_undo(run: Path) -> None:
    path = run / "train.sh"
    before = path.read_bytes()
    receipt = plan_resume(run, STATE).execute()
    assert resume_of(path) == str(run / STATE)
    assert receipt.backup == run / "train.sh.bak"
    assert receipt.before_digest == hashlib.sha256(before).hexdigest()
    assert receipt.after_digest == hashlib.sha256(path.read_bytes()).hexdigest()
    Receipt(receipt.path, receipt.backup, receipt.before_digest, receipt.after_digest).undo()
    assert path.read_bytes() == before


def test_fresh_undoes_resume_to_the_byte(run: Path) -> None:
    before = (run / "train.sh").read_bytes()
    plan_resume(run, STATE).execute()
    change = plan_fresh(run)
    assert change.summary == ("--resume removed",)
    change.execute()
    assert (run / "train.sh").read_bytes() == before


def test_a_change_that_changes_nothing_writes_nothing(run: Path) -> None:
    plan_resume(run, STATE).execute()
    (run / "train.sh.bak").unlink()
    again = plan_resume(run, STATE)
    assert again.is_noop
    assert again.diff == ""
    assert again.summary == (f"--resume is {run / STATE} already",)
    receipt = again.execute()
    assert receipt.backup is None
    assert not (run / "train.sh.bak").exists()
    receipt.undo()
    assert plan_fresh(run).execute().backup == run / "train.sh.bak"


def test_a_script_changed_since_it_was_shown_is_left_alone(run: Path) -> None:
    change = plan_resume(run, STATE)
    (run / "train.sh").write_bytes(b"somebody's edit")
    with pytest.raises(ScriptChangedSinceShown, match="Look at the new preview"):
        change.execute()
    assert (run / "train.sh").read_bytes() == b"somebody's edit"
    assert not (run / "train.sh.bak").exists()


def test_a_script_deleted_since_it_was_shown_is_not_brought_back(run: Path) -> None:
    change = plan_resume(run, STATE)
    (run / "train.sh").unlink()
    with pytest.raises(WriteFailed, match="still exists"):
        change.execute()
    assert not (run / "train.sh").exists()


def test_a_change_that_would_change_nothing_is_refused_once_the_script_is_another(run: Path) -> None:
    """Else “the script already says so” would be told of a script that says something else by now."""
    plan_resume(run, STATE).execute()
    shown = plan_resume(run, STATE)
    assert shown.is_noop
    plan_fresh(run).execute()
    before = (run / "train.sh").read_bytes()
    with pytest.raises(ScriptChangedSinceShown):
        shown.execute()
    assert (run / "train.sh").read_bytes() == before


def test_a_script_that_cannot_be_read_is_told_and_nothing_is_planned(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a user who may not read it; root, who may run these tests, may read everything."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    shown = plan_resume(run, STATE)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    for plan in (lambda: plan_resume(run, STATE), lambda: plan_fresh(run)):
        with pytest.raises(
            ScriptUnreadable, match="could not be read \\(Permission denied\\); nothing was written"
        ):
            plan()
    assert not shown.is_current


def test_undo_never_overwrites_a_later_edit(run: Path) -> None:
    receipt = plan_resume(run, STATE).execute()
    (run / "train.sh").write_bytes(b"somebody's edit")
    with pytest.raises(ScriptChangedSinceShown):
        receipt.undo()
    assert (run / "train.sh").read_bytes() == b"somebody's edit"


def test_undo_finds_the_backup_that_moved_and_says_when_it_is_gone(run: Path) -> None:
    path = run / "train.sh"
    before = path.read_bytes()
    first = plan_resume(run, STATE).execute()
    second = plan_resume(run, "another-state").execute()
    second.undo()
    first.undo()
    assert path.read_bytes() == before
    receipt = plan_resume(run, STATE).execute()
    for backup in run.glob("train.sh.bak*"):
        backup.unlink()
    with pytest.raises(LookupError, match="undo is not possible"):
        receipt.undo()


def test_the_writer_can_be_replaced(run: Path) -> None:
    calls: list[tuple[Path, bytes, bytes | None]] = []

    def write(path: Path, data: bytes, *, expected: bytes | None) -> Path | None:
        calls.append((path, data, expected))
        return None

    change = plan_resume(run, STATE)
    assert change.execute(write).backup is None
    assert calls == [(change.path, change.after, change.before)]


def test_several_edits_are_one_change(run: Path) -> None:
    edits = [
        SetSwitch("--save_state"),
        SetValue("--initial_epoch", "3"),
        Remove("--seed"),
        Remove("--resume"),
    ]
    change = plan_edits(run, edits)
    assert change.summary == (
        "--save_state added",
        "--initial_epoch set to 3",
        "--seed removed",
        "--resume was not set",
    )
    assert b"--seed" not in change.after
    again = plan_edits(run, [SetValue("--seed", "7"), SetSwitch("--sdpa")])
    assert again.summary[0] == "--seed changed from 42 to 7"


def test_a_run_without_a_script_says_who_writes_it(run: Path) -> None:
    with pytest.raises(NoScript, match=r"has no train\.bat.*Start training"):
        plan_resume(run, STATE, dialect=Dialect.BAT)
    (run / "train.sh").unlink()
    with pytest.raises(NoScript, match=r"train\.sh or train\.bat"):
        plan_fresh(run)


def test_a_script_that_is_not_understood_is_not_planned(run: Path) -> None:
    (run / "train.sh").write_text("accelerate launch t.py $EXTRA")
    with pytest.raises(ScriptNotUnderstood, match="Line 1"):
        plan_fresh(run)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0"])
def test_only_plain_names_of_states_are_taken(run: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a folder"):
        plan_resume(run, name)


def world_of(run: Path, output_dir: str, name: str = "train.sh") -> tuple[str, str | None]:
    path = write_script(run, output_dir, name)
    found = resume_value(TrainScript.parse(path.read_bytes(), dialect_of(path)), run, STATE)
    return found.value, found.note


@pytest.mark.parametrize(
    ("output_dir", "value"),
    [
        ("/workspace/fluxgym/outputs/my-lora", f"/workspace/fluxgym/outputs/my-lora/{STATE}"),
        ("/workspace/fluxgym/outputs/my-lora/", f"/workspace/fluxgym/outputs/my-lora/{STATE}"),
        ("C:\\fluxgym\\outputs\\my-lora", f"C:\\fluxgym\\outputs\\my-lora\\{STATE}"),
        ("D:/fluxgym/outputs/my-lora", f"D:\\fluxgym\\outputs\\my-lora\\{STATE}"),
    ],
)
def test_another_machines_path_of_the_same_run_is_used_and_said(
    run: Path, output_dir: str, value: str
) -> None:
    found, note = world_of(run, output_dir)
    assert found == value
    assert note is not None
    assert "another machine's or container's path" in note
    assert str(run) in note


def test_a_network_share_in_a_batch_script(run: Path) -> None:
    found, note = world_of(run, "\\\\nas\\gym\\outputs\\my-lora", "train.bat")
    assert found == f"\\\\nas\\gym\\outputs\\my-lora\\{STATE}"
    assert note is not None


@pytest.mark.parametrize(
    "written", ["outputs/my-lora", "outputs/../outputs/my-lora/", "{run}", "{run}/../my-lora"]
)
def test_this_runs_folder_however_written_gives_the_path_here(run: Path, written: str) -> None:
    assert world_of(run, written.format(run=run)) == (str(run / STATE), None)


def test_a_link_to_this_runs_folder_gives_the_path_here(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "my-lora").symlink_to(run)
    assert world_of(run, str(tmp_path / "link" / "my-lora")) == (str(run / STATE), None)


@pytest.mark.parametrize("output_dir", ["/elsewhere/other-run", "elsewhere/my-lora", "C:\\other"])
def test_another_runs_folder_gives_the_path_here_with_a_note(run: Path, output_dir: str) -> None:
    found, note = world_of(run, output_dir)
    assert found == str(run / STATE)
    assert "is not this run's folder" in (note or "")


@pytest.mark.parametrize(
    ("line", "why"), [("", "no --output_dir"), ('--output_dir "$OUT"', "only when the script runs")]
)
def test_an_unknown_folder_gives_the_path_here_with_the_reason(run: Path, line: str, why: str) -> None:
    script = TrainScript.parse(f"accelerate launch t.py {line}".encode(), Dialect.SH)
    found = resume_value(script, run, STATE)
    assert found.value == str(run / STATE)
    assert why in (found.note or "")


def test_a_relative_run_folder_becomes_absolute(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    assert plan_resume(Path("outputs/my-lora"), STATE).summary == (f"--resume set to {run / STATE}",)


def test_a_batch_script_is_changed_in_its_own_line_ends(run: Path) -> None:
    (run / "train.sh").unlink()
    path = write_script(run, "C:\\gym\\outputs\\my-lora", "train.bat")
    change = plan_resume(run, STATE)
    change.execute()
    assert path.read_bytes().endswith(f'42 ^\r\n  --resume "C:\\gym\\outputs\\my-lora\\{STATE}" ^'.encode())
    assert "\r" not in change.diff
    assert "␍" not in change.diff


def test_line_ends_show_where_the_two_sides_differ_in_them() -> None:
    diff = ScriptChange(Path("train.sh"), b"a\r\nb\n", b"a\nb\n").diff
    assert "-a␍\n" in diff
    assert "+a\n" in diff


def test_letters_that_need_a_code_page_are_noted_for_cmd(run: Path) -> None:
    write_script(run, "C:\\größe\\my-lora", "train.bat")
    assert any("chcp 65001" in note for note in plan_resume(run, STATE, dialect=Dialect.BAT).notes)
    assert plan_resume(run, "größe-state", dialect=Dialect.SH).notes == ()


def test_a_path_that_cmd_cannot_carry_stops_the_plan(run: Path) -> None:
    write_script(run, "C:\\x\\my-lora", "train.bat")
    with pytest.raises(InexpressiblePath, match="rename"):
        plan_resume(run, 'a"b', dialect=Dialect.BAT)


@pytest.mark.skipif(os.name == "nt", reason="file modes of POSIX systems")
def test_the_script_stays_executable(run: Path) -> None:
    (run / "train.sh").chmod(0o755)
    plan_resume(run, STATE).execute()
    assert os.access(run / "train.sh", os.X_OK)


# Flags with several values


ARGUMENTS = ("train_blocks=single", 'note=a "b" $c')


def test_several_values_are_set_in_the_words_of_the_other_edits(run: Path) -> None:
    wanted = [SetValues("--network_args", ("a=1", "b=2"))]
    first = plan_edits(run, wanted)
    first.execute()
    again = plan_edits(run, wanted)
    other = plan_edits(run, [SetValues("--network_args", ("c=3",))])

    assert first.summary == ("--network_args set to a=1 b=2",)
    assert (again.is_noop, again.summary) == (True, ("--network_args is a=1 b=2 already",))
    assert other.summary == ("--network_args changed from a=1 b=2 to c=3",)
    assert [line for line in other.diff.splitlines()[2:] if line[0] in "+-"] == [
        '-  --network_args "a=1" "b=2" \\',
        '+  --network_args "c=3" \\',
    ]


def test_a_flag_without_its_values_is_told(run: Path) -> None:
    path = run / "train.sh"
    path.write_bytes(path.read_bytes().replace(b"--seed 42", b"--network_args --seed 42"))
    change = plan_edits(run, [SetValues("--network_args", ("a=1",))])
    assert change.summary == ("--network_args changed from nothing to a=1",)


def test_the_real_bash_hands_over_every_value(run: Path, tmp_path: Path) -> None:
    fake = FakeAccelerate(tmp_path / "fake")
    before = fake.arguments((run / "train.sh").read_bytes())
    after = fake.arguments(plan_edits(run, [SetValues("--network_args", ARGUMENTS)]).after)
    assert after == [*before, "--network_args", *ARGUMENTS]


def test_several_values_in_a_batch_script_keep_its_line_ends(run: Path) -> None:
    (run / "train.sh").unlink()
    path = write_script(run, "C:\\gym\\outputs\\my-lora", "train.bat")
    before = path.read_bytes()
    change = plan_edits(run, [SetValues("--optimizer_args", ("a=50%", "b=c d"))])

    assert change.after.count(b"\r\n") == change.after.count(b"\n") == before.count(b"\r\n") + 1
    assert b'"a=50%%" "b=c d"' in change.after
    (handed,) = handed_to_accelerate(change.after.decode())
    assert handed[-3:] == ["--optimizer_args", "a=50%", "b=c d"]
    read = TrainScript.parse(change.after, Dialect.BAT)
    assert read.values("--optimizer_args") == ("a=50%", "b=c d")
    assert read.without("--optimizer_args").to_bytes() == before


def test_several_values_are_not_set_where_a_variable_may_hold_the_flag(run: Path) -> None:
    path = run / "train.sh"
    path.write_bytes(path.read_bytes().replace(b"--seed 42", b"$MORE --seed 42"))
    with pytest.raises(ScriptNotUnderstood, match="may hold further flags"):
        plan_edits(run, [SetValues("--network_args", ("a=1",))])


def test_no_value_at_all_is_the_callers_mistake(run: Path) -> None:
    with pytest.raises(ValueError, match="none was given"):
        plan_edits(run, [SetValues("--network_args", ())])
