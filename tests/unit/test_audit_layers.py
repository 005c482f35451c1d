"""The audit of an image of known layers: nothing of it is read, and the report is that of reading all of it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from wheels import wheel_bytes

from assay.adapters.docker.fake_engine import FakeEngine, FakeImage
from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.adapters.layers.archive import WheelArchive
from assay.adapters.layers.store import FolderStore
from assay.audit.findings import AuditReport
from assay.foundation.digest import sha256_of
from assay.matrix.image_steps import PinnedWheel
from assay.matrix.lock import Lock, LockedWheel
from assay.pipeline.assembly import fixed
from assay.pipeline.audit import Auditor
from assay.pipeline.audit_image import audit_image
from assay.pipeline.read_wheel import read_wheel
from assay.ports.engine import ImageFile, ImageLayer
from assay.ports.index import IndexFile
from assay.wheels.archive import Member
from assay.wheels.catalogue import BaseEntry, BaseLayer, dump_base
from assay.wheels.facts import Library, WheelFacts
from assay.wheels.facts_file import dump_facts, load_facts
from assay.wheels.install import Prefix, installed_files
from assay.wheels.layer import Entry, LayerBytes, file_entry, link_entry, with_folders, write_layer

ELF: Final = Path(__file__).parents[2] / "tests" / "fixtures" / "elf"
PROVIDER: Final = (ELF / "libprovider.so.1").read_bytes()
CONSUMER: Final = (ELF / "libconsumer.so").read_bytes()
PREFIX: Final = Prefix(path="/opt/venv", python="3.11")
BASE: Final = (
    file_entry("usr/lib/x86_64-linux-gnu/libprovider.so.1", PROVIDER),
    link_entry("usr/lib/x86_64-linux-gnu/libprovider.so", "libprovider.so.1"),
    file_entry("usr/lib/python3/dist-packages/debian_thing-1.dist-info/METADATA", b"Name: debian-thing\nVersion: 1\n"),
    file_entry("var/lib/dpkg/status", b"Package: libc6\nVersion: 2.36\n\nPackage: gcc\n"),
    file_entry("etc/ld.so.conf.d/x.conf", b"/usr/local/lib\n"),
    file_entry("usr/bin/gcc", b"\x7fELF", mode=0o755),
)
WHEELS: Final[Mapping[str, dict[str, bytes]]] = {
    "thing": {"thing/_C.abi3.so": CONSUMER, "thing/lib/libprovider.so.1": PROVIDER},
    "Other": {"other/__init__.py": b"x = 1\n", "other/bin/nvcc": b"", "other/_x.so": CONSUMER, "other/empty.so": b""},
    "same": {"thing/lib/libprovider.so.1": PROVIDER, "same-1.0.data/data/lib/libfar.so": PROVIDER},
}
REQUIRES: Final = {"Other": ("thing>=2", "missing-one")}


def digest(data: bytes) -> str:
    """Return a hash as RECORD has it."""
    return f"sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()}"


class Bench:
    """A store with an image's layers, an engine with the same image, and an auditor with facts of its wheels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FolderStore(folder / "layers")
        self.facts = FactsCache(folder / "facts")
        self.layers = [self._base(), self._plain(fixed.environment(PREFIX, "3.11.2"))]
        self.locked = [self._wheel(name) for name in WHEELS]
        self.layers += [self._of([one]) for one in self.locked[:2]] + [self._of(self.locked[2:])]

    def _base(self) -> LayerBytes:
        layer = self.store.make(sha256_of(b"base"), lambda out: write_layer(with_folders(BASE), out))
        # As a base that was bootstrapped is: no entry of the catalogue has it.
        (self.folder / "layers" / "catalogue" / f"{sha256_of(b'base')[7:]}.json").unlink()
        layers = (BaseLayer(media_type="x", digest=layer.digest, diff_id=layer.diff_id, size=layer.size),)
        entry = BaseEntry(key="0" * 12, layers=layers, config={}, python="3.11.2", files={})
        (self.folder / "layers" / "bases" / "000000000000.json").write_bytes(dump_base(entry))
        return layer

    def _plain(self, entries: list[Entry]) -> LayerBytes:
        return self.store.make(sha256_of(b"environment"), lambda out: write_layer(entries, out))

    def _wheel(self, name: str) -> LockedWheel:
        files = WHEELS[name]
        record = "".join(f"{path},{digest(data)},{len(data)}\n" for path, data in files.items())
        data = wheel_bytes(name, "1.0", files, record=record, requires=REQUIRES.get(name, ()))
        path = self.folder / f"{name}-1.0-cp311-abi3-linux_x86_64.whl"
        path.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        file = IndexFile(project=name.lower(), filename=path.name, url=path.as_uri(), sha256=sha256, size=len(data))
        self.facts.put(read_wheel(file, WebWheels()))
        return LockedWheel(name=name.lower(), version="1.0", filename=path.name, sha256=sha256)

    def _of(self, wheels: list[LockedWheel]) -> LayerBytes:
        def entries() -> Iterator[Entry]:
            for wheel in wheels:
                with WheelArchive(self.folder / wheel.filename, wheel.filename) as archive:
                    for file in installed_files(archive.files, archive.read, PREFIX, wheel=wheel.filename):
                        data = archive.read(file.content) if isinstance(file.content, Member) else file.content
                        yield file_entry(f"opt/venv/{file.path}", data, mode=file.mode)

        pinned = [PinnedWheel(name=one.name, version=one.version, sha256=one.sha256) for one in wheels]
        key = sha256_of(repr(pinned).encode())
        return self.store.make(key, lambda out: write_layer(with_folders(entries()), out), pinned)

    @property
    def lock(self) -> Lock:
        return Lock(
            cell="c", python="3.11", platform="x86_64-manylinux_2_36", requirements=("thing",), base="slim",
            wheels=tuple(self.locked),
        )  # fmt: skip

    def image(self) -> FakeImage:
        """Return the image, as an engine holds it."""
        files: dict[str, bytes] = {}
        links: dict[str, str] = {}
        for layer in self.layers:
            with self.store.files(layer.digest) as found:
                for one in found:
                    if one.kind == "file":
                        files[one.path] = one.open().read()
                    elif one.kind == "symlink":
                        links[one.path] = one.target
        layers = tuple(ImageLayer(diff_id=layer.diff_id, bytes=1) for layer in self.layers)
        return FakeImage(files=files, links=links, layers=layers, env={"A": "1"})

    def audit(self, image: FakeImage, *, known: bool = True) -> tuple[AuditReport, int]:
        """Audit an image, with or without the catalogue of layers; return how often it was read, too."""
        reads = 0

        class Counting(FakeEngine):
            @contextmanager
            def image_files(self, reference: str) -> Iterator[Iterator[ImageFile]]:
                nonlocal reads
                reads += 1
                with super().image_files(reference) as found:
                    yield found

        auditor = Auditor(
            index=SimpleIndex(), wheels=WebWheels(), facts=FactsCache(self.folder / "facts"), knowledge=load_knowledge()
        )
        store = self.store if known else None
        engine = Counting({"made:1": image})
        report = audit_image(engine, "made:1", auditor, targets=(), lock=self.lock, layers=store)
        return report.model_copy(update={"seconds": 0.0}), reads

    def change(self, sha256: str, change: Callable[[WheelFacts], WheelFacts]) -> None:
        """Change the facts of a wheel."""
        (place,) = (path for path in (self.folder / "facts").rglob(f"*{sha256}*") if path.is_file())
        place.write_bytes(dump_facts(change(load_facts(place.read_bytes(), source="test"))))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_known_layers_give_the_report_of_a_full_read_and_nothing_is_read(bench: Bench) -> None:
    image = bench.image()
    known, reads = bench.audit(image)
    full, one = bench.audit(image, known=False)

    assert (reads, one) == (0, 1)
    assert known == full
    assert any("missing-one" in finding.message for finding in full.findings)
    assert full.packages == {"other": "1.0", "same": "1.0", "thing": "1.0"}


