"""What a registry's token service is asked, and what it answers. Pure.

Sources: distribution's token and OAuth2 specifications ("Token Authentication Specification", "Oauth2 Token
Authentication").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode, urlsplit

from assay.adapters.registry.auth import Challenge, Credentials
from assay.adapters.registry.failures import address, plain
from assay.adapters.registry.realm import REALMS_VARIABLE, same_house
from assay.errors import RegistryError
from assay.evidence.reference import is_loopback
from assay.foundation.foreign import ForeignError, read_json

__all__ = ["TokenRequest", "token_of", "token_request"]

_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}")


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """One request to a token service; its body may hold a secret."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)


def token_request(
    host: str, challenge: Challenge, scopes: Sequence[str], known: Credentials | None, *, insecure: Collection[str]
) -> TokenRequest:
    """Return what to ask for a token.

    Args:
        known: the credentials of the registry, which go along.
        insecure: hosts that may be spoken to without TLS.

    Raises:
        RegistryError: the registry names a place where nothing may be fetched, or no password may be sent to.
    """
    service = challenge.parameters.get("service", "")
    realm = address(challenge.parameters.get("realm", ""), base=None)
    parts = urlsplit(realm)
    plain_allowed = is_loopback(parts.netloc) or parts.netloc in insecure
    if parts.scheme != "https" and not plain_allowed:
        raise RegistryError(f"{host} gets its tokens from {plain(realm)!r}, which is not https")
    if known and not same_house(host, parts.netloc):
        raise RegistryError(
            f"{host} wants its password sent to {parts.netloc}, which is not of its domain",
            hint=f"if that is right, say so: {REALMS_VARIABLE}={host}={parts.netloc}",
        )
    if known and known.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": "assay",
            "scope": " ".join(scopes),
            "refresh_token": known.identity_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return TokenRequest(method="POST", url=realm, headers=headers, body=urlencode(form).encode())
    query = urlencode([("service", service), *(("scope", scope) for scope in scopes)])
    return TokenRequest(method="GET", url=f"{realm}{'&' if parts.query else '?'}{query}")


def token_of(body: bytes, url: str) -> str:
    """Return the token in an answer.

    Raises:
        RegistryError: it holds none.
    """
    try:
        value = read_json(body)
        token = value.get("token") or value.get("access_token")
    except (ForeignError, AttributeError):
        token = None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise RegistryError(f"{plain(url)}: the answer has no token")
    return token
