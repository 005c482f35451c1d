"""Rules L1, L3, L5 and L6: would the dynamic linker load every library that is loaded by itself."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, assert_never

from assay.audit.binding import BoundGroup, Left, asked_of, is_of_cuda, left
from assay.audit.context import Context, Root, label
from assay.audit.findings import Finding
from assay.audit.knowledge import parsed
from assay.audit.linker import FoundLibrary, Missing, Rest, Where
from assay.audit.rules.torch import missing_torch_symbols, suggestions
from assay.foundation.outcome import Severity
from assay.wheels.facts import Library, Reference, WheelFacts
from assay.wheels.symbols import Owner, owner

__all__ = ["link_rules", "soname_cause"]

SHOWN: Final = 8
_SUFFIX: Final = re.compile(r"\.cpython-(\d)(\d+)")
_CUDA_LIBRARY: Final = re.compile(
    r"lib(?:cu(?:blas|da|dnn|fft|file|pti|rand|solver|sparse|tensor)|nccl|nvJitLink|nvshmem|nvrtc|nvToolsExt)"
)
_OF_THE_SYSTEM: Final = frozenset({"lib-missing", "abi-libnuma-missing"})
"""Causes of libraries that the system brings, and of which a base that nobody knows may have any."""
_CUDA_SONAME: Final = re.compile(r"lib(cudart|cublas|cublasLt|nvrtc|cufft|cusolver|nvJitLink|cupti)\.so\.(\d+)")


@dataclass
class _Checked:
    """What was found out of one library in the scope of one root."""

    missing: list[Reference] = field(default_factory=list)
    python: list[str] = field(default_factory=list)
    driver: list[str] = field(default_factory=list)
    uncertain: list[FoundLibrary] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        return bool(self.missing or self.python or self.driver or self.uncertain)


def link_rules(context: Context) -> None:
    """Check torch itself, then everything else that is loaded by itself."""
    context.say_what_is_settled()
    _torch(context)
    _missing_sonames(context)
    around = _Around(context)
    for root in context.roots:
        if _importable(context, root):
            _symbols(context, root, around)


def _torch(context: Context) -> None:
    torch = context.torch
    if torch is None:
        return
    for name, items in _by_soname(context.linker.torch_missing).items():
        if not context.installation.complete and items[0].where is Where.MISSING:
            # Given alone, torch's own requirements are not part of the question.
            continue
        if items[0].where is Where.UNREACHABLE:
            continue
        _report_soname(context, torch, name, items, Severity.ERROR)


def _by_soname(items: Iterable[Missing]) -> dict[str, list[Missing]]:
    found: dict[str, list[Missing]] = defaultdict(list)
    for item in items:
        found[item.soname].append(item)
    return found


def _missing_sonames(context: Context) -> None:
    """L1: one finding for each wheel and name, however many of its libraries ask for it."""
    for wheel in context.installation.native:
        _cuda_variants(context, wheel)
        if id(wheel) in context.settled:
            continue
        # What matters most is named first.
        own = context.roots_of.get(id(wheel), ())
        roots = sorted(own, key=lambda root: root.policy is None or root.policy.use != "required")
        loading = [root for root in roots if not _hard(context, root)]
        wanted: dict[str, list[tuple[Root, Missing]]] = defaultdict(list)
        for root in roots:
            for item in _own_missing(context, root):
                wanted[item.soname].append((root, item))
        plain: dict[Severity, list[tuple[str, list[Missing]]]] = defaultdict(list)
        for name, pairs in sorted(wanted.items()):
            severity = _soname_severity(context, name, pairs, loading)
            if severity is not Severity.INFO and soname_cause(name) not in _OF_THE_SYSTEM:
                context.failing.update((root.library.path, f"{name} is missing") for root, _ in pairs)
            if severity is Severity.ERROR:
                for root, _ in pairs:
                    context.broken.setdefault(root.library.path, f"{name} is missing")
            items = [item for _, item in pairs]
            if items[0].where is Where.MISSING and soname_cause(name) == "lib-missing":
                plain[severity].append((name, items))
            else:
                _report_soname(context, wheel, name, items, severity)
        for severity, several in plain.items():
            _report_plain(context, wheel, several, severity)


def _cuda_variants(context: Context, wheel: WheelFacts) -> None:
    """L1 for packages that bring a library for each CUDA version and load the one for torch's."""
    torch, there = context.torch, context.without_cuda(wheel)
    if torch is None or there is None:
        return
    context.add(
        Finding(
            rule="L1",
            severity=Severity.ERROR,
            package=label(wheel),
            message=f"has libraries for CUDA {', '.join(there)}, and none that it would load with torch "
            f"{torch.version} for CUDA {torch.cuda}",
            cause="lib-cuda-generic",
            fix=f"take another version of {wheel.name}, or torch for one of these CUDA versions",
        )
    )


