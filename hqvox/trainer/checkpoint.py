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
"""Kind of a file with everything that is needed to resume training."""
PICKLE, ZIP = b"\x80", b"PK"
"""First bytes of torch's files, in the old format and in the present one."""
GENERATOR = "hqvox.generator"
"""Kind of a file with only a generator, as ``hqvox import sf2f-checkpoint`` writes it."""
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
"""What is needed to resume a run, and the type of each."""


@dataclass(frozen=True)
class Loaded:
    """A generator loaded from a checkpoint."""

    generator: Generator
    """In evaluation mode, on the CPU. Without its fuser where that is not trained yet (stage 1)."""
    spec: GeneratorSpec
    config: dict[str, Any] | None
    """The run's resolved configuration; None where training did not make the file."""
    meta: dict[str, Any]
    """``recipe``, ``stage``, ``step``, ``identities``, ``features``, ``normalise``, ``best``,
    ``release``, where the file has them."""


def save(path: Path, state: Mapping[str, Any], also: Sequence[str] = ()) -> None:
    """Write ``state`` (tensors and plain values) to ``path``, and under the names ``also`` there.

    The file is written under a temporary name, flushed to disk, and renamed. The names ``also`` are
    hard links to it (copies, where the file system has none) and are replaced before ``path``. So a
    kill or a full disk at any moment leaves a whole file under every name, the former or this one.
    Raises HqvoxError for errors of the disk.
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
        cause = _os_error(error)
        if cause is None:
            raise
        raise disk_error(cause, str(path)) from error


def _link(file: Path | str, link: Path) -> None:
    """Give a file a second name; where the file system refuses that, copy it."""
    try:
        os.link(file, link)
    except OSError:  # FAT, and some shares
        shutil.copyfile(file, link)
        with link.open("rb") as copy:
            os.fsync(copy.fileno())


def _os_error(error: BaseException | None) -> OSError | None:
    """The error of the operating system that caused an exception of torch's writer, or None."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def read(
    path: Path, kinds: Sequence[str] = (TRAINING, GENERATOR), needs: Collection[str] = ()
) -> dict[str, Any]:
    """Read a checkpoint, to the CPU. ``needs``: which entries of :data:`CONTENT` it must have.

    Raises HqvoxError where it is missing, damaged, of another program, newer than this version, or
    holds anything but tensors and plain values, which could run code when read.
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
            f"{path}: holds only a generator, from which training cannot resume; name "
            f"the {LAST} of a run of `hqvox train`"
        )
    wrong = [
        name
        for name, kind in CONTENT.items()
        if (name in state or name in needs) and not isinstance(state.get(name), kind)
    ]
    if wrong:
        raise HqvoxError(
            f"{path}: damaged ({', '.join(wrong)}: missing, or of another type); use "
            "another checkpoint"
        )
    return state


def _load(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickles, which are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for damaged files
        raise HqvoxError(f"{path}: {_why(path, error)}") from None


def _why(path: Path, error: Exception) -> str:
    """Why torch could not read a file, and what to do."""
    # In a truncated file torch seeks to a negative position, which is no error of the disk.
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
    """Load the generator of a checkpoint of ``hqvox train`` or ``hqvox import sf2f-checkpoint``.

    The fuser of a checkpoint from stage 1, which is not trained yet, is left out. Raises
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
    """The generator's description in a checkpoint. Raises ModelError."""
    return GeneratorSpec.from_dict(state["spec"])


def generator_state(generator: Generator, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file with only a generator; ``meta``: plain values about its origin."""
    return {
        "kind": GENERATOR,
        "spec": asdict(generator.spec),
        "generator": generator.state_dict(),
        **meta,
    }
