"""The optimizers that sd-scripts makes of ``--optimizer_type``, by family, and what one does with another's state.

A family is the set of optimizers that can go on from each other's ``optimizer.bin``; it has the lower-case name of
its best known member. Source: sd-scripts ``train_util.py``, ``get_optimizer``. What a first step does with the state
of another family was tried pair by pair on the CPU, with torch 2.13, transformers 4.49, bitsandbytes 0.50,
prodigyopt 1.1, lion-pytorch 0.2, dadaptation 3.2 and schedulefree 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from checkpoint_core.scripts import ScriptFacts


@dataclass(frozen=True)
class TrainerOptimizer:
    """One value of ``--optimizer_type`` as it is documented, its family, and the package that has to be installed."""

    name: str
    family: str
    package: str

    @property
    def schedule_free(self) -> bool:
        """Whether sd-scripts gives it no scheduler (``train_util.py``, ``is_schedulefree_optimizer``)."""
        return is_schedule_free(self.family)


_BNB, _DADAPT, _FREE = "bitsandbytes", "dadaptation", "schedulefree"
#: The names that ``get_optimizer`` knows. It compares them in lower case.
_KNOWN = (
    TrainerOptimizer("AdamW", "adamw", "torch"),
    TrainerOptimizer("SGDNesterov", "sgd", "torch"),
    TrainerOptimizer("Adafactor", "adafactor", "transformers"),
    TrainerOptimizer("AdamW8bit", "adamw8bit", _BNB),
    TrainerOptimizer("PagedAdamW", "adamw8bit", _BNB),
    TrainerOptimizer("PagedAdamW8bit", "adamw8bit", _BNB),
    TrainerOptimizer("PagedAdamW32bit", "adamw8bit", _BNB),
    TrainerOptimizer("Lion8bit", "lion8bit", _BNB),
    TrainerOptimizer("PagedLion8bit", "lion8bit", _BNB),
    TrainerOptimizer("SGDNesterov8bit", "sgd8bit", _BNB),
    TrainerOptimizer("Lion", "lion", "lion-pytorch"),
    TrainerOptimizer("Prodigy", "prodigy", "prodigyopt"),
    TrainerOptimizer("DAdaptation", "dadaptation", _DADAPT),
    TrainerOptimizer("DAdaptAdamPreprint", "dadaptation", _DADAPT),
    TrainerOptimizer("DAdaptAdaGrad", "dadaptadagrad", _DADAPT),
    TrainerOptimizer("DAdaptAdam", "dadaptadam", _DADAPT),
    TrainerOptimizer("DAdaptAdan", "dadaptadan", _DADAPT),
    TrainerOptimizer("DAdaptAdanIP", "dadaptadanip", _DADAPT),
    TrainerOptimizer("DAdaptLion", "dadaptlion", _DADAPT),
    TrainerOptimizer("DAdaptSGD", "dadaptsgd", _DADAPT),
    TrainerOptimizer("AdamWScheduleFree", "adamwschedulefree", _FREE),
    TrainerOptimizer("RAdamScheduleFree", "radamschedulefree", _FREE),
    TrainerOptimizer("SGDScheduleFree", "sgdschedulefree", _FREE),
)
_BY_TYPE = {optimizer.name.lower(): optimizer for optimizer in _KNOWN}
#: Classes that ``get_optimizer`` imports by their full name, and that are the same as one that it knows.
_BY_CLASS = {
    "torch.optim.AdamW": "adamw",
    "torch.optim.SGD": "sgdnesterov",
    "SGD": "sgdnesterov",
    "transformers.Adafactor": "adafactor",
    "transformers.optimization.Adafactor": "adafactor",
    "bitsandbytes.optim.AdamW8bit": "adamw8bit",
    "bitsandbytes.optim.PagedAdamW8bit": "pagedadamw8bit",
    "bitsandbytes.optim.Lion8bit": "lion8bit",
    "lion_pytorch.Lion": "lion",
    "prodigyopt.Prodigy": "prodigy",
    "schedulefree.AdamWScheduleFree": "adamwschedulefree",
    "schedulefree.RAdamScheduleFree": "radamschedulefree",
    "schedulefree.SGDScheduleFree": "sgdschedulefree",
}
#: What to write to get a family back where that is not the first name of the table: FluxGym writes two in lower case.
_WRITTEN = {
    "adafactor": "adafactor",
    "adamw8bit": "adamw8bit",
    "ademamix8bit": "bitsandbytes.optim.AdEMAMix8bit",
}


def is_schedule_free(family: str) -> bool:
    """Whether a family is one of schedulefree's."""
    return family.endswith("schedulefree")


def trainer_optimizer(optimizer_type: str) -> TrainerOptimizer | None:
    """The optimizer that a value of ``--optimizer_type`` means; ``None`` for one that is not known here."""
    return _BY_TYPE.get(_BY_CLASS.get(optimizer_type, optimizer_type.lower()))


def type_to_write(family: str) -> str:
    """A value of ``--optimizer_type`` that gives the family."""
    return _WRITTEN.get(family) or next(known.name for known in _KNOWN if known.family == family)


def optimizer_of(script: ScriptFacts) -> tuple[TrainerOptimizer, str] | None:
    """The script's optimizer, and how the script asks for it; ``None`` where that cannot be told."""
    written = script.value("--optimizer_type")
    if written:
        known = trainer_optimizer(written)
        return (known, f"--optimizer_type {written}") if known else None
    if script.has("--optimizer_type") and script.values("--optimizer_type") is None:
        return None
    for flag, meant in (("--use_8bit_adam", "adamw8bit"), ("--use_lion_optimizer", "lion")):
        if script.has(flag):
            return _BY_TYPE[meant], flag
    if script.hidden is not None:
        return None
    return _BY_TYPE["adamw"], "no --optimizer_type, which means AdamW"


