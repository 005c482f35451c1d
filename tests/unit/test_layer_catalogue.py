"""The catalogue of layers: shared like facts, it tells digests and never stands in for bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from assembly_bench import DEMO, OTHER, TWO, Bench, dockerfile, pinned

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.registry.fake import FakeRegistry
from assay.errors import QuestionError, RegistryContent, WheelError
from assay.evidence.reference import Reference
from assay.matrix import loading, plan, render
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedCell
from assay.matrix.lockfile import lock_digest
from assay.pipeline.assembly.assemble import BUILT_LABEL, LARGEST_LABEL
from assay.pipeline.assembly.assembled import Assembled
from assay.pipeline.assembly.deliver import push
from assay.pipeline.build_jobs import build_labels
from assay.pipeline.rebuild import rebuild
from assay.pipeline.share_facts import pull_catalogue, pull_facts, push_facts
from assay.wheels.catalogue import BaseEntry, BaseLayer, dump_catalogue, load_catalogue
from assay.wheels.layer import Packing

PLACE = Reference.parse("registry.test/team/facts:v1")
IMAGE = Reference.parse("registry.test/team/x:t")


def test_another_machine_knows_the_digest_without_a_wheel(tmp_path: Path) -> None:
    here, there, registry = Bench(tmp_path / "a"), Bench(tmp_path / "b"), FakeRegistry()
    image = here.assemble(TWO)
    before = there.assembler.forecast(TWO)
    push_facts(registry, PLACE, [], here.store)
    told = pull_catalogue(registry, PLACE, there.store)
    forecast = there.assembler.forecast(TWO)

    assert before is None
    # The layers without wheels are some kilobytes: the forecast above made them.
    assert told == (1, 0)
    assert forecast is not None
    assert forecast.manifest.raw == image.manifest.raw
    assert there.wheels.opened == []
    assert pull_catalogue(registry, PLACE, there.store) == (0, 0)


def test_what_another_machine_says_is_never_sent_in_place_of_a_layer(tmp_path: Path) -> None:
    here, there, registry, said = Bench(tmp_path / "a"), Bench(tmp_path / "b"), FakeRegistry(), list[str]()
    own = here.assemble(TWO)
    key = next(entry.key for entry in here.store.entries() if entry.wheels)
    lie = here.store.described(key)
    assert lie is not None
    there.store.hear(lie.model_copy(update={"digest": f"sha256:{'e' * 64}"}))
    assembler = there.assembler.__class__(**{**vars(there.assembler), "say": said.append})
    image = assembler.assemble(TWO, elsewhere=lambda digest: True)
    push_facts(registry, PLACE, [], here.store)

    assert image.manifest.digest == own.manifest.digest
    assert there.wheels.opened == ["demo", "other"]
    assert any(line.startswith("WARNING: another machine made sha256:eeee") and "demo" in line for line in said)


def test_layers_that_differ_between_machines_are_counted(tmp_path: Path) -> None:
    here, there, registry = Bench(tmp_path / "a"), Bench(tmp_path / "b"), FakeRegistry()
    here.assemble(TWO)
    there.assemble(TWO)
    entry = next(entry for entry in here.store.entries() if entry.wheels)
    here.store.learn(entry.model_copy(update={"digest": f"sha256:{'e' * 64}"}))
    push_facts(registry, PLACE, [], here.store)

    assert pull_catalogue(registry, PLACE, there.store) == (0, 1)


def test_facts_and_catalogue_share_a_tag_and_add_to_it(tmp_path: Path) -> None:
    one, two, all_, registry = Bench(tmp_path / "a"), Bench(tmp_path / "b"), Bench(tmp_path / "c"), FakeRegistry()
    one.assemble(TWO)
    two.assemble(dockerfile(("small-1", [pinned("demo", "1.0", DEMO)])))
    push_facts(registry, PLACE, [], one.store)
    push_facts(registry, PLACE, [], two.store)
    layers, _ = pull_catalogue(registry, PLACE, all_.store)

    assert layers == 5
    assert pull_facts(registry, PLACE, FactsCache(tmp_path / "facts")).moved == ()


def test_a_catalogue_is_the_same_bytes_in_any_order_and_nothing_else_is_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.assemble(TWO)
    digest = f"sha256:{'a' * 64}"
    base = BaseEntry(
        key="0123456789ab", config={}, python="3.11.2", files={},
        layers=(BaseLayer(media_type="x", digest=digest, diff_id=digest, size=1),),
    )  # fmt: skip
    layers = list(bench.store.entries())
    data = dump_catalogue(layers, [base])

    assert dump_catalogue(reversed(layers), [base]) == data
    assert load_catalogue(data) == (layers, [base])
    for wrong in (b"", b"{}", data[:-9], dump_catalogue([], [])[:-1]):
        with pytest.raises(WheelError):
            load_catalogue(wrong)


class Published:
    """A cell of a project whose image was pushed."""

    def __init__(self, folder: Path, matrix_text: str, image_text: str) -> None:
        self.cell: Cell = plan.make(loading.load(matrix_text, {"serving": image_text})).cells[0]
        lock = Lock(
            cell=self.cell.id, python="3.11", platform="x86_64-manylinux_2_36", requirements=(), base="slim", wheels=()
        )
        self.item = LockedCell(cell=self.cell, lock=lock)
        self.registry = FakeRegistry()
        self.bench = Bench(folder)
        self.labels = f'LABEL dev.assay.cell="{self.cell.id}" dev.assay.lock="{lock_digest(lock)}"'
        self.text = self.with_pins([pinned("demo", "1.0", DEMO)])

    def with_pins(self, pins: Sequence[str]) -> str:
        return dockerfile(("small-1", pins)).replace('LABEL dev.assay.cell="x"', self.labels)

    def assembled(self, text: str, labels: Mapping[str, str], packing: Packing, largest: int | None) -> Assembled:
        return replace(self.bench.assembler, packing=packing, largest=largest).assemble(text, labels)

    def push(self, text: str, labels: Mapping[str, str]) -> str:
        image = self.bench.assembler.assemble(text, labels)
        push(image.manifest, image.config, self.registry, IMAGE.repository, "t", opened=self.bench.store.opened)
        return image.manifest.digest

    def rebuilt(self, text: str, items: Sequence[LockedCell] | None = None) -> dict[str, Any]:
        known = {item.cell.id: item for item in ([self.item] if items is None else items)}
        seen = rebuild(IMAGE, self.registry, known.get, lambda _cell, _lock: text, self.assembled)
        return seen.document().model_dump(mode="json")


@pytest.fixture
def published(tmp_path: Path, matrix_text: str, image_text: str) -> Published:
    return Published(tmp_path, matrix_text, image_text)


def test_an_image_is_what_its_lock_says(published: Published) -> None:
    digest = published.push(published.text, build_labels(render.content_key(published.text)))
    seen = published.rebuilt(published.text)

    assert seen["same"] is True
    assert seen["rebuilt"] == digest
    assert seen["differing_layers"] == []


def test_an_image_with_another_layer_is_distinguished_from_what_its_lock_says(published: Published) -> None:
    pins = [pinned("demo", "1.0", DEMO), pinned("other", "2.0", OTHER)]
    published.push(published.with_pins(pins), build_labels(render.content_key(published.text)))
    seen = published.rebuilt(published.text)

    assert seen["same"] is False
    differing = seen["differing_layers"]
    assert isinstance(differing, list)
    assert [layer["made_by"] for layer in differing] == ["COPY /out/ /opt/venv/ # buildkit"]


def test_wheels_that_were_built_from_source_are_named_where_they_differ(published: Published) -> None:
    labels = build_labels(render.content_key(published.text))
    there = {f"{BUILT_LABEL}kernel": f"sha256:{'1' * 64}"}
    published.push(published.text, {**labels, **there})
    seen = published.rebuilt(published.text)

    assert seen["same"] is False
    assert seen["differing_wheels"] == [{"name": "kernel", "published": f"sha256:{'1' * 64}", "rebuilt": None}]


def test_a_checkout_with_another_lock_or_without_the_cell_gives_no_verdict(published: Published) -> None:
    published.push(published.text, build_labels(render.content_key(published.text)))
    with pytest.raises(QuestionError, match="from a recipe of"):
        published.rebuilt(published.text + "# changed\n")
    assert published.item.lock is not None
    changed = published.item.lock.model_copy(update={"python": "3.12"})
    with pytest.raises(QuestionError, match="from a lock of"):
        published.rebuilt(published.text, [LockedCell(cell=published.cell, lock=changed)])
    with pytest.raises(QuestionError, match="has no lock here"):
        published.rebuilt(published.text, [])
    with pytest.raises(QuestionError, match="there is no image"):
        rebuild(
            Reference.parse("registry.test/none:t"), published.registry, lambda _: None, lambda _cell, _lock: "",
            published.assembled,
        )  # fmt: skip


@pytest.mark.parametrize("packing", Packing)
@pytest.mark.parametrize("largest", [None, 4000])
def test_an_image_is_rebuilt_as_it_was_packed_and_divided(
    published: Published, packing: Packing, largest: int | None
) -> None:
    labels = build_labels(render.content_key(published.text))
    image = published.assembled(published.text, labels, packing, largest)
    push(image.manifest, image.config, published.registry, IMAGE.repository, "t", opened=published.bench.store.opened)

    assert published.rebuilt(published.text)["same"] is True
    assert (len(image.layers) > 4) == (largest is not None)


def test_a_limit_that_is_not_a_number_is_refused(published: Published) -> None:
    labels = build_labels(render.content_key(published.text))
    published.push(published.text, {**labels, LARGEST_LABEL: "8GB"})

    with pytest.raises(RegistryContent, match="largest-layer='8GB', which is not a number of bytes"):
        published.rebuilt(published.text)
