"""The dataset as the trainer counts it; the numbers of batches are sd-scripts' own arithmetic, case by case."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint_core.scripts.facts import ScriptFacts
from checkpoint_core.scripts.reading import read_script
from checkpoint_core.states.layout import Layout
from checkpoint_core.trainer.dataset import dataset_key, read_dataset
from checkpoint_core.trainer.position import steps_per_epoch_now
from tests.world import STEPS_PER_EPOCH, World


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "outputs" / "cat"
    path.mkdir(parents=True)
    return path


def script(run: Path, **flags: object) -> ScriptFacts:
    """A script of this machine that names the run's dataset.toml; True is a switch, None a value of the shell."""
    given = {"dataset_config": run / "dataset.toml", **flags}
    values = {
        f"--{name}": () if value is True else (None if value is None else str(value),)
        for name, value in given.items()
    }
    return ScriptFacts("train.sh", "t.py", Layout.SD_SCRIPTS, output_dir=str(run), flags=values)


def images(run: Path, count: int, name: str = "cat") -> Path:
    """A folder of that many captioned images, with a cache file for each."""
    folder = run.parent.parent / "datasets" / name
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        for ending in (".png", ".txt", "_0512x0512_flux.npz"):
            (folder / f"photo-{number}{ending}").touch()
    return folder


def configure(
    run: Path,
    *subsets: str,
    dataset: str = "batch_size = 1",
    general: str = "",
) -> None:
    """A dataset.toml with one dataset; each subset is the text of its table."""
    tables = "\n".join(f"[[datasets.subsets]]\n{text}" for text in subsets)
    (run / "dataset.toml").write_text(
        f"[general]\n{general}\n[[datasets]]\nresolution = 512\n{dataset}\n{tables}\n", encoding="utf-8"
    )


def subset(folder: Path, repeats: int | None = None, more: str = "") -> str:
    repeated = "" if repeats is None else f"num_repeats = {repeats}\n"
    return f"image_dir = '{folder}'\n{repeated}{more}"


def batches(run: Path, **flags: object) -> tuple[int, int] | None:
    facts = read_dataset(script(run, **flags), run)
    assert facts is not None
    assert (facts.batches is None) == (facts.problem is not None)
    return facts.batches


def problem(run: Path, **flags: object) -> tuple[str, bool]:
    facts = read_dataset(script(run, **flags), run)
    assert facts is not None
    assert facts.batches is None
    return facts.problem or "", facts.is_missing


def test_the_world_s_dataset_makes_its_steps_per_epoch(world: World) -> None:
    facts, _ = read_script(world.script)
    assert facts is not None
    dataset = read_dataset(facts, world.run)
    assert dataset is not None
    assert (dataset.batches, dataset.problem) == ((8, 8), None)
    assert steps_per_epoch_now(dataset, facts) == (STEPS_PER_EPOCH, STEPS_PER_EPOCH)


def test_the_world_s_dataset_is_found_from_a_script_of_another_machine(world: World) -> None:
    for path in (world.script, world.run / "dataset.toml"):
        path.write_text(path.read_text().replace(str(world.root), "/workspace/fluxgym"))
    facts, _ = read_script(world.script)
    assert facts is not None
    dataset = read_dataset(facts, world.run)
    assert dataset is not None
    assert (dataset.file, dataset.batches) == ("/workspace/fluxgym/outputs/persian-cat/dataset.toml", (8, 8))


def test_no_configuration_is_no_dataset(run: Path) -> None:
    assert read_dataset(ScriptFacts("train.sh", "t.py", Layout.SD_SCRIPTS), run) is None
    assert read_dataset(script(run, dataset_class="package.module.Class"), run) is None


# Images


def test_only_images_count(run: Path) -> None:
    folder = images(run, 3)
    for name in (
        "a.JPG",
        "b.webp",
        "c.bmp",
        "d.jpeg",
        ".hidden.png",
        "e.gif",
        "f.png.txt",
        "no-ending",
        "png",
    ):
        (folder / name).touch()
    configure(run, subset(folder, 1))
    assert batches(run) == (7, 7)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell capitals apart")
