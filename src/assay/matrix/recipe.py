"""Changes to a recipe (image.yaml) that keep its comments and layout. Pure: text in, text out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

import yaml

from assay.errors import UsageError

__all__ = ["with_constraints"]

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


def _last_line(node: yaml.Node) -> int:
    """Return the line on which the text of a node ends; the end of a block node includes comments that follow."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    end = node.end_mark
    return int(end.line) - (1 if end.column == 0 and end.line > node.start_mark.line else 0)
