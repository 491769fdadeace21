"""Commands, printing and exit codes."""

from __future__ import annotations

from checkpoint_core.cli.app import app

__all__ = ["app"]
