"""Questions that people asked of real wheels, and the right answers; `python tests/support/field_audits.py` records.

What is recorded are facts of these wheels, as `assay audit --quick` reads them, with less of their symbols.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from shelf import Shelf

from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.files.project import ProjectFiles
from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport
from assay.audit.gpu import capability_of
from assay.audit.installation import Base
from assay.cli.asking import Asker, Question
from assay.foundation.outcome import Severity, Verdict
from assay.pipeline.audit import Auditor
from assay.pipeline.bases import base_of
from assay.wheels.facts import WheelFacts

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "data" / "audit" / "field.json.xz"
SYMBOLS = 60
"""Names that are kept of what a library asks for of nobody in particular."""


class Asked(NamedTuple):
    """A question and its right answer."""

    name: str
    words: tuple[str, ...]
    verdict: Verdict
    errors: tuple[tuple[str, str], ...] = ()
    """Rule and a part of the message of each error that has to be there; without any, there must be none."""
    others: tuple[str, ...] = ()
    torch: str | None = None
    target: str | None = None
    machine: str | None = None
    base: str | None = None
    python: str | None = None
    unread: bool = False
    """Whether the answer has to say that GPU code was not read."""


_ARM = (
    "https://files.example/bitsandbytes-0.50.2-py3-none-manylinux_2_24_aarch64.whl"
    "#sha256=d5772560dd94c4d9c57f50c9b017450a1707f7687bfd4b3dc86f7342aafe721e"
)
ASKED = (
    Asked("sglang-kernel on DGX Spark", ("sglang-kernel==0.4.10",), Verdict.OK,
          torch="2.14.1", target="sm_121", machine="aarch64", unread=True),
    Asked("aarch64 wheel beside torch for x86_64", (_ARM,), Verdict.FAIL, (("R2", "is for Linux aarch64"),),
          torch="2.10.0", machine="x86_64"),
    Asked("nixl, a meta package", ("nixl==1.1.0",), Verdict.FAIL,
          (("L1", "libcudart.so.13"), ("R6", "nixl_ep/nixl_ep_cpp")), torch="2.10.0"),
    Asked("nixl-cu13 on torch for CUDA 12", ("nixl-cu13==1.1.0",), Verdict.FAIL, (("L1", "libcudart.so.13"),),
          torch="2.10.0"),
    Asked("torchcodec, all alternatives", ("torchcodec==0.14.0",), Verdict.FAIL,
          (("L3", "none of the 5 libraries"), ("R7", "torchcodec is built for one torch release")), torch="2.10.0"),
    Asked("onnxruntime-gpu's plug-in", ("onnxruntime-gpu==1.31.1",), Verdict.FAIL,
          (("L1", "libonnxruntime_providers_cuda.so needs libcublasLt.so.13"),), torch="2.10.0"),
    Asked("onnxruntime-gpu on torch for CUDA 13", ("onnxruntime-gpu==1.31.1",), Verdict.OK, torch="2.14.1"),
    Asked("cupy on a CUDA devel base", ("cupy-cuda12x==14.2.0",), Verdict.OK, base="cuda12.9.devel"),
    Asked("free-threaded siblings", ("nvidia-dali-cuda130==2.4.0",), Verdict.OK),
    Asked("ctranslate2, linked statically", ("ctranslate2==4.8.5",), Verdict.OK, target="sm_120", unread=True),
    Asked("catboost, linked statically", ("catboost==1.2.7",), Verdict.OK, target="sm_120", unread=True),
    Asked("warp, linked statically", ("warp-lang==1.15.0",), Verdict.OK, target="sm_120", unread=True),
    Asked("tilelang and TVM's FFI", ("tilelang==0.1.8",), Verdict.FAIL, (("R7", "apache-tvm-ffi 0.1.12"),),
          others=("apache-tvm-ffi==0.1.12",), torch="2.10.0", python="3.12"),
    Asked("sgl-kernel for an older torch", ("sgl-kernel==0.3.18",), Verdict.FAIL, (("L3", "sym_ne"),),
          torch="2.9.1"),
    Asked("vllm's pin", ("vllm==0.33.0",), Verdict.FAIL, (("R1", "requires torch==2.14.0"),), torch="2.15.0"),
    Asked("sglang-kernel's pin", ("sglang-kernel==0.4.10",), Verdict.FAIL, (("R1", "requires torch==2.14.1"),),
          torch="2.14.0"),
    Asked("flashinfer's three parts", ("flashinfer-python==0.7.4",), Verdict.FAIL, (("R7", "RuntimeError at import"),),
          others=("flashinfer-cubin==0.6.13",), torch="2.14.1", python="3.12"),
    Asked("bitsandbytes", ("bitsandbytes==0.50.2",), Verdict.OK, torch="2.10.0"),
    Asked("xformers", ("xformers==0.0.35",), Verdict.WARN),
    Asked("fastsafetensors", ("fastsafetensors==0.2.2",), Verdict.OK, torch="2.10.0"),
    Asked("cupy for CUDA 13", ("cupy-cuda13x==14.2.0",), Verdict.OK, base="cuda13.0.devel"),
    Asked("nixl-cu13 on its torch", ("nixl-cu13==1.5.1",), Verdict.WARN, base="cuda13.0.devel"),
    Asked("torchao", ("torchao==0.15.0",), Verdict.WARN, torch="2.10.0"),
)  # fmt: skip


def answer(asked: Asked, auditor: Auditor, index: Any) -> AuditReport:
    """Return what assay answers."""
    matrix = ProjectFiles(ROOT).load().matrix
    sonames = auditor.knowledge.sonames
    base = Base(name="not given", sonames=frozenset(sonames.optional_base), known=False)
    if asked.base is not None:
        base = base_of(matrix.bases[asked.base], asked.base, (), auditor.knowledge)
    targets = [TargetGpu(name=name, capability=capability_of(name)) for name in [asked.target] if name is not None]
    question = Question(
        words=asked.words, others=asked.others, torch=asked.torch, python=asked.python, machine=asked.machine,
        targets=tuple(targets),
    )  # fmt: skip
    return Asker(auditor, index, base).answer(question)


@cache
def shelf() -> Shelf:
    """Return the recorded wheels."""
    kept = json.loads(lzma.decompress(RECORDED.read_bytes()))
    return Shelf(*(WheelFacts.model_validate(one) for one in kept))


def recorded(asked: Asked) -> AuditReport:
    """Return what assay answers of the recorded wheels."""
    there: Any = shelf()
    return answer(asked, Auditor(index=there, wheels=there, facts=there, knowledge=load_knowledge(), quick=True), there)


# -------------------------------------------------------------------------------------------------------- recording


def _less(wheel: WheelFacts, names: frozenset[str]) -> WheelFacts:
    def some(lines: str) -> str:
        every = lines.split("\n")
        kept = [line for line in every if line.partition("@")[0] in names or line.startswith("PyInit_")]
        return "\n".join(sorted({*kept, *every[:SYMBOLS]}))

    libraries = tuple(
        item.model_copy(update={
            "defined": {key: some(lines) for key, lines in item.defined.items()},
            "digest": None, "table": None,
        })
        for item in wheel.libraries
    )  # fmt: skip
    return wheel.model_copy(
        update={
            "libraries": libraries,
            "files": wheel.files if wheel.name.startswith("nixl") else {},
            "modules": (),
            "tags": (),
        }
    )


def _names(wheels: Iterable[WheelFacts]) -> frozenset[str]:
    return frozenset(
        line.partition("@")[0]
        for wheel in wheels for item in wheel.libraries for lines in item.undefined.values()
        for line in lines.split("\n")
    )  # fmt: skip


def _record() -> None:
    from assay.adapters.files.facts_cache import FactsCache
    from assay.adapters.index.simple import SimpleIndex, WebWheels

    class Kept(FactsCache):
        def put(self, facts: WheelFacts) -> None:
            super().put(facts)
            seen[facts.sha256] = facts

        def get(self, sha256: str, **more: Any) -> WheelFacts | None:
            found = super().get(sha256, **more)
            if found is not None:
                seen[sha256] = self.whole(sha256) or found
            return found

    seen: dict[str, WheelFacts] = {}
    index = SimpleIndex({})
    facts = Kept(Path("/tmp") / "field-facts")
    auditor = Auditor(index=index, wheels=WebWheels(), facts=facts, knowledge=load_knowledge(), quick=True)
    for asked in ASKED:
        words = asked.words
        if words == (_ARM,):
            file = next(one for one in index.files("bitsandbytes") if one.filename in _ARM)
            words = (f"{file.url}#sha256={file.sha256}",)
        report = answer(asked._replace(words=words), auditor, index)
        print(asked.name, report.verdict, [f"{item.rule} {item.message[:90]}" for item in report.of(Severity.ERROR)])
    names = _names(seen.values())
    kept = [_less(wheel, names).model_dump(mode="json", exclude_defaults=True) for _, wheel in sorted(seen.items())]
    RECORDED.write_bytes(lzma.compress(json.dumps(kept, separators=(",", ":")).encode(), preset=9))


if __name__ == "__main__":
    _record()
