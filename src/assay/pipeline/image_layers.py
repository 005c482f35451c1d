"""What is installed in an image, from the layers that it is made of: no byte of a wheel or an image is read.

A layer that was assembled holds the wheels that the catalogue names, and what these install is in their facts. The few
layers without wheels (the base, the account, links) are read once, and what was seen is kept by the layer's diff_id.
All layers together give what reading the image would: `read_image` and this return equal contents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from pydantic import ValidationError

from assay.errors import AssayError
from assay.foundation.strict import Value
from assay.pipeline.image_contents import COMPILERS, ImageContents, Opened, main_site
from assay.pipeline.read_wheel import is_library
from assay.ports.engine import ImageFile, ImageInfo
from assay.ports.layers import LayerStore
from assay.wheels.catalogue import CatalogueEntry
from assay.wheels.facts import Library, WheelFacts, installed_path

__all__ = ["ImageLayers", "KnownImage", "LayerContents"]

SMALL: Final = 1 << 20
"""Bytes up to which a layer of which the catalogue names no wheel is one of links and accounts."""
_ENVIRONMENT: Final = re.compile(r"(?P<prefix>/opt/.+)/bin/python(?P<python>3\.\d+)")


class LayerContents(Value):
    """What a layer without wheels holds, as far as an audit cares; see `ImageContents`."""

    libraries: dict[str, Library] = {}
    links: dict[str, str] = {}
    texts: dict[str, str] = {}
    """Latin-1, so that bytes stay what they are."""
    loader: dict[str, str] = {}
    programs: tuple[str, ...] = ()
    pythons: tuple[str, ...] = ()
    present: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KnownImage:
    """An image whose layers are all known."""

    contents: ImageContents
    wheels: tuple[WheelFacts, ...]
    """As reading the image would find them installed."""


class ImageLayers:
    """Looks up images by their layers.

    Args:
        store: the catalogue, and the bytes of small layers and bases.
        facts: gives the facts of a wheel by its sha256.
        read: reads the files of a layer.
    """

    def __init__(
        self, store: LayerStore, facts: Callable[[str], WheelFacts | None], read: Callable[[Opened], ImageContents]
    ) -> None:
        self._store = store
        self._facts = facts
        self._read = read

    def image(self, info: ImageInfo, known: Mapping[str, Library]) -> KnownImage | None:
        """Return what an image holds; None if it has a layer, or a wheel, of which not enough is known.

        Args:
            info: names its layers.
            known: path in site-packages -> library of a locked wheel.
        """
        catalogue = {entry.diff_id: entry for entry in self._store.entries()}
        # A layer may hold a part of its wheels; which part, and whether the others are there, nobody noted.
        divided = {entry.wheels for entry in catalogue.values() if not entry.last}
        contents = ImageContents(known=known)
        layers: list[CatalogueEntry] = []
        for layer in info.layers:
            entry = catalogue.get(layer.diff_id)
            if entry is not None and entry.wheels in divided:
                return None
            if entry is not None and entry.wheels:
                layers.append(entry)
            elif (kept := self._plain(layer.diff_id, entry)) is not None:
                _add(contents, kept)
            else:
                return None
        site = _site(contents)
        if site is None:
            return None
        there: dict[str, Library] = {}
        wheels: list[WheelFacts] = []
        for entry in layers:
            found = [self._facts(wheel.sha256) for wheel in entry.wheels]
            facts = [one for one in found if one is not None]
            own = _libraries(facts)
            read = self._read_on(entry, site, {path for path, library in own.items() if not _is_enough(library)})
            if len(facts) != len(found) or read is None:
                return None
            contents.replaced |= {f"{site}/{path}" for path in own if _is_other(own[path], known.get(path))}
            there |= {**own, **read}
            wheels += facts
        _install(contents, site, there, wheels)
        if main_site(contents, info.reference) != site:
            return None
        digest = info.digest or info.id
        named = sorted(((_dist_info(facts), facts) for facts in wheels), key=itemgetter(0))
        return KnownImage(
            contents=contents, wheels=tuple(_installed(facts, name, there, digest) for name, facts in named)
        )

    def _read_on(self, entry: CatalogueEntry, site: str, paths: set[str]) -> Mapping[str, Library] | None:
        """Return libraries of a layer of which the facts of its wheels say too little: they are read once, and kept."""
        if not paths:
            return {}
        kept = self._kept(entry.diff_id) or LayerContents()
        if not paths <= kept.libraries.keys():
            if not self._store.has(entry.digest, entry.size):
                return None
            wanted = {f"{site}/{path}" for path in paths}
            read = self._contents_of(lambda: _only(self._store.files(entry.digest), wanted))
            if read is None:
                return None
            found = {path.removeprefix(f"{site}/"): library for path, library in read.libraries.items()}
            kept = LayerContents(libraries={**kept.libraries, **found})
            self._store.keep_contents(entry.diff_id, kept.model_dump_json(exclude_defaults=True).encode())
        return {path: kept.libraries[path] for path in paths & kept.libraries.keys()}

    def _kept(self, diff_id: str) -> LayerContents | None:
        data = self._store.contents(diff_id)
        try:
            return None if data is None else LayerContents.model_validate_json(data)
        except ValidationError:
            return None

    def _contents_of(self, opened: Opened) -> ImageContents | None:
        try:
            return self._read(opened)
        except AssayError:
            return None

    def _plain(self, diff_id: str, entry: CatalogueEntry | None) -> LayerContents | None:
        """Return what a layer without wheels holds: as it was kept, else as it is read now, once."""
        if (known := self._kept(diff_id)) is not None:
            return known
        if entry is not None and entry.unpacked > SMALL:
            return None
        digest = entry.digest if entry is not None else self._store.base_layer(diff_id)
        if digest is None:
            return None
        read = self._contents_of(lambda: self._store.files(digest))
        if read is None:
            return None
        kept = LayerContents(
            libraries=read.libraries,
            links=read.links,
            texts={path: data.decode("latin-1") for path, data in read.texts.items()},
            loader={path: data.decode("latin-1") for path, data in read.loader.items()},
            programs=tuple(sorted(read.programs)),
            pythons=tuple(sorted(read.pythons)),
            present=tuple(sorted(read.present)),
        )
        self._store.keep_contents(diff_id, kept.model_dump_json(exclude_defaults=True).encode())
        return kept


def _is_enough(library: Library) -> bool:
    """Whether reading an image would find no more of a library than its facts say."""
    return library.scope == "full" or (library.scope != "listed" and library.digest is not None)


def _is_other(library: Library, locked: Library | None) -> bool:
    """Whether a library is not the locked wheel's; one whose hash nobody knows is told by its size."""
    return locked is not None and (library.size, library.digest) != (locked.size, locked.digest)