def test_an_ending_in_mixed_case_is_not_found_by_the_trainer(run: Path) -> None:
    folder = images(run, 2)
    (folder / "odd.Png").touch()
    configure(run, subset(folder, 1))
    assert batches(run) == (2, 2)


@pytest.mark.parametrize("name", ["a.avif", "b.JXL"])
def test_images_that_need_a_plug_in_leave_the_count_open(run: Path, name: str) -> None:
    folder = images(run, 2)
    (folder / name).touch()
    configure(run, subset(folder, 1))
    assert problem(run) == (f"{name} counts only where the trainer has the plug-in to read it", False)


def test_the_trainer_s_own_list_of_images_stands_for_the_folder(run: Path) -> None:
    folder = images(run, 2)
    configure(run, subset(folder, 1, "cache_info = true"))
    assert batches(run) == (2, 2)
    (folder / "metadata_cache.json").write_text("{}")
    assert "metadata_cache.json" in problem(run)[0]


# Repeats, batches and where they are set


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, 4),
        ({"flags": {"dataset_repeats": 2}}, 8),
        ({"general": "num_repeats = 3", "flags": {"dataset_repeats": 2}}, 12),
        ({"dataset": "num_repeats = 4", "general": "num_repeats = 3"}, 16),
        ({"subset": 5, "dataset": "num_repeats = 4", "general": "num_repeats = 3"}, 20),
    ],
)
def test_the_innermost_repeats_count(run: Path, where: dict[str, object], expected: int) -> None:
    flags: dict[str, object] = where.pop("flags", {})  # type: ignore[assignment]
    repeats: int | None = where.pop("subset", None)  # type: ignore[assignment]
    configure(run, subset(images(run, 4), repeats), **where)  # type: ignore[arg-type]
    assert batches(run, **flags) == (expected, expected)


@pytest.mark.parametrize(
    ("dataset", "general", "flags", "expected"),
    [
        ("", "", {}, 10),
        ("", "", {"train_batch_size": 4}, 3),
        ("", "batch_size = 3", {"train_batch_size": 4}, 4),
        ("batch_size = 2", "batch_size = 3", {"train_batch_size": 4}, 5),
    ],
)
def test_the_innermost_batch_size_counts_and_the_last_batch_may_be_small(
    run: Path, dataset: str, general: str, flags: dict[str, object], expected: int
) -> None:
    configure(run, subset(images(run, 5), 2), dataset=dataset, general=general)
    assert batches(run, **flags) == (expected, expected)


@pytest.mark.parametrize(
    ("count", "repeats", "size", "expected"),
    [
        (5, 2, 1, (10, 10)),
        (5, 3, 2, (8, 10)),  # at worst each image has a bucket of its own: two batches each
        (5, 4, 2, (10, 10)),
        (5, 1, 4, (2, 5)),
    ],
)
def test_buckets_leave_the_batches_open_unless_the_repeats_fill_them(
    run: Path, count: int, repeats: int, size: int, expected: tuple[int, int]
) -> None:
    folder = images(run, count)
    configure(run, subset(folder, repeats), dataset=f"batch_size = {size}\nenable_bucket = true")
    assert batches(run) == expected
    configure(run, subset(folder, repeats), dataset=f"batch_size = {size}")
    assert batches(run, enable_bucket=True) == expected
    configure(run, subset(folder, repeats), dataset=f"batch_size = {size}\nenable_bucket = false")
    assert batches(run, enable_bucket=True) == (expected[0], expected[0])


def test_the_batches_of_several_datasets_and_folders_add_up(run: Path) -> None:
    first, second = images(run, 3), images(run, 4, "more")
    configure(run, subset(first, 1), subset(second, 2), dataset="batch_size = 4")
    text = (run / "dataset.toml").read_text()
    (run / "dataset.toml").write_text(
        f"{text}[[datasets]]\nresolution = 768\nbatch_size = 2\n[[datasets.subsets]]\n{subset(first, 3)}\n"
    )
    facts = read_dataset(script(run), run)
    assert facts is not None
    assert facts.batches == (8, 8)  # 11 in fours, 9 in twos


