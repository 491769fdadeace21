"""What a training prepares before it resumes, built from the state: a network of the saved shapes, no base model.

It exists so that the real ``Accelerator.load_state`` can be tried on any state, on the CPU. Run beside ``rehearse.py``
by the interpreter that trains, so nothing of this project is imported. Held on accelerate 0.25 to 1.15.
"""

# mypy: allow-subclassing-any
# torch's types are not read in this project's type check, so its classes are Any there.

from __future__ import annotations

import itertools
import json
import logging
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, TensorDataset

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_OPTIMIZER, _SCHEDULER, _TRAIN_STATE = "optimizer.bin", "scheduler.bin", "train_state.json"
_CUSTOM = re.compile(r"custom_checkpoint_\d+\.pkl\Z")

#: safetensors' names of dtypes to torch's attributes (safetensors ``torch.py``, ``_TYPES``).
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
#: accelerate ``checkpointing.py`` says each of these when a file is loaded; the file that follows is then next.
_NEXT_FILE = (
    ("All model weights loaded", _OPTIMIZER),
    ("All optimizer states loaded", _SCHEDULER),
    ("All scheduler states loaded", "random_states_0.pkl"),
)
_LOADING_OBJECTS = re.compile(r"Loading in \d+ custom states|Loading the state of ")
_GAVE_UP = "Could not load random states"
#: Of the log, to be shown.
_MAX_LINES, _MAX_LINE = 100, 500
_SEED = 20240801


class StandIn:
    """Everything that a trainer of one layout hands to ``Accelerator.prepare``, prepared; ``load`` resumes.

    :param layout: ``sd-scripts``, or ``accelerate-objects`` for a trainer that registers objects.
    """

    def __init__(self, state: Path, layout: str) -> None:
        self.state, self.layout = state, layout
        #: What sd-scripts' hook read from ``train_state.json``.
        self.start: dict[str, Any] = {}
        #: The file that is being loaded.
        self.part = ""
        self.log_lines: list[str] = []
        #: Whether accelerate said that it could not load the random states, or not all of them.
        self.gave_up = False
        self.saved_optimizer = peek(state / _OPTIMIZER)
        self.network = network_like(state)
        self.optimizer = optimizer_like(
            self.saved_optimizer, list(self.network.parameters()), layout == "sd-scripts"
        )
        self._prepare()

    def _prepare(self) -> None:
        # In the order of sd-scripts train_network.py; a DataLoader prepared so has no file of its own.
        loader = DataLoader(TensorDataset(torch.zeros(1, 1)), batch_size=1, shuffle=True)
        self.accelerator = Accelerator(cpu=True)
        prepared = [self.network, self.optimizer, loader]
        if not is_schedule_free(self.saved_optimizer):
            prepared.append(schedule_like(peek(self.state / _SCHEDULER), self.optimizer))
        self.accelerator.prepare(*prepared)
        if self.layout == "sd-scripts":
            self.accelerator.register_load_state_pre_hook(self._read_train_state)
        else:
            saved = sum(1 for path in self.state.iterdir() if _CUSTOM.match(path.name))
            # A trainer of this layout registers something, whether or not it was saved.
            objects = [_Registered() for _ in range(max(1, saved))]
            self.accelerator.register_for_checkpointing(*objects)

    def _read_train_state(self, models: list[Any], input_dir: str) -> None:
        """As sd-scripts does (``train_network.py``, ``load_model_hook``), where only the network is left to load."""
        weights, self.part = self.part, _TRAIN_STATE
        kind = type(self.accelerator.unwrap_model(self.network))
        models[:] = [model for model in models if isinstance(model, kind)]
        path = Path(input_dir, _TRAIN_STATE)
        if path.exists():
            with path.open(encoding="utf-8") as file:
                record = json.load(file)
            record["current_step"]  # the trainer needs it, and stops here without it
            self.start = record
        self.part = weights

    def load(self) -> None:
        """The real ``Accelerator.load_state``; raises whatever it raises."""
        handler = _Listener(self)
        logger = logging.getLogger("accelerate")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        # accelerate asks for the one, and takes the other only where that is missing.
        pickled = not (self.state / _SAFE).exists() and (self.state / _PICKLED).exists()
        self.part = _PICKLED if pickled else _SAFE
        random.seed(_SEED)
        numpy.random.seed(_SEED)
        torch.manual_seed(_SEED)
        self._seeded = generators()
        self.accelerator.load_state(str(self.state))
        self.part = ""

    def heard(self, line: str) -> None:
        """A line of accelerate's own log: it tells which file comes next."""
        if len(self.log_lines) < _MAX_LINES:
            self.log_lines.append(line[:_MAX_LINE])
        self.gave_up = self.gave_up or _GAVE_UP in line
        for said, following in _NEXT_FILE:
            if said in line:
                self.part = following
        if _LOADING_OBJECTS.search(line):
            self.part = "custom_checkpoint_0.pkl"

    def restored(self) -> list[str]:
        """Which of python's, numpy's and torch's CPU generators the load has set."""
        return [name for name, state in generators().items() if state != self._seeded[name]]

    def problem(self) -> str | None:
        """What of the files did not arrive although nothing was raised, or ``None``."""
        return self._weights_problem() or self._optimizer_problem()

    def _weights_problem(self) -> str | None:
        path = self.state / _SAFE
        if not path.exists():
            return None
        loaded = self.network.state_dict()
        with safe_open(str(path), framework="pt") as file:
            names = sorted(file.keys())
            if names != sorted(loaded):
                return f"the network has other tensors than {_SAFE}"
            # One tells whether anything was loaded; all would cost as much as the load.
            for name in names[-1:]:
                if not same_bytes(loaded[name], file.get_tensor(name)):
                    return f"{name} in the network is not that of {_SAFE}"
        return None

    def _optimizer_problem(self) -> str | None:
        saved, loaded = self.saved_optimizer, self.optimizer.state
        if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
            return None
        if len(loaded) != len(saved["state"]):
            return f"the optimizer holds {len(loaded)} entries, {_OPTIMIZER} {len(saved['state'])}"
        return None


