"""Voices in a release, and who is kept apart for want of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.release.stats import release_stats, table_1
from hqvox.release.verify import verify_release
from hqvox.release.write import write_release
from hqvox.speech.pack import SpeechPack
from hqvox.workspace.layout import Workspace
from tests.helpers.synthetic_build import make_build, pack_voices

PEOPLE = ("Ada Lovelace", "Bedřich Ω", "Few Faces", "Nobody", "Emmy Noether", "Zoë O'Neil")
SPOKEN = {"id0": 3, "id3": 2, "id4": 1, "id5": 2}
"""Utterances; id1 has faces only, id3 speech only."""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("speech")
    build = make_build(root / "w", root / "photos", PEOPLE)
    pack_voices(build, SPOKEN)
    return build


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("split") / "split.csv"
    file.write_text("identity,part\nid0,train\nid1,train\nid4,test\nid5,train\n")
    return str(file)


@pytest.fixture(scope="module")
def released(build: Workspace, split: str) -> Release:
    write_release(build, "v1", build.config(), auto=True, split=split, workers=1)
    return Release(build, "v1")


def test_faces_and_voices_are_intersected_and_the_rest_told(released: Release) -> None:
    info = released.info()
    assert [r["identity_id"] for r in released.identities().to_pylist()] == ["id0", "id4", "id5"]
    assert [r["identity_id"] for r in info["faces_without_speech"]] == ["id1"]
    assert info["speech_without_faces"] == [
        {"identity_id": "id3", "name": "Nobody", "faces": 0, "utterances": 2}
    ]
    assert [r["identity_id"] for r in info["dropped"]] == ["id2", "id3"]
    assert info["speech"]["utterances"] == 6
    assert info["no_speech_because"] is None


def test_voices_are_the_workspaces_to_the_bit(released: Release, build: Workspace) -> None:
    rows = released.speech().to_pylist()
    counts = {"id0": 3, "id4": 1, "id5": 2}
    assert [r["identity_id"] for r in rows] == [i for i, n in counts.items() for _ in range(n)]
    arrays = {row["file"]: released.log_mels(row["file"], 40) for row in rows}
    pack = {(r["identity_id"], r["utterance"]): r for r in build_index(build)}
    for row in rows:
        ours = arrays[row["file"]][row["offset"] : row["offset"] + row["frames"]]
        source = pack[row["identity_id"], row["utterance"]]
        theirs = np.fromfile(
            Path(build.storage.path(f"speech/{source['shard']}.f16")), "<f2"
        ).reshape(-1, 40)[source["offset"] : source["offset"] + source["frames"]]
        assert np.array_equal(ours, theirs)
        assert row["seconds"] == pytest.approx(row["frames"] / 100)
    assert sum(len(array) for array in arrays.values()) == sum(row["frames"] for row in rows)


def build_index(build: Workspace) -> list[dict]:

    return SpeechPack(build).index().to_pylist()


def test_mean_and_variance_are_over_train_alone(released: Release) -> None:
    rows = [row for row in released.speech().to_pylist() if row["split"] == "train"]
    frames = np.concatenate(
        [
            released.log_mels(row["file"], 40)[row["offset"] : row["offset"] + row["frames"]]
            for row in rows
        ]
    ).astype(np.float64)
    stats = released.speech_stats()
    assert stats["frames"] == len(frames)
    assert stats["filters"] == 40
    assert stats["mean"] == pytest.approx(frames.mean())
    assert stats["variance"] == pytest.approx(frames.var())
    assert stats["mean_of_filters"] == pytest.approx(frames.mean(axis=0))
    assert stats["variance_of_filters"] == pytest.approx(frames.var(axis=0))


def test_table_1_counts_utterances(released: Release) -> None:
    stats = release_stats(released)
    assert [part.utterances for part in stats] == [6, 5, 0, 1]
    assert stats[0].hours == pytest.approx((3 * 1.3 + 1.2 + 2 * 1.25) / 3600, rel=1e-6)
    assert dict(table_1(stats))["utterances"] == ["6", "5", "0", "1"]
    people = released.identities().to_pylist()
    assert [row["utterances"] for row in people] == [3, 1, 2]
    assert people[0]["seconds"] == pytest.approx(3.9)


def test_without_speech_all_faces_are_released(build: Workspace, split: str) -> None:
    write_release(build, "faces", build.config(), auto=True, split=split, speech=False)
    release = Release(build, "faces")
    assert len(release.identities()) == 4
    assert not release.has_speech
    assert release.info()["no_speech_because"] == "asked for without speech"
    assert release_stats(release)[0].utterances is None


def test_the_release_with_voices_is_sound_and_the_same_on_several_processes(
    build: Workspace, released: Release, split: str
) -> None:
    checks = {check.name: check for check in verify_release(released)}
    assert {name: check.mark for name, check in checks.items()} == dict.fromkeys(checks, "✓")
    write_release(build, "v2", build.config(), auto=True, split=split, workers=2)
    assert Release(build, "v2").read("SHA256SUMS") == released.read("SHA256SUMS")


def test_nobody_with_faces_and_voices_is_one_clear_line(tmp_path: Path) -> None:
    build = make_build(tmp_path / "w", tmp_path / "photos")
    pack_voices(build, {"id3": 1})
    with pytest.raises(HqvoxError, match=r"none of the 2 identities .* has speech; .* --no-speech"):
        write_release(build, "v1", build.config(), auto=True)


def test_a_pack_without_an_utterance_releases_faces_alone(tmp_path: Path) -> None:
    build = make_build(tmp_path / "w", tmp_path / "photos")
    pack_voices(build, {})
    write_release(build, "v1", build.config(), auto=True)
    assert Release(build, "v1").info()["speech"] is None


def test_missing_gender_and_odd_values_do_not_break_the_datasheet(released: Release) -> None:
    text = released.read("DATASHEET.md").decode()
    assert "| not stated | 3 | 2 | 0 | 1 |" in text
    assert "| utterances | 6 | 5 | 0 | 1 |" in text
    assert "no contact was given" in text
    assert "cut to what a voice activity detector took for speech" in text


def test_contact_and_purpose_come_from_the_configuration(build: Workspace, split: str) -> None:
    told = ["release.contact=a|b@example.org", "release.purpose=To learn.", "speech.vad=false"]
    config = build.config(told)
    write_release(build, "told", config, auto=True, split=split)
    text = Release(build, "told").read("DATASHEET.md").decode()
    assert "Takedown and other requests: a\\|b@example.org" in text
    assert "## Motivation\n\nTo learn.\n" in text
    assert "voice activity" not in text


def test_licences_file_has_a_line_a_face(released: Release) -> None:
    lines = released.read("LICENSES.csv").decode().splitlines()
    assert len(lines) == 1 + released.manifest().num_rows
    assert json.loads(released.read("split.json"))["custom"]["test"] == ["Emmy_Noether"]
