"""The tab inside a host with FluxGym's structure, added in both ways: by `launch`, and by the two installed lines."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PROJECT, AddRun, Server, pick, resume_button, select, served, tab_command
from tests.fake_accelerate import FakeAccelerate, trainer_reads

SECOND = "tiny-lora-000002-state"
RESUME_BOX = '[id="--resume"] textarea, [id="--resume"] input'


def make_host(root: Path, real_runs: Path) -> Path:
    """A FluxGym folder: the stand-in as app.py, and the real runs as its outputs."""
    root.mkdir(parents=True)
    shutil.copy(PROJECT / "tests" / "stand_in_fluxgym.py", root / "app.py")
    shutil.copytree(real_runs, root / "outputs")
    return root


@pytest.fixture(scope="module", params=["launch", "install"])
def mounted(
    request: pytest.FixtureRequest, real_runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The host with the tab in it."""
    root = make_host(tmp_path_factory.mktemp("mounted") / "fluxgym", real_runs)
    command = tab_command("launch", "--fluxgym", str(root))
    if request.param == "install":
        subprocess.run(tab_command("install", "--fluxgym", str(root)), check=True, capture_output=True)
        command = [sys.executable, "app.py"]
    with served(command, root, root.parent / "server.log") as server:
        yield server


def open_checkpoints(page: Page, server: Server) -> Page:
    page.goto(server.url, wait_until="domcontentloaded")
    page.get_by_role("tab", name="Checkpoints").click()
    expect(page.locator(".ck-headline").first).to_be_visible()
    return page


def gym_script(page: Page) -> str:
    """What the host's "Train script" box holds, its tab opened."""
    page.get_by_role("tab", name="Gym").click()
    return page.get_by_role("textbox", name="Train script").input_value()


def test_the_tab_stands_beside_the_hosts_own(mounted: Server, page: Page) -> None:
    open_checkpoints(page, mounted)

    names = page.get_by_role("tab").all_inner_texts()
    assert [name.strip() for name in names] == ["Gym", "Publish", "Checkpoints"]
    pick(page, "resumed-once")
    expect(page.locator(".ck-row")).to_have_count(6)


def test_a_resume_is_carried_into_the_gym_tab_and_undone_there(
    mounted: Server, page: Page, add_run: AddRun, tmp_path: Path
) -> None:
    run = add_run(mounted, "my-lora")
    open_checkpoints(page, mounted)
    pick(page, run.name)
    select(page, SECOND)
    resume_button(page).click()

    expect(page.locator("#ck-result")).to_contain_text("The Gym tab was updated too")
    script = gym_script(page)
    stand_in = FakeAccelerate(tmp_path / "bash")
    arguments = stand_in.arguments(script.encode())
    assert trainer_reads(arguments)[0] == str(run / SECOND)
    assert "--save_state" in arguments
    # Gradio 6 puts what a closed accordion holds into the page only when it is opened.
    page.get_by_role("button", name="Advanced options").click()
    assert page.locator(RESUME_BOX).first.input_value() == f'"{run / SECOND}"'
    expect(page.locator('[id="--save_state"] input')).to_be_checked()

    page.get_by_role("tab", name="Checkpoints").click()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#ck-result")).to_contain_text("its --resume is empty")
    assert page.locator(RESUME_BOX).first.input_value() == ""
    assert "--resume" not in gym_script(page)


def test_a_repair_of_the_script_is_carried_into_the_gym_tab(
    mounted: Server, page: Page, add_run: AddRun, tmp_path: Path
) -> None:
    run = add_run(mounted, "carried", source="resumed-once")
    open_checkpoints(page, mounted)
    pick(page, run.name)
    select(page, "tiny-lora-000004-state")
    page.get_by_role("button", name="Repair and resume", exact=True).click()
    expect(page.locator("#ck-result")).to_contain_text("The Gym tab was updated too")

    arguments = FakeAccelerate(tmp_path / "bash").arguments(gym_script(page).encode())
    assert trainer_reads(arguments)[0] == str(run / "tiny-lora-000004-state")
    assert arguments[arguments.index("--initial_epoch") + 1] == "5"
    page.get_by_role("tab", name="Checkpoints").click()
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#ck-result")).to_contain_text("its --resume is empty")
    assert "--initial_epoch" not in gym_script(page)


def resumed_in_gym(page: Page, server: Server, run: Path) -> None:
    """Resume a run in the tab, and open the Gym tab that it was carried into, with its advanced options."""
    open_checkpoints(page, server)
    pick(page, run.name)
    select(page, SECOND)
    resume_button(page).click()
    expect(page.locator("#ck-result")).to_contain_text("The Gym tab was updated too")
    page.get_by_role("tab", name="Gym").click()
    page.get_by_role("button", name="Advanced options").click()
    expect(page.locator(RESUME_BOX).first).to_have_value(f'"{run / SECOND}"')


