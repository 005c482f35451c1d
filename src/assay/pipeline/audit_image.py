"""Reads what is installed in an image, from its file system in one stream: nothing in it is run or imported.

A library that is the very file of a wheel already known is hashed and no more; what differs is read, and told.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final, Protocol

from packaging.utils import canonicalize_name

from assay.audit.context import AsLocked, TargetGpu
from assay.audit.findings import AuditReport, Finding
from assay.audit.installation import Base, Installation
from assay.errors import EngineError, WheelError
from assay.foundation.outcome import Severity
from assay.matrix.lock import Lock
from assay.pipeline.ahead import Ahead
from assay.pipeline.audit import Auditor
from assay.pipeline.image_contents import COMPILERS, DIST, SITE, ImageContents, Opened, main_site, resolve, sites_of
from assay.pipeline.image_layers import ImageLayers
from assay.pipeline.image_platforms import platform_of
from assay.pipeline.read_wheel import is_library
from assay.ports.engine import ImageFile, ImageInfo
from assay.ports.layers import LayerStore
from assay.wheels.bytes_at import Unread
from assay.wheels.facts import Library, WheelFacts, installed_path
from assay.wheels.member import MemberReader
from assay.wheels.metadata import read_metadata, read_tags

__all__ = ["audit_image", "read_image"]

CHUNK: Final = 1 << 20
EVERY_SECONDS: Final = 5.0
PASSES: Final = 2
"""How often an image is read again at most."""
MAX_TEXT: Final = 16 << 20
_PYTHON: Final = re.compile(r"/(?:lib|bin)/python(3\.\d+)(?:/|$)")
_SYSTEM: Final = re.compile(
    r"^/(?:usr/)?(?:lib|lib64|lib/[a-z0-9_]+-linux-gnu)/[^/]+$|^/usr/local/(?:lib|lib64)/[^/]+$"
    r"|^/usr/local/cuda[^/]*/(?:lib64|targets/[^/]+/lib|compat|extras/CUPTI/lib64)/[^/]+$"
    r"|^/(?:usr/local/lib|opt/[^/]+/lib)/libpython[^/]+$"
)
_VERSIONS: Final = re.compile(r"(GLIBC|GLIBCXX|CXXABI)_([0-9]{1,6}(?:\.[0-9]{1,6}){0,3})$")
_CUDA: Final = re.compile(r"^cuda[ \t]*(?::[^=\n]*)?=[ \t]*['\"]([0-9.]{1,20})['\"]", re.MULTILINE)


class AuditedImages(Protocol):
    """Holds images that are audited: an engine, or any other place of which the layers are known."""

    def image(self, reference: str) -> ImageInfo | None:
        """Return an image, or None if it is not there."""
        ...

    def image_files(self, reference: str) -> AbstractContextManager[Iterator[ImageFile]]:
        """Read the files of an image; raises `EngineError` where that cannot be done."""
        ...


def audit_image(
    engine: AuditedImages,
    reference: str,
    auditor: Auditor,
    *,
    targets: Sequence[TargetGpu],
    name: str | None = None,
    lock: Lock | None = None,
    tell: Callable[[str], None] | None = None,
    layers: LayerStore | None = None,
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
        layers: the catalogue of layers; an image of known layers is not read.

    Raises:
        EngineError: the engine does not hold the image, or it has no Python environment.
        UsageError: it is for another platform than assay knows.
    """
    info = engine.image(reference)
    if info is None:
        raise EngineError(f"the engine has no image {reference}", hint=f"docker pull {reference}")
    platform = platform_of(reference, info)
    wheels = auditor.known(lock) if lock is not None else ()
    known = {installed_path(library.path): library for wheel in wheels for library in wheel.libraries}
    found = ImageLayers(layers, auditor.facts_of, _read_layer).image(info, known) if layers is not None else None
    if found is not None and tell is not None:
        tell(f"{reference}: its {len(info.layers)} layers are known, nothing is read")
    if found is None:
        contents = read_image(lambda: engine.image_files(reference), reference, tell, known=known)
    else:
        contents = found.contents
    there = None if found is None else found.wheels
    installation = replace(
        installed(contents, name=reference, env=info.env, digest=info.digest or info.id, wheels=there),
        machine=platform.machine,
    )
    locked = None if lock is None else _as_locked(contents, lock, name=reference, wheels=wheels)
    return auditor.judge_installed(
        installation, targets, name=name or reference, problems=contents.problems, locked=locked
    )


