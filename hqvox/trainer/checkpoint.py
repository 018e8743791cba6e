"""Checkpoints: written whole or not at all, and read without running code from them."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hqvox.errors import HqvoxError
from hqvox.trainer.runs import LAST
from hqvox.workspace.storage import TEMPORARY, Storage, disk_error
from models.errors import ModelError
from models.sf2f.generator import Generator, GeneratorSpec, build_generator

FORMAT = 1
"""The layout of checkpoints that this version writes, and the newest that it reads."""
TRAINING = "hqvox.training"
"""Kind of a file that holds everything that training needs to go on."""
PICKLE, ZIP = b"\x80", b"PK"
"""How files that torch wrote begin: long ago, and now."""
GENERATOR = "hqvox.generator"
"""Kind of a file that holds a generator alone, as ``hqvox import sf2f-checkpoint`` writes it."""
CONTENT: dict[str, type] = {
    "recipe": str,
    "config": dict,
    "release": dict,
    "identities": list,
    "normalise": dict,
    "spec": dict,
    "stage": int,
    "step": int,
    "generator": dict,
    "critics": dict,
    "optimisers": dict,
    "best": dict,
    "pending": list,
}
"""What a run needs to go on, and of which type each is."""


@dataclass(frozen=True)
class Loaded:
    """A generator out of a checkpoint, ready to generate."""

    generator: Generator
    """In evaluation mode, on the CPU. Without fuser where it was not trained yet (stage 1)."""
    spec: GeneratorSpec
    config: dict[str, Any] | None
    """The run's resolved configuration; None where training did not make the file."""
    meta: dict[str, Any]
    """``recipe``, ``stage``, ``step``, ``identities``, ``features``, ``normalise``, ``best``,
    ``release``, where the file has them."""


def save(path: Path, state: Mapping[str, Any], also: Sequence[str] = ()) -> None:
    """Write ``state`` (tensors and plain values) to ``path``, and under the names ``also`` there.

    The file is written beside its place, flushed to disk, and renamed; the further names are links
    to the same bytes (copies, where the disk knows no links) and get their places before ``path``
    does. So a kill or a full disk at any
    moment leaves every name with a whole file, the former or this one. Raises HqvoxError for what
    the disk refuses.
    """
    try:
        pending = Storage(path.parent).begin(path.name)
        try:
            torch.save({"format": FORMAT, **state}, pending.file)
            pending.file.flush()
            os.fsync(pending.file.fileno())
            for name in also:
                link = path.with_name(f".{name}.{os.getpid()}{TEMPORARY}")
                link.unlink(missing_ok=True)
                _link(pending.temporary, link)
                os.replace(link, path.with_name(name))
            pending.commit()
        finally:
            pending.discard()
    except (OSError, RuntimeError) as error:
        refused = _disk(error)
        if refused is None:
            raise
        raise disk_error(refused, str(path)) from error


def _link(file: Path | str, link: Path) -> None:
    """Give a file a second name; where the file system refuses that, copy it."""
    try:
        os.link(file, link)
    except OSError:  # FAT, and some shares
        shutil.copyfile(file, link)
        with link.open("rb") as copy:
            os.fsync(copy.fileno())


def _disk(error: BaseException | None) -> OSError | None:
    """The operating system's refusal behind an exception of torch's writer, if one is there."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def read(
    path: Path, kinds: Sequence[str] = (TRAINING, GENERATOR), needs: Collection[str] = ()
) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU. ``needs``: what of :data:`CONTENT` must be there.

    Raises HqvoxError where it is missing, damaged, of another program, newer than this version, or
    holds anything but tensors and plain values, which would have to be run to be read.
    """
    state = _load(path)
    if not isinstance(state, dict) or not isinstance(state.get("kind"), str):
        raise HqvoxError(
            f"{path}: not a checkpoint of hqvox; one of SF2F's released code is read with "
            f"`hqvox import sf2f-checkpoint {path}`"
        )
    version = state.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise HqvoxError(
            f"{path}: checkpoint format {version!r} is not one that this hqvox reads (up to "
            f"{FORMAT}); upgrade with: pip install --upgrade hqvox"
        )
    if state["kind"] not in (TRAINING, GENERATOR):
        raise HqvoxError(
            f"{path}: of kind {state['kind']!r}, which this hqvox does not know; upgrade with: pip "
            "install --upgrade hqvox"
        )
    if state["kind"] not in kinds:
        raise HqvoxError(
            f"{path}: holds a generator alone, nothing to go on training with; name the "
            f"{LAST} of a run of `hqvox train`"
        )
    wrong = [
        name
        for name, kind in CONTENT.items()
        if (name in state or name in needs) and not isinstance(state.get(name), kind)
    ]
    if wrong:
        raise HqvoxError(
            f"{path}: damaged ({', '.join(wrong)}: missing, or not what belongs there); use "
            "another checkpoint"
        )
    return state


def _load(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickles, which are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for damaged files
        raise HqvoxError(f"{path}: {_why(path, error)}") from None


def _why(path: Path, error: Exception) -> str:
    """Why torch could not read a file, and what to do."""
    # Of a file cut short torch seeks the end before the beginning: that is no fault of the disk's.
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        missing = isinstance(error, FileNotFoundError)
        why = "no such file" if missing else f"cannot be read: {error.strerror}"
        return f"{why}; name a checkpoint, for example {LAST}"
    with path.open("rb") as file:
        begins = file.read(2)
    if begins[:1] != PICKLE and begins != ZIP:
        return "not a checkpoint; name a file of `hqvox train`"
    if isinstance(error, pickle.UnpicklingError):
        return (
            "holds a pickle with objects that would run code when read; only checkpoints of "
            "tensors and plain values are read"
        )
    return "damaged, or cut short; restore it, or use another checkpoint of the run"


def load_generator(path: Path) -> Loaded:
    """The generator of a checkpoint of ``hqvox train`` or ``hqvox import sf2f-checkpoint``.

    Of a checkpoint from stage 1 the fuser, which nothing trained yet, is left out. Raises
    HqvoxError as :func:`read` does, and where weights do not fit the stored specification.
    """
    state = read(path)
    weights = dict(state.get("generator", {}))
    try:
        spec = spec_of(state)
        if state["kind"] == TRAINING and state["stage"] == 1 and spec.fuser is not None:
            spec = replace(spec, fuser=None)
            weights = {k: v for k, v in weights.items() if not k.startswith("fuser.")}
        generator = build_generator(spec)
        generator.load_state_dict(weights)
    except (ModelError, RuntimeError, KeyError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HqvoxError(
            f"{path}: its weights do not fit its description ({reason}); use another checkpoint"
        ) from None
    names = ("recipe", "stage", "step", "identities", "features", "best", "release", "normalise")
    meta = {name: state[name] for name in names if name in state}
    return Loaded(generator.eval(), spec, state.get("config"), meta)


def spec_of(state: Mapping[str, Any]) -> GeneratorSpec:
    """The generator's specification as a checkpoint holds it. Raises ModelError."""
    return GeneratorSpec.from_dict(state["spec"])


def generator_state(generator: Generator, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What to :func:`save` of a generator alone, with plain values that say where it is from."""
    return {
        "kind": GENERATOR,
        "spec": asdict(generator.spec),
        "generator": generator.state_dict(),
        **meta,
    }
