"""The script's ``--dataset_config`` and its image folders to the number of batches in an epoch, as sd-scripts counts.

sd-scripts ``library/train_util.py``: ``DreamBoothDataset``, ``glob_images``, and ``BaseDataset.make_buckets`` (images
times repeats, in batches bucket by bucket).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from math import ceil
from pathlib import Path

from checkpoint_core.scripts import ScriptFacts, is_of_this_machine, path_here
from checkpoint_core.trainer.dataset_config import (
    FALLBACKS,
    Dataset,
    DatasetFacts,
    DatasetMissing,
    Subset,
    parse_datasets,
)
from checkpoint_core.trainer.given import Undetermined

#: FluxGym's file has 300 bytes.
_MAX_CONFIG_BYTES = 64 * 1024
_MAX_ENTRIES = 200_000
#: ``train_util.py``, ``IMAGE_EXTENSIONS``; the second ones count only with a plug-in installed.
_EXTENSIONS = frozenset(".png .jpg .jpeg .webp .bmp .PNG .JPG .JPEG .WEBP .BMP".split())
_PLUGIN_EXTENSIONS = frozenset(".avif .AVIF .jxl .JXL".split())
#: ``DreamBoothDataset.IMAGE_INFO_CACHE_FILE``: with ``cache_info`` it stands for the folder's listing.
_INFO_CACHE = "metadata_cache.json"


def read_dataset(script: ScriptFacts, run: Path) -> DatasetFacts | None:
    """The training images that the script names, counted; ``None`` where it names no dataset configuration."""
    written = script.value("--dataset_config")
    if written is None or script.has("--dataset_class"):
        return None
    try:
        datasets = parse_datasets(_config_text(written, script, run), script)
        counted = [_batches(dataset, script, run) for dataset in datasets]
        least, most = (sum(column) for column in zip(*counted, strict=True))
        if not least:
            raise _absence(f"there are no images in {_folders(datasets)}", script, run)
    except Undetermined as reason:
        return DatasetFacts(written, None, str(reason), isinstance(reason, DatasetMissing))
    return DatasetFacts(written, (least, most))


def dataset_key(script: ScriptFacts, run: Path) -> object:
    """A value that compares unequal once the configuration, a setting of the script or a folder's listing changes.

    Cheap: it lists no folder.
    """
    written = script.value("--dataset_config")
    flags = tuple(script.flags.get(flag) for flag in (*FALLBACKS.values(), "--dataset_class"))
    place = (written, script.output_dir, script.hidden, flags)
    if written is None:
        return place
    try:
        text = _config_text(written, script, run)
        folders = {subset.image_dir for dataset in parse_datasets(text, script) for subset in dataset.subsets}
    except Undetermined as reason:
        return (*place, str(reason))
    return (*place, text, tuple((folder, _modified_ns(folder, script, run)) for folder in sorted(folders)))


def _config_text(written: str, script: ScriptFacts, run: Path) -> str:
    if script.hidden and script.config_file is None:
        raise Undetermined(script.hidden)  # further flags may name another dataset
    path, status = _found(written, script, run)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_CONFIG_BYTES:
        raise Undetermined(f"{written} is no file, or larger than any dataset configuration")
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Undetermined(f"{written} could not be read") from error


def _found(written: str, script: ScriptFacts, run: Path) -> tuple[Path, os.stat_result]:
    """What the script means by a path: its place on this machine, and what is there."""
    path = path_here(written, script, run)
    if path is None:
        raise Undetermined(f"{written} is a path of another machine or container")
    try:
        return path, path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _absence(f"there is no {written}", script, run) from error
    except (OSError, ValueError) as error:
        raise Undetermined(f"{written} could not be read") from error


def _absence(words: str, script: ScriptFacts, run: Path) -> Undetermined:
    """What is not here may be where the script runs."""
    return (
        DatasetMissing(words) if is_of_this_machine(script, run) else Undetermined(f"{words} on this machine")
    )


def _batches(dataset: Dataset, script: ScriptFacts, run: Path) -> tuple[int, int]:
    """The batches of an epoch, least and most."""
    folders = list(_images(dataset, script, run))
    training = [(images, repeats) for images, repeats, is_reg in folders if not is_reg]
    entries = sum(images * repeats for images, repeats in training)
    added = _regularising(entries, [(images, repeats) for images, repeats, is_reg in folders if is_reg])
    size = dataset.batch_size
    least = most = -(-(entries + added) // size)
    if dataset.has_buckets:
        # At worst every image is alone in its bucket; the repeats of one image always share theirs.
        most = sum(images * -(-repeats // size) for images, repeats in training) + added
    return least, most


def _images(dataset: Dataset, script: ScriptFacts, run: Path) -> Iterator[tuple[int, int, bool]]:
    """For each folder that counts: its images, their repeats, whether they are for regularisation."""
    seen: set[str] = set()
    for subset in dataset.subsets:
        if subset.repeats < 1 or subset.image_dir in seen:
            continue  # the trainer ignores both, the second of two equal folders
        try:
            images = _listed(subset, script, run)
        except DatasetMissing:
            continue  # the trainer says “not directory” and trains on the rest
        if images and dataset.validation_split and not subset.is_reg:
            images = ceil(images * (1 - dataset.validation_split))
        if images:
            seen.add(subset.image_dir)
            yield images, subset.repeats, subset.is_reg


def _listed(subset: Subset, script: ScriptFacts, run: Path) -> int:
    folder, status = _found(subset.image_dir, script, run)
    if not stat.S_ISDIR(status.st_mode):
        raise _absence(f"{subset.image_dir} is no folder", script, run)
    if subset.cache_info and os.path.exists(folder / _INFO_CACHE):
        raise Undetermined(f"the trainer takes the images of {subset.image_dir} from {_INFO_CACHE}")
    images = 0
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number >= _MAX_ENTRIES:
                    raise Undetermined(f"{subset.image_dir} holds more than {_MAX_ENTRIES:,} files")
                images += _is_image(entry.name)
    except OSError as error:
        raise Undetermined(f"{subset.image_dir} could not be read") from error
    return images


def _is_image(name: str) -> bool:
    """Whether ``glob_images`` finds it: hidden files never, other systems than Windows by the case of the ending."""
    ending = "" if name.startswith(".") else os.path.normcase(os.path.splitext(name)[1])
    if ending in _PLUGIN_EXTENSIONS:
        raise Undetermined(f"{name} counts only where the trainer has the plug-in to read it")
    return ending in _EXTENSIONS


def _regularising(entries: int, folders: list[tuple[int, int]]) -> int:
    """How often regularisation images are taken: until there are as many as training images, then no more."""
    available = sum(images * repeats for images, repeats in folders)
    if available < entries:
        return entries if available else 0
    taken = 0
    for images, repeats in folders:
        taken += min(images, max(0, -(-(entries - taken) // repeats))) * repeats
    return taken


def _folders(datasets: list[Dataset]) -> str:
    return ", ".join(dict.fromkeys(subset.image_dir for dataset in datasets for subset in dataset.subsets))


def _modified_ns(folder: str, script: ScriptFacts, run: Path) -> int | None:
    try:
        return _found(folder, script, run)[1].st_mtime_ns
    except Undetermined:
        return None
