"""This machine, as it is."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from assay.adapters.docker import bootstrap
from assay.adapters.host import process
from assay.adapters.index.uv import uv_program
from assay.errors import RegistryError, ToolError
from assay.ports.host import Credential, HostGpu

__all__ = ["LocalHost"]

_QUERY = "name,compute_cap,memory.total,driver_version"


class LocalHost:
    """The machine this process runs on."""

    def __init__(self, *, docker_config: Path | None = None) -> None:
        configured = os.environ.get("DOCKER_CONFIG")
        self._docker = docker_config or (Path(configured) if configured else Path.home() / ".docker")

    def kernel(self) -> str:
        """Return the kernel's version."""
        return f"{platform.system()} {platform.release()}"

    def gpus(self) -> Sequence[HostGpu]:
        """Ask nvidia-smi."""
        try:
            done = process.run(["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"], timeout=60)
        except ToolError:
            return ()
        return read_gpus(done.text)

    def gpu_devices(self) -> Sequence[str]:
        """Look into /dev."""
        return sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))

    def toolkit(self) -> str | None:
        """Ask nvidia-ctk."""
        try:
            said = process.run(["nvidia-ctk", "--version"], timeout=20).text
        except ToolError:
            return None
        found = re.search(r"version (\S+)", said)
        return found[1] if found else "of unknown version"

    def free_bytes(self, folder: str) -> int | None:
        """Look at the file system of a folder, or of the nearest one above it that is there."""
        path = Path(folder)
        try:
            while not path.exists() and path != path.parent:
                path = path.parent
            return shutil.disk_usage(path).free
        except OSError:
            return None

    def uv(self) -> str | None:
        """Ask uv."""
        try:
            return process.run([uv_program(), "--version"], timeout=20).text.strip()
        except ToolError:
            return None

    def bootstrap_missing(self) -> Sequence[str]:
        """Ask the bootstrap."""
        return bootstrap.missing_tools()

    def credentials(self) -> Sequence[Credential]:
        """Read which registries the Docker configuration names, and whether its helper programs are there."""
        path = self._docker / "config.json"
        try:
            config = json.loads(path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise RegistryError(f"{path} cannot be read: {error}", hint="docker login writes it again") from error
        found: list[Credential] = []
        for registry, helper in sorted((config.get("credHelpers") or {}).items()):
            found.append(_helper(registry, helper))
        store = config.get("credsStore")
        for registry, entry in sorted((config.get("auths") or {}).items()):
            if store:
                found.append(_helper(registry, store))
            elif entry.get("auth") or entry.get("identitytoken"):
                found.append(Credential(registry=registry, source="config.json (not encrypted)"))
            else:
                found.append(Credential(registry=registry, source="config.json", problem="the entry is empty"))
        if store and not config.get("auths"):
            found.append(_helper("(any)", store))
        return found


def _helper(registry: str, helper: str) -> Credential:
    name = f"docker-credential-{helper}"
    return Credential(registry=registry, source=name, problem="" if process.find(name) else "not on PATH")


def read_gpus(text: str) -> Sequence[HostGpu]:
    """Read `nvidia-smi --query-gpu` in CSV without units; memory is in MiB there."""
    found: list[HostGpu] = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4:
            name, capability, memory, driver = parts
            found.append(
                HostGpu(
                    name=name,
                    capability=capability if re.fullmatch(r"[0-9]+\.[0-9]", capability) else "",
                    memory_bytes=int(memory) << 20 if memory.isdigit() else 0,
                    driver=driver,
                )
            )
    return found