def _as_locked(contents: ImageContents, lock: Lock, *, name: str, wheels: Iterable[WheelFacts]) -> AsLocked:
    """Return what the lock says, and which libraries of its wheels are others in the image or are not there."""
    site = main_site(contents, name)
    changed: dict[str, tuple[str, ...]] = {}
    missing: dict[str, tuple[str, ...]] = {}
    for wheel in wheels:
        paths = {f"{site}/{installed_path(library.path)}": library.path for library in wheel.libraries}
        changed[wheel.name] = tuple(paths[path] for path in sorted(paths) if path in contents.replaced)
        missing[wheel.name] = tuple(
            paths[path] for path in sorted(paths) if "/../" not in path and path not in contents.present
        )
    return AsLocked(versions={wheel.name: wheel.version for wheel in lock.wheels}, changed=changed, missing=missing)


def _read_layer(opened: Opened) -> ImageContents:
    return read_image(opened, "a layer")


def read_image(
    opened: Opened,
    reference: str,
    tell: Callable[[str], None] | None = None,
    *,
    known: Mapping[str, Library] | None = None,
) -> ImageContents:
    """Read an image's file system; once more for what could not be known to matter the first time.

    Args:
        opened: begins to read it.
        reference: what it is called.
        tell: told how far the reading is.
        known: path in site-packages -> library of a locked wheel, which is not read again if its bytes are the same.
    """
    contents = ImageContents(known=known or {})
    with opened() as files:
        _take(contents, _first(contents, _told(files, reference, tell)))
    if tell is not None:
        tell(f"{reference}: {len(contents.libraries)} libraries read")
    # NVIDIA's own libraries need not be known symbol by symbol: not worth reading the whole image again.
    for _ in range(PASSES):
        unread = {path for path, ranges in contents.again.items() if ranges and "/nvidia/" in path}
        for path in unread:
            contents.libraries[path] = Library(path=path, size=0, scope="listed")
        wanted = {path: ranges for path, ranges in contents.again.items() if path not in unread}
        contents.again = {}
        if not wanted:
            return contents
        with opened() as files:
            _take(contents, _again(contents, _told(files, f"{reference}, once more", tell), wanted))
    for path in contents.again:
        contents.libraries[path] = Library(path=path, size=0, scope="listed", problem="its tables lie too far apart")
    return contents


def _told(files: Iterable[ImageFile], reference: str, tell: Callable[[str], None] | None) -> Iterator[ImageFile]:
    """Say every few seconds how much of a long reading has passed."""
    last, size, count = time.monotonic(), 0, 0
    for file in files:
        yield file
        size, count = size + file.size, count + 1
        if tell is not None and time.monotonic() - last >= EVERY_SECONDS:
            last = time.monotonic()
            tell(f"{reference}: {count} files, {size >> 20} MiB read")


class _Hash:
    """Takes the bytes of what may be a known library."""

    def __init__(self, path: str, library: Library) -> None:
        self.path = path
        self.library = library
        self._hash = hashlib.sha256()
        self.feed = self._hash.update

    @property
    def same(self) -> bool:
        """Whether the bytes were the known ones."""
        return self._hash.hexdigest() == self.library.digest


_Reading = _Hash | MemberReader
_Events = Iterator[_Reading | bytes | None]
"""What takes a file, its bytes, and None at its end."""


