"""Which faces of an identity are released (SF2F §3 and appendix B.1: the 3 to 7 best)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hqvox.config import ReleaseConfig
from hqvox.lookup import Key, table_keys
from hqvox.tables import Row
from hqvox.workspace import Workspace
from pipelines.quality import QualityStage


@dataclass
class Selection:
    """Faces to release, per identity, best first; and the identities that have too few."""

    faces: dict[str, list[Key]] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    """Of every identity, how many faces the build kept."""
    dropped: list[Row] = field(default_factory=list)
    """Identity rows, in order, that are left out."""


def best_faces(faces: Sequence[tuple[Key, float | None]], limit: int) -> list[Key]:
    """The ``limit`` best of (key, quality) pairs, best first; ties go by the photos' order."""
    ranked = sorted(faces, key=lambda f: (-(f[1] if f[1] is not None else -1.0), f[0]))
    return [key for key, _ in ranked[:limit]]


def select_auto(workspace: Workspace, config: ReleaseConfig) -> Selection:
    """Take the best faces of every identity by their quality, as no person has looked at them."""
    selection = Selection()
    for shard, identities in workspace.shards().items():
        table = workspace.read_stage(QualityStage.name, shard, ["quality", "reason"])
        assert table is not None, shard  # the caller has seen that the build is up to date
        table = table.filter(table["reason"].is_null())
        found: dict[str, list[tuple[Key, float | None]]] = {}
        for key, quality in zip(table_keys(table), table["quality"].to_pylist(), strict=True):
            found.setdefault(key[0], []).append((key, quality))
        for identity in identities:
            identity_id = identity["identity_id"]
            faces = found.get(identity_id, [])
            selection.kept[identity_id] = len(faces)
            if len(faces) < config.min_faces:
                selection.dropped.append(identity)
            else:
                selection.faces[identity_id] = best_faces(faces, config.max_faces)
    return selection
