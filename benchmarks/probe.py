"""Ask a Python for its versions: what every first look at a FluxGym folder costs."""

from __future__ import annotations

import sys

from benchmarks.measure import measure


def main() -> None:
    """Print the figure beside its target: 0.5 s."""
    setup = "from checkpoint_core.environment.probing import ask"
    asked = measure(setup, f"assert ask({sys.executable!r}, '').packages")
    print(f"the training environment asked:    {asked}   (target: under 0.5 s)")
