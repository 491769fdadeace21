"""FluxGym's folder as a person names it, and its ``app.py`` edited: the lines of :mod:`install` in or out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from checkpoint_core.atomic_write import (
    ChangedMeanwhile,
    WriteFailed,
    backups_of,
    remove_own_file,
    replace_bytes,
)
from checkpoint_core.tab.host import install


class NotFluxGym(LookupError):
    """The folder that was given is not FluxGym's; the text says which to give."""

    def __init__(self, problem: str) -> None:
        """Say what to give after saying what is wrong."""
        super().__init__(f"{problem} Give the folder that FluxGym was installed into.")


class NotEdited(RuntimeError):
    """``app.py`` is as it was; the text says why and what to do."""


def app_in(fluxgym: Path) -> Path:
    """FluxGym's ``app.py``, absolute.

    :raises NotFluxGym: when the folder has none.
    """
    app = fluxgym.absolute() / "app.py"
    if not app.is_file():
        raise NotFluxGym(f"There is no app.py in {fluxgym}.")
    return app


def outputs_in(fluxgym: Path) -> Path:
    """FluxGym's outputs folder, absolute; it need not exist yet.

    :raises NotFluxGym: when there is no such FluxGym folder.
    """
    if not fluxgym.is_dir():
        raise NotFluxGym(f"There is no folder {fluxgym}.")
    return fluxgym.absolute() / "outputs"


def add_tab(app: Path, project_dir: Path | None) -> str:
    """Put the two lines into ``app.py``; returns what was done, in words.

    :param project_dir: the folder that holds ``fluxgym_resume_tab.py``; none where FluxGym's environment holds it.
    :raises NotEdited: when the app is not recognised or cannot be written.
    """
    return _edit(app, lambda source: install.install(source, project_dir), "it has the tab already", True)


def remove_tab(app: Path) -> str:
    """Take the two lines out of ``app.py`` again; returns what was done, in words.

    :raises NotEdited: when it cannot be written.
    """
    told = _edit(app, install.uninstall, "it does not have the tab")
    return " ".join([told, *_without_backups(app)])


def _without_backups(app: Path) -> Iterator[str]:
    """Remove the backups of ``app.py`` that hold nothing but what it holds itself; says which were left.

    One that install or uninstall made is the app as it is now, with the two lines or without them.
    """
    try:
        now = app.read_bytes()
        for backup in backups_of(app):
            if not backup.is_symlink() and install.uninstall(backup.read_bytes()) == now:
                remove_own_file(backup)
            else:
                yield f"{backup.name} holds another app.py than this and is left."
    except (OSError, WriteFailed) as error:
        yield f"Its backups are left: {error}"


def _edit(app: Path, edit: Callable[[bytes], bytes], unchanged: str, tells_backup: bool = False) -> str:
    try:
        before = app.read_bytes()
        after = edit(before)
        if after == before:
            return f"{app}: {unchanged}; nothing was changed."
        backup = replace_bytes(app, after, expected=before)
    except (install.AppNotRecognised, ChangedMeanwhile, WriteFailed, OSError) as error:
        raise NotEdited(f"{app} was not changed. {error}") from error
    kept = f" The file as it was is kept as {backup.name}." if backup and tells_backup else ""
    return f"{app} was changed.{kept} Restart FluxGym to see it."
