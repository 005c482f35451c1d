"""What a word means: a wheel, an address of one, or NAME==VERSION; and which wheel of an index an installer takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import unquote, urldefrag, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag
from packaging.utils import (
    BuildTag,
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from assay.errors import PackageIndexError, UsageError
from assay.ports.index import IndexFile, PackageIndex
from assay.wheels.tags import CPYTHON, fits_platform, platform_words, tags_for

__all__ = [
    "PYTHON",
    "choose_wheel",
    "distribution_of",
    "filename_of",
    "is_requirement",
    "is_wheel",
    "project_of",
    "refuse_other",
    "wheel_at",
]

PYTHON: Final = "3.12"
"""Where neither a person nor a wheel says which."""
_MANYLINUX: Final = "manylinux_2_99"
_SOURCE: Final = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".zip")


def is_requirement(word: str) -> bool:
    """Return whether a word is a distribution with its version: `torch==2.8.0`."""
    try:
        return any(item.operator in {"==", "==="} for item in Requirement(word).specifier)
    except InvalidRequirement:
        return False


def is_wheel(word: str) -> bool:
    """Return whether a word is a wheel file or the address of one."""
    return urldefrag(word)[0].endswith(".whl")


def refuse_other(word: str, *, is_file: bool = False) -> None:
    """Refuse words that can mean nothing but a wheel and mean none.

    Args:
        word: as the user wrote it.
        is_file: there is a file of this name.

    Raises:
        UsageError: names what it is instead, and how to make a wheel of it.
    """
    bare = urldefrag(word)[0]
    if word.startswith(("git+", "git@", "hg+", "svn+")) or bare.endswith(".git"):
        raise UsageError(f"{word} is the address of a repository, and the audit reads wheels", hint=_build(word))
    if bare.endswith(_SOURCE):
        raise UsageError(f"{word} is a source archive: it has no libraries until it is built", hint=_build(word))
    if urlsplit(word).scheme in {"http", "https"} and not is_wheel(word):
        raise UsageError(
            f"{word} is not the URL of a wheel: it must end in .whl", hint="an image is named without https://"
        )
    if is_file and not is_wheel(word):
        raise UsageError(f"{word} is a file but not a wheel: wheels end in .whl")
    if not is_requirement(word) and (name := _other_requirement(word)) is not None:
        raise UsageError(f"{word!r} is not a version of {name}", hint=f"name one: {name}==VERSION")


def _build(word: str) -> str:
    return f"build one, and audit the file: pip wheel --no-deps {word}"


def _other_requirement(word: str) -> str | None:
    """Return the name in `torch>=2.8`, which is a requirement and names no version."""
    try:
        wanted = Requirement(word)
    except InvalidRequirement:
        return None
    # A selection of cells looks like a name alone, or like `torch>=2.9`: those are told by the plan.
    return wanted.name if wanted.url else None


def filename_of(word: str) -> str:
    """Return the file's name in a path or address."""
    return unquote(urldefrag(word)[0].rpartition("/")[2])


def distribution_of(word: str) -> str:
    """Return the distribution that a wheel or requirement is of.

    Raises:
        UsageError: the file is not named as wheels are.
    """
    if not is_wheel(word):
        return canonicalize_name(Requirement(word).name)
    return project_of(word, filename_of(word))


def project_of(word: str, filename: str) -> str:
    """Return the distribution that a file's name gives.

    Raises:
        UsageError: the file is not named as wheels are.
    """
    try:
        return parse_wheel_filename(filename)[0]
    except InvalidWheelFilename as error:
        hint = "a wheel's name is NAME-VERSION-PYTHON-ABI-PLATFORM.whl"
        raise UsageError(f"{word}: {error}", hint=hint) from error


def wheel_at(address: str) -> IndexFile:
    """Return the wheel at an address; a fragment `#sha256=...` announces its digest.

    Raises:
        UsageError: the file is not named as wheels are.
    """
    bare, fragment = urldefrag(address)
    filename = filename_of(urlsplit(bare).path)
    announced = fragment.partition("sha256=")[2] or None
    return IndexFile(project=project_of(address, filename), filename=filename, url=bare, sha256=announced)


