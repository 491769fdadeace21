"""A good state under a changed train script or a changed dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.conformance.case import Case
from tests.world import World

_STOCK = {
    "dim": "--network_dim 4",
    "optimizer": "--optimizer_type adafactor",
    "scheduler": "--lr_scheduler constant_with_warmup",
    "rate": "--learning_rate 0.0008",
    "epochs": "--max_train_epochs 8",
    "last": "--save_state",
}
"""Lines of the stock script."""


def script_cases() -> Iterator[Case]:
    """All of them."""
    yield from _network()
    yield from _optimizer()
    yield from _schedule()
    yield from _epochs()
    yield from _dataset()


def _changed(told: str, row: str, key: str, text: str, old: str = "", **rest: Any) -> Case:
    """The stock script's line of that key, or another `old` one, replaced by a text; a text after `+` is added."""
    line = old or _STOCK[key]
    new = f"{line} \\\n  {text[1:]}" if text.startswith("+") else text
    return Case(f"script: {told}", row, flags=((line, new),), **rest)


def _network() -> Iterator[Case]:
    yield _changed("--network_dim 8", "16", "dim", "--network_dim 8")
    yield _changed("--network_dim 2", "16", "dim", "--network_dim 2")
    yield _changed("no --network_dim", "", "dim", "--max_grad_norm 0.0")
    rank_8 = {"base": "rank-8", "old": "--network_dim 8"}
    yield _changed("rank 8, --network_dim 4", "16", "dim", "--network_dim 4", **rank_8)
    yield _changed("rank 8, no --network_dim", "16", "dim", "--max_grad_norm 0.0", **rank_8)
    for alpha, row in (("1", ""), ("1.0", ""), ("4", "21a"), ("16", "21a"), ("0.5", "21a")):
        yield _changed(f"--network_alpha {alpha}", row, "last", f"+--network_alpha {alpha}")
    for blocks, row in (("single", "17"), ("double", "17"), ("all", "")):
        yield _changed(f"train_blocks={blocks}", row, "last", f'+--network_args "train_blocks={blocks}"')
    single = '--network_args "train_blocks=single"'
    yield _changed("single blocks, flag removed", "17", "", "--seed 42", base="single-blocks", old=single)
    double = '--network_args "train_blocks=double"'
    yield _changed("single blocks, now double", "17", "", double, base="single-blocks", old=single)
    yield _changed("--network_train_unet_only", "17", "last", "+--network_train_unet_only")
    unet = "--network_train_unet_only"
    yield _changed("transformer only, flag removed", "17", "", "--seed 42", base="unet-only", old=unet)


def _optimizer() -> Iterator[Case]:
    names = {"stock": "adafactor", "adamw": "adamw", "sgd": "sgdnesterov"}
    rows = {("adamw", "sgdnesterov"): "21"}
    for base, before in names.items():
        for after in (name for name in names.values() if name != before):
            yield _changed(
                f"{before}, then {after}",
                rows.get((before, after), "20"),
                "",
                f"--optimizer_type {after}",
                base=base,
                old=f"--optimizer_type {before}",
            )
        yield _changed(
            f"{before}, written {before.upper()}",
            "",
            "",
            f"--optimizer_type {before.upper()}",
            base=base,
            old=f"--optimizer_type {before}",
        )
    args = '"relative_step=False" "scale_parameter=False" "warmup_init=False"'
    yield _changed("another weight_decay", "34", "", f'{args} "weight_decay=0.1"', old=args)
    yield _changed("another --learning_rate", "34", "rate", "--learning_rate 0.0001")
    for flag in ("--text_encoder_lr", "--unet_lr"):
        yield _changed(f"{flag} 0.0001", "34", "last", f"+{flag} 0.0001")
        yield _changed(f"{flag} 0", "19", "last", f"+{flag} 0")
    yield _changed("--learning_rate 0", "19", "rate", "--learning_rate 0")


def _schedule() -> Iterator[Case]:
    yield _changed("constant without warm-up", "", "scheduler", "--lr_scheduler constant")
    for after in ("cosine", "linear"):
        yield _changed(f"constant, then {after}", "33", "scheduler", f"--lr_scheduler {after}")
    cosine = {"base": "cosine", "old": "--lr_scheduler cosine"}
    yield _changed("cosine, then constant", "33", "", "--lr_scheduler constant", **cosine)
    near = "Half-way through the training both schedules stand at nearly the same rate: there is no jump to warn of."
    yield _changed("cosine, then linear", "33", "", "--lr_scheduler linear", accepted=near, **cosine)
    yield _changed("cosine, more epochs", "33", "epochs", "--max_train_epochs 16", base="cosine")
    yield _changed("cosine, fewer epochs", "33", "epochs", "--max_train_epochs 5", base="cosine")
    yield _changed("warm-up steps added", "33", "last", "+--lr_warmup_steps 4")
    yield _changed("long warm-up added", "33", "last", "+--lr_warmup_steps 60")