def test_a_folder_named_twice_counts_once_and_without_repeats_not_at_all(run: Path) -> None:
    folder = images(run, 3)
    configure(run, subset(folder, 2), subset(folder, 5), subset(images(run, 4, "more"), 0))
    assert batches(run) == (6, 6)


@pytest.mark.parametrize(
    ("count", "repeats", "expected"),
    [
        (3, 1, 24),  # fewer than the training images: repeated until there are as many
        (12, 1, 24),
        (20, 1, 24),  # more: only as many are taken
        (5, 5, 12 + 15),  # an image that is taken brings all its repeats
        (0, 1, 12),
    ],
)
def test_regularisation_images_are_as_many_as_the_others(
    run: Path, count: int, repeats: int, expected: int
) -> None:
    training, regular = images(run, 6), images(run, count, "regular")
    configure(run, subset(training, 2), subset(regular, repeats, "is_reg = true"))
    facts = read_dataset(script(run), run)
    assert facts is not None
    assert facts.batches == (expected, expected)


@pytest.mark.parametrize(
    ("setting", "flags", "expected"),
    [
        ("0.2", {}, 8),
        ("0.25", {}, 8),
        ("0.0", {"validation_split": 0.5}, 10),
        ("", {"validation_split": 0.5}, 5),
    ],
)
def test_images_for_validation_are_left_out(
    run: Path, setting: str, flags: dict[str, object], expected: int
) -> None:
    dataset = f"validation_split = {setting}" if setting else ""
    configure(run, subset(images(run, 10), 1), dataset=dataset)
    assert batches(run, **flags) == (expected, expected)


# What is missing, and what cannot be told


def test_a_folder_that_is_not_there_is_missing_on_this_machine(run: Path) -> None:
    folder = run.parent.parent / "datasets" / "gone"
    configure(run, subset(folder, 2))
    assert problem(run) == (f"there are no images in {folder}", True)


def test_a_folder_that_is_not_there_is_left_out_where_another_is(run: Path) -> None:
    configure(run, subset(run.parent.parent / "datasets" / "gone", 2), subset(images(run, 3), 2))
    assert batches(run) == (6, 6)


def test_a_folder_without_images_is_missing_them(run: Path) -> None:
    folder = images(run, 0)
    configure(run, subset(folder, 2))
    assert problem(run) == (f"there are no images in {folder}", True)


def test_a_configuration_that_is_not_there_is_missing(run: Path) -> None:
    assert problem(run) == (f"there is no {run / 'dataset.toml'}", True)


