"""Image references as people write them: `host:port/path:tag@sha256:...`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self
from urllib.parse import urlsplit

from assay.errors import UsageError
from assay.foundation.digest import DIGEST

__all__ = ["DOCKER_HUB", "TAG", "Reference", "Repository", "is_loopback", "registry_host"]

DOCKER_HUB: Final = "docker.io"
_PATH: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def is_loopback(host: str) -> bool:
    """Whether a host of a reference (`localhost:5000`, `127.0.0.1`, `[::1]:5000`) is this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost":
            return True
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def registry_host(host: str) -> str:
    """Return the host that answers for the host of a reference: Docker Hub's has another name."""
    return "registry-1.docker.io" if host == DOCKER_HUB else host


_LONGEST: Final = 1024


@dataclass(frozen=True, kw_only=True, order=True)
class Repository:
    """A repository of a registry."""

    host: str
    """`localhost:5000`, `ghcr.io`; Docker Hub is `docker.io`."""
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host/path`. As for docker, a first part without dot or colon is a path on Docker Hub.

        Raises:
            UsageError: the text is not the name of a repository.
        """
        if len(text) > _LONGEST:
            raise UsageError(f"the name of a repository has at most {_LONGEST} characters, this one {len(text)}")
        head, slash, rest = text.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost"):
            host, path = head, rest
        else:
            host, path = DOCKER_HUB, text if slash else f"library/{text}"
        if not _HOST.fullmatch(host) or not _PATH.fullmatch(path):
            raise UsageError(f"{text!r} is not a repository", hint="write it as registry.example/path, in lower case")
        return cls(host=host, path=path)

    def __str__(self) -> str:
        return f"{self.host}/{self.path}"

    def at(self, digest: str) -> str:
        """Return the reference of one digest, as `docker pull` takes it."""
        return f"{self}@{digest}"

    def tagged(self, tag: str) -> str:
        """Return the reference of a tag."""
        return f"{self}:{tag}"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A repository with a tag, a digest or both (then the digest decides)."""

    repository: Repository
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference; without tag and digest it means the tag `latest`, as for docker.

        Raises:
            UsageError: the text is not a reference.
        """
        if len(text) > _LONGEST:
            raise UsageError(f"a reference has at most {_LONGEST} characters, this one {len(text)}")
        name, at, digest = text.partition("@")
        if at and not DIGEST.fullmatch(digest):
            raise UsageError(f"{text!r}: {digest!r} is not a digest", hint="a digest is sha256: and 64 hex digits")
        head, colon, tag = name.rpartition(":")
        if colon and "/" not in tag:
            if not TAG.fullmatch(tag):
                raise UsageError(f"{text!r}: {tag!r} is not a tag", hint="up to 128 characters of A-Z a-z 0-9 . _ -")
            name = head
        else:
            tag = ""
        reference = cls(repository=Repository.parse(name), tag=tag or None, digest=digest or None)
        return reference if tag or digest else replace(reference, tag="latest")

    @property
    def key(self) -> str:
        """What the registry is asked by: the digest where there is one, else the tag."""
        return self.digest or self.tag or "latest"

    def mirrored(self, mirrors: Mapping[str, str]) -> Self:
        """Return where a mirror has the same image, or the reference itself.

        Args:
            mirrors: registry -> `mirror.example:5000` or `mirror.example/prefix`, below which the same paths are.
        """
        place = mirrors.get(self.repository.host)
        if place is None:
            return self
        host, _, prefix = place.partition("/")
        path = f"{prefix}/{self.repository.path}" if prefix else self.repository.path
        return replace(self, repository=Repository(host=host, path=path))

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")
