"""Facts that age and that no file of a wheel says; read from knowledge/, each with its source and date."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import blake2b
from typing import Annotated, Final, Literal, NamedTuple

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version
from pydantic import AfterValidator, PlainSerializer

from assay.audit.guards import GuardsFile
from assay.audit.history import TorchHistory
from assay.foundation.derived import Deriving
from assay.foundation.outcome import Outcome
from assay.foundation.strict import Value
from assay.foundation.text import VersionText
from assay.foundation.versions import parsed

__all__ = [
    "BaseFacts",
    "Companion",
    "CompanionsFile",
    "Consumer",
    "Dispatch",
    "DispatchFile",
    "Feature",
    "Knowledge",
    "LibraryPolicy",
    "NeedsFile",
    "PtxFile",
    "RuntimeNeed",
    "SharedFile",
    "SharedFilesFile",
    "SonamesFile",
    "ToolkitFile",
    "python_exports",
]


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(str(error)) from error
    return text


_CUDA_PLACE: Final = re.compile(r"\{cuda~?\}")
Specifier = Annotated[str, AfterValidator(_specifier)]


def python_exports(text: str) -> dict[str, frozenset[str]]:
    """Read knowledge/python_abi.txt: Python minor -> C symbols that its own library exports."""
    minors: list[str] = []
    table: dict[str, set[str]] = {}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] == "#":
            continue
        if words[0] == "minors":
            minors = words[1:]
            table = {minor: set() for minor in minors}
            continue
        for minor in words[1:] or minors:
            table[minor].add(words[0])
    return {minor: frozenset(names) for minor, names in table.items()}


class BaseFacts(Value):
    """What the C and C++ runtimes of a distribution offer."""

    match: tuple[str, ...]
    """Parts of a base image's name or distribution that it is known by: `bookworm`, `ubuntu22.04`."""
    glibc: str
    glibcxx: str
    cxxabi: str
    source: str
    date: str


class ImageBrings(Value):
    """What base images bring that their name tells."""

    match: str
    """Regular expression over the image's reference."""
    sonames: tuple[str, ...]
    source: str
    date: str


class SonamesFile(Value):
    """knowledge/sonames.yaml."""

    version: Literal["1"]
    driver: tuple[str, ...]
    """Brought in by the container toolkit from the host."""
    always: tuple[str, ...]
    """The C and C++ runtime: in every base that can run Python."""
    optional_base: tuple[str, ...] = ()
    """In the base images of Python or the CUDA toolkit, but nothing to rely on elsewhere."""
    packages: dict[str, tuple[str, ...]]
    """Package of the distribution -> sonames it brings."""
    wheels: dict[str, str]
    """Soname -> distribution on the package index that brings it."""
    preloaded: dict[str, str]
    """Soname -> why it is there although no library on the way needs it."""
    toolkit: tuple[str, ...] = ()
    """Sonames that a project adds to what the CUDA toolkit of a base brings, `{major}` standing for its version."""
    toolkits: dict[str, tuple[str, ...]] = {}
    """The same by major version of the toolkit, for names whose number is another."""
    images: tuple[ImageBrings, ...] = ()
    bases: dict[str, BaseFacts]
    source: str
    date: str

    def toolkit_of(self, cuda: str) -> frozenset[str]:
        """Return the sonames that a project adds to those of a CUDA toolkit (`12.9`)."""
        major = cuda.partition(".")[0]
        own = {pattern.replace("{major}", major) for pattern in self.toolkit}
        return frozenset(own.union(self.toolkits.get(major, ())))

    def brought_by_image(self, reference: str) -> frozenset[str]:
        """Return the sonames that a base image brings by its name, beside the toolkit and the system's."""
        return frozenset(soname for one in self.images if re.search(one.match, reference) for soname in one.sonames)


class ToolkitLibrary(Value):
    """A library of the CUDA toolkit."""

    soname: str
    wheel: str
    """Distribution on the package index that brings it."""
    since: VersionText
    """The first release of the toolkit that has it: `12.4`."""
    until: VersionText
    """The last release that had it when the file was written."""


class ToolkitFile(Deriving):
    """knowledge/cuda_toolkit.yaml, which tools/toolkit_libraries.py writes."""

    version: Literal["1"]
    libraries: tuple[ToolkitLibrary, ...]
    source: str
    date: str

    @cached_property
    def _newest(self) -> Version:
        return max((parsed(one.until) for one in self.libraries), default=parsed("0"))

    def of(self, cuda: str) -> frozenset[str]:
        """Return the sonames that a CUDA toolkit (`12.9`) brings; one newer than the file has what the newest has."""
        release = min(parsed(cuda), self._newest)
        minor = parsed(".".join(map(str, release.release[:2])))
        return frozenset(one.soname for one in self.libraries if parsed(one.since) <= minor <= parsed(one.until))

    @cached_property
    def wheels(self) -> Mapping[str, str]:
        """Soname -> the distributions that bring it: `nvidia-curand or nvidia-curand-cu12`."""
        found: dict[str, set[str]] = {}
        for one in self.libraries:
            found.setdefault(one.soname, set()).add(one.wheel)
        return {soname: " or ".join(sorted(names)) for soname, names in found.items()}


