"""Pools of BuildKit daemons: what they are, as `assay doctor --pools` shows it, and builds on them."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from assay.adapters.docker.buildx import Buildx, RemoteBuilder
from assay.adapters.host import process
from assay.errors import EngineMissing, ToolError, ToolTimedOut
from assay.foundation.secret import hide
from assay.matrix.pools import BuildkitPool
from assay.ports.pools import PoolItem

__all__ = ["BuildkitHost", "build_hosts", "inventory"]

_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 10.0
"""A daemon that is well answers in a tenth of a second; buildx itself waits for 20."""
_STATUS: Final = re.compile(r"^(?:Status|Error):\s*(.+)$", re.MULTILINE)


def inventory(pool: BuildkitPool) -> Sequence[PoolItem]:
    """Return which of the daemons answer: buildctl asks each, where there is one; else its port is tried."""
    return [_item(endpoint) for endpoint in pool.endpoints]


def _item(endpoint: str) -> PoolItem:
    mend = "start it, or take it out of pools.yaml"
    if process.find("buildctl") is not None:
        try:
            said = process.run(["buildctl", "--addr", endpoint, "debug", "workers"], timeout=30).text
        except ToolError as error:
            return PoolItem(name=endpoint, ok=False, found=error.message.splitlines()[-1].strip()[:200], mend=mend)
        return PoolItem(name=endpoint, ok=True, found=f"{max(0, len(said.splitlines()) - 1)} workers")
    place = urlsplit(endpoint)
    if place.scheme != "tcp" or place.hostname is None:
        return PoolItem(name=endpoint, ok=None, found="buildctl is not on PATH, and only it can ask this address")
    try:
        with socket.create_connection((place.hostname, place.port or 1234), timeout=_SECONDS):
            return PoolItem(name=endpoint, ok=True, found="its port is open (buildctl is not on PATH to ask more)")
    except OSError as error:
        return PoolItem(name=endpoint, ok=False, found=f"no connection: {error.strerror or error}", mend=mend)


def build_hosts(pool: BuildkitPool) -> list[BuildkitHost]:
    """Return the daemons of a pool as builders; the user's own buildx settings stay as they are."""
    settings = tempfile.TemporaryDirectory(prefix="assay-buildx-")
    return [BuildkitHost(endpoint, f"assay{number}", settings) for number, endpoint in enumerate(pool.endpoints)]


class BuildkitHost:
    """A BuildKit daemon, reached through buildx; satisfies `assay.ports.builder.BuildHost`.

    Args:
        endpoint: its address.
        name: of the builder in the settings.
        settings: a folder for the settings of buildx, removed when the last daemon of the pool is forgotten.
    """

    def __init__(self, endpoint: str, name: str, settings: tempfile.TemporaryDirectory[str]) -> None:
        self.name = hide(endpoint)
        self._endpoint = endpoint
        self._settings = settings
        self._remote = RemoteBuilder(builder=name, place=self.name, settings=Path(settings.name))
        self.builder = Buildx(remote=self._remote)
        self._guard = threading.Lock()
        self._created = False

    def ask(self) -> str:
        """Return why it does not answer; see the port."""
        try:
            self._create()
            said = self._buildx("inspect", self._remote.builder)
        except ToolTimedOut:
            return f"no answer within {_ANSWER_SECONDS:.0f} s"
        except ToolError as error:
            if process.find("docker") is None:
                raise EngineMissing(
                    "docker is not installed, whose buildx speaks to BuildKit", hint="install docker and its buildx"
                ) from error
            return hide(error.message.splitlines()[-1].strip())[:200]
        found = _STATUS.findall(said)
        return "" if "running" in found else f"buildx says {hide(', '.join(found) or 'nothing')[:200]}"

    def _create(self) -> None:
        with self._guard:
            if not self._created:
                self._buildx("create", "--name", self._remote.builder, "--driver", "remote", self._endpoint)
                self._created = True

    def _buildx(self, *words: str) -> str:
        argv = ["docker", "buildx", *words]
        return process.run(argv, env=self._remote.environment, timeout=_ANSWER_SECONDS).text
