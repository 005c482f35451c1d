"""Strict YAML: every scalar is a string as written, every value has its line and column.

`torch: 2.10` is `2.10` and not 2.1, a key `on` is not true. An empty scalar, `~` and `null` (unquoted) are null.
Duplicate keys are problems; aliases are allowed as long as they do not blow up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import yaml
from pydantic import ValidationError

from assay.errors import ConfigError, Problem
from assay.foundation.nearest import suggestion
from assay.foundation.strict import Value

__all__ = ["Document", "Node", "compose", "load", "parse"]

Node = str | None | list["Node"] | dict[str, "Node"]
Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=Value)
_MAX_NODES: Final = 100_000
_MAX_DEPTH: Final = 200
_MAX_TEXT: Final = 4 << 20
"""Characters of a file; the largest of this project has 150 000."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A YAML document with the line and column of each part."""

    file: str
    data: Node
    marks: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    """Path of keys and positions -> (line, column), from 1."""
    keys: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    def problem(self, path: Path, message: str, *, at_key: bool = False) -> Problem:
        """Return a problem at the deepest part of a path that is in the file."""
        for end in range(len(path), -1, -1):
            mark = (self.keys if at_key else self.marks).get(path[:end]) or self.marks.get(path[:end])
            if mark:
                return Problem(file=self.file, line=mark[0], column=mark[1], message=message)
        return Problem(file=self.file, message=message)


class _Builder:
    def __init__(self, file: str) -> None:
        self.file = file
        self.marks: dict[Path, tuple[int, int]] = {}
        self.keys: dict[Path, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.count = 0

    def build(self, node: yaml.Node, path: Path, open_nodes: frozenset[int]) -> Node:
        self.count += 1
        if self.count > _MAX_NODES:
            raise _too_many(self.file)
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.marks[path] = (line, column)
        if id(node) in open_nodes:
            self.problems.append(Problem(file=self.file, line=line, column=column, message="an alias contains itself"))
            return None
        inside = open_nodes | {id(node)}
        if isinstance(node, yaml.ScalarNode):
            return None if not node.style and node.value in {"", "~", "null"} else str(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, position), inside) for position, item in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        result: dict[str, Node] = {}
        for key, value in node.value:
            where = {"line": key.start_mark.line + 1, "column": key.start_mark.column + 1}
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(Problem(file=self.file, **where, message="a key must be a plain word"))
                continue
            if key.value in result:
                self.problems.append(Problem(file=self.file, **where, message=f"the key {key.value!r} occurs twice"))
                continue
            self.keys[(*path, key.value)] = (where["line"], where["column"])
            result[key.value] = self.build(value, (*path, key.value), inside)
        return result


def _too_many(file: str) -> ConfigError:
    return ConfigError([Problem(file=file, message=f"more than {_MAX_NODES} values; aliases that multiply?")])


def _bounded(events: Iterable[yaml.Event], *, file: str, limit: int) -> None:
    """Count values and depth before there is a tree of them, which takes a hundred times the memory of its text.

    Raises:
        ConfigError: there are too many values, or they are nested too deeply: libyaml bounds that from 0.2.6 on alone.
    """
    count = depth = 0
    for event in events:
        count += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if count > limit:
            raise _too_many(file)
        if depth > _MAX_DEPTH:
            mark = event.start_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
            raise ConfigError([Problem(file=file, line=line, column=column, message="nested too deeply")])


