"""HTTP as registries need it: authorisation by scope, retries of what may be repeated, bare redirects.

Only what is idempotent (RFC 9110, section 9.2.2) is repeated, after connection errors, 429 and 5xx, with growing
and jittered pauses; a 401 is answered once with fresh authorisation; every other 4xx is final.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests

from assay import __version__
from assay.adapters.http.deadline import Watch, watched
from assay.adapters.registry.auth import Challenge, Credentials, CredentialSource, challenges
from assay.adapters.registry.failures import (
    RegistryFault,
    address,
    cause,
    gave_up,
    hint,
    keeps_tags,
    pause,
    plain,
    refusal,
    refused,
)
from assay.adapters.registry.tokens import token_of, token_request
from assay.errors import RegistryContent, RegistryError, TagImmutable
from assay.evidence.reference import is_loopback, registry_host
from assay.foundation.foreign import ForeignError, read_integer
from assay.ports.registry import Traffic

__all__ = ["REDIRECTS", "RegistryAnswer", "Transport", "length_of"]

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
LONGEST_WAIT: Final = 60.0
"""Seconds of pauses in all, while one thing is asked for."""
EXCHANGE_SECONDS: Final = 60.0
"""Seconds that one exchange may take, and as many more as its bytes need at the slowest rate that is waited for."""
SLOWEST: Final = 128 << 10
"""Bytes a second."""
OPERATION_SECONDS: Final = 3600.0
"""Seconds that a transport may be busy in all; commands that only look set less."""
CERTIFICATES: Final = Path("/etc/docker/certs.d")
"""Where Docker looks for a registry's own CA: `<host>/ca.crt`."""


@dataclass(frozen=True, kw_only=True)
class StreamedBody:
    """A body that is not held in memory; it is read again for each attempt."""

    size: int
    pieces: Callable[[], Iterable[bytes]]


Body = bytes | StreamedBody


@dataclass(frozen=True, kw_only=True)
class RegistryAnswer:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


def _proxies(host: str) -> dict[str, str]:
    """Return what keeps the host's proxy off the way to this machine, as docker does."""
    return {"no_proxy": host.rpartition(":")[0] or host} if is_loopback(host) else {}


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from adding what a netrc file holds."""
    return request


@dataclass(frozen=True, kw_only=True)
class _Request:
    """One request; `Transport.send` says what its fields mean."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Body | None = None
    limit: int = 1 << 20
    stay: bool = False
    expected: int = 0


