"""Facts of a wheel, cached by the sha256 of its file and safe to share: names and numbers, no code.

Symbol tables are kept as text, one symbol a line, so that a file with hundreds of thousands of them is read in
milliseconds; they are taken apart when they are asked for.
"""

from __future__ import annotations

import gzip
import itertools
import posixpath
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Final, Literal, TypeVar, cast

from pydantic import Field, ValidationError
from zlib_ng import zlib_ng

from assay.errors import WheelError
from assay.foundation.budget import FACTS, Budget
from assay.foundation.strict import Value
from assay.foundation.text import Distribution, PathVersion
from assay.wheels.elf import ElfLibrary
from assay.wheels.kernel_search import searcher
from assay.wheels.symbols import (
    SymbolKind,
    is_shim,
    pre_cxx11,
    torch_kind,
    torch_symbols,
    uses_cxx11,
)

__all__ = [
    "NAMED",
    "READER",
    "CodeGroup",
    "ExportTable",
    "GpuCode",
    "Library",
    "Reference",
    "WheelFacts",
    "brief_facts",
    "brief_library",
    "dump_brief",
    "dump_facts",
    "filled",
    "installed_path",
    "library_facts",
    "load_brief",
    "load_facts",
    "plain_lines",
    "torch_names",
    "versioned_lines",
]

READER: Final = 3
"""Raised when the readers learn something new: facts of an older reader are read again."""
_DAMAGED: Final = cast("type[Exception]", zlib_ng.error)
MAX_FACTS: Final = FACTS.unpacked
"""Bytes of text of one wheel's facts; torch has 17 MB."""

Reference = tuple[str, str | None]
"""A symbol's name and the version asked for."""
Scope = Literal["full", "prefix", "listed"]
T = TypeVar("T")


_BINDABLE: Final = frozenset({"global", "weak", "unique"})


class _Fact(Value):
    """What rules keep of it what they found out."""

    @cached_property
    def _said(self) -> dict[Hashable, tuple[object, object]]:
        return {}

    def once(self, key: Hashable, beside: object, make: Callable[[], T]) -> T:
        """Return what `make` says of this, which is asked once for each key.

        Args:
            key: names who asks too; for one key `make` always gives the same.
            beside: what the key has the identity of; it is kept, so that no other object can get that.
        """
        said = self._said.get(key)
        if said is None:
            said = self._said[key] = beside, make()
        return cast("T", said[1])


class CodeGroup(Value):
    """The containers of one library that hold code for the same targets."""

    sass: tuple[str, ...] = ()
    """Targets of machine code: `90a`, `120f`."""
    ptx: tuple[str, ...] = ()
    """Targets of PTX with its ISA: `80@8.7`."""
    containers: int
    kernels: tuple[str, ...] = ()
    """Mangled names of kernels in them, as far as they could be named; in facts made brief, the first `NAMED`."""
    size: int = Field(default=0, ge=0)
    """In facts made brief: bytes of `text`."""
    text: bytes = Field(default=b"", exclude=True, repr=False)
    """Names of all kernels, one a line, in small letters; in facts made brief they stand behind the JSON."""

    @cached_property
    def searched(self) -> bytes | None:
        """`text`, made of `kernels` where it is not there; None where small letters do not stand for all others."""
        if self.text or not self.kernels:
            return self.text
        names = "\n".join(self.kernels)
        return names.lower().encode() if names.isascii() else None


class GpuCode(_Fact):
    """GPU code of one library."""

    groups: tuple[CodeGroup, ...]
    damage: tuple[str, ...] = ()

    @property
    def containers(self) -> int:
        return sum(group.containers for group in self.groups)

    @cached_property
    def sass(self) -> tuple[str, ...]:
        """All targets of machine code, in order."""
        return tuple(sorted({target for group in self.groups for target in group.sass}, key=target_key))

    @cached_property
    def ptx(self) -> tuple[str, ...]:
        """All targets of PTX, in order."""
        return tuple(sorted({target for group in self.groups for target in group.ptx}, key=target_key))


