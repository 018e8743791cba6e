"""The columns of every table, in one place.

A stage's table holds, for every row that entered the stage, the keys, the columns the stage adds,
and ``reason``: null where the row was kept, else one of the stage's reasons. Columns of earlier
stages are not repeated; :func:`hqvox.runner.lookup.joined_rows` joins them by key. Numbers that
people see carry how they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

Row = dict[str, Any]
"""One row of a stage: column name to value."""


@dataclass(frozen=True)
class Shown:
    """How people see a number: its name, unit, digits after the point."""

    label: str
    unit: str = ""
    digits: int = 2
    signed: bool = False
    """Both signs occur, and a limit holds for the absolute value."""
    chart: bool = False
    """The report has a histogram of it."""
    caption: bool = False
    """The report names it below the examples that its stage kept."""


@dataclass(frozen=True)
class Column:
    """A column: Arrow type, what it means with unit and range, and how its number is shown."""

    type: pa.DataType
    meaning: str
    shown: Shown | None = None
    added: bool = False
    """Tables of older versions lack it: it reads as null."""


@dataclass(frozen=True)
class Computed:
    """A number that is not stored, computed from columns of its stage's table.

    ``of``: names of columns, or ``column.key`` for a value of a map. ``how``: their ``sum`` or
    ``product``; ``angle``: of a direction turned by two angles (degrees), the angle from where it
    was; ``lead``: of a map's value, less the largest of its others.
    """

    of: tuple[str, ...]
    shown: Shown
    how: Literal["sum", "product", "angle", "lead"] = "sum"


KEYS: dict[str, Column] = {
    "identity_id": Column(pa.string(), "identity, VoxCeleb's id (id10001) or the user's own"),
    "candidate": Column(pa.int32(), "position of the candidate photo within its identity, from 0"),
    "face": Column(pa.int16(), "face within the photo, best score first; null before landmarks"),
}

REASON = Column(
    pa.dictionary(pa.int16(), pa.string()), "null: kept; else why this stage rejected the row"
)


def _floats(n: int) -> pa.DataType:
    return pa.list_(pa.float32(), n)


TABLES: dict[str, dict[str, Column | Computed]] = {
    "discover": {
        "url": Column(
            pa.string(), "where the photo is; folder source: percent-encoded relative path"
        ),
        "page_url": Column(pa.string(), "page that shows the photo"),
        "source": Column(pa.dictionary(pa.int16(), pa.string()), "source that named the candidate"),
        "query": Column(pa.string(), "what the source was asked; null: no query"),
        "rank": Column(pa.int32(), "rank within the source's answer to the query, from 0"),
        "title": Column(pa.string(), "title as the source states it"),
        "licence": Column(pa.string(), "licence as the source states it"),
        "licence_url": Column(pa.string(), "page of the licence's text"),
        "author": Column(pa.string(), "author, or the attribution that is asked for"),
        "stated_width_px": Column(pa.int32(), "width in pixels as the source states it"),
        "stated_height_px": Column(pa.int32(), "height in pixels as the source states it"),
        "restrictions": Column(
            pa.string(),
            "restrictions as the source states them, for example Commons' personality",
            added=True,
        ),
    },
    "download": {
        "photo_id": Column(pa.string(), "SHA-256 of the photo's bytes as stored, hex"),
        "media_type": Column(
            pa.dictionary(pa.int16(), pa.string()), "type by content: image/jpeg, …"
        ),
        "width_px": Column(pa.int32(), "width in pixels, upright (EXIF orientation undone)"),
        "height_px": Column(pa.int32(), "height in pixels, upright (EXIF orientation undone)"),
        "retrieved_at": Column(pa.timestamp("s", "UTC"), "time of retrieval; local file: null"),
        "photo_offset": Column(pa.int64(), "offset of the photo's bytes in the download tar"),
        "photo_bytes": Column(pa.int64(), "size of the photo in bytes", Shown("size", " B", 0)),
        "pixels": Computed(("width_px", "height_px"), Shown("pixels", digits=0), how="product"),
        "requested_url": Column(
            pa.string(), "url that was asked for; local file: null, and so below"
        ),
        "final_url": Column(pa.string(), "url that answered, after redirects"),
        "host": Column(pa.dictionary(pa.int32(), pa.string()), "host that answered"),
        "http_status": Column(pa.int16(), "status of the last answer; null: there was none"),
        "etag": Column(pa.string(), "ETag of the answer, for asking whether the photo changed"),
        "last_modified": Column(pa.string(), "Last-Modified of the answer, likewise"),
        "reservations": Column(
            pa.list_(pa.string()),
            "reservations of rights that were seen, named as in policy.respect; null: not looked "
            "for",
            added=True,
        ),
    },
    "duplicates": {
        "phash": Column(pa.uint64(), "64-bit perceptual hash (DCT)"),
        "duplicate_of": Column(pa.int32(), "candidate that stands for this row's cluster"),
    },
    "landmarks": {
        "faces_in_photo": Column(
            pa.int16(), "faces found in the photo", Shown("faces in photo", digits=0, caption=True)
        ),
        "box_xyxy": Column(
            _floats(4), "face box left, top, right, bottom, px of the upright photo"
        ),
        "face_score": Column(
            pa.float32(),
            "detector's score, its own scale, higher is surer",
            Shown("detector score", caption=True),
        ),
        "other_boxes_xyxy": Column(
            pa.list_(pa.float32()), "boxes of the photo's other faces, 4 numbers each, as box_xyxy"
        ),
        "landmarks_xy": Column(
            _floats(136), "68 iBUG points as x, y pairs, px of the upright photo"
        ),
    },
    "pupils": {
        "ipd_px": Column(
            pa.float32(),
            "distance of the eye centres, px of the upright photo",
            Shown("pupil distance", " px", 1, chart=True, caption=True),
        ),
    },
    "pose": {
        "yaw_deg": Column(
            pa.float32(),
            "yaw, degrees; positive: turned to the image's right",
            Shown("yaw", "°", 1, signed=True, chart=True, caption=True),
        ),
        "pitch_deg": Column(
            pa.float32(),
            "pitch, degrees; positive: looking up",
            Shown("pitch", "°", 1, signed=True, chart=True, caption=True),
        ),
        "roll_deg": Column(
            pa.float32(),
            "roll, degrees; positive: clockwise in the image",
            Shown("roll", "°", 1, signed=True),
        ),
        "asymmetry": Column(
            pa.float32(),
            "how far mirrored landmarks of one side fall from the other, fraction of the eye "
            "distance",
            Shown("asymmetry", digits=3),
        ),
        "plane_deg": Computed(
            ("yaw_deg", "pitch_deg"), Shown("angle to the image plane", "°", 1), how="angle"
        ),
    },
    "lighting": {
        "light_ratio": Column(
            pa.float32(),
            "brighter over darker side of the face, luminance, >= 1",
            Shown("light ratio", chart=True, caption=True),
        ),
        "light_gradient": Column(
            pa.float32(),
            "steep slope (95th percentile) of smoothed skin luminance, its mean per face width",
            Shown("light gradient", chart=True, caption=True),
        ),
        "overexposed_fraction": Column(
            pa.float32(), "share of skin pixels at the bright end, 0 to 1", Shown("over-exposed")
        ),
        "underexposed_fraction": Column(
            pa.float32(), "share of skin pixels at the dark end, 0 to 1", Shown("under-exposed")
        ),
    },
    "emotion": {
        "emotion": Column(pa.dictionary(pa.int16(), pa.string()), "most probable expression"),
        "emotion_probabilities": Column(
            pa.map_(pa.string(), pa.float32()), "probability of each expression, 0 to 1, sum 1"
        ),
        "neutral": Computed(
            ("emotion_probabilities.neutral",), Shown("neutral", chart=True, caption=True)
        ),
        "neutral_lead": Computed(
            ("emotion_probabilities.neutral",), Shown("neutral less the next"), how="lead"
        ),
        "neutral_or_happy": Computed(
            ("emotion_probabilities.neutral", "emotion_probabilities.happiness"),
            Shown("neutral + happiness"),
        ),
        "happiness": Computed(
            ("emotion_probabilities.happiness",), Shown("happiness", caption=True)
        ),
        "mouth_opening": Column(
            pa.float32(),
            "inner lip gap over mouth width, from landmarks",
            Shown("mouth opening", digits=3, chart=True),
        ),
        "mouth_width": Column(
            pa.float32(),
            "mouth width over eye distance, from landmarks",
            Shown("mouth width", digits=3),
        ),
    },
    "identity": {
        "embedding": Column(pa.list_(pa.float32()), "face embedding, L2-normalised"),
        "core_similarity": Column(
            pa.float32(),
            "mean cosine to the faces of the identity's core, itself left out; null: the only face",
            Shown("similarity", digits=3, chart=True, caption=True),
        ),
    },
    "align": {
        "transform": Column(
            _floats(6), "2 × 3 similarity, upright photo px to aligned crop px, rows"
        ),
        "outside_fraction": Column(
            pa.float32(),
            "share of the crop outside the photo, 0 to 1",
            Shown("outside photo", caption=True),
        ),
        "crop_side_px": Column(
            pa.int32(),
            "side of the aligned square crop, px",
            Shown("crop side", " px", 0, caption=True),
        ),
        "compression": Column(
            pa.float32(),
            "visibility of 8 × 8 block edges around the face, 0 none, 1 strong",
            Shown("compression"),
        ),
        "aligned_offset": Column(pa.int64(), "offset of the aligned crop (PNG) in the align tar"),
        "aligned_bytes": Column(pa.int64(), "size of the aligned crop (PNG) in bytes"),
    },
    "segment": {
        "face_coverage": Column(
            pa.float32(),
            "share of the face's landmark hull in the mask, 0 to 1",
            Shown("face in mask", chart=True, caption=True),
        ),
        "edge_confidence": Column(
            pa.float32(),
            "mean certainty |2p - 1| of the mask near its outline, 0 to 1",
            Shown("mask certainty", chart=True, caption=True),
        ),
        "person_fraction": Column(
            pa.float32(), "share of the crop covered by the person, 0 to 1", Shown("person in crop")
        ),
        "mask_offset": Column(pa.int64(), "offset of the alpha mask (grey PNG) in the segment tar"),
        "mask_bytes": Column(pa.int64(), "size of the alpha mask (grey PNG) in bytes"),
    },
    "quality": {
        "sharpness": Column(
            pa.float32(),
            "detail of the face at a fixed scale, 0 to 1",
            Shown("sharpness", chart=True, caption=True),
        ),
        "quality": Column(
            pa.float32(),
            "composite that ranks an identity's faces, 0 to 1",
            Shown("quality", digits=3, chart=True, caption=True),
        ),
    },
}
"""By stage, the columns that its table adds, and the numbers computed from them."""

COLUMNS: dict[str, Column] = {
    name: column
    for table in TABLES.values()
    for name, column in table.items()
    if isinstance(column, Column)
}
"""Every column of the stages' tables."""

