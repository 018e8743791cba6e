"""A small world of phantoms: folders of photographs like those of a crawl, and their ground truth.

Each identity's folder mixes good photographs with every defect that a build must detect: faces
turned, far, laughing, badly lit, cropped or tilted, duplicates, other people, and files that are
no pictures. The same seed writes the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqvox.phantom.faces import FaceTruth, Light, PhantomPhoto, Pose, Scene, render_face
from hqvox.phantom.identity import FaceIdentity

NAMES = (
    "Zoë_Brånström", "Tomás_Oyelaran", "Ngọc_Hà_Sørbø", "Çelik_Arslanoğlu", "Maeve_O'Torrin",
    "Jean-Luc_Okpara", "Ásta_Þorvaldar", "Iwan_Księżyc", "Lâm_Béringer", "Ruža_Novotná",
    "J._R._Quillfeather", "Amélie_Sandoval", "Øystein_Mbeki", "Priya_Vantongeren",
    "Bogumił_Achterberg", "Inês_Kowalczuk", "Dashiell_Ummarov", "Šárka_Delacroix-Yun",
    "Gözde_Halvorsen", "Eun-ji_Fairweather", "Ludvík_Pastrana", "Nia_Ap-Rhydderch",
    "Félix_Tanizawa", "Søren_Adebayo",
)  # fmt: skip
"""Invented people; more are numbered."""

# Kinds of photograph in the order of a folder's files, so that short folders have good ones too.
_DECK = (
    "good", "good", "good", "turned", "good", "laughing", "good", "far", "uneven", "good",
    "two_people", "nodding", "exposed", "copy", "recompressed", "good", "cropped",
    "wrong_person", "broken", "tilted",
)  # fmt: skip
# An identity without enough good photographs has these in place of good ones.
_SPOILT = ("turned", "far", "laughing", "exposed", "uneven", "nodding")
_BROKEN = ("truncated", "empty", "html", "text")
_FORMATS = ("plain", "grey", "exif", "png")

COLUMNS = (
    "file", "identity", "kind", "face", "person", "reason", "duplicate_of", "width", "height",
    "left_pupil_x", "left_pupil_y", "right_pupil_x", "right_pupil_y", "ipd_px", "yaw_deg",
    "pitch_deg", "roll_deg", "expression", "strength",
)  # fmt: skip
"""Columns of ``truth.csv``, one row per face, or per file without one: ``file`` relative to the
world's folder; ``kind``: of photograph; ``face``: counted from 0; ``person``: name of who is shown;
``reason``: the reason that a build should give, empty for a good face. Pixels and degrees refer to
the picture turned by its EXIF orientation."""

Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Applies a function of a module to every task and gives the results in order, as ``map`` does."""


@dataclass(frozen=True)
class _Plan:
    """One photograph to render: its kind, the reason to refuse it, its scene and file form."""

    kind: str
    reason: str
    scene: Scene
    form: str = "plain"


@dataclass(frozen=True)
class _Folder:
    """One identity's folder of photographs to make."""

    out_dir: Path
    seed: int
    number: int
    photos: int
    name: str
    person: FaceIdentity
    other_name: str
    other: FaceIdentity
    """The least similar person, who appears beside or in place of this one."""


def make_world(
    out_dir: Path,
    seed: int,
    identities: int = 12,
    photos_per_identity: int = 20,
    on_progress: Callable[[int, int], None] | None = None,
    run: Run = map,
) -> Path:
    """Write ``out_dir/photos/<Name>/<NNN>.jpg`` and ``out_dir/truth.csv``; return the latter.

    Of every six identities one has too few good photographs to be released. ``on_progress`` is
    called with photographs made and to make. ``run`` applies a function to the folders and gives
    the results in order; that of a pool makes folders in parallel. Files of the same names are
    replaced.
    """
    people = cast(seed, identities)
    names = world_names(identities)
    others = unlike(people)
    folders = [
        _Folder(
            Path(out_dir),
            seed,
            number,
            photos_per_identity,
            names[number],
            people[number],
            names[others[number]],
            people[others[number]],
        )
        for number in range(identities)
    ]
    rows: list[dict[str, str]] = []
    for done, made in enumerate(run(_make_folder, folders), 1):
        rows += made
        if on_progress is not None:
            on_progress(done * photos_per_identity, identities * photos_per_identity)
    truth = Path(out_dir) / "truth.csv"
    with truth.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return truth


