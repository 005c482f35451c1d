"""The build step against fakes: what is skipped, refused, built, stopped, and what is recorded of it."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from assay.adapters.docker.fake_builder import FakeBuilder
from assay.adapters.files.records import FileStore
from assay.audit.judgement import AuditJudgement
from assay.errors import EngineError, EngineMissing, RegistryError, UsageError
from assay.evidence.record import BuildRecord, BuildStatus
from assay.foundation.outcome import Verdict
from assay.foundation.platforms import Platform
from assay.matrix import loading as matrix
from assay.matrix import plan, render
from assay.matrix.cell import Cell
from assay.matrix.image_steps import PinnedWheel
from assay.matrix.lock import Lock, LockedCell, LockedWheel
from assay.matrix.model import Base, Expectation
from assay.pipeline.build import build
from assay.pipeline.build_jobs import (
    KEY_LABEL,
    BuildOptions,
    BuildPorts,
    DiskSpace,
    PreparedBuild,
    prepare,
    without_refusals,
)
from assay.pipeline.build_records import as_expected, exit_code
from assay.ports.builder import BuildEnd, BuildOutcome, BuildTask
from assay.ports.engine import ImageInfo
from assay.ports.layers import SourceArchive


class FakeImages:
    def __init__(self, labels: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.held = labels or {}
        self.asked = 0

    def labels(self, references: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        self.asked += 1
        return {reference: self.held[reference] for reference in references if reference in self.held}

    def image(self, reference: str) -> ImageInfo | None:
        self.asked += 1
        return None


class HeldImages(FakeImages):
    """Holds an image with the labels of its build once it was built."""

    def hold(self, cell: Cell, text: str) -> None:
        self.held = {cell.local_reference: {KEY_LABEL: render.content_key(text)}}

    def image(self, reference: str) -> ImageInfo | None:
        digest = "sha256:" + "e" * 64
        return ImageInfo(
            reference=reference, id=digest, digest=digest, tags=(reference,), repo_digests=(), labels={}, size_bytes=1,
            created="", architecture="amd64", layers=(), env={}, entrypoint=(), command=(), user="", workdir="",
        )  # fmt: skip


@pytest.fixture
def cells(matrix_text: str, image_text: str) -> Sequence[Cell]:
    return plan.make(matrix.load(matrix_text, {"serving": image_text})).cells


def lock_of(cell: Cell) -> Lock:
    return Lock(cell=cell.id, python="3.11", platform="x86_64-manylinux_2_36", requirements=(), base="slim", wheels=())


def dockerfile(cell: Cell, lock: Lock) -> str:
    return f"FROM {cell.base}\n# {cell.id}\n"


class World:
    """A flow with everything it needs."""

    def __init__(self, root: Path, project: matrix.Project) -> None:
        self.store = FileStore(root / "build_logs")
        self.project = project
        self.bases: list[str] = []

    def run(
        self,
        jobs: Sequence[LockedCell],
        *,
        builder: FakeBuilder | None = None,
        images: FakeImages | None = None,
        judge: Callable[[Cell, Lock, str], AuditJudgement | None] | None = None,
        judge_image: Callable[[Cell, Lock, str, str], AuditJudgement | None] | None = None,
        options: BuildOptions | None = None,
        space: DiskSpace | None = None,
    ) -> dict[str, BuildRecord]:
        def ensure(name: str, base: Base, platform: Platform, say: Callable[[str], None]) -> None:
            self.bases.append(name)

        ports = dataclasses.replace(
            plain_ports(self),
            ensure_base=ensure,
            builder=builder or FakeBuilder(),
            images=images or FakeImages(),
            judge=judge,
            judge_image=judge_image,
            space=lambda: space,
        )
        options = options or BuildOptions()
        return {record.cell: record for record in build(prepare(jobs, ports, force=options.force), ports, options)}


def plain_ports(world: World) -> BuildPorts:
    """Return ports whose builder and engine are fakes, for a matrix whose bases are there already."""
    return BuildPorts(
        bases=world.project.matrix.bases,
        ensure_base=lambda name, base, platform, say: None,
        render_cell=dockerfile,
        builder=FakeBuilder(),
        images=FakeImages(),
        store=world.store,
    )


@pytest.fixture
def world(tmp_path: Path, matrix_text: str, image_text: str) -> World:
    return World(tmp_path, matrix.load(matrix_text, {"serving": image_text}))


def jobs_of(cells: Sequence[Cell]) -> list[LockedCell]:
    return [LockedCell(cell=cell, lock=lock_of(cell)) for cell in cells]


def test_a_built_cell_leaves_log_script_and_record(world: World, cells: Sequence[Cell]) -> None:
    builder = FakeBuilder()
    records = world.run(jobs_of(cells[:1]), builder=builder)
    record = records[cells[0].id]
    folder = world.store.root / record.run / cells[0].id

    assert record.status is BuildStatus.BUILT
    assert builder.tasks[0].labels[KEY_LABEL] == render.content_key(dockerfile(cells[0], lock_of(cells[0])))
    assert (folder / "Dockerfile").read_text() == dockerfile(cells[0], lock_of(cells[0]))
    assert (folder / "repeat.sh").read_text().startswith("#!/bin/sh\n")
    assert (folder / "repeat.sh").stat().st_mode & 0o111
    assert record.log == f"{record.run}/{cells[0].id}/build.log"
    assert [record] == list(world.store.records())


def test_a_registrys_base_comes_from_the_sites_mirror_by_the_same_digest(world: World, cells: Sequence[Cell]) -> None:
    digest = "sha256:" + "c" * 64
    cell = cells[0].model_copy(update={"base": "devel"})
    jobs = [LockedCell(cell=cell, lock=lock_of(cell).model_copy(update={"base": "devel", "base_digest": digest}))]
    direct, mirrored = FakeBuilder(), FakeBuilder()
    world.run(jobs, builder=direct)
    world.run(jobs, builder=mirrored, options=BuildOptions(mirrors={"docker.io": "mirror.example:5000/hub"}))

    assert dict(direct.tasks[0].build_args) == {}
    assert dict(mirrored.tasks[0].build_args) == {"BASE": f"mirror.example:5000/hub/nvidia/cuda:13.0.2-devel@{digest}"}
    assert direct.tasks[0].labels == mirrored.tasks[0].labels


def test_a_base_of_packages_has_no_mirror(world: World, cells: Sequence[Cell]) -> None:
    builder = FakeBuilder()
    world.run(jobs_of(cells[:1]), builder=builder, options=BuildOptions(mirrors={"docker.io": "mirror.example"}))

    assert dict(builder.tasks[0].build_args) == {}


def test_a_base_is_made_once_for_all_cells(world: World, cells: Sequence[Cell]) -> None:
    world.run(jobs_of(cells))

    assert world.bases == ["slim"]


def test_existing_images_are_skipped_with_one_engine_request(world: World, cells: Sequence[Cell]) -> None:
    key = render.content_key(dockerfile(cells[0], lock_of(cells[0])))
    images = FakeImages({cells[0].local_reference: {KEY_LABEL: key}})
    builder = FakeBuilder()
    records = world.run(jobs_of(cells[:1]), images=images, builder=builder)

    assert records[cells[0].id].status is BuildStatus.CACHED
    assert (builder.tasks, images.asked) == ([], 1)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (None, "this cell has no image"),
        ({}, "the lock changed"),
        ({KEY_LABEL: "sha256:0", "dev.assay.lock": "SAME"}, "the recipe or the template changed"),
    ],
)
def test_a_stale_image_says_why(
    world: World, cells: Sequence[Cell], labels: dict[str, str] | None, reason: str
) -> None:
    from assay.matrix.lockfile import lock_digest

    known = (
        {} if labels is None else {k: lock_digest(lock_of(cells[0])) if v == "SAME" else v for k, v in labels.items()}
    )
    images = FakeImages({} if labels is None else {cells[0].local_reference: known})

    assert world.run(jobs_of(cells[:1]), images=images)[cells[0].id].reason == reason


def test_cell_with_audit_errors_is_refused_unless_forced(world: World, cells: Sequence[Cell]) -> None:
    def judge(cell: Cell, lock: Lock, run: str) -> AuditJudgement:
        return AuditJudgement(
            verdict=Verdict.FAIL, causes=("abi-libnuma-missing",), summary=("libnuma.so.1 is not there",)
        )

    refused = world.run(jobs_of(cells[:1]), judge=judge)[cells[0].id]
    forced = world.run(jobs_of(cells[:1]), judge=judge, options=BuildOptions(force=True))[cells[0].id]

    assert (refused.status, refused.cause) == (BuildStatus.REFUSED, "abi-libnuma-missing")
    assert refused.reason == "libnuma.so.1 is not there"
    assert forced.status is BuildStatus.BUILT


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("judgement", "status", "reason"),
    [
        (
            AuditJudgement(verdict=Verdict.FAIL, causes=("L9", "L3"), summary=("it lacks",)),
            BuildStatus.REFUSED,
            "lacks",
        ),
        (
            AuditJudgement(verdict=Verdict.WARN, causes=(), summary=()),
            BuildStatus.FAILED,
            "was expected to refuse.*it said warn",
        ),
        (None, BuildStatus.FAILED, "was expected to refuse.*could not read"),
    ],
)
def test_a_cell_that_is_there_to_be_refused_is_never_built(
    world: World,
    cells: Sequence[Cell],
    *,
    judgement: AuditJudgement | None,
    status: BuildStatus,
    reason: str,
    force: bool,
) -> None:
    """Seen: three such cells, built although nothing could be learnt of them, filled a disk."""
    control = cells[0].model_copy(update={"kind": "control", "expect": Expectation(stage="audit", cause="L3")})
    builder = FakeBuilder()

    record = world.run(
        jobs_of([control]), builder=builder, judge=lambda *_: judgement, options=BuildOptions(force=force)
    )[control.id]

    assert (record.status, []) == (status, builder.tasks)
    assert re.search(reason, record.reason)
    assert (record.cause == "L3") == (status is BuildStatus.REFUSED)


@pytest.mark.parametrize(
    ("stage", "status", "cause", "as_it_must"),
    [
        ("audit", BuildStatus.REFUSED, "here", True),
        ("audit", BuildStatus.REFUSED, "elsewhere", False),
        ("audit", BuildStatus.BUILT, None, False),
        ("build", BuildStatus.FAILED, "here", True),
        ("build", BuildStatus.BUILT, None, False),
        ("probe", BuildStatus.CACHED, None, True),
        ("probe", BuildStatus.FAILED, "here", False),
    ],
)
def test_where_a_control_fails_counts(
    world: World, cells: Sequence[Cell], *, stage: str, status: BuildStatus, cause: str | None, as_it_must: bool
) -> None:
    expect = Expectation.model_validate({"stage": stage, "cause": "here"})
    control = cells[0].model_copy(update={"kind": "control", "expect": expect})
    record = world.run(jobs_of([control]))[control.id].model_copy(update={"status": status, "cause": cause})

    assert as_it_must == as_expected(control, record)


def test_without_an_audit_there_is_nothing_to_refuse(cells: Sequence[Cell]) -> None:
    control = cells[0].model_copy(update={"kind": "control", "expect": Expectation(stage="audit", cause="L3")})
    later = cells[0].model_copy(update={"kind": "control", "expect": Expectation(stage="build", cause="L3")})

    assert [cells[1], later] == without_refusals([cells[1], control, later])
    assert [] == without_refusals([])
    with pytest.raises(UsageError, match="controls that the audit must refuse"):
        without_refusals([control])


def test_image_that_cannot_be_inspected_is_built(world: World, cells: Sequence[Cell]) -> None:
    def judge_image(cell: Cell, lock: Lock, reference: str, run: str) -> AuditJudgement:
        raise EngineError("it has no Python packages")

    record = world.run(jobs_of(cells[:1]), judge_image=judge_image)[cells[0].id]

    assert record.status is BuildStatus.BUILT
    assert "not audited: it has no Python packages" in record.reason


def test_an_image_in_which_something_replaced_the_lock_has_failed(world: World, cells: Sequence[Cell]) -> None:
    def judge_image(cell: Cell, lock: Lock, reference: str, run: str) -> AuditJudgement:
        return AuditJudgement(
            verdict=Verdict.FAIL, causes=("R5",), summary=("torch 2.9 is installed, the lock has 2.8",)
        )

    record = world.run(jobs_of(cells[:1]), judge_image=judge_image)[cells[0].id]

    assert (record.status, record.cause) == (BuildStatus.FAILED, "R5")
    assert "torch 2.9 is installed" in record.reason


def test_an_image_that_a_failed_build_left_is_audited(world: World, cells: Sequence[Cell]) -> None:
    """Seen: "context deadline exceeded" after an image was unpacked, and the next run said "cached"."""
    cell = cells[0]
    asked: list[str] = []

    def judge_image(cell: Cell, lock: Lock, reference: str, run: str) -> AuditJudgement:
        asked.append(reference)
        return AuditJudgement(verdict=Verdict.OK, causes=(), summary=())

    images = HeldImages()
    cut_off = FakeBuilder({cell.local_reference: BuildOutcome(end=BuildEnd.FAILED, reason="deadline exceeded")})
    first = world.run(jobs_of([cell]), images=images, builder=cut_off, judge_image=judge_image)[cell.id]
    images.hold(cell, dockerfile(cell, lock_of(cell)))
    second, third = (world.run(jobs_of([cell]), images=images, judge_image=judge_image)[cell.id] for _ in range(2))

    assert [BuildStatus.FAILED, BuildStatus.BUILT, BuildStatus.CACHED] == [first.status, second.status, third.status]
    assert [cell.local_reference] == asked


def test_an_image_that_its_audit_refused_does_not_become_good_by_being_there(
    world: World, cells: Sequence[Cell]
) -> None:
    """Seen: the second run said "cached" of an image that the first had refused, and ended with 0."""
    cell = cells[0]
    verdicts = [Verdict.FAIL, Verdict.FAIL, Verdict.OK]
    asked: list[str] = []

    def judge_image(cell: Cell, lock: Lock, reference: str, run: str) -> AuditJudgement:
        asked.append(reference)
        return AuditJudgement(verdict=verdicts[len(asked) - 1], causes=("R5",), summary=("R5: replaced",))

    images = HeldImages()
    statuses = []
    for _ in range(4):
        record = world.run(jobs_of([cell]), images=images, judge_image=judge_image)[cell.id]
        statuses.append(record.status)
        images.hold(cell, dockerfile(cell, lock_of(cell)))

    assert [BuildStatus.FAILED, BuildStatus.FAILED, BuildStatus.BUILT, BuildStatus.CACHED] == statuses
    assert 3 == len(asked)
    without = world.run(jobs_of([cell]), images=images)[cell.id]
    assert BuildStatus.CACHED is without.status


def test_a_cell_without_a_lock_keeps_the_resolvers_reason(world: World, cells: Sequence[Cell]) -> None:
    records = world.run([LockedCell(cell=cells[0], lock=None, unresolved="conflict\n\nBecause a and b")])

    assert records[cells[0].id].status is BuildStatus.REFUSED
    assert "Because a and b" in records[cells[0].id].reason


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (BuildEnd.FAILED, BuildStatus.FAILED, 1),
        (BuildEnd.TIMED_OUT, BuildStatus.TIMED_OUT, 1),
        (BuildEnd.ENGINE, BuildStatus.ENGINE_FAILED, 4),
        (BuildEnd.REGISTRY, BuildStatus.REGISTRY_FAILED, 5),
        (BuildEnd.BUILT, BuildStatus.BUILT, 0),
    ],
)
def test_every_end_is_a_record_and_the_others_continue(
    world: World, cells: Sequence[Cell], end: BuildEnd, status: BuildStatus, code: int
) -> None:
    builder = FakeBuilder({cells[0].local_reference: BuildOutcome(end=end, reason="why")})
    records = world.run(jobs_of(cells[:2]), builder=builder)

    assert records[cells[0].id].status is status
    assert records[cells[1].id].status is BuildStatus.BUILT
    assert exit_code(cells[:2], records) == code
    assert {record.cell for record in world.store.records(kind="build")} == set(records)


def test_a_run_leaves_how_every_cell_ended(world: World, cells: Sequence[Cell]) -> None:
    key = render.content_key(dockerfile(cells[0], lock_of(cells[0])))
    assert world.store.last_run() is None
    world.run(jobs_of(cells[:2]), images=FakeImages({cells[0].local_reference: {KEY_LABEL: key}}))
    last = world.store.last_run()

    assert last is not None
    assert {cells[0].id: BuildStatus.CACHED, cells[1].id: BuildStatus.BUILT} == last.cells
    assert (world.store.root / last.run / "run.json").is_file()


def test_fail_fast_leaves_the_rest_aborted(world: World, cells: Sequence[Cell]) -> None:
    builder = FakeBuilder({cells[0].local_reference: BuildOutcome(end=BuildEnd.FAILED, reason="why")})
    records = world.run(jobs_of(cells), builder=builder, options=BuildOptions(jobs=1, fail_fast=True))

    assert records[cells[0].id].status is BuildStatus.FAILED
    assert records[cells[2].id].status is BuildStatus.ABORTED


def test_fail_fast_continues_after_a_control_failed_as_expected(world: World, cells: Sequence[Cell]) -> None:
    control = cells[0].model_copy(update={"kind": "control", "expect": Expectation(stage="audit", cause="L3")})

    def judge(cell: Cell, lock: Lock, run: str) -> AuditJudgement:
        return AuditJudgement(verdict=Verdict.FAIL if cell is control else Verdict.OK, causes=("L3",))

    options = BuildOptions(jobs=1, fail_fast=True)
    records = world.run(jobs_of([control, cells[1]]), judge=judge, options=options)

    assert records[control.id].status is BuildStatus.REFUSED
    assert records[cells[1].id].status is BuildStatus.BUILT


def test_a_build_over_its_time_is_stopped_and_has_timed_out(world: World, cells: Sequence[Cell]) -> None:
    class Endless(FakeBuilder):
        def build(self, task: BuildTask) -> BuildOutcome:
            assert task.stop is not None
            return BuildOutcome(end=BuildEnd.STOPPED if task.stop.wait(20) else BuildEnd.BUILT)

    record = world.run(jobs_of(cells[:1]), builder=Endless(), options=BuildOptions(timeout=0.05))[cells[0].id]

    assert record.status is BuildStatus.TIMED_OUT
    assert record.reason == "still building after 0.05 s"


def test_a_build_for_which_the_disk_has_no_room_is_refused_and_the_others_continue(
    world: World, cells: Sequence[Cell]
) -> None:
    def locked(cell: Cell, size: int) -> LockedCell:
        wheel = LockedWheel(name="a", version="1", filename="a-1-py3-none-any.whl", sha256="0" * 64, size=size)
        return LockedCell(cell=cell, lock=lock_of(cell).model_copy(update={"wheels": (wheel,)}))

    jobs = [locked(cells[0], 3 * 10**9), locked(cells[1], 10**9)]
    records = world.run(jobs, space=DiskSpace(folder="/images", free=2 * 10**9))

    assert records[cells[0].id].status is BuildStatus.ENGINE_FAILED
    assert "only 2.0 GB free in /images" in records[cells[0].id].reason
    assert "docker image prune" in records[cells[0].id].reason
    assert records[cells[1].id].status is BuildStatus.BUILT


def test_an_engine_that_is_gone_is_recorded_and_costs_nothing_else(world: World, cells: Sequence[Cell]) -> None:
    builder = FakeBuilder({cells[0].local_reference: EngineMissing("no engine")})
    records = world.run(jobs_of(cells[:2]), builder=builder)

    assert records[cells[0].id].status is BuildStatus.ENGINE_FAILED
    assert records[cells[1].id].status is BuildStatus.BUILT


def test_a_registry_that_fails_before_the_build_is_not_a_failure_of_the_cell(
    world: World, cells: Sequence[Cell]
) -> None:
    builder = FakeBuilder({cells[0].local_reference: RegistryError("no answer")})
    records = world.run(jobs_of(cells[:2]), builder=builder)

    assert records[cells[0].id].status is BuildStatus.REGISTRY_FAILED
    assert exit_code(cells[:2], records) == 5


def test_a_cell_another_run_works_on_is_left_to_it(world: World, cells: Sequence[Cell]) -> None:
    with FileStore(world.store.root).claim(cells[0].id) as mine:
        records = world.run(jobs_of(cells[:1]))

    assert mine
    assert records[cells[0].id].status is BuildStatus.ABORTED
    assert "another run" in records[cells[0].id].reason


def test_ctrl_c_stops_the_builds_and_comes_out(world: World, cells: Sequence[Cell]) -> None:
    class Interrupting(FakeBuilder):
        def build(self, task: BuildTask) -> BuildOutcome:
            if task.tags[0] == cells[0].local_reference:
                return BuildOutcome(end=BuildEnd.BUILT)
            assert task.stop is not None
            stopped = task.stop.wait(20)
            return BuildOutcome(end=BuildEnd.STOPPED if stopped else BuildEnd.BUILT)

    ports = dataclasses.replace(plain_ports(world), builder=Interrupting())
    prepared = prepare(jobs_of(cells[:2]), ports)

    def go() -> None:
        for _ in build(prepared, ports, BuildOptions(jobs=2)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go()
    statuses = {
        record.cell: record.status for record in world.store.records(kind="build") if isinstance(record, BuildRecord)
    }
    assert statuses == {cells[0].id: BuildStatus.BUILT, cells[1].id: BuildStatus.ABORTED}


def test_prepare_lists_the_remaining_work(world: World, cells: Sequence[Cell]) -> None:
    ports = plain_ports(world)
    prepared = prepare([LockedCell(cell=cells[0], lock=lock_of(cells[0])), LockedCell(cell=cells[1], lock=None)], ports)

    assert isinstance(prepared[0], PreparedBuild)
    assert prepared[0].stale == "this cell has no image"
    assert isinstance(prepared[1], LockedCell)


@pytest.mark.parametrize("assembles", [True, False])
def test_what_an_assembled_image_needs_besides_wheels_is_begun_before_their_audit(
    world: World, cells: Sequence[Cell], assembles: bool
) -> None:
    class Assembles:
        def obstacle(self, dockerfile: str) -> str:
            return "" if assembles else "only a build can run it"

        def digest(self, dockerfile: str, labels: Mapping[str, str]) -> str | None:
            return None

        def begin(self, dockerfile: str) -> None:
            order.append(dockerfile)

    order: list[str] = []

    def judge(cell: Cell, lock: Lock, run: str) -> None:
        order.append("audit")

    ports = dataclasses.replace(plain_ports(world), assembly=Assembles(), judge=judge)
    list(build(prepare(jobs_of(cells[:1]), ports), ports, BuildOptions()))

    assert order == [dockerfile(cells[0], lock_of(cells[0])), "audit"] if assembles else ["audit"]


def test_records_are_json_that_reads_back(world: World, cells: Sequence[Cell]) -> None:
    world.run(jobs_of(cells[:1]))
    path = next((world.store.root / "records").glob("*.json"))

    assert json.loads(path.read_text())["kind"] == "build"


def pool_ports(world: World, builder: FakeBuilder, ready: Callable[[Sequence[str]], None]) -> BuildPorts:
    def shared(cell: Cell, lock: Lock) -> str:
        return f"FROM {cell.base} AS below\nFROM below AS image\n# {cell.id}\n"

    return BuildPorts(
        bases=world.project.matrix.bases,
        ensure_base=lambda name, base, platform, say: f"registry.example/base-{name}@sha256:1",
        render_cell=shared,
        builder=builder,
        images=FakeImages(),
        store=world.store,
        ready=ready,
    )


def test_builders_of_a_pool_take_the_base_from_the_registry_and_give_each_try_its_time(
    world: World, cells: Sequence[Cell]
) -> None:
    builder, told = FakeBuilder(), list[str]()
    builder.ends[cells[0].local_reference] = BuildOutcome(end=BuildEnd.ENGINE, reason="x", builder="tcp://b1")
    ports = pool_ports(world, builder, told.extend)
    options = BuildOptions(jobs=1, spread=2, timeout=77.0)
    records = {record.cell: record for record in build(prepare(jobs_of(cells[:2]), ports), ports, options)}

    assert sorted(task.dockerfile for task in builder.tasks) == sorted(told)
    assert [77.0, 77.0] == [task.timeout for task in builder.tasks]
    assert [{"BASE": "registry.example/base-slim@sha256:1"}] * 2 == [dict(task.build_args) for task in builder.tasks]
    assert ("tcp://b1", BuildStatus.ENGINE_FAILED) == (records[cells[0].id].builder, records[cells[0].id].status)


def test_assembled_cells_are_made_here_while_all_builders_are_busy(world: World, cells: Sequence[Cell]) -> None:
    here, last = cells[-1], threading.Event()

    class Slow(FakeBuilder):
        def build(self, task: BuildTask) -> BuildOutcome:
            if task.tags[0] == here.local_reference:
                last.set()
            else:
                assert last.wait(20), "the cell that is assembled waits for a builder of the pool"
            return super().build(task)

    class Obstacles:
        def obstacle(self, dockerfile: str) -> str:
            return "" if here.id in dockerfile else "only a build can make it"

        def digest(self, dockerfile: str, labels: Mapping[str, str]) -> str | None:
            return None

        def begin(self, dockerfile: str) -> None: ...

    builder = Slow()
    ports = dataclasses.replace(pool_ports(world, builder, lambda _: None), assembly=Obstacles())
    records = list(build(prepare(jobs_of(cells), ports), ports, BuildOptions(jobs=1, spread=1)))

    assert {BuildStatus.BUILT} == {record.status for record in records}
    assert len(cells) == len(records) > 2
    key = builder.tasks[0].labels[KEY_LABEL].removeprefix("sha256:")
    assert builder.tasks[0].tags[1].endswith(f":{key}"), "the tag by which it is published"


@pytest.mark.parametrize("builds", [True, False])
def test_a_pool_builds_an_image_with_a_source_archive_on_the_base_that_was_pushed(
    world: World, cells: Sequence[Cell], builds: bool
) -> None:
    class Meets(FakeBuilder):
        def build(self, task: BuildTask) -> BuildOutcome:
            if not self.tasks:
                self.tasks.append(task)
                wheel = PinnedWheel(name="old", version="1.0", sha256="5" * 64)
                raise SourceArchive("old-1.0.tar.gz is not a wheel", wheel=wheel, indexes=())
            return super().build(task)

    class Learns:
        def obstacle(self, dockerfile: str) -> str:
            return "old-1.0.tar.gz is not a wheel" if builder.tasks and builds else ""

        def digest(self, dockerfile: str, labels: Mapping[str, str]) -> str | None:
            return None

        def begin(self, dockerfile: str) -> None: ...

    builder, told = Meets(), list[str]()
    ports = dataclasses.replace(pool_ports(world, builder, told.extend), assembly=Learns())
    (record,) = build(prepare(jobs_of(cells[:1]), ports), ports, BuildOptions(jobs=1, spread=1))
    bases = [dict(task.build_args) for task in builder.tasks]

    assert (BuildStatus.BUILT if builds else BuildStatus.FAILED) is record.status
    assert builds == (told == [builder.tasks[0].dockerfile])
    assert builds or record.reason.startswith("old-1.0.tar.gz is not a wheel")
    assert [{}, {"BASE": "registry.example/base-slim@sha256:1"}][: 1 + builds] == bases


def test_a_pool_that_does_not_answer_ends_the_run_before_anything_is_recorded(
    world: World, cells: Sequence[Cell]
) -> None:
    def silent(_: Sequence[str]) -> None:
        raise EngineMissing("no builder of farm answers")

    builder = FakeBuilder()
    ports = pool_ports(world, builder, silent)
    with pytest.raises(EngineMissing, match="no builder of farm answers"):
        list(build(prepare(jobs_of(cells[:2]), ports), ports, BuildOptions(spread=2)))
    assert ([], []) == (builder.tasks, list(world.store.records()))
