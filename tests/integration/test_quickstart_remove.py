"""`./quickstart remove` takes back what quickstart and assay put on a machine, and nothing that was there before.

The machine is a folder: a PATH of few programs, an apt that keeps its packages as files, an engine that comes with
its package, and the system's folders below a root of their own.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

SYSTEM = (
    "bash", "sh", "env", "cat", "head", "tail", "awk", "id", "timeout", "tr", "grep", "dirname", "mkdir", "rm", "rmdir",
    "sleep", "ln", "sha256sum", "tee", "sort", "comm", "cut", "setsid", "touch", "cp", "chmod", "kill", "basename",
)  # fmt: skip
APT = """
state={folder}/packages
while [ "${{1#-}}" != "$1" ]; do [ "$1" = -s ] && plan=1; shift; done
verb=$1; shift
case $verb in
  indextargets) echo "http://mirror.example/debian|bookworm|main|bookworm" ;;
  update) [ ! -e {folder}/no-update ] || exit 100 ;;
  install)
    for name in "$@" libdep; do
      case $name in -*) continue ;; esac
      [ -e "$state/$name" ] && continue
      if [ "${{plan-}}" ]; then echo "Inst $name (1.0 Debian)"; continue; fi
      touch "$state/$name"
      if [ "$name" = docker.io ]; then
        cp {folder}/docker {folder}/bin/docker
        mkdir -p {folder}/root/var/lib/docker/overlay2
        grep -q ^docker: {folder}/root/etc/group || echo docker:x:101: >> {folder}/root/etc/group
      fi
      if [ -e {folder}/fail-after-"$name" ]; then echo "E: no space" >&2; exit 100; fi
      if [ -e {folder}/hang-after-"$name" ]; then touch {folder}/hangs; sleep 60; fi
    done ;;
  purge)
    for name in "$@"; do
      case $name in -*) continue ;; esac
      echo "Purg $name [1.0]"
      [ "$name" = docker.io ] && [ -e "$state/needs-docker" ] && echo "Remv needs-docker [2.0]"
      [ "${{plan-}}" ] && continue
      rm -f "$state/$name"
      [ "$name" = docker.io ] && rm -f {folder}/bin/docker
    done ;;
esac
exit 0
"""
DPKG = '[ -e {folder}/packages/"$4" ] && echo "install ok installed"'
# Images are files: `mine-*` carries assay's label.
DOCKER = """#!/bin/sh
cd {folder}/engine
case "$1 $2" in
  "buildx version") echo buildx ;;
  "version --format") echo 26.1.5 ;;
  "images "*|"ps "*|"volume ls")
    case "$*" in *label=assay.base*) kind='mine-*' ;; *label=*) exit 0 ;; *) kind='*' ;; esac
    [ "$1" = images ] && for file in $kind; do [ -e "$file" ] && echo "$file"; done ;;
  "rmi --force") shift 2; rm "$@" ;;
  "buildx prune") echo "$*" >> {folder}/pruned ;;
esac
exit 0
"""
PYTHON = """
case "$*" in
  *"-m venv"*) mkdir -p {folder}/home/venv/bin; cp {folder}/bin/python3 {folder}/home/venv/bin/python ;;
  *"-m pip --version"*) [ "${{0%/bin/python}}" != "$0" ] ;;
  *hashlib*) echo stamp ;;
