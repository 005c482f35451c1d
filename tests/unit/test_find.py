"""`assay find`: which release is tried next, why one fails, and what is shown of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import cast

import pytest
from packaging.requirements import Requirement

from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.index.fake import FakeIndex
from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport, Finding, Prediction, verdict_of
from assay.audit.found import Attempt, FindDocument, Search
from assay.audit.installation import Base
from assay.errors import PackageIndexError, QuestionError, UsageError
from assay.foundation.outcome import Outcome, Severity, Verdict
from assay.matrix.lock import Lock, LockedWheel
from assay.pages.found import found_text, install_command
from assay.pipeline.audit import Auditor
from assay.pipeline.find import FindPorts, Wanted, find
from assay.pipeline.releases import builds, releases
from assay.ports.resolver import Failure, Resolved, ResolveRequest, Unresolved

ABI3 = "cp38-abi3-manylinux_2_28_x86_64"
X86 = tuple(f"vllm-{version}-{ABI3}.whl" for version in ("0.31.0", "0.32.0", "0.33.0", "0.34.0rc1"))
Say = Callable[[Lock], tuple[list[Finding], list[Prediction]]]


def error(message: str, *, rule: str = "G1", **more: object) -> Finding:
    values = {"rule": rule, "severity": Severity.ERROR, "package": "vllm", "message": message, **more}
    return Finding.model_validate(values)


def prediction(feature: str, outcome: Outcome, reason: str = "because") -> Prediction:
    verdict = Verdict.OK if outcome is Outcome.WORKS else Verdict.FAIL
    return Prediction(target="sm_120", feature=feature, outcome=outcome, verdict=verdict, reason=reason)


class Resolving:
    """Resolves a requirement on the subject to itself and a torch; some requests fail."""

    def __init__(self, fails: Mapping[str, Unresolved] | None = None, torch: str = "2.14.0") -> None:
        self.fails = fails or {}
        self.torch = torch
        self.asked: list[ResolveRequest] = []

    def resolve(self, request: ResolveRequest) -> Resolved | Unresolved:
        self.asked.append(request)
        version = request.requirements[0].partition("==")[2]
        failure = self.fails.get(f"{version} {request.python}") or self.fails.get(version)
        if failure is not None:
            return failure
        torch = next((one.partition("==")[2] for one in request.constraints if one.startswith("torch==")), self.torch)
        return Resolved(wheels=(wheel("vllm", version), wheel("torch", torch)))


def wheel(name: str, version: str) -> LockedWheel:
    return LockedWheel(name=name, version=version, filename=f"{name}-{version}-{ABI3}.whl", sha256="a" * 64)


class Judging:
    """Stands for an auditor: says of a lock what a function says."""

    knowledge = load_knowledge(None)

    def __init__(self, says: Say) -> None:
        self._says = says

    def lock(
        self, lock: Lock, base: Base, *, targets: tuple[TargetGpu, ...], asked: frozenset[str] = frozenset()
    ) -> AuditReport:
        findings, predictions = self._says(lock)
        return AuditReport(
            subject="wheels",
            name=lock.cell,
            python=lock.python,
            base=base.name,
            targets=tuple(target.name for target in targets),
            verdict=verdict_of(findings, predictions),
            findings=tuple(findings),
            predictions=tuple(predictions),
            packages={one.name: one.version for one in lock.wheels},
        )


def search(
    says: Say = lambda _lock: ([], []),
    *,
    files: tuple[str, ...] = X86,
    resolver: Resolving | None = None,
    subject: str = "vllm",
    **more: object,
) -> Search:
    wanted = Wanted(
        subject=Requirement(subject),
        targets=(TargetGpu(name="sm_120", capability=120, title="RTX 5090"),),
        machine="x86_64",
        base=Base(name="not given", known=False),
        pythons=("3.12", "3.11"),
        request=ResolveRequest(requirements=(), python="3.12", platform="x86_64-manylinux_2_36"),
        **{"most": 20, **more},  # type: ignore[arg-type]
    )
    auditor = cast("Auditor", Judging(says))
    ports = FindPorts(index=FakeIndex.of(*files), resolver=resolver or Resolving(), auditor=auditor)
    return find(wanted, ports).search


def test_the_newest_release_that_fits_is_found_and_pre_releases_only_on_request() -> None:
    found = search()

    assert found.found is not None
    assert (found.found.version, len(found.attempts), found.untried) == ("0.33.0", 1, 2)
    assert search(pre=True).attempts[0].version == "0.34.0rc1"


def test_reasons_against_newer_releases_are_kept() -> None:
    def says(lock: Lock) -> tuple[list[Finding], list[Prediction]]:
        return ([error("has no code for sm_120", fix="take an older one")] if "0.33" in lock.cell else []), []

    first, second = search(says).attempts

    assert (first.version, first.outcome, first.reasons) == ("0.33.0", "fails", ("vllm: has no code for sm_120",))
    assert (second.version, second.outcome) == ("0.32.0", "fits")


def test_a_release_whose_audit_has_an_error_is_never_proposed() -> None:
    found = search(lambda _lock: ([error("does not load")], []))

    assert found.found is None
    assert [one.outcome for one in found.attempts] == ["fails"] * 3


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.WORKS])
def test_a_need_that_is_not_predicted_to_work_fails(outcome: Outcome) -> None:
    found = search(lambda _lock: ([], [prediction("marlin", outcome)]), needs=("marlin",))

    assert found.found is None
    assert found.attempts[0].lacking[0].outcome is outcome


def test_a_need_that_nothing_gives_names_what_can() -> None:
    found = search(needs=("radix-cache",))

    assert "sglang can (--with)" in found.attempts[0].lacking[0].reason
    with pytest.raises(UsageError, match="did you mean 'marlin'"):
        search(needs=("marlinn",))


def test_another_python_is_tried_where_nothing_resolves_for_the_first() -> None:
    no = Unresolved(failure=Failure.MISSING, explanation="no wheel of x for Python 3.12")
    found = search(resolver=Resolving({"0.33.0 3.12": no}))

    assert [(one.python, one.outcome) for one in found.attempts] == [("3.12", "no_lock"), ("3.11", "fits")]


def test_constraints_of_the_audit_are_tried_and_kept_for_older_releases() -> None:
    resolver = Resolving()

    def says(lock: Lock) -> tuple[list[Finding], list[Prediction]]:
        found = [] if "nvcc==13.0.*" in lock.constraints else [error("nvcc is too new", constraint="nvcc==13.0.*")]
        return [*found, *([error("no code")] if "0.33" in lock.cell else [])], []

    first, second = search(says, resolver=resolver).attempts

    assert first.reasons == ("vllm: no code",)
    assert (second.outcome, second.constraints) == ("fits", ("nvcc==13.0.*",))
    assert sum("0.32.0" in request.requirements[0] for request in resolver.asked) == 1


def test_other_cuda_builds_of_torch_are_tried() -> None:
    def says(lock: Lock) -> tuple[list[Finding], list[Prediction]]:
        torch = lock.wheel("torch")
        return ([] if torch is not None and torch.version.endswith("cu128") else [error("the driver is too old")]), []

    torches = tuple(
        f"torch-2.14.0{local}-cp312-cp312-manylinux_2_28_x86_64.whl" for local in ("", "+cpu", "+cu126", "+cu128")
    )
    found = search(says, files=(*X86, *torches)).found

    assert found is not None
    assert (found.version, found.variant) == ("0.33.0", "torch 2.14.0+cu128")
    assert list(builds(FakeIndex.of(*torches), "torch", "2.14.0", "3.12", "x86_64-manylinux_2_36")) == [
        "2.14.0+cu128",
        "2.14.0+cu126",
    ]


def test_releases_without_a_wheel_for_the_platform_say_what_there_is() -> None:
    arm = "vllm-0.35.0-cp38-abi3-manylinux_2_28_aarch64.whl"
    found = search(files=(*X86, arm, "vllm-0.36.0.tar.gz"))

    assert [(one.version, one.outcome) for one in found.attempts] == [
        ("0.36.0", "no_wheel"),
        ("0.35.0", "no_wheel"),
        ("0.33.0", "fits"),
    ]
    assert "published only as source" in found.attempts[0].reasons[0]
    assert "it has wheels for Linux aarch64" in found.attempts[1].reasons[0]


@pytest.mark.parametrize(
    ("files", "subject", "message", "hint"),
    [
        ((), "vllm", "does not know vllm", "--index"),
        (("vllm-1.0.tar.gz",), "vllm", "published as source", "build the wheel"),
        (X86, "vllm>=2", "has no vllm>=2", "its newest: 0.33.0, 0.32.0, 0.31.0"),
    ],
)
def test_what_an_index_lacks_is_no_answer(files: tuple[str, ...], subject: str, message: str, hint: str) -> None:
    with pytest.raises(QuestionError, match=message) as told:
        search(files=files, subject=subject)

    assert hint in (told.value.hint or "")


def test_an_index_that_does_not_answer_ends_the_search() -> None:
    gone = Unresolved(failure=Failure.UNREACHABLE, explanation="the index does not answer")

    with pytest.raises(PackageIndexError, match="does not answer"):
        search(resolver=Resolving({"0.33.0": gone}))


def test_withdrawn_files_are_left_out_and_local_builds_belong_to_their_release() -> None:
    names = (X86[0], X86[1], X86[1].replace("0.32.0", "0.32.0+cu129"))
    index = FakeIndex.of(*names, yanked=(X86[0],))

    assert [str(one.version) for one in releases(index, Requirement("vllm"))] == ["0.32.0"]


def test_at_most_so_many_releases_are_tried() -> None:
    found = search(lambda _lock: ([error("no")], []), most=2)

    assert (len(found.attempts), found.untried) == (2, 1)


LONG = "a reason that is long enough to be broken into several lines of a terminal " * 3


@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_fits_the_terminal_and_says_what_would_have_to_change(width: int) -> None:
    lines = list(found_text(search(lambda _lock: ([error(LONG, fix="take vllm 0.30")], [])), width=width))

    assert max(map(len, lines)) <= width
    assert any("nearest: 0.33.0" in line for line in lines)
    assert any("-> take vllm 0.30" in line for line in lines)


def test_text_of_a_fit_names_versions_features_and_the_command() -> None:
    said = [prediction("marlin", Outcome.WORKS), prediction("nvfp4", Outcome.BROKEN)]
    found = search(lambda _lock: ([], said))
    text = "\n".join(found_text(found, width=80))

    assert found.found is not None
    assert "0.33.0 fits" in text
    assert "predicted on sm_120 (RTX 5090), not measured" in text
    assert install_command(found.found) == "uv pip install --python 3.12 vllm==0.33.0 torch==2.14.0"


def test_the_document_has_a_version_and_reads_back() -> None:
    document = FindDocument(searches=(search(),))

    assert FindDocument.model_validate_json(document.model_dump_json()) == document
    assert document.schema_version == 1


def test_the_nearest_attempt_fails_least() -> None:
    one = Attempt(version="2", outcome="no_wheel", reasons=("x",))
    two = Attempt(version="1", outcome="fails", reasons=("x", "y"))
    whole = Search(asked="x", platform="x86_64", targets=(), base="b", attempts=(one, two))

    assert whole.nearest == two
    assert SimpleNamespace(found=None).found == whole.found
