from __future__ import annotations

import contextlib
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_core.formats.pickles import describe
from checkpoint_core.formats.reader import DamageKind, FileReader, FormatError
from checkpoint_core.formats.torch_zip import TorchZip
from tests.builders import torch_file
from tests.damage import flip_byte, flip_member_byte, member_name

EPOCH_2 = "tiny-lora-000002-state"
PICKLE = b"\x80\x02}q\x00."
SMALL = torch_file(PICKLE, {"0": b"\x01\x02\x03\x04" * 8})


def read(path: Path) -> dict[str, bytes]:
    """Everything in a file, read as verification reads it."""
    with FileReader(path) as reader:
        archive = TorchZip(reader)
        return {member.name: b"".join(archive.chunks(member)) for member in archive.members.values()}


def damage_of(path: Path) -> DamageKind:
    with pytest.raises(FormatError) as caught:
        read(path)
    return caught.value.kind


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.bin"
    path.write_bytes(SMALL)
    return path


@pytest.fixture
def scheduler(real_runs: Path, tmp_path: Path) -> Path:
    path = tmp_path / "scheduler.bin"
    path.write_bytes((real_runs / "accelerate-1.6.0-adafactor" / EPOCH_2 / "scheduler.bin").read_bytes())
    return path


@pytest.mark.parametrize("name", ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"])
@pytest.mark.parametrize("run", ["accelerate-1.6.0-adafactor", "accelerate-0.33.0-adafactor"])
def test_the_members_are_those_that_zipfile_finds(real_runs: Path, run: str, name: str) -> None:
    path = real_runs / run / EPOCH_2 / name
    with zipfile.ZipFile(path) as archive:
        expected = {member.partition("/")[2]: archive.read(member) for member in archive.namelist()}
    assert read(path) == expected


@pytest.mark.parametrize("name", ["scheduler.bin", "random_states_0.pkl", "optimizer.bin"])
def test_a_file_cut_at_any_byte_is_never_taken_for_whole(real_runs: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes((real_runs / "accelerate-1.6.0-adafactor" / EPOCH_2 / name).read_bytes())
    kinds = set()
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(FormatError) as caught, FileReader(path) as reader:
            TorchZip(reader)
        kinds.add(caught.value.kind)
    assert kinds == {DamageKind.TRUNCATED, DamageKind.EMPTY}


def test_a_byte_that_has_changed_anywhere_is_told_or_changes_nothing(scheduler: Path) -> None:
    """Padding and the fields that torch does not read (times, attributes) are all that may differ unnoticed."""
    whole, data = read(scheduler), scheduler.read_bytes()
    silent = []
    for offset in range(len(data)):
        scheduler.write_bytes(data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :])
        try:
            found = read(scheduler)
        except FormatError:
            continue
        silent.append(offset)
        assert list(found.values()) == list(whole.values())
    assert len(silent) < len(data) * 0.8


@pytest.mark.parametrize("member", ["data.pkl", "version", "data/0"])
def test_a_flipped_byte_of_a_member_is_told_by_its_checksum(small: Path, member: str) -> None:
    flip_member_byte(small, member, 1)
    with pytest.raises(FormatError, match=f"the checksum of member {member} is wrong") as caught:
        read(small)
    assert caught.value.kind is DamageKind.CORRUPT


def test_the_records_are_verified_without_the_storages(small: Path) -> None:
    flip_member_byte(small, "data/0")
    with FileReader(small) as reader:
        archive = TorchZip(reader)
        archive.verify_records()
        with pytest.raises(FormatError):
            archive.verify_all()


def test_an_overwritten_local_header_is_told(small: Path) -> None:
    with zipfile.ZipFile(small) as archive:
        offset = archive.getinfo(member_name(small, "data/0")).header_offset
    flip_byte(small, offset)
    with pytest.raises(FormatError, match="the header of member data/0 is overwritten"):
        read(small)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", DamageKind.EMPTY),
        (b"P", DamageKind.TRUNCATED),
        (b"PK\x03\x04", DamageKind.TRUNCATED),
        (bytes(5000), DamageKind.TRUNCATED),
        (b"not a torch file at all", DamageKind.CORRUPT),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02", DamageKind.UNSUPPORTED),
        (b"\x80\x02}q\x00.", DamageKind.CORRUPT),
        (b"PK\x05\x06" + bytes(18), DamageKind.CORRUPT),
    ],
    ids=["empty", "one-byte", "head", "zeros", "text", "legacy", "bare-pickle", "no-member"],
)
def test_what_is_no_torch_archive_is_named(tmp_path: Path, data: bytes, kind: DamageKind) -> None:
    path = tmp_path / "optimizer.bin"
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught, FileReader(path) as reader:
        assert TorchZip(reader).pickle_bytes
    assert caught.value.kind is kind


def test_a_compressed_member_is_never_unpacked(tmp_path: Path) -> None:
    """A few kilobytes that would become a gigabyte; torch stores its members."""
    path = tmp_path / "bomb.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert damage_of(path) is DamageKind.UNSUPPORTED


def _edited_directory(field: int, value: bytes) -> bytes:
    """The small file with bytes of the first directory entry replaced."""
    at = SMALL.index(b"PK\x01\x02") + field
    return SMALL[:at] + value + SMALL[at + len(value) :]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (_edited_directory(42, struct.pack("<L", len(SMALL))), DamageKind.CORRUPT),
        (_edited_directory(20, struct.pack("<LL", 10**6, 10**6)), DamageKind.CORRUPT),
        (_edited_directory(8, b"\x01\x00"), DamageKind.UNSUPPORTED),
        (_edited_directory(28, b"\xff\xff"), DamageKind.CORRUPT),
        (_edited_directory(0, b"XX"), DamageKind.CORRUPT),
        (_edited_directory(24, b"\xff\xff\xff\xff"), DamageKind.CORRUPT),
    ],
    ids=["offset-behind", "size-over-directory", "encrypted", "name-too-long", "magic", "zip64-without-size"],
)
def test_a_directory_that_lies_is_refused(small: Path, data: bytes, kind: DamageKind) -> None:
    small.write_bytes(data)
    assert damage_of(small) is kind


