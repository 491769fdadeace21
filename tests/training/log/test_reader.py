"""A training's log, in whatever pieces it comes, tells how far the training is."""

from __future__ import annotations

import math
import tarfile
import tracemalloc
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_core.training.log.lines import joined
from checkpoint_core.training.log.progress import Progress
from checkpoint_core.training.log.reader import LogReader

ARCHIVE = Path(__file__).resolve().parents[2] / "data" / "real_logs.tar.xz"
REAL = ("full-train-buffered", "full-train-unbuffered", "resume-buffered")

HEADER = (
    "running training / 学習開始\n"
    "  num batches per epoch / 1epochのバッチ数: 8\n"
    "  num epochs / epoch数: 3\n"
    "  gradient accumulation steps / 勾配を合計するステップ数 = 1\n"
    "  total optimization steps / 学習ステップ数: 24\n"
)


@lru_cache(maxsize=1)
def real_logs() -> dict[str, bytes]:
    with tarfile.open(ARCHIVE) as archive:
        files = {Path(member.name).stem: archive.extractfile(member) for member in archive if member.isfile()}
        return {name: file.read() for name, file in files.items() if file}


def read(*parts: bytes | str, first_step: int | None = None, keep: int = 300) -> LogReader:
    reader = LogReader(first_step, keep)
    for part in parts:
        reader.feed(part.encode() if isinstance(part, str) else part)
    return reader


def bar(
    step: int, total: int = 24, loss: str = "avr_loss=1.5", rate: str = " 2.00it/s", left: str = "00:10"
) -> str:
    return f"\rsteps:  33%|███▎      | {step}/{total} [00:05<{left}, {rate}{', ' if loss else ''}{loss}]"


def record(message: str, source: str = "train_util.py:5942", level: str = "INFO") -> str:
    return f"{'':20}{level:8} {message:{50 - len(source)}} {source}\n"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in zip(at, at[1:], strict=False)]


@pytest.mark.parametrize("name", REAL[:2])
def test_a_whole_training(name: str) -> None:
    reader = read(real_logs()[name])
    progress = reader.progress
    assert (progress.epoch, progress.epochs, progress.step, progress.steps_per_epoch) == (3, 3, 24, 8)
    assert (progress.finished, progress.saving, progress.last_saved) == (True, False, "the end")
    assert (progress.loss, progress.nan_steps, progress.seconds_left) == (1.51, 0, 0.0)
    assert progress.elapsed_seconds == 16.0
    assert [step for step, _ in reader.history.points] == list(range(1, 25))
    assert reader.history.points[:3] == ((1, 1.48), (2, 1.53), (3, 1.55))


def test_a_resumed_training_ends_before_its_bar() -> None:
    reader = read(real_logs()["resume-buffered"])
    progress = reader.progress
    assert (progress.bar_step, progress.bar_total) == (16, 24)
    assert (progress.first_step, progress.step, progress.epoch, progress.finished) == (8, 24, 3, True)
    assert [step for step, _ in reader.history.points] == list(range(9, 25))


def test_the_real_logs_while_they_grow() -> None:
    log = real_logs()["full-train-unbuffered"]
    middle = log.index(b"16/24 [00:11<00:05,  1.43it/s, avr_loss=1.51]")
    progress = read(log[: middle + 60]).progress
    assert (progress.step, progress.epoch, progress.last_saved, progress.saving) == (16, 2, "epoch 1", False)
    assert progress.seconds_left == pytest.approx(8 / 1.43)
    saving = log.index(b"saving state at epoch 2")
    assert read(log[: saving + 60]).progress.saving
    last = log.index(b"saving last state")
    assert read(log[: last + 600]).progress.saving
    assert read(log[: last + 600]).progress.last_saved == "epoch 2"


def test_the_first_bar_of_a_resume_knows_where_it_began() -> None:
    log = real_logs()["resume-buffered"]
    begin = log.index(b"steps:")
    progress = read(log[: begin + 60]).progress
    assert (progress.first_step, progress.step, progress.epoch) == (8, 8, 2)


