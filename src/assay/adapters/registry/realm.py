"""Where a registry's password may go: to the registry, or to a token service that is plainly its own. Pure.

A registry names the address that its tokens come from (distribution's "Token Authentication Specification"), and
whoever asks there sends the password along. A registry may name any address, so it is bound to the registry's own
registrable domain, to the pairs that are known, and to those that a person named.
"""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import urlsplit

from assay.evidence.reference import DOCKER_HUB, is_loopback

__all__ = ["REALMS_VARIABLE", "named_realms", "same_house"]

REALMS_VARIABLE: Final = "ASSAY_TOKEN_REALMS"
"""Environment variable: `registry.example=auth.other.example`, several with commas between them."""
KNOWN: Final = {DOCKER_HUB: "auth.docker.io"}
# Suffixes under which strangers have names beside each other. The public suffix list has thousands; these are the ones
# that registries stand under. What is missing here is still bound to the last two labels.
_SHARED: Final = frozenset(
    (
        *("amazonaws.com", "azurecr.io", "azurewebsites.net", "azurecontainer.io", "cloudapp.net", "cloudfront.net"),
        *("pkg.dev", "run.app", "web.app", "appspot.com", "googleusercontent.com", "github.io", "gitlab.io"),
        *("herokuapp.com", "fly.dev", "netlify.app", "vercel.app", "pages.dev", "workers.dev", "r2.dev", "jfrog.io"),
        *("ngrok.io", "ngrok.app", "ngrok-free.app", "duckdns.org", "no-ip.org", "nip.io", "sslip.io"),
        *("ondigitalocean.app", "digitaloceanspaces.com", "onrender.com", "trycloudflare.com"),
    )
)
_SECOND: Final = frozenset(
    ("ac", "co", "com", "edu", "gob", "gov", "govt", "gv", "mil", "ne", "net", "nom", "or", "org")
)


def same_house(registry: str, realm: str) -> bool:
    """Whether a token service (`auth.example.com:8443`) is plainly of the same house as a registry (`host:port`)."""
    if KNOWN.get(registry) == realm or realm in named_realms().get(registry, ()):
        return True
    if is_loopback(registry) or is_loopback(realm):
        return is_loopback(registry) and is_loopback(realm)
    ours, theirs = _host(registry), _host(realm)
    return ours != "" and (ours == theirs or (_domain(ours) is not None and _domain(ours) == _domain(theirs)))


def named_realms() -> dict[str, set[str]]:
    """Return the pairs that a person named in the environment."""
    found: dict[str, set[str]] = {}
    for pair in re.split(r"[,\s]+", os.environ.get(REALMS_VARIABLE, "")):
        registry, equals, realm = pair.partition("=")
        if equals:
            found.setdefault(registry, set()).add(realm)
    return found


def _host(place: str) -> str:
    try:
        return (urlsplit(f"//{place}").hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def _domain(host: str) -> str | None:
    """Return the registrable part of a name; None where there is none, as of addresses and single words."""
    labels = host.split(".")
    if ":" in host or labels[-1].isdigit() or "" in labels:
        return None
    count = 2
    if len(labels[-1]) == 2 and len(labels) > 2 and labels[-2] in _SECOND:
        count = 3
    if ".".join(labels[-count:]) in _SHARED:
        count += 1
    return ".".join(labels[-count:]) if len(labels) >= count > 1 else None
