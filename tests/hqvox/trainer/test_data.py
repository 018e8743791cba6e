"""Packing a release, and drawing batches of it."""

from __future__ import annotations

import io
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.release.speech import SPEECH
from hqvox.release.write import write_release
from hqvox.speech.pack import PackWriter
from hqvox.trainer.batches import Batch, BatchSource, FusedBatch
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import TrainingData
from hqvox.trainer.evaluate import Protocol, Speaker
from hqvox.trainer.recipes import load_train_config
from hqvox.trainer.sampler import Sampler
from hqvox.trainer.speech_input import SF2F_MEAN, SF2F_STD, Normaliser, normalise, windows
from hqvox.workspace.tables import UTTERANCES
from models.sf2f.colour import from_unit
from tests.helpers.synthetic_build import make_build
from tests.helpers.tiny_release import make_tiny_release, write_checksums

UNPAIRED = ("loss.l1.weight=0", "loss.perceptual.weight=0", "stage2.iterations=0")
"""Without the losses that compare a voice with a face."""


def tiny_config(*given: str) -> TrainConfig:
    return load_train_config("sf2f-64-tiny", ["stage1.batch_size=4", "stage2.batch_size=4", *given])


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A release that a test may spoil."""
    return make_tiny_release(tmp_path / "release", 3, 1, 1, faces=2)


# Packing.


def test_pictures_are_averaged_down_and_in_the_manifests_order(
    tiny: Release, tiny_data: TrainingData, tmp_path: Path
) -> None:
    files = tiny.manifest(["masked_file"])["masked_file"].to_pylist()
    assert tiny_data.faces[64].shape == (len(files), 3, 64, 64)
    assert tiny_data.faces[128].shape == (len(files), 3, 128, 128)
    release = make_tiny_release(tmp_path / "large", 2, 1, 1, faces=1, side_px=256)
    data = TrainingData.open(release, (64, 128), cache_dir=tmp_path)
    for row, file in enumerate(release.manifest(["masked_file"])["masked_file"].to_pylist()):
        whole = np.asarray(Image.open(Path(release.url) / file), np.float64)
        for side in (64, 128):
            factor = 256 // side
            blocks = whole.reshape(side, factor, side, factor, 3).mean(axis=(1, 3))
            ours = data.faces[side][row].transpose(1, 2, 0)
            assert np.abs(ours - blocks).max() <= 1.0


def test_pictures_can_be_resized_as_pil_does_and_halved_by_every_second_pixel(
    tiny: Release, tmp_path: Path
) -> None:
    """As SF2F's loader: torchvision's Resize is PIL's; a lower resolution is the nearest pixel."""
    data = TrainingData.open(tiny, (64, 128), resize="bilinear", cache_dir=tmp_path)
    files = tiny.manifest(["masked_file"])["masked_file"].to_pylist()
    for row in (0, 5):
        with Image.open(io.BytesIO(tiny.read(files[row]))) as picture:
            expected = np.asarray(picture.convert("RGB").resize((128, 128), Image.BILINEAR))
        np.testing.assert_array_equal(data.faces[128][row], expected.transpose(2, 0, 1))
        np.testing.assert_array_equal(data.faces[64][row], expected[::2, ::2].transpose(2, 0, 1))
    averaged = TrainingData.open(tiny, (128,), cache_dir=tmp_path)
    assert (averaged.faces[128] != data.faces[128]).any()
    again = TrainingData.open(tiny, (128,), resize="bilinear", cache_dir=tmp_path)
    np.testing.assert_array_equal(again.faces[128], data.faces[128])


def test_a_picture_that_pil_cannot_read_is_one_line(release: Release, tmp_path: Path) -> None:
    file = release.manifest(["masked_file"])["masked_file"].to_pylist()[0]
    Path(release.storage.path(file)).write_bytes(b"no picture")
    with pytest.raises(HqvoxError, match=r"\.jpg: no picture, or a damaged one"):
        TrainingData.open(release, (64,), resize="bilinear", cache_dir=tmp_path)


