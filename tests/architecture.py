"""The floor plan of the project, read off its imports: ``python -m tests.architecture`` prints it with its sizes.

``--write`` puts the plan into docs/architecture.md.

A room is a folder of ``checkpoint_core`` or one of the small modules beside them; it stands on a floor and may use
what lies on lower floors. The plan says which room stands where; everything else here is read off the source.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import wrap

from tests.blocks import PROJECT, write_block

CORE = PROJECT / "checkpoint_core"
TAB = PROJECT / "fluxgym_resume_tab.py"
MODULES = sorted(CORE.rglob("*.py"))

#: Each floor's rooms, the highest first. Rooms of one floor do not know each other, but for the ground floor's modules,
#: of which each may use those that stand to its right.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("fluxgym_resume_tab", "__main__", "__init__"),
    ("tab", "cli"),
    ("report",),
    ("training",),
    ("recovery",),
    ("audit",),
    ("environment", "trainer"),
    ("states", "scripts"),
    ("formats", "atomic_write", "process_tree", "text", "installation", "version"),
)
#: The example stands beside the house: only the top floor starts it, as a process of its own.
BESIDE = "demo"
GROUND = FLOORS[-1]


@dataclass(frozen=True)
class Import:
    """One name that a module takes from another: where it stands, from which room to which, and past which face."""

    file: Path
    line: int
    room: str
    module: str
    name: str

    @property
    def target(self) -> str:
        """The room that it is taken from."""
        return room_of_module(self.module, self.name)

    @property
    def place(self) -> str:
        """``file:line`` below the project."""
        return f"{self.file.relative_to(PROJECT).as_posix()}:{self.line}"


def floor_of(room: str) -> int:
    """The floor that a room stands on, counted from the ground, which is 0.

    :raises LookupError: for a room that the plan does not know.
    """
    for height, rooms in enumerate(reversed(FLOORS)):
        if room in rooms:
            return height
    raise LookupError(f"The floor plan in tests/architecture.py has no room {room!r}.")


def room_of(file: Path) -> str:
    """The room that a file lies in."""
    if not file.is_relative_to(CORE):
        return file.stem
    return file.relative_to(CORE).parts[0].removesuffix(".py")


def room_of_module(module: str, name: str) -> str:
    """The room of ``from module import name``."""
    parts = module.split(".")[1:]
    if parts:
        return parts[0]
    return name if (CORE / name).is_dir() or (CORE / f"{name}.py").is_file() else "__init__"


@cache
def tree_of(file: Path) -> ast.Module:
    """A file's syntax."""
    return ast.parse(file.read_bytes())


