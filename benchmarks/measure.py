"""Measure a piece of code in a fresh process: seconds, and peak memory over what the idle process had."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_HARNESS = """
import json, resource, sys, time
{setup}
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
idle = peak()
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
print(json.dumps([seconds, max(0, peak() - idle)]))
"""


@dataclass(frozen=True)
class Figure:
    """A measured piece: median seconds and median peak bytes over idle."""

    seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        """For the terminal: ``0.0123 s, 4.5 MB``."""
        return f"{self.seconds:9.4f} s, {self.peak_bytes / 1e6:8.1f} MB over idle"


def measure(setup: str, code: str, runs: int = 5) -> Figure:
    """The median of several runs, each in a process of its own; ``setup`` is not counted."""
    results = [_once(_HARNESS.format(setup=setup, code=code)) for _ in range(runs)]
    return Figure(
        statistics.median(seconds for seconds, _ in results), int(statistics.median(p for _, p in results))
    )


def _once(program: str) -> tuple[float, int]:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak
