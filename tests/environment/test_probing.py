"""The training interpreter asked: real environments, everything that can go wrong with one, and what is remembered."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from checkpoint_core.environment.facts import EnvironmentFacts, EnvironmentProblem, TrainerFacts
from checkpoint_core.environment.probing import SILENT_SECONDS, CachedProbe, probe
from tests.environments import (
    VERSIONS,
    Answering,
    SlowPython,
    executable_script,
    install,
    make_environment,
    site_packages,
)

ANSWER = json.dumps({"python": "3.10.1", "platform": "Linux", "packages": {"torch": "2.6.0"}})


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return make_environment(tmp_path / "env", accelerate="0.33.0", torch="2.6.0")


def customized(python: Path, code: str) -> None:
    """Let the Python run this whenever it starts, as a site may."""
    (site_packages(python) / "sitecustomize.py").write_text(code)


def known(answer: object) -> EnvironmentFacts:
    assert isinstance(answer, EnvironmentFacts), answer
    return answer


def reason(answer: object) -> str:
    assert isinstance(answer, EnvironmentProblem), answer
    return answer.reason


def test_a_real_environment_tells_what_it_is_made_of(python: Path, tmp_path: Path) -> None:
    trainer = TrainerFacts(tmp_path, None, frozenset())
    facts = known(probe(python, "env/ in FluxGym's folder", trainer))

    assert (facts.executable, facts.source) == (str(python), "env/ in FluxGym's folder")
    assert (facts.version("accelerate"), facts.version("torch")) == ("0.33.0", "2.6.0")
    assert (facts.version("numpy"), facts.version("never-asked-for")) == (None, None)
    assert facts.trainer is trainer
    assert str(site_packages(python)) in facts.folders


@pytest.mark.parametrize(
    "code",
    [
        "print('welcome')",
        "import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.buffer.flush()",
        "import atexit; atexit.register(print, 'good-bye')",
        "print('{\"packages\": 1}')",
        "import atexit; atexit.register(print, '[' * 100_000)",
        "raise ValueError('a broken start')",
    ],
)
def test_what_a_site_prints_around_the_answer_is_passed_over(python: Path, code: str) -> None:
    customized(python, code)

    assert known(probe(python, "")).version("accelerate") == "0.33.0"


def test_a_pth_file_that_prints_is_passed_over(python: Path) -> None:
    (site_packages(python) / "greeting.pth").write_text("import sys; sys.stdout.write('welcome\\n')\n")

    assert known(probe(python, "")).version("torch") == "2.6.0"


def test_the_output_is_read_as_utf_8_whatever_the_terminal_is(
    python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-16")
    customized(python, "print('\\N{SNOWMAN}')")

    assert known(probe(python, "")).version("torch") == "2.6.0"


def test_asking_leaves_no_bytecode_behind(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    customized(python, "")
    known(probe(python, ""))

    assert not (site_packages(python) / "__pycache__").exists()


@pytest.mark.parametrize("code", ["import time; time.sleep(60)", "while True: pass"])
def test_a_python_that_hangs_is_given_up(python: Path, code: str) -> None:
    customized(python, code)

    assert reason(probe(python, "", timeout=0.5)) == "it did not answer within 0.5 seconds"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 3", "it stopped with status 3"),
        ("echo first >&2; echo 'no module named encodings' >&2; exit 1",
         "it stopped with status 1: no module named encodings"),
        ("printf '\\377\\n' >&2; exit 1", "it stopped with status 1: \N{REPLACEMENT CHARACTER}"),
        ("kill -9 $$", "it stopped with status -9"),
        ("", "its answer could not be understood"),
        ("echo welcome", "its answer could not be understood"),
        ("printf '\\377\\376'", "its answer could not be understood"),
        ("echo '[]'; echo '{}'; echo 7; echo '{\"packages\": []}'", "its answer could not be understood"),
    ],
)  # fmt: skip
def test_a_program_that_is_no_python_is_told_in_words(tmp_path: Path, script: str, why: str) -> None:
    path = executable_script(tmp_path / "python", script)
    answer = probe(path, "a test")

    assert answer == EnvironmentProblem(str(path), "a test", why)


def test_what_cannot_be_started_is_told_in_words(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)

    assert reason(probe(text, "")) == "it could not be started (Permission denied)"
    assert reason(probe(tmp_path, "")) == "it could not be started (Permission denied)"
    assert reason(probe(tmp_path / "gone", "")) == "it could not be started (No such file or directory)"
    assert reason(probe(loop, "")) == "it could not be started (Too many levels of symbolic links)"
    assert reason(probe("a\0b", "")) == "it could not be started (embedded null byte)"
    text.chmod(0o755)
    assert reason(probe(text, "")) == "it could not be started (Exec format error)"


def test_a_long_last_line_is_cut(tmp_path: Path) -> None:
    path = executable_script(tmp_path / "python", "head -c 5000 /dev/zero | tr '\\0' x >&2; exit 1")

    assert reason(probe(path, "")) == f"it stopped with status 1: {'x' * 200}"


def test_an_answer_without_devices_or_folders_is_an_answer(tmp_path: Path) -> None:
    facts = known(probe(executable_script(tmp_path / "python", f"echo '{ANSWER}'"), ""))

    assert (facts.python, facts.gpus, facts.torch_cuda, facts.folders) == ("3.10.1", None, None, ())


# Remembered


class Counting:
    """``subprocess.run``, counted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
        self.count += 1
        return subprocess.run(*args, **kwargs)


