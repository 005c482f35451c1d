"""The audit's verdict against the real dynamic linker, on libraries compiled for it; needs gcc."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wheels import facts

from assay.adapters.files.knowledge import load_knowledge
from assay.audit.audit import audit
from assay.audit.installation import Base, Installation
from assay.foundation.outcome import Verdict
from assay.wheels.facts import Library
from assay.wheels.member import MemberReader

KNOWLEDGE = load_knowledge()
CONSUMER = 'namespace inner { int one(); int two(); } extern "C" int PyInit__x() { return inner::one(); }'
PROVIDERS = {
    "both": "namespace inner { int one() { return 1; } int two() { return 2; } }",
    "one": "namespace inner { int one() { return 1; } }",
    "hidden": """
        namespace inner { int one() { return 1; } __attribute__((visibility("hidden"))) int two() { return 2; } }
    """,
    "weak": "namespace inner { __attribute__((weak)) int one() { return 1; } int two() { return 2; } }",
    "absent": "",
}
PATHS = {
    "runpath": ("-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN/../x.libs"),
    "rpath": ("-Wl,--disable-new-dtags", "-Wl,-rpath,$ORIGIN/../x.libs"),
    "wrong": ("-Wl,-rpath,$ORIGIN/../y.libs",),
}


def compiled(path: Path, source: str, *options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["g++", "-shared", "-fPIC", "-O1", "-x", "c++", "-", "-x", "none", "-o", path, "-Wl,--no-as-needed", *options],
        input=source.encode(),
        check=True,
    )


def read(root: Path, path: Path) -> Library:
    data = path.read_bytes()
    reader = MemberReader(str(path.relative_to(root)), len(data))
    reader.feed(data)
    library = reader.finish()
    assert library is not None
    return library


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiles small libraries with g++")
@pytest.mark.parametrize(("provider", "path"), [*itertools.product(PROVIDERS, PATHS)])
def test_equal_to_the_dynamic_linker(tmp_path: Path, provider: str, path: str) -> None:
    site = tmp_path / "site"
    inner = site / "x.libs" / "libinner.so.1"
    compiled(inner, PROVIDERS["both"], "-Wl,-soname,libinner.so.1")
    extension = site / "x" / "_x.abi3.so"
    compiled(extension, CONSUMER, str(inner), *PATHS[path])
    if provider == "absent":
        inner.unlink()
    else:
        compiled(inner, PROVIDERS[provider], "-Wl,-soname,libinner.so.1")
    loads = subprocess.run(
        [sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(extension)!r})"],
        env={**os.environ, "LD_BIND_NOW": "1"},
        capture_output=True,
        check=False,
    ).returncode  # fmt: skip
    libraries = tuple(read(site, item) for item in (extension, inner) if item.exists())
    wheel = facts("x", "1", *libraries).model_copy(update={"filename": "x-1-cp39-abi3-linux_x86_64.whl"})
    report = audit(Installation(wheels=(wheel,), python="3.11", base=Base(name="here")), KNOWLEDGE).report
    unreachable = any("where the linker does not look" in finding.message for finding in report.findings)

    # A library that its own package might load first is told, but as no error.
    assert (loads != 0) == (report.verdict is Verdict.FAIL or unreachable)
