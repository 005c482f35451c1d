"""Libraries of which a package brings one for each torch, Python or CUDA, told by their names."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from assay.audit.facts import Library, WheelFacts

__all__ = ["beside_for_cuda", "beside_for_python", "numbered_for_torch"]

_CPYTHON: Final = re.compile(r"\.cpython-(\d+)")
_MAJOR: Final = re.compile(r"(?<=[_-]cu)(1\d)(?!\d)")
_NUMBERED: Final = re.compile(r"(?<!\d)(\d)_(\d{1,2})_\d(?!\d)")
_END: Final = re.compile(r"(?:\.abi3|\.cpython-[\w-]+)?\.so(?:\.\d+)*$")


def _folder(library: Library) -> str:
    return library.path[: -len(library.name)]


def _has(wheel: WheelFacts, *paths: str) -> bool:
    return any(item.path in paths for item in wheel.libraries)


def beside_for_python(wheel: WheelFacts, library: Library, python: str) -> bool:
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


def beside_for_cuda(wheel: WheelFacts, library: Library, cuda: str) -> bool:
    """Tell whether the variant of a library for this CUDA major version (`_cu13`) stands beside it."""
    name, here = library.name, cuda.partition(".")[0]
    named = _MAJOR.search(name)
    if named is not None:
        wanted = f"{name[: named.start()]}{here}{name[named.end() :]}"
        return named.group() != here and _has(wheel, _folder(library) + wanted)
    end = _END.search(name)
    return end is not None and _has(wheel, f"{_folder(library)}{name[: end.start()]}_cu{here}{end.group()}")


def numbered_for_torch(wheel: WheelFacts, library: Library) -> str | None:
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