ADDED = {name: column.type for name, column in COLUMNS.items() if column.added}
"""Types of columns that tables of older versions lack."""


ATTEMPTS = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),  # as the source named it
        pa.field("final_url", pa.string(), nullable=False),  # what was asked for this time
        pa.field("status", pa.int16()),  # null: there was no answer, or nothing was asked
        pa.field("reason", pa.dictionary(pa.int16(), pa.string())),  # null: it brought us on
        pa.field("detail", pa.string()),
        pa.field("bytes", pa.int64()),  # of the body, as it came over the network
        pa.field("seconds", pa.float32()),
        pa.field("time", pa.timestamp("ms", "UTC")),
        pa.field("host", pa.dictionary(pa.int32(), pa.string())),
    ]
)
"""``attempts/<shard>.parquet``: each request that a crawl made, or refused to make."""


def stage_schema(columns: tuple[str, ...]) -> pa.Schema:
    """Arrow schema of a stage's table: keys, the stage's own columns, reason."""
    fields = [pa.field(name, column.type) for name, column in KEYS.items()]
    fields += [pa.field(name, COLUMNS[name].type) for name in columns]
    fields.append(pa.field("reason", REASON.type))
    return pa.schema(fields)


IDENTITIES = pa.schema(
    [
        pa.field("identity_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("subset", pa.string(), nullable=False),  # vox1, vox2, or the user's own
        pa.field("gender", pa.string()),  # m, f, or null
        pa.field("nationality", pa.string()),
        pa.field("row", pa.int32(), nullable=False),  # position in its file: the official split
        pa.field("folder", pa.string()),  # percent-encoded, below the photos folder
        pa.field("shard", pa.string(), nullable=False),
    ]
)

UTTERANCE_COLUMNS: dict[str, Column] = {
    "identity_id": KEYS["identity_id"],
    "video": Column(pa.string(), "video the utterance is from; empty: not known"),
    "utterance": Column(pa.string(), "utterance within its video, unique there"),
    "path": Column(pa.string(), "percent-encoded path below the audio folder"),
    "shard": Column(pa.string(), "shard of its identity: <shard>.f16 holds the log-mels"),
    "offset": Column(pa.int64(), "first frame in the shard's array; null: refused"),
    "frames": Column(pa.int32(), "frames (10 ms each) in the shard's array; null: refused"),
    "seconds": Column(pa.float32(), "speech that is left, s; 0: none"),
    "source_seconds": Column(pa.float32(), "duration before VAD, s; null: not decoded"),
    "media_type": Column(pa.dictionary(pa.int16(), pa.string()), "container and codec, by content"),
    "rate_hz": Column(pa.int32(), "sample rate of the file, Hz"),
    "channels": Column(pa.int16(), "channels of the file; their mean is taken"),
    "peak_dbfs": Column(pa.float32(), "loudest sample, dB full scale; null: digital silence"),
    "clipped_fraction": Column(pa.float32(), "share of samples at full scale, 0 to 1"),
    "sha256": Column(pa.string(), "SHA-256 of the file, hex; null: not read"),
    "reason": Column(REASON.type, "null: packed; else why the file was refused"),
    "detail": Column(pa.string(), "what exactly was wrong, one line; null: nothing to add"),
}

UTTERANCES = pa.schema([pa.field(name, c.type) for name, c in UTTERANCE_COLUMNS.items()])
"""A shard's index of utterances, packed and refused: ``speech/<shard>.parquet``."""
