"""Assembling where everything fails: whatever breaks, nothing half-written is used, and running again ends right.

A clean run is recorded first: its digest, the files of its image, its changes to files and its requests. Then it is
killed at each of them, and every kind of fault is put at every kind of request. A few of each in the ordinary run, all
of them with ASSAY_ALL_FAULTS=1 (`nox -s faults`).
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from assembly_tools import CELL, AssemblyProject, image_files, simple_index
from registry_tools import Exchange, Fault, FaultyProxy, real_registry
from relay import Relay
from token_server import TokenServer
from wheels import wheel_bytes

from assay.adapters.http.patience import Rate
from assay.adapters.registry.auth import Anonymous
from assay.adapters.registry.client import HttpRegistry, connect
from assay.adapters.registry.http import Transport
from assay.cli import main
from assay.evidence.reference import Repository
from assay.foundation.digest import sha256_of

pytestmark = [
    pytest.mark.registry,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]

ALL: Final = bool(os.environ.get("ASSAY_ALL_FAULTS"))
DEMO: Final = "demo-1.0-py3-none-any.whl"
OTHER: Final = "other-1.0-py3-none-any.whl"
NOISE: Final = random.Random(7).randbytes(3 << 20)
GOOD: Final = {
    DEMO: wheel_bytes("demo", "1.0", {"demo/__init__.py": b"x = 1\n", "demo/noise.bin": NOISE}),
    OTHER: wheel_bytes("other", "1.0", {"other.py": b"y = 2\n"}),
}
REPOSITORY: Final = "team/plain"
STATUSES: Final = ("401", "429", "500", "502", "503")


def chosen(numbers: list[int], offset: int = 0, stride: int = 25) -> list[int]:
    return numbers if ALL else numbers[offset % stride :: stride]


@dataclass
class Index:
    """A package index whose answers for the files of `demo` are what a test makes of them."""

    pages: dict[str, bytes]
    fault: Callable[[http.server.BaseHTTPRequestHandler, bytes], None] | None = None
    requests: int = 0
    address: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)


def good_answer(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    """Send a file, or the part of it that is asked for."""
    wanted = handler.headers.get("Range", "")
    first, last = 0, len(data) - 1
    if wanted.startswith("bytes="):
        low, _, high = wanted.removeprefix("bytes=").partition("-")
        first = int(low) if low else max(0, len(data) - int(high))
        last = min(int(high), last) if low and high else last
    handler.send_response(206 if wanted else 200)
    if wanted:
        handler.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
    handler.send_header("Content-Length", str(last - first + 1))
    handler.end_headers()
    handler.wfile.write(data[first : last + 1])


@contextmanager
def serving(index: Index) -> Iterator[Index]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            with index._lock:
                index.requests += 1
            data = index.pages.get(self.path)
            with suppress(OSError):
                if data is None:
                    self.send_error(404)
                elif index.fault is not None and self.path.startswith("/files/demo"):
                    index.fault(self, data)
                elif self.path.startswith("/files/"):
                    good_answer(self, data)
                else:
                    self.send_response(200)
                    self.send_header("Content-Type", "text/html")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that was killed is what these tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        index.address = f"http://127.0.0.1:{server.server_address[1]}/simple"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield index
        finally:
            server.shutdown()


@dataclass(kw_only=True)
class Trials:
    """Fresh projects over one index, and what a clean run of theirs gives."""

    folder: Path
    index: Index
    count: int = 0
    digest: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    def fresh(self) -> AssemblyProject:
        self.count += 1
        return AssemblyProject(root=self.folder / f"p{self.count}", index=self.index.address, wheels=GOOD)

    def ended(self, project: AssemblyProject, *words: str) -> None:
        """Run again, with nothing in the way, and check all that there is then."""
        code, said = run(project, "--output", "oci:out", *words)
        assert code == 0, said
        assert self.digest in said
        assert image_files(project.root / "out") == self.files
        project.check_store()
        assert project.leftovers() == []

    def pushed(self, project: AssemblyProject, host: str, repository: str) -> None:
        """Push, with nothing in the way, and read the image back, all of its bytes."""
        code, said = run(project, "--push", f"{host}/{repository}")
        assert code == 0, said
        self.whole(host, repository, must=True)

    def whole(self, host: str, repository: str, *, must: bool = False) -> None:
        """Check that the tag, if it is there, names the image, and the registry has all of it."""
        registry, where = connect(credentials=Anonymous()), Repository(host=host, path=repository)
        manifest = registry.manifest(where, CELL)
        if manifest is None:
            assert not must
            return
        assert manifest.digest == self.digest
        for blob in manifest.blobs:
            data = registry.blob(where, blob, limit=1 << 30)
            assert data is not None
            assert sha256_of(data) == blob.digest


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    with serving(Index(simple_index(GOOD))) as index:
        made = Trials(folder=tmp_path_factory.mktemp("faults"), index=index)
        project = made.fresh()
        made.digest = str(project.digest("--output", "oci:out")["digest"])
        made.files = image_files(project.root / "out")
        yield made


@pytest.fixture(autouse=True)
def mended(trials: Trials) -> Iterator[None]:
    yield
    trials.index.fault = None


def memory(name: str) -> int:
    """Return a figure of this process's memory in bytes: `VmRSS`, or its peak, `VmHWM`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(found) * 1024