def _soname_severity(
    context: Context, name: str, pairs: Sequence[tuple[Root, Missing]], loading: Sequence[Root]
) -> Severity:
    """Return how much a missing library weighs.

    A library of CUDA or torch, or one that the package is known to need, is an error. One of the system's is an
    error where nothing of the package would load; else it is likely that of an optional part.
    """
    if _torch_family(name) and context.torch is None and not context.installation.complete:
        return Severity.INFO
    if all(item.where is Where.UNREACHABLE for _, item in pairs):
        # The package may load it by itself first: not certain, so not an error.
        own = all(f"{root.wheel.name} {root.wheel.version}" in item.holders for root, item in pairs)
        return Severity.INFO if own else Severity.WARNING
    grave = soname_cause(name) not in _OF_THE_SYSTEM
    if not grave and not context.base.known:
        return Severity.WARNING
    worst = Severity.INFO
    for root, _ in pairs:
        use = root.policy.use if root.policy else None
        if use == "required" or (use is None and (grave or not loading)):
            return Severity.ERROR
        if use is None or (use == "optional" and grave and name in context.knowledge.sonames.wheels):
            worst = Severity.WARNING
    return worst


def _report_plain(
    context: Context, wheel: WheelFacts, several: Sequence[tuple[str, list[Missing]]], severity: Severity
) -> None:
    """One finding for all of the system's libraries that a wheel lacks."""
    if len(several) == 1:
        _report_soname(context, wheel, *several[0], severity)
        return
    askers = sorted({item.asked_by for _, items in several for item in items})
    fixes = dict.fromkeys(fix for name, _ in several if (fix := _who_brings(context, name, None)))
    context.add(
        Finding(
            rule="L1",
            severity=severity,
            package=label(wheel),
            library=askers[0],
            message=f"{_few(askers)} need {', '.join(name for name, _ in several)}, and nothing brings them",
            cause="lib-missing",
            fix="; ".join(fixes),
        )
    )


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


_WEIGHT: Final = {Severity.INFO: 0, Severity.WARNING: 1, Severity.ERROR: 2}


def _torch_family(name: str) -> bool:
    return name.startswith(("libtorch", "libc10"))


def _hard(context: Context, root: Root) -> bool:
    return any(
        item.where is Where.MISSING and not (_torch_family(item.soname) and context.torch is None)
        for item in _own_missing(context, root)
    )


def _own_missing(context: Context, root: Root) -> list[Missing]:
    """What torch's own libraries lack is told of torch, once."""
    if not root.closure.missing:
        return []
    torch = {(item.asked_by, item.soname) for item in context.linker.torch_missing}
    return [item for item in root.closure.missing if (item.asked_by, item.soname) not in torch]


def _report_soname(
    context: Context, wheel: WheelFacts, name: str, items: Sequence[Missing], severity: Severity
) -> None:
    askers = list(dict.fromkeys(item.asked_by for item in items))
    by, verb, other = _few(askers), "needs" if len(askers) == 1 else "need", None
    if items[0].where is Where.UNREACHABLE:
        message = f"{by} {verb} {name}, which {items[0].holders[0]} has where the linker does not look"
        fix = "import the package that brings it first, or set LD_LIBRARY_PATH"
    else:
        message = f"{by} {verb} {name}, and nothing brings it"
        other = _other_major(context, name)
        if other:
            message += f" (this set has {other})"
        fix = _who_brings(context, name, other)
    context.add(
        Finding(
            rule="L1",
            severity=severity,
            package=label(wheel),
            library=items[0].asked_by,
            message=message,
            cause=soname_cause(name) if items[0].where is Where.MISSING else None,
            fix=fix,
            suggestions=suggestions(context, wheel) if other else (),
        )
    )


def soname_cause(name: str) -> str | None:
    """Return the known failure that a missing library leads to."""
    if name == "libnuma.so.1":
        return "abi-libnuma-missing"
    if name.startswith("libcudart.so."):
        return "abi-cudart12"
    if name.startswith("libnvrtc.so."):
        return "abi-nvrtc12"
    if _torch_family(name):
        return "lib-torch"
    return "lib-cuda-generic" if _CUDA_LIBRARY.match(name) else "lib-missing"


