"""Facts of a wheel, cached by the sha256 of its file and safe to share: names and numbers, no code.

Symbol tables are kept as text, one symbol a line, so that a file with hundreds of thousands of them is read in
milliseconds; they are taken apart when they are asked for.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import blake2b
from typing import Final, Literal, NamedTuple

from assay.foundation.derived import Deriving
from assay.foundation.text import Distribution, PathVersion
from assay.wheels.exports import ExportTable, bindable, plain_lines, versioned_lines
from assay.wheels.gpu_code import CodeGroup, GpuCode
from assay.wheels.kernel_search import searcher
from assay.wheels.symbols import (
    Owner,
    SymbolKind,
    is_shim,
    is_told_of,
    owner,
    pre_cxx11,
    torch_kind,
    torch_symbols,
    uses_cxx11,
)

__all__ = [
    "READER",
    "AskedNames",
    "Library",
    "Reference",
    "Scope",
    "WheelFacts",
    "installed_path",
    "is_own_name",
    "torch_names",
]

READER: Final = 3
"""Raised when the readers learn something new: facts of an older reader are read again."""

Reference = tuple[str, str | None]
"""A symbol's name and the version asked for."""
Scope = Literal["full", "prefix", "listed"]


class AskedNames(NamedTuple):
    """Names that a library asks for and that are told of alike where nothing has them."""

    owner: Owner
    version: str | None
    """In which they are asked for."""
    file: str | None
    """That has to have the version."""
    told: bool
    """Whether anything is ever told of the names; see `is_told_of`."""
    names: frozenset[str]


_TAG: Final = re.compile(r"\.(?:abi3|cpython-[\w-]+)(?=\.so$)")


def is_own_name(soname: str, file: str) -> bool:
    """Whether a name among the strings of a library's first bytes is its own soname, not one that it needs.

    `libonnxruntime.so.1` is that of `libonnxruntime.so.1.31.1`, `_C.so` that of `_C.cpython-312-x86_64-linux-gnu.so`.
    """
    return soname in {file, _TAG.sub("", file)} or file.startswith(f"{soname}.")


def installed_path(path: str) -> str:
    """Return where a file of a wheel comes to lie, relative to site-packages (PEP 427's data folders resolved)."""
    first, _, rest = path.partition("/")
    if first.endswith(".data"):
        scheme, _, inner = rest.partition("/")
        return inner if scheme in {"purelib", "platlib"} else f"../../../{scheme}/{inner}"
    return path