def _make_folder(folder: _Folder) -> list[dict[str, str]]:
    """Write the photographs of one identity; return their rows of the truth table."""
    path = folder.out_dir / "photos" / folder.name
    path.mkdir(parents=True, exist_ok=True)
    spoilt = folder.number % 6 == 5
    files: list[str] = []
    done: dict[int, bytes] = {}
    rows: list[dict[str, str]] = []
    for shot in range(folder.photos):
        rng = np.random.default_rng([folder.seed, folder.number, shot])
        plan = _plan(shot, folder.number, spoilt, folder.person, folder.other, rng)
        wrong = plan.kind == "wrong_person"
        person = folder.other if wrong else folder.person
        data, suffix, faces, source = _take(plan, person, shot, done, rng)
        done[shot] = data
        file = path / f"{shot:03d}{suffix}"
        file.write_bytes(data)
        files.append(file.relative_to(folder.out_dir).as_posix())
        people = [folder.other_name if wrong else folder.name, folder.other_name]
        twin = "" if source is None else files[source]
        rows += _rows(files[-1], folder.name, plan, () if twin else faces, people, twin)
    return rows


def cast(seed: int, n: int) -> list[FaceIdentity]:
    """Return ``n`` dissimilar people: a farthest-point selection from a larger sample."""
    rng = np.random.default_rng([seed, 10_000])
    pool = [FaceIdentity.sample(rng) for _ in range(max(12 * n, 24))]
    vectors = _appearances(pool)
    chosen = [0]
    distance = np.linalg.norm(vectors - vectors[0], axis=1)
    while len(chosen) < n:
        farthest = int(distance.argmax())
        chosen.append(farthest)
        distance = np.minimum(distance, np.linalg.norm(vectors - vectors[farthest], axis=1))
    return [pool[i] for i in chosen]


# Relative effect of a trait on the embedding of a face recognition network.
_LOOKS = {
    "brow_thickness_mm": 2.7, "nose_width": 2.7, "mouth_width": 2.5, "upper_lip": 2.4,
    "ipd_mm": 2.4, "eye_tilt_mm": 2.4, "face_width": 2.1, "chin_mm": 2.0, "brow_ridge_mm": 2.0,
    "chin_width": 2.0, "face_height": 1.9, "jaw_width": 1.7, "fullness_mm": 1.6, "wrinkles": 1.6,
}  # fmt: skip
_SKIN_LOOK, _BEARD_LOOK = 5.0, 3.5


def _appearances(people: list[FaceIdentity]) -> NDArray[np.float64]:
    """Return vectors (n, m) whose distances measure how dissimilar people look."""
    traits = np.array([[p.traits()[name] for name in _LOOKS] for p in people])
    traits = traits / (traits.std(axis=0) + 1e-9) * np.array(list(_LOOKS.values()))
    skin = np.array([[sum(p.skin_rgb)] for p in people])
    skin = skin / (skin.std() + 1e-9) * _SKIN_LOOK
    dense = ("moustache", "goatee", "full")
    beards = _BEARD_LOOK * np.array([[float(p.beard == kind) for kind in dense] for p in people])
    return np.hstack([traits, skin, beards])


def unlike(people: list[FaceIdentity]) -> list[int]:
    """Return for each person the index of the least similar one."""
    vectors = _appearances(people)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    return [int(i) for i in distances.argmax(axis=1)]


def world_names(n: int) -> list[str]:
    """Return the names of a world's ``n`` people, in their order."""
    return [NAMES[i] if i < len(NAMES) else f"{NAMES[i % len(NAMES)]}_{i}" for i in range(n)]


