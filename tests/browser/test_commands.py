"""The commands of ``fluxgym_resume_tab.py``, run as a person runs them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click import unstyle
from playwright.sync_api import Page, expect
from typer.testing import CliRunner

import fluxgym_resume_tab
from checkpoint_core.demo.runs import SAMPLES
from tests.browser.conftest import PROJECT, served, tab_command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = tab_command(*arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A FluxGym folder's app.py."""
    return Path(shutil.copy(PROJECT / "tests" / "stand_in_fluxgym.py", tmp_path / "app.py"))


def test_install_and_uninstall_give_the_file_back(app: Path) -> None:
    original = app.read_bytes()

    assert run("install", "--fluxgym", str(app.parent)).returncode == 0
    installed = app.read_bytes()
    assert installed.count(b"fluxgym-checkpoints") == 2
    again = run("install", "--fluxgym", str(app.parent))
    assert again.returncode == 0
    assert "nothing was changed" in again.stdout
    assert app.read_bytes() == installed

    assert run("uninstall", "--fluxgym", str(app.parent)).returncode == 0
    assert app.read_bytes() == original
    assert [path.name for path in app.parent.iterdir()] == ["app.py"]


def test_an_app_that_is_not_recognised_is_left_alone(app: Path) -> None:
    app.write_text("import gradio as gr\nprint('something else')\n")
    before = app.read_bytes()

    done = run("install", "--fluxgym", str(app.parent))

    assert done.returncode == 1
    assert "was not changed" in done.stderr
    assert app.read_bytes() == before
    assert [path.name for path in app.parent.iterdir()] == ["app.py"]


@pytest.mark.parametrize("command", ["install", "uninstall", "launch", "serve"])
def test_a_wrong_folder_is_a_sentence(tmp_path: Path, command: str) -> None:
    done = run(command, "--fluxgym", str(tmp_path / "nowhere"))

    assert done.returncode == 2
    assert "Give the folder that FluxGym was installed into." in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_serves_the_sample_runs(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = tab_command("demo", "--folder", str(folder), "--port", "PORT")
    with served(command, tmp_path, tmp_path / "server.log") as server:
        page.goto(server.url, wait_until="domcontentloaded")
        expect(page.locator(".ck-headline").first).to_be_visible()
        page.locator("#ck-root").get_by_label("Run").click()
        options = page.get_by_role("option").all_inner_texts()

    assert len(options) == len(SAMPLES)


@pytest.mark.parametrize(
    ("outputs", "says"), [(True, "There are no runs yet"), (False, "There is no folder")]
)
def test_an_empty_or_missing_outputs_folder_explains_itself(
    page: Page, tmp_path: Path, outputs: bool, says: str
) -> None:
    root = tmp_path / "fluxgym"
    (root / "outputs" if outputs else root).mkdir(parents=True)
    command = tab_command("serve", "--fluxgym", str(root), "--port", "PORT")
    with served(command, root, tmp_path / "server.log") as server:
        page.goto(server.url, wait_until="domcontentloaded")
        expect(page.locator("#ck-root .ck-notice").first).to_contain_text(says)


@pytest.mark.parametrize("command", ["demo", "serve", "launch", "install", "uninstall"])
def test_every_command_explains_itself(command: str) -> None:
    ask = CliRunner().invoke
    overview, help_ = (
        ask(fluxgym_resume_tab.cli, ["--help"]),
        ask(fluxgym_resume_tab.cli, [command, "--help"]),
    )

    assert overview.exit_code == help_.exit_code == 0
    assert command in overview.output
    assert ("--folder" if command == "demo" else "--fluxgym") in unstyle(help_.output)
