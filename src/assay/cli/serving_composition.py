"""The composition root of servers: the host they run on, those that stay, and the client that asks them.

Adapters are imported where they are made, as in composition.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from assay import resources

if TYPE_CHECKING:
    from assay.ports.api import ApiClient
    from assay.ports.engine import Engine, Gpus
    from assay.ports.server import ServerFacts
    from assay.ports.services import Services
    from assay.ports.task import TaskHost

__all__ = ["api_client", "facts_in", "facts_program", "server_host", "services"]


def server_host(*, local: bool, python: str | None = None) -> TaskHost:
    """Return where servers run.

    Args:
        local: in a Python environment of this machine, not in containers.
        python: its interpreter; None: the one that runs assay.
    """
    if local:
        from assay.adapters.executors.local import LocalTaskHost

        return LocalTaskHost(python=python or sys.executable)
    from assay.adapters.docker.engine import DockerEngine
    from assay.adapters.executors.docker import DockerTaskHost

    return DockerTaskHost(DockerEngine())


def services() -> Services:
    """Return where the servers of this machine stay."""
    from assay.adapters.docker.engine import DockerEngine
    from assay.adapters.executors.services import DockerServices

    return DockerServices(DockerEngine())


def api_client(api_key: str | None = None) -> ApiClient:
    """Return what talks to servers.

    Args:
        api_key: that requests name.
    """
    from assay.adapters.http.openai import OpenAiClient

    return OpenAiClient(api_key=api_key)


def facts_program(root: Path) -> Path:
    """Return the program that reads devices and packages where it runs."""
    return resources.find("probes", "probelib/facts.py", root)


def facts_in(engine: Engine, reference: str, root: Path, gpus: Gpus) -> ServerFacts:
    """Read devices and packages in an image.

    Raises:
        EngineError: its Python cannot be run.
        GpuMissing: a GPU was asked for and cannot be given.
    """
    from assay.adapters.executors.docker import DockerTaskHost
    from assay.pipeline.serve import container_job
    from assay.ports.server import read_facts

    job = container_job(reference, run=f"up-{os.getpid()}", gpus=gpus)
    return read_facts(DockerTaskHost(engine), job, facts_program(root))
