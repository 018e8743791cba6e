"""`hqvox release verify`: whether a release is whole, consistent and leak-free.

Nothing in a release is trusted: names are checked before they are opened, sizes before pictures
are decoded, and every damage is one line that names the file and what to do.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hqvox.errors import HqvoxError
from hqvox.release.leaks import KEEP_LEAKS, Prints, find_leaks
from hqvox.release.licences import LICENCES_FILE
from hqvox.release.manifest import IDENTITIES, MANIFEST
from hqvox.release.read import Release
from hqvox.release.speech import INDEX, SPEECH, STATS
from hqvox.release.split import PARTS, split_file
from hqvox.release.target import CHECKSUMS, FORMAT, INFO
from hqvox.release.verify_content import check_eyes, check_speech, check_statistics, inspect_files
from hqvox.release.verify_files import (
    check_names,
    listed_sums,
    other_pictures,
    present_files,
    unclaimed,
)
from hqvox.workspace.tables import Row

DOCUMENTS = ("manifest.parquet", "identities.parquet", "split.json", LICENCES_FILE, "DATASHEET.md")
"""Files that every release has, apart from its pictures."""
SPEECH_FILES = (INDEX, STATS)
_NEVER_NULL = {
    "manifest.parquet": ("identity_id", "split", "masked_file", "origin_file", "crop_side_px"),
    "identities.parquet": ("identity_id", "split", "subset_folder", "folder", "images"),
    INDEX: SPEECH.names,
}
AGAIN = "restore it from a whole copy, or release anew"

OnProgress = Callable[[int, int], None]
"""Told the files read and the files in all."""


@dataclass
class Check:
    """One thing that was checked."""

    name: str
    what: str = ""
    """What was looked at, for the table."""
    failures: list[str] = field(default_factory=list)
    """One line each: file, what is wrong with it, remedy."""
    impossible: str = ""
    """Why it could not be checked; then it has neither passed nor failed."""

    @property
    def mark(self) -> str:
        """``✓``, ``✗``, or an en dash."""
        return "✗" if self.failures else "–" if self.impossible else "✓"


@dataclass(frozen=True)
class Tables:
    """A release's tables as rows, as far as they can be read."""

    faces: list[Row] | None
    people: list[Row] | None
    utterances: pa.Table | None
    """There may be many: they stay in Arrow."""


def verify_release(
    release: Release, on_progress: OnProgress = lambda done, total: None
) -> list[Check]:
    """Check everything; the release is sound where no check has failures."""
    info = release.info()
    if info.get("format") != FORMAT:
        line = (
            f"{INFO}: format {info.get('format')!r}, made by an older hqvox, is not {FORMAT}; "
            "release anew"
        )
        return [Check("format", failures=[line])]
    checks = [Check("format", f"release format {FORMAT}")]
    if not _is_complete(info):
        checks[0].failures.append(f"{INFO}: values are missing or of another kind; {AGAIN}")
        return checks
    sums = listed_sums(release, _add(checks, Check("list of checksums", CHECKSUMS)).failures)
    tables = _tables(release, sums, _add(checks, Check("tables", "names and types of columns")))
    sides = _sides(tables.faces)
    found = inspect_files(release, sums, sides, on_progress)
    _add(
        checks,
        Check("checksums", f"{len(found):,} files", [line for f in found for line in f.wrong]),
    )
    drawn = [f for f in found if f.name in sides]
    pictures = _add(checks, Check("pictures", f"{len(drawn):,} decoded, as in the manifest"))
    pictures.failures += [line for f in drawn for line in f.picture]
    pictures.failures += other_pictures(sums, tables.faces or [])
    needed = _needed(tables, release)
    names = _add(checks, Check("files", "none missing, none extra"))
    names.failures += check_names(present_files(release), sums, needed)
    if tables.faces is not None and (SPEECH_FILES[0] not in sums or tables.utterances is not None):
        names.failures += unclaimed(sums, needed)
    people = _add(checks, Check("identities", "faces, folders and counts agree"))
    split = _add(checks, Check("split", "one side each, split.json agrees"))
    leaks = _add(checks, Check("leaks", "photographs and faces on one side only"))
    eyes = _add(checks, Check("eyes", "where HQ-VoxCeleb has them"))
    papers = _add(checks, Check("licences", f"{LICENCES_FILE}, DATASHEET.md"))
    if tables.faces is None or tables.people is None:
        for check in (people, split, leaks, eyes, papers):
            check.impossible = "its table cannot be read"
    else:
        people.failures += _check_people(tables.faces, tables.people, info)
        split.failures += _check_split(release, tables)
        if info["leaks"].get("policy") == KEEP_LEAKS:
            leaks.impossible = f"imported as published: {INFO} tells what is on two sides"
        else:
            leaks.failures += _check_leaks(tables.faces, info)
        measured = check_eyes(tables.faces, eyes.failures)
        eyes.what = f"{measured:,} faces, where HQ-VoxCeleb has them"
        papers.failures += _check_papers(release, tables.faces)
    _check_voices(release, info, tables, checks)
    return checks


