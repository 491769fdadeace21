"""The named endpoints, by gradio_client: names in, JSON out, and nothing else."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from tests.browser.conftest import AddRun, Server

NAMED = ["/apply_resume", "/check", "/checkpoint_table", "/diagnosis_report", "/preview_resume", "/runs"]
SECOND = "tiny-lora-000002-state"


@pytest.fixture(scope="module")
def client(alone: Server) -> Client:
    return Client(alone.url, verbose=False)


def test_the_six_are_named_and_no_other(client: Client) -> None:
    endpoints: Any = client.view_api(return_format="dict")

    assert sorted(endpoints["named_endpoints"]) == NAMED


def test_runs_and_their_tables(client: Client) -> None:
    runs = {run["run"]: run for run in client.predict(api_name="/runs")}
    table = client.predict("resumed-once", api_name="/checkpoint_table")

    assert runs["resumed-once"]["latest_resumable"] == SECOND
    assert [(row["epoch"], row["verdict"]) for row in table][-2:] == [(2, "ready"), (1, "ready")]
    wanted = {
        "run",
        "state",
        "directory",
        "layout",
        "epoch",
        "step",
        "size_bytes",
        "saved_at",
        "verdict",
        "findings",
    }
    assert wanted <= set(table[0])


def test_check_tells_the_findings(client: Client) -> None:
    checked = client.predict("killed-while-overwriting", SECOND, api_name="/check")

    assert checked["verdict"] == "damaged"
    assert checked["findings"][0]["code"] == "mixed-saves"


def test_preview_writes_nothing_and_apply_does(client: Client, alone: Server, add_run: AddRun) -> None:
    run = add_run(alone, "by-api")
    before = (run / "train.sh").read_bytes()

    shown = client.predict("by-api", SECOND, api_name="/preview_resume")
    assert shown["resumes"]
    assert "+  --resume" in shown["diff"]
    assert (run / "train.sh").read_bytes() == before

    applied = client.predict("by-api", SECOND, api_name="/apply_resume")
    assert applied["applied"]
    assert applied["backup"] == "train.sh.bak"
    assert str(run / SECOND).encode() in (run / "train.sh").read_bytes()


def test_a_damaged_one_is_not_applied(client: Client, alone: Server) -> None:
    script = alone.outputs / "killed-while-overwriting" / "train.sh"
    before = script.read_bytes()

    applied = client.predict("killed-while-overwriting", SECOND, api_name="/apply_resume")

    assert not applied["applied"]
    assert "two saves" in applied["reason"]
    assert script.read_bytes() == before


def test_the_report_is_a_zip(client: Client) -> None:
    path = client.predict("killed-in-rng", api_name="/diagnosis_report")

    with zipfile.ZipFile(io.BytesIO(Path(path).read_bytes())) as archive:
        assert any(name.endswith("diagnosis.md") for name in archive.namelist())


@pytest.mark.parametrize(
    "run", ["", ".", "..", "../fluxgym", "/etc", "resumed-once/..", "a/b", "nothing-of-that-name"]
)
def test_what_is_no_run_is_refused(client: Client, run: str) -> None:
    for endpoint, arguments in (
        ("/checkpoint_table", [run]),
        ("/check", [run, SECOND]),
        ("/diagnosis_report", [run]),
    ):
        with pytest.raises(Exception, match=r"no run|error"):
            client.predict(*arguments, api_name=endpoint)


@pytest.mark.parametrize(
    "checkpoint", ["", "..", "../killed-in-rng/tiny-lora-000001-state", "/etc", "train.sh"]
)
def test_what_is_no_checkpoint_is_refused(
    client: Client, alone: Server, add_run: AddRun, checkpoint: str
) -> None:
    run = add_run(alone, "guarded")
    before = (run / "train.sh").read_bytes()
    for endpoint in ("/check", "/preview_resume", "/apply_resume"):
        with pytest.raises(Exception, match=r"no checkpoint|error"):
            client.predict("guarded", checkpoint, api_name=endpoint)

    assert (run / "train.sh").read_bytes() == before


def test_a_run_behind_a_link_that_leads_out_is_no_run(client: Client, alone: Server, tmp_path: Path) -> None:
    shutil.copytree(alone.outputs / "killed-in-rng", tmp_path / "outside")
    link = alone.outputs / "link-out"
    link.symlink_to(tmp_path / "outside", target_is_directory=True)
    try:
        assert "link-out" not in {run["run"] for run in client.predict(api_name="/runs")}
        with pytest.raises(Exception, match=r"no run|error"):
            client.predict("link-out", api_name="/checkpoint_table")
    finally:
        link.unlink()
