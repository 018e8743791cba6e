"""A small release in every form, opened by the code that the form is for."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from hqvox.cli.app import app
from hqvox.errors import HqvoxError
from hqvox.exchange.export import Form, Kind, Samples, export_photos, export_release
from hqvox.exchange.huggingface import hub_licence, size_category
from hqvox.exchange.sf2f import utterance_pickle
from hqvox.release.read import Release, find_release
from hqvox.release.write import write_release
from hqvox.speech.pack import PackWriter
from hqvox.workspace.layout import Workspace
from hqvox.workspace.outputs import read_outputs
from hqvox.workspace.tables import UTTERANCES
from tests.helpers.synthetic_build import FATES, make_build

PEOPLE = ("Ada Lovelace", "Bedřich Ω", "Few Faces", "Nobody", "Emmy.Noether", "Zoë O'Neil-Li")
SPOKEN = {"id0": 3, "id1": 1, "id4": 2, "id5": 2}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    root = tmp_path_factory.mktemp("export")
    build = make_build(root / "w", root / "photos", PEOPLE)
    _pack(build)
    split = root / "split.csv"
    split.write_text("identity,part\nid0,train\nid1,train\nid4,val\nid5,test\n")
    write_release(build, "v1", build.config(), auto=True, split=str(split), workers=1)
    return find_release(str(root / "w"), "v1")


def _pack(build: Workspace) -> None:
    rng = np.random.default_rng(0)
    for shard, identities in build.shards().items():
        writer = PackWriter(build, shard, 40)
        for row in identities:
            for number in range(SPOKEN.get(row["identity_id"], 0)):
                frames = 120 + 10 * number
                own = dict.fromkeys(UTTERANCES.names) | {
                    "identity_id": row["identity_id"],
                    "video": "a_B-c",
                    "utterance": f"{number:05d}",
                    "path": "x.wav",
                    "seconds": frames / 100,
                    "sha256": f"{number:064x}",
                }
                writer.add(own, rng.normal(11, 3, (frames, 40)).astype(np.float32))
        writer.commit({})


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _log_mels(release: Release) -> dict[tuple[str, str], np.ndarray]:
    return {
        (row["identity_id"], row["utterance"]): np.asarray(
            release.log_mels(row["file"], 40)[row["offset"] : row["offset"] + row["frames"]]
        )
        for row in release.speech().to_pylist()
    }


def test_sf2f_tree_split_and_pickles(release: Release, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    done = export_release(
        release, Form.SF2F, tmp_path / "VoxCeleb", on_progress=lambda d, t: told.append((d, t))
    )
    root = tmp_path / "VoxCeleb"
    assert told[0] == (0, told[-1][1])
    assert told[-1][0] == told[-1][1] == done.faces + done.utterances
    assert "4 people are of neither vox1 nor vox2" in done.notes[0]
    split = json.loads((root / "split.json").read_text())
    assert split == {
        "vox1": {
            "train": ["Ada_Lovelace", "Bedřich_Ω"],
            "val": ["Emmy.Noether"],
            "test": ["Zoë_O'Neil-Li"],
        },
        "vox2": {"train": [], "val": [], "test": []},
    }
    assert (root / "vox2" / "mel_spectrograms").is_dir()
    for row in release.manifest().to_pylist():
        for kind in ("masked", "origin"):
            file = row[f"{kind}_file"]
            exported = root / file.replace("custom/", "vox1/")
            assert exported.read_bytes() == release.read(file)
    mels = root / "vox1" / "mel_spectrograms" / "Ada_Lovelace"
    assert sorted(f.name for f in mels.iterdir()) == [
        f"id0_a_B-c_{number:05d}.pickle" for number in range(3)
    ]
    expected = _log_mels(release)
    for file in mels.iterdir():
        content = pickle.loads(file.read_bytes())
        assert set(content) == {"LogMel_Features", "spkid", "clipid", "wavid"}
        assert (content["spkid"], content["clipid"]) == ("id0", "a_B-c")
        features = content["LogMel_Features"]
        stored = expected["id0", content["wavid"]]
        assert features.dtype == np.float32
        assert features.shape == (40, len(stored))
        np.testing.assert_array_equal(features.T, stored.astype(np.float32))


def test_pickles_are_on_the_natural_log_scale(tmp_path: Path) -> None:
    """Of a known sound: as python_speech_features, which the released code calls, has it."""
    from python_speech_features import logfbank

    from hqvox.speech.log_mel import log_mel

    rng = np.random.default_rng(1)
    samples = (rng.normal(0, 2000, 16_000)).astype(np.int16)
    ours = log_mel(samples, 40).astype(np.float16)
    content = pickle.loads(utterance_pickle(ours, "a", "b", "c"))
    reference = logfbank(samples, 16_000, nfilt=40).T
    assert content["LogMel_Features"].shape == reference.shape
    np.testing.assert_allclose(content["LogMel_Features"], reference, atol=0.02)


def test_old_numpy_finds_what_pickles_name() -> None:
    data = utterance_pickle(np.zeros((100, 40), np.float16), "a", "b", "c")
    assert b"numpy._core" not in data
    assert b"numpy.core.multiarray" in data
    assert data[:2] == b"\x80\x03"


def test_webdataset_opens_and_holds_everything(release: Release, tmp_path: Path) -> None:
    import webdataset

    export_release(release, Form.WEBDATASET, tmp_path / "out", shard_mb=1)
    index = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert {part: sum(own.values()) for part, own in index.items()} == {
        "train": 2, "val": 1, "test": 1
    }  # fmt: skip
    expected = _log_mels(release)
    people = {}
    for part, shards in index.items():
        for shard in shards:
            data = webdataset.WebDataset(
                str(tmp_path / "out" / shard), shardshuffle=False, empty_check=False
            ).decode("pilrgb")
            people |= {sample["json"]["identity_id"]: (part, sample) for sample in data}
    assert {i: part for i, (part, _) in people.items()} == {
        "id0": "train", "id1": "train", "id4": "val", "id5": "test"
    }  # fmt: skip
    sample = people["id0"][1]
    faces = [row for row in release.manifest().to_pylist() if row["identity_id"] == "id0"]
    assert len(sample["json"]["faces"]) == len(faces) == 4
    for number, face in enumerate(faces):
        assert sample[f"masked.{number}.jpg"].size == (face["crop_side_px"],) * 2
        assert sample[f"origin.{number}.jpg"].mode == "RGB"
        about = sample["json"]["faces"][number]
        assert about["yaw_deg"] == face["yaw_deg"]
        assert about["emotion_probabilities"] == pytest.approx({"neutral": 0.8, "happiness": 0.2})
    for number, spoken in enumerate(sample["json"]["spoken"]):
        np.testing.assert_array_equal(
            sample[f"log_mel.{number}.npy"], expected["id0", spoken["utterance"]]
        )


def test_webdataset_shards_are_closed_at_their_size(release: Release, tmp_path: Path) -> None:
    from hqvox.exchange.people import People
    from hqvox.exchange.webdataset import write_webdataset

    write_webdataset(People(release), tmp_path, lambda done, total: None, 10_000)
    names = sorted(path.name for path in tmp_path.glob("train-*.tar"))
    assert names == ["train-000000.tar", "train-000001.tar"]
    with tarfile.open(tmp_path / names[0]) as tar:
        assert {member.name.split(".")[0] for member in tar} == {"0000000"}


def test_webdataset_with_a_face_a_sample(release: Release, tmp_path: Path) -> None:
    import webdataset

    export_release(release, Form.WEBDATASET, tmp_path / "out", samples=Samples.FACE)
    index = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert {kind: sum(own.values()) for kind, own in index.items()} == {
        "train-faces": 8, "train-speech": 4, "val-faces": 4, "val-speech": 2, "test-faces": 4,
        "test-speech": 2,
    }  # fmt: skip

    def samples(kind: str) -> list[dict]:
        files = [str(tmp_path / "out" / name) for name in index[kind]]
        return list(webdataset.WebDataset(files, shardshuffle=False).decode("pilrgb"))

    rows = {row["masked_file"]: row for row in release.manifest().to_pylist()}
    faces = samples("train-faces")
    people = [face["json"]["identity_id"] for face in faces]
    assert sorted(people) == ["id0"] * 4 + ["id1"] * 4
    assert people != sorted(people)  # not person by person
    for face in faces:
        row = rows[face["json"]["masked_file"]]
        assert face["json"]["name"] == row["name"]
        assert face["json"]["yaw_deg"] == row["yaw_deg"]
        released = Image.open(io.BytesIO(release.read(row["origin_file"]))).convert("RGB")
        np.testing.assert_array_equal(np.asarray(face["origin.jpg"]), np.asarray(released))
    expected = _log_mels(release)
    for spoken in samples("train-speech"):
        about = spoken["json"]
        np.testing.assert_array_equal(
            spoken["log_mel.npy"], expected[about["identity_id"], about["utterance"]]
        )


def test_photographs_of_a_release_are_those_of_its_faces(release: Release, tmp_path: Path) -> None:
    done = export_release(release, Form.PHOTOS, tmp_path / "out")
    assert done.notes[0] == "16 photographs"
    photos = _photos_in(tmp_path / "out")
    by_hash = {row["photo_id"]: row for row in release.manifest().to_pylist()}
    assert {hashlib.sha256(data).hexdigest() for data, _ in photos} == set(by_hash)
    for data, about in photos:
        row = by_hash[hashlib.sha256(data).hexdigest()]
        assert about["identity_id"] == row["identity_id"]
        assert about["url"] == row["url"]
        (face,) = [f for f in about["faces"] if f["masked_file"] == row["masked_file"]]
        assert face["transform"] == pytest.approx(row["transform"])
        assert "photo_offset" not in about


def _photos_in(folder: Path) -> list[tuple[bytes, dict]]:
    index = json.loads((folder / "shards.json").read_text())["photos"]
    photos = []
    for name, count in index.items():
        with tarfile.open(folder / name) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
        keys = [member.removesuffix(".json") for member in members if member.endswith(".json")]
        assert len(keys) == count
        photos += [(members[f"{key}.jpg"], json.loads(members[f"{key}.json"])) for key in keys]
    return photos


def test_photographs_of_a_workspace_are_all_but_duplicates(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos", ("Ada", "Bob"))
    refused = [stage for stage, _ in FATES if stage in ("download", "duplicates")]
    done = CliRunner().invoke(
        app, ["export", str(tmp_path / "w"), str(tmp_path / "out"), "--to", "photos"]
    )
    assert done.exit_code == 0, done.output
    photos = _photos_in(tmp_path / "out")
    assert len(photos) == 2 * (len(FATES) - len(refused))
    files = {(tmp_path / "photos" / a["name"] / a["url"].rsplit("/", 1)[1]) for _, a in photos}
    assert {file.read_bytes() for file in files} == {data for data, _ in photos}
    assert [o.path for o in read_outputs(workspace)] == [str(tmp_path / "out")]


def test_photographs_need_a_build_and_a_workspace(tmp_path: Path, release: Release) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos", ("Ada",), photos_per_identity=2)
    for table in (tmp_path / "w" / "stages" / "duplicates").iterdir():
        table.unlink()
    with pytest.raises(HqvoxError, match="has no photographs yet; run `hqvox build"):
        export_photos(workspace, tmp_path / "out")
    shutil.copytree(release.storage.path(""), tmp_path / "alone")
    with pytest.raises(HqvoxError, match="in no workspace"):
        export_release(Release(tmp_path / "alone"), Form.PHOTOS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", [Form.WEBDATASET, Form.HUGGINGFACE])
def test_embeddings_are_exported_only_when_asked_for(
    release: Release, tmp_path: Path, form: Form
) -> None:
    values = [row["embedding"] for row in release.manifest().to_pylist()]
    assert all(values)

    def faces(name: str, embeddings: bool) -> list[dict]:
        export_release(release, form, tmp_path / name, embeddings=embeddings)
        if form is Form.HUGGINGFACE:
            tables = sorted((tmp_path / name / "faces").glob("*.parquet"))
            return [row for table in tables for row in pq.read_table(table).to_pylist()]
        rows = []
        for shard in sorted((tmp_path / name).glob("*.tar")):
            with tarfile.open(shard) as tar:
                people = [json.load(tar.extractfile(m)) for m in tar if m.name.endswith("json")]  # type: ignore[arg-type]
            rows += [face for person in people for face in person["faces"]]
        return rows

    assert all("embedding" not in face for face in faces("without", False))
    with_them = faces("with", True)
    assert sorted(face["embedding"] for face in with_them) == sorted(values)


def test_the_card_has_licence_size_and_features(release: Release, tmp_path: Path) -> None:
    export_release(release, Form.HUGGINGFACE, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["license"], head["license_link"]) == ("other", "LICENSES.csv")
    assert head["size_categories"] == ["n<1K"]
    sizes = {info["config_name"]: info for info in head["dataset_info"]}
    splits = {split["name"]: split["num_examples"] for split in sizes["faces"]["splits"]}
    assert splits == {"train": 8, "val": 4, "test": 4}
    files = list((tmp_path / "out" / "faces").glob("*.parquet"))
    assert sizes["faces"]["download_size"] == sum(file.stat().st_size for file in files)
    assert "| not stated | 16 |" in text
    columns = pq.read_schema(files[0]).names
    assert all(f"| `{name}` |" in text for name in columns)
    assert "| `yaw_deg` | float | yaw, degrees" in text


@pytest.mark.parametrize(
    ("names", "licence"),
    [
        (["CC BY-SA 4.0"], "cc-by-sa-4.0"),
        (["CC0", "CC0 1.0"], "cc0-1.0"),
        (["CC BY 4.0", "CC BY-SA 4.0"], "other"),
        (["Free Art Licence"], "other"),
        (["not stated"], "other"),
        ([], "other"),
    ],
)
def test_the_hubs_name_of_a_licence(names: list[str], licence: str) -> None:
    assert hub_licence(names) == licence


def test_the_hubs_name_of_a_size() -> None:
    assert [size_category(n) for n in (0, 999, 1000, 54_321, 2_000_000, 10**9)] == [
        "n<1K", "n<1K", "1K<n<10K", "10K<n<100K", "1M<n<10M", "100M<n<1B"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        ["--to", "folders", "--embeddings"],
        ["--to", "sf2f", "--samples", "face"],
        ["--to", "webdataset", "--push", "me/faces"],
    ],
)
def test_an_option_that_a_form_does_not_have_is_refused(
    release: Release, tmp_path: Path, options: list[str]
) -> None:
    words = ["export", release.storage.path(""), str(tmp_path / "out"), *options]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, HqvoxError)
    assert "is for --to" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_huggingface_opens_with_both_configurations(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    export_release(release, Form.HUGGINGFACE, tmp_path / "out")
    cache = str(tmp_path / "cache")
    faces = datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)
    rows = release.manifest().to_pylist()
    assert {part: own.num_rows for part, own in faces.items()} == {
        part: sum(row["split"] == part for row in rows) for part in ("train", "val", "test")
    }
    first = faces["train"][0]
    assert isinstance(first["masked"], Image.Image)
    assert first["masked"].size == first["origin"].size == (rows[0]["crop_side_px"],) * 2
    released = Image.open(io.BytesIO(release.read(rows[0]["masked_file"])))
    np.testing.assert_array_equal(np.asarray(first["masked"]), np.asarray(released))
    assert first["phash"] == rows[0]["phash"]
    assert first["landmarks_xy"] == pytest.approx(rows[0]["landmarks_xy"])
    assert first["emotion_probabilities"]["neutral"] == pytest.approx(0.8)
    speech = datasets.load_dataset(str(tmp_path / "out"), "speech", cache_dir=cache)
    assert {part: own.num_rows for part, own in speech.items()} == {
        "train": 4, "val": 2, "test": 2
    }  # fmt: skip
    expected = _log_mels(release)
    for row in speech["train"].with_format("numpy"):
        stored = expected[row["identity_id"], row["utterance"]]
        np.testing.assert_array_equal(row["log_mel"], stored.astype(np.float32))


def test_folders_hold_one_picture_a_face(release: Release, tmp_path: Path) -> None:
    done = export_release(release, Form.FOLDERS, tmp_path / "out", kind=Kind.ORIGIN)
    row = release.manifest().to_pylist()[0]
    assert (tmp_path / "out/train/Ada_Lovelace/0.jpg").read_bytes() == release.read(
        row["origin_file"]
    )
    assert len(list((tmp_path / "out").glob("*/*/*.jpg"))) == done.faces == 16
    assert done.utterances == 0
    assert "voices are left out" in done.notes[0]


@pytest.mark.parametrize("form", list(Form))
def test_same_release_same_bytes_and_papers_go_along(
    release: Release, tmp_path: Path, form: Form
) -> None:
    for name in ("a", "b"):
        export_release(release, form, tmp_path / name)
    assert _hashes(tmp_path / "a") == _hashes(tmp_path / "b")
    assert {"LICENSES.csv", "DATASHEET.md"} <= set(_hashes(tmp_path / "a"))


def test_a_taken_target_is_refused_and_left_alone(release: Release, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_release(release, Form.FOLDERS, tmp_path / "out")  # empty: fine
    before = _hashes(tmp_path / "out")
    with pytest.raises(HqvoxError, match=r"out: it exists and is not empty; name a folder"):
        export_release(release, Form.SF2F, tmp_path / "out")
    assert _hashes(tmp_path / "out") == before


def test_a_damaged_release_leaves_nothing(release: Release, tmp_path: Path) -> None:
    class Cut(Release):
        def read(self, file: str) -> bytes:
            if file.endswith("Emmy.Noether/1.jpg"):
                raise HqvoxError(f"{file}: missing; restore it, or make the release again")
            return super().read(file)

    with pytest.raises(HqvoxError, match=r"1\.jpg: missing"):
        export_release(Cut(release.url), Form.FOLDERS, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_two_people_of_one_name_keep_apart(release: Release, tmp_path: Path) -> None:
    from hqvox.exchange.people import FolderNames

    names = FolderNames()
    given = [names.give("vox1", name, "custom") for name in ("Ada", "ada", "ADA", "Zoë")]
    assert given == ["Ada", "ada-custom", "ADA-custom-2", "Zoë"]
    assert names.give("vox2", "Ada", "custom") == "Ada"
