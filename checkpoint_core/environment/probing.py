"""The training interpreter asked what it is made of: one short subprocess, remembered until something changes there."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from checkpoint_core.environment.facts import EnvironmentFacts, EnvironmentProblem, TrainerFacts

#: Python starts in a tenth of a second; a cold disk or a network drive may need many times as long.
TIMEOUT_SECONDS = 20.0
#: How long a Python that did not answer is not asked again.
SILENT_SECONDS = 60.0

_PROBE = Path(__file__).parent / "trainer_side" / "probe.py"
#: What another value of makes a training see other packages or devices.
_DECIDING_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PYTHONNOUSERSITE", "CUDA_VISIBLE_DEVICES")


#: What starts the probe: ``subprocess.run``, or a stand-in in a test.
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def probe(
    executable: Path | str,
    source: str,
    trainer: TrainerFacts | None = None,
    *,
    timeout: float = TIMEOUT_SECONDS,
    run: Run = subprocess.run,
) -> EnvironmentFacts | EnvironmentProblem:
    """Ask a Python for its versions and devices.

    Never raises for what that Python does: an answer that does not come is an :class:`EnvironmentProblem`.

    :param executable: a path of this machine.
    :param source: in words, why it is this Python; kept in the answer.
    :param trainer: the sd-scripts that it will run.
    :param timeout: seconds.
    """
    answer = _answer(str(executable), timeout, run)
    if isinstance(answer, str):
        return EnvironmentProblem(str(executable), source, answer)
    return _facts(str(executable), source, trainer, answer)


def _answer(executable: str, timeout: float, run: Run) -> dict[str, Any] | str:
    """The probe's answer, or in words why there is none."""
    try:
        done = run(
            [executable, str(_PROBE)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            env=_environment(os.environ),
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {timeout:g} seconds"
    except (OSError, ValueError) as error:  # a path that no system call takes, as with a NUL in it
        return f"it could not be started ({getattr(error, 'strerror', None) or error})"
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return f"it stopped with status {done.returncode}{': ' + said[-1][:200] if said else ''}"
    return _parsed(done.stdout.decode("utf-8", "replace"))


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's variables, but nothing that another Python's bytecode or output would follow."""
    return {**variables, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}


def _parsed(output: str) -> dict[str, Any] | str:
    # What a site runs at the start and at the end may print too.
    for line in reversed(output.splitlines()):
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(answer, dict) and isinstance(answer.get("packages"), dict):
            return answer
    return "its answer could not be understood"


def _facts(
    executable: str, source: str, trainer: TrainerFacts | None, answer: dict[str, Any]
) -> EnvironmentFacts:
    gpus, folders = answer.get("gpus"), answer.get("folders")
    return EnvironmentFacts(
        executable=executable,
        source=source,
        python=str(answer.get("python")),
        platform=str(answer.get("platform")),
        packages=tuple((str(name), version) for name, version in answer["packages"].items()),
        torch_cuda=answer.get("torch_cuda"),
        gpus=tuple(str(name) for name in gpus) if isinstance(gpus, list) else None,
        folders=tuple(str(folder) for folder in folders) if isinstance(folders, list) else (),
        trainer=trainer,
    )


class CachedProbe:
    """Answers kept until the Python, its packages or the variables that decide about them change.

    Installing or removing a package changes its ``site-packages`` folder's time. A Python that did not answer is left
    alone for a minute, because each question may cost the whole timeout. Safe to use from several threads: who asks
    what is being asked already gets the previous answer meanwhile, and waits only where there is none; no one waits
    for another Python.

    :param clock: seconds.
    """

    def __init__(self, run: Run = subprocess.run, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock = run, clock
        self._last: dict[_Key, _CachedAnswer] = {}
        self._under_way: dict[_Key, threading.Event] = {}

    def probe(
        self, executable: Path | str, source: str, trainer: TrainerFacts | None = None
    ) -> EnvironmentFacts | EnvironmentProblem:
        """As :func:`probe`, from memory where nothing has changed."""
        key, mine = (str(executable), source), threading.Event()
        while True:
            if (known := self._known(key, trainer)) is not None:
                return known
            under_way = self._under_way.setdefault(key, mine)
            if under_way is mine:
                try:
                    # Another may have heard the answer since the look above.
                    return self._known(key, trainer) or self._ask(key, trainer)
                finally:
                    del self._under_way[key]
                    mine.set()
            if previous := self._last.get(key):
                return previous.answer
            under_way.wait()

    def _known(self, key: _Key, trainer: TrainerFacts | None) -> EnvironmentFacts | EnvironmentProblem | None:
        """The last answer, while it holds."""
        last = self._last.get(key)
        if last is None:
            return None
        if isinstance(last.answer, EnvironmentFacts):
            holds = last.stamp == _stamp(last.answer) and last.answer.trainer == trainer
        else:
            holds = self._clock() - last.seconds < SILENT_SECONDS
        return last.answer if holds else None

    def _ask(self, key: _Key, trainer: TrainerFacts | None) -> EnvironmentFacts | EnvironmentProblem:
        answer = probe(*key, trainer, run=self._run)
        stamp = _stamp(answer) if isinstance(answer, EnvironmentFacts) else None
        self._last[key] = _CachedAnswer(answer, stamp, self._clock())
        return answer


#: A Python's path, and why it is that one.
_Key: TypeAlias = "tuple[str, str]"


@dataclass(frozen=True)
class _CachedAnswer:
    """An answer, what it was made from, and when."""

    answer: EnvironmentFacts | EnvironmentProblem
    stamp: object
    seconds: float


def _stamp(facts: EnvironmentFacts) -> object:
    """What changes when the Python, its packages or the deciding variables do."""
    variables = tuple(os.environ.get(name) for name in _DECIDING_VARIABLES)
    return variables, tuple(_time(path) for path in (facts.executable, *facts.folders))


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except (OSError, ValueError):  # no such place; no path at all
        return 0
