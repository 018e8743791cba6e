"""Erasing what people said about those who were taken down, and the pictures of who they are."""

from __future__ import annotations

from urllib.parse import unquote

from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tombstones import Tombstones


def erase_reviews(workspace: Workspace, stones: Tombstones) -> None:
    """Erase decisions on identities and photographs that tombstones name, wherever they are kept.

    Also the index of candidates, which is made again when needed, and reference photographs of the
    identities. Of what was taken down by host or address only hashes of photographs may stand in
    the log, and those mean nothing without the photographs. Raises HqvoxError where the store
    cannot be opened: the purge is not finished then.
    """
    from annotator.candidates.index import INDEX
    from annotator.candidates.originals import REFERENCES
    from annotator.log.place import has_store

    storage = workspace.storage
    folder = INDEX.rsplit("/", 1)[0]
    storage.remove_leftovers(folder)
    if storage.exists(INDEX):
        storage.remove(INDEX)
    for name in storage.names(REFERENCES):
        if stones.covers_identity(unquote(name.rsplit(".", 1)[0])):
            storage.remove(f"{REFERENCES}/{name}")
    values = {
        kind: [stone.value for stone in stones.entries if stone.kind == kind]
        for kind in ("identity", "photo")
    }
    if not has_store(workspace) or not any(values.values()):
        return
    try:
        from annotator.log.store import open_store
    except ImportError as error:
        raise HqvoxError(
            f"{workspace.url}: erasing reviews needs another package: pip install 'hqvox[review]' "
            f"({error}); then finish with `hqvox purge {workspace.url}`"
        ) from None
    store = open_store(workspace)
    try:
        store.forget(values["identity"], values["photo"])
    finally:
        store.close()
