"""Rehearse a state of 100 MB with the Python that runs this: seconds, and memory over what its import takes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from checkpoint_core.audit.single_state import audit_state
from checkpoint_core.environment.probing import probe
from checkpoint_core.environment.rehearsal.outcome import Rehearsal, RehearsalOutcome, RehearsalStatus
from checkpoint_core.environment.rehearsal.run import plan_rehearsal, run_rehearsal

_RUNS = 5
#: A LoRA of rank 2 over the 304 linear layers of Flux (see describe.py), trained for one step with AdamW, and saved by
#: the installed accelerate.
_MAKE = """
import json, sys, torch
from accelerate import Accelerator
folder, width, rank = sys.argv[1], 3072, 2
double = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width), (width, 6 * width)] * 2
single = [(width, 7 * width), (5 * width, width), (width, 3 * width)]
network = torch.nn.Module()
for number, (into, out) in enumerate(double * 19 + single * 38):
    pair = torch.nn.Module()
    pair.lora_down = torch.nn.Linear(into, rank, bias=False)
    pair.lora_up = torch.nn.Linear(rank, out, bias=False)
    pair.register_buffer("alpha", torch.tensor(1.0))
    network.add_module(f"lora_unet_{number}", pair)
for parameter in network.parameters(): parameter.grad = torch.ones_like(parameter)
optimizer = torch.optim.AdamW(network.parameters(), lr=8e-4)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
accelerator = Accelerator(cpu=True)
accelerator.prepare(network, optimizer, schedule)
optimizer.step()
accelerator.save_state(folder)
with open(folder + "/train_state.json", "w") as file: json.dump({"current_epoch": 1, "current_step": 1}, file)
"""


def main() -> None:
    """Print the figures beside their targets: 15 s, and twice the state's size."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "run", "lora-000001-state")
        subprocess.run([sys.executable, "-c", _MAKE, str(state)], check=True)
        outcomes = [_rehearse(state) for _ in range(_RUNS)]
        size = sum(path.stat().st_size for path in state.iterdir())
    seconds = statistics.median(outcome.seconds for outcome in outcomes)
    imports = statistics.median(outcome.import_seconds or 0.0 for outcome in outcomes)
    peak = statistics.median(outcome.peak_bytes or 0 for outcome in outcomes)
    print(f"state of {size / 1e6:,.0f} MB, {', '.join(f'{n} {v}' for n, v in outcomes[0].versions)}")
    print(f"rehearsed in {seconds:5.1f} s, of which the import takes {imports:.1f} s   (target: under 15 s)")
    print(f"peak {peak / 1e6:,.0f} MB over the import, {peak / size:.2f} times its size   (target: under 2)")


def _rehearse(state: Path) -> RehearsalOutcome:
    plan = plan_rehearsal(audit_state(state).facts, probe(sys.executable, "the benchmark's own"))
    if not isinstance(plan, Rehearsal):
        raise RuntimeError(plan.reason)
    outcome = run_rehearsal(plan)
    if outcome.status is not RehearsalStatus.LOADED:
        raise RuntimeError(outcome.error)
    return outcome
