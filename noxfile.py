"""The sessions of the project; each hands what follows `--` to the program behind it.

`nox -s probe -- sglang-blackwell` runs `assay probe sglang-blackwell`. The exit code is that program's own, so
sessions named after a failing one do not run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

ROOT: Final = Path(__file__).parent
PYPROJECT: Final = ROOT / "pyproject.toml"
REQUIREMENTS: Final = ROOT / "tools" / "requirements"
# Locked file -> what of pyproject.toml stands in it beside the dependencies of the project.
LOCKED: Final = {
    "use": ("--extra", "sign", "--group", "tools"),
    "dev": ("--extra", "sign", "--group", "tools", "--group", "dev", "--constraints", "tools/requirements/use.txt"),
}
# What the README's matrix is made with; without --check this writes it.
README_MATRIX: Final = ("--records", "docs/records", "--measured", "--into", "README.md")
# The workflow that `assay init` writes.
PROJECT_WORKFLOW: Final = "src/assay/resources/project/dot-github/workflows/images.yml"
# Ctrl-C reaches the program too; nox would kill it after 0.3 s, long before a build can be stopped cleanly.
PATIENCE: Final = 60.0


def environment(session: nox.Session, locked: str = "use") -> None:
    """Install the project, editable, with the packages of a locked file, each by its hash.

    Nothing is done where that was done for the very same files. Only wheels are taken: what a source archive needs to
    be built has no hash. The project itself is built with the locked hatchling.
    """
    requirements = REQUIREMENTS / f"{locked}.txt"
    stamp = Path(session.virtualenv.location) / ".assay"
    wanted = hashlib.sha256(PYPROJECT.read_bytes() + requirements.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    session.install("--require-hashes", "--only-binary", ":all:", "-r", str(requirements))
    session.install("--no-deps", "--no-build-isolation", "-e", ".")
    stamp.write_text(wanted)


def run(session: nox.Session, *command: str) -> None:
    """Run a program of the session; if it fails, its exit code becomes nox's own.

    nox reduces every failure to 1; a caller must be able to tell a failed build from a missing engine.
    """
    session.env["PATH"] = os.pathsep.join(
        [session.env.get("PATH") or os.environ["PATH"], str(ROOT / ".assay" / "tools" / "usr" / "bin")]
    )
    try:
        session.run(*command, interrupt_timeout=PATIENCE, terminate_timeout=PATIENCE)
    except nox.command.CommandFailed as failed:
        raise SystemExit(failed.return_code or 1) from failed


@nox.session(name="build-matrix")
def build_matrix(session: nox.Session) -> None:
    """Build images: `-- SELECT… [--on POOL]` as for `assay build`; without SELECT, the group `starter`."""
    environment(session)
    run(session, "assay", "build", *session.posargs)


@nox.session
def up(session: nox.Session) -> None:
    """Serve a model on this machine's GPU: `-- MODEL` as for `assay up`."""
    environment(session)
    run(session, "assay", "up", *session.posargs)


@nox.session
def probe(session: nox.Session) -> None:
    """Test images on this machine's GPU: `-- SELECT…` as for `assay probe`."""
    environment(session)
    run(session, "assay", "probe", *session.posargs)


