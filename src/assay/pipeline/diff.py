"""What a side of `assay diff` is: the records and the locked versions that a run, a cell, a tag or a digest names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from assay.errors import ConfigError, UsageError
from assay.evidence.diff import Side, side
from assay.evidence.record import AnyRecord, BuildRecord
from assay.foundation.digest import sha256_of
from assay.foundation.nearest import suggestion
from assay.matrix import lockfile

__all__ = ["LockedVersions", "sides"]


class LockedVersions:
    """Locked versions: of a cell as it is committed, or of a record by the digest of its lock.

    Args:
        committed: cell id -> text of its lock.txt.
        document: returns a document by digest, or None.
        warn: hears of locks that cannot be read.
    """

    def __init__(
        self, committed: Mapping[str, str], *, document: Callable[[str], bytes | None], warn: Callable[[str], None]
    ) -> None:
        self._document = document
        self._warn = warn
        self.committed = {cell: self._versions(text, cell) for cell, text in committed.items()}
        self._by_digest = {sha256_of(text.encode()): self.committed[cell] for cell, text in committed.items()}
        self.missing: set[str] = set()
        """Cells of records whose lock is nowhere."""

    def of(self, records: Sequence[AnyRecord]) -> Mapping[str, Mapping[str, str]]:
        """Return the versions of each cell's newest lock that these records name."""
        newest = {record.cell: record.lock_digest for record in records if record.lock_digest}
        found: dict[str, Mapping[str, str]] = {}
        for cell, digest in newest.items():
            if digest not in self._by_digest and (data := self._document(digest)) is not None:
                self._by_digest[digest] = self._versions(data.decode("utf-8", "replace"), f"the lock of {cell}")
            if digest in self._by_digest:
                found[cell] = self._by_digest[digest]
            else:
                self.missing.add(cell)
        return found

    def _versions(self, text: str, file: str) -> Mapping[str, str]:
        try:
            return {wheel.name: wheel.version for wheel in lockfile.parse(text, file=file).wheels}
        except ConfigError as error:
            self._warn(f"a lock was skipped: {error.message}")
            return {}


def sides(before: str, after: str, records: Sequence[AnyRecord], locks: LockedVersions) -> tuple[Side, Side]:
    """Return what the newest records of two runs, cells, tags or digests say.

    Raises:
        UsageError: one of them names nothing of which there are records.
    """
    pair = (before, after)
    return _side(before, records, locks, pair=pair), _side(after, records, locks, pair=pair)


def _side(name: str, records: Sequence[AnyRecord], locks: LockedVersions, *, pair: tuple[str, str]) -> Side:
    runs = {record.run for record in records}
    cells = {record.cell for record in records} | set(locks.committed)
    # Two different cells are compared with each other, two words for the same one as they are.
    one = " / ".join(dict.fromkeys(pair))
    if name in runs:
        mine = [record for record in records if record.run == name]
        if runs >= set(pair):
            return side(name, mine, versions=locks.of(mine))
        other = pair[0] if pair[1] == name else pair[1]
        wanted = {other} if other in cells else {record.cell for record in _imaged(other, records)}
        if wanted and not (mine := [record for record in mine if record.cell in wanted]):
            raise UsageError(
                f"the run {name} has no record of {other}",
                hint="compare two runs, or name a run in which it was built, audited or probed",
            )
        return side(name, mine, versions=locks.of(mine), one=one)
    if name in cells:
        mine = [record for record in records if record.cell == name]
        committed = {name: locks.committed[name]} if name in locks.committed else locks.of(mine)
        return side(name, mine, versions=committed, one=one)
    if not (mine := _imaged(name, records)):
        known = [*sorted(runs), *sorted(cells)]
        raise UsageError(
            f"{name!r} is not a run, cell, tag or digest with records{suggestion(name, known)}",
            hint="`assay plan` lists the cells; runs are what records of build_logs/ and docs/records/ name",
        )
    return side(name, mine, versions=locks.of(mine), one=one)


def _imaged(name: str, records: Sequence[AnyRecord]) -> list[AnyRecord]:
    """Return the records of the images that a tag, a reference or the beginning of a digest names."""
    digests = {
        record.image_digest
        for record in records
        if record.image_digest
        and (record.image_digest.startswith(name) or (isinstance(record, BuildRecord) and _tagged(record, name)))
    }
    return [record for record in records if record.image_digest in digests]


def _tagged(record: BuildRecord, name: str) -> bool:
    return any(tag == name or tag.rsplit("/", 1)[-1] == name or tag.rsplit(":", 1)[-1] == name for tag in record.tags)