class CompileTarget(Value):
    """A target of the compiler: `120f` of `sm_120f` and `compute_120f`."""

    runs: tuple[str, ...]
    """Compute capabilities that run its machine code."""
    jit: tuple[str, ...]
    """Compute capabilities for which the driver compiles its PTX."""
    cuda: VersionText
    """The first toolkit whose nvcc knows it."""
    driver: str
    """The least Linux driver for that toolkit."""
    source: str
    """A key of `target_sources`."""


class PtxFile(Value):
    """knowledge/ptx_isa.yaml."""

    version: Literal["1"]
    isa: dict[str, str]
    """PTX ISA -> first CUDA version whose driver takes it."""
    drivers: dict[str, str]
    """CUDA version -> least driver on Linux."""
    symbols: dict[str, str] = {}
    """Beginning of a driver function's name -> CUDA version of the driver that has it."""
    targets: dict[str, CompileTarget] = {}
    target_sources: dict[str, str] = {}
    source: str
    date: str


class RuntimeNeed(Value):
    """Something a package needs when it runs."""

    package: str
    versions: Specifier = ""
    needs: str
    """In words, for people."""
    provided_by: tuple[str, ...] = ()
    """Distributions or base packages of which one is enough."""
    provided_by_env: tuple[str, ...] = ()
    """Variables of the environment of which one is enough; not asked for where nobody knows the environment."""
    unless: tuple[str, ...] = ()
    """Distributions that make it unnecessary."""
    beside: tuple[str, ...] = ()
    """Distributions without which it does not arise; all of them have to be there."""
    targets: tuple[str, ...] = ()
    """Capabilities it holds for, as globs: `12.*`; empty: all."""
    features: tuple[str, ...] = ()
    severity: Literal["info", "warning", "error"] = "warning"
    cause: str | None = None
    source: str
    date: str


class NeedsFile(Value):
    """knowledge/runtime_needs.yaml."""

    version: Literal["1"]
    brings: dict[str, str] = {}
    """A name in `provided_by` -> regular expression over packages of a base that bring it too."""
    needs: tuple[RuntimeNeed, ...]

    def brought_by(self, packages: Iterable[str]) -> frozenset[str]:
        """Return the names of `brings` that one of the packages brings."""
        there = tuple(packages)
        return frozenset(name for name, brings in self.brings.items() if any(map(re.compile(brings).fullmatch, there)))


class LibraryPolicy(Value):
    """How a package uses one of its libraries."""

    package: str
    versions: Specifier = ""
    library: str
    """Glob over paths; or a path with `{cuda}` (`128`) for the library made for torch's own CUDA version, or `{cuda~}`
    where the package else takes the nearest older one of the same major version, then the nearest newer one."""
    use: Literal["required", "optional", "never"]
    """`optional`: the package goes on without; `never`: not loaded on the targets named."""
    one_of: bool = False
    """Of the libraries whose names differ in a number alone one has to load, whichever it is."""
    by_path: bool = False
    """Loaded by its path: that its file name is for another Python does not matter then."""
    targets: tuple[str, ...] = ()
    """Capabilities it holds for, as globs: `12.*`; empty: all."""
    reason: str
    source: str
    date: str

    @property
    def by_cuda(self) -> bool:
        """Whether the path has a place for a CUDA version."""
        return "{cuda" in self.library

    def variants(self, paths: Iterable[str]) -> dict[tuple[int, int], str]:
        """Return CUDA version -> path, of the libraries that are made for one each."""
        before, _, after = _CUDA_PLACE.sub("\0", self.library).partition("\0")
        pattern = re.compile(rf"{re.escape(before)}(\d+)(\d){re.escape(after)}")
        matches = ((pattern.fullmatch(path), path) for path in paths)
        return {(int(match.group(1)), int(match.group(2))): path for match, path in matches if match}

    def chosen(self, paths: Iterable[str], cuda: str) -> str | None:
        """Return the library a package loads with torch for a CUDA version (`12.8`), or None if it has none for it."""
        release = parsed(cuda).release
        wanted = (release[0], release[1] if len(release) > 1 else 0)
        found = self.variants(paths)
        if wanted in found or "{cuda~}" not in self.library:
            return found.get(wanted)
        major = [version for version in found if version[0] == wanted[0]]
        older = [version for version in major if version < wanted]
        if older:
            return found[max(older)]
        return found[min(major)] if major else None


class Dispatch(Value):
    """Kernels of which a feature is made, in one package."""

    package: str
    versions: Specifier = ""
    library: str = "*"
    kernels: str = ""
    """Regular expression over mangled names; empty: the whole library."""
    code: bool = True
    """Whether GPU code in the library decides; False: the package alone does (Triton, JIT)."""
    on_ptx: Outcome | None = None
    """What is known to come of PTX compiled by the driver, where that is not the same as machine code."""
    ptx_reason: str = ""
    targets: tuple[str, ...] = ()


