"""Sample images: which belong to a checkpoint, and that no image is a reason to fail."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from checkpoint_core.audit.auditor import Auditor
from checkpoint_core.audit.reports import CheckpointReport
from checkpoint_core.tab.sample_images import MAX_SAMPLES, find_samples, thumbnail

RUN, STATE = "accelerate-1.6.0-adafactor", "tiny-lora-000002-state"
OF_EPOCH_2 = "tiny-lora_e000002_00_20250101120000_42.png"


@pytest.fixture
def outputs(real_runs: Path, tmp_path: Path) -> Path:
    """An outputs folder with one run that has a folder for samples."""
    shutil.copytree(real_runs / RUN, tmp_path / "outputs" / RUN)
    (tmp_path / "outputs" / RUN / "sample").mkdir()
    return tmp_path / "outputs"


def paint(outputs: Path, name: str) -> Path:
    path = outputs / RUN / "sample" / name
    Image.new("RGBA", (8, 16), "red").save(path, "PNG")
    return path


def checkpoint(outputs: Path, name: str = STATE) -> CheckpointReport:
    return Auditor(outputs).audit_run(RUN).checkpoint(name)


def names(outputs: Path, state: str = STATE) -> list[str]:
    return [sample.path.name for sample in find_samples(checkpoint(outputs, state), outputs)]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (OF_EPOCH_2, True),
        ("tiny-lora_e000002_117_20250101120000.png", True),
        ("tiny-lora_e000002_00_20250101120000.WEBP", True),
        ("tiny-lora_e000003_00_20250101120000.png", False),
        ("tiny-lora_000002_00_20250101120000.png", False),
        ("tiny-lora_e000002_00_20250101120000.txt", False),
        ("anything.png", False),
    ],
)
def test_an_epochs_images_are_told_by_name(outputs: Path, name: str, shown: bool) -> None:
    paint(outputs, name)
    assert names(outputs) == ([name] if shown else [])


def test_a_step_states_images_are_those_of_its_step(outputs: Path) -> None:
    paint(outputs, "tiny-lora_e000016_00_20250101120000.png")
    wanted = paint(outputs, "tiny-lora_000016_00_20250101120000.png")
    (outputs / RUN / STATE).rename(outputs / RUN / "tiny-lora-step00000016-state")

    assert names(outputs, "tiny-lora-step00000016-state") == [wanted.name]


def test_no_more_than_a_row_of_them(outputs: Path) -> None:
    for number in range(MAX_SAMPLES + 3):
        paint(outputs, f"tiny-lora_e000002_{number:02d}_20250101120000.png")
    assert len(names(outputs)) == MAX_SAMPLES


def test_a_link_out_of_the_outputs_folder_is_not_followed(outputs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "private.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    (outputs / RUN / "sample" / OF_EPOCH_2).symlink_to(elsewhere)

    assert names(outputs) == []


def test_a_run_without_samples_has_none(outputs: Path) -> None:
    shutil.rmtree(outputs / RUN / "sample")
    assert names(outputs) == []


def test_a_thumbnail_is_a_small_jpeg_with_its_name(outputs: Path) -> None:
    path = outputs / RUN / "sample" / OF_EPOCH_2
    Image.new("RGB", (2000, 1000), "blue").save(path)

    made = thumbnail(path)

    assert made is not None
    assert made.caption == OF_EPOCH_2
    with Image.open(io.BytesIO(base64.b64decode(made.jpeg_base64))) as image:
        assert (image.format, image.size) == ("JPEG", (256, 128))


@pytest.mark.parametrize("keep", [0, 4, 20, 60])
def test_a_broken_image_is_left_out(outputs: Path, keep: int) -> None:
    path = paint(outputs, OF_EPOCH_2)
    path.write_bytes(path.read_bytes()[:keep])
    assert thumbnail(path) is None


def test_an_image_that_is_gone_is_left_out(outputs: Path) -> None:
    assert thumbnail(outputs / "gone.png") is None


def test_an_image_of_unreasonable_size_is_not_decoded(outputs: Path) -> None:
    path = outputs / RUN / "sample" / OF_EPOCH_2
    Image.new("1", (8_000, 8_000)).save(path)
    assert thumbnail(path) is None
