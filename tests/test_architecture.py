"""The house rules that can be read off the source: who imports what, who writes, spawns and prints.

The floor plan itself is :mod:`tests.architecture`. Every other rule is a function from one module's syntax tree to
the lines that break it, and is itself tested on a line that must be caught: a rule that sees nothing would pass for
ever.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.architecture import (
    CORE,
    FLOORS,
    MODULES,
    PROJECT,
    TAB,
    Import,
    all_imports,
    drawn,
    face_of,
    imports_in,
    offence_against_faces,
    offence_against_floors,
    room_of,
    tree_of,
)

MOST_LINES = 400
FACES = sorted({room_of(module) for module in MODULES if module.parent != CORE})

IMPORT_HOMES = {
    "gradio": ("tab/ui/",),
    "torch": ("environment/trainer_side/", "demo/"),
    "accelerate": ("environment/trainer_side/", "demo/"),
    "pandas": ("report/table.py",),
    "pickle": ("formats/pickles.py", "environment/trainer_side/", "demo/"),
    "subprocess": (
        "environment/probing.py",
        "environment/rehearsal/run.py",
        "training/spawn.py",
        "training/training_process.py",
        "demo/",
    ),
    "multiprocessing": (),
}
"""Where in checkpoint_core each of these may be imported; nowhere else."""

PURE = (
    "trainer/",
    "audit/checks/",
    "audit/findings.py",
    "audit/verdict.py",
    "recovery/next_steps.py",
    "recovery/options.py",
    "recovery/script_fixes.py",
    "recovery/set_aside.py",
    "report/diagnosis.py",
    "report/markdown.py",
    "report/json_schema.py",
    "report/training.py",
    "report/table.py",
    "tab/host/install.py",
)
"""What never touches the disk, the clock or a process: the same facts always give the same answer."""
IMPURE = ("trainer/dataset.py",)
"""What of these rooms reads the disk all the same: the trainer counts images."""
WRITERS = ("atomic_write.py", "training/log/files.py", "environment/trainer_side/", "demo/")
PRINTERS = ("cli/output.py", "environment/trainer_side/", "demo/")

DISK_MODULES = {"os", "shutil", "tempfile", "glob", "fileinput", "mmap"}
PROCESS_MODULES = {"subprocess", "multiprocessing", "psutil", "signal", "threading"}
CLOCKS = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.sleep",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
}
READING = {
    "open",
    "exists",
    "is_file",
    "is_dir",
    "iterdir",
    "glob",
    "rglob",
    "stat",
    "lstat",
    "read_text",
    "read_bytes",
}
WRITING = {"write_text", "write_bytes", "unlink", "mkdir", "rmdir", "rename", "touch", "chmod", "symlink_to"}
WRITING_FUNCTIONS = {
    *(
        f"os.{name}"
        for name in ("remove", "unlink", "rename", "replace", "mkdir", "makedirs", "rmdir", "chmod")
    ),
    *(f"shutil.{name}" for name in ("rmtree", "move", "copy", "copy2", "copyfile", "copytree", "chown")),
}
EXECUTING = {
    "eval",
    "exec",
    "compile",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "torch.load",
    "__import__",
}

PARSING = {
    *("startswith", "endswith", "removeprefix", "removesuffix", "split", "rsplit", "splitlines"),
    *("partition", "rpartition", "find", "rfind", "index", "count"),
}
"""Methods that look into a text; capitals and full stops may be set right."""
SEARCHING = {"match", "fullmatch", "search", "findall", "finditer", "fnmatch", "fnmatchcase"}
FOR_PEOPLE = {"code", "evidence", "effect", "cure", "reason", "sentence", "judgement", "headline"}
"""What a finding, a crash or a plan says. Messages are left out: those of exceptions and logs are read, too."""

Rule = Callable[[ast.Module], list[int]]


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Every call, under its name as written: ``open``, ``os.replace``, ``path.mkdir``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every imported module's outermost package, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], node.lineno


def importing(package: str) -> Rule:
    """Lines that import ``package``."""
    return lambda tree: [line for name, line in imported(tree) if name == package]


def touching_the_disk(tree: ast.Module) -> list[int]:
    """Lines that could read or change a file."""
    by_import = [line for name, line in imported(tree) if name in DISK_MODULES]
    by_call = [call.lineno for name, call in calls(tree) if name.split(".")[-1] in READING]
    return by_import + by_call + writing(tree)


def impure(tree: ast.Module) -> list[int]:
    """Lines that could depend on anything but the arguments: the disk, the clock, a process."""
    by_import = [line for name, line in imported(tree) if name in PROCESS_MODULES]
    by_clock = [call.lineno for name, call in calls(tree) if name in CLOCKS]
    return touching_the_disk(tree) + by_import + by_clock


def writing(tree: ast.Module) -> list[int]:
    """Lines that change a file."""
    return [
        call.lineno
        for name, call in calls(tree)
        if name in WRITING_FUNCTIONS or name.split(".")[-1] in WRITING or opens_for_writing(name, call)
    ]


def opens_for_writing(name: str, call: ast.Call) -> bool:
    """Whether a call is an ``open`` with a mode that writes. An archive made in memory is not ours to judge."""
    if name.split(".")[-1] != "open":
        return False
    arguments = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return any(set(mode) & set("wax+") and set(mode) <= set("rwabtx+") for mode in modes)


def printing(tree: ast.Module) -> list[int]:
    """Lines that write to the terminal."""
    return [
        call.lineno
        for name, call in calls(tree)
        if name == "print" or name.startswith(("sys.stdout.", "sys.stderr."))
    ]


def executing(tree: ast.Module) -> list[int]:
    """Lines that could run what a file holds."""
    return [call.lineno for name, call in calls(tree) if name in EXECUTING]


def reading_meaning_out_of_words(tree: ast.Module) -> list[int]:
    """Lines that look into a finding's code or sentences: they ask for its kind, part and names instead."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.expr) and _looks_into_words(node)]