class Feature(Value):
    """What decides one feature; the best of the packages that are there counts."""

    dispatch: tuple[Dispatch, ...] = ()
    needs: tuple[str, ...] = ()
    """Features without which it cannot work."""
    packages: Annotated[frozenset[str], PlainSerializer(sorted, when_used="json")] = frozenset()
    """Distributions that all have to be there for it to be a question at all."""
    soname: str = ""
    """In place of `dispatch`: a shared library of the base that decides it."""
    unsupported: dict[str, str] = {}
    """Capability glob -> why no version supports it there."""
    degraded: dict[str, str] = {}
    source: str
    date: str

    @property
    def givers(self) -> frozenset[str]:
        """Distributions that can give it, in some version and on some target."""
        return frozenset(entry.package for entry in self.dispatch)


class Given(NamedTuple):
    """Which features some distributions make a question of."""

    part: frozenset[str]
    """Those that one of them can give, in some version and on some target."""
    asked: Mapping[str, Feature]
    """Those that can be predicted: of these, and of those that a library of the base decides."""


class DispatchFile(Value):
    """knowledge/dispatch.yaml."""

    version: Literal["1"]
    libraries: tuple[LibraryPolicy, ...]
    features: dict[str, Feature]

    def given_by(self, distributions: AbstractSet[str]) -> Given:
        """Return which features distributions make a question of."""
        part = frozenset(name for name, one in self.features.items() if not one.givers.isdisjoint(distributions))
        asked = {
            name: one
            for name, one in self.features.items()
            if (one.soname or name in part) and distributions >= one.packages
        }
        return Given(part, asked)


class Consumer(Value):
    """A package that needs the companions to agree."""

    package: str
    versions: Specifier = ""
    unless: tuple[str, ...] = ()
    """Distributions with which it does not need them."""
    features: tuple[str, ...] = ()
    """What does not work where they disagree."""


class Companion(Value):
    """Packages whose versions must go together with that of another one."""

    packages: tuple[str, ...]
    beside: str
    agree: Literal["major", "minor", "version"] | None = None
    """How much of the two versions must be the same. With `version` a local part does not count."""
    pairs: dict[Specifier, Specifier] = {}
    """In place of `agree`: versions of the packages -> versions of `beside`. For other versions nothing is recorded."""
    consumers: tuple[Consumer, ...] = ()
    """Who needs them to agree; empty: they never work together otherwise, whoever uses them."""
    constraint: str = ""
    """What to put into a recipe, with `{minor}` and `{major}` of `beside`; by default the package and that part."""
    why: str
    cause: str | None = None
    source: str
    date: str


class CompanionsFile(Value):
    """knowledge/companions.yaml."""

    version: Literal["1"]
    companions: tuple[Companion, ...]


class SharedFile(Value):
    """A path that wheels may share although their bytes differ."""

    path: str
    """Glob over paths relative to site-packages."""
    reason: str
    source: str
    date: str


class SharedFilesFile(Value):
    """knowledge/shared_files.yaml."""

    version: Literal["1"]
    files: tuple[SharedFile, ...]

    def allows(self, path: str) -> bool:
        """Return whether wheels may share a path, relative to site-packages, although their bytes differ."""
        return any(fnmatchcase(path, entry.path) for entry in self.files)


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """All of it."""

    sonames: SonamesFile
    ptx: PtxFile
    needs: NeedsFile
    dispatch: DispatchFile
    history: TorchHistory
    companions: CompanionsFile = field(default_factory=lambda: CompanionsFile(version="1", companions=()))
    shared_files: SharedFilesFile = field(default_factory=lambda: SharedFilesFile(version="1", files=()))
    guards: GuardsFile = field(default_factory=lambda: GuardsFile(version="1", guards=()))
    toolkit: ToolkitFile = field(default_factory=lambda: ToolkitFile(version="1", libraries=(), source="", date=""))
    python: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Python minor -> symbols it exports."""

    @cached_property
    def content(self) -> str:
        """Digest of all of it."""
        files = (
            self.sonames, self.toolkit, self.ptx, self.needs, self.dispatch, self.guards, self.companions,
            self.shared_files,
        )  # fmt: skip
        python = {minor: sorted(names) for minor, names in self.python.items()}
        parts = [*(file.model_dump_json() for file in files), self.history.content, json.dumps(python, sort_keys=True)]
        return blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()

    @cached_property
    def brings(self) -> Mapping[str, str]:
        """Soname -> the distributions on the package index that bring it, with ` or ` between them."""
        return {**self.toolkit.wheels, **self.sonames.wheels}

    def base(self, name: str) -> BaseFacts | None:
        """Return the facts of a base by its name, image reference or suite."""
        for facts in self.sonames.bases.values():
            if any(part in name for part in facts.match):
                return facts
        return None
