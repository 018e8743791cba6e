"""Splits by file, and what must not be in two splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hqvox.errors import HqvoxError
from hqvox.release.leaks import NEAR_FACE, NEAR_PHOTO, SAME_PHOTO, Prints, find_leaks
from hqvox.release.read import Release
from hqvox.release.split import make_split
from hqvox.release.write import write_release
from hqvox.workspace.layout import Workspace
from tests.helpers.synthetic_build import make_build

PEOPLE = ("Ada Lovelace", "Bedřich Ω", "Few Faces", "Nobody", "Emmy Noether", "Zoë O'Neil")


def people(*names: str, subset: str = "vox1") -> list[dict[str, Any]]:
    return [
        {
            "identity_id": f"id{n}",
            "name": name,
            "subset": subset,
            "row": n,
            "subset_folder": subset,
            "folder": name.replace(" ", "_"),
        }
        for n, name in enumerate(names)
    ]


def write(folder: Path, text: str, name: str = "split.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_split_by_initials() -> None:
    names = ("Ada", "bob", "Çelik", "Emmy", "Édith", "Frida", "Zoë", "Ølaf", "50 Cent", "Ödön")
    split = make_split(people(*names), "initials")
    parts = [split.parts.get(f"id{n}") for n in range(len(names))]
    assert parts == [
        "val", "val", "test", "test", "test", "train", "train", None, None, "train"
    ]  # fmt: skip
    assert [row["name"] for row in split.unassigned] == ["Ølaf", "50 Cent"]
    assert split.how == "initials"


def test_split_by_the_released_file(tmp_path: Path) -> None:
    text = json.dumps({"vox1": {"train": ["A_B"], "val": ["C"], "test": ["Gone"]}})
    split = make_split(people("A B", "C", "D"), write(tmp_path, text))
    assert split.parts == {"id0": "train", "id1": "val"}
    assert [row["name"] for row in split.unassigned] == ["D"]
    assert split.unknown == ["Gone"]
    assert split.how.startswith("file:")
    assert str(tmp_path) not in split.how


def test_split_file_of_one_subset_does_not_name_the_others(tmp_path: Path) -> None:
    rows = people("A") + [row | {"identity_id": "x"} for row in people("A", subset="vox2")]
    text = json.dumps({"vox2": {"test": ["A"]}})
    assert make_split(rows, write(tmp_path, text)).parts == {"x": "test"}


@pytest.mark.parametrize(
    "text", ["identity,part\nid0,test\nC,valid\n", "id\tsplit\nA B\ttest\nid1\tval\n"]
)
def test_split_by_csv_takes_ids_and_names(tmp_path: Path, text: str) -> None:
    split = make_split(people("A B", "C"), write(tmp_path, text))
    assert split.parts == {"id0": "test", "id1": "val"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("identity,part\nid0,test\nid0,train\n", r"line 3: 'id0' is in train and, line 2, in test"),
        ("identity,part\nid0,probe\n", r"line 2: 'probe' is no part"),
        ("identity,part\nnobody,test\n", r"names none of the 2 identities"),
        ("identity,part\n", r"names none"),
        ("who,where\nid0,test\n", r"needs the columns identity,part; found who, where"),
        ("identity,part\nid0\n", r"line 2: '' is no part"),
        (f'identity,part\nid0,"{"a" * 200_000}"\n', r"line 2: field larger .* check its quotes"),
        ('{"vox1": ["A"]}', r"'vox1' holds no parts"),
        ('{"vox1": {"train": "A"}}', r"vox1/train is no list of names"),
        ('{"vox1": ', r":1: not JSON"),
        ("[1]", r"holds no parts"),
    ],
)
def test_bad_split_files_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(HqvoxError, match=f"--split .*{message}"):
        make_split(people("A", "B"), write(tmp_path, text))


def test_a_name_of_two_people_must_be_an_id(tmp_path: Path) -> None:
    rows = people("A", "A")
    rows[1]["folder"] = "A-id1"
    rows[0]["folder"] = "A-id0"
    with pytest.raises(HqvoxError, match="could be any of id0, id1; write the id"):
        make_split(rows, write(tmp_path, "identity,part\nA,test\n"))


def prints(*rows: tuple[str | None, int | None, list[float] | None]) -> Prints:
    return Prints([dict(zip(("photo_id", "phash", "embedding"), row, strict=True)) for row in rows])


A, B, C = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
NEAR_A = [0.995, 0.0998, 0.0]
FAR = 0xFFFF


def leaks(found: Prints, *parts: str) -> list[tuple[int, int, str]]:
    return [(leak.row, leak.other, leak.kind) for leak in find_leaks(found, parts, 4, 0.98)]


def test_the_evaluation_side_loses_the_same_photograph() -> None:
    found = prints(("p", 0, A), ("q", FAR, B), ("p", 0xFF0000, C))
    assert leaks(found, "train", "train", "test") == [(2, 0, SAME_PHOTO)]
    assert leaks(found, "test", "val", "train") == [(0, 2, SAME_PHOTO)]
    assert leaks(found, "test", "val", "val") == [(2, 0, SAME_PHOTO)]
    assert leaks(found, "test", "train", "test") == []


@pytest.mark.parametrize(("phash", "leaky"), [(0b1111, True), (0b11111, False)])
def test_near_photographs_are_leaks_up_to_the_limit(phash: int, leaky: bool) -> None:
    found = prints(("p", phash, A), ("q", 0, B))
    assert leaks(found, "val", "train") == ([(0, 1, NEAR_PHOTO)] if leaky else [])


def test_hashes_use_all_64_bits() -> None:
    found = prints(("p", 2**64 - 1, A), ("q", 2**63 - 1, B))
    (leak,) = find_leaks(found, ("val", "train"), 4, 0.98)
    assert leak.distance == 1


def test_copies_of_a_face_are_leaks_where_the_photograph_was_cropped() -> None:
    found = prints(("p", 0, A), ("q", FAR, NEAR_A), ("r", FAR << 16, B))
    assert leaks(found, "train", "test", "test") == [(1, 0, NEAR_FACE)]


def test_a_dropped_face_drops_nobody_else() -> None:
    # The test face goes for the train face's sake, so the val face like it alone may stay.
    found = prints(("p", 0, A), ("p", 0b111, B), ("q", 0b111111, C))
    assert leaks(found, "train", "test", "val") == [(1, 0, SAME_PHOTO)]


def test_what_was_not_measured_is_no_leak() -> None:
    found = prints((None, None, None), (None, None, None), ("p", 0, A))
    assert leaks(found, "train", "test", "val") == []
    assert leaks(prints(("p", None, None), ("q", None, None)), "train", "test") == []


def test_many_faces_take_little_time() -> None:
    rng = np.random.default_rng(0)
    rows: list[tuple[str, int, list[float]]] = [
        (f"{n}", int(rng.integers(2**63)), rng.standard_normal(128).tolist()) for n in range(4000)
    ]
    rows = [(p, h, (np.array(e) / np.linalg.norm(e)).tolist()) for p, h, e in rows]
    rows[17] = ("copy", rows[3990][1], rows[3990][2])
    parts = ["train"] * 3200 + ["val"] * 400 + ["test"] * 400
    assert leaks(prints(*rows), *parts) == [(3990, 17, NEAR_PHOTO)]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("leaks")
    return make_build(root / "w", root / "photos", PEOPLE)


SIDES = "identity,part\nid0,train\nid1,test\nid4,val\nid5,train\n"


def share_photo(build: Workspace, ours: tuple[str, int], theirs: tuple[str, int]) -> None:
    """Give one candidate the photo id of another person's."""
    of_id = {r["identity_id"]: s for s, rows in build.shards().items() for r in rows}
    tables = {who: build.read_stage("download", of_id[who]) for who, _ in (ours, theirs)}
    source = next(
        r["photo_id"] for r in tables[theirs[0]].to_pylist() if r["candidate"] == theirs[1]
    )
    table = tables[ours[0]]
    ids = [source if row["candidate"] == ours[1] else row["photo_id"] for row in table.to_pylist()]
    column = table.column_names.index("photo_id")
    record = build.committed("download", of_id[ours[0]])
    assert record is not None
    build.write_stage(
        "download", of_id[ours[0]], table.set_column(column, "photo_id", pa.array(ids)), record
    )


