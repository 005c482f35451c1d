"""What a person means by a wheel: a file, an address, or NAME==VERSION on the package index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urldefrag, urlsplit

import click
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import BuildTag, InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from assay.adapters.local_wheels import file_sha256
from assay.adapters.simple_index import Addresses, SimpleIndex, default_addresses
from assay.adapters.uv_resolver import tags_for
from assay.errors import PackageIndexError, UsageError
from assay.ports.index import IndexFile, PackageIndex

__all__ = ["choose_wheel", "index_option", "is_requirement", "is_wheel", "wheel_of", "where_to_look"]

_PLATFORM: Final = "x86_64-manylinux_2_99"

index_option = click.option(
    "--index",
    "indexes",
    multiple=True,
    metavar="URL|FOLDER",
    help="With NAME==VERSION: a simple index, or a folder of wheels, to look in before the default one.",
)


def where_to_look(places: Sequence[str]) -> SimpleIndex:
    """Return the client's default index, with these addresses and folders before it.

    Raises:
        UsageError: one of them is neither.
    """
    if not places:
        return SimpleIndex()
    simple = [place for place in places if urlsplit(place).scheme in {"http", "https", "file"}]
    folders = [place for place in places if place not in simple]
    for folder in folders:
        if not Path(folder).exists():
            raise UsageError(f"{folder} is neither the address of an index nor a folder")
    usual = default_addresses()
    return SimpleIndex(default=Addresses(simple=(*simple, *usual.simple), links=(*folders, *usual.links)))


def is_requirement(word: str) -> bool:
    """Tell whether a word is a distribution with its version: `torch==2.8.0`."""
    try:
        return any(item.operator in {"==", "==="} for item in Requirement(word).specifier)
    except InvalidRequirement:
        return False


def is_wheel(word: str) -> bool:
    """Tell whether a word is a wheel file or the address of one."""
    return urldefrag(word)[0].endswith(".whl")


def wheel_of(word: str, python: str, index: PackageIndex | None = None) -> IndexFile:
    """Return the wheel a word means.

    Raises:
        UsageError: it means none.
        PackageIndexError: the index does not have it.
    """
    if not is_wheel(word):
        return choose_wheel(word, python, index)
    if urlsplit(word).scheme in {"http", "https"}:
        address, fragment = urldefrag(word)
        filename = unquote(urlsplit(address).path.rpartition("/")[2])
        announced = fragment.partition("sha256=")[2] or None
        return IndexFile(project=_project(word, filename), filename=filename, url=address, sha256=announced)
    path = Path(word)
    project = _project(word, path.name)
    if not path.is_file():
        raise UsageError(f"{word} is not there")
    return IndexFile(
        project=project,
        filename=path.name,
        url=path.absolute().as_uri(),
        sha256=file_sha256(path),
        size=path.stat().st_size,
    )


def _project(word: str, filename: str) -> str:
    try:
        return parse_wheel_filename(filename)[0]
    except InvalidWheelFilename as error:
        raise UsageError(f"{word}: {error}") from error


def choose_wheel(word: str, python: str, index: PackageIndex | None = None) -> IndexFile:
    """Return the wheel an installer would take for `NAME==VERSION`: the newest version, the best tag, the last build.

    Raises:
        UsageError: the word is no such requirement.
        PackageIndexError: the index has no such wheel.
    """
    if not is_requirement(word):
        raise UsageError(f"{word!r} is not NAME==VERSION")
    wanted = Requirement(word)
    name = canonicalize_name(wanted.name)
    files = (index or SimpleIndex()).files(name)
    wheels = [(file, *parse_wheel_filename(file.filename)[1:]) for file in files if file.filename.endswith(".whl")]
    fitting = [item for item in wheels if wanted.specifier.contains(item[1], prereleases=True)]
    ranks = tags_for(python, _PLATFORM)
    rated = [
        (_preference(file, version, build, min(ranks[tag] for tag in tags if tag in ranks)), file)
        for file, version, build, tags in fitting
        if any(tag in ranks for tag in tags)
    ]
    if rated:
        return max(rated, key=lambda item: item[0])[1]
    if not wheels:
        source = "; it is published as source" if files else ""
        raise PackageIndexError(
            f"the package index has no wheels of {name}{source}",
            hint="build the wheel, or fetch the one its project offers, and audit that file" if files else None,
        )
    if fitting:
        here = {tag.interpreter for *_, tags in fitting for tag in tags if _is_linux(tag.platform)}
        hint = f"it has wheels of it for {', '.join(sorted(here, key=_number))} (see --python)" if here else None
    else:
        newest = sorted({version for _, version, *_ in wheels})[-5:]
        hint = f"newest it has: {', '.join(map(str, newest))}"
    raise PackageIndexError(f"the package index has no wheel of {word} for Python {python} on Linux x86_64", hint=hint)


def _preference(
    file: IndexFile, version: Version, build: BuildTag, rank: int
) -> tuple[bool, bool, Version, bool, Version, int, BuildTag]:
    """What was withdrawn and what is no release comes last, as with installers; `2.8.0` means no `2.8.0+cpu`."""
    plain = Version(version.public)
    return not file.yanked, not version.is_prerelease, plain, version.local is None, version, -rank, build


def _is_linux(platform: str) -> bool:
    return platform == "any" or ("linux" in platform and platform.endswith("x86_64"))


def _number(interpreter: str) -> tuple[int, str]:
    return int("".join(char for char in interpreter if char.isdigit()) or 0), interpreter
