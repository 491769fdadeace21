"""What the tab adds to FluxGym's page: time until it is usable, with the tab and without, in a real browser.

``FLUXGYM=PATH python -m benchmarks page`` measures in a real FluxGym (with the Python of its environment, to which
Playwright is added). Without it the host is the tests' stand-in, whose page is far smaller: there the tab also pays
for kinds of components that FluxGym's own page loads anyway, so the figure is an upper bound.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_RUNS = 7


def main() -> None:
    """Print the median page times and their difference; target: under 150 ms in FluxGym."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.environ.get("FLUXGYM") or _stand_in(Path(name)))
        alone = _page_time([sys.executable, "app.py"], folder)
        command = [sys.executable, str(_ROOT / "fluxgym_resume_tab.py"), "launch", "--fluxgym", str(folder)]
        mounted = _page_time(command, folder)
    host = "FluxGym" if os.environ.get("FLUXGYM") else "stand-in"
    print(f"{host} alone:        {alone * 1000:7.0f} ms until usable (median of {_RUNS})")
    print(f"{host} with the tab: {mounted * 1000:7.0f} ms, {1000 * (mounted - alone):+.0f} ms")
    print("target: under +150 ms in FluxGym")


def _stand_in(folder: Path) -> Path:
    (folder / "outputs").mkdir()
    source = (_ROOT / "tests" / "stand_in_fluxgym.py").read_text(encoding="utf-8")
    (folder / "app.py").write_text(source, encoding="utf-8")
    return folder


def _page_time(command: list[str], folder: Path) -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    server = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, server)
        return _browse(url)
    finally:
        server.terminate()
        server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError("the server ended before it answered")
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not answer within a minute")


def _browse(url: str) -> float:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=[
                "--no-sandbox",
                "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ],
        )
        times = []
        for _ in range(_RUNS + 1):
            page = browser.new_page()
            start = time.perf_counter()
            page.goto(url, wait_until="domcontentloaded")
            page.get_by_role("tab").first.wait_for()
            times.append(time.perf_counter() - start)
            page.close()
        browser.close()
    return statistics.median(times[1:])
