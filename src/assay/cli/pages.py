"""What `assay report --html`, `--into` and `--badges` write; the pages themselves are made in assay.pages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from assay import resources
from assay.cli import console
from assay.cli.predicting import all_claims, predictions
from assay.cli.targets import beside
from assay.errors import StoreError, UsageError
from assay.foundation.strict import Value
from assay.foundation.text import PlainText

if TYPE_CHECKING:
    from assay import pages as site
    from assay.adapters.files.project import ProjectFiles
    from assay.evidence.record import AnyRecord
    from assay.matrix.cell import Cell
    from assay.matrix.plan import Plan

__all__ = ["drifted", "gathered", "write"]

_LOG_BYTES = 64 << 10
_LOG_LINES = 120


def gathered(
    files: ProjectFiles, plan: Plan, cells: Iterable[Cell], *, folders: Sequence[Path] = (), predict: bool = False
) -> site.Site:
    """Gather what the pages show of cells.

    Args:
        folders: records from these folders and below them; without any, those of build_logs/ and the committed ones
            in docs/records/.
        predict: audit the cells of which no record predicts anything.
    """
    from assay import pages as site
    from assay.adapters.files.records import FileStore
    from assay.diagnose import default_library
    from assay.evidence.record import now

    chosen = list(cells)
    store = FileStore(files.root / "build_logs")
    locks = {cell.id: lock for cell in chosen if (lock := files.lock(cell)) is not None}
    # Cells that only records know (references of others) are shown with all cells, not with a selection.
    ids = {cell.id for cell in chosen}
    everything = ids >= {cell.id for cell in plan.cells}
    records = _records(folders or (store.root / "records", files.root / "docs" / "records"))
    if predict:
        for target in {name for cell in chosen for name in cell.targets}:
            own = [cell for cell in chosen if target in cell.targets and cell.kind == "build"]
            records += predictions(files, plan, own, target, records)
    return site.gather(
        (record for record in records if everything or record.cell in ids),
        chosen,
        made=now(),
        cards={name: target.name for name, target in plan.project.matrix.targets.items()},
        about=_about(files.root),
        claims=all_claims(files.root),
        locks=locks,
        causes={
            e.id: site.Cause(cause=e.cause, fix=e.fix, sources=e.sources, cause_class=str(e.cause_class))
            for e in default_library(files.root).entries.values()
        },
        read_document=store.document,
        read_log=lambda relative: _excerpt(store.root, relative),
    )


class _Feature(Value):
    what: PlainText
    why: PlainText


class _Features(Value):
    version: Literal["1"]
    features: dict[str, _Feature]


def _about(root: Path) -> dict[str, site.About]:
    """Return what features are: from knowledge/features.yaml, the probes' own words, and the engines' flags."""
    from assay import pages as site
    from assay.adapters.files.serving import load_server_flags
    from assay.foundation.yamltext import load, parse
    from assay.serving.flags import command_line

    path = resources.find("knowledge", "features.yaml", root)
    known = parse(load(path.read_text("utf-8"), file=str(path)), _Features).features
    tested: dict[str, str] = {}
    for program in resources.files("probes", root, below="features", pattern="*.py").values():
        text = program.read_text("utf-8")
        if name := re.search(r'^FEATURE = "(.+)"$', text, re.MULTILINE):
            tested[name[1]] = text.partition('"""')[2].partition('"""')[0].strip()
    off: dict[str, dict[str, str]] = {}
    for engine, flags in load_server_flags(resources.find("knowledge", "server_flags.yaml", root)).engines.items():
        for feature, switch in flags.features.items():
            if switch.off:
                newest = switch.off[0]
                words = [*command_line(newest.flags), *(f"{name}={value}" for name, value in newest.env.items())]
                off.setdefault(feature, {})[engine] = " ".join(words)
    return {
        name: site.About(
            what=known[name].what if name in known else "",
            why=known[name].why if name in known else "",
            tested=tested.get(name, ""),
            off=off.get(name, {}),
        )
        for name in {*known, *tested, *off}
    }


def _records(folders: Iterable[Path]) -> list[AnyRecord]:
    """Read records below folders, oldest first; the same record in two folders counts once."""
    from assay.adapters.files.kept_records import is_intact
    from assay.adapters.files.regular import read_regular
    from assay.evidence.record import parse

    paths = {path.name: path for folder in folders for path in sorted(folder.rglob("*.json"))}
    found: list[AnyRecord] = []
    for name, path in sorted(paths.items()):
        try:
            raw = read_regular(path)
            record = parse(raw, source=name)
            if not is_intact(path, raw):
                raise StoreError("it was edited after it was written, so it is ignored")
            found.append(record)
        except (OSError, StoreError) as error:
            console.warn(f"{path} was skipped: {error}")
    return found


def write(
    made: site.Site, *, html: Path | None, into: Path | None, badges: Path | None, measured: bool = False
) -> None:
    """Write the pages, the Markdown twin and the badges that are asked for.

    Raises:
        UsageError: the file for the Markdown twin is missing or has no markers.
        StoreError: something cannot be written.
    """
    from assay import pages as site
    from assay.adapters.files.records import write_whole

    if html is not None:
        count = 0
        for path, data in site.render(made, coverage=(html / "coverage.html").is_file()):
            write_whole(html / path, data)
            count += 1
        console.say(f"{count} pages in {html}; open {html / 'index.html'}")
    if badges is not None:
        for path, data in site.badges(made):
            write_whole(badges / Path(path).name, data)
    if into is not None:
        write_whole(into, _with_table(made, into, measured=measured)[1].encode())


def drifted(made: site.Site, into: Path, *, measured: bool) -> int:
    """Return 1, and say so, if a file's matrix is not what the records give."""
    old, new = _with_table(made, into, measured=measured)
    if old == new:
        return 0
    console.say(f"the matrix in {into} is outdated; run the same command without --check")
    return 1


def _with_table(made: site.Site, into: Path, *, measured: bool) -> tuple[str, str]:
    """Return a Markdown file as it is and as it should be."""
    from assay import pages as site
    from assay.adapters.files.regular import read_config

    if not into.is_file():
        raise UsageError(f"{into} does not exist", hint="name a Markdown file that has the two markers")
    old = read_config(into)
    return old, site.between_markers(old, site.table(made, measured=measured, name=beside), file=str(into))


def _excerpt(root: Path, relative: str) -> site.LogExcerpt | None:
    from assay import pages as site
    from assay.adapters.files.regular import file_below
    from assay.diagnose.text import clean

    # A record of another machine may name any path; only what lies in build_logs/ is shown.
    path = file_below(root, relative)
    if path is None:
        return None
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - _LOG_BYTES))
        lines = log.read().split(b"\n")
    if size > _LOG_BYTES:
        lines = lines[1:]
    shown = [clean(line.rsplit(b"\r", 1)[-1]) for line in lines if line.strip()]
    return site.LogExcerpt(
        path=relative, lines=tuple(shown[-_LOG_LINES:]), cut=size > _LOG_BYTES or len(shown) > _LOG_LINES
    )