def _take(contents: ImageContents, events: _Events) -> None:
    """Hash and parse in this thread while another one reads from the engine."""
    ahead = Ahead(events)
    try:
        reader: _Reading | None = None
        for event in ahead:
            if event is None:
                assert reader is not None
                _finish(contents, reader)
            elif isinstance(event, bytes):
                assert reader is not None
                reader.feed(event)
            else:
                reader = event
    finally:
        ahead.close()


def _finish(contents: ImageContents, reader: _Reading) -> None:
    if isinstance(reader, _Hash):
        if reader.same:
            contents.libraries[reader.path] = reader.library
        else:
            contents.replaced.add(reader.path)
            contents.again[reader.path] = []
        return
    try:
        library = reader.finish()
    except Unread as missing:
        contents.again[reader.path] = [(missing.offset, missing.length), *reader.wanted()]
        return
    except WheelError as error:
        library = Library(path=reader.path, size=reader.size, scope="listed", problem=error.message)
    if library is not None:
        contents.libraries[reader.path] = library


def _first(contents: ImageContents, files: Iterable[ImageFile]) -> _Events:
    """Deal with small files, and yield what takes each library, its bytes, and None."""
    for file in files:
        match = _PYTHON.search(file.path)
        if match:
            contents.pythons.add(match.group(1))
        base = posixpath.basename(file.path)
        if file.kind in {"symlink", "hardlink"}:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(file.path), file.target))
            contents.links[file.path] = target
            if base in COMPILERS and "/bin/" in file.path:
                contents.programs.add(base)
            if is_library(file.path):
                contents.present.add(file.path)
            continue
        if file.kind != "file":
            continue
        site = SITE.match(file.path)
        rest = site.group("rest") if site else ""
        if site and (DIST.match(rest) or rest == "torch/version.py"):
            contents.texts[file.path] = _text(contents, file)
        elif file.path in {"/var/lib/dpkg/status", "/etc/ld.so.conf", "/etc/os-release", "/usr/lib/os-release"} or (
            file.path.startswith(("/etc/ld.so.conf.d/", "/var/lib/dpkg/status.d/"))
        ):
            contents.loader[file.path] = _text(contents, file)
        elif base in COMPILERS and "/bin/" in file.path:
            contents.programs.add(base)
        elif is_library(file.path) and (site or _SYSTEM.match(file.path)):
            contents.present.add(file.path)
            if file.size:
                yield from _bytes(file, _reader(contents, file, rest))


def _reader(contents: ImageContents, file: ImageFile, rest: str) -> _Reading:
    known = contents.known.get(rest) if rest else None
    if known is not None and known.size != file.size:
        contents.replaced.add(file.path)
    elif known is not None and known.digest is not None and known.scope != "listed":
        return _Hash(file.path, known)
    return MemberReader(file.path, file.size, budget=contents.budget)


def _again(contents: ImageContents, files: Iterable[ImageFile], wanted: Mapping[str, list[tuple[int, int]]]) -> _Events:
    left = set(wanted)
    for file in files:
        if file.path in left:
            yield from _bytes(
                file, MemberReader(file.path, file.size, ranges=wanted[file.path], budget=contents.budget)
            )
            left.discard(file.path)
        if not left:
            return


def _bytes(file: ImageFile, reader: _Reading) -> _Events:
    yield reader
    with file.open() as stream:
        while chunk := stream.read(CHUNK):
            yield chunk
    yield None


def _text(contents: ImageContents, file: ImageFile) -> bytes:
    with file.open() as stream:
        data = stream.read(MAX_TEXT)
    contents.budget.take(kept=len(data), items=1)
    return data


