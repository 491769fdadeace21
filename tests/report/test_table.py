"""The table: columns and dtypes, raw values, stable order, and the display twin."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import checkpoint_core
from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.reports import AuditReport, UnknownName
from checkpoint_core.report.table import COLUMNS, load_table, to_dataframe, to_display
from checkpoint_core.states.discovery import OutputsFolderError
from tests.damage import edit_train_state, remove, truncate
from tests.world import World

DOCUMENTED = {
    "run": "string",
    "state": "string",
    "verdict": "string",
    "epoch": "Int64",
    "step": "Int64",
    "current_step": "Int64",
    "lifetime_step": "Int64",
    "saved_at": "datetime64[ns, UTC]",
    "size_bytes": "Int64",
    "layout": "string",
    "rank": "Int64",
    "tensor_count": "Int64",
    "optimizer": "string",
    "learning_rate": "Float64",
    "rng_step": "Int64",
    "lora_file": "string",
    "finding_codes": "string",
    "note": "string",
    "path": "string",
}
DISPLAYED = ["State", "Checkpoint", "Epoch", "Step", "Saved", "Size", "What to know"]


def dtypes(table: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in table.dtypes.items()}


def table_of(world: World) -> pd.DataFrame:
    return to_dataframe(Auditor(world.outputs).audit())


def test_columns_and_dtypes_are_exactly_the_documented_ones(world: World) -> None:
    assert COLUMNS == DOCUMENTED
    assert list(COLUMNS) == list(DOCUMENTED)
    assert dtypes(table_of(world)) == DOCUMENTED


def test_no_checkpoints_give_the_same_columns(tmp_path: Path) -> None:
    empty = to_dataframe(AuditReport(tmp_path, 0, (), ()))
    assert len(empty) == 0
    assert dtypes(empty) == DOCUMENTED
    assert list(to_display(empty).columns) == DISPLAYED
    assert len(to_display(empty)) == 0


def test_the_values_of_a_row(world: World) -> None:
    row = table_of(world).iloc[0]
    files = [path.stat() for path in world.latest.iterdir()]
    assert (row["run"], row["state"], row["verdict"]) == (world.run_name, world.latest.name, "ready")
    assert (row["epoch"], row["step"], row["current_step"], row["lifetime_step"]) == (4, 32, 32, 32)
    assert row["size_bytes"] == sum(file.st_size for file in files)
    assert row["saved_at"] == pd.Timestamp(max(file.st_mtime_ns for file in files), unit="ns", tz="UTC")
    assert (row["layout"], row["rank"], row["optimizer"]) == ("sd-scripts", 4, "adafactor")
    assert row["learning_rate"] == pytest.approx(8e-4)
    assert row["lora_file"] == world.lora(4).name
    assert (row["finding_codes"], row["note"]) == ("counts-from-zero", "")
    assert row["path"] == str(world.latest)
    assert row["rng_step"] >= 0
    assert row["tensor_count"] > 10


def test_what_cannot_be_known_is_missing_and_not_zero(world: World) -> None:
    for path in world.latest.iterdir():
        remove(path)
    row = table_of(world).set_index("state").loc[world.latest.name]
    for name in (
        "current_step",
        "lifetime_step",
        "rank",
        "tensor_count",
        "optimizer",
        "learning_rate",
        "rng_step",
    ):
        assert row[name] is pd.NA, name
    assert (row["size_bytes"], row["verdict"]) == (0, "damaged")


def test_damage_is_in_the_codes_with_the_deciding_one_first(world: World) -> None:
    truncate(world.latest / "optimizer.bin")
    remove(world.latest / "random_states_0.pkl")
    row = table_of(world).iloc[0]
    assert row["finding_codes"] == "optimizer-truncated random-states-missing counts-from-zero"
    assert row["note"].startswith("optimizer.bin is truncated")


def test_runs_by_name_and_each_run_s_newest_first(world: World) -> None:
    shutil.copytree(world.run, world.outputs / "another")
    table = table_of(world)
    assert list(table["run"]) == ["another"] * 4 + [world.run_name] * 4
    assert list(table["epoch"]) == [4, 3, 2, 1] * 2
    pd.testing.assert_frame_equal(table, table_of(world))
    assert list(table.index) == list(range(8))


def test_the_display_twin_has_the_same_rows_as_text(world: World) -> None:
    truncate(world.state(3) / "optimizer.bin")
    table = table_of(world)
    shown = to_display(table)
    assert list(shown.columns) == DISPLAYED
    assert set(dtypes(shown).values()) == {"string"}
    assert list(shown["Checkpoint"]) == list(table["state"])
    assert list(shown["State"]) == ["Ready", "Damaged", "Ready", "Ready"]
    assert list(shown["Epoch"]) == ["4", "3", "2", "1"]
    assert shown["Size"].str.contains(r"^\d+(?:\.\d)? [kM]?B$").all()
    assert shown["Saved"].str.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d").all()
    assert list(table["verdict"]) == ["ready", "damaged", "ready", "ready"], "the raw table is left alone"


def test_the_display_twin_names_the_run_where_there_are_several(world: World) -> None:
    shutil.copytree(world.run, world.outputs / "another")
    assert list(to_display(table_of(world)).columns) == ["Run", *DISPLAYED]


def test_the_display_twin_of_what_is_not_known(world: World) -> None:
    lone = world.outputs / "lone" / "copy"
    shutil.copytree(world.latest, lone)
    edit_train_state(lone, current_epoch=None)
    shown = to_display(load_table(world.outputs, "lone"))
    assert list(shown["Epoch"]) == ["–"]
    big = table_of(world).head(1).assign(step=pd.array([12345], dtype="Int64"))
    assert list(to_display(big)["Step"]) == ["12,345"]


def test_one_line_in_a_notebook(world: World) -> None:
    (world.outputs / "other").mkdir()
    table = checkpoint_core.load_table(str(world.outputs), run=world.run_name)
    assert dtypes(table) == DOCUMENTED
    pd.testing.assert_frame_equal(table, load_table(world.outputs))


def test_wrong_names_are_the_caller_s_mistake(world: World) -> None:
    with pytest.raises(UnknownName):
        load_table(world.outputs, "..")
    with pytest.raises(OutputsFolderError):
        load_table(world.outputs / "nowhere")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="only Linux has names that are no text")
def test_names_that_are_no_text_can_be_written_to_a_file(world: World, tmp_path: Path) -> None:
    odd = world.outputs / "a\udcffb"
    world.run.rename(odd)
    (odd / world.latest.name).rename(odd / "x\udcfe<b>-000004-state")
    table = table_of(world)
    assert set(table["run"]) == {r"a\xffb"}
    assert r"x\xfe<b>-000004-state" in list(table["state"])
    table.to_csv(tmp_path / "table.csv")
    to_display(table).to_csv(tmp_path / "shown.csv")
    assert json.loads(table.to_json(orient="records", date_format="iso"))[0]["run"] == r"a\xffb"


@pytest.mark.parametrize("year", [2300, 2400])
def test_a_clock_that_was_far_off_is_no_reason_to_fail(world: World, year: int) -> None:
    at = round((year - 1970) * 365.25 * 86400) * 10**9
    report = Auditor(world.outputs).audit()
    checkpoint = report.runs[0].checkpoints[0]
    files = tuple(replace(entry, modified_ns=at) for entry in checkpoint.facts.files)
    late = replace(checkpoint, facts=replace(checkpoint.facts, files=files))
    table = to_dataframe(replace(report, runs=(replace(report.runs[0], checkpoints=(late,)),)))
    assert dtypes(table) == DOCUMENTED
    assert table["saved_at"].isna().all()
    assert list(to_display(table)["Saved"]) == ["–"]


def test_the_table_needs_no_working_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.root)
    assert load_table("outputs")["path"].iloc[0] == os.path.join("outputs", world.run_name, world.latest.name)
