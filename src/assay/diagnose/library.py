"""The library of known failures: knowledge/failures/*.yaml, read, checked and made ready for searching."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

import yaml
from ahocorasick_rs import BytesAhoCorasick, Implementation
from pydantic import ValidationError

from assay import resources
from assay.diagnose.authors import MARKS
from assay.diagnose.model import FailureEntry, Signature
from assay.diagnose.tables import TableError, expand
from assay.errors import ConfigError, Problem
from assay.foundation.yamltext import compose

__all__ = ["FailureLibrary", "default_library", "parse_library"]

_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_SHORTEST_ANCHOR: Final = 4


class FailureLibrary:
    """Entries by id, and every literal under which a signature is found."""

    def __init__(self, entries: Sequence[FailureEntry]) -> None:
        self.entries: Final[Mapping[str, FailureEntry]] = {entry.id: entry for entry in entries}

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def anchors(self) -> Mapping[bytes, tuple[tuple[FailureEntry, Signature], ...]]:
        """Literal -> the signatures to try where it is found."""
        found: dict[bytes, list[tuple[FailureEntry, Signature]]] = {}
        for entry in self.entries.values():
            for signature in entry.signatures:
                for anchor in signature.anchors:
                    found.setdefault(anchor.encode(), []).append((entry, signature))
        return {anchor: tuple(pairs) for anchor, pairs in found.items()}

    @cached_property
    def literals(self) -> Sequence[bytes]:
        """Every literal that a log is searched for, in the order in which `automaton` numbers them."""
        return (*self.anchors, *(mark for mark in MARKS if mark not in self.anchors))

    @cached_property
    def automaton(self) -> BytesAhoCorasick:
        """One automaton for all literals: 100 MB in 0.3 s; a search for each literal took 12."""
        return BytesAhoCorasick(self.literals, implementation=Implementation.DFA)


def _check(entry: FailureEntry, known: set[str]) -> list[str]:
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


class _EntryReader:
    """Reads the files of a library and collects every problem, each with file and line."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.entries: list[FailureEntry] = []
        self._places: dict[str, tuple[str, int]] = {}

    def read(self, source: str, data: bytes) -> None:
        try:
            root = compose(data, file=source, limit=None)
        except ConfigError as error:
            self.problems += error.problems
            return
        twice: list[yaml.Node] = []
        if isinstance(root, yaml.MappingNode) and any(key.value == "table" for key, _ in root.value):
            self._table(source, root, twice)
        elif isinstance(root, yaml.SequenceNode):
            for node in root.value:
                self._entry(source, node.start_mark.line + 1, _plain(node, twice))
        else:
            self.problems.append(Problem(file=source, message="it must be a list of entries"))
            return
        for key in twice:
            self._tell((source, key.start_mark.line + 1), f"the key {key.value!r} occurs twice")

    def _table(self, source: str, root: yaml.MappingNode, twice: list[yaml.Node]) -> None:
        """Read a table, whose rows share one form (assay.diagnose.tables)."""
        table = _plain(root, twice)
        marks = [node.start_mark.line + 1 for key, rows in root.value if key.value == "rows" for node in rows.value]
        try:
            entries = expand(table) if isinstance(table, Mapping) else []
        except TableError as error:
            self._tell((source, 1), str(error))
            return
        for line, entry in zip(marks, entries, strict=True):
            self._entry(source, line, entry)

    def _entry(self, source: str, line: int, data: object) -> None:
        try:
            entry = FailureEntry.model_validate(data)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                self._tell((source, line), f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")
            return
        if (first := self._places.get(entry.id)) is not None:
            where = f"line {first[1]}" if first[0] == source else f"line {first[1]} of {first[0]}"
            self._tell((source, line), f"{entry.id} stands already in {where}")
        self._places[entry.id] = (source, line)
        self.entries.append(entry)

    def check(self) -> None:
        """Check what only the whole library shows."""
        known = set(self._places)
        for entry in self.entries:
            for message in _check(entry, known):
                self._tell(self._places[entry.id], f"{entry.id}: {message}")

    def _tell(self, place: tuple[str, int], message: str) -> None:
        self.problems.append(Problem(file=place[0], line=place[1], column=1, message=message))


def parse_library(files: Mapping[str, bytes]) -> FailureLibrary:
    """Read a library: the bytes of its files by their names.

    Raises:
        ConfigError: a file is not YAML, an entry is wrong, or two have one id; every problem at once, with its line.
    """
    reader = _EntryReader()
    for source, data in files.items():
        reader.read(source, data)
    reader.check()
    if reader.problems:
        raise ConfigError(reader.problems)
    return FailureLibrary(reader.entries)


def _plain(node: yaml.Node, twice: list[yaml.Node]) -> object:
    """Turn a node into strings, lists and dicts, guessing no types; keys that occur twice are put on the list."""
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


@lru_cache(maxsize=2)
def default_library(project: Path | None = None) -> FailureLibrary:
    """Return the library that ships with assay; a project's own files replace those of their name."""
    found = resources.files("knowledge", project, below="failures", pattern="*.yaml")
    return parse_library({f"knowledge/{name}": path.read_bytes() for name, path in found.items()})
