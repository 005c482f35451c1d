"""What is installed in an image: known files are hashed alone, replaced ones are read and told."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from wheels import wheel_bytes

from assay.adapters.docker.fake_engine import FakeEngine, FakeImage
from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.audit.findings import AuditReport, Finding
from assay.errors import EngineError, UsageError
from assay.foundation.outcome import Severity
from assay.matrix.lock import Lock, LockedWheel
from assay.pipeline.audit import Auditor
from assay.pipeline.audit_image import audit_image, read_image
from assay.pipeline.read_wheel import read_wheel
from assay.ports.index import IndexFile
from assay.wheels.member import MemberReader

ROOT = Path(__file__).parents[2]
ELF = ROOT / "tests" / "fixtures" / "elf"
SITE = "/opt/venv/lib/python3.11/site-packages"
PROVIDER = (ELF / "libprovider.so.1").read_bytes()
CONSUMER = (ELF / "libconsumer.so").read_bytes()


def record(files: dict[str, bytes]) -> str:
    def line(path: str, data: bytes) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        return f"{path},sha256={digest},{len(data)}\n"

    return "".join(line(path, data) for path, data in files.items())


FILES = {"thing/_C.abi3.so": CONSUMER, "thing/lib/libprovider.so.1": PROVIDER}


@pytest.fixture
def auditor(tmp_path: Path) -> Auditor:
    return Auditor(
        index=SimpleIndex(),
        wheels=WebWheels(),
        facts=FactsCache(tmp_path / "facts"),
        knowledge=load_knowledge(),
    )


@pytest.fixture
def lock(tmp_path: Path, auditor: Auditor) -> Lock:
    """A lock with one wheel, of which the facts are known."""
    data = wheel_bytes("thing", "1.0", FILES, record=record(FILES))
    path = tmp_path / "thing-1.0-cp311-abi3-linux_x86_64.whl"
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    file = IndexFile(project="thing", filename=path.name, url=path.as_uri(), sha256=sha256, size=len(data))
    FactsCache(tmp_path / "facts").put(read_wheel(file, WebWheels()))
    return Lock(
        cell="c",
        python="3.11",
        platform="x86_64-manylinux_2_36",
        requirements=("thing",),
        base="slim",
        wheels=(LockedWheel(name="thing", version="1.0", filename=path.name, sha256=sha256),),
    )


def image(files: dict[str, bytes], *, version: str = "1.0", more: dict[str, bytes] | None = None) -> FakeEngine:
    """Return an engine that holds an image with these files in site-packages."""
    info = f"thing-{version}.dist-info"
    installed = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: thing\nVersion: {version}\n".encode(),
        f"{info}/RECORD": record(files).encode(),
        **files,
    }
    held = {f"{SITE}/{path}": data for path, data in installed.items()} | (more or {})
    return FakeEngine({"made:1": FakeImage(files=held)})


def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that names each library as it is parsed."""
    paths: list[str] = []
    real = MemberReader.finish

    def finish(self: MemberReader, *args: object) -> object:
        paths.append(self.path)
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(MemberReader, "finish", finish)
    return paths


def told(report: AuditReport) -> list[Finding]:
    return [finding for finding in report.findings if finding.rule == "R5"]


def audited(engine: FakeEngine, auditor: Auditor, lock: Lock | None) -> AuditReport:
    return audit_image(engine, "made:1", auditor, targets=(), lock=lock)


