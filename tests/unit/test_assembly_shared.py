"""Images that are assembled at once: a layer that two need is made by one, whatever becomes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from assembly_bench import BASE, DEMO, OTHER, Bases, Bench, Wheels, dockerfile, pinned

from assay.adapters.layers.archive import WheelArchive
from assay.adapters.layers.store import FolderStore
from assay.errors import Interrupted, PackageIndexError, ToolError
from assay.matrix.image_steps import ImageSteps, PinnedWheel
from assay.pipeline.assembly.assembled import Assembled
from assay.pipeline.assembly.builder import AssemblingBuilder
from assay.pipeline.assembly.destinations import InFolder
from assay.ports.builder import BuildEnd, BuildTask
from assay.ports.layers import AssemblyBase

BOTH = dockerfile(("wheel-demo", [pinned("demo", "1.0", DEMO)]), ("wheel-other", [pinned("other", "2.0", OTHER)]))
DEMO_ONLY = dockerfile(("wheel-demo", [pinned("demo", "1.0", DEMO)]))


class Held(Wheels):
    """Wheels whose `demo` comes when a test says so, or never."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked, self.go = threading.Event(), threading.Event()
        self.broken = False

    @contextmanager
    def open(self, wheel: PinnedWheel, indexes: Sequence[str], check: Callable[[], None]) -> Iterator[WheelArchive]:
        if wheel.name == "demo" and not self.asked.is_set():
            self.asked.set()
            assert self.go.wait(20)
            if self.broken:
                raise PackageIndexError("the connection broke")
        with super().open(wheel, indexes, check) as archive:
            yield archive


@contextmanager
def one_making(bench: Bench) -> Iterator[tuple[Held, Future[Assembled]]]:
    """Assemble an image whose `demo` does not come until `go` is set."""
    wheels = Held(bench.store.folder.parent)
    bench.wheels = wheels
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(bench.assemble, DEMO_ONLY)
        try:
            assert wheels.asked.wait(20)
            yield wheels, first
        finally:
            wheels.go.set()


class NewBases(Bases):
    """A base that has to be made; each try waits for a test."""

    def __init__(self, store: FolderStore) -> None:
        super().__init__(store)
        self.begun, self.go, self.alone = threading.Event(), threading.Event(), threading.Lock()
        self.made: list[str] = []
        self.broken = False

    def known(self, steps: ImageSteps, *, told: bool = False) -> AssemblyBase | None:
        return super().open(steps, print) if self.made else None

    def open(self, steps: ImageSteps, say: Callable[[str], None]) -> AssemblyBase:
        self.begun.set()
        with self.alone:
            assert self.go.wait(20)
            if self.broken:
                raise ToolError("debootstrap failed")
            if not self.made:
                self.made.append(steps.base)
            return super().open(steps, say)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_layer_that_another_image_makes_is_waited_for_while_the_others_are_made(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with one_making(bench) as (wheels, first), ThreadPoolExecutor(1) as pool:
        second = pool.submit(bench.assemble, BOTH)
        until(lambda: "other" in wheels.opened)
        assert not second.done()
        wheels.go.set()
        image = second.result()

    assert sorted(wheels.opened) == ["demo", "other"]
    assert [layer.new for layer in image.layers[-2:]] == [False, True]
    assert first.result().layers[-1].new
    assert image.manifest.raw == Bench(tmp_path / "alone").assemble(BOTH).manifest.raw
    assert list((bench.store.folder / "making").iterdir()) == []


def test_a_layer_that_another_image_fails_to_make_is_made_after_all(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with one_making(bench) as (wheels, first), ThreadPoolExecutor(1) as pool:
        second = pool.submit(bench.assemble, BOTH)
        until(lambda: "other" in wheels.opened)
        wheels.broken = True
        wheels.go.set()
        image = second.result()

    with pytest.raises(PackageIndexError, match="the connection broke"):
        first.result()
    assert [layer.new for layer in image.layers[-2:]] == [True, True]
    assert image.manifest.raw == Bench(tmp_path / "alone").assemble(BOTH).manifest.raw


def test_whoever_waits_for_a_layer_can_be_stopped(tmp_path: Path) -> None:
    bench, stop = Bench(tmp_path), threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Interrupted("stopped")

    with one_making(bench) as (wheels, first), ThreadPoolExecutor(1) as pool:
        second = pool.submit(replace(bench.assembler, check=check).assemble, BOTH)
        until(lambda: "other" in wheels.opened)
        stop.set()
        with pytest.raises(Interrupted):
            second.result(20)
        assert not first.done()

    assert first.result().layers[-1].new


def test_a_wheel_that_fails_ends_the_others_of_its_image(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    stages = [(f"wheel-{number}", [f"demo=={number} --hash=sha256:{number:064}"]) for number in range(40)]
    evil = ("wheel-evil", [f"evil==1.0 --hash=sha256:{'e' * 64}"])
    with pytest.raises(Exception, match="leads out"):
        bench.assemble(dockerfile(evil, *stages))

    assert len(bench.wheels.opened) < 30


def test_a_key_is_held_by_one_store_of_a_folder_at_a_time(tmp_path: Path) -> None:
    one, other, key = FolderStore(tmp_path), FolderStore(tmp_path), f"sha256:{'a' * 64}"
    with one.alone(key) as mine, other.alone(key) as also, other.alone(f"sha256:{'b' * 64}") as apart:
        held = (mine, also, apart)
    with other.alone(key) as again:
        pass

    assert held == (True, False, True)
    assert again


@pytest.mark.parametrize("broken", [False, True])
def test_a_base_is_made_in_the_background_once_and_a_failure_is_reported_by_the_build(
    tmp_path: Path, broken: bool
) -> None:
    bench = Bench(tmp_path / "b")
    bench.bases = bases = NewBases(bench.store)
    bases.broken = broken
    builder = AssemblingBuilder(bench.assembler, InFolder(lambda _: None, lambda *_: None), None)
    builder.begin(BOTH)
    assert bases.begun.wait(20)
    before = list(bases.made)
    bases.go.set()
    task = BuildTask(dockerfile=BOTH, tags=("x:1",), labels={}, log=tmp_path / "build.log")
    if broken:
        with pytest.raises(ToolError, match="debootstrap failed"):
            builder.build(task)
    else:
        assert builder.build(task).end is BuildEnd.BUILT

    assert before == []
    assert bases.made == ([] if broken else [BASE])
