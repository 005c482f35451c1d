"""Package indexes: the simple API in HTML and JSON (PEP 503, 691), folders that look like one, and flat link lists.

Which addresses the names in a lock mean is found the way the ordinary clients find them: matrix.yaml for named
indexes, and for `pypi` whatever uv answers when it is asked what it would use (its environment and configuration
files), then what pip's environment adds.

Pages are not read by `pypi-simple`: 1 MB of links that are not closed keeps it busy for more than 30 s (its HTML parser
cannot be stopped), and one address that is none costs the whole page.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import requests
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from assay.adapters.files.regular import read_regular
from assay.adapters.host import process
from assay.adapters.http.patience import FAULTS, Rate, body_chunks, session
from assay.adapters.index.local import LocalFile, path_of_url
from assay.adapters.index.ranges import HttpFile
from assay.adapters.index.uv import uv_program
from assay.errors import PackageIndexError, StoreError, WheelError
from assay.foundation.budget import INDEX_PAGE, Budget
from assay.foundation.foreign import read_json
from assay.matrix.model import Index
from assay.ports.index import IndexFile, origin_of

__all__ = ["Addresses", "SimpleIndex", "WebWheels", "default_addresses", "parse_html", "parse_json", "versions"]

ACCEPT: Final = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
MAX_PAGE: Final = INDEX_PAGE.unpacked
SLICE: Final = 256 << 10
"""Characters of a page that are parsed before the budget is asked again."""
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}(?=T)")
_SHA256: Final = re.compile(r"sha256[=:]([0-9a-fA-F]{64})")


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where one named index looks: simple indexes in order, then flat lists of links (or folders of files)."""

    simple: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


def default_addresses(environ: Mapping[str, str] | None = None) -> Addresses:
    """Return what the client's own default index is here.

    Raises:
        PackageIndexError: uv cannot be asked.
    """
    env = dict(os.environ if environ is None else environ)
    done = process.run(
        [uv_program(), "pip", "compile", "-", "--quiet", "--no-header", "--emit-index-url", "--emit-find-links"],
        stdin=b"",
        timeout=60,
        check=False,
        env=env,
    )
    if done.returncode != 0:
        raise PackageIndexError(f"uv does not say which index it uses: {done.stderr.decode(errors='replace').strip()}")
    simple: list[str] = []
    links: list[str] = []
    for line in done.text.splitlines():
        option, _, value = line.strip().partition(" ")
        if option in {"--index-url", "--extra-index-url"}:
            simple.append(value.strip())
        elif option == "--find-links":
            links.append(value.strip())
    pip = _pip_settings(env)
    if "index-url" in pip and not any(name.startswith(("UV_INDEX", "UV_DEFAULT_INDEX")) for name in env):
        simple = [*pip["index-url"].split(), *simple[1:]]
    simple += [url for url in pip.get("extra-index-url", "").split() if url not in simple]
    links += [url for url in pip.get("find-links", "").split() if url not in links]
    return Addresses(simple=tuple(simple), links=tuple(links))


def _pip_settings(env: Mapping[str, str]) -> dict[str, str]:
    """Return pip's index settings: files from general to special, then environment (pip's documented order)."""
    settings: dict[str, str] = {}
    home = Path(env.get("HOME", "/"))
    files = [
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        Path(env.get("XDG_CONFIG_HOME", str(home / ".config"))) / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    if env.get("PIP_CONFIG_FILE"):
        files.append(Path(env["PIP_CONFIG_FILE"]))
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file)
        except configparser.Error:
            continue
        if parser.has_section("global"):
            settings.update(parser.items("global"))
    for option in ("index-url", "extra-index-url", "find-links"):
        value = env.get("PIP_" + option.upper().replace("-", "_"))
        if value:
            settings[option] = value
    return settings


class _Links(HTMLParser):
    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget
        self.found: list[dict[str, str]] = []
        self.base: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "base" and self.base is None:
            self.base = values.get("href")
        elif tag == "a" and values.get("href"):
            self._budget.take(items=1, kept=sum(map(len, values.values())))
            self.found.append(values)


def _local_page(path: Path) -> str:
    try:
        return read_regular(path, limit=INDEX_PAGE.unpacked).decode(errors="replace")
    except StoreError as error:
        raise PackageIndexError(error.message) from error


def _file(project: str, filename: str, url: str, sha256: str | None, **more: Any) -> IndexFile | None:
    """Return the file if it is one of this project's."""
    try:
        if filename.endswith(".whl"):
            name = parse_wheel_filename(filename)[0]
        elif filename.endswith((".tar.gz", ".zip")):
            name = parse_sdist_filename(filename)[0]
        else:
            return None
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None
    if name != project:
        return None
    return IndexFile(project=project, filename=filename, url=url, sha256=sha256.lower() if sha256 else None, **more)


