"""Wheel facts as files, one for each wheel, named by the sha256 of the wheel."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from packaging.version import InvalidVersion, Version

from assay.adapters.files.cache import cache_folder
from assay.adapters.files.records import write_whole
from assay.adapters.files.regular import read_regular
from assay.errors import StoreError, WheelError
from assay.foundation.budget import FACTS, Budget, BudgetLimits
from assay.foundation.foreign import ForeignError, read_json
from assay.wheels.facts import READER, WheelFacts
from assay.wheels.facts_file import brief_facts, dump_brief, dump_facts, filled, load_brief, load_facts

__all__ = ["FactsCache", "default_folder"]

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SUFFIX: Final = ".facts.json.gz"
BRIEF_FROM: Final = 24 << 10
"""Bytes of facts from which on a brief form stands beside them."""
_EXPORT: Final = BudgetLimits(unpacked=64 << 30, kept=0, steps=0, items=1_000_000, seconds=6 * 3600)
"""One exported file: two readings of any number of wheels that a person would move."""
BRIEF_FORM: Final = 4
"""Raised when what is brief changes."""


def default_folder() -> Path:
    """Return where facts are kept."""
    return cache_folder() / "facts"


class FactsCache:
    """A folder of facts; written whole or not at all, so several processes can share it.

    `<name>/<version>-<sha256>.facts.json.gz`: exporting is copying files, and names can be listed without reading.
    Beside them, in `.brief`, stands what an audit needs of large ones; it is made again whenever it is missing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._loaded: dict[str, WheelFacts] = {}
        self._paths: dict[str, Path] | None = None
        self._words: dict[str, tuple[str, ...]] = {}

    def _index(self) -> dict[str, Path]:
        if self._paths is None:
            self._paths = {}
            for path in self.folder.glob(f"*/*{_SUFFIX}"):
                sha256 = path.name.removesuffix(_SUFFIX).rpartition("-")[2]
                if _SHA256.fullmatch(sha256):
                    self._paths[sha256] = path
        return self._paths

    def get(self, sha256: str, *, origins: Container[str] = ()) -> WheelFacts | None:
        """Return the facts of a wheel; see the port."""
        facts = self._get(sha256)
        return facts if facts is not None and facts.good_for(origins) else None

    def _get(self, sha256: str) -> WheelFacts | None:
        if sha256 in self._loaded:
            return self._loaded[sha256]
        path = self._index().get(sha256)
        if path is None:
            return None
        facts = self._brief(sha256, path)
        if facts is not None:
            self._loaded[sha256] = facts
        return facts

    def whole(self, sha256: str) -> WheelFacts | None:
        """Return all that is known of a wheel, the names of exported symbols too."""
        path = self._index().get(sha256)
        return None if path is None else _load(path, sha256)

    def _brief(self, sha256: str, path: Path) -> WheelFacts | None:
        """Return what an audit needs, from the file beside the facts, which is made if it is not there."""
        try:
            place = _brief_place(sha256, path)
        except OSError:
            return None
        facts = None if place is None else _load(place, sha256, brief=True)
        if facts is not None:
            return facts
        whole = _load(path, sha256)
        if place is None or whole is None:
            return whole
        return _made_brief(whole, place)

    def put(self, facts: WheelFacts) -> None:
        """Keep facts; see the port."""
        if not _SHA256.fullmatch(facts.sha256):
            return
        known = self._get(facts.sha256)
        if known is not None and known.complete and not facts.complete:
            return
        kept = facts
        if facts.is_brief:
            whole = self.whole(facts.sha256)
            if whole is None:
                return
            kept = filled(facts, whole)
        path = self.folder / facts.name / f"{facts.version.replace('!', '_')}-{facts.sha256}{_SUFFIX}"
        try:
            write_whole(path, dump_facts(kept))
        except StoreError as error:
            raise StoreError(
                f"facts cannot be kept: {error.message}", hint="set ASSAY_CACHE to another folder"
            ) from error
        self._words.pop(facts.name, None)
        self._loaded[facts.sha256] = facts
        before = self._index().get(facts.sha256)
        if before is not None and before != path:
            # Other bytes under this sha256 gave it another name.
            with suppress(OSError):
                before.unlink(missing_ok=True)
        self._index()[facts.sha256] = path
        # Whoever audits next should not have to wait for it.
        with suppress(OSError):
            place = _brief_place(facts.sha256, path)
            if place is not None:
                self._loaded[facts.sha256] = _made_brief(facts, place)

    def named(self, name: str, *, origins: Container[str] = ()) -> Iterable[WheelFacts]:
        """Return all facts of a distribution, newest version first; see the port."""
        found = [
            self.get(sha256, origins=origins) for sha256, path in self._index().items() if path.parent.name == name
        ]
        return sorted((facts for facts in found if facts), key=lambda facts: _version(facts.version), reverse=True)

    def kept(self, name: str) -> Iterable[str]:
        """Return a word for each kept wheel of a distribution; see the port."""
        if name not in self._words:
            states = ((path, path.stat()) for path in self.folder.glob(f"{name}/*{_SUFFIX}"))
            self._words[name] = tuple(f"{path.name} {state.st_size} {state.st_mtime_ns}" for path, state in states)
        return self._words[name]

    def listed(self) -> list[tuple[str, str, str, int]]:
        """Return (name, version, sha256, bytes) of all kept facts, without reading them."""
        rows = []
        for sha256, path in self._index().items():
            version = path.name.removesuffix(_SUFFIX).rpartition("-")[0]
            rows.append((path.parent.name, version, sha256, path.stat().st_size))
        return sorted(rows, key=lambda row: (row[0], _version(row[1])))

    def export(self, chosen: Iterable[str]) -> Iterator[bytes]:
        """Yield the parts of one file with the facts of the given wheels: a line of JSON before each."""
        for sha256 in chosen:
            data = read_regular(self._index()[sha256])
            yield json.dumps({"sha256": sha256, "bytes": len(data)}).encode() + b"\n"
            yield data

    def take(self, data: bytes, *, source: str, budget: Budget | None = None) -> int:
        """Keep the facts of an exported file; returns how many.

        Raises:
            WheelError: the file is damaged, or holds more than the budget allows; nothing of it is kept.
        """
        whole = budget or Budget(source, _EXPORT)
        # Twice: all are checked before one is kept, and together they may be too large to be held.
        for _ in _exported(data, source, whole):
            pass
        count = 0
        for facts in _exported(data, source, whole):
            self.put(facts)
            count += 1
        return count