def installed_path(path: str) -> str:
    """Return where a file of a wheel comes to lie, relative to site-packages (PEP 427's data folders resolved)."""
    first, _, rest = path.partition("/")
    if first.endswith(".data"):
        scheme, _, inner = rest.partition("/")
        return inner if scheme in {"purelib", "platlib"} else f"../../../{scheme}/{inner}"
    return path


@lru_cache(maxsize=4096)
def target_key(target: str) -> tuple[int, str]:
    """Sort key of `90a` or `80@8.7`."""
    digits = "".join(c for c in target.partition("@")[0] if c.isdigit())
    return int(digits or 0), target


def _bindable(key: str) -> bool:
    """Whether other objects can bind to symbols of a binding and visibility."""
    binding, _, visibility = key.partition("/")
    return binding in _BINDABLE and visibility in {"", "protected"}


def plain_lines(lines: str) -> list[str]:
    """Return those of the lines that have no `@`: of nearly all libraries, all."""
    if "@" not in lines:
        return lines.split("\n")
    return [line for line in lines.split("\n") if "@" not in line]


def versioned_lines(lines: str) -> Iterator[tuple[str, str]]:
    """Yield the others: name and version."""
    if "@" in lines:
        for line in lines.split("\n"):
            if "@" in line:
                name, _, version = line.partition("@")
                yield name, version.removeprefix("@")


@lru_cache(maxsize=1 << 17)
def _key(name: str) -> int:
    """Return 64 bits of a hash of a symbol's name: two of a million share them once in 40 million."""
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class ExportTable(Value):
    """What a library exports, as hashes of the names: enough to say whether it has one, and a tenth of their size."""

    count: int = Field(ge=0)
    """Symbols without version."""
    cxx11: bool
    """Whether any has strings of C++11 in its name."""
    hashes: bytes = Field(default=b"", exclude=True, repr=False)
    """64 bits of a hash of each, sorted, in this machine's order of bytes; they stand behind the JSON."""

    @cached_property
    def _hashes(self) -> array[int]:
        return array("Q", self.hashes)

    @cached_property
    def _known(self) -> tuple[set[str], set[str]]:
        """Names that were asked for, and those of them that are here."""
        return set(), set()

    def having(self, names: AbstractSet[str]) -> set[str]:
        """Return those of the names that are here.

        Of what torch exports little is ever asked for: to look that up takes a fraction of the time a set of all does.
        """
        asked, here = self._known
        fresh = names - asked
        if fresh:
            hashes, last = self._hashes, len(self._hashes) - 1
            # In this order: cells are audited in several threads, and what was asked for must be known.
            for name in fresh if hashes else ():
                key = _key(name)
                if hashes[min(bisect_left(hashes, key), last)] == key:
                    here.add(name)
            asked.update(fresh)
        return here & names


