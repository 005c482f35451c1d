"""A source's tag is locked to its commit: real git repositories, by file, by git's own server, and out of reach."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_index import LocalIndex, served

from assay.adapters.host.git import commit_of_tag
from assay.cli import main
from assay.errors import ToolError, ToolTimedOut

ADDRESS = "https://git.example/kernels/kernel"
MATRIX = f"""\
targets:
  sm_120: {{name: x, compute_capability: 12.0, memory_gib: 32, shared_memory_per_block: 101376, cuda: ">=12.8",
           driver: ">=570", arch_list: 12.0+PTX}}
bases:
  slim: {{kind: bootstrap, distribution: debian, suite: bookworm, python: 3.11, glibc: 2.36}}
indexes: {{pypi: {{}}}}
axes:
  torch: {{label: torch, values: [2.8.0]}}
  my_kernel:
    label: k
    values:
      - {{id: src.1.0, version: 1.0, source: {{git: "{ADDRESS}", ref: v1.0}}}}
"""
IMAGE = """\
description: an image
engine: none
targets: [sm_120]
id: [torch, my_kernel]
defaults: {base: slim}
axes: {torch: [2.8.0], my_kernel: [src.1.0]}
requirements: ["torch{{ torch.pin }}", "my-kernel{{ my_kernel.pin }}"]
"""
CELL = "images/i/cells/i-torch2.8.0-ksrc.1.0"


class GitRepository:
    """A repository whose only branch grows, and whose tags move."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch", "work")
        self.commit("one")

    def git(self, *words: str) -> str:
        who = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        who |= {f"GIT_{role}_{what}": "a@b.example" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = subprocess.run(
            ["git", *words], cwd=self.folder, env=os.environ | who, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, text: str) -> str:
        (self.folder / "kernel.py").write_text(text)
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", text)
        return self.git("rev-parse", "HEAD")

    def tag(self, name: str, *, message: str | None = None) -> str:
        self.git("tag", "--force", name, *(("--annotate", "--message", message) if message else ()))
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitRepository:
    """The repository of the recipe, which git reaches through a mirror in its configuration."""
    made = GitRepository(tmp_path / "kernel")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{made.folder}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", ADDRESS)
    return made


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "project"
    (folder / "images" / "i").mkdir(parents=True)
    (folder / "matrix.yaml").write_text(MATRIX)
    (folder / "images" / "i" / "image.yaml").write_text(IMAGE)
    index = LocalIndex(tmp_path / "index")
    index.add("torch", "2.8.0", tag="cp311-cp311-manylinux_2_28_x86_64")
    # What the released package requires is known from the index; the wheel itself stays out of the lock.
    index.add("my-kernel", "1.0")
    with served(index) as address:
        monkeypatch.setenv("UV_DEFAULT_INDEX", address)
        monkeypatch.setenv("UV_NO_CACHE", "1")
        for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(folder)
        yield folder


def without_line(project: Path) -> str:
    """Make the project's lock one of before: without the line of the source; return its text."""
    path = project / CELL / "lock.txt"
    text = re.sub(r"# source: .*\n", "", path.read_text())
    path.write_text(text)
    assert 0 == main(["render"])
    return text


def fetched(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run what the Dockerfile runs from making the checkout to the check of its commit, here."""
    text = (project / CELL / "Dockerfile").read_text()
    script = text[text.index("git init --quiet /src") : text.index("git submodule")].replace("/src", str(folder))
    return subprocess.run(["sh", "-euc", script], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("message", [None, "a tag with a message of its own"])
def test_a_tag_is_locked_to_its_commit_which_the_build_checks(
    project: Path, kernel: GitRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str], message: str | None
) -> None:
    commit = kernel.tag("v1.0", message=message)
    kernel.commit("two")

    assert 0 == main(["lock", "--no-audit"]), capsys.readouterr().err
    assert f"# source: my-kernel v1.0 {commit}\n" in (project / CELL / "lock.txt").read_text()
    assert 0 == main(["lock", "--check"])
    assert 0 == main(["render", "--check"])
    built = fetched(project, tmp_path / "src")
    assert (0, "one") == (built.returncode, (tmp_path / "src" / "kernel.py").read_text()), built.stderr


def test_a_build_refuses_a_tag_that_moved_after_the_lock(
    project: Path, kernel: GitRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kernel.tag("v1.0")
    assert 0 == main(["lock", "--no-audit"])
    kernel.commit("two")
    after = kernel.tag("v1.0")
    built = fetched(project, tmp_path / "src")

    assert 1 == built.returncode
    assert f"the tag v1.0 is the commit {after} now, and the lock pins {before}: compare both" in built.stderr
    assert "run `assay lock --refresh`" in built.stderr
    # The lock stays until somebody asks for another one, who is told.
    assert 0 == main(["lock", "--no-audit"])
    assert before in (project / CELL / "lock.txt").read_text()
    capsys.readouterr()
    assert 0 == main(["lock", "--no-audit", "--refresh"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"the tag v1.0 of my-kernel has moved from the commit {before} to {after}" in said
    assert f"- my-kernel source v1.0 {before}" in said
    assert f"+ my-kernel source v1.0 {after}" in said
    assert 0 == fetched(project, tmp_path / "again").returncode


def test_a_lock_of_before_is_read_and_gets_the_commit_without_other_changes(
    project: Path, kernel: GitRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = kernel.tag("v1.0")
    assert 0 == main(["lock", "--no-audit"])
    whole = (project / CELL / "lock.txt").read_text()
    without_line(project)
    assert "rev-parse" not in (project / CELL / "Dockerfile").read_text()
    capsys.readouterr()

    assert 0 == main(["lock", "--check"])
    assert "does not pin the commit of my-kernel's tag v1.0" in " ".join(capsys.readouterr().err.split())
    assert 0 == main(["lock", "--no-audit"])
    assert whole == (project / CELL / "lock.txt").read_text()
    assert commit in (project / CELL / "Dockerfile").read_text()


def test_a_lock_stays_as_it_was_where_nobody_tells_the_commit(
    project: Path, kernel: GitRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.tag("v1.0")
    assert 0 == main(["lock", "--no-audit"])
    whole = (project / CELL / "lock.txt").read_text()
    shutil.move(kernel.folder, kernel.folder.with_name("elsewhere"))
    capsys.readouterr()

    assert 1 == main(["lock", "--no-audit", "--refresh"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"unreachable {Path(CELL).name} my-kernel from {ADDRESS}: the commit of the tag v1.0 is unknown: git" in said
    assert "the existing lock matches the recipe and stays" in said
    assert "try: install git" in said
    assert whole == (project / CELL / "lock.txt").read_text()
    old = without_line(project)
    assert 1 == main(["lock", "--no-audit"])
    assert "stays, without the commit" in " ".join(capsys.readouterr().err.split())
    assert old == (project / CELL / "lock.txt").read_text()
    # With the commit in the recipe, no repository is asked.
    recipe = project / "matrix.yaml"
    recipe.write_text(recipe.read_text().replace("ref: v1.0", f"ref: v1.0, commit: {'a' * 40}"))
    assert 0 == main(["lock", "--no-audit"])
    assert 'if [ "${found#' + "a" * 40 + '}" = "$found" ]; then' in (project / CELL / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("ref: v9", ("missing", "it has no tag v9; a branch moves, and is not taken")),
        ("ref: work", ("missing", "it has no tag work")),
        (f"ref: v1.0, commit: {'b' * 12}", ("conflict", f"and the recipe pins {'b' * 12}")),
    ],
)
def test_what_is_no_tag_or_another_commit_gives_no_lock(
    project: Path, kernel: GitRepository, capsys: pytest.CaptureFixture[str], now: str, said: tuple[str, str]
) -> None:
    kernel.tag("v1.0")
    (project / "matrix.yaml").write_text(MATRIX.replace("ref: v1.0", now))

    assert 1 == main(["lock", "--no-audit"])
    words = " ".join(capsys.readouterr().err.split())
    assert [] == [part for part in said if part not in words]


def test_git_s_own_server_tells_the_commit(tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "served" / "kernel")
    commit = repository.tag("v1", message="release")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    daemon = subprocess.Popen(
        ["git", "daemon", "--export-all", "--listen=127.0.0.1", f"--port={port}", f"--base-path={tmp_path / 'served'}"],
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        assert commit == commit_of_tag(f"git://127.0.0.1:{port}/kernel", "v1")
        with pytest.raises(LookupError):
            commit_of_tag(f"git://127.0.0.1:{port}/kernel", "v2")
    finally:
        daemon.terminate()
        daemon.wait(10)


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(ToolTimedOut, match="still running after 1 s"):
            commit_of_tag(f"git://127.0.0.1:{silent.getsockname()[1]}/kernel", "v1", seconds=1)

    assert time.monotonic() - began < 10


def test_git_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ToolError, match="git is not installed"):
        commit_of_tag(ADDRESS, "v1")