def installed(
    contents: ImageContents,
    *,
    name: str,
    env: Mapping[str, str],
    digest: str,
    wheels: Iterable[WheelFacts] | None = None,
) -> Installation:
    """Return an image's contents as an installation; its main environment is the one with torch, else the largest.

    Args:
        contents: of the image.
        name: what it is called.
        env: its variables.
        digest: names it in the facts of what is installed.
        wheels: what is installed, where that is known; else the texts of the contents tell.
    """
    site = main_site(contents, name)
    aliases: dict[str, list[str]] = {}
    for link in contents.links:
        aliases.setdefault(resolve(contents, link), []).append(link)
    wheels = _wheels(contents, site, digest) if wheels is None else list(wheels)
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
    sites = sites_of(contents)
    elsewhere = {canonicalize_name(dist.partition("-")[0]) for other in sites if other != site for dist in sites[other]}
    return Installation(
        wheels=tuple(wheels),
        python=python,
        base=_base(contents, name, env, aliases),
        complete=False,
        installed=True,
        elsewhere=frozenset(elsewhere),
    )


def _wheels(contents: ImageContents, site: str, digest: str) -> list[WheelFacts]:
    return [
        wheel
        for dist, files in sorted(sites_of(contents)[site].items())
        if "METADATA" in files and (wheel := _wheel_or_problem(contents, site, dist, files, digest)) is not None
    ]


def _wheel_or_problem(
    contents: ImageContents, site: str, dist: str, files: Mapping[str, bytes], digest: str
) -> WheelFacts | None:
    """Return the facts of an installed distribution; of one whose METADATA is none, note why it has none."""
    try:
        return _wheel(contents, site, dist, files, digest)
    except WheelError as error:
        contents.problems.append(
            Finding(rule="F1", severity=Severity.WARNING, package=dist[:120], message=error.message)
        )
        return None


def _wheel(contents: ImageContents, site: str, dist: str, files: Mapping[str, bytes], digest: str) -> WheelFacts:
    metadata = read_metadata(files["METADATA"].decode("utf-8", "replace"), budget=contents.budget)
    name = metadata.name
    paths = [
        line.rsplit(",", 2)[0].strip('"') for line in files.get("RECORD", b"").decode("utf-8", "replace").splitlines()
    ]
    libraries = []
    for path in paths:
        if not is_library(path):
            continue
        absolute = resolve(contents, posixpath.normpath(f"{site}/{path}"))
        library = contents.libraries.get(absolute)
        if library is not None:
            own = posixpath.normpath(path)
            libraries.append(library if library.path == own else library.model_copy(update={"path": own}))
    cuda = _CUDA.search(contents.texts.get(f"{site}/torch/version.py", b"").decode("utf-8", "replace"))
    wheel = files.get("WHEEL", b"").decode("utf-8", "replace")
    return WheelFacts(
        name=name,
        version=metadata.version or "0",
        filename=dist,
        sha256=f"{digest}/{name}",
        complete=True,
        tags=read_tags(wheel, budget=contents.budget),
        requires_dist=metadata.requires_dist,
        requires_python=metadata.requires_python,
        libraries=tuple(libraries),
        cuda=cuda.group(1) if cuda and name == "torch" else None,
    )


def _base(contents: ImageContents, name: str, env: Mapping[str, str], aliases: Mapping[str, Sequence[str]]) -> Base:
    system: list[Library] = []
    highest: dict[str, tuple[int, ...]] = {}
    for path, library in contents.libraries.items():
        if SITE.match(path):
            continue
        system.append(library)
        names = {posixpath.basename(alias) for alias in aliases.get(path, ())} - {library.name, library.soname}
        system.extend(library.model_copy(update={"soname": alias}) for alias in sorted(names) if is_library(alias))
        for version in library.provides:
            match = _VERSIONS.match(version)
            if match:
                number = tuple(int(part) for part in match.group(2).split("."))
                highest[match.group(1)] = max(highest.get(match.group(1), ()), number)
    packages = {COMPILERS[program] for program in contents.programs}
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
        environment=frozenset(env),
        closed=True,
        search=tuple(dict.fromkeys(search)),
    )
