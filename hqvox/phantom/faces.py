"""Photographs of phantoms with their ground truth.

``render_face(identity, scene, rng)`` renders one photograph of one or more people. It returns the
picture and, for each face, the values that a perfect pipeline would measure. It needs only NumPy,
SciPy and OpenCV. The same arguments give the same bytes.

Angles: ``yaw_deg`` > 0 turns the person towards the picture's right side, ``pitch_deg`` > 0 looks
up, ``roll_deg`` > 0 tips the head clockwise in the picture. The head is pitched first, then turned
about the camera's vertical axis, then rolled in the picture plane.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hqvox.phantom.body import JAW_ROW, Body, Part, dress, make_body
from hqvox.phantom.canvas import TEXELS
from hqvox.phantom.features import EXPRESSIONS
from hqvox.phantom.head import EYE_PLANE_Z
from hqvox.phantom.identity import FaceIdentity
from hqvox.phantom.raster import Camera, rasterise, sample_texture
from hqvox.phantom.scenery import BACKDROPS, backdrop
from hqvox.phantom.shading import CLOTH_WRAP, SKIN_WRAP, Light, shade, shade_strands

__all__ = ["FaceIdentity", "FaceTruth", "Light", "PhantomPhoto", "Pose", "Scene", "render_face"]

F32 = NDArray[Any]  # float32, which OpenCV's type stubs cannot promise
_PIVOT = np.array([0.0, 80.0, -15.0])
_CAMERA_MM = 1300.0
_SLIDE = 0.4
"""How far contour points slide over the skin towards a constant direction, 0 to 1: the value that
agrees best with dlib's points, learned from annotators, on phantoms within ±30°."""
REST_PITCH_DEG = 6.5
"""Pitch of the head's geometry at ``pitch_deg`` 0. Pitch has no natural zero; this one is the way
people hold their heads when photographed."""


@dataclass(frozen=True)
class Pose:
    """Position, angles and expression of one person in the picture.

    ``eyes_xy``: the point midway between the eyes, as fractions of width and height;
    ``ipd_px``: distance of the pupils if the head faced the camera, in pixels; ``expression``: one
    of ``features.EXPRESSIONS``; ``strength``: of the expression, 0 to 1. Raises ValueError for an
    unknown expression or a distance that is not positive.
    """

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    eyes_xy: tuple[float, float] = (0.5, 0.42)
    ipd_px: float = 70.0
    expression: str = "neutral"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.expression not in EXPRESSIONS:
            raise ValueError(
                f"expression must be one of {', '.join(EXPRESSIONS)}, not {self.expression!r}"
            )
        if not self.ipd_px > 0:
            raise ValueError(f"ipd_px must be positive, not {self.ipd_px}")


@dataclass(frozen=True)
class Scene:
    """A photograph to render.

    ``width`` and ``height`` in pixels; ``others``: further people in the picture; ``backdrop``: one
    of ``scenery.BACKDROPS``; ``exposure``: gain on linear light, 1 exposes well; ``blur_px``:
    standard deviation of the camera's blur; ``noise_sd``: of its noise, in levels of 255; ``grey``:
    without colour; ``jpeg_quality``: 1 to 100, None for no compression. Raises ValueError for an
    unknown backdrop.
    """

    pose: Pose = field(default_factory=Pose)
    width: int = 400
    height: int = 400
    light: Light = field(default_factory=Light)
    others: tuple[tuple[FaceIdentity, Pose], ...] = ()
    backdrop: str = "studio"
    exposure: float = 1.0
    blur_px: float = 0.55
    noise_sd: float = 1.5
    grey: bool = False
    jpeg_quality: int | None = None

    def __post_init__(self) -> None:
        if self.backdrop not in BACKDROPS:
            raise ValueError(
                f"backdrop must be one of {', '.join(BACKDROPS)}, not {self.backdrop!r}"
            )


