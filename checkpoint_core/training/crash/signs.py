"""Which words of a log tell which crash: errors of Python, of the shell, and of the system.

The errors of loading a state are those of accelerate (``accelerator.py``, ``checkpointing.py``), torch and safetensors.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class CrashKind(enum.Enum):
    """Why a training ended that should not have."""

    OUT_OF_MEMORY = "out of memory"
    KEY_ERROR_STEP = "KeyError: 'step'"
    DISK_FULL = "disk full"
    NAN_LOSS = "the loss is not a number"
    KILLED = "killed"
    ASKED_TO_END = "asked to end"
    MISSING_FILE = "missing file"
    MISSING_MODULE = "missing module"
    SCRIPT_ERROR = "error in the script"
    STATE_REFUSED = "state refused"
    OPTIMIZER_MISMATCH = "another optimizer"
    NOTHING_LEFT = "nothing left to train"
    GPU_LOST = "graphics card lost"
    TORCH_BUILD = "torch does not fit the card"
    DEVICE_ASSERT = "device-side assert"
    DISTRIBUTED = "several graphics cards out of step"
    SHARED_MEMORY = "shared memory full"
    NATIVE_CRASH = "crash outside of Python"
    BASE_MODEL = "base model damaged"
    HUB_DENIED = "Hugging Face denied a file"
    HUB_UNREACHABLE = "Hugging Face out of reach"
    DATASET_CONFIG = "dataset settings refused"
    DATASET_FILE = "image or caption unreadable"
    NO_DATA = "no images"
    SETTINGS = "settings refused"
    FINISHED = "finished"
    HANG = "hang"
    UNKNOWN = "unknown"

    @property
    def can_help_to_restart(self) -> bool:
        """Whether the same command may do better the next time, from the same state or an older one."""
        return self not in _RESTART_IS_USELESS


_RESTART_IS_USELESS = frozenset(
    {
        CrashKind.DISK_FULL,
        CrashKind.ASKED_TO_END,
        CrashKind.MISSING_FILE,
        CrashKind.MISSING_MODULE,
        CrashKind.SCRIPT_ERROR,
        CrashKind.OPTIMIZER_MISMATCH,
        CrashKind.NOTHING_LEFT,
        CrashKind.TORCH_BUILD,
        CrashKind.DEVICE_ASSERT,
        CrashKind.BASE_MODEL,
        CrashKind.HUB_DENIED,
        CrashKind.DATASET_CONFIG,
        CrashKind.DATASET_FILE,
        CrashKind.NO_DATA,
        CrashKind.SETTINGS,
        CrashKind.FINISHED,
    }
)


@dataclass(frozen=True)
class LogError:
    """An exception as Python prints it: where it came from, and its line with those below it."""

    frames: str
    line: str
    message: str
    #: It was raised while the one before it was handled.
    is_linked: bool
    #: The line of the log at which its traceback, or it itself, begins.
    begin: int = 0

    @property
    def is_the_launchers(self) -> bool:
        """Whether it only says that the trainer ended (accelerate/commands/launch.py, ``simple_launcher``)."""
        launcher = not self.frames or "launch" in self.frames
        return launcher and self.line.startswith(
            ("subprocess.CalledProcessError", "torch.distributed.elastic")
        )

    @property
    def words(self) -> str:
        """What it says: its line, and the next where the line is nothing but a name."""
        return self.line if self.line.rstrip().partition(": ")[2] else self.message


@dataclass(frozen=True)
class Sign:
    """What tells a crash: a pattern for the error, and one for where it must have come from."""

    kind: CrashKind
    words: re.Pattern[str]
    frames: re.Pattern[str] | None = None
    #: An error whose origin the log does not hold is taken for the one that is meant.
    needs_frames: bool = False

    def tells(self, error: LogError) -> bool:
        """Whether an error is of this kind."""
        if not self.words.search(error.message):
            return False
        if self.frames is None or (not error.frames and not self.needs_frames):
            return True
        return bool(self.frames.search(error.frames))


def _words(pattern: str) -> re.Pattern[str]:
    """A pattern whose spaces match none, too: rich breaks its lines anywhere, and not every space comes back."""
    return re.compile(pattern.replace(" ", r"\s*"))


_LOADING = re.compile(
    r"\bload_state\b|load_accelerator_state|resume_from_local|load_model_hook|load_checkpoint_in"
)
_SETTING_UP = re.compile(
    r"assert_extra_args|verify_\w*args|verify_command_line|prepare_dataset_args|\bget_optimizer\b|"
    r"get_scheduler|create_network|get_trainable_params"
)
_BASE_MODEL = re.compile(
    r"load_target_model|load_flow_model|load_ae\b|load_clip|load_t5|load_vae|load_\w*unet"
)
_OF_IMAGES = re.compile(r"caption|load_image|image_info|get_image_size|[\\/]PIL[\\/]|trim_and_resize|cv2")
_STEPPING = re.compile(r"optim|adafactor|prodigy|bitsandbytes|\bstep\b", re.IGNORECASE)
_OF_A_STATE = (
    r"-state(?=[/\\'\"\s]|$)|optimizer\.bin|scheduler\.bin|random_states_\d+\.pkl|train_state\.json|"
    r"pytorch_model\.bin|custom_checkpoint_\d+|sampler(?:_\d+)?\.bin|scaler\.pt"
)

#: torch hands tensors from worker to trainer in files ``torch_PID_…`` of /dev/shm (torch/multiprocessing).
SHARED_MEMORY = _words(
    r"</?torch_[\w-]*>.*|insufficient shared memory|out of shared memory|killed by signal: Bus error"
)
#: ``inline_container`` with a reader in it is a broken file that older versions of torch read.
DISK_FULL = _words(
    r"StorageFull|enforce fail at inline_container(?!.*StreamReader)|basic_ios::clear: iostream error|"
    r"Errno 28\b|No space left on device|os error (?:28|112|122)\b|Errno 122\b|Disk quota exceeded|WinError 112\b"
)
MAIN_MEMORY = _words(
    r"DefaultCPUAllocator|(?<!OutOf)MemoryError|std::bad_alloc|Cannot allocate memory|Errno 12\b|"
    r"os error 12\b|(?:WinError|os error) 1455"
)

#: The first that fits decides.
ERROR_SIGNS = (
    Sign(CrashKind.ASKED_TO_END, _words(r"^KeyboardInterrupt")),
    Sign(CrashKind.SHARED_MEMORY, SHARED_MEMORY),
    Sign(
        CrashKind.OUT_OF_MEMORY,
        _words(
            r"out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|"
            + MAIN_MEMORY.pattern
        ),
    ),
    Sign(CrashKind.KILLED, _words(r"DataLoader worker .* is killed by signal: Killed")),
    Sign(
        CrashKind.KEY_ERROR_STEP,
        _words(r"^KeyError: 'step'"),
        re.compile(r"\bload_state\b|accelerator\.py"),
        needs_frames=True,
    ),
    Sign(CrashKind.NOTHING_LEFT, _words(r"max_train_steps should be greater than initial step")),
    Sign(
        CrashKind.OPTIMIZER_MISMATCH,
        _words(r"^KeyError: '(?:beta\d|betas|exp_avg\w*|state\d|eps|max_exp_avg_sq|momentum_buffer)'"),
        _STEPPING,
    ),
    Sign(
        CrashKind.STATE_REFUSED,
        _words(
            r"doesn't match the size of optimizer's group|different number of parameter groups|"
            r"Number of custom checkpoints|"
            r"Tried to find .* but folder does not exist|^KeyError: 'current_(?:step|epoch)'"
        ),
    ),
    Sign(
        CrashKind.STATE_REFUSED,
        _words(
            r"size mismatch for|(?:Missing|Unexpected) key\(s\)|Error\(s\) in loading state_dict|PytorchStreamReader|"
            r"SafetensorError|JSONDecodeError|EOFError|Weights only load failed|UnpicklingError|UnicodeDecodeError|"
            r"^RuntimeError: unexpected EOF"
        ),
        _LOADING,
    ),
    Sign(
        CrashKind.STATE_REFUSED,
        _words(rf"(?:FileNotFoundError|NotADirectoryError|No such file or directory).*(?:{_OF_A_STATE})"),
    ),
    Sign(
        CrashKind.BASE_MODEL,
        _words(
            r"SafetensorError|PytorchStreamReader|UnpicklingError|EOFError|Error\(s\) in loading state_dict|"
            r"^RuntimeError: unexpected EOF"
        ),
        _BASE_MODEL,
        needs_frames=True,
    ),
    Sign(
        CrashKind.HUB_DENIED,
        _words(
            r"GatedRepoError|RepositoryNotFoundError|Cannot access gated repo|"
            r"40[13] (?:Client Error|Forbidden|Unauthorized).*(?:huggingface|hf\.co)"
        ),
    ),
    Sign(
        CrashKind.HUB_UNREACHABLE,
        _words(
            r"^(?=.*(?:hugging_?face|hf\.co))(?=.*(?:ProxyError|Max retries exceeded|Connect(?:ion)?(?:Error|Timeout)|"
            r"ReadTimeout|SSLError|NameResolution|LocalEntryNotFoundError|n[o']t connect|50\d Server Error))"
        ),
    ),
    Sign(CrashKind.DATASET_CONFIG, _words(r"^voluptuous\.|^\S*toml\S*DecodeError"), None),
    Sign(
        CrashKind.DATASET_FILE,
        _words(
            r"UnidentifiedImageError|cannot identify image file|image file is truncated|broken data stream|"
            r"UnicodeDecodeError|DecompressionBomb"
        ),
        _OF_IMAGES,
        needs_frames=True,
    ),
    Sign(
        CrashKind.SETTINGS,
        _words(r"^(?:AssertionError|TypeError|ValueError|NotImplementedError)"),
        _SETTING_UP,
        needs_frames=True,
    ),
    Sign(CrashKind.MISSING_MODULE, _words(r"^(?:ModuleNotFoundError|ImportError)|CUDA Setup failed")),
    Sign(
        CrashKind.MISSING_FILE, _words(r"^(?:FileNotFoundError|NotADirectoryError)|No such file or directory")
    ),
    Sign(
        CrashKind.TORCH_BUILD,
        _words(r"no kernel image|not compiled with CUDA|driver on your system is too old"),
    ),
    Sign(CrashKind.DEVICE_ASSERT, _words(r"device-side assert")),
    Sign(CrashKind.DISTRIBUTED, _words(r"NCCL|DistBackendError|DistStoreError|\bGloo\b")),
    Sign(
        CrashKind.GPU_LOST,
        _words(
            r"CUDA error|CUDA driver|NVIDIA driver|cuDNN error|CUBLAS_STATUS|CUDNN_STATUS|"
            r"No CUDA GPUs are available|GPU is lost|HIP error"
        ),
    ),
)

#: Lines that stand alone. Only what can hardly be said in passing, while the training goes on.
LINE_SIGNS = (
    Sign(
        CrashKind.DISK_FULL,
        _words(r"No space left on device|Disk quota exceeded|basic_ios::clear: iostream error"),
    ),
    Sign(CrashKind.OUT_OF_MEMORY, _words(r"std::bad_alloc|CUDA out of memory|CUDA error: out of memory")),
    Sign(CrashKind.DEVICE_ASSERT, _words(r"device-side assert triggered")),
    Sign(CrashKind.DISTRIBUTED, _words(r"what\(\): .*NCCL|Watchdog caught collective operation timeout")),
    Sign(CrashKind.GPU_LOST, _words(r"what\(\): .*CUDA error|GPU is lost|^CUDA error")),
    #: The trainer ends without an error where it finds no image (train_network.py, ``len(train_dataset_group) == 0``).
    Sign(CrashKind.NO_DATA, _words(r"^(?:ERROR )?No data found\. Please verify")),
    Sign(CrashKind.MISSING_MODULE, re.compile(r"^(?!ModuleNotFoundError).*No module named \S+$")),
    Sign(
        CrashKind.MISSING_FILE,
        re.compile(r"can't open file .*Errno 2\]|^\S+: .*: No such file or directory$"),
    ),
    Sign(
        CrashKind.SCRIPT_ERROR,
        re.compile(
            r"syntax error|unexpected EOF while looking for|unrecognized arguments|command not found|: not found$|"
            r"the following arguments are required|error: argument |is not recognized as an internal or external|"
            r"The syntax of the command is incorrect|: Permission denied$|cannot execute|bad interpreter"
        ),
    ),
    # What bash says of a process that a signal ended: "train.sh: line 3: 4711 Killed   python …".
    Sign(CrashKind.KILLED, re.compile(r"^Killed$|\bKilled {2,}")),
    Sign(CrashKind.ASKED_TO_END, re.compile(r"^Terminated$|\bTerminated {2,}")),
    Sign(
        CrashKind.NATIVE_CRASH,
        re.compile(
            r"^Fatal Python error|^Windows fatal exception|"
            r"(?:^|: +\d+ )(?:Segmentation fault|Bus error|Aborted|Illegal instruction)(?: +\(core dumped\)| {2,}|$)"
        ),
    ),
)

_TRACEBACK = "Traceback (most recent call last)"
_LINKS = ("During handling of the above exception", "The above exception was the direct cause")
_ERROR_LINE = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(?::(?:\s.*)?)?")
_ERROR_NAME = re.compile(r"(?:Error|Exception|Interrupt)$")
_OPEN_BOX = ("│", "╭", "╰", "┃", "|")  # tracebacks that rich draws: accelerate up to 0.30 asks for them
_MOST_FRAMES, _MOST_MESSAGE = 300, 30


def errors_of(lines: Sequence[str]) -> list[LogError]:
    """Every exception of a log, in its order."""
    found: list[LogError] = []
    for at, line in enumerate(lines):
        name = _ERROR_LINE.fullmatch(line)
        if not name:
            continue
        frames, begin = _frames_above(lines, at)
        if begin is None and not _ERROR_NAME.search(name["name"]):
            continue
        linked = any(above.startswith(_LINKS) for above in lines[max(0, (begin or at) - 3) : begin or at])
        first = at if begin is None else begin
        if not _is_a_notice(lines, first, line):
            found.append(
                LogError("\n".join(frames), line, " ".join([line, *_below(lines, at)]), linked, first)
            )
    return found


def _is_a_notice(lines: Sequence[str], begin: int, line: str) -> bool:
    """Whether a traceback is only shown: xformers (``_is_triton_available``) goes on without Triton."""
    above = " ".join(lines[max(0, begin - 2) : begin])
    return "triton" in line.lower() and "Triton is not available" in above


def _frames_above(lines: Sequence[str], at: int) -> tuple[list[str], int | None]:
    """The lines of a traceback above its error, and where it begins, if it is all there."""
    frames: list[str] = []
    for above in range(at - 1, max(-1, at - 1 - _MOST_FRAMES), -1):
        line = lines[above]
        if _TRACEBACK in line:
            return frames[::-1], above
        if line.strip() and not line.startswith((" ", "steps:", *_OPEN_BOX)):
            break
        if not line.startswith("steps:"):
            frames.append(line)
    return frames[::-1] if any(" in " in line for line in frames) else [], None


def _below(lines: Sequence[str], at: int) -> Iterable[str]:
    """The further lines of an error's message."""
    for line in lines[at + 1 : at + 1 + _MOST_MESSAGE]:
        if _TRACEBACK in line or line.startswith((*_LINKS, "steps:")):
            return
        if (name := _ERROR_LINE.fullmatch(line)) and _ERROR_NAME.search(name["name"]):
            return
        yield line.strip()
