"""Phantom identities: the same draws as ever, and what is given stays given."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from hqvox.phantom.identity import FACE_SPREADS, FaceIdentity


def person(seed: int, **given: object) -> FaceIdentity:
    return FaceIdentity.sample(np.random.default_rng(seed), **given)  # type: ignore[arg-type]


def test_a_seed_gives_the_person_that_it_always_gave() -> None:
    digest = hashlib.sha256()
    for seed in range(40):
        face = person(seed)
        digest.update(" ".join(f"{v:.9g}" for v in face.traits().values()).encode())
        digest.update((face.hair_style + face.beard + str(face.texture_seed)).encode())
    assert digest.hexdigest().startswith("8c9e1d7f5de4ab49052adc4a82768eec")


def test_given_traits_are_used() -> None:
    face = person(3, masculinity=0.9, age_years=60.0, deviates={"nose_bridge": 2.0})
    assert (face.masculinity, face.age_years) == (0.9, 60.0)
    spread = FACE_SPREADS["nose_bridge"]
    assert face.nose_bridge == pytest.approx(1 + 0.1 * 0.4 + 2 * spread.sd)
    assert spread.deviate(face.nose_bridge, 0.4) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no trait nose"):
        person(3, deviates={"nose": 1.0})


def test_sex_follows_given_masculinity() -> None:
    assert {person(seed, masculinity=0.1).beard for seed in range(30)} == {"none"}
    assert len({person(seed, masculinity=0.9).beard for seed in range(30)}) > 2


def test_deviates_are_standard_normal() -> None:
    people = [person(seed) for seed in range(300)]
    for name, spread in FACE_SPREADS.items():
        found = [spread.deviate(getattr(p, name), p.masculinity - 0.5) for p in people]
        assert abs(np.mean(found)) < 0.2
        assert 0.7 < np.std(found) < 1.1