def _plan(
    shot: int,
    number: int,
    spoilt: bool,
    person: FaceIdentity,
    stranger: FaceIdentity,
    rng: np.random.Generator,
) -> _Plan:
    """Choose kind, scene and form of photograph ``shot`` of identity ``number``."""
    kind = _DECK[shot % len(_DECK)]
    if spoilt and kind in ("good", "two_people", "tilted") and shot >= 2:
        kind = _SPOILT[shot % len(_SPOILT)]
    width, height = int(rng.integers(512, 721)), int(rng.integers(512, 761))
    most = 0.243 * min(width, height)
    pose = Pose(
        yaw_deg=float(rng.uniform(-2.5, 2.5)),
        pitch_deg=float(rng.uniform(-1.5, 1.5)),
        roll_deg=float(rng.uniform(-4, 4)),
        eyes_xy=(0.5 + float(rng.uniform(-0.02, 0.02)), 0.485 + float(rng.uniform(-0.01, 0.01))),
        ipd_px=float(rng.uniform(0.74, 0.90)) * most,
        expression="slight_smile" if rng.random() < 0.25 else "neutral",
        strength=0.6,
    )
    scene = Scene(
        pose=pose,
        width=width,
        height=height,
        light=Light(
            azimuth_deg=float(rng.uniform(-14, 14)),
            elevation_deg=float(rng.uniform(22, 38)),
            key=float(rng.uniform(0.62, 0.78)),
            ambient=float(rng.uniform(0.44, 0.52)),
            warmth=float(rng.uniform(-0.6, 0.8)),
        ),
        backdrop=str(rng.choice(("studio", "studio", "wall", "garden", "window", "lights",
                                 "shelves", "stage"))),
        blur_px=float(rng.uniform(0.4, 0.7)),
        noise_sd=float(rng.uniform(0.8, 2.2)),
    )  # fmt: skip
    form = _FORMATS[(number + shot) % len(_FORMATS)] if kind == "good" and shot > 3 else "plain"
    if form == "grey":
        scene = replace(scene, grey=True)
    reason, scene = _spoil(kind, scene, person, stranger, rng)
    return _Plan(kind, reason, scene, form)


def _spoil(
    kind: str,
    scene: Scene,
    person: FaceIdentity,
    stranger: FaceIdentity,
    rng: np.random.Generator,
) -> tuple[str, Scene]:
    """Return the reason that a build should give, and the scene with the defect ``kind``."""
    side = float(rng.choice((-1.0, 1.0)))
    pose, light = scene.pose, scene.light
    if kind == "turned":
        turned = replace(pose, yaw_deg=side * float(rng.uniform(14, 32)))
        return "turned_away", replace(scene, pose=turned)
    if kind == "nodding":
        nodding = replace(pose, pitch_deg=side * float(rng.uniform(12, 20)))
        return "tilted", replace(scene, pose=nodding)
    if kind == "laughing":
        laugh = replace(pose, expression="happiness", strength=1.0)
        if rng.random() < 0.25:
            laugh = replace(laugh, expression="surprise")
        return "not_neutral", replace(scene, pose=laugh)
    if kind == "far":
        where = (float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.5, 0.64)))
        far = replace(pose, ipd_px=float(rng.uniform(20, 27)), eyes_xy=where)
        return "pupils_too_close", replace(scene, pose=far)
    if kind == "uneven":
        hard = replace(light, azimuth_deg=side * float(rng.uniform(70, 84)), elevation_deg=12,
                       key=1.15, ambient=0.10)  # fmt: skip
        return "uneven_light", replace(scene, light=hard)
    if kind == "exposed":
        over = rng.random() < 0.5
        # dark skin burns out at a higher gain than fair skin
        burnt = max(3.0, 2.2 / float(np.square(person.skin_rgb).mean()))
        gain = burnt if over else float(rng.uniform(0.035, 0.06))
        return ("over_exposed" if over else "under_exposed"), replace(scene, exposure=gain)
    if kind == "cropped":
        where = ((0.2, 0.485), (0.8, 0.485), (0.5, 0.2))[int(rng.integers(3))]
        return "out_of_frame", replace(scene, pose=replace(pose, eyes_xy=where))
    if kind == "tilted":
        return "", replace(scene, pose=replace(pose, roll_deg=side * float(rng.uniform(9, 16))))
    if kind == "two_people":
        wide = replace(scene, width=900, height=int(rng.integers(600, 700)))
        ipd = float(rng.uniform(85, 105))
        left = 0.29 if side > 0 else 0.71
        mine = replace(pose, eyes_xy=(left, 0.47), ipd_px=ipd)
        theirs = Pose(
            yaw_deg=float(rng.uniform(-6, 6)),
            roll_deg=float(rng.uniform(-4, 4)),
            eyes_xy=(1 - left, 0.45),
            ipd_px=ipd * float(rng.uniform(0.9, 1.05)),
        )
        return "", replace(wide, pose=mine, others=((stranger, theirs),))
    reasons = {"wrong_person": "someone_else", "broken": "not_an_image", "copy": "duplicate",
               "recompressed": "duplicate"}  # fmt: skip
    return reasons.get(kind, ""), scene


