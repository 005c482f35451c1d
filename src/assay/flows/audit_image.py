"""Reads what is installed in an image, from its file system in one stream: nothing in it is run or imported."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.parser import HeaderParser
from typing import Final

from packaging.utils import canonicalize_name

from assay.audit.context import TargetGpu
from assay.audit.facts import Library, WheelFacts
from assay.audit.findings import AuditReport, Finding
from assay.audit.image import Unread
from assay.audit.linker import Base, Installation
from assay.audit.member import MemberReader
from assay.errors import EngineError, WheelError
from assay.flows.audit import Auditor
from assay.flows.read_wheel import is_library
from assay.model.lock import Lock
from assay.model.outcome import Severity
from assay.ports.engine import Engine, ImageFile

__all__ = ["ImageContents", "audit_image", "read_image"]

CHUNK: Final = 1 << 20
MAX_TEXT: Final = 16 << 20
_SITE: Final = re.compile(r"^(?P<site>.*/(?:site|dist)-packages)/(?P<rest>.+)$")
_PYTHON: Final = re.compile(r"/(?:lib|bin)/python(3\.\d+)(?:/|$)")
_DIST: Final = re.compile(r"^(?P<dist>[^/]+\.dist-info)/(?P<file>METADATA|RECORD|WHEEL)$")
_SYSTEM: Final = re.compile(
    r"^/(?:usr/)?(?:lib|lib64|lib/[a-z0-9_]+-linux-gnu)/[^/]+$|^/usr/local/(?:lib|lib64)/[^/]+$"
    r"|^/usr/local/cuda[^/]*/(?:lib64|targets/[^/]+/lib|compat|extras/CUPTI/lib64)/[^/]+$"
    r"|^/(?:usr/local/lib|opt/[^/]+/lib)/libpython[^/]+$"
)
_COMPILERS: Final = {"nvcc": "cuda-toolkit", "gcc": "gcc", "g++": "g++", "cc": "gcc", "clang": "clang"}
_VERSIONS: Final = re.compile(r"(GLIBC|GLIBCXX|CXXABI)_(\d+(?:\.\d+)*)$")
_CUDA: Final = re.compile(r"^cuda\s*(?::[^=]*)?=\s*['\"]([\d.]+)['\"]", re.MULTILINE)


@dataclass
class ImageContents:
    """What an image holds, as far as the audit cares."""

    libraries: dict[str, Library] = field(default_factory=dict)
    """Absolute path -> facts."""
    links: dict[str, str] = field(default_factory=dict)
    """Path of a link -> path it leads to."""
    texts: dict[str, bytes] = field(default_factory=dict)
    loader: dict[str, bytes] = field(default_factory=dict)
    programs: set[str] = field(default_factory=set)
    pythons: set[str] = field(default_factory=set)
    again: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Files of which parts turned out to be needed after they had passed."""


def audit_image(
    engine: Engine,
    reference: str,
    auditor: Auditor,
    *,
    targets: Sequence[TargetGpu],
    name: str | None = None,
    lock: Lock | None = None,
    tell: Callable[[str], None] | None = None,
) -> AuditReport:
    """Audit what is really installed in an image.

    Args:
        engine: holds the image.
        reference: the image.
        auditor: brings knowledge and facts.
        targets: GPUs to be true on.
        name: what the report is called; the reference by default.
        lock: what should be installed; rule R5 tells what is not.
        tell: told how far the reading is.

    Raises:
        EngineError: the engine does not hold the image, or it has no Python environment.
    """
    info = engine.image(reference)
    if info is None:
        raise EngineError(f"the engine has no image {reference}", hint=f"docker pull {reference}")
    contents = read_image(engine, reference, tell)
    installation = installed(contents, name=reference, env=info.env, digest=info.digest or info.id)
    problems = list(_not_as_locked(installation, lock)) if lock is not None else []
    return auditor.judge_installed(installation, targets, name=name or reference, problems=problems)


def _not_as_locked(installation: Installation, lock: Lock) -> Iterable[Finding]:
    """R5: a later step of the build replaced or removed what the lock had put in."""
    here = {wheel.name: wheel.version for wheel in installation.wheels}
    for wanted in lock.wheels:
        have = here.get(wanted.name)
        if have is not None and have != wanted.version:
            message = f"{have} is installed, the lock has {wanted.version}: something replaced it after the lock"
        elif have is None:
            message = f"the lock has {wanted.version}, but it is not installed"
        else:
            continue
        yield Finding(
            rule="R5",
            severity=Severity.ERROR,
            package=f"{wanted.name} {have or wanted.version}",
            message=message,
            fix="look for an installation without --no-deps or without the lock's constraints",
        )