def imports_in(file: Path, tree: ast.Module) -> Iterator[Import]:
    """Everything that a file takes from ``checkpoint_core``, inside functions and for type checkers too."""
    room = room_of(file)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and _is_ours(node.module or ""):
            yield from (Import(file, node.lineno, room, node.module or "", each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            # A relative import would hide which room it leads to.
            yield Import(file, node.lineno, room, "." * node.level + (node.module or ""), "")
        elif isinstance(node, ast.Import):
            for each in node.names:
                if _is_ours(each.name):
                    yield Import(file, node.lineno, room, each.name, "")


def _is_ours(module: str) -> bool:
    return module == "checkpoint_core" or module.startswith("checkpoint_core.")


def offence_against_floors(found: Import) -> str | None:
    """What an import breaks of the floor plan, in words; ``None`` where it keeps to it."""
    if found.module.startswith("."):
        return "imports are written in full: a relative one hides the room it leads to"
    if found.target == found.room:
        return None
    if found.target == BESIDE:
        return f"{BESIDE}/ stands beside the house: it is started as a process of its own, never imported"
    if found.room == BESIDE:
        return None if found.target in GROUND else f"{BESIDE}/ may use only the ground floor"
    if found.room in GROUND and found.target in GROUND:
        right_of = GROUND.index(found.target) > GROUND.index(found.room)
        return None if right_of else f"on the ground floor {found.room} may use only what stands to its right"
    mine, theirs = floor_of(found.room), floor_of(found.target)
    if theirs == mine:
        return f"{found.room} and {found.target} stand on one floor and do not know each other"
    if theirs > mine:
        return (
            f"{found.room} (floor {mine}) may use only lower floors, and {found.target} is on floor {theirs}"
        )
    return None


def offence_against_faces(found: Import) -> str | None:
    """How an import reaches into another room past its face, in words; ``None`` where it does not."""
    if found.target == found.room or found.module.startswith(".") or not (CORE / found.target).is_dir():
        return None
    face = f"checkpoint_core.{found.target}"
    if found.module != face:
        return f"{found.module} lies inside {found.target}/; take {found.name or 'it'} from its face, {face}"
    if found.name not in face_of(found.target):
        return f"{found.name} is not among what {face} offers (its __all__)"
    return None


@cache
def face_of(room: str) -> frozenset[str]:
    """What a room offers: the ``__all__`` of its ``__init__``."""
    for node in tree_of(CORE / room / "__init__.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def all_imports() -> list[Import]:
    """Every import of the core and the tab's file."""
    return [found for file in (*MODULES, TAB) for found in imports_in(file, tree_of(file))]


def arrows() -> Counter[tuple[str, str]]:
    """From each room to each room that it uses: how many names it takes."""
    return Counter((found.room, found.target) for found in all_imports() if found.room != found.target)


def lines_of(room: str) -> tuple[int, int]:
    """How many modules a room has, and how many lines."""
    files = [TAB] if room == TAB.stem else [file for file in MODULES if room_of(file) == room]
    return len(files), sum(len(file.read_text("utf-8").splitlines()) for file in files)


def drawn() -> str:
    """The floors from the top down: each room with what it is for, and the rooms that it uses.

    Without sizes: they change with every commit, and this stands in docs/architecture.md.
    """
    found, lines = arrows(), []
    for height, rooms in reversed(list(enumerate(reversed(FLOORS)))):
        lines.append(f"floor {height}")
        lines += [line for room in rooms for line in _drawn_room(room, found)]
    lines += ["beside the house", *_drawn_room(BESIDE, found), ""]
    return "\n".join((*lines, f"{len(folders())} rooms, {len(found)} arrows"))


def _drawn_room(room: str, found: Counter[tuple[str, str]]) -> list[str]:
    used = ", ".join(to for start, to in sorted(found) if start == room)
    told = [
        *wrap(purpose_of(room), 88),
        *(wrap(f"uses {used}", 88, subsequent_indent="     ") if used else []),
    ]
    return [f"  {name:<18}  {line}" for name, line in zip([room, *[""] * len(told)], told, strict=False)]


def folders() -> list[str]:
    """The rooms that are folders."""
    return [room for floor in FLOORS for room in floor if (CORE / room).is_dir()]


def purpose_of(room: str) -> str:
    """The first paragraph of a room's own docstring."""
    file = TAB if room == TAB.stem else CORE / room / "__init__.py"
    told = ast.get_docstring(tree_of(file if file.is_file() else CORE / f"{room}.py")) or ""
    return told.partition("\n\n")[0].replace("``", "").replace("\n", " ")


def sizes() -> str:
    """Each room's modules and lines, and how many names it takes from each room that it uses."""
    found = arrows()
    lines = [_sized_room(room, found) for floor in FLOORS for room in floor]
    return "\n".join((*lines, _sized_room(BESIDE, found), "", f"{sum(found.values())} names are taken"))


def _sized_room(room: str, found: Counter[tuple[str, str]]) -> str:
    files, lines = lines_of(room)
    used = ", ".join(f"{to} {count}" for (start, to), count in sorted(found.items()) if start == room)
    size = f"{files} modules, {lines:,} lines" if files > 1 else f"{lines:,} lines"
    return (f"{room:<18} {size:<26}" + (f" takes {used}" if used else "")).rstrip()


DOCUMENT, BLOCK = "docs/architecture.md", "floors"


def block() -> str:
    """The plan as docs/architecture.md shows it."""
    return f"```text\n{drawn()}\n```"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write_block(DOCUMENT, BLOCK, block())
    else:
        print(drawn(), sizes(), sep="\n\n")