@dataclass(frozen=True)
class FaceTruth:
    """Ground truth of one face in the photograph.

    ``landmarks_xy``: float64 (68, 2), the iBUG points in pixels, (0, 0) the centre of the top-left
    pixel, the contour on the visible outline; ``pupils_xy``: float64 (2, 2), left in the
    picture first; ``ipd_px``: their distance; ``box_xyxy``: float64 (4,), around the landmarks;
    ``mask``: bool (height, width), this person's pixels, hair and clothes included; angles in
    degrees, signs as the module says.
    """

    landmarks_xy: NDArray[np.float64]
    pupils_xy: NDArray[np.float64]
    ipd_px: float
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    expression: str
    strength: float
    box_xyxy: NDArray[np.float64]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class PhantomPhoto:
    """``image``: uint8 RGB (height, width, 3); ``faces``: the main person first; ``mask``: bool
    (height, width), pixels of any person."""

    image: NDArray[np.uint8]
    faces: tuple[FaceTruth, ...]
    mask: NDArray[np.bool_]

    @property
    def truth(self) -> FaceTruth:
        """The main person's truth."""
        return self.faces[0]


def rotation(yaw_deg: float, pitch_deg: float, roll_deg: float) -> NDArray[np.float64]:
    """Return the 3 × 3 matrix from head to camera axes (x right, y down, z to the camera)."""
    yaw, pitch, roll = np.radians([yaw_deg, pitch_deg, roll_deg])
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll),
    )  # fmt: skip
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    tip = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(tip @ turn @ nod)


def render_face(identity: FaceIdentity, scene: Scene, rng: np.random.Generator) -> PhantomPhoto:
    """Render the photograph: ``identity`` in ``scene.pose``, with ``scene.others``.

    ``rng`` determines clothes, backdrop and noise. People nearer the camera (larger ``ipd_px``)
    cover those behind them.
    """
    shape = (scene.height, scene.width)
    linear = backdrop(scene.backdrop, shape, rng)
    people = [(identity, scene.pose), *scene.others]
    order = sorted(range(len(people)), key=lambda i: people[i][1].ipd_px)
    covers: dict[int, F32] = {}
    points: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for i in order:
        person, pose = people[i]
        colour, cover, marks, pupils = _draw(person, pose, scene, rng)
        linear = _smooth_outline(linear + cover[..., None] * (colour - linear), cover)
        for other in covers:
            covers[other] = covers[other] * (1 - cover)
        covers[i] = cover
        points[i] = (marks, pupils)
    image = _develop(linear * scene.exposure, scene, rng)
    faces = tuple(_truth(people[i][1], *points[i], covers[i] > 0.5) for i in range(len(people)))
    return PhantomPhoto(image, faces, np.logical_or.reduce([f.mask for f in faces]))


def _truth(
    pose: Pose,
    marks: NDArray[np.float64],
    pupils: NDArray[np.float64],
    mask: NDArray[np.bool_],
) -> FaceTruth:
    return FaceTruth(
        landmarks_xy=marks,
        pupils_xy=pupils,
        ipd_px=float(np.hypot(*(pupils[1] - pupils[0]))),
        yaw_deg=pose.yaw_deg,
        pitch_deg=pose.pitch_deg,
        roll_deg=pose.roll_deg,
        expression=pose.expression,
        strength=pose.strength,
        box_xyxy=np.concatenate([marks.min(axis=0), marks.max(axis=0)]),
        mask=mask,
    )


