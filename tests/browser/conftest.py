"""A real browser on a real server: the tab alone, or mounted in a stand-in with FluxGym's structure."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, TimeoutError, expect, sync_playwright

PROJECT = Path(__file__).resolve().parents[2]
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
START_SECONDS = 90

#: Generous: the machine may be busy, and a passing test never waits so long.
expect.set_options(timeout=30_000)


def chromium() -> str:
    """The browser to drive; without one a person's tests are skipped, and CI fails."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        message = "no Chromium on PATH: install it, or set CHROMIUM to its path"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a worker."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=_ARGUMENTS)
        yield started
        started.close()


#: The page's refresh every ten seconds, kept for :func:`refresh_quietly`: a test says when time passes. Where it came
#: by itself between a test's change of the disk and its press, the page had rightly shown the change already.
_HOLD_THE_CLOCK = """
const tick = window.setInterval.bind(window);
window.setInterval = (act, milliseconds, ...more) => {
  if (milliseconds !== 10000) return tick(act, milliseconds, ...more);
  window.tenSecondsPass = act;
  return 0;
};
"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page, 1280 pixels wide, whose ten seconds pass when :func:`refresh_quietly` says so."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.add_init_script(_HOLD_THE_CLOCK)
    opened = context.new_page()
    yield opened
    context.close()


@dataclass(frozen=True)
class Server:
    """A server under test: its address, FluxGym's folder, and what it printed."""

    url: str
    root: Path
    log: Path

    @property
    def outputs(self) -> Path:
        """FluxGym's outputs folder."""
        return self.root / "outputs"


def tab_command(*arguments: str) -> list[str]:
    """The command line of the tab's own program; ``PORT`` in it is filled in by :func:`served`."""
    return [sys.executable, str(PROJECT / "fluxgym_resume_tab.py"), *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started: asked first, so that coverage can write down what it saw."""
    for asked in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, asked)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
            return


@contextmanager
def served(command: list[str], root: Path, log: Path) -> Iterator[Server]:
    """Run a server on a free port until the block ends; its whole process group is ended with it."""
    port = _free_port()
    environment = {
        **os.environ,
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.replace("PORT", str(port)) for part in command],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
        yield Server(url, root, log)
    finally:
        _end(process)


@pytest.fixture(scope="session")
def alone(real_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The tab alone, on a copy of the real runs with their times kept; a test that changes one adds its own."""
    root = tmp_path_factory.mktemp("alone") / "fluxgym"
    shutil.copytree(real_runs, root / "outputs")
    command = tab_command("serve", "--fluxgym", str(root), "--port", "PORT")
    with served(command, root, root.parent / "server.log") as server:
        yield server


AddRun = Callable[..., Path]


@pytest.fixture
def add_run(real_runs: Path) -> Iterator[AddRun]:
    """Add a copy of a real run to a server's outputs under a name of its own, its script pointing at it."""
    added: list[Path] = []

    def add(server: Server, name: str, source: str = "accelerate-1.6.0-adafactor", epochs: int = 9) -> Path:
        run = server.outputs / name
        shutil.copytree(real_runs / source, run)
        script = run / "train.sh"
        text = script.read_text(encoding="utf-8")
        text = text.replace(f"/workspace/fluxgym/outputs/{source}", "OUT")
        text = re.sub(r"--max_train_epochs \d+", f"--max_train_epochs {epochs}", text)
        quoted = str(run).replace("'", "'\\''")
        text = text.replace('--output_dir "OUT"', f"--output_dir '{quoted}'")
        text = text.replace('"OUT/dataset.toml"', f"'{quoted}/dataset.toml'")
        script.write_bytes(os.fsencode(text))
        _add_images(run)
        added.append(run)
        return run

    yield add
    for run in added:
        shutil.rmtree(run, ignore_errors=True)


def _add_images(run: Path) -> None:
    """The four images, twice an epoch, with which the real runs were trained."""
    images = run / "images"
    images.mkdir()
    for number in range(4):
        (images / f"{number}.png").touch()
    config = run / "dataset.toml"
    text = config.read_text(encoding="utf-8").replace("'/workspace/fluxgym/datasets/tiny-lora'", '"IMAGES"')
    config.write_text(text.replace("IMAGES", json.dumps(str(images))[1:-1]), encoding="utf-8")


OpenTab = Callable[[Server], Page]


@pytest.fixture
def open_tab(page: Page) -> OpenTab:
    """Open the tab of a server and wait until it shows a run."""

    def opened(server: Server) -> Page:
        page.goto(server.url, wait_until="domcontentloaded")
        expect(page.locator(".ck-headline").first).to_be_visible()
        return page

    return opened


def pick(page: Page, name: str) -> None:
    """Pick a run in the picker."""
    field = page.locator("#ck-root").get_by_label("Run")
    field.click()
    page.get_by_role("option").filter(has_text=name).first.click()
    expect(field).to_have_value(re.compile(rf"^{re.escape(name)} \("))
    # Other runs have checkpoints of the same names: wait for the table of this one.
    page.wait_for_function(
        "(name) => document.querySelector('#ck-root .ck-table')?.dataset.ckRun === name", arg=name
    )


def row(page: Page, name: str) -> Locator:
    """The table's row of a checkpoint."""
    return page.locator(f'.ck-row[data-ck-value="{name}"]')


def select(page: Page, name: str) -> None:
    """Select a checkpoint with the mouse and wait until its panel is there."""
    row(page, name).click()
    expect(page.locator(".ck-title .ck-quiet")).to_have_text(name)


def resume_button(page: Page) -> Locator:
    """The button that writes the script."""
    return page.get_by_role("button", name="Resume from this checkpoint")


def refresh_quietly(page: Page) -> None:
    """Let ten seconds pass: the page refreshes by itself. Gradio drops a press while the one before is under way."""
    poll = page.evaluate("window.gradio_config.components.find((it) => it.props.elem_id === 'ck-poll').id")

    def is_refresh(request: Request) -> bool:
        sent = json.loads(request.post_data or "{}") if "queue/join" in request.url else {}
        return sent.get("trigger_id") == poll

    for _ in range(60):
        with suppress(TimeoutError), page.expect_request(is_refresh, timeout=500):
            page.evaluate("window.tenSecondsPass()")
            return
    pytest.fail("the page did not refresh by itself")
