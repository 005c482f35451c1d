"""Reads what is installed in an image, from its file system in one stream: nothing in it is run or imported.

A library that is the very file of a wheel already known is hashed and no more; what differs is read, and told.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from packaging.utils import canonicalize_name

from assay.audit.context import TargetGpu
from assay.audit.findings import AuditReport, Finding
from assay.audit.linker import Base, Installation
from assay.errors import EngineError, WheelError
from assay.foundation.budget import IMAGE, Budget
from assay.foundation.outcome import Severity
from assay.matrix.lock import Lock
from assay.pipeline.ahead import Ahead
from assay.pipeline.audit import Auditor
from assay.pipeline.read_wheel import is_library
from assay.ports.engine import Engine, ImageFile
from assay.wheels.bytes_at import Unread
from assay.wheels.facts import Library, WheelFacts, installed_path
from assay.wheels.member import MemberReader
from assay.wheels.metadata import read_metadata, read_tags

__all__ = ["ImageContents", "audit_image", "read_image"]

CHUNK: Final = 1 << 20
EVERY_SECONDS: Final = 5.0
PASSES: Final = 2
"""How often an image is read again at most."""
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
_VERSIONS: Final = re.compile(r"(GLIBC|GLIBCXX|CXXABI)_([0-9]{1,6}(?:\.[0-9]{1,6}){0,3})$")
_CUDA: Final = re.compile(r"^cuda[ \t]*(?::[^=\n]*)?=[ \t]*['\"]([0-9.]{1,20})['\"]", re.MULTILINE)


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
    known: Mapping[str, Library] = field(default_factory=dict)
    """Path in site-packages -> library that a locked wheel has there."""
    replaced: set[str] = field(default_factory=set)
    """Libraries that are others than the locked wheel's."""
    present: set[str] = field(default_factory=set)
    """All files and links with a library's name."""
    problems: list[Finding] = field(default_factory=list)
    """What is installed and could not be read."""
    budget: Budget = field(default_factory=lambda: Budget("the image", IMAGE))


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
    wheels = auditor.known(lock) if lock is not None else ()
    known = {installed_path(library.path): library for wheel in wheels for library in wheel.libraries}
    contents = read_image(engine, reference, tell, known=known)
    machine = {"arm64": "aarch64", "aarch64": "aarch64"}.get(info.architecture, "x86_64")
    installation = replace(
        installed(contents, name=reference, env=info.env, digest=info.digest or info.id), machine=machine
    )
    problems: list[Finding] = [*contents.problems]
    if lock is not None:
        problems += _not_as_locked(installation, lock)
        problems += _not_their_files(contents, name=reference, wheels=wheels, installation=installation)
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


def _not_their_files(
    contents: ImageContents, *, name: str, wheels: Iterable[WheelFacts], installation: Installation
) -> Iterable[Finding]:
    """R5: the version is the locked one, the files are not."""
    here = {wheel.name: wheel.version for wheel in installation.wheels}
    site = _main_site(contents, name)
    for wheel in wheels:
        if here.get(wheel.name) != wheel.version:
            continue
        paths = {f"{site}/{installed_path(library.path)}": library.path for library in wheel.libraries}
        changed = sorted(path for path in paths if path in contents.replaced)
        missing = sorted(path for path in paths if "/../" not in path and path not in contents.present)
        for found, message in (
            (changed, "is not the file of the locked wheel: something replaced it after the lock"),
            (missing, "of the locked wheel is not there"),
        ):
            if found:
                more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
                yield Finding(
                    rule="R5",
                    severity=Severity.ERROR if found is changed else Severity.WARNING,
                    package=f"{wheel.name} {wheel.version}",
                    library=paths[found[0]],
                    message=f"{message}{more}",
                    fix="look for a later step that installs, copies or removes files of this package",
                )


def read_image(
    engine: Engine,
    reference: str,
    tell: Callable[[str], None] | None = None,
    *,
    known: Mapping[str, Library] | None = None,
) -> ImageContents:
    """Read an image's file system; once more for what could not be known to matter the first time.

    Args:
        known: path in site-packages -> library of a locked wheel, which is not read again if its bytes are the same.
    """
    contents = ImageContents(known=known or {})
    with engine.image_files(reference) as files:
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
        with engine.image_files(reference) as files:
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
            if base in _COMPILERS and "/bin/" in file.path:
                contents.programs.add(base)
            if is_library(file.path):
                contents.present.add(file.path)
            continue
        if file.kind != "file":
            continue
        site = _SITE.match(file.path)
        rest = site.group("rest") if site else ""
        if site and (_DIST.match(rest) or rest == "torch/version.py"):
            contents.texts[file.path] = _text(contents, file)
        elif file.path in {"/var/lib/dpkg/status", "/etc/ld.so.conf", "/etc/os-release", "/usr/lib/os-release"} or (
            file.path.startswith(("/etc/ld.so.conf.d/", "/var/lib/dpkg/status.d/"))
        ):
            contents.loader[file.path] = _text(contents, file)
        elif base in _COMPILERS and "/bin/" in file.path:
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


def _sites(contents: ImageContents) -> dict[str, dict[str, dict[str, bytes]]]:
    """Return folder of packages -> distribution -> its text files."""
    sites: dict[str, dict[str, dict[str, bytes]]] = {}
    for path, data in contents.texts.items():
        match = _SITE.match(path)
        dist = _DIST.match(match.group("rest")) if match else None
        if match and dist:
            sites.setdefault(match.group("site"), {}).setdefault(dist.group("dist"), {})[dist.group("file")] = data
    return sites


def _main_site(contents: ImageContents, name: str) -> str:
    """Return the folder of packages with torch, else that with most of them."""
    sites = _sites(contents)
    if not sites:
        raise EngineError(f"{name} has no Python packages", hint="is it an image of a server at all?")
    return max(sites, key=lambda key: (f"{key}/torch/version.py" in contents.texts, len(sites[key])))


def installed(contents: ImageContents, *, name: str, env: Mapping[str, str], digest: str) -> Installation:
    """Return an image's contents as an installation; its main environment is the one with torch, else the largest."""
    site = _main_site(contents, name)
    dists = _sites(contents)[site]
    aliases: dict[str, list[str]] = {}
    for link in contents.links:
        aliases.setdefault(_resolve(contents, link), []).append(link)
    wheels = [
        wheel
        for dist, files in sorted(dists.items())
        if "METADATA" in files and (wheel := _wheel_or_problem(contents, site, dist, files, digest)) is not None
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
    sites = _sites(contents)
    elsewhere = {canonicalize_name(dist.partition("-")[0]) for other in sites if other != site for dist in sites[other]}
    return Installation(
        wheels=tuple(wheels),
        python=python,
        base=_base(contents, name, env, aliases),
        complete=False,
        installed=True,
        elsewhere=frozenset(elsewhere),
    )


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
        absolute = _resolve(contents, posixpath.normpath(f"{site}/{path}"))
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
        environment=frozenset(env),
        closed=True,
        search=tuple(dict.fromkeys(search)),
    )