@pytest.mark.parametrize("name", REAL)
@given(cuts=st.lists(st.integers(0, 2**20), max_size=60))
@settings(max_examples=25, deadline=None)
def test_how_a_log_is_cut_makes_no_difference(name: str, cuts: list[int]) -> None:
    log = real_logs()[name]
    whole, cut = read(log), read(*pieces(log, cuts))
    assert cut.progress == whole.progress
    assert cut.tail == whole.tail
    assert cut.history.points == whole.history.points


@pytest.mark.parametrize("name", REAL)
def test_byte_by_byte(name: str) -> None:
    log = real_logs()[name]
    whole, cut = read(log), read(*(log[at : at + 1] for at in range(len(log))))
    assert (cut.progress, cut.tail) == (whole.progress, whole.tail)


def test_wrapped_records_become_whole() -> None:
    whole = joined(read(real_logs()["resume-buffered"], keep=1000).tail)
    assert (
        "INFO load train state from /data/gym/outputs/cap/resume-buffered/tiny-lora/tiny-lora-000001-state/"
        "train_state.json: {'current_epoch': 1, 'current_step': 8}"
    ) in whole
    assert "INFO Loading state dict from /data/gym/models/t5xxl_fp16.safetensors" in whole
    assert any("cache_latents_to_diskが有効なため、cache_latentsを有効にします" in line for line in whole)


def test_carriage_returns_overwrite() -> None:
    assert read("  0%|   | 0/4\r100%|###| 4/4\nnext\r\n", bar(1), bar(2)).tail == (
        "100%|###| 4/4",
        "next",
        bar(2)[1:],
    )


def test_a_log_line_glued_to_the_bar_stands_alone() -> None:
    glued = bar(8) + "2026-11-23 11:15:13 INFO     saving last state.               train_util.py:5990"
    assert read(glued).tail == read(f"{glued}\n").tail
    shown, line = read(glued).tail
    assert shown == bar(8)[1:]
    assert line.startswith("2026-11-23")
    assert read(f"{glued}\n").progress.saving


def test_colours_and_controls_are_left_out() -> None:
    assert read("\x1b[1;31mred\x1b[0m\x07 \x1b]0;title\x07text\x1b[A\ttab\n").tail == ("red text\ttab",)
    assert read("\x1b[32m" + bar(3)[1:] + "\x1b[0m\n").progress.bar_step == 3


def test_the_unfinished_line_is_shown() -> None:
    assert read("one\ntw").tail == ("one", "tw")
    assert read("one\ntwo\r").tail == ("one", "two")
    assert read(b"\xe5\xad").tail == ()
    assert read(b"\xe5\xad", b"\xa6").tail == ("学",)


def test_only_the_last_lines_are_kept() -> None:
    assert read("".join(f"{number}\n" for number in range(50)), "open", keep=3).tail == ("48", "49", "open")


def test_broken_bytes_are_shown_and_passed_over() -> None:
    reader = read(b"\xff\xfe\x93\xfa\n", bar(4).encode(), b"\xff")
    assert reader.progress.bar_step == 4
    assert "\ufffd" in reader.tail[0]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_no_bytes_raise(data: bytes, cuts: list[int]) -> None:
    whole, cut = read(data), read(*pieces(data, cuts))
    assert (whole.tail, whole.progress) == (cut.tail, cut.progress)


SNIPPETS = ["\r", "\n", bar(7), bar(8, loss="avr_loss=nan"), "epoch 2/3\n", record("saving state at epoch 1"), " " * 29,
            record("Random states saved in"), "\x1b[0m", "学習", "steps: ", record("model saved."), HEADER]  # fmt: skip


@given(st.lists(st.sampled_from(SNIPPETS), max_size=12), st.lists(st.integers(0, 2000), max_size=8))
def test_lines_in_any_order_and_in_any_pieces(parts: list[str], cuts: list[int]) -> None:
    data = "".join(parts).encode()
    whole, cut = read(data), read(*pieces(data, cuts))
    assert (whole.tail, whole.progress, whole.history.points) == (cut.tail, cut.progress, cut.history.points)


def peak_of(reader: LogReader, block: bytes, times: int) -> int:
    tracemalloc.start()
    try:
        for _ in range(times):
            reader.feed(block)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_line_without_end_is_cut() -> None:
    reader = LogReader()
    assert peak_of(reader, b"x" * 1_000_000, 100) < 3_000_000
    assert len(reader.tail[0]) < 10_100
    reader.feed(b"\n" + bar(3).encode())
    assert reader.progress.bar_step == 3