def test_it_is_asked_once_and_again_when_a_package_is_installed_or_removed(python: Path) -> None:
    run = Counting()
    probed = CachedProbe(run)
    first = probed.probe(python, "")
    assert probed.probe(python, "") is first
    assert run.count == 1

    metadata = install(site_packages(python), "numpy", "2.4.6")
    os.utime(site_packages(python), ns=(1, 1))
    assert known(probed.probe(python, "")).version("numpy") == "2.4.6"
    (metadata / "METADATA").unlink()
    metadata.rmdir()
    os.utime(site_packages(python), ns=(2, 2))
    assert known(probed.probe(python, "")).version("numpy") is None
    assert run.count == 3


@pytest.mark.parametrize("variable", ["PYTHONPATH", "PYTHONHOME", "PYTHONNOUSERSITE", "CUDA_VISIBLE_DEVICES"])
def test_it_is_asked_again_when_a_variable_decides_otherwise(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Answering()
    probed = CachedProbe(run)
    monkeypatch.delenv(variable, raising=False)
    probed.probe("python", "")
    for value in ("", "1", "1"):
        monkeypatch.setenv(variable, value)
        probed.probe("python", "")
    assert len(run.asked) == 3

    monkeypatch.setenv("NO_CONCERN_OF_IT", "1")
    probed.probe("python", "")
    assert len(run.asked) == 3


def test_another_python_or_another_trainer_is_another_question(tmp_path: Path) -> None:
    run = Answering()
    probed = CachedProbe(run)
    trainer = TrainerFacts(tmp_path, "1" * 40, frozenset())
    probed.probe("a", "")
    assert probed.probe("b", "chosen").source == "chosen"
    assert known(probed.probe("a", "", trainer)).trainer == trainer
    assert probed.probe("b", "another reason").source == "another reason"
    assert probed.probe("b", "chosen").source == "chosen"
    assert run.asked == ["a", "b", "a", "b"]


def test_a_replaced_python_is_asked_again(tmp_path: Path) -> None:
    run = Answering()
    probed = CachedProbe(run)
    path = executable_script(tmp_path / "python", "")
    probed.probe(path, "")
    os.utime(path, ns=(1, 1))
    probed.probe(path, "")
    path.unlink()
    probed.probe(path, "")
    probed.probe(path, "")
    assert len(run.asked) == 3


def test_an_answer_that_did_not_come_is_asked_for_again_after_a_while(tmp_path: Path) -> None:
    now = [0.0]
    probed = CachedProbe(clock=lambda: now[0])
    path = tmp_path / "python"
    assert "No such file" in reason(probed.probe(path, ""))
    executable_script(path, f"echo '{ANSWER}'")
    now[0] = SILENT_SECONDS - 1  # a question may cost the whole timeout
    assert "No such file" in reason(probed.probe(path, ""))
    now[0] = SILENT_SECONDS
    assert known(probed.probe(path, "")).version("torch") == "2.6.0"


def test_threads_that_ask_at_the_same_time_share_one_question() -> None:
    answering, inside, answers = Answering(), threading.Event(), []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        inside.set()
        time.sleep(0.05)
        return answering(command)

    probed = CachedProbe(run)
    threads = [threading.Thread(target=lambda: answers.append(probed.probe("python", ""))) for _ in range(4)]
    threads[0].start()
    assert inside.wait(10)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(answering.asked) == 1
    assert [answer is answers[0] for answer in answers] == [True] * 4


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowPython]:
    python = SlowPython(tmp_path / "slow" / "python")
    yield python
    python.go_on()  # whatever waits still


