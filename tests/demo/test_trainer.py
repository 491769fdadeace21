"""The small trainer against the real one: what it saves, when, and how it goes on after a resume.

`real_runs` were written by the unedited sd-scripts; what these tests compare with is theirs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from checkpoint_core.demo.fluxgym_files import GymFolder, train_script
from checkpoint_core.demo.network import SmallLora, make_optimizer, make_schedule
from checkpoint_core.demo.options import (
    StartingPoint,
    TrainOptions,
    parse_options,
    starting_point,
    step_to_remove,
)
from checkpoint_core.demo.trainer import train
from tests.world import PROJECT, STATE_FILES

LORA_SUFFIXES = {"lora_down.weight", "lora_up.weight", "alpha"}


@pytest.fixture
def options(tmp_path: Path) -> TrainOptions:
    """A run like the real ones: four epochs of eight steps, each saved, with the real output name."""
    return TrainOptions(
        output_dir=tmp_path / "run",
        output_name="tiny-lora",
        max_train_epochs=4,
        save_every_n_epochs=1,
        save_state=True,
        save_precision="bf16",
        mixed_precision="bf16",
        lr_scheduler="constant_with_warmup",
        quiet=True,
    )


def state_of(options: TrainOptions, epoch: int) -> Path:
    return options.output_dir / f"{options.output_name}-{epoch:06d}-state"


def states_in(run: Path) -> dict[str, dict[str, int]]:
    return {path.parent.name: json.loads(path.read_text()) for path in run.glob("*-state/train_state.json")}


def names_in(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*")}


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def shape_of(value: Any) -> Any:
    """Return the types of a saved object, dictionaries and sequences gone through, numbers aside."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [shape_of(item) for item in value][:3]
    return type(value)


def test_writes_the_files_that_the_real_trainer_writes(options: TrainOptions, real_runs: Path) -> None:
    train(options)
    real = names_in(real_runs / "accelerate-1.6.0-adafactor")
    assert names_in(options.output_dir) == real - {"train.sh", "dataset.toml"}


def test_train_states_equal_those_of_the_real_run(options: TrainOptions, real_runs: Path) -> None:
    train(options)
    assert states_in(options.output_dir) == states_in(real_runs / "accelerate-1.6.0-adafactor")


def test_train_states_after_a_resume_equal_those_of_the_real_run(
    options: TrainOptions, real_runs: Path
) -> None:
    longer = replace(options, max_train_epochs=6)
    train(replace(longer, stop_after_step=20))
    train(replace(longer, resume=str(state_of(options, 2))))
    real = real_runs / "resumed-once"
    assert states_in(options.output_dir) == states_in(real)
    for name in states_in(real):
        ours, theirs = (load(run / name / "scheduler.bin") for run in (options.output_dir, real))
        assert ours["last_epoch"] == theirs["last_epoch"]
    for lora in real.glob("*.safetensors"):
        ours, theirs = metadata_of(options.output_dir / lora.name), metadata_of(lora)
        keys = ("ss_epoch", "ss_steps", "ss_num_epochs", "ss_max_train_steps", "ss_num_batches_per_epoch")
        assert [ours[key] for key in keys] == [theirs[key] for key in keys]


def test_files_of_a_state_are_written_in_the_real_order(options: TrainOptions, real_runs: Path) -> None:
    train(options)
    for run in (options.output_dir, real_runs / "accelerate-1.6.0-adafactor"):
        for state in run.glob("*-state"):
            times = [(state / name).stat().st_mtime_ns for name in STATE_FILES]
            assert times == sorted(times)


def test_lora_file_is_written_before_its_epoch_s_state_and_after_the_last_one(options: TrainOptions) -> None:
    train(options)

    def saved(name: str) -> int:
        return (options.output_dir / name).stat().st_mtime_ns

    assert saved("tiny-lora-000002.safetensors") <= saved("tiny-lora-000002-state/train_state.json")
    assert saved("tiny-lora-state/random_states_0.pkl") <= saved("tiny-lora.safetensors")


@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"])
def test_saved_objects_have_the_shape_of_the_real_ones(
    options: TrainOptions, real_runs: Path, name: str
) -> None:
    train(options)
    ours = load(state_of(options, 1) / name)
    theirs = load(real_runs / "accelerate-1.6.0-adafactor" / "tiny-lora-000001-state" / name)
    if name == "optimizer.bin":
        # The real network has more tensors; one of each kind stands for the rest.
        for saved in (ours, theirs):
            saved["state"] = {key: saved["state"][key] for key in (0, 1)}
    if torch.cuda.is_available():
        ours.pop("torch_cuda_manual_seed", None)
    assert shape_of(ours) == shape_of(theirs)


