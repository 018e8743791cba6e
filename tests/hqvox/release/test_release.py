"""Writing a release from a hand-made build, and reading it back."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hqvox.errors import HqvoxError
from hqvox.release import pictures, write
from hqvox.release.datasheet import datasheet
from hqvox.release.layout import folder_names
from hqvox.release.read import Release, release_names
from hqvox.release.select import best_faces, ranked_faces
from hqvox.release.split import make_split, official_part
from hqvox.release.stats import PAPER, release_stats, table_1
from hqvox.release.write import write_release
from hqvox.runner.lookup import Key, table_keys
from hqvox.workspace.layout import Workspace
from tests.helpers.synthetic_build import make_build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("release")
    return make_build(root / "w", root / "photos")


@pytest.fixture(scope="module")
def released(build: Workspace) -> Path:
    return Path(write_release(build, "first", build.config(), auto=True).folder)


def files_of(folder: Path) -> dict[str, bytes]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def test_tree_is_the_released_datasets(released: Path) -> None:
    pictures = sorted(str(f.relative_to(released)) for f in released.rglob("*_faces/*/*.jpg"))
    assert pictures == sorted(
        f"custom/{kind}/{name}/{n}.jpg"
        for kind in ("masked_faces", "origin_faces")
        for name in ("Ada_Lovelace", "Bedřich_Ω")
        for n in range(4)
    )


def test_pictures_are_square_full_colour_and_masked_on_white(
    build: Workspace, released: Path
) -> None:
    row = Release(build, "first").manifest().to_pylist()[0]
    with Image.open(released / row["masked_file"]) as masked:
        assert masked.size == (row["crop_side_px"],) * 2
        assert {component[1:3] for component in masked.layer} == {(1, 1)}  # no chroma subsampling
        assert np.asarray(masked)[:5, :5].min() > 245
    with Image.open(released / row["origin_file"]) as origin:
        assert np.asarray(origin)[:5, :5].min() < 240


def test_manifest_has_measurements_provenance_and_hashes(build: Workspace, released: Path) -> None:
    rows = Release(build, "first").manifest().to_pylist()
    assert [row["candidate"] for row in rows[:4]] == [0, 4, 12, 13]  # best quality first
    for row in rows:
        assert row["selection"] == "auto"
        assert row["reviewed"] is False
        for kind in ("masked", "origin"):
            data = (released / row[f"{kind}_file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == row[f"{kind}_sha256"]
        assert row["url"] == f"{row['name'].replace(' ', '%20')}/{row['candidate']}.jpg"
        assert re.fullmatch("[0-9a-f]{64}", row["photo_id"])
        assert row["yaw_deg"] == pytest.approx(1.0)
        assert dict(row["emotion_probabilities"])["neutral"] == pytest.approx(0.8)
        assert "aligned_offset" not in row


def test_the_datasheet_says_which_reservations_were_kept_to(
    build: Workspace, released: Path
) -> None:
    info = json.loads((released / "release.json").read_text())
    assert info["reservations"]["crawled"] is False
    assert "Reservations" not in (released / "DATASHEET.md").read_text()
    manifest, identities = (
        pq.read_table(released / f"{name}.parquet") for name in ("manifest", "identities")
    )
    refused = {"personality_rights": 1200, "rights_reserved": 34}
    info["reservations"] |= {"crawled": True, "refused": refused, "opt_out": ["noai"]}
    text = datasheet(manifest, identities, info, build.config())
    assert "kept to: robots.txt, X-Robots-Tag (noai), the header tdm-reservation, " in text
    assert "1,234 photographs (personality rights 1,200, rights reserved 34)." in text
    info["reservations"] |= {"robots": False, "opt_out": [], "respect": [], "refused": {}}
    text = datasheet(manifest, identities, info, build.config())
    assert "kept to: *nothing*. Refused for that: 0 photographs." in text


def test_checksums_cover_every_other_file(released: Path) -> None:
    files = files_of(released)
    sums = dict(
        reversed(line.split("  ", 1)) for line in files.pop("SHA256SUMS").decode().splitlines()
    )
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_identities_with_too_few_faces_are_left_out_and_named(build: Workspace) -> None:
    info = Release(build, "first").info()
    assert info["identities"] == 2
    assert info["dropped"] == [
        {"identity_id": "id2", "name": "Few Faces", "faces": 2, "utterances": 0},
        {"identity_id": "id3", "name": "Nobody", "faces": 0, "utterances": 0},
    ]


def test_split_file_has_the_released_codes_form(released: Path) -> None:
    split = json.loads((released / "split.json").read_text())
    assert split == {"custom": {"train": ["Ada_Lovelace", "Bedřich_Ω"], "val": [], "test": []}}


def test_same_build_gives_the_same_bytes_and_no_trace_of_the_machine(
    build: Workspace, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Path(write_release(build, "second", build.config(), auto=True).folder)
    assert files_of(again) == files_of(released)
    monkeypatch.setattr(pictures, "SHEET_IDENTITIES", 1)  # two pages: work for two processes
    one, two = (
        Path(write_release(build, f"by-{n}", build.config(), auto=True, workers=n).folder)
        for n in (1, 2)
    )
    assert files_of(one) == files_of(two)
    for name, data in files_of(released).items():
        assert str(released.parent).encode() not in data, name


def test_a_name_is_used_once(build: Workspace, released: Path) -> None:
    with pytest.raises(HqvoxError, match="releases never change"):
        write_release(build, "first", build.config(), auto=True)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden", "x.tmp", "ü", "a" * 65])
def test_bad_names_are_refused(build: Workspace, name: str) -> None:
    with pytest.raises(HqvoxError, match="cannot name a release"):
        write_release(build, name, build.config(), auto=True)


def test_auto_leaves_out_doubtful_masks_and_says_how_many(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos")
    first = write_release(workspace, "first", workspace.config(), auto=True)
    assert first.info["doubtful_masks_left_out"] == 0
    doubted = next(keys[0] for keys in ranked_faces(workspace).values() if len(keys) > 3)
    shard = next(s for s in workspace.shards() if doubted in _keys(workspace, s))
    table = workspace.read_stage("segment", shard)
    column = table.schema.get_field_index("edge_confidence")
    values = [
        0.54 if key == doubted else value
        for key, value in zip(table_keys(table), table["edge_confidence"].to_pylist(), strict=True)
    ]
    field = table.schema.field(column)
    table = table.set_column(column, field, pa.array(values, field.type))
    workspace.write_stage("segment", shard, table, workspace.committed("segment", shard))
    second = write_release(workspace, "second", workspace.config(), auto=True)
    assert second.info["doubtful_masks_left_out"] == 1
    rows = Release(workspace, "second").manifest().to_pylist()
    assert doubted not in {(r["identity_id"], r["candidate"], r["face"]) for r in rows}
    kept = workspace.config(["release.min_mask_certainty=0.5"])
    assert write_release(workspace, "third", kept, auto=True).images == first.images


def _keys(workspace: Workspace, shard: str) -> set[Key]:
    return set(table_keys(workspace.read_stage("segment", shard)))


def test_without_reviews_auto_must_be_said(build: Workspace) -> None:
    with pytest.raises(HqvoxError, match="nobody has reviewed this build yet; add --auto"):
        write_release(build, "by-people", build.config(), auto=False)


def test_a_stale_build_is_not_released(build: Workspace) -> None:
    with pytest.raises(HqvoxError, match=r"not up to date .*pose.*run `hqvox build"):
        write_release(build, "stale", build.config(["pose.max_yaw_deg=8"]), auto=True)
    assert "stale" not in release_names(build)


def test_nobody_with_enough_faces_is_one_clear_line(build: Workspace) -> None:
    config = build.config(["release.min_faces=9", "release.max_faces=9"])
    with pytest.raises(HqvoxError, match=r"no identity has 9 faces .*the most is 4"):
        write_release(build, "none", config, auto=True)


def test_interrupted_release_leaves_nothing_and_leftovers_are_cleared(
    build: Workspace, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = released.parent / ".killed.tmp" / "custom"
    leftover.mkdir(parents=True)
    (leftover / "0.jpg").write_bytes(b"half")

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "_write_tables", stop)
        with pytest.raises(KeyboardInterrupt):
            write_release(build, "third", build.config(), auto=True)
    assert not leftover.exists()
    assert not list(released.parent.glob(".*"))
    assert "third" not in release_names(build)
    third = Path(write_release(build, "third", build.config(), auto=True).folder)
    assert files_of(third) == files_of(released)


def test_object_storage_has_the_release_only_when_it_is_whole(
    tmp_path: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = make_build(f"memory://{tmp_path.name}", tmp_path / "photos")

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "_write_tables", stop)
        with pytest.raises(KeyboardInterrupt):
            write_release(remote, "first", remote.config(), auto=True)
    assert release_names(remote) == []
    write_release(remote, "first", remote.config(), auto=True)
    assert release_names(remote) == ["first"]
    release = Release(remote, "first")
    for name, data in files_of(released).items():
        assert release.read(name) == data, name


def test_missing_release_says_which_there_are(build: Workspace, released: Path) -> None:
    with pytest.raises(HqvoxError, match=r"no release 'nope' \(there is: .*first"):
        Release(build, "nope")


def test_stats_count_parts_and_stand_beside_the_papers(build: Workspace, released: Path) -> None:
    total, train, val, test = release_stats(Release(build, "first"))
    assert (total.identities, total.images, total.utterances) == (2, 8, None)
    assert train.images == 8
    assert (val.images, test.images, test.mean_side_px) == (0, 0, None)
    sides = Release(build, "first").manifest(["crop_side_px"])["crop_side_px"].to_pylist()
    assert total.mean_side_px == pytest.approx(sum(sides) / 8)
    assert dict(table_1(PAPER))["utterances"] == ["609,700", "478,009", "63,337", "68,354"]


def test_official_split_goes_by_row() -> None:
    assert [official_part(row) for row in range(10)] == ["train"] * 8 + ["test", "val"]
    assert official_part(1248) == "test"


def people(count: int) -> Iterator[dict]:
    return ({"identity_id": f"id{n}", "subset": "vox1", "row": n} for n in range(count))


def test_seeded_split_is_a_tenth_each_and_independent_of_order() -> None:
    rows = list(people(40))
    parts = make_split(rows, "seed:7").parts
    assert sorted(parts.values()).count("test") == 4
    assert sorted(parts.values()).count("val") == 4
    assert make_split(rows[::-1], "seed:7").parts == parts
    assert make_split(rows, "seed:8").parts != parts


@pytest.mark.parametrize("how", ["seed:", "seed:x", "random", "seed:-1", ""])
def test_unknown_split_is_refused(how: str) -> None:
    with pytest.raises(HqvoxError, match="--split"):
        make_split(list(people(3)), how)


def test_folders_are_safe_and_never_shared() -> None:
    names = ["A/B", "A:B", "a_b", "..", "漢" * 120, "漢" * 119, "O'Neil-Smith Jr."]
    rows = [
        {"identity_id": f"id/{n}", "name": name, "subset": "vox2"} for n, name in enumerate(names)
    ]
    folders = [folder for _, folder in folder_names(rows).values()]
    assert folders[:4] == ["A_B", "A_B-id_1", "a_b-id_2", "__"]
    assert folders[6] == "O'Neil-Smith_Jr."
    assert len({f.casefold() for f in folders}) == len(names)
    assert all(len(f.encode()) <= 200 and "/" not in f for f in folders)


def test_best_faces_rank_by_quality_then_by_order() -> None:
    faces = [(("a", n, 0), q) for n, q in enumerate([0.1, 0.9, None, 0.9, 0.5])]
    assert [key[1] for key in best_faces(faces, 4)] == [1, 3, 4, 0]


def test_contact_sheet_shows_every_identity(build: Workspace, released: Path) -> None:
    data = Release(build, "first").read("contact_sheets/001.jpg")
    with Image.open(io.BytesIO(data)) as sheet:
        assert sheet.width > 7 * 128
        assert sheet.height > 2 * 128