def _looks_into_words(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute) and node.attr in PARSING:
        return _is_for_people(node.value)
    if isinstance(node, ast.Compare):
        tested = zip(node.ops, node.comparators, strict=True)
        inside = any(isinstance(op, ast.In | ast.NotIn) and _is_for_people(text) for op, text in tested)
        return inside or any(map(_is_piece, [node.left, *node.comparators]))
    searches = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in SEARCHING
    return searches and any(map(_is_for_people, node.args))


def _is_piece(node: ast.expr) -> bool:
    """Whether an expression is a piece of such a text, ``found.code[-7:]``."""
    return isinstance(node, ast.Subscript) and _is_for_people(node.value)


def _is_for_people(node: ast.expr) -> bool:
    """Whether an expression is such a text: ``found.code``, ``code``, ``found["code"]``, ``found.code.lower()``."""
    if isinstance(node, ast.Attribute):
        return node.attr in FOR_PEOPLE
    if isinstance(node, ast.Name):
        return node.id in FOR_PEOPLE
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value in FOR_PEOPLE
    if isinstance(node, ast.Call):
        inside = node.func.value if isinstance(node.func, ast.Attribute) else None
        return any(map(_is_for_people, [*node.args, *([inside] if inside else [])]))
    return False


def acting_on_import(tree: ast.Module) -> list[int]:
    """Statements at module level that do something: bare calls, loops, ``with``. Definitions and names are fine."""
    harmless = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If)
    return [
        node.lineno
        for node in tree.body
        if not isinstance(node, harmless)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]


def inside(module: Path, places: tuple[str, ...]) -> bool:
    """Whether a module of the core is one of ``places``: a file, a folder ending in "/", or a name's beginning."""
    return module.relative_to(CORE).as_posix().startswith(places)


def offences(rule: Rule, among: list[Path]) -> list[str]:
    """``file:line`` for each line of these modules that breaks the rule."""
    return [
        f"{module.relative_to(PROJECT).as_posix()}:{line}"
        for module in among
        for line in rule(tree_of(module))
    ]


@pytest.mark.parametrize(("package", "homes"), IMPORT_HOMES.items())
def test_each_package_is_imported_only_at_its_home(package: str, homes: tuple[str, ...]) -> None:
    assert offences(importing(package), [m for m in MODULES if not inside(m, homes)]) == []


def test_a_room_uses_only_what_lies_on_lower_floors() -> None:
    assert broken(offence_against_floors) == []


def test_nobody_reaches_into_another_room_past_its_face() -> None:
    assert broken(offence_against_faces) == []


def broken(rule: Callable[[Import], str | None]) -> list[str]:
    """Each import that breaks the rule: ``file:line: the rule in words``."""
    return [f"{found.place}: {why}" for found in all_imports() if (why := rule(found))]


@pytest.mark.parametrize("room", FACES)
def test_a_face_offers_only_what_is_there_and_used(room: str) -> None:
    """A face grows by itself otherwise; tests and benchmarks may use a room's insides."""
    used = {found.name for found in all_imports() if found.target == room and found.room != room}
    assert sorted(face_of(room) - used - PROMISED.get(room, frozenset())) == []


PROMISED: dict[str, frozenset[str]] = {}
"""What a face offers although no other room uses it."""


def test_every_module_lies_in_a_room_of_the_plan() -> None:
    planned = {room for floor in FLOORS for room in floor} | {"demo"}
    assert {room_of(module) for module in (*MODULES, TAB)} == planned


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("states/facts.py", "from checkpoint_core.audit import Verdict", "lower floors"),
        ("states/facts.py", "def f():\n    from checkpoint_core.scripts import Dialect", "one floor"),
        ("cli/app.py", "from checkpoint_core.tab import find_gym", "one floor"),
        ("audit/verdict.py", "import checkpoint_core.recovery.repair", "lower floors"),
        ("formats/reader.py", "from checkpoint_core.version import __version__", ""),
        ("version.py", "from checkpoint_core.text import printable", "to its right"),
        ("tab/presenter.py", "from checkpoint_core.demo.runs import SAMPLES", "process of its own"),
        ("demo/runs.py", "from checkpoint_core.states import layout", "ground floor"),
        ("tab/presenter.py", "from .session import PageSession", "written in full"),
        ("tab/presenter.py", "from checkpoint_core import __version__", "lower floors"),
    ],
)
def test_the_plan_catches_what_goes_up_or_sideways(file: str, line: str, why: str) -> None:
    (found,) = imports_in(CORE / file, ast.parse(line))
    assert why in (offence_against_floors(found) or "")
    assert bool(offence_against_floors(found)) == bool(why)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("from checkpoint_core.states.facts import StateFacts", "from its face"),
        ("import checkpoint_core.states.layout", "from its face"),
        ("from checkpoint_core.states import readers", "not among what"),
        ("from checkpoint_core.states import StateFacts", ""),
        ("from checkpoint_core.recovery.options import RecoveryOption", ""),
    ],
)
def test_a_face_keeps_others_out(line: str, why: str) -> None:
    (found,) = imports_in(CORE / "recovery" / "repair.py", ast.parse(line))
    assert why in (offence_against_faces(found) or "")
    assert bool(offence_against_faces(found)) == bool(why)


