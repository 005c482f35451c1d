"""Container engines of their own, one for each made-up node, in a network namespace of the test."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

NODES = {"gpu1": "10.98.0.1", "gpu2": "10.98.0.2"}
# Without CAP_SYS_RESOURCE a negative oom_score_adj, which kubelet asks for its sandboxes, cannot be set.
_RUNC = """#!/bin/bash
b=; prev=; for a in "$@"; do [ "$prev" = --bundle ] && b=$a; prev=$a; done
[ -n "$b" ] && sed -i -E 's/"oomScoreAdj":-[0-9]+/"oomScoreAdj":0/' "$b/config.json"
exec {runc} "$@"
"""


class NodeEngines:
    """Starts on entering; on leaving, every process, namespace and mount that it made is gone. Needs root.

    Args:
        root: a folder with a short path (sockets lie below it).
        archives: images that every node has.
    """

    def __init__(self, root: Path, archives: Sequence[Path]) -> None:
        self.root = root
        self.archives = archives
        self.net = f"assayfarm{secrets.token_hex(2)}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._argv: dict[str, Sequence[str]] = {}

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self._run("ip", "netns", "add", self.net)
            self._run("ip", "-n", self.net, "link", "set", "lo", "up")
            for node in NODES:
                self._engine(node)
            for archive in self.archives:
                self.load(archive)
            self.more()
        except BaseException:
            self.__exit__()
            raise
        return self

    def more(self) -> None:
        """Start what there is beside the engines."""

    def __exit__(self, *_: object) -> None:
        for node in NODES:
            with suppress(subprocess.SubprocessError):
                ids = self._out("docker", "-H", self.host(node), "ps", "-aq").split()
                if ids:
                    self._out("docker", "-H", self.host(node), "rm", "-f", "-v", *ids)
        for name in list(self._processes):
            self.kill(name, signal.SIGTERM)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            place = line.split()[1]
            if place.startswith(f"{self.root}/"):
                subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.net], check=False, capture_output=True)
        for node in NODES:
            # Images and layers of the nodes' engines.
            shutil.rmtree(self.root / node / "docker", ignore_errors=True)

    @staticmethod
    def _run(*argv: str, stdin: str | None = None) -> str:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    @staticmethod
    def _out(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout

    def start(self, name: str, *argv: str) -> None:
        """Start a program inside the cluster's network; a name that was started before may be started again."""
        self._argv[name] = argv
        with (self.root / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["nsenter", f"--net=/var/run/netns/{self.net}", *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def restart(self, name: str) -> None:
        """Start a program that was killed again."""
        self.start(name, *self._argv[name])

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a program."""
        os.killpg(self._processes[name].pid, number)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a program."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def until(self, done: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Wait until something holds, or fail."""
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"{what}: not there after {seconds:g} s, see the logs in {self.root}"
            time.sleep(0.3)

    def host(self, node: str) -> str:
        """Return the address of a node's engine."""
        return f"unix://{self.root}/{node}/docker.sock"

    def _engine(self, node: str) -> None:
        folder = self.root / node
        folder.mkdir()
        # A pod needs an address, or its kubelet starts it again and again.
        bridge, subnet = f"br-{node}", f"10.97.{list(NODES).index(node)}.1/24"
        self._run("ip", "-n", self.net, "link", "add", bridge, "type", "bridge")
        self._run("ip", "-n", self.net, "addr", "add", subnet, "dev", bridge)
        self._run("ip", "-n", self.net, "link", "set", bridge, "up")
        wrapper = folder / "runc"
        wrapper.write_text(_RUNC.format(runc=shutil.which("runc")))
        wrapper.chmod(0o755)
        config = {
            "data-root": f"{folder}/docker",
            "exec-root": f"{folder}/exec",
            "pidfile": f"{folder}/docker.pid",
            "hosts": [self.host(node)],
            "bridge": bridge,
            "iptables": False,
            "ip-masq": False,
            "ip-forward": False,
            "runtimes": {"farm": {"path": str(wrapper)}},
            "default-runtime": "farm",
            "log-opts": {"max-size": "20m"},
        }
        (folder / "daemon.json").write_text(json.dumps(config))
        self.start(f"dockerd-{node}", "dockerd", f"--config-file={folder}/daemon.json")
        asked = ("docker", "-H", self.host(node), "version", "--format", "{{.Server.Version}}")
        self.until(lambda: self._out(*asked).strip(), "dockerd")

    def load(self, archive: Path) -> None:
        """Load an image into the engine of each node."""
        for node in NODES:
            self._run("docker", "-H", self.host(node), "load", "-i", str(archive))