def test_weights_are_named_and_typed_like_the_real_ones(options: TrainOptions, real_runs: Path) -> None:
    train(options)
    for run in (options.output_dir, real_runs / "accelerate-1.6.0-adafactor"):
        weights = load_file(run / "tiny-lora-000001-state" / "model.safetensors")
        prefixes = {name.split("_")[1] for name in weights}
        assert prefixes == {"te1", "unet"}
        assert {name.split(".", 1)[1] for name in weights} == LORA_SUFFIXES
        dtypes = {name.rsplit(".", 1)[1]: tensor.dtype for name, tensor in weights.items()}
        assert dtypes == {"weight": torch.float32, "alpha": torch.int64}


def test_lora_file_is_the_state_s_weights_in_bf16(options: TrainOptions) -> None:
    train(options)
    weights = load_file(state_of(options, 3) / "model.safetensors")
    lora = load_file(options.output_dir / "tiny-lora-000003.safetensors")
    assert lora.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor.to(torch.bfloat16), lora[name])
    other = load_file(options.output_dir / "tiny-lora-000002.safetensors")
    assert any(not torch.equal(tensor, other[name]) for name, tensor in lora.items())


def test_lora_metadata_agrees_with_the_real_run(options: TrainOptions, real_runs: Path) -> None:
    train(replace(options, optimizer_args=("relative_step=False", "scale_parameter=False")))
    ours = metadata_of(options.output_dir / "tiny-lora-000001.safetensors")
    theirs = metadata_of(real_runs / "accelerate-1.6.0-adafactor" / "tiny-lora-000001.safetensors")
    assert ours.keys() <= theirs.keys()
    differing = {"ss_session_id", "ss_training_started_at", "ss_training_finished_at", "ss_optimizer"}
    assert {key for key in ours if ours[key] != theirs[key]} == differing
    assert ours["ss_optimizer"].startswith("transformers.optimization.Adafactor(relative_step=False,")


def test_every_start_has_its_own_session(options: TrainOptions) -> None:
    train(replace(options, max_train_epochs=2))
    first = metadata_of(options.output_dir / "tiny-lora-000001.safetensors")["ss_session_id"]
    train(replace(options, max_train_epochs=3, resume=str(state_of(options, 1))))
    assert metadata_of(options.output_dir / "tiny-lora-000001.safetensors")["ss_session_id"] == first
    assert metadata_of(options.output_dir / "tiny-lora-000002.safetensors")["ss_session_id"] != first