def _is_complete(info: dict[str, Any]) -> bool:
    """Whether ``release.json`` has what the checks go by."""
    leaks, speech, config = info.get("leaks"), info.get("speech"), info.get("config")
    release = config.get("release") if isinstance(config, dict) else None
    return (
        isinstance(leaks, dict)
        and isinstance(leaks.get("max_photo_distance_bits"), int)
        and isinstance(leaks.get("min_face_similarity"), int | float)
        and (speech is None or isinstance(speech, dict))
        and isinstance(release, dict)
        and isinstance(release.get("min_faces"), int)
    )


def _add(checks: list[Check], check: Check) -> Check:
    checks.append(check)
    return check


def _tables(release: Release, sums: dict[str, str], check: Check) -> Tables:
    def read(file: str, schema: pa.Schema) -> pa.Table | None:
        try:
            table = release.table(file)
        except HqvoxError as error:
            check.failures.append(str(error))
            return None
        if not table.schema.equals(schema):
            unlike = [f.name for f in schema if f not in table.schema]
            more = [f.name for f in table.schema if f.name not in schema.names]
            said = f"missing or of another type: {', '.join(unlike) or 'none'}"
            said += f"; extra: {', '.join(more)}" if more else ""
            check.failures.append(f"{file}: columns differ ({said}); {AGAIN}")
            return None
        empty = [name for name in _NEVER_NULL[file] if table[name].null_count]
        if empty:
            check.failures.append(f"{file}: nothing stands in some {', '.join(empty)}; {AGAIN}")
            return None
        return table

    faces, people = read("manifest.parquet", MANIFEST), read("identities.parquet", IDENTITIES)
    return Tables(
        None if faces is None else faces.to_pylist(),
        None if people is None else people.to_pylist(),
        read(SPEECH_FILES[0], SPEECH) if SPEECH_FILES[0] in sums else None,
    )


def _sides(faces: list[Row] | None) -> dict[str, int]:
    """Side in pixels that each picture must have, by file."""
    return {
        row[f"{kind}_file"]: row["crop_side_px"]
        for row in faces or []
        for kind in ("masked", "origin")
    }


def _needed(tables: Tables, release: Release) -> set[str]:
    files = {INFO, *DOCUMENTS, *_sides(tables.faces)}
    if release.info().get("speech"):
        files |= set(SPEECH_FILES)
        if tables.utterances is not None:
            files |= set(pc.unique(tables.utterances["file"]).to_pylist())
    return files


def _check_people(faces: list[Row], people: list[Row], info: dict[str, Any]) -> list[str]:
    failures = []
    counts = Counter(row["identity_id"] for row in faces)
    least = info["config"]["release"]["min_faces"]
    for column in ("identity_id", ("subset_folder", "folder")):
        keys = (column,) if isinstance(column, str) else column
        seen = Counter(tuple(row[key] for key in keys) for row in people)
        twice = [key for key, count in seen.items() if count > 1]
        failures += [f"identities.parquet: {'/'.join(k)} stands twice; {AGAIN}" for k in twice]
    for row in people:
        own = counts.pop(row["identity_id"], 0)
        if own != row["images"]:
            failures.append(
                f"manifest.parquet: {row['identity_id']} has {own} faces, identities.parquet says "
                f"{row['images']}; {AGAIN}"
            )
        elif own < least:
            failures.append(
                f"manifest.parquet: {row['identity_id']} has {own} faces, fewer than {least}; "
                "release anew"
            )
    failures += [f"identities.parquet: {i} is missing but has faces; {AGAIN}" for i in counts]
    told = {"identities": len(people), "images": len(faces)}
    failures += [
        f"{INFO}: says {info.get(key)} {key}, the tables have {count}; {AGAIN}"
        for key, count in told.items()
        if info.get(key) != count
    ]
    return failures


