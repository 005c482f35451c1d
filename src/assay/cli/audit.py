"""`assay audit`: what the wheels or an image show before anything is built or run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from assay.cli import console
from assay.cli.asking import Asker
from assay.cli.audit_wheels import WheelQuestion, WheelsAnswer, answer_grid, answer_one, questions, read_suffix
from assay.cli.common import format_option, load, project_option
from assay.cli.index_composition import where_to_look
from assay.cli.targets import PLATFORM, comma_parts, fitting_gpus, gpu_of, gpus_of, local_gpus, platforms_told
from assay.cli.wheels import base_named, index_option
from assay.errors import NothingSelected, UsageError
from assay.foundation.outcome import Verdict

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.audit.context import TargetGpu
    from assay.audit.document import AuditDocument
    from assay.audit.findings import AuditReport
    from assay.audit.grid import Grid
    from assay.foundation.platforms import Platform
    from assay.matrix.cards import Named
    from assay.matrix.cell import Cell
    from assay.matrix.lock import LockedCell
    from assay.matrix.model import Matrix
    from assay.matrix.plan import Plan
    from assay.pipeline.audit import Auditor
    from assay.pipeline.audit_farm import AuditFarm

__all__ = ["command"]

_OLDEST_TORCH: Final = "2.7"
"""The first with code for Blackwell cards."""
_GRIDS: Final = ("markdown", "html", "badge")
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_PYTHON: Final = re.compile(r"3\.\d{1,2}")


def _python(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None or _PYTHON.fullmatch(value):
        return value
    digits = value.lower().removeprefix("cp").removeprefix("py").removeprefix("python")
    form = f"3.{digits[1:]}" if re.fullmatch(r"3\d{1,2}", digits) else ".".join(digits.split(".")[:2])
    raise UsageError(
        f"--python {value} is not a release of Python", hint=f"write {form if _PYTHON.fullmatch(form) else '3.12'}"
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subjects", nargs=-1, metavar="[SUBJECT]...")
@click.option("--image", "images", multiple=True, metavar="REF", help="Image in the local engine; it is not started.")
@click.option(
    "--torch",
    "torches",
    multiple=True,
    metavar="VERSION,...",
    help="Release of torch that the wheels are loaded with; several give a grid.  [default: the one they require]",
)
@click.option("--all-torch", is_flag=True, help="Grid over all releases of torch that have a wheel, newest first.")
@click.option("--since", metavar="VERSION", help="Oldest torch of --all-torch.  [default: 2.7]")
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="NAME==VERSION",
    help="Another package to install with the wheels.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="GPU,...",
    help='GPUs to check for: "RTX 5090", "DGX Spark", H200, sm_120; several give a grid.  '
    "[default: the cell's; for wheels, this machine's]",
)
@click.option(
    "--python",
    callback=_python,
    metavar="3.NN",
    help="Python that the wheels run on.  [default: the wheel's, else 3.12]",
)
@click.option(
    "--platform",
    "machine",
    type=PLATFORM,
    metavar="PLATFORM",
    help="linux/arm64, arm64, ...; selects cells, too.  [default: the GPU's, else the wheel's, else linux/amd64]",
)
@click.option(
    "--base", help="Base that the wheels are installed on: a base in matrix.yaml, or debian12, ubuntu24.04, ..."
)
@click.option("--package", "packages", multiple=True, help="Distribution package that the base contains.")
@click.option(
    "--driver-cuda", metavar="VERSION", help="CUDA version that the driver supports; decides whether PTX can run."
)
@index_option
@click.option("--quick", is_flag=True, help="Read only symbols, a few hundred kilobytes per wheel.")
@click.option("--full", is_flag=True, help="Read whole wheels; finds statically linked GPU code.")
@click.option("--facts", type=click.Path(path_type=Path, file_okay=False), help="Folder of cached wheel facts.")
@click.option("--on", "pool", metavar="POOL", help="Audit cells on a pool of pools.yaml (slurm or local).")
@click.option("--no-record", is_flag=True, help="Write no record to build_logs/.")
@click.option(
    "--write",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the grid of wheels to FILE (.md, .html, .svg, .json or .txt).",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Also show notes, the GPU code of each library, and each prediction."
)
@format_option("text", "json", "sarif", "junit", *_GRIDS)
@project_option
def command(subjects: tuple[str, ...], images: tuple[str, ...], **given: Any) -> int:
    """Check wheels, locked cells or images for incompatibilities, without running them.

    SUBJECT is a wheel (a file, a URL, or NAME==VERSION on the package index), a selection of cells, or an image with a
    tag or a digest. Without SUBJECT, all cells are audited. The options --torch, --with, --python, --base, --package
    and --write are for wheels only.

    Exit code 0: no error found. 1: errors found. 2: no such wheel, version, platform or GPU.
    """
    from assay.cli.audit_composition import make_auditor, progress
    from assay.pipeline.bases import gpu_targets
    from assay.pipeline.wheel_choice import is_requirement, is_wheel, refuse_other

    wheels = [word for word in subjects if is_wheel(word) or is_requirement(word)]
    for word in subjects:
        if word not in wheels:
            refuse_other(word, is_file=Path(word).is_file())
    images += tuple(word for word in subjects if word not in wheels and _is_image(word))
    cells = [word for word in subjects if word not in {*wheels, *images}]
    if given["machine"] and not (wheels or images):
        cells.append(f"platform={given['machine']}")
    form = given["form"]
    if (form in _GRIDS or given["files"]) and (cells or images or not wheels):
        raise UsageError("only wheels can have a grid", hint="name a wheel, or use --format text, json, sarif or junit")
    if given["pool"] and (wheels or images):
        raise UsageError("--on is for cells", hint="audit wheels and images on this machine, without --on")
    files, plan = _project(given["project"], cells, needed=bool(cells) or not (wheels or images))
    matrix = plan.project.matrix if plan else None
    make = partial(
        make_auditor,
        matrix.indexes if matrix else {},
        root=files.root if files else None,
        facts=given["facts"],
        quick=given["quick"],
    )
    auditor = make(tell=progress())
    gpus = gpus_of(given["targets"], files.root if files else None, matrix, given["driver_cuda"])
    out = _Out(form, verbose=given["verbose"], files=given["files"])
    if wheels:
        gpus_here = gpus or tuple((one, gpu_of(one, None, given["driver_cuda"])) for one in local_gpus())
        _audit_wheels(auditor, wheels, gpus_here, matrix, given=given, out=out)
    targets = tuple(gpu for _, gpu in gpus)
    if cells or not (wheels or images):
        assert files is not None
        assert plan is not None
        selected = _selected(plan, cells)
        farm = _farm(files, given, make) if given["pool"] else None
        for report in _audit_cells(auditor, files, plan, selected, targets, given=given, make=make, farm=farm):
            out.report(report, many=len(selected) > 1)
        if not out.reports:
            raise NothingSelected(
                "no cell could be audited", hint="make locks with `assay lock`, or name cells for the GPU's platform"
            )
    if images:
        from assay.cli.audit_image import audit_images

        everywhere = targets or (gpu_targets(matrix, matrix.targets) if matrix else ())
        for report in audit_images(auditor, images, everywhere, files, plan, record=not given["no_record"]):
            out.report(report)
    return out.end()


def _is_image(word: str) -> bool:
    """Tell whether a word can only be an image: selections of cells have neither slash nor colon."""
    return ("/" in word or ":" in word) and not set(word) & set("=<>!*?[]{}")


def _project(project: Path | None, cells: Sequence[str], *, needed: bool) -> tuple[ProjectFiles | None, Plan | None]:
    from assay.adapters.files.project import find_root

    if project is None:
        try:
            find_root()
        except UsageError as error:
            if not needed:
                return None, None
            if cells:
                message = f"{cells[0]!r} is not a wheel, and there is no project here with cells"
                raise UsageError(message, hint=_as_wheel(cells[0])) from error
            raise
    return load(project)


def _as_wheel(word: str) -> str:
    return f"a wheel is named with its version: {word}==VERSION"


def _all_torches(places: Sequence[str], oldest: str) -> Iterator[str]:
    """Yield the final releases of torch on the index, newest first."""
    from packaging.requirements import InvalidRequirement, Requirement

    from assay.pipeline.releases import releases

    try:
        wanted = Requirement(f"torch>={oldest}")
    except InvalidRequirement as error:
        raise UsageError(f"--since {oldest} is not a version", hint="write 2.11") from error
    return (str(release.version) for release in releases(where_to_look(places), wanted) if release.wheels)


def _audit_wheels(
    auditor: Auditor,
    words: Sequence[str],
    gpus: tuple[tuple[Named, TargetGpu], ...],
    matrix: Matrix | None,
    *,
    given: dict[str, Any],
    out: _Out,
) -> None:
    from assay.foundation.platforms import Platform

    torches = dict.fromkeys(comma_parts(given["torches"]))
    if given["all_torch"]:
        torches |= dict.fromkeys(_all_torches(given["indexes"], given["since"] or _OLDEST_TORCH))
    elif given["since"]:
        raise UsageError("--since goes with --all-torch")
    asked = WheelQuestion(
        torches=tuple(torches),
        others=given["others"],
        python=given["python"],
        machine=Platform.of(given["machine"]).machine if given["machine"] else None,
        gpus=gpus,
    )
    base = base_named(given["base"], given["packages"], matrix, auditor)
    asker = Asker(auditor, where_to_look(given["indexes"]), base, whole=given["full"])
    parts = questions(words)
    if len(torches) < 2 and len(gpus) < 2 and len(parts) == 1 and not out.only_grids:
        out.report(answer_one(asker, parts[0], asked))
        return
    for part in parts:
        answer = answer_grid(asker, part, asked, words)
        if answer is not None:
            out.answer(answer)
    if not out.grids:
        raise UsageError("no wheel is for the platform of these GPUs", hint="name other GPUs, or --platform")


def _selected(plan: Plan, words: Sequence[str]) -> Sequence[Cell]:
    """Return the cells that words select; a name that is none of a cell may have been meant as a wheel's."""
    try:
        return plan.select(list(words))
    except UsageError as error:
        name = next((word for word in words if repr(word) in error.message and _NAME.fullmatch(word)), None)
        if name is None or "did you mean" in error.message:
            raise
        raise UsageError(error.message, hint=f"{_as_wheel(name)}; {error.hint}") from error


