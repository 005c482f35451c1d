"""Libraries of which a package brings one for each torch, Python or CUDA, told by their names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

from assay.wheels.facts import Library, WheelFacts
from assay.wheels.symbols import SymbolKind

__all__ = ["for_others", "torch_variants"]

_FOR_TORCH: Final = re.compile(r"(?:^|[_.-])(?:lib)?torch[_.-]?(\d)[._]?(\d{1,2})(?!\d)")
_CPYTHON: Final = re.compile(r"\.cpython-(\d+t?)")
"""The Python of a module's name: `312`, and `314t` for the build without the interpreter lock."""
_MAJOR: Final = re.compile(r"(?<=[_-]cu)(1\d)(?!\d)")
_NUMBERED: Final = re.compile(r"(?<!\d)(\d)_(\d{1,2})_\d(?!\d)")
_END: Final = re.compile(r"(?:\.abi3|\.cpython-[\w-]+)?\.so(?:\.\d+)*$")


def _folder(library: Library) -> str:
    return library.path[: -len(library.name)]


def _has(wheel: WheelFacts, *paths: str) -> bool:
    return not wheel.paths.isdisjoint(paths)


def for_others(wheel: WheelFacts, *, torch: str | None, cuda: str | None, python: str) -> frozenset[str]:
    """Return the paths of a wheel's libraries that are for another torch, Python or CUDA than these.

    Args:
        torch: minor release, `2.8`; None: no torch is there.
        cuda: version that torch was built with.
        python: minor release, `3.11`.
    """
    return frozenset(_for_others(wheel, torch, cuda, python))


def _for_others(wheel: WheelFacts, torch: str | None, cuda: str | None, python: str) -> Iterator[str]:
    variants = torch_variants(wheel)
    for library in wheel.libraries:
        variant = variants.get(library.path)
        if (
            (variant is not None and torch is not None and variant != torch)
            or _beside_for_python(wheel, library, python)
            or (cuda is not None and _beside_for_cuda(wheel, library, cuda))
        ):
            yield library.path


def torch_variants(wheel: WheelFacts) -> Mapping[str, str]:
    """Return the paths of libraries that a package brings one of for each torch -> the minor release each is for."""
    return dict(_torch_variants(wheel))


def _torch_variants(wheel: WheelFacts) -> Iterator[tuple[str, str]]:
    for library in wheel.libraries:
        match = _FOR_TORCH.search(library.name)
        if match is not None:
            yield library.path, f"{match.group(1)}.{match.group(2)}"
            continue
        number = _numbered_for_torch(wheel, library)
        if number is not None and library.torch_kind is SymbolKind.UNSTABLE:
            yield library.path, number


def _beside_for_python(wheel: WheelFacts, library: Library, python: str) -> bool:
    """Tell whether a module is for another Python, and the same one for this Python or for all stands beside it."""
    name, here = library.name, python.replace(".", "")
    named = _CPYTHON.search(name)
    if named is None or named.group(1) == here:
        return False
    return _has(
        wheel,
        f"{_folder(library)}{name[: named.start(1)]}{here}{name[named.end(1) :]}",
        f"{_folder(library)}{name[: named.start()]}.abi3.so",
    )


def _beside_for_cuda(wheel: WheelFacts, library: Library, cuda: str) -> bool:
    """Tell whether the variant of a library for this CUDA major version (`_cu13`) stands beside it."""
    name, here = library.name, cuda.partition(".")[0]
    named = _MAJOR.search(name)
    if named is not None:
        wanted = f"{name[: named.start()]}{here}{name[named.end() :]}"
        return named.group() != here and _has(wheel, _folder(library) + wanted)
    end = _END.search(name)
    return end is not None and _has(wheel, f"{_folder(library)}{name[: end.start()]}_cu{here}{end.group()}")


def _numbered_for_torch(wheel: WheelFacts, library: Library) -> str | None:
    """Return `2.12` for `pg_2_12_0...so` where others that differ in the number alone stand beside it."""
    skeleton, release = _numbered(library.path)
    if release is None:
        return None
    for item in wheel.libraries:
        other, number = _numbered(item.path)
        if other == skeleton and number not in {None, release}:
            return release
    return None


@lru_cache(maxsize=1 << 14)
def _numbered(path: str) -> tuple[str, str | None]:
    match = _NUMBERED.search(path, path.rfind("/") + 1)
    if match is None:
        return path, None
    return f"{path[: match.start()]}#{path[match.end() :]}", f"{match.group(1)}.{match.group(2)}"
