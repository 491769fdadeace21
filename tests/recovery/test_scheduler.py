"""A schedule made anew goes on as the lost one would have."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_core.recovery.scheduler import rebuilt_scheduler
from tests.world import World


def rates(state: Any, formula: Any) -> list[float]:
    """The rates of the next steps, from a state that a real LambdaLR has loaded."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in state["base_lrs"]]
    optimizer = torch.optim.SGD(groups, lr=state["base_lrs"][0])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, formula)
    schedule.load_state_dict(state)
    found = []
    for _ in range(5):
        optimizer.step()
        schedule.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("formula", [lambda step: 1.0, lambda step: max(0.0, 1 - step / 64)])
def test_it_goes_on_as_the_lost_one(world: World, formula: Any) -> None:
    lost = torch.load(world.latest / "scheduler.bin", weights_only=True)
    ours = torch.load(
        io.BytesIO(rebuilt_scheduler(lost["base_lrs"], lost["_last_lr"], lost["last_epoch"])),
        weights_only=True,
    )

    assert rates(ours, formula) == rates(lost, formula)


def test_it_equals_the_real_trainers_files(real_runs: Path) -> None:
    found = sorted(real_runs.glob("accelerate-*/*-state/scheduler.bin"))
    assert len(found) == 12
    for path in found:
        lost = torch.load(path, weights_only=True)
        data = rebuilt_scheduler(lost["base_lrs"], lost["_last_lr"], lost["last_epoch"])
        ours = torch.load(io.BytesIO(data), weights_only=True)
        # Formulas without attributes of their own are saved as empty tables or as nothing, by torch's version.
        assert [formula or {} for formula in lost["lr_lambdas"]] == ours["lr_lambdas"]
        assert ours == {**{key: lost[key] for key in ours}, "lr_lambdas": ours["lr_lambdas"]}
        assert set(lost) - set(ours) <= {"_is_initial", "verbose"}
