"""What this interpreter's accelerate does with random states.

    python -m tests.recovery.load_random_states ANSWERS FOLDER...

A program of its own, so that another accelerate can be put before the installed one. ANSWERS receives a JSON list with
an object for each folder: the step that accelerate takes over, what it said of the random states, and the next number
of Python's, numpy's and torch's generator.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import checkpointing


class _Ear:
    """Stands for accelerate's logger, which wants a whole Accelerator first."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, text: str, *_: object, **__: object) -> None:
        """Keep what is said of random states."""
        self.said += [text] if "random states" in text else []

    debug = warning = info


@contextmanager
def _listening() -> Iterator[list[str]]:
    logger, ear = checkpointing.logger, _Ear()
    checkpointing.logger = ear
    try:
        yield ear.said
    finally:
        checkpointing.logger = logger


def loaded(folder: Path) -> dict[str, Any]:
    """Load the random states of a folder into this process, from generators that stand elsewhere."""
    random.seed(99)
    numpy.random.seed(99)
    torch.manual_seed(99)
    with _listening() as said:
        # Before 0.32 it returns nothing.
        found = checkpointing.load_accelerator_state(folder, [], [], [], [], 0) or {}
    drawn = [random.random(), numpy.random.rand(), torch.rand(1).item()]
    return {"step": found.get("step"), "said": said, "drawn": drawn}


if __name__ == "__main__":
    answers = [loaded(Path(folder)) for folder in sys.argv[2:]]
    Path(sys.argv[1]).write_text(json.dumps(answers), encoding="utf-8")