def test_a_face_on_two_sides_is_replaced_by_the_next_best(build: Workspace, tmp_path: Path) -> None:
    split = write(tmp_path, SIDES)
    config = build.config(["release.max_faces=3"])
    write_release(build, "clean", config, auto=True, split=split)
    share_photo(build, ("id1", 4), ("id0", 0))
    written = write_release(build, "leaky", config, auto=True, split=split)
    before, after = (
        [
            r["candidate"]
            for r in Release(build, n).manifest().to_pylist()
            if r["identity_id"] == "id1"
        ]
        for n in ("clean", "leaky")
    )
    assert before == [0, 4, 12]
    assert after == [0, 12, 13]
    assert Release(build, "leaky").info()["leaks"]["dropped_faces"] == [
        {
            "kind": "same_photo",
            "distance": 0.0,
            "dropped": {"identity_id": "id1", "candidate": 4, "face": 0, "split": "test"},
            "same_as": {"identity_id": "id0", "candidate": 0, "face": 0, "split": "train"},
        }
    ]
    assert len(written.plan.leaks) == 1


def test_who_has_too_few_faces_left_is_dropped_and_told(build: Workspace, tmp_path: Path) -> None:
    share_photo(build, ("id1", 4), ("id0", 0))
    config = build.config(["release.min_faces=4"])
    written = write_release(build, "fewer", config, auto=True, split=write(tmp_path, SIDES))
    assert [row["identity_id"] for row in written.identities] == ["id0", "id4", "id5"]
    assert "id1" in [row["identity_id"] for row in Release(build, "fewer").info()["dropped"]]


def test_leaks_can_refuse_the_release(build: Workspace, tmp_path: Path) -> None:
    share_photo(build, ("id1", 4), ("id0", 0))
    config = build.config(["release.on_leak=refuse"])
    with pytest.raises(HqvoxError, match=r"1 released faces .* id1, photo 4 \(test\) and id0"):
        write_release(build, "refused", config, auto=True, split=write(tmp_path, SIDES))


def test_who_the_split_file_does_not_name_is_left_out(build: Workspace, tmp_path: Path) -> None:
    split = write(tmp_path, "identity,part\nAda Lovelace,train\nid5,test\nidX,val\n")
    written = write_release(build, "named", build.config(), auto=True, split=split)
    info = Release(build, "named").info()
    assert [row["identity_id"] for row in written.identities] == ["id0", "id5"]
    assert [row["identity_id"] for row in info["not_in_split_file"]] == ["id1", "id4"]
    assert info["unknown_in_split_file"] == ["idX"]
    released = json.loads(Release(build, "named").read("split.json"))
    assert released["custom"] == {"train": ["Ada_Lovelace"], "val": [], "test": ["Zoë_O'Neil"]}
    # And the released file is a split that gives the same sides again.
    path = write(tmp_path, json.dumps(released), "again.json")
    again = write_release(build, "again", build.config(), auto=True, split=path)
    assert [r["split"] for r in again.identities] == [r["split"] for r in written.identities]
