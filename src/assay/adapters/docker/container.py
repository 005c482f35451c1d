"""One Docker container, from create to removal; the lifecycle rules come from how the SDK was measured to behave.

`wait` and `logs(stream=True)` are not cut by the client's time-out, `wait(timeout)` raises and leaves the container
running, and a failed start leaves a `Created` container behind: so this class owns its container, always.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

import docker
import docker.errors
import requests.exceptions

from assay.adapters.docker.errors import translated
from assay.adapters.docker.read import Reader
from assay.errors import EngineError
from assay.ports.engine import ContainerSpec, Exit, Logs

__all__ = ["DockerContainer", "archive", "exit_of", "writable_folder"]

_NEVER: Final = "0001-01-01T00:00:00Z"
_NOT_EXECUTABLE: Final = (126, 127)
_SIGNALS: Final = range(1, 65)
_REMOVAL_SECONDS: Final = 300
"""How long a removal may take; two minutes were seen on a machine that wrote gigabytes at the same time."""


class DockerContainer:
    """A container that exists in a Docker engine."""

    def __init__(self, client: docker.DockerClient, container_id: str, spec: ContainerSpec) -> None:
        self._api = client.api
        self._spec = spec
        self.id = container_id

    def __repr__(self) -> str:
        return f"<container {self.id[:12]} of {self._spec.image}>"

    def start(self) -> None:
        """Start it; see the port."""
        with translated(f"starting a container of {self._spec.image}"):
            try:
                self._api.start(self.id)
            except docker.errors.APIError:
                if self._api.inspect_container(self.id)["State"]["ExitCode"] not in _NOT_EXECUTABLE:
                    raise

    def put(self, folder: str, files: Mapping[str, bytes | Path]) -> None:
        """Write files; see the port."""
        with translated(f"writing files to {folder} in a container of {self._spec.image}"):
            self._api.put_archive(self.id, folder, archive(files))

    def get(self, path: str, *, limit: int = 64 << 20) -> dict[str, bytes]:
        """Read files; see the port."""
        found: dict[str, bytes] = {}
        with translated(f"reading {path} in a container of {self._spec.image}"):
            try:
                stream, _ = self._api.get_archive(self.id, path)
            except docker.errors.NotFound:
                return found
            left = limit
            with tarfile.open(fileobj=Reader(stream, f"reading {path}"), mode="r|") as tar:
                for member in tar:
                    left -= member.size
                    if left < 0:
                        raise EngineError(f"more than {limit} bytes lie in {path} of a container of {self._spec.image}")
                    if (source := tar.extractfile(member)) is not None and member.isfile():
                        # Every name starts with the last part of `path`; a file asked for by itself is just that.
                        parts = PurePosixPath(member.name).parts
                        found["/".join(parts[1:]) or parts[0]] = source.read()
        return found

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait for its end; see the port."""
        doing = f"waiting for a container of {self._spec.image}"
        deadline = None if timeout is None else time.monotonic() + timeout
        timed_out = False
        with translated(doing):
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0 and not timed_out:
                    timed_out = self.running()
                    self.kill()
                    deadline = left = None
                try:
                    # The SDK treats a float and None alike; both are the patience between two bytes.
                    self._api.wait(self.id, timeout=left)  # type: ignore[arg-type]
                    break
                except (requests.exceptions.ConnectionError, requests.exceptions.Timeout):
                    if left is None:
                        raise
            state = self._api.inspect_container(self.id)["State"]
        return exit_of(state, timed_out=timed_out)

    def running(self) -> bool:
        """Say whether it runs."""
        with translated(f"inspecting a container of {self._spec.image}"):
            return bool(self._api.inspect_container(self.id)["State"]["Running"])

    def kill(self, signal: str = "SIGKILL") -> None:
        """Send a signal if it runs."""
        with translated(f"stopping a container of {self._spec.image}"):
            try:
                self._api.kill(self.id, signal)
            except docker.errors.APIError as error:
                # 409: it ended in the meantime.
                if error.status_code != requests.codes.conflict:
                    raise

    def logs(self, *, limit: int = 1 << 20) -> Logs:
        """Return its output; see the port."""
        with translated(f"reading the log of a container of {self._spec.image}"):
            out, out_cut = _bounded(
                self._api.logs(self.id, stdout=True, stderr=False, stream=True, follow=False), limit
            )
            err, err_cut = _bounded(
                self._api.logs(self.id, stdout=False, stderr=True, stream=True, follow=False), limit
            )
        return Logs(stdout=out, stderr=err, truncated=out_cut or err_cut)

    def follow(self) -> Iterator[bytes]:
        """Yield output as it comes; see the port."""
        with translated(f"following the log of a container of {self._spec.image}"):
            yield from self._api.logs(self.id, stdout=True, stderr=True, stream=True, follow=True)

    def host_port(self, port: int) -> int:
        """Return where a published port is reached."""
        with translated(f"inspecting a container of {self._spec.image}"):
            bound = self._api.inspect_container(self.id)["NetworkSettings"]["Ports"].get(f"{port}/tcp")
        if not bound:
            raise EngineError(f"port {port} of a container of {self._spec.image} is not published; does it run?")
        return int(bound[0]["HostPort"])

    def remove(self) -> None:
        """Kill and remove it with its anonymous volumes; nothing happens if it is gone."""
        with translated(f"removing a container of {self._spec.image}"):
            deadline = time.monotonic() + _REMOVAL_SECONDS
            while True:
                try:
                    self._api.remove_container(self.id, v=True, force=True)
                except docker.errors.NotFound:
                    return
                except requests.exceptions.Timeout:
                    # A busy engine removes it all the same, later than the client waits.
                    if time.monotonic() > deadline:
                        raise
                except docker.errors.APIError as error:
                    # 409 "removal already in progress": another sweep, or our own first try, is at it.
                    if time.monotonic() > deadline or error.status_code != requests.codes.conflict:
                        raise
                else:
                    return
                time.sleep(0.5)


