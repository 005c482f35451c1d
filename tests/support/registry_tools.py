"""For tests and benchmarks: a real registry on loopback, images made of bytes, and a proxy that breaks things."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from assay.evidence.oci import MANIFEST, Descriptor, Manifest
from assay.evidence.reference import Repository
from assay.foundation.digest import sha256_of
from assay.ports.registry import Registry

PROGRAMS = ("docker-registry", "registry")


def registry_program() -> str | None:
    """Return the path of a registry program, or None."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


def free_port() -> int:
    """Return a port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def real_registry(
    folder: Path,
    *,
    delete: bool = True,
    htpasswd: str | None = None,
    tls: tuple[Path, Path] | None = None,
    auth: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Run a registry that keeps its blobs in `folder`; gives `127.0.0.1:port`. `tls`: certificate and private key."""
    program = registry_program()
    assert program is not None, "no registry program on PATH (Debian: apt-get install docker-registry)"
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": delete}},
        "http": {"addr": f"127.0.0.1:{port}", "headers": {"X-Content-Type-Options": ["nosniff"]}},
    }
    if auth is not None:
        config["auth"] = dict(auth)
    if tls is not None:
        config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    if htpasswd is not None:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "assay", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, (folder / "registry.log").read_text()
            assert time.monotonic() < deadline, "the registry does not come up"
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


# Images


def _layer(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def put_image(
    registry: Registry,
    repository: Repository,
    tag: str | None,
    *,
    content: bytes = b"hello",
    architecture: str = "amd64",
) -> Manifest:
    """Put an image of two small layers that docker and skopeo can pull."""
    layers, diff_ids = [], []
    for number, text in enumerate((b"base", content)):
        tar = _layer(f"file{number}", text)
        packed = gzip.compress(tar, mtime=0)
        registry.put_blob(repository, packed)
        diff_ids.append(sha256_of(tar))
        layers.append(
            Descriptor(
                media_type="application/vnd.oci.image.layer.v1.tar+gzip", digest=sha256_of(packed), size=len(packed)
            )
        )
    config = json.dumps(
        {"architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    registry.put_blob(repository, config)
    # Two spaces and a newline: bytes that no JSON writer gives back by chance.
    raw = (
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": sha256_of(config),
                    "size": len(config),
                },
                "layers": [layer.to_json() for layer in layers],
            },
            indent=2,
        )
        + "\n"
    ).encode()
    manifest = Manifest.parse(raw, MANIFEST)
    registry.put_manifest(repository, tag or manifest.digest, manifest)
    return manifest


def copy_image(registry: Registry, source: Repository, digest: str, target: Repository) -> None:
    """Copy an image to another registry, byte for byte, under the tag `it`."""
    manifest = registry.manifest(source, digest)
    assert manifest is not None
    for blob in manifest.blobs:
        data = registry.blob(source, blob, limit=1 << 30)
        assert data is not None
        registry.put_blob(target, data)
    registry.put_manifest(target, "it", manifest)


# Faults


@dataclass
class Exchange:
    """One request as the proxy sees it."""

    number: int
    method: str
    path: str
    authorization: str | None
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass
class Fault:
    """What to do to a request instead of, or after, passing it on."""

    kind: str
    """`reset`, `reset-after`, `slow`, `truncate`, `digest`, `swap`, `expired` (of its token), or a status, `429`."""
    seconds: float = 0.0


@dataclass
class FaultyProxy:
    """An HTTP proxy in front of a registry; `decide` names the fault of each exchange, or None."""

    upstream: str
    decide: Callable[[Exchange], Fault | None] = lambda _exchange: None
    seen: list[Exchange] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    in_flight: int = 0
    _server: ThreadingHTTPServer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.server_address[1]}"

    def reset(self, decide: Callable[[Exchange], Fault | None] | None = None) -> None:
        with self._lock:
            self.seen.clear()
            self.bytes_up = self.bytes_down = 0
            self.decide = decide or (lambda _exchange: None)

    def quiet(self) -> None:
        """Wait until the registry has done all that it was asked, also by clients that are gone."""
        while self.in_flight:
            time.sleep(0.002)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Answers leave in one piece and at once: otherwise each costs the 40 ms of a delayed acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    owner: FaultyProxy
    upstream: http.client.HTTPConnection | None = None
    exchange: Exchange

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            found = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            # SO_LINGER 0 makes close() send RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        body = self._body()
        # Counted before a fault is chosen: whoever is killed by it leaves a request that still counts.
        with self.owner._lock:
            self.owner.in_flight += 1
        try:
            self._exchange(body)
        finally:
            with self.owner._lock:
                self.owner.in_flight -= 1

    def _exchange(self, body: bytes) -> None:
        owner = self.owner
        with owner._lock:
            exchange = self.exchange = Exchange(
                len(owner.seen), self.command, self.path, self.headers.get("Authorization")
            )
            owner.seen.append(exchange)
            exchange.bytes_up = len(body) + len(self.requestline) + len(str(self.headers))
            owner.bytes_up += exchange.bytes_up
            fault = owner.decide(exchange)
        kind = fault.kind if fault else ""
        if kind == "reset":
            return self._hang_up()
        if kind.isdigit():
            return self._answer(int(kind), {"Retry-After": "0"} if kind == "429" else {}, b'{"errors":[]}')
        if kind == "slow" and fault:
            time.sleep(fault.seconds)
        status, headers, content = self._forward(body, expired=kind == "expired")
        if kind == "reset-after":
            return self._hang_up()
        if kind == "digest" and "docker-content-digest" in {name.lower() for name in headers}:
            headers = {name: value for name, value in headers.items() if name.lower() != "docker-content-digest"}
            headers["Docker-Content-Digest"] = "sha256:" + "0" * 64
        if kind == "swap" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        return self._answer(status, headers, content, truncate=kind == "truncate")

    def _forward(self, body: bytes, *, expired: bool) -> tuple[int, dict[str, str], bytes]:
        connection = self.upstream = self.upstream or http.client.HTTPConnection(self.owner.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        if expired:
            headers["Authorization"] = "Bearer expired"
        headers["Content-Length"] = str(len(body))
        if self.command in ("GET", "HEAD"):
            del headers["Content-Length"]
        try:
            connection.request(self.command, self.path, body=body or None, headers=headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        except BaseException:
            connection.close()
            raise

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        with suppress(OSError):
            super().finish()

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes, *, truncate: bool = False) -> None:
        with suppress(OSError):
            self.send_response_only(status)
            length = str(len(content))
            for name, value in headers.items():
                if name.lower() == "content-length":
                    length = value if self.command == "HEAD" else length
                elif name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            sent = content[: len(content) // 2] if truncate else content
            with self.owner._lock:
                count = len(sent) + sum(len(name) + len(value) + 4 for name, value in headers.items())
                self.exchange.bytes_down = count
                self.owner.bytes_down += count
            if self.command != "HEAD":
                self.wfile.write(sent)
            self.wfile.flush()
            if truncate:
                self._hang_up()

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815