def test_files_of_a_known_wheel_are_not_read_again(
    auditor: Auditor, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = parsed(monkeypatch)
    known = audited(image(FILES), auditor, lock)

    assert [] == paths
    assert [] == told(known)

    unknown = audited(image(FILES), auditor, None)

    assert {f"{SITE}/{path}" for path in FILES} == set(paths)
    assert unknown.findings == known.findings
    assert unknown.packages == known.packages


@pytest.mark.parametrize("own_record", [True, False])
def test_a_replaced_file_of_the_same_size_is_reported_and_read(
    auditor: Auditor, lock: Lock, monkeypatch: pytest.MonkeyPatch, own_record: bool
) -> None:
    """The layer may have a RECORD that fits its files: what counts is the locked wheel's."""
    changed = {**FILES, "thing/_C.abi3.so": CONSUMER.replace(b"libprovider.so.1\0", b"libprovidex.so.1\0")}
    info = f"{SITE}/thing-1.0.dist-info/RECORD"
    engine = image(changed, more={} if own_record else {info: record(FILES).encode()})
    paths = parsed(monkeypatch)
    report = audited(engine, auditor, lock)
    (finding,) = told(report)

    assert len(CONSUMER) == len(changed["thing/_C.abi3.so"])
    assert (Severity.ERROR, "thing/_C.abi3.so") == (finding.severity, finding.library)
    assert "is not the file of the locked wheel" in finding.message
    assert [f"{SITE}/thing/_C.abi3.so"] == paths
    assert any("libprovidex.so.1" in item.message for item in report.findings if item.rule == "L1")


def test_a_replaced_file_of_another_size_is_reported(auditor: Auditor, lock: Lock) -> None:
    changed = {**FILES, "thing/_C.abi3.so": CONSUMER + b"\0"}

    assert ["thing/_C.abi3.so"] == [finding.library for finding in told(audited(image(changed), auditor, lock))]


def test_a_file_that_was_removed_is_reported(auditor: Auditor, lock: Lock) -> None:
    report = audited(image({"thing/_C.abi3.so": CONSUMER}), auditor, lock)
    (finding,) = told(report)

    assert (Severity.WARNING, "thing/lib/libprovider.so.1") == (finding.severity, finding.library)


def test_another_version_is_reported_once(auditor: Auditor, lock: Lock) -> None:
    changed = {**FILES, "thing/_C.abi3.so": CONSUMER + b"\0"}
    (finding,) = told(audited(image(changed, version="2.0"), auditor, lock))

    assert "2.0 is installed, the lock has 1.0" in finding.message


def test_files_of_another_environment_are_not_mistaken_for_the_locked_ones(auditor: Auditor, lock: Lock) -> None:
    other = {"/usr/lib/python3/dist-packages/thing/_C.abi3.so": CONSUMER + b"\0"}

    assert [] == told(audited(image(FILES, more=other), auditor, lock))


def test_no_facts_of_the_wheel_are_no_reason_to_fail(auditor: Auditor, lock: Lock) -> None:
    unknown = lock.wheels[0].model_copy(update={"sha256": "0" * 64})
    report = audited(image(FILES), auditor, lock.model_copy(update={"wheels": (unknown,)}))

    assert [] == told(report)


def test_a_file_whose_tables_have_passed_is_read_in_a_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.wheels.member.FRONT", 64)
    monkeypatch.setattr("assay.wheels.member.RECENT", 64)
    monkeypatch.setattr("assay.pipeline.audit_image.CHUNK", 64)
    contents = read_image(lambda: image(FILES).image_files("made:1"), "made:1")
    libraries = {path: library for path, library in contents.libraries.items() if library.scope == "full"}

    assert {f"{SITE}/{path}" for path in FILES} == set(libraries)
    assert libraries[f"{SITE}/thing/_C.abi3.so"].needed


def test_a_long_reading_says_how_far_it_is(auditor: Auditor, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.pipeline.audit_image.EVERY_SECONDS", 0.0)
    said: list[str] = []
    audit_image(image(FILES), "made:1", auditor, targets=(), lock=lock, tell=said.append)

    assert any("MiB read" in line for line in said)
    assert "made:1: 2 libraries read" == said[-1]


@pytest.mark.parametrize(("architecture", "platform"), [("amd64", "x86_64"), ("arm64", "aarch64")])
def test_the_platform_is_that_of_the_image(auditor: Auditor, architecture: str, platform: str) -> None:
    made = image(FILES)
    engine = FakeEngine(made.held, info=replace(made.info(), architecture=architecture))

    assert audited(engine, auditor, None).platform == platform


def test_an_image_for_an_unknown_platform_is_refused_by_name(auditor: Auditor) -> None:
    made = image(FILES)
    engine = FakeEngine(made.held, info=replace(made.info(), architecture="riscv64"))
    with pytest.raises(UsageError, match="is an image for riscv64; assay audits those for linux/amd64 or linux/arm64"):
        audited(engine, auditor, None)


def test_an_image_without_packages_is_reported(auditor: Auditor) -> None:
    engine = FakeEngine({"made:1": FakeImage(files={"/etc/os-release": b"x"})})
    with pytest.raises(EngineError, match="no Python packages"):
        audited(engine, auditor, None)
    with pytest.raises(EngineError, match="no image"):
        audit_image(engine, "other:1", auditor, targets=())


def test_missing_requirement_is_reported(auditor: Auditor) -> None:
    """An image holds all there is; but somebody runs it, so it weighs less than in a set that is to be built."""
    asking = {
        f"{SITE}/asking-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: asking\nVersion: 1\n"
        b"Requires-Dist: gone\nRequires-Dist: system-thing\nRequires-Dist: thing>=2\n"
    }
    system = {"/usr/lib/python3/dist-packages/system_thing-1.dist-info/METADATA": b"Name: system-thing\nVersion: 1\n"}
    report = audited(image(FILES, more=asking | system), auditor, None)

    assert [
        (Severity.WARNING, "requires gone, which is not in the set"),
        (Severity.WARNING, "requires thing>=2, but 1.0 is in the set"),
    ] == sorted((finding.severity, finding.message) for finding in report.findings if finding.rule == "R1")