def _with_entries(*entries: int) -> bytes:
    """The small file with the directory entries of those numbers, in that order."""
    start, end = SMALL.index(b"PK\x01\x02"), SMALL.index(b"PK\x05\x06")
    found = [b"PK\x01\x02" + entry for entry in SMALL[start:end].split(b"PK\x01\x02")[1:]]
    directory = b"".join(found[number] for number in entries)
    record = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), start, 0
    )
    return SMALL[:start] + directory + record


def test_entries_can_be_rearranged(small: Path) -> None:
    small.write_bytes(_with_entries(2, 0, 1))
    assert read(small).keys() == {"data.pkl", "data/0", "version"}


def test_two_members_of_one_name_are_refused(small: Path) -> None:
    small.write_bytes(_with_entries(0, 1, 1, 2))
    with pytest.raises(FormatError, match="two of its members have the same name"):
        read(small)


def test_members_that_overlap_are_refused(small: Path) -> None:
    """A small file could ask for terabytes of reading."""
    with zipfile.ZipFile(small, "w") as archive:
        archive.writestr("archive/data/0", bytes(1000))
        for number in range(1, 1000):
            info = archive.filelist[0]
            archive.filelist.append(zipfile.ZipInfo(f"archive/data/{number}"))
            for field in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(archive.filelist[-1], field, getattr(info, field))
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(FormatError, match="more bytes than the archive"):
        read(small)


def _end_record(count: int, size: int, start: int) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        at = data.rindex(b"PK\x05\x06")
        return data[: at + 8] + struct.pack("<HHLLH", count, count, size, start, 0)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        _end_record(5000, 200, 10),
        _end_record(3, 10**6, 0),
        _end_record(3, 1, 10**9),
        _end_record(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        _end_record(3, 10, len(SMALL) - 40),
    ],
    ids=["too-many", "too-large", "behind", "zip64-without-locator", "too-short"],
)
def test_an_end_record_that_lies_is_refused(small: Path, edit: Callable[[bytes], bytes]) -> None:
    small.write_bytes(edit(SMALL))
    assert damage_of(small) in (DamageKind.CORRUPT, DamageKind.TRUNCATED)


def test_a_zip64_archive_is_read_like_any_other(tmp_path: Path) -> None:
    """torch writes 64-bit records where an archive needs them; here every field is made to need them."""
    path = tmp_path / "large.bin"
    path.write_bytes(_as_zip64(SMALL))
    expected = tmp_path / "small.bin"
    expected.write_bytes(SMALL)
    assert read(path) == read(expected)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("archive/data.pkl") == PICKLE


def _as_zip64(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos, start = archive.infolist(), archive.start_dir
    directory = b""
    for info in infos:
        name = info.filename.encode()
        extra = struct.pack("<HHQQQ", 1, 24, info.file_size, info.compress_size, info.header_offset)
        full = 0xFFFFFFFF
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, info.CRC, full, full, len(name), len(extra),
            0, 0, 0, 0, full,
        )  # fmt: skip
        directory += name + extra
    count, size = len(infos), len(directory)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:start] + directory + record + locator + end


def test_a_comment_behind_the_end_record_changes_nothing(small: Path) -> None:
    before = read(small)
    with zipfile.ZipFile(small, "a") as archive:
        archive.comment = b"kept by a friend"
    assert read(small) == before


@given(st.binary(max_size=400), st.integers(0, len(SMALL)))
def test_random_bytes_raise_nothing_but_format_errors(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.bin"
    for data in (noise, SMALL[:at] + noise, SMALL[:at] + noise + SMALL[at + len(noise) :], noise + SMALL):
        path.write_bytes(data)
        # Any other exception fails the test by itself.
        with contextlib.suppress(FormatError):
            read(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "folder", "dangling", "missing"):
        with pytest.raises(FormatError) as caught:
            FileReader(tmp_path / name)
        assert caught.value.kind is DamageKind.UNREADABLE


def test_a_pickle_larger_than_any_real_one_is_not_read(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkpoint_core.formats.torch_zip._MAX_PICKLE_BYTES", len(PICKLE) - 1)
    with FileReader(small) as reader:
        archive = TorchZip(reader)
        with pytest.raises(FormatError) as caught:
            assert archive.pickle_bytes
    assert caught.value.kind is DamageKind.UNSUPPORTED


def test_no_flipped_byte_over_which_torch_stumbles_is_taken_for_whole(tmp_path: Path) -> None:
    """Every byte of a real file, flipped: where torch fails or reads another thing, so do we or we say so."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "scheduler.bin"
    schedule = {"base_lrs": [8e-4], "last_epoch": 16, "_last_lr": [8e-4], "lr_lambdas": [None]}
    torch.save(schedule, path)
    whole, missed = path.read_bytes(), []
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        if not is_refused(path) and not is_read_as(torch, path, schedule):
            missed.append(at)
    assert missed == []


def is_refused(path: Path) -> bool:
    try:
        with FileReader(path) as reader:
            archive = TorchZip(reader)
            archive.verify_all()
            describe(archive.pickle_bytes)
    except FormatError:
        return True
    return False


def is_read_as(torch: Any, path: Path, value: object) -> bool:
    try:
        return bool(torch.load(path, weights_only=True) == value)
    except Exception:  # noqa: BLE001 - whatever torch raises, it did not read it
        return False