def _epochs() -> Iterator[Case]:
    for epochs, row in ((2, "28"), (3, "28"), (4, "28"), (5, ""), (16, "")):
        yield _changed(f"--max_train_epochs {epochs}", row, "epochs", f"--max_train_epochs {epochs}")
    for steps, row in ((16, "28"), (32, "28"), (33, ""), (40, ""), (400, "")):
        yield _changed(f"--max_train_steps {steps}", row, "epochs", f"--max_train_steps {steps}")
    for epoch, row in ((1, "29"), (4, "29"), (5, ""), (6, "29"), (8, "29"), (9, "28"), (10, "28"), (0, "29")):
        yield _changed(f"--initial_epoch {epoch}", row, "last", f"+--initial_epoch {epoch}")
    for step, row in ((32, ""), (33, "29"), (39, "29"), (24, "29"), (40, "29"), (64, "28"), (-8, "29")):
        yield _changed(f"--initial_step {step}", row, "last", f"+--initial_step {step}")
    yield _changed("--skip_until_initial_step", "", "last", "+--skip_until_initial_step")
    both = "+--initial_epoch 5 \\\n  --skip_until_initial_step"
    yield _changed("--initial_epoch 5, skipping", "", "last", both)
    both = "+--initial_step 32 \\\n  --initial_epoch 2"
    yield _changed("--initial_step 32 and --initial_epoch 2", "", "last", both)
    yield _changed(
        "--initial_step 36, skipping", "29", "last", "+--initial_step 36 \\\n  --skip_until_initial_step"
    )
    twice = "+--initial_epoch 2 \\\n  --initial_epoch 5"
    yield _changed("--initial_epoch twice, the last right", "", "last", twice)


def _dataset() -> Iterator[Case]:
    """Four images, two repeats, batches of one make the eight batches of an epoch."""

    def case(told: str, change: Any, batches: int, row: str = "35", **rest: Any) -> Case:
        return Case(f"dataset: {told}", row, change, batches=batches, **rest)

    yield case("an image added", lambda world: _images(world, 5), 10)
    yield case("three images added", lambda world: _images(world, 7), 14)
    yield case("an image removed", lambda world: _images(world, 3), 6)
    yield case("all but one image removed", lambda world: _images(world, 1), 2)
    yield case("ten images", lambda world: _images(world, 10), 20)
    yield case("an image exchanged", _exchange_image, 8, row="")
    yield case("captions removed", _remove_captions, 8, row="")
    yield case("repeats 1", lambda world: _toml(world, "num_repeats = 2", "num_repeats = 1"), 4)
    yield case("repeats 3", lambda world: _toml(world, "num_repeats = 2", "num_repeats = 3"), 12)
    yield case("batches of two", lambda world: _toml(world, "batch_size = 1", "batch_size = 2"), 4)
    yield case("batches of three", lambda world: _toml(world, "batch_size = 1", "batch_size = 3"), 3)
    told = (("--save_state", "--save_state \\\n  --initial_epoch 5"),)
    yield case("an image added, --initial_epoch", lambda world: _images(world, 5), 10, flags=told)
    yield case("repeats 1, --initial_epoch", lambda world: _toml(world, "num_repeats = 2", "num_repeats = 1"), 4,
               flags=told)  # fmt: skip


def _images(world: World, count: int) -> None:
    folder = world.root / "datasets" / world.run_name
    present = sorted(folder.glob("*.png"))
    for path in present[count:]:
        path.unlink()
        path.with_suffix(".txt").unlink()
    for number in range(len(present), count):
        for path in (present[0], present[0].with_suffix(".txt")):
            (folder / f"photo-{number}{path.suffix}").write_bytes(path.read_bytes())


def _exchange_image(world: World) -> None:
    _images(world, 3)
    _images(world, 4)


def _remove_captions(world: World) -> None:
    for path in (world.root / "datasets" / world.run_name).glob("*.txt"):
        path.unlink()


def _toml(world: World, old: str, new: str) -> None:
    path = world.run / "dataset.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8", newline="\n")
