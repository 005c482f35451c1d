"""Changes to a recipe (image.yaml) that keep its comments and layout. Pure: text in, text out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

import yaml
from packaging.version import InvalidVersion

from assay.errors import UsageError
from assay.foundation.versions import parsed

__all__ = ["with_constraints", "with_point", "with_value"]

_BY_HAND: Final = "write `overrides` as a block list, one `- match:` a line, or add the constraint by hand"


def with_constraints(
    text: str, match: Mapping[str, str], constraints: Sequence[str], *, comments: Sequence[str], file: str
) -> str:
    """Return a recipe with an override at the end of its list that adds constraints to the cells that match.

    Args:
        text: the recipe.
        match: axis -> value of the cells.
        constraints: requirements as the recipe takes them: `nvidia-cuda-nvcc==13.0.*`.
        comments: lines that say why, without `#`.
        file: the recipe's name, for messages.

    Raises:
        UsageError: the recipe has its overrides in a form to which nothing can be added.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode), "the recipe was loaded before"
    lines = text.splitlines()
    found = next((value for key, value in root.value if key.value == "overrides"), None)
    if found is None:
        at, head, indent = len(lines), ["", "overrides:"], "  "
    elif isinstance(found, yaml.SequenceNode) and not found.flow_style and found.value:
        at, head, indent = _last_line(found) + 1, [], " " * (found.value[0].start_mark.column - 2)
    else:
        raise UsageError(f"{file}: cannot add to `overrides`", hint=_BY_HAND)
    where = ", ".join(f"{axis}: {json.dumps(value)}" for axis, value in match.items())
    added = [f"{indent}# {comment}" for comment in comments]
    added += [f"{indent}- match: {{{where}}}", f"{indent}  constraints: {json.dumps(list(constraints))}"]
    return "\n".join([*lines[:at], *head, *added, *lines[at:]]) + "\n"


def with_value(text: str, axis: str, version: str, *, file: str) -> str:
    """Return a matrix with one more plain value of an axis, after the last one that is older.

    Args:
        text: the matrix.
        axis: its name.
        version: the value.
        file: the matrix' name, for messages.

    Raises:
        UsageError: the axis has its values in a form to which nothing can be added.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found = _below(_below(root, "axes"), axis)
    values = found if isinstance(found, yaml.SequenceNode) else _below(found, "values")
    if not isinstance(values, yaml.SequenceNode) or not values.value:
        hint = f"write `axes.{axis}.values` as a list, or add {version} by hand"
        raise UsageError(f"{file}: cannot add to `axes.{axis}`", hint=hint)
    plain = [item for item in values.value if isinstance(item, yaml.ScalarNode)]
    older = [item for item in plain if _is_older(item.value, version)]
    if values.flow_style:
        at = older[-1].end_mark.index if older else values.value[0].start_mark.index
        return text[:at] + (f", {version}" if older else f"{version}, ") + text[at:]
    lines = text.splitlines()
    first = values.value[0].start_mark
    line = _last_line(older[-1]) + 1 if older else first.line
    return "\n".join([*lines[:line], " " * (first.column - 2) + f"- {version}", *lines[line:]]) + "\n"


def with_point(text: str, point: Mapping[str, str], *, beside: Mapping[str, str], comment: str, file: str) -> str:
    """Return a recipe that includes one more point.

    Args:
        text: the recipe.
        point: axis -> value.
        beside: the point after which it stands, if the recipe lists it; else it is the last.
        comment: a line that says why, without `#`.
        file: the recipe's name, for messages.

    Raises:
        UsageError: the recipe has its points in a form to which nothing can be added.
    """
    found = _below(yaml.compose(text, Loader=yaml.SafeLoader), "include")
    lines = text.splitlines()
    written = "{" + ", ".join(f"{axis}: {value}" for axis, value in point.items()) + "}"
    if found is None:
        return "\n".join([*lines, "", "include:", f"  # {comment}", f"  - {written}"]) + "\n"
    if not isinstance(found, yaml.SequenceNode) or found.flow_style or not found.value:
        hint = f"write `include` as a block list, one `- {{...}}` a line, or add {written} by hand"
        raise UsageError(f"{file}: cannot add to `include`", hint=hint)
    after = next((item for item in found.value if _mapping(item) == dict(beside)), found.value[-1])
    indent = " " * (found.value[0].start_mark.column - 2)
    at = _last_line(after) + 1
    return "\n".join([*lines[:at], f"{indent}# {comment}", f"{indent}- {written}", *lines[at:]]) + "\n"


def _below(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _mapping(node: yaml.Node) -> dict[str, str]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: str(value.value).removeprefix("linux/") for key, value in node.value}


def _is_older(value: str, version: str) -> bool:
    try:
        return parsed(value) < parsed(version)
    except InvalidVersion:
        return False


def _last_line(node: yaml.Node) -> int:
    """Return the line on which the text of a node ends; the end of a block node includes comments that follow."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    end = node.end_mark
    return int(end.line) - (1 if end.column == 0 and end.line > node.start_mark.line else 0)
