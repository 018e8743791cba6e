"""The spool of a shard: what a crawl has fetched of it before the shard is committed.

Each photo is appended to ``crawl/<shard>.tar`` as it arrives; then a line about its url is appended
to the journal ``crawl/<shard>.jsonl``. Both are written without buffering, so a killed crawl loses
only the photos in flight. They are not flushed to disk one by one, which would cost more than
fetching. After a power failure the last seconds may therefore be missing on disk, so the next crawl
checks each photo against its hash and drops those that do not match.

At the commit, the tar is finished, flushed and renamed to its place. The journal stays until the
table is written too, so every fetched photo has a record at every moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hqvox.workspace.covered import Covered, Owner
from hqvox.workspace.layout import Workspace
from hqvox.workspace.shards import blank_header, member_header
from hqvox.workspace.storage import Storage, disk_error
from hqvox.workspace.tables import Row

FOLDER = "crawl"
_encode = json.JSONEncoder(default=datetime.isoformat).encode
_TIMES = ("time", "retrieved_at")


class Spool:
    """The spool of one shard. Opening it replays the journal's valid records.

    Where the workspace is on object storage, it lies in the user's cache folder of this machine.
    """

    def __init__(
        self, workspace: Workspace, shard: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        """``settings``: of the download, which decide what is kept; stored in a new journal.

        Raises HqvoxError where the disk refuses.
        """
        self.storage = workspace.storage
        self.settings = dict(settings or {})
        """Those under which the journal was begun."""
        self.rows: dict[str, Row] = {}
        """Download columns and ``reason`` of the journal's rows, by url."""
        self.requested: set[str] = set()
        """Urls requested since the shard's last commit, whatever the outcome."""
        self.attempts: list[Row] = []
        self._table = workspace.table_name("download", shard)
        self._target = workspace.tar_name("download", shard)
        folder = spool_folder(workspace)
        self._tar_path = folder / f"{shard}.tar"
        self._journal_path = folder / f"{shard}.jsonl"
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._recover()
            mode = "r+b" if self._tar_path.exists() else "w+b"
            self._tar = open(self._tar_path, mode, buffering=0)  # noqa: SIM115 - closed by close
            self._journal = open(self._journal_path, "ab", buffering=0)  # noqa: SIM115 - likewise
            self._read_journal()
            self._tar.truncate(self._end)
        except OSError as error:
            raise disk_error(error, str(error.filename or folder)) from error

    def _recover(self) -> None:
        """Make tar and journal a pair again, wherever the last crawl was interrupted."""
        if not self._journal_path.exists():
            self._tar_path.unlink(missing_ok=True)
        elif not self._tar_path.exists():
            committed = Path(self.storage.path(self._target))
            interrupted = self.storage.local and not self.storage.exists(self._table)
            if interrupted and committed.exists():
                os.replace(committed, self._tar_path)  # between the tar's commit and the table's
            else:
                self._journal_path.unlink()

    def _read_journal(self) -> None:
        """Replay the journal's valid records; drop the rest from the first invalid one on."""
        valid_bytes = 0
        with open(self._journal_path, "rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line, object_hook=_with_times)
                    if not valid_bytes:
                        self.settings = dict(entry["settings"])
                        valid_bytes = len(line)
                        continue
                    url, row, attempts = entry["url"], entry["row"], entry["attempts"]
                except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
                    break
                dropped = row is not None and self._is_dropped(row)
                valid = row is None or dropped or self._has_photo(row)
                if not line.endswith(b"\n") or not valid:
                    break
                valid_bytes += len(line)
                if dropped:
                    continue
                self._remember(url, row, attempts, entry["asked"])
        self._journal.truncate(valid_bytes)
        if not valid_bytes:
            # The first line has the same keys as the others, so that readers need one form only.
            nothing: Row = {"url": "", "pages": [], "row": None, "attempts": [], "asked": False}
            self._write_line({**nothing, "settings": self.settings})

    def _has_photo(self, row: Row) -> bool:
        """Whether the row has no photo, or the tar has it."""
        offset, size, name = row["photo_offset"], row["photo_bytes"], row["photo_id"]
        if offset is None or self._places.get(name) == (offset, size):
            return True
        self._tar.seek(offset)
        if hashlib.sha256(self._tar.read(size)).hexdigest() != name:
            return False
        self._places[name] = (offset, size)
        self._end = max(self._end, offset + _padded(size))
        return True

    def _is_dropped(self, row: Row) -> bool:
        """Whether an interrupted commit overwrote the row's photo; finishes overwriting it."""
        offset, size = row["photo_offset"], row["photo_bytes"]
        if offset is None:
            return False
        self._tar.seek(offset - tarfile.BLOCKSIZE)
        if self._tar.read(tarfile.BLOCKSIZE) != blank_header(size):
            return False
        _blank(self._tar.fileno(), [(offset, size)])
        self._end = max(self._end, offset + _padded(size))
        return True

    def store(self, name: str, data: bytes) -> tuple[int, int]:
        """Append a photo under its hash, once; return its offset and size. Raises OSError."""
        if name not in self._places:
            header = member_header(name, len(data))
            self._tar.seek(self._end)
            padding = bytes(_padded(len(data)) - len(data))
            _write_all(self._tar.fileno(), (header, data, padding))
            self._places[name] = (self._end + len(header), len(data))
            self._end += len(header) + len(data) + len(padding)
        return self._places[name]

    def note(
        self,
        url: str,
        row: Row | None,
        attempts: Sequence[Row],
        requested: bool = True,
        pages: Iterable[str] = (),
    ) -> None:
        """Append a record of a url to the journal, after its photo is stored. Raises OSError.

        ``row``: None where the row known before still holds. ``requested``: false where the row is
        copied from the committed table. ``pages``: that show the photo, so that a takedown of the
        page finds it.
        """
        self._remember(url, row, attempts, requested)
        entry = {"url": url, "pages": sorted(pages), "row": row, "attempts": list(attempts)}
        self._write_line({**entry, "asked": requested})

    def _write_line(self, entry: Mapping[str, Any]) -> None:
        line = _encode(entry) + "\n"
        _write_all(self._journal.fileno(), (line.encode(),))

    def _remember(
        self, url: str, row: Row | None, attempts: Sequence[Row], requested: bool
    ) -> None:
        if row is not None:
            self.rows[url] = row
        if requested:
            self.requested.add(url)
        self.attempts += attempts

    def commit_tar(self, kept: Collection[tuple[int, int]]) -> None:
        """Finish the tar and rename it to its place; the journal stays until :meth:`remove`.

        ``kept``: offset and size of the photos that the table points to. The others are
        overwritten: they were taken down after they were fetched, or are no candidates any more.
        Raises HqvoxError where the disk refuses.
        """
        try:
            _blank(self._tar.fileno(), set(self._places.values()).difference(kept))
            self._tar.seek(self._end)
            end = self._end + 2 * tarfile.BLOCKSIZE
            trailer = end + (-end) % tarfile.RECORDSIZE - self._end
            _write_all(self._tar.fileno(), (bytes(trailer),))
            os.fsync(self._tar.fileno())
            if self.storage.local:
                target = Path(self.storage.path(self._target))
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self._tar_path, target)
                _sync_folder(target.parent)
            else:
                self.storage.fs.put_file(str(self._tar_path), self.storage.path(self._target))
        except OSError as error:
            raise disk_error(error, str(self._tar_path)) from error

    def close(self) -> None:
        """Close the files; they stay for the next crawl."""
        self._tar.close()
        self._journal.close()

    def remove(self) -> None:
        """Close and delete the files: the shard is committed, or needs no commit."""
        self.close()
        self._journal_path.unlink(missing_ok=True)
        self._tar_path.unlink(missing_ok=True)


