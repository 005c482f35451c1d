"""The benchmark of the starter cells works in a checkout in which tools were fetched."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_a_checkout_with_links_that_lead_nowhere_is_copied(root: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("starter", root / "bench" / "starter.py")
    assert spec is not None
    assert spec.loader is not None
    starter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(starter)
    checkout = tmp_path / "checkout"
    (checkout / ".assay" / "tools").mkdir(parents=True)
    (checkout / ".assay" / "tools" / "dead").symlink_to("nowhere")
    (checkout / "images").mkdir()
    (checkout / "images" / "dead").symlink_to("nowhere")
    (checkout / "matrix.yaml").write_text("targets: {}\n")
    starter.copy_project(checkout, tmp_path / "copy")

    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["images", "matrix.yaml"]
    assert (tmp_path / "copy" / "images" / "dead").is_symlink()
