"""Servers that misbehave, environments that are broken, and kills: whole commands, in this process or one of their
own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import attack_readers
import attack_readers_more
from attack_child import Tally
from attack_mutate import WEIRD, hostile_json, hostile_text, mutated
from publish_tools import both, candidate, gear, policy, publish

from assay.adapters.files.kept_records import KeptRecords
from assay.adapters.files.records import FileStore
from assay.adapters.http.openai import OpenAiClient
from assay.adapters.registry.fake import FakeRegistry
from assay.cli import main
from assay.errors import AssayError
from assay.evidence import oci
from assay.evidence.record import AuditRecord, BuildRecord, BuildStatus
from assay.evidence.reference import Repository
from assay.foundation.digest import sha256_of
from assay.foundation.outcome import Verdict
from assay.pipeline.share_records import DOCUMENT, push_records

Answer = tuple[int, dict[str, str], bytes]
Handler = Callable[[str, str, Mapping[str, str]], Answer]
ROOT: Final = attack_readers.ROOT
BUG: Final = 70
"""The exit code of `assay` for a bug of its own."""


@contextlib.contextmanager
def serving(handler: Handler) -> Iterator[str]:
    """Serve what a function answers; give `127.0.0.1:port`."""

    class Asked(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def handle_one_request(self) -> None:
            # A client that has read enough hangs up.
            try:
                super().handle_one_request()
            except OSError:
                self.close_connection = True

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            with contextlib.suppress(OSError):
                status, headers, body = handler(self.command, self.path, dict(self.headers))
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                elif headers["Content-Length"] != str(len(body)):
                    self.close_connection = True
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                if rng_of_close(headers):
                    self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815 - the names that http.server asks for

    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def rng_of_close(headers: Mapping[str, str]) -> bool:
    """Tell whether an answer ends its connection."""
    return headers.get("Connection") == "close"


def command(*argv: str) -> int:
    """Run a command line here; a bug in assay, a traceback or a terminal escape is an error.

    Its pauses are cut short: what is tested here is what is made of answers; deadlines have tests of their own.
    """
    out, err = io.StringIO(), io.StringIO()
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(float(seconds), 0.001))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(argv))
    finally:
        time.sleep = sleep
    said = out.getvalue() + err.getvalue()
    if code == BUG or "Traceback" in said:
        raise AssertionError(f"{code}: {said[-300:]}")
    if re.search(r"[\x1b\x07\x80-\x9f\u202e]", said):
        raise AssertionError(f"control characters on the terminal: {said[-200:]!r}")
    return code


_HEADERS: Final[tuple[tuple[str, str], ...]] = (
    ("Content-Type", "text/html"), ("Content-Type", "\xb2"), ("Content-Length", "\xb2"), ("Content-Length", "-1"),
    ("Content-Length", "99999999999999"), ("Docker-Content-Digest", "sha256:" + "0" * 64), ("Docker-Content-Digest",
    "x"),
    ("Location", "http://[::bad/"), ("Location", "file:///etc/passwd"), ("Location", "/x"), ("Retry-After", "\xb2"),
    ("Retry-After", "1e9"),
    ("Retry-After", "3600"), ("Retry-After", "Fri, 31 Dec 2199 23:59:59 GMT"), ("Link", "<http://[::bad/>; rel=next"),
    ("Link", '</v2/team/demo/referrers/x?n=1>; rel="next"'), ("WWW-Authenticate", "Bearer realm="),
    ("Content-Encoding", "gzip"),
    ("WWW-Authenticate", 'Bearer realm="http://[::bad/",service="x"'), ("Content-Range", "bytes 0-0/9" + "9" * 5000),
    ("Content-Range", "bytes */x"), ("X-Long", "y" * 60_000), ("ETag", "\xff"), ("Connection", "close"),
    ("Transfer-Encoding", "chunked"),
)  # fmt: skip
_STATUSES: Final = (200, 201, 204, 206, 301, 302, 307, 400, 401, 403, 404, 416, 429, 500, 503)


def _spoiled(answer: Answer, rng: random.Random) -> Answer:
    """Return an answer that is wrong in one or two ways."""
    status, headers, body = answer
    headers = dict(headers)
    for _ in range(rng.choice((1, 1, 2))):
        kind = rng.randrange(5)
        if kind == 0:
            status = rng.choice(_STATUSES)
        elif kind == 1:
            name, value = rng.choice(_HEADERS)
            headers[name] = value
        elif kind == 2:
            body = hostile_json(body, rng) if body else b"x"
        elif kind == 3:
            body = mutated(body, rng) if body else b"\0" * 100
        else:
            weird = str(rng.choice(WEIRD)).encode(errors="replace")
            body = json.dumps({"errors": [{"code": "DENIED", "message": weird.decode(errors="replace")}]}).encode()
            status = rng.choice((400, 401, 403, 429, 500))
    return status, headers, body[: 4 << 20]


def _published() -> tuple[FakeRegistry, Repository]:
    """Return a registry with an image that was verified."""
    registry = FakeRegistry(native_referrers=True)
    rules = policy("registry.example")
    staging = Repository.parse(rules.repositories.staging_of("demo"))
    config = b'{"architecture": "amd64", "os": "linux"}'
    layer = b"layer" * 20
    for data in (config, layer):
        registry.put_blob(staging, data)
    value = {
        "schemaVersion": 2, "mediaType": oci.MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256_of(config),
        "size": len(config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256_of(layer),
        "size": len(layer)}],
    }  # fmt: skip
    registry.put_manifest(staging, "key", oci.Manifest.parse(json.dumps(value).encode(), oci.MANIFEST))
    tools = gear(registry, Path(os.environ.get("TMPDIR", "/tmp")) / "journal")
    publish(candidate(), rules, both, tools, suite=None)
    return registry, Repository.parse(rules.repositories.release_of("demo"))


def _registry_answer(registry: FakeRegistry, repository: Repository, path: str) -> Answer:
    parts = path.partition("?")[0].rsplit("/", 2)
    if len(parts) < 3 or parts[1] not in {"manifests", "blobs", "referrers"}:
        return 200, {"Content-Type": "application/json"}, b"{}"
    key = parts[2]
    held = registry._of(repository)
    if parts[1] == "manifests":
        found = held.manifests.get(held.tags.get(key, key))
        if found is None:
            return 404, {}, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
        return 200, {"Content-Type": found.media_type or oci.MANIFEST, "Docker-Content-Digest": found.digest}, found.raw
    if parts[1] == "blobs":
        data = held.blobs.get(key)
        return (404, {}, b"{}") if data is None else (200, {"Content-Type": "application/octet-stream"}, data)
    listed, _ = registry.referrers(repository, key)
    return 200, {"Content-Type": oci.INDEX}, oci.index_of(listed).raw


def registry_answers(tally: Tally, seed: int, cases: Iterable[int], folder: Path) -> None:
    """`assay verify` against a registry that is right but for one answer, or a few."""
    registry, repository = _published()
    tag = max(registry.tags(repository))
    for number in cases:
        if tally.is_over:
            return
        rng = random.Random(f"registry:{seed}:{number}")
        spoil = set() if number == 0 else {rng.randrange(12) for _ in range(rng.choice((1, 1, 3)))}
        asked = [0]

        asks = number > 0 and rng.random() < 0.25
        token = hostile_json(
            b'{"token": "x", "access_token": "y", "expires_in": 300, "issued_at": "2026-11-20T12:00:00Z"}', rng
        )

        def answer(_method: str, path: str, headers: Mapping[str, str]) -> Answer:
            asked[0] += 1
            if path.startswith("/token"):
                return 200, {"Content-Type": "application/json"}, token
            if asks and "Authorization" not in headers:
                return 401, {"WWW-Authenticate": f'Bearer realm="http://{headers["Host"]}/token",service="x"'}, b"{}"
            good = _registry_answer(registry, repository, path)
            return _spoiled(good, rng) if asked[0] - 1 in spoil else good

        def work() -> None:
            with serving(answer) as host:
                code = command("verify", f"{host}/team/demo:{tag}", "--project", str(ROOT))
            assert asked[0] < 300, f"{asked[0]} requests"
            assert number != 0 or code in {0, 6}, f"the good registry gives {code}"

        tally.case(number, work, (AssayError,))


def shared_records(tally: Tally, seed: int, cases: Iterable[int], folder: Path) -> None:
    """`assay records pull` from a registry that is right but for some answers, or lists what no record names."""
    registry, repository = FakeRegistry(), Repository.parse("registry.example/team/demo")
    mine = FileStore(folder / "mine" / "build_logs")
    report = mine.put_document(b'{"findings": []}\n')
    began = datetime(2026, 11, 30, 12, tzinfo=UTC)
    mine.append(AuditRecord(created=began, run="r", cell="c", subject="wheels", verdict=Verdict.OK, report=report))
    mine.append(BuildRecord(created=began, run="r", cell="c", status=BuildStatus.BUILT))
    push_records(registry, repository, KeptRecords(folder / "mine"), mine)
    for number in cases:
        if tally.is_over:
            return
        rng = random.Random(f"records:{seed}:{number}")
        spoil = set() if number == 0 else {rng.randrange(8) for _ in range(rng.choice((1, 1, 3)))}
        crowd = rng.choice((0, 0, 1000)) if number else 0
        asked = [0]

        def answer(_method: str, path: str, _headers: Mapping[str, str]) -> Answer:
            asked[0] += 1
            if path.partition("?")[0].endswith("/tags/list"):
                good: Answer = 200, {}, json.dumps({"name": "x", "tags": registry.tags(repository)}).encode()
            else:
                good = _registry_answer(registry, repository, path)
            if crowd and "/manifests/" in path and good[0] == 200:
                value = json.loads(good[2])
                value["layers"] += [{**value["layers"][-1], "mediaType": DOCUMENT}] * crowd
                good = 200, {"Content-Type": oci.MANIFEST}, json.dumps(value).encode()
            return _spoiled(good, rng) if asked[0] - 1 in spoil else good

        def work() -> None:
            place = folder / f"pulled{number}"
            place.mkdir()
            with serving(answer) as host:
                code = command("records", "pull", f"{host}/team/demo", "--project", str(place))
            assert asked[0] < 60, f"{asked[0]} requests"
            assert number != 0 or code == 0, f"the good registry gives {code}"
            assert all(one.intact for one in KeptRecords(place))

        tally.case(number, work, (AssayError,))


def index_answers(tally: Tally, seed: int, cases: Iterable[int], folder: Path) -> None:
    """`assay facts read` of a wheel on an index that is right but for some answers."""
    wheel = attack_readers.wheels()[0]
    name = "evil-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"
    page = f'<a href="/files/{name}#sha256={sha256_of(wheel)[7:]}">{name}</a>'.encode()
    for number in cases:
        if tally.is_over:
            return
        rng = random.Random(f"index:{seed}:{number}")
        spoil = set() if number == 0 else {rng.randrange(6) for _ in range(rng.choice((1, 1, 3)))}
        asked = [0]

        def answer(_method: str, path: str, headers: Mapping[str, str]) -> Answer:
            asked[0] += 1
            bad = asked[0] - 1 in spoil
            if "/simple" in path:
                good: Answer = 200, {"Content-Type": "text/html"}, page
                if bad and rng.random() < 0.4:
                    return 200, {"Content-Type": "text/html"}, hostile_text(page, rng)
            else:
                good = _ranged(wheel, {key.lower(): value for key, value in headers.items()}.get("range", ""))
            return _spoiled(good, rng) if bad else good

        def work() -> None:
            with serving(answer) as host:
                place = folder / "a" / "b" / "c" / "facts"
                code = command("facts", "read", "evil==1.0", "--index", f"http://{host}/simple", "--facts", str(place))
            assert number != 0 or code == 0, f"the good index gives {code}"
            for path in place.rglob("*.facts.json.gz"):
                path.unlink()

        tally.case(number, work, (AssayError,))


def _ranged(data: bytes, wanted: str) -> Answer:
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
    headers = {"ETag": '"1"', "Accept-Ranges": "bytes"}
    if match is None:
        return 200, headers, data
    first = int(match[1]) if match[1] else max(0, len(data) - int(match[2] or 0))
    last = min(int(match[2]) if match[1] and match[2] else len(data) - 1, len(data) - 1)
    return 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1]


def model_server_answers(tally: Tally, seed: int, cases: Iterable[int], folder: Path) -> None:
    """What a model's server streams back."""
    chunk = {
        "id": "x",
        "choices": [{"index": 0, "delta": {"content": "hi"}, "text": "hi", "finish_reason": None}],
        "usage": None,
    }
    end = {
        "choices": [],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}},
    }
    for number in cases:
        if tally.is_over:
            return
        rng = random.Random(f"model:{seed}:{number}")
        events = [json.dumps(chunk).encode()] * 3 + [json.dumps(end).encode(), b"[DONE]"]
        if number:
            at = rng.randrange(len(events))
            events[at] = hostile_json(events[at], rng)
        body = b"".join(b"data: " + event + b"\n\n" for event in events)
        good: Answer = 200, {"Content-Type": "text/event-stream"}, body
        reply = _spoiled(good, rng) if number and rng.random() < 0.5 else good

        def work() -> None:
            with serving(lambda *_: reply) as host:
                client = OpenAiClient()
                client.call("POST", f"http://{host}/v1/x", body={}, timeout=5.0)
                client.stream(f"http://{host}/v1/x", body={}, timeout=5.0)

        tally.case(number, work, (AssayError,))


