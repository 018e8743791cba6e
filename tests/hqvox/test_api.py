"""The public Python interface: what it is, what it costs to import, and what it reads."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

import hqvox
from hqvox.phantom.identity import VoiceIdentity
from hqvox.phantom.voices import RATE_HZ, speak
from hqvox.speech.log_mel import log_mel
from hqvox.speech.vad import speech
from tests.helpers.synthetic_build import FATES, make_build, pack_voices
from tests.helpers.tiny_release import make_tiny_release

LISTED = Path(__file__).with_name("public_api.txt")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built workspace, a release of other people, and a recording."""
    root = tmp_path_factory.mktemp("api")
    pack_voices(make_build(root / "work", root / "photos"), {"id0": 2})
    make_tiny_release(root / "v1", train=4, utterances=2, frames=(60, 300))
    rng = np.random.default_rng(4)
    voice = speak(VoiceIdentity.sample(rng), 3.0, rng).samples
    soundfile.write(root / "speech.wav", voice, RATE_HZ)
    return root


@pytest.fixture
def workspace(root: Path) -> hqvox.OpenWorkspace:
    return hqvox.open_workspace(root / "work")


@pytest.fixture
def release(root: Path) -> hqvox.OpenRelease:
    return hqvox.open_release(root / "v1")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))


# What is public ----------------------------------------------------------------------------------


def public() -> list[str]:
    """Every public name with its signature, and every public member of a class with its own."""
    lines = []
    for name in hqvox.__all__:
        value = getattr(hqvox, name)
        if not inspect.isclass(value):
            lines.append(f"{name}{inspect.signature(value) if callable(value) else ''}")
            continue
        lines.append(name)
        if issubclass(value, tuple):
            lines += [f"{name}.{field}" for field in value._fields]
            continue
        if issubclass(value, Exception):
            continue
        members = {*vars(value), *vars(value).get("__annotations__", ())}
        for member in sorted(members):
            own = vars(value).get(member)
            called = inspect.isfunction(own)
            if not member.startswith("_") or member in ("__len__", "__getitem__"):
                lines.append(f"{name}.{member}{inspect.signature(own) if called else ''}")
    return [re.sub("[\"']", "", line) for line in lines]


def test_the_public_names_and_signatures_are_those_listed() -> None:
    """A change here breaks programs of users: add, but do not rename, reorder or remove."""
    assert "\n".join(public()) == LISTED.read_text("utf-8").strip()


def test_the_page_names_everything_that_is_public() -> None:
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    table = page.split("## What is public")[1]
    assert [name for name in hqvox.__all__ if f"`{name}" not in table] == []
    members = [line.split(".")[1].split("(")[0] for line in public() if "." in line.split("(")[0]]
    assert [m for m in members if not m.startswith("_") and f"`{m}`" not in table] == []


def test_dir_lists_what_is_public_and_nothing_else_is_an_attribute() -> None:
    assert dir(hqvox) == sorted(hqvox.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        hqvox.no_such_name  # noqa: B018


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(hqvox.__file__).parent / "py.typed").is_file()
    assert "py.typed" in (ROOT / "setup.cfg").read_text("utf-8")


def fresh(code: str) -> list[str]:
    """Which of the large packages a fresh interpreter has imported after ``code``."""
    large = ("torch", "pandas", "pyarrow", "numpy", "cv2", "scipy", "pydantic")
    code += f"\nimport sys; print(*[m for m in {large} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_importing_the_package_imports_none_of_the_large_ones() -> None:
    assert fresh("import hqvox") == []


def test_tables_need_no_torch(root: Path) -> None:
    code = f"import hqvox; hqvox.open_release({str(root / 'v1')!r}).table('faces')"
    assert "torch" not in fresh(code)
    code = f"import hqvox; hqvox.open_workspace({str(root / 'work')!r}).arrow('faces')"
    assert "torch" not in fresh(code)
    assert "torch" not in fresh(f"import hqvox; hqvox.log_mel({str(root / 'speech.wav')!r})")


# A workspace -------------------------------------------------------------------------------------


