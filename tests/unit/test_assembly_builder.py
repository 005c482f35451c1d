"""Assembling as a way to build: what it does by itself, what it leaves to BuildKit, and where images go."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from assembly_bench import BASE, DEMO, TWO, Bench, dockerfile, pinned
from publish_tools import candidate, policy

from assay.adapters.docker.fake_builder import FakeBuilder
from assay.adapters.docker.fake_engine import FakeEngine, FakeImage
from assay.adapters.layers.layout import read_layout, stream_archive, write_archive_file, write_layout
from assay.adapters.registry.fake import FakeRegistry
from assay.cli.build_route import BuildRoute
from assay.errors import EngineError, RegistryError, UsageError
from assay.evidence.oci import Descriptor, Manifest
from assay.evidence.reference import Repository
from assay.pipeline.assembly.builder import AssemblingBuilder
from assay.pipeline.assembly.destinations import InEngine, InFolder, InRegistry, WithoutFiles
from assay.pipeline.assembly.push_base import push_base
from assay.pipeline.publishing.candidate import stage
from assay.ports.builder import BuildEnd, BuildTask
from assay.ports.registry import Chunks

ONE = dockerfile(("small-1", [pinned("demo", "1.0", DEMO)]))
ONLY_BUILT = dockerfile(("small-1", [pinned("demo", "1.0", DEMO)]), more="RUN make everything")
LABELS = {"dev.assay.content-key": "sha256:1"}


def engine_of(bench: Bench, engine: FakeEngine, sent: list[list[str]] | None = None) -> InEngine:
    def archive(name: str, manifest: Manifest, config: bytes, layers: Sequence[Descriptor]) -> object:
        if sent is not None:
            sent.append([layer.digest for layer in layers])
        names = {"io.containerd.image.name": f"docker.io/{name}"}
        return stream_archive(names, manifest, config, layers, bench.store.opened)

    return InEngine(engine, bench.store, archive)  # type: ignore[arg-type]


def task(folder: Path, text: str, tag: str = "assay/x:1", **changes: object) -> BuildTask:
    made = {"dockerfile": text, "tags": (tag,), "labels": LABELS, "log": folder / "build.log", **changes}
    return BuildTask(**made)  # type: ignore[arg-type]


def test_what_can_be_assembled_is_and_buildkit_is_not_asked(tmp_path: Path) -> None:
    bench, engine, buildkit = Bench(tmp_path / "b"), FakeEngine(), FakeBuilder()
    builder = AssemblingBuilder(bench.assembler, engine_of(bench, engine), buildkit)
    forecast = builder.digest(TWO, LABELS)
    outcome = builder.build(task(tmp_path, TWO, provenance={"revision": "abc"}))
    held = engine.image("assay/x:1")

    assert forecast is None
    assert outcome.end is BuildEnd.BUILT
    assert buildkit.tasks == []
    assert held is not None
    assert held.digest == outcome.digest == builder.digest(TWO, LABELS)
    assert held.labels == {"base": "1", "dev.assay.cell": "x", **LABELS}
    assert outcome.image is not None
    assert [layer.made_by.partition(" --")[0] for layer in outcome.image.layers][:2] == ["debootstrap", "RUN useradd"]
    assert "demo 1.0" in (tmp_path / "build.log").read_text()


def test_what_only_a_build_can_do_goes_to_buildkit_or_is_refused(tmp_path: Path) -> None:
    bench, buildkit = Bench(tmp_path / "b"), FakeBuilder()
    destination = engine_of(bench, FakeEngine())
    built = AssemblingBuilder(bench.assembler, destination, buildkit).build(task(tmp_path, ONLY_BUILT))
    refused = AssemblingBuilder(bench.assembler, destination, None).build(task(tmp_path, ONLY_BUILT))

    assert built.end is BuildEnd.BUILT
    assert len(buildkit.tasks) == 1
    assert refused.end is BuildEnd.FAILED
    assert "RUN make everything" in refused.reason
    assert (tmp_path / "build.log").read_text() == f"{refused.reason}\n"


def test_the_engine_gets_only_layers_that_its_images_lack(tmp_path: Path) -> None:
    bench, engine, sent = Bench(tmp_path / "b"), FakeEngine(), list[list[str]]()
    builder = AssemblingBuilder(bench.assembler, engine_of(bench, engine, sent), None)
    builder.build(task(tmp_path, TWO))
    builder.build(task(tmp_path, ONE, "assay/x:2"))

    assert [len(layers) for layers in sent] == [4, 1]


def test_an_engine_that_lost_a_layer_gets_all_of_them(tmp_path: Path) -> None:
    bench, engine, sent = Bench(tmp_path / "b"), FakeEngine(), list[list[str]]()
    builder = AssemblingBuilder(bench.assembler, engine_of(bench, engine, sent), None)
    builder.build(task(tmp_path, TWO))
    engine.content.clear()
    outcome = builder.build(task(tmp_path, ONE, "assay/x:2"))

    assert outcome.end is BuildEnd.BUILT
    assert [len(layers) for layers in sent] == [4, 1, 4]
    assert "sending all layers" in (tmp_path / "build.log").read_text()


def test_a_stopped_or_late_assembly_ends_between_two_pieces(tmp_path: Path) -> None:
    bench, stop = Bench(tmp_path / "b"), threading.Event()
    builder = AssemblingBuilder(bench.assembler, engine_of(bench, FakeEngine()), None)
    late = builder.build(task(tmp_path, TWO, timeout=0.0))
    stop.set()
    stopped = builder.build(task(tmp_path, TWO, stop=stop))

    assert (late.end, stopped.end) == (BuildEnd.TIMED_OUT, BuildEnd.STOPPED)
    assert bench.wheels.opened == []


def test_an_engine_with_another_image_store_is_left_to_buildkit(tmp_path: Path) -> None:
    bench, engine, buildkit = Bench(tmp_path / "b"), FakeEngine(), FakeBuilder()
    engine._info = engine._info.__class__(**{**vars(engine._info), "image_store": "graphdriver"})
    builder = AssemblingBuilder(bench.assembler, engine_of(bench, engine), buildkit)

    assert "containerd image store" in builder.obstacle(TWO)
    assert builder.build(task(tmp_path, TWO)).end is BuildEnd.BUILT
    assert len(buildkit.tasks) == 1


def test_a_layer_that_the_registry_has_is_not_made(tmp_path: Path) -> None:
    first, second = Bench(tmp_path / "a"), Bench(tmp_path / "b")
    registry, repository = FakeRegistry(), Repository.parse("registry.example/team/x")
    name = repository.tagged("t")
    made = AssemblingBuilder(first.assembler, InRegistry(registry, repository, first.store), None)
    outcome = made.build(task(tmp_path, TWO, name))
    for entry in first.store.entries():
        second.store.learn(entry)
        for wheel in entry.wheels:
            second.store.keep_owned(wheel.sha256, first.store.owned(wheel.sha256) or "")
    registry.delete_manifest(repository, outcome.digest or "")
    again = AssemblingBuilder(second.assembler, InRegistry(registry, repository, second.store), None)
    repeated = again.build(task(tmp_path, TWO, name))

    assert repeated.digest == outcome.digest == again.digest(TWO, LABELS)
    assert second.wheels.opened == []
    assert second.bases.compilers == 0
    assert registry.resolve(repository, "t") is not None


def test_a_sibling_repository_gives_its_layers(tmp_path: Path) -> None:
    bench, registry = Bench(tmp_path / "b"), FakeRegistry()
    for name in ("team/x", "team/y"):
        repository = Repository.parse(f"registry.example/{name}")
        builder = AssemblingBuilder(bench.assembler, InRegistry(registry, repository, bench.store), None)
        builder.build(task(tmp_path, TWO, repository.tagged("t")))

    log = (tmp_path / "build.log").read_text()
    assert log.count("is in registry.example/team/x: mounted") == 4
    assert "sending" not in log


def test_a_registry_that_fails_is_not_a_failure_of_the_cell(tmp_path: Path) -> None:
    class Broken(FakeRegistry):
        def put_manifest(self, repository: Repository, key: str, manifest: Manifest) -> bool:
            raise RegistryError("it is full")

    bench, repository = Bench(tmp_path / "b"), Repository.parse("registry.example/x")
    builder = AssemblingBuilder(bench.assembler, InRegistry(Broken(), repository, bench.store), None)
    outcome = builder.build(task(tmp_path, TWO, repository.tagged("t")))

    assert (outcome.end, outcome.reason) == (BuildEnd.REGISTRY, "it is full")


def test_a_folder_tells_which_images_it_holds(tmp_path: Path) -> None:
    bench, out = Bench(tmp_path / "b"), tmp_path / "out"
    folder = InFolder(partial(read_layout, out), partial(write_layout, out, blob=bench.store.blob))
    AssemblingBuilder(bench.assembler, folder, None).build(task(tmp_path, TWO, "t"))
    labels = folder.labels(["t", "u"])
    (out / "blobs" / "sha256" / bench.assemble(TWO).layers[0].stored.layer.digest[7:]).unlink()

    assert labels == {"t": {"base": "1", "dev.assay.cell": "x", **LABELS}}
    assert folder.labels(["t"]) == {}


def test_an_archive_is_a_layout_in_one_file(tmp_path: Path) -> None:
    bench, file = Bench(tmp_path / "b"), tmp_path / "image.tar"
    image = bench.assemble(TWO)
    write_archive_file(file, "t", image.manifest, image.config, opened=bench.store.opened)
    with tarfile.open(file) as tar:
        files = {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}
    blobs = {name: data for name, data in files.items() if name.startswith("blobs/")}

    assert json.loads(files["index.json"])["manifests"][0]["digest"] == image.manifest.digest
    assert len(blobs) == len(image.layers) + 2
    assert all(hashlib.sha256(data).hexdigest() == name.rpartition("/")[2] for name, data in blobs.items())


@pytest.mark.parametrize(
    "route",
    [
        lambda: BuildRoute(push="x/y", output="oci:z"),
        lambda: BuildRoute(output="tar:z"),
        lambda: BuildRoute(output="oci:z", builder="buildkit"),
    ],
)
def test_what_does_not_fit_together_is_refused(route: Callable[[], BuildRoute]) -> None:
    with pytest.raises(UsageError):
        route()


def test_publishing_takes_an_assembled_image_from_the_layers_and_not_from_the_engine(tmp_path: Path) -> None:
    bench, registry = Bench(tmp_path / "b"), FakeRegistry()
    image = bench.assemble(TWO)
    what = candidate(digest=image.manifest.digest, local="assay/x:1", staging_tag="k")
    said: list[str] = []
    rules = policy("registry.example")
    dead = FakeEngine(alive=False)
    seen = stage(what, rules, registry=registry, engine=dead, layers=bench.store, write=False, say=said.append)
    there = registry.resolve(seen.staging, "k")
    subject = stage(what, rules, registry=registry, engine=dead, layers=bench.store, say=said.append)

    assert there is None
    assert seen.digest == subject.digest == image.manifest.digest
    assert registry.manifest(subject.staging, "k") == image.manifest
    assert any("as it was assembled here" in line for line in said)


def test_an_assembled_image_whose_bytes_are_gone_is_pushed_from_the_engine(tmp_path: Path) -> None:
    bench, registry = Bench(tmp_path / "b"), FakeRegistry()
    image = bench.assemble(TWO)
    bench.store.blob(image.layers[-1].stored.layer.digest).unlink()
    engine = FakeEngine({"assay/x:1": FakeImage(digest=image.manifest.digest)})
    what = candidate(digest=image.manifest.digest, local="assay/x:1", staging_tag="k")
    subject = stage(what, policy("registry.example"), registry=registry, engine=engine, layers=bench.store, write=False)

    assert subject.digest == image.manifest.digest
    assert subject.descriptor.size == 0


def test_without_an_engine_an_image_tells_its_layers_and_no_files(tmp_path: Path) -> None:
    bench, registry = Bench(tmp_path / "b"), FakeRegistry()
    repository = Repository.parse("registry.example/team/x")
    place = InRegistry(registry, repository, bench.store)
    outcome = AssemblingBuilder(bench.assembler, place, None).build(task(tmp_path, TWO, repository.tagged("t")))
    seen = WithoutFiles(place).image(repository.tagged("t"))

    assert seen is not None
    assert seen.digest == outcome.digest
    assert len(seen.layers) == 4
    with pytest.raises(EngineError, match="not all known here"):
        WithoutFiles(place).image_files(repository.tagged("t"))


def test_images_that_are_sent_at_once_send_a_shared_layer_once(tmp_path: Path) -> None:
    sent: list[str] = []

    class Slow(FakeRegistry):
        def upload(self, repository: Repository, blob: Descriptor, chunks: Chunks) -> None:
            sent.append(blob.digest)
            time.sleep(0.05)
            super().upload(repository, blob, chunks)

    bench, repository = Bench(tmp_path / "b"), Repository.parse("registry.example/team/x")
    place = InRegistry(Slow(), repository, bench.store)
    images = [bench.assemble(text) for text in (TWO, ONE)]
    with ThreadPoolExecutor(2) as pool:
        for number, image in enumerate(images):
            name = repository.tagged(f"t{number}")
            pool.submit(place.take, image.manifest, image.config, name, say=print, check=lambda: None)

    assert sorted(set(sent)) == sorted(sent)
    assert len(place.labels([repository.tagged("t0"), repository.tagged("t1")])) == 2


def test_a_repository_for_each_recipe_takes_images_and_the_base_of_builds(tmp_path: Path) -> None:
    bench, registry = Bench(tmp_path / "b"), FakeRegistry()
    place = InRegistry(registry, "registry.example/team/{image}", bench.store)
    name = "registry.example/team/x:t"
    outcome = AssemblingBuilder(bench.assembler, place, None).build(task(tmp_path, ONE, name))
    base = Repository.parse("registry.example/team/base-slim")
    pushed = push_base(BASE, bench.assembler.bases, bench.store, registry, base, say=lambda _: None)
    found = registry.manifest(base, BASE.rpartition("/")[2].replace(":", "-"))

    assert BuildEnd.BUILT is outcome.end
    assert place.image(name) is not None
    assert not place.has(found.layers[0].digest if found else ""), "what one repository has, another one lacks"
    assert found is not None
    assert f"{base}@{found.digest}" == pushed
    assert all(registry.has_blob(base, layer.digest) for layer in found.layers)