def _check_split(release: Release, tables: Tables) -> list[str]:
    assert tables.people is not None
    parts = {row["identity_id"]: row["split"] for row in tables.people}
    failures = [
        f"identities.parquet: {identity_id} is in {part!r}, not train, val or test; {AGAIN}"
        for identity_id, part in parts.items()
        if part not in PARTS
    ]
    sides = {"manifest.parquet": [(row["identity_id"], row["split"]) for row in tables.faces or []]}
    if tables.utterances is not None:
        pairs = tables.utterances.group_by(["identity_id", "split"]).aggregate([])
        sides[SPEECH_FILES[0]] = [(r["identity_id"], r["split"]) for r in pairs.to_pylist()]
    for file, rows in sides.items():
        strays = {identity_id: part for identity_id, part in rows if parts.get(identity_id) != part}
        failures += [
            f"{file}: {identity_id} is in {part}, identities.parquet says "
            f"{parts.get(identity_id, 'nothing')}; {AGAIN}"
            for identity_id, part in strays.items()
        ]
    if failures:
        return failures
    try:
        written = json.loads(release.read("split.json"))
    except (HqvoxError, ValueError) as error:
        return [f"split.json: cannot be read ({error}); {AGAIN}"]
    if written != split_file(tables.people):
        return [f"split.json: differs from identities.parquet; {AGAIN}"]
    return []


def _check_leaks(faces: list[Row], info: dict[str, Any]) -> list[str]:
    limits = info["leaks"]
    leaks = find_leaks(
        Prints(faces),
        [row["split"] for row in faces],
        max_photo_distance_bits=limits["max_photo_distance_bits"],
        min_face_similarity=limits["min_face_similarity"],
    )
    return [
        f"{faces[leak.row]['masked_file']} ({faces[leak.row]['split']}): {leak.kind} as "
        f"{faces[leak.other]['masked_file']} ({faces[leak.other]['split']}), {leak.distance:g}; "
        "release anew, which drops it"
        for leak in leaks
    ]


def _check_papers(release: Release, faces: list[Row]) -> list[str]:
    failures = []
    try:
        text = release.read(LICENCES_FILE).decode()
        listed = [row.get("file") for row in csv.DictReader(io.StringIO(text))]
        if listed != [row["masked_file"] for row in faces]:
            failures.append(f"{LICENCES_FILE}: its files are not the manifest's; {AGAIN}")
    except (HqvoxError, UnicodeDecodeError, csv.Error) as error:
        failures.append(f"{LICENCES_FILE}: cannot be read ({error}); {AGAIN}")
    try:
        if not release.read("DATASHEET.md").strip():
            failures.append(f"DATASHEET.md: empty; {AGAIN}")
    except HqvoxError as error:
        failures.append(str(error))
    return failures


def _check_voices(
    release: Release, info: dict[str, Any], tables: Tables, checks: list[Check]
) -> None:
    speech = _add(checks, Check("speech", "index within the arrays, values finite"))
    statistics = _add(checks, Check("mean and variance", "as counted anew over train"))
    if not info.get("speech"):
        if tables.utterances is not None:
            speech.failures.append(f"{SPEECH_FILES[0]}: there, but {INFO} knows of none; {AGAIN}")
        speech.impossible = statistics.impossible = "the release holds faces alone"
        return
    if tables.utterances is None:
        speech.impossible = statistics.impossible = "its table cannot be read"
        return
    moments = check_speech(release, tables.utterances, speech.failures)
    speech.what = f"{tables.utterances.num_rows:,} utterances, within the arrays and finite"
    speech.failures += _told_of_speech(tables.utterances, tables.people or [], info)
    if speech.failures:
        statistics.impossible = "see speech"
    else:
        check_statistics(release, moments, statistics.failures)


def _told_of_speech(utterances: pa.Table, people: list[Row], info: dict[str, Any]) -> Iterable[str]:
    told_of = pc.value_counts(utterances["identity_id"]).to_pylist()
    counts = Counter({entry["values"]: entry["counts"] for entry in told_of})
    for row in people:
        if row["utterances"] != counts.pop(row["identity_id"], 0):
            yield (
                f"{SPEECH_FILES[0]}: the utterances of {row['identity_id']} are not as many as "
                f"identities.parquet says ({row['utterances']}); {AGAIN}"
            )
    yield from (f"{SPEECH_FILES[0]}: {i} is not released; {AGAIN}" for i in counts)
    told, there = info["speech"].get("utterances"), utterances.num_rows
    if told != there:
        yield f"{INFO}: says {told} utterances, the index has {there}; {AGAIN}"
