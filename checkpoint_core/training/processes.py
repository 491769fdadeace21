"""Processes told apart, found and ended: a whole training, whoever started it.

A process's number is used again; together with the moment of its start it is unique. On Linux that moment is counted in
the kernel's ticks since the machine's start (proc(5), ``starttime``), which no setting of the clock moves.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from checkpoint_core.process_tree import tree_of
from checkpoint_core.training.record import ProcessId

#: How long a process that was asked to end is given before it is ended: it may write its last lines.
GENTLE_SECONDS = 10.0
_TERM_SECONDS = 5.0
_SCRIPTS = ("train.sh", "train.bat")
_SAME_START_SECONDS = 0.02
#: Programs that run a script, and that train; an editor that has the script open is none.
_SHELLS, _LAUNCHERS = ("bash", "sh", "zsh", "dash", "cmd"), ("python", "accelerate", "torchrun", "deepspeed")
_LAUNCHER = re.compile(r"accelerate|^torch\.distributed|^deepspeed|^launch\.py$")
#: sd-scripts' trainers (``flux_train_network.py``, ``train_db.py``, ``fine_tune.py``); what captions or caches is none.
_TRAINER = re.compile(
    r"(?:.*[\\/.])?(?!\w*(?:caption|tag|cache|prepare|resize))(?:(?:\w+_)?train(?:_\w+)?|fine_tune)(?:\.py)?"
)
#: The command line as a module, and as the program that an installation adds.
_OURS = re.compile(r"checkpoint_core|(?:.*[\\/])?checkpoint-core(?:\.exe)?")


def identify(pid: int) -> ProcessId | None:
    """A process that is there now; ``None`` for one that has gone, or is only waiting to be buried."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return ProcessId(pid, _started(process))
    except psutil.Error:
        return None


def _started(process: psutil.Process) -> float:
    try:
        after_name = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return float(process.create_time())


def is_alive(process: ProcessId | None) -> bool:
    """Whether this very process is still there."""
    if process is None:
        return False
    now = identify(process.pid)
    return now is not None and abs(now.started - process.started) < _SAME_START_SECONDS


def members(root: ProcessId, seen: Iterable[ProcessId] = ()) -> list[psutil.Process]:
    """Every process of a training: below its first process, and of its session where it began one.

    A launcher that is killed leaves its trainer behind, no longer below anything; the session still names it.

    :param seen: those that were found before; what is left of them belongs to it, with what is below.
    """
    found: dict[int, psutil.Process] = {}
    for known in (root, *seen):
        if known.pid not in found and is_alive(known):
            found.update((each.pid, each) for each in tree_of(known.pid))
    found.update((each.pid, each) for each in _session(root))
    return [each for each in found.values() if _is_running(each)]


def below(process: ProcessId) -> list[int]:
    """The numbers of the processes that a process has started and that are left."""
    return [each.pid for each in tree_of(process.pid)[1:]] if is_alive(process) else []


def only(process: ProcessId) -> list[psutil.Process]:
    """This very process, while it is there."""
    return [psutil.Process(process.pid)] if is_alive(process) else []


def _session(root: ProcessId) -> Iterator[psutil.Process]:
    # A session is named by a number too: where another process has it by now, its session is another.
    if not hasattr(os, "getsid") or _is_reused(root):
        return
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == root.pid and pid != root.pid:
                process = psutil.Process(pid)
                if _started(process) >= root.started - _SAME_START_SECONDS:
                    yield process


def _is_reused(root: ProcessId) -> bool:
    """Whether another process has the number of a training's first one by now."""
    now = identify(root.pid)
    return now is not None and abs(now.started - root.started) >= _SAME_START_SECONDS


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """The processor time that processes have used so far."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def end_all(
    find: Callable[[], Sequence[psutil.Process]],
    sleep: Callable[[float], None] = time.sleep,
    gentle_seconds: float = GENTLE_SECONDS,
) -> bool:
    """End a whole training: asked as by Ctrl-C, then told, then killed. Returns whether all of it is gone.

    :param find: the processes that are left; asked again before each step, because a launcher that ends leaves others.
    """
    steps = ((_interrupt, gentle_seconds), (_terminate, _TERM_SECONDS), (_kill, _TERM_SECONDS))
    # Windows has no gentle way: its Ctrl-Break reaches whole consoles, FluxGym's own among them.
    for act, seconds in steps if os.name != "nt" else steps[1:]:
        left = find()
        for process in left:
            with contextlib.suppress(psutil.Error, OSError, ValueError):
                act(process)
        if _wait(find, sleep, seconds):
            return True
    return not find()


def _interrupt(process: psutil.Process) -> None:
    process.send_signal(signal.SIGINT)


def _terminate(process: psutil.Process) -> None:
    process.terminate()


def _kill(process: psutil.Process) -> None:
    process.kill()


def _wait(
    find: Callable[[], Sequence[psutil.Process]], sleep: Callable[[float], None], seconds: float
) -> bool:
    for _ in range(max(1, round(seconds / 0.1))):
        if not find():
            return True
        sleep(0.1)
    return False


@dataclass(frozen=True)
class Found:
    """A training that was found among the processes: its run's folder, its first process, and its devices.

    ``is_watcher`` marks a watcher of ours, which is about to start or has started one.
    """

    run: Path
    root: ProcessId
    device: str
    is_watcher: bool = False


def find_trainings(watchers: bool = True) -> tuple[Found, ...]:
    """Every training of a FluxGym's run on this machine that may be seen, whoever started it, one entry a run.

    :param watchers: take watchers of ours for trainings too, which are about to start one.
    """
    found: dict[Path, Found] = {}
    # A training's parents are older: the first that names a run is its root.
    for process in sorted(psutil.process_iter(["pid", "cmdline", "create_time"]), key=_age):
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            words = process.info["cmdline"] or []
            run = _run_of(process, words) if watchers or not _is_watcher(words) else None
            root = identify(process.pid) if run is not None and run not in found else None
            if run is not None and root is not None:
                found[run] = Found(run, root, _device(process), _is_watcher(words))
    return tuple(found.values())


def of_run(run: Path, trainings: Iterable[Found]) -> Found | None:
    """The training of a run, of those that were found."""
    home = run.resolve()
    return next((each for each in trainings if each.run == home), None)


def _age(process: psutil.Process) -> float:
    return float(process.info.get("create_time") or 0.0)


def _run_of(process: psutil.Process, words: Sequence[str]) -> Path | None:
    """The run that a process trains, by what it was started with."""
    program = os.path.basename(words[0].replace("\\", "/")).lower() if words else ""
    if _is_watcher(words):
        return _run_of_watcher(process, words)
    if program.startswith(_SHELLS):
        return _run_of_shell(process, words)
    return _run_of_trainer(process, words) if program.startswith(_LAUNCHERS) else None


def _run_of_watcher(process: psutil.Process, words: Sequence[str]) -> Path:
    return Path(os.path.realpath(Path(process.cwd(), words[words.index("watch") + 1])))


def _run_of_shell(process: psutil.Process, words: Sequence[str]) -> Path | None:
    """The run whose script a shell runs. Only a run's: a train.sh elsewhere has no outputs folder above."""
    word = _shell_script(words)
    if os.path.basename(word.replace("\\", "/")) not in _SCRIPTS:
        return None
    script = Path(process.cwd(), word)
    return Path(os.path.realpath(script.parent)) if script.parent.parent.name == "outputs" else None