def parse_html(text: str, *, url: str, project: str, budget: Budget | None = None) -> tuple[IndexFile, ...]:
    """Read a PEP 503 page, or any page with links to files. A link that is not an address is left out.

    Raises:
        PackageIndexError: it has more links than a page can have, or takes too long to read.
    """
    budget = budget or Budget("the page", INDEX_PAGE)
    parser = _Links(budget)
    try:
        for first in range(0, len(text), SLICE):
            piece = text[first : first + SLICE]
            budget.take(unpacked=SLICE, steps=piece.count("<"))
            parser.feed(piece)
            if len(parser.rawdata) > SLICE:
                # What is not parsed yet is looked at again with each slice.
                raise WheelError(f"it has a tag of more than {SLICE} characters")
    except WheelError as error:
        raise PackageIndexError(f"{_host(url)}: the list of files of {project}: {error.message}") from error
    base = _joined(url, parser.base) or url
    files: list[IndexFile] = []
    for link in parser.found:
        joined = _joined(base, link["href"])
        if joined is None:
            continue
        address, fragment = urldefrag(joined)
        match = _SHA256.search(fragment)
        file = _file(
            project,
            unquote(urlsplit(address).path.rpartition("/")[2]),
            address,
            match.group(1) if match else None,
            requires_python=link.get("data-requires-python") or None,
            yanked="data-yanked" in link,
            metadata=any(name in link for name in ("data-core-metadata", "data-dist-info-metadata")),
        )
        if file:
            files.append(file)
    return tuple(files)


def _joined(base: str, address: str | None) -> str | None:
    """Return the absolute URL of a link; None if it is invalid."""
    if not address:
        return None
    try:
        joined = urljoin(base, address)
        parts = urlsplit(joined)
        usable = parts.scheme in {"http", "https", "file"} and parts.port != 0
    except ValueError:
        return None
    # A page from a server does not name files of this machine.
    return joined if usable and (parts.scheme != "file" or base.startswith("file:")) else None


def _day(uploaded: object) -> str | None:
    """Return the day in `2026-11-20T08:21:42.236445Z`; None for what is no such time."""
    found = _DAY.match(uploaded) if isinstance(uploaded, str) else None
    return found[0] if found else None