def test_the_faces_of_a_workspace_are_all_with_where_they_ended(workspace) -> None:
    faces = workspace.table("faces")
    assert isinstance(faces, pd.DataFrame)
    ours = faces[(faces["identity_id"] == "id0") & (faces["face"].fillna(0) == 0)]
    reasons = [None if pd.isna(reason) else reason for reason in ours["reason"]]
    ended = dict(zip(ours["candidate"], zip(ours["stage"], reasons, strict=True), strict=True))
    assert ended == dict(enumerate(FATES))
    assert faces["landmarks_xy"].notna().any()


def test_columns_can_be_chosen_and_arrow_has_the_same(workspace) -> None:
    columns = ["identity_id", "yaw_deg", "reason"]
    table = workspace.arrow("faces", columns)
    assert isinstance(table, pa.Table)
    assert table.column_names == columns
    assert table.equals(workspace.arrow("faces").select(columns))
    assert workspace.table("identities", ["name"])["name"][0] == "Ada Lovelace"


def test_utterances_of_a_workspace_are_those_kept_and_those_refused(workspace) -> None:
    assert workspace.arrow("utterances")["reason"].to_pylist() == [None, None, "no_voice"]


def test_a_workspace_without_speech_has_no_utterances(tmp_path) -> None:
    make_build(tmp_path / "w", tmp_path / "photos", ("Ada",), photos_per_identity=2)
    table = hqvox.open_workspace(tmp_path / "w").table("utterances")
    assert len(table) == 0
    assert "seconds" in table


def test_why_a_face_was_refused(workspace) -> None:
    number = FATES.index(("pose", "turned_away"))
    why = workspace.explain(f"Ada Lovelace/{number}.jpg")
    by_stage = why.drop_duplicates("stage").set_index("stage")["verdict"]
    assert by_stage["pupils"] == "kept"
    assert by_stage["pose"] == "turned_away"
    assert by_stage["lighting"] == "not reached"
    yaw = why.set_index("measure").loc["yaw_deg"]
    assert yaw["value"] == pytest.approx(21.5)
    assert yaw["at_most"] < 21.5
    assert pd.isna(yaw["at_least"])
    assert yaw["unit"] == "°"
    everything = workspace.explain("Ada Lovelace")
    assert set(everything["candidate"]) == set(range(len(FATES)))


def test_pictures_of_a_photo_and_of_an_identity(workspace) -> None:
    assert workspace.picture("Ada Lovelace/6.jpg").width > 300
    assert workspace.picture("id0").width > 300
    with pytest.raises(hqvox.HqvoxError, match="no picture"):
        workspace.picture("Ada Lovelace/1.jpg")


def test_what_is_not_there_is_one_line(root, workspace, release) -> None:
    for attempt, words in (
        (lambda: hqvox.open_workspace(root / "no"), "no workspace here"),
        (lambda: hqvox.open_release(root / "no"), "no release here"),
        (lambda: hqvox.open_generator(root / "no"), "no such file"),
        (lambda: workspace.release("v9"), "no release 'v9'"),
        (lambda: workspace.table("fasces"), "no table 'fasces'; there are identities, faces"),
        (lambda: workspace.table("faces", ["yaw"]), "no column 'yaw'"),
        (lambda: workspace.explain("Nobody at all"), "is no identity"),
        (lambda: release.table("faces", ["yaw"]), "no column 'yaw'"),
        (lambda: release.picture("../x.jpg"), "is not a file of a release"),
        (lambda: release.picture("vox1/x.jpg"), "missing"),
        (lambda: release.log_mel(10_000), "no utterance 10000"),
        (lambda: release.dataset("dev"), "no split 'dev'; there are train, val, test"),
        (lambda: release.dataset(pictures="crop"), "there are masked and origin"),
        (lambda: release.dataset(seconds=0), "must be at least"),
        (lambda: hqvox.log_mel(root / "v1" / "release.json"), "no audio format"),
        (lambda: hqvox.log_mel(root / "speech.wav", n_filters=80), "n_filters=80: "),
        (lambda: hqvox.log_mel(root / "speech.wav", front_end="mfcc"), "front_end='mfcc': "),
    ):
        with pytest.raises(hqvox.HqvoxError, match=words) as error:
            attempt()
        assert "\n" not in str(error.value)


