from __future__ import annotations

import cv2
import numpy as np

from hqvox.config.build import DuplicatesConfig
from pipelines.duplicates import DuplicatesStage, clusters, perceptual_hash
from tests.helpers.stage_fakes import STORE, MemoryPixels, face_row, plain_photo


def picture(seed: int, side: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


def judged(photos: list, sizes: list[int], max_distance_bits: int = 6, **columns: list) -> list:
    stage = DuplicatesStage(DuplicatesConfig(max_distance_bits=max_distance_bits), STORE)
    rows = [face_row(candidate=i, width_px=n, height_px=n) for i, n in enumerate(sizes)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    rows = stage.process(rows, MemoryPixels(dict(enumerate(photos))))
    stage.compare(rows)
    return rows


def test_the_largest_copy_stays_and_a_different_photo_is_left_alone():
    big, small = picture(1, 200), picture(1, 60)
    rows = judged([small, big, picture(2)], [60, 200, 96])
    assert [row["reason"] for row in rows] == ["duplicate", None, None]
    assert [row["duplicate_of"] for row in rows] == [1, None, None]


def test_of_equal_sizes_more_bytes_win_then_the_earlier_candidate():
    same = [picture(1)] * 3
    rows = judged(same, [96] * 3, photo_bytes=[5, 9, 9])
    assert [row["duplicate_of"] for row in rows] == [1, None, 1]


def test_same_bytes_are_duplicates_even_where_nothing_can_be_decoded():
    rows = judged([None, None, None], [9] * 3, photo_id=["a", "a", "b"])
    assert [row["phash"] for row in rows] == [None] * 3
    assert [row["reason"] for row in rows] == [None, "duplicate", None]


def test_limit_is_inclusive_and_chains_join():
    ids = ["a", "b", "c"]
    hashes = [0, 0b111, 0b111111]
    assert len(set(clusters(ids, hashes, 3))) == 1
    assert len(set(clusters(ids, hashes, 2))) == 3


def test_clusters_of_more_photos_than_a_block_match_the_plain_definition():
    rng = np.random.default_rng(0)
    hashes = [int(x) for x in rng.integers(0, 2**63, 1100, dtype=np.uint64)]
    hashes[1090] = hashes[3] ^ 0b101
    labels = clusters([str(i) for i in range(1100)], hashes, 2)
    assert labels[1090] == labels[3]
    assert len(set(labels.tolist())) == 1099


def test_hash_fits_64_bits_and_survives_scaling():
    a, b = perceptual_hash(picture(3, 400)), perceptual_hash(picture(3, 100))
    assert 0 <= a < 2**64
    assert (a ^ b).bit_count() <= 4
    assert perceptual_hash(plain_photo(10)) == perceptual_hash(plain_photo(10))


def test_an_identity_without_photos_is_fine():
    stage = DuplicatesStage(DuplicatesConfig(), STORE)
    stage.compare(stage.process([], MemoryPixels({})))
