"""What the named endpoints answer to programs: names in, JSON values out, every text free of lone surrogates."""

from __future__ import annotations

from typing import Any

from checkpoint_core.audit import CheckpointReport, find_latest_resumable, headline, phrase
from checkpoint_core.recovery import resume
from checkpoint_core.report import checkpoint_json
from checkpoint_core.scripts import plan_resume, run_command
from checkpoint_core.tab.page_names import PageName, page_name
from checkpoint_core.tab.presenter import TROUBLE, TabPresenter
from checkpoint_core.tab.views.markup import plain


def runs(presenter: TabPresenter) -> Any:
    """The runs, newest first: ``run``, ``checkpoints`` (how many), ``headline``, ``latest_resumable``.

    :raises OutputsFolderError: when the outputs folder is missing.
    """
    return plain(
        [
            {
                "run": page_name(run.name),
                "checkpoints": len(run.checkpoints),
                "headline": headline(run),
                "latest_resumable": page_name(best.name)
                if (best := find_latest_resumable(run).checkpoint)
                else None,
            }
            for run in presenter.newest_first()
        ]
    )


def checkpoint_table(presenter: TabPresenter, run_name: PageName) -> Any:
    """A run's checkpoints, newest first, each as :func:`check` gives it.

    :raises UnknownName: when there is no such run.
    """
    return [_object(item) for item in presenter.run(run_name).checkpoints]


def check(presenter: TabPresenter, run_name: PageName, checkpoint: PageName) -> Any:
    """One checkpoint, in the form of the command line's ``check --json``, but its ``path`` is called ``directory``.

    :raises UnknownName: when there is no such run or checkpoint.
    """
    return _object(presenter.checkpoint(presenter.run(run_name), checkpoint))


def _object(item: CheckpointReport) -> Any:
    value = plain(checkpoint_json(item))
    # gradio_client takes an object with a `path` for a file and tries to download it.
    value["directory"] = value.pop("path")
    value["run"], value["state"] = str(page_name(item.run)), str(page_name(item.name))
    return value


def preview_resume(presenter: TabPresenter, run_name: PageName, checkpoint: PageName) -> Any:
    """What a resume would change: ``resumes``, ``reason``, ``diff``, ``notes``.

    :raises UnknownName: when there is no such run or checkpoint.
    """
    run = presenter.run(run_name)
    item = presenter.checkpoint(run, checkpoint)
    refused = {"resumes": False, "reason": phrase(item), "diff": "", "notes": []}
    if not item.verdict.resumes:
        return plain(refused)
    try:
        change = plan_resume(run.facts.path, item.name)
    except TROUBLE as error:
        return plain({**refused, "reason": str(error)})
    notes = (*change.summary, *change.notes)
    return plain({"resumes": True, "reason": "", "diff": change.diff, "notes": notes})


def apply_resume(presenter: TabPresenter, run_name: PageName, checkpoint: PageName) -> Any:
    """Write what :func:`preview_resume` shows: ``applied``, ``reason``, ``command``, ``folder``, ``backup``.

    Where nothing was written, ``applied`` is false and ``reason`` says why; the others are ``None``.

    :raises UnknownName: when there is no such run or checkpoint.
    """
    refused = {"applied": False, "reason": "", "command": None, "folder": None, "backup": None}
    for _ in presenter.background.rehearse_unusual(run_name, checkpoint):
        pass  # versions that nobody has tried are tried before anything is written
    run = presenter.run(run_name)
    item = presenter.checkpoint(run, checkpoint)
    try:
        receipt = resume(run, item).receipt
    except TROUBLE as error:
        return plain({**refused, "reason": str(error)})
    run_it = run_command(receipt.path, run.facts.script.output_dir if run.facts.script else None)
    backup = receipt.backup.name if receipt.backup else None
    return plain({**refused, "applied": True, **vars(run_it), "backup": backup})