@nox.session
def publish(session: nox.Session) -> None:
    """Publish verified images: `-- …` as for `assay publish`."""
    environment(session)
    run(session, "assay", "publish", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Show results: `-- …` as for `assay report`."""
    environment(session)
    run(session, "assay", "report", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, all of them or `-- PYTEST ARGUMENTS`, and show the slowest."""
    environment(session, "dev")
    run(session, "python", "-m", "pytest", "--durations=15", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the unit tests with coverage; fail below the floor in pyproject.toml."""
    environment(session, "dev")
    session.env["COVERAGE_FILE"] = str(Path(session.virtualenv.location) / ".coverage")
    run(session, "python", "-m", "coverage", "run", "-m", "pytest", "-q", "tests/unit", *session.posargs)
    run(session, "python", "-m", "coverage", "report")


@nox.session(venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the unit tests with the oldest versions that pyproject.toml allows."""
    pyproject = nox.project.load_toml(PYPROJECT)
    groups = nox.project.dependency_groups(pyproject, "test")
    session.install("--resolution", "lowest-direct", "-e", ".", *groups)
    run(session, "python", "-m", "pytest", "-q", "tests/unit", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check code style, formatting, the project's English and the workflows."""
    environment(session, "dev")
    run(session, "ruff", "check", ".", *session.posargs)
    run(session, "ruff", "format", "--check", ".")
    run(session, "python", "tools/prose.py")
    workflows = ("docs/examples/github-actions.yml", ".github/workflows", "action.yml", PROJECT_WORKFLOW)
    run(session, "zizmor", "--offline", "--quiet", *workflows)


@nox.session(venv_backend="none")
def locks(session: nox.Session) -> None:
    """Update the locked files of tools/requirements: `-- --upgrade` selects the newest versions."""
    files = [(REQUIREMENTS / f"{name}.txt", (*options, "pyproject.toml")) for name, options in LOCKED.items()]
    files.append((ROOT / "templates" / "source-tools.txt", ("--no-header", "--group", "source-builds")))
    for path, options in files:
        session.run(
            "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes",
            "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command", "nox -s locks",
            *options, "--output-file", str(path), *session.posargs,
            external=True,
        )  # fmt: skip


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    environment(session, "dev")
    run(session, "mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Check that generated files and documented commands are up to date."""
    environment(session, "dev")
    run(session, "assay", "render", "--check")
    run(session, "python", "docs/generate.py", "--check")
    run(session, "assay", "report", *README_MATRIX, "--check")
    run(session, "python", "-m", "pytest", "-q", "-k", "drift or schema or docs or readme", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """Check version and changelog, build the distributions and check them: `-- --dry-run` needs no tag."""
    environment(session, "dev")
    run(session, "python", "tools/release.py", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Publish and assemble where everything fails at each step, and count the survived faults."""
    environment(session, "dev")
    session.env["ASSAY_ALL_FAULTS"] = "1"
    names = [f"tests/integration/test_{step}_faults.py" for step in ("publish", "assembly")]
    run(session, "pytest", "-q", *(session.posargs or names))


@nox.session
def twins(session: nox.Session) -> None:
    """Compare assembled images with those that BuildKit built: `-- [--build] [--imports] [SELECT…]`."""
    environment(session, "dev")
    run(session, "python", "bench/twins.py", "--run", *session.posargs)


@nox.session
def attack(session: nox.Session) -> None:
    """Test readers, servers and environments with generated faults: `-- [SECONDS]`, 600 by default."""
    environment(session, "dev")
    run(session, "python", "tests/attack/campaign.py", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Plan, audit, build, publish and verify in a loop beside faults: `-- [MINUTES]`, 60 by default."""
    environment(session, "dev")
    run(session, "python", "tests/attack/soak.py", *session.posargs)


@nox.session
def farm(session: nox.Session) -> None:
    """Run probes on a Slurm, on SSH hosts and on a Kubernetes of this machine, and builds on BuildKit, beside faults.

    Needs root. ASSAY_FARM_TASKS is the number of Slurm's tasks (500 is the full size), ASSAY_FARM_BIN the folder with
    the binaries of Kubernetes and BuildKit. Parts whose programs are missing are listed as not tested.
    """
    environment(session, "dev")
    parts = ["tests/farm/test_slurm.py", "tests/farm/test_slurm_build.py", "tests/farm/test_ssh.py"]
    left_out: list[str] = []
    if os.environ.get("ASSAY_FARM_BIN"):
        parts += ["tests/farm/test_kubernetes.py", "tests/farm/test_buildkit.py"]
    else:
        left_out += ["Kubernetes and BuildKit (ASSAY_FARM_BIN is not set)"]
    if shutil.which("podman"):
        parts += ["tests/farm/test_slurm_podman.py"]
        subordinate = Path("/etc/subuid")
        if not (shutil.which("newuidmap") and subordinate.is_file() and subordinate.read_text().strip()):
            left_out += ["podman without root (needs the package uidmap, and an account in /etc/subuid)"]
            parts += ["-k", "not rootless"]
    else:
        left_out += ["containers on Slurm (podman is not installed)"]
    if shutil.which("apptainer"):
        parts += ["tests/farm/test_slurm_apptainer.py"]
    else:
        left_out += ["Apptainer on Slurm (apptainer is not installed; Debian has it in unstable)"]
    for what in left_out:
        session.warn(f"NOT TESTED: {what}")
    run(session, "pytest", "-s", "-q", "--farm", *(session.posargs or parts))


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks that need no GPU, or `-- NAME…`; `-- --save NAME…` also writes docs/benchmarks."""
    environment(session, "dev")
    names = [word for word in session.posargs if word != "--save"]
    for name in names or sorted(path.stem for path in (ROOT / "bench").glob("*.py") if path.stem[0] != "_"):
        run(session, "python", *(["bench/_save.py", name] if "--save" in session.posargs else [f"bench/{name}.py"]))


@nox.session(name="bench-serve")
def bench_serve(session: nox.Session) -> None:
    """Benchmark servers under load: `-- …` as for `assay bench`."""
    environment(session)
    run(session, "assay", "bench", *session.posargs)
