"""Headers of pixel shards."""

from __future__ import annotations

import tarfile

import pytest

from hqvox.workspace.shards import ERASED, blank_header, member_header


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("0123456789abcdef" * 4, 83_000),
        ("x", 0),
        ("x" * 100, 8**11 - 1),
        ("é", 5),
    ],
)
def test_a_header_is_the_one_that_tarfile_writes(name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    header = member_header(name, size)
    assert header == member.tobuf(tarfile.USTAR_FORMAT)
    read = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert (read.name, read.size) == (name, size)


def test_a_member_that_does_not_fit_is_refused_as_tarfile_does() -> None:
    with pytest.raises(ValueError, match="overflow"):
        member_header("x", 8**11)
    with pytest.raises(ValueError, match="too long"):
        member_header("x" * 101, 1)


def test_an_erased_member_has_a_header_without_its_name() -> None:
    assert tarfile.TarInfo.frombuf(blank_header(7), "ascii", "strict").name == ERASED
