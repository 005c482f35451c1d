"""Checks a release, builds its distributions and checks them: `python tools/release.py [--dry-run]`.

A dry run needs neither a tag nor a dated section of the changelog, and leaves nothing in dist/.
"""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from email.message import Message
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")


def source_problems(root: Path, *, dry_run: bool) -> Iterator[str]:
    """Yield what is wrong with the version and the changelog."""
    version = str(tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"])
    if not _VERSION.fullmatch(version):
        yield f"pyproject.toml: the version {version} is not of the form X.Y.Z"
    if f'__version__ = "{version}"' not in (root / "src" / "assay" / "__init__.py").read_text("utf-8"):
        yield f"src/assay/__init__.py: __version__ differs from {version} in pyproject.toml"
    text = (root / "CHANGELOG.md").read_text("utf-8")
    sections = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?$", text, re.MULTILINE)
    if not sections or sections[0][0] != "Unreleased":
        yield "CHANGELOG.md: the first section is not [Unreleased]"
    if not dry_run and not any(name == version and date for name, date in sections):
        yield f"CHANGELOG.md: no section `## [{version}] - YYYY-MM-DD`; move the entries of [Unreleased] there"


def tag_problems(root: Path) -> Iterator[str]:
    """Yield what is wrong with the working tree and the tag of the release."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout

    version = str(tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"])
    if git("status", "--porcelain").strip():
        yield "the working tree has changes; commit them first"
    if f"v{version}" not in git("tag", "--points-at", "HEAD").split():
        yield f"the commit has no tag v{version}; create it with `git tag --sign v{version}`"


def distribution_problems(folder: Path, version: str) -> Iterator[str]:
    """Yield what is wrong with the distributions in a folder."""
    wheels, archives = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(archives) != 1:
        yield f"expected one wheel and one source archive, found {len(wheels)} and {len(archives)}"
        return
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = wheel.namelist()
        metadata = next((name for name in names if name.endswith(".dist-info/METADATA")), None)
        yield from _metadata_problems(wheels[0].name, wheel.read(metadata) if metadata else b"", version)
        for wanted in ("assay/py.typed", "assay/__main__.py"):
            if wanted not in names:
                yield f"{wheels[0].name}: {wanted} is missing"
    with tarfile.open(archives[0]) as archive:
        inside = next(
            (name for name in archive.getnames() if name.count("/") == 1 and name.endswith("/PKG-INFO")), None
        )
        file = archive.extractfile(inside) if inside else None
        yield from _metadata_problems(archives[0].name, file.read() if file else b"", version)


def _metadata_problems(name: str, raw: bytes, version: str) -> Iterator[str]:
    found: Message = email.message_from_bytes(raw)
    if found["Version"] != version:
        yield f"{name}: the version of its metadata is {found['Version']}, expected {version}"
    if found["Description-Content-Type"] != "text/markdown" or not str(found.get_payload()).strip():
        yield f"{name}: the metadata has no description in Markdown"
    if not found["Requires-Python"]:
        yield f"{name}: the metadata does not state which Python it requires"


def build(root: Path, folder: Path) -> None:
    """Build the wheel and the source archive of the project."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], check=True, cwd=root)


def main(arguments: Sequence[str]) -> int:
    """Check, build and check again; return 1 if anything is wrong."""
    dry_run = "--dry-run" in arguments
    found = list(source_problems(ROOT, dry_run=dry_run))
    if not dry_run:
        found += tag_problems(ROOT)
    version = str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])
    if not found:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) if dry_run else ROOT / "dist"
            if not dry_run and folder.is_dir() and any(folder.iterdir()):
                print("error: dist/ has files of an earlier build; remove them", file=sys.stderr)
                return 1
            build(ROOT, folder)
            found += distribution_problems(folder, version)
            built = ", ".join(sorted(path.name for path in folder.iterdir()))
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if not found:
        print(f"{version}: ready to release{' (dry run)' if dry_run else ''}: {built}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
