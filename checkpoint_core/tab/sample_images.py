"""The sample images of one epoch or step, small enough to stand in the page.

Names: sd-scripts ``flux_train_utils.py`` (``sample_image_inference``): ``{name}_e000004_00_….png`` at an epoch,
``{name}_000250_00_….png`` at a step.
"""

from __future__ import annotations

import base64
import io
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from checkpoint_core.audit import CheckpointReport
from checkpoint_core.states import EntryKind, SavePoint, list_directory
from checkpoint_core.tab.views.panel import Thumbnail

MAX_SAMPLES = 6
_SIDE_PIXELS = 256
_MAX_BYTES = 30_000_000
_MAX_PIXELS = 50_000_000
_NAME = re.compile(
    r".*_(?P<epoch>e?)(?P<number>\d{6,})_\d{2,}_.*\.(png|jpe?g|webp)\Z", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class SampleImage:
    """A sample image's file; ``modified_ns`` is since 1970, in nanoseconds."""

    path: Path
    modified_ns: int


def find_samples(item: CheckpointReport, outputs: Path) -> tuple[SampleImage, ...]:
    """The sample images that show the model as this checkpoint holds it, by name, at most :data:`MAX_SAMPLES`."""
    folder = outputs / item.run / "sample"
    by_step = item.facts.name.save_point is SavePoint.STEP
    wanted = item.facts.name.number if by_step else item.position.epoch
    found = []
    for entry in list_directory(folder, outputs).entries:
        match = _NAME.match(entry.name)
        if match is None or entry.kind is not EntryKind.FILE or entry.size_bytes > _MAX_BYTES:
            continue
        if bool(match["epoch"]) != by_step and int(match["number"]) == wanted:
            found.append(SampleImage(folder / entry.name, entry.modified_ns))
    return tuple(found[:MAX_SAMPLES])


def thumbnail(path: Path) -> Thumbnail | None:
    """A small JPEG of an image, or ``None`` for one that cannot be shown; an image is never a reason to fail."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                return None
            image.thumbnail((_SIDE_PIXELS, _SIDE_PIXELS))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=80)
    except Exception:  # Pillow raises whatever its decoders meet in a broken file
        logging.getLogger(__name__).debug("%s cannot be shown", path, exc_info=True)
        return None
    return Thumbnail(base64.b64encode(buffer.getvalue()).decode("ascii"), path.name)
