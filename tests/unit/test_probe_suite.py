"""assay and the harness inside an image agree on what the probe suite is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from assay.adapters.executors.probe_suite import suite_digest


def test_the_digest_is_the_one_that_the_harness_records(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("harness", root / "probes" / "harness.py")
    assert spec is not None
    assert spec.loader is not None
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)

    assert harness.suite_digest(str(root / "probes")) == suite_digest(root / "probes")


def test_a_changed_program_changes_it(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    program = tmp_path / "features" / "one.py"
    program.write_text("a")
    first = suite_digest(tmp_path)
    program.write_text("b")

    assert first != suite_digest(tmp_path)
    assert suite_digest(tmp_path / "nothing") is None