class _Listener(logging.Handler):
    """Hands accelerate's log on."""

    def __init__(self, stand_in: StandIn) -> None:
        super().__init__(logging.INFO)
        self._stand_in = stand_in

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        self._stand_in.heard(record.getMessage())


class _Registered:
    """An object registered for checkpointing, which takes whatever was saved."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it is never saved."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Anything."""


def finish_import() -> None:
    """Let torch import the rest of itself (its compiler, 80 MB): it does so when an optimizer is first loaded."""
    optimizer = PlainOptimizer([nn.Parameter(torch.zeros(1))], lr=1e-3)
    optimizer.load_state_dict(optimizer.state_dict())


def peek(path: Path) -> Any:
    """What a torch file holds, its tensors without their numbers; ``None`` where it cannot be read."""
    try:
        return torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # noqa: BLE001 - the real load will say what is wrong with it
        return None


def network_like(state: Path) -> nn.Module:
    """A network with the tensors of the saved weights, their numbers not set; an empty one where they are unreadable.

    ``alpha`` is a buffer (sd-scripts ``networks/lora_flux.py``, ``LoRAModule``), and so is what is no floating number.
    """
    network = nn.Module()
    children: dict[tuple[nn.Module, str], nn.Module] = {}
    for name, tensor in _tensors_like(state):
        *folders, leaf = name.split(".")
        module = network
        for folder in folders:
            if (module, folder) not in children:
                children[module, folder] = nn.Module()
                module.add_module(folder, children[module, folder])
            module = children[module, folder]
        if leaf == "alpha" or not tensor.is_floating_point():
            module.register_buffer(leaf, tensor)
        else:
            module.register_parameter(leaf, nn.Parameter(tensor))
    return network


def _tensors_like(state: Path) -> list[tuple[str, Tensor]]:
    # torch.empty touches no memory; the load fills it.
    if (state / _SAFE).exists():
        described = _safetensors_header(state / _SAFE)
    else:
        saved = peek(state / _PICKLED)
        values = saved.items() if isinstance(saved, dict) else ()
        described = [
            (str(name), value.shape, value.dtype) for name, value in values if isinstance(value, Tensor)
        ]
    return [(name, torch.empty(tuple(shape), dtype=dtype)) for name, shape, dtype in described]