def child(project: AssemblyProject, words: tuple[str, ...], prepare: Callable[[], None] | None = None) -> int:
    """Fork a process that assembles; return its number. What it says is in `said.txt` of the project."""
    pid = os.fork()
    if pid == 0:
        code = 99
        with suppress(BaseException):
            with (project.root / "said.txt").open("wb") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            os.chdir(project.root)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.environ.clear()
            os.environ.update(project.environment())
            if prepare is not None:
                prepare()
            # What this process had when it was forked is not its own.
            before = memory("VmRSS")
            code = main(["assemble", *words])
            (project.root / "grown.txt").write_text(str(memory("VmHWM") - before))
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return pid


def run(project: AssemblyProject, *words: str, prepare: Callable[[], None] | None = None) -> tuple[int, str]:
    """Assemble in a process of its own; return its exit code and what it said."""
    _, status = os.waitpid(child(project, words, prepare), 0)
    return os.waitstatus_to_exitcode(status), (project.root / "said.txt").read_text()


# Killed


_CHANGES: Final = frozenset(
    ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "fcntl.flock",
     "subprocess.Popen", "tempfile.mkstemp", "tempfile.mkdtemp", "socket.connect")
)  # fmt: skip


def on_change(act: Callable[[int], None]) -> Callable[[], None]:
    """Return what makes a process call `act` with 1, 2, ... before each of its changes to files."""
    count = 0
    lock = threading.Lock()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _CHANGES or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        with lock:
            count += 1
            number = count
        act(number)

    return lambda: sys.addaudithook(hook)


def test_killed_before_each_change_to_files(trials: Trials, capsys: pytest.CaptureFixture[str]) -> None:
    clean = trials.fresh()
    counted = clean.root / "counted.txt"

    def note(number: int) -> None:
        # Not by open(): that is an event of its own.
        os.write(notes, f"{number}\n".encode())

    notes = os.open(counted, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    code, said = run(clean, "--output", "oci:out", prepare=on_change(note))
    os.close(notes)
    assert code == 0, said
    changes = len(counted.read_text().splitlines())
    tried = killed = 0
    for number in chosen(list(range(1, changes + 1)), stride=25):
        project = trials.fresh()

        def die(at: int, number: int = number) -> None:
            if at == number:
                os.kill(os.getpid(), signal.SIGKILL)

        code, said = run(project, "--output", "oci:out", prepare=on_change(die))
        # Threads take turns: the last changes may be fewer.
        assert code in (-signal.SIGKILL, 0), said
        tried += 1
        killed += code != 0
        project.check_store()
        trials.ended(project)
    with capsys.disabled():
        print(f"\n  killed before a change to files: {killed:3} of {changes} moments, survived {tried:3} of {tried}")

    assert killed >= tried - 2


def test_killed_at_any_time(trials: Trials, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    code, said = run(trials.fresh(), "--output", "oci:out")
    whole = time.monotonic() - begun
    assert code == 0, said
    moments = 60 if ALL else 3
    killed = 0
    for number in range(moments):
        project = trials.fresh()
        pid = child(project, ("--output", "oci:out"))
        time.sleep(whole * (number + 0.5) / moments)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        project.check_store()
        trials.ended(project)
    with capsys.disabled():
        print(f"\n  killed at a moment of its {whole:.2f} s: {killed:3} of {moments} times, survived all")


# The index


@dataclass(frozen=True, kw_only=True)
class IndexFault:
    answer: Callable[[http.server.BaseHTTPRequestHandler, bytes], None]
    code: int
    says: str = ""


def cut(handler: http.server.BaseHTTPRequestHandler) -> None:
    """End the connection with a reset."""
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()
    handler.close_connection = True


def part(size: int) -> Callable[[http.server.BaseHTTPRequestHandler, bytes], None]:
    """Return an answer that ends with a reset after so many bytes."""

    def answer(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
        wanted = handler.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0] or -1)
        if wanted and start < 0:
            good_answer(handler, data)
            return
        start = max(start, 0)
        handler.send_response(206 if wanted else 200)
        if wanted:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start : start + size])
        handler.wfile.flush()
        # A reset takes away what was not read yet.
        time.sleep(0.1)
        if start + size < len(data):
            cut(handler)

    return answer