@pytest.mark.parametrize("optimizer", ["adafactor", "AdamW", "sgdnesterov"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    options: TrainOptions, tmp_path: Path, optimizer: str, schedule: str
) -> None:
    options = replace(options, optimizer_type=optimizer, lr_scheduler=schedule, lr_warmup_steps=3)
    whole = replace(options, output_dir=tmp_path / "whole", loss_log=tmp_path / "whole.jsonl")
    train(whole)
    train(replace(options, stop_after_step=18))
    train(replace(options, resume=str(state_of(options, 2)), loss_log=tmp_path / "resumed.jsonl"))
    losses = [[json.loads(line)["loss"] for line in read_lines(tmp_path / name)] for name in
              ("whole.jsonl", "resumed.jsonl")]  # fmt: skip
    assert losses[0][16:] == losses[1]
    assert len(set(losses[0])) == 32
    ours, wanted = (
        load_file(run / "tiny-lora.safetensors") for run in (options.output_dir, whole.output_dir)
    )
    assert all(torch.equal(wanted[name], tensor) for name, tensor in ours.items())


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def epochs_in(log: Path) -> list[int]:
    return sorted({json.loads(line)["epoch"] for line in read_lines(log)})


def test_a_second_resume_repeats_epochs_unless_told_where_to_begin(
    options: TrainOptions, tmp_path: Path
) -> None:
    longer = replace(options, max_train_epochs=6)
    train(replace(longer, stop_after_step=18))
    train(replace(longer, resume=str(state_of(options, 2)), stop_after_step=18))
    again = replace(longer, resume=str(state_of(options, 4)))
    train(replace(again, stop_after_step=17, loss_log=tmp_path / "silent.jsonl"))
    # Epochs 3 and 4 of it were done: current_step 16 was counted from the first resume.
    assert epochs_in(tmp_path / "silent.jsonl") == [3, 4, 5]


def test_initial_epoch_says_where_to_begin(options: TrainOptions, tmp_path: Path) -> None:
    longer = replace(options, max_train_epochs=6)
    train(replace(longer, stop_after_step=18))
    train(replace(longer, resume=str(state_of(options, 2)), stop_after_step=18))
    again = replace(longer, resume=str(state_of(options, 4)), initial_epoch=5)
    train(replace(again, loss_log=tmp_path / "told.jsonl"))
    assert epochs_in(tmp_path / "told.jsonl") == [5, 6]


def test_step_states_are_named_by_a_count_that_begins_anew(options: TrainOptions) -> None:
    options = replace(options, save_every_n_steps=5, save_every_n_epochs=None)
    train(replace(options, stop_after_step=20))
    names = [f"tiny-lora-step{step:08d}-state" for step in (5, 10, 15, 20)]
    assert states_in(options.output_dir) == {
        name: {"current_epoch": epoch, "current_step": step}
        for name, epoch, step in zip(names, (1, 2, 2, 3), (5, 10, 15, 20), strict=True)
    }
    assert metadata_of(options.output_dir / "tiny-lora-step00000010.safetensors")["ss_epoch"] == "1"
    train(replace(options, resume=str(options.output_dir / names[3]), stop_after_step=6))
    assert states_in(options.output_dir)[names[0]] == {"current_epoch": 3, "current_step": 5}


def test_skipping_trains_only_what_is_left_of_the_epoch(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, save_every_n_steps=20)
    train(replace(options, stop_after_step=21))
    state = str(options.output_dir / "tiny-lora-step00000020-state")
    train(replace(options, resume=state, stop_after_step=8, loss_log=tmp_path / "whole.jsonl"))
    train(
        replace(
            options,
            resume=state,
            skip_until_initial_step=True,
            stop_after_step=8,
            loss_log=tmp_path / "rest.jsonl",
        )
    )
    assert [json.loads(line)["epoch"] for line in read_lines(tmp_path / "whole.jsonl")] == [3] * 8
    rest = [json.loads(line) for line in read_lines(tmp_path / "rest.jsonl")]
    assert [(line["epoch"], line["step"]) for line in rest] == [(3, 5), (3, 6), (3, 7), (3, 8)]


def test_retention_removes_old_saves(options: TrainOptions) -> None:
    train(replace(options, max_train_epochs=5, save_last_n_epochs=3, save_last_n_epochs_state=1))
    assert {path.name for path in options.output_dir.iterdir()} == {
        "tiny-lora-000002.safetensors",
        "tiny-lora-000003.safetensors",
        "tiny-lora-000004.safetensors",
        "tiny-lora-000004-state",
        "tiny-lora.safetensors",
        "tiny-lora-state",
    }


def test_an_empty_resume_trains_from_scratch(options: TrainOptions, tmp_path: Path) -> None:
    train(replace(options, max_train_epochs=2))
    train(replace(options, max_train_epochs=2, resume="", loss_log=tmp_path / "log.jsonl"))
    assert epochs_in(tmp_path / "log.jsonl") == [1, 2]


def test_a_warm_start_takes_the_weights_only(options: TrainOptions) -> None:
    train(options)
    lora = options.output_dir / "tiny-lora-000002.safetensors"
    warm = replace(options, output_dir=options.output_dir / "warm", network_weights=lora, initial_epoch=3)
    # Too small to move a weight: with a rate of 0 there would be nothing to train.
    train(replace(warm, learning_rate=1e-30))
    assert {path.name for path in warm.output_dir.glob("*-state")} == {
        "tiny-lora-000003-state",
        "tiny-lora-state",
    }
    assert load(state_of(warm, 3) / "scheduler.bin")["last_epoch"] == 8
    started, saved = load_file(lora), load_file(warm.output_dir / "tiny-lora.safetensors")
    assert all(torch.equal(started[name], tensor) for name, tensor in saved.items())


def test_another_rank_is_refused_by_torch(options: TrainOptions) -> None:
    train(replace(options, max_train_epochs=2))
    changed = replace(options, network_dim=8, resume=str(state_of(options, 1)))
    with pytest.raises(RuntimeError, match=r"size mismatch for lora_.*lora_down.weight"):
        train(changed)


@pytest.mark.parametrize(
    ("saved_by", "resumed_by", "missing"), [("adamw", "adafactor", "beta1"), ("adafactor", "adamw", "betas")]
)
def test_another_optimizer_fails_in_the_first_step(
    options: TrainOptions, saved_by: str, resumed_by: str, missing: str
) -> None:
    train(replace(options, max_train_epochs=2, optimizer_type=saved_by))
    changed = replace(options, optimizer_type=resumed_by, resume=str(state_of(options, 1)))
    with pytest.raises(KeyError, match=f"^'{missing}'$"):
        train(changed)


def lora_parts(state: Path) -> set[str]:
    """The parts of the model that a state's weights are for: te1, double, single."""
    words = [name.split("_") for name in load_file(state / "model.safetensors")]
    return {name[1] if name[1] == "te1" else name[2] for name in words}


@pytest.mark.parametrize(
    ("changes", "parts", "group_sizes"),
    [
        ({}, {"te1", "double", "single"}, [4, 10]),
        ({"network_args": ("train_blocks=all",)}, {"te1", "double", "single"}, [4, 10]),
        ({"network_args": ("train_blocks=single",)}, {"te1", "single"}, [4, 4]),
        ({"network_args": ("train_blocks=double",)}, {"te1", "double"}, [4, 6]),
        ({"network_train_unet_only": True}, {"double", "single"}, [10]),
        ({"text_encoder_lr": 0.0}, {"te1", "double", "single"}, [10]),
        ({"unet_lr": 0.0}, {"te1", "double", "single"}, [4]),
    ],
)
def test_flags_decide_which_modules_are_trained(
    options: TrainOptions, changes: dict[str, Any], parts: set[str], group_sizes: list[int]
) -> None:
    train(replace(options, max_train_epochs=2, **changes))
    state = state_of(options, 1)
    assert lora_parts(state) == parts
    assert [len(group["params"]) for group in load(state / "optimizer.bin")["param_groups"]] == group_sizes
    train(replace(options, max_train_epochs=2, resume=str(state), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_args": ("train_blocks=single",)}, r"Unexpected key\(s\).*lora_unet_double_blocks_0"),
        ({"network_train_unet_only": True}, r"Unexpected key\(s\).*lora_te1_text_model"),
    ],
)
def test_other_modules_are_refused_by_torch(
    options: TrainOptions, changes: dict[str, Any], message: str
) -> None:
    train(replace(options, max_train_epochs=2))
    with pytest.raises(RuntimeError, match=message):
        train(replace(options, resume=str(state_of(options, 1)), **changes))


def test_unknown_blocks_are_refused_in_upstream_s_words(options: TrainOptions) -> None:
    with pytest.raises(AssertionError, match=r"^invalid train_blocks: triple$"):
        train(replace(options, network_args=("train_blocks=triple",)))


def test_a_learning_rate_of_0_leaves_nothing_to_train(options: TrainOptions) -> None:
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        train(replace(options, learning_rate=0.0))


def test_parts_are_trained_at_their_own_rates(options: TrainOptions) -> None:
    train(replace(options, max_train_epochs=2, text_encoder_lr=1e-4, unet_lr=2e-4))
    groups = load(state_of(options, 1) / "optimizer.bin")["param_groups"]
    assert [group["lr"] for group in groups] == [1e-4, 2e-4]


def test_another_alpha_trains_otherwise_without_a_message(options: TrainOptions, tmp_path: Path) -> None:
    """The state's `alpha` is loaded, and the scale of the script's stays."""
    train(replace(options, max_train_epochs=2))
    state = state_of(options, 1)
    for alpha in (1, 16):
        folder = tmp_path / str(alpha)
        train(replace(options, max_train_epochs=2, network_alpha=alpha, output_dir=folder, resume=str(state)))
    same, other = (
        load_file(tmp_path / name / "tiny-lora-state" / "model.safetensors") for name in ("1", "16")
    )
    assert all(torch.equal(same[name], other[name]) for name in same if name.endswith(".alpha"))
    assert not any(torch.equal(same[name], other[name]) for name in same if name.endswith("up.weight"))


def test_flags_of_the_network_are_read_from_the_command_line() -> None:
    given = [
        "--output_dir",
        "o",
        "--output_name",
        "n",
        "--network_args",
        "train_blocks=single",
        "split_qkv=False",
    ]
    read = parse_options([*given, "--network_train_unet_only"])
    assert read.network_args == ("train_blocks=single", "split_qkv=False")
    assert read.network_train_unet_only
    assert parse_options(given[:4]).network_args == ()


def test_a_missing_state_is_refused_in_accelerate_s_words(options: TrainOptions) -> None:
    with pytest.raises(ValueError, match=r"Tried to find .* but folder does not exist"):
        train(replace(options, resume=str(state_of(options, 9))))


def test_an_unknown_optimizer_or_schedule_is_named() -> None:
    groups = SmallLora(4, 1).parameter_groups(1e-3)
    with pytest.raises(ValueError, match="--optimizer_type adamw8bit: this small trainer knows adafactor"):
        make_optimizer("adamw8bit", groups, 1e-3)
    _, optimizer = make_optimizer("sgd", groups, 1e-3)
    with pytest.raises(ValueError, match="--lr_scheduler rex: this small trainer knows constant"):
        make_schedule("rex", optimizer, 0, 10)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("constant_with_warmup", [0.0, 0.5, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("cosine", [0.0, 0.5, 1.0, 0.5, 0.0]),
    ],
)
def test_schedules(name: str, rates: list[float]) -> None:
    _, optimizer = make_optimizer("sgd", SmallLora(4, 1).parameter_groups(1.0), 1.0)
    schedule = make_schedule(name, optimizer, warmup_steps=2, total_steps=4)
    seen = []
    for _ in rates:
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(rates)


@pytest.mark.parametrize(
    ("changes", "from_state", "expected"),
    [
        ({}, None, StartingPoint(0, 0)),
        ({}, 16, StartingPoint(2, 0)),
        ({}, 20, StartingPoint(2, 0)),
        ({"skip_until_initial_step": True}, 20, StartingPoint(2, 4)),
        ({"skip_until_initial_step": True}, 16, StartingPoint(2, 0)),
        ({"initial_epoch": 4}, 8, StartingPoint(3, 0)),
        ({"initial_epoch": 1}, 8, StartingPoint(0, 0)),
        ({"initial_step": 11}, 8, StartingPoint(1, 0)),
        ({"initial_step": 11, "initial_epoch": 4, "skip_until_initial_step": True}, 8, StartingPoint(1, 3)),
    ],
)
def test_where_training_begins(
    options: TrainOptions, changes: dict[str, Any], from_state: int | None, expected: StartingPoint
) -> None:
    assert starting_point(replace(options, **changes), from_state) == expected


@pytest.mark.parametrize("steps", [32, 33])
def test_a_finished_training_is_refused_in_upstream_s_words(options: TrainOptions, steps: int) -> None:
    with pytest.raises(
        AssertionError, match=rf"max_train_steps should be greater than initial step.*32 vs {steps}"
    ):
        starting_point(options, steps)


def test_steps_to_remove_follow_upstream(options: TrainOptions) -> None:
    # Upstream's own example: every 10 steps, keep 30: at step 50 the save of step 10 goes.
    every_ten = replace(options, save_every_n_steps=10)
    assert step_to_remove(every_ten, 50, 30) == 10
    assert step_to_remove(every_ten, 20, 30) < 0
    assert step_to_remove(every_ten, 50, None) < 0


def test_flags_of_fluxgym_s_script_are_understood(tmp_path: Path, options: TrainOptions) -> None:
    script = train_script(
        GymFolder(tmp_path, "run"), replace(options, output_dir=tmp_path / "outputs" / "run")
    )
    listed = subprocess.run(
        ["bash", "-c", 'accelerate() { printf "%s\\0" "$@"; }\n' + script], capture_output=True, check=True
    ).stdout.decode()
    arguments = listed.split("\0")[:-1]
    read = parse_options(arguments[arguments.index("sd-scripts/flux_train_network.py") + 1 :])
    assert read == replace(
        options,
        output_dir=tmp_path / "outputs" / "run",
        optimizer_args=("relative_step=False", "scale_parameter=False", "warmup_init=False"),
        quiet=False,
    )


def test_a_script_in_fluxgym_s_form_starts_it_through_the_real_launcher(tmp_path: Path) -> None:
    folder = GymFolder(tmp_path, "persian cat")
    options = TrainOptions(folder.run_dir, "persian-cat", max_train_epochs=2, save_every_n_epochs=1)
    trainer = tmp_path / "sd-scripts" / "flux_train_network.py"
    trainer.parent.mkdir()
    trainer.write_text("from checkpoint_core.demo.trainer import main\n\nmain()\n")
    folder.run_dir.mkdir(parents=True)
    (folder.run_dir / "train.sh").write_text(train_script(folder, options))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT), "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", str(folder.run_dir / "train.sh")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert states_in(folder.run_dir) == {
        "persian-cat-000001-state": {"current_epoch": 1, "current_step": 8},
        "persian-cat-state": {"current_epoch": 2, "current_step": 16},
    }
    assert "\nepoch 2/2\n" in done.stdout
    assert "saving state at epoch 1" in done.stderr
    assert "16/16" in done.stderr
