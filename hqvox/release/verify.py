"""`hqvox release verify`: whether a release is complete, consistent and free of leaks.

Nothing in a release is trusted: names are checked before they are opened, sizes before pictures
are decoded. Every damage is one line that names the file and what to do.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hqvox.errors import HqvoxError
from hqvox.release.layout import (
    CHECKSUMS,
    CONTACT_SHEET,
    DATASHEET_FILE,
    FORMAT,
    IDENTITIES_FILE,
    INFO,
    KINDS,
    LICENCES_FILE,
    MANIFEST_FILE,
    SPEECH_INDEX,
    SPEECH_STATS,
    SPLIT_FILE,
    is_safe,
)
from hqvox.release.leaks import KEEP_LEAKS, Prints, find_leaks
from hqvox.release.manifest import IDENTITIES, MANIFEST
from hqvox.release.pictures import picture_problem
from hqvox.release.plan import IMPORT
from hqvox.release.pool import cores
from hqvox.release.read import Release
from hqvox.release.speech import SPEECH, figures
from hqvox.release.split import PARTS, split_file
from hqvox.speech.statistics import MeanVariance
from hqvox.workspace.tables import Row
from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE, eye_centres

DOCUMENTS = (MANIFEST_FILE, IDENTITIES_FILE, SPLIT_FILE, LICENCES_FILE, DATASHEET_FILE)
"""Files that every release has, apart from its pictures."""
_NEVER_NULL = {
    MANIFEST_FILE: ("identity_id", "split", "masked_file", "origin_file", "crop_side_px"),
    IDENTITIES_FILE: ("identity_id", "split", "subset_folder", "folder", "images"),
    SPEECH_INDEX: SPEECH.names,
}
AGAIN = "restore it from a complete copy, or make the release again"
EYE_TOLERANCE = 0.01
"""Of the crop's side; crops are cut to whole pixels."""
_CHUNK = 1 << 22

OnProgress = Callable[[int, int], None]
"""Called with the files that were read, of how many."""


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
    """A release's tables as rows; None where one cannot be read."""

    faces: list[Row] | None
    people: list[Row] | None
    utterances: pa.Table | None
    """In Arrow, as there may be many; also None where the release has no speech."""


def verify_release(
    release: Release, on_progress: OnProgress = lambda done, total: None
) -> list[Check]:
    """Check everything; the release is sound where no check has failures."""
    info = release.info()
    if info.get("format") != FORMAT:
        line = (
            f"{INFO}: format {info.get('format')!r}, made by an older hqvox, is not {FORMAT}; "
            "make the release again"
        )
        return [Check("format", failures=[line])]
    checks = [Check("format", f"release format {FORMAT}")]
    if not _is_complete(info):
        checks[0].failures.append(f"{INFO}: values are missing or of another kind; {AGAIN}")
        return checks
    sums = _listed_sums(release, _add(checks, Check("list of checksums", CHECKSUMS)).failures)
    tables = _tables(release, sums, _add(checks, Check("tables", "names and types of columns")))
    sizes = _sizes(tables.faces)
    files = _inspect_files(release, sums, sizes, on_progress)
    _add(
        checks,
        Check("checksums", f"{len(files):,} files", [line for f in files for line in f.wrong]),
    )
    shown = [f for f in files if f.name in sizes]
    pictures = _add(checks, Check("pictures", f"{len(shown):,} decoded, as in the manifest"))
    pictures.failures += [line for f in shown for line in f.picture]
    pictures.failures += _other_pictures(sums, tables.faces or [])
    needed = _needed(tables, release)
    names = _add(checks, Check("files", "none missing, none extra"))
    names.failures += _check_names(_present_files(release), sums, needed)
    if tables.faces is not None and (SPEECH_INDEX not in sums or tables.utterances is not None):
        names.failures += _unclaimed(sums, needed)
    people = _add(checks, Check("identities", "faces, folders and counts agree"))
    split = _add(checks, Check("split", f"one split each, {SPLIT_FILE} agrees"))
    leaks = _add(checks, Check("leaks", "photographs and faces in one split only"))
    eyes = _add(checks, Check("eyes", "where HQ-VoxCeleb has them"))
    papers = _add(checks, Check("licences", f"{LICENCES_FILE}, {DATASHEET_FILE}"))
    if tables.faces is None or tables.people is None:
        for check in (people, split, leaks, eyes, papers):
            check.impossible = "its table cannot be read"
    else:
        people.failures += _check_people(tables.faces, tables.people, info)
        split.failures += _check_split(release, tables)
        if info["leaks"].get("policy") == KEEP_LEAKS:
            leaks.impossible = f"imported as published: {INFO} lists what is in two splits"
        else:
            leaks.failures += _check_leaks(tables.faces, info)
        measured = _check_eyes(tables.faces, eyes.failures)
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
            columns = f"missing or of another type: {', '.join(unlike) or 'none'}"
            columns += f"; extra: {', '.join(more)}" if more else ""
            check.failures.append(f"{file}: columns differ ({columns}); {AGAIN}")
            return None
        empty = [name for name in _NEVER_NULL[file] if table[name].null_count]
        if empty:
            check.failures.append(f"{file}: contains nulls in column {', '.join(empty)}; {AGAIN}")
            return None
        return table

    faces, people = read(MANIFEST_FILE, MANIFEST), read(IDENTITIES_FILE, IDENTITIES)
    return Tables(
        None if faces is None else faces.to_pylist(),
        None if people is None else people.to_pylist(),
        read(SPEECH_INDEX, SPEECH) if SPEECH_INDEX in sums else None,
    )


