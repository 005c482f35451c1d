"""What an image holds, as far as the audit reads it: libraries, links, text files of packages."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from assay.audit.findings import Finding
from assay.errors import EngineError
from assay.foundation.budget import IMAGE, Budget
from assay.ports.engine import ImageFile
from assay.wheels.facts import Library

__all__ = ["COMPILERS", "DIST", "SITE", "ImageContents", "Opened", "main_site", "resolve", "sites_of"]

SITE: Final = re.compile(r"^(?P<site>.*/(?:site|dist)-packages)/(?P<rest>.+)$")
DIST: Final = re.compile(r"^(?P<dist>[^/]+\.dist-info)/(?P<file>METADATA|RECORD|WHEEL)$")
COMPILERS: Final = {"nvcc": "cuda-toolkit", "gcc": "gcc", "g++": "g++", "cc": "gcc", "clang": "clang"}
"""Program -> package that it stands for."""

Opened = Callable[[], AbstractContextManager[Iterator[ImageFile]]]
"""Begins to read the files of an image, or of a layer, from the first on."""


@dataclass
class ImageContents:
    """What an image holds, as far as the audit cares."""

    libraries: dict[str, Library] = field(default_factory=dict)
    """Absolute path -> facts."""
    links: dict[str, str] = field(default_factory=dict)
    """Path of a link -> path it leads to."""
    texts: dict[str, bytes] = field(default_factory=dict)
    loader: dict[str, bytes] = field(default_factory=dict)
    programs: set[str] = field(default_factory=set)
    pythons: set[str] = field(default_factory=set)
    again: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Files of which parts turned out to be needed after they had passed."""
    known: Mapping[str, Library] = field(default_factory=dict)
    """Path in site-packages -> library that a locked wheel has there."""
    replaced: set[str] = field(default_factory=set)
    """Libraries that are others than the locked wheel's."""
    present: set[str] = field(default_factory=set)
    """All files and links with a library's name."""
    problems: list[Finding] = field(default_factory=list)
    """What is installed and could not be read."""
    budget: Budget = field(default_factory=lambda: Budget("the image", IMAGE))


def resolve(contents: ImageContents, path: str) -> str:
    """Follow links, those of folders on the way as well."""
    for _ in range(16):
        if path in contents.links:
            path = contents.links[path]
            continue
        parts = path.split("/")
        for length in range(2, len(parts)):
            head = "/".join(parts[:length])
            if head in contents.links:
                path = posixpath.normpath(contents.links[head] + "/" + "/".join(parts[length:]))
                break
        else:
            return path
    return path


def sites_of(contents: ImageContents) -> dict[str, dict[str, dict[str, bytes]]]:
    """Return folder of packages -> distribution -> its text files."""
    sites: dict[str, dict[str, dict[str, bytes]]] = {}
    for path, data in contents.texts.items():
        match = SITE.match(path)
        dist = DIST.match(match.group("rest")) if match else None
        if match and dist:
            sites.setdefault(match.group("site"), {}).setdefault(dist.group("dist"), {})[dist.group("file")] = data
    return sites


def main_site(contents: ImageContents, name: str) -> str:
    """Return the folder of packages with torch, else that with most of them."""
    sites = sites_of(contents)
    if not sites:
        raise EngineError(f"{name} has no Python packages", hint="is it the image of a server?")
    return max(sites, key=lambda key: (f"{key}/torch/version.py" in contents.texts, len(sites[key])))
