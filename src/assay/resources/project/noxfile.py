"""The sessions of this project; each hands what follows `--` to assay.

`nox -s build-matrix -- starter` runs `assay build starter`, with the assay that requirements.txt pins.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["check"]


def assay(session: nox.Session, *words: str) -> None:
    """Run assay with words of the command line."""
    session.install("-r", "requirements.txt")
    # Ctrl-C reaches assay too; a build takes longer than nox's 0.3 s to stop cleanly.
    session.run("assay", *words, interrupt_timeout=60.0, terminate_timeout=60.0)


@nox.session
def check(session: nox.Session) -> None:
    """Check the matrix, the locks, the generated files and the policy; needs no network and no engine."""
    for words in (["plan"], ["lock", "--check"], ["render", "--check"], ["policy", "check"]):
        assay(session, *words)


@nox.session(name="build-matrix")
def build_matrix(session: nox.Session) -> None:
    """Build images: `-- SELECT...`; nothing named builds the group `starter`."""
    assay(session, "build", *session.posargs)


@nox.session
def up(session: nox.Session) -> None:
    """Serve a model on this machine's GPU: `-- MODEL`."""
    assay(session, "up", *session.posargs)


@nox.session
def probe(session: nox.Session) -> None:
    """Probe built images on this machine's GPU: `-- SELECT...`."""
    assay(session, "probe", *session.posargs)


@nox.session
def publish(session: nox.Session) -> None:
    """Publish what the policy allows: `-- SELECT...`."""
    assay(session, "publish", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Show what is recorded of each cell: `-- SELECT...`."""
    assay(session, "report", *session.posargs)