def _other_major(context: Context, name: str) -> str | None:
    match = _CUDA_SONAME.fullmatch(name)
    if match is None:
        return None
    names = [name for wheel in context.installation.native for name in wheel.by_soname]
    # In a set that is given in part, what torch's requirements would bring stands among the base's libraries.
    for other in (*names, *sorted(context.base.sonames)):
        found = _CUDA_SONAME.fullmatch(other)
        if found and found.group(1) == match.group(1) and found.group(2) != match.group(2):
            return other
    return None


def _who_brings(context: Context, name: str, other: str | None) -> str:
    if other:
        return "take the build of this package for the CUDA version of torch, or torch for this package's"
    sonames = context.knowledge.sonames
    packages = [package for package, names in sonames.packages.items() if name in names]
    if packages:
        return f"install {' or '.join(packages)} in the image (system_packages)"
    if name in sonames.wheels:
        return f"add {sonames.wheels[name]} to the requirements"
    return ""


@lru_cache(maxsize=1 << 14)
def _suffix(name: str) -> re.Match[str] | None:
    return _SUFFIX.search(name)


def _importable(context: Context, root: Root) -> bool:
    """L5: an extension module whose file name or content names another Python."""
    wanted = context.installation.python.replace(".", "")
    by_path = root.policy is not None and root.policy.by_path
    match = None if by_path else _suffix(root.library.name)
    if match and match.group(1) + match.group(2) != wanted:
        context.add(
            Finding(
                rule="L5",
                severity=context.severity(root.policy, Severity.WARNING),
                package=label(root.wheel),
                library=root.library.path,
                message=f"its name says Python {match.group(1)}.{match.group(2)}: "
                f"Python {context.installation.python} does not see it",
            )
        )
        return False
    guard = root.library.notes.get("pybind11_python")
    if guard and guard != context.installation.python and not match:
        context.add(
            Finding(
                rule="L5",
                severity=context.severity(root.policy, Severity.WARNING),
                package=label(root.wheel),
                library=root.library.path,
                message=f"it refuses to load on any Python but {guard} (pybind11 compares versions)",
            )
        )
    return True


def _symbols(context: Context, root: Root, around: _Around) -> None:
    """L3, L5, L6: every symbol that must be found, of the library and of what it newly pulls in."""
    closure = root.closure
    root_too = None if closure.root.key in context.linker.global_keys else root.library
    # What is opened by its path is another library, even where torch has loaded one of its name (`_C...so`).
    for found in (closure.root, *around.fresh(closure.rest)):
        if found.library is None:
            continue
        asked = _asked(context, found.library, unsure=False)
        if not asked and not context.read_in_part:
            continue
        reach = around.reach(closure.rest)
        if reach.listed:
            asked = _asked(context, found.library, unsure=True)
        groups = _told_of(found.library, asked, reach.owners)
        if not groups:
            continue
        left = _left(found.library, groups, reach, root_too)
        checked = _check(context, found.library, reach, left.groups) if left.groups else _Checked()
        if checked.anything or left.bound:
            context.torch_bound.add(id(root.wheel))
        if checked.anything:
            wheel = found.wheel or root.wheel
            if wheel is not root.wheel:
                context.crossed |= {id(wheel), id(root.wheel)}
            _report(context, root, wheel, found.library, checked)


def _asked(context: Context, library: Library, *, unsure: bool) -> tuple[BoundGroup, ...]:
    """Return what a library asks for, as far as anything is told of it where nothing has it; see `asked_of`."""
    knowledge, python = context.knowledge, context.installation.python
    return library.once(
        ("asked", id(knowledge), python, unsure),
        knowledge,
        lambda: asked_of(library, knowledge.python.get(python), context.linker.runtime, unsure=unsure),
    )


def _told_of(library: Library, asked: tuple[BoundGroup, ...], owners: frozenset[Owner]) -> tuple[BoundGroup, ...]:
    """Return those of the references of a library that are some owners'."""
    key = "told of", id(asked), owners
    return library.once(key, asked, lambda: tuple(group for group in asked if group.owner in owners))