def test_another_loras_name_takes_the_resume_out_of_the_gym_and_its_own_brings_it_back(
    mounted: Server, page: Page, add_run: AddRun
) -> None:
    run = add_run(mounted, "first-lora")
    resumed_in_gym(page, mounted, run)
    name, script = (
        page.get_by_label("The name of your LoRA"),
        page.get_by_role("textbox", name="Train script"),
    )

    name.press_sequentially(" two")

    # It goes away by itself after ten seconds.
    expect(page.get_by_text("no longer set in the Gym tab")).to_be_visible()
    expect(page.locator(RESUME_BOX).first).to_have_value("")
    expect(page.locator('[id="--save_state"] input')).not_to_be_checked()
    expect(script).to_have_value(re.compile("--output_name first-lora-two"))
    expect(script).not_to_have_value(re.compile("--resume"))
    # FluxGym's own refresh comes a second after the typing; it must not bring the resume back.
    page.evaluate("new Promise((done) => setTimeout(done, 1800))")
    expect(name).to_have_value(f"{run.name} two")
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#terminal")).to_contain_text("first-lora-two")
    written = mounted.outputs / "first-lora-two" / "train.sh"
    assert "--resume" not in written.read_text()
    shutil.rmtree(written.parent)

    name.fill("First LoRA")

    expect(page.locator(RESUME_BOX).first).to_have_value(f'"{run / SECOND}"')
    expect(script).to_have_value(re.compile("--resume .*first-lora"))


def test_what_somebody_typed_into_the_gym_stays_there(mounted: Server, page: Page, add_run: AddRun) -> None:
    run = add_run(mounted, "typed-lora")
    resumed_in_gym(page, mounted, run)
    page.locator(RESUME_BOX).first.fill("mine")

    page.get_by_label("The name of your LoRA").fill("Another")

    expect(page.locator('[id="--save_state"] input')).not_to_be_checked()
    expect(page.locator(RESUME_BOX).first).to_have_value("mine")


def test_what_the_gym_would_write_otherwise_is_set_or_shown(
    mounted: Server, page: Page, add_run: AddRun
) -> None:
    run = add_run(mounted, "other-lora", epochs=11)
    script = run / "train.sh"
    script.write_text(script.read_text().rstrip("\n \\") + " \\\n  --loss_type huber\n")
    resumed_in_gym(page, mounted, run)

    expect(page.get_by_label("Max Train Epochs")).to_have_value("11")
    page.get_by_role("tab", name="Checkpoints").click()
    expect(page.locator("#ck-result")).to_contain_text("“Start training” there would still write")
    expect(page.locator("#ck-result")).not_to_contain_text("--max_train_epochs")


def test_start_training_keeps_what_was_chosen(
    mounted: Server, page: Page, add_run: AddRun, tmp_path: Path
) -> None:
    run = add_run(mounted, "kept-lora")
    open_checkpoints(page, mounted)
    pick(page, run.name)
    select(page, SECOND)
    resume_button(page).click()
    expect(page.locator("#ck-result")).to_contain_text("The Gym tab was updated too")
    page.get_by_role("tab", name="Gym").click()
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#terminal")).to_contain_text("wrote ")

    arguments = FakeAccelerate(tmp_path / "bash").arguments((run / "train.sh").read_bytes())

    assert trainer_reads(arguments)[0] == str(run / SECOND)
    assert "kept-lora" in arguments


def test_a_gym_tab_set_up_for_another_lora_is_left_alone(
    mounted: Server, page: Page, add_run: AddRun
) -> None:
    run = add_run(mounted, "this-lora")
    page.goto(mounted.url, wait_until="domcontentloaded")
    page.get_by_label("The name of your LoRA").fill("Another LoRA")
    page.get_by_role("tab", name="Checkpoints").click()
    pick(page, run.name)
    resume_button(page).click()

    expect(page.locator("#ck-result")).to_contain_text("set up for “Another LoRA”")
    assert b"--resume" in (run / "train.sh").read_bytes()
    assert "--resume" not in gym_script(page)


def test_the_hosts_autoscroll_does_not_tear_the_tab_away(mounted: Server, page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 500})
    open_checkpoints(page, mounted)
    pick(page, "resumed-once")
    button = page.locator("#autoscroll")
    expect(button).to_have_class("on")  # no longer hidden: the host follows its log
    page.evaluate("document.documentElement.scrollTop = 40")
    # Two turns of the host's own clock, which ticks every 500 ms.
    page.evaluate("new Promise((done) => setTimeout(done, 1200))")

    assert page.evaluate("window.scrollY") == 40
    page.get_by_role("tab", name="Gym").click()
    page.wait_for_function("window.scrollY + window.innerHeight >= document.body.scrollHeight - 2")