def _shell_script(words: Sequence[str]) -> str:
    """The script that a shell runs: its first word that is no option; further ones are the script's own."""
    options = iter(words[1:])
    for word in options:
        if word in ("-o", "+o", "-O", "+O", "--rcfile", "--init-file"):
            next(options, "")
        elif word == "-c" or (word.startswith("-") and not word.startswith("--") and set("cn") & set(word)):
            return ""  # it runs what the next word says, or only reads the script
        elif not word.startswith(("-", "+")) and not re.fullmatch(r"/\w(?::\w+)?", word):
            return word
    return ""


def _run_of_trainer(process: psutil.Process, words: Sequence[str]) -> Path | None:
    """The run into which a trainer, or its launcher, writes."""
    if not _TRAINER.fullmatch(_program(words)):
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        value = following if word == "--output_dir" else word.removeprefix("--output_dir=")
        if word.startswith("--output_dir") and value not in ("", word):
            return Path(os.path.realpath(Path(process.cwd(), value)))
    return None


def _program(words: Sequence[str]) -> str:
    """The program that Python runs, below whatever launches it; empty where it has no name."""
    named = (word for before, word in pairwise(words) if before == "-m" or word.endswith(".py"))
    return next((word for word in named if not _LAUNCHER.search(os.path.basename(word))), "")


def watched_run(watcher: ProcessId) -> Path | None:
    """The run that a watcher of ours was started for; ``None`` where that cannot be told."""
    try:
        process = psutil.Process(watcher.pid)
        words = process.cmdline()
        return _run_of_watcher(process, words) if _is_watcher(words) else None
    except (psutil.Error, OSError, ValueError):
        return None


def has_gpu() -> bool:
    """Whether this machine seems to have a GPU that a training can use."""
    if os.name == "posix" and sys.platform != "darwin":
        return any(os.path.exists(f"/dev/{name}") for name in ("nvidiactl", "nvidia0", "kfd", "dxg"))
    return sys.platform == "darwin" or shutil.which("nvidia-smi") is not None


def _is_watcher(words: Sequence[str]) -> bool:
    return "watch" in words[:-1] and any(_OURS.fullmatch(word) for word in words[: words.index("watch")])


def _device(process: psutil.Process) -> str:
    """The GPUs that a process would use, as CUDA is told; all of them where it is not told, or may not be seen."""
    try:
        return devices_of(process.environ())
    except (psutil.Error, OSError):
        return ALL_DEVICES


ALL_DEVICES = "all"
#: What hides every GPU (CUDA C++ Programming Guide, "CUDA Environment Variables").
_NO_DEVICE = ("", "-1")


def devices_of(variables: Mapping[str, str]) -> str:
    """The GPUs that a training with these variables would use, as CUDA is told; all of them where it is not told."""
    return variables.get("CUDA_VISIBLE_DEVICES", ALL_DEVICES).strip()


def share_a_device(one: str, other: str) -> bool:
    """Whether two values of CUDA_VISIBLE_DEVICES name a GPU in common."""
    if one in _NO_DEVICE or other in _NO_DEVICE:
        return False
    if ALL_DEVICES in (one, other):
        return True
    return bool({part.strip() for part in one.split(",")} & {part.strip() for part in other.split(",")})


def began_ns(process: ProcessId) -> int:
    """When a process began, nanoseconds since 1970; the present where it has gone."""
    try:
        return round(psutil.Process(process.pid).create_time() * 1e9)
    except psutil.Error:
        return time.time_ns()
