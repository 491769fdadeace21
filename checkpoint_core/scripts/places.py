"""Where the paths of a train script lie on this machine; the script may be of another machine or container."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from checkpoint_core.states.facts import ScriptFacts

WINDOWS_ABSOLUTE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def path_here(written: str, script: ScriptFacts, run: Path) -> Path | None:
    """A path of the script on this machine; ``None`` where it is of another world and has no counterpart here.

    A relative path starts two folders above the run, where FluxGym starts its scripts. A script whose ``--output_dir``
    is not here but has the run's name was written for the same FluxGym folder seen from elsewhere.
    """
    root, pure = run.parent.parent, absolute(written)
    if pure is None:
        return root / written
    if is_of_this_machine(script, run):
        return Path(written) if _is_native(pure) else None
    output = absolute(script.output_dir or "")
    if output is None or output.name != run.name:
        return None
    elsewhere = output.parent.parent
    # Everything lies below a root: a container that mounts /outputs does not tell where its other folders are.
    if elsewhere == elsewhere.parent or type(pure) is not type(output) or not pure.is_relative_to(elsewhere):
        return None
    parts = pure.relative_to(elsewhere).parts
    return root.joinpath(*parts) if ".." not in parts else None


def is_of_this_machine(script: ScriptFacts, run: Path) -> bool:
    """Whether the script names this machine's folders, as far as its ``--output_dir`` tells."""
    if script.output_dir is None:
        return True
    pure = absolute(script.output_dir)
    return (pure is None or _is_native(pure)) and os.path.exists(run.parent.parent / script.output_dir)


def output_elsewhere(script: ScriptFacts | None, run: Path) -> Path | None:
    """The folder of this machine into which the script saves, where that is another one than the run's own."""
    if script is None or script.output_dir is None or not is_of_this_machine(script, run):
        return None
    folder = run.parent.parent / script.output_dir
    try:
        return folder if folder.is_dir() and not os.path.samefile(folder, run) else None
    except OSError:
        return None


def absolute(written: str) -> PurePosixPath | PureWindowsPath | None:
    """An absolute path of either system; ``None`` for a relative one."""
    if WINDOWS_ABSOLUTE.match(written):
        return PureWindowsPath(written)
    return PurePosixPath(written) if written.startswith("/") else None


def _is_native(path: PurePath) -> bool:
    return isinstance(path, PureWindowsPath) == (os.name == "nt")
