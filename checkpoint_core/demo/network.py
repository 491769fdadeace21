"""A tiny LoRA network, its optimizers, schedules and file, laid out as in Flux LoRA training.

Names follow networks/lora_flux.py of sd-scripts (`lora_unet_double_blocks_0_img_attn_proj.lora_down.weight`,
`.lora_up.weight`, `.alpha`), with a group of text encoder modules and a group of transformer modules, so that
everything that reads a real state or a real LoRA file reads these too. Nothing here knows accelerate.
"""

# mypy: allow-subclassing-any
# torch's types are not read in this project's type check, so its classes are Any there.

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_TEXT_ENCODER_MODULES: Mapping[str, tuple[int, int]] = {
    "lora_te1_text_model_encoder_layers_0_mlp_fc1": (16, 32),
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (16, 16),
}
_TRANSFORMER_MODULES: Mapping[str, tuple[int, int]] = {
    "lora_unet_double_blocks_0_img_attn_proj": (16, 16),
    "lora_unet_double_blocks_0_img_attn_qkv": (16, 48),
    "lora_unet_double_blocks_0_txt_mlp_0": (16, 64),
    "lora_unet_single_blocks_0_linear1": (16, 112),
    "lora_unet_single_blocks_0_linear2": (80, 16),
}
_TEXT_ENCODER_PREFIX = "lora_te"
_BLOCKS: Mapping[str | None, tuple[str, ...]] = {
    None: ("double", "single"),
    "all": ("double", "single"),
    "double": ("double",),
    "single": ("single",),
}
"""The values of `train_blocks` in `--network_args`, None without it, and the transformer blocks that each trains."""

_TEACHER_SEED = 20240801
"""Seed of the frozen matrices to be learned: part of the task, not of the run, hence not `--seed`."""


class LoraPair(nn.Module):
    """One low-rank pair, y = up(down(x)) * alpha / rank; `alpha` is saved beside the weights."""

    alpha: Tensor

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.lora_down = nn.Linear(in_features, rank, bias=False)
        self.lora_up = nn.Linear(rank, out_features, bias=False)
        nn.init.kaiming_uniform_(self.lora_down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_up.weight)
        self.scale = alpha / rank
        # An int stays an int64 tensor, as in sd-scripts when --network_alpha is not given.
        self.register_buffer("alpha", torch.tensor(alpha))

    def forward(self, features: Tensor) -> Tensor:
        """Return the pair's output for features of shape (batch, in_features)."""
        output: Tensor = self.lora_up(self.lora_down(features)) * self.scale
        return output


def lora_modules(network_args: Iterable[str] = (), unet_only: bool = False) -> dict[str, tuple[int, int]]:
    """Return the modules that get a LoRA pair, by name: their input and output features, in creation order.

    `network_args` are the values of `--network_args`, of which `train_blocks` counts, as in create_network of
    lora_flux.py; `unet_only` is `--network_train_unet_only`. Raises AssertionError in upstream's words for an
    unknown `train_blocks`.
    """
    train_blocks = dict(arg.split("=") for arg in network_args).get("train_blocks")
    if train_blocks not in _BLOCKS:
        raise AssertionError(f"invalid train_blocks: {train_blocks}")
    prefixes = tuple(f"lora_unet_{block}_blocks" for block in _BLOCKS[train_blocks])
    transformer = {name: size for name, size in _TRANSFORMER_MODULES.items() if name.startswith(prefixes)}
    return transformer if unet_only else {**_TEXT_ENCODER_MODULES, **transformer}


