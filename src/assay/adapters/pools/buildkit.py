"""Pools of BuildKit daemons: what they are, as `assay doctor --pools` shows it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from assay.adapters.host import process
from assay.errors import ToolError
from assay.matrix.pools import BuildkitPool
from assay.ports.pools import PoolItem

__all__ = ["inventory"]

_SECONDS: Final = 5.0


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
