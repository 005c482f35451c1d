"""A registry that lies, stalls or floods ends in an error of assay's own, in time and within bounds."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from misbehaving import Reply, misbehaving, trickle

from assay.adapters.registry.auth import Anonymous, Challenge, Credentials, DockerConfig
from assay.adapters.registry.client import HttpRegistry
from assay.adapters.registry.http import Transport
from assay.adapters.registry.realm import REALMS_VARIABLE, same_house
from assay.adapters.registry.tokens import token_of, token_request
from assay.errors import RegistryContent, RegistryError
from assay.evidence.oci import INDEX, MANIFEST, Descriptor
from assay.evidence.reference import Repository

DEEP = b"[" * 500_000 + b"]" * 500_000
DIGEST = "sha256:" + "1" * 64


def client(pauses: list[float] | None = None, **changes: Any) -> HttpRegistry:
    waited = pauses if pauses is not None else []
    return HttpRegistry(Transport(**{"credentials": Anonymous(), "sleep": waited.append, "attempts": 3, **changes}))


def place(host: str) -> Repository:
    return Repository(host=host, path="team/demo")


def manifest(reply: Reply) -> Callable[[str, str], Reply]:
    return lambda _method, path: reply if "/manifests/" in path else (200, {}, b"{}")


def refusing(status: int, headers: Mapping[str, str], body: bytes = b"") -> Callable[[str, str], Reply]:
    return lambda _method, path: (200, {}, b"{}") if path == "/v2/" else (status, headers, body)


def test_an_answer_that_announces_too_much_is_not_waited_for() -> None:
    reply = (200, {"Content-Type": MANIFEST, "Content-Length": "99999999999999"}, b"{}")
    with misbehaving(manifest(reply)) as server, pytest.raises(RegistryContent, match="the answer is larger than"):
        client().manifest(place(server.host), "it")


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        b'{"schemaVersion":2,"mediaType":"%b","config":%b}' % (MANIFEST.encode(), b'{"a":' * 300_000 + b"}" * 300_000),
        b"\xff\xfe\x00{",
        b'{"mediaType":"%b","config":{"mediaType":"\\ud800","digest":"%b","size":1}}'
        % (MANIFEST.encode(), DIGEST.encode()),
        b'{"mediaType":"%b","config":{"mediaType":"a","digest":"%b","size":%b}}'
        % (MANIFEST.encode(), DIGEST.encode(), b"9" * 100_000),
        b'{"mediaType":"%b","config":{"mediaType":"a","digest":"%b","size":true}}'
        % (MANIFEST.encode(), DIGEST.encode()),
        b"NaN",
        b"x" * (5 << 20),
        b'{"layers":[' + b"[]," * 1_000_000 + b"0]}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_manifests_that_are_invalid(body: bytes) -> None:
    with misbehaving(manifest((200, {"Content-Type": MANIFEST}, body))) as server, pytest.raises(RegistryContent):
        client().manifest(place(server.host), "it")


def test_an_answer_that_unpacks_to_more_than_is_read() -> None:
    packed = gzip.compress(bytes(1 << 28))
    reply = (200, {"Content-Type": MANIFEST, "Content-Encoding": "gzip"}, packed)
    with misbehaving(manifest(reply)) as server, pytest.raises(RegistryError):
        client().manifest(place(server.host), "it")


@pytest.mark.parametrize("length", ["\u00b2", "-1", "1e3", "+5", "9" * 30])
def test_non_numeric_content_length_is_refused(length: str) -> None:
    headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": DIGEST, "Content-Length": length}

    def answer(method: str, path: str) -> Reply:
        if "/manifests/" not in path:
            return 200, {}, b"{}"
        return (200, headers, b"") if method == "HEAD" else (404, {}, b"{}")

    with misbehaving(answer) as server:
        found: object = None
        with suppress(RegistryError):
            found = client().resolve(place(server.host), "it")

    assert found is None


@pytest.mark.parametrize("status", [403, 404, 500])
@pytest.mark.parametrize("body", [DEEP, b'{"errors":["x"]}', b'{"errors":null}', b'{"errors":{"a":1}}', b"\xff"])
def test_words_of_an_error_that_are_invalid(status: int, body: bytes) -> None:
    with misbehaving(refusing(status, {}, body)) as server, pytest.raises(RegistryError):
        client().put_manifest(place(server.host), DIGEST, _index())


def _index() -> Any:
    from assay.evidence.oci import index_of

    made = index_of([])
    object.__setattr__(made, "digest", DIGEST)
    return made


@pytest.mark.parametrize(
    "target", ["http://[::bad/", "file:///etc/passwd", "http://user@evil.example/", "http://a b/", "//", "http://h:0/"]
)
def test_redirects_to_nowhere(target: str) -> None:
    with misbehaving(
        lambda _m, path: (200, {}, b"{}") if path == "/v2/" else (307, {"Location": target}, b"")
    ) as server:
        blob = Descriptor(media_type="x", digest=DIGEST, size=5)
        with pytest.raises(RegistryError):
            client().blob(place(server.host), blob, limit=10)


@pytest.mark.parametrize(
    ("asked", "most"),
    [("3600", 60), ("Fri, 31 Dec 2199 23:59:59 GMT", 60), ("Fri, 31 Dec 99999 23:59:59 GMT", 60), ("\u00b2", 60)],
)
def test_how_long_a_registry_may_ask_to_wait(asked: str, most: float) -> None:
    pauses: list[float] = []
    header = {"Retry-After": asked.encode().decode("latin-1")}
    with misbehaving(refusing(503, header)) as server, pytest.raises(RegistryError, match="503"):
        client(pauses, attempts=50).manifest(place(server.host), "it")

    assert 0 < sum(pauses) <= most


def test_one_byte_a_moment_ends() -> None:
    body = b'{"x":"' + b"y" * 100_000
    slow = (200, {"Content-Type": MANIFEST, "Content-Length": str(len(body))}, trickle(body, 0.02))
    began = time.monotonic()
    with misbehaving(manifest(slow)) as server, pytest.raises(RegistryError, match="too long"):
        client(exchange_seconds=0.5).manifest(place(server.host), "it")

    assert time.monotonic() - began < 5


def test_truncated_body_without_a_length_is_not_an_answer() -> None:
    slow = (200, {"Content-Type": MANIFEST}, trickle(b'{"x":1}' + b" " * 100_000, 0.02))
    with misbehaving(manifest(slow)) as server, pytest.raises(RegistryError, match="too long"):
        client(exchange_seconds=0.5).manifest(place(server.host), "it")


def test_headers_that_never_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                connection, _address = listener.accept()
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

        def drip(connection: socket.socket) -> None:
            with connection:
                try:
                    while True:
                        connection.sendall(b"x")
                        time.sleep(0.02)
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(RegistryError, match="too long"):
            client(exchange_seconds=0.5).manifest(place(f"127.0.0.1:{listener.getsockname()[1]}"), "it")

    assert time.monotonic() - began < 5


def test_all_exchanges_together_end() -> None:
    def answer(_method: str, path: str) -> Reply:
        time.sleep(0.1)
        return (200, {}, b"{}") if path == "/v2/" else (404, {}, b"{}")

    with misbehaving(answer) as server:
        registry = client(operation_seconds=0.5)
        with pytest.raises(RegistryError, match=r"in all|too long"):
            [registry.manifest(place(server.host), f"t{number}") for number in range(100)]

    assert len(server.seen) < 10


def test_long_operations_are_reported(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.adapters.http.deadline.SAID_AFTER", 0.1)

    def answer(_method: str, path: str) -> Reply:
        time.sleep(0.4 if path != "/v2/" else 0)
        return 404, {}, b"{}"

    with misbehaving(answer) as server:
        client(exchange_seconds=3).manifest(place(server.host), "it")

    assert "still waiting for" in caplog.text


# Lists


def test_paginated_list_is_followed() -> None:
    with misbehaving(lambda *_: (200, {}, b'{"tags":[]}')) as other:

        def answer(_method: str, path: str) -> Reply:
            link = {"Link": f'<http://{other.host}/v2/x>; rel="next"'}
            return (200, link, b'{"tags":[]}') if "tags/list" in path else (200, {}, b"{}")

        with misbehaving(answer) as server, pytest.raises(RegistryError, match="another host"):
            client().tags(place(server.host))

        assert not other.seen


def test_names_of_a_list_that_are_invalid_are_skipped() -> None:
    names = ["it", "\x1b[2J", "../../x", "a\nb", 5, None, "x" * 200]

    def answer(_method: str, path: str) -> Reply:
        key = "repositories" if "_catalog" in path else "tags"
        listed = ["team/demo", *names[1:-1]] if "_catalog" in path else names
        return 200, {}, json.dumps({key: listed}).encode()

    with misbehaving(answer) as server:
        assert client().tags(place(server.host)) == ["it"]
        assert client().repositories(server.host) == [place(server.host)]


@pytest.mark.parametrize("body", [DEEP, b'{"tags":[' + b'"a",' * 500_000 + b'"a"]}', b"<html>"])
def test_lists_that_are_invalid(body: bytes) -> None:
    with misbehaving(lambda *_: (200, {}, body)) as server, pytest.raises(RegistryContent):
        client().tags(place(server.host))


def test_a_list_of_referrers_that_is_invalid() -> None:
    def answer(_method: str, path: str) -> Reply:
        return (200, {"Content-Type": INDEX}, DEEP) if "/referrers/" in path else (404, {}, b"{}")

    with misbehaving(answer) as server, pytest.raises(RegistryError) as caught:
        client().referrers(place(server.host), DIGEST)

    assert type(caught.value) is RegistryError


# Credentials

KNOWN = Credentials(username="alice", password="s3cr3t")


@pytest.mark.parametrize(
    ("registry", "realm", "same"),
    [
        ("docker.io", "auth.docker.io", True),
        ("ghcr.io", "ghcr.io", True),
        ("registry.gitlab.com", "gitlab.com", True),
        ("registry.example.com:5000", "auth.example.com:8443", True),
        ("registry.example.co.uk", "auth.example.co.uk", True),
        ("registry.example.co.uk", "evil.co.uk", False),
        ("ours.azurecr.io", "ours.azurecr.io", True),
        ("ours.azurecr.io", "theirs.azurecr.io", False),
        ("registry.example.com", "example.com.evil.test", False),
        ("registry.example.com", "evil-example.com", False),
        ("registry.example.com", "127.0.0.1:80", False),
        ("registry.example.com", "localhost", False),
        ("127.0.0.1:5000", "127.0.0.1:5001", True),
        ("localhost:5000", "[::1]:5001", True),
        ("localhost:5000", "localhost.evil.test", False),
        ("10.0.0.1:5000", "10.0.0.1:5001", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("1.0.0.1", "9.9.0.1", False),
        ("registry", "registry", True),
        ("registry", "evil", False),
        ("docker.io", "[::bad", False),
    ],
)
def test_where_a_password_may_go(registry: str, realm: str, same: bool) -> None:
    assert same_house(registry, realm) is same


def test_a_password_stays_in_the_house(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Challenge(scheme="bearer", parameters={"realm": "https://auth.other.example/token", "service": "s"})
    token = Credentials(username="<token>", identity_token="s3cr3t")
    for known in (KNOWN, token):
        with pytest.raises(RegistryError, match=r"password sent to auth\.other\.example") as caught:
            token_request("registry.example", asked, [], known, insecure=())
        assert caught.value.hint == (f"if that is right, say so: {REALMS_VARIABLE}=registry.example=auth.other.example")
        assert "s3cr3t" not in str(caught.value)
    assert token_request("registry.example", asked, ["a"], None, insecure=()).url.startswith("https://auth.other")
    monkeypatch.setenv(REALMS_VARIABLE, "a=b, registry.example=auth.other.example")
    assert token_request("registry.example", asked, [], KNOWN, insecure=()).method == "GET"


@pytest.mark.parametrize(
    "realm",
    [
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "http://127.0.0.1@evil.example/",
        "http://localhost.evil.example/",
        "http://2130706433/",
        "http://[::bad/",
        "",
    ],
)
def test_realms_that_nothing_is_fetched_from(realm: str) -> None:
    asked = Challenge(scheme="bearer", parameters={"realm": realm})
    for known in (KNOWN, None):
        with pytest.raises(RegistryError):
            token_request("registry.example", asked, [], known, insecure=())


@pytest.mark.parametrize("body", [DEEP, b"[]", b"{}", b'{"token":5}', b'{"token":"a\\r\\nX-Evil: 1"}', b'{"token":""}'])
def test_tokens_that_are_invalid(body: bytes) -> None:
    with pytest.raises(RegistryError, match="no token"):
        token_of(body, "https://auth.example/token")


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"auths":{"x":"\\ud800"}}', b"\xff", b"NaN"])
def test_a_docker_configuration_that_is_invalid(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(RegistryError, match=r"config\.json"):
        DockerConfig(tmp_path).lookup("registry.example")