class SmallLora(nn.Module):
    """LoRA pairs that learn frozen matrices, by default seven; about 8 kB of weights at rank 4.

    `modules` maps the name of each module to its input and output features.
    """

    def __init__(self, rank: int, alpha: float, modules: Mapping[str, tuple[int, int]] | None = None) -> None:
        super().__init__()
        teacher_source = torch.Generator().manual_seed(_TEACHER_SEED)
        self._teachers: dict[str, Tensor] = {}
        for name, (in_features, out_features) in (lora_modules() if modules is None else modules).items():
            self.add_module(name, LoraPair(in_features, out_features, rank, alpha))
            self._teachers[name] = (
                torch.randn(out_features, in_features, generator=teacher_source) / in_features
            )

    def parameter_groups(
        self,
        learning_rate: float,
        text_encoder_rate: float | None = None,
        transformer_rate: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return one group for the text encoder and one for the transformer, as sd-scripts does for Flux.

        The parts' own rates are `--text_encoder_lr` and `--unet_lr`. A part without modules or with a rate of 0 has
        no group (prepare_optimizer_params_with_multiple_te_lrs of lora_flux.py).
        """
        groups = []
        for is_transformer, own_rate in ((False, text_encoder_rate), (True, transformer_rate)):
            names = [
                name for name in self._teachers if is_transformer != name.startswith(_TEXT_ENCODER_PREFIX)
            ]
            rate = learning_rate if own_rate is None else own_rate
            if names and rate:
                parameters = [p for name in names for p in self.get_submodule(name).parameters()]
                groups.append({"params": parameters, "lr": rate})
        return groups

    def forward(self, item: Tensor) -> Tensor:
        """Return the scalar loss of one batch.

        `item` has shape (batch, 1); the inputs are noise from torch's global generator, shifted by it: a loss
        depends on the weights, the data order and the random state, and on nothing else.
        """
        losses = []
        for name, teacher in self._teachers.items():
            features = torch.randn(item.shape[0], teacher.shape[1]) + item
            wanted = features @ teacher.T
            losses.append((self.get_submodule(name)(features) - wanted).float().square().mean())
        return torch.stack(losses).sum()


class Adafactor(torch.optim.Optimizer):
    """Adafactor with a given learning rate (Shazeer and Stern 2018, without momentum), for matrices.

    `transformers` is what sd-scripts trains with, and what it saves is reproduced: the options of a parameter
    group and the per-tensor `step`, `exp_avg_sq_row`, `exp_avg_sq_col` and `RMS`. torch's own Adafactor saves
    others.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float) -> None:
        options = {
            "lr": lr,
            "eps": (1e-30, 1e-3),
            "clip_threshold": 1.0,
            "decay_rate": -0.8,
            "beta1": None,
            "weight_decay": 0.0,
            "scale_parameter": False,
            "relative_step": False,
            "warmup_init": False,
        }
        super().__init__(params, options)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Apply one update; `closure` is accepted for torch's interface and evaluated first."""
        loss = closure() if closure is not None else None
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, self.state[parameter], group)
        return loss

    @staticmethod
    def _update(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        # Read first, as transformers does: after --optimizer_type adamw the group has none, and a KeyError says so.
        if group["beta1"] is not None:
            raise ValueError("This small Adafactor has no momentum; the state was saved by one that has.")
        gradient = parameter.grad
        if not state:
            state["step"] = 0
            state["exp_avg_sq_row"] = torch.zeros(parameter.shape[0])
            state["exp_avg_sq_col"] = torch.zeros(parameter.shape[1])
        state["step"] += 1
        state["RMS"] = parameter.square().mean().sqrt()
        kept = 1.0 - state["step"] ** group["decay_rate"]
        squared = gradient.square() + group["eps"][0]
        row, column = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
        row.mul_(kept).add_(squared.mean(dim=1), alpha=1.0 - kept)
        column.mul_(kept).add_(squared.mean(dim=0), alpha=1.0 - kept)
        update = gradient * torch.outer((row / row.mean()).rsqrt(), column.rsqrt())
        update_rms = update.square().mean().sqrt()
        update /= (update_rms / group["clip_threshold"]).clamp(min=1.0)
        parameter.sub_(update, alpha=group["lr"])


def make_optimizer(
    name: str, groups: list[dict[str, Any]], learning_rate: float
) -> tuple[str, torch.optim.Optimizer]:
    """Return the name that sd-scripts writes into `ss_optimizer`, and the optimizer.

    `name` is the value of `--optimizer_type`, any case. Raises ValueError for an optimizer that plain torch
    cannot provide.
    """
    match name.lower():
        case "adafactor":
            return "transformers.optimization.Adafactor", Adafactor(groups, learning_rate)
        case "adamw":
            return "torch.optim.adamw.AdamW", torch.optim.AdamW(groups, lr=learning_rate)
        case "sgd" | "sgdnesterov":
            return "torch.optim.sgd.SGD", torch.optim.SGD(
                groups, lr=learning_rate, momentum=0.9, nesterov=True
            )
    raise ValueError(
        f"--optimizer_type {name}: this small trainer knows adafactor, adamw and sgdnesterov; the 8-bit and "
        "other optimizers need packages beside torch."
    )


def make_schedule(
    name: str, optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule that `--lr_scheduler` names; raises ValueError for an unknown one.

    As in transformers, whose schedules sd-scripts uses, the constant one is a plain function and the others
    are partial functions: `scheduler.bin` then holds `lr_lambdas` of None or of empty dictionaries.
    """
    shape: Callable[[int], float]
    match name:
        case "constant":
            shape = _constant
        case "constant_with_warmup":
            shape = functools.partial(_warm_up, warmup_steps=warmup_steps)
        case "linear":
            shape = functools.partial(_linear, warmup_steps=warmup_steps, total_steps=total_steps)
        case "cosine":
            shape = functools.partial(_cosine, warmup_steps=warmup_steps, total_steps=total_steps)
        case _:
            raise ValueError(
                f"--lr_scheduler {name}: this small trainer knows constant, constant_with_warmup, linear and cosine."
            )
    return torch.optim.lr_scheduler.LambdaLR(optimizer, shape)


def _constant(_step: int) -> float:
    return 1.0


def _warm_up(step: int, *, warmup_steps: int) -> float:
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0


def _linear(step: int, *, warmup_steps: int, total_steps: int) -> float:
    if step < warmup_steps:
        return _warm_up(step, warmup_steps=warmup_steps)
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def _cosine(step: int, *, warmup_steps: int, total_steps: int) -> float:
    if step < warmup_steps:
        return _warm_up(step, warmup_steps=warmup_steps)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def save_lora(network: SmallLora, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """Write the LoRA file: every tensor in `dtype`, `alpha` too, as save_weights of lora_flux.py does."""
    tensors = {key: value.detach().to(dtype).contiguous() for key, value in network.state_dict().items()}
    save_file(tensors, str(path), dict(metadata))


def load_lora(network: SmallLora, path: Path) -> str:
    """Load a LoRA file into the network (`--network_weights`) and return torch's summary of the keys."""
    return str(network.load_state_dict(load_file(str(path)), strict=False))
