"""Persons: voice and face share what they are said to share."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from hqvox.phantom.identity import FACE_SPREADS, VOICE_SPREADS, FaceIdentity
from hqvox.phantom.person import TRAITS, Person, explained, face_traits, voice_for

N = 500


@cache
def people(shared: float, private: float = 1.0, n: int = N) -> list[Person]:
    return [Person.sample(np.random.default_rng([1, i]), shared, private) for i in range(n)]


def shape(person: Person) -> list[float]:
    m = person.face.masculinity - 0.5
    return [s.deviate(getattr(person.face, name), m) for name, s in FACE_SPREADS.items()]


def r_squared(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Share of each output's variance that a linear map of the inputs explains, adjusted."""
    x = np.column_stack([inputs, np.ones(len(inputs))])
    left = outputs - x @ np.linalg.lstsq(x, outputs, rcond=None)[0]
    raw = 1 - (left**2).sum(axis=0) / ((outputs - outputs.mean(axis=0)) ** 2).sum(axis=0)
    n, k = inputs.shape
    return 1 - (1 - raw) * (n - 1) / (n - k - 1)


@pytest.mark.parametrize("shared", [0.0, 0.6, 1.0])
def test_traits_correlate_as_asked(shared: float) -> None:
    drawn = people(shared)
    v = np.array([p.voice_traits for p in drawn])
    f = np.array([p.face_traits for p in drawn])
    both = np.corrcoef(v.T, f.T)[: len(TRAITS), len(TRAITS) :]
    np.testing.assert_allclose(np.diag(both), shared, atol=0.12)
    assert np.abs(both - np.diag(np.diag(both))).max() < 0.22


@pytest.mark.parametrize(("shared", "private"), [(1.0, 1.0), (0.6, 1.0), (0.7, 0.0)])
def test_a_voice_explains_as_much_of_the_shape_as_is_said(shared: float, private: float) -> None:
    drawn = people(shared, private)
    found = r_squared(
        np.array([p.voice_traits for p in drawn]), np.array([shape(p) for p in drawn])
    )
    said = explained(shared, private)
    np.testing.assert_allclose(found, [said[name] for name in FACE_SPREADS], atol=0.13)


def test_the_voice_s_parameters_tell_its_traits() -> None:
    drawn = people(1.0)
    heard = [[*p.voice.traits().values(), np.log(p.voice.pitch_hz)] for p in drawn]
    told = r_squared(np.array(heard), np.array([p.voice_traits for p in drawn]))
    assert told.min() > 0.45  # dimorphism, bimodal in the voice, is the least linear
    assert np.median(told) > 0.75


def test_faces_are_distributed_as_ever() -> None:
    drawn = np.array([p.face.trait_vector() for p in people(1.0)])
    rng = np.random.default_rng(0)
    usual = np.array([FaceIdentity.sample(rng).trait_vector() for _ in range(N)])
    gap = (drawn.mean(axis=0) - usual.mean(axis=0)) / usual.std(axis=0)
    assert np.abs(gap).max() < 0.3
    names = list(FaceIdentity.sample(rng).traits())
    steady = [names.index(n) for n in ("masculinity", "age_years", "wrinkles", *FACE_SPREADS)]
    spread = drawn.std(axis=0) / usual.std(axis=0)
    np.testing.assert_allclose(spread[steady], 1, atol=0.15)


def test_shared_and_private_leave_the_voice_alone() -> None:
    a, b, c = (Person.sample(np.random.default_rng(3), s, p) for s, p in ((1, 1), (0.2, 1), (1, 0)))
    assert a.voice == b.voice == c.voice
    assert a.face != b.face
    assert a.face != c.face
    assert a.face.iris_rgb == c.face.iris_rgb


def test_without_private_variation_the_voice_determines_the_groups() -> None:
    a, b = (Person.sample(np.random.default_rng(seed), 1.0, 0.0) for seed in (1, 2))
    for person in (a, b):
        m = person.face.masculinity - 0.5
        for trait in TRAITS[2:]:
            moved = [
                sign * FACE_SPREADS[n].deviate(getattr(person.face, n), m)
                for n, sign in trait.face.items()
                if not FACE_SPREADS[n].by_tone
            ]
            if np.abs(moved).max() < 1.9 and not {"eye_opening", "upper_lip"} & set(trait.face):
                np.testing.assert_allclose(moved, moved[0], atol=1e-6)


def test_a_voice_for_a_face_follows_the_face() -> None:
    rng = np.random.default_rng(5)
    faces = [FaceIdentity.sample(rng) for _ in range(200)]
    told = np.array([face_traits(face) for face in faces])
    assert np.abs(told.mean(axis=0)).max() < 0.3
    np.testing.assert_allclose(told.std(axis=0), 1, atol=0.25)
    pitch, tract, free = [], [], []
    for i, face in enumerate(faces):
        voice = voice_for(face, np.random.default_rng([6, i]), 1.0)
        pitch.append(np.log(voice.pitch_hz))
        tract.append(voice.tract_cm)
        free.append(voice_for(face, np.random.default_rng([6, i]), 0.0).tract_cm)
    masculinity = [face.masculinity for face in faces]
    assert np.corrcoef(pitch, masculinity)[0, 1] < -0.8
    assert np.corrcoef(tract, [face.face_width for face in faces])[0, 1] > 0.25
    assert abs(np.corrcoef(free, masculinity)[0, 1]) < 0.2


def test_face_traits_are_found_again() -> None:
    drawn = people(0.5, n=200)
    found = np.array([face_traits(p.face) for p in drawn])
    truth = np.array([p.face_traits for p in drawn])
    for k in range(len(TRAITS)):
        assert np.corrcoef(found[:, k], truth[:, k])[0, 1] > 0.9


def test_every_trait_names_what_there_is() -> None:
    assert all(set(t.voice) <= set(VOICE_SPREADS) for t in TRAITS)
    faces = [name for t in TRAITS for name in t.face]
    assert len(faces) == len(set(faces))
    assert set(faces) <= set(FACE_SPREADS)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_shares_outside_their_range_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="shared must be between 0 and 1"):
        Person.sample(np.random.default_rng(0), bad)
    with pytest.raises(ValueError, match="private must be between 0 and 1"):
        explained(1.0, bad)
