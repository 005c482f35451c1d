"""What a Debian file system says of itself: its packages, and the newest symbol versions of its C and C++ libraries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["SYMBOL_FAMILIES", "installed", "newest_symbols", "upstream_version"]

SYMBOL_FAMILIES: Final = ("GLIBC", "GLIBCXX", "CXXABI")
"""What wheels ask of the system: versions of the C library, the C++ library, and its ABI."""
_SYMBOL: Final = re.compile(rf"({'|'.join(SYMBOL_FAMILIES)})_([0-9]+(?:\.[0-9]+)*)")
_FIELD: Final = re.compile(r"^(Package|Status|Version): (.*)$", re.MULTILINE)


def installed(status: str) -> dict[str, str]:
    """Read `/var/lib/dpkg/status`: package -> version of those that are there, in order of their names."""
    found: dict[str, str] = {}
    for paragraph in status.split("\n\n"):
        fields = dict(_FIELD.findall(paragraph))
        if fields.get("Status", "").endswith((" installed", " unpacked")) and "Version" in fields:
            found[fields["Package"]] = fields["Version"]
    return dict(sorted(found.items()))


def upstream_version(version: str) -> str:
    """Return the upstream part of a Debian version: `1:2.36-9+deb12u10` -> `2.36` (deb-version(7))."""
    without_epoch = version.partition(":")[2] or version
    return without_epoch.rpartition("-")[0] or without_epoch


def newest_symbols(versions: Iterable[str]) -> Mapping[str, str]:
    """Return the newest version of each family among names like `GLIBCXX_3.4.30`; private names do not count."""
    newest: dict[str, tuple[int, ...]] = {}
    for name in versions:
        if match := _SYMBOL.fullmatch(name):
            version = tuple(int(part) for part in match[2].split("."))
            newest[match[1]] = max(newest.get(match[1], ()), version)
    return {family: ".".join(map(str, version)) for family, version in sorted(newest.items())}