def test_parts_are_what_the_tables_say(tiny: Release, tiny_data: TrainingData) -> None:
    faces = tiny.manifest(["identity_id"])["identity_id"].to_pylist()
    spoken = tiny.speech()["identity_id"].to_pylist()
    people = tiny.identities().to_pylist()
    for name in ("train", "val", "test"):
        split = tiny_data.split(name)
        assert list(split.identity_ids) == [p["identity_id"] for p in people if p["split"] == name]
        assert len(split) == len(split.person_names)
        for own, rows, said in zip(
            split.identity_ids, split.faces_of, split.utterances_of, strict=True
        ):
            assert rows.tolist() == [i for i, who in enumerate(faces) if who == own]
            assert said.tolist() == [i for i, who in enumerate(spoken) if who == own]


def test_people_without_voice_or_face_are_left_out(release: Release, tmp_path: Path) -> None:
    root = Path(release.url)
    spoken = release.speech()
    pq.write_table(spoken.slice(2), root / "speech/index.parquet")  # id0 is silent
    pq.write_table(release.manifest().slice(0, 8), root / "manifest.parquet")  # id4 is faceless
    data = TrainingData.open(release, (64,), cache_dir=tmp_path)
    assert data.split("train").identity_ids == ("id1", "id2")
    assert len(data.split("test")) == 0
    assert data.split("train").faces_of[0].tolist() == [2, 3]
    assert data.split("train").utterances_of[0].tolist() == [0, 1]


def test_a_second_opening_packs_nothing_and_the_release_is_only_read(
    release: Release, tmp_path: Path
) -> None:
    before = files_below(Path(release.url))
    seen: list[tuple[str, int, int]] = []
    first = TrainingData.open(
        release, (64,), cache_dir=tmp_path / "c", on_progress=lambda *told: seen.append(told)
    )
    assert seen == [("packing faces", i, 10) for i in range(1, 11)]
    again = TrainingData.open(
        release, (64,), cache_dir=tmp_path / "c", on_progress=lambda *told: pytest.fail(str(told))
    )
    assert np.array_equal(first.faces[64], again.faces[64])
    assert files_below(Path(release.url)) == before


def test_another_release_in_the_same_place_is_packed_anew_and_the_old_forgotten(
    release: Release, tmp_path: Path
) -> None:
    cache = tmp_path / "c"
    old = np.array(TrainingData.open(release, (64,), cache_dir=cache).faces[64])
    (kept,) = (cache / "training").iterdir()
    root = Path(release.url)
    files = release.manifest(["masked_file"])["masked_file"].to_pylist()
    shutil.copy(root / files[3], root / files[0])
    write_checksums(root)
    new = TrainingData.open(release, (64,), cache_dir=cache).faces[64]
    assert np.array_equal(new[0], old[3])
    (left,) = (cache / "training").iterdir()
    assert left != kept


def test_runs_that_start_at_once_pack_once(release: Release, tmp_path: Path) -> None:
    seen: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        opened = list(
            pool.map(
                lambda _: TrainingData.open(
                    release, (64,), cache_dir=tmp_path, on_progress=lambda *told: seen.append(1)
                ),
                range(4),
            )
        )
    assert len(seen) == 10
    assert all(np.array_equal(o.faces[64], opened[0].faces[64]) for o in opened)


