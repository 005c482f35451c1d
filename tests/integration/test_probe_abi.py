"""The probe abi-import on small packages that are built here: what it must find, and what it must not blame."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

FINE = "int fine(void) { return 0; }"
UNDEFINED = "extern int of_another_torch(void); int broken(void) { return of_another_torch(); }"
# As torch does with a second registration of one namespace of operators.
ONCE = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void once(void) {
    if (getenv("REGISTERED")) { fputs("  what():  Only a single TORCH_LIBRARY can be used\\n", stderr); abort(); }
    setenv("REGISTERED", "1", 1);
}
"""


class Place:
    """A folder of packages that a Python of its own finds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site-packages"

    def package(self, name: str, init: str = "") -> None:
        (self.site / name).mkdir(parents=True)
        (self.site / name / "__init__.py").write_text(init)

    def build(self, path: str, text: str, *arguments: str) -> Path:
        target = self.site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        source = self.folder / "source.c"
        source.write_text(text)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", target, source, *arguments], check=True)
        return target

    def wanting(self, path: str, library: str, text: str = FINE) -> None:
        """Build an extension that needs a library which is then taken away."""
        needed = self.build(f"gone/{library}", "int gone(void) { return 0; }", f"-Wl,-soname,{library}")
        self.build(path, text, "-Wl,--no-as-needed", str(needed))
        shutil.rmtree(needed.parent)

    def probe(self, root: Path) -> dict[str, Any]:
        probes = root / "probes"
        out = self.folder / "out"
        out.mkdir()
        subprocess.run(
            [sys.executable, probes / "probelib" / "run.py", probes / "features" / "abi_import.py", out],
            check=True, capture_output=True, timeout=120,
            env={**os.environ, "PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        found: dict[str, Any] = json.loads((out / "outcome.json").read_text())
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_builds_of_one_library_for_several_cards_do_not_meet_in_one_process(place: Place, root: Path) -> None:
    place.package("sgl_kernel")
    for card in ("sm90", "sm100"):
        place.build(f"sgl_kernel/{card}/common_ops.abi3.so", ONCE)

    found = place.probe(root)

    assert ("works", "") == (found["outcome"], found["reason"])
    assert (2, 2) == (found["metrics"]["libraries"], found["metrics"]["libraries_loaded"])


@pytest.mark.parametrize(
    ("first", "second", "text", "reason"),
    [
        # Of other names, so that nothing says that only one of them is loaded.
        ("common_ops", "flash_ops", ONCE, ": loading it ends the process (-6) what():  Only a single"),
        ("sm90/common_ops", "sm100/common_ops", UNDEFINED, ""),
    ],
)
def test_a_library_that_does_not_load_is_found(
    place: Place, root: Path, *, first: str, second: str, text: str, reason: str
) -> None:
    place.package("sgl_kernel")
    place.build(f"sgl_kernel/{first}.abi3.so", ONCE)
    place.build(f"sgl_kernel/{second}.abi3.so", text)

    found = place.probe(root)

    assert "broken" == found["outcome"]
    assert f"sgl_kernel/{second}.abi3.so{reason}" in found["reason"]
    assert 1 == found["metrics"]["libraries_loaded"]


def test_optional_extension_without_its_system_library_is_a_note(place: Place, root: Path) -> None:
    place.package("torchaudio")
    place.build("torchaudio/lib/_torchaudio.so", FINE)
    place.wanting("torchaudio/lib/_torchaudio_sox.so", "libsox.so")

    found = place.probe(root)

    assert ("works", "torchaudio/lib/_torchaudio_sox.so wants libsox.so") == (
        found["outcome"],
        found["metrics"]["optional"],
    )
    assert ["optional: torchaudio/lib/_torchaudio_sox.so wants libsox.so"] == found["notes"]


@pytest.mark.parametrize("library", ["libsox.so", "libtorch.so"])
def test_any_other_fault_of_an_optional_extension_counts(place: Place, root: Path, library: str) -> None:
    place.package("torchaudio")
    if library == "libsox.so":
        place.build("torchaudio/lib/_torchaudio_sox.so", UNDEFINED)
    else:
        place.wanting("torchaudio/lib/_torchaudio_sox.so", library)

    found = place.probe(root)

    assert "broken" == found["outcome"]
    assert "torchaudio/lib/_torchaudio_sox.so: " in found["reason"]
    assert "optional" not in found["metrics"]


@pytest.mark.parametrize("survives", [True, False])
def test_reason_states_whether_the_package_works_without_its_extension(
    place: Place, root: Path, *, survives: bool
) -> None:
    load = "import ctypes, glob\nctypes.CDLL(glob.glob(__file__.replace('__init__.py', '_C*.so'))[0])\n"
    guarded = "try:\n    " + load.replace("\n", "\n    ") + "pass\nexcept Exception:\n    pass\n"
    place.package("torchao", guarded if survives else load)
    place.build("torchao/_C.abi3.so", UNDEFINED)

    found = place.probe(root)

    assert "broken" == found["outcome"]
    assert "undefined symbol: of_another_torch" in found["reason"]
    assert survives == ("torchao itself imports; what is in this library fails" in found["reason"])
