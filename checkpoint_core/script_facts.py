"""A train script on the disk to facts: the flags that decide about resuming, and where ``--resume`` points."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from checkpoint_core.facts import EntryKind, FileEntry, ResumeTarget, ScriptFacts
from checkpoint_core.inspection import same_place
from checkpoint_core.layout import layout_of_trainer
from checkpoint_core.train_script import ScriptNotUnderstood, TrainScript, dialect_of

_MAX_SCRIPT_BYTES = 1024 * 1024


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
        layout=layout_of_trainer(script.trainer),
        output_name=script.value("--output_name"),
        output_dir=script.value("--output_dir"),
        save_state=script.has("--save_state") or script.has("--save_state_on_train_end"),
        resume=script.value("--resume"),
        resume_line=script.line_of("--resume"),
        resume_from_huggingface=script.has("--resume_from_huggingface"),
        initial_epoch=_number(script, "--initial_epoch"),
        initial_step=_number(script, "--initial_step"),
        skip_until_initial_step=script.has("--skip_until_initial_step"),
        max_train_epochs=_number(script, "--max_train_epochs"),
        max_train_steps=_number(script, "--max_train_steps"),
        num_processes=_launched_processes(script),
        network_module=script.value("--network_module"),
        optimizer_type=script.value("--optimizer_type"),
        lr_scheduler=script.value("--lr_scheduler"),
    )


def _number(script: TrainScript, flag: str) -> int | None:
    return _whole(script.value(flag))


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None


def _launched_processes(script: TrainScript) -> int:
    """``accelerate launch --num_processes N``; FluxGym trains on one."""
    arguments = script.launcher_arguments
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--num_processes", "--num-processes"):
            return _whole(value or "".join(arguments[index + 1 : index + 2])) or 1
    return 1


def resume_target(script: ScriptFacts | None, run: Path, states: dict[str, Path]) -> ResumeTarget:
    """Where the present ``--resume`` leads, seen from FluxGym's folder (two above the run).

    :param states: the run's state directories by name.
    """
    if script is None or script.resume is None:
        return ResumeTarget("none")
    value = script.resume
    if script.resume_from_huggingface:
        return ResumeTarget("hub", value)
    if not value.strip():
        return ResumeTarget("empty", value)
    path = _here(value, script, run)
    if path.is_dir():
        name = next((name for name, state in states.items() if same_place(path, state)), None)
        looks = name is not None or any(
            (path / file).exists() for file in ("optimizer.bin", "random_states_0.pkl")
        )
        return ResumeTarget("state" if looks else "run-folder", value, name)
    if path.is_file():
        stem = path.name.removesuffix(".safetensors")
        return ResumeTarget(
            "lora-file", value, next((name for name in states if name == f"{stem}-state"), None)
        )
    return ResumeTarget("other-world" if _is_foreign(value, script, run) else "missing", value)


def _here(value: str, script: ScriptFacts, run: Path) -> Path:
    """The value as a path of this machine: a path below the script's own output folder lies in the run's."""
    prefix = script.output_dir
    if prefix and not Path(prefix).exists():
        kind = PureWindowsPath if PureWindowsPath(prefix).drive else PurePosixPath
        try:
            return run / Path(*kind(value).relative_to(kind(prefix)).parts)
        except ValueError:
            pass
    return run.parent.parent / value


def _is_foreign(value: str, script: ScriptFacts, run: Path) -> bool:
    """An absolute path of the other system, or of another machine's FluxGym, that is not below this run."""
    windows = bool(PureWindowsPath(value).drive)
    if windows != bool(PureWindowsPath(str(run.absolute())).drive):
        return windows or value.startswith("/")
    return bool(script.output_dir) and not Path(str(script.output_dir)).exists() and Path(value).is_absolute()


def find_entry(entries: tuple[FileEntry, ...], names: tuple[str, ...]) -> FileEntry | None:
    """The first of some names that is a regular file of a listing."""
    files = {entry.name: entry for entry in entries if entry.kind is EntryKind.FILE}
    return next((files[name] for name in names if name in files), None)
