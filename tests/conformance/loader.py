"""The trainer's answer: really resumes states with this interpreter's accelerate, and says what came of it.

    python -m tests.conformance.loader JOBS ANSWERS

JOBS is a JSON list of jobs (see `Job`); ANSWERS receives a line of versions and then one line for each job, in
order. All of it runs in this one process. Every resume is compared with the state that should have been loaded
(read with torch alone) and with two steps trained from that state, from the same noise; nothing is written but
ANSWERS.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import os
import platform
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import accelerate
import numpy
import safetensors
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from safetensors.torch import load_file

from checkpoint_core.demo.network import SmallLora
from checkpoint_core.demo.options import TrainOptions, parse_options
from checkpoint_core.demo.trainer import Training
from tests.registered_states import TrainingPosition

_NOISE_SEED = 7
_ITEMS = (0.25, 0.75)

_TINY_TEXT = {"self_attn_k_proj": (32, 32), "self_attn_v_proj": (32, 32), "self_attn_q_proj": (32, 32),
              "self_attn_out_proj": (32, 32), "mlp_fc1": (32, 64), "mlp_fc2": (64, 32)}  # fmt: skip
_TINY_STREAM = {"mod_lin": (32, 192), "attn_qkv": (32, 96), "attn_proj": (32, 32), "mlp_0": (32, 128),
                "mlp_2": (128, 32)}  # fmt: skip
_TINY_SINGLE = {"linear1": (32, 224), "linear2": (160, 32), "modulation_lin": (32, 96)}
TINY_FLUX: Mapping[str, tuple[int, int]] = {
    **{
        f"lora_te1_text_model_encoder_layers_{layer}_{name}": size
        for layer in range(2)
        for name, size in _TINY_TEXT.items()
    },
    **{
        f"lora_unet_double_blocks_0_{stream}_{name}": size
        for stream in ("img", "txt")
        for name, size in _TINY_STREAM.items()
    },
    **{
        f"lora_unet_single_blocks_{block}_{name}": size
        for block in range(2)
        for name, size in _TINY_SINGLE.items()
    },
}
"""The modules of the tiny Flux that the real trainer trained for tests/data, in the order of its optimizer."""


@dataclass(frozen=True)
class Job:
    """One resume: the state, what it should be, and the flags of the script.

    `layout` is that of :class:`checkpoint_core.states.layout.Layout`; `tiny_flux` tells a state of the real trainer.
    `pristine` is the state that should be loaded, `pristine_arguments` the flags that it was saved under.
    """

    state: str
    pristine: str
    layout: str
    tiny_flux: bool
    arguments: list[str]
    pristine_arguments: list[str]


@dataclass
class Observed:
    """What a resume did; the fields after `error` are as far as it came.

    `stage` is where it was last (load, start, step), `epoch` the first epoch trained (from 1, None for none), `skipped`
    the batches of it passed over. `weights` are the same, rounded to bfloat16, or other; `lost` names the random
    generators that were not restored. `rates` and `wanted_rates` are the learning rates of the first two steps, here
    and from the pristine state; `steps_same` tells whether both came to the same weights.
    """

    stage: str = "load"
    error: str | None = None
    epoch: int | None = None
    skipped: int = 0
    weights: str = ""
    optimizer_same: bool = False
    schedule_same: bool = False
    object_same: bool = True
    lost: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    wanted_rates: tuple[float, ...] = ()
    steps_same: bool = False
    finite: bool = False


class Resumed(Training):
    """The small trainer, stopped after two steps that begin from known noise."""

    def __init__(self, options: TrainOptions, tiny_flux: bool) -> None:
        self._tiny_flux = tiny_flux
        self.first: tuple[int, int] | None = None
        self.rates: tuple[float, ...] = ()
        super().__init__(options)

    def build_network(self) -> SmallLora:
        """The real trainer's modules for its states, else those of the flags."""
        if self._tiny_flux:
            return SmallLora(self.options.network_dim, self.options.network_alpha, TINY_FLUX)
        return super().build_network()

    def train_epoch(self, to_skip: int) -> bool:
        """Note where the training begins, train the two steps, and stop."""
        self.first = (self.current_epoch, to_skip)
        self.two_steps()
        return False

    def two_steps(self) -> None:
        """Train two steps from the same noise, whatever the random states are."""
        set_seed(_NOISE_SEED)
        for item in _ITEMS:
            self.rates += (self.optimizer.param_groups[0]["lr"],)
            self.train_step(torch.tensor([[item]]))


class Registered:
    """A project that registers an object, as tests/registered_states.py saved it."""

    first: tuple[int, int] | None = None

    def __init__(self, resume: str | None) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        set_seed(42)
        accelerator = Accelerator(cpu=True)
        network = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 32))
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        self.accelerator = accelerator
        self.network, self.optimizer, self.schedule = accelerator.prepare(network, optimizer, schedule)
        self.position = TrainingPosition(0, 0)
        self.rates: tuple[float, ...] = ()
        accelerator.register_for_checkpointing(self.position)
        if resume is not None:
            accelerator.load_state(resume)

    def run(self) -> None:
        """Go on where the registered object says."""
        self.first = (self.position.epoch + 1, 0)
        self.two_steps()

    def two_steps(self) -> None:
        """Train two steps from the same noise."""
        set_seed(_NOISE_SEED)
        for _ in _ITEMS:
            self.rates += (self.optimizer.param_groups[0]["lr"],)
            self.accelerator.backward(self.network(torch.randn(4, 32)).square().mean())
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()


