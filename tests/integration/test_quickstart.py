"""The script for fresh machines: what it says it would do on machines that lack this or that."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SYSTEM = (
    "bash",
    "env",
    "cat",
    "head",
    "tail",
    "awk",
    "id",
    "timeout",
    "tr",
    "grep",
    "dirname",
    "mkdir",
    "rm",
    "sleep",
    "ln",
)
BOOKWORM = 'ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
TRIXIE = 'ID=debian\nVERSION_CODENAME=trixie\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n'
NOBLE = 'ID=ubuntu\nVERSION_CODENAME=noble\nPRETTY_NAME="Ubuntu 24.04 LTS"\n'

DOCKER = """
case "$1 $2" in
  "buildx version") {buildx} ;;
  "version --format") {version} ;;
esac
"""


@dataclass
class Machine:
    """A machine made of a PATH with only what is named, and an os-release."""

    folder: Path
    root: Path
    env: dict[str, str] = field(default_factory=dict)

    def program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def docker(self, *, buildx: str = "echo buildx", version: str = "echo 26.1.5") -> None:
        self.program("docker", DOCKER.format(buildx=buildx, version=version))

    def quickstart(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "bin" / "bash", self.root / "quickstart", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": str(self.folder / "bin"), "HOME": str(self.folder), "ASSAY_SYSTEM_PATH": "", **self.env},
        )


@pytest.fixture
def machine(tmp_path: Path, root: Path) -> Callable[..., Machine]:
    def make(release: str = BOOKWORM) -> Machine:
        (tmp_path / "bin").mkdir()
        for name in SYSTEM:
            found = shutil.which(name)
            assert found is not None
            (tmp_path / "bin" / name).symlink_to(found)
        (tmp_path / "os-release").write_text(release)
        python = Path(sys.base_prefix) / "bin" / "python3"
        made = Machine(tmp_path, root)
        made.program("python3", f'exec "{python}" "$@"')
        made.program("apt-get", "exit 0")
        made.env = {"ASSAY_OS_RELEASE": str(tmp_path / "os-release"), "ASSAY_VENV": str(tmp_path / "venv")}
        return made

    return make


def test_bash_and_shellcheck_find_nothing(root: Path) -> None:
    for script in (root / "quickstart", *sorted((root / "tools").glob("quickstart-*")), root / ".ci" / "run"):
        subprocess.run(["bash", "-n", script], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", script], check=True)


def test_without_arguments_it_explains_itself(machine: Callable[..., Machine]) -> None:
    done = machine().quickstart()

    assert 0 == done.returncode
    assert "./quickstart build-matrix" in done.stdout


def test_an_unknown_option_is_a_usage_error(machine: Callable[..., Machine]) -> None:
    done = machine().quickstart("--nonsense", "tests")

    assert 2 == done.returncode
    assert "--nonsense" in done.stderr


def test_an_engine_that_works_is_left_alone(machine: Callable[..., Machine]) -> None:
    fresh = machine()
    fresh.docker()
    done = fresh.quickstart("--dry-run", "build-matrix")

    assert 0 == done.returncode, done.stderr
    assert "Docker 26.1.5 with BuildKit answers" in done.stderr
    assert "docker.io" not in done.stderr
    assert "systemctl" not in done.stderr
    assert "dockerd" not in done.stderr


@pytest.mark.parametrize(
    ("release", "said", "not_said"),
    [
        (BOOKWORM, ("Debian 13's packages (docker.io docker-cli docker-buildx containerd)", "containerd iptables"), ()),
        (TRIXIE, ("install -y --no-install-recommends docker.io docker-cli docker-buildx",), ("assay-engine",)),
        (NOBLE, ("install -y --no-install-recommends docker.io docker-buildx",), ("assay-engine",)),
    ],
    ids=["bookworm", "trixie", "noble"],
)
def test_without_an_engine_one_is_installed_and_started(
    machine: Callable[..., Machine], release: str, said: tuple[str, ...], not_said: tuple[str, ...]
) -> None:
    fresh = machine(release)
    fresh.program("sudo", 'exec "$@"')
    done = fresh.quickstart("--dry-run", "build-matrix")

    assert 0 == done.returncode, done.stderr
    assert "no docker program on PATH" in done.stderr
    assert "nox -s build-matrix" in done.stderr
    for words in said:
        assert words in done.stderr
    for words in not_said:
        assert words not in done.stderr
    assert not (fresh.folder / "venv").exists(), "a dry run changes nothing"


def test_a_client_without_buildx_is_not_an_engine(machine: Callable[..., Machine]) -> None:
    fresh = machine()
    fresh.docker(buildx="exit 1")
    fresh.program("sudo", 'exec "$@"')
    done = fresh.quickstart("--dry-run", "build-matrix")

    assert "has no buildx" in done.stderr
    assert "install Docker from Debian 13's packages" in done.stderr


def test_an_engine_that_is_installed_but_down_is_started_only(machine: Callable[..., Machine]) -> None:
    fresh = machine()
    fresh.docker(version="echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    fresh.program("dockerd", "exit 0")
    fresh.program("sudo", 'exec "$@"')
    done = fresh.quickstart("--dry-run", "build-matrix")

    assert "installed, does not answer: start it" in done.stderr
    assert "docker.io" not in done.stderr


def test_an_old_engine_is_the_users_own(machine: Callable[..., Machine]) -> None:
    fresh = machine()
    fresh.docker(version="echo 20.10.24+dfsg1")
    fresh.program("sudo", 'exec "$@"')
    refused = fresh.quickstart("--dry-run", "build-matrix")
    agreed = fresh.quickstart("--dry-run", "--upgrade-engine", "build-matrix")

    assert 4 == refused.returncode
    assert "--upgrade-engine" in refused.stderr
    assert 0 == agreed.returncode, agreed.stderr
    assert "docker-buildx containerd iptables" in agreed.stderr


def test_an_engine_elsewhere_that_does_not_answer_is_not_replaced(machine: Callable[..., Machine]) -> None:
    fresh = machine()
    fresh.env["DOCKER_HOST"] = "ssh://nobody@nowhere.invalid"
    done = fresh.quickstart("--dry-run", "build-matrix")

    assert 4 == done.returncode
    assert "DOCKER_HOST" in done.stderr


def test_other_sessions_need_no_engine(machine: Callable[..., Machine]) -> None:
    done = machine().quickstart("--dry-run", "lint")

    assert 0 == done.returncode, done.stderr
    assert "engine        not needed" in done.stderr


def test_without_root_and_sudo_the_admin_command_is_shown(machine: Callable[..., Machine]) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("needs root to become nobody")
    fresh = machine()
    # Nobody may not be able to read the repository.
    for name in ("quickstart", "pyproject.toml"):
        shutil.copy(fresh.root / name, fresh.folder)
    fresh.folder.chmod(0o755)
    for parent in fresh.folder.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    done = subprocess.run(
        [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", fresh.folder / "bin" / "bash",
         fresh.folder / "quickstart", "--dry-run", "build-matrix"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": str(fresh.folder / "bin"), "ASSAY_SYSTEM_PATH": "", **fresh.env},
    )  # fmt: skip

    assert 4 == done.returncode, done.stderr
    assert "needs root" in done.stderr
    assert "usermod -aG docker" in done.stderr


def test_an_unknown_distribution_is_reported(machine: Callable[..., Machine]) -> None:
    done = machine("ID=slackware\n").quickstart("--dry-run", "build-matrix")

    assert 4 == done.returncode
    assert "slackware" in done.stderr
