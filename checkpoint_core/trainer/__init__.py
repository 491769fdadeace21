"""What sd-scripts will do; pure, except for the dataset on the disk."""

from __future__ import annotations

from checkpoint_core.trainer.dataset import dataset_key, read_dataset
from checkpoint_core.trainer.dataset_config import DatasetFacts
from checkpoint_core.trainer.disk_space import (
    DiskRoom,
    bytes_to_free,
    disk_room,
    most_of_save,
    state_sizes,
    weights_size,
    with_spare,
)
from checkpoint_core.trainer.forecast import Forecast, forecast_sentence, launch_of, make_forecast
from checkpoint_core.trainer.launch import LaunchPoint, launch_from
from checkpoint_core.trainer.learning_rate import (
    differs,
    highest_rate,
    learning_rate_at,
    rate_text,
    saved_rates,
)
from checkpoint_core.trainer.lora_network import MODULE, LoraDifference, LoraPlan, difference, plan_network
from checkpoint_core.trainer.optimizers import (
    TrainerOptimizer,
    optimizer_of,
    stop_with,
    trainer_optimizer,
    type_to_write,
)
from checkpoint_core.trainer.param_groups import (
    PlannedGroup,
    changes_to,
    plan_groups,
    plan_rates,
    possible_counts,
)
from checkpoint_core.trainer.position import (
    Position,
    accumulation_steps,
    implied_steps_per_epoch,
    locate,
)
from checkpoint_core.trainer.reconstruction import TOLERANCE_NS, lost_scheduler, lost_train_state
from checkpoint_core.trainer.save_plan import SaveRules, changes, save_rules

__all__ = [
    "MODULE",
    "TOLERANCE_NS",
    "DatasetFacts",
    "DiskRoom",
    "Forecast",
    "LaunchPoint",
    "LoraDifference",
    "LoraPlan",
    "PlannedGroup",
    "Position",
    "SaveRules",
    "TrainerOptimizer",
    "accumulation_steps",
    "bytes_to_free",
    "changes",
    "changes_to",
    "dataset_key",
    "difference",
    "differs",
    "disk_room",
    "forecast_sentence",
    "highest_rate",
    "implied_steps_per_epoch",
    "launch_from",
    "launch_of",
    "learning_rate_at",
    "locate",
    "lost_scheduler",
    "lost_train_state",
    "make_forecast",
    "most_of_save",
    "optimizer_of",
    "plan_groups",
    "plan_network",
    "plan_rates",
    "possible_counts",
    "rate_text",
    "read_dataset",
    "save_rules",
    "saved_rates",
    "state_sizes",
    "stop_with",
    "trainer_optimizer",
    "type_to_write",
    "weights_size",
    "with_spare",
]
