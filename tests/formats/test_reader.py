from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint_core.formats.pickles import describe
from checkpoint_core.formats.reader import SMALL_FILE_BYTES, DamageKind, FileReader, FormatError
from checkpoint_core.formats.torch_zip import TorchZip
from tests.builders import torch_file


@pytest.fixture(params=[1000, SMALL_FILE_BYTES + 1000], ids=["small", "large"])
def numbers(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of as many bytes, 0 to 250 over and over."""
    path = tmp_path / "numbers.bin"
    path.write_bytes((bytes(range(251)) * (request.param // 251 + 1))[: request.param])
    return path


@pytest.mark.parametrize(("offset", "length"), [(0, 8), (300, 500), (0, 0), (999, 1), (1000, 0)])
def test_exactly_the_bytes_that_are_asked_for(numbers: Path, offset: int, length: int) -> None:
    with FileReader(numbers) as reader:
        assert reader.size == numbers.stat().st_size
        assert reader.at(offset, length) == numbers.read_bytes()[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (1, 0), (-(10**6), 5), (-(10**9), 8), (10**15, 1)])
def test_bytes_behind_the_end_are_missing(numbers: Path, offset: int, length: int) -> None:
    with FileReader(numbers) as reader, pytest.raises(FormatError) as caught:
        reader.at(reader.size + offset, length)
    assert caught.value.kind is DamageKind.TRUNCATED


def test_a_large_file_that_shrinks_while_it_is_read_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "shrinking.bin"
    path.write_bytes(bytes(SMALL_FILE_BYTES + 1))
    with FileReader(path) as reader:
        os.truncate(path, 100)
        with pytest.raises(FormatError, match="became shorter") as caught:
            reader.at(0, 200)
    assert caught.value.kind is DamageKind.TRUNCATED


def test_a_small_file_is_read_once_and_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "small.bin"
    path.write_bytes(b"as it was")
    with FileReader(path) as reader:
        path.write_bytes(b"as it is now, which is longer")
        assert reader.at(0, reader.size) == b"as it was"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_bytes(b"x")
    with pytest.raises(FormatError):
        FileReader(tmp_path / "empty")
    with pytest.raises(FormatError):
        FileReader(tmp_path)
    with FileReader(tmp_path / "full") as reader:
        reader.at(0, 1)
    reader.close()
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_describing_a_torch_file_reads_none_of_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storages = {str(number): bytes(1_000_000) for number in range(5)}
    path = tmp_path / "optimizer.bin"
    path.write_bytes(torch_file(b"\x80\x02}.", storages))
    asked: list[int] = []
    read = FileReader._read

    def counted(reader: FileReader, offset: int, length: int) -> bytes:
        asked.append(length)
        return read(reader, offset, length)

    monkeypatch.setattr(FileReader, "_read", counted)
    with FileReader(path) as reader:
        archive = TorchZip(reader)
        archive.verify_records()
        describe(archive.pickle_bytes)
    assert len(archive.members) == 7
    assert sum(asked) < 70_000
