"""Which workspace a database belongs to, so that two never mix their decisions in one.

A file lies in its workspace; a database is named by an address, which is soon copied from one
configuration into another. Both sides keep the same random name: a workspace may be moved.
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa

from annotator.log.place import PLACE
from annotator.log.schema import META
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace


def claim(connection: sa.Connection, workspace: Workspace, where: str) -> None:
    """Have the store belong to the workspace, within the caller's writing transaction.

    Raises HqvoxError where it belongs to another.
    """
    storage = workspace.storage
    own = storage.read(PLACE).decode("utf-8", "replace").strip() if storage.exists(PLACE) else ""
    owner = connection.execute(sa.select(META.c.workspace)).scalar_one()
    if owner is None:
        own = own or secrets.token_hex(16)
        connection.execute(sa.update(META).values(workspace=own))
    elif own != owner:
        raise HqvoxError(
            f"{where}: holds the decisions of another workspace; name another database in "
            f"review.store, or, if {workspace.url} was made anew in its place, write {owner} into "
            f"{storage.path(PLACE)}"
        )
    if not storage.exists(PLACE):
        storage.write(PLACE, f"{own}\n".encode())