def read_image(engine: Engine, reference: str, tell: Callable[[str], None] | None = None) -> ImageContents:
    """Read an image's file system; in a second pass what could not be known to matter in the first."""
    contents = ImageContents()
    with engine.image_files(reference) as files:
        for file in files:
            _first(contents, file)
    if tell is not None:
        tell(f"{reference}: {len(contents.libraries)} libraries read")
    wanted, contents.again = contents.again, {}
    # NVIDIA's own libraries need not be known symbol by symbol: not worth reading the whole image again.
    needed = {path: ranges for path, ranges in wanted.items() if "/nvidia/" not in path}
    if needed:
        with engine.image_files(reference) as files:
            for file in files:
                if file.path in needed:
                    _library(contents, file, needed[file.path])
    for path in {*wanted} - {*needed}:
        contents.libraries[path] = Library(path=path, size=0, scope="listed")
    for path in contents.again:
        contents.libraries[path] = Library(path=path, size=0, scope="listed", problem="its tables lie too far apart")
    return contents


def _first(contents: ImageContents, file: ImageFile) -> None:
    match = _PYTHON.search(file.path)
    if match:
        contents.pythons.add(match.group(1))
    if file.kind in {"symlink", "hardlink"}:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(file.path), file.target))
        contents.links[file.path] = target
        if posixpath.basename(file.path) in _COMPILERS and "/bin/" in file.path:
            contents.programs.add(posixpath.basename(file.path))
        return
    if file.kind != "file":
        return
    site = _SITE.match(file.path)
    rest = site.group("rest") if site else ""
    if site and (_DIST.match(rest) or rest == "torch/version.py"):
        contents.texts[file.path] = _text(file)
    elif file.path in {"/var/lib/dpkg/status", "/etc/ld.so.conf", "/etc/os-release", "/usr/lib/os-release"} or (
        file.path.startswith(("/etc/ld.so.conf.d/", "/var/lib/dpkg/status.d/"))
    ):
        contents.loader[file.path] = _text(file)
    elif posixpath.basename(file.path) in _COMPILERS and "/bin/" in file.path:
        contents.programs.add(posixpath.basename(file.path))
    elif is_library(file.path) and file.size and (site or _SYSTEM.match(file.path)):
        _library(contents, file, ())


def _text(file: ImageFile) -> bytes:
    with file.open() as stream:
        return stream.read(MAX_TEXT)


def _library(contents: ImageContents, file: ImageFile, ranges: Iterable[tuple[int, int]]) -> None:
    ranges = list(ranges)
    reader = MemberReader(file.path, file.size, ranges=ranges)
    with file.open() as stream:
        while chunk := stream.read(CHUNK):
            reader.feed(chunk)
    try:
        library = reader.finish()
    except Unread as missing:
        contents.again[file.path] = [(missing.offset, missing.length), *reader.wanted()]
        return
    except WheelError as error:
        library = Library(path=file.path, size=file.size, scope="listed", problem=error.message)
    if library is not None:
        contents.libraries[file.path] = library


def _resolve(contents: ImageContents, path: str) -> str:
    """Follow links, those of folders on the way as well."""
    for _ in range(16):
        if path in contents.links:
            path = contents.links[path]
            continue
        parts = path.split("/")
        for length in range(2, len(parts)):
            head = "/".join(parts[:length])
            if head in contents.links:
                path = posixpath.normpath(contents.links[head] + "/" + "/".join(parts[length:]))
                break
        else:
            return path
    return path