def archive(files: Mapping[str, bytes | Path]) -> bytes:
    """Return a tar of files that everybody may read and execute, with the folders their names hold."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        made: set[str] = set()
        for name, content in files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise EngineError(f"a file for a container cannot be named {name!r}")
            for folder in reversed(path.parents[:-1]):
                if str(folder) not in made:
                    made.add(str(folder))
                    tar.addfile(_member(str(folder), directory=True))
            data = content if isinstance(content, bytes) else content.read_bytes()
            tar.addfile(_member(str(path), size=len(data)), io.BytesIO(data))
    return buffer.getvalue()


def _member(name: str, *, size: int = 0, directory: bool = False) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o777 if directory else 0o755
    member.mtime = int(time.time())
    if directory:
        member.type = tarfile.DIRTYPE
    return member


def writable_folder(name: str) -> bytes:
    """Return a tar of one folder that everybody may write to.

    The folder a tar is unpacked in cannot be changed by it (the daemon skips the entry `.`), so it has to be one below.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(_member(name, directory=True))
    return buffer.getvalue()


def exit_of(state: Mapping[str, Any], *, timed_out: bool) -> Exit:
    """Read how a container ended from the engine's `State`."""
    code = int(state["ExitCode"])
    signal = code - 128 if code > 128 and code - 128 in _SIGNALS else None
    seconds = 0.0
    with suppress(ValueError):
        if _NEVER not in (state["StartedAt"], state["FinishedAt"]):
            seconds = (_moment(state["FinishedAt"]) - _moment(state["StartedAt"])).total_seconds()
    return Exit(
        code=code,
        signal=signal,
        oom_killed=bool(state["OOMKilled"]),
        timed_out=timed_out,
        seconds=max(seconds, 0.0),
        error=str(state.get("Error") or ""),
    )


def _moment(text: str) -> datetime:
    # Nanoseconds are more than Python reads.
    head, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{(fraction + '000000')[:6]}+00:00")


def _bounded(chunks: Iterator[bytes], limit: int) -> tuple[bytes, bool]:
    """Keep the first and the last half of `limit` bytes."""
    half = max(limit // 2, 1)
    head, tail, dropped = bytearray(), bytearray(), 0
    for chunk in chunks:
        room = max(half - len(head), 0)
        head += chunk[:room]
        tail += chunk[room:]
        if (over := len(tail) - half) > 0:
            del tail[:over]
            dropped += over
    gap = b"\n[... %d bytes left out ...]\n" % dropped if dropped else b""
    return bytes(head) + gap + bytes(tail), bool(dropped)