def _take(
    plan: _Plan,
    person: FaceIdentity,
    shot: int,
    done: dict[int, bytes],
    rng: np.random.Generator,
) -> tuple[bytes, str, tuple[FaceTruth, ...], int | None]:
    """Return a file's bytes, its suffix, its faces, and the photograph that it duplicates."""
    if plan.kind == "copy":
        return done[0], ".jpg", (), 0
    if plan.kind == "recompressed":
        original = cv2.imdecode(np.frombuffer(done[1], np.uint8), cv2.IMREAD_COLOR)
        assert original is not None
        smaller = cv2.resize(original, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
        return _jpeg(smaller[..., ::-1], 70), ".jpg", (), 1
    if plan.kind == "broken":
        how = _BROKEN[int(rng.integers(len(_BROKEN)))]
        return _broken(how, done[0]), ".jpg", (), None
    photo = render_face(person, plan.scene, rng)
    data, suffix = _store(photo, plan.form, int(rng.integers(84, 96)))
    return data, suffix, photo.faces, None


def _store(photo: PhantomPhoto, form: str, quality: int) -> tuple[bytes, str]:
    """Return a photograph's file bytes and suffix; ``form``: one of ``_FORMATS``."""
    if form == "png":
        alpha = np.where(photo.mask, 255, 254).astype(np.uint8)
        rgba = np.dstack([photo.image[..., ::-1], alpha])
        _, data = cv2.imencode(".png", rgba, [cv2.IMWRITE_PNG_COMPRESSION, 3])
        return data.tobytes(), ".png"
    if form == "exif":
        out = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6  # viewers turn it 90° clockwise
        stored = Image.fromarray(np.rot90(photo.image, 1).copy())
        stored.save(out, "JPEG", quality=quality, exif=exif)
        return out.getvalue(), ".jpg"
    if form == "grey":
        out = io.BytesIO()
        Image.fromarray(photo.image[..., 0].copy()).save(out, "JPEG", quality=quality)
        return out.getvalue(), ".jpg"
    return _jpeg(photo.image, quality), ".jpg"


def _jpeg(rgb: NDArray[np.generic], quality: int) -> bytes:
    _, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return data.tobytes()


def _broken(how: str, whole: bytes) -> bytes:
    if how == "truncated":
        return whole[: len(whole) // 3]
    if how == "html":
        return b"<!DOCTYPE html>\n<html><body><h1>403 Forbidden</h1></body></html>\n"
    if how == "text":
        return b"The image you are looking for has moved.\n" * 40
    return b""


def _rows(
    file: str,
    identity: str,
    plan: _Plan,
    faces: tuple[FaceTruth, ...],
    people: list[str],
    twin: str,
) -> list[dict[str, str]]:
    row = dict.fromkeys(COLUMNS, "") | {
        "file": file, "identity": identity, "kind": plan.kind, "reason": plan.reason,
        "duplicate_of": twin,
    }  # fmt: skip
    if not faces:
        return [row]
    out = []
    for index, face in enumerate(faces):
        (lx, ly), (rx, ry) = face.pupils_xy
        height, width = face.mask.shape
        measured = {
            "width": width, "height": height, "left_pupil_x": lx, "left_pupil_y": ly,
            "right_pupil_x": rx, "right_pupil_y": ry, "ipd_px": face.ipd_px,
            "yaw_deg": face.yaw_deg, "pitch_deg": face.pitch_deg, "roll_deg": face.roll_deg,
            "strength": 0.0 if face.expression == "neutral" else face.strength,
        }  # fmt: skip
        out.append(
            row
            | {k: f"{v:.6g}" for k, v in measured.items()}
            | {
                "face": str(index),
                "person": people[index],
                "expression": face.expression,
                "reason": plan.reason if index == 0 else "someone_else",
            }
        )
    return out
