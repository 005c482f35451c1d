"""Resolving with `uv pip compile`, whose pylock (PEP 751) names files, hashes and addresses; a lock has no address."""

from __future__ import annotations

import re
import tempfile
import threading
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import requests
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from assay.adapters.host import process
from assay.errors import ToolError
from assay.matrix.lock import LockedWheel
from assay.ports.resolver import Failure, Resolved, ResolveRequest, Unresolved
from assay.wheels.tags import tags_for

__all__ = ["UvResolver", "classify"]

_UNREACHABLE: Final = re.compile(
    r"Failed to fetch|Could not connect|error sending request|dns error|connection refused|timed out|"
    r"status code 5\d\d|502 Bad Gateway|503 Service|tls handshake|certificate",
    re.IGNORECASE,
)
# An answer that no index gives: a proxy or a server that is going down. uv asks again after a lost connection and after
# a server's error, and ends at once after this.
_NO_ANSWER_OF_AN_INDEX: Final = re.compile(r"(?:Missing|Invalid|Unsupported) `Content-Type`")
_ASKED_AT_MOST: Final = 3
# uv takes an index that refuses for one that lacks everything, and says so in a hint.
_REFUSED: Final = re.compile(r"401 Unauthorized|403 Forbidden|lack of valid authentication")
_REACH: Final = (
    "is the index up, and may you read it? UV_DEFAULT_INDEX, UV_CONFIG_FILE, HTTPS_PROXY and SSL_CERT_FILE say how uv "
    "gets there; `assay doctor` asks every index"
)
_MISSING: Final = re.compile(
    r"was not found in the (?:package registry|provided)|there (?:is|are) no versions? of|"
    r"only (?:the following versions of )?[\w.\[\]<>=!,+-]+ (?:is|are) available|has no wheels with a matching"
)


def classify(message: str) -> Failure:
    """Return the kind of failure of a message from uv.

    "Incompatible" in a proof means two packages that exclude each other, even where the proof also lists what is
    available; a proof without it that names something unavailable is about the index, not about us.
    """
    text = " ".join(message.split())
    if _REFUSED.search(text) and "not found in the package registry" in text:
        return Failure.UNREACHABLE
    if "No solution found" not in text and "not found in the package registry" not in text:
        unreachable = _UNREACHABLE.search(text) or _NO_ANSWER_OF_AN_INDEX.search(text)
        return Failure.UNREACHABLE if unreachable else Failure.MISSING
    if _UNREACHABLE.search(text) and "network" in text.lower():
        return Failure.UNREACHABLE
    if "incompatible" in text.replace("incompatible with the", "").replace("Python ABI tag", ""):
        return Failure.CONFLICT
    return Failure.MISSING if _MISSING.search(text) else Failure.CONFLICT