@pytest.mark.skipif(os.name == "nt", reason="the paths are those of the other system")
def test_what_another_machine_s_script_names_may_well_be_there(run: Path) -> None:
    foreign = replace(script(run), output_dir="/workspace/fluxgym/outputs/cat")
    for folder in ("/workspace/fluxgym/datasets/cat", "/data/cats"):
        configure(run, subset(Path(folder), 2))
        named = replace(foreign, flags={"--dataset_config": ("/workspace/fluxgym/outputs/cat/dataset.toml",)})
        facts = read_dataset(named, run)
        assert facts is not None
        assert (facts.batches, facts.is_missing) == (None, False)
        assert facts.problem is not None
        assert folder in facts.problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[datasets\n", "no valid TOML"),
        ("datasets = 3\n", "not of the trainer's form"),
        ("general = 3\n[[datasets]]\n", "not of the trainer's form"),
        ("[[datasets]]\n[datasets.subsets]\nimage_dir = 'x'\n", "no subsets"),
        ("[[datasets]]\nresolution = 512\n", "no subsets"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 2\n", "no image_dir"),
        ("[[datasets]]\nbatch_size = 0\n[[datasets.subsets]]\nimage_dir = 'x'\n", "batch_size is 0"),
        ("[[datasets]]\nbatch_size = 'two'\n[[datasets.subsets]]\nimage_dir = 'x'\n", "batch_size is 'two'"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'x'\nnum_repeats = true\n", "num_repeats is True"),
        ("[[datasets]]\nvalidation_split = 1.5\n[[datasets.subsets]]\nimage_dir = 'x'\n", "validation_split"),
        ("[[datasets]]\n[[datasets.subsets]]\nmetadata_file = 'x.json'\n", "metadata_file"),
        (
            "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'x'\nconditioning_data_dir = 'y'\n",
            "conditioning_data_dir",
        ),
        ("a = " + "[" * 20_000 + "]" * 20_000, "no valid TOML"),
        ("# " + "x" * 70_000, "larger than any dataset configuration"),
    ],
)
def test_a_configuration_that_cannot_be_counted_says_why(run: Path, text: str, words: str) -> None:
    (run / "dataset.toml").write_text(text)
    told, is_missing = problem(run)
    assert words in told
    assert not is_missing


def test_bytes_that_are_no_text_and_a_folder_in_the_file_s_place(run: Path) -> None:
    (run / "dataset.toml").write_bytes(b"\xff\xfe\x00")
    assert "could not be read" in problem(run)[0]
    (run / "dataset.toml").unlink()
    (run / "dataset.toml").mkdir()
    assert "is no file" in problem(run)[0]


@pytest.mark.parametrize("flag", ["train_batch_size", "dataset_repeats", "validation_split"])
def test_a_flag_that_only_the_shell_knows_leaves_the_count_open(run: Path, flag: str) -> None:
    configure(run, subset(images(run, 4)), dataset="")
    assert problem(run, **{flag: None}) == (f"the value of --{flag} is not known", False)


def test_hidden_flags_leave_the_count_open_where_the_configuration_says_nothing(run: Path) -> None:
    configure(
        run,
        subset(images(run, 4), 2),
        dataset="batch_size = 1\nenable_bucket = false\nvalidation_split = 0.0",
    )
    config_file = replace(
        script(run), hidden="--config_file more.toml is not read here", config_file="more.toml"
    )
    facts = read_dataset(config_file, run)
    assert facts is not None
    assert facts.batches == (8, 8)
    configure(run, subset(images(run, 4), 2))
    facts = read_dataset(config_file, run)
    assert facts is not None
    assert facts.problem == "--config_file more.toml is not read here"
    variable = read_dataset(replace(script(run), hidden="$EXTRA may hold further flags"), run)
    assert variable is not None
    assert variable.problem == "$EXTRA may hold further flags"


# The key


def test_the_key_changes_with_what_decides(run: Path) -> None:
    folder = images(run, 2)
    configure(run, subset(folder, 2))
    key = dataset_key(script(run), run)
    assert dataset_key(script(run), run) == key
    (folder / "one-more.png").touch()
    os.utime(
        folder, ns=(0, 12_345)
    )  # a new entry sets the folder's time; a coarse clock may set the same one
    listed = dataset_key(script(run), run)
    assert listed != key
    configure(run, subset(folder, 3))
    configured = dataset_key(script(run), run)
    assert configured != listed
    assert dataset_key(script(run, train_batch_size=2), run) != configured


def test_the_key_tells_what_is_not_there(run: Path) -> None:
    folder = run.parent.parent / "datasets" / "cat"
    missing = dataset_key(script(run), run)
    configure(run, subset(folder, 2))
    configured = dataset_key(script(run), run)
    images(run, 1)
    assert len({missing, configured, dataset_key(script(run), run)}) == 3
    assert dataset_key(ScriptFacts("train.sh", "t.py", Layout.SD_SCRIPTS), run) is not None


def test_a_number_beyond_counting_is_told_and_not_written_out(run: Path) -> None:
    text = subset(images(run, 3), 2)
    configure(run, text.replace("num_repeats = 2", f"num_repeats = 0x{'f' * 5000}"))
    told, is_missing = problem(run)
    assert told == "num_repeats is larger than anything that can be counted"
    assert not is_missing