def compose(text: str | bytes, *, file: str, limit: int | None = _MAX_NODES) -> yaml.Node | None:
    """Return the tree of one YAML document with its marks; None if it is empty.

    Read by libyaml where PyYAML has it: thirty times faster.

    Args:
        limit: values that it may hold; None for a file that ships with assay.

    Raises:
        ConfigError: the text is not YAML, holds more than one document, or is absurdly large.
    """
    if len(text) > _MAX_TEXT:
        what = f"{len(text)} characters, more than {_MAX_TEXT}: split it, or remove what was generated"
        raise ConfigError([Problem(file=file, message=what)])
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        if limit is not None:
            _bounded(yaml.parse(text, loader), file=file, limit=limit)
        return yaml.compose(text, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        what = error.problem or error.context or "not YAML"
        raise ConfigError([Problem(file=file, line=line, column=column, message=what)]) from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        words = str(error).partition("\n")[0]
        raise ConfigError([Problem(file=file, message=f"not readable as YAML: {words}")]) from error
    except RecursionError as error:
        raise ConfigError([Problem(file=file, message="nested too deeply")]) from error


def load(text: str, *, file: str) -> Document:
    """Read one YAML document.

    Raises:
        ConfigError: the text is not YAML, has duplicate keys, holds more than one document, or is absurdly large.
    """
    node = compose(text, file=file)
    if node is None:
        raise ConfigError([Problem(file=file, line=1, column=1, message="the file is empty")])
    builder = _Builder(file)
    try:
        data = builder.build(node, (), frozenset())
    except RecursionError as error:
        raise ConfigError([Problem(file=file, message="nested too deeply")]) from error
    if builder.problems:
        raise ConfigError(builder.problems)
    return Document(file=file, data=data, marks=builder.marks, keys=builder.keys)


def _known_fields(model: type[Value], path: Path) -> list[str]:
    """Return the fields that a mapping at `path` could have, as far as plain nesting of models tells."""
    fields = model.model_fields
    for part in path:
        if not isinstance(part, str):
            continue
        info = fields.get(part)
        inner = [] if info is None else _models_in(info.annotation)
        if inner:
            fields = {name: value for item in inner for name, value in item.model_fields.items()}
    return list(fields)


def _models_in(annotation: object) -> list[type[Value]]:
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return [annotation]
    found: list[type[Value]] = []
    for argument in getattr(annotation, "__args__", ()):
        found += _models_in(argument)
    return found


_WORDS: Final = {
    "missing": "is missing",
    "string_type": "must be text",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "float_type": "must be a number",
    "float_parsing": "must be a number, not {input!r}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number, not {input!r}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false, not {input!r}",
    "too_short": "must have {min_length} or more, has {actual_length}",
    "string_too_short": "must have {min_length} characters or more, not {input!r}",
    "string_too_long": "must have {max_length} characters or fewer, not {input!r}",
    "literal_error": "must be {expected}, not {input!r}",
    "enum": "must be {expected}, not {input!r}",
    "greater_than": "must be more than {gt:g}, not {input}",
    "greater_than_equal": "must be {ge:g} or more, not {input}",
    "less_than_equal": "must be {le:g} or less, not {input}",
    "string_pattern_mismatch": "{input!r} is not allowed here: it has to match {pattern}",
    "union_tag_not_found": "{discriminator} is missing",
    "union_tag_invalid": "{discriminator} must be one of {expected_tags}, not {tag!r}",
}
"""What pydantic's errors mean to a person; filled with the error's context and the input."""


def _in_words(item: Any) -> str:
    words = _WORDS.get(item["type"])
    return item["msg"] if words is None else words.format(**item.get("ctx", {}), input=item["input"])


def _explain(document: Document, model: type[Value], error: ValidationError) -> list[Problem]:
    problems: list[Problem] = []
    for item in error.errors(include_url=False):
        # Tags of unions and `[key]` stand in the location without standing in the file.
        path = tuple(part for part in item["loc"] if part != "[key]")
        kept: Path = ()
        for part in path:
            if (*kept, part) in document.marks or part == path[-1]:
                kept = (*kept, part)
        name = ".".join(str(part) for part in kept) or "the file"
        if item["type"] == "extra_forbidden":
            known = _known_fields(model, kept[:-1])
            message = f"unknown key {str(kept[-1])!r}{suggestion(str(kept[-1]), known)}"
            problems.append(document.problem(kept, message, at_key=True))
        elif item["type"] == "value_error":
            problems.append(document.problem(kept, f"{name}: {item['ctx']['error']}"))
        else:
            problems.append(document.problem(kept, f"{name}: {_in_words(item)}"))
    return problems


def parse(document: Document, model: type[Model]) -> Model:
    """Read a document into a model.

    Raises:
        ConfigError: every problem at once, each with file, line and column.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(_explain(document, model, error)) from error
