"""`assay diff A B`: what changed between two runs, cells or tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from assay.adapters.files.kept_records import intact_records
from assay.adapters.files.project import find_root
from assay.adapters.files.records import FileStore
from assay.cli import console
from assay.cli.common import format_option, load, project_option
from assay.errors import AssayError, ConfigError, UsageError
from assay.evidence.diff import Change, Direction, Side, changes, side
from assay.evidence.record import AnyRecord, BuildRecord
from assay.foundation.digest import sha256_of
from assay.foundation.nearest import suggestion
from assay.matrix import lockfile

__all__ = ["command"]


@click.command("diff")
@click.argument("before")
@click.argument("after")
@project_option
@format_option("text", "json", "markdown")
@click.option(
    "--tolerance", default=5.0, show_default=True, help="Ignore differences in size and speed below this percentage."
)
@click.option(
    "--only", type=click.Choice([str(d) for d in Direction]), multiple=True, help="Show only these kinds of change."
)
def command(
    before: str, after: str, *, project: Path | None, form: str, tolerance: float, only: tuple[str, ...]
) -> int:
    """Compare two runs (in build_logs/ or docs/records/), two cells, or two images by tag, reference or digest.

    If one side is a run and the other a cell or an image, only that cell is compared. Exit code 1 if anything got
    worse.
    """
    root = project or find_root()
    store = FileStore(root / "build_logs")
    records = intact_records(root)
    locks = _Locks(store, project)
    sides = [_side(name, records, locks, pair=(before, after)) for name in (before, after)]
    if locks.missing:
        few = "1 lock is" if len(locks.missing) == 1 else f"{len(locks.missing)} locks are"
        console.warn(
            f"{few} neither committed nor in build_logs/documents/, so versions of "
            f"{', '.join(sorted(locks.missing)[:3])}{', ...' if len(locks.missing) > 3 else ''} are not compared"
        )
    found = changes(sides[0], sides[1], tolerance=tolerance / 100)
    shown = [change for change in found if not only or str(change.direction) in only]
    worse = sum(change.direction is Direction.REGRESSION for change in found)
    if form == "json":
        document = [change.model_dump(mode="json") for change in shown]
        console.json_data({"version": 1, "before": before, "after": after, "changes": document})
    elif form == "markdown":
        console.data(_markdown(shown, before, after))
    elif shown:
        rows = [(c.direction, c.cell, c.what, _short(c.before), _short(c.after), c.note) for c in shown]
        console.data_table(("", "cell", "what", "before", "after", "note"), rows)
    console.say(f"{len(found)} differences, {worse} for the worse")
    return 1 if worse else 0


class _Locks:
    """Locked versions: of a cell as it is committed, or of a record by the digest of its lock."""

    def __init__(self, store: FileStore, project: Path | None) -> None:
        self._store = store
        self.committed: dict[str, Mapping[str, str]] = {}
        self._by_digest: dict[str, Mapping[str, str]] = {}
        self.missing: set[str] = set()
        """Cells of records whose lock is nowhere."""
        try:
            files, plan = load(project)
        except AssayError as error:
            console.warn(f"the matrix cannot be read, so committed locks are not compared: {error.message}")
            return
        for cell in plan.cells:
            if (text := files.cell_file(cell, "lock.txt")) is not None:
                self.committed[cell.id] = self._by_digest[sha256_of(text.encode())] = _versions(text, cell.id)

    def of(self, records: Sequence[AnyRecord]) -> Mapping[str, Mapping[str, str]]:
        """Return the versions of each cell's newest lock that these records name."""
        newest = {record.cell: record.lock_digest for record in records if record.lock_digest}
        found: dict[str, Mapping[str, str]] = {}
        for cell, digest in newest.items():
            if digest not in self._by_digest and (data := self._store.document(digest)) is not None:
                self._by_digest[digest] = _versions(data.decode("utf-8", "replace"), f"the lock of {cell}")
            if digest in self._by_digest:
                found[cell] = self._by_digest[digest]
            else:
                self.missing.add(cell)
        return found


def _short(text: str) -> str:
    """Return a digest as people tell digests apart; JSON has them whole."""
    return text[:19] + "…" if text.startswith("sha256:") else text


def _side(name: str, records: Sequence[AnyRecord], locks: _Locks, *, pair: tuple[str, str]) -> Side:
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
            f"{name!r} is no run, cell, tag or digest of which there are records{suggestion(name, known)}",
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


def _versions(text: str, file: str) -> Mapping[str, str]:
    try:
        return {wheel.name: wheel.version for wheel in lockfile.parse(text, file=file).wheels}
    except ConfigError as error:
        console.warn(f"a lock was passed over: {error.message}")
        return {}


def _markdown(found: Sequence[Change], before: str, after: str) -> str:
    def cell(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

    head = [f"Changes from `{before}` to `{after}`", "", "| | cell | what | before | after | note |", "|-|-|-|-|-|-|"]
    rows = [
        f"| {c.direction} | {cell(c.cell)} | {cell(c.what)} | {cell(c.before)} | {cell(c.after)} | {cell(c.note)} |"
        for c in found
    ]
    return "\n".join([*head, *rows])
