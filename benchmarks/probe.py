"""Ask a Python for its versions: what every first look at a FluxGym folder costs."""

from __future__ import annotations

import sys

from benchmarks.measure import measure


def main() -> None:
    """Print the figure beside its target: 0.5 s."""
    setup = "from checkpoint_core.environment.probing import probe"
    probed = measure(setup, f"assert probe({sys.executable!r}, '').packages")
    print(f"the training environment probed:    {probed}   (target: under 0.5 s)")
