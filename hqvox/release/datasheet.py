"""``DATASHEET.md``: the questions of *Datasheets for Datasets* (Gebru et al., 2021), answered.

Figures are counted from the tables. What only people know (purpose, contact) comes from the
configuration; where it is not set, the datasheet says so. Of an imported dataset the datasheet
answers what an import can know; the rest is for the dataset's makers to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from hqvox.config.build import BuildConfig
from hqvox.release.layout import LICENCES_FILE
from hqvox.release.manifest import licence_counts
from hqvox.release.plan import IMPORT
from hqvox.release.split import PARTS
from hqvox.workspace.tables import Row

RESERVATIONS: dict[str, str] = {
    "tdm_header": "the header tdm-reservation",
    "tdm_file": "/.well-known/tdmrep.json",
    "metadata": "data-mining fields of IPTC and XMP",
    "c2pa": "Content Credentials (C2PA) on training and mining",
    "personality": "Commons' restriction personality",
}
"""Of ``policy.respect``, in words."""

Cells = list[object]
"""Of a row of a table."""

SHOWN = 20
"""Most rows of a table of licences or nationalities; the others are one row."""
GENDERS = {"f": "female", "m": "male", None: "not stated"}


def datasheet(
    manifest: pa.Table, identities: pa.Table, info: dict[str, Any], config: BuildConfig
) -> str:
    """The datasheet as Markdown. ``info``: ``release.json``."""
    people = identities.to_pylist()
    if info["selection"] == IMPORT:
        sections = ["# Datasheet", *_imported(people, info, config)]
        return "\n\n".join(sections) + "\n"
    sections = [
        "# Datasheet",
        "After *Datasheets for Datasets* (Gebru et al., Communications of the ACM, 2021). Figures "
        "are counted from this release's tables. What its makers alone can know is marked where "
        "they have not said it.",
        *_motivation(config),
        *_composition(people, info),
        *_collection(manifest, info),
        *_preprocessing(info, config),
        *_uses(),
        *_distribution(manifest),
        *_maintenance(config, info),
    ]
    return "\n\n".join(sections) + "\n"


def takedown_contact(config: BuildConfig) -> str:
    """Contact for takedowns: the release's, else the crawl's; empty without either."""
    return config.release.contact or config.download.contact or ""


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; characters that could break a cell are removed or escaped."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(_cell(v) for v in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _motivation(config: BuildConfig) -> list[str]:
    return [
        "## Motivation",
        config.release.purpose
        or "*Not stated by the makers (setting release.purpose).* The form is that of HQ-VoxCeleb, "
        "made for research on how much of a face can be told from a voice.",
    ]


def _counts(people: list[Row], info: dict[str, Any]) -> tuple[dict[str, list[Row]], list[Cells]]:
    """People of all splits together and of each, and rows of counts for the same columns."""
    of_part = {"total": people} | {p: [r for r in people if r["split"] == p] for p in PARTS}
    columns = list(of_part.values())
    rows: list[Cells] = [
        ["identities", *(len(rows) for rows in columns)],
        ["faces", *(sum(r["images"] for r in rows) for rows in columns)],
    ]
    if info["speech"]:
        rows.append(["utterances", *(sum(r["utterances"] or 0 for r in rows) for rows in columns)])
    return of_part, rows


def _composition(people: list[Row], info: dict[str, Any]) -> list[str]:
    of_part, rows = _counts(people, info)
    columns = list(of_part.values())
    if info["speech"]:
        hours = (sum(r["seconds"] or 0 for r in rows) / 3600 for rows in columns)
        rows.append(["hours of speech", *(f"{value:.2f}" for value in hours)])
    header = ["", *of_part]
    genders = [
        [word, *(sum(_gender(r["gender"]) == word for r in rows) for rows in columns)]
        for word in GENDERS.values()
    ]
    return [
        "## Composition",
        "An instance is a person: a name, gender and nationality where the metadata state them, "
        "pictures of the face"
        + (", and utterances as log-mel spectrograms." if info["speech"] else "; no speech."),
        _table(header, rows),
        "Each face is there twice: on white (`masked_faces`) and with its background "
        "(`origin_faces`), a square crop in the photograph's own resolution.",
        "### Balance",
        "By gender, as the metadata state it:",
        _table(header, genders),
        "By nationality, as the metadata state it:",
        _table(header, _nationalities(columns)),
        "Who is in the metadata decides who is in the dataset: people with many published "
        "photographs. What the release is unbalanced in, a model trained on it will be too.",
        "### Left out",
        f"With too few faces: {len(info['dropped']):,} identities. With faces but no speech: "
        f"{len(info['faces_without_speech']):,}. With speech but too few faces: "
        f"{len(info['speech_without_faces']):,}. Names stand in `release.json`.",
        "### Split",
        f"By identity: `{_cell(info['split'])}`. No photograph, near-copy of one or copy of a face "
        "is on two sides: "
        f"{len(info['leaks']['dropped_faces']):,} faces were left out for it.",
        "### Personal data",
        "Faces and voices of named, living people are personal data, and used to tell people apart "
        "they are biometric data (GDPR, article 9). The photographs were published, which is not "
        "the same as consent to this use. No consent was asked for by the tool that made this.",
    ]


def _gender(value: str | None) -> str:
    return GENDERS.get(value, GENDERS[None])


def _nationalities(columns: list[list[Row]]) -> list[Cells]:
    counts = [Counter(r["nationality"] or "not stated" for r in rows) for rows in columns]
    names = sorted(counts[0], key=lambda name: (-counts[0][name], name))
    rows: list[Cells] = [[n, *(c[n] for c in counts)] for n in names[:SHOWN]]
    rest = names[SHOWN:]
    if rest:
        rows.append([f"{len(rest)} others", *(sum(c[n] for n in rest) for c in counts)])
    return rows


def _collection(manifest: pa.Table, info: dict[str, Any]) -> list[str]:
    sources = Counter(manifest["source"].to_pylist())
    named = ", ".join(f"{name} ({count:,})" for name, count in sorted(sources.items()))
    dates = sorted(value for value in manifest["retrieved_at"].to_pylist() if value is not None)
    when = (
        f"They were retrieved from {dates[0]:%Y-%m-%d} to {dates[-1]:%Y-%m-%d}."
        if dates
        else "When they were first published or retrieved is not known."
    )
    most = info["config"]["discover"]["limit"]
    return [
        "## Collection process",
        f"Photographs by source: {_cell(named)}. {when} Page, url, author and licence of each "
        f"stand in `manifest.parquet` and `{LICENCES_FILE}`.",
        f"{_selection(info)} {'All' if most is None else f'Up to {most:,}'} photographs a person "
        f"were looked at; {info['config']['release']['min_faces']} to "
        f"{info['config']['release']['max_faces']} faces a person are released.",
        *_reservations(info["reservations"]),
    ]


def _reservations(stated: dict[str, Any]) -> list[str]:
    """What the crawl kept to, and how many photographs were refused for that."""
    if not stated["crawled"]:
        return []
    kept_to = (["robots.txt"] if stated["robots"] else []) + [
        f"X-Robots-Tag ({', '.join(stated['opt_out'])})" if stated["opt_out"] else "",
        *(RESERVATIONS[name] for name in stated["respect"]),
    ]
    refused = stated["refused"]
    reasons = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in refused.items())
    return [
        "### Reservations of rights",
        f"The crawl kept to: {', '.join(filter(None, kept_to)) or '*nothing*'}. Refused for that: "
        f"{sum(refused.values()):,} photographs{f' ({reasons})' if reasons else ''}.",
    ]


def _selection(info: dict[str, Any]) -> str:
    """Who chose the faces, and how many identities people chose, dropped or left undecided."""
    if not info["reviewed"]:
        return "The faces were chosen by a computed quality; **no person has reviewed them**."
    review = info["review"]
    people = ", ".join(f"{_cell(name)} ({count:,})" for name, count in review["reviewers"].items())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in review["dropped"].items())
    dropped = sum(review["dropped"].values())
    return (
        f"People looked at the candidates of each identity and chose among them: "
        f"{len(review['reviewers']):,} reviewers chose for {review['chosen']:,} identities "
        f"({people}; `reviewer` in the manifest says who for each). They dropped {dropped:,} "
        f"identities{f' ({reasons})' if reasons else ''}; {review['undecided']:,} were not decided "
        f"on, on {review['disputed']:,} the reviewers disagree, and of "
        f"{len(review['faces_gone']):,} some chosen faces are no longer in the build."
    )


def _preprocessing(info: dict[str, Any], config: BuildConfig) -> list[str]:
    off = [
        name
        for name in ("pupils", "pose", "lighting", "emotion", "identity", "align", "segment")
        if not getattr(config, name).enabled
    ]
    lines = [
        f"pupils at least {config.pupils.min_ipd_px:g} px apart",
        f"yaw within {config.pose.max_yaw_deg:g}° and pitch within {config.pose.max_pitch_deg:g}°",
        f"light on one side of the face at most {config.lighting.max_light_ratio:g} times the "
        f"other's ({config.lighting.max_light_ratio:g}:1)",
        "a neutral expression, or a slight smile",
        "the face of the person it was found for, by an embedding",
        f"at most {config.align.max_outside_fraction:.0%} of the crop outside the photograph",
        "cut out by a network, with the person on white",
    ]
    without = f" Switched off in this build: {', '.join(off)}." if off else ""
    texts = [
        "## Preprocessing",
        "Every face had to pass these, measured automatically:" + without,
        "\n".join(f"- {line}" for line in lines),
        "Then it was turned upright and cropped so that the eyes lie at (0.380, 0.487) and "
        "(0.623, 0.487) of the crop. Every measurement stands in the manifest, every setting and "
        "the hash of every network's weights in `release.json`.",
    ]
    if info["speech"]:
        cut = (
            ", cut to what a voice activity detector took for speech," if config.speech.vad else ""
        )
        texts.append(
            f"Speech was resampled to 16 kHz{cut} and turned into log-mel filter bank energies "
            "(25 ms windows, 10 ms hop, natural log), stored as float16. The audio itself is not "
            "part of the release."
        )
    return texts


def _uses() -> list[str]:
    return [
        "## Uses",
        "For research on voices and faces together. Not for identifying people, nor for anything "
        "that decides about a person: a face guessed from a voice is a guess.",
        "Limits: the networks that filtered the photographs work less well on some groups of "
        "people than on others, and what they refused by mistake is missing here. Gender and "
        "nationality are words of the metadata, not of the people. Frontal, evenly lit, neutral "
        "faces are not how people look most of the time.",
    ]


def _distribution(manifest: pa.Table) -> list[str]:
    counts = licence_counts(manifest)
    rows: list[Cells] = [[name, count] for name, count in counts[:SHOWN]]
    if counts[SHOWN:]:
        rows.append([f"{len(counts) - SHOWN} others", sum(c for _, c in counts[SHOWN:])])
    return [
        "## Distribution",
        "The photographs remain their authors', under the licence of each; whoever passes the "
        f"release on passes `{LICENCES_FILE}` on. By licence as the source states it:",
        _table(["licence", "faces"], rows),
        "Where none is stated, none was given: assume all rights reserved.",
    ]


def _maintenance(config: BuildConfig, info: dict[str, Any]) -> list[str]:
    contact = takedown_contact(config)
    return [
        "## Maintenance",
        f"Takedown and other requests: {_cell(contact)}"
        if contact
        else "Takedown and other requests: *no contact was given by the makers "
        "(setting release.contact).*",
        "A release never changes. When a person or a photograph is taken down, a new release is "
        "made without it, and those who hold this one are asked to replace it. `SHA256SUMS` tells "
        "whether a copy is whole.",
        f"Made with hqvox {info['hqvox']}, release format {info['format']}.",
    ]


def _imported(people: list[Row], info: dict[str, Any], config: BuildConfig) -> list[str]:
    """The sections of a dataset that others made."""
    of_part, counts = _counts(people, info)
    made = info["import"]
    refused = made["would_refuse"]
    contact = config.release.contact
    return [
        "## Motivation",
        config.release.purpose or "*Not stated (setting release.purpose).*",
        "## Composition",
        _table(["", *of_part], counts),
        "## Collection process",
        "A published dataset that was imported: how its photographs were found, chosen and cut "
        "out is for its makers to say. Nothing was selected here, and nobody reviewed it here.",
        f"No picture with a background was there for {made['origin_is_masked']:,} faces: "
        "`origin_faces` repeats the one on white. Cut out here, as none on white was there: "
        f"{made['masked_made_here']:,}; that could not be cut out: {made['masked_is_origin']:,}.",
        "## Preprocessing",
        "Every face was measured, and none refused. The filters of a build would have refused "
        f"{sum(refused.values()):,} of {info['images']:,}, at the limits in `release.json`:",
        _table(["reason", "faces"], [[k, n] for k, n in refused.items()]) if refused else "(none)",
        "On two sides of the split, by photograph or face, and kept as published: "
        f"{len(info['leaks']['kept_faces']):,} faces (`release.json`, leaks).",
        "## Personal data",
        "Faces and voices of named, living people are personal data, and used to tell people apart "
        "they are biometric data (GDPR, article 9).",
        "## Distribution",
        "The photographs remain their authors'. The import knows of no licence of any of them: "
        "assume all rights reserved, and keep to the terms of the dataset's makers.",
        "## Maintenance",
        f"Takedown and other requests: {contact}"
        if contact
        else "Takedown and other requests: the dataset's makers; *no contact was given here "
        "(setting release.contact).*",
        f"Imported with hqvox {info['hqvox']}, release format {info['format']}.",
    ]
