"""What a build takes from the index: each wheel once, for its audit and its layer together."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from assembly_tools import CELL, AssemblyProject, blob_of, simple_index
from elf_maker import shared_object
from wheels import wheel_bytes

pytestmark = pytest.mark.registry

OTHER_CELL: Final = "plain-v2"
NOISE: Final = random.Random(3)
STRINGS: Final = b"\0libcuda.so.1\0libc.so.6\0cuInit\0"
DRIVER: Final = shared_object(STRINGS, needed=(1,))
PLAIN: Final = shared_object(STRINGS, needed=(STRINGS.index(b"libc."),))
WHEELS: Final = {
    # Read wholly by an audit: it is linked with the driver, and may have code for GPUs.
    "demo-1.0-py3-none-linux_x86_64.whl": {"demo/gpu.so": DRIVER, "demo/noise": NOISE.randbytes(24 << 20)},
    # Read in ranges: its symbols; and its metadata alone.
    "nvidia_other-1.0-py3-none-linux_x86_64.whl": {"n/lib.so": PLAIN, "n/noise": NOISE.randbytes(12 << 20)},
    "pure-1.0-py3-none-any.whl": {"pure.py": b"x = 1\n", "pure/noise": NOISE.randbytes(12 << 20)},
    # Small enough to be read wholly where symbols are asked for.
    "small-1.0-py3-none-linux_x86_64.whl": {"small.so": PLAIN, "small/noise": NOISE.randbytes(4 << 20)},
}


class Counter:
    """An index that counts the bytes of its answers, and may wait in the middle of a file."""

    def __init__(self, pages: dict[str, bytes]) -> None:
        self.pages = pages
        self.sent = 0
        self.lists: list[str] = []
        self.lock = threading.Lock()
        self.slow = ""
        self.begun = 0
        self.waits, self.go = threading.Event(), threading.Event()

    @contextmanager
    def serve(self) -> Iterator[str]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                data = owner.pages.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                first, last = 0, len(data) - 1
                if wanted := self.headers.get("Range", "").removeprefix("bytes="):
                    low, _, high = wanted.partition("-")
                    first = int(low) if low else max(0, len(data) - int(high))
                    last = min(int(high), last) if low and high else last
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                if self.path.endswith("/"):
                    owner.lists.append(self.path)
                    self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(last + 1 - first))
                self.end_headers()
                if owner.slow and owner.slow in self.path and first == 0:
                    owner.begun += 1
                with suppress(OSError):
                    for at in range(first, last + 1, 1 << 16):
                        piece = data[at : min(at + (1 << 16), last + 1)]
                        with owner.lock:
                            owner.sent += len(piece)
                        if owner.slow and owner.slow in self.path and first == 0 and at > 1 << 20:
                            owner.waits.set()
                            owner.go.wait(60)
                        self.wfile.write(piece)

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}/simple"
            server.shutdown()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "assay", "build", "--output", "oci:out", "--format", "json", *words]


def build(project: AssemblyProject, *words: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        command(*words), cwd=project.root, env=project.environment(), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return list(json.loads(done.stdout)["records"])


def started(project: AssemblyProject, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words), cwd=project.root, env=project.environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def second_cell(project: AssemblyProject) -> None:
    """Add a cell with the same lock."""
    for name in ("matrix.yaml", "images/plain/image.yaml"):
        path = project.root / name
        path.write_text(path.read_text().replace("values: [1]", "values: [1, 2]").replace("[1]}", "[1, 2]}"))
    lock = project.root / "images" / "plain" / "cells" / CELL / "lock.txt"
    other = lock.parents[1] / OTHER_CELL / "lock.txt"
    other.parent.mkdir()
    other.write_text(lock.read_text().replace(CELL, OTHER_CELL))


def layers_of(project: AssemblyProject, digest: str) -> list[str]:
    manifest = json.loads(blob_of(project.root / "out", digest))
    return [layer["digest"] for layer in manifest["layers"]]


def test_a_build_fetches_each_wheel_once_for_its_audit_and_its_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheels = {name: wheel_bytes(name.split("-")[0], "1.0", files, method=0) for name, files in WHEELS.items()}
    total = sum(map(len, wheels.values()))
    counter = Counter(simple_index(wheels))
    with counter.serve() as index:
        project = AssemblyProject(root=tmp_path / "project", index=index, wheels=wheels)
        (record,) = build(project, CELL)
    ratio = counter.sent / total
    with capsys.disabled():
        print(f"\n  {counter.sent / 1e6:.1f} MB from the index for wheels of {total / 1e6:.1f} MB: {ratio:.2f} times")

    assert record["status"] == "built"
    assert len(list((project.root / "cache").rglob("*"))) > len(wheels)
    assert ratio <= 1.3
    assert project.leftovers() == []


def test_cells_that_are_built_at_once_fetch_each_wheel_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheels = {name: wheel_bytes(name.split("-")[0], "1.0", files, method=0) for name, files in WHEELS.items()}
    total = sum(map(len, wheels.values()))
    counter = Counter(simple_index(wheels))
    with counter.serve() as index:
        project = AssemblyProject(root=tmp_path / "project", index=index, wheels=wheels)
        second_cell(project)
        records = build(project, CELL, OTHER_CELL, "--jobs", "2")
    ratio = counter.sent / total
    with capsys.disabled():
        print(f"\n  two cells at once: {counter.sent / 1e6:.1f} MB for {total / 1e6:.1f} MB: {ratio:.2f} times")
    one, other = (layers_of(project, record["image_digest"]) for record in records)

    assert [record["status"] for record in records] == ["built", "built"]
    assert one == other
    assert ratio <= 1.1
    assert len(counter.lists) == len(set(counter.lists)) == len(wheels)
    assert project.leftovers() == []


def test_a_build_continues_where_one_was_killed_that_made_a_layer_it_waits_for(tmp_path: Path) -> None:
    wheels = {name: wheel_bytes(name.split("-")[0], "1.0", files, method=0) for name, files in WHEELS.items()}
    counter = Counter(simple_index(wheels))
    counter.slow = "pure-1.0"
    with counter.serve() as index:
        project = AssemblyProject(root=tmp_path / "project", index=index, wheels=wheels)
        second_cell(project)
        first = started(project, CELL)
        assert counter.waits.wait(60)
        second = started(project, OTHER_CELL)
        with pytest.raises(subprocess.TimeoutExpired):
            second.communicate(timeout=3)
        begun = counter.begun
        first.kill()
        first.communicate()
        counter.go.set()
        said, errors = second.communicate(timeout=120)
        assert second.returncode == 0, errors
        (record,) = json.loads(said)["records"]
        clean = AssemblyProject(root=tmp_path / "clean", index=index, wheels=wheels)
        (wanted,) = build(clean, CELL)

    assert record["status"] == "built"
    assert begun == 1
    assert layers_of(project, record["image_digest"]) == layers_of(clean, wanted["image_digest"])
    project.check_store()
    assert project.leftovers() == []
