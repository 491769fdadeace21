"""Two marked lines in FluxGym's ``app.py`` that put the Checkpoints tab into it, and taking them out again.

Pure: source bytes in, source bytes out; reading and writing the file is the caller's. Adding the lines and removing
them gives the original back byte for byte: line endings, a byte-order mark and a missing last newline survive.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

MARK = b"# fluxgym-checkpoints, to remove: fluxgym_resume_tab.py uninstall"
"""Ends each line that was added from the project's folder."""

INSTALLED_MARK = b"# fluxgym-checkpoints, to remove: fluxgym-checkpoints uninstall"
"""Ends each line that was added by the installed package. A line of ``app.py`` that ends with either is ours."""


class AppNotRecognised(ValueError):
    """``app.py`` does not have FluxGym's structure; the message names what was looked for and not found."""


def installed(source: bytes) -> bool:
    """Tell whether ``app.py``, given as its bytes, holds a line of ours."""
    return any(_is_ours(line) for line in source.splitlines())


def install(source: bytes, project_dir: Path | None) -> bytes:
    """Return ``app.py`` with the two lines that mount the tab from the folder ``project_dir``.

    They stand at the end of ``with gr.Blocks(…) as demo:``, where FluxGym's ``refresh.click(…)`` is already
    wired. Lines of an earlier install are replaced, so a second call changes nothing and a moved folder is
    followed. Without a folder, FluxGym's own environment has to hold the package. Raises AppNotRecognised where that
    place is not found.
    """
    original = uninstall(source)
    page = _find_page(original)
    lines = original.splitlines(keepends=True)
    before, after = lines[: page.end_lineno], lines[page.end_lineno :]
    indent = _indent_of(lines[page.body[0].lineno - 1])
    newline = _newline_of(before[-1]) or _newline_of(lines[0])
    mark = MARK if project_dir else INSTALLED_MARK
    added = [indent + statement + b"  " + mark for statement in _statements(project_dir)]
    if _newline_of(before[-1]):
        return b"".join([*before, *(line + newline for line in added), *after])
    return newline.join([b"".join(before), *added])


def uninstall(source: bytes) -> bytes:
    """Return ``app.py`` without the two lines; without them already, the same bytes."""
    lines = source.splitlines(keepends=True)
    kept = b"".join(line for line in lines if not _is_ours(line))
    if lines and _is_ours(lines[-1]) and not _newline_of(lines[-1]):
        # The original ended without a newline: install had to add one before its lines.
        return kept.removesuffix(_newline_of(kept))
    return kept


def _statements(project_dir: Path | None) -> tuple[bytes, bytes]:
    """The two lines' code. FluxGym must start even when the folder is gone or the tab fails.

    The folder goes to the end of ``sys.path``: none of FluxGym's modules can be shadowed by it. An environment's
    packages never go there: in another environment they would be those of another Python.
    """
    finding = f"import sys; sys.path.append({str(project_dir)!a}); " if project_dir else ""
    return (
        f"try: {finding}import fluxgym_resume_tab; fluxgym_resume_tab.mount(demo)".encode(),
        b"except Exception as problem: print(f'FluxGym starts without the Checkpoints tab: {problem!r}')",
    )


def _find_page(source: bytes) -> ast.With:
    """Find FluxGym's page, ``with gr.Blocks(…) as demo:``, holding its tabs and its refresh event."""
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise AppNotRecognised(
            f"This app.py is not Python that can be read ({error}). It was not changed."
        ) from None
    page = next((block for block in _withs(module.body) if _opens(block, "Blocks", "demo")), None)
    if page is None or page.body[0].lineno == page.lineno:
        raise _not_found("the block 'with gr.Blocks(…) as demo:' at the top level")
    if not any(_opens(block, "Tabs", "tabs") for block in _withs(ast.walk(page))):
        raise _not_found("'with gr.Tabs() as tabs:' inside 'with gr.Blocks(…) as demo:'")
    if not any(_is_refresh_event(statement) for statement in page.body):
        raise _not_found("'refresh.click(…)' directly in 'with gr.Blocks(…) as demo:'")
    return page


def _not_found(wanted: str) -> AppNotRecognised:
    return AppNotRecognised(
        f"This app.py is not the FluxGym that this project knows: {wanted} was not found. It was not changed; "
        "'launch --fluxgym' needs no change of it."
    )


def _withs(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[ast.With]:
    return (node for node in nodes if isinstance(node, ast.With))


def _opens(block: ast.With, called: str, name: str) -> bool:
    """Tell whether ``block`` is ``with <module>.<called>(…) as <name>:``."""
    item = block.items[0]
    return (
        isinstance(item.context_expr, ast.Call)
        and isinstance(item.context_expr.func, ast.Attribute)
        and item.context_expr.func.attr == called
        and isinstance(item.optional_vars, ast.Name)
        and item.optional_vars.id == name
    )


def _is_refresh_event(statement: ast.stmt) -> bool:
    """Tell whether ``statement`` is FluxGym's ``refresh.click(…)``, which makes the train script."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and ast.unparse(statement.value.func) == "refresh.click"
    )


def _is_ours(line: bytes) -> bool:
    return line.rstrip().endswith((MARK, INSTALLED_MARK))


def _indent_of(line: bytes) -> bytes:
    return line[: len(line) - len(line.lstrip(b" \t"))]


def _newline_of(line: bytes) -> bytes:
    """The line ending at the end of ``line``: CRLF, LF, CR, or nothing."""
    ending = re.search(rb"(?:\r\n|\n|\r)?\Z", line)
    return ending.group() if ending else b""