def _farm(files: ProjectFiles, given: dict[str, Any], make: Callable[..., Auditor]) -> AuditFarm:
    from assay.cli.pool_composition import audit_farm

    return audit_farm(files, given["pool"], facts=given["facts"], quick=given["quick"], make=make)


def _audit_cells(
    auditor: Auditor,
    files: ProjectFiles,
    plan: Plan,
    selected: Sequence[Cell],
    targets: Sequence[TargetGpu],
    *,
    given: dict[str, Any],
    make: Callable[[], Auditor],
    farm: AuditFarm | None,
) -> Iterator[AuditReport]:
    from assay.cli.composition import store_of
    from assay.pipeline.audit_cells import AuditPorts, audit
    from assay.pipeline.cell_files import locked_cells

    cells = locked_cells(files, selected)
    for item in cells:
        if item.cell.kind == "external":
            console.say(f"{item.cell.id}: a published image; audit it with --image {item.cell.reference}")
        elif item.lock is None:
            why = f": {item.unresolved.strip().splitlines()[0]}" if item.unresolved else ""
            console.say(f"{item.cell.id}: not audited, it has no lock{why}")
    ports = AuditPorts(
        auditor=auditor,
        make=make,
        elsewhere=farm,
        store=None if given["no_record"] else store_of(files),
        failed=lambda cell, error: console.warn(f"{cell.id}: not audited: {error}"),
    )
    for platform, mine in _by_platform(cells).items():
        fitting = fitting_gpus(targets, platform)
        if fitting or not targets:
            yield from audit(mine, plan.project.matrix, ports, targets=fitting)
            continue
        names = platforms_told(targets)
        for item in mine:
            others = [
                one.id for one in plan.cells if one.id.startswith(f"{item.cell.id}-") and one.platform != platform
            ]
            also = f"; the same for another platform: {others[0]}" if others else ""
            console.say(f"{item.cell.id}: not audited: {names}, and this cell is for {platform}{also}")


