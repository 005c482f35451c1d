"""A package index on loopback, laid out like a real one: a page for each project, dated builds, pruning."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name


class LocalIndex:
    """Files in a folder, served as a simple index (PEP 503)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, list[Path]] = {}

    def add(
        self,
        name: str,
        version: str,
        *,
        requires: Sequence[str] = (),
        tag: str = "py3-none-any",
        files: Mapping[str, bytes] | None = None,
    ) -> str:
        """Make a wheel, of metadata alone unless `files` are given, and list it; return its sha256."""
        folder = self.root / "files"
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{name.replace('-', '_')}-{version}"
        path = folder / f"{stem}-{tag}.whl"
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        contents: dict[str, str | bytes] = {
            f"{stem}.dist-info/METADATA": "\n".join([*lines, ""]),
            f"{stem}.dist-info/WHEEL": (f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"),
            f"{stem}.dist-info/RECORD": "",
            **(files or {}),
        }
        with zipfile.ZipFile(path, "w") as wheel:
            for member, text in contents.items():
                wheel.writestr(zipfile.ZipInfo(member), text)
        self.files.setdefault(canonicalize_name(name), []).append(path)
        self._write()
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def prune(self, name: str, version: str) -> None:
        """Forget a build, as a nightly index does after some weeks."""
        for path in [path for path in self.files[name] if f"-{version}-" in path.name]:
            self.files[name].remove(path)
            path.unlink()
        self._write()

    def _write(self) -> None:
        for name, paths in self.files.items():
            page = self.root / "simple" / name / "index.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            links = "".join(self._link(path) for path in paths)
            page.write_text(f"<!DOCTYPE html><html><body>\n{links}</body></html>\n")

    def _link(self, path: Path) -> str:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return f'<a href="/files/{path.name.replace("+", "%2B")}#sha256={digest}">{path.name}</a><br/>\n'


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    def copyfile(self, source: Any, outputfile: Any) -> None:
        # A client that has read enough of a wheel hangs up.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().copyfile(source, outputfile)


@contextmanager
def served(index: LocalIndex) -> Iterator[str]:
    """Serve an index; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(index.root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
