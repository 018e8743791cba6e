"""Reading hqvox.yaml: recipe, file and --set merged; errors name the line and the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hqvox.config import BuildConfig
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
    try:
        written = yaml.safe_load(text) or {}
        lines = yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise HqvoxError(f"{where}{line}: {problem}; mend the file") from None
    _refuse_doubled_keys(lines, where)
    if not isinstance(written, dict):
        raise HqvoxError(f"{where}: expected 'section: {{key: value}}' lines, found {written!r}")
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
        raise HqvoxError(_explain(first, where, lines, over)) from None


def _explain(
    error: Mapping[str, Any], where: str, lines: yaml.Node | None, over: Mapping[str, Any]
) -> str:
    path = [str(part) for part in error["loc"]]
    dotted = ".".join(path)
    place = f"--set {dotted}" if _contains(over, path) else f"{where}{_line(lines, path)}: {dotted}"
    if error["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.4)
        hint = f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else SETTING_HINT
        return f"{place}: unknown key; {hint}"
    given = error.get("input")
    message = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    section = _section(path)
    if section is not None:
        keys = ", ".join(section.model_fields)
        return f"{place}: {given!r} will not do: it is a section, with the keys {keys}"
    unit = _description(path)
    return f"{place}: {given!r} will not do: should be {message}" + (f" [{unit}]" if unit else "")


def _refuse_doubled_keys(
    node: yaml.Node | None, where: str, above: tuple[yaml.Node, ...] = ()
) -> None:
    """Raise HqvoxError where a mapping has a key twice: YAML would silently keep the last."""
    if not isinstance(node, yaml.MappingNode) or node in above:  # An alias can loop.
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise HqvoxError(
                f"{where}:{line}: {key.value} stands already in line {lines[key.value]}; "
                "put both into one"
            )
        lines[key.value] = line
        _refuse_doubled_keys(value, where, (*above, node))


def _contains(values: Mapping[str, Any], path: Sequence[str]) -> bool:
    node: Any = values
    for key in path:
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return True


def _line(node: yaml.Node | None, path: Sequence[str]) -> str:
    """':LINE' of the deepest key of the path that the file holds."""
    line = ""
    for key in path:
        if not isinstance(node, yaml.MappingNode):
            break
        for key_node, value_node in node.value:
            if key_node.value == key:
                line, node = f":{key_node.start_mark.line + 1}", value_node
                break
        else:
            break
    return line


def _section(path: Sequence[str]) -> type[BaseModel] | None:
    model: Any = BuildConfig
    for key in path:
        field = model.model_fields.get(key)
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return None
    return model


def _known_keys(path: Sequence[str]) -> list[str]:
    model = _section(path)
    return list(model.model_fields) if model else []


def _description(path: Sequence[str]) -> str:
    model = _section(path[:-1])
    field = model.model_fields.get(path[-1]) if model and path else None
    return (field.description or "") if field else ""