class UvResolver:
    """The `uv` that belongs to assay's own environment.

    Args:
        timeout: seconds for one resolution.
        stop: ends the resolutions that run when it is set.
    """

    def __init__(self, *, timeout: float = 600.0, stop: threading.Event | None = None) -> None:
        self._timeout = timeout
        self._stop = stop
        self._session = requests.Session()
        self._sizes: dict[str, int | None] = {}

    def resolve(self, request: ResolveRequest) -> Resolved | Unresolved:
        """Resolve one request; see the port."""
        with tempfile.TemporaryDirectory(prefix="assay-lock-") as folder:
            work = Path(folder)
            (work / "requirements.in").write_text("".join(f"{line}\n" for line in request.requirements))
            argv = [
                *(uv_program(), "pip", "compile", "requirements.in", "--quiet", "--no-config"),
                *("--format", "pylock.toml", "--output-file", "pylock.toml"),
                *("--python-version", request.python, "--python-platform", request.platform),
                # uv would fetch this Python, 30 MB, to build metadata of source archives; the one that runs here can.
                "--no-python-downloads",
            ]
            if request.forced:
                (work / "overrides.txt").write_text("".join(f"{line}\n" for line in request.forced))
                argv += ["--overrides", "overrides.txt"]
            if request.constraints:
                (work / "constraints.txt").write_text("".join(f"{line}\n" for line in request.constraints))
                argv += ["--constraints", "constraints.txt"]
            for name, index in request.indexes.items():
                if index.url is not None:
                    argv += ["--index", f"{name.replace('-', '')}={index.url}"]
            if len(request.indexes) > 0:
                # A nightly index also mirrors common packages, often old ones: the best version wins, wherever it is.
                argv += ["--index-strategy", "unsafe-best-match", "--prerelease", "if-necessary-or-explicit"]
            for place in request.links:
                argv += ["--find-links", str(Path(place).absolute())]
            if request.as_of:
                argv += ["--exclude-newer", request.as_of]
            for name in request.without:
                argv += ["--no-emit-package", name]
            message = self._run(argv, work)
            if message is not None:
                if "unexpected argument" in message or "invalid value" in message:
                    raise ToolError(f"uv does not understand assay: {message}", hint="install a newer uv")
                failure = classify(message)
                words = _named(message) if failure is Failure.UNREACHABLE else _plain(message)
                return Unresolved(failure=failure, explanation=words)
            document = tomllib.loads((work / "pylock.toml").read_text())
        return self._read(document, request)

    def _run(self, argv: Sequence[str], work: Path) -> str | None:
        """Run uv, again where an index did not answer as one; return what it says if it fails."""
        for asked in range(_ASKED_AT_MOST):
            (self._stop or threading.Event()).wait(asked)
            done = process.run(argv, cwd=work, timeout=self._timeout, check=False, stop=self._stop)
            if done.returncode == 0:
                return None
            message = done.stderr.decode(errors="replace").strip()
            if not _NO_ANSWER_OF_AN_INDEX.search(message):
                break
        return message

    def _read(self, document: Mapping[str, Any], request: ResolveRequest) -> Resolved | Unresolved:
        ranks = tags_for(request.python, request.platform)
        chosen: list[tuple[LockedWheel, str]] = []
        for package in document.get("packages", []):
            name = canonicalize_name(package["name"])
            if name in request.without:
                continue
            file = _best(package, ranks)
            if file is None:
                explanation = f"{name} {package.get('version')} has no wheel for Python {request.python} and no source"
                return Unresolved(failure=Failure.MISSING, explanation=explanation)
            address = str(file["url"])
            wheel = LockedWheel(
                name=name,
                version=str(package["version"]),
                filename=unquote(Path(urlsplit(address).path).name),
                sha256=file["hashes"]["sha256"],
                size=file.get("size"),
                index=_index_of(package, address, request),
            )
            chosen.append((wheel, address))
        return Resolved(wheels=tuple(self._with_sizes(chosen)))

    def _with_sizes(self, chosen: Sequence[tuple[LockedWheel, str]]) -> Iterable[LockedWheel]:
        """Add sizes that are missing from the index, from each file's HTTP headers."""
        unknown = [(w.sha256, address) for w, address in chosen if w.size is None and w.sha256 not in self._sizes]
        with ThreadPoolExecutor(8) as pool:
            for sha256, size in pool.map(self._ask, unknown):
                self._sizes[sha256] = size
        for wheel, _ in chosen:
            yield wheel if wheel.size is not None else wheel.model_copy(update={"size": self._sizes[wheel.sha256]})

    def _ask(self, item: tuple[str, str]) -> tuple[str, int | None]:
        sha256, address = item
        if urlsplit(address).scheme == "file":
            return sha256, Path(unquote(urlsplit(address).path)).stat().st_size
        try:
            answer = self._session.head(address, allow_redirects=True, timeout=30)
        except requests.RequestException:
            return sha256, None
        length = answer.headers.get("Content-Length", "")
        return sha256, int(length) if answer.ok and length.isdecimal() else None


def uv_program() -> str:
    """Return uv's path: the one installed with assay, else the one on PATH.

    Raises:
        ToolError: there is none.
    """
    try:
        from uv import find_uv_bin  # noqa: PLC0415

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = process.find("uv")
    if found is None:
        raise ToolError("uv is not installed", hint="pip install uv")
    return found


def _best(package: Mapping[str, Any], ranks: Mapping[Tag, int]) -> Mapping[str, Any] | None:
    """Return the file an installer would take: the wheel with the best tag, else the source distribution."""
    best: tuple[int, Mapping[str, Any]] | None = None
    for file in package.get("wheels", []):
        try:
            _, _, _, tags = parse_wheel_filename(unquote(Path(urlsplit(str(file["url"])).path).name))
        except InvalidWheelFilename:
            continue
        rank = min((ranks[tag] for tag in tags if tag in ranks), default=None)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, file)
    if best is not None:
        return best[1]
    sdist: Mapping[str, Any] | None = package.get("sdist")
    return sdist


def _index_of(package: Mapping[str, Any], address: str, request: ResolveRequest) -> str:
    source = str(package.get("index") or address)
    for name, index in request.indexes.items():
        if index.url is not None and (source.startswith(index.url.rstrip("/")) or _same_host(source, index.url)):
            return name
    return "pypi"


def _same_host(first: str, second: str) -> bool:
    one, two = urlsplit(first), urlsplit(second)
    return bool(one.netloc) and one.netloc == two.netloc


def _named(message: str) -> str:
    """Return uv's message with the index's address, without a password."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    return re.sub(r"(https?://)[^\s/@]+@", r"\1", text).strip() + f"\n  try: {_REACH}"


def _plain(message: str) -> str:
    """Return uv's message without colour and without the addresses of mirrors: it is kept beside the recipe."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    return re.sub(r"https?://[^\s`'\")]+/", "", text).strip()
