"""`assay audit`: what the wheels or an image show before anything is built or run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click

from assay import console
from assay.adapters.project_files import ProjectFiles, find_root
from assay.adapters.simple_index import SimpleIndex
from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport
from assay.audit.formats import junit, sarif, text
from assay.audit.gpu import capability_of
from assay.audit.linker import Base, Installation
from assay.cli.auditing import make_auditor, progress
from assay.cli.common import format_option, load, project_option
from assay.cli.wheels import index_option, is_requirement, is_wheel, wheel_of, where_to_look
from assay.errors import AssayError, NothingSelected, UsageError
from assay.flows.audit import Auditor, Obtained, base_of, gpu_targets, keep_record, promised
from assay.model.cell import Cell
from assay.model.lock import Lock
from assay.model.matrix import Matrix
from assay.model.outcome import Verdict
from assay.plan import Plan

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subjects", nargs=-1, metavar="[SUBJECT]...")
@click.option("--image", "images", multiple=True, metavar="REF", help="An image the engine holds; it is not run.")
@click.option("--torch", metavar="VERSION", help="With wheels: the torch they would be loaded with.")
@click.option("--with", "others", multiple=True, metavar="NAME==VERSION", help="With wheels: what else is installed.")
@click.option("--target", "targets", multiple=True, metavar="sm_NN", help="GPU to be true on (default: the cell's).")
@click.option("--python", default="3.12", show_default=True, help="With wheels: the Python they would be loaded by.")
@click.option("--base", help="With wheels: a base of matrix.yaml, or a distribution such as debian12, ubuntu24.04.")
@click.option("--package", "packages", multiple=True, help="With wheels: a package of the distribution in the base.")
@click.option("--driver-cuda", metavar="VERSION", help="Newest CUDA version of the driver, where PTX has to be judged.")
@index_option
@click.option("--quick", is_flag=True, help="Symbols alone, a few hundred kilobytes of each wheel.")
@click.option("--facts", type=click.Path(path_type=Path, file_okay=False), help="Folder of known facts.")
@click.option("--no-record", is_flag=True, help="Keep no record in build_logs/.")
@click.option("-v", "--verbose", is_flag=True, help="Notes, and GPU code of every library.")
@format_option("text", "json", "sarif", "junit")
@project_option
def command(  # noqa: PLR0917
    subjects: tuple[str, ...],
    images: tuple[str, ...],
    torch: str | None,
    others: tuple[str, ...],
    targets: tuple[str, ...],
    python: str,
    base: str | None,
    packages: tuple[str, ...],
    driver_cuda: str | None,
    indexes: tuple[str, ...],
    quick: bool,
    facts: Path | None,
    no_record: bool,
    verbose: bool,
    form: str,
    project: Path | None,
) -> int:
    """Say what wheels or images would do, without building or running them.

    SUBJECT is a cell (or a selection of cells), a wheel (a file, an address, or NAME==VERSION on the package index), or
    an image with a tag or a digest; without one, all cells are audited. Exits 1 if anything must fail.
    """
    wheels = [word for word in subjects if is_wheel(word) or is_requirement(word)]
    images += tuple(word for word in subjects if word not in wheels and _is_image(word))
    cells = [word for word in subjects if word not in {*wheels, *images}]
    files, plan = _project(project, needed=bool(cells) or not (wheels or images))
    matrix = plan.project.matrix if plan else None
    auditor = make_auditor(
        matrix.indexes if matrix else {},
        root=files.root if files else None,
        facts=facts,
        quick=quick,
        tell=progress(),
    )
    gpus = _targets(targets, matrix, driver_cuda)
    reports: list[AuditReport] = []
    tell = _teller(form, verbose=verbose)
    if wheels:
        if torch:
            wheels.append(f"torch=={torch}")
        installed = _base(base, packages, matrix, auditor)
        index = where_to_look(indexes)
        found = _audit_wheels(auditor, [*wheels, *others], gpus, python=python, base=installed, index=index)
        reports.append(tell(found))
    if cells or not (wheels or images):
        assert files is not None
        assert plan is not None
        reports += [tell(report) for report in _audit_cells(auditor, files, plan, cells, gpus, record=not no_record)]
        if not reports:
            raise NothingSelected("no cell could be audited", hint="make locks with `assay lock`")
    if images:
        from assay.cli.audit_image import audit_images  # noqa: PLC0415 - needs the engine's library

        reports += [
            tell(report)
            for report in audit_images(auditor, images, gpus or _all_targets(matrix), files, plan, record=not no_record)
        ]
    _show(reports, form)
    return 1 if any(report.verdict is Verdict.FAIL for report in reports) else 0


def _is_image(word: str) -> bool:
    """Tell whether a word can only be an image: selections of cells have neither slash nor colon."""
    return ("/" in word or ":" in word) and not set(word) & set("=<>!*?[]{}")


def _project(project: Path | None, *, needed: bool) -> tuple[ProjectFiles | None, Plan | None]:
    if project is None and not needed:
        try:
            find_root()
        except UsageError:
            return None, None
    files, plan = load(project)
    return files, plan


def _targets(names: Sequence[str], matrix: Matrix | None, driver_cuda: str | None) -> tuple[TargetGpu, ...]:
    found: list[TargetGpu] = []
    for name in names:
        if matrix is not None and name in matrix.targets:
            (gpu,) = gpu_targets(matrix, [name])
        else:
            try:
                capability = capability_of(name)
            except ValueError as error:
                raise UsageError(f"{name} is no GPU architecture", hint="write sm_120, or 12.0") from error
            gpu = TargetGpu(name=f"sm_{capability}", capability=capability)
        found.append(
            TargetGpu(
                name=gpu.name, capability=gpu.capability, driver_cuda=driver_cuda, shared_memory=gpu.shared_memory
            )
        )
    return tuple(found)


def _all_targets(matrix: Matrix | None) -> tuple[TargetGpu, ...]:
    return gpu_targets(matrix, matrix.targets) if matrix else ()


def _base(name: str | None, packages: Sequence[str], matrix: Matrix | None, auditor: Auditor) -> Base:
    if name is not None and matrix is not None and name in matrix.bases:
        return base_of(matrix.bases[name], name, packages, auditor.knowledge)
    sonames = auditor.knowledge.sonames
    brought = {soname for package in packages for soname in sonames.packages.get(package, ())}
    always = frozenset({*sonames.optional_base, *brought})
    if name is None:
        return Base(name="not given", sonames=always, packages=frozenset(packages), known=False)
    facts = sonames.bases.get(name) or auditor.knowledge.base(name)
    if facts is None:
        raise UsageError(f"nothing is known of the base {name!r}", hint=f"known: {', '.join(sonames.bases)}")
    return Base(
        name=name,
        glibc=facts.glibc,
        glibcxx=facts.glibcxx,
        cxxabi=facts.cxxabi,
        sonames=always,
        packages=frozenset(packages),
    )


def _audit_wheels(
    auditor: Auditor,
    words: Sequence[str],
    targets: Sequence[TargetGpu],
    *,
    python: str,
    base: Base,
    index: SimpleIndex,
) -> AuditReport:
    obtained: list[Obtained] = []
    for word in words:
        file = wheel_of(word, python, index)
        obtained.append(Obtained(facts=auditor.read(file), file=file))
    wheels = tuple(item.facts for item in obtained)
    brought = promised(wheels, auditor.knowledge)
    base = replace(base, sonames=base.sonames | brought)
    installation = Installation(wheels=wheels, python=python, base=base, complete=False)
    name = " + ".join(f"{wheel.name} {wheel.version}" for wheel in wheels)
    return auditor.installation(installation, obtained, targets, name=name)


def _audit_cells(
    auditor: Auditor,
    files: ProjectFiles,
    plan: Plan,
    words: Sequence[str],
    targets: Sequence[TargetGpu],
    *,
    record: bool,
) -> Iterator[AuditReport]:
    from assay.adapters.store import FileStore  # noqa: PLC0415 - only cells keep records

    store = FileStore(files.root / "build_logs")
    matrix = plan.project.matrix
    found: list[tuple[Cell, Lock]] = []
    for cell in plan.select(list(words)):
        if cell.kind == "external":
            console.say(f"{cell.id}: an image of others; audit it with --image {cell.reference}")
            continue
        lock = files.lock(cell)
        if lock is None:
            why = files.unresolved(cell)
            console.say(f"{cell.id}: not audited, it has no lock" + (f": {why.strip().splitlines()[0]}" if why else ""))
            continue
        if targets:
            cell = cell.model_copy(update={"targets": tuple(target.name for target in targets)})  # noqa: PLW2901
        found.append((cell, lock))
    ahead = auditor.read_ahead(lock for _, lock in found)
    for cell, lock in found:
        try:
            report = auditor.cell(cell, lock, matrix, targets=targets or None, ahead=ahead)
        except AssayError as error:
            console.warn(f"{cell.id}: not audited: {error}")
            continue
        if record:
            keep_record(store, report, run="audit", cell=cell, image_digest=None)
        yield report


def _teller(form: str, *, verbose: bool) -> Callable[[AuditReport], AuditReport]:
    """Return what tells people of each report as soon as it is there; machines get all of them at the end."""

    def tell(report: AuditReport) -> AuditReport:
        if form == "text":
            for line in text(report, verbose=verbose):
                console.data(line)
            console.flush()
        return report

    return tell


def _show(reports: Sequence[AuditReport], form: str) -> None:
    match form:
        case "json":
            documents = [report.model_dump(mode="json") for report in reports]
            console.json_data({"schema_version": 1, "reports": documents})
        case "sarif":
            console.json_data(sarif(reports))
        case "junit":
            console.data(junit(reports))
        case _:
            pass
