"""Pictures for people to look at: generated faces, by length of speech, beside the real one."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from hqvox.imaging.pictures import SheetRow, Tile, contact_sheet
from hqvox.trainer.checkpoint import Loaded
from hqvox.trainer.data import Part
from hqvox.trainer.evaluate import Speaker, generate
from hqvox.trainer.generate import to_photo
from hqvox.trainer.protocol import Condition, Protocol
from hqvox.trainer.speech_input import Normaliser
from models.sf2f.colour import from_unit

PEOPLE = 12
"""People that a gallery shows."""


def gallery(
    part: Part,
    shown: Sequence[tuple[str, Loaded, Normaliser, Sequence[Condition]]],
    protocol: Protocol,
    side_px: int = 128,
) -> Image.Image:
    """The first people of a part: a real face, then each checkpoint's under each condition.

    ``shown``: label, checkpoint, how it normalises, and its conditions. Crops are those of the
    evaluation's first run.
    """
    rows: list[list[Tile]] = []
    for person in range(min(PEOPLE, len(part))):
        row = int(part.faces_of[person][0])
        px = max(part.data.faces)
        rows.append([Tile(part.data.faces[px][row].transpose(1, 2, 0), ["real", part.split])])
    for label, loaded, normaliser, conditions in shown:
        speaker = Speaker(part, normaliser, protocol)
        for condition in conditions:
            pictures = from_unit(generate(loaded.generator, speaker, condition, 0, 0, len(rows)))
            heard = condition.length + (", fused" if condition.fused else "")
            for tiles, picture in zip(rows, pictures, strict=True):
                tiles.append(Tile(to_photo(picture), [heard, label]))
    named = [SheetRow(part.names[i], tiles) for i, tiles in enumerate(rows)]
    title = f"{part.data.release.name}, {part.split}: real faces, and faces generated from speech"
    return contact_sheet(named, max(len(tiles) for tiles in rows), side_px, title)