def _add(contents: ImageContents, kept: LayerContents) -> None:
    contents.libraries |= kept.libraries
    contents.links |= kept.links
    contents.texts |= {path: text.encode("latin-1") for path, text in kept.texts.items()}
    contents.loader |= {path: text.encode("latin-1") for path, text in kept.loader.items()}
    contents.programs.update(kept.programs)
    contents.pythons.update(kept.pythons)
    contents.present.update(kept.present)


@contextmanager
def _only(opened: AbstractContextManager[Iterator[ImageFile]], paths: set[str]) -> Iterator[Iterator[ImageFile]]:
    with opened as files:
        yield (file for file in files if file.path in paths)


def _site(contents: ImageContents) -> str | None:
    """Return the folder of packages of the image's environment."""
    for path in contents.links:
        if (found := _ENVIRONMENT.fullmatch(path)) is not None:
            return f"{found['prefix']}/lib/python{found['python']}/site-packages"
    return None


def _libraries(wheels: Iterable[WheelFacts]) -> dict[str, Library]:
    """Return path in site-packages -> library of the wheels of one layer: the first that has a path wins."""
    found: dict[str, Library] = {}
    for facts in wheels:
        for library in facts.libraries:
            path = installed_path(library.path)
            if not path.startswith("../") and is_library(path):
                found.setdefault(path, library)
    return found


def _install(contents: ImageContents, site: str, there: Mapping[str, Library], wheels: Iterable[WheelFacts]) -> None:
    """Add to an image what its wheels bring."""
    contents.present |= {f"{site}/{path}" for path in there}
    contents.libraries |= {f"{site}/{path}": library for path, library in there.items() if library.size}
    for facts in wheels:
        contents.texts[f"{site}/{_dist_info(facts)}/METADATA"] = b""
        contents.programs |= _programs(facts)
        if facts.is_torch:
            contents.texts[f"{site}/torch/version.py"] = b""


def _dist_info(facts: WheelFacts) -> str:
    return f"{'-'.join(facts.filename.split('-')[:2])}.dist-info"


def _installed(facts: WheelFacts, name: str, there: Mapping[str, Library], digest: str) -> WheelFacts:
    """Return a wheel as it is found installed: what an image does not show is left out."""
    paths = sorted({installed_path(library.path) for library in facts.libraries} & there.keys())
    libraries = ((path, there[path]) for path in paths if there[path].size)
    return WheelFacts(
        name=facts.name,
        version=facts.version,
        filename=name,
        sha256=f"{digest}/{facts.name}",
        complete=True,
        tags=facts.tags,
        requires_dist=facts.requires_dist,
        requires_python=facts.requires_python,
        libraries=tuple(
            library if library.path == path else library.model_copy(update={"path": path})
            for path, library in libraries
        ),
        cuda=facts.cuda,
    )


def _programs(facts: WheelFacts) -> set[str]:
    """Return the compilers that a wheel brings, in a folder of programs."""
    folders = [folder for folder in facts.files if "/bin/" in f"/{installed_path(f'{folder}/')}"]
    scripts = [folder for folder in facts.files if folder.endswith(".data/scripts")]
    return {name for folder in (*folders, *scripts) for name in facts.files_in(folder)} & COMPILERS.keys()
