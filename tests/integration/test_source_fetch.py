"""The lines of the template that fetch a source, run with git against a repository on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from jinja2 import Environment

from assay.matrix.model import SourceTree

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
URL = "https://source.example/x"


def git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ("-c", "user.name=x", "-c", "user.email=x@example.invalid")
    command: list[str | Path] = ["git", *who, "-C", folder, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "release")
    (folder / "file").write_text("one")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "-a", "v1", "-m", "v1")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    return folder


def fetch(root: Path, tmp_path: Path, origin: Path, source: SourceTree) -> subprocess.CompletedProcess[str]:
    template = (root / "templates" / "server.Dockerfile.j2").read_text()
    lines = template[template.index("git init --quiet /src") : template.index("cd /src{{")]
    place = tmp_path / "src"
    shutil.rmtree(place, ignore_errors=True)
    environment = Environment(autoescape=False)
    environment.filters["sh"] = lambda text: f"'{text}'"
    script = environment.from_string(lines).render(build={"source": source}).replace("/src", str(place))
    return subprocess.run(
        ["sh", "-euc", script],
        check=False,
        capture_output=True,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{origin}.insteadOf",
            "GIT_CONFIG_VALUE_0": URL,
        },
    )


def test_a_tag_and_a_commit_are_fetched(root: Path, tmp_path: Path, origin: Path) -> None:
    commit = git(origin, "rev-parse", "HEAD")
    for source in (
        SourceTree(git=URL, ref="v1"),
        SourceTree(git=URL, ref="v1", commit=commit),
        SourceTree(git=URL, ref=commit),
    ):
        done = fetch(root, tmp_path, origin, source)

        assert 0 == done.returncode, done.stderr
        assert "one" == (tmp_path / "src" / "file").read_text()


def test_a_branch_is_not_found(root: Path, tmp_path: Path, origin: Path) -> None:
    done = fetch(root, tmp_path, origin, SourceTree(git=URL, ref="release"))

    assert 0 != done.returncode
    assert "refs/tags/release" in done.stderr


def test_a_tag_that_moved_is_refused(root: Path, tmp_path: Path, origin: Path) -> None:
    before = git(origin, "rev-parse", "HEAD")
    (origin / "file").write_text("two")
    git(origin, "commit", "--quiet", "-am", "two")
    git(origin, "tag", "-f", "v1")
    done = fetch(root, tmp_path, origin, SourceTree(git=URL, ref="v1", commit=before))

    assert 1 == done.returncode
    assert f"the recipe pins {before}" in done.stderr
    assert f"is the commit {git(origin, 'rev-parse', 'HEAD')} now" in done.stderr
