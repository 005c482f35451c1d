"""The library of known failures: knowledge/failures.yaml, read, checked and made ready for searching."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

import yaml
from ahocorasick_rs import BytesAhoCorasick, Implementation
from pydantic import ValidationError

from assay.diagnose.model import Entry, Signature
from assay.errors import ConfigError, Problem

__all__ = ["Library", "default_library", "parse_library"]

_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_SHORTEST_ANCHOR: Final = 4


class Library:
    """Entries by id, and every literal under which a signature is found."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries: Final[Mapping[str, Entry]] = {entry.id: entry for entry in entries}

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def anchors(self) -> Mapping[bytes, tuple[tuple[Entry, Signature], ...]]:
        """Literal -> the signatures to try where it is found."""
        found: dict[bytes, list[tuple[Entry, Signature]]] = {}
        for entry in self.entries.values():
            for signature in entry.signatures:
                for anchor in signature.anchors:
                    found.setdefault(anchor.encode(), []).append((entry, signature))
        return {anchor: tuple(pairs) for anchor, pairs in found.items()}

    @cached_property
    def literals(self) -> Sequence[bytes]:
        """The literals of `anchors`, in the order in which `automaton` numbers them."""
        return tuple(self.anchors)

    @cached_property
    def automaton(self) -> BytesAhoCorasick:
        """One automaton for all literals: 100 MB in 0.3 s; a search for each literal took 12."""
        return BytesAhoCorasick(self.literals, implementation=Implementation.DFA)


def _check(entry: Entry, known: set[str]) -> list[str]:
    problems: list[str] = []
    groups: set[str] = set()
    for signature in entry.signatures:
        try:
            groups |= set(re.compile(signature.regex).groupindex)
        except re.error as error:
            problems.append(f"the expression {signature.regex!r} does not compile: {error}")
        problems += [
            f"the anchor {anchor!r} is shorter than {_SHORTEST_ANCHOR} characters and would be met everywhere"
            for anchor in signature.anchors
            if len(anchor) < _SHORTEST_ANCHOR
        ]
    for field, text in (("cause", entry.cause), ("fix", entry.fix), ("change", entry.change)):
        problems += [f"{field} names the group {{{n}}}, which no expression has"
                     for n in _PLACEHOLDER.findall(text) if n not in groups]  # fmt: skip
    problems += [
        f"gives_way_to names {other!r}, which does not exist" for other in entry.gives_way_to if other not in known
    ]
    return problems


def parse_library(data: bytes, *, source: str = "knowledge/failures.yaml") -> Library:
    """Read a library.

    Raises:
        ConfigError: it is not YAML, an entry is wrong, or two have one id; every problem at once, with its line.
    """
    # assay.yamltext reads any file with every mark kept; for a file of this size the C loader is thirty times faster,
    # and a failure is diagnosed at the end of each failed step.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        root = yaml.compose(data, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise ConfigError([Problem(file=source, line=where[0], column=where[1], message=str(error.problem))]) from error
    except yaml.YAMLError as error:
        words = str(error).partition("\n")[0]
        raise ConfigError([Problem(file=source, message=f"not readable as YAML: {words}")]) from error
    if not isinstance(root, yaml.SequenceNode):
        raise ConfigError([Problem(file=source, message="it must be a list of entries")])
    problems: list[Problem] = []
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    twice: list[yaml.Node] = []
    for node in root.value:
        line = node.start_mark.line + 1
        try:
            entry = Entry.model_validate(_plain(node, twice))
        except ValidationError as error:
            problems += [
                Problem(file=source, line=line, column=1, message=f"{'.'.join(map(str, e['loc']))}: {e['msg']}")
                for e in error.errors(include_url=False)
            ]
            continue
        if entry.id in lines:
            problems.append(
                Problem(
                    file=source, line=line, column=1, message=f"{entry.id} stands already in line {lines[entry.id]}"
                )
            )
        lines[entry.id] = line
        entries.append(entry)
    problems += [
        Problem(file=source, line=key.start_mark.line + 1, column=1, message=f"the key {key.value!r} stands twice")
        for key in twice
    ]
    known = set(lines)
    for entry in entries:
        problems += [
            Problem(file=source, line=lines[entry.id], column=1, message=f"{entry.id}: {message}")
            for message in _check(entry, known)
        ]
    if problems:
        raise ConfigError(problems)
    return Library(entries)


def _plain(node: yaml.Node, twice: list[yaml.Node]) -> object:
    """Turn a node into strings, lists and dicts, guessing no types; keys that stand twice are put on the list."""
    if isinstance(node, yaml.MappingNode):
        made: dict[str, object] = {}
        for key, value in node.value:
            if key.value in made:
                twice.append(key)
            made[key.value] = _plain(value, twice)
        return made
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, twice) for item in node.value]
    return node.value


def _path() -> Path:
    beside = Path(__file__).parents[3] / "knowledge" / "failures.yaml"
    return beside if beside.is_file() else Path(__file__).parents[1] / "knowledge" / "failures.yaml"


@lru_cache(maxsize=1)
def default_library() -> Library:
    """Return the library that ships with assay (the repository's file, or its copy in an installed package)."""
    path = _path()
    return parse_library(path.read_bytes(), source="knowledge/failures.yaml")