def test_a_stopped_or_damaged_packing_is_done_again(release: Release, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TrainingData.open(release, (64,), cache_dir=tmp_path, on_progress=stop)
    assert not list(tmp_path.rglob("*.npy"))
    whole = np.array(TrainingData.open(release, (64,), cache_dir=tmp_path).faces[64])
    (file,) = tmp_path.rglob("masked_64.npy")
    file.write_bytes(file.read_bytes()[:-1000])
    mended = TrainingData.open(release, (64,), cache_dir=tmp_path).faces[64]
    assert np.array_equal(mended, whole)


def test_origin_pictures_are_packed_apart(release: Release, tmp_path: Path) -> None:
    root = Path(release.url)
    origin = release.manifest(["origin_file"])["origin_file"].to_pylist()
    shutil.copy(root / origin[5], root / origin[0])
    masked = TrainingData.open(release, (64,), cache_dir=tmp_path)
    other = TrainingData.open(release, (64,), cache_dir=tmp_path, pictures="origin")
    assert np.array_equal(other.faces[64][0], masked.faces[64][5])
    assert not np.array_equal(masked.faces[64][0], masked.faces[64][5])


def test_a_release_that_was_written_from_a_build_opens(tmp_path: Path) -> None:
    names = ("Ada", "Bedřich", "Few", "Nobody", "Eva")
    build = make_build(tmp_path / "w", tmp_path / "photos", names)
    said = np.random.default_rng(0).normal(10, 3, (150, 40)).astype(np.float32)
    for shard, identities in build.shards().items():
        writer = PackWriter(build, shard, 40)
        for who in identities:
            own = dict.fromkeys(UTTERANCES.names) | {
                "identity_id": who["identity_id"], "video": "v", "utterance": "0",
                "path": f"{who['identity_id']}.wav", "seconds": 1.5, "sha256": "0" * 64,
            }  # fmt: skip
            writer.add(own, said + who["row"])
        writer.commit({})
    (tmp_path / "split.csv").write_text("identity,part\nid0,train\nid1,train\nid4,test\n")
    split = str(tmp_path / "split.csv")
    write_release(build, "v1", build.config(), auto=True, split=split, workers=1)
    data = TrainingData.open(Release(build, "v1"), (64,), cache_dir=tmp_path / "c")
    assert data.split("train").person_names == ("Ada", "Bedřich")
    assert data.split("test").identity_ids == ("id4",)
    (row,) = data.split("test").utterances_of[0]
    assert np.array_equal(data.log_mel(row), (said + 4).astype(np.float16))
    assert BatchSource(data.split("train"), tiny_config()).stage1(0).log_mel.isfinite().all()


# Bad input.


def test_bad_releases_are_one_line(release: Release, tmp_path: Path) -> None:
    root = Path(release.url)

    def refused(message: str, *sides: int) -> None:
        with pytest.raises(HqvoxError, match=message) as caught:
            TrainingData.open(release, sides or (64,), cache_dir=tmp_path / "c")
        assert "\n" not in str(caught.value)

    face = root / release.manifest(["masked_file"])["masked_file"][1].as_py()
    content = face.read_bytes()
    face.write_bytes(content[:40])
    refused(r"1\.jpg: no picture, or a damaged one")
    face.unlink()
    refused(r"1\.jpg: missing; restore it")
    face.write_bytes(content)
    voices = root / "speech/00.f16"
    sound = voices.read_bytes()
    voices.write_bytes(sound[:-80])
    refused(r"00\.f16: shorter than speech/index\.parquet says")
    voices.write_bytes(sound[:-81])
    refused(r"00\.f16: cut short")
    voices.unlink()
    refused(r"00\.f16: missing")
    voices.write_bytes(sound)
    (tmp_path / "file").write_text("")
    with pytest.raises(HqvoxError, match=r"set HQVOX_CACHE.*a file stands where a folder"):
        TrainingData.open(release, (64,), cache_dir=tmp_path / "file")
    (root / "speech/index.parquet").unlink()
    refused("no voices in this release.*hqvox speech")


def test_a_release_of_one_person_is_one_line(tmp_path: Path) -> None:
    one = make_tiny_release(tmp_path / "one", 1, 0, 0)
    with pytest.raises(HqvoxError, match="1 identity with face and voice; training needs two"):
        TrainingData.open(one, (64,), cache_dir=tmp_path)
    elsewhere = make_tiny_release(tmp_path / "elsewhere", 1, 2, 0)
    data = TrainingData.open(elsewhere, (64,), cache_dir=tmp_path)
    with pytest.raises(HqvoxError, match="1 identity in train"):
        BatchSource(data.split("train"), tiny_config())


def test_filters_and_batches_that_do_not_fit_are_one_line(tiny_data: TrainingData) -> None:
    split = tiny_data.split("train")
    cmu = load_train_config("voice2face-cmu-tiny")
    with pytest.raises(HqvoxError, match=r"have 40 mel filters.*--set speech\.n_filters=64"):
        BatchSource(split, cmu)
    with pytest.raises(HqvoxError, match=r"stage1\.batch_size is 4, which 3 .*batch_size=3"):
        BatchSource(split, tiny_config(), rank=0, world=3)


def test_a_release_of_another_front_end_is_one_line(tiny: Release, cache_dir: Path) -> None:
    split = TrainingData.open(tiny, (64,), cache_dir=cache_dir).split("train")
    with pytest.raises(HqvoxError, match=r"by the sf2f front end.*speech\.front_end=voice2face"):
        BatchSource(split, tiny_config("data.front_end=voice2face"))
    with pytest.raises(HqvoxError, match=r"by the sf2f front end, the model needs voice2face"):
        Speaker(split, Normaliser(front_end="voice2face"), Protocol())


# Sampler.


def same(a: Batch | FusedBatch, b: Batch | FusedBatch) -> bool:
    for name, ours in vars(a).items():
        theirs = getattr(b, name)
        pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
        if not all(torch.equal(x, y) for x, y in pairs):
            return False
    return True


def test_a_step_is_the_same_however_it_is_reached(tiny_data: TrainingData) -> None:
    split = tiny_data.split("train")
    one, other = BatchSource(split, tiny_config()), BatchSource(split, tiny_config())
    straight = [one.stage1(step) for step in range(6)]
    for step in (5, 0, 3):
        assert same(other.stage1(step), straight[step])
        assert same(other.stage2(step), one.stage2(step))
    assert not same(straight[0], straight[1])
    assert not same(BatchSource(split, tiny_config("seed=1")).stage1(0), straight[0])


def test_processes_together_see_what_one_sees(tiny_data: TrainingData) -> None:
    split = tiny_data.split("train")
    one = BatchSource(split, tiny_config())
    both = [BatchSource(split, tiny_config(), rank=rank, world=2) for rank in (0, 1)]
    for step in range(4):
        halves, whole = [b.stage1(step) for b in both], one.stage1(step)
        assert torch.equal(torch.cat([h.log_mel for h in halves]), whole.log_mel)
        assert torch.equal(torch.cat([h.pictures[0] for h in halves]), whole.pictures[0])
        fused, together = [b.stage2(step) for b in both], one.stage2(step)
        assert torch.equal(torch.cat([f.windows for f in fused]), together.windows)
        assert torch.equal(torch.cat([f.identity for f in fused]), together.identity)


def test_everybody_comes_once_a_round_and_everything_of_theirs_alike(
    tiny_data: TrainingData,
) -> None:
    split = tiny_data.split("train")
    sampler = Sampler(split, tiny_config("stage1.crop_frames=[100,104]"))
    steps = [sampler.stage1(step) for step in range(600)]
    people = np.concatenate([s.identity for s in steps]).reshape(-1, len(split))
    assert all(sorted(row) == list(range(len(split))) for row in people.tolist())
    for kind, owned in (("face", split.faces_of), ("utterance", split.utterances_of)):
        counts = Counter(np.concatenate([getattr(s, kind) for s in steps]).tolist())
        for rows in owned:
            own = np.array([counts[row] for row in rows.tolist()])
            expected = 400 / len(own)  # binomial: five deviations
            assert np.abs(own - expected).max() < 5 * np.sqrt(expected)
    assert set(Counter(s.frames for s in steps)) == set(range(100, 105))
    starts = [
        (start, split.data.utterances.frames[said] - s.frames)
        for s in steps
        for start, said in zip(s.start, s.utterance, strict=True)
    ]
    assert all(0 <= start <= max(room, 0) for start, room in starts)
    assert {start == room for start, room in starts if room > 0} == {True, False}


def test_a_batch_is_what_was_drawn(tiny_data: TrainingData) -> None:
    split = tiny_data.split("train")
    config = tiny_config("stage1.crop_frames=[380,400]", "model.resolutions=[64,128]")
    source, sampler = BatchSource(split, config), Sampler(split, config)
    padded = 0
    for step in range(3):
        batch, drawn = source.stage1(step), sampler.stage1(step)
        assert batch.log_mel.shape == (4, 40, drawn.frames)
        for row in range(4):
            said = tiny_data.log_mel(drawn.utterance[row])[drawn.start[row] :][: drawn.frames]
            raw = np.zeros((drawn.frames, 40), np.float32)  # zeros before normalising
            raw[: len(said)] = said
            padded += len(said) < drawn.frames
            wanted = ((raw - 10.9915) / 3.1661).T
            np.testing.assert_allclose(batch.log_mel[row], wanted, atol=1e-5)
            face = int(batch.face[row])
            assert face in split.faces_of[batch.identity[row]]
            assert drawn.utterance[row] in split.utterances_of[batch.identity[row]]
            for px, pictures in zip((64, 128), batch.pictures, strict=True):
                unit = torch.from_numpy(tiny_data.faces[px][face] / np.float32(255))
                torch.testing.assert_close(pictures[row], from_unit(unit), atol=1e-5, rtol=0)
    assert padded


@pytest.mark.parametrize("short", ["pad", "repeat"])
@pytest.mark.parametrize("kind", ["sf2f", "release", "utterance"])
def test_data_in_memory_give_the_same_batches(
    tiny_data: TrainingData, kind: str, short: str
) -> None:
    given = [
        f"data.normalise={kind}",
        f"data.short={short}",
        "stage1.crop_frames=[200,300]",
        "data.flip=true",
    ]
    mapped = BatchSource(tiny_data.split("train"), tiny_config(*given))
    resident = BatchSource(
        tiny_data.split("train"), tiny_config(*given, "speed.data_on_device=true")
    )
    assert resident.resident
    assert not mapped.resident
    for step in range(3):
        a, b = mapped.stage1(step), resident.stage1(step)
        torch.testing.assert_close(a.log_mel, b.log_mel, atol=1e-5, rtol=0)
        torch.testing.assert_close(a.pictures, b.pictures, atol=1e-5, rtol=0)
        assert torch.equal(a.face, b.face)


def test_short_utterances_are_said_again_where_asked(tiny_data: TrainingData) -> None:
    config = tiny_config("data.short=repeat", "stage1.crop_frames=[420,420]")
    split = tiny_data.split("train")
    batch, drawn = BatchSource(split, config).stage1(0), Sampler(split, config).stage1(0)
    assert drawn.start.any()
    for row, said in enumerate(tiny_data.log_mel(u) for u in drawn.utterance):
        # A crop of what is repeated to 10 s, as voice2face's released code has it.
        again = np.concatenate([said] * 12).astype(np.float32)[:1000]
        twice = again[drawn.start[row] :][:420]
        wanted = ((twice - SF2F_MEAN) / SF2F_STD).T
        np.testing.assert_allclose(batch.log_mel[row], wanted, atol=1e-5)


def test_voices_and_faces_are_drawn_apart(tiny_data: TrainingData) -> None:
    split = tiny_data.split("train")
    apart = ("data.draw=apart", "stage1.batch_size=6", *UNPAIRED)
    sampler = Sampler(split, tiny_config(*apart))
    steps = [sampler.stage1(step) for step in range(6)]
    utterances, faces = np.concatenate(split.utterances_of), np.concatenate(split.faces_of)
    heard = np.concatenate([s.utterance for s in steps])
    seen = np.concatenate([s.face for s in steps])
    # Each file once an epoch: 12 utterances in two steps, 18 faces in three.
    for start in range(0, 36, 12):
        assert sorted(heard[start : start + 12]) == sorted(utterances)
    for start in range(0, 36, 18):
        assert sorted(seen[start : start + 18]) == sorted(faces)
    for step in steps:
        for person, row in zip(step.identity, step.utterance, strict=True):
            assert row in split.utterances_of[person]
        for person, row in zip(step.face_identity, step.face, strict=True):
            assert row in split.faces_of[person]
    same_person = np.mean([step.identity == step.face_identity for step in steps])
    assert same_person < 0.5, "one in six by chance"
    batch = BatchSource(split, tiny_config(*apart)).stage1(2)
    assert batch.identity.tolist() == steps[2].identity.tolist()
    assert batch.face_identity.tolist() == steps[2].face_identity.tolist()
    halves = [Sampler(split, tiny_config(*apart), rank, 2).stage1(2) for rank in range(2)]
    assert np.concatenate([h.face for h in halves]).tolist() == steps[2].face.tolist()
    paired = Sampler(split, tiny_config()).stage1(0)
    assert (paired.identity == paired.face_identity).all()


def test_losses_of_pairs_refuse_what_is_drawn_apart() -> None:
    with pytest.raises(HqvoxError, match=r"data\.draw=apart.*loss\.l1\.weight"):
        tiny_config("data.draw=apart")


def test_mirrored_pictures_are_about_half_and_only_where_asked(tiny_data: TrainingData) -> None:
    split = tiny_data.split("train")
    plain = BatchSource(split, tiny_config())
    flipped = BatchSource(split, tiny_config("data.flip=true"))
    mirrored = 0
    for step in range(30):
        a, b = plain.stage1(step), flipped.stage1(step)
        assert torch.equal(a.face, b.face)
        for x, y in zip(a.pictures[0], b.pictures[0], strict=True):
            if not torch.equal(x, y):
                assert torch.equal(x.flip(2), y)
                mirrored += 1
    assert 35 < mirrored < 85


def test_normalising_by_utterance_gives_every_filter_mean_0_and_deviation_1(
    tiny_data: TrainingData,
) -> None:
    log_mel = tiny_data.log_mel(0)
    whole = Normaliser("utterance").whole(log_mel)[0].numpy()
    np.testing.assert_allclose(whole.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(whole.std(axis=1), 1, atol=1e-4)
    config = tiny_config("data.normalise=utterance", "stage1.crop_frames=[400,400]")
    sampler = Sampler(tiny_data.split("train"), config)
    batch = BatchSource(tiny_data.split("train"), config).stage1(0)
    said = tiny_data.log_mel(sampler.stage1(0).utterance[0])
    wanted = Normaliser("utterance").whole(said)[0]
    torch.testing.assert_close(batch.log_mel[0, :, : len(said)], wanted, atol=1e-4, rtol=0)
    assert not batch.log_mel[0, :, len(said) :].any(), "padded after normalising"


def test_normalising_by_the_release_takes_its_own_figures(tiny_data: TrainingData) -> None:
    ours = Normaliser.of(tiny_config("data.normalise=release"), tiny_data)
    stats = tiny_data.release.speech_stats()
    assert (ours.mean, ours.std) == pytest.approx((stats["mean"], stats["variance"] ** 0.5))
    assert Normaliser.from_dict(ours.as_dict()) == ours
    assert normalise(torch.tensor(SF2F_MEAN + SF2F_STD)).item() == pytest.approx(1)


def test_no_file_is_opened_in_the_loop(tiny_data: TrainingData) -> None:
    source = BatchSource(tiny_data.split("train"), tiny_config())
    source.stage1(0)
    source.stage2(0)
    with opened_files() as opened:
        for step in range(1, 4):
            source.stage1(step)
            source.stage2(step)
    assert opened == []


class opened_files:
    """Files that are opened inside the block."""

    hooked = False
    here: list[str] | None = None

    def __enter__(self) -> list[str]:
        cls = type(self)
        if not cls.hooked:
            sys.addaudithook(cls.hear)
            cls.hooked = True
        cls.here = []
        return cls.here

    def __exit__(self, *error: object) -> None:
        type(self).here = None

    @classmethod
    def hear(cls, event: str, arguments: tuple) -> None:
        if event == "open" and cls.here is not None:
            cls.here.append(str(arguments[0]))


# Windows.


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(32, 200), st.integers(1, 130))
def test_windows_are_those_of_a_plain_loop(frames: int, length: int, stride: int) -> None:
    log_mel = np.random.default_rng(frames).normal(size=(frames, 3)).astype(np.float16)
    ours = windows(log_mel, length, stride)
    starts = [s for s in range(0, frames, stride) if s + length <= frames] or [0]
    assert ours.shape == (len(starts), 3, length)
    for window, start in zip(ours, starts, strict=True):
        piece = log_mel[start : start + length].T
        assert np.array_equal(window[:, : piece.shape[1]], piece)
        assert not window[:, piece.shape[1] :].any()


def test_five_seconds_are_six_windows() -> None:
    assert windows(np.zeros((500, 40), np.float16)).shape == (6, 40, 125)
    assert Normaliser().windows(np.zeros((500, 40), np.float16)).shape == (6, 40, 125)


@pytest.fixture(scope="module")
def long_speech(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Six utterances of 2.5 to 9 s each, and one person with a single one of 0.9 s."""
    folder = tmp_path_factory.mktemp("long")
    release = make_tiny_release(folder / "r", 5, 0, 0, faces=1, utterances=6, frames=(250, 900))
    spoken = release.speech().to_pylist()
    short = next(row for row in spoken if row["identity_id"] == "id4")
    rows = [r for r in spoken if r["identity_id"] != "id4"] + [short | {"frames": 90}]
    pq.write_table(pa.Table.from_pylist(rows, SPEECH), folder / "r/speech/index.parquet")
    return TrainingData.open(release, (64,), cache_dir=folder)


def test_stage_2_takes_6_to_25_s_of_one_persons_speech(long_speech: TrainingData) -> None:
    split = long_speech.split("train")
    config = tiny_config("stage2.batch_size=5", "stage2.max_windows=60")
    sampler, source = Sampler(split, config), BatchSource(split, config)
    spans = []
    for step in range(20):
        batch, drawn = source.stage2(step), sampler.stage2(step)
        assert batch.windows.shape == (5, 60, 40, 125)
        assert batch.mask.sum(1).tolist() == [len(own) for own in drawn.windows]
        assert not batch.windows[~batch.mask].any()
        for row, (person, own) in enumerate(zip(drawn.identity, drawn.windows, strict=True)):
            said = set(own[:, 0].tolist())
            assert said <= set(split.utterances_of[person].tolist())
            for column, (utterance, start) in enumerate(own.tolist()):
                piece = long_speech.log_mel(utterance)[start : start + 125].astype(np.float32)
                if split.identity_ids[person] != "id4":
                    assert len(piece) == 125, "no window reaches beyond its utterance"
                    wanted = ((piece - SF2F_MEAN) / SF2F_STD).T
                    np.testing.assert_allclose(batch.windows[row, column], wanted, atol=1e-5)
            if split.identity_ids[person] == "id4":
                assert len(own) == 1
                continue
            spans.append(
                sum(np.ptp(own[own[:, 0] == utterance, 1]) + 125 for utterance in said) / 100
            )
    assert max(spans) <= 25
    # Cutting into whole windows leaves at most 1.25 s and a stride of each utterance unused.
    assert min(spans) >= 6 - 3 * (0.63 + 1.25)
    assert max(spans) > 18
    assert min(spans) < 9


def test_stage_2_drops_no_window_of_25_s_by_default(tmp_path: Path) -> None:
    release = make_tiny_release(tmp_path / "r", 2, 0, 0, faces=1, utterances=1, frames=(2600, 2700))
    split = TrainingData.open(release, (64,), cache_dir=tmp_path).split("train")
    config = load_train_config("sf2f-64", ["stage2.seconds=[25,25]", "stage2.batch_size=2"])
    for pairs in Sampler(split, config).stage2(0).windows:
        assert len(pairs) == 38
        assert set(np.diff(pairs[:, 1]).tolist()) == {63}


def test_stage_2_of_the_released_code_takes_whole_utterances(long_speech: TrainingData) -> None:
    """125 frames every 125, each utterance from a random frame on, at most 20 windows."""
    split = long_speech.split("train")
    config = load_train_config("sf2f-64-released", ["stage2.batch_size=5"])
    sampler, firsts = Sampler(split, config), []
    for step in range(20):
        sample = sampler.stage2(step)
        for person, pairs in zip(sample.identity, sample.windows, strict=True):
            if split.identity_ids[person] == "id4":
                assert pairs.tolist() == [[split.utterances_of[person][0], 0]]
                continue
            assert len(pairs) <= 20
            order = list(dict.fromkeys(pairs[:, 0].tolist()))
            assert set(order) <= set(split.utterances_of[person].tolist())
            for utterance in order:
                starts = pairs[pairs[:, 0] == utterance, 1]
                left = long_speech.utterances.frames[utterance] - starts[-1] - 125
                assert set(np.diff(starts).tolist()) <= {125}
                assert 0 <= left < 125 or (utterance == order[-1] and len(pairs) == 20)
                firsts.append(starts[0])
    assert np.std(firsts) > 50, "from a random frame on"
    assert BatchSource(split, config).stage2(0).windows.shape == (5, 20, 40, 125)


def test_an_epoch_can_end_with_its_last_whole_batch(tiny_data: TrainingData) -> None:
    """6 people in batches of 4: one batch an epoch, two people left out, others each time."""
    split = tiny_data.split("train")
    settings = ("stage1.batch_size=4", "data.drop_last=true")
    sampler = Sampler(split, tiny_config(*settings))
    epochs = [set(sampler.stage1(step).identity.tolist()) for step in range(30)]
    assert {len(people) for people in epochs} == {4}
    assert len({frozenset(people) for people in epochs}) > 5
    larger = Sampler(split, tiny_config("stage1.batch_size=9", "data.drop_last=true"))
    assert len(larger.stage1(0).identity) == 9


def test_of_too_many_windows_some_stay_in_order(long_speech: TrainingData) -> None:
    split = long_speech.split("train")
    config = tiny_config("stage2.batch_size=5", "stage2.max_windows=7")
    batch = BatchSource(split, config).stage2(0)
    assert batch.windows.shape == (5, 7, 40, 125)
    assert sorted(batch.mask.sum(1).tolist()) == [1, 7, 7, 7, 7]
    for pairs in Sampler(split, config).stage2(0).windows:
        assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
        for utterance in set(pairs[:, 0].tolist()):
            assert (np.diff(pairs[pairs[:, 0] == utterance, 1]) > 0).all()
