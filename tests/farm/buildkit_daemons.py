"""BuildKit daemons of this machine, each with its own folder, port and process; other engines are left alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

_CONF = """
root = "{root}/data"
[grpc]
  address = ["tcp://127.0.0.1:{port}", "unix://{root}/sock"]
{tls}
[worker.oci]
  enabled = true
  networkMode = "host"
[worker.containerd]
  enabled = false
[registry."{registry}"]
  http = true
"""

_TLS = """[grpc.tls]
  ca = "{tls}/ca.pem"
  cert = "{tls}/cert.pem"
  key = "{tls}/key.pem"
"""


class BuildkitDaemons:
    """Starts on entering; on leaving, every process that it started is gone, and nothing is mounted.

    Args:
        program: buildkitd.
        root: takes the folders.
        ports: one for each daemon.
        registry: reached without TLS.
        tls: a folder with `ca.pem`, and `cert.pem` and `key.pem` for 127.0.0.1; None talks in the clear.
    """

    def __init__(
        self, program: Path, root: Path, ports: tuple[int, ...], registry: str, tls: Path | None = None
    ) -> None:
        self._tls = "" if tls is None else _TLS.format(tls=tls)
        self.root = root
        self._program = program
        self.ports = ports
        self._registry = registry
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for port in self.ports:
                self.start(port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for port in list(self._processes):
            self.end(port, signal.SIGTERM)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in sorted((place for place in mounts if place.startswith(f"{self.root}/")), reverse=True):
            subprocess.run(["umount", "--lazy", place], check=True)

    def start(self, port: int) -> None:
        """Start the daemon of a port, and wait until it listens."""
        folder = self.root / str(port)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "buildkitd.toml").write_text(
            _CONF.format(root=folder, port=port, registry=self._registry, tls=self._tls)
        )
        with (folder / "log").open("ab") as log:
            argv = [str(self._program), "--config", str(folder / "buildkitd.toml")]
            # A daemon that is killed leaves mounts in its temporary folder too.
            environ = {**os.environ, "TMPDIR": str(folder)}
            process = subprocess.Popen(
                argv, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._processes[port] = process
        until = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.05)

    def send(self, port: int, number: signal.Signals) -> None:
        """Send a signal to one daemon."""
        os.kill(self._processes[port].pid, number)

    def end(self, port: int, number: signal.Signals = signal.SIGKILL) -> None:
        """End one daemon."""
        process = self._processes.pop(port)
        for sent in (number, signal.SIGCONT):
            with suppress(ProcessLookupError):
                process.send_signal(sent)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
