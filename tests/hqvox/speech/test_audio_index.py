"""Whose files are found, in any tree; unchanged folders are not listed again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hqvox.errors import HqvoxError
from hqvox.speech.index import AudioIndex, index_csv, index_folders, merged
from hqvox.speech.listing import SETTLED_SECONDS, Listing
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row
from tests.helpers.sounds import put


def identity(identity_id: str, name: str, subset: str = "vox1") -> Row:
    return {"identity_id": identity_id, "name": name, "subset": subset, "folder": None}


PEOPLE = [
    identity("id10001", "A.J._Buckley"),
    identity("id10002", "Zoë_O'Neil"),
    identity("id00012", "Aaron_Ashmore", "vox2"),
    identity("id10005", "Two_Times"),
    identity("id00017", "Two_Times", "vox2"),
    identity("ada", "Ada Lovelace", "custom"),
]


def index(*roots: Path, listing: Listing | None = None) -> AudioIndex:
    return index_folders(roots, PEOPLE, listing or Listing())


def found(index: AudioIndex, identity_id: str) -> list[tuple[str, str, str]]:
    return [(f.video, f.utterance, f.path) for f in index.files[identity_id]]


@pytest.mark.parametrize("prefix", ["", "wav/", "dev/aac/", "vox1_dev_wav/wav/", "a/b/c/"])
def test_voxceleb_trees_below_any_prefix(tmp_path: Path, prefix: str) -> None:
    put(tmp_path, f"{prefix}id10001/J9lHsKG98U8/00026.wav", b"a")
    put(tmp_path, f"{prefix}id10001/J9lHsKG98U8/00003.wav", b"b")
    put(tmp_path, f"{prefix}id00012/dfb/00257.m4a", b"c")
    made = index(tmp_path)
    assert made.count() == 3
    assert found(made, "id10001") == [
        ("J9lHsKG98U8", "00003", f"{prefix}id10001/J9lHsKG98U8/00003.wav"),
        ("J9lHsKG98U8", "00026", f"{prefix}id10001/J9lHsKG98U8/00026.wav"),
    ]
    assert made.files["id00012"][0].location == tmp_path / f"{prefix}id00012/dfb/00257.m4a"
    assert made.files["id00012"][0].size == 1


def test_folders_and_files_by_name(tmp_path: Path) -> None:
    put(tmp_path, "vox1/A.J._Buckley/1.wav", b"")
    put(tmp_path, "people/Zoe\u0308_O'Neil/clip/deep/2.flac", b"")  # decomposed, as on a Mac
    put(tmp_path, "Ada_Lovelace/1.wav", b"")
    put(tmp_path, "flat/Aaron_Ashmore.wav", b"")
    made = index(tmp_path)
    assert [f[:2] for f in found(made, "id10001")] == [("", "1")]
    assert [f[:2] for f in found(made, "id10002")] == [("clip", "deep/2")]
    assert [f[:2] for f in found(made, "ada")] == [("", "1")]
    assert [f[:2] for f in found(made, "id00012")] == [("", "Aaron_Ashmore")]
    assert made.files["id10002"][0].location.exists()


def test_a_name_that_two_have_is_told_by_its_subset(tmp_path: Path) -> None:
    put(tmp_path, "vox2_wav/Two_Times/1.wav", b"")
    put(tmp_path, "other/Two_Times/1.wav", b"")
    made = index(tmp_path)
    assert found(made, "id00017") == [("", "1", "vox2_wav/Two_Times/1.wav")]
    assert "id10005" not in made.files
    assert list(made.ambiguous) == ["Two_Times"]


def test_what_nobody_has_is_counted_and_listed(tmp_path: Path) -> None:
    put(tmp_path, "wav/id10001/v/1.wav", b"")
    put(tmp_path, "wav/id19999/v/1.wav", b"")
    put(tmp_path, "wav/Somebody_Else/v/1.wav", b"")
    put(tmp_path, "wav/Somebody_Else/w/2.wav", b"")
    put(tmp_path, "wav/id10001/v/notes.txt", b"")
    put(tmp_path, "wav/id10001/v/.hidden.wav", b"")
    made = index(tmp_path)
    assert made.unknown == {"id19999": 0, "Somebody_Else": 2}
    assert made.count() == 1
    assert made.passed_over == 1


def test_utterances_of_one_name_are_numbered(tmp_path: Path) -> None:
    for path in ("dev/id10001/v/1.wav", "dev/id10001/v/1.flac", "test/id10001/v/1.wav"):
        put(tmp_path, path, b"")
    names = [f[1] for f in found(index(tmp_path), "id10001")]
    assert names == ["1", "1~2", "1~3"]


def test_several_roots_and_links(tmp_path: Path) -> None:
    put(tmp_path, "one/id10001/v/1.wav", b"")
    put(tmp_path, "two/id10002/v/1.wav", b"")
    os.symlink(tmp_path / "two", tmp_path / "one" / "link")
    os.symlink(tmp_path / "one", tmp_path / "one" / "id10001" / "loop")
    assert index(tmp_path / "one").count() == 2
    whole = merged([index(tmp_path / "one"), index(tmp_path / "two")])
    assert sorted(f[1] for f in found(whole, "id10002")) == ["1", "1~2"]


def test_names_that_are_not_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/id10001/\xff\xfe"
    os.makedirs(folder)
    with open(folder + b"/1\xff.wav", "wb"):
        pass
    file = index(tmp_path).files["id10001"][0]
    assert (file.video, file.utterance) == ("%FF%FE", "1%FF")
    assert file.location.exists()


def test_csv(tmp_path: Path) -> None:
    put(tmp_path, "audio/id10001/v/1.wav", b"abc")
    put(tmp_path, "x/2.wav", b"")
    lines = [
        "identity,path",
        "id10001,audio/id10001/v/1.wav",
        "A.J._Buckley,x/2.wav",
        f"ada,{tmp_path}/x/2.wav",
        "id10001,missing.wav",
        "nobody,x/2.wav",
    ]
    file = put(tmp_path, "list.csv", "\n".join(lines).encode())
    made = index_csv(file, PEOPLE)
    assert [f[:2] for f in found(made, "id10001")] == [("v", "1"), ("x", "2"), ("", "missing")]
    assert [f.size for f in made.files["id10001"]] == [3, 0, -1]
    assert made.files["ada"][0].location == tmp_path / "x/2.wav"
    assert made.unknown == {"nobody": 1}


def test_csv_with_odd_paths(tmp_path: Path) -> None:
    file = put(tmp_path, "list.csv", b'identity,path\nada,.\nada,a\0b.wav\nada,"two\nlines.wav"\n')
    assert [f.utterance for f in index_csv(file, PEOPLE).files["ada"]] == [
        ".",
        "a\0b",
        "two\nlines",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"who,where\na,b\n", "needs the columns identity and path"),
        (b"identity,path\nid10001,\n", ":2: identity or path is empty"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (
            b'identity,path\nid10001,"' + bytes([97]) * 200_000 + b'"\n',
            "csv:2: field larger .* quotes",
        ),
    ],
)
def test_csv_that_will_not_do(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(HqvoxError, match=message):
        index_csv(put(tmp_path, "list.csv", text), PEOPLE)
    with pytest.raises(HqvoxError, match=r"none\.csv"):
        index_csv(tmp_path / "none.csv", PEOPLE)


def age(folder: Path, seconds: float) -> None:
    """Make everything below a folder look older."""
    then = time.time() - seconds
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))


def again(storage: Storage, root: Path) -> tuple[AudioIndex, Listing]:
    listing = Listing.load(storage, "folders.parquet")
    made = index(root, listing=listing)
    listing.save(storage, "folders.parquet")
    return made, listing


def test_unchanged_folders_are_not_listed_again(tmp_path: Path) -> None:
    root, storage = tmp_path / "audio", Storage(tmp_path / "memory")
    for video in "abc":
        put(root, f"wav/id10001/{video}/1.wav", b"a")
    age(root, 2 * SETTLED_SECONDS)
    first, listing = again(storage, root)
    assert (listing.listed, listing.recalled) == (6, 0)
    second, listing = again(storage, root)
    assert (listing.listed, listing.recalled) == (0, 6)
    assert second.files == first.files

    put(root, "wav/id10001/b/2.wav", b"a")  # changes b only
    third, listing = again(storage, root)
    assert (listing.listed, listing.recalled) == (1, 5)
    assert third.count() == 4
    # b was written a moment ago: it is not trusted yet.
    assert again(storage, root)[1].listed == 1


def test_a_file_still_being_written_is_seen_again(tmp_path: Path) -> None:
    root, storage = tmp_path / "audio", Storage(tmp_path / "memory")
    file = put(root, "id10001/v/1.wav", b"half")
    age(root, 2 * SETTLED_SECONDS)
    os.utime(file)  # written just now, though its folder is old
    assert again(storage, root)[0].files["id10001"][0].size == 4
    file.write_bytes(b"the whole")
    assert again(storage, root)[0].files["id10001"][0].size == 9


def test_damaged_memory_is_forgotten(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write("folders.parquet", b"broken")
    put(tmp_path, "audio/id10001/v/1.wav", b"")
    assert again(storage, tmp_path / "audio")[0].count() == 1