def test_who_asks_another_python_does_not_wait_for_a_slow_one(slow: SlowPython, tmp_path: Path) -> None:
    quick = executable_script(tmp_path / "python", f"echo '{ANSWER}'")
    probed = CachedProbe()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(probed.probe, slow.path, "")
        slow.until_asked()
        assert known(probed.probe(quick, "")).version("torch") == "2.6.0"
        assert not waiting.done()
        slow.go_on()
        assert known(waiting.result(30)).version("torch") == VERSIONS["torch"]


def test_who_asks_meanwhile_gets_the_previous_answer_and_the_new_one_after(slow: SlowPython) -> None:
    slow.go_on()
    probed = CachedProbe()
    before = probed.probe(slow.path, "")
    slow.answers(torch="2.14.0")
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(probed.probe, slow.path, "")
        slow.until_asked()
        assert [probed.probe(slow.path, "") for _ in range(3)] == [before] * 3
        assert not asking.done()
        slow.go_on()
        after = asking.result(30)

    assert known(after).version("torch") == "2.14.0"
    assert probed.probe(slow.path, "") is after
    assert slow.times_asked == 1


def test_those_that_know_nothing_wait_for_one_question(slow: SlowPython) -> None:
    probed = CachedProbe()
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(probed.probe, slow.path, "") for _ in range(6)]
        slow.until_asked()
        time.sleep(0.1)
        assert not any(each.done() for each in answers)
        slow.go_on()
        first = answers[0].result(30)
        assert all(each.result(30) is first for each in answers)
    assert slow.times_asked == 1


def test_a_question_that_fails_leaves_nobody_waiting() -> None:
    inside, go_on = threading.Event(), threading.Event()
    answering = Answering()

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        if not inside.is_set():
            inside.set()
            assert go_on.wait(30)
            raise MemoryError
        return answering(command)

    probed = CachedProbe(run)
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(probed.probe, "python", "")
        assert inside.wait(30)
        waiting = pool.submit(probed.probe, "python", "")
        go_on.set()
        with pytest.raises(MemoryError):
            failing.result(30)
        assert known(waiting.result(30)).version("torch") == VERSIONS["torch"]


@pytest.mark.parametrize("folders", ["null", '["\\u0000"]', "7"])
def test_strange_folders_in_an_answer_raise_nothing(tmp_path: Path, folders: str) -> None:
    path = executable_script(
        tmp_path / "python", f"""printf '%s\\n' '{{"packages": {{}}, "folders": {folders}}}'"""
    )
    probed = CachedProbe()
    for _ in range(2):
        assert known(probed.probe(path, "")).packages == ()
