"""Recipes of training: named values for :class:`~hqvox.trainer.config.TrainConfig`.

A recipe is a YAML file: one of ``hqvox/recipes/train/``, or the user's own. ``extends: NAME``
starts from another recipe, whose values the file overrides. Every recipe has a small version for a
CPU, ``<name>-tiny``: ``_tiny.yaml`` changes the recipe's values. Its ``at_most`` caps numbers, so
that what a recipe switches off stays off; its ``set`` replaces values. An installed recipe may have
a section ``tiny``: values that replace those in its own small version, and in that of recipes that
extend it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hqvox.config.explain import explain, read_yaml
from hqvox.config.file import merge, parse_settings
from hqvox.errors import HqvoxError
from hqvox.trainer.config import TrainConfig

TINY = "-tiny"
TINY_SECTION = "tiny"
EXTENDS = "extends"
HINT = "docs/training.md and hqvox/trainer/config.py name every key with its unit"


def recipe_names(tiny: bool = True) -> list[str]:
    """Names of the installed recipes; ``tiny``: also of the small version of each."""
    folder = resources.files("hqvox") / "recipes" / "train"
    names = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[0] not in "_.")
    return [shown for name in names for shown in ([name, name + TINY] if tiny else [name])]


def load_train_config(recipe: str | Path, settings: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a recipe, with ``--set`` values over it.

    ``recipe``: a recipe's name, or a YAML file: the user's own recipe, or a run's ``config.yaml``.
    ``settings``: ``["loss.l1.weight=5", …]``. Raises HqvoxError, one line with the option and its
    range.
    """
    name, values, lines = _read(str(recipe))
    over = parse_settings(settings)
    if EXTENDS in over or "recipe" in over:
        raise HqvoxError("--set cannot change extends or recipe; name the recipe itself")
    merged = {"recipe": name} | merge(values, over)
    try:
        return TrainConfig.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        raise HqvoxError(explain(first, TrainConfig, str(recipe), lines, over, HINT)) from None


def _read(recipe: str, above: tuple[str, ...] = ()) -> tuple[str, dict[str, Any], yaml.Node | None]:
    """A recipe's name, values (merged over what it extends) and lines, by name or path."""
    if recipe in above:
        raise HqvoxError(f"{recipe}: extends itself, through {' → '.join(above)}; correct the file")
    if _is_file(recipe):
        try:
            text = Path(recipe).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise HqvoxError(f"{recipe}: {reason}; name a recipe or its file") from None
        name = Path(recipe).stem
    elif recipe in recipe_names(tiny=False):
        name, text = recipe, _installed(recipe)
    elif recipe.endswith(TINY) and recipe.removesuffix(TINY) in recipe_names(tiny=False):
        _, values, _ = _read(recipe.removesuffix(TINY), (*above, recipe))
        tiny, _ = read_yaml(_installed("_tiny"), "_tiny.yaml")
        small = merge(_capped(values, tiny["at_most"]), tiny["set"])
        return recipe, merge(small, _tiny_section(recipe.removesuffix(TINY))), None
    else:
        raise HqvoxError(
            f"no recipe {recipe!r}; there are {', '.join(recipe_names(tiny=False))}, each also as "
            f"NAME{TINY}, or name a .yaml file"
        )
    written, lines = read_yaml(text, recipe)
    if not _is_file(recipe):
        written.pop(TINY_SECTION, None)
    below = written.pop(EXTENDS, None)
    if below is not None:
        _, values, _ = _read(str(below), (*above, recipe))
        written = merge(values, written)
    return str(written.get("recipe", name)), written, lines


def _tiny_section(recipe: str) -> dict[str, Any]:
    """What an installed recipe, and those that it extends, change in its small version."""
    written, _ = read_yaml(_installed(recipe), recipe)
    below = written.get(EXTENDS)
    inherited = {} if below is None else _tiny_section(str(below))
    return merge(inherited, written.get(TINY_SECTION, {}))


def _capped(values: Mapping[str, Any], most: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with no number above that of the same key in ``most``."""
    capped = dict(values)
    for key, limit in most.items():
        below = capped.get(key)
        if isinstance(limit, Mapping):
            capped[key] = _capped(below if isinstance(below, Mapping) else {}, limit)
        else:
            capped[key] = limit if below is None else min(below, limit)
    return capped


def _is_file(recipe: str) -> bool:
    return recipe.endswith((".yaml", ".yml")) or "/" in recipe


def _installed(name: str) -> str:
    return (resources.files("hqvox") / "recipes" / "train" / f"{name}.yaml").read_text("utf-8")
