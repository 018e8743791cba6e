"""``DATASHEET.md`` of an import: what can be said of a dataset that others made."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from hqvox.config.build import BuildConfig
from hqvox.release.datasheet import markdown_table
from hqvox.release.split import PARTS


def datasheet(identities: pa.Table, info: dict[str, Any], config: BuildConfig) -> str:
    """The datasheet as Markdown. ``info``: ``release.json``."""
    people = identities.to_pylist()
    of_part = {"total": people} | {p: [r for r in people if r["split"] == p] for p in PARTS}
    rows: list[list[object]] = [
        ["identities", *(len(own) for own in of_part.values())],
        ["faces", *(sum(r["images"] for r in own) for own in of_part.values())],
    ]
    if info["speech"]:
        rows.append(
            ["utterances", *(sum(r["utterances"] or 0 for r in own) for own in of_part.values())]
        )
    made = info["import"]
    refused = made["would_refuse"]
    contact = config.release.contact
    told = [
        "# Datasheet",
        "## Motivation",
        config.release.purpose or "*Not stated (setting release.purpose).*",
        "## Composition",
        markdown_table(["", *of_part], rows),
        "## Collection process",
        "A published dataset that was imported: how its photographs were found, chosen and cut "
        "out is for its makers to say. Nothing was selected here, and nobody reviewed it here.",
        f"No picture with a background was there for {made['origin_is_masked']:,} faces: "
        "`origin_faces` repeats the one on white. Cut out here, as none on white was there: "
        f"{made['masked_made_here']:,}; that could not be cut out: {made['masked_is_origin']:,}.",
        "## Preprocessing",
        "Every face was measured, and none refused. The filters of a build would have refused "
        f"{sum(refused.values()):,} of {info['images']:,}, at the limits in `release.json`:",
        markdown_table(["reason", "faces"], [[k, n] for k, n in refused.items()])
        if refused
        else "(none)",
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
    return "\n\n".join(told) + "\n"