def whole(change: Callable[[bytes], bytes], *, announced: int = 0) -> Callable[..., None]:
    """Return an answer without ranges, of other bytes or another length."""

    def answer(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
        sent = change(data)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(sent) + announced))
        handler.end_headers()
        handler.wfile.write(sent)
        handler.wfile.flush()
        handler.close_connection = True

    return answer


def trickle(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    for number in range(len(data)):
        handler.wfile.write(data[number : number + 1])
        time.sleep(0.02)


def status(code: int) -> Callable[..., None]:
    def answer(handler: http.server.BaseHTTPRequestHandler, data: bytes) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


INDEX_FAULTS: Final = {
    "bytes that are not the lock's": IndexFault(
        answer=lambda handler, data: good_answer(handler, data.replace(b"x = 1", b"x = 7") if b"x = 1" in data else
        data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]), code=1, says="the lock has sha256",
    ),
    "bytes of another file": IndexFault(answer=whole(lambda _: GOOD[OTHER]), code=1, says="the lock has sha256"),
    "a reset after each megabyte and a half": IndexFault(answer=part(1_500_000), code=0),
    "a reset after each byte": IndexFault(answer=part(1), code=1, says="the connection broke"),
    "nothing but a reset": IndexFault(answer=lambda handler, _: cut(handler), code=1, says=DEMO),
    "more bytes than it says": IndexFault(answer=whole(lambda data: data + b"x" * 9000, announced=-9000), code=0),
    "fewer bytes than it says": IndexFault(answer=whole(lambda data: data[:-9000], announced=9000), code=1, says=DEMO),
    "a wheel that is cut short": IndexFault(
        answer=whole(lambda data: data[:-9000]), code=1, says="the lock has sha256",
    ),
    "a longer wheel": IndexFault(answer=whole(lambda data: data + b"x" * 9000), code=1, says="the lock has sha256"),
    "a byte now and then": IndexFault(answer=trickle, code=1, says="too slow"),
    "404": IndexFault(answer=status(404), code=1, says="404"),
    "403": IndexFault(answer=status(403), code=1, says="403"),
    "an empty wheel": IndexFault(answer=whole(lambda _: b""), code=1, says=DEMO),
}  # fmt: skip