def installed(contents: ImageContents, *, name: str, env: Mapping[str, str], digest: str) -> Installation:
    """Return an image's contents as an installation; its main environment is the one with torch, else the largest."""
    sites: dict[str, dict[str, dict[str, bytes]]] = {}
    for path, data in contents.texts.items():
        match = _SITE.match(path)
        dist = _DIST.match(match.group("rest")) if match else None
        if match and dist:
            sites.setdefault(match.group("site"), {}).setdefault(dist.group("dist"), {})[dist.group("file")] = data
    if not sites:
        raise EngineError(f"{name} has no Python packages", hint="is it an image of a server at all?")
    site = max(sites, key=lambda key: (f"{key}/torch/version.py" in contents.texts, len(sites[key])))
    aliases: dict[str, list[str]] = {}
    for link in contents.links:
        aliases.setdefault(_resolve(contents, link), []).append(link)
    wheels = [
        _wheel(contents, site, dist, files, digest)
        for dist, files in sorted(sites[site].items())
        if "METADATA" in files
    ]
    owned = {library.path for wheel in wheels for library in wheel.libraries}
    stray = [
        library.model_copy(update={"path": path.removeprefix(site + "/")})
        for path, library in contents.libraries.items()
        if path.startswith(site + "/") and path.removeprefix(site + "/") not in owned
    ]
    if stray:
        wheels.append(
            WheelFacts(
                name="unowned-files", version="0", filename="", sha256=f"{digest}/unowned", libraries=tuple(stray)
            )
        )
    version = re.search(r"python(3\.\d+)", site)
    python = version.group(1) if version else max(contents.pythons, default="3", key=lambda text: text.split(".")[-1])
    return Installation(wheels=tuple(wheels), python=python, base=_base(contents, name, env, aliases), complete=False)


def _wheel(contents: ImageContents, site: str, dist: str, files: Mapping[str, bytes], digest: str) -> WheelFacts:
    metadata = HeaderParser().parsestr(files["METADATA"].decode("utf-8", "replace"))
    name = canonicalize_name(metadata.get("Name") or dist.partition("-")[0])
    paths = [
        line.rsplit(",", 2)[0].strip('"') for line in files.get("RECORD", b"").decode("utf-8", "replace").splitlines()
    ]
    libraries = []
    for path in paths:
        if not is_library(path):
            continue
        absolute = _resolve(contents, posixpath.normpath(f"{site}/{path}"))
        library = contents.libraries.get(absolute)
        if library is not None:
            libraries.append(library.model_copy(update={"path": posixpath.normpath(path)}))
    cuda = _CUDA.search(contents.texts.get(f"{site}/torch/version.py", b"").decode("utf-8", "replace"))
    wheel = files.get("WHEEL", b"").decode("utf-8", "replace")
    return WheelFacts(
        name=name,
        version=metadata.get("Version") or "0",
        filename=dist,
        sha256=f"{digest}/{name}",
        complete=True,
        tags=tuple(HeaderParser().parsestr(wheel).get_all("Tag") or ()),
        requires_dist=tuple(" ".join(line.split()) for line in metadata.get_all("Requires-Dist") or []),
        requires_python=metadata.get("Requires-Python"),
        libraries=tuple(libraries),
        cuda=cuda.group(1) if cuda and name == "torch" else None,
    )


def _base(contents: ImageContents, name: str, env: Mapping[str, str], aliases: Mapping[str, Sequence[str]]) -> Base:
    system: list[Library] = []
    highest: dict[str, tuple[int, ...]] = {}
    for path, library in contents.libraries.items():
        if _SITE.match(path):
            continue
        system.append(library)
        names = {posixpath.basename(alias) for alias in aliases.get(path, ())} - {library.name, library.soname}
        system.extend(library.model_copy(update={"soname": alias}) for alias in sorted(names) if is_library(alias))
        for version in library.provides:
            match = _VERSIONS.match(version)
            if match:
                number = tuple(int(part) for part in match.group(2).split("."))
                highest[match.group(1)] = max(highest.get(match.group(1), ()), number)
    packages = {_COMPILERS[program] for program in contents.programs}
    for path, data in contents.loader.items():
        if path.startswith("/var/lib/dpkg/"):
            packages |= set(re.findall(r"^Package: (\S+)$", data.decode("utf-8", "replace"), re.MULTILINE))
    search = [folder for folder in env.get("LD_LIBRARY_PATH", "").split(":") if folder]
    for path, data in sorted(contents.loader.items()):
        if path.startswith("/etc/ld.so.conf"):
            lines = (line.strip() for line in data.decode("utf-8", "replace").splitlines())
            search += [line for line in lines if line.startswith("/")]

    def ceiling(family: str) -> str | None:
        return ".".join(map(str, highest[family])) if family in highest else None

    return Base(
        name=name,
        glibc=ceiling("GLIBC"),
        glibcxx=ceiling("GLIBCXX"),
        cxxabi=ceiling("CXXABI"),
        libraries=tuple(system),
        packages=frozenset(packages),
        search=tuple(dict.fromkeys(search)),
    )