class Library(_Fact):
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

    @property
    def is_brief(self) -> bool:
        """Whether names of symbols or kernels were left out."""
        return self.table is not None or (self.gpu is not None and any(group.size for group in self.gpu.groups))

    def _exported_lines(self) -> list[str]:
        return [lines for key, lines in self.defined.items() if lines and _bindable(key)]

    @cached_property
    def plain(self) -> Mapping[str, None]:
        """Symbols without version that other objects can bind to; where there is a `table`, few of them.

        A dictionary of strings alone, unlike a set of them, is nothing that Python's collector goes through.
        """
        return dict.fromkeys(itertools.chain.from_iterable(map(plain_lines, self._exported_lines())))

    @cached_property
    def versioned(self) -> Mapping[str, frozenset[str]]:
        """Symbols with versions that other objects can bind to -> the versions they have there."""
        found: dict[str, frozenset[str]] = {}
        for lines in self._exported_lines():
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
        return self.once(("groups with", kernels), None, lambda: tuple(self._groups_with(kernels)))

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
        return any("__cxx11" in lines for lines in self._exported_lines()) and any(
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
    def names(self) -> frozenset[str]:
        """Names of `references`."""
        return frozenset(self.asked)

    @cached_property
    def extension(self) -> bool:
        """Whether Python can import it by itself."""
        return any(lines.startswith("PyInit_") or "\nPyInit_" in lines for lines in self._exported_lines())


class WheelFacts(_Fact):
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
            for name in library.needed
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

    @cached_property
    def held(self) -> Mapping[str, tuple[tuple[WheelFacts, Library], ...]]:
        """`named`, each library with its wheel."""
        return {name: tuple((self, library) for library in libraries) for name, libraries in self.named.items()}

    def matching(self, glob: str) -> tuple[Library, ...]:
        """Return the libraries whose paths a glob is about."""
        return self.once(
            ("matching", glob), None, lambda: tuple(item for item in self.libraries if fnmatchcase(item.path, glob))
        )

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


def _lines(symbols: Iterable[str]) -> str:
    # A set would lose the linker's order, which is half the sorting.
    return "\n".join(sorted(dict.fromkeys(symbols)))


def library_facts(
    path: str,
    size: int,
    elf: ElfLibrary,
    *,
    scope: Scope,
    gpu: GpuCode | None = None,
    notes: Mapping[str, str] | None = None,
) -> Library:
    """Return the facts of a library that was read."""
    defined: dict[str, list[str]] = {}
    undefined: dict[str, list[str]] = {}
    for binding, visibility, is_defined, version, default, names in elf.groups:
        if is_defined:
            key = binding if visibility == "default" else f"{binding}/{visibility}"
            mark = "" if version is None else f"{'@@' if default else '@'}{version}"
            lines = defined.setdefault(key, [])
        else:
            mark = "" if version is None else f"@{version}"
            lines = undefined.setdefault(binding, [])
        lines.extend([name + mark for name in names] if mark else names)
    needed = elf.needed
    if scope == "prefix":
        own = PurePosixPath(path).name
        needed = tuple(name for name in needed if name != own)
    return Library(
        path=path,
        size=size,
        scope=scope,
        machine=elf.machine,
        soname=elf.soname,
        needed=needed,
        rpath=elf.rpath,
        runpath=elf.runpath,
        defined={key: _lines(names) for key, names in sorted(defined.items())},
        undefined={key: _lines(names) for key, names in sorted(undefined.items())},
        requires=elf.needed_versions,
        provides=elf.defined_versions,
        gpu=gpu,
        notes=dict(notes or {}),
    )


BRIEF_FROM: Final = 64 << 10
"""Characters of exported names from which on hashes stand for them."""


NAMED: Final = 24
"""Names of kernels that are left in facts made brief, of each group: more are never told of."""


def brief_facts(facts: WheelFacts) -> WheelFacts:
    """Return facts with hashes in place of the names of exported symbols, and one text of those of kernels.

    An audit asks whether a library has a symbol or a kernel, never which it has: torch's facts are read in less than
    half the time.
    """
    return facts.model_copy(update={"libraries": tuple(brief_library(library) for library in facts.libraries)})


def brief_library(library: Library, *, least: int = BRIEF_FROM, named: int = NAMED) -> Library:
    """Return a library with hashes in place of names if these have at least so many characters.

    Args:
        named: kernels of each group whose names are left.
    """
    if library.is_brief:
        return library
    update: dict[str, object] = {}
    if library.gpu is not None and any(len(group.kernels) > named for group in library.gpu.groups):
        groups = tuple(_brief_group(group, named) for group in library.gpu.groups)
        update["gpu"] = library.gpu.model_copy(update={"groups": groups})
    if sum(map(len, library._exported_lines())) >= least:
        # What Python looks for by name stays; so do names with versions, which are few.
        update["defined"] = {
            key: "\n".join(
                line for line in lines.split("\n") if "@" in line or line.startswith("PyInit_") or not _bindable(key)
            )
            for key, lines in library.defined.items()
        }
        keys = array("Q", sorted(map(_key.__wrapped__, library.plain)))
        update["table"] = ExportTable(count=len(keys), cxx11=library.exports_cxx11, hashes=keys.tobytes())
    return library.model_copy(update=update) if update else library


def _brief_group(group: CodeGroup, named: int) -> CodeGroup:
    text = group.searched
    if text is None or len(group.kernels) <= named:
        return group
    return group.model_copy(update={"kernels": group.kernels[:named], "size": len(text), "text": text})


def filled(brief: WheelFacts, whole: WheelFacts) -> WheelFacts:
    """Return brief facts, of which more may have been learnt since, with the names that were left out.

    Args:
        whole: the facts that were made brief.
    """
    known = {library.path: library for library in whole.libraries}
    libraries = tuple(known.get(library.path, library) if library.is_brief else library for library in brief.libraries)
    return brief.model_copy(update={"libraries": libraries})


def dump_facts(facts: WheelFacts) -> bytes:
    """Return the bytes facts are kept and shared as: gzipped JSON, the same for the same facts."""
    assert not facts.is_brief, "brief facts do not say all that is known"
    return gzip.compress(facts.model_dump_json(exclude_defaults=True).encode(), compresslevel=6, mtime=0)


def dump_brief(facts: WheelFacts) -> bytes:
    """Return the bytes brief facts are kept as, beside the whole ones: JSON, then hashes and texts as they are.

    Neither is packed, nor are hashes spelled or texts quoted: all that would have to be undone at each reading.
    """
    return b"\n".join((facts.model_dump_json(exclude_defaults=True).encode(), b"".join(_left_out(facts))))


def _left_out(facts: WheelFacts) -> Iterator[bytes]:
    for library in facts.libraries:
        if library.table is not None:
            yield library.table.hashes
        if library.gpu is not None:
            yield from (group.text for group in library.gpu.groups if group.size)


def load_facts(data: bytes, *, source: str, budget: Budget | None = None) -> WheelFacts:
    """Read facts back.

    Raises:
        WheelError: the bytes are no facts of this schema, or too many; facts of a newer reader are refused as well.
    """
    budget = budget or Budget(source, FACTS)
    try:
        unpacker = zlib_ng.decompressobj(31)
        text = unpacker.decompress(data, MAX_FACTS)
        if not unpacker.eof:
            raise WheelError(f"{source} does not unpack to facts of less than {MAX_FACTS} bytes")
    except _DAMAGED as error:
        raise WheelError(f"{source} has no wheel facts: {error}") from error
    # Each text, list and object becomes a Python object some fifty times its size.
    budget.take(unpacked=len(text), kept=len(text), items=text.count(b'"') // 2 + text.count(b"[") + text.count(b"{"))
    facts = _parsed(text, source=source)
    if facts.is_brief:
        raise WheelError(f"{source} holds facts that leave out names")
    return facts


def load_brief(data: bytes, *, source: str) -> WheelFacts:
    """Read brief facts back; raises as `load_facts` does."""
    end = data.find(b"\n")
    facts = _parsed(data[: max(end, 0)], source=source)
    at, libraries = end + 1, list[Library]()

    def taken(size: int) -> bytes:
        nonlocal at
        at += size
        return data[at - size : at]

    for library in facts.libraries:
        update: dict[str, object] = {}
        if library.table is not None:
            update["table"] = library.table.model_copy(update={"hashes": taken(8 * library.table.count)})
        if library.gpu is not None and any(group.size for group in library.gpu.groups):
            groups = tuple(
                group.model_copy(update={"text": taken(group.size)}) if group.size else group
                for group in library.gpu.groups
            )
            update["gpu"] = library.gpu.model_copy(update={"groups": groups})
        libraries.append(library.model_copy(update=update) if update else library)
    if at != len(data):
        raise WheelError(f"{source} has {len(data)} bytes where {at} were announced")
    return facts.model_copy(update={"libraries": tuple(libraries)})


def _parsed(text: bytes, *, source: str) -> WheelFacts:
    try:
        facts = WheelFacts.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:80]
        if where in {"name", "version"}:
            raise WheelError(f"{source} holds facts of something that is no distribution: {where}") from error
        raise WheelError(f"{source} has no wheel facts: {where}: {first['msg'][:200]}") from error
    if facts.reader > READER:
        raise WheelError(f"{source} was written by a newer assay", hint="upgrade assay")
    return facts