# --- processes ----------------------------------------------------------------------------------------------------

_BREAK: Final[tuple[tuple[str, dict[str, str | None]], ...]] = tuple(
    (f"{name}={value!r}", {name: value})
    for name, values in {
        "COLUMNS": ("", "abc", "-1", "0", "1", "99999999999"), "LINES": ("x",), "TERM": ("", "dumb", "\x1b"),
        "HOME": ("", "/nonexistent", None),
        "TMPDIR": ("/nonexistent",), "LANG": ("C", "xx_YY.UTF-99"), "PYTHONIOENCODING": ("ascii", "utf-16"),
        "NO_COLOR": ("",),
        "FORCE_COLOR": ("1",), "XDG_CACHE_HOME": ("/dev/null", "relative"), "ASSAY_CACHE": ("/dev/null", "/proc",
        ""), "PATH": ("/nonexistent", ""),
        "DOCKER_HOST": ("tcp://[::bad", "x", "unix:///dev/null"), "DOCKER_CONFIG": ("/dev/null",),
        "HTTPS_PROXY": ("http://[::bad", "x"),
        "SSL_CERT_FILE": ("/dev/null",), "REQUESTS_CA_BUNDLE": ("/dev/null",), "ASSAY_REGISTRY_MIRRORS": ("=",
        "x=y=z", "a"),
        "SOURCE_DATE_EPOCH": ("x",), "TZ": ("../../etc/passwd", "Bad/Zone"), "NETRC": ("/proc/self/mem",),
        "UV_INDEX": ("http://[::bad",),
    }.items()
    for value in values
)  # fmt: skip
CELL: Final = "vllm-blackwell-cu130-torch2.14.0-vllm0.33.0"
_COMMANDS: Final = (
    ("plan",), ("report",), ("doctor",), ("facts", "list"), ("--version",), ("recommend", "--target", "sm_120"),
    ("diagnose", "LOG"), ("diagnose", "-"), ("lock", "--check"), ("jobs",), ("status",), ("logs",), ("policy", "check"),
    ("plan", "--format", "json"), ("launch", CELL, "--model", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "--offline"),
    ("records", "push", "127.0.0.1:1/a/b"), ("records", "pull", "127.0.0.1:1/a/b"),
    ("render", "--check"), ("audit", "WHEEL", "--base", "debian12", "--no-record"),
)  # fmt: skip
_STREAMS: Final = ("", ">&-", "2>&-", "<&-", ">/dev/full", "2>/dev/full", "| head -c 1", ">&- 2>&- <&-")


