"""Reading hqvox.yaml: recipe, file and --set merged; errors name the line and the nearest key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import yaml
from pydantic import ValidationError

from hqvox.config.build import BuildConfig
from hqvox.config.explain import explain, read_yaml
from hqvox.errors import HqvoxError

FORMAT = 1
"""The layout of workspaces that this version reads and writes."""

SETTING_HINT = "see `hqvox config show` for every key with its unit"


def recipe_names() -> list[str]:
    """Names of the build recipes that are installed."""
    folder = resources.files("hqvox") / "recipes" / "build"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def read_recipe(name: str) -> dict[str, Any]:
    """The values that a recipe sets. Raises HqvoxError for an unknown name."""
    if name not in recipe_names():
        raise HqvoxError(f"unknown recipe {name!r}; known are: {', '.join(recipe_names())}")
    text = (resources.files("hqvox") / "recipes" / "build" / f"{name}.yaml").read_text("utf-8")
    return yaml.safe_load(text) or {}


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``["pose.max_yaw_deg=8", …]`` to nested values, each read as YAML.

    Raises HqvoxError where one is not ``section.key=value``.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise HqvoxError(
                f"--set {setting}: write it as section.key=value, for example pose.max_yaw_deg=8"
            )
        try:
            value = yaml.safe_load(text) if text.strip() else ""
        except yaml.YAMLError:
            value = text
        nested: Any = value
        for key in reversed(keys):
            nested = {key: nested}
        values = merge(values, nested)
    return values


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, the second's values winning."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def load_config(
    text: str, where: str = "hqvox.yaml", settings: Sequence[str] = (), recipe: str | None = None
) -> BuildConfig:
    """The build's configuration: defaults, then the recipe, the file's text, and ``--set`` values.

    ``recipe`` overrides the file's. Raises HqvoxError with the line and the nearest right key.
    """
    written, lines = read_yaml(text, where)
    version = written.get("format", FORMAT)
    if isinstance(version, int) and version > FORMAT:
        raise HqvoxError(
            f"{where}: workspace format {version} is newer than this hqvox reads ({FORMAT}); "
            "upgrade with: pip install --upgrade hqvox"
        )
    over = parse_settings(settings)
    if recipe is not None:
        over["recipe"] = recipe
    name = over.get("recipe", written.get("recipe", BuildConfig().recipe))
    values = merge(merge(read_recipe(str(name)), written), over)
    try:
        return BuildConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise HqvoxError(explain(first, BuildConfig, where, lines, over, SETTING_HINT)) from None
