"""The sessions of the project; each hands what follows `--` to the program behind it.

`nox -s probe -- sglang-blackwell` runs `assay probe sglang-blackwell`. The exit code is that program's own, so
sessions named after a failing one do not run.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

ROOT: Final = Path(__file__).parent
PYPROJECT: Final = ROOT / "pyproject.toml"
# What the README's matrix is made with; without --check this writes it.
README_MATRIX: Final = ("--records", "docs/records", "--measured", "--into", "README.md")
# Ctrl-C reaches the program too; nox would kill it after 0.3 s, long before a build can be stopped cleanly.
PATIENCE: Final = 60.0


def environment(session: nox.Session, *groups: str, extras: str = "", options: tuple[str, ...] = ()) -> None:
    """Install the project, editable, and dependency groups, unless that was done for this very pyproject.toml."""
    stamp = Path(session.virtualenv.location) / ".assay"
    wanted = f"{hashlib.sha256(PYPROJECT.read_bytes()).hexdigest()} {' '.join([*groups, extras])}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    pyproject = nox.project.load_toml(PYPROJECT)
    session.install(*options, "-e", f".{extras}", *nox.project.dependency_groups(pyproject, *groups))
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
    """Build images: `-- SELECT…` as for `assay build`; nothing named builds the group `starter`."""
    environment(session)
    run(session, "assay", "build", *session.posargs)


@nox.session
def probe(session: nox.Session) -> None:
    """Probe what works in built images on this machine's GPU: `-- SELECT…` as for `assay probe`."""
    environment(session)
    run(session, "assay", "probe", *session.posargs)


@nox.session
def publish(session: nox.Session) -> None:
    """Publish what the policy allows: `-- …` as for `assay publish`."""
    environment(session, extras="[sign]")
    run(session, "assay", "publish", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Say what the records say: `-- …` as for `assay report`."""
    environment(session)
    run(session, "assay", "report", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, all of them or `-- PYTEST ARGUMENTS`."""
    environment(session, "test", "browser")
    run(session, "python", "-m", "pytest", *session.posargs)


@nox.session(venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the unit tests with the oldest versions that pyproject.toml allows."""
    environment(session, "test", options=("--resolution", "lowest-direct"))
    run(session, "python", "-m", "pytest", "-q", "tests/unit", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    environment(session, "lint")
    run(session, "ruff", "check", ".", *session.posargs)
    run(session, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    environment(session, "dev")
    run(session, "mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Check that nothing generated has drifted and that what is documented holds."""
    environment(session, "test", "browser")
    run(session, "assay", "render", "--check")
    run(session, "python", "docs/generate.py", "--check")
    run(session, "assay", "report", *README_MATRIX, "--check")
    run(session, "python", "-m", "pytest", "-q", "-k", "drift or schema or docs or readme", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Publish over a registry that fails at every step, and print how many faults were tried and survived."""
    environment(session, "test")
    session.env["ASSAY_ALL_FAULTS"] = "1"
    run(session, "pytest", "-q", "tests/integration/test_publish_faults.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks, all that need no GPU or `-- NAME…`; each prints the ratios of one run as a table."""
    environment(session, "test", "browser")
    wanted = session.posargs or sorted(
        path.stem for path in (ROOT / "bench").glob("*.py") if not path.stem.startswith("_")
    )
    for name in wanted:
        run(session, "python", f"bench/{name}.py")


@nox.session(name="bench-serve")
def bench_serve(session: nox.Session) -> None:
    """Put load on servers and compare them: `-- …` as for `assay bench`."""
    environment(session)
    run(session, "assay", "bench", *session.posargs)
