"""A purge reaches the small pictures that training packed of a release."""

from __future__ import annotations

from pathlib import Path

import pytest

from hqvox.release.read import Release
from hqvox.release.write import write_release
from hqvox.takedown.purge import plan_purge, run_purge
from hqvox.trainer.packing import ReleaseCache
from hqvox.workspace.layout import Workspace
from hqvox.workspace.takedowns import Takedown
from tests.helpers.synthetic_build import make_build


def test_packed_faces_go_with_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    make_build(tmp_path / "w", tmp_path / "photos", photos_per_identity=20)
    workspace = Workspace.open(tmp_path / "w")
    write_release(workspace, "v1", workspace.config(), auto=True, split="seed:0")
    release = Release(workspace, "v1")
    cache = ReleaseCache(release)
    files = release.manifest(["masked_file"])["masked_file"].to_pylist()
    cache.pictures(files, "masked", (16,), None)
    elsewhere = cache.folder.parent / "0123456789abcdef-0123456789abcdef"  # of another release
    elsewhere.mkdir()
    assert (cache.folder / "masked_16.npy").exists()

    with workspace.lock(purging=True):
        run_purge(workspace, plan_purge(workspace, [Takedown("identity", "id0")]))

    assert not cache.folder.exists()
    assert elsewhere.exists()