def _exported(data: bytes, source: str, whole: Budget) -> Iterator[WheelFacts]:
    """Yield the facts in an exported file, one at a time."""
    at = 0
    while at < len(data):
        end = data.find(b"\n", at, at + 4096)
        try:
            head = read_json(data[at : max(end, at)], limit=4096, depth=2)
            size, sha256 = head["bytes"], head["sha256"]
        except (ForeignError, KeyError, TypeError) as error:
            raise WheelError(f"{source} is not an export of facts, or is damaged at byte {at}") from error
        if type(size) is not int or size < 0:
            raise WheelError(f"{source} is not an export of facts, or is damaged at byte {at}")
        if end < 0 or end + 1 + size > len(data):
            raise WheelError(f"{source} is cut short")
        whole.take(items=1)
        facts = load_facts(data[end + 1 : end + 1 + size], source=source, budget=Budget(source, FACTS))
        whole.take(unpacked=size)
        if facts.sha256 != sha256:
            raise WheelError(f"{source}: facts of another wheel than announced at byte {at}")
        yield facts
        at = end + 1 + size


def _brief_place(sha256: str, path: Path) -> Path | None:
    """Return where the brief form of the facts in a file is; None of those that have none because they are small.

    Facts that were replaced have another time or size: their old brief form is not looked at again.
    """
    state = path.stat()
    name = f"{sha256}-{BRIEF_FORM}-{state.st_size}-{state.st_mtime_ns}.facts"
    return path.parent / ".brief" / name if state.st_size >= BRIEF_FROM else None


def _made_brief(known: WheelFacts, place: Path) -> WheelFacts:
    """Make the brief form of facts, if they have not got it, and keep it in place of older ones."""
    facts = brief_facts(known)
    if not facts.is_brief:
        return known
    # It only saves time: where it cannot be kept, nothing is lost.
    with suppress(OSError, StoreError):
        for old in place.parent.glob(f"{known.sha256}-*"):
            old.unlink(missing_ok=True)
        write_whole(place, dump_brief(facts))
    return facts


def _load(path: Path, sha256: str, *, brief: bool = False) -> WheelFacts | None:
    """Read facts; a cache that cannot be read is no reason to fail: the wheel is read again."""
    try:
        facts = (load_brief if brief else load_facts)(read_regular(path), source=str(path))
    except (OSError, StoreError, WheelError):
        return None
    return facts if facts.reader == READER and facts.sha256 == sha256 else None


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0")