class _Failed(Exception):
    """An attempt without an answer, that may be made again."""

    def __init__(self, fault: RegistryFault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class _CountedBody:
    """A streamed body as requests takes it: with a length, so that it is sent with one."""

    def __init__(self, body: StreamedBody, traffic: Traffic) -> None:
        self.len = body.size
        self._body = body
        self._traffic = traffic

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body.pieces():
            self._traffic.sent += len(piece)
            yield piece


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
        exchange_seconds: float = EXCHANGE_SECONDS,
        operation_seconds: float = OPERATION_SECONDS,
    ) -> None:
        self.traffic = Traffic()
        self._credentials = credentials
        self._insecure = frozenset(insecure)
        self._attempts = attempts
        self._timeout = (connect_seconds, read_seconds)
        self._sleep = sleep
        self._exchange_seconds = exchange_seconds
        self._operation_seconds = operation_seconds
        self._busy = 0.0
        self._session = watched(requests.Session())
        # No Accept-Encoding: what is asked for are exact bytes.
        self._session.headers = requests.structures.CaseInsensitiveDict({"User-Agent": f"assay/{__version__}"})
        self._bases: dict[str, str] = {}
        self._challenges: dict[str, Challenge] = {}
        self._tokens: dict[tuple[str, str, tuple[str, ...]], str] = {}

    def base(self, host: str) -> str:
        """Return `https://host`; where plain HTTP is allowed (loopback, or named as insecure), what answers there."""
        if host not in self._bases:
            real = registry_host(host)
            unencrypted = False
            if is_loopback(host) or host in self._insecure:
                answer = self._speaks_plain(real)
                if answer is None:
                    # Nobody is there now; who comes later is asked again.
                    return f"http://{real}"
                unencrypted = answer
            self._bases[host] = f"{'http' if unencrypted else 'https'}://{real}"
        return self._bases[host]

    def _speaks_plain(self, host: str) -> bool | None:
        """Whether a host speaks plain HTTP; None if it does not answer at all."""
        # Nothing secret goes out here. A server that wants TLS answers 400 (Go) or hangs up.
        for attempt in range(self._attempts):
            try:
                # Its words are of no interest: they are not read.
                with (
                    Watch(self._exchange_seconds, host) as watch,
                    self._session.get(
                        f"http://{host}/v2/",
                        auth=_no_auth,
                        timeout=self._timeout,
                        allow_redirects=False,
                        proxies=_proxies(host),
                        stream=True,
                    ) as answer,
                ):
                    return answer.status_code != 400
            except requests.exceptions.RequestException as error:
                if refused(error):
                    # Whether to wait for it is decided where something is asked of it.
                    return None
                if watch.expired:
                    raise self._too_slow(f"http://{host}/v2/") from error
                self._sleep(pause(attempt))
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
        expected: int = 0,
    ) -> RegistryAnswer:
        """Send one request, as often as it takes and may be, and read the answer.

        Args:
            path: below the host, with query; or an absolute address that the registry gave.
            scopes: what a token has to allow (`repository:x:pull,push`).
            ok: statuses that are answers; all others are errors.
            limit: bytes of the body that are read at most.
            repeat: whether it may be sent again after a failure; None decides by the method.
            expected: bytes that the answer is known to have; more of them may take longer.
            stay: a redirect to another host is not followed, but is the answer.
            races: error codes that may be due to another client's write at that moment, and are asked about again.

        Raises:
            RegistryError: the registry could not be reached, refused, or kept failing.
        """
        again = method in IDEMPOTENT if repeat is None else repeat
        url = address(path, base=self.base(host) + "/")
        request = _Request(
            method=method, url=url, headers=headers or {}, body=body, limit=limit, stay=stay, expected=expected
        )
        fresh = False
        attempt, waited = 0, 0.0
        while True:
            try:
                answer = self._once(request, authorization=self._authorization(host, url, scopes))
            except _Failed as failed:
                fault = failed.fault
            else:
                if answer.status in ok:
                    return answer
                if answer.status == 401 and not fresh and self._learn(host, answer, scopes):
                    fresh = True
                    continue
                fault = self._may_pass(request, host, answer, races=races if attempt < RACES else ())
            attempt += 1
            wait = pause(attempt) if fault.pause is None else fault.pause
            waited += wait
            most = ABSENT_ATTEMPTS if fault.absent else self._attempts
            if not again or attempt >= min(most, self._attempts) or waited > LONGEST_WAIT:
                raise gave_up(method, host, fault)
            LOG.info("%s; again in %.1f s", fault.reason, wait)
            self._sleep(wait)

    @staticmethod
    def _may_pass(request: _Request, host: str, answer: RegistryAnswer, *, races: Collection[str]) -> RegistryFault:
        """Return a refusal that may pass by itself; every other one is final and raised."""
        fault = refusal(request.method, answer.url, answer.status, answer.headers, answer.body)
        if request.method == "PUT" and "/manifests/" in request.url and keeps_tags(fault):
            raise TagImmutable(fault.reason, hint="leave sm*-* and sha256-* out of the registry's immutability rule")
        if answer.status not in RETRIED and fault.codes.isdisjoint(races):
            raise RegistryError(fault.reason, hint=hint(answer.status, host))
        return fault

    def _once(self, request: _Request, *, authorization: str | None) -> RegistryAnswer:
        sent = {"Authorization": authorization, **request.headers} if authorization else dict(request.headers)
        body, url = request.body, request.url
        started = time.monotonic()
        size = len(body) if isinstance(body, bytes) else 0 if body is None else body.size
        allowed = self._exchange_seconds + max(size, request.expected) / SLOWEST
        left = self._operation_seconds - self._busy
        if left <= 0:
            raise RegistryError(
                f"the registry took more than {self._operation_seconds:.0f} s in all",
                hint="is it overloaded, or does it hold you up? Ask again later, or another registry",
            )
        try:
            with Watch(min(allowed, left), plain(url)) as watch:
                try:
                    answer = self._follow(request, sent)
                except (_Failed, RegistryError) as error:
                    if watch.expired:
                        raise self._too_slow(url) from error
                    raise
                if watch.expired:
                    # A body without a length ends where the connection does.
                    raise self._too_slow(url)
                return answer
        finally:
            self._busy += time.monotonic() - started

    @staticmethod
    def _too_slow(url: str) -> RegistryError:
        return RegistryError(
            f"{plain(url)}: the answer takes too long, it was given up",
            hint="is the connection slow, or the registry overloaded? Run the same again",
        )

    def _follow(self, request: _Request, sent: dict[str, str]) -> RegistryAnswer:
        """Send a request and go where its answer redirects to."""
        method, url = request.method, request.url
        for _ in range(6):
            started = time.monotonic()
            self.traffic.requests += 1
            try:
                with self._session.request(
                    method,
                    url,
                    headers=sent,
                    data=self._counted(request.body),
                    auth=_no_auth,
                    stream=True,
                    allow_redirects=False,
                    timeout=self._timeout,
                    verify=self._trust(url),
                    proxies=_proxies(urlsplit(url).netloc),
                ) as response:
                    content = self._read(response, method, request.limit)
                    status, found = response.status_code, response.headers
            except requests.exceptions.SSLError as error:
                raise RegistryError(
                    f"{plain(url)}: TLS failed: {cause(error)}",
                    hint=f"put the CA into {CERTIFICATES}/{urlsplit(url).netloc}/ca.crt, or name the host as insecure",
                ) from error
            except (requests.exceptions.RequestException, OSError) as error:
                absent = isinstance(error, requests.exceptions.ConnectTimeout) or refused(error)
                reason = f"{method} {plain(url)}: {cause(error)}"
                raise _Failed(RegistryFault(reason=reason, absent=absent)) from error
            except ValueError as error:
                # requests reads the address of a redirect also where it is not to follow it.
                raise RegistryError(f"{plain(url)}: the registry names an address that cannot be used") from error
            LOG.debug("%s %s %d, %.0f ms", method, plain(url), status, (time.monotonic() - started) * 1e3)
            if status not in REDIRECTS or "Location" not in found or method not in ("GET", "HEAD"):
                return RegistryAnswer(status=status, headers=found, body=content, url=url)
            target = address(found["Location"], base=url)
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                raise RegistryError(f"{plain(url)}: it sends on to {plain(target)}, which is not https")
            if urlsplit(target)[:2] != urlsplit(url)[:2]:
                if request.stay:
                    return RegistryAnswer(status=status, headers=found, body=b"", url=url)
                # A token for the registry is no business of the storage behind it.
                sent.pop("Authorization", None)
            url = target
        raise RegistryError(f"{plain(url)}: too many redirects")

    def _counted(self, body: Body | None) -> bytes | _CountedBody | None:
        if not isinstance(body, StreamedBody):
            self.traffic.sent += len(body or b"")
            return body
        return _CountedBody(body, self.traffic)

    def _read(self, response: requests.Response, method: str, limit: int) -> bytes:
        if method == "HEAD":
            return b""
        # What says why it failed is no answer to what was asked, and has a bound of its own.
        limit = limit if response.ok else 1 << 20
        if (length_of(response.headers) or 0) > limit:
            # Not read at all: what never comes would be waited for.
            raise RegistryContent(f"{plain(response.url)}: the answer is larger than {limit} bytes")
        content = bytearray()
        for piece in response.iter_content(1 << 16):
            content += piece
            self.traffic.received += len(piece)
            if len(content) > limit:
                raise RegistryContent(f"{plain(response.url)}: the answer is larger than {limit} bytes")
        return bytes(content)

    def _trust(self, url: str) -> str | bool:
        own = CERTIFICATES / urlsplit(url).netloc / "ca.crt"
        return str(own) if own.is_file() else True

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

    def _learn(self, host: str, answer: RegistryAnswer, scopes: Sequence[str]) -> bool:
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
        asked = token_request(host, challenge, scopes, known, insecure=self._insecure)
        request = _Request(method=asked.method, url=asked.url, headers=asked.headers, body=asked.body)
        answer = self._fetch_token(request, known)
        if answer.status != 200:
            raise RegistryError(
                f"{plain(asked.url)}: no token for {host}, status {answer.status}", hint=hint(answer.status, host)
            )
        return token_of(answer.body, asked.url)

    def _fetch_token(self, request: _Request, known: Credentials | None) -> RegistryAnswer:
        authorization = known.basic if known and not known.identity_token else None
        reason = ""
        for attempt in range(self._attempts):
            try:
                answer = self._once(request, authorization=authorization)
            except _Failed as failed:
                reason = failed.fault.reason
            else:
                if answer.status not in RETRIED:
                    return answer
                reason = refusal(request.method, answer.url, answer.status, answer.headers, answer.body).reason
            self._sleep(pause(attempt))
        raise RegistryError(reason)


def length_of(headers: Mapping[str, str]) -> int | None:
    """Return the length that an answer announces; None if it announces none that can be read."""
    try:
        return read_integer(headers.get("Content-Length", ""))
    except ForeignError:
        return None