def _by_platform(cells: Iterable[LockedCell]) -> dict[Platform, list[LockedCell]]:
    found: dict[Platform, list[LockedCell]] = {}
    for item in cells:
        found.setdefault(item.cell.platform, []).append(item)
    return found


class _Out:
    """Tells people of each answer as soon as it is there; machines get all of them at the end."""

    def __init__(self, form: str, *, verbose: bool, files: Sequence[Path]) -> None:
        self._form = form
        self._verbose = verbose
        self._files = {path: read_suffix(path) for path in files}
        self.reports: list[AuditReport] = []
        self.grids: list[Grid] = []

    @property
    def only_grids(self) -> bool:
        """Whether what is asked for is made of grids alone."""
        return self._form in _GRIDS or bool(self._files)

    def report(self, report: AuditReport, *, many: bool = False) -> None:
        """Tell of one report, briefly where there are many."""
        from assay.audit.formats import text

        self.reports.append(report)
        if self._form == "text":
            brief = many and not self._verbose
            self._say(text(report, verbose=self._verbose, brief=brief, width=console.width()))

    def answer(self, answer: WheelsAnswer) -> None:
        """Tell of a grid, and of its reports where all is asked for."""
        from assay.audit.formats import text

        self.grids.append(answer.grid)
        self.reports += answer.reports
        if self._form == "text":
            self._say(_grids([answer.grid], "text"))
            for report in answer.reports if self._verbose else ():
                self._say(text(report, verbose=True, width=console.width()))

    @staticmethod
    def _say(lines: Iterator[str]) -> None:
        for line in lines:
            console.data(line)
        console.flush()

    def end(self) -> int:
        """Write what machines read; return the exit code."""
        from assay.audit.formats import junit, sarif

        match self._form:
            case "json":
                console.document(self._document())
            case "sarif":
                console.json_data(sarif(self.reports))
            case "junit":
                console.data(junit(self.reports))
            case "text":
                pass
            case form:
                self._say(_grids(self.grids, form))
        for path, form in self._files.items():
            lines = [_json(self._document().model_dump(mode="json"))] if form == "json" else _grids(self.grids, form)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        codes = {grid.exit_code for grid in self.grids}
        codes |= {1 for report in self.reports if report.verdict is Verdict.FAIL}
        return 1 if 1 in codes else max(codes, default=0)

    def _document(self) -> AuditDocument:
        from assay.audit.document import AuditDocument

        return AuditDocument(grids=tuple(self.grids), reports=tuple(self.reports))


def _grids(grids: Sequence[Grid], form: str) -> Iterator[str]:
    from assay.pages import grid as grid_formats

    match form:
        case "html":
            yield grid_formats.grid_html(grids)
        case "badge":
            yield grid_formats.grid_badge(grids)
        case "markdown":
            for grid in grids:
                yield from (*grid_formats.grid_markdown(grid), "")
        case _:
            for grid in grids:
                yield from (*grid_formats.grid_text(grid, shutil.get_terminal_size((100, 24)).columns), "")


def _json(value: object) -> str:
    import json

    return json.dumps(value, indent=1, ensure_ascii=False)