def _place(folder: Path) -> dict[str, str]:
    log, wheel = folder / "log.txt", folder / "evil-1.0-cp312-cp312-linux_x86_64.whl"
    log.write_bytes(attack_readers_more.logs()[0])
    wheel.write_bytes(attack_readers.wheels()[0])
    return {"LOG": str(log), "WHEEL": str(wheel)}


def _assay(argv: Iterable[str], places: Mapping[str, str]) -> list[str]:
    return [sys.executable, "-m", "assay", *(places.get(word, word) for word in argv)]


def environments(tally: Tally, seed: int, cases: Iterable[int], folder: Path) -> None:
    """Commands in environments and with streams that are broken."""
    places = _place(folder)
    for number in cases:
        if tally.is_over:
            return
        rng = random.Random(f"environment:{seed}:{number}")
        _, change = _BREAK[number % len(_BREAK)]
        argv, stream = rng.choice(_COMMANDS), rng.choice(_STREAMS)
        merged = {**os.environ, "ASSAY_CACHE": str(folder / "cache"), **change}
        environment = {name: value for name, value in merged.items() if value is not None}

        def work() -> None:
            words = " ".join(f"'{word}'" for word in _assay(argv, places))
            script = (
                f"{words} {stream}; echo code $? >&9"
                if "|" not in stream
                else f"set -o pipefail; {words} {stream}; echo code $? >&9"
            )
            done = subprocess.run(
                ["/bin/bash", "-c", f"exec 9>&1; {script}"],
                cwd=ROOT, capture_output=True, timeout=25, check=False, stdin=subprocess.DEVNULL, env=environment,

            )  # fmt: skip
            said = (done.stdout + done.stderr).decode(errors="replace")
            code = re.search(r"code (\d+)\s*$", done.stdout.decode(errors="replace"))
            assert not re.search("Traceback|Exception ignored", said), f"{argv} {change} {stream}: {said[-300:]}"
            wrong = code is not None and int(code[1]) in {BUG, 134, 139}
            assert not wrong, f"{argv} {change} {stream}: {said[-300:]}"

        tally.case(number, work, (AssayError,))


