"""Pixel shards: plain tar files whose members are read by offset and size, without an index.

The table of the stage holds offset and size of every member, so reading one costs one seek; any
tar program reads the files too. Members carry no time or owner: same members, same bytes.
"""

from __future__ import annotations

import io
import tarfile

from hqvox.workspace.storage import PendingFile, Storage

ERASED = "taken-down"
"""Name of a member whose bytes were erased."""


class ShardWriter:
    """Appends members to a tar that appears under its name on :meth:`commit`."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._pending: PendingFile = storage.begin(name)
        self._tar = tarfile.open(  # noqa: SIM115 - closed by commit
            fileobj=self._pending.file, mode="w", format=tarfile.USTAR_FORMAT
        )
        self._members: dict[str, tuple[int, int]] = {}

    def add(self, name: str, data: bytes) -> tuple[int, int]:
        """Append one member (ASCII name up to 100 characters); return its offset and size.

        A name that was added before is not stored again: names are made from content hashes.
        """
        if name not in self._members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            offset = self._tar.offset + tarfile.BLOCKSIZE
            self._tar.addfile(info, io.BytesIO(data))
            self._members[name] = (offset, len(data))
        return self._members[name]

    def read(self, offset: int, size: int) -> bytes:
        """Read back a member that was just added."""
        file = self._pending.file
        end = file.tell()
        file.seek(offset)
        data = file.read(size)
        file.seek(end)
        return data

    def commit(self) -> None:
        """Finish the tar and give it its name."""
        self._tar.close()
        self._pending.commit()

    def discard(self) -> None:
        """Drop what was not committed."""
        self._pending.discard()


class ShardReader:
    """Reads members of a committed tar by offset; keeps the file open."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._file = storage.fs.open(storage.path(name), "rb")

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of one member."""
        self._file.seek(offset)
        return bytes(self._file.read(size))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def member_header(name: str, size: int) -> bytes:
    """Tar header of a member (ASCII name up to 100 characters), as :mod:`tarfile` writes it.

    Only name, size and checksum differ, so they are set in a header that was made once.
    """
    if size >= 8**11 or len(name) > 100 or not name.isascii():
        return _header(name, size)
    header = bytearray(_EMPTY_HEADER)
    header[: len(name)] = name.encode()
    header[_SIZE] = b"%011o" % size
    header[_CHECKSUM] = b"%06o\0" % sum(header)
    return bytes(header)


def blank_header(size: int) -> bytes:
    """Tar header of an erased member; the one it replaces named the photo by its hash."""
    return member_header(ERASED, size)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


_SIZE, _CHECKSUM = slice(124, 135), slice(148, 155)
"""Octal numbers of a header (POSIX.1-1988, ustar)."""
_EMPTY_HEADER = bytearray(_header("", 0))
_EMPTY_HEADER[148:156] = b" " * 8  # the checksum counts its field as spaces
