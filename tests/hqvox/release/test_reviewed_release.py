"""A release of what people chose: their faces, in their order, and what became of the rest."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from annotator.candidates.candidates import Candidates
from annotator.candidates.matching import find_faces, iou
from annotator.log.access import Actor
from annotator.log.decisions import Decision, FaceRef
from annotator.log.store import Store, open_store
from hqvox.cli.app import app
from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.release.verify import verify_release
from hqvox.release.write import write_release
from hqvox.workspace.layout import Workspace
from pipelines.chain import STAGE_NAMES
from tests.helpers.synthetic_build import commit, make_build

ADA, BO, LEA = Actor("ada"), Actor("bo"), Actor("lea", "lead")
NAMES = ("Ada Lovelace", "Bedřich Ω", "Few Faces", "Nobody", "Clara Čapek", "Dora", "Emil", "Fay")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build whose identities keep ten faces each, but for id2 (two) and id3 (none)."""
    folder = tmp_path_factory.mktemp("reviewed")
    make_build(folder / "w", folder / "photos", NAMES, photos_per_identity=20)
    return folder / "w"


@pytest.fixture
def build(finished: Path, tmp_path: Path) -> Workspace:
    """A copy of it, to review."""
    return Workspace.open(shutil.copytree(finished, tmp_path / "w"))


def refs(workspace: Workspace, identity_id: str) -> list[FaceRef]:
    return [face.ref for face in Candidates(workspace).faces(identity_id)]


def choose(store: Store, actor: Actor, identity_id: str, faces: list[FaceRef]) -> int:
    decision = Decision(identity_id, "chosen", tuple(faces), shown=tuple(faces))
    return store.append(decision, key=uuid.uuid4().hex, actor=actor).seq


def drop(store: Store, actor: Actor, identity_id: str, reason: str = "wrong_person") -> None:
    store.append(Decision(identity_id, "dropped", reason=reason), key=uuid.uuid4().hex, actor=actor)


def release(workspace: Workspace, name: str = "v1") -> Release:
    write_release(workspace, name, workspace.config(), auto=False, split="seed:1", workers=1)
    return Release(workspace, name)


def faces_of(found: Release, identity_id: str) -> list[tuple[str, int]]:
    rows = found.manifest(["identity_id", "photo_id", "face"]).to_pylist()
    return [(r["photo_id"], r["face"]) for r in rows if r["identity_id"] == identity_id]


def test_people_are_released_with_the_faces_that_were_chosen_in_that_order(
    build: Workspace,
) -> None:
    first, second = refs(build, "id0"), refs(build, "id1")
    store = open_store(build)
    choose(store, ADA, "id0", [first[5], first[0], first[9]])
    choose(store, BO, "id1", second[:7])
    drop(store, BO, "id4")
    drop(store, ADA, "id5", "poor_quality")
    store.close()
    found = release(build)
    assert faces_of(found, "id0") == [first[5].key, first[0].key, first[9].key]
    assert faces_of(found, "id1") == [face.key for face in second[:7]]
    manifest = found.manifest(["identity_id", "selection", "reviewed", "reviewer"]).to_pylist()
    assert {(r["selection"], r["reviewed"]) for r in manifest} == {("review", True)}
    who = {(r["identity_id"], r["reviewer"]) for r in manifest}
    assert who == {("id0", "ada"), ("id1", "bo")}
    info = found.info()
    assert (info["selection"], info["reviewed"]) == ("review", True)
    assert info["review"] == {
        "reviewers": {"ada": 1, "bo": 1},
        "chosen": 2,
        "dropped": {"poor_quality": 1, "wrong_person": 1},
        "disputed": 0,
        "undecided": 2,
        "faces_gone": [],
    }
    assert [row["identity_id"] for row in info["dropped"]] == ["id2", "id3"]
    sheet = found.read("DATASHEET.md").decode()
    assert "2 reviewers chose for 2 identities (ada (1), bo (1);" in sheet
    assert "They dropped 2 identities (poor_quality 1, wrong_person 1); 2 were not decided" in sheet
    assert "no person has reviewed" not in sheet
    assert [line for check in verify_release(found) for line in check.failures] == []


def test_the_same_decisions_give_the_same_bytes(build: Workspace) -> None:
    store = open_store(build)
    for number, identity_id in enumerate(("id0", "id1", "id4")):
        choose(store, (ADA, BO, LEA)[number], identity_id, refs(build, identity_id)[1:5])
    store.close()
    sums = [release(build, name).read("SHA256SUMS") for name in ("v1", "v2")]
    assert sums[0] == sums[1]


