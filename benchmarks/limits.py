"""What each limit does to faces that people accepted, and to photographs as they come.

    python benchmarks/limits.py --data DIR [--recipe bundled]

``--data`` is the development data. *Accepted*: the faces of ``hq_voxceleb``, which passed the
paper's filters and its annotators. *As they come*: the press photographs of ``celebrities``, which
nobody selected. No limit refuses anything here. It prints, for every limit that can be measured on
a published crop, the share of both beyond it; how many faces of each a build would keep; and the
error of the angles, from ``--phantoms`` renders that look straight at the camera.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from hqvox.config.file import load_config
from hqvox.exchange.measured import would_refuse
from hqvox.phantom.faces import FaceIdentity, Pose, Scene, render_face
from hqvox.runner.build import plan_build, run_build
from hqvox.runner.lookup import joined_rows, shard_keys
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import MEASURES, all_bounds, limit_text, value_of, within
from hqvox.workspace.tables import Row
from models.landmarks import load
from models.store import ModelStore
from pipelines.pose import fit_pose

SEED = 77
SOURCES = {"accepted": "hq_voxceleb", "as they come": "celebrities"}
NOT_OF_A_CROP = ("download", "landmarks", "align")
SECTIONS = ("pupils", "pose", "lighting", "emotion", "align", "segment")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="bundled")
    parser.add_argument("--phantoms", type=int, default=100)
    arguments = parser.parse_args()
    config, store = load_config("", recipe=arguments.recipe), ModelStore()
    bounds = all_bounds(config, store)
    rows = {name: measure(arguments.data / folder) for name, folder in SOURCES.items()}
    table = Table("measure", "limit", *(f"{name}, beyond" for name in rows), "source")
    for limit in MEASURES:
        if limit.name not in bounds or limit.stage in NOT_OF_A_CROP or limit.setting is None:
            continue
        shares = [share_beyond(faces, limit.name, bounds) for faces in rows.values()]
        field = type(getattr(config, limit.stage)).model_fields[limit.setting.rpartition(".")[2]]
        source = (field.description or "").rpartition("(")[2].partition(":")[0].rstrip(")")
        table.add_row(
            f"{limit.stage}: {limit.label}", limit_text(limit, bounds[limit.name]), *shares, source
        )
    console = Console()
    console.print(table)
    for name, faces in rows.items():
        refused = would_refuse(faces, config, store)
        console.print(f"{name}: {len(faces) - refused.total()} of {len(faces)} kept", dict(refused))
    report_angles(console, arguments.phantoms)


def measure(photos: Path) -> list[Row]:
    """The largest face of every photograph, with all measures."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"format": 1, "discover": {"photos": str(photos)}}
        settings |= {name: {"enabled": False} for name in SECTIONS}
        table = identities.to_table(identities.read_folders(photos))
        workspace = Workspace.create(f"{folder}/build", yaml.safe_dump(settings), table)
        config = workspace.config()
        with workspace.lock():
            jobs = plan_build(workspace, config, ModelStore())
            result = run_build(workspace, config, jobs, workers=0)
        assert not result.failed, result.failed
        best: dict[str, Row] = {}
        for shard in workspace.shards():
            for row in joined_rows(workspace, shard, shard_keys(workspace, shard)):
                before = best.get(row["url"])
                if before is None or (row["ipd_px"] or 0) > (before["ipd_px"] or 0):
                    best[row["url"]] = row
        return [row for url, row in best.items() if not url.startswith("_")]


def share_beyond(faces: list[Row], measure: str, bounds: dict[str, float]) -> str:
    """How many faces are beyond a limit, of those measured."""
    spec = next(m for m in MEASURES if m.name == measure)
    values = [value_of(row, measure) for row in faces]
    verdicts = [within(spec, value, bounds[measure]) for value in values if value is not None]
    return f"{verdicts.count(False)} of {len(verdicts)}"


def report_angles(console: Console, count: int) -> None:
    """Standard deviation of yaw and pitch measured on phantoms that look straight."""
    landmarker = load("dlib68", ModelStore())
    angles = []
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        photo = render_face(FaceIdentity.sample(rng), Scene(Pose()), rng)
        faces = landmarker([photo.image])[0]
        if len(faces):
            angles.append(np.concatenate(fit_pose(faces.landmarks_xy[:1])))
    yaw, pitch, _ = np.std(angles, axis=0)
    console.print(
        f"error on {len(angles)} phantoms that look straight, standard deviation: "
        f"yaw {yaw:.1f}°, pitch {pitch:.1f}°"
    )


if __name__ == "__main__":
    main()
