"""Pools of BuildKit daemons: what they are, as `assay doctor --pools` shows it, and builds on them."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from assay.adapters.docker.buildx import Buildx, RemoteBuilder
from assay.adapters.host import process
from assay.errors import EngineMissing, ToolError, ToolTimedOut
from assay.foundation.secret import hide
from assay.matrix.pools import BuildkitPool
from assay.ports.pools import PoolItem

__all__ = ["BuildkitHost", "build_hosts", "inventory"]

_ANSWER_SECONDS: Final = 10.0
"""A daemon that is well answers in a tenth of a second; buildx itself waits for 20."""
_ASKED_AT_ONCE: Final = 64
"""Each question is a process of buildx."""
_STATUS: Final = re.compile(r"^(?:Status|Error):\s*(.+)$", re.MULTILINE)


def inventory(pool: BuildkitPool) -> Sequence[PoolItem]:
    """Return which of the daemons answer."""
    hosts = build_hosts(pool)
    with ThreadPoolExecutor(min(len(hosts), _ASKED_AT_ONCE)) as threads:
        return list(threads.map(_item, hosts))


def _item(host: BuildkitHost) -> PoolItem:
    try:
        silence = host.ask()
    except EngineMissing as error:
        return PoolItem(name=host.name, ok=None, found=error.message, mend=error.hint or "")
    if silence:
        # buildx runs `buildctl dial-stdio` there, and is silent about what that says.
        ssh = "start buildkitd there, with buildctl on the PATH of ssh; BUILDKIT_HOST names another socket"
        mend = ssh if host.name.startswith("ssh:") else "start it, or take it out of pools.yaml"
        return PoolItem(name=host.name, ok=False, found=silence, mend=mend)
    return PoolItem(name=host.name, ok=True, found="answers")


def build_hosts(pool: BuildkitPool) -> list[BuildkitHost]:
    """Return the daemons of a pool as builders; the user's own buildx settings stay as they are."""
    settings = tempfile.TemporaryDirectory(prefix="assay-buildx-")
    return [BuildkitHost(pool, number, settings) for number in range(len(pool.endpoints))]


class BuildkitHost:
    """A BuildKit daemon, reached through buildx; satisfies `assay.ports.builder.BuildHost`.

    Args:
        pool: has its address, and the files of TLS.
        number: its place in the pool.
        settings: a folder for the settings of buildx, removed when the last daemon of the pool is forgotten.
    """

    def __init__(self, pool: BuildkitPool, number: int, settings: tempfile.TemporaryDirectory[str]) -> None:
        self._endpoint = pool.endpoints[number]
        self.name = hide(self._endpoint)
        tls = {"cacert": pool.ca, "cert": pool.cert, "key": pool.key}
        self._options = [word for name, path in tls.items() if path for word in ("--driver-opt", f"{name}={path}")]
        self._settings = settings
        self._remote = RemoteBuilder(builder=f"assay{number}", place=self.name, settings=Path(settings.name))
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
                driver = ("--driver", "remote", *self._options)
                self._buildx("create", "--name", self._remote.builder, *driver, self._endpoint)
                self._created = True

    def _buildx(self, *words: str) -> str:
        argv = ["docker", "buildx", *words]
        return process.run(argv, env=self._remote.environment, timeout=_ANSWER_SECONDS).text