@pytest.mark.parametrize("kind", INDEX_FAULTS)
def test_an_index_that_fails(
    trials: Trials, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(name: str, *, seconds: float | None = None) -> Rate:
        return Rate(name, seconds=seconds, window=1.0)

    # In the whole session the half minute that a slow server is given passes for real.
    prepare = None if ALL else (lambda: monkeypatch.setattr("assay.adapters.index.ranges.Rate", impatient))
    fault, project = INDEX_FAULTS[kind], trials.fresh()
    trials.index.fault = fault.answer
    begun = time.monotonic()
    code, said = run(project, "--output", "oci:out", prepare=prepare)
    seconds = time.monotonic() - begun
    project.check_store()

    assert (code, "Traceback" in said) == (fault.code, False), said
    assert fault.says in said
    assert code == 0 or not (project.root / "out").exists()
    assert code == 1 or trials.digest in said
    trials.index.fault = None
    trials.ended(project)
    with capsys.disabled():
        outcome = "assembled all the same" if code == 0 else "refused"
        print(f"\n  the index sends {kind:37} {outcome:22} after {seconds:4.1f} s; right when run again")


# The disk


def test_a_full_disk(trials: Trials, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder of layers is on a disk of a few megabytes; with room again, running again ends right."""
    outcomes: list[int] = []
    sizes = range(64, 16_000, 500) if ALL else range(64, 16_000, 7900)
    for size in sizes:
        project = trials.fresh()
        elsewhere = project.layers.rename(project.root / "template")
        project.layers.mkdir()
        command = " ".join(project.command("--output", "oci:small/out"))
        # The mount is the child's own. The layout lies on another disk, and the wheel is fetched to the small one.
        script = (
            f"mount -t tmpfs -o size={size}k,mode=755 none {project.layers} && cp -a {elsewhere}/. {project.layers}/"
            f" || exit 77\n{command} >said.txt 2>&1\ncode=$?\n"
            f"find {project.layers}/blobs -type f -exec sha256sum {{}} + >sums.txt\n"
            f"mount -o remount,size=100m {project.layers}\n{command} >again.txt 2>&1 || exit 78\n"
            f"find {project.layers} -maxdepth 1 -type f >left.txt\nexit $code\n"
        )
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
            cwd=project.root, env=project.environment(), check=False, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode == 77:
            continue
        said = (project.root / "said.txt").read_text()
        outcomes.append(done.returncode)

        assert done.returncode in (0, 1), (project.root / "again.txt").read_text()
        assert done.returncode == 0 or "free some disk space" in said, said
        assert "Traceback" not in said
        for line in (project.root / "sums.txt").read_text().splitlines():
            digest, _, path = line.partition("  ")
            assert path.endswith(f"/{digest}")
        assert trials.digest in (project.root / "again.txt").read_text()
        assert image_files(project.root / "small" / "out") == trials.files
        assert [line for line in (project.root / "left.txt").read_text().splitlines() if "/.lock" not in line] == []
    with capsys.disabled():
        print(f"\n  full disk: {len(outcomes)} amounts of room, {outcomes.count(0)} sufficed, all right when run again")

    assert {0, 1} == set(outcomes)


# Registries


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyProxy]:
    with real_registry(tmp_path_factory.mktemp("registry")) as host, FaultyProxy(upstream=host) as proxy:
        yield proxy


def short_pauses() -> None:
    """Make the pieces of an upload small, and pauses short."""
    assert HttpRegistry.__init__.__kwdefaults__ is not None
    HttpRegistry.__init__.__kwdefaults__["chunk"] = 1 << 20
    assert Transport.__init__.__kwdefaults__ is not None
    sleep = time.sleep
    Transport.__init__.__kwdefaults__["sleep"] = lambda seconds: sleep(min(float(seconds), 0.002))


def steps(exchanges: list[Exchange]) -> list[int]:
    """Return the first and the last request of each kind."""
    kinds: dict[str, list[int]] = {}
    for exchange in exchanges:
        place = exchange.path.partition("?")[0].split("/")
        kinds.setdefault(f"{exchange.method} {'/'.join(place[4:6])}", []).append(exchange.number)
    return sorted({number for numbers in kinds.values() for number in (numbers[0], numbers[-1])})


@pytest.fixture(scope="module")
def pushes(trials: Trials, stage: FaultyProxy) -> list[Exchange]:
    """The requests of a clean push."""
    project = trials.fresh()
    stage.reset()
    code, said = run(project, "--push", f"{stage.host}/clean/plain", prepare=short_pauses)
    assert code == 0, said
    trials.whole(stage.upstream, "clean/plain", must=True)
    return list(stage.seen)


KINDS: Final = ("reset", "reset-after", *STATUSES, "truncate", "digest", "down")


@pytest.mark.parametrize("kind", KINDS)
def test_a_registry_that_fails_at_each_step(
    trials: Trials, stage: FaultyProxy, pushes: list[Exchange], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = at_once = 0
    for number in chosen(steps(pushes), KINDS.index(kind), stride=8):

        def decide(exchange: Exchange, number: int = number) -> Fault | None:
            if kind == "down":
                return Fault("reset") if exchange.number >= number else None
            return Fault(kind) if exchange.number == number else None

        project, repository = trials.fresh(), f"{kind}{number}/plain"
        stage.reset(decide)
        code, said = run(project, "--push", f"{stage.host}/{repository}", prepare=short_pauses)
        tried += 1
        at_once += code == 0

        # A refusal is said, and nothing is half there.
        assert code in (0, 1, 5), said
        assert "Traceback" not in said
        trials.whole(stage.upstream, repository, must=code == 0)
        stage.reset()
        trials.pushed(project, stage.upstream, repository)
    with capsys.disabled():
        print(f"\n  registry: {kind:11} at {tried:2} steps of a push, {at_once:2} without running again, survived all")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_each_request_of_a_push(
    trials: Trials, stage: FaultyProxy, pushes: list[Exchange], moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = 0
    for number in chosen(list(range(len(pushes))), 1 if moment == "after" else 0):
        project, repository = trials.fresh(), f"{moment}{number}/plain"
        pid: list[int] = []
        ready = threading.Event()

        def decide(
            exchange: Exchange, number: int = number, pid: list[int] = pid, ready: threading.Event = ready
        ) -> Fault | None:
            if exchange.number == number:
                ready.wait(5)
                os.kill(pid[0], signal.SIGKILL)
            return None if exchange.number < number else Fault("reset-after" if moment == "after" else "reset")

        stage.reset(decide)
        pid.append(child(project, ("--push", f"{stage.host}/{repository}"), short_pauses))
        ready.set()
        _, ended = os.waitpid(pid[0], 0)
        assert os.WIFSIGNALED(ended)
        tried += 1
        stage.quiet()
        trials.whole(stage.upstream, repository)
        stage.reset()
        trials.pushed(project, stage.upstream, repository)
    with capsys.disabled():
        print(f"\n  killed {moment:6} a request of a push: {tried:2} of {len(pushes)}, survived all")


@pytest.mark.parametrize("refusal", ["404", "405", "501"])
def test_a_registry_without_pieces_gets_each_blob_whole(
    trials: Trials, stage: FaultyProxy, refusal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project, repository = trials.fresh(), f"whole{refusal}/plain"
    stage.reset(lambda exchange: Fault(refusal) if exchange.method == "PATCH" else None)
    code, said = run(project, "--push", f"{stage.host}/{repository}", prepare=short_pauses)
    refused = sum(exchange.method == "PATCH" for exchange in stage.seen)

    assert code == 0, said
    assert refused
    trials.whole(stage.upstream, repository, must=True)
    with capsys.disabled():
        print(f"\n  registry without pieces ({refusal} to PATCH): {refused} refused, each blob sent whole")


def test_a_registry_without_mounts(trials: Trials, stage: FaultyProxy, capsys: pytest.CaptureFixture[str]) -> None:
    """It answers a mount with 405; what it lacks is sent."""
    project = trials.fresh()
    stage.reset(lambda exchange: Fault("405") if "mount=" in exchange.path else None)
    for repository in ("first/plain", "second/plain"):
        code, said = run(project, "--push", f"{stage.host}/{repository}", prepare=short_pauses)
        assert code == 0, said
        trials.whole(stage.upstream, repository, must=True)
    with capsys.disabled():
        asked = sum("mount=" in exchange.path for exchange in stage.seen)
        print(f"\n  registry without mounts: {asked} asked for, all blobs of the second repository sent")


def test_a_token_that_expires_midway(trials: Trials, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The registry answers 401 at a request, of an upload too; a new token is fetched, and the push goes on."""
    tokens = TokenServer(tmp_path, grants={"me": {".*": {"pull", "push"}}}, passwords={"me": "secret"})
    with (
        tokens.serve(),
        real_registry(tmp_path / "registry", auth=tokens.auth) as host,
        FaultyProxy(upstream=host) as proxy,
    ):

        def push(project: AssemblyProject, repository: str) -> None:
            known = {"auths": {proxy.host: {"auth": base64.b64encode(b"me:secret").decode()}}}
            (project.root / "config.json").write_text(json.dumps(known))
            code, said = run(project, "--push", f"{proxy.host}/{repository}", prepare=short_pauses)
            assert code == 0, said

        project = trials.fresh()
        push(project, "clean/plain")
        numbers = chosen(steps(proxy.seen), stride=3)
        before, hit = len(tokens.given), 0
        for number in numbers:
            expired: list[int] = []

            def decide(exchange: Exchange, number: int = number, expired: list[int] = expired) -> Fault | None:
                # A token that was good before: one that is refused at once is no expired one.
                used = any(one.authorization == exchange.authorization for one in proxy.seen[: exchange.number])
                if expired or exchange.number < number or not exchange.authorization or not used:
                    return None
                expired.append(exchange.number)
                return Fault("expired")

            proxy.reset(decide)
            push(project, f"expired{number}/plain")
            hit += len(expired)
        renewed = len(tokens.given) - before
    with capsys.disabled():
        print(f"\n  a token that expires at {hit:2} of {len(numbers):2} steps of a push: {renewed} tokens, all went on")

    assert hit
    assert renewed > hit


@contextmanager
def cutting(upstream: str, cuts: list[int]) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield the address of a way to a registry, and what counts the bytes that went up.

    After each number of bytes that went up, the connections that carry them are reset.
    """
    up = 0
    lock = threading.Lock()
    left = sorted(cuts)

    def passed(count: int) -> bool:
        nonlocal up
        with lock:
            up += count
            if left and up >= left[0]:
                left.pop(0)
                return False
            return True

    name, _, port = upstream.partition(":")
    with Relay(lambda: socket.create_connection((name, int(port))), passed) as relay:
        yield relay.host, lambda: up


class _Resuming(http.server.BaseHTTPRequestHandler):
    """A registry of one repository that keeps what came of a piece, and tells how much that is (distribution-spec)."""

    protocol_version = "HTTP/1.1"
    blobs: dict[str, bytes]
    uploads: dict[str, bytearray]

    def log_message(self, *_: object) -> None: ...

    def _answer(self, code: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if "/uploads/" in self.path:
            came = self.uploads[name]
            self._answer(204, Range=f"0-{max(0, len(came) - 1)}", Location=self.path)
        elif (found := self.blobs.get(name)) is not None:
            self._answer(200, found, Content_Type="application/vnd.oci.image.manifest.v1+json")
        else:
            self._answer(404 if name else 200)

    def do_POST(self) -> None:
        name = f"u{len(self.uploads)}"
        self.uploads[name] = bytearray()
        self._answer(202, Location=f"{self.path}{name}")

    def do_PATCH(self) -> None:
        held = self.uploads[self.path.rpartition("/")[2]]
        if int(self.headers["Content-Range"].partition("-")[0]) != len(held):
            self._answer(416)
            return
        left = int(self.headers["Content-Length"])
        while left:
            data = self.rfile.read1(min(left, 1 << 16))
            if not data:
                return
            held += data
            left -= len(data)
        self._answer(202, Location=self.path)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        where, _, query = self.path.partition("?")
        name = where.rpartition("/")[2]
        if "/uploads/" in where:
            data = bytes(self.uploads[name]) + data
            name = query.removeprefix("digest=").replace("%3A", ":")
            assert sha256_of(data) == name
        self.blobs[name] = self.blobs[sha256_of(data)] = data
        self._answer(201)

    def handle_one_request(self) -> None:
        with suppress(OSError):
            super().handle_one_request()
            return
        self.close_connection = True


@contextmanager
def resuming_registry(blobs: dict[str, bytes]) -> Iterator[str]:
    handler = type("Handler", (_Resuming,), {"blobs": blobs, "uploads": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@dataclass(frozen=True, kw_only=True)
class Outage:
    """Where a connection breaks, in shares of a blob's bytes that went up in all, and what comes of it."""

    shares: tuple[int, ...]
    resumes: bool
    code: int
    most: float
    """Times the blob's bytes that go up, with the second run."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "outage",
    [
        Outage(shares=(20, 55, 90), resumes=True, code=0, most=1.1),
        Outage(shares=(50,), resumes=False, code=0, most=1.7),
        Outage(shares=(50, 100, 150), resumes=False, code=1, most=2.7),
    ],
    ids=["a registry that resumes", "docker-registry 2.8", "docker-registry 2.8, each time anew"],
)
def test_a_connection_that_breaks_within_a_large_blob(
    tmp_path: Path, stage: FaultyProxy, outage: Outage, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upload goes on where it broke, if the registry knows how; docker-registry 2.8 refuses, and it starts anew.

    Where each try breaks, the push ends and says so; a second run ends right.
    """
    size, resumes = 800_000_000 if ALL else 20_000_000, outage.resumes
    # It repeats itself beyond what a compressor of layers looks back.
    noise = random.Random(1).randbytes(4_000_000) * (size // 4_000_000)
    digest = base64.urlsafe_b64encode(hashlib.sha256(noise).digest()).decode().rstrip("=")
    record = f"demo/noise.bin,sha256={digest},{size}\n"
    data = wheel_bytes("demo", "1.0", {"demo/noise.bin": noise}, method=0, record=record)
    cuts, repository = [size * share // 100 for share in outage.shares], f"large{len(outage.shares)}/plain"
    blobs: dict[str, bytes] = {}
    with (
        serving(Index(simple_index({DEMO: data}))) as index,
        resuming_registry(blobs) as other,
        cutting(other if resumes else stage.upstream, cuts) as (host, sent),
    ):
        project = AssemblyProject(root=tmp_path / "project", index=index.address, wheels={DEMO: data})
        del data, noise
        # The layer is made before, so that what memory is taken is for sending it.
        code, said = run(project, "--output", "oci:out")
        assert code == 0, said
        first, said = run(project, "--push", f"{host}/{repository}", prepare=None if ALL else short_pauses)
        grown = int((project.root / "grown.txt").read_text())
        again, made = run(project, "--push", f"{host}/{repository}", prepare=None if ALL else short_pauses)
        ratio = sent() / size
        if resumes:
            digest = sha256_of(blobs.get(CELL, b""))
        else:
            found = connect(credentials=Anonymous()).manifest(Repository(host=host, path=repository), CELL)
            digest = found.digest if found is not None else ""
    with capsys.disabled():
        where = "goes on where it broke" if resumes else "cannot go on (docker-registry 2.8), starts anew"
        print(
            f"\n  {len(cuts)} resets within a blob of {size / 1e6:.0f} MB: {where}, {ratio:.2f} times its bytes sent;"
        )
        print(f"  exit code {first}, {grown / 1e6:.0f} MB of memory; right when run again")

    assert (first, again) == (outage.code, 0), said + made
    assert "Traceback" not in said
    assert digest in made
    assert grown < 300_000_000
    assert ratio < outage.most


# Two at once


@pytest.mark.parametrize("apart", [False, True], ids=["one machine", "two containers"])
def test_assemblers_at_once_on_one_cache(trials: Trials, apart: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """In containers that share the folder, each numbers its processes for itself."""
    rounds = 12 if ALL else 1
    alone = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"] if apart else []
    for number in range(rounds):
        project = trials.fresh()
        running = []
        for one in range(3):
            running.append(
                subprocess.Popen(
                    [*alone, *project.command("--output", f"oci:out{one}", "--format", "json")],
                    cwd=project.root,
                    env=project.environment(),
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
            time.sleep(0.13 * (number % 4))
        for one, process in enumerate(running):
            said, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            assert json.loads(said)["images"][0]["digest"] == trials.digest
            assert image_files(project.root / f"out{one}") == trials.files
        trials.ended(project)
    with capsys.disabled():
        where = "in containers of their own" if apart else "on one machine"
        print(f"\n  three assemblers at once on one cache, {where}: {rounds} rounds, one digest, nothing left behind")