def test_bars_without_end_take_no_memory() -> None:
    block = "".join(bar(step, 10**9) + bar(step, 10**9, "avr_loss=1.25") for step in range(500)).encode()
    reader = LogReader()
    assert peak_of(reader, block, 20) < 3_000_000
    assert len(reader.history.points) <= 1000
    assert len(reader.tail) == 1


def test_many_lines_take_no_memory() -> None:
    reader = LogReader()
    lines = (record("saving state at epoch 2") + " " * 29 + "more of it\n" + "text\n" * 8) * 100
    assert peak_of(reader, lines.encode(), 100) < 3_000_000
    assert len(reader.tail) == 300


def test_a_record_without_end_takes_no_memory() -> None:
    reader = LogReader()
    assert peak_of(reader, (" " * 29 + "more of it\n").encode() * 1000, 100) < 3_000_000


def test_half_a_bar_tells_nothing_yet() -> None:
    whole = bar(9)
    assert read(bar(8), whole[:-1]).progress.bar_step == 8
    assert read(bar(8), whole).progress.bar_step == 9


@pytest.mark.parametrize(
    ("rate", "pace"), [("1.25s/it", 1.25), (" 2.00it/s", 0.5), ("?it/s", None), ("0.00it/s", None)]
)
def test_paces(rate: str, pace: float | None) -> None:
    assert read(bar(1, rate=rate)).progress.seconds_per_step == pace


def test_clocks() -> None:
    assert read("\rsteps:  1%|  | 1/9 [1:02:03<5:00:00,  1.0it/s]").progress.elapsed_seconds == 3723
    assert read("\rsteps:  0%|          | 0/24 [00:00<?, ?it/s]").progress == Progress(
        bar_step=0, bar_total=24
    )


@pytest.mark.parametrize(
    ("postfix", "loss"),
    [
        ("avr_loss=0.123, lr=1e-4", 0.123),
        ("lr=1e-4, avr_loss=0.123", 0.123),
        ("Keys Scaled=3, Average key norm=0.4, avr_loss=0.5", 0.5),
        ("avr_loss=1e-05", 1e-5),
        ("lr=3", None),
        ("avr_loss=odd", None),
        ("", None),
    ],
)
def test_losses(postfix: str, loss: float | None) -> None:
    assert read(bar(2, loss=postfix)).progress.loss == loss


def test_other_bars_are_shown_and_not_counted() -> None:
    reader = read(bar(5), "\rvalidation steps:  50%|█████     | 1/2 [00:00<00:00,  2.0it/s, val_avg_loss=9]")
    assert reader.progress.bar_step == 5
    assert reader.tail[-1].startswith("validation")


def test_steps_whose_loss_is_no_number_are_counted_once_each() -> None:
    nan = [
        bar(1),
        bar(2),
        bar(2, loss="avr_loss=nan"),
        bar(3, loss="avr_loss=nan"),
        bar(3, loss="avr_loss=nan"),
    ]
    progress = read(*nan, bar(4, loss="avr_loss=inf")).progress
    assert progress.nan_steps == 3
    assert progress.loss == math.inf
    assert read(*nan, bar(4)).progress.nan_steps == 0
    assert read(*nan).history.points == ((1, 1.5),)


def test_the_time_left_is_for_the_steps_that_are_left() -> None:
    resumed = read(HEADER, "epoch 2/3\n", bar(4)).progress
    assert (resumed.step, resumed.seconds_left) == (
        12,
        6.0,
    )  # the bar itself would say 10 seconds for 20 steps
    assert read(bar(4)).progress.seconds_left == 10.0