def test_what_is_disputed_waits_and_a_leads_word_is_released(build: Workspace) -> None:
    shown = refs(build, "id0")
    store = open_store(build)
    for identity_id in ("id0", "id1"):
        faces = refs(build, identity_id)
        # Blind second opinions are given by lease; here the log alone matters.
        entries = [choose(store, ADA, identity_id, faces[:3])]
        assert entries
    choose(store, LEA, "id4", refs(build, "id4")[:3])
    _second_opinion(store, "id0", shown[6:9])
    _second_opinion(store, "id1", refs(build, "id1")[6:9])
    assert store.state()["id0"].status == "disputed"
    settled = [shown[0], shown[6], shown[1]]
    choose(store, LEA, "id0", settled)
    store.close()
    found = release(build)
    assert faces_of(found, "id0") == [face.key for face in settled]
    assert faces_of(found, "id1") == []
    told = found.info()["review"]
    assert (told["disputed"], told["reviewers"]) == (1, {"lea": 2})


def _second_opinion(store: Store, identity_id: str, faces: list[FaceRef]) -> None:
    from annotator.work.queue import Queue, QueueItem
    from hqvox.config.review import ReviewConfig

    queue = Queue(store, [QueueItem(identity_id, 10, 0.5)], ReviewConfig(second_fraction=1.0))
    lease = queue.lease(BO, identity_id)
    assert lease is not None
    choose(store, BO, identity_id, faces)


def test_undone_decisions_count_for_nothing(build: Workspace) -> None:
    store = open_store(build)
    choose(store, ADA, "id1", refs(build, "id1")[:3])
    seq = choose(store, ADA, "id0", refs(build, "id0")[:3])
    store.undo(seq, key="u", actor=ADA)
    store.close()
    found = release(build)
    assert found.identities()["identity_id"].to_pylist() == ["id1"]


def refuse(workspace: Workspace, gone: set[str]) -> None:
    """Rebuild the last stage so that these photographs are no candidates any more."""
    config = workspace.config()
    for shard in workspace.shards():
        tables = {}
        for stage in STAGE_NAMES:
            table = workspace.read_stage(stage, shard)
            assert table is not None
            tables[stage] = table.to_pylist()
        photos = {(r["identity_id"], r["candidate"]): r["photo_id"] for r in tables["download"]}
        last = tables["segment"]
        for row in last:
            if photos[row["identity_id"], row["candidate"]] in gone:
                row["reason"] = "not_segmented"
        alive = {(r["identity_id"], r["candidate"], r["face"]) for r in last if not r["reason"]}
        tables["quality"] = [
            r for r in tables["quality"] if (r["identity_id"], r["candidate"], r["face"]) in alive
        ]
        commit(workspace, config, shard, tables)


def test_a_choice_whose_faces_are_gone_is_listed_and_needs_three_that_are_left(
    build: Workspace,
) -> None:
    first, second, third = (refs(build, i) for i in ("id0", "id1", "id4"))
    store = open_store(build)
    choose(store, ADA, "id0", first[:4])
    choose(store, ADA, "id1", second[:4])
    choose(store, ADA, "id4", third[:4])
    store.close()
    refuse(build, {first[1].photo_id, second[0].photo_id, second[2].photo_id})
    found = release(build)
    assert faces_of(found, "id0") == [first[0].key, first[2].key, first[3].key]
    assert faces_of(found, "id1") == []  # nor does another face take a place
    assert faces_of(found, "id4") == [face.key for face in third[:4]]
    assert found.info()["review"]["faces_gone"] == [
        {"identity_id": "id0", "name": NAMES[0], "chosen": 4, "left": 3},
        {"identity_id": "id1", "name": NAMES[1], "chosen": 4, "left": 2},
    ]


def test_faces_are_found_again_though_their_numbers_changed(build: Workspace) -> None:
    chosen = refs(build, "id0")[:3]
    shifted = [
        FaceRef(face.photo_id, 5, tuple(v + 2 for v in face.box_xyxy))  # type: ignore[arg-type]
        for face in chosen
    ]
    store = open_store(build)
    choose(store, ADA, "id0", shifted)
    elsewhere = [FaceRef(f.photo_id, f.face, (0.0, 0.0, 9.0, 9.0)) for f in refs(build, "id1")]
    choose(store, ADA, "id1", elsewhere[:3])
    store.close()
    found = release(build)
    assert faces_of(found, "id0") == [face.key for face in chosen]
    assert found.info()["review"]["faces_gone"] == [
        {"identity_id": "id1", "name": NAMES[1], "chosen": 3, "left": 0}
    ]