def parse_json(text: str, *, url: str, project: str, budget: Budget | None = None) -> tuple[IndexFile, ...]:
    """Read a PEP 691 document.

    Raises:
        PackageIndexError: it is none.
    """
    try:
        document = read_json(text, limit=MAX_PAGE, items=20 * INDEX_PAGE.items)
        budget = budget or Budget("the document", INDEX_PAGE)
        budget.take(items=len(document["files"]), unpacked=len(text))
        files = [
            _file(
                project,
                str(item["filename"]),
                urldefrag(joined)[0],
                item.get("hashes", {}).get("sha256"),
                size=item.get("size"),
                requires_python=item.get("requires-python"),
                yanked=bool(item.get("yanked")),
                metadata=bool(item.get("core-metadata", item.get("dist-info-metadata", False))),
                uploaded=_day(item.get("upload-time")),
            )
            for item in document["files"]
            if (joined := _joined(url, item["url"])) is not None
        ]
    except (WheelError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackageIndexError(f"{_host(url)}: the list of files of {project} is not what it should be") from error
    return tuple(file for file in files if file)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or url
    except ValueError:
        return url


class SimpleIndex:
    """All indexes of a matrix behind their names.

    Args:
        indexes: the named ones; those without an address, and names not listed, mean the client's default.
        default: what the default is; found out when it is first needed.
    """

    def __init__(
        self,
        indexes: Mapping[str, Index] | None = None,
        *,
        default: Addresses | None = None,
        http: requests.Session | None = None,
    ) -> None:
        self._indexes = dict(indexes or {})
        self._default = default
        self._http = http or session()
        self._known: dict[tuple[str, str], tuple[IndexFile, ...]] = {}
        self._asking: dict[tuple[str, str], threading.Lock] = {}
        self._places: dict[str, frozenset[str]] = {}

    def _addresses(self, index: str) -> Addresses:
        named = self._indexes.get(index)
        if named is not None and named.url is not None:
            return Addresses(simple=(named.url,))
        if self._default is None:
            self._default = default_addresses()
        return self._default

    def files(self, project: str, *, index: str = "pypi") -> tuple[IndexFile, ...]:
        """Return the files of a project; see the port."""
        name = str(canonicalize_name(project))
        # Cells that are audited at once ask for the same projects at the same time; reading a list may take a second.
        with self._asking.setdefault((index, name), threading.Lock()):
            if (index, name) not in self._known:
                self._known[index, name] = self._asked(name, index)
            return self._known[index, name]

    def _asked(self, name: str, index: str) -> tuple[IndexFile, ...]:
        addresses = self._addresses(index)
        found: dict[tuple[str, str | None], IndexFile] = {}
        for url in addresses.simple:
            for file in self._page(url.rstrip("/") + f"/{name}/", name):
                found.setdefault((file.filename, file.sha256), file.model_copy(update={"announced_by": url}))
        for url in addresses.links:
            for file in self._flat(url, name):
                found.setdefault((file.filename, file.sha256), file.model_copy(update={"announced_by": url}))
        return tuple(found.values())

    def origins(self, index: str | None = None) -> frozenset[str]:
        """Return where files of an index can come from; see the port. An index that cannot be found out has none."""
        names = [*self._indexes, "pypi"] if index is None else [index]
        return frozenset().union(*(self._origins_of(name) for name in names))

    def _origins_of(self, index: str) -> frozenset[str]:
        if index not in self._places:
            try:
                addresses = self._addresses(index)
            except PackageIndexError:
                addresses = Addresses()
            self._places[index] = frozenset(map(origin_of, (*addresses.simple, *addresses.links)))
        return self._places[index]

    def _page(self, url: str, project: str) -> tuple[IndexFile, ...]:
        if urlsplit(url).scheme == "file":
            folder = path_of_url(url)
            page = folder / "index.html"
            if page.is_file():
                return parse_html(_local_page(page), url=url, project=project)
            return self._folder(folder, project) if folder.is_dir() else ()
        text, kind, final = self._fetch(url)
        if text is None:
            return ()
        parse = parse_json if "json" in kind else parse_html
        return parse(text, url=final, project=project)

    def _flat(self, url: str, project: str) -> tuple[IndexFile, ...]:
        scheme = urlsplit(url).scheme
        if scheme in {"http", "https"}:
            text, _, final = self._fetch(url)
            return parse_html(text, url=final, project=project) if text is not None else ()
        path = path_of_url(url) if scheme == "file" else Path(url)
        if path.is_file():
            return parse_html(_local_page(path), url=path.absolute().as_uri(), project=project)
        return self._folder(path, project) if path.is_dir() else ()

    def _folder(self, folder: Path, project: str) -> tuple[IndexFile, ...]:
        found = [
            _file(project, path.name, path.absolute().as_uri(), None, size=path.stat().st_size)
            for path in sorted(folder.iterdir())
            if path.is_file()
        ]
        return tuple(file for file in found if file)

    def _fetch(self, url: str) -> tuple[str | None, str, str]:
        try:
            answer = self._http.get(url, headers={"Accept": ACCEPT}, timeout=(10, 30), stream=True)
            rate = Rate(f"the list of files at {_host(url)}", seconds=INDEX_PAGE.seconds)
            with answer:
                if answer.status_code == 404:
                    return None, "", url
                if answer.status_code != 200:
                    raise PackageIndexError(f"{_host(url)} answers {answer.status_code} for {url}")
                data = bytearray()
                for chunk in body_chunks(answer.raw, rate, decode=True):
                    data += chunk
                    if len(data) > MAX_PAGE:
                        raise PackageIndexError(f"{_host(url)}: a list of files of more than {MAX_PAGE} bytes")
        except FAULTS as error:
            raise PackageIndexError(
                f"{_host(url)} cannot be asked: {type(error).__name__}", hint="check the network and the index address"
            ) from error
        return data.decode("utf-8", "replace"), answer.headers.get("Content-Type", ""), answer.url


class WebWheels:
    """Opens files of an index, on a server or on this machine."""

    def __init__(self, http: requests.Session | None = None) -> None:
        self._http = http or session()

    def open(self, file: IndexFile) -> HttpFile | LocalFile:
        """Open one file for reading; see the port."""
        if urlsplit(file.url).scheme == "file":
            return LocalFile(path_of_url(file.url))
        return HttpFile(self._http, file.url, size=file.size)


def versions(distribution: str, index: Index) -> Sequence[str]:
    """Return the versions that an index has of a distribution, oldest first; yanked ones are left out.

    Raises:
        PackageIndexError: the index could not be asked.
    """
    files = SimpleIndex({"asked": index}).files(distribution, index="asked")
    return [str(version) for version in sorted(_versions(files))]


def _versions(files: Iterable[IndexFile]) -> set[Version]:
    found: set[Version] = set()
    for file in files:
        if file.yanked:
            continue
        if file.filename.endswith(".whl"):
            found.add(parse_wheel_filename(file.filename)[1])
        else:
            found.add(parse_sdist_filename(file.filename)[1])
    return found