def test_layers_without_wheels_are_read_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    image = bench.image()
    first, _ = bench.audit(image)
    monkeypatch.setattr(FolderStore, "files", None)
    monkeypatch.setattr(FolderStore, "opened", None)

    assert (first, 0) == bench.audit(image)


def test_a_library_that_the_facts_only_name_is_read_once_from_its_layer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(facts: WheelFacts) -> WheelFacts:
        libraries = tuple(
            Library(path=one.path, size=one.size, digest=one.digest, scope="listed") for one in facts.libraries
        )
        return facts.model_copy(update={"libraries": libraries})

    bench.change(bench.locked[0].sha256, named)
    image = bench.image()
    known, reads = bench.audit(image)
    full, _ = bench.audit(image, known=False)
    monkeypatch.setattr(FolderStore, "files", None)

    assert reads == 0
    assert known == full
    assert (known, 0) == bench.audit(image)


def test_without_facts_of_a_wheel_the_image_is_read(bench: Bench) -> None:
    image = bench.image()
    for path in (bench.folder / "facts").rglob(f"*{bench.locked[0].sha256}*"):
        path.unlink()
    known, reads = bench.audit(image)

    assert reads == 1
    assert (known, 1) == bench.audit(image, known=False)


def test_an_image_with_a_layer_from_elsewhere_is_read(bench: Bench) -> None:
    image = bench.image()
    other = replace(image, layers=(*image.layers, ImageLayer(diff_id=sha256_of(b"elsewhere"), bytes=1)))
    known, reads = bench.audit(other)

    assert reads == 1
    assert known == bench.audit(image, known=False)[0]


def test_a_damaged_note_of_a_layer_is_not_a_note(bench: Bench) -> None:
    image = bench.image()
    first, _ = bench.audit(image)
    for path in (bench.folder / "layers" / "contents").iterdir():
        path.write_bytes(b'{"libraries": 7}')

    assert (first, 0) == bench.audit(image)


def test_an_image_with_wheels_that_were_divided_among_layers_is_read(bench: Bench) -> None:
    image = bench.image()
    (entry,) = (one for one in bench.store.entries() if one.diff_id == bench.layers[-1].diff_id)
    other = {"key": sha256_of(b"part"), "digest": sha256_of(b"d"), "diff_id": sha256_of(b"i"), "last": False}
    bench.store.learn(entry.model_copy(update=other))

    assert bench.audit(image)[1] == 1