@dataclass(frozen=True, kw_only=True)
class _Reach:
    """What a root can bind to, itself left out."""

    exporters: tuple[Library, ...]
    identities: tuple[int, ...]
    """Of `exporters`."""
    listed: tuple[FoundLibrary, ...]
    """Libraries of wheels that are there and were not read."""
    blind: tuple[str, ...]
    """Sonames of the base and the driver of which no symbols are known, the C and C++ runtime left out."""
    absent: frozenset[str]
    tabled: str | None
    """The torch release whose table of exports stands in for its libraries."""
    first: int
    """So many of `exporters` everybody sees: those of torch."""
    owners: frozenset[Owner]
    """Whose symbols are told of where nothing has them."""


class _Around:
    """What the libraries of one installation newly pull in and can bind to, worked out once for equal ones."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._fresh: dict[int, tuple[FoundLibrary, ...]] = {}
        self._reach: dict[int, _Reach] = {}

    def fresh(self, rest: Rest) -> tuple[FoundLibrary, ...]:
        """Return what a library newly pulls in, modules that Python imports by themselves left out."""
        if id(rest) not in self._fresh:
            loaded = self._context.linker.loaded
            self._fresh[id(rest)] = tuple(
                found
                for found in rest.found
                if found.library is not None
                and found.library.scope != "listed"
                and not found.library.extension
                and found.where in {Where.PATH, Where.PRELOADED, Where.UNREACHABLE}
                and found.soname not in loaded
            )
        return self._fresh[id(rest)]

    def reach(self, rest: Rest) -> _Reach:
        """Return what a library can bind to, itself left out."""
        if id(rest) not in self._reach:
            self._reach[id(rest)] = _reach(self._context, rest)
        return self._reach[id(rest)]


def _reach(context: Context, rest: Rest) -> _Reach:
    linker = context.linker
    exporters: list[Library] = []
    listed: list[FoundLibrary] = []
    blind: list[str] = []
    for found in (*linker.global_scope, *(found for found in rest.found if found.key not in linker.global_keys)):
        if found.library is None:
            if found.soname not in linker.runtime:
                blind.append(found.soname)
        elif found.library.scope == "listed":
            listed.append(found)
        else:
            exporters.append(found.library)
    tabled = context.tabled(listed)
    if tabled:
        # What else torch pulls in is not known then either.
        listed = [found for found in listed if found.wheel is not context.torch]
    absent = frozenset(item.soname for item in rest.missing)
    others = context.installation.complete and not (absent or blind or tabled)
    return _Reach(
        exporters=tuple(exporters),
        identities=tuple(map(id, exporters)),
        listed=tuple(listed),
        blind=tuple(blind),
        absent=absent,
        tabled=tabled,
        first=sum(id(exporter) in linker.global_ids for exporter in exporters),
        owners=_owners(context, listed, others=others),
    )


def _owners(context: Context, listed: Sequence[FoundLibrary], *, others: bool) -> frozenset[Owner]:
    """Return whose symbols are told of where nothing has them.

    Args:
        others: what belongs to nobody known as well.
    """
    found = {Owner.PYTHON, Owner.DRIVER}
    if context.torch is not None or _unread(context, listed):
        found.add(Owner.TORCH)
    if others or listed:
        found.add(Owner.OTHER)
    return frozenset(found)


def _left(library: Library, groups: tuple[BoundGroup, ...], reach: _Reach, root: Library | None) -> Left:
    """Return what nothing in reach has of some references of a library.

    Args:
        root: the library that was loaded, where others can bind to it.
    """
    exporters = reach.exporters if root is None else (*reach.exporters, root)
    # Cells of a matrix share most of their wheels, and these what they reach.
    key = "left", id(groups), reach.identities, reach.first, id(root)
    return library.once(key, (groups, exporters), lambda: left(library, groups, exporters, reach.first))


def _check(context: Context, library: Library, reach: _Reach, groups: tuple[BoundGroup, ...]) -> _Checked:
    """Return what is to be told of references that nothing in reach has."""
    if reach.listed:
        return _checked(context, library, reach, groups)
    key = "check", id(context.knowledge), groups, reach.blind, reach.absent, reach.tabled
    return library.once(key, context.knowledge, lambda: _checked(context, library, reach, groups))


def _checked(context: Context, library: Library, reach: _Reach, groups: Iterable[BoundGroup]) -> _Checked:
    checked = _Checked()
    elsewhere = {*reach.blind, *(found.soname for found in reach.listed), *reach.absent}
    for group in groups:
        if group.file in elsewhere:
            # With a library missing its symbols are missing too: that is told once, by rule L1.
            continue
        names, tabled = group.names, reach.tabled
        if tabled is not None:
            having = context.knowledge.history.having
            names = tuple(name for name in names if tabled not in having(name))
        if names:
            _unresolved(context, group._replace(names=names), reach, checked)
    if len(checked.missing) > 1:
        checked.missing.sort(key=library.places.__getitem__)
    return checked


def _unresolved(context: Context, group: BoundGroup, reach: _Reach, checked: _Checked) -> None:
    """Sort names that nothing known resolves."""
    missing = ((name, group.version) for name in group.names)
    match group.owner:
        case Owner.PYTHON:
            checked.python.extend(group.names)
        case Owner.DRIVER:
            checked.driver.extend(group.names)
        case Owner.TORCH if unread := _unread(context, reach.listed):
            checked.uncertain.extend(unread)
        case Owner.OTHER if reach.listed:
            checked.uncertain.extend(reach.listed)
        case Owner.TORCH | Owner.OTHER:
            checked.missing.extend(missing)
        case _:
            assert_never(group.owner)


def _unread(context: Context, listed: Sequence[FoundLibrary]) -> list[FoundLibrary]:
    return [found for found in listed if found.wheel is context.torch]


def _report(context: Context, root: Root, wheel: WheelFacts, library: Library, checked: _Checked) -> None:
    if checked.uncertain:
        context.uncertain[id(root.wheel)] = context.uncertain.get(id(root.wheel), frozenset()).union(
            (found.wheel.sha256, found.library.path) for found in checked.uncertain if found.wheel and found.library
        )
    severity = context.severity(root.policy)
    torch_names = [name for name, _ in checked.missing if owner(name) is Owner.TORCH]
    if torch_names and all(_torch_has(context, name) for name in torch_names):
        # The package may make torch's symbols global before it loads this: not certain, so not an error.
        _out_of_reach(context, wheel, library, torch_names)
        return
    if torch_names:
        missing_torch_symbols(context, wheel, library, torch_names, severity)
    known = set(torch_names)
    names = [name for name, _ in checked.missing if name not in known]
    if names:
        context.add(
            Finding(
                rule="L3",
                severity=severity,
                package=label(wheel),
                library=library.path,
                message=f"needs {context.demangle(names[0])}{_more(names)}, which nothing in reach exports",
                symbols=tuple(names[:SHOWN]),
                symbols_count=len(names),
                cause="abi-cuda-symbol" if is_of_cuda(names[0]) else "abi-undefined-symbol",
            )
        )
    if checked.missing:
        why = f"undefined symbol {context.demangle((torch_names or names)[0])}"
        context.failing[root.library.path] = why
        if severity is Severity.ERROR:
            context.broken.setdefault(root.library.path, why)
    if checked.python:
        abi3 = ".abi3." in library.name
        context.add(
            Finding(
                rule="L5",
                severity=severity,
                package=label(wheel),
                library=library.path,
                message=f"needs {checked.python[0]}{_more(checked.python)}, which Python "
                f"{context.installation.python} does not have"
                + ("; it is no abi3 library, whatever its name says" if abi3 else ""),
                symbols=tuple(checked.python[:SHOWN]),
                symbols_count=len(checked.python),
                cause="abi-python-symbol",
            )
        )
    _driver(context, wheel, library, checked.driver)


def _torch_has(context: Context, name: str) -> bool:
    torch = context.torch
    return torch is not None and any(library.has(name) for library in torch.libraries)


def _out_of_reach(context: Context, wheel: WheelFacts, library: Library, names: Sequence[str]) -> None:
    context.add(
        Finding(
            rule="L3",
            severity=Severity.WARNING,
            package=label(wheel),
            library=library.path,
            message=f"needs {context.demangle(names[0])}{_more(names)} of torch without naming torch's libraries: "
            "it loads only where something made them global",
            symbols=tuple(names[:SHOWN]),
            symbols_count=len(names),
        )
    )


def _driver(context: Context, wheel: WheelFacts, library: Library, names: Sequence[str]) -> None:
    """L6: functions of the driver that older ones lack, where the driver is known."""
    for target in context.targets:
        if target.driver_cuda is None:
            continue
        for name in names:
            for start, cuda in context.knowledge.ptx.symbols.items():
                if name.startswith(start) and parsed(cuda) > parsed(target.driver_cuda):
                    context.add(
                        Finding(
                            rule="L6",
                            severity=Severity.ERROR,
                            package=label(wheel),
                            library=library.path,
                            target=target.name,
                            message=f"needs {name} of a driver for CUDA {cuda}; the driver is for {target.driver_cuda}",
                            symbols=(name,),
                            symbols_count=1,
                        )
                    )
                    break


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