def test_the_epoch_from_the_steps_where_the_line_is_late() -> None:
    assert [read(HEADER, "epoch 1/3\n", bar(step)).progress.epoch for step in (0, 1, 8, 9, 16, 17, 24)] == [
        1, 1, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    assert read(HEADER, bar(17), "epoch 1/3\n").progress.epoch == 3
    assert read(HEADER, bar(17), "epoch 1/3\n").progress.first_step == 0
    assert read(HEADER, bar(8), "epoch 2/3\n").progress.first_step == 8


def test_a_given_first_step_wins() -> None:
    progress = read(HEADER, "epoch 3/3\n", bar(2), first_step=20).progress
    assert (progress.first_step, progress.step) == (20, 22)


def test_where_a_launch_begins_is_told_by_the_state_until_its_epoch_is() -> None:
    state = (
        f"{'':20}INFO     load train state from {'train_network.py:969':>27}\n{'':29}/a/train_state.json:\n"
    )
    state += f"{'':29}{{'current_epoch': 2,\n{'':29}'current_step': 20}}\n"
    assert read(state, HEADER).progress.first_step == 16  # in mid-epoch: the whole epoch is trained again
    ignored = record("steps from the state is ignored because", "train_network.py:1236", "WARNING")
    assert read(state, HEADER, ignored).progress.first_step == 0
    assert read(state, HEADER, ignored, "epoch 2/3\n").progress.first_step == 8
    assert (
        read(state, HEADER, record("skipping 20 steps / 20ス", "train_network.py:1265"), bar(1)).progress.step
        == 21
    )


def test_gradient_accumulation_makes_fewer_steps() -> None:
    told = HEADER.replace("数 = 1", "数 = 3").replace("数: 24", "数: 9")
    progress = read(told, "epoch 2/3\n", bar(1, 9)).progress
    assert (progress.steps_per_epoch, progress.step, progress.seconds_left) == (3, 4, 2.5)
    without = "  num epochs / epoch数: 3\n  total optimization steps / 学習ステップ数: 24\n"
    assert read(without).progress.steps_per_epoch == 8


def test_a_number_of_steps_that_is_no_whole_number_of_epochs() -> None:
    progress = read(HEADER.replace("数: 24", "数: 20"), "epoch 1/3\n", bar(18, 20)).progress
    assert (progress.steps_per_epoch, progress.epoch, progress.seconds_left) == (8, 3, 1.0)


def test_garbled_japanese_does_no_harm() -> None:
    assert read(HEADER.encode("cp932"), "epoch 2/3\n", bar(1)).progress.step == 9


def test_a_save_begins_and_ends() -> None:
    begun = [HEADER, "epoch 1/3\n", bar(8), "\n", record("saving state at epoch 1")]
    assert read(*begun).progress.saving
    assert read(*begun, bar(8)).progress.saving  # the bar repeats itself
    assert read(*begun, "epoch 1/3\n").progress.saving  # late
    assert read(*begun).progress.last_saved == ""
    for end in (
        bar(9),
        "\nepoch 2/3\n",
        record("Random states saved in", "checkpointing.py:170"),
        record("model saved."),
    ):
        progress = read(*begun, end).progress
        assert not progress.saving
        assert progress.last_saved == ("the end" if progress.finished else "epoch 1")


def test_saves_by_step_and_with_ranks() -> None:
    progress = read(bar(5), "\n", record("saving state at step 250")).progress
    assert progress.saving
    ended = read(bar(5), "\n", record("saving state at step 250"), record("[RANK 0] Random states", "accelerator.py:9"),
                 f"{'':29}saved in\n", f"{'':29}/a-step00000250-state/random_\n")  # fmt: skip
    assert (ended.progress.saving, ended.progress.last_saved) == (False, "step 250")


@pytest.mark.parametrize(
    ("name", "saved"),
    [("a-000002", "epoch 2"), ("a-step00000250", "step 250"), ("a", "the end"), ("cat-202411", "the end")],
)
def test_lora_files_tell_of_saves_where_no_states_are(name: str, saved: str) -> None:
    assert read(HEADER, f"\nsaving checkpoint: /a b/{name}.safetensors\n").progress.last_saved == saved


def test_late_lines_undo_nothing() -> None:
    done = [HEADER, "epoch 1/3\n", bar(24), "\n", record("saving last state."), record("model saved.")]
    progress = read(
        *done, bar(24), "\n\nsaving checkpoint: /a/x-000001.safetensors\n\nepoch 2/3\n\n"
    ).progress
    assert (progress.finished, progress.last_saved, progress.epoch, progress.saving) == (
        True,
        "the end",
        3,
        False,
    )


def test_words_in_passing_are_no_sentences() -> None:
    progress = read("a prompt: model saved.\n", "they said: saving state at epoch 2\n").progress
    assert progress == Progress()


def test_plain_lines_where_rich_is_not_installed() -> None:
    assert read("saving state at epoch 2\n").progress.saving
