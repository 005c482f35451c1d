"""An engine on another machine, brought here as a socket by the ssh program.

The SDK's own ways over SSH were tried and not taken: its client ignores parts of the user's configuration, and reads
through the ssh program cannot time out. A forwarded socket knows the user's hosts, keys and jump hosts, and behaves
like a local one.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from assay.adapters.host import process
from assay.errors import EngineMissing

__all__ = ["SshForward"]

_PATIENCE_SECONDS: Final = 60.0
_SOCKET: Final = "/var/run/docker.sock"


class SshForward:
    """A socket here that leads to an engine's socket there, until it is closed."""

    def __init__(self, url: str) -> None:
        """Connect to `ssh://[user@]host[:port][/path/of/the/socket]`.

        Raises:
            EngineMissing: there is no ssh program, or it cannot connect without asking something.
        """
        parts = urlsplit(url)
        ssh = process.find("ssh")
        if ssh is None or not parts.hostname:
            raise EngineMissing(f"{url}: no ssh program" if parts.hostname else f"{url} names no host")
        self._folder = Path(tempfile.mkdtemp(prefix="assay-ssh-"))
        self.socket = self._folder / "docker.sock"
        port = ["-p", str(parts.port)] if parts.port else []
        host = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname
        there = parts.path if parts.path not in {"", "/"} else _SOCKET
        argv = [ssh, "-NT", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15",
                "-L", f"{self.socket}:{there}", *port, "--", host]  # fmt: skip
        # Its own session: Ctrl-C must not cut the way by which containers are removed.
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            self._await(url)
        except BaseException:
            self.close()
            raise

    def _await(self, url: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                assert self._process.stderr is not None
                said = self._process.stderr.read().decode(errors="replace").strip()
                raise EngineMissing(
                    f"{url}: ssh could not connect: {said}", hint=f"does `ssh {urlsplit(url).netloc}` work?"
                )
            with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                return
            time.sleep(0.05)
        raise EngineMissing(f"{url}: ssh did not connect within {_PATIENCE_SECONDS:g} s")

    def close(self) -> None:
        """End the connection; nothing happens the second time."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        if self._process.stderr is not None:
            self._process.stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)