def test_the_plan_can_be_drawn() -> None:
    told = drawn()
    assert "floor 8" in told
    assert "11 rooms" in told


def test_what_is_pure_stays_so() -> None:
    pure = [module for module in MODULES if inside(module, PURE) and not inside(module, IMPURE)]
    assert pure
    assert offences(impure, pure) == []


def test_only_the_one_writer_writes() -> None:
    assert offences(writing, [m for m in MODULES if not inside(m, WRITERS)]) == []


def test_only_the_command_line_prints() -> None:
    assert offences(printing, [m for m in MODULES if not inside(m, PRINTERS)]) == []


def test_nothing_from_a_checkpoint_is_executed_in_the_interface() -> None:
    interface = [m for m in MODULES if not inside(m, ("environment/trainer_side/", "demo/"))]
    assert offences(executing, [*interface, TAB]) == []


def test_nothing_reads_meaning_out_of_a_code_or_a_sentence() -> None:
    assert offences(reading_meaning_out_of_words, [*MODULES, TAB]) == []


def test_nothing_happens_at_import() -> None:
    assert offences(acting_on_import, MODULES) == []


def test_every_module_can_be_read_in_one_sitting() -> None:
    lengths = {m.relative_to(PROJECT).as_posix(): len(m.read_text("utf-8").splitlines()) for m in MODULES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (importing("torch"), "import torch.nn"),
        (importing("torch"), "def f():\n    from torch import Tensor"),
        (touching_the_disk, "import shutil"),
        (touching_the_disk, "folder.iterdir()"),
        (touching_the_disk, "with open(name) as file: pass"),
        (impure, "import subprocess"),
        (impure, "now = time.time_ns()"),
        (impure, "Path('x').exists()"),
        (writing, "path.write_text('x')"),
        (writing, "os.replace(a, b)"),
        (writing, "open(name, 'wb')"),
        (writing, "path.open(mode='a')"),
        (printing, "print('x')"),
        (printing, "sys.stderr.write('x')"),
        (executing, "pickle.load(file)"),
        (executing, "eval('1')"),
        (reading_meaning_out_of_words, "found.code.startswith('random-states-')"),
        (reading_meaning_out_of_words, "[c for code in codes if code.endswith(_LOST)]"),
        (reading_meaning_out_of_words, "kind = found.code.removeprefix('weights-')"),
        (reading_meaning_out_of_words, "names = found.evidence.split(', ')"),
        (reading_meaning_out_of_words, "found['code'].rpartition('-')"),
        (reading_meaning_out_of_words, "found.code.lower().startswith('x')"),
        (reading_meaning_out_of_words, "filter(found.code.endswith, _ENDS)"),
        (reading_meaning_out_of_words, "'missing' in found.code"),
        (reading_meaning_out_of_words, "'optimizer' not in str(found.evidence)"),
        (reading_meaning_out_of_words, "found.code[-7:] == 'missing'"),
        (reading_meaning_out_of_words, "re.search('-empty$', found.code)"),
        (reading_meaning_out_of_words, "_PATTERN.match(code)"),
        (reading_meaning_out_of_words, "each.reason.partition(':')[0]"),
        (acting_on_import, "logging.basicConfig()"),
        (acting_on_import, "for x in y: pass"),
    ],
)
def test_a_rule_catches_what_it_forbids(rule: Rule, line: str) -> None:
    assert rule(ast.parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "found.code == 'run-finished'",
        "found.code in _FIXES",
        "_FIXES[found.code]",
        "codes['code']",
        "cure[0].upper() + cure[1:]",
        "name.startswith('lora_unet_')",
        "outcome.message.startswith('Number of custom checkpoints')",
        "text(found.evidence)",
        "', '.join(found.code for found in findings)",
    ],
)
def test_naming_and_showing_a_code_is_not_reading_it(line: str) -> None:
    assert reading_meaning_out_of_words(ast.parse(line)) == []


@pytest.mark.parametrize("line", ["open(name, 'rb')", "'a'.replace('a', 'b')", "zip.open('data.pkl')"])
def test_reading_and_string_editing_are_not_writing(line: str) -> None:
    assert writing(ast.parse(line)) == []
