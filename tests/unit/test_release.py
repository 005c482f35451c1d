"""A release is refused if its version, changelog or distributions are wrong."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import release

METADATA = (
    b"Name: assay-images\nVersion: 1.2.3\nRequires-Python: >=3.11\nDescription-Content-Type: text/markdown\n\n# assay\n"
)


def project(folder: Path, *, version: str = "1.2.3", own: str = "1.2.3", changelog: str) -> Path:
    (folder / "src" / "assay").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    (folder / "src" / "assay" / "__init__.py").write_text(f'__version__ = "{own}"\n')
    (folder / "CHANGELOG.md").write_text(changelog)
    return folder


def distributions(folder: Path, metadata: bytes = METADATA, *, typed: bool = True) -> Path:
    with zipfile.ZipFile(folder / "assay_images-1.2.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("assay_images-1.2.3.dist-info/METADATA", metadata)
        wheel.writestr("assay/__main__.py", "")
        if typed:
            wheel.writestr("assay/py.typed", "")
    with tarfile.open(folder / "assay_images-1.2.3.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("assay_images-1.2.3/PKG-INFO")
        info.size = len(metadata)
        archive.addfile(info, io.BytesIO(metadata))
    return folder


RELEASED = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-12-01\n"


def test_consistent_release_has_no_problems(tmp_path: Path) -> None:
    assert list(release.source_problems(project(tmp_path, changelog=RELEASED), dry_run=False)) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"own": "1.2.2", "changelog": RELEASED}, "__version__ differs"),
        ({"version": "1.2", "own": "1.2", "changelog": RELEASED}, "not of the form"),
        ({"changelog": "# Changelog\n\n## [Unreleased]\n"}, "no section `## [1.2.3]"),
        ({"changelog": "# Changelog\n\n## [Unreleased]\n\n## [1.2.3]\n"}, "no section `## [1.2.3]"),
        ({"changelog": "# Changelog\n\n## [1.2.3] - 2026-12-01\n"}, "first section"),
    ],
)
def test_inconsistent_release_is_refused(tmp_path: Path, words: dict[str, str], problem: str) -> None:
    found = list(release.source_problems(project(tmp_path, **words), dry_run=False))

    assert any(problem in text for text in found)


def test_dry_run_needs_no_dated_section(tmp_path: Path) -> None:
    made = project(tmp_path, changelog="# Changelog\n\n## [Unreleased]\n")

    assert list(release.source_problems(made, dry_run=True)) == []


def test_complete_distributions_have_no_problems(tmp_path: Path) -> None:
    assert list(release.distribution_problems(distributions(tmp_path), "1.2.3")) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b"Version: 1.2.3", b"Version: 1.2.2", "is 1.2.2, expected 1.2.3"),
        (b"text/markdown", b"text/plain", "no description"),
        (b"Requires-Python: >=3.11\n", b"", "which Python"),
    ],
)
def test_wrong_metadata_is_found_in_both_distributions(tmp_path: Path, old: bytes, new: bytes, problem: str) -> None:
    found = list(release.distribution_problems(distributions(tmp_path, METADATA.replace(old, new)), "1.2.3"))

    assert len(found) == 2
    assert all(problem in text for text in found)


def test_missing_files_are_found(tmp_path: Path) -> None:
    assert list(release.distribution_problems(distributions(tmp_path, typed=False), "1.2.3")) == [
        "assay_images-1.2.3-py3-none-any.whl: assay/py.typed is missing"
    ]
    (tmp_path / "assay_images-1.2.3.tar.gz").unlink()
    assert list(release.distribution_problems(tmp_path, "1.2.3")) == [
        "expected one wheel and one source archive, found 1 and 0"
    ]
