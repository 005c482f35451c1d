"""Validated strings: everything that may enter a path, a shell, a Dockerfile or a tag is checked where it is read.

Versions and dates look like numbers to YAML; assay loads YAML without guessing, and the JSON Schema says
`string or number` so that editors do not ask for quotes.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, StringConstraints, WithJsonSchema

from assay.foundation.printable import is_printable

__all__ = [
    "NUMBER_OR_TEXT",
    "AptPackage",
    "ArchList",
    "Commit",
    "Date",
    "Distribution",
    "EnvName",
    "GitRef",
    "ImageName",
    "ImageReference",
    "Name",
    "PathVersion",
    "PlainText",
    "Slug",
    "Specifier",
    "TargetName",
    "VersionText",
]

NUMBER_OR_TEXT: Final = {"anyOf": [{"type": "string"}, {"type": "number"}]}


def _version(text: str) -> str:
    try:
        Version(text)
    except InvalidVersion as error:
        raise ValueError(
            f"{text!r} is not a version (PEP 440: 2.8.0, 0.3.9.post2, 2.12.0.dev20261101+cu130)"
        ) from error
    return text


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(f"{text!r} is not a version condition (PEP 440: >=12.8,<13)") from error
    return text


def _date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date (2026-11-01)") from error
    return text


def _plain(text: str) -> str:
    if not is_printable(text) or "\n" in text or "\t" in text:
        raise ValueError("must be one line without control characters")
    return text


_ARCH: Final = re.compile(r"(?:[1-9][0-9]?\.[0-9][af]?(?:\+PTX)?)(?:[; ](?:[1-9][0-9]?\.[0-9][af]?(?:\+PTX)?))*")


def _arch_list(text: str) -> str:
    if not _ARCH.fullmatch(text):
        raise ValueError(f"{text!r} is not an arch list as TORCH_CUDA_ARCH_LIST takes it (9.0;12.0+PTX)")
    return text


Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
"""A whole commit hash of git."""
GitRef = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
"""A tag or a commit."""
VersionText = Annotated[str, AfterValidator(_version), WithJsonSchema(NUMBER_OR_TEXT)]
"""A PEP 440 version."""
Specifier = Annotated[str, AfterValidator(_specifier), WithJsonSchema({"type": "string"})]
"""A PEP 440 condition, `>=12.8`."""
Date = Annotated[str, AfterValidator(_date), WithJsonSchema({"type": "string", "format": "date"})]
"""An ISO date."""
Distribution = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$", max_length=200)]
"""A normalised name of a distribution; it cannot be anything but one component of a path."""
PathVersion = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]{0,127}$")]
"""A version as a file of it is named; it cannot be anything but a part of one component of a path."""
ArchList = Annotated[str, AfterValidator(_arch_list), WithJsonSchema(NUMBER_OR_TEXT)]
"""What TORCH_CUDA_ARCH_LIST takes."""
PlainText = Annotated[str, AfterValidator(_plain)]
"""One line without control characters."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
"""A name that is also an identifier: axes."""
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$", max_length=60)]
"""A name of an image, base, index or group; also a path component and part of a repository name."""
TargetName = Annotated[str, StringConstraints(pattern=r"^sm_[1-9][0-9]{1,2}$")]
"""A GPU architecture, `sm_120`."""
Slug = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!]*$", max_length=60),
    WithJsonSchema(NUMBER_OR_TEXT),
]
"""A value as it stands in a cell id: no `-`, which separates the parts."""
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
AptPackage = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+(?:=[A-Za-z0-9.+:~-]+)?$")]
ImageReference = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9]+(?:[._-][a-z0-9]+)*(?::[0-9]+)?(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
        r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?$"
    ),
]
"""An image reference as docker takes it."""
