"""The public Python interface; `import hqvox` has every name of it, docs/python.md describes them.

Packages are imported where they are used: reading a table needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.release.read import Release, find_release, release_names
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import COLUMNS, KEYS, REASON, UTTERANCES, Row

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from hqvox.trainer.checkpoint import Loaded
    from hqvox.trainer.dataset import FaceVoiceDataset
    from hqvox.trainer.generate import GeneratedFace
    from models.enhancement.gfpgan import FaceEnhancer

_ELSEWHERE = {
    "FaceVoiceDataset": "hqvox.trainer.dataset",
    "FaceVoicePair": "hqvox.trainer.dataset",
    "GeneratedFace": "hqvox.trainer.generate",
}
"""Public classes whose modules import PyTorch."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _ELSEWHERE:
        return getattr(import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_workspace(where: str | Path) -> OpenWorkspace:
    """Open a workspace: a folder or an ``s3://`` prefix. Raises HqvoxError where there is none."""
    return OpenWorkspace(Workspace.open(str(where)))


def open_release(where: str | Path, name: str | None = None) -> OpenRelease:
    """Open a release: its folder, ``WORKSPACE/NAME``, or a workspace and a name.

    Raises HqvoxError where there is none.
    """
    return OpenRelease(find_release(str(where), name))


def open_generator(
    where: str | Path, device: str | None = None, *, enhancer: str | Path | None = None
) -> FaceGenerator:
    """Open a trained generator: a checkpoint, or the folder of a run (its last checkpoint).

    ``device``: ``cpu``, ``cuda``, ``cuda:1`` …; by default the GPU if there is one. ``enhancer``:
    what enhances its faces to 512 px: ``gfpgan_v1_4``, which is the published GFPGAN, or a file of
    `hqvox train-enhancer`. Raises HqvoxError where there is no checkpoint, or a damaged one, and
    where the enhancer's weights are missing.
    """
    from hqvox.trainer.checkpoint import load_generator
    from hqvox.trainer.runs import CHECKPOINTS, LAST
    from models.inference import pick_device

    path = Path(where)
    loaded = load_generator(path / CHECKPOINTS / LAST if path.is_dir() else path)
    chosen = pick_device(device)
    loaded.generator.to(chosen)
    return FaceGenerator(loaded, None if enhancer is None else _enhancer(enhancer, str(chosen)))


def _enhancer(which: str | Path, device: str) -> FaceEnhancer:
    from models.enhancement.gfpgan import NAME, load_enhancer
    from models.errors import ModelError

    try:
        return load_enhancer(None if which == NAME else Path(which), device)
    except ModelError as error:
        raise HqvoxError(str(error)) from None


def log_mel(
    audio: str | Path,
    *,
    n_filters: int | None = None,
    speech_only: bool = True,
    front_end: Literal["sf2f", "voice2face"] = "sf2f",
) -> NDArray[np.float32]:
    """The log-mel of an audio or video file, float32 (frames, n_filters), 100 frames a second.

    Natural logarithm, -36 to 25. ``front_end``: as in the released code of SF2F (40 filters by
    default, or 64) or of voice2face (64 filters). ``speech_only``: pauses are cut out first, as in
    a data set. Raises HqvoxError for a file that is no audio, is silent or holds no speech.
    """
    from hqvox.speech.utterance import speech_of

    return speech_of(Path(audio), n_filters, vad=speech_only, front_end=front_end)[0]


class OpenWorkspace:
    """A workspace, read only; see :func:`open_workspace`."""

    tables = ("identities", "faces", "utterances")
    """Names of its tables.

    ``identities``: one row per person. ``faces``: one row per face, or per photo in which no face
    was found yet, with every measurement, the last ``stage`` that it entered and the ``reason`` why
    that refused it (null: kept). ``utterances``: one row per audio file.
    """

    def __init__(self, workspace: Workspace) -> None:
        """Use :func:`open_workspace`."""
        self._workspace = workspace

    def __repr__(self) -> str:
        return f"hqvox.open_workspace({self.url!r})"

    @property
    def url(self) -> str:
        """The folder or address, as it was given."""
        return self._workspace.url

    @property
    def releases(self) -> list[str]:
        """Names of its finished releases, sorted."""
        return release_names(self._workspace)

    def release(self, name: str) -> OpenRelease:
        """Open a release of it. Raises HqvoxError where there is none of that name."""
        return OpenRelease(Release(self._workspace, name))

    def table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A table of :attr:`tables` as pandas.

        ``columns``: by default all; of ``faces`` name those that are needed, since landmarks and
        embeddings are large. Raises HqvoxError for an unknown name.
        """
        return _pandas(self.arrow(name, columns))

    def arrow(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """As :meth:`table`, as pyarrow."""
        _check_table(name, self.tables)
        if name == "faces":
            return self._faces(columns)
        if name == "identities":
            return _selected(self._workspace.identities(), columns)
        from hqvox.speech.pack import SpeechPack

        pack = SpeechPack(self._workspace)
        if not pack.shards():
            return _selected(UTTERANCES.empty_table(), columns)
        return _selected(pa.concat_tables([pack.index(), pack.refused()]), columns)

    def _faces(self, columns: Sequence[str] | None) -> pa.Table:
        from hqvox.runner.lookup import ALL_COLUMNS, joined_rows, shard_keys

        fields = [pa.field(name, column.type) for name, column in KEYS.items()]
        fields += [pa.field("stage", pa.string()), pa.field("reason", REASON.type)]
        taken = {field.name for field in fields}
        fields += [pa.field(n, c.type) for n, c in COLUMNS.items() if n not in taken]
        schema = pa.schema(fields)
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in _known(columns, schema.names)])
        wanted = {
            stage: [name for name in names if name in schema.names]
            for stage, names in ALL_COLUMNS.items()
        }
        tables = [
            pa.Table.from_pylist(
                joined_rows(self._workspace, shard, shard_keys(self._workspace, shard), wanted),
                schema,
            )
            for shard in self._workspace.shards()
        ]
        return pa.concat_tables([schema.empty_table(), *tables])

    def explain(self, subject: str | Path) -> pd.DataFrame:
        """Why a photo, or every photo of an identity, was kept or refused: a row per measurement.

        ``subject``: an identity's id or name; or a photo: its path, url or SHA-256. Columns:
        ``identity_id``, ``candidate``, ``face``, ``url``, ``stage``, ``verdict`` (of the stage:
        ``kept``, the reason, or ``not reached``), ``measure``, ``value``, ``unit``, ``at_least``,
        ``at_most`` (of a signed measure: of its absolute value). Raises HqvoxError where nothing,
        or more than one thing, is meant.
        """
        import pandas as pd

        from hqvox.report.explain import find_subject, subject_rows

        rows = subject_rows(self._workspace, find_subject(self._workspace, str(subject)))
        lines = [line for row in rows for line in self._lines(row)]
        return pd.DataFrame(lines, columns=list(_EXPLAINED))

    def _lines(self, row: Row) -> Iterator[Row]:
        from hqvox.report.explain import stage_results
        from models.store import ModelStore

        for result in stage_results(row, self._workspace.config(), ModelStore()):
            line: Row = dict.fromkeys(_EXPLAINED) | {name: row[name] for name in (*KEYS, "url")}
            line |= {"stage": result.stage, "verdict": result.verdict}
            for measure, value, bound in result.measured:
                limit = measure.limit
                upper = limit is not None and limit.upper
                yield line | {
                    "measure": measure.name,
                    "value": value,
                    "unit": measure.unit.strip(),
                    "at_least": None if upper else bound,
                    "at_most": bound if upper else None,
                }
            if not result.measured:
                yield line

    def picture(self, subject: str | Path) -> Image.Image:
        """The picture of `hqvox explain`: a photo with what was measured, or all of an identity.

        ``subject``: as of :meth:`explain`. Raises HqvoxError also for a photo that does not decode.
        """
        from hqvox.report.explain import find_subject, subject_picture, subject_rows

        match = find_subject(self._workspace, str(subject))
        rows = subject_rows(self._workspace, match)
        picture = subject_picture(self._workspace, match, rows) if rows else None
        if picture is None:
            raise HqvoxError(f"{subject}: no picture; no photo of it can be decoded")
        return picture


class OpenRelease:
    """A finished release, read only; see :func:`open_release`."""

    tables = ("identities", "faces", "utterances")
    """Names of its tables, one row per person, face and utterance; docs/release.md lists columns.

    ``utterances`` is empty where the release has no speech.
    """

    def __init__(self, release: Release) -> None:
        """Use :func:`open_release`."""
        self._release = release

    def __repr__(self) -> str:
        return f"hqvox.open_release({self.url!r})"

    @property
    def name(self) -> str:
        """Its name."""
        return self._release.name

    @property
    def url(self) -> str:
        """Its folder or address."""
        return self._release.url

    @property
    def info(self) -> dict[str, Any]:
        """``release.json``: versions, settings, counts."""
        return self._release.info()

    def table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A table of :attr:`tables` as pandas; ``columns``: by default all.

        Raises HqvoxError for an unknown name, and where the file is missing or damaged.
        """
        return _pandas(self.arrow(name, columns))

    def arrow(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """As :meth:`table`, as pyarrow."""
        _check_table(name, self.tables)
        if name == "faces":
            return _selected(self._release.manifest(), columns)
        if name == "identities":
            return _selected(self._release.identities(), columns)
        from hqvox.release.speech import SPEECH

        spoken = self._release.speech() if self._release.has_speech else SPEECH.empty_table()
        return _selected(spoken, columns)

    def picture(self, file: str) -> NDArray[np.uint8]:
        """A picture, RGB uint8 (h, w, 3).

        ``file``: ``masked_file`` (on white) or ``origin_file`` of a row of ``faces``. Raises
        HqvoxError where it is missing or damaged.
        """
        from hqvox.imaging.codec import UndecodableError, decode

        try:
            return decode(self._release.read(self._release.checked(file)))
        except UndecodableError as error:
            raise HqvoxError(f"{self.url}/{file}: damaged ({error}); restore it") from None

    def log_mel(self, utterance: int) -> NDArray[np.float16]:
        """The log-mel of an utterance, (frames, filters), natural log, 100 frames a second.

        ``utterance``: number of a row of ``utterances``, from 0. Raises HqvoxError where there is
        none, or the file is damaged.
        """
        rows = self.arrow("utterances", ["file", "offset", "frames"])
        if not 0 <= utterance < len(rows):
            raise HqvoxError(f"{self.url}: no utterance {utterance}; there are {len(rows)}")
        row = rows.slice(utterance, 1).to_pylist()[0]
        return self._release.log_mel(row, int(self._release.speech_stats()["filters"]))

    def dataset(
        self,
        split: Literal["train", "val", "test"] = "train",
        *,
        px: int = 64,
        seconds: float = 1.25,
        pictures: Literal["masked", "origin"] = "masked",
        normalise: bool = True,
        seed: int | None = None,
        cache_dir: str | Path | None = None,
    ) -> FaceVoiceDataset:
        """A split as a ``torch.utils.data.Dataset``: each face with a crop of its person's speech.

        ``px``: side of the pictures. ``seconds``: length of a crop. ``pictures``: on white, or with
        their background. ``normalise``: log-mels less the mean over train, divided by the deviation
        over train; else natural logarithms. ``seed``: the same crop each time a face is asked for;
        by default another one each time. Pictures are packed on the first use, in ``cache_dir``,
        else in ``HQVOX_CACHE`` or the user's cache folder. Raises HqvoxError for a release without
        speech, and for a file that is missing or damaged.
        """
        from hqvox.trainer.dataset import FaceVoiceDataset

        return FaceVoiceDataset(
            self._release,
            split,
            px=px,
            seconds=seconds,
            pictures=pictures,
            normalise=normalise,
            seed=seed,
            cache_dir=None if cache_dir is None else Path(cache_dir),
        )


class FaceGenerator:
    """A trained generator of faces from speech; see :func:`open_generator`."""

    def __init__(self, loaded: Loaded, enhance: FaceEnhancer | None = None) -> None:
        """Use :func:`open_generator`."""
        self._loaded, self._enhance = loaded, enhance

    @property
    def side_px(self) -> int:
        """Side of the faces."""
        if self._enhance is not None:
            return self._enhance.side_px
        return self._loaded.spec.resolutions[-1]

    def generate(self, audio: str | Path, *, windows: bool = False) -> GeneratedFace:
        """The face of whoever speaks in an audio or video file.

        ``windows``: also the face of each window of 1.25 s. Raises HqvoxError for a file that is no
        audio or holds no speech.
        """
        from hqvox.trainer.generate import generate_face

        return generate_face(self._loaded, Path(audio), windows=windows, enhance=self._enhance)


_EXPLAINED = (
    *KEYS, "url", "stage", "verdict", "measure", "value", "unit", "at_least", "at_most",
)  # fmt: skip
"""Columns of :meth:`OpenWorkspace.explain`."""


def _check_table(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise HqvoxError(f"no table {name!r}; there are {', '.join(names)}")


def _known(columns: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    unknown = [name for name in columns if name not in names]
    if unknown:
        raise HqvoxError(f"no column {unknown[0]!r}; there are {', '.join(names)}")
    return columns


def _selected(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    return table if columns is None else table.select(list(_known(columns, table.column_names)))


def _pandas(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(use_threads=False)