def _sizes(faces: list[Row] | None) -> dict[str, tuple[int, int]]:
    """Width and height in pixels that each picture must have, by file.

    Crops of a build are square. Published ones may be a little off; their size is in the manifest.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for row in faces or []:
        size_px = row["crop_side_px"], row["crop_side_px"]
        if row["selection"] == IMPORT:
            size_px = row["width_px"] or 0, row["height_px"] or 0
        sizes |= {row[f"{kind}_file"]: size_px for kind in KINDS}
    return sizes


def _needed(tables: Tables, release: Release) -> set[str]:
    files = {INFO, *DOCUMENTS, *_sizes(tables.faces)}
    if release.info().get("speech"):
        files |= {SPEECH_INDEX, SPEECH_STATS}
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
        failures += [f"{IDENTITIES_FILE}: {'/'.join(k)} is listed twice; {AGAIN}" for k in twice]
    for row in people:
        count = counts.pop(row["identity_id"], 0)
        if count != row["images"]:
            failures.append(
                f"{MANIFEST_FILE}: {row['identity_id']} has {count} faces, {IDENTITIES_FILE} says "
                f"{row['images']}; {AGAIN}"
            )
        elif count < least:
            failures.append(
                f"{MANIFEST_FILE}: {row['identity_id']} has {count} faces, fewer than {least}; "
                "make the release again"
            )
    failures += [f"{IDENTITIES_FILE}: {i} is missing but has faces; {AGAIN}" for i in counts]
    tables = {"identities": len(people), "images": len(faces)}
    failures += [
        f"{INFO}: says {info.get(key)} {key}, the tables have {count}; {AGAIN}"
        for key, count in tables.items()
        if info.get(key) != count
    ]
    return failures


def _check_split(release: Release, tables: Tables) -> list[str]:
    assert tables.people is not None
    parts = {row["identity_id"]: row["split"] for row in tables.people}
    failures = [
        f"{IDENTITIES_FILE}: {identity_id} is in {part!r}, not train, val or test; {AGAIN}"
        for identity_id, part in parts.items()
        if part not in PARTS
    ]
    splits_of = {MANIFEST_FILE: [(row["identity_id"], row["split"]) for row in tables.faces or []]}
    if tables.utterances is not None:
        pairs = tables.utterances.group_by(["identity_id", "split"], use_threads=False)
        pairs = pairs.aggregate([])
        splits_of[SPEECH_INDEX] = [(r["identity_id"], r["split"]) for r in pairs.to_pylist()]
    for file, rows in splits_of.items():
        strays = {identity_id: part for identity_id, part in rows if parts.get(identity_id) != part}
        failures += [
            f"{file}: {identity_id} is in {part}, {IDENTITIES_FILE} says "
            f"{parts.get(identity_id, 'nothing')}; {AGAIN}"
            for identity_id, part in strays.items()
        ]
    if failures:
        return failures
    try:
        written = json.loads(release.read(SPLIT_FILE))
    except (HqvoxError, ValueError) as error:
        return [f"{SPLIT_FILE}: cannot be read ({error}); {AGAIN}"]
    if written != split_file(tables.people):
        return [f"{SPLIT_FILE}: differs from identities.parquet; {AGAIN}"]
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
        "make the release again, which leaves it out"
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
        if not release.read(DATASHEET_FILE).strip():
            failures.append(f"{DATASHEET_FILE}: empty; {AGAIN}")
    except HqvoxError as error:
        failures.append(str(error))
    return failures


def _check_voices(
    release: Release, info: dict[str, Any], tables: Tables, checks: list[Check]
) -> None:
    speech = _add(checks, Check("speech", "index within the arrays, values finite"))
    statistics = _add(checks, Check("mean and variance", "over train, as counted from the arrays"))
    if not info.get("speech"):
        if tables.utterances is not None:
            speech.failures.append(f"{SPEECH_INDEX}: present, but {INFO} has no speech; {AGAIN}")
        speech.impossible = statistics.impossible = "the release holds faces alone"
        return
    if tables.utterances is None:
        speech.impossible = statistics.impossible = "its table cannot be read"
        return
    moments = _check_speech(release, tables.utterances, speech.failures)
    speech.what = f"{tables.utterances.num_rows:,} utterances, within the arrays and finite"
    speech.failures += _check_utterance_counts(tables.utterances, tables.people or [], info)
    if speech.failures:
        statistics.impossible = "see speech"
    else:
        _check_statistics(release, moments, statistics.failures)


def _check_utterance_counts(
    utterances: pa.Table, people: list[Row], info: dict[str, Any]
) -> Iterable[str]:
    entries = pc.value_counts(utterances["identity_id"]).to_pylist()
    counts = Counter({entry["values"]: entry["counts"] for entry in entries})
    for row in people:
        if row["utterances"] != counts.pop(row["identity_id"], 0):
            yield (
                f"{SPEECH_INDEX}: the utterances of {row['identity_id']} are not as many as "
                f"identities.parquet says ({row['utterances']}); {AGAIN}"
            )
    yield from (f"{SPEECH_INDEX}: {i} is not released; {AGAIN}" for i in counts)
    stated, listed = info["speech"].get("utterances"), utterances.num_rows
    if stated != listed:
        yield f"{INFO}: says {stated} utterances, the index has {listed}; {AGAIN}"


def _check_eyes(faces: list[Row], failures: list[str]) -> int:
    """Check that eyes lie where the crop has them; return how many faces have landmarks."""
    expected = np.array([ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE])
    measured = 0
    for row in faces:
        points, transform, side = row["landmarks_xy"], row["transform"], row["crop_side_px"]
        if points is None or transform is None or not side:
            continue
        measured += 1
        matrix = np.array(transform, dtype=np.float64).reshape(2, 3)
        eyes = eye_centres(np.array(points, dtype=np.float64).reshape(68, 2))
        fractions = (eyes @ matrix[:, :2].T + matrix[:, 2] + 0.5) / side
        if not np.abs(fractions - expected).max() <= EYE_TOLERANCE:
            places = ", ".join(f"({x:.3f}, {y:.3f})" for x, y in fractions)
            failures.append(
                f"{row['masked_file']}: eyes at {places} of the crop; make the release again"
            )
    return measured


def _check_speech(release: Release, utterances: pa.Table, failures: list[str]) -> MeanVariance:
    """Check every file of voices against the index; return the moments over train."""
    try:
        filters = int(release.speech_stats()["filters"])
    except (HqvoxError, KeyError, TypeError, ValueError) as error:
        failures.append(f"{SPEECH_STATS}: cannot be read ({error}); {AGAIN}")
        return MeanVariance.empty(1)
    total = MeanVariance.empty(filters)
    for name in pc.unique(utterances["file"]).to_pylist():
        if name is None or not is_safe(name):
            failures.append(f"{SPEECH_INDEX}: {name!r} is no file of a release; {AGAIN}")
            continue
        try:
            frames = release.log_mels(name, filters)
        except HqvoxError as error:
            failures.append(str(error))
            continue
        moments = MeanVariance.empty(filters)
        end = 0
        for row in utterances.filter(pc.equal(utterances["file"], name)).to_pylist():
            start, end_before = row["offset"], end
            end = start + row["frames"]
            who = f"{row['identity_id']} {row['video']}/{row['utterance']}"
            if start != end_before or row["frames"] < 1 or end > len(frames):
                failures.append(
                    f"{name}: {who} is listed at frames {start} to {end}, but "
                    f"{end_before} to at most {len(frames)} are free; {AGAIN}"
                )
                break
            values = frames[start:end]
            if not np.isfinite(values).all():
                failures.append(f"{name}: {who} holds values that are not finite; {AGAIN}")
                break
            if row["split"] == "train":
                moments = moments.merged(MeanVariance.of(values))
        else:
            if end != len(frames):
                failures.append(
                    f"{name}: {len(frames) - end} frames belong to no utterance; {AGAIN}"
                )
        total = total.merged(moments)
    return total


def _check_statistics(release: Release, moments: MeanVariance, failures: list[str]) -> None:
    """Check ``speech/stats.json`` against mean and variance counted from the arrays."""
    stated, counted = release.speech_stats(), figures(moments)
    for key, value in counted.items():
        figure = stated.get(key)
        same = figure == value
        if not same and figure is not None and value is not None:
            try:
                same = bool(np.allclose(np.asarray(figure, float), value, rtol=1e-6, atol=1e-9))
            except (TypeError, ValueError):
                same = False
        if not same:
            failures.append(f"{SPEECH_STATS}: {key} differs from what the arrays give; {AGAIN}")


def _listed_sums(release: Release, failures: list[str]) -> dict[str, str]:
    """SHA-256 by file as ``SHA256SUMS`` lists them; problems are added to ``failures``."""
    try:
        lines = release.read(CHECKSUMS).decode().splitlines()
    except (HqvoxError, UnicodeDecodeError) as error:
        failures.append(f"{CHECKSUMS}: cannot be read ({error}); {AGAIN}")
        return {}
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match or not is_safe(match[2]) or match[2] in sums:
            failures.append(f"{CHECKSUMS}:{number}: not a checksum and a file name; {AGAIN}")
        else:
            sums[match[2]] = match[1]
    return sums


def _present_files(release: Release) -> dict[str, str]:
    """Kind of everything below the release, by name: ``file``, ``link`` or ``special file``."""
    storage = release.storage
    if not storage.local:
        root = storage.path("").rstrip("/")
        found = storage.fs.find(root)
        return {str(path)[len(root) :].lstrip("/"): "file" for path in found}
    root_path = Path(storage.path(""))
    present: dict[str, str] = {}
    for folder, folders, files in os.walk(root_path):
        for name in [*files, *folders]:
            path = Path(folder) / name
            relative = path.relative_to(root_path).as_posix()
            if path.is_symlink():
                present[relative] = "link"
            elif name in files:
                present[relative] = "file" if path.is_file() else "special file"
    return present


def _check_names(
    present: Mapping[str, str], sums: Mapping[str, str], needed: Set[str]
) -> list[str]:
    """One line for each file that is extra, missing, or not a plain file."""
    failures = []
    for name, kind in sorted(present.items()):
        if kind != "file":
            failures.append(f"{name}: a {kind}, not a file; remove it")
        elif name not in sums and name != CHECKSUMS:
            failures.append(f"{name}: not part of the release; remove it")
    for name in sorted(needed):
        if name not in sums:
            failures.append(f"{name}: not in {CHECKSUMS}; {AGAIN}")
    return failures


def _unclaimed(sums: Mapping[str, str], needed: Set[str]) -> list[str]:
    """One line for each listed file that no table names, though its checksum may agree."""
    return [
        f"{name}: listed in {CHECKSUMS}, but in no table; {AGAIN}"
        for name in sums
        if name not in needed and not CONTACT_SHEET.fullmatch(name)
    ]


def _other_pictures(sums: Mapping[str, str], faces: Sequence[Row]) -> list[str]:
    """One line for each picture whose checksum is not the manifest's."""
    return [
        f"{row[f'{kind}_file']}: not the picture of the manifest (SHA-256 differs); {AGAIN}"
        for row in faces
        for kind in KINDS
        if sums.get(row[f"{kind}_file"], row[f"{kind}_sha256"]) != row[f"{kind}_sha256"]
    ]


