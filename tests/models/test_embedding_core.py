"""Which of an identity's faces are the identity."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models import embedding, landmarks
from models.embedding.core import identity_core
from models.store import ModelStore


def people(*counts: int, spread: float = 0.15, seed: int = 0) -> NDArray[np.float32]:
    """Unit embeddings of that many faces of as many people, person by person, 64-d."""
    rng = np.random.default_rng(seed)
    rows = []
    for count in counts:
        person = rng.normal(size=64)
        person /= np.linalg.norm(person)
        noise_rows = rng.normal(size=(count, 64)) * spread / 8
        rows.append(person + noise_rows)
    stacked = np.vstack(rows)
    return (stacked / np.linalg.norm(stacked, axis=1, keepdims=True)).astype(np.float32)


def test_a_stranger_among_ten_is_not_of_the_core() -> None:
    found = identity_core(people(10, 1), 0.9)
    assert found.core.tolist() == [True] * 10 + [False]
    assert found.has_majority
    assert found.similarity.dtype == np.float32
    assert found.similarity[:10].min() > 0.9
    assert found.similarity[10] < 0.6


def test_similarity_is_the_mean_cosine_to_the_others_of_the_core() -> None:
    rows = people(4, 1).astype(float)
    found = identity_core(rows * 3, 0.9)
    cosine = rows @ rows.T
    np.testing.assert_allclose(found.similarity[0], cosine[0, 1:4].mean(), atol=1e-6)
    np.testing.assert_allclose(found.similarity[4], cosine[4, :4].mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("counts", "core", "has_majority"),
    [
        ((1,), [True], True),
        ((2,), [True, True], True),
        ((1, 1), [True, False], False),
        ((3,), [True] * 3, True),
        ((1, 2), [False, True, True], True),
        ((1, 1, 1), [True, False, False], False),
        ((2, 2), None, False),
        ((2, 1, 1), [True, True, False, False], False),
        ((3, 2), [True] * 3 + [False] * 2, True),
    ],
)
def test_small_identities(
    counts: tuple[int, ...], core: list[bool] | None, has_majority: bool
) -> None:
    found = identity_core(people(*counts), 0.9)
    assert found.has_majority is has_majority
    if core is not None:
        assert found.core.tolist() == core
    assert identity_core(people(*counts), 0.9).core.tolist() == found.core.tolist()


def test_no_faces_have_no_core() -> None:
    found = identity_core(np.zeros((0, 128)), 0.9)
    assert found.core.shape == found.similarity.shape == (0,)
    assert not found.has_majority


def test_one_face_alone_has_similarity_one() -> None:
    assert identity_core(people(1), 0.9).similarity.tolist() == [1.0]


def test_the_order_of_faces_does_not_matter() -> None:
    rows = people(9, 4, 2, 1, spread=0.3)
    order = np.random.default_rng(3).permutation(len(rows))
    found, shuffled = identity_core(rows, 0.85), identity_core(rows[order], 0.85)
    assert shuffled.core.tolist() == found.core[order].tolist()
    np.testing.assert_allclose(shuffled.similarity, found.similarity[order], atol=1e-6)


def test_a_chain_of_look_alikes_is_not_one_person() -> None:
    angle = np.radians(np.arange(0, 180, 15))
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = identity_core(rows, np.cos(np.radians(20)))
    assert found.core.sum() <= 4
    assert not found.has_majority


def test_a_crowd_in_one_photo_does_not_outnumber_the_person() -> None:
    rows = people(4, *[1] * 12)
    photos = ["a", "b", "c", "d"] + ["d"] * 12
    found = identity_core(rows, 0.9, photos)
    assert found.core.tolist() == [True] * 4 + [False] * 12
    assert found.has_majority
    assert not identity_core(rows, 0.9).has_majority


def test_a_couple_in_every_photo_is_not_decided_until_one_is_seen_alone() -> None:
    rows = people(5, 4)
    photos = ["a", "b", "c", "d", "e", "a", "b", "c", "d"]
    undecided = identity_core(np.delete(rows, 4, axis=0), 0.9, [*"abcd", *"abcd"])
    assert not undecided.has_majority
    decided = identity_core(rows, 0.9, photos)
    assert decided.has_majority
    assert decided.core.tolist() == [True] * 5 + [False] * 4


def test_of_two_faces_in_a_photo_both_are_core_only_where_they_match_each_other() -> None:
    axis = np.eye(3)
    twin = np.array([np.cos(0.3), np.sin(0.3), 0])
    sibling = np.array([np.cos(0.3), -np.sin(0.3), 0])
    rows = np.stack([axis[0], axis[0], axis[0], twin, sibling])
    threshold = 0.9  # cos 0.3 = 0.955 to the person, cos 0.6 = 0.825 to each other
    apart = identity_core(rows, threshold, ["a", "b", "c", "d", "e"])
    assert apart.core.all()
    same_photo = identity_core(rows, threshold, ["a", "b", "c", "d", "d"])
    assert same_photo.core.sum() == 4
    collage = identity_core(rows[[0, 1, 2, 3, 3]], threshold, ["a", "b", "c", "d", "d"])
    assert collage.core.all()


@pytest.mark.parametrize(
    ("rows", "photos"),
    [
        (np.zeros((2, 3)), None),
        (np.array([[1.0, np.nan]]), None),
        (np.ones(3), None),
        (np.ones((2, 3)), ["a"]),
    ],
)
def test_impossible_embeddings_are_refused(rows: NDArray, photos: list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"embedding"):
        identity_core(rows, 0.9, photos)


@pytest.mark.real_data
def test_people_are_told_apart_and_a_planted_stranger_is_refused(
    real_data_dir: Path,
) -> None:
    store = ModelStore()
    landmarker = landmarks.load("dlib68", store)
    embedder = embedding.load("dlib_resnet", store)
    rows: dict[str, list[NDArray[np.float32]]] = {}
    for person in ("Jack_Dorsey", "Mark_Zuckerberg"):
        for file in sorted((real_data_dir / "celebrities" / person).glob("*.jpg")):
            photo = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
            scale = min(1.0, 800 / max(photo.shape))
            photo = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale), dtype=np.uint8)
            faces = landmarker([photo])[0]
            assert len(faces), file
            rows.setdefault(person, []).append(embedder.crop(photo, faces.landmarks_xy[0]))
    first, second = (embedder(crops) for crops in rows.values())
    assert (first @ second.T).max() < embedder.same_person_cosine
    for own, stranger in ((first, second[0]), (second, first[0])):
        found = identity_core(np.vstack([own, stranger]), embedder.same_person_cosine)
        assert found.core.tolist() == [True] * len(own) + [False]
        assert found.has_majority
