"""A small real trainer: torch, the real accelerate, and what sd-scripts' Flux LoRA trainer saves and resumes.

    python -m checkpoint_core.demo.trainer --output_dir DIR --output_name NAME \\
        --max_train_epochs 4 --save_every_n_epochs 1 --save_state [--resume DIR/NAME-000002-state]

It exists so that the sample folder and the tests hold real states: the same flags, files, names, order of
writing and arithmetic of steps and epochs as sd-scripts has (train_network.py and library/train_util.py,
commit 48d368f), on a network small enough to train in milliseconds. Flags of sd-scripts that it does not
know are accepted and ignored, so the `train.sh` that FluxGym writes can start it. It behaves as upstream
does where upstream is surprising too: after a resume the steps are counted from 0 again.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm  # type: ignore[import-untyped]

from checkpoint_core.demo.network import (
    SmallLora,
    load_lora,
    lora_modules,
    make_optimizer,
    make_schedule,
    save_lora,
)
from checkpoint_core.demo.options import (
    TrainOptions,
    parse_options,
    starting_point,
    step_to_remove,
)

logger = logging.getLogger(__name__)

_SAVE_DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def train(options: TrainOptions) -> None:
    """Train once as `options` say, in this process; call it again for another run or a resume.

    Raises what upstream would raise: accelerate's and torch's own errors for a state that does not load,
    AssertionError when no step is left, ValueError for an optimizer or schedule unknown here. Leaves torch with
    one thread and the random generators where the training ended.
    """
    Training(options).run()


class Training:
    """One start of the trainer, from building the network to the last save.

    `train` is the way to call it; a program that watches a resume may extend it. `network`, `optimizer`, `loader`
    and `schedule` are accelerate's, and after the construction they hold what `--resume` loaded.
    """

    def __init__(self, options: TrainOptions) -> None:
        # As FluxGym's scripts set it (--num_cpu_threads_per_process 1). On tensors this small further threads wait
        # for each other: on a busy machine with two cores the sample folder took five times as long.
        torch.set_num_threads(1)
        # accelerate keeps its settings in shared state, and a new run may differ in --mixed_precision.
        AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - its own tests reset it so
        self.options = options
        self.session_id = secrets.randbits(32)
        self.started_at = time.time()
        set_seed(options.seed)
        self.accelerator = Accelerator(cpu=True, mixed_precision=options.mixed_precision)
        self.current_epoch = 0
        self.current_step = 0
        self.global_step = 0
        self.losses: dict[int, float] = {}
        self.steps_from_state: int | None = None
        self._build()
        self.accelerator.register_save_state_pre_hook(self._write_train_state)
        self.accelerator.register_load_state_pre_hook(self._read_train_state)
        if options.resume:
            logger.info("resume training from local state: %s", options.resume)
            self.accelerator.load_state(options.resume)

    def _build(self) -> None:
        options = self.options
        network = self.build_network()
        if options.network_weights is not None:
            summary = load_lora(network, options.network_weights)
            self._say(f"load network weights from {options.network_weights}: {summary}")
        groups = network.parameter_groups(options.learning_rate, options.text_encoder_lr, options.unet_lr)
        self.optimizer_name, optimizer = make_optimizer(options.optimizer_type, groups, options.learning_rate)
        schedule = make_schedule(
            options.lr_scheduler, optimizer, options.lr_warmup_steps, options.total_steps
        )
        items = (
            torch.arange(options.steps_per_epoch, dtype=torch.float32).unsqueeze(1) / options.steps_per_epoch
        )
        loader = DataLoader(TensorDataset(items), batch_size=1, shuffle=True)
        self.network, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            network, optimizer, loader, schedule
        )

    def build_network(self) -> SmallLora:
        """Return the network that the flags describe, untrained."""
        options = self.options
        modules = lora_modules(options.network_args, options.network_train_unet_only)
        return SmallLora(options.network_dim, options.network_alpha, modules)

    def _write_train_state(self, models: list[Any], weights: list[Any], output_dir: str) -> None:
        # +1 as upstream: current_step is that of the batch in work, counted from 0.
        record = {"current_epoch": self.current_epoch, "current_step": self.current_step + 1}
        path = Path(output_dir, "train_state.json")
        logger.info("save train state to %s at epoch %d step %d", path, *record.values())
        path.write_text(json.dumps(record), encoding="utf-8")

    def _read_train_state(self, models: list[Any], input_dir: str) -> None:
        path = Path(input_dir, "train_state.json")
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            self.steps_from_state = record["current_step"]
            logger.info("load train state from %s: %s", path, record)

    def run(self) -> None:
        """Train the epochs that are left, saving on the way and at the end."""
        options = self.options
        start = starting_point(options, self.steps_from_state)
        self._announce()
        self.global_step = start.batches_to_skip
        to_skip = start.batches_to_skip
        total = options.total_steps - start.batches_to_skip
        with tqdm(total=total, smoothing=0, desc="steps", disable=options.quiet) as self.progress:
            for epoch in range(start.epochs_done, options.total_epochs):
                self._say(f"\nepoch {epoch + 1}/{options.total_epochs}\n")
                self.current_epoch = epoch + 1
                if not self.train_epoch(to_skip):
                    return
                to_skip = 0
                self._save_at_epoch(epoch + 1)
        self.accelerator.end_training()
        self._save_at_end()

    def _announce(self) -> None:
        self._say("running training")
        self._say(f"  num batches per epoch: {self.options.steps_per_epoch}")
        self._say(f"  num epochs: {self.options.total_epochs}")
        self._say(f"  total optimization steps: {self.options.total_steps}")

    def _say(self, line: str) -> None:
        if not self.options.quiet:
            self.accelerator.print(line)

    def train_epoch(self, to_skip: int) -> bool:
        """Train one epoch, passing over `to_skip` batches; False when told to stop within it."""
        loader = self.accelerator.skip_first_batches(self.loader, to_skip) if to_skip else self.loader
        for number, (item,) in enumerate(loader):
            self.current_step = self.global_step
            loss = self.train_step(item)
            self.global_step += 1
            self.progress.update(1)
            every = self.options.save_every_n_steps
            if every is not None and self.global_step % every == 0:
                self._save_at_step()
            self._record_loss(number, loss)
            if self.global_step == self.options.stop_after_step:
                return False
            if self.global_step >= self.options.total_steps:
                break
        return True

    def train_step(self, item: torch.Tensor) -> float:
        """Train on one batch, of shape (1, 1), and return its loss."""
        # Upstream draws captions from python's generator, and libraries draw from numpy's: with all three
        # in a loss, every part of random_states_0.pkl matters to a resumed run.
        shift = 0.1 * (random.random() + numpy.random.random())
        with self.accelerator.accumulate(self.network):
            loss = self.network(item + shift)
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)
        time.sleep(self.options.step_seconds)
        return float(loss.detach())

    def _record_loss(self, number: int, loss: float) -> None:
        self.losses[number] = loss
        self.progress.set_postfix(avr_loss=sum(self.losses.values()) / len(self.losses))
        if self.options.loss_log is not None:
            line = {"epoch": self.current_epoch, "step": self.global_step, "loss": loss}
            with self.options.loss_log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")

    def _save_at_step(self) -> None:
        options, step = self.options, self.global_step
        # The LoRA file of a step is marked with the epochs completed, that of an epoch with the epoch itself.
        self._save_lora(f"{options.output_name}-step{step:08d}.safetensors", self.current_epoch - 1)
        if options.save_state:
            self._save_state(f"{options.output_name}-step{step:08d}-state", f"saving state at step {step}")
            old = step_to_remove(options, step, options.save_last_n_steps_state or options.save_last_n_steps)
            if old > 0:
                self._remove(f"{options.output_name}-step{old:08d}-state")
        old = step_to_remove(options, step, options.save_last_n_steps)
        if old >= 0:
            self._remove(f"{options.output_name}-step{old:08d}.safetensors")

    def _save_at_epoch(self, epoch: int) -> None:
        options = self.options
        every = options.save_every_n_epochs
        if every is None or epoch % every != 0 or epoch >= options.total_epochs:
            return
        self._save_lora(f"{options.output_name}-{epoch:06d}.safetensors", epoch)
        if options.save_last_n_epochs is not None:
            self._remove(
                f"{options.output_name}-{epoch - every * options.save_last_n_epochs:06d}.safetensors"
            )
        if options.save_state:
            self._save_state(f"{options.output_name}-{epoch:06d}-state", f"saving state at epoch {epoch}")
            kept = options.save_last_n_epochs_state or options.save_last_n_epochs
            if kept is not None:
                self._remove(f"{options.output_name}-{epoch - every * kept:06d}-state")

    def _save_at_end(self) -> None:
        options = self.options
        if options.save_state or options.save_state_on_train_end:
            self._save_state(f"{options.output_name}-state", "saving last state.")
        self._save_lora(f"{options.output_name}.safetensors", options.total_epochs)
        logger.info("model saved.")

    def _save_state(self, name: str, message: str) -> None:
        logger.info(message)
        self.accelerator.save_state(str(self.options.output_dir / name))

    def _save_lora(self, name: str, epoch: int) -> None:
        path = self.options.output_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._say(f"\nsaving checkpoint: {path}")
        network = self.accelerator.unwrap_model(self.network)
        save_lora(network, path, _SAVE_DTYPES[self.options.save_precision], self._metadata(epoch))

    def _metadata(self, epoch: int) -> dict[str, str]:
        options = self.options
        optimizer_args = f"({','.join(options.optimizer_args)})" if options.optimizer_args else ""
        metadata = {
            "ss_session_id": self.session_id,
            "ss_training_started_at": self.started_at,
            "ss_training_finished_at": time.time(),
            "ss_output_name": options.output_name,
            "ss_learning_rate": options.learning_rate,
            "ss_num_train_images": options.steps_per_epoch,
            "ss_num_batches_per_epoch": options.steps_per_epoch,
            "ss_num_epochs": options.total_epochs,
            "ss_max_train_steps": options.total_steps,
            "ss_gradient_accumulation_steps": 1,
            "ss_lr_scheduler": options.lr_scheduler,
            "ss_lr_warmup_steps": options.lr_warmup_steps,
            "ss_network_module": "networks.lora_flux",
            "ss_network_dim": options.network_dim,
            "ss_network_alpha": options.network_alpha,
            "ss_mixed_precision": options.mixed_precision,
            "ss_seed": options.seed,
            "ss_optimizer": self.optimizer_name + optimizer_args,
            "ss_base_model_version": "flux1",
            "ss_steps": self.global_step,
            "ss_epoch": epoch,
        }
        return {key: str(value) for key, value in metadata.items()}

    def _remove(self, name: str) -> None:
        path = self.options.output_dir / name
        if path.is_dir():
            logger.info("removing old state: %s", path)
            shutil.rmtree(path)
        elif path.exists():
            self._say(f"removing old checkpoint: {path}")
            path.unlink()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a program; `arguments` default to the command line's."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-8s %(message)s")
    train(parse_options(arguments))


if __name__ == "__main__":
    main()
