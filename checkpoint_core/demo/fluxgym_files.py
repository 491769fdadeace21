"""The files that FluxGym lays around a run, for folders that the small trainer fills.

The forms are those of FluxGym's app.py (gen_sh, gen_toml, the start of a training): `train.sh`,
`dataset.toml`, `sample_prompts.txt`, and a folder of captioned images under `datasets/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoint_core.demo.options import TrainOptions
from checkpoint_core.installation import PROJECT, is_installed

REPEATS = 2
"""Repeats of each training image in an epoch, FluxGym's `num_repeats`."""

SAVE_STATE_FLAGS = ("--save_state",)


@dataclass(frozen=True)
class GymFolder:
    """A FluxGym folder and one run in it."""

    root: Path
    run_name: str

    @property
    def run_dir(self) -> Path:
        """The run's own folder."""
        return self.root / "outputs" / self.run_name

    @property
    def dataset_dir(self) -> Path:
        """The folder of the run's training images and captions."""
        return self.root / "datasets" / self.run_name


def train_script(folder: GymFolder, options: TrainOptions, advanced: Sequence[str] = SAVE_STATE_FLAGS) -> str:
    """Return `train.sh` as FluxGym's 16G choice writes it, ending in the `advanced` flags, one a line.

    Without advanced flags the text ends in a dangling continuation mark, as FluxGym's does.
    """
    models, run_dir = folder.root / "models", folder.run_dir
    sample_every = (options.save_every_n_epochs or 1) * options.steps_per_epoch
    lines = [
        "accelerate launch",
        "--mixed_precision bf16",
        "--num_cpu_threads_per_process 1",
        "sd-scripts/flux_train_network.py",
        f"--pretrained_model_name_or_path {quoted(models / 'unet/flux1-dev.sft')}",
        f"--clip_l {quoted(models / 'clip/clip_l.safetensors')}",
        f"--t5xxl {quoted(models / 'clip/t5xxl_fp16.safetensors')}",
        f"--ae {quoted(models / 'vae/ae.sft')}",
        "--cache_latents_to_disk",
        "--save_model_as safetensors",
        "--sdpa --persistent_data_loader_workers",
        "--max_data_loader_n_workers 2",
        f"--seed {options.seed}",
        "--gradient_checkpointing",
        "--mixed_precision bf16",
        "--save_precision bf16",
        "--network_module networks.lora_flux",
        f"--network_dim {options.network_dim}",
        f"--optimizer_type {options.optimizer_type}",
        '--optimizer_args "relative_step=False" "scale_parameter=False" "warmup_init=False"',
        f"--lr_scheduler {options.lr_scheduler}",
        "--max_grad_norm 0.0",
        f'--sample_prompts={quoted(run_dir / "sample_prompts.txt")} --sample_every_n_steps="{sample_every}"',
        f"--learning_rate {options.learning_rate:g}",
        "--cache_text_encoder_outputs",
        "--cache_text_encoder_outputs_to_disk",
        "--fp8_base",
        "--highvram",
        f"--max_train_epochs {options.max_train_epochs}",
        f"--save_every_n_epochs {options.save_every_n_epochs}",
        f"--dataset_config {quoted(run_dir / 'dataset.toml')}",
        f"--output_dir {quoted(run_dir)}",
        f"--output_name {options.output_name}",
        "--timestep_sampling shift",
        "--discrete_flow_shift 3.1582",
        "--model_prediction_type raw",
        "--guidance_scale 1",
        "--loss_type l2",
    ]
    # Joining with the mark and closing with it gives FluxGym's dangling mark when no advanced flag follows.
    return " \\\n  ".join([*lines, *advanced]) + ("" if advanced else " \\")


def write_trainer(root: Path, options: Sequence[str] = ()) -> Path:
    """Write what the scripts start, ``sd-scripts/flux_train_network.py``: the small trainer under upstream's name.

    :param options: further flags of the small trainer, such as ``--step_seconds 0.5``.
    """
    path = root / "sd-scripts" / "flux_train_network.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = "" if is_installed() else f"sys.path.insert(0, {str(PROJECT)!r})\n\n"
    text = f'''"""A small real training in the place of sd-scripts' Flux trainer, for this folder's runs."""

import sys

{found}from checkpoint_core.demo.trainer import main

if __name__ == "__main__":
    main([*sys.argv[1:], *{list(options)!r}])
'''
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def quoted(path: Path) -> str:
    """Return a path in double quotes, as FluxGym writes paths, with what bash would expand in them escaped."""
    return '"' + re.sub(r'(["\\$`])', r"\\\1", str(path)) + '"'


def dataset_config(folder: GymFolder) -> str:
    """Return `dataset.toml` for the run's images: batches of one, `REPEATS` repeats."""
    return "\n".join(
        (
            "[general]",
            "shuffle_caption = false",
            "caption_extension = '.txt'",
            "keep_tokens = 1",
            "",
            "[[datasets]]",
            "resolution = 512",
            "batch_size = 1",
            "keep_tokens = 1",
            "",
            "  [[datasets.subsets]]",
            f"  image_dir = {_toml_text(str(folder.dataset_dir))}",
            "  class_tokens = 'p3rs0n'",
            f"  num_repeats = {REPEATS}",
        )
    )


def _toml_text(text: str) -> str:
    # FluxGym always takes the literal form, which cannot hold an apostrophe; JSON's form is TOML's basic one.
    return f"'{text}'" if "'" not in text else json.dumps(text, ensure_ascii=False)


def write_run_files(
    folder: GymFolder, options: TrainOptions, advanced: Sequence[str] = SAVE_STATE_FLAGS
) -> None:
    """Write the run's script, configuration, prompts and training images; the folder's own files only.

    There are as many images as make `options.steps_per_epoch` batches with `REPEATS` repeats; the caller sees
    to it that the number of steps divides.
    """
    folder.run_dir.mkdir(parents=True, exist_ok=True)
    script = train_script(folder, options, advanced)
    (folder.run_dir / "train.sh").write_text(script, encoding="utf-8", newline="\n")
    (folder.run_dir / "dataset.toml").write_text(dataset_config(folder), encoding="utf-8", newline="\n")
    (folder.run_dir / "sample_prompts.txt").write_text("p3rs0n in a garden", encoding="utf-8", newline="\n")
    folder.dataset_dir.mkdir(parents=True, exist_ok=True)
    for number in range(options.steps_per_epoch // REPEATS):
        image = folder.dataset_dir / f"photo-{number}.png"
        write_image(image, hue=number / 8, size=32)
        image.with_suffix(".txt").write_text(f"p3rs0n photo number {number}", encoding="utf-8")


def write_image(path: Path, *, hue: float, size: int) -> None:
    """Write a square PNG of `size` pixels: a soft disc on a gradient, told apart by its `hue` (0 to 1)."""
    from PIL import Image, ImageDraw, ImageFilter

    backdrop = Image.linear_gradient("L").resize((size, size))
    tint = Image.new("HSV", (size, size), (int(hue % 1 * 255), 110, 255)).convert("RGB")
    image = Image.composite(tint, Image.new("RGB", (size, size), (28, 30, 48)), backdrop)
    accent = Image.new("HSV", (1, 1), (int((hue + 0.45) % 1 * 255), 150, 240)).convert("RGB").getpixel((0, 0))
    ImageDraw.Draw(image).ellipse([size * 0.28, size * 0.2, size * 0.72, size * 0.64], fill=accent)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.filter(ImageFilter.GaussianBlur(size / 64)).save(path)
