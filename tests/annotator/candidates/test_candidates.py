"""The candidates that people choose from: who, in which order, with which pictures, how fresh."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

from annotator.candidates import tiles
from annotator.candidates.candidates import Candidates, certainties
from annotator.candidates.index import INDEX, open_index
from annotator.candidates.originals import ORIGINAL_PX
from annotator.candidates.tiles import Prepared
from annotator.limits.too_few import too_few
from hqvox.errors import HqvoxError
from hqvox.imaging.composite import composite_on_white
from hqvox.imaging.pictures import encode_jpeg
from hqvox.imaging.views import aligned_crop, mask_of
from hqvox.release.select import ranked_faces, select_auto
from hqvox.runner.lookup import joined_rows
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import MEASURES, value_of
from hqvox.workspace.storage import Storage
from pipelines.chain import STAGE_NAMES
from tests.helpers.synthetic_build import commit, draw_photo, make_build

NAMES = ("Ada Lovelace", "Bedřich Ω", "Few Faces", "Nobody", "<script>alert(1)</script>")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("candidates")
    make_build(folder / "w", folder / "photos", NAMES, photos_per_identity=20)
    return folder / "w"


@pytest.fixture
def build(finished: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(finished, tmp_path / "w"))


def pixels(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_people_get_those_with_enough_candidates_best_first(build: Workspace) -> None:
    found = Candidates(build)
    assert [p.identity_id for p in found.identities] == ["id0", "id1", "id4"]
    assert [p.identity_id for p in found.everyone] == ["id0", "id1", "id2", "id3", "id4"]
    assert [p.candidates for p in found.everyone] == [10, 10, 2, 0, 10]
    assert found.summary("id4").name == "<script>alert(1)</script>"
    qualities = [face.quality for face in found.faces("id0")]
    assert qualities == sorted(qualities, reverse=True)
    assert [face.number for face in found.faces("id0")] == list(range(10))
    assert found.faces("id3") == []


def test_the_machines_pick_is_what_auto_would_release(build: Workspace) -> None:
    found = Candidates(build)
    config = build.config().release
    auto = select_auto(build.identities().to_pylist(), ranked_faces(build), config)
    for person in found.everyone:
        faces = found.faces(person.identity_id)
        picked = [
            (face.row["identity_id"], face.row["candidate"], face.row["face"])
            for face in faces
            if face.picked
        ]
        assert picked == auto.faces.get(person.identity_id, [])


def test_measures_are_those_of_the_stages(build: Workspace) -> None:
    face = Candidates(build).faces("id1")[3]
    key = (face.row["identity_id"], face.row["candidate"], face.row["face"])
    (row,) = joined_rows(build, face.row["shard"], [key])
    assert face.measures == {m.name: value_of(row, m.name) for m in MEASURES}
    assert face.ref.photo_id == row["photo_id"]
    assert list(face.ref.box_xyxy) == row["box_xyxy"]


def test_a_tile_is_the_face_on_white(build: Workspace) -> None:
    found = Candidates(build)
    face = found.faces("id0")[2]
    key = (face.row["identity_id"], face.row["candidate"], face.row["face"])
    (row,) = joined_rows(build, face.row["shard"], [key])
    crop, alpha = aligned_crop(build, row), mask_of(build, row)
    assert crop is not None
    assert alpha is not None
    whole = composite_on_white(crop, alpha)
    tile = pixels(found.tile("id0", 2, 1024))
    assert tile.shape == whole.shape  # never enlarged
    assert np.abs(tile.astype(int) - whole).mean() < 2
    assert pixels(found.tile("id0", 2, 100)).shape == (100, 100, 3)
    assert found.tile("id0", 2, 100) is found.tile("id0", 2, 100)


def test_an_original_comes_with_its_face_marked(build: Workspace) -> None:
    found = Candidates(build)
    face = found.faces("id0")[0]
    shown = found.original("id0", 0)
    assert (shown.width_px, shown.height_px) == (240, 300)
    assert shown.box_xyxy == pytest.approx(face.ref.box_xyxy)
    key = (face.row["identity_id"], face.row["candidate"], face.row["face"])
    (row,) = joined_rows(build, face.row["shard"], [key])
    assert np.array(shown.landmarks_xy).ravel() == pytest.approx(row["landmarks_xy"])
    points = np.array(row["landmarks_xy"]).reshape(68, 2)
    drawn = draw_photo(face.row["candidate"], [points])  # id0's photographs are drawn by number
    assert np.abs(pixels(shown.jpeg).astype(int) - drawn).mean() < 4


def test_a_large_original_is_reduced_and_its_marks_with_it(
    build: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annotator.candidates.originals.ORIGINAL_PX", 150)
    found = Candidates(build)
    face = found.faces("id0")[0]
    shown = found.original("id0", 0)
    assert ORIGINAL_PX == 1600
    assert (shown.width_px, shown.height_px) == (120, 150)
    expected = [(v + 0.5) / 2 - 0.5 for v in face.ref.box_xyxy]
    assert shown.box_xyxy == pytest.approx(expected)


def test_a_reference_photograph_is_shown_where_there_is_one(build: Workspace) -> None:
    found = Candidates(build)
    assert found.reference("id0") is None
    picture = np.full((40, 30, 3), (200, 30, 30), np.uint8)
    build.storage.write("references/id0.jpg", encode_jpeg(picture, 95))
    build.storage.write("references/id1.png", b"no picture")
    shown = found.reference("id0")
    assert shown is not None
    assert np.abs(pixels(shown).astype(int) - picture).mean() < 5
    assert found.reference("id1") is None


def test_no_argument_reaches_beyond_the_workspace(build: Workspace, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(encode_jpeg(np.zeros((9, 9, 3), np.uint8), 90))
    build.storage.write("references/x.jpg", b"")
    found = Candidates(build)
    for name in ("../secret", "../../secret", str(tmp_path / "secret"), "", "id0/../id1", "id9"):
        for ask in (
            lambda n=name: found.reference(n),
            lambda n=name: found.faces(n),
            lambda n=name: found.tile(n, 0, 100),
            lambda n=name: found.original(n, 0),
            lambda n=name: found.prepare(n, 100),
            lambda n=name: found.fingerprint(n),
        ):
            with pytest.raises(HqvoxError, match="no identity"):
                ask()
    for n in (-1, 10, 10**9):
        with pytest.raises(HqvoxError, match="no candidate"):
            found.tile("id0", n, 100)
        with pytest.raises(HqvoxError, match="no candidate"):
            found.original("id0", n)


def test_an_identitys_own_name_leads_nowhere_else(tmp_path: Path) -> None:
    """An identity may be called like a path; its reference still lies in the folder."""
    workspace = make_build(tmp_path / "w", tmp_path / "photos", ["A", "B"], 14)
    table = workspace.identities()
    ids = ["../../secret", ".."]
    table = table.set_column(0, table.schema.field(0), [ids])
    import pyarrow.parquet as pq

    with workspace.storage.writing("identities.parquet") as file:
        pq.write_table(table, file)
    (tmp_path / "secret.jpg").write_bytes(encode_jpeg(np.zeros((9, 9, 3), np.uint8), 90))
    assert [Candidates(workspace).reference(name) for name in ids] == [None, None]


def test_the_index_is_read_again_only_where_the_build_changed(
    build: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = build.__class__.read_stage

    def counting(self: Workspace, stage: str, shard: str, columns: object = None) -> object:
        read.append(shard)
        return original(self, stage, shard, columns)  # type: ignore[arg-type]

    monkeypatch.setattr(Workspace, "read_stage", counting)
    told: list[tuple[int, int]] = []
    first = Candidates(build, on_progress=lambda done, total: told.append((done, total)))
    assert set(read) == set(build.shards())
    assert told[-1] == (5, 5)
    read.clear()
    assert Candidates(build).faces("id0") == first.faces("id0")
    assert read == []
    assert not first.changed()
    _rebuild(build, "00001", keep=4)
    assert first.changed()
    again = Candidates(build)
    assert set(read) == {"00001"}
    assert [p.candidates for p in again.everyone] == [10, 4, 2, 0, 10]
    assert again.faces("id4") == first.faces("id4")


def _rebuild(workspace: Workspace, shard: str, keep: int) -> None:
    """Build a shard anew so that its last stage keeps fewer faces."""
    tables = {}
    for stage in STAGE_NAMES:
        table = workspace.read_stage(stage, shard)
        assert table is not None
        tables[stage] = table.to_pylist()
    tables["quality"] = tables["quality"][:keep]
    time.sleep(0.01)  # beyond the file system's resolution of times
    commit(workspace, workspace.config(), shard, tables)


def test_fingerprints_are_the_builds(build: Workspace) -> None:
    found = Candidates(build)
    record = build.committed("quality", "00000")
    assert record is not None
    assert found.fingerprint("id0") == record["hash"]


def test_a_shard_that_is_being_built_is_left_out_and_named(build: Workspace) -> None:
    build.storage.remove(build.table_name("quality", "00001"))
    found = Candidates(build)
    assert found.unfinished == ["00001"]
    assert [p.identity_id for p in found.identities] == ["id0", "id4"]
    assert found.fingerprint("id1") == ""
    assert [p.identity_id for p in found.too_few()] == ["id2", "id3"]


def test_a_damaged_index_is_made_anew(build: Workspace) -> None:
    whole = Candidates(build).faces("id0")
    data = build.storage.read(INDEX)
    for damaged in (b"", b"ARROW1", data[: len(data) // 2]):
        build.storage.write(INDEX, damaged)
        assert Candidates(build).faces("id0") == whole
    assert build.storage.read(INDEX) == data


def test_a_workspace_that_cannot_be_written_can_be_looked_at(
    build: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Storage, name: str) -> object:
        raise HqvoxError("read-only")

    monkeypatch.setattr(Storage, "writing", refuse)
    assert len(Candidates(build).faces("id0")) == 10


def test_a_damaged_table_is_named(build: Workspace) -> None:
    build.storage.write(build.table_name("pose", "00000"), b"PAR1 no")
    with pytest.raises(HqvoxError, match=r"stages/pose/00000.parquet: cannot be read"):
        Candidates(build)


def test_a_picture_of_another_build_is_never_shown(build: Workspace) -> None:
    found = Candidates(build)
    tar = Path(build.storage.path(build.tar_name("align", "00000")))
    data = bytearray(tar.read_bytes())
    offset = found.faces("id0")[1].row["aligned_offset"] - 512
    data[offset : offset + 4] = b"beef"  # the member's name: another photograph
    tar.write_bytes(bytes(data))
    with pytest.raises(HqvoxError, match="not where it was"):
        found.tile("id0", 1, 100)
    assert found.tile("id0", 0, 100)
    tar.unlink()
    with pytest.raises(HqvoxError, match="not where it was"):
        found.tile("id0", 2, 100)


def test_a_damaged_picture_is_named(build: Workspace) -> None:
    found = Candidates(build)
    tar = Path(build.storage.path(build.tar_name("align", "00000")))
    data = bytearray(tar.read_bytes())
    offset = found.faces("id0")[1].row["aligned_offset"]
    data[offset : offset + 200] = bytes(200)
    tar.write_bytes(bytes(data))
    with pytest.raises(HqvoxError, match=r"stages/align/00000.tar: a picture of id0 is damaged"):
        found.tile("id0", 1, 100)


def test_it_works_on_object_storage(finished: Path) -> None:
    remote = fsspec.filesystem("memory")
    remote.put(str(finished), "/candidates-test", recursive=True)
    workspace = Workspace.open("memory://candidates-test")
    local = Candidates(Workspace.open(finished))
    for _ in range(2):  # indexed, and from the index
        found = Candidates(workspace)
        assert found.faces("id0") == local.faces("id0")
        assert found.tile("id0", 0, 100) == local.tile("id0", 0, 100)
        assert found.original("id0", 0) == local.original("id0", 0)
        assert not found.changed()
    remote.rm("/candidates-test", recursive=True)


def test_tiles_are_made_ahead_and_once(build: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = tiles.masked_crop

    def counting(workspace: Workspace, row: dict, side_px: int | None = None) -> np.ndarray:
        made.append(row["photo_id"])
        return make(workspace, row, side_px)

    monkeypatch.setattr(tiles, "masked_crop", counting)
    found = Candidates(build)
    found.prepare("id0", 100)
    for n in range(10):
        assert found.tile("id0", n, 100)
    found.prepare("id0", 100)
    assert len(made) == len(set(made)) == 10


def test_many_threads_get_the_same_pictures(build: Workspace) -> None:
    alone = Candidates(build)
    expected = {(i, n): alone.tile(i, n, 90) for i in ("id0", "id1", "id4") for n in range(10)}
    found, wrong = Candidates(build), []

    def ask(seed: int) -> None:
        order = list(expected)
        np.random.default_rng(seed).shuffle(order)
        for identity_id, n in order:
            found.prepare(str(identity_id), 90)
            if found.tile(str(identity_id), int(n), 90) != expected[str(identity_id), int(n)]:
                wrong.append((identity_id, n))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_prepared_keeps_the_latest_within_its_bytes_and_forgets_failures() -> None:
    made: list[int] = []

    def make(n: int) -> bytes:
        made.append(n)
        if made.count(n) == 1 and n == 9:
            raise HqvoxError("once")
        return bytes(10)

    kept = Prepared(most_bytes=35, threads=1)
    for n in (0, 1, 2, 0, 3):  # 3 makes room at the cost of 1, which was asked for longest ago
        kept.get(n, lambda n=n: make(n))
    for n in (0, 2, 3, 1):
        kept.get(n, lambda n=n: make(n))
    assert made == [0, 1, 2, 3, 1]
    with pytest.raises(HqvoxError, match="once"):
        kept.get(9, lambda: make(9))
    assert kept.get(9, lambda: make(9)) == bytes(10)


def test_certainty_is_low_for_a_doubtful_person_and_for_an_arbitrary_pick(
    build: Workspace,
) -> None:
    def scores(rows: list[tuple[str, float, float]]) -> dict[str, float]:
        index = open_index(build)
        quality, similarity = (np.array([row[k] for row in rows], float) for k in (1, 2))
        starts: dict[str, tuple[int, int]] = {}
        for number, (name, _, _) in enumerate(rows):
            starts[name] = (starts.get(name, (number, 0))[0], number + 1)

        class Fake(type(index)):  # type: ignore[misc]
            def column(self, name: str) -> np.ndarray:
                return {"quality": quality, "core_similarity": similarity}[name]

        return certainties(Fake(index.table, starts, {}, {}), max_faces=2)

    found = scores(
        [
            *[("sure", q, 0.99) for q in (0.9, 0.8, 0.2)],  # clear choice, one person
            *[("arbitrary", q, 0.98) for q in (0.9, 0.8, 0.79)],  # third as good as second
            *[("mixed", q, s) for q, s in ((0.9, 0.9), (0.8, 0.4), (0.1, 0.9))],  # two people?
            *[("all", q, 0.95) for q in (0.9, 0.5)],  # nothing to leave out
            *[("unchosen", q, s) for q, s in ((0.9, 0.97), (0.8, 0.97), (0.4, -1.0))],
        ]
    )
    assert found["arbitrary"] == 0.0
    assert found["mixed"] == 0.0
    assert found["sure"] == max(found.values())
    assert 0 < found["unchosen"] < found["sure"]  # who is not picked is no doubt about the pick
    assert all(0 <= value <= 1 for value in found.values())
    assert certainties(open_index(build), 7)  # of the build itself, too


def test_too_few_says_what_would_have_saved_whom(tmp_path: Path) -> None:
    names = ["Two Left", "Many", "No Photos", "None"]
    limits = {"lighting": {"max_light_ratio": 2.0}, "pose": {"max_pitch_deg": 5.0}}
    workspace = make_build(
        tmp_path / "w", tmp_path / "photos", names, photos_per_identity=12, settings=limits
    )
    config = workspace.config(["release.min_faces=3"])
    found = Candidates(workspace, config)
    # id0 and id1 keep candidates 0 and 4 of their twelve; id2 keeps both of two; id3 has none.
    assert [p.identity_id for p in found.too_few()] == ["id0", "id1", "id2", "id3"]
    told: list[str] = []
    lost = too_few(
        workspace, config, found.too_few(), on_progress=lambda s, done, total: told.append(s)
    )
    assert told[0] == "discover"
    by_id = {person.identity_id: person for person in lost.identities}
    assert [p.missing for p in lost.identities] == [1, 1, 1, 3]
    assert by_id["id0"].reasons == {
        "duplicate": 1, "no_face": 1, "not_an_image": 1, "not_neutral": 1, "not_segmented": 1,
        "out_of_frame": 1, "pupils_too_close": 1, "someone_else": 1, "tilted": 1,
        "turned_away": 1, "uneven_light": 1,
    }  # fmt: skip
    assert by_id["id3"].reasons == {}
    assert by_id["id3"].nearest == []
    # The photograph with yaw 21.5° is also asymmetric: no single limit would have saved it. The
    # light ratio of 2.5 (limit 2) is the nearest miss, a quarter of the limit away.
    nearest = by_id["id0"].nearest[0]
    assert (nearest.measure, nearest.candidate, nearest.value) == ("light_ratio", 8, 2.5)
    assert nearest.miss == pytest.approx(0.25)
    assert by_id["id0"].saved_by == {
        "lighting.max_light_ratio": 2.5,
        "pupils.min_ipd_px": 12.0,
        "pose.max_pitch_deg": 14.0,
        "align.max_outside_fraction": 0.41,  # 0.4 as stored, float32, is a little more
        "segment.min_face_coverage": 0.5,
        **{k: v for k, v in by_id["id0"].saved_by.items() if k.startswith("emotion.")},
    }
    first = lost.remedies[0]
    assert (first.setting, first.limit, first.saved) == ("lighting.max_light_ratio", 2.0, 2)
    assert first.steps == ((2.2, 0), (2.5, 2), (3.0, 2))
    assert {r.setting for r in lost.remedies} == set(by_id["id0"].saved_by)