class Pristine:
    """The state that should be loaded, as torch reads its files."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.weights = load_file(state / "model.safetensors")
        self.optimizer = torch.load(state / "optimizer.bin", weights_only=False)
        self.schedule = torch.load(state / "scheduler.bin", weights_only=False)
        self.generators = torch.load(state / "random_states_0.pkl", weights_only=False)

    def put_into(self, training: Resumed | Registered) -> None:
        """Load a copy of it without accelerate's help; an optimizer trains on in the tensors that it is given."""
        training.accelerator.unwrap_model(training.network).load_state_dict(self.weights)
        training.optimizer.load_state_dict(copy.deepcopy(self.optimizer))
        training.schedule.load_state_dict(copy.deepcopy(self.schedule))

    def lost_generators(self) -> tuple[str, ...]:
        """The random generators of this process that do not stand where they were saved."""
        saved = self.generators
        now = {
            "python": (random.getstate(), saved["random_state"]),
            "numpy": (numpy.random.get_state(), saved["numpy_random_seed"]),
            "torch": (torch.get_rng_state(), saved["torch_manual_seed"]),
        }
        return tuple(name for name, (ours, theirs) in now.items() if not _same(ours, theirs))


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two saved values are equal to the bit, tensors, arrays and containers gone through."""
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, torch.Tensor) and torch.equal(ours, theirs)
    if isinstance(theirs, numpy.ndarray):
        return numpy.array_equal(ours, theirs)
    if isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(_same(*pair) for pair in zip(ours, theirs, strict=True))
    return bool(ours == theirs)


def _weights_of(training: Resumed | Registered) -> dict[str, torch.Tensor]:
    network = training.accelerator.unwrap_model(training.network)
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _compare_weights(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> str:
    if _same(ours, theirs):
        return "same"
    rounded = {name: tensor.to(torch.bfloat16).to(tensor.dtype) for name, tensor in theirs.items()}
    return "rounded" if _same(ours, rounded) else "other"


def _optimizer_same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    # A newer torch adds options of its own to the groups; what was saved must be there.
    groups = zip(ours["param_groups"], theirs["param_groups"], strict=True)
    return _same(ours["state"], theirs["state"]) and all(
        all(_same(group.get(key), value) for key, value in saved.items()) for group, saved in groups
    )


@functools.cache
def _pristine(state: str) -> Pristine:
    return Pristine(Path(state))


class Loader:
    """Answers jobs; what the pristine states come to is worked out once."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._wanted: dict[tuple[str, ...], tuple[tuple[float, ...], dict[str, torch.Tensor]]] = {}

    def answer(self, job: Job) -> Observed:
        """Resume as the job says."""
        observed = Observed()
        try:
            self._resume(job, observed)
        except Exception as error:  # noqa: BLE001 - whatever the trainer raises is the answer
            observed.error = f"{type(error).__name__}: {error}"
        return observed

    def _start(self, job: Job, arguments: list[str], resume: str | None) -> Resumed | Registered:
        if job.layout != "sd-scripts":
            return Registered(resume)
        options = replace(
            parse_options(arguments), output_dir=self.scratch, quiet=True, save_state=False, resume=resume
        )
        return Resumed(options, job.tiny_flux)

    def _resume(self, job: Job, observed: Observed) -> None:
        pristine = _pristine(job.pristine)
        training = self._start(job, job.arguments, job.state)
        # Read out before anything draws from a generator.
        observed.lost = pristine.lost_generators()
        observed.weights = _compare_weights(_weights_of(training), pristine.weights)
        observed.optimizer_same = _optimizer_same(training.optimizer.state_dict(), pristine.optimizer)
        observed.schedule_same = (
            training.schedule.state_dict()["last_epoch"] == pristine.schedule["last_epoch"]
        )
        if isinstance(training, Registered):
            saved = torch.load(pristine.state / "custom_checkpoint_0.pkl", weights_only=False)
            observed.object_same = training.position.state_dict() == saved
        observed.stage = "start"
        with _stage_step(training, observed):
            training.run()
        if training.first is None:
            return
        observed.epoch, observed.skipped = training.first
        observed.rates = training.rates
        weights = _weights_of(training)
        observed.finite = all(bool(tensor.isfinite().all()) for tensor in weights.values())
        observed.wanted_rates, wanted = self._two_steps_from(pristine, job)
        observed.steps_same = _same(weights, wanted)

    def _two_steps_from(
        self, pristine: Pristine, job: Job
    ) -> tuple[tuple[float, ...], dict[str, torch.Tensor]]:
        key = (job.pristine, *job.pristine_arguments)
        if key not in self._wanted:
            training = self._start(job, job.pristine_arguments, None)
            pristine.put_into(training)
            training.two_steps()
            self._wanted[key] = (training.rates, _weights_of(training))
        return self._wanted[key]


@contextmanager
def _stage_step(training: Resumed | Registered, observed: Observed) -> Iterator[None]:
    """Note whether an exception came in a step or before."""
    try:
        yield
    finally:
        if training.first is not None:
            observed.stage = "step"


def versions() -> dict[str, str]:
    """The versions that decide about a load."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": str(torch.__version__),
        "accelerate": accelerate.__version__,
        "numpy": numpy.__version__,
        "safetensors": safetensors.__version__,
    }


def main(jobs: Path, answers: Path) -> None:
    """Answer all jobs."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    wanted = [Job(**record) for record in json.loads(jobs.read_text(encoding="utf-8"))]
    with tempfile.TemporaryDirectory() as scratch, answers.open("w", encoding="utf-8") as file:
        os.chdir(scratch)
        loader = Loader(Path(scratch))
        file.write(json.dumps(versions()) + "\n")
        for job in wanted:
            file.write(json.dumps(asdict(loader.answer(job))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