@dataclass
class Inspected:
    """A file that was read."""

    name: str
    wrong: list[str] = field(default_factory=list)
    """What is wrong with its bytes."""
    picture: list[str] = field(default_factory=list)
    """What is wrong with it as a picture."""


def _inspect_files(
    release: Release,
    sums: Mapping[str, str],
    sizes_px: Mapping[str, tuple[int, int]],
    on_progress: Callable[[int, int], None],
) -> list[Inspected]:
    """Read every listed file once: its checksum, and of pictures their size (``sizes_px``)."""

    def inspect(name: str) -> Inspected:
        return _inspect(release, name, sums[name], sizes_px.get(name))

    inspected = []
    with ThreadPoolExecutor(cores()) as pool:
        for done, file in enumerate(pool.map(inspect, sums), start=1):
            inspected.append(file)
            if done % 64 == 0 or done == len(sums):
                on_progress(done, len(sums))
    return inspected


def _inspect(
    release: Release, name: str, expected: str, size_px: tuple[int, int] | None
) -> Inspected:
    file = Inspected(name)
    digest = hashlib.sha256()
    data = bytearray()
    try:
        with release.storage.open(name) as source:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                if size_px is not None:
                    data += chunk
    except (OSError, HqvoxError):
        file.wrong.append(f"{name}: missing, or cannot be read; {AGAIN}")
        return file
    if digest.hexdigest() != expected:
        file.wrong.append(f"{name}: changed since it was released (SHA-256 differs); {AGAIN}")
    if size_px is not None:
        problem = picture_problem(bytes(data), size_px)
        if problem:
            file.picture.append(f"{name}: {problem}; {AGAIN}")
    return file