class StopPoint(Enum):
    """How far a resume gets with another optimizer's state."""

    LOADING = "while it loads the state"
    BEFORE_STEP = "before the first step"
    FIRST_STEP = "in the first step, after “All optimizer states loaded successfully”"


@dataclass(frozen=True)
class Stop:
    """Where the trainer stops, and with which words."""

    stage: StopPoint
    error: str


#: Script's family to what its first step misses in a state: by the state's family, with ``""`` for all others.
#: A name is the key of a ``KeyError``; anything longer is the error itself.
_BNB_MISSES = {
    "": "state1", "sgd": "betas", "adafactor": "betas", "dadaptadagrad": "betas", "dadaptsgd": "betas", "lion": "eps",
    "dadaptlion": "eps", "ademamix8bit": "RuntimeError: output with shape … doesn't match the broadcast shape …",
}  # fmt: skip
_THREE_BETAS = "ValueError: too many values to unpack"
_MISSES: dict[str, dict[str, str]] = {
    "adafactor": {"": "beta1"},
    "sgd": {"": "momentum", "dadaptadagrad": "dampening", "dadaptsgd": "dampening"},
    "adamw": {
        "": "step", "adafactor": "betas", "adamw8bit": "exp_avg", "lion8bit": "exp_avg", "sgd8bit": "exp_avg",
        "ademamix8bit": _THREE_BETAS, "dadaptadan": _THREE_BETAS, "dadaptadanip": _THREE_BETAS,
    },
    "adamw8bit": {**_BNB_MISSES, "lion8bit": "state2", "sgd8bit": "state2"},
    "lion8bit": _BNB_MISSES,
    "sgd8bit": _BNB_MISSES,
    "lion": {
        "": "exp_avg", "sgd": "betas", "adafactor": "betas", "dadaptadagrad": "betas", "dadaptsgd": "betas",
        "ademamix8bit": _THREE_BETAS, "dadaptadan": _THREE_BETAS, "dadaptadanip": _THREE_BETAS,
    },
    "prodigy": {"": "use_bias_correction", "dadaptadam": "beta3"},
    "dadaptadam": {"": "use_bias_correction", "prodigy": "numerator_weighted"},
    "dadaptation": {"": "gsq_weighted", "dadaptadagrad": "decouple", "dadaptadan": "decouple"},
    "dadaptadagrad": {"": "momentum", "sgd": "log_every", "dadaptsgd": "gsq_weighted"},
    "dadaptadan": {"": "gsq_weighted", "dadaptation": "no_prox", "dadaptadagrad": "no_prox"},
    "dadaptadanip": {
        "": "numerator_weighted", "dadaptadam": "no_prox", "dadaptlion": "no_prox", "dadaptsgd": "no_prox",
    },
    "dadaptlion": {"": "numerator_weighted", "dadaptsgd": "betas", "dadaptadanip": "fsdp_in_use"},
    "dadaptsgd": {"": "momentum", "sgd": "log_every", "dadaptadagrad": "numerator_weighted"},
    "adamwschedulefree": {"": "train_mode", "radamschedulefree": "warmup_steps", "sgdschedulefree": "betas"},
    "radamschedulefree": {"": "train_mode", "adamwschedulefree": "silent_sgd_phase", "sgdschedulefree": "betas"},
    "sgdschedulefree": {"": "train_mode", "adamwschedulefree": "momentum", "radamschedulefree": "momentum"},
}  # fmt: skip
#: State's family to the families of a script that train on from it without a message.
_TAKEN = {
    "adamw": {"lion"},
    "adamw8bit": {"lion8bit", "sgd8bit"},
    "lion8bit": {"sgd8bit"},
    "sgd8bit": {"lion8bit"},
    "prodigy": {"adamw", "lion"},
    "dadaptadam": {"adamw", "lion", "dadaptlion"},
    "dadaptation": {"adamw", "lion"},
    "dadaptlion": {"lion"},
}


def stop_with(saved: str, given: TrainerOptimizer) -> Stop | None:
    """Where a resume with the optimizer ``given`` stops that loads the state of the family ``saved``.

    ``None`` where it trains on without a message, with moments and settings that mean something else. Both families
    must be known and differ.
    """
    if given.family in _TAKEN.get(saved, ()):
        return None
    missed = _MISSES[given.family].get(saved, _MISSES[given.family][""])
    # torch's Adam looks at the steps while it loads (``Adam.__setstate__``).
    if given.family == "adamw" and missed == "step":
        return Stop(StopPoint.LOADING, "KeyError: 'step'")
    if is_schedule_free(saved) and not given.schedule_free:
        return Stop(
            StopPoint.LOADING, "FileNotFoundError … scheduler.bin, which no schedule-free optimizer has"
        )
    # bitsandbytes fetches the pages of a paged optimizer before it looks at anything else.
    if given.name.startswith("Paged") and missed in ("betas", "eps"):
        missed = "state1"
    # sd-scripts calls the optimizer's train() once the state is loaded.
    before = given.schedule_free and missed in ("train_mode", "betas", "momentum")
    error = missed if ":" in missed else f"KeyError: '{missed}'"
    return Stop(StopPoint.BEFORE_STEP if before else StopPoint.FIRST_STEP, error)
