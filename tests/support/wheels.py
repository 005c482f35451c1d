"""Small wheels made in memory, and a server of files that can be as unkind as real ones."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from assay.audit.installation import Installation
from assay.wheels.facts import READER, Library, WheelFacts
from assay.wheels.gpu_code import CodeGroup, GpuCode


def wheel_bytes(
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    requires: tuple[str, ...] = (),
    method: int = zipfile.ZIP_DEFLATED,
    record: str = "",
) -> bytes:
    """Return a wheel."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {line}\n" for line in requires
    )
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: cp311-cp311-linux_x86_64\n")
        archive.writestr(f"{info}/RECORD", record)
    return made.getvalue()


def library(
    path: str,
    *,
    needed: tuple[str, ...] = (),
    undefined: tuple[str, ...] = (),
    weak: tuple[str, ...] = (),
    defined: tuple[str, ...] = (),
    soname: str | None = None,
    rpath: tuple[str, ...] = (),
    runpath: tuple[str, ...] = (),
    requires: Mapping[str, tuple[str, ...]] | None = None,
    provides: tuple[str, ...] = (),
    sass: tuple[str, ...] = (),
    ptx: tuple[str, ...] = (),
    scope: str = "full",
) -> Library:
    """Return a library's facts."""
    gpu = GpuCode(groups=(CodeGroup(sass=sass, ptx=ptx, containers=1),)) if sass or ptx else None
    return Library.model_validate(
        {
            "path": path,
            "size": 1,
            "scope": scope,
            "soname": soname,
            "needed": needed,
            "rpath": rpath,
            "runpath": runpath,
            "defined": {"global": "\n".join(defined)} if defined else {},
            "undefined": {key: "\n".join(names) for key, names in (("global", undefined), ("weak", weak)) if names},
            "requires": dict(requires or {}),
            "provides": provides,
            "gpu": gpu,
        }
    )


def facts(name: str, version: str, *libraries: Library, requires: tuple[str, ...] = (), **more: object) -> WheelFacts:
    """Return a wheel's facts."""
    tag = "cp311-cp311-linux_x86_64"
    return WheelFacts.model_validate(
        {
            "reader": READER,
            "name": name,
            "version": version,
            "filename": f"{name.replace('-', '_')}-{version}-{tag}.whl",
            "sha256": f"{abs(hash((name, version))):064x}"[:64],
            "complete": True,
            "libraries": libraries,
            "requires_dist": requires,
            **more,
        }
    )


class FileServer:
    """Serves bytes by path; `mode` says how."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.mode = "ranges"
        self.requests: list[str] = []
        self.sent = 0


_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def _without_file(handler: BaseHTTPRequestHandler, state: FileServer) -> None:
    """Answer for a path that has no file: with where it went, or that there is none."""
    elsewhere = state.redirects.get(handler.path)
    if elsewhere is None:
        handler.send_error(404)
        return
    handler.send_response(302)
    handler.send_header("Location", elsewhere)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@contextmanager
def serving() -> Iterator[tuple[FileServer, str]]:
    """Run a server in a thread; yields it and its address."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            data = state.files.get(self.path)
            if data is None:
                _without_file(self, state)
                return
            wanted = self.headers.get("Range", "")
            state.requests.append(wanted)
            match = _RANGE.fullmatch(wanted)
            if state.mode == "changes" and len(state.requests) > 1:
                data = bytes(reversed(data))
            if not match or state.mode == "whole":
                self._send(200, data, {"ETag": '"1"'})
                return
            first, last = match.group(1), match.group(2)
            start = int(first) if first else max(0, len(data) - int(last))
            end = min(int(last), len(data) - 1) if first and last else len(data) - 1
            part = data[start : end + 1]
            total = len(data)
            etag = '"1"'
            if len(state.requests) > 1:
                if state.mode == "lies":
                    start, end = start + 1, end + 1
                if state.mode == "grows":
                    total += 1
                if state.mode == "etag":
                    etag = '"2"'
                if state.mode == "nameless":
                    self._send(206, part, {})
                    return
            headers = {"Content-Range": f"bytes {start}-{end}/{total}", "ETag": etag}
            broken = state.mode == "breaks" and len(state.requests) % 3 == 2 and len(part) > 64
            self._send(206, part, headers, cut=len(part) // 2 if broken else None)

        def _send(self, status: int, data: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            sent = data if cut is None else data[:cut]
            state.sent += len(sent)
            self.wfile.write(sent)
            if cut is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def untouched(cell: Installation) -> Installation:
    """Return a cell whose wheels nobody has looked at."""
    return replace(cell, wheels=tuple(wheel.model_copy(deep=True) for wheel in cell.wheels))