# A release ---------------------------------------------------------------------------------------


def test_the_tables_of_a_release(release) -> None:
    assert release.name == "v1"
    assert release.info["format"] >= 1
    assert len(release.table("faces")) == 27
    assert release.arrow("identities", ["split"])["split"].to_pylist().count("train") == 4
    spoken = release.table("utterances")
    voice = release.log_mel(3)
    assert voice.shape == (spoken["frames"][3], 40)
    picture = release.picture(release.table("faces")["masked_file"][0])
    assert picture.shape == (96, 96, 3)
    assert picture.dtype == np.uint8


def test_a_dataset_pairs_each_face_with_its_persons_speech(release) -> None:
    data = release.dataset("train", px=32, seconds=0.5, normalise=False)
    assert isinstance(data, torch.utils.data.Dataset)
    assert len(data) == 12
    assert data.names == tuple(f"Person_{n}" for n in range(4))
    spoken = release.table("utterances")
    torch.manual_seed(0)
    for number, (face, crop, person) in enumerate(data[i] for i in range(len(data))):
        assert person == number // 3
        assert face.shape == (3, 32, 32)
        assert 0 <= float(face.min()) <= float(face.max()) <= 1
        assert crop.shape == (40, 50)
        of_person = np.flatnonzero(spoken["identity_id"] == data.identity_ids[person])
        voices = [release.log_mel(int(row)).astype(np.float32).T for row in of_person]
        assert any(contains(voice, crop.numpy()) for voice in voices)
    assert not torch.equal(data[0].log_mel, data[0].log_mel)
    with pytest.raises(IndexError):
        data[12]


def contains(voice: np.ndarray, crop: np.ndarray) -> bool:
    starts = range(voice.shape[1] - crop.shape[1] + 1)
    return any(np.array_equal(voice[:, s : s + crop.shape[1]], crop) for s in starts)


def test_log_mels_are_normalised_by_train_and_short_speech_is_padded(release) -> None:
    raw = release.dataset("test", px=32, seconds=4.0, normalise=False, seed=1)
    ours = release.dataset("test", px=32, seconds=4.0, seed=1)
    stats = release._release.speech_stats()
    expected = (raw[0].log_mel - stats["mean"]) / stats["variance"] ** 0.5
    torch.testing.assert_close(ours[0].log_mel, expected)
    assert (raw[0].log_mel[:, -1] == 0).all()  # utterances have 3 s at most
    voice = release.log_mel(0)
    prepared = ours.prepared(voice)
    assert prepared.shape == voice.T.shape
    assert abs(float(prepared.mean())) < 2
    np.testing.assert_array_equal(raw.prepared(voice).numpy(), voice.T.astype(np.float32))


def test_a_seed_gives_the_same_crops_each_time_and_in_workers(release) -> None:
    data = release.dataset("train", px=32, seed=7)
    again = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < 2000
    for index in (0, 5, -1):
        for ours, theirs in zip(data[index], again[index], strict=True):
            assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))
    loader = DataLoader(data, batch_size=5, num_workers=1)
    face, crop, person = next(iter(loader))
    assert face.shape == (5, 3, 32, 32)
    assert crop.shape == (5, 40, 125)
    assert person.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(crop[0], data[0].log_mel)


def test_torchs_seed_decides_crops_without_one(release) -> None:
    data = release.dataset("train", px=32)
    torch.manual_seed(5)
    first = data[0].log_mel
    torch.manual_seed(5)
    assert torch.equal(first, data[0].log_mel)


# Audio -------------------------------------------------------------------------------------------


def test_log_mels_of_a_file(root) -> None:
    samples, _ = soundfile.read(root / "speech.wav", dtype="int16")
    everything = hqvox.log_mel(root / "speech.wav", n_filters=64, speech_only=False)
    np.testing.assert_array_equal(everything, log_mel(samples, 64))
    np.testing.assert_array_equal(hqvox.log_mel(root / "speech.wav"), log_mel(speech(samples)))
    theirs = hqvox.log_mel(root / "speech.wav", front_end="voice2face")
    assert theirs.shape[1] == 64