def _draw(
    identity: FaceIdentity, pose: Pose, scene: Scene, rng: np.random.Generator
) -> tuple[F32, F32, NDArray[np.float64], NDArray[np.float64]]:
    """Return linear colour (h, w, 3), coverage (h, w), landmarks (68, 2) and pupils (2, 2)."""
    body = make_body(identity, pose.expression, pose.strength)
    head = rotation(pose.yaw_deg, pose.pitch_deg + REST_PITCH_DEG, pose.roll_deg)
    trunk = rotation(0.35 * pose.yaw_deg, 0.0, 0.2 * pose.roll_deg)
    camera = _aim(identity, pose, scene, head)
    cloth, cloth_texels = dress(identity, body.torso, rng)
    torso_geometry = np.dstack([body.torso.normals(), _torso_openness(body)])
    torso = Part(body.torso.points, torso_geometry.astype(np.float32), cloth, cloth_texels)
    parts = [body.face, body.neck, torso, *body.ears]
    turns = [0, 1, 2, 0, 0][: len(parts)]
    bends = [_place(p.points, head, trunk, turn) for p, turn in zip(parts, turns, strict=True)]
    frames = [(head, 0.5 * (head + trunk), trunk)[turn] for turn in turns]
    shape = (scene.height, scene.width)
    layer = rasterise([camera.project(b).astype(np.float32) for b in bends], shape,
                      [None] * len(parts))  # fmt: skip
    colour = np.zeros((*shape, 3), np.float32)
    for i, part in enumerate(parts):
        seen = layer.part == i
        column, row = layer.column[seen], layer.row[seen]
        geometry = sample_texture(part.geometry, column, row, 1)
        surface = sample_texture(part.surface, column, row, part.texels)
        wrap = CLOTH_WRAP if part is torso else SKIN_WRAP
        colour[seen] = shade(
            surface[:, :3] ** 2,
            geometry[:, :3] @ frames[i].T.astype(np.float32),
            geometry[:, 3],
            surface[:, 3],
            scene.light,
            wrap,
        )
    cover = (layer.part >= 0).astype(np.float32)
    _add_hair(body, camera, head, scene.light, layer.depth, colour, cover)
    marks = _project_landmarks(body, bends[0], head, camera, pose)
    pupils = camera.project(_place(body.pupils[None], head, trunk, 0)[0])[:, :2]
    return colour, cover, marks, np.asarray(pupils, dtype=np.float64)


def _aim(identity: FaceIdentity, pose: Pose, scene: Scene, head: NDArray[np.float64]) -> Camera:
    scale = pose.ipd_px / identity.ipd_mm * (1 - EYE_PLANE_Z / _CAMERA_MM)
    between = head @ (np.array([0, 0, EYE_PLANE_Z]) - _PIVOT) + _PIVOT
    at = Camera(scale, (0.0, 0.0), _CAMERA_MM).project(between)
    x = pose.eyes_xy[0] * scene.width - 0.5 - float(at[0])
    y = pose.eyes_xy[1] * scene.height - 0.5 - float(at[1])
    return Camera(scale, (x, y), _CAMERA_MM)


def _place(
    points: NDArray[np.floating],
    head: NDArray[np.float64],
    trunk: NDArray[np.float64],
    bend: int,
) -> NDArray[np.floating]:
    """Rotate points with the head (bend 0), with the trunk (2), or blended by height (1)."""
    centred = points - _PIVOT.astype(np.float32)
    if bend == 2:
        return centred @ trunk.T.astype(np.float32) + _PIVOT.astype(np.float32)
    turned = centred @ head.T.astype(np.float32)
    if bend == 1:
        weight = np.clip((points[..., 1:2] - 75) / 85, 0, 1)
        turned = turned * (1 - weight) + (centred @ trunk.T.astype(np.float32)) * weight
    return turned + _PIVOT.astype(np.float32)


def _torso_openness(body: Body) -> F32:
    x, y = body.torso.points[..., 0], body.torso.points[..., 1]
    shade_ = 1 - 0.30 * np.exp(-0.5 * (x / 62) ** 2 - 0.5 * ((y - 150) / 30) ** 2)
    return np.asarray(shade_, dtype=np.float32)


def _add_hair(
    body: Body,
    camera: Camera,
    head: NDArray[np.float64],
    light: Light,
    depth: F32,
    colour: F32,
    cover: F32,
) -> None:
    """Composite the hair over ``colour`` and ``cover`` in place, thinning towards its edge."""
    hair = body.hair
    grid, rgba = hair.grid, hair.rgba
    placed = camera.project(_place(grid.points, head, head, 0)).astype(np.float32)
    turn = head.T.astype(np.float32)
    for backs in (True, False):
        layer = rasterise([placed], depth.shape, [hair.body if backs else hair.near], backs)
        seen = (layer.part == 0) & (layer.depth > depth - 1.5)
        column, row = layer.column[seen], layer.row[seen]
        geometry = sample_texture(hair.geometry, column, row, 1)
        paint = sample_texture(rgba, column, row, TEXELS)
        # faces seen from inside hang behind the neck, in the shade
        normal = geometry[:, :3] @ turn * (-1 if backs else 1)
        level = np.interp(geometry[:, 6], [0, 60, 150], [1, 0.85, 0.6])
        sky = level * (0.3 if backs else 1.0)
        albedo = paint[:, :3] ** 2 * np.float32(0.35 if backs else 1.0)
        lit = shade_strands(albedo, normal, geometry[:, 3:6] @ turn, light,
                            sky.astype(np.float32))  # fmt: skip
        alpha = np.ones_like(paint[:, 3:4]) if backs else paint[:, 3:4]
        before = cover[seen][:, None]
        # against the backdrop only the outermost strands are thin
        alpha = np.maximum(alpha, np.clip(alpha * 3.5 - 0.3, 0, 1) * (before < 0.5))
        total = alpha + before * (1 - alpha)
        mixed = (lit * alpha + colour[seen] * before * (1 - alpha)) / np.maximum(total, 1e-4)
        colour[seen] = mixed
        cover[seen] = total[:, 0]


