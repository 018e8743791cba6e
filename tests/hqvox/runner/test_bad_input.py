"""What crawls leave behind: each file a row with its reason, and nothing else is lost."""

from __future__ import annotations

import io
import os
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hqvox.runner.build import plan_build, run_build
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from models.store import ModelStore

MUTATED = 2000


def photo(colour: int = 128, side: int = 64, kind: str = "JPEG") -> bytes:
    """A small picture of noise, no face in it."""
    noise = np.random.default_rng(colour).integers(0, 256, (side, side, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, kind)
    return sink.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A PNG whose header announces a huge picture."""
    data = bytearray(photo(kind="PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def build(root: Path, photos: Path, target: str, **settings: object) -> Workspace:
    values = {"format": 1, "discover": {"photos": str(photos)}, **settings}
    rows = identities.read_folders(photos)
    workspace = Workspace.create(str(root), yaml.safe_dump(values), identities.to_table(rows))
    config = workspace.config()
    tasks = plan_build(workspace, config, ModelStore(), target=target)
    result = run_build(workspace, config, tasks, workers=0)
    assert not result.failed, result.failed
    return workspace


def reasons(workspace: Workspace, stage: str) -> dict[str, str | None]:
    """Reason of each photo by its url."""
    found = {}
    for shard in workspace.shards():
        urls = workspace.read_stage("discover", shard, ["url"])
        rows = workspace.read_stage(stage, shard, ["reason"])
        assert urls is not None
        assert rows is not None
        by_candidate = {(r["identity_id"], r["candidate"]): r["url"] for r in urls.to_pylist()}
        for row in rows.to_pylist():
            found[by_candidate[row["identity_id"], row["candidate"]]] = row["reason"]
    return found


def test_each_bad_file_is_a_row_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / 'O\'Neil "x"'
    folder.mkdir(parents=True)
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "good.jpg").write_bytes(photo())
    (folder / "text.jpg").write_text("<html>not found</html>")
    (folder / "link.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "new\nline..jpg").write_bytes(photo(1))
    (folder / "truncated.jpg").write_bytes(photo(2, side=256)[:3000])
    (folder / ".hidden").write_bytes(photo(3))
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.jpg")).write_bytes(photo(4))
    os.mkfifo(folder / "pipe.jpg")
    (tmp_path / "photos" / "nobody").mkdir()
    workspace = build(tmp_path / "w", tmp_path / "photos", "landmarks")
    name = "O%27Neil%20%22x%22"
    assert reasons(workspace, "download") == {
        f"{name}/bomb.png": "too_large",
        f"{name}/empty.jpg": "empty_file",
        f"{name}/good.jpg": None,
        f"{name}/text.jpg": "not_an_image",
        f"{name}/link.jpg": "not_found",
        f"{name}/loop.jpg": "not_found",
        f"{name}/new%0Aline..jpg": None,
        f"{name}/truncated.jpg": None,
        f"{name}/%FF%FE.jpg": None,
        f"{name}/pipe.jpg": "not_a_file",
    }
    assert reasons(workspace, "landmarks") == {
        f"{name}/good.jpg": "no_face",
        f"{name}/new%0Aline..jpg": "no_face",
        f"{name}/truncated.jpg": "undecodable",
        f"{name}/%FF%FE.jpg": "no_face",
    }


def test_too_many_bytes_are_refused_before_reading(tmp_path: Path) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "big.jpg").write_bytes(photo(side=128))
    small = {"download": {"max_bytes": 1000}}
    workspace = build(tmp_path / "w", tmp_path / "photos", "download", **small)
    assert reasons(workspace, "download") == {"a/big.jpg": "too_large"}


def test_a_file_that_cannot_be_read_is_tried_again_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    file = tmp_path / "photos" / "a" / "1.jpg"
    file.write_bytes(photo())
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    workspace = build(tmp_path / "w", tmp_path / "photos", "download")
    assert reasons(workspace, "download") == {"a/1.jpg": "unreadable"}
    monkeypatch.undo()
    config, store = workspace.config(), ModelStore()
    assert not plan_build(workspace, config, store, target="download")
    tasks = plan_build(workspace, config, store, target="download", retry_failed=True)
    run_build(workspace, config, tasks, workers=0)
    assert reasons(workspace, "download") == {"a/1.jpg": None}


@pytest.mark.slow
def test_mutated_pictures_end_no_worker(tmp_path: Path, small_world: Path) -> None:
    chance = random.Random(0)
    originals = [photo(n, kind=k) for n, k in enumerate(("JPEG", "PNG", "WEBP", "GIF", "TIFF"))]
    originals += [file.read_bytes() for file in sorted(small_world.rglob("*.jpg"))[:3]]
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    for number in range(MUTATED):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 20)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        (folder / f"{number}.jpg").write_bytes(data)
    settings = {
        "discover": {"photos": str(tmp_path / "photos"), "limit": MUTATED},
        "decode": {"working_side_px": 256},
    }
    rows = identities.read_folders(tmp_path / "photos")
    workspace = Workspace.create(
        str(tmp_path / "w"), yaml.safe_dump({"format": 1, **settings}), identities.to_table(rows)
    )
    config = workspace.config()
    tasks = plan_build(workspace, config, ModelStore(), target="landmarks")
    result = run_build(workspace, config, tasks, workers=1)
    assert not result.failed, result.failed
    ended = reasons(workspace, "download")
    assert len(ended) == MUTATED
    assert set(ended.values()) <= {None, "empty_file", "not_an_image", "too_large"}
    assert set(reasons(workspace, "landmarks").values()) <= {None, "no_face", "undecodable"}
