"""The rehearsal on the page, and the training interpreter: which one it is, and what its versions do to a verdict."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import AddRun, OpenTab, Server, pick, resume_button, select, served, tab_command

SECOND = "tiny-lora-000002-state"


def rehearse(page: Page) -> None:
    page.get_by_role("button", name="Rehearse resume").click()


@contextmanager
def server_with_accelerate(version: str, real_runs: Path, folder: Path) -> Iterator[Server]:
    """The tab in an environment whose accelerate says that it is of another version."""
    place = folder / "packages" / f"accelerate-{version}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: accelerate\nVersion: {version}\n")
    root = folder / "fluxgym"
    shutil.copytree(real_runs / "accelerate-1.6.0-adafactor", root / "outputs" / "cat")
    command = tab_command("serve", "--fluxgym", str(root), "--port", "PORT")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(place.parent))
        with served(command, root, folder / "server.log") as server:
            yield server


@pytest.fixture(scope="module")
def unusual(real_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An accelerate that nobody has tried; what really loads is the installed one."""
    with server_with_accelerate("9.0", real_runs, tmp_path_factory.mktemp("unusual")) as server:
        yield server


@pytest.fixture(scope="module")
def famous(real_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An accelerate that stops over random states."""
    with server_with_accelerate("0.33.0", real_runs, tmp_path_factory.mktemp("famous")) as server:
        yield server


def test_a_good_checkpoint_is_loaded_for_trial(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "accelerate-1.6.0-adafactor")
    select(page, SECOND)

    rehearse(page)

    expect(page.locator("#ck-root progress")).to_be_visible()
    expect(page.locator("#ck-root")).to_contain_text("The real Accelerator.load_state loaded it in ")
    told = page.locator(".ck-panel details").filter(has_text="Good to know").first
    expect(told).to_contain_text("rehearsal-passed")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(resume_button(page)).to_be_enabled()


def test_a_rehearsal_can_be_cancelled(alone: Server, open_tab: OpenTab) -> None:
    page = open_tab(alone)
    pick(page, "accelerate-1.6.0-adamw8bit")
    select(page, SECOND)
    rehearse(page)
    expect(page.locator("#ck-root progress")).to_be_visible()

    page.get_by_role("button", name="Cancel").click()

    expect(page.locator("#ck-root")).to_contain_text("Cancelled. Nothing was changed.")
    expect(page.locator(".ck-panel")).not_to_contain_text("rehearsal-")


def test_what_is_not_plain_data_is_not_rehearsed_and_the_reason_is_shown(
    alone: Server, open_tab: OpenTab, add_run: AddRun
) -> None:
    run = add_run(alone, "stray")
    (run / SECOND / "custom_checkpoint_0.pkl").write_bytes(
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    )
    page = open_tab(alone)
    pick(page, run.name)
    select(page, SECOND)

    rehearse(page)

    expect(page.locator("#ck-root")).to_contain_text("Not rehearsed: ")
    expect(page.locator("#ck-root")).to_contain_text("custom_checkpoint_0.pkl")


def test_versions_that_nobody_has_tried_are_tried_before_the_script_is_changed(
    unusual: Server, open_tab: OpenTab
) -> None:
    page = open_tab(unusual)
    pick(page, "cat")
    select(page, SECOND)
    expect(page.locator(".ck-panel")).to_contain_text("environment-unusual")
    script = unusual.outputs / "cat" / "train.sh"
    assert "--resume" not in script.read_text(encoding="utf-8")

    resume_button(page).click()

    expect(page.locator("#ck-root")).to_contain_text("Rehearsing Epoch 2 with the training interpreter")
    expect(page.locator("#ck-result")).to_contain_text("The train script now resumes from epoch 2.")
    expect(page.locator(".ck-panel")).to_contain_text("rehearsal-passed")
    assert "--resume" in script.read_text(encoding="utf-8")


def test_cancelling_that_trial_leaves_the_script_alone(unusual: Server, open_tab: OpenTab) -> None:
    page = open_tab(unusual)
    pick(page, "cat")
    select(page, "tiny-lora-000001-state")
    script = unusual.outputs / "cat" / "train.sh"
    before = script.read_bytes()
    resume_button(page).click()
    expect(page.locator("#ck-root progress")).to_be_visible()

    page.get_by_role("button", name="Cancel").click()

    expect(page.locator("#ck-result")).to_contain_text(
        "It was not rehearsed to the end; nothing was changed."
    )
    assert script.read_bytes() == before


def test_a_fine_checkpoint_in_an_environment_that_cannot_load_it(famous: Server, open_tab: OpenTab) -> None:
    page = open_tab(famous)
    pick(page, "cat")
    select(page, SECOND)

    panel = page.locator(".ck-panel")
    expect(panel).to_contain_text("The checkpoint is fine; this environment cannot load it as it is.")
    expect(panel).to_contain_text("KeyError: 'step'")
    expect(panel).to_contain_text("accelerate>=1.1")
    expect(resume_button(page)).to_be_disabled()


def test_the_python_that_trains_is_shown_under_the_options(famous: Server, open_tab: OpenTab) -> None:
    page = open_tab(famous)
    page.get_by_role("button", name="Options").click()

    expect(page.get_by_label("Training interpreter")).to_have_value("Automatic")
    expect(page.locator("#ck-root")).to_contain_text("Training environment: Python 3.")
    expect(page.locator("#ck-root")).to_contain_text("accelerate 0.33.0")