esac
"""


class Machine:
    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.checkout = folder / "checkout"
        self.system = folder / "root"
        for name in ("bin", "packages", "engine", "home/.cache", "checkout"):
            (folder / name).mkdir(parents=True)
        for name in ("etc/apt/preferences.d", "etc/apt/sources.list.d", "var/lib", "var/log", "var/run"):
            (self.system / name).mkdir(parents=True)
        shutil.copy(root / "quickstart", self.checkout)
        shutil.copy(root / "pyproject.toml", self.checkout)
        (self.checkout / "tools" / "requirements").mkdir(parents=True)
        for path in (root / "tools").glob("quickstart-*"):
            shutil.copy(path, self.checkout / "tools")
        (self.checkout / "tools" / "requirements" / "use.txt").write_text("")
        for name in SYSTEM:
            found = shutil.which(name)
            assert found is not None, name
            (folder / "bin" / name).symlink_to(found)
        (folder / "os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
        for name, script in (("apt-get", APT), ("dpkg-query", DPKG), ("python3", PYTHON)):
            self.program(name, script)
        self.program("debootstrap", "exit 0")
        self.program("groupdel", 'echo "root:x:0:" > {folder}/root/etc/group')
        (self.system / "etc" / "group").write_text("root:x:0:\n")
        if os.geteuid() != 0:
            self.program("sudo", 'exec "$@"')
        (folder / "docker").write_text(DOCKER.format(folder=folder))
        (folder / "docker").chmod(0o755)
        self.env = {
            "PATH": str(folder / "bin"),
            "HOME": str(folder / "home"),
            "ASSAY_SYSTEM_PATH": "",
            "ASSAY_SYSTEM_ROOT": str(self.system),
            "ASSAY_OS_RELEASE": str(folder / "os-release"),
            "ASSAY_VENV": str(folder / "home" / "venv"),
        }

    def program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text("#!/bin/sh\n" + script.format(folder=self.folder) + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.folder / "bin" / "bash", self.checkout / "quickstart", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=self.env,
            start_new_session=True,
        )

    def quickstart(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def contents(self) -> dict[str, str]:
        """Return every file of the machine with its text; folders with none."""
        places = (self.system, self.folder / "packages", self.folder / "home", self.checkout, self.folder / "engine")
        return {
            str(path.relative_to(self.folder)): path.read_text() if path.is_file() else ""
            for place in places
            for path in sorted(place.rglob("*"))
        }


@pytest.fixture
def machine(tmp_path: Path, root: Path) -> Machine:
    return Machine(tmp_path, root)


def test_all_that_quickstart_did_is_taken_back(machine: Machine) -> None:
    (machine.folder / "packages" / "iptables").touch()
    before = machine.contents()
    done = machine.quickstart("engine")
    between = machine.contents()
    (machine.folder / "engine" / "mine-base").touch()
    (machine.folder / "home" / ".cache" / "assay" / "facts").mkdir(parents=True)
    removed = machine.quickstart("remove", "--yes")

    assert 0 == done.returncode, done.stderr
    assert {
        "root/etc/apt/preferences.d/assay-engine",
        "root/etc/apt/sources.list.d/assay-engine.sources",
        "root/etc/docker/daemon.json",
        "root/var/lib/docker/overlay2",
        "packages/docker.io",
        "packages/libdep",
        "home/venv/bin/python",
        "checkout/.assay/manifest",
    } <= between.keys()
    assert 0 == removed.returncode, removed.stderr
    assert before == machine.contents()
    assert "--filter description~=" in (machine.folder / "pruned").read_text()
    assert "removed: this machine is as it was" in removed.stderr


@pytest.mark.parametrize(("before", "added"), [("docker:x:101:\n", ""), ("", "ada")])
def test_a_group_that_was_there_or_has_members_stays(machine: Machine, before: str, added: str) -> None:
    groups = machine.system / "etc" / "group"
    groups.write_text(f"root:x:0:\n{before}")
    assert 0 == machine.quickstart("engine").returncode
    groups.write_text(groups.read_text().replace("docker:x:101:", f"docker:x:101:{added}"))

    assert 0 == machine.quickstart("remove", "--yes").returncode
    assert f"root:x:0:\ndocker:x:101:{added}\n" == groups.read_text()


def test_a_quickstart_that_fails_half_way_is_taken_back(machine: Machine) -> None:
    before = machine.contents()
    (machine.folder / "fail-after-docker.io").touch()
    done = machine.quickstart("engine")
    between = machine.contents()
    removed = machine.quickstart("remove", "--yes")

    assert 1 == done.returncode
    assert "packages/docker.io" in between
    assert "packages/containerd" not in between
    assert 0 == removed.returncode, removed.stderr
    assert before == machine.contents()


def test_a_quickstart_that_is_killed_is_taken_back(machine: Machine) -> None:
    before = machine.contents()
    (machine.folder / "hang-after-docker-cli").touch()
    process = machine.start("engine")
    until = time.monotonic() + 30
    while not (machine.folder / "hangs").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    between = machine.contents()
    removed = machine.quickstart("remove", "--yes")

    assert "packages/docker-cli" in between
    assert 0 == removed.returncode, removed.stderr
    assert before == machine.contents()


def test_objects_that_existed_before_are_kept(machine: Machine) -> None:
    (machine.system / "etc" / "docker").mkdir()
    (machine.system / "etc" / "docker" / "daemon.json").write_text('{"debug": true}')
    (machine.system / "var" / "lib" / "docker").mkdir()
    (machine.folder / "home" / "venv" / "bin").mkdir(parents=True)
    (machine.folder / "home" / "venv" / "mine").touch()
    (machine.folder / "home" / ".cache" / "uv").mkdir()
    (machine.folder / "packages" / "docker-cli").touch()
    machine.quickstart("engine")
    removed = machine.quickstart("remove", "--yes")
    after = machine.contents()

    assert 0 == removed.returncode, removed.stderr
    assert '{"debug": true}' == after["root/etc/docker/daemon.json"]
    assert {"root/var/lib/docker", "home/venv/mine", "home/.cache/uv", "packages/docker-cli"} <= after.keys()
    assert "packages/docker.io" not in after


def test_an_engine_in_use_by_others_stays(machine: Machine) -> None:
    machine.quickstart("engine")
    (machine.folder / "engine" / "mine-base").touch()
    (machine.folder / "engine" / "theirs").touch()
    removed = machine.quickstart("remove", "--yes")
    kept = machine.contents()
    forced = machine.quickstart("remove", "--yes", "--with-engine")

    assert 1 == removed.returncode
    assert "the engine holds 1 containers, volumes or images that are not assay's" in removed.stderr
    assert {"packages/docker.io", "engine/theirs", "root/etc/docker/daemon.json"} <= kept.keys()
    assert "engine/mine-base" not in kept
    assert "home/venv" not in kept
    assert 0 == forced.returncode, forced.stderr
    assert not [name for name in machine.contents() if name.startswith(("packages/", "root/etc/docker"))]


def test_a_package_that_others_rest_on_stays(machine: Machine) -> None:
    machine.quickstart("engine")
    (machine.folder / "packages" / "needs-docker").touch()
    removed = machine.quickstart("remove", "--yes")

    assert 1 == removed.returncode
    assert "others need them, which quickstart did not install: needs-docker" in removed.stderr
    assert {"packages/docker.io", "packages/needs-docker"} <= machine.contents().keys()


def test_a_file_that_was_changed_since_stays(machine: Machine) -> None:
    machine.quickstart("engine")
    (machine.system / "etc" / "docker" / "daemon.json").write_text('{"mine": 1}')
    removed = machine.quickstart("remove", "--yes")

    assert 0 == removed.returncode, removed.stderr
    assert "changed since quickstart wrote it" in removed.stderr
    assert '{"mine": 1}' == machine.contents()["root/etc/docker/daemon.json"]


@pytest.mark.parametrize(("arguments", "code"), [("remove", 2), ("remove --dry-run", 0), ("--dry-run remove", 0)])
def test_nothing_is_removed_without_consent(machine: Machine, arguments: str, code: int) -> None:
    machine.quickstart("engine")
    before = machine.contents()
    asked = machine.quickstart(*arguments.split())

    assert code == asked.returncode, asked.stderr
    assert "docker.io" in asked.stderr
    assert before == machine.contents()


def test_without_a_manifest_the_system_is_left_alone(machine: Machine) -> None:
    (machine.folder / "packages" / "docker.io").touch()
    (machine.system / "etc" / "apt" / "preferences.d" / "mine").touch()
    before = machine.contents()
    removed = machine.quickstart("remove", "--yes")

    assert 0 == removed.returncode, removed.stderr
    assert "no .assay/manifest says" in removed.stderr
    assert before == machine.contents()


def test_a_removal_that_fails_can_be_run_again(machine: Machine) -> None:
    before = machine.contents()
    machine.quickstart("engine")
    (machine.folder / "no-update").touch()
    failed = machine.quickstart("remove", "--yes")
    (machine.folder / "no-update").unlink()
    again = machine.quickstart("remove", "--yes")

    assert 1 == failed.returncode
    assert "can be run again" in failed.stderr
    assert 0 == again.returncode, again.stderr
    assert before == machine.contents()
