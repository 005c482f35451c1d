"""GPU code of real wheels with guards; `python tests/support/guard_wheels.py` records it from the facts kept here.

Of each library that a guard is about, the targets of its containers and a few names of kernels are kept.
"""

from __future__ import annotations

import json
import lzma
import re
from functools import cache
from pathlib import Path

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.files.knowledge import load_knowledge
from assay.audit.audit import audit
from assay.audit.context import TargetGpu
from assay.audit.findings import Finding
from assay.audit.gpu import capability_of
from assay.audit.installation import Base, Installation
from assay.wheels.facts import Library, WheelFacts
from assay.wheels.gpu_code import CodeGroup, GpuCode

RECORDED = Path(__file__).parents[1] / "data" / "audit" / "guards.json.xz"
WHEELS = (
    ("vllm", "0.28.0"), ("vllm", "0.30.0"), ("vllm", "0.32.0"), ("vllm", "0.33.0"), ("sglang-kernel", "0.4.0"),
    ("sglang-kernel", "0.4.10"), ("sglang", "0.5.23"),
)  # fmt: skip
KERNELS = 2


@cache
def _wheels() -> dict[str, WheelFacts]:
    kept = json.loads(lzma.decompress(RECORDED.read_bytes()))
    return {one["filename"]: WheelFacts.model_validate(one) for one in kept}


def wheel(name: str, version: str, machine: str) -> WheelFacts:
    """Return a recorded wheel."""
    return next(
        one for one in _wheels().values() if (one.name, one.version) == (name, version) and machine in one.filename
    )


def told(machine: str, target: str, *named: tuple[str, str]) -> list[Finding]:
    """Return what rule G4 says of some of the wheels on a target."""
    wheels = tuple(wheel(name, version, machine) for name, version in named)
    base = Base(name="not given", known=False)
    installation = Installation(wheels=wheels, python="3.12", base=base, complete=False, machine=machine)
    targets = [TargetGpu(name=target, capability=capability_of(target))]
    report = audit(installation, load_knowledge(), targets=targets).report
    return [item for item in report.findings if item.rule == "G4"]


def _less(item: Library, patterns: list[re.Pattern[str]]) -> Library:
    groups = []
    for group in item.gpu.groups if item.gpu is not None else ():
        kept = {name for one in patterns for name in [*filter(one.search, group.kernels)][:KERNELS]}
        groups.append(CodeGroup(sass=group.sass, ptx=group.ptx, containers=group.containers,
                                kernels=tuple(sorted(kept)) or group.kernels[:1]))  # fmt: skip
    return Library(
        path=item.path, size=item.size, machine=item.machine, gpu=GpuCode(groups=tuple(groups)) if groups else None
    )


def _record() -> None:
    cache_ = FactsCache()
    guards = load_knowledge().guards.guards
    patterns = [re.compile(guard.kernels, re.IGNORECASE) for guard in guards if guard.kernels]
    found: list[WheelFacts] = []
    for name, version in WHEELS:
        for brief in cache_.named(name):
            if brief.version == version and brief.complete:
                one = cache_.whole(brief.sha256) or brief
                libraries = tuple(_less(item, patterns) for item in one.libraries)
                found.append(one.model_copy(update={
                    "libraries": libraries, "files": {}, "modules": (), "tags": (), "requires_dist": (),
                }))  # fmt: skip
    kept = [one.model_dump(mode="json", exclude_defaults=True) for one in found]
    RECORDED.write_bytes(lzma.compress(json.dumps(kept, separators=(",", ":")).encode(), preset=9))
    print(*(one.filename for one in found), sep="\n")


if __name__ == "__main__":
    _record()