def spool_folder(workspace: Workspace) -> Path:
    """Folder of a workspace's spools."""
    return crawl_folder(workspace, FOLDER)


def crawl_folder(workspace: Workspace, name: str) -> Path:
    """A folder of this machine for what a crawl appends to: object storage cannot append."""
    storage = workspace.storage
    if storage.local:
        return Path(storage.path(name))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "hqvox" / name / hashlib.sha256(storage.url.encode()).hexdigest()[:16]


def has_spool(workspace: Workspace, shard: str) -> bool:
    """Whether a crawl of the shard was interrupted."""
    return (spool_folder(workspace) / f"{shard}.jsonl").exists()


def remove_spool(workspace: Workspace, shard: str) -> None:
    """Remove what an interrupted crawl left of a shard, wherever it was interrupted.

    Raises HqvoxError where the disk refuses.
    """
    folder = spool_folder(workspace)
    journal = folder / f"{shard}.jsonl"
    try:
        if journal.exists() and workspace.committed("download", shard) is None:
            workspace.storage.remove(workspace.tar_name("download", shard))
        (folder / f"{shard}.tar").unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, str(folder)) from error


def spooled_rows(workspace: Workspace) -> Iterator[Row]:
    """What interrupted crawls have fetched: a row for each page that shows a photo.

    Keys: ``photo_id``, ``photo_offset`` and the addresses; ``identity_id`` is null, for the journal
    does not name it. Damaged lines are left out.
    """
    spools = Storage(spool_folder(workspace))
    for leaf in spools.names(""):
        for line in spools.read(leaf).splitlines() if leaf.endswith(".jsonl") else ():
            try:
                entry = json.loads(line)
                row, pages = entry["row"] or {}, entry["pages"]
            except (ValueError, KeyError, TypeError):
                continue
            names = ("photo_id", "photo_offset", "requested_url", "final_url")
            known = {name: row.get(name) for name in names}
            for page in pages or [None]:
                yield {**known, "identity_id": None, "url": entry["url"], "page_url": page}


