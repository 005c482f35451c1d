"""The facts of a shared object, made of what was read of its ELF tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from assay.wheels.elf_header import ElfLibrary
from assay.wheels.facts import Library, Scope, is_own_name
from assay.wheels.gpu_code import GpuCode

__all__ = ["library_facts"]


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
        needed = tuple(name for name in needed if not is_own_name(name, PurePosixPath(path).name))
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
