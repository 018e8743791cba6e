"""Read a pickle of numpy arrays and nothing else.

Some published weights are pickles, and reading a pickle calls whatever it names. Here a pickle may
name only what arrays are made of. Each such name is replaced by a class that records shape, type
and bytes; the arrays are made from these records after they are checked. Every other name is
refused before it is looked up, so no code that the file chooses runs.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError

_NUMBER = re.compile(r"[fiu][1248]")
"""Codes of plain number types; objects, structures and text are refused."""


def read_numpy_pickle(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays by name of a pickled dict, of Python 2 or 3, protocols 0 to 5.

    Arrays are plain floats or integers; text of Python 2 is read as Latin-1. Raises ModelError
    where the file is damaged or holds or names anything else.
    """
    return _read(path, _array)


def read_array_record(path: Path) -> dict[str, NDArray[Any] | str | int | float]:
    """Return a pickled dict of arrays, text and numbers; otherwise as :func:`read_numpy_pickle`."""
    return _read(path, _array_or_plain)


def _read(path: Path, convert: Callable[[object, object], Any]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"a {type(content).__name__} instead of a dict")
        return {_text(name): convert(name, value) for name, value in content.items()}
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"{path}: not a pickle of numpy arrays by name ({reason}); fetch it again"
        ) from error


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise pickle.UnpicklingError(f"a name that is a {type(name).__name__}")
    return name


def _array(name: object, value: object) -> NDArray[Any]:
    if not isinstance(value, _ArrayRecord):
        raise pickle.UnpicklingError(f"{name!r:.60} is a {type(value).__name__}, not an array")
    return value.array()


def _array_or_plain(name: object, value: object) -> NDArray[Any] | str | int | float:
    return value if isinstance(value, str | int | float) else _array(name, value)


class _Replacement:
    """What a name in the file becomes. It has no state that the file could set."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("state for something that has none")


class _Ndarray(_Replacement):
    """Replaces ``numpy.ndarray``, which files only hand to ``_reconstruct``."""

    __slots__ = ()


class _Dtype(_Replacement):
    """Replaces ``numpy.dtype``."""

    __slots__ = ()

    def __call__(self, code: object, *_flags: object) -> _DtypeRecord:
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise pickle.UnpicklingError(f"array type {code!r:.40} is not a plain number type")
        return _DtypeRecord(code)


class _Reconstruct(_Replacement):
    """Replaces numpy's ``_reconstruct``, which makes the array that is then filled."""

    __slots__ = ()

    def __call__(self, kind: object, _shape: object, _code: object) -> _ArrayRecord:
        if not isinstance(kind, _Ndarray):
            raise pickle.UnpicklingError("an array of an unusual kind")
        return _ArrayRecord()


class _FromBuffer(_Replacement):
    """Replaces numpy's ``_frombuffer``, which protocol 5 uses."""

    __slots__ = ()

    def __call__(self, data: object, dtype: object, shape: object, order: object) -> _ArrayRecord:
        record = _ArrayRecord()
        record.__setstate__((1, shape, dtype, order == "F", data))
        return record


class _Encode(_Replacement):
    """Replaces ``_codecs.encode``, with which Python 3 writes bytes in protocol 2."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"bytes written as {encoding!r:.40}")
        return text.encode("latin1")


class _EmptyBytes(_Replacement):
    """Replaces ``bytes``, which Python 3 calls for empty bytes in protocols 0 to 2."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


class _DtypeRecord:
    """A plain number type as the file describes it."""

    __slots__ = ("byte_order", "code")

    def __init__(self, code: str) -> None:
        self.code = code
        self.byte_order = "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("an unusual description of an array type")
        self.byte_order = str(state[1])


class _ArrayRecord:
    """An array as the file describes it: shape, type, order and bytes."""

    __slots__ = ("_data", "_dtype", "_fortran", "_shape")

    def __init__(self) -> None:
        self._shape: tuple[int, ...] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an unusual description of an array")
        _version, shape, dtype, fortran, data = state
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array with an unusual shape")
        if not isinstance(dtype, _DtypeRecord):
            raise pickle.UnpicklingError("an array without a plain number type")
        if isinstance(data, str):
            data = data.encode("latin1")
        if not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError("an array whose numbers are not bytes")
        self._shape, self._dtype, self._fortran, self._data = shape, dtype, bool(fortran), data

    def array(self) -> NDArray[Any]:
        """Make the array; UnpicklingError where bytes and shape do not agree."""
        if self._shape is None:
            raise pickle.UnpicklingError("an array without numbers")
        dtype = np.dtype(self._dtype.byte_order + self._dtype.code)
        if math.prod(self._shape) * dtype.itemsize != len(self._data):
            raise pickle.UnpicklingError(f"{len(self._data)} bytes for an array {self._shape}")
        flat = np.frombuffer(self._data, dtype).astype(dtype.newbyteorder("="))
        return flat.reshape(self._shape, order="F" if self._fortran else "C")


_NAMES: dict[tuple[str, str], _Replacement] = {
    ("numpy", "ndarray"): _Ndarray(),
    ("numpy", "dtype"): _Dtype(),
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer(),
    ("_codecs", "encode"): _Encode(),
    ("__builtin__", "bytes"): _EmptyBytes(),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Looks names up in the list above and nowhere else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None
