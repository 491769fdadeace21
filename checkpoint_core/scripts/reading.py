"""A train script on the disk to facts: the flags that decide about resuming, and where ``--resume`` points."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath

from checkpoint_core.formats import written_count
from checkpoint_core.scripts.facts import ResumeTarget, ScriptFacts
from checkpoint_core.scripts.paths import absolute, is_here, is_native, same_place
from checkpoint_core.scripts.script import TrainScript, dialect_of
from checkpoint_core.scripts.tokens import ScriptNotUnderstood

_MAX_SCRIPT_BYTES = 1024 * 1024

_SWITCHES = (
    "--save_state",
    "--save_state_on_train_end",
    "--resume_from_huggingface",
    "--skip_until_initial_step",
)
_NUMBERS = ("--initial_epoch", "--initial_step", "--max_train_epochs", "--max_train_steps")
_TEXTS = ("--resume", "--output_name", "--output_dir", "--config_file")


def read_script(path: Path) -> tuple[ScriptFacts | None, str | None]:
    """The facts of a script, or in words why there are none."""
    try:
        if path.stat().st_size > _MAX_SCRIPT_BYTES:
            return None, "it is larger than any train script"
        return script_facts(TrainScript.parse(path.read_bytes(), dialect_of(path)), path.name), None
    except ScriptNotUnderstood as error:
        return None, str(error)
    except OSError as error:
        return None, f"it could not be read ({error.strerror or error})"


def script_facts(script: TrainScript, file: str) -> ScriptFacts:
    """The flags of a parsed script."""
    return ScriptFacts(
        file=file,
        trainer=script.trainer,
        output_name=script.value("--output_name"),
        output_dir=script.value("--output_dir"),
        save_state=script.has("--save_state") or script.has("--save_state_on_train_end"),
        resume=script.value("--resume"),
        resume_line=script.line_of("--resume"),
        resume_from_huggingface=script.has("--resume_from_huggingface"),
        initial_epoch=written_count(script.value("--initial_epoch")),
        initial_step=written_count(script.value("--initial_step")),
        skip_until_initial_step=script.has("--skip_until_initial_step"),
        max_train_epochs=written_count(script.value("--max_train_epochs")),
        max_train_steps=written_count(script.value("--max_train_steps")),
        num_processes=_launched_processes(script),
        network_module=script.value("--network_module"),
        optimizer_type=script.value("--optimizer_type"),
        lr_scheduler=script.value("--lr_scheduler"),
        config_file=script.value("--config_file"),
        unknown=tuple(_unknown(script)),
        flags=_flags(script),
        hidden=_hidden(script),
    )


def _flags(script: TrainScript) -> dict[str, tuple[str | None, ...]]:
    """Every flag with its values; of several occurrences the last wins, as in argparse."""
    return {
        argument.flag: (argument.value,) if argument.joined else tuple(word.value for word in argument.values)
        for argument in script.arguments.given
    }


def _hidden(script: TrainScript) -> str | None:
    """Why the trainer may be given flags that the script does not show."""
    config = script.value("--config_file")
    if config is not None:
        return f"--config_file {config} is not read here"
    word = next(iter(script.arguments.hiding), None)
    return f"{word.raw} may hold further flags" if word else None


def _unknown(script: TrainScript) -> Iterator[tuple[str, str]]:
    """The flags that decide about resuming and cannot be told, each with the reason."""
    for flag in (*_SWITCHES, *_NUMBERS, *_TEXTS):
        reason = script.unknown(flag) or _no_value(script, flag)
        if reason:
            yield flag, reason.rstrip(".")


def _no_value(script: TrainScript, flag: str) -> str | None:
    """What the trainer's argparse refuses: a flag without its value, or with text for a number."""
    value, line = script.value(flag), script.line_of(flag)
    if line is None or flag in _SWITCHES:
        return None
    if value is None:
        return f"{flag} in line {line} has no value, and the trainer refuses that"
    if flag in _NUMBERS and written_count(value) is None:
        return f"{flag} in line {line} is {value!r}, which is no count"
    return None


def _launched_processes(script: TrainScript) -> int:
    """``accelerate launch --num_processes N``; FluxGym trains on one."""
    arguments = script.launcher_arguments
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--num_processes", "--num-processes"):
            return written_count(value or "".join(arguments[index + 1 : index + 2])) or 1
    return 1


def resume_target(script: ScriptFacts | None, run: Path, states: dict[str, Path]) -> ResumeTarget:
    """Where the present ``--resume`` leads, seen from FluxGym's folder (two above the run).

    :param states: the run's state directories by name.
    """
    if script is not None and script.why_unknown("--resume", "--resume_from_huggingface"):
        return ResumeTarget("unknown", script.resume or "")
    if script is None or script.resume is None:
        return ResumeTarget("none")
    value = script.resume
    if script.resume_from_huggingface:
        return ResumeTarget("hub", value)
    if not value.strip():
        return ResumeTarget("empty", value)
    inside = _below_run(value, script, run)
    path = inside or run.parent.parent / value
    # os.path, unlike Path, takes whatever a script holds for a path: too long, or below a closed folder.
    if os.path.isdir(path):
        name = next((name for name, state in states.items() if same_place(path, state)), None)
        looks = name is not None or any(
            os.path.exists(path / file) for file in ("optimizer.bin", "random_states_0.pkl")
        )
        return ResumeTarget("state" if looks else "run-folder", value, name)
    if os.path.isfile(path):
        match = f"{path.name.removesuffix('.safetensors')}-state"
        return ResumeTarget("lora-file", value, match if match in states else None)
    foreign = inside is None and _is_foreign(value, script, run)
    return ResumeTarget("other-world" if foreign else "missing", value)


def _below_run(value: str, script: ScriptFacts, run: Path) -> Path | None:
    """The value as a path of this machine, when it lies below the run's folder as another machine names it."""
    prefix = script.output_dir
    if not prefix or is_here(prefix, run):
        return None
    kind: type[PurePath] = type(absolute(prefix) or PurePosixPath())
    # Two machines' folders of one name are one run; a script that was copied from another run names another.
    if kind(prefix).name != run.name or not kind(value).is_relative_to(kind(prefix)):
        return None
    parts = kind(value).relative_to(kind(prefix)).parts
    return run.joinpath(*parts) if ".." not in parts else None


def _is_foreign(value: str, script: ScriptFacts, run: Path) -> bool:
    """Whether an absolute path is the other system's, or belongs to another machine's FluxGym."""
    path, output = absolute(value), script.output_dir
    if path is None:
        return False
    return not is_native(path) or (bool(output) and not is_here(str(output), run))
