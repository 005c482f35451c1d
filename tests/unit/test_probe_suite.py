"""assay and the harness inside an image agree on what the probe suite is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from assay.adapters.executors.probe_suite import digest_of_suite, load_suite


def test_the_digest_is_the_one_that_the_harness_records(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("harness", root / "probes" / "harness.py")
    assert spec is not None
    assert spec.loader is not None
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)

    assert harness.suite_digest(str(root / "probes")) == digest_of_suite(load_suite(root))


def test_a_program_of_the_project_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    shipped = load_suite()
    program = tmp_path / "probes" / "features" / "marlin.py"
    program.parent.mkdir(parents=True)
    program.write_text("own")
    program.with_name("another.py").write_text("new")
    mine = load_suite(tmp_path)

    assert {**shipped, "features/marlin.py": b"own", "features/another.py": b"new"} == mine
    assert digest_of_suite(shipped) != digest_of_suite(mine)
