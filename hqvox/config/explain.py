"""One line for what is wrong with a configuration: the place, the value, the range, the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from hqvox.errors import HqvoxError


def read_yaml(text: str, where: str) -> tuple[dict[str, Any], yaml.Node | None]:
    """A mapping, and the nodes that know its lines.

    Raises HqvoxError where it is not YAML, not a mapping, or has a key twice.
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
    return written, lines


def explain(
    error: Mapping[str, Any],
    model: type[BaseModel],
    where: str,
    lines: yaml.Node | None,
    over: Mapping[str, Any],
    hint: str,
) -> str:
    """One line of an error of pydantic.

    ``model``: of the whole file; ``over``: the values that were given by ``--set``; ``hint``: where
    the keys are told.
    """
    path = [str(part) for part in error["loc"]]
    if error["type"] != "extra_forbidden":
        while len(path) > 1 and _field(model, path) is None:
            path.pop()  # a list's index, or the branch of a union
    dotted = ".".join(path)
    place = f"--set {dotted}" if _contains(over, path) else f"{where}{_line(lines, path)}: {dotted}"
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.4)
        advice = f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else hint
        return f"{place}: unknown key; {advice}"
    given = error.get("input")
    message = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    if error["type"] == "missing":  # Of a tuple: its field is named.
        message = "longer"
    section = _section(model, path)
    if section is not None:
        if error["type"] == "value_error":  # Values that do not go together.
            return f"{where}: {message}"
        keys = ", ".join(section.model_fields)
        return f"{place}: {given!r} will not do: it is a section, with the keys {keys}"
    unit = _description(model, path)
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


def _section(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    section: Any = model
    for key in path:
        field = section.model_fields.get(key)
        section = field.annotation if field else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return None
    return section


def _field(model: type[BaseModel], path: Sequence[str]) -> Any:
    section = _section(model, path[:-1])
    return section.model_fields.get(path[-1]) if section and path else None


def _known_keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    section = _section(model, path)
    return list(section.model_fields) if section else []


def _description(model: type[BaseModel], path: Sequence[str]) -> str:
    field = _field(model, path)
    return (field.description or "") if field else ""
