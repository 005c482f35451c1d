"""C++ names as people write them, by the C++ runtime of this machine (`__cxa_demangle`)."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["demangle"]


@cache
def _runtime() -> Any | None:
    for name in ("libstdc++.so.6", "libc++abi.so.1", "libc++abi.dylib"):
        try:
            library = ctypes.CDLL(name)
            function = library.__cxa_demangle
            free = ctypes.CDLL(None).free
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_void_p
        function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
        free.argtypes = [ctypes.c_void_p]
        return function, free
    return None


@cache
def demangle(name: str) -> str:
    """Return a symbol's name demangled; as it is if it is no C++ name or there is no C++ runtime here."""
    runtime = _runtime()
    if runtime is None or not name.startswith("_Z"):
        return name
    function, free = runtime
    status = ctypes.c_int()
    pointer = function(name.encode(), None, None, ctypes.byref(status))
    if not pointer:
        return name
    try:
        return ctypes.string_at(pointer).decode("utf-8", "replace")
    finally:
        free(pointer)
