"""Host settings: the CA, mirrors and proxies that builds use here; as secrets and arguments, never in a layer.

ASSAY_CA_BUNDLE         CA file for downloads in builds (default: SSL_CERT_FILE or REQUESTS_CA_BUNDLE where set)
ASSAY_APT_SOURCES       a sources.list that replaces the image's own
ASSAY_UV_CONFIG         a uv.toml: package indexes and how to reach them
ASSAY_PIP_CONFIG        a pip.conf, for the one download that is pip's (uv itself)
ASSAY_NETRC             credentials of indexes
ASSAY_REGISTRY_MIRRORS  `docker.io=mirror.example/hub`: where bases are pulled from instead
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from assay.errors import UsageError
from assay.evidence.reference import Repository

__all__ = ["MIRRORS", "build_args", "mirrors", "secrets"]

MIRRORS: Final = "ASSAY_REGISTRY_MIRRORS"

_SECRETS: Final = {
    "ca-bundle": ("ASSAY_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
    "apt-sources": ("ASSAY_APT_SOURCES",),
    "uv-config": ("ASSAY_UV_CONFIG",),
    "pip-config": ("ASSAY_PIP_CONFIG",),
    "netrc": ("ASSAY_NETRC",),
}
# BuildKit knows these arguments and keeps them out of the image's history.
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def secrets(environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """Return build secrets: id -> file.

    Raises:
        UsageError: a variable of assay's own names no readable file.
    """
    found: dict[str, Path] = {}
    for identifier, variables in _SECRETS.items():
        for variable in variables:
            value = environ.get(variable)
            if not value:
                continue
            path = Path(value).resolve()
            if path.is_file() and os.access(path, os.R_OK):
                found[identifier] = path
                break
            if variable.startswith("ASSAY_"):
                raise UsageError(f"{variable} names {value}, which is not a readable file")
    return found


def build_args(environ: Mapping[str, str] = os.environ) -> dict[str, None]:
    """Return the proxies of the environment as build arguments, by name only: their addresses may hold credentials."""
    return {name: None for name in _PROXIES if environ.get(name)}


def mirrors(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the mirrors of registries that the host settings name: registry -> host and prefix.

    Raises:
        UsageError: the variable is not `registry=mirror` with names that registries can have.
    """
    found: dict[str, str] = {}
    for word in environ.get(MIRRORS, "").replace(",", " ").split():
        registry, equals, place = word.partition("=")
        place = place.rstrip("/")
        host, slash, _ = place.partition("/")
        try:
            # A path has to follow a host, so that a mirror cannot be taken for a path on Docker Hub.
            right = bool(equals) and Repository.parse(f"{registry}/x").host == registry
            right = right and Repository.parse(place if slash else f"{place}/x").host == host
        except UsageError:
            right = False
        if not right:
            raise UsageError(
                f"{MIRRORS}: {word!r} is not REGISTRY=MIRROR", hint="for example docker.io=mirror.example.org:5000/hub"
            )
        found[registry] = place
    return found
