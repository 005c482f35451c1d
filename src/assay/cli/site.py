"""What `assay report --html`, `--into` and `--badges` write; the pages themselves are made in assay.site."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from assay import claims as ledger
from assay import console, site
from assay.adapters.project_files import ProjectFiles
from assay.adapters.store import FileStore, write_whole
from assay.diagnose import default_library
from assay.diagnose.text import clean
from assay.errors import ConfigError, UsageError
from assay.lockfile import lock_digest
from assay.model.cell import Cell
from assay.plan import Plan
from assay.record import now
from assay.serving.standing import load_claims

__all__ = ["write"]

_LOG_BYTES = 64 << 10
_LOG_LINES = 120


def write(
    files: ProjectFiles,
    plan: Plan,
    cells: Iterable[Cell],
    *,
    html: Path | None,
    into: Path | None,
    badges: Path | None,
) -> None:
    """Write the pages, the Markdown twin and the badges that are asked for.

    Raises:
        UsageError: the file for the Markdown twin is missing or has no markers.
        StoreError: something cannot be written.
    """
    chosen = list(cells)
    store = FileStore(files.root / "build_logs")
    packages: dict[str, dict[str, str]] = {}
    locks: dict[str, str] = {}
    for cell in chosen:
        if (lock := files.lock(cell)) is not None:
            packages[cell.id] = {wheel.name: wheel.version for wheel in lock.wheels}
            locks[cell.id] = lock_digest(lock)
    # Cells that only records know (references of others) are shown with all cells, not with a selection.
    ids = {cell.id for cell in chosen}
    everything = ids >= {cell.id for cell in plan.cells}
    made = site.gather(
        (record for record in store.records() if everything or record.cell in ids),
        chosen,
        made=now(),
        claims=_claims(files.root),
        packages=packages,
        locks=locks,
        causes={e.id: (e.cause, e.fix, e.sources) for e in default_library().entries.values()},
        read_document=store.document,
        read_log=lambda relative: _excerpt(store.root, relative),
    )
    if html is not None:
        count = 0
        for path, data in site.render(made):
            write_whole(html / path, data)
            count += 1
        console.say(f"{count} pages in {html}; open {html / 'index.html'}")
    if badges is not None:
        for path, data in site.badges(made):
            write_whole(badges / Path(path).name, data)
    if into is not None:
        if not into.is_file():
            raise UsageError(f"{into} does not exist", hint="name a Markdown file that has the two markers")
        write_whole(into, site.between_markers(into.read_text("utf-8"), site.table(made), file=str(into)).encode())


def _claims(root: Path) -> list[site.Claim]:
    """Read what others say: the ledgers of the images, and what servers are launched by where no ledger says it."""
    made: list[site.Claim] = []
    for path in sorted((root / "images").glob("*/claims.yaml")):
        try:
            found = ledger.read(path.read_text("utf-8"), file=str(path.relative_to(root)))
        except ConfigError as error:
            console.warn(f"claims are left out: {error.message}")
            continue
        made += [
            site.Claim(
                feature=claim.feature,
                outcome=claim.outcome,
                says=claim.says,
                source=claim.source,
                date=str(claim.date),
                target=claim.target,
                engine="" if claim.engine == "none" else claim.engine,
                versions=claim.versions,
                image=path.parent.name,
            )
            for claim in found
        ]
    path = root / "knowledge" / "serving_claims.yaml"
    if path.is_file():
        told = {(claim.feature, claim.target, claim.engine, claim.date) for claim in made}
        try:
            serving = load_claims(path)
        except ConfigError as error:
            console.warn(f"claims are left out: {error.message}")
            serving = ()
        made += [
            site.Claim(
                feature=claim.feature,
                outcome=claim.outcome,
                says=claim.reason,
                source=claim.source,
                date=str(claim.date),
                target=claim.target,
                engine=claim.engine,
                versions=claim.versions,
            )
            for claim in serving
            if (claim.feature, claim.target, claim.engine, str(claim.date)) not in told
        ]
    return made


def _excerpt(root: Path, relative: str) -> site.LogExcerpt | None:
    path = root / relative
    # A record of another machine may name any path; only what lies in build_logs/ is shown.
    if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
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
