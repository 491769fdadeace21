"""Describe one state of 1 GB, beside ``torch.load`` on the same optimizer file."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import measure

#: A LoRA of rank 26 over the 304 linear layers of Flux (19 double blocks of 10, 38 single blocks of 3), trained
#: with AdamW: 608 parameters, about 1 GB of moments.
_MAKE = """
import sys, torch
folder, width, rank = sys.argv[1], 3072, 26
double = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width), (width, 6 * width)] * 2
single = [(width, 7 * width), (5 * width, width), (width, 3 * width)]
layers = double * 19 + single * 38
shapes = [shape for into, out in layers for shape in ((rank, into), (out, rank))]
parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
optimizer = torch.optim.AdamW(parameters, lr=8e-4)
for parameter in parameters: parameter.grad = torch.ones_like(parameter)
optimizer.step()
torch.save(optimizer.state_dict(), folder + "/optimizer.bin")
"""


def main() -> None:
    """Print the figures and the ratios; target: 10 times faster than a memory-mapped load, under 50 MB."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", _MAKE, folder], check=True)
        path = Path(folder, "optimizer.bin")
        print(f"optimizer.bin: {path.stat().st_size / 1e6:,.0f} MB")
        ours = measure(
            "from pathlib import Path\nfrom checkpoint_core.states.readers import read_optimizer",
            f"facts = read_optimizer(Path({str(path)!r}))\nassert facts.family == 'adamw' and facts.step == 1",
        )
        loads = {
            "torch.load": "weights_only=True",
            "torch.load(mmap=True)": "weights_only=True, mmap=True",
        }
        print(f"{'described here':24} {ours}")
        for name, options in loads.items():
            other = measure("import torch", f"torch.load({str(path)!r}, map_location='cpu', {options})")
            print(f"{name:24} {other}   {other.seconds / ours.seconds:6.1f} times our time")
