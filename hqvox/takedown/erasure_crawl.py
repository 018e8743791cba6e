"""Erasing what crawls leave beside the stages: attempts, answers of sources, shards cut short."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from hqvox.runner.crawl.spool import erase_spool, spool_folder
from hqvox.takedown.erasure import blank_header
from hqvox.workspace.layout import Workspace
from hqvox.workspace.parquet import read_parquet
from hqvox.workspace.storage import Storage, disk_error
from hqvox.workspace.tombstones import Tombstones

ATTEMPTS_FOLDER = "attempts"
ANSWERS_FOLDER = "discover"
URLS_INDEX = "urls"
"""Below the answers: an index of the user's own file, made again from it when it is needed."""

Covers = Callable[[str | None], bool]


def erase_crawls(
    workspace: Workspace,
    stones: Tombstones,
    addresses: set[str],
    identities: Iterable[tuple[str, str]],
) -> None:
    """Erase what the tombstones cover, ``addresses`` of photographs that go, and ``identities``.

    ``identities``: shard and id of those that go. Raises HqvoxError where the disk refuses.
    """
    gone = list(identities)

    def covers(url: str | None) -> bool:
        return url in addresses or stones.covers_url(url)

    _erase_attempts(workspace, covers)
    _erase_answers(workspace, covers, gone)
    for shard in sorted({shard for shard, _ in gone}):
        # The journal does not say whose a url is.
        erase_spool(workspace, shard)
    _erase_spools(workspace, stones, covers)


def _erase_attempts(workspace: Workspace, covers: Covers) -> None:
    storage = workspace.storage
    for leaf in storage.names(ATTEMPTS_FOLDER):
        name = f"{ATTEMPTS_FOLDER}/{leaf}"
        try:
            with storage.open(name) as file:
                table = read_parquet(file)
        except (OSError, pa.ArrowException):  # damaged: what it holds cannot be known
            storage.remove(name)
            continue
        pairs = zip(table["url"].to_pylist(), table["final_url"].to_pylist(), strict=True)
        keep = [not (covers(url) or covers(final)) for url, final in pairs]
        if not all(keep):
            with storage.writing(name) as file:
                pq.write_table(table.filter(pa.array(keep, pa.bool_())), file, compression="zstd")


def _erase_answers(workspace: Workspace, covers: Covers, gone: list[tuple[str, str]]) -> None:
    storage = workspace.storage
    for source in storage.names(ANSWERS_FOLDER):
        folder = f"{ANSWERS_FOLDER}/{source}"
        if source == URLS_INDEX:
            storage.remove_leftovers(folder)
            for leaf in storage.names(folder):
                storage.remove(f"{folder}/{leaf}")
            continue
        for shard, identity_id in gone:
            leaf = quote(identity_id, safe=" ") or "_"
            storage.remove(f"{folder}/{shard}/{leaf}.jsonl")
        for shard in storage.names(folder):
            if shard.endswith(".json"):
                continue  # the quota: counts only
            storage.remove_leftovers(f"{folder}/{shard}")
            for leaf in storage.names(f"{folder}/{shard}"):
                _erase_pages(workspace, f"{folder}/{shard}/{leaf}", covers)


def _erase_pages(workspace: Workspace, name: str, covers: Covers) -> None:
    """Take candidates out of a source's answers; the pages stay, and are not asked for again."""
    lines = workspace.storage.read(name).decode("utf-8", "replace").split("\n")
    kept = []
    for line in lines:
        try:
            page = json.loads(line)
            found = page["candidates"]
            page["candidates"] = [
                c for c in found if not (covers(c.get("url")) or covers(c.get("page_url")))
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # nobody reads such a line
        changed = len(page["candidates"]) < len(found)
        kept.append(json.dumps(page, ensure_ascii=False) if changed else line)
    if kept != [line for line in lines if line]:
        text = "\n".join([*kept, ""])
        workspace.storage.write(name, text.encode("utf-8", "replace"))


def _erase_spools(workspace: Workspace, stones: Tombstones, covers: Covers) -> None:
    """Take photographs out of shards whose crawl was cut short; the rest need not be fetched."""
    spools = Storage(spool_folder(workspace))
    spools.remove_leftovers("")
    for leaf in spools.names(""):
        shard, _, ending = leaf.rpartition(".")
        if ending != "jsonl":
            continue
        try:
            whole = _erase_spool(spools, shard, stones, covers)
        except (ValueError, KeyError, TypeError):  # damaged: what it holds cannot be known
            whole = False
        except OSError as error:
            raise disk_error(error, spools.path(leaf)) from error
        if not whole:
            erase_spool(workspace, shard)


def _erase_spool(spools: Storage, shard: str, stones: Tombstones, covers: Covers) -> bool:
    """Returns whether nothing that is covered is left; else the spool must go as a whole."""
    lines = spools.read(f"{shard}.jsonl").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    entries = [json.loads(line) for line in whole]
    going = [_is_covered(entry, stones, covers) for entry in entries]
    if not any(going):
        return True
    if not spools.exists(f"{shard}.tar"):
        return False  # killed between the tar's commit and the end of the journal
    kept = {_place(entry) for entry, goes in zip(entries, going, strict=True) if not goes}
    doomed = {_place(entry) for entry, goes in zip(entries, going, strict=True) if goes}
    with open(spools.path(f"{shard}.tar"), "r+b", buffering=0) as file:
        for offset, size in sorted(place for place in doomed - kept if place is not None):
            os.pwrite(file.fileno(), blank_header(size), offset - tarfile.BLOCKSIZE)
            _overwrite(file.fileno(), offset, size)
        os.fsync(file.fileno())
    left = (line for line, goes in zip(whole, going, strict=True) if not goes)
    spools.write(f"{shard}.jsonl", b"".join(left))
    return True


def _is_covered(entry: dict[str, Any], stones: Tombstones, covers: Covers) -> bool:
    row = entry["row"] or {}
    addresses = [entry["url"], row.get("requested_url"), row.get("final_url")]
    addresses += [attempt["final_url"] for attempt in entry["attempts"]]
    return stones.covers_photo(row.get("photo_id")) or any(map(covers, addresses))


def _place(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Offset and size of the entry's photo in the tar."""
    row = entry["row"] or {}
    return None if row.get("photo_offset") is None else (row["photo_offset"], row["photo_bytes"])


def _overwrite(handle: int, offset: int, size: int) -> None:
    left = size
    while left:
        left -= os.pwrite(handle, bytes(min(left, 1 << 22)), offset + size - left)
