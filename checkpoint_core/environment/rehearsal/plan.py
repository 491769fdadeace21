"""Whether a state may be rehearsed: its pickles are judged here, before another process unpickles them.

The load runs in the environment that trains, as that environment loads: an older torch runs whatever a pickle names.
So every pickle must be described here to its end, through the allow-list, or else the environment must be one that
refuses by itself. A copy to load from would close the moment between judging and loading altogether, but it needs as
much disk space as the state, perhaps on the full disk that broke it. Instead the files' sizes, times and inode
numbers are compared when they are judged, right before the load and after it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from checkpoint_core.environment.facts import Environment, EnvironmentFacts, EnvironmentProblem
from checkpoint_core.environment.pickle_support import is_older, version_of
from checkpoint_core.environment.rehearsal.outcome import Refusal, Rehearsal
from checkpoint_core.environment.trainer_side.rehearse import state_stamp
from checkpoint_core.formats import (
    END,
    END64,
    END64_LOCATOR,
    END64_LOCATOR_MAGIC,
    END_MAGIC,
    LOCAL_MAGIC,
    DamageKind,
    FileReader,
    FormatError,
    TorchZip,
    describe,
)
from checkpoint_core.states import (
    CUSTOM_OBJECT_PATTERN,
    RECENT_NS,
    WEIGHTS_PICKLED,
    WEIGHTS_PICKLED_INDEX,
    WEIGHTS_SAFE,
    WEIGHTS_SAFE_INDEX,
    EntryKind,
    FileEntry,
    StateFacts,
    reading,
)

#: What accelerate unpickles, some of it in trainings of other kinds only (accelerate ``utils/constants.py`` and
#: ``checkpointing.py``); letter case as it comes, for a disk that does not tell it apart.
_PICKLES = re.compile(
    r"((pytorch_model|optimizer|scheduler|sampler|dl_state_dict)(_\d+)?\.bin|scaler\.pt"
    r"|(random_states|custom_checkpoint)_\d+\.pkl)\Z",
    re.IGNORECASE,
)
_OTHERS = re.compile(r"(train_state\.json|model(_\d+)?\.safetensors)\Z", re.IGNORECASE)

#: Everything that ``torch.save`` has ever put into an archive (torch ``serialization.py``, ``_save``). A TorchScript
#: archive, which ``torch.load`` runs another way, holds others; so does one made to be read in two ways, because
#: torch's zip reader takes no notice of letter case.
_MEMBERS = re.compile(
    r"(data\.pkl|data/\d+|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id)\Z"
)

#: Turns torch's own refusal off (torch ``serialization.py``, ``load``).
_UNCHECKED = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def plan_rehearsal(
    facts: StateFacts, environment: Environment, variables: Mapping[str, str] = os.environ
) -> Rehearsal | Refusal:
    """Plan to load a state with the training interpreter, as the first of its processes would.

    :param facts: as the state was inspected; a state that has changed since is refused.
    :param variables: the environment variables that the rehearsal will inherit.
    """
    if not isinstance(environment, EnvironmentFacts):
        known = environment.reason if isinstance(environment, EnvironmentProblem) else "none was named"
        return Refusal(f"the training interpreter is not known ({known})")
    try:
        stamp = state_stamp(facts.path)
        obstacle = next(_obstacles(facts, _refuses_by_itself(environment, variables)), None)
        if obstacle is None and state_stamp(facts.path) != stamp:
            obstacle = "its files changed while they were looked at"
    except OSError as error:
        obstacle = f"its directory could not be read ({error.strerror or error})"
    if obstacle is not None:
        return Refusal(obstacle)
    return Rehearsal(environment.executable, facts.path, facts.layout, stamp, facts.size_bytes)


def _refuses_by_itself(environment: EnvironmentFacts, variables: Mapping[str, str]) -> bool:
    """Whether torch can be left alone with a file that nobody has described.

    torch before 2.6 unpickles what it is given; where accelerate asks it to take weights only, the refusal could be
    got round (CVE-2025-32434).
    """
    known = version_of(environment, "torch") is not None
    return known and not is_older(environment, "torch", "2.6") and not variables.get(_UNCHECKED)


def _obstacles(facts: StateFacts, refuses_by_itself: bool) -> Iterator[str]:
    if facts.problem:
        yield f"its directory could not be read ({facts.problem.detail})"
    unfinished = facts.random_states is None and facts.observed_ns - facts.saved_ns < RECENT_NS
    if facts.changed or unfinished:
        yield "it is being saved"
    known = {entry.name: entry for entry in facts.files if _is_loaded(entry.name)}
    present = sorted(name for name in os.listdir(facts.path) if _is_loaded(name))
    if present != sorted(known):
        yield "its files have changed since they were looked at"
    split = {entry.name for entry in facts.files} & {WEIGHTS_SAFE_INDEX, WEIGHTS_PICKLED_INDEX}
    if split and not known.keys() & {WEIGHTS_SAFE, WEIGHTS_PICKLED}:
        yield "its weights are split into several files, which Accelerator.load_state leaves to the trainer"
    for name in present:
        yield from _file_obstacles(facts.path / name, known[name], refuses_by_itself)


def _is_loaded(name: str) -> bool:
    return bool(_PICKLES.match(name) or _OTHERS.match(name))


def _file_obstacles(path: Path, entry: FileEntry, refuses_by_itself: bool) -> Iterator[str]:
    if entry.kind is EntryKind.OUTSIDE_LINK:
        yield f"{entry.name} is a link that leads out of the outputs folder"
        return
    status = os.stat(path)
    if (status.st_size, status.st_mtime_ns) != (entry.size_bytes, entry.modified_ns):
        yield f"{entry.name} has changed since it was looked at"
    if entry.kind is not EntryKind.FILE:
        yield f"{entry.name} is no regular file"
    elif _PICKLES.match(entry.name):
        # accelerate unpickles registered objects unchecked (``load_custom_state``, ``weights_only=False``).
        refused = refuses_by_itself and not CUSTOM_OBJECT_PATTERN.match(entry.name.lower())
        yield from _pickle_obstacles(path, refused)


def _pickle_obstacles(path: Path, refused_there: bool) -> Iterator[str]:
    damage = reading(lambda: hold_as_torch_reads_it(path))
    if damage is None or damage.kind is DamageKind.EMPTY:
        return
    if damage.kind is DamageKind.FOREIGN:
        yield f"{path.name} names objects that loading could run: {', '.join(damage.names[:5])}"
    elif damage.kind in (DamageKind.UNREADABLE, DamageKind.UNSUPPORTED):
        yield f"{path.name} could not be judged: {damage.detail}"
    elif not refused_there:
        yield f"{path.name} is damaged ({damage.detail}), and what is left of it would be loaded unchecked"


def hold_as_torch_reads_it(path: Path) -> None:
    """Describe a torch file to the end of its pickle, making sure that torch sees the same pickle.

    :raises FormatError: for whatever is not described in full, ``FOREIGN`` for names outside the allow-list.
    """
    with FileReader(path) as reader:
        archive = TorchZip(reader)
        describe(archive.pickle_bytes).refuse_foreign()
        strange = [name for name in archive.members if not _MEMBERS.match(name)]
        if strange:
            raise FormatError(DamageKind.CORRUPT, f"torch puts no member {strange[0][:80]!r} into its files")
        _hold_ends(reader)


def _hold_ends(reader: FileReader) -> None:
    """Hold the beginning and the end of an archive against the one way in which torch writes them.

    torch tells an archive by its first bytes, and unpickles from the beginning of anything else. Where there are two
    end records, its zip reader goes by the 64-bit one (miniz, ``mz_zip_reader_read_central_dir``) and ``zipfile``'s
    kin may go by the other. One that agrees with itself everywhere leaves no choice.
    """
    end_at = reader.size - END.size
    magic, _, _, count_here, count, size, start, comment_bytes = END.unpack(reader.at(end_at, END.size))
    directory_end, fields = end_at, (count, size, start)
    locator_at = end_at - END64_LOCATOR.size
    locator = END64_LOCATOR.unpack(reader.at(locator_at, END64_LOCATOR.size))
    if locator[0] == END64_LOCATOR_MAGIC:
        directory_end = locator[2]
        if directory_end != locator_at - END64.size:
            raise _two_ways()
        record = END64.unpack(reader.at(directory_end, END64.size))
        large, full = record[7:10], (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        if any(mine not in (theirs, most) for mine, theirs, most in zip(fields, large, full, strict=True)):
            raise _two_ways()
        fields = large
    one_way = (
        reader.at(0, 4) == LOCAL_MAGIC
        and magic == END_MAGIC
        and comment_bytes == 0
        and count_here == count
        and fields[1] + fields[2] == directory_end
    )
    if not one_way:
        raise _two_ways()


def _two_ways() -> FormatError:
    return FormatError(
        DamageKind.CORRUPT, "it is laid out as torch lays out none, so that torch may read something else"
    )