def test_what_happens_in_the_tab_does_not_refresh_the_hosts_script(mounted: Server, page: Page) -> None:
    open_checkpoints(page, mounted)
    page.evaluate("window.typed = 0; document.addEventListener('input', () => { window.typed += 1; })")
    pick(page, "resumed-once")
    page.locator("#ck-root").get_by_label("Run").press_sequentially("kil")
    page.keyboard.press("Escape")
    select(page, "tiny-lora-000001-state")

    assert page.evaluate("window.typed") == 0


def config_of(server: Server, browser_page: Page) -> dict[str, object]:
    browser_page.goto(server.url, wait_until="domcontentloaded")
    expect(browser_page.get_by_role("tab").first).to_be_visible()
    keys = ["css", "theme", "theme_hash", "title", "fill_width", "show_error"]
    return dict(
        browser_page.evaluate("(keys) => keys.map((key) => [key, window.gradio_config[key]])", arg=keys)
    )


def test_theme_style_and_load_events_stay_the_hosts_own(
    mounted: Server, page: Page, real_runs: Path, tmp_path: Path
) -> None:
    events = (
        "window.gradio_config.dependencies.filter((it) => it.targets.some((at) => at[1] === 'load')).length"
    )
    with_tab = config_of(mounted, page)
    loads_with_tab = page.evaluate(events)
    root = make_host(tmp_path / "fluxgym", real_runs)
    with served([sys.executable, "app.py"], root, tmp_path / "server.log") as plain:
        assert config_of(plain, page) == with_tab
        # Ours is the one that brings the page's script.
        assert loads_with_tab == page.evaluate(events) + 1


HOSTS = {
    "no-components": (
        "with gr.Blocks() as demo:\n    with gr.Tabs() as tabs:\n"
        "        with gr.TabItem('Gym'):\n            gr.Markdown('hello')\n"
    ),
    "no-tabs": "with gr.Blocks() as demo:\n    gr.Markdown('hello')\n",
}


@pytest.mark.parametrize(("host", "says"), [("no-components", "--resume"), ("no-tabs", None)])
def test_another_host_still_starts(
    page: Page, real_runs: Path, tmp_path: Path, host: str, says: str | None
) -> None:
    root = tmp_path / "fluxgym"
    shutil.copytree(real_runs, root / "outputs")
    program = (
        f"import sys; sys.path.append({str(PROJECT)!r})\nimport gradio as gr, fluxgym_resume_tab\n{HOSTS[host]}"
        f"    fluxgym_resume_tab.mount(demo, {str(root)!r})\ndemo.launch()\n"
    )
    (root / "app.py").write_text(program)
    with served([sys.executable, "app.py"], root, tmp_path / "server.log") as server:
        page.goto(server.url, wait_until="domcontentloaded")
        expect(page.get_by_text("hello")).to_be_visible()
        if says is None:
            assert "The Checkpoints tab was not added" in server.log.read_text()
            return
        page.get_by_role("tab", name="Checkpoints").click()
        expect(page.locator(".ck-headline").first).to_be_visible()
        pick(page, "resumed-once")
        page.get_by_role("button", name="Options").click()
        expect(page.locator("#ck-root")).to_contain_text("Not connected to FluxGym's Gym tab")
        expect(page.locator("#ck-root")).to_contain_text(says)
        expect(resume_button(page)).to_be_enabled()


def test_a_defect_in_the_tab_leaves_the_host_as_it_was(page: Page, real_runs: Path, tmp_path: Path) -> None:
    root = make_host(tmp_path / "fluxgym", real_runs)
    subprocess.run(tab_command("install", "--fluxgym", str(root)), check=True, capture_output=True)
    broken = (
        f"import runpy, sys; sys.path.append({str(PROJECT)!r})\n"
        "from checkpoint_core.tab.ui.wiring import script\nwire = script.wire\n"
        "def fail(*arguments):\n    wire(*arguments)\n    raise RuntimeError('a defect')\n"
        "script.wire = fail\n"
        f"runpy.run_path({str(root / 'app.py')!r}, run_name='__main__')\n"
    )
    (root / "start.py").write_text(broken)
    with served([sys.executable, "start.py"], root, tmp_path / "server.log") as server:
        page.goto(server.url, wait_until="domcontentloaded")
        expect(page.get_by_label("The name of your LoRA")).to_be_visible()
        names = [name.strip() for name in page.get_by_role("tab").all_inner_texts()]
        components = page.evaluate("window.gradio_config.components.map((it) => it.props.elem_id)")

        assert names == ["Gym", "Publish"]
        assert not [name for name in components if str(name).startswith("ck-")]
        assert "RuntimeError: a defect" in server.log.read_text()