def test_no_face_takes_the_place_of_one_left_out_for_a_leak(build: Workspace) -> None:
    store = open_store(build)
    for identity_id in ("id0", "id1", "id4", "id5", "id6", "id7"):
        choose(store, ADA, identity_id, refs(build, identity_id)[:4])
    store.close()
    for shard, identities in build.shards().items():
        if identities[0]["identity_id"] not in ("id0", "id1"):
            continue
        # The best photograph of the two looks the same.
        table = build.read_stage("duplicates", shard)
        record = build.committed("duplicates", shard)
        assert table is not None
        assert record is not None
        rows = table.to_pylist()
        rows[0]["phash"] = 12345
        build.write_stage("duplicates", shard, pa.Table.from_pylist(rows, table.schema), record)
    split = build.storage.path("sides.csv")
    Path(split).write_text("identity,part\n" + "".join(
        f"{i},{p}\n" for i, p in zip(("id0", "id1", "id4", "id5", "id6", "id7"),
                                     ("train", "test", "train", "val", "train", "test"),
                                     strict=True)))  # fmt: skip
    write_release(build, "v1", build.config(), auto=False, split=split, workers=1)
    found = Release(build, "v1")
    assert faces_of(found, "id1") == [face.key for face in refs(build, "id1")[1:4]]
    assert len(faces_of(found, "id0")) == 4


def test_auto_takes_the_best_whatever_people_chose(build: Workspace) -> None:
    store = open_store(build)
    drop(store, ADA, "id0")
    store.close()
    write_release(build, "v1", build.config(), auto=True, split="seed:1", workers=1)
    found = Release(build, "v1")
    assert faces_of(found, "id0") == [face.key for face in refs(build, "id0")[:7]]
    assert (found.info()["reviewed"], found.info()["review"]) == (False, None)


def test_without_decisions_it_says_how_to_review(build: Workspace) -> None:
    with pytest.raises(HqvoxError, match=r"nobody has reviewed .* `hqvox review "):
        release(build)
    open_store(build).close()  # a store in which nothing is decided is none
    with pytest.raises(HqvoxError, match=r"nobody has reviewed .* `hqvox review "):
        release(build)


def test_where_nobody_can_be_released_it_says_why(build: Workspace) -> None:
    store = open_store(build)
    drop(store, ADA, "id0")
    store.close()
    with pytest.raises(HqvoxError, match=r"1 dropped, 0 disputed, 5 undecided, 0 with faces that"):
        release(build)


def test_the_release_says_nothing_of_the_store_or_who_may_sign_in(build: Workspace) -> None:
    text = build.storage.read("hqvox.yaml").decode()
    own = {"review": {"store": "elsewhere.sqlite", "allow": {"eve@example.org": "lead"}}}
    build.storage.write("hqvox.yaml", f"{text}\n{json.dumps(own)[1:-1]}\n".encode())
    store = open_store(build)
    choose(store, ADA, "id0", refs(build, "id0")[:3])
    store.close()
    assert Path(build.storage.path("elsewhere.sqlite")).exists()
    found = release(build)
    whole = found.read("release.json").decode() + found.read("DATASHEET.md").decode()
    assert "elsewhere" not in whole
    assert "eve@example.org" not in whole


def test_the_commands_say_who_chose(build: Workspace) -> None:
    store = open_store(build)
    choose(store, ADA, "id0", refs(build, "id0")[:3])
    drop(store, BO, "id1", "not_neutral")
    store.close()
    for command in (("release", build.url, "v1", "--split", "seed:1"), ("stats", build.url, "v1")):
        result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        assert "chosen by people: ada (1)" in result.output
        assert "dropped by people, not_neutral: 1" in result.output
        assert "not decided on: 4 identities" in result.output


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0, 0, 10, 10), 1.0),
        ((0, 0, 10, 5), 0.5),
        ((10, 0, 20, 10), 0.0),
        ((5, 5, 5, 5), 0.0),
    ],
    ids=["same", "half", "beside", "empty"],
)
def test_overlap_of_boxes(other: tuple[float, ...], expected: float) -> None:
    assert iou((0, 0, 10, 10), other) == expected


def test_each_face_is_found_once() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    rows = [{"photo_id": "a" * 64, "face": 0, "box_xyxy": box}]
    twice = [FaceRef("a" * 64, 0, box), FaceRef("a" * 64, 1, (1.0, 0.0, 11.0, 10.0))]
    assert find_faces(twice, rows) == [rows[0], None]
