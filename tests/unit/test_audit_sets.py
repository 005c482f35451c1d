"""Rules R6 and R7: files that two wheels own, and packages whose versions must go together."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from wheels import facts, library, wheel_bytes

from assay.adapters.docker.fake_engine import FakeEngine, FakeImage
from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.audit.audit import audit
from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport, Finding
from assay.audit.installation import Base, Installation
from assay.audit.rules import RULES
from assay.foundation.outcome import Outcome, Severity, Verdict
from assay.matrix.lock import HEAVY_BYTES, Lock, LockedWheel
from assay.pipeline.audit import Auditor
from assay.pipeline.audit_image import audit_image
from assay.pipeline.read_wheel import Depth, read_wheel
from assay.ports.index import IndexFile
from assay.wheels.facts import WheelFacts

ROOT = Path(__file__).parents[2]
SITE = "/opt/venv/lib/python3.11/site-packages"
BOOKWORM = Base(name="slim", glibc="2.36", glibcxx="3.4.30", cxxabi="1.3.13", sonames=frozenset())
ELF = ROOT / "tests" / "fixtures" / "elf"
CONSUMER = (ELF / "libconsumer.so").read_bytes()
PROVIDER = (ELF / "libprovider.so.1").read_bytes()
SM90 = TargetGpu(name="sm_90", capability=90)


def record(files: dict[str, bytes]) -> str:
    def digest(data: bytes) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

    return "".join(f"{path},sha256={digest(data)},{len(data)}\n" for path, data in files.items())


def index_file(
    folder: Path, name: str, version: str, files: dict[str, bytes], requires: tuple[str, ...] = ()
) -> IndexFile:
    """Return a real wheel of some files, with its RECORD."""
    path = folder / f"{name.replace('-', '_')}-{version}-cp311-abi3-linux_x86_64.whl"
    path.write_bytes(wheel_bytes(name.replace("-", "_"), version, files, record=record(files), requires=requires))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return IndexFile(project=name, filename=path.name, url=path.as_uri(), sha256=sha256, size=path.stat().st_size)


def judged(*wheels: WheelFacts, targets: tuple[TargetGpu, ...] = ()) -> AuditReport:
    installation = Installation(wheels=wheels, python="3.11", base=BOOKWORM)
    return audit(installation, load_knowledge(), targets=targets, name="here").report


def found(report: AuditReport, rule: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.rule == rule]


def test_record_alone_tells_which_files_a_wheel_owns(tmp_path: Path) -> None:
    files = {"cuda/bindings/driver.py": b"1", "cuda.data/purelib/cuda/core.py": b"2", "top.py": b"3"}
    wheel = read_wheel(index_file(tmp_path, "cuda", "1.0", files), WebWheels(), depth=Depth.METADATA)

    assert {".", "cuda", "cuda/bindings"} == set(wheel.files)
    assert {"core.py": base64.urlsafe_b64encode(hashlib.sha256(b"2").digest()).decode()[:12]} == wheel.files_in("cuda")


def test_a_record_that_is_wrong_about_a_library_gives_no_result_for_its_bytes(tmp_path: Path) -> None:
    """pynvvideocodec 2.0.4 was changed after its RECORD was made: its image was refused as not being of the lock."""
    lines = record({"thing/_C.abi3.so": CONSUMER}).replace(f",{len(CONSUMER)}\n", f",{len(CONSUMER) - 1}\n")
    path = tmp_path / "thing-1.0-cp311-abi3-linux_x86_64.whl"
    path.write_bytes(wheel_bytes("thing", "1.0", {"thing/_C.abi3.so": CONSUMER}, record=lines))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    file = IndexFile(project="thing", filename=path.name, url=path.as_uri(), sha256=sha256, size=path.stat().st_size)

    (wrong,) = read_wheel(file, WebWheels()).libraries
    (right,) = read_wheel(index_file(tmp_path, "other", "1.0", {"o/_C.abi3.so": CONSUMER}), WebWheels()).libraries

    assert wrong.digest is None
    assert hashlib.sha256(CONSUMER).hexdigest() == right.digest


def test_two_wheels_that_own_one_file_with_other_bytes_are_an_error_before_the_build(tmp_path: Path) -> None:
    """vLLM 0.33.0 resolved to cuda-python 12.6 beside cuda-bindings 13.5: its image failed after half an hour."""
    owners = (("cuda-bindings", "13.5.0", b"new"), ("cuda-python", "12.6.2.post1", b"old"))
    read = [
        read_wheel(index_file(tmp_path, name, version, {"cuda/bindings/driver.so": data}), WebWheels())
        for name, version, data in owners
    ]
    report = judged(*read)
    (finding,) = found(report, "R6")

    assert Severity.ERROR is finding.severity
    assert Verdict.FAIL is report.verdict
    assert ("cuda-bindings 13.5.0", "cuda/bindings/driver.so") == (finding.package, finding.library)
    assert "cuda-python 12.6.2.post1 brings with other bytes" in finding.message
    assert "remains" in finding.message


def owner(name: str, lines: str, *, size: int = 1000) -> WheelFacts:
    return facts(name, "1.0", files={"shared": lines}, size=size)


def test_the_later_layer_wins() -> None:
    (finding,) = found(judged(owner("light", "a.py 1"), owner("heavy", "a.py 2", size=HEAVY_BYTES)), "R6")

    assert finding.message.endswith("the file of light 1.0 remains, because its layer comes later")


def test_files_with_equal_bytes_are_a_note() -> None:
    report = judged(owner("one", "a.py 1\nb.py 2"), owner("two", "a.py 1\nb.py 2"))
    (finding,) = found(report, "R6")

    assert Severity.INFO is finding.severity
    assert finding.message == "brings shared/a.py and 1 more files, which two 1.0 brings too: the bytes are the same"
    assert Verdict.OK is report.verdict


def test_a_path_that_is_known_to_be_harmless_is_a_note_with_the_reason() -> None:
    one, two = (facts(name, "1.0", files={".": f"build_backend.py {name}"}) for name in ("one", "two"))
    (finding,) = found(judged(one, two), "R6")

    assert Severity.INFO is finding.severity
    assert "nothing imports it at run time" in finding.message


def test_wheels_that_share_a_folder_but_no_file_say_nothing() -> None:
    assert [] == found(judged(owner("one", "a.py 1"), owner("two", "b.py 1")), "R6")


def torch_and(*wheels: WheelFacts) -> tuple[WheelFacts, ...]:
    code = library("torch/lib/libtorch_cuda.so", sass=("90",))
    return facts("torch", "2.14.1", code, cuda="13.0"), *wheels


@pytest.mark.parametrize(
    ("compiler", "headers", "together"),
    [
        ("13.0.88", "13.0.96", True),
        ("13.5.37", "13.5.37", True),
        ("13.0.88", "13.5.37", False),
        ("13.5.37", "13.0.96", False),
    ],
)
def test_nvcc_and_the_headers_must_be_of_one_minor(compiler: str, headers: str, together: bool) -> None:
    """All four measured, facts of the toolkit of wheels; what compiles at run time is predicted broken."""
    toolkit = [facts(name, compiler) for name in ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm")]
    toolkit += [facts("nvidia-cuda-runtime", headers), facts("flashinfer-python", "0.7.2")]
    report = judged(*torch_and(*toolkit), targets=(SM90,))
    flashinfer = next(item for item in report.predictions if item.feature == "flashinfer")

    assert together is (found(report, "R7") == [])
    assert together is (flashinfer.outcome is Outcome.WORKS)
    if not together:
        assert [Severity.ERROR] * 3 == [finding.severity for finding in found(report, "R7")]
        assert "toolkit-nvcc-headers-mismatch" == flashinfer.cause
        assert f"nvidia-cuda-nvcc {compiler} and nvidia-cuda-runtime {headers}" in flashinfer.reason
        minor = headers.rpartition(".")[0]
        assert f"nvidia-cuda-nvcc=={minor}.*" in [finding.constraint for finding in found(report, "R7")]


def test_a_compiler_that_nothing_uses_is_a_warning() -> None:
    report = judged(*torch_and(facts("nvidia-cuda-nvcc", "13.5.37"), facts("nvidia-cuda-runtime", "13.0.96")))
    (finding,) = found(report, "R7")

    assert Severity.WARNING is finding.severity
    assert "nothing in this set is known to need them to agree" in finding.message


@pytest.mark.parametrize(
    ("package", "version", "beside", "its_version", "constraint"),
    [
        ("cuda-python", "12.6.2.post1", "cuda-bindings", "13.5.0", "cuda-python>=13,<14"),
        ("cuda-python", "13.4.4", "cuda-bindings", "13.4.4", None),
        ("flashinfer-cubin", "0.6.13", "flashinfer-python", "0.6.14", "flashinfer-cubin==0.6.14"),
        ("flashinfer-jit-cache", "0.6.14+cu130", "flashinfer-python", "0.6.14", None),
        ("torchcodec", "0.14.0", "torch", "2.10.0", "torchcodec~=0.10.0"),
        ("torchcodec", "0.17.0", "torch", "2.14.1", None),
        ("torchcodec", "0.99.0", "torch", "2.10.0", None),
        ("torchaudio", "2.11.0", "torch", "2.8.0", ""),
    ],
)
def test_companions(package: str, version: str, beside: str, its_version: str, constraint: str | None) -> None:
    report = judged(facts(package, version), facts(beside, its_version))

    assert ([] if constraint is None else [constraint]) == [item.constraint for item in found(report, "R7")]


# --- what the audit of an image finds, the audit of its wheels finds before the build ------------------------------

SHARED = {"thing/_C.abi3.so": CONSUMER, "thing/lib/libprovider.so.1": PROVIDER}
CHANGED = CONSUMER.replace(b"libprovider.so.1\0", b"libprovidex.so.1\0")
ONLY_IN_IMAGES = {"R5": "what a build did to the locked wheels shows in the image alone; overlapping wheels are R6's"}
Wheels = dict[tuple[str, str], tuple[dict[str, bytes], tuple[str, ...]]]
FAULTS: dict[str, Wheels] = {
    "nothing wrong": {("thing", "1.0"): (SHARED, ())},
    "two owners of one library": {
        ("thing", "1.0"): (SHARED, ()),
        ("other", "1.0"): ({"thing/_C.abi3.so": CHANGED}, ()),
    },
    "a library that is nowhere": {("thing", "1.0"): ({"thing/_C.abi3.so": CONSUMER}, ())},
    "a requirement that is not met": {("thing", "1.0"): (SHARED, ("other>=2",)), ("other", "1.0"): ({"o.py": b""}, ())},
    "companions": {("cuda-python", "12.6.2"): ({"a.py": b""}, ()), ("cuda-bindings", "13.5.0"): ({"b.py": b""}, ())},
}


@pytest.mark.parametrize("wheels", FAULTS.values(), ids=FAULTS)
def test_whatever_the_image_shows_the_wheels_have_shown(tmp_path: Path, wheels: Wheels) -> None:
    """An error that the image's audit finds first costs a build; only R5 may be new, as the consequence of R6."""
    cache = FactsCache(tmp_path / "facts")
    auditor = Auditor(index=SimpleIndex(), wheels=WebWheels(), facts=cache, knowledge=load_knowledge())
    locked, installed = [], dict[str, bytes]()
    for (name, version), (files, requires) in wheels.items():
        file = index_file(tmp_path, name, version, files, requires=requires)
        cache.put(read_wheel(file, WebWheels()))
        locked.append(LockedWheel(name=name, version=version, filename=file.filename, sha256=str(file.sha256)))
        info = f"{SITE}/{name.replace('-', '_')}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        installed |= {f"{info}/METADATA": metadata.encode(), f"{info}/RECORD": record(files).encode()}
        installed |= {f"{SITE}/{path}": data for path, data in files.items()}
    lock = Lock(
        cell="c", python="3.11", platform="x86_64-manylinux_2_36", requirements=(), base="slim", wheels=tuple(locked)
    )
    before = judged(*auditor.known(lock))
    after = audit_image(
        FakeEngine({"made:1": FakeImage(files=installed)}), "made:1", auditor, targets=(), name="c", lock=lock
    )
    owned = {finding.library for finding in found(before, "R6")}
    known = {(finding.rule, finding.package) for finding in before.of(Severity.ERROR)}
    late = [
        finding
        for finding in after.of(Severity.ERROR)
        if (finding.rule, finding.package) not in known and finding.library not in owned
    ]

    assert [] == late


def test_every_rule_but_those_of_images_is_applied_to_wheels() -> None:
    """A rule named in neither list is new: say where it is applied."""
    of_wheels = {"R1", "R2", "R3", "R4", "R6", "R7", "L1", "L3", "L4", "L5", "L6", "L7", "L8", "L9", "L10", "G1", "G2",
                 "G3", "G4", "F1"}  # fmt: skip

    assert set(RULES) == of_wheels | ONLY_IN_IMAGES.keys()