class Library(Deriving):
    """One shared object of a wheel."""

    path: str
    size: int
    digest: str | None = None
    """Hex sha256 of the file, as the wheel's RECORD has it."""
    scope: Scope = "full"
    """`prefix`: read from its first bytes; `needed` then has no order and GPU code was not looked for.
    `listed`: known by name alone."""
    machine: str = "x86_64"
    soname: str | None = None
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    defined: dict[str, str] = {}
    """Binding (and `/visibility` where it is not default) -> lines `name`, `name@@version` or `name@version`."""
    undefined: dict[str, str] = {}
    """Binding -> lines `name` or `name@version`."""
    requires: dict[str, tuple[str, ...]] = {}
    """File -> versions it must define."""
    provides: tuple[str, ...] = ()
    """Versions this library defines."""
    gpu: GpuCode | None = None
    notes: dict[str, str] = {}
    """Strings that say something: `torch_archs`, `pybind11_python`."""
    problem: str | None = None
    """Why it could not be read."""
    table: ExportTable | None = None
    """In facts made brief, stands for the symbols without version in `defined`, where there are many."""

    @cached_property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rpartition("/")[2]

    @cached_property
    def folder(self) -> str:
        """Where the library comes to lie, relative to site-packages."""
        return posixpath.dirname(posixpath.normpath(installed_path(self.path))) or "."

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """`needed`, without the library's own soname, which older readers took for a need of a prefix."""
        if self.scope != "prefix":
            return self.needed
        return tuple(name for name in self.needed if not is_own_name(name, self.name))

    @property
    def is_brief(self) -> bool:
        """Whether names of symbols or kernels were left out."""
        return self.table is not None or (self.gpu is not None and any(group.size for group in self.gpu.groups))

    def exported_lines(self) -> list[str]:
        """Return the lines of `defined` to whose symbols other objects can bind."""
        return [lines for key, lines in self.defined.items() if lines and bindable(key)]

    @cached_property
    def plain(self) -> Mapping[str, None]:
        """Symbols without version that other objects can bind to; where there is a `table`, few of them.

        A dictionary of strings alone, unlike a set of them, is nothing that Python's collector goes through.
        """
        return dict.fromkeys(itertools.chain.from_iterable(map(plain_lines, self.exported_lines())))

    @cached_property
    def versioned(self) -> Mapping[str, frozenset[str]]:
        """Symbols with versions that other objects can bind to -> the versions they have there."""
        found: dict[str, frozenset[str]] = {}
        for lines in self.exported_lines():
            for name, version in versioned_lines(lines):
                # A name has one version, but for a few of the C library's.
                found[name] = found[name] | {version} if name in found else frozenset((version,))
        return found

    @cached_property
    def exports(self) -> AbstractSet[str]:
        """Names of all symbols other objects can bind to; of facts made brief they are not known."""
        assert self.table is None, f"{self.path}: the names were left out"
        return self.plain.keys() | self.versioned.keys() if self.versioned else self.plain.keys()

    def has(self, name: str) -> bool:
        """Whether other objects can bind to a symbol of this name."""
        return name in self.versioned or bool(self.having({name}))

    def having(self, names: AbstractSet[str]) -> AbstractSet[str]:
        """Return those of the names that other objects can bind to without asking for a version."""
        found = self.plain.keys() & names
        return found if self.table is None else found | self.table.having(names)

    def groups_with(self, kernels: str) -> tuple[CodeGroup, ...]:
        """Return the groups of GPU code with a kernel whose mangled name a regular expression finds; empty: all."""
        if self.gpu is None:
            return ()
        if not kernels:
            return self.gpu.groups
        return tuple(self._groups_with(kernels))

    def _groups_with(self, kernels: str) -> Iterator[CodeGroup]:
        in_small, search = searcher(kernels), re.compile(kernels, re.IGNORECASE).search
        for group in self.gpu.groups if self.gpu is not None else ():
            text = group.searched
            if text is None:
                there = any(map(search, group.kernels))
            elif in_small is None:
                there = any(map(search, filter(None, text.decode().split("\n"))))
            else:
                there = bool(text) and in_small(text)
            if there:
                yield group

    @cached_property
    def search_folders(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """DT_RPATH and DT_RUNPATH with $ORIGIN filled in, relative to site-packages."""
        origin = posixpath.dirname(installed_path(self.path)) or "."

        def filled(paths: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(
                posixpath.normpath(path.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)) for path in paths
            )

        return filled(self.rpath), filled(self.runpath)

    @cached_property
    def torch_kind(self) -> SymbolKind:
        """How the library is bound to torch."""
        return torch_kind(self.undefined.get("global", ""))

    @cached_property
    def old_strings(self) -> bool:
        """Whether torch's C++ is asked for with strings from before C++11 alone."""
        return pre_cxx11(self.torch_symbols) and not uses_cxx11(self.torch_symbols)

    @cached_property
    def exports_cxx11(self) -> bool:
        """Whether anything exported has strings of C++11."""
        if self.table is not None and self.table.cxx11:
            return True
        return any("__cxx11" in lines for lines in self.exported_lines()) and any(
            "__cxx11" in name for name in (*self.plain, *self.versioned)
        )

    @cached_property
    def torch_symbols(self) -> frozenset[str]:
        """Symbols of torch's C++ that must be found."""
        return torch_symbols(self.undefined.get("global", ""))

    @cached_property
    def shims(self) -> tuple[str, ...]:
        """C functions of torch's stable ABI that must be found, in order."""
        return tuple(sorted(name for name in self.names if is_shim(name)))

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """Symbols that must be found for the library to load: undefined and not weak."""
        lines = self.undefined.get("global", "")
        if not lines:
            return ()
        return tuple((line, None) if "@" not in line else _versioned(line) for line in lines.split("\n"))

    @cached_property
    def places(self) -> Mapping[Reference, int]:
        """Each of `references` -> its place among them."""
        return {reference: place for place, reference in enumerate(self.references)}

    @cached_property
    def asked(self) -> Mapping[str, tuple[str | None, ...]]:
        """Name of each of `references` -> the versions it is asked for in."""
        lines = self.undefined.get("global", "")
        if not lines:
            return {}
        found: dict[str, tuple[str | None, ...]] = dict.fromkeys(plain_lines(lines), (None,))
        for name, version in versioned_lines(lines):
            found[name] = (*found.get(name, ()), version or None)
        return found

    @cached_property
    def asked_names(self) -> tuple[AskedNames, ...]:
        """What it asks for, by version and owner; versions that no file was named for are left out."""
        lines = self.undefined.get("global", "")
        files = {version: file for file, versions in self.requires.items() for version in versions}
        by_version: dict[str | None, list[str]] = {None: list(filter(None, plain_lines(lines)))}
        for name, version in versioned_lines(lines):
            if version in files:
                by_version.setdefault(version, []).append(name)
        found: dict[tuple[str | None, Owner, bool], set[str]] = {}
        for asked, names in by_version.items():
            for name in names:
                found.setdefault((asked, owner(name), is_told_of(name)), set()).add(name)
        return tuple(
            AskedNames(whose, asked, None if asked is None else files[asked], told, frozenset(some))
            for (asked, whose, told), some in found.items()
        )

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of `references`."""
        return frozenset(self.asked)

    @cached_property
    def extension(self) -> bool:
        """Whether Python can import it by itself."""
        return any(lines.startswith("PyInit_") or "\nPyInit_" in lines for lines in self.exported_lines())


class WheelFacts(Deriving):
    """The facts of one wheel."""

    schema_version: Literal[1] = 1
    reader: int = 0
    """`READER` of who read the wheel. Its default is no reader at all: defaults are not written down."""
    name: Distribution
    """Normalised distribution name."""
    version: PathVersion
    filename: str
    sha256: str
    """Of the wheel file; `image:<digest>/<name>` for what was found installed in an image."""
    size: int | None = None
    complete: bool = False
    """Every shared object was read wholly, and the file had the sha256 it is kept by."""
    origin: str | None = None
    """Where facts read in part come from: the index that announced the sha256, which nobody has checked."""
    tags: tuple[str, ...] = ()
    """As the WHEEL file has them; never trusted for what the code needs."""
    requires_dist: tuple[str, ...] = ()
    requires_python: str | None = None
    libraries: tuple[Library, ...] = ()
    cubins: dict[str, int] = {}
    """Targets of cubins kept as files of their own -> how many."""
    cuda: str | None = None
    """For torch: the CUDA version it was built with (`torch/version.py`)."""
    modules: tuple[str, ...] = ()
    """Importable top-level names."""
    files: dict[str, str] = {}
    """Folder relative to site-packages -> its files, a line `name digest` each, as RECORD has them; the digest is the
    beginning of the file's sha256 in base64. The wheel's own `.dist-info` is left out."""

    def good_for(self, origins: Container[str]) -> bool:
        """Whether these are facts of a wheel with this sha256 from one of these places.

        An index can announce the sha256 of another one's wheel and serve other bytes; only who has read all of them
        knows. Facts read in part are therefore those of the place they were read from, and of no other.
        """
        return self.complete or (self.origin is not None and self.origin in origins)

    @cached_property
    def content(self) -> str:
        """Digest of all that is known of the wheel: equal facts have equal ones."""
        hashed = blake2b(self.model_dump_json(exclude_defaults=True).encode(), digest_size=20)
        for left_out in self.left_out():
            hashed.update(left_out)
        return hashed.hexdigest()

    def left_out(self) -> Iterator[bytes]:
        """Yield what stands behind the JSON of brief facts: hashes of exported names, and names of kernels."""
        for library in self.libraries:
            if library.table is not None:
                yield library.table.hashes
            if library.gpu is not None:
                yield from (group.text for group in library.gpu.groups if group.size)

    @property
    def is_torch(self) -> bool:
        return self.name == "torch"

    @property
    def is_brief(self) -> bool:
        """Whether names of symbols or kernels were left out; see `brief_facts`."""
        return any(library.is_brief for library in self.libraries)

    @cached_property
    def torch_names(self) -> frozenset[str]:
        """Torch's C++ symbols that libraries with torch's unstable ABI ask for."""
        return torch_names(self.libraries)

    @cached_property
    def linked_with_gpu(self) -> bool:
        """Whether any of its libraries is linked with CUDA's runtime, the driver or torch."""
        return any(
            name.startswith(("libcudart.", "libcuda.", "libtorch", "libc10"))
            for library in self.libraries
            for name in library.needs
        )

    @cached_property
    def read_in_part(self) -> bool:
        """Whether any of its libraries is known by name alone."""
        return any(library.scope == "listed" for library in self.libraries)

    def files_in(self, folder: str) -> Mapping[str, str]:
        """Return name -> digest of the files in one folder, without those in folders below it."""
        return dict(line.rsplit(" ", 1) for line in self.files.get(folder, "").split("\n") if line)

    @cached_property
    def paths(self) -> frozenset[str]:
        """Paths of the libraries."""
        return frozenset(library.path for library in self.libraries)

    @cached_property
    def named(self) -> Mapping[str, tuple[Library, ...]]:
        """All libraries by SONAME and by file name."""
        found: dict[str, tuple[Library, ...]] = {}
        for library in self.libraries:
            for name in {library.soname or library.name, library.name}:
                found[name] = (*found.get(name, ()), library)
        return found

    def matching(self, glob: str) -> tuple[Library, ...]:
        """Return the libraries whose paths a glob is about."""
        return tuple(item for item in self.libraries if fnmatchcase(item.path, glob))

    @cached_property
    def by_soname(self) -> Mapping[str, Library]:
        """Libraries by what others ask for: SONAME, else file name."""
        found: dict[str, Library] = {}
        for library in self.libraries:
            found.setdefault(library.soname or library.name, library)
            found.setdefault(library.name, library)
        return found


def _versioned(line: str) -> Reference:
    name, _, version = line.partition("@")
    return name, version or None


def torch_names(libraries: Iterable[Library]) -> frozenset[str]:
    """Return torch's C++ symbols that those of the libraries with torch's unstable ABI ask for."""
    return frozenset(
        name
        for library in libraries
        if library.scope != "listed" and library.torch_kind is SymbolKind.UNSTABLE
        for name in library.torch_symbols
    )