def _safetensors_header(path: Path) -> list[tuple[str, Iterable[int], torch.dtype]]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
        header.pop("__metadata__", None)
        return [
            (name, entry["shape"], getattr(torch, _DTYPES[entry["dtype"]])) for name, entry in header.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def is_schedule_free(saved: Any) -> bool:
    """Whether the optimizer was schedule-free (``adamw_schedulefree.py``): then no scheduler is prepared."""
    return any("weight_sum" in group for group in _groups(saved))


def _groups(saved: Any) -> list[dict[str, Any]]:
    groups = saved.get("param_groups") if isinstance(saved, dict) else None
    return [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []


def optimizer_like(saved: Any, parameters: list[Any], only_these: bool) -> torch.optim.Optimizer:
    """An optimizer whose groups have the saved sizes, of the saved kind where torch has it.

    :param only_these: the saved parameters are all in the network (a LoRA's are), so that one too many must be refused.
    """
    left = iter(parameters)
    groups: list[dict[str, Any]] = []
    for group in _groups(saved):
        size = len(group["params"]) if isinstance(group.get("params"), list) else 0
        taken = list(itertools.islice(left, size))
        if not only_these:
            taken += [nn.Parameter(torch.zeros(1)) for _ in range(size - len(taken))]
        groups.append({"params": taken})
    kind = _optimizer_kind(saved)
    # torch refuses an optimizer of nothing; without weights the load stops before it comes to the optimizer.
    optimizer: torch.optim.Optimizer = kind(groups or parameters or [nn.Parameter(torch.zeros(1))], lr=1e-3)
    return optimizer


def _optimizer_kind(saved: Any) -> Any:
    state = saved.get("state") if isinstance(saved, dict) else None
    entries = state.values() if isinstance(state, dict) else ()
    keys = {key for entry in entries if isinstance(entry, dict) for key in entry}
    settings = {key for group in _groups(saved) for key in group}
    if "state1" in keys or "__bnb_optimizer_quant_state__" in keys:
        return EightBitOptimizer
    if "amsgrad" in settings and keys <= {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}:
        return torch.optim.AdamW
    return torch.optim.SGD if "dampening" in settings else PlainOptimizer


class PlainOptimizer(torch.optim.Optimizer):
    """Loads as torch's own class does, which transformers' Adafactor, prodigyopt and schedulefree inherit."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})


class EightBitOptimizer(PlainOptimizer):
    """Loads as bitsandbytes does (``optim/optimizer.py``, ``load_state_dict``): bytes stay bytes.

    torch's own would turn the 8-bit moments into numbers of four bytes.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checks and groups as torch, the entries as they are."""
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        by_number = dict(zip(numbers, parameters, strict=True))
        for number, entry in state_dict["state"].items():
            self.state[by_number.get(number, number)] = entry


def schedule_like(saved: Any, optimizer: torch.optim.Optimizer) -> Any:
    """A schedule of the saved kind: transformers' schedules are all ``LambdaLR``, whose functions are saved apart."""
    if isinstance(saved, dict) and "lr_lambdas" not in saved:
        return PlainSchedule(optimizer)
    return LambdaLR(optimizer, [_constant() for _ in optimizer.param_groups])


def _constant() -> Any:
    # One function each: a saved lambda is loaded into its attributes.
    return lambda _step: 1.0


class PlainSchedule(LRScheduler):
    """Loads as the schedules of torch do that save nothing but their attributes."""

    def get_lr(self) -> list[float]:
        """The rates as they are."""
        return [group["lr"] for group in self.optimizer.param_groups]


def generators() -> dict[str, Any]:
    """The states of the generators that accelerate restores on a CPU, as values that compare."""
    state: Any = numpy.random.get_state()
    kind, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tobytes(), *rest),
        "torch": bytes(torch.get_rng_state().tolist()),
    }


def same_bytes(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are the same to the bit; unlike numbers, NaN is itself here."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    flat = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)]
    return bool(torch.equal(*flat))
