"""What a crawl has of a shard before the shard is committed: a growing tar and its journal.

``crawl/<shard>.tar`` takes each photo as it arrives; ``crawl/<shard>.jsonl`` then takes a line with
what is known of its url. Both are written without buffering, so a killed crawl loses the photos in
flight and no more. They are not flushed to disk one by one, which would cost more than fetching:
after a power failure the kernel may not have written the last seconds, so whoever goes on checks
each photo against its hash and drops what does not hold.

When the shard is committed, the tar is finished, flushed and renamed to its place, and the journal
stays until the table is there too. So at no moment is a photo that was fetched without a record.
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
from hqvox.workspace.shards import blank_header
from hqvox.workspace.storage import Storage, disk_error
from hqvox.workspace.tables import Row

FOLDER = "crawl"
_TIMES = ("time", "retrieved_at")


class Spool:
    """The spool of one shard. What is in it already is checked and kept on opening.

    On object storage it lies in the user's cache folder of this machine.
    """

    def __init__(
        self, workspace: Workspace, shard: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        """``settings``: that decide what is kept; noted with a new journal.

        Raises HqvoxError where the disk refuses.
        """
        self.storage = workspace.storage
        self.settings = dict(settings or {})
        """Those under which the journal was begun."""
        self.found: dict[str, Row] = {}
        """By url: the download columns and ``reason`` of what the journal holds."""
        self.asked: set[str] = set()
        """Urls that were asked for since the shard was committed last, whatever came of it."""
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
            self._find()
            mode = "r+b" if self._tar_path.exists() else "w+b"
            self._tar = open(self._tar_path, mode, buffering=0)  # noqa: SIM115 - closed by close
            self._journal = open(self._journal_path, "ab", buffering=0)  # noqa: SIM115 - likewise
            self._read_journal()
            self._tar.truncate(self._end)
        except OSError as error:
            raise disk_error(error, str(error.filename or folder)) from error

    def _find(self) -> None:
        """Bring tar and journal together, wherever a kill left them."""
        if not self._journal_path.exists():
            self._tar_path.unlink(missing_ok=True)
        elif not self._tar_path.exists():
            committed = Path(self.storage.path(self._target))
            cut_short = self.storage.local and not self.storage.exists(self._table)
            if cut_short and committed.exists():
                os.replace(committed, self._tar_path)  # between the tar's commit and the table's
            else:
                self._journal_path.unlink()

    def _read_journal(self) -> None:
        """Replay the journal's whole lines whose photo the tar holds."""
        good = 0
        with open(self._journal_path, "rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line, object_hook=_with_times)
                    if not good:
                        self.settings = dict(entry["settings"])
                        good = len(line)
                        continue
                    url, row, attempts = entry["url"], entry["row"], entry["attempts"]
                except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
                    break
                dropped = row is not None and self._is_dropped(row)
                if not line.endswith(b"\n") or not (row is None or dropped or self._holds(row)):
                    break
                good += len(line)
                if dropped:
                    continue
                self._know(url, row, attempts, entry["asked"])
        self._journal.truncate(good)
        if not good:
            # A line like the others, so that whoever reads them need know but one form.
            nothing: Row = {"url": "", "pages": [], "row": None, "attempts": [], "asked": False}
            self._write_line({**nothing, "settings": self.settings})

    def _holds(self, row: Row) -> bool:
        """Whether the tar has the row's photo."""
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
        """Whether the row's photo was overwritten, in a commit that was cut short; ends that."""
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
            info = tarfile.TarInfo(name)
            info.size = len(data)
            header = info.tobuf(tarfile.USTAR_FORMAT)
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
        asked: bool = True,
        pages: Iterable[str] = (),
    ) -> None:
        """Write down what is known of a url, after its photo is stored. Raises OSError.

        ``row``: null where what was known before still holds. ``asked``: whether it was asked for,
        rather than copied from what is committed. ``pages``: that show the photo, so that their
        takedown finds it.
        """
        self._know(url, row, attempts, asked)
        entry = {"url": url, "pages": sorted(pages), "row": row, "attempts": list(attempts)}
        self._write_line({**entry, "asked": asked})

    def _write_line(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, default=datetime.isoformat) + "\n"
        _write_all(self._journal.fileno(), (line.encode(),))

    def _know(self, url: str, row: Row | None, attempts: Sequence[Row], asked: bool) -> None:
        if row is not None:
            self.found[url] = row
        if asked:
            self.asked.add(url)
        self.attempts += attempts

    def commit_tar(self, kept: Collection[tuple[int, int]]) -> None:
        """Finish the tar and give it its place; the journal stays until :meth:`done`.

        ``kept``: offset and size of the photos that the table points to. The others are
        overwritten: they were taken down since they came, or are no candidates any more. Raises
        HqvoxError where the disk refuses.
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
        """Close the files; what is in them stays for the next crawl."""
        self._tar.close()
        self._journal.close()

    def done(self) -> None:
        """Close and remove: the shard is committed, or keeps what it had."""
        self.close()
        self._journal_path.unlink(missing_ok=True)
        self._tar_path.unlink(missing_ok=True)


def spool_folder(workspace: Workspace) -> Path:
    """Where the spools of a workspace lie."""
    storage = workspace.storage
    if storage.local:
        return Path(storage.path(FOLDER))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "hqvox" / FOLDER / hashlib.sha256(storage.url.encode()).hexdigest()[:16]


def has_spool(workspace: Workspace, shard: str) -> bool:
    """Whether a crawl of the shard was cut short."""
    return (spool_folder(workspace) / f"{shard}.jsonl").exists()


def remove_spool(workspace: Workspace, shard: str) -> None:
    """Remove what a crawl cut short left of a shard, wherever it was cut.

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
    """What crawls that were cut short have fetched: a row for each page that shows a photo.

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
    """Erase covered photographs from crawls that were cut short; the others need no new request.

    The spool of a shard that loses an identity goes as a whole: the journal does not say to whom a
    url belongs. Raises HqvoxError where the disk refuses.
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


SPOOLS = Owner("crawls cut short", (f"{FOLDER}/*.jsonl", f"{FOLDER}/*.tar"), erase_spools)


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
