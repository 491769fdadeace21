"""Why a training ended is read from the shapes that Python, accelerate, bash and the system really print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_core.training.crash.diagnosis import Crash, CrashKind, hang_crash, nan_crash, read_crash
from checkpoint_core.training.log.progress import Progress
from checkpoint_core.training.log.reader import LogReader

COMMAND = (
    "['/env/bin/python', 'sd-scripts/flux_train_network.py', '--resume', '/gym/outputs/cat/cat-000002-state']"
)
LAUNCHER = (
    "Traceback (most recent call last):\n"
    '  File "/env/bin/accelerate", line 8, in <module>\n'
    "    sys.exit(main())\n"
    "             ^^^^^^\n"
    '  File "/env/lib/python3.10/site-packages/accelerate/commands/launch.py", line 1106, in launch_command\n'
    "    simple_launcher(args)\n"
    '  File "/env/lib/python3.10/site-packages/accelerate/commands/launch.py", line 704, in simple_launcher\n'
    "    raise subprocess.CalledProcessError(returncode=process.returncode, cmd=cmd)\n"
    f"subprocess.CalledProcessError: Command '{COMMAND}' "
)
FAILED = LAUNCHER + "returned non-zero exit status 1.\n"
TRAIN = '  File "/gym/sd-scripts/train_network.py", line 1490, in train\n    optimizer.step()\n'
LOAD = (
    '  File "/gym/sd-scripts/library/train_util.py", line 4779, in resume_from_local_or_hf_if_specified\n'
    "    accelerator.load_state(args.resume)\n"
    '  File "/env/lib/python3.10/site-packages/accelerate/accelerator.py", line 3156, in load_state\n'
    "    override_attributes = load_accelerator_state(\n"
)
SAVE = (
    '  File "/env/lib/python3.10/site-packages/accelerate/accelerator.py", line 2989, in save_state\n'
    "    save_location = save_accelerator_state(\n"
    '  File "/env/lib/python3.10/site-packages/accelerate/checkpointing.py", line 120, in save_accelerator_state\n'
)
OPTIM = (
    '  File "/env/lib/python3.10/site-packages/transformers/optim.py", line 6, in step\n    beta = group[x]\n'
)
MODEL = '  File "/gym/sd-scripts/library/flux_utils.py", line 150, in load_flow_model\n    sd.update(load(path))\n'
IMAGE = (
    '  File "/gym/sd-scripts/library/train_util.py", line 1700, in load_image\n    image = Image.open(path)\n'
)
SETTING = (
    '  File "/gym/sd-scripts/train_network.py", line 310, in train\n    self.assert_extra_args(args, group)\n'
)
BAR = "\rsteps:  33%|███▎      | 8/24 [00:05<00:11,  1.37it/s, avr_loss=1.52]"


def trace(error: str, frames: str = TRAIN) -> str:
    return f"Traceback (most recent call last):\n{frames}{error}\n"


def crash(log: str, status: int | None = 1, progress: Progress | None = None) -> Crash:
    reader = LogReader()
    reader.feed(log.encode())
    return read_crash(reader.tail, status, progress or Progress())


CASES = [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.", TRAIN, CrashKind.OUT_OF_MEMORY),
    ("RuntimeError: CUDA error: out of memory", TRAIN, CrashKind.OUT_OF_MEMORY),
    ("RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory", TRAIN,
     CrashKind.OUT_OF_MEMORY),
    ("KeyError: 'step'", LOAD, CrashKind.KEY_ERROR_STEP),
    ("KeyError: 'step'", TRAIN, CrashKind.UNKNOWN),
    ("safetensors_rust.SafetensorError: Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "
     '"No space left on device" })', SAVE, CrashKind.DISK_FULL),
    ("RuntimeError: [enforce fail at inline_container.cc:595] . unexpected pos 64 vs 0", SAVE, CrashKind.DISK_FULL),
    ("RuntimeError: [enforce fail at inline_container.cc:784] . PytorchStreamWriter failed writing file data/0: file "
     "write failed", SAVE, CrashKind.DISK_FULL),
    ("RuntimeError: basic_ios::clear: iostream error", SAVE, CrashKind.DISK_FULL),
    ("OSError: [Errno 28] No space left on device: '/gym/x'", SAVE, CrashKind.DISK_FULL),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/gym/dataset.toml'", TRAIN, CrashKind.MISSING_FILE),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/my-state-of/ae.sft'", TRAIN, CrashKind.MISSING_FILE),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/gym/cat-000002-state/optimizer.bin'", LOAD,
     CrashKind.STATE_REFUSED),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/gym/cat-state'", LOAD, CrashKind.STATE_REFUSED),
    ("ModuleNotFoundError: No module named 'bitsandbytes'", TRAIN, CrashKind.MISSING_MODULE),
    ("ImportError: cannot import name 'x' from 'y'", TRAIN, CrashKind.MISSING_MODULE),
    ("KeyError: 'beta1'", OPTIM, CrashKind.OPTIMIZER_MISMATCH),
    ("KeyError: 'betas'", OPTIM, CrashKind.OPTIMIZER_MISMATCH),
    ("KeyError: 'exp_avg'", OPTIM, CrashKind.OPTIMIZER_MISMATCH),
    ("KeyError: 'state1'", OPTIM, CrashKind.OPTIMIZER_MISMATCH),
    ("KeyError: 'something'", OPTIM, CrashKind.UNKNOWN),
    ("AssertionError: max_train_steps should be greater than initial step / max_train_stepsは初期ステップより"
     "大きい必要があります: 32 vs 32", TRAIN, CrashKind.NOTHING_LEFT),
    ("RuntimeError: CUDA error: device-side assert triggered", TRAIN, CrashKind.DEVICE_ASSERT),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", TRAIN,
     CrashKind.TORCH_BUILD),
    ("torch.distributed.DistBackendError: NCCL error in: x.cpp:1, unhandled cuda error", TRAIN, CrashKind.DISTRIBUTED),
    ("RuntimeError: The NVIDIA driver on your system is too old", TRAIN, CrashKind.TORCH_BUILD),
    ("RuntimeError: CUDA error: unspecified launch failure", TRAIN, CrashKind.GPU_LOST),
    ("RuntimeError: Error(s) in loading state_dict for LoRANetwork:\n\tsize mismatch for lora_unet_a.lora_down.weight: "
     "copying a param with shape torch.Size([4, 64]) from checkpoint", LOAD, CrashKind.STATE_REFUSED),
    ('RuntimeError: Error(s) in loading state_dict for LoRANetwork:\n\tMissing key(s) in state_dict: "lora_te1"', LOAD,
     CrashKind.STATE_REFUSED),
    ("RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory", LOAD,
     CrashKind.STATE_REFUSED),
    ("RuntimeError: [enforce fail at inline_container.cc:257] . PytorchStreamReader failed reading zip archive", LOAD,
     CrashKind.STATE_REFUSED),
    ("safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered",
     LOAD, CrashKind.STATE_REFUSED),
    ("safetensors_rust.SafetensorError: Error while deserializing header: header too small", TRAIN, CrashKind.UNKNOWN),
    ("json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)", LOAD, CrashKind.STATE_REFUSED),
    ("KeyError: 'current_step'", LOAD, CrashKind.STATE_REFUSED),
    ("EOFError: Ran out of input", LOAD, CrashKind.STATE_REFUSED),
    ("_pickle.UnpicklingError: Weights only load failed. This file can still be loaded, to do so you have two options",
     LOAD, CrashKind.STATE_REFUSED),
    ("ValueError: loaded state dict contains a parameter group that doesn't match the size of optimizer's group", LOAD,
     CrashKind.STATE_REFUSED),
    ("RuntimeError: Number of custom checkpoints in folder /gym/cat-state does not match the number of registered "
     "objects:", LOAD, CrashKind.STATE_REFUSED),
    ("ValueError: Tried to find /gym/cat.safetensors but folder does not exist", LOAD, CrashKind.STATE_REFUSED),
    ("KeyboardInterrupt", TRAIN, CrashKind.ASKED_TO_END),
    ("voluptuous.error.MultipleInvalid: extra keys not allowed @ data['x']", TRAIN, CrashKind.DATASET_CONFIG),
    ("toml.decoder.TomlDecodeError: Unbalanced quotes (line 3 column 9 char 40)", TRAIN, CrashKind.DATASET_CONFIG),
    ("RuntimeError: unable to open shared memory object </torch_77_12> in read-write mode: No space left on device "
     "(28)", TRAIN, CrashKind.SHARED_MEMORY),
    ("RuntimeError: DataLoader worker (pid 9) is killed by signal: Bus error.", TRAIN, CrashKind.SHARED_MEMORY),
    ("RuntimeError: DataLoader worker (pid 9) is killed by signal: Killed.", TRAIN, CrashKind.KILLED),
    ("OSError: Auslagerungsdatei zu klein (os error 1455)", TRAIN, CrashKind.OUT_OF_MEMORY),
    ("safetensors_rust.SafetensorError: Error while deserializing header: header too large", MODEL,
     CrashKind.BASE_MODEL),
    ("RuntimeError: PytorchStreamReader failed reading zip archive: not a ZIP archive", MODEL, CrashKind.BASE_MODEL),
    ("huggingface_hub.utils._errors.RepositoryNotFoundError: 404 Client Error.", TRAIN, CrashKind.HUB_DENIED),
    ("requests.exceptions.HTTPError: 403 Client Error: Forbidden for url: https://huggingface.co/x", TRAIN,
     CrashKind.HUB_DENIED),
    ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", TRAIN, CrashKind.HUB_UNREACHABLE),
    ("httpx.ConnectError: [Errno -3] name resolution, for https://huggingface.co/x", TRAIN, CrashKind.HUB_UNREACHABLE),
    ("requests.exceptions.ConnectionError: api.wandb.ai", TRAIN, CrashKind.UNKNOWN),
    ("PIL.UnidentifiedImageError: cannot identify image file '/gym/datasets/cat/3.png'", IMAGE, CrashKind.DATASET_FILE),
    ("UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe4", IMAGE, CrashKind.DATASET_FILE),
    ("AssertionError: cache_text_encoder_outputs needs shuffle_caption off", SETTING, CrashKind.SETTINGS),
    ("TypeError: Lion.__init__() got an unexpected keyword argument 'd_coef'", SETTING, CrashKind.SETTINGS),
    ("AssertionError", TRAIN, CrashKind.UNKNOWN),
    ("RuntimeError:\n        CUDA Setup failed despite a card being there", TRAIN, CrashKind.MISSING_MODULE),
]  # fmt: skip


@pytest.mark.parametrize(("error", "frames", "kind"), CASES)
def test_the_error_above_the_launchers_decides(error: str, frames: str, kind: CrashKind) -> None:
    found = crash(BAR + "\n" + trace(error, frames) + BAR + "\n" + FAILED)
    assert found.kind is kind
    lines = error.split("\n")
    assert (
        found.evidence == (" ".join(map(str.strip, lines)) if lines[0] == "RuntimeError:" else lines[0])[:300]
    )
    assert found.sentence
    assert found.cure


@pytest.mark.parametrize(("error", "frames", "kind"), CASES)
def test_the_same_with_a_rank_before_each_line_and_glued_to_the_bar(
    error: str, frames: str, kind: CrashKind
) -> None:
    ranked = "".join(f"[rank0]: {line}\n" for line in trace(error, frames).splitlines())
    assert crash(ranked + FAILED).kind is kind
    assert crash(BAR + trace(error, frames) + BAR + "\n" + FAILED).kind is kind


def test_a_traceback_whose_beginning_is_lost() -> None:
    assert crash(f"{LOAD}KeyError: 'step'\n{FAILED}").kind is CrashKind.KEY_ERROR_STEP


def test_a_traceback_that_rich_draws() -> None:
    box = (
        "╭───────────── Traceback (most recent call last) ─────────────╮\n"
        "│ /env/site-packages/accelerate/accelerator.py:3156 in load_state │\n"
        "│ ❱ 3156 │   │   self.step = override_attributes['step']          │\n"
        "╰─────────────────────────────────────────────────────────────╯\n"
    )
    assert crash(f"{box}KeyError: 'step'\n{FAILED}").kind is CrashKind.KEY_ERROR_STEP


def test_a_full_disk_wins_over_what_follows_it() -> None:
    first = trace("OSError: [Errno 28] No space left on device", SAVE)
    then = "\nDuring handling of the above exception, another exception occurred:\n\n"
    for second in (
        trace("FileNotFoundError: [Errno 2] No such file: '/gym/x'"),
        trace("RuntimeError: CUDA error: x"),
    ):
        assert crash(first + then + second + FAILED).kind is CrashKind.DISK_FULL
        assert crash(first + second + FAILED).kind is CrashKind.DISK_FULL


def test_the_cause_of_an_error_decides_where_the_error_says_nothing() -> None:
    cause = trace("torch.OutOfMemoryError: CUDA out of memory.")
    link = "\nThe above exception was the direct cause of the following exception:\n\n"
    other = trace("RuntimeError: it failed")
    assert crash(cause + link + other + FAILED).kind is CrashKind.OUT_OF_MEMORY
    assert crash(cause + other + FAILED).kind is CrashKind.UNKNOWN


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("died with <Signals.SIGKILL: 9>.", CrashKind.KILLED),
        ("died with <Signals.SIGTERM: 15>.", CrashKind.ASKED_TO_END),
        ("died with <Signals.SIGINT: 2>.", CrashKind.ASKED_TO_END),
        ("died with <Signals.SIGSEGV: 11>.", CrashKind.NATIVE_CRASH),
        ("returned non-zero exit status 3221225477.", CrashKind.NATIVE_CRASH),
        ("returned non-zero exit status -6.", CrashKind.NATIVE_CRASH),
        ("returned non-zero exit status 2.", CrashKind.SCRIPT_ERROR),
        ("returned non-zero exit status 137.", CrashKind.KILLED),
        ("returned non-zero exit status 1.", CrashKind.UNKNOWN),
    ],
)
def test_the_launchers_own_words(ending: str, kind: CrashKind) -> None:
    found = crash(LAUNCHER + ending + "\n")
    assert found.kind is kind
    assert found.evidence == ""  # that a command failed is no reason


@pytest.mark.parametrize(
    ("above", "quoted"),
    [
        ("Fatal Python error: Segmentation fault\n", "Fatal Python error: Segmentation fault"),
        ("oneDNN: cannot create the primitive\n" + BAR + "\n", "oneDNN: cannot create the primitive"),
        (f"{'':20}ERROR    the model is of another kind\n", "ERROR the model is of another kind"),
        ("INFO     Loading state dict, missing keys: none\n", ""),
    ],
)
def test_what_stands_above_the_launchers_error_is_quoted(above: str, quoted: str) -> None:
    assert crash(above + FAILED).evidence == quoted


def test_a_notice_with_a_traceback_is_no_reason() -> None:
    notice = "A matching Triton is not available, some optimizations will not be enabled\n"
    shown = notice + trace(
        "ModuleNotFoundError: No module named 'triton'", '  File "x.py", line 1, in _is_triton\n'
    )
    found = crash(shown * 3 + LAUNCHER + "returned non-zero exit status 3221225477.\n")
    assert found.kind is CrashKind.NATIVE_CRASH
    assert "an access violation" in found.sentence
    assert crash(shown + trace("RuntimeError: CUDA error: x") + FAILED).kind is CrashKind.GPU_LOST


def test_no_images_is_no_error_for_the_trainer() -> None:
    log = "WARNING  ignore subset: no images found\nERROR    No data found. Please verify arguments (x) / y\n"
    found = crash(log, 0)
    assert found.kind is CrashKind.NO_DATA
    assert found.sentence.startswith("Nothing was trained: no images were found")


def test_what_follows_the_end_of_the_training_lost_nothing() -> None:
    found = crash(
        "INFO model saved.\n" + LAUNCHER + "died with <Signals.SIGSEGV: 11>.\n", 1, Progress(finished=True)
    )
    assert found.kind is CrashKind.FINISHED
    assert "nothing is lost" in found.effect


@pytest.mark.parametrize("log", ["", "all done\n", "nohup: ignoring input\n"])
def test_where_the_output_goes_elsewhere_no_step_is_not_said(log: str) -> None:
    assert "not trained a step" not in crash(log, 0).effect
    assert "goes elsewhere" in crash(log, 0).effect
    assert "not trained a step" not in crash(FAILED, 1, Progress(epoch=3)).effect


@pytest.mark.parametrize(
    ("status", "kind"),
    [(130, "ASKED_TO_END"), (143, "ASKED_TO_END"), (129, "ASKED_TO_END"), (-2, "ASKED_TO_END"), (-15, "ASKED_TO_END"),
     (-1, "ASKED_TO_END"), (137, "KILLED"), (-9, "KILLED"), (2, "SCRIPT_ERROR"), (127, "SCRIPT_ERROR"),
     (126, "SCRIPT_ERROR"), (1, "UNKNOWN"), (139, "NATIVE_CRASH"), (-6, "NATIVE_CRASH"), (3221226505, "NATIVE_CRASH"),
     (3221225477 - 2**32, "NATIVE_CRASH"), (0, "UNKNOWN"), (None, "UNKNOWN")],
)  # fmt: skip
def test_the_status_alone(status: int | None, kind: str) -> None:
    found = read_crash((), status, Progress())
    assert found.kind is CrashKind[kind]
    assert found.evidence == ""


def test_a_kill_may_be_main_memory() -> None:
    assert "main memory" in read_crash((), -9, Progress()).sentence


@pytest.mark.parametrize(
    ("line", "status", "kind"),
    [
        ("train.sh: line 5: syntax error near unexpected token `('", 2, CrashKind.SCRIPT_ERROR),
        ("train.sh: line 9: --save_state: command not found", 127, CrashKind.SCRIPT_ERROR),
        ("/bin/sh: 1: accelerate: not found", 127, CrashKind.SCRIPT_ERROR),
        ("flux_train_network.py: error: unrecognized arguments: --foo", 1, CrashKind.SCRIPT_ERROR),
        ("x.py: error: the following arguments are required: --clip_l", 1, CrashKind.SCRIPT_ERROR),
        ("'accelerate' is not recognized as an internal or external command,", 1, CrashKind.SCRIPT_ERROR),
        ("/usr/bin/python: No module named accelerate", 1, CrashKind.MISSING_MODULE),
        (
            "python: can't open file '/gym/sd-scripts/x.py': [Errno 2] No such file or directory",
            1,
            CrashKind.MISSING_FILE,
        ),
        ("bash: /gym/outputs/cat/train.sh: No such file or directory", 127, CrashKind.MISSING_FILE),
        ("train.sh: line 2: 12345 Killed                  accelerate launch", 1, CrashKind.KILLED),
        ("terminate called after throwing: std::bad_alloc", 134, CrashKind.OUT_OF_MEMORY),
        ("[E523 06:38] Watchdog caught collective operation timeout: x", 1, CrashKind.DISTRIBUTED),
        ("train.sh: line 3:  4711 Terminated              python x.py", 0, CrashKind.ASKED_TO_END),
        (
            "train.sh: line 3: 4711 Segmentation fault      (core dumped) python x.py",
            0,
            CrashKind.NATIVE_CRASH,
        ),
        ("  what():  CUDA error: unspecified launch failure", 134, CrashKind.GPU_LOST),
    ],
)
def test_lines_without_a_traceback(line: str, status: int, kind: CrashKind) -> None:
    found = crash(f"{line}\noperable program or batch file.\n", status)
    assert found.kind is kind
    assert found.evidence == line.strip()


def test_a_record_that_rich_wrapped() -> None:
    log = (
        f"{'':20}ERROR    No data found. Please verify  train_network.py:576\n"
        f"{'':29}arguments (train_data_dir must\n"
    )
    assert crash(log).evidence == "ERROR No data found. Please verify arguments (train_data_dir must"


def test_a_state_that_bash_cannot_spell_and_a_long_line() -> None:
    assert len(crash(trace("RuntimeError: " + "x" * 5000)).evidence) == 300


def test_main_memory_is_told_from_the_cards() -> None:
    assert "main memory" in crash(trace("MemoryError")).sentence
    assert "graphics card" in crash(trace("torch.OutOfMemoryError: CUDA out of memory.")).sentence


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(), "nothing is lost"),
        (Progress(bar_step=5), "Nothing was saved"),
        (Progress(bar_step=5, last_saved="epoch 2"), "since the last save (epoch 2)"),
        (Progress(bar_step=5, last_saved="epoch 2", saving=True), "may be incomplete"),
        (Progress(bar_step=5, finished=True), "complete"),
    ],
)
def test_the_effect_says_what_is_lost(progress: Progress, words: str) -> None:
    assert words in crash(FAILED, 1, progress).effect


def test_hangs_and_nans() -> None:
    assert (hang_crash(30.4).kind, nan_crash(50).kind) == (CrashKind.HANG, CrashKind.NAN_LOSS)
    assert "30 minutes" in hang_crash(30.4).sentence
    assert "1 minute." in hang_crash(1).sentence
    assert "1,250 steps" in nan_crash(1250).sentence


def test_which_crashes_a_restart_cannot_help() -> None:
    assert {kind.name for kind in CrashKind if not kind.can_help_to_restart} == {
        "DISK_FULL", "ASKED_TO_END", "MISSING_FILE", "MISSING_MODULE", "SCRIPT_ERROR", "OPTIMIZER_MISMATCH",
        "NOTHING_LEFT", "TORCH_BUILD", "DEVICE_ASSERT", "BASE_MODEL", "HUB_DENIED", "DATASET_CONFIG", "DATASET_FILE",
        "NO_DATA", "SETTINGS", "FINISHED",
    }  # fmt: skip


def test_every_kind_has_words() -> None:
    from checkpoint_core.training.crash.messages import CURES, EFFECTS, SENTENCES

    assert set(SENTENCES) == set(EFFECTS) == set(CURES) == set(CrashKind)


@given(st.lists(st.text(max_size=30) | st.sampled_from((trace("KeyError: 'x'") + FAILED).splitlines()), max_size=20),
       st.none() | st.integers())  # fmt: skip
def test_no_lines_raise(lines: list[str], status: int | None) -> None:
    assert read_crash(lines, status, Progress()).sentence