def _smooth_outline(linear: F32, cover: F32) -> F32:
    """Blur the person's outline over a pixel, as a lens would, in place."""
    solid = (cover > 0.5).astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    band = cv2.dilate(solid, kernel) != cv2.erode(solid, kernel)
    linear[band] = cv2.GaussianBlur(linear, (3, 3), 0.8)[band]
    return linear


def _project_landmarks(
    body: Body,
    placed_face: NDArray[np.floating],
    head: NDArray[np.float64],
    camera: Camera,
    pose: Pose,
) -> NDArray[np.float64]:
    """Project the 68 points to pixels (68, 2), the contour onto the visible outline of the face.

    Annotators space the points of the contour along the visible outline, between the ears and the
    chin, so the points slide over the skin when the head turns. Here each point moves a fraction
    ``_SLIDE`` of the way, in angle about the middle of the face, from its skin position towards its
    direction on a frontal face, and then out to the outline.
    """
    marks = camera.project(_place(body.landmarks[None], head, head, 0)[0])[:, :2]
    marks = np.asarray(marks, dtype=np.float64)
    upright = rotation(0, 0, -pose.roll_deg)[:2, :2]
    level = marks @ upright.T
    middle = 0.5 * (level[[36, 39, 42, 45]].mean(axis=0) + level[48:60].mean(axis=0))
    skin = camera.project(placed_face[: JAW_ROW + 3, 36:-36].reshape(-1, 3))[:, :2] @ upright.T
    away = np.asarray(skin - middle, dtype=np.float64)
    angle = np.arctan2(away[:, 0], away[:, 1])
    radius = np.hypot(away[:, 0], away[:, 1])
    rest = body.landmarks[:17, :2] - 0.5 * (
        body.landmarks[[36, 39, 42, 45], :2].mean(axis=0) + body.landmarks[48:60, :2].mean(axis=0)
    )
    rest_angle = np.arctan2(rest[:, 0], rest[:, 1])
    for k in range(17):
        fixed = np.arctan2(*(level[k] - middle))
        direction = fixed + _SLIDE * (rest_angle[k] - fixed)
        near = np.abs(angle - direction) < 0.025
        if near.any():
            reach = radius[near].max()
            level[k] = middle + reach * np.array([np.sin(direction), np.cos(direction)])
    marks[:17] = level[:17] @ upright
    return np.asarray(marks, dtype=np.float64)


def _develop(linear: F32, scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return linear light as an 8-bit RGB picture: gamma, blur, noise, JPEG, as a camera would."""
    image = np.sqrt(np.clip(linear, 0, 1))
    if scene.blur_px > 0:
        image = cv2.GaussianBlur(image, (0, 0), scene.blur_px)
    image = image * 255
    if scene.noise_sd > 0:
        grain = rng.standard_normal(image.shape[:2], dtype=np.float32)
        image = image + (scene.noise_sd * cv2.GaussianBlur(grain, (3, 3), 0.6) * 1.6)[..., None]
    out = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if scene.grey:
        out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if scene.jpeg_quality is not None:
        _, data = cv2.imencode(
            ".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg_quality]
        )
        decoded: F32 | None = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        out = decoded[..., ::-1]
    return np.ascontiguousarray(out)
