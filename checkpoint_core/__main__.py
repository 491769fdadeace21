"""``python -m checkpoint_core``."""

from __future__ import annotations

from checkpoint_core.cli import app

if __name__ == "__main__":
    app(prog_name="python -m checkpoint_core")
