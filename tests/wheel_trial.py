"""Tries the project as a user has it who installed it: away from the clone, with nothing of the clone importable.

    ENVIRONMENT/bin/python -I tests/wheel_trial.py WHEEL

ENVIRONMENT holds the installed WHEEL and what it requires, and needs no pytest. Ends with status 1 at what fails.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sysconfig.get_path("scripts"))
#: The sample with the fewest epochs to go.
TRAINED_ON = '<b>bold<b> & "quotes"'


def run(folder: Path, *command: object) -> str:
    """What a command prints in a folder; its failure is the trial's."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    told = f"{words} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr}"
    assert done.returncode == 0, told
    return done.stdout


def program(folder: Path, name: str, *arguments: object) -> str:
    """What one of the installed programs prints."""
    return run(folder, PROGRAMS / name, *arguments)


def python(folder: Path, *arguments: object) -> str:
    """What this environment's Python prints."""
    return run(folder, sys.executable, *arguments)


def try_contents(wheel: Path) -> None:
    """The wheel holds every file of the package, typed, and nothing that only a developer needs."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for path in (CLONE / "checkpoint_core").rglob("*") if path.is_file())
    wanted = {path.relative_to(CLONE).as_posix() for path in files if path.suffix != ".pyc"}
    wanted.add("fluxgym_resume_tab.py")
    assert packed == wanted, packed ^ wanted
    assert "checkpoint_core/py.typed" in packed
    assert any(name.endswith(".css") for name in packed)
    assert any(name.endswith(".js") for name in packed)


def try_imports() -> None:
    """Every module can be imported, and all of them, and the public names, come from the environment."""
    import checkpoint_core

    home = Path(checkpoint_core.__file__).resolve()
    assert home.is_relative_to(Path(sys.prefix).resolve()), f"imported from {home}"
    for name in checkpoint_core.__all__:
        getattr(checkpoint_core, name)
    for module in pkgutil.walk_packages(checkpoint_core.__path__, "checkpoint_core."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def try_help(away: Path) -> None:
    """Both programs are there and go by their names; the module works as well."""
    assert "Usage: checkpoint-core " in program(away, "checkpoint-core", "--help")
    assert "Usage: fluxgym-checkpoints " in program(away, "fluxgym-checkpoints", "--help")
    assert "Usage: python -m checkpoint_core " in python(away, "-m", "checkpoint_core", "--help")


def try_samples(away: Path) -> None:
    """The demo's maker trains its runs, and they are listed with the same verdicts by program and by import."""
    python(away, "-m", "checkpoint_core.demo.make_outputs", "gym")
    scanned = json.loads(program(away, "checkpoint-core", "scan", "gym/outputs", "--json"))
    verdicts = [each["verdict"] for each in scanned["checkpoints"]]
    assert {"ready", "damaged"} <= set(verdicts), verdicts
    table = "from checkpoint_core import load_table; print(*load_table('gym/outputs')['verdict'])"
    assert python(away, "-c", table).split() == verdicts


def try_training(away: Path) -> None:
    """A resumed run is trained to its end: the trainer of the samples and the watcher find the package."""
    run_dir = f"gym/outputs/{TRAINED_ON}"
    program(away, "checkpoint-core", "resume", run_dir, "--latest")
    program(away, "checkpoint-core", "watch", run_dir)
    watcher = (
        "import sys; from checkpoint_core.training.spawn import start_watcher\n"
        "sys.exit(start_watcher(['--help'], sys.stdout.buffer).wait())"
    )
    assert "checkpoint_core watch" in python(away, "-c", watcher)


def try_page(away: Path) -> None:
    """The tab is built as a page of its own, with its style."""
    page = "from fluxgym_resume_tab import make_app; print(make_app('gym/outputs').get_config_file())"
    assert "#ck-root" in python(away, "-c", page)


def try_fluxgym(away: Path) -> None:
    """The tab goes into a FluxGym of this environment, which names no folder for it, and out of it again."""
    app = away / "gym" / "app.py"
    before = (CLONE / "tests" / "stand_in_fluxgym.py").read_bytes()
    app.write_bytes(before)
    assert sys.prefix in program(away, "fluxgym-checkpoints", "install", "--fluxgym", "gym")
    assert b"sys.path" not in app.read_bytes()
    tabs = "import app; print(*(block.elem_id for block in app.demo.blocks.values()))"
    assert "ck-tab" in python(app.parent, "-c", tabs).split()
    program(away, "fluxgym-checkpoints", "uninstall", "--fluxgym", "gym")
    assert app.read_bytes() == before


def main(wheel: Path) -> None:
    """Try everything in an empty folder that is removed afterwards."""
    try_contents(wheel)
    try_imports()
    # This environment trains, and what the user has set for the tab stays out of it.
    os.environ.update(FLUXGYM_PYTHON=sys.executable, GRADIO_ANALYTICS_ENABLED="False")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(XDG_CONFIG_HOME=folder, APPDATA=folder)
        for trial in (try_help, try_samples, try_training, try_page, try_fluxgym):
            trial(Path(folder).resolve())
            print(f"{trial.__name__.removeprefix('try_')}: as it should be", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
