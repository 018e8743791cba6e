"""Phantoms: the truth that comes with a picture is the truth of that picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import models.landmarks
from hqvox.phantom.faces import FaceIdentity, Light, PhantomPhoto, Pose, Scene, render_face
from hqvox.phantom.features import EXPRESSIONS, MIRROR
from hqvox.phantom.scenery import BACKDROPS, backdrop
from models.store import ModelStore

SMALL = Scene(width=220, height=240, pose=Pose(ipd_px=42))


def person(seed: int = 1) -> FaceIdentity:
    return FaceIdentity.sample(np.random.default_rng(seed))


def photo(seed: int = 1, scene: Scene = SMALL, **pose: object) -> PhantomPhoto:
    changed = replace(scene, pose=replace(scene.pose, **pose))  # type: ignore[arg-type]
    return render_face(person(seed), changed, np.random.default_rng(0))


def test_same_seed_same_bytes_and_another_person_looks_different() -> None:
    first, again, other = photo(1), photo(1), photo(2)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.truth.landmarks_xy, again.truth.landmarks_xy)
    assert np.abs(first.image.astype(int) - other.image).mean() > 5


def test_eyes_stand_where_they_were_asked_for() -> None:
    truth = photo(ipd_px=50.0, eyes_xy=(0.4, 0.5)).truth
    middle = truth.pupils_xy.mean(axis=0)
    assert truth.ipd_px == pytest.approx(50, rel=0.03)
    assert middle == pytest.approx([0.4 * 220 - 0.5, 0.5 * 240 - 0.5], abs=1.5)


@pytest.mark.parametrize(("yaw", "sign"), [(25.0, 1), (-25.0, -1)])
def test_positive_yaw_turns_the_nose_to_the_right(yaw: float, sign: int) -> None:
    truth = photo(yaw_deg=yaw).truth
    nose, eyes = truth.landmarks_xy[30], truth.pupils_xy.mean(axis=0)
    assert sign * (nose[0] - eyes[0]) > 0.1 * truth.ipd_px
    assert truth.yaw_deg == yaw


def test_positive_pitch_lifts_the_nose_and_positive_roll_turns_clockwise() -> None:
    level, up = photo().truth, photo(pitch_deg=20.0).truth
    drop = [t.landmarks_xy[30, 1] - t.pupils_xy[:, 1].mean() for t in (level, up)]
    assert drop[1] < drop[0] - 3
    rolled = photo(roll_deg=15.0).truth
    across = rolled.pupils_xy[1] - rolled.pupils_xy[0]
    assert np.degrees(np.arctan2(across[1], across[0])) == pytest.approx(15, abs=1.5)


def test_a_frontal_face_is_its_own_mirror_image() -> None:
    points = photo().truth.landmarks_xy
    middle = points[27:31, 0].mean()
    mirrored = points[MIRROR] * (-1, 1) + (2 * middle, 0)
    assert np.abs(points - mirrored).max() < 0.06 * 42


def test_the_far_cheek_is_the_outline_when_the_head_turns() -> None:
    turned = photo(yaw_deg=30.0, ipd_px=60.0, scene=replace(SMALL, width=320, height=320))
    mask = turned.truth.mask
    for x, y in turned.truth.landmarks_xy[12:15]:
        row = mask[round(y)]
        assert row[round(x) - 6]
    assert turned.truth.landmarks_xy[13, 0] > turned.truth.landmarks_xy[54, 0]


def test_mask_holds_the_face_and_not_the_backdrop() -> None:
    shot = photo()
    mask, points = shot.mask, shot.truth.landmarks_xy
    inner = np.rint(points[27:68]).astype(int)
    assert mask[inner[:, 1], inner[:, 0]].all()
    assert not mask[:8].any()
    assert mask[-1].any()
    left, top, right, bottom = shot.truth.box_xyxy
    assert left < points[36, 0] < right
    assert top < points[8, 1] <= bottom


def test_two_people_are_told_apart() -> None:
    mine = Pose(eyes_xy=(0.28, 0.45), ipd_px=40, yaw_deg=6)
    theirs = Pose(eyes_xy=(0.72, 0.45), ipd_px=38, expression="happiness")
    scene = Scene(width=400, height=240, pose=mine, others=((person(5), theirs),))
    shot = render_face(person(1), scene, np.random.default_rng(0))
    first, second = shot.faces
    assert first.pupils_xy[:, 0].max() < 200 < second.pupils_xy[:, 0].min()
    assert (first.expression, second.expression) == ("neutral", "happiness")
    assert not (first.mask & second.mask).any()
    assert np.array_equal(shot.mask, first.mask | second.mask)


def test_expressions_move_the_points_that_make_them() -> None:
    points = {e: photo(expression=e).truth.landmarks_xy for e in EXPRESSIONS}
    gap = {e: p[66, 1] - p[62, 1] for e, p in points.items()}
    width = {e: p[54, 0] - p[48, 0] for e, p in points.items()}
    assert gap["happiness"] > gap["neutral"] + 4
    assert gap["surprise"] > gap["happiness"]
    assert width["happiness"] > width["slight_smile"] > width["neutral"]
    assert points["surprise"][19, 1] < points["neutral"][19, 1] - 2


def test_light_comes_from_where_it_is_put() -> None:
    def sides(light: Light) -> float:
        shot = photo(4, replace(SMALL, light=light))
        cheeks = [shot.truth.landmarks_xy[[a, b]].mean(axis=0) for a, b in ((2, 31), (14, 35))]
        left, right = (
            float(shot.image[int(y) - 4 : int(y) + 4, int(x) - 4 : int(x) + 4].mean())
            for x, y in cheeks
        )
        return right / left

    assert sides(Light(azimuth_deg=75, key=1.1, ambient=0.1)) > 1.5
    assert sides(Light(azimuth_deg=-75, key=1.1, ambient=0.1)) < 1 / 1.5
    assert sides(Light(azimuth_deg=0)) == pytest.approx(1, abs=0.15)


def test_exposure_grey_and_compression() -> None:
    plain, dark = photo(), photo(scene=replace(SMALL, exposure=0.05))
    assert dark.image.mean() < 0.35 * plain.image.mean()
    grey = photo(scene=replace(SMALL, grey=True)).image
    assert np.array_equal(grey[..., 0], grey[..., 2])
    packed = photo(scene=replace(SMALL, jpeg_quality=30)).image
    assert 0 < np.abs(packed.astype(int) - plain.image).mean() < 12


def test_dlib_finds_phantoms_and_their_points() -> None:
    landmarker = models.landmarks.load("dlib68", ModelStore(offline=True))
    errors = []
    for seed, yaw in ((1, 0.0), (2, 12.0), (3, -25.0), (4, 0.0), (5, 4.0)):
        scene = Scene(width=300, height=320, pose=Pose(ipd_px=60))
        shot = photo(seed, scene, yaw_deg=yaw)
        faces = landmarker([shot.image])[0]
        assert len(faces) == 1
        miss = np.linalg.norm(faces.landmarks_xy[0] - shot.truth.landmarks_xy, axis=1)
        errors.append(miss[17:].mean() / shot.truth.ipd_px)
    assert np.median(errors) < 0.05


def test_every_backdrop_fills_the_picture() -> None:
    for kind in BACKDROPS:
        image = backdrop(kind, (70, 91), np.random.default_rng(0))
        assert image.shape == (70, 91, 3)
        assert np.isfinite(image).all()
        assert image.std() > 0.005


def test_traits_name_every_number_of_the_person() -> None:
    someone = person()
    traits = someone.traits()
    assert traits["ipd_mm"] == someone.ipd_mm
    assert "hair_style" not in traits
    assert "texture_seed" not in traits
    assert someone.trait_vector().tolist() == list(traits.values())


def test_impossible_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expression must be one of .*, not 'bored'"):
        Pose(expression="bored")
    with pytest.raises(ValueError, match="ipd_px must be positive"):
        Pose(ipd_px=0)
    with pytest.raises(ValueError, match=r"backdrop must be one of .*, not 'moon'"):
        Scene(backdrop="moon")
