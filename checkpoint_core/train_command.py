"""The command that starts a run's training, as a person types it."""

from __future__ import annotations

from pathlib import Path

from checkpoint_core import script_bat, script_sh
from checkpoint_core.script_words import Dialect
from checkpoint_core.train_script import dialect_of


def train_command(script: Path, root: Path) -> str:
    """The command that runs a train script from FluxGym's folder ``root``, as FluxGym itself does."""
    shown = script.relative_to(root) if script.is_relative_to(root) else script
    if dialect_of(script) is Dialect.BAT:
        return script_bat.quote(str(shown).replace("/", "\\"))
    return f"bash {script_sh.quote(str(shown))}"
