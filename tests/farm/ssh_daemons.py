"""Real SSH daemons on loopback, each a host by name, with keys made for the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

import pytest
from registry_tools import free_port


class SshDaemons:
    """On leaving, every daemon is gone. `ssh NAME` finds them while the test's PATH is in force.

    Args:
        root: takes keys, settings and logs.
        patch: puts a program `ssh` that knows the hosts in front of PATH.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._home = root / "ssh"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._home.mkdir(parents=True)
        for name in ("host", "user"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._home / name)]
            subprocess.run(argv, check=True, timeout=60)
        common = (
            f"IdentityFile {self._home}/user\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
        )
        self._config = self._home / "config"
        self._config.write_text(common)
        wrapper = root / "bin" / "ssh"
        wrapper.parent.mkdir()
        # ssh takes its home from the password file, not from HOME.
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self._config} "$@"\n')
        wrapper.chmod(0o755)
        patch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._daemons):
            self.drop(name)

    def start(self, name: str, environment: str) -> None:
        """Start the daemon of a host; what runs there has the variables `NAME=VALUE ...`."""
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
        assert sshd is not None, "install openssh-server"
        Path("/run/sshd").mkdir(exist_ok=True)
        port = free_port()
        options = (
            f"Port={port}", "ListenAddress=127.0.0.1", f"HostKey={self._home}/host", "StrictModes=no",
            f"AuthorizedKeysFile={self._home}/user.pub", "PermitRootLogin=yes", f"PidFile={self.root}/{name}.pid",
            "MaxStartups=100", "PasswordAuthentication=no", f"SetEnv={environment}",
        )  # fmt: skip
        argv = [sshd, "-D", "-e", "-f", "/dev/null", *(word for option in options for word in ("-o", option))]
        with (self.root / f"{name}.log").open("wb") as log:
            self._daemons[name] = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        with self._config.open("a") as file:
            file.write(f"Host {name}\n HostName 127.0.0.1\n Port {port}\n User root\n")

    def drop(self, name: str) -> None:
        """End a daemon with all its connections: the host is gone, its containers go on."""
        os.killpg(self._daemons[name].pid, signal.SIGKILL)
        self._daemons.pop(name).wait()
