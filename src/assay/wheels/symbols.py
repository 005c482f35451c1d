"""Sorts symbols by whose they are, and says how torch's C++ interface is used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Final

__all__ = [
    "Owner",
    "SymbolKind",
    "is_driver_symbol",
    "is_of_cuda",
    "is_python_symbol",
    "is_shim",
    "is_told_of",
    "is_torch_symbol",
    "owner",
    "pre_cxx11",
    "torch_kind",
    "torch_symbols",
    "uses_cxx11",
]

_TORCH_CXX: Final = re.compile(r"_Z(?:T[ISVTC]|GV|St)?N?[VKrRO]*(?:3c10|2at|5torch|6caffe2)")
_TORCH_WORDS: Final = ("torch_", "5torch", "3c10", "2at", "6caffe2")
"""One of these stands in every name that `_TORCH_CXX` or `_SHIM` finds."""
_STABLE: Final = re.compile(r"_Z(?:T[ISV])?N?[VK]*5torch(?:6stable|10headeronly)")
_SHIM: Final = re.compile(r"(?:aoti_torch_|torch_(?!library_init))\w+")
_TORCH_LINE: Final = re.compile(rf"^{_TORCH_CXX.pattern}[^@\n]*", re.MULTILINE)
_UNSTABLE_LINE: Final = re.compile(rf"^(?!{_STABLE.pattern}){_TORCH_CXX.pattern}", re.MULTILINE)
_SHIM_LINE: Final = re.compile(rf"^{_SHIM.pattern}(?=@|$)", re.MULTILINE)
_PYTHON: Final = re.compile(r"_?Py(?:[A-Z_]|[a-z]+_)|_Py_")
_CUDA_FAMILIES: Final = re.compile(
    r"(?:nccl|cudnn|cublas|cuda|cufft|curand|cusparse|cusolver|nvrtc|nvJitLink|nvshmem|nvtx|cufile|cupti)[A-Z_]\w*"
)
_DRIVER: Final = re.compile(r"cu[A-Z]\w+|nvml[A-Z]\w+|nvPTXCompiler\w+")
_CXX11: Final = re.compile(r"__cxx11|B5cxx11")
_OLD_STRING: Final = re.compile(r"(?:RK|R|P|PK|O|[a-z0-9E])?Ss(?![a-z])")


class SymbolKind(StrEnum):
    """How a library is bound to torch."""

    NONE = "none"
    STABLE = "stable"
    """Only C functions of torch's stable ABI."""
    UNSTABLE = "unstable"
    """C++ of c10, at or torch: good for the one release it was compiled against."""


def is_torch_symbol(name: str) -> bool:
    """Tell whether a mangled name belongs to torch's C++ (c10, at, torch, caffe2)."""
    return _TORCH_CXX.match(name) is not None


def is_shim(name: str) -> bool:
    """Tell whether a name is a C function of torch's stable ABI."""
    return _SHIM.fullmatch(name) is not None


def is_python_symbol(name: str) -> bool:
    """Tell whether a name belongs to CPython."""
    return _PYTHON.match(name) is not None


def is_driver_symbol(name: str) -> bool:
    """Tell whether a name is the NVIDIA driver's (`cuLaunchKernel`, `nvmlInit`), not the runtime's (`cudaMalloc`)."""
    return _DRIVER.fullmatch(name) is not None


def is_of_cuda(name: str) -> bool:
    """Tell whether a name is one of CUDA's libraries' C functions."""
    return _CUDA_FAMILIES.fullmatch(name) is not None


class Owner(StrEnum):
    """Whose a symbol is."""

    PYTHON = "python"
    DRIVER = "driver"
    TORCH = "torch"
    OTHER = "other"


@lru_cache(maxsize=1 << 16)
def owner(name: str) -> Owner:
    """Return whose a symbol is, told by its name."""
    if name.startswith("_Z"):
        return Owner.TORCH if is_torch_symbol(name) else Owner.OTHER
    if is_python_symbol(name):
        return Owner.PYTHON
    if is_driver_symbol(name):
        return Owner.DRIVER
    return Owner.TORCH if is_shim(name) else Owner.OTHER


@lru_cache(maxsize=1 << 16)
def is_told_of(name: str) -> bool:
    """Tell whether anything is ever told of a name: other C names come from what Python itself has loaded."""
    return name.startswith("_Z") or is_of_cuda(name) or owner(name) is not Owner.OTHER


def _mentions_torch(lines: str) -> bool:
    """Tell whether any of the names can be torch's; False is certain, True is not."""
    return any(word in lines for word in _TORCH_WORDS)


def torch_kind(lines: str) -> SymbolKind:
    """Return how a library that asks for symbols, one a line, with `@version` or without, is bound to torch."""
    # Most libraries have nothing to do with torch, and a look at all the names at once says so.
    if not _mentions_torch(lines):
        return SymbolKind.NONE
    if _UNSTABLE_LINE.search(lines):
        return SymbolKind.UNSTABLE
    return SymbolKind.STABLE if _SHIM_LINE.search(lines) else SymbolKind.NONE


def torch_symbols(lines: str) -> frozenset[str]:
    """Return those of symbols, one a line, that belong to torch's C++, without their versions."""
    return frozenset(_TORCH_LINE.findall(lines)) if _mentions_torch(lines) else frozenset()


def uses_cxx11(names: Iterable[str]) -> bool:
    """Tell whether torch's C++ names among these use the C++11 string ABI."""
    return any(_CXX11.search(name) for name in names if is_torch_symbol(name))


def pre_cxx11(names: Iterable[str]) -> bool:
    """Tell whether torch's C++ names among these use the string ABI from before C++11 (`Ss`)."""
    return any(_OLD_STRING.search(name) and not _CXX11.search(name) for name in names if is_torch_symbol(name))
