"""Which faces of an identity are released (SF2F §3 and appendix B.1: the 3 to 7 best)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from hqvox.config.build import ReleaseConfig
from hqvox.runner.lookup import Key, table_keys
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import Row
from pipelines.quality import QualityStage


@dataclass
class Selection:
    """Faces to release, per identity, best first; and the identities that have too few."""

    faces: dict[str, list[Key]] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    """Of every identity, how many faces the build kept."""
    dropped: list[Row] = field(default_factory=list)
    """Identity rows, in order, that are left out."""

    def keys(self) -> list[Key]:
        """All faces, in order."""
        return [key for keys in self.faces.values() for key in keys]


def ranked_faces(workspace: Workspace) -> dict[str, list[Key]]:
    """Of every identity, the faces that the build kept, best first by their quality."""
    ranked: dict[str, list[Key]] = {}
    for shard, identities in workspace.shards().items():
        table = workspace.read_stage(QualityStage.name, shard, ["quality", "reason"])
        assert table is not None, shard  # the caller has seen that the build is up to date
        table = table.filter(table["reason"].is_null())
        found: dict[str, list[tuple[Key, float | None]]] = {}
        for key, quality in zip(table_keys(table), table["quality"].to_pylist(), strict=True):
            found.setdefault(key[0], []).append((key, quality))
        for identity in identities:
            faces = found.get(identity["identity_id"], [])
            ranked[identity["identity_id"]] = best_faces(faces, len(faces))
    return ranked


def best_faces(faces: Sequence[tuple[Key, float | None]], limit: int) -> list[Key]:
    """The ``limit`` best of (key, quality) pairs, best first; ties go by the photos' order."""
    ranked = sorted(faces, key=lambda f: (-(f[1] if f[1] is not None else -1.0), f[0]))
    return [key for key, _ in ranked[:limit]]


def select_auto(
    identities: Sequence[Row],
    ranked: Mapping[str, Sequence[Key]],
    config: ReleaseConfig,
    without: Collection[Key] = (),
) -> Selection:
    """Take the best faces of every identity by their quality, as no person has looked at them.

    ``identities``: all of the workspace's, in order. ``without``: faces that must not be released;
    the next best take their places.
    """
    selection = Selection()
    for identity in identities:
        identity_id = identity["identity_id"]
        selection.kept[identity_id] = len(ranked[identity_id])
        allowed = [key for key in ranked[identity_id] if key not in without]
        if len(allowed) < config.min_faces:
            selection.dropped.append(identity)
        else:
            selection.faces[identity_id] = allowed[: config.max_faces]
    return selection


def select_reviewed(
    identities: Sequence[Row],
    ranked: Mapping[str, Sequence[Key]],
    chosen: Mapping[str, Sequence[Key]],
    config: ReleaseConfig,
    without: Collection[Key] = (),
) -> Selection:
    """Take the faces that people chose, in their order; nobody else's take the place of any.

    ``chosen``: of the identities that people chose faces for. As in :func:`select_auto`,
    ``dropped`` are those with too few faces; identities that people left out are in neither.
    """
    selection = Selection()
    for identity in identities:
        identity_id = identity["identity_id"]
        selection.kept[identity_id] = len(ranked[identity_id])
        allowed = [key for key in chosen.get(identity_id, ()) if key not in without]
        if len(allowed) >= config.min_faces:
            selection.faces[identity_id] = allowed
        elif identity_id in chosen or len(ranked[identity_id]) < config.min_faces:
            selection.dropped.append(identity)
    return selection
