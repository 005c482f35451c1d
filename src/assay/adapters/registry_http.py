"""HTTP as registries need it: authorisation by scope, retries of what may be repeated, bare redirects.

Only what is idempotent (RFC 9110, section 9.2.2) is repeated, after connection errors, 429 and 5xx, with growing
and jittered pauses; a 401 is answered once with fresh authorisation; every other 4xx is final.
"""

from __future__ import annotations

import email.utils
import json
import logging
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

import requests

from assay import __version__
from assay.adapters.registry_auth import Challenge, Credentials, CredentialSource, challenges
from assay.errors import RegistryBroken, RegistryError, TagImmutable
from assay.ports.registry import Traffic
from assay.reference import DOCKER_HUB, is_loopback

__all__ = ["Answer", "Transport", "is_loopback"]

LOG: Final = logging.getLogger("assay.registry")
# 500 too: docker-registry 2.8 answers it to a read that meets another client's write of the same tag or link (measured
# with eight publishers at once), and is well a moment later.
RETRIED: Final = frozenset({429, 500, 502, 503, 504})
ABSENT_ATTEMPTS: Final = 3
"""How often to knock where nobody answers at all: long enough for a restart, too short to look like a hang."""
RACES: Final = 3
"""How often a refusal is believed to be such a race."""
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
LONGEST_PAUSE: Final = 30.0
CERTIFICATES: Final = Path("/etc/docker/certs.d")
"""Where Docker looks for a registry's own CA: `<host>/ca.crt`."""
Body = bytes | Callable[[], Iterable[bytes]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


def _proxies(host: str) -> dict[str, str]:
    """Return what keeps a site's proxy out of the way to this machine, as docker does."""
    return {"no_proxy": host.rpartition(":")[0] or host} if is_loopback(host) else {}


def _plain(url: str) -> str:
    """Return an address for messages: no user, no query (a signed address carries its secret there)."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from adding what a netrc file holds."""
    return request


class _Failed(Exception):
    """An attempt that may be made again; `absent` if nobody answered at all."""

    def __init__(self, reason: str, *, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent


class Transport:
    """Speaks HTTP with registries, one object for all hosts."""

    def __init__(
        self,
        *,
        credentials: CredentialSource,
        insecure: Collection[str] = (),
        attempts: int = 6,
        connect_seconds: float = 10.0,
        read_seconds: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.traffic = Traffic()
        self._credentials = credentials
        self._insecure = frozenset(insecure)
        self._attempts = attempts
        self._timeout = (connect_seconds, read_seconds)
        self._sleep = sleep
        self._session = requests.Session()
        # No Accept-Encoding: what is asked for are exact bytes.
        self._session.headers = requests.structures.CaseInsensitiveDict({"User-Agent": f"assay/{__version__}"})
        self._bases: dict[str, str] = {}
        self._challenges: dict[str, Challenge] = {}
        self._tokens: dict[tuple[str, str, tuple[str, ...]], str] = {}

    def base(self, host: str) -> str:
        """Return `https://host`; where plain HTTP is allowed (loopback, or named as insecure), what answers there."""
        if host not in self._bases:
            real = "registry-1.docker.io" if host == DOCKER_HUB else host
            plain = False
            if is_loopback(host) or host in self._insecure:
                answer = self._speaks_plain(real)
                if answer is None:
                    # Nobody is there now; who comes later is asked again.
                    return f"http://{real}"
                plain = answer
            self._bases[host] = f"{'http' if plain else 'https'}://{real}"
        return self._bases[host]

    def _speaks_plain(self, host: str) -> bool | None:
        """Whether a host speaks plain HTTP; None if it does not answer at all."""
        # Nothing secret goes out here. A server that wants TLS answers 400 (Go) or hangs up.
        for attempt in range(self._attempts):
            try:
                answer = self._session.get(
                    f"http://{host}/v2/",
                    auth=_no_auth,
                    timeout=self._timeout,
                    allow_redirects=False,
                    proxies=_proxies(host),
                )
            except requests.exceptions.RequestException as error:
                if _refused(error):
                    # Whether to wait for it is decided where something is asked of it.
                    return None
                self._sleep(_pause(attempt))
                continue
            return answer.status_code != 400
        return False

    def send(
        self,
        method: str,
        host: str,
        path: str,
        *,
        scopes: Sequence[str],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        ok: Collection[int] = (200,),
        limit: int = 8 << 20,
        repeat: bool | None = None,
        races: Collection[str] = (),
        stay: bool = False,
    ) -> Answer:
        """Send one request, as often as it takes and may be, and read the answer.

        Args:
            path: below the host, with query; or an absolute address that the registry gave.
            scopes: what a token has to allow (`repository:x:pull,push`).
            ok: statuses that are answers; all others are errors.
            limit: bytes of the body that are read at most.
            repeat: whether it may be sent again after a failure; None decides by the method.
            stay: a redirect to another host is not followed, but is the answer.
            races: error codes that may be due to another client's write at that moment, and are asked about again.

        Raises:
            RegistryError: the registry could not be reached, refused, or kept failing.
        """
        again = method in IDEMPOTENT if repeat is None else repeat
        url = urljoin(self.base(host) + "/", path)
        fresh = False
        reason, absent = "", False
        attempt = 0
        while attempt < self._attempts:
            authorization = self._authorization(host, url, scopes)
            try:
                answer = self._once(
                    method, url, headers or {}, body, authorization=authorization, limit=limit, stay=stay
                )
            except _Failed as failed:
                reason, pause, absent = str(failed), None, failed.absent
                if failed.absent and attempt + 1 >= ABSENT_ATTEMPTS:
                    break
            else:
                if answer.status in ok:
                    return answer
                if answer.status == 401 and not fresh and self._learn(host, answer, scopes):
                    fresh = True
                    continue
                reason, pause, absent = self._refusal(method, answer), _retry_after(answer.headers), False
                racy = attempt < RACES and any(code in reason for code in races)
                if method == "PUT" and "/manifests/" in path and _keeps_tags(answer.status, reason):
                    raise TagImmutable(reason, hint="leave sm*-* and sha256-* out of the registry's immutability rule")
                if answer.status not in RETRIED and not racy:
                    raise RegistryError(reason, hint=_hint(answer.status, host))
            if not again:
                break
            attempt += 1
            if attempt < self._attempts:
                wait = min(pause if pause is not None else _pause(attempt), LONGEST_PAUSE)
                LOG.info("%s; again in %.1f s", reason, wait)
                self._sleep(wait)
        if " 500" in reason and method in ("GET", "HEAD"):
            raise RegistryBroken(reason, hint=_hint(500, host))
        hint = f"is {host} up and reachable? What was done is safe to repeat"
        if " 429" in reason:
            hint = "it limits how often it may be asked; run the same again later"
        elif absent and is_loopback(host):
            reason = f"no registry answers at {host}"
            hint = "start one: docker-registry serve docs/examples/registry.yml (see docs/how-to/publish.md)"
        raise RegistryError(reason, hint=hint)

    def _once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        *,
        authorization: str | None,
        limit: int,
        stay: bool = False,
    ) -> Answer:
        sent = {"Authorization": authorization, **headers} if authorization else dict(headers)
        started = time.monotonic()
        for _ in range(6):
            self.traffic.requests += 1
            try:
                with self._session.request(
                    method,
                    url,
                    headers=sent,
                    data=self._counted(body),
                    auth=_no_auth,
                    stream=True,
                    allow_redirects=False,
                    timeout=self._timeout,
                    verify=self._trust(url),
                    proxies=_proxies(urlsplit(url).netloc),
                ) as response:
                    content = self._read(response, method, limit)
                    status, found = response.status_code, response.headers
            except requests.exceptions.SSLError as error:
                raise RegistryError(
                    f"{_plain(url)}: TLS failed: {_cause(error)}",
                    hint=f"put the CA into {CERTIFICATES}/{urlsplit(url).netloc}/ca.crt, or name the host as insecure",
                ) from error
            except (requests.exceptions.RequestException, OSError) as error:
                absent = isinstance(error, requests.exceptions.ConnectTimeout) or _refused(error)
                raise _Failed(f"{method} {_plain(url)}: {_cause(error)}", absent=absent) from error
            LOG.debug("%s %s %d, %.0f ms", method, _plain(url), status, (time.monotonic() - started) * 1e3)
            if status not in REDIRECTS or "Location" not in found or method not in ("GET", "HEAD"):
                return Answer(status=status, headers=found, body=content, url=url)
            target = urljoin(url, found["Location"])
            if urlsplit(target)[:2] != urlsplit(url)[:2]:
                if stay:
                    return Answer(status=status, headers=found, body=b"", url=url)
                # A token for the registry is no business of the storage behind it.
                sent.pop("Authorization", None)
            url = target
        raise RegistryError(f"{_plain(url)}: too many redirects")

    def _counted(self, body: Body | None) -> bytes | Iterator[bytes] | None:
        if body is None or isinstance(body, bytes):
            self.traffic.sent += len(body or b"")
            return body

        def pieces() -> Iterator[bytes]:
            for piece in body():
                self.traffic.sent += len(piece)
                yield piece

        return pieces()

    def _read(self, response: requests.Response, method: str, limit: int) -> bytes:
        if method == "HEAD":
            return b""
        # What says why it failed is no answer to what was asked, and has a bound of its own.
        limit = limit if response.ok else 1 << 20
        content = bytearray()
        for piece in response.iter_content(1 << 16):
            content += piece
            self.traffic.received += len(piece)
            if len(content) > limit:
                raise RegistryError(f"{_plain(response.url)}: the answer is larger than {limit} bytes")
        return bytes(content)

    def _trust(self, url: str) -> str | bool:
        own = CERTIFICATES / urlsplit(url).netloc / "ca.crt"
        return str(own) if own.is_file() else True

    def _refusal(self, method: str, answer: Answer) -> str:
        words = ""
        try:
            errors = json.loads(answer.body)["errors"]
            words = "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        return f"{method} {_plain(answer.url)}: the registry answered {answer.status}" + (
            f" ({words[:400]})" if words else ""
        )

    # Authorisation

    def _authorization(self, host: str, url: str, scopes: Sequence[str]) -> str | None:
        if urlsplit(url)[:2] != urlsplit(self.base(host))[:2]:
            return None
        challenge = self._challenges.get(host)
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            known = self._credentials.lookup(host)
            return known.basic if known else None
        return self._tokens.get(self._token_key(challenge, scopes))

    @staticmethod
    def _token_key(challenge: Challenge, scopes: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
        return (challenge.parameters.get("realm", ""), challenge.parameters.get("service", ""), tuple(scopes))

    def _learn(self, host: str, answer: Answer, scopes: Sequence[str]) -> bool:
        """Take up what a 401 asks for; False if nothing can be done about it."""
        asked = challenges(answer.headers.get("WWW-Authenticate", ""))
        chosen = next((one for one in asked if one.scheme == "bearer"), asked[0] if asked else None)
        if chosen is None:
            return False
        known = self._credentials.lookup(host)
        self._challenges[host] = chosen
        if chosen.scheme == "basic":
            return known is not None
        self._tokens[self._token_key(chosen, scopes)] = "Bearer " + self._token(host, chosen, scopes, known)
        return True

    def _token(self, host: str, challenge: Challenge, scopes: Sequence[str], known: Credentials | None) -> str:
        realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
        parts = urlsplit(realm)
        plain_allowed = is_loopback(parts.netloc) or parts.netloc in self._insecure
        if parts.scheme != "https" and not (parts.scheme == "http" and plain_allowed):
            raise RegistryError(f"{host} wants its tokens fetched from {_plain(realm)!r}, which is not https")
        headers: dict[str, str] = {}
        if known and known.identity_token:
            method, url = "POST", realm
            body: bytes | None = urlencode(
                {
                    "grant_type": "refresh_token",
                    "service": service,
                    "client_id": "assay",
                    "scope": " ".join(scopes),
                    "refresh_token": known.identity_token,
                }
            ).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            query = urlencode([("service", service), *(("scope", scope) for scope in scopes)])
            method, url, body = "GET", f"{realm}{'&' if parts.query else '?'}{query}", None
        answer = self._fetch_token(method, url, headers, body, known)
        if answer.status != 200:
            raise RegistryError(
                f"{_plain(realm)}: no token for {host}, status {answer.status}", hint=_hint(answer.status, host)
            )
        try:
            value: Any = json.loads(answer.body)
            token = value.get("token") or value.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not token:
            raise RegistryError(f"{_plain(realm)}: the answer holds no token")
        return token

    def _fetch_token(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, known: Credentials | None
    ) -> Answer:
        authorization = known.basic if known and not known.identity_token else None
        reason = ""
        for attempt in range(self._attempts):
            try:
                answer = self._once(method, url, headers, body, authorization=authorization, limit=1 << 20)
            except _Failed as failed:
                reason = str(failed)
            else:
                if answer.status not in RETRIED:
                    return answer
                reason = self._refusal(method, answer)
            self._sleep(_pause(attempt))
        raise RegistryError(reason)


def _pause(attempt: int) -> float:
    """Return seconds: 0.25, 0.5, 1, ... with up to as much again, so that many who failed together do not return so."""
    return float(min(0.25 * 2**attempt, LONGEST_PAUSE / 2)) * (1 + random.random())  # noqa: S311


def _keeps_tags(status: int, reason: str) -> bool:
    """Whether a refused PUT of a manifest is due to a rule of immutability; no two registries say it alike.

    Harbor answers 412, ECR and Artifact Registry 400, Quay and ACR 405 or 409, each with words of their own.
    """
    return status in (409, 412) or (
        status in (400, 403, 405) and re.search("immutab|overwrit|already exist", reason, re.IGNORECASE) is not None
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After", "")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _hint(status: int, host: str) -> str | None:
    match status:
        case 401 | 403:
            return f"docker login {host}, with an account that may do this"
        case 404:
            return "is the name of the repository right?"
        case 413:
            return "the registry takes no body of this size; a proxy in front of it may say so"
        case 500 | 507:
            return "look into the registry's log (is its disk full?), then run the same again: it is safe"
        case _:
            return None


def _refused(error: BaseException) -> bool:
    return isinstance(_innermost(error), ConnectionRefusedError)


def _innermost(error: BaseException) -> BaseException:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


def _cause(error: BaseException) -> str:
    """Return the innermost reason of a nested exception, without addresses."""
    inner = _innermost(error)
    return f"{type(inner).__name__}: {inner}".partition(" for url")[0][:200]