def erase_spools(covered: Covered) -> None:
    """Erase covered photographs from interrupted crawls; the others need no new request.

    The spool of a shard that loses an identity goes as a whole: the journal does not say whose
    a url is. Raises HqvoxError if the disk fails.
    """
    workspace = covered.workspace
    for shard in sorted({shard for shard, _ in covered.identities}):
        remove_spool(workspace, shard)
    spools = Storage(spool_folder(workspace))
    spools.remove_leftovers("")
    for leaf in spools.names(""):
        shard, _, ending = leaf.rpartition(".")
        if ending != "jsonl":
            if not has_spool(workspace, shard):
                spools.remove(leaf)  # a tar that the next crawl would begin again
            continue
        try:
            whole = _erase_spool(spools, shard, covered)
        except (ValueError, KeyError, TypeError):  # damaged: what it holds cannot be known
            whole = False
        except OSError as error:
            raise disk_error(error, spools.path(leaf)) from error
        if not whole:
            remove_spool(workspace, shard)


SPOOLS = Owner("interrupted crawls", (f"{FOLDER}/*.jsonl", f"{FOLDER}/*.tar"), erase_spools)


def _erase_spool(spools: Storage, shard: str, covered: Covered) -> bool:
    """Returns whether nothing that is covered is left; else the spool must go as a whole."""
    lines = spools.read(f"{shard}.jsonl").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    entries = [json.loads(line) for line in whole]
    going = [_is_covered(entry, covered) for entry in entries]
    if not spools.exists(f"{shard}.tar"):
        return not any(going)  # killed between the tar's commit and the end of the journal
    places = [_place(entry) for entry in entries]
    kept = {place for place, goes in zip(places, going, strict=True) if not goes}
    with open(spools.path(f"{shard}.tar"), "r+b", buffering=0) as file:
        # What lies after the last photo of the journal is not known, and the next crawl drops it.
        file.truncate(max((place[0] + _padded(place[1]) for place in places if place), default=0))
        _blank(file.fileno(), {place for place in places if place} - kept)
        os.fsync(file.fileno())
    left = [line for line, goes in zip(whole, going, strict=True) if not goes]
    if left != lines:
        spools.write(f"{shard}.jsonl", b"".join(left))
    return True


def _is_covered(entry: dict[str, Any], covered: Covered) -> bool:
    row = entry["row"] or {}
    addresses = [entry["url"], row.get("requested_url"), row.get("final_url")]
    addresses += [attempt["final_url"] for attempt in entry["attempts"]]
    addresses += entry["pages"]  # not in journals of old versions: those go as a whole
    return covered.takedowns.covers_photo(row.get("photo_id")) or any(
        map(covered.address, addresses)
    )


def _place(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Offset and size of the entry's photo in the tar."""
    row = entry["row"] or {}
    return None if row.get("photo_offset") is None else (row["photo_offset"], row["photo_bytes"])


def _blank(handle: int, places: Iterable[tuple[int, int]]) -> None:
    """Overwrite members of a tar, by offset and size, with zeros, and their headers."""
    for offset, size in sorted(places):
        os.pwrite(handle, blank_header(size), offset - tarfile.BLOCKSIZE)
        left = size
        while left:
            left -= os.pwrite(handle, bytes(min(left, 1 << 22)), offset + size - left)


def _with_times(record: dict[str, Any]) -> dict[str, Any]:
    for name in _TIMES:
        if isinstance(record.get(name), str):
            record[name] = datetime.fromisoformat(record[name])
    return record


def _padded(size: int) -> int:
    return size + (-size) % tarfile.BLOCKSIZE


def _write_all(handle: int, parts: Sequence[bytes]) -> None:
    left = [memoryview(part) for part in parts if part]
    while left:
        written = os.writev(handle, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