def kills(tally: Tally, seed: int, cases: Iterable[int], folder: Path) -> None:
    """Commands that write are stopped at any moment; afterwards they do what they always do, and leave nothing
    behind."""
    places = _place(folder)
    for number in cases:
        if tally.is_over:
            return
        rng = random.Random(f"kill:{seed}:{number}")
        how = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        cache = folder / f"cache{number}"
        temporary = folder / f"tmp{number}"
        temporary.mkdir()
        environment = {**os.environ, "ASSAY_CACHE": str(cache), "TMPDIR": str(temporary)}
        argv = _assay(("facts", "read", "WHEEL"), places)
        delay = rng.uniform(0.0, 1.2)

        def work() -> None:
            first = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            time.sleep(delay)
            first.send_signal(how)
            _, err = first.communicate(timeout=20)
            again = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, timeout=30, check=False)
            left = [path for path in [*temporary.rglob("*"), *cache.rglob("*")] if path.is_file()]
            stray = [path.name for path in left if not path.name.endswith((".facts.json.gz", ".lock"))]
            assert b"Traceback" not in err or first.returncode < 0, err.decode(errors="replace")[-300:]
            assert again.returncode == 0, again.stderr.decode(errors="replace")[-300:]
            # A killed process cannot clear up; the next one, or nobody, may be hurt by what is left.
            assert how == signal.SIGKILL or not stray, f"left behind: {stray}"

        tally.case(number, work, (AssayError,))
