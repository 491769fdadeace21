"""The text of a ``--dataset_config`` to the settings that decide how many batches an epoch has; pure.

sd-scripts ``library/config_util.py``: ``BlueprintGenerator`` looks for a setting in the subset, its dataset,
``[general]`` and the script's flags, in this order. Only what decides about the number of batches is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from checkpoint_core.formats import MAX_COUNT, written_count
from checkpoint_core.scripts import ScriptFacts
from checkpoint_core.trainer.given import Undetermined, given, is_given


class DatasetMissing(Undetermined):
    """What the trainer would not find either."""


@dataclass(frozen=True)
class Subset:
    """One folder of images; ``image_dir`` as it is written."""

    image_dir: str
    repeats: int
    is_reg: bool
    cache_info: bool


@dataclass(frozen=True)
class Dataset:
    """One ``[[datasets]]`` with its settings as the trainer resolves them."""

    batch_size: int
    has_buckets: bool
    validation_split: float
    subsets: tuple[Subset, ...]


def parse_datasets(text: str, script: ScriptFacts) -> list[Dataset]:
    """Every ``[[datasets]]`` of the configuration; there is at least one.

    :raises Undetermined: for what is no TOML, has another form, or leaves a setting to what is not known.
    """
    config = _parsed(text)
    general, datasets = config.get("general", {}), config.get("datasets", [])
    if not isinstance(general, dict) or not _are_tables(datasets):
        raise Undetermined("the dataset configuration is not of the trainer's form")
    if not datasets:
        raise DatasetMissing("the dataset configuration names no dataset")
    return [_dataset(table, general, script) for table in datasets]


@lru_cache(maxsize=256)
def _parsed(text: str) -> Mapping[str, Any]:
    # A parse takes milliseconds, and the same text is asked for again at every look at the run.
    try:
        return tomlkit.parse(text).unwrap()
    except (TOMLKitError, ValueError, RecursionError) as error:
        raise Undetermined(f"the dataset configuration is no valid TOML ({str(error)[:200]})") from error


def _dataset(table: Mapping[str, Any], general: Mapping[str, Any], script: ScriptFacts) -> Dataset:
    subsets = table.get("subsets", [])
    if not _are_tables(subsets) or not subsets:
        raise Undetermined("a dataset of the configuration has no subsets")
    for key in ("metadata_file", "conditioning_data_dir"):
        if any(key in subset for subset in subsets):
            raise Undetermined(f"its images are named by {key}, which is not counted here")
    return Dataset(
        batch_size=_count_setting("batch_size", script, table, general),
        has_buckets=_switch("enable_bucket", script, table, general),
        validation_split=_share(script, table, general),
        subsets=tuple(_subset(subset, (table, general), script) for subset in subsets),
    )


def _subset(subset: Mapping[str, Any], above: tuple[Mapping[str, Any], ...], script: ScriptFacts) -> Subset:
    folder = subset.get("image_dir")
    if not isinstance(folder, str):
        raise Undetermined("a subset of the configuration has no image_dir")
    return Subset(
        image_dir=folder,
        repeats=_count_setting("num_repeats", script, subset, *above),
        is_reg=subset.get("is_reg") is True,
        cache_info=_first("cache_info", subset, *above) is True,
    )


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


#: ``config_util.py``, ``ARGPARSE_OPTNAME_TO_CONFIG_OPTNAME``: the flag that stands in for a missing setting.
FALLBACKS = {
    "batch_size": "--train_batch_size",
    "num_repeats": "--dataset_repeats",
    "enable_bucket": "--enable_bucket",
    "validation_split": "--validation_split",
}


def _first(key: str, *levels: Mapping[str, Any]) -> object:
    """The innermost level wins: subset, dataset, general (``config_util.py``, ``search_value``)."""
    return next((level[key] for level in levels if level.get(key) is not None), None)


def _count_setting(key: str, script: ScriptFacts, *levels: Mapping[str, Any]) -> int:
    """A whole number; without one anywhere the trainer takes 1."""
    value = _first(key, *levels)
    if value is None:
        written = given(script, FALLBACKS[key]) or "1"
        value = written if (number := written_count(written)) is None else number
    if not isinstance(value, int) or isinstance(value, bool) or (key == "batch_size" and value < 1):
        raise Undetermined(f"{key} is {value!r}")
    if abs(value) > MAX_COUNT:  # Python refuses to write out what is longer still
        raise Undetermined(f"{key} is larger than anything that can be counted")
    return value


def _switch(key: str, script: ScriptFacts, *levels: Mapping[str, Any]) -> bool:
    value = _first(key, *levels)
    return is_given(script, FALLBACKS[key]) if value is None else bool(value)


def _share(script: ScriptFacts, *levels: Mapping[str, Any]) -> float:
    value = _first("validation_split", *levels)
    if value is None:
        value = given(script, FALLBACKS["validation_split"]) or 0.0
    try:
        share = float(str(value))
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise Undetermined(f"validation_split is {value!r}")
    return share


@dataclass(frozen=True)
class DatasetFacts:
    """The run's training images as the trainer would count them now.

    ``batches`` is the number of batches an epoch has on one process (least and most, where bucketing leaves it open);
    ``problem`` says in words what could not be told or found, with ``batches`` then ``None``. ``is_missing`` marks a
    folder of images that is not there, in the script's own world.
    """

    file: str
    batches: tuple[int, int] | None
    problem: str | None = None
    is_missing: bool = False
