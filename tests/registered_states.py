"""States of projects that register objects with accelerate, made by the real accelerate.

    python -m tests.registered_states DIR

leaves three state directories in DIR, alike but for their weights: `safetensors` (one model.safetensors),
`bin` (one pytorch_model.bin) and `sharded` (several files and an index). Each holds
`custom_checkpoint_0.pkl` with `step` and `epoch`. A program of its own, so that a test that only reads the
states need not import torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

KINDS = ("safetensors", "bin", "sharded")
STEP, EPOCH = 24, 3


class TrainingPosition:
    """What such a project registers: an object with a state_dict of step and epoch."""

    def __init__(self, step: int, epoch: int) -> None:
        self.step, self.epoch = step, epoch

    def state_dict(self) -> dict[str, int]:
        """Return the numbers to save."""
        return {"step": self.step, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take the saved numbers."""
        self.step, self.epoch = state["step"], state["epoch"]


def make_registered_state(state: Path, kind: str) -> None:
    """Train two layers for three steps and save the state with weights of one of KINDS."""
    set_seed(42)
    accelerator = Accelerator(cpu=True)
    network = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 32))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    network, optimizer, schedule = accelerator.prepare(network, optimizer, schedule)
    accelerator.register_for_checkpointing(TrainingPosition(STEP, EPOCH))
    for _ in range(3):
        accelerator.backward(network(torch.randn(4, 32)).square().mean())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    accelerator.save_state(str(state), safe_serialization=kind != "bin")
    if kind == "sharded":
        (state / "model.safetensors").unlink()
        accelerator.save_model(network, str(state), max_shard_size="5KB")


def main(folder: Path) -> None:
    """Make one state of each kind in `folder`."""
    for kind in KINDS:
        make_registered_state(folder / kind, kind)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