def choose_wheel(
    word: str,
    python: str | None,
    index: PackageIndex,
    machine: str = "x86_64",
    *,
    any_version: bool = False,
) -> IndexFile:
    """Return the wheel an installer would take for `NAME==VERSION`: the newest version, the best tag, the last build.

    Args:
        word: a requirement.
        python: `3.12`; None: 3.12 where there is a wheel for it, else the newest there is one for.
        index: where requirements are looked up.
        machine: `x86_64` or `aarch64`.
        any_version: the word may name a range (`torch>=2.8`).

    Raises:
        UsageError: the word is no such requirement.
        PackageIndexError: the index has no such wheel.
    """
    if not any_version and not is_requirement(word):
        raise UsageError(f"{word!r} is not NAME==VERSION")
    wanted = Requirement(word)
    name = canonicalize_name(wanted.name)
    files = index.files(name)
    wheels = [(file, *parse_wheel_filename(file.filename)[1:]) for file in files if file.filename.endswith(".whl")]
    fitting = [item for item in wheels if wanted.specifier.contains(item[1], prereleases=True)]
    here = [item for item in fitting if any(fits_platform(tag.platform, machine) for tag in item[3])]
    for one in (python,) if python is not None else (PYTHON, *_pythons(here)):
        ranks = tags_for(one, f"{machine}-{_MANYLINUX}")
        rated = [
            (_preference(file, version, build, min(ranks[tag] for tag in tags if tag in ranks)), file)
            for file, version, build, tags in fitting
            if any(tag in ranks for tag in tags)
        ]
        if rated:
            return max(rated, key=lambda item: item[0])[1]
    if not here:
        raise _missing(word, files, wheels, fitting, machine)
    pythons = sorted({tag.interpreter for *_, tags in here for tag in tags}, key=_number)
    raise PackageIndexError(
        f"the package index has no wheel of {word} for Python {python or PYTHON} on Linux {machine}",
        hint=f"it has wheels of it for {', '.join(pythons)} (see --python)",
    )


_Wheel = tuple[IndexFile, Version, BuildTag, frozenset[Tag]]


def _pythons(wheels: Sequence[_Wheel]) -> list[str]:
    """Return the Pythons that wheels are for, newest first."""
    minors = {int(match[2]) for *_, tags in wheels for tag in tags if (match := CPYTHON.fullmatch(tag.interpreter))}
    return [f"3.{minor}" for minor in sorted(minors, reverse=True)]


def _missing(
    word: str,
    files: Sequence[IndexFile],
    wheels: Sequence[_Wheel],
    fitting: Sequence[_Wheel],
    machine: str,
) -> PackageIndexError:
    """Return why an index has no wheel that a requirement means: for each reason its own words and next step."""
    name = canonicalize_name(Requirement(word).name)
    build = "build the wheel, or fetch the one its project offers, and audit that file"
    if not files:
        hint = "check the spelling, or name the index that has it with --index"
        return PackageIndexError(f"the package index has no wheels of {name}: it does not know the name", hint=hint)
    if not wheels:
        return PackageIndexError(f"the package index has no wheels of {name}; it is published as source", hint=build)
    if not fitting:
        wanted = Requirement(word).specifier
        if any(wanted.contains(version, prereleases=True) for version in _sources(files)):
            text = f"the package index has no wheel of {word}; this version is published only as source"
            return PackageIndexError(text, hint=build)
        newest = sorted({version for _, version, *_ in wheels})[-5:]
        text = f"the package index has no wheel of {word}: it has no such version"
        return PackageIndexError(text, hint=f"its newest: {', '.join(map(str, newest))}")
    there = ", ".join(dict.fromkeys(platform_words(file.filename).partition(" (")[0] for file, *_ in fitting))
    text = f"the package index has no wheel of {word} for Linux {machine}"
    return PackageIndexError(text, hint=f"it has wheels of it for {there}")


def _sources(files: Sequence[IndexFile]) -> Iterator[Version]:
    for file in files:
        if not file.filename.endswith(".whl"):
            try:
                yield parse_sdist_filename(file.filename)[1]
            except InvalidSdistFilename:
                continue


def _preference(
    file: IndexFile, version: Version, build: BuildTag, rank: int
) -> tuple[bool, bool, Version, bool, Version, int, BuildTag]:
    """Sort yanked files and pre-releases last, as installers do; `2.8.0` does not match `2.8.0+cpu`."""
    plain = Version(version.public)
    return not file.yanked, not version.is_prerelease, plain, version.local is None, version, -rank, build


def _number(interpreter: str) -> tuple[int, str]:
    return int("".join(char for char in interpreter if char.isdigit()) or 0), interpreter
