"""The client over real HTTP: basic and token authorisation, redirects, rate limits, TLS; and secrets stay secret."""

from __future__ import annotations

import base64
import json
import logging
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from publish_tools import NOW, both, candidate, gear, policy, publish
from registry_tools import free_port, put_image, real_registry, registry_program
from token_server import TokenServer

from assay.adapters.registry import http as registry_http
from assay.adapters.registry.auth import Anonymous, Credentials, CredentialSource, DockerConfig
from assay.adapters.registry.client import HttpRegistry
from assay.adapters.registry.http import Transport
from assay.errors import RegistryError, TagImmutable
from assay.evidence.oci import Descriptor, index_of
from assay.evidence.reference import Reference, Repository
from assay.foundation.digest import sha256_of
from assay.pipeline.verify import verify

# bcrypt of the password below, as `htpasswd -B` writes it.
PASSWORD = "s3cret-word"
HTPASSWD = "me:$2b$04$VzftenK1aEYr0s6DtJOzreIGtgtqjnNku6UN2uB8HwF6zgXjc3QxG\n"


class Fixed:
    """Always the same credentials."""

    def __init__(self, **values: str) -> None:
        self.credentials = Credentials(**{"username": "me", **values})

    def lookup(self, host: str) -> Credentials | None:
        return self.credentials


def client(source: CredentialSource, **changes: Any) -> HttpRegistry:
    return HttpRegistry(Transport(credentials=source, **{"sleep": lambda _: None, "attempts": 4, **changes}))


@pytest.mark.registry
def test_basic_authorisation_with_a_real_registry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with real_registry(tmp_path, htpasswd=HTPASSWD) as host:
        (tmp_path / "config.json").write_text(
            json.dumps({"auths": {host: {"auth": base64.b64encode(f"me:{PASSWORD}".encode()).decode()}}})
        )
        repository = Repository(host=host, path="x")
        manifest = put_image(client(DockerConfig(tmp_path)), repository, "one")

        assert manifest.descriptor == client(DockerConfig(tmp_path)).resolve(repository, "one")
        with pytest.raises(RegistryError, match="401") as caught:
            client(Anonymous()).resolve(repository, "one")
        assert caught.value.hint is not None
        assert "docker login" in caught.value.hint
        with pytest.raises(RegistryError, match="401"):
            client(Fixed(password="wrong")).resolve(repository, "one")
    assert PASSWORD not in caplog.text
    assert base64.b64encode(f"me:{PASSWORD}".encode()).decode() not in caplog.text


@pytest.mark.registry
def test_a_credential_helper_is_asked_by_its_input_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    helper = tmp_path / "docker-credential-vault"
    helper.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/argv\ncat > {tmp_path}/stdin\n'
        f'echo \'{{"ServerURL":"x","Username":"me","Secret":"{PASSWORD}"}}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "config.json").write_text('{"credsStore": "vault"}')
    with real_registry(tmp_path / "registry", htpasswd=HTPASSWD) as host:
        put_image(client(DockerConfig(tmp_path)), Repository(host=host, path="x"), "one")

    assert (tmp_path / "argv").read_text() == "get\n"
    assert (tmp_path / "stdin").read_text() == host
    assert PASSWORD not in caplog.text


class Guarded:
    """A registry's doors only: gives tokens by scope, checks them, and says what was asked."""

    def __init__(self) -> None:
        self.tokens: dict[str, set[str]] = {}
        self.asked: list[tuple[str, str, str]] = []
        """Method, path, kind of authorisation."""
        self.scopes: list[list[str]] = []
        self.foreign: list[str | None] = []
        """The authorisation that arrived at another host after a redirect."""
        self.redirect: str | None = None
        self.limit = 0
        self.refusal: tuple[int, str] | None = None
        """What every PUT is answered."""
        self.identity: list[str] = []

    @contextmanager
    def serve(self, *, tls: ssl.SSLContext | None = None) -> Iterator[str]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

            def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_GET(self) -> None:
                owner.handle(self)

            do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self.host = f"127.0.0.1:{server.server_address[1]}"
        self.scheme = "https" if tls else "http"
        try:
            yield self.host
        finally:
            server.shutdown()
            server.server_close()

    def handle(self, request: Any) -> None:
        parts = urlsplit(request.path)
        given = request.headers.get("Authorization")
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.asked.append((request.command, parts.path, (given or "none").split()[0]))
        if parts.path == "/token":
            scopes = parse_qs(parts.query or body.decode()).get("scope", [])
            scopes = [scope for text in scopes for scope in text.split()]
            self.scopes.append(scopes)
            self.identity += parse_qs(body.decode()).get("refresh_token", [])
            token = f"token-{len(self.tokens)}"
            self.tokens[token] = set(scopes)
            request.answer(200, {}, json.dumps({"token": token}).encode())
        elif parts.path == "/elsewhere":
            self.foreign.append(given)
            request.answer(200, {}, b"blob")
        elif request.command == "PUT" and self.refusal:
            request.answer(self.refusal[0], {}, json.dumps({"errors": [{"message": self.refusal[1]}]}).encode())
        elif self.limit > 0:
            self.limit -= 1
            request.answer(429, {"Retry-After": "0"}, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}')
        elif self.wanted(request.command, parts.path) not in self.tokens.get(
            (given or "").removeprefix("Bearer "), set()
        ):
            realm = f'Bearer realm="{self.scheme}://{self.host}/token",service="test",scope="whatever"'
            request.answer(401, {"WWW-Authenticate": realm})
        elif request.command == "GET" and parts.path.split("/")[3] in ("blobs", "referrers") and self.redirect:
            request.answer(307, {"Location": self.redirect})
        elif request.command == "POST":
            request.answer(201, {"Location": "/v2/x"})
        else:
            request.answer(404, {})

    @staticmethod
    def wanted(method: str, path: str) -> str:
        name = path.split("/")[2]
        return f"repository:{name}:pull,push" if method == "POST" else f"repository:{name}:pull"


def test_tokens_are_asked_for_by_scope_and_kept() -> None:
    server = Guarded()
    with server.serve() as host:
        registry = client(Fixed(password=PASSWORD))
        for _ in range(3):
            registry.resolve(Repository(host=host, path="x"), "t")

    assert [["repository:x:pull"]] == server.scopes
    assert ("GET", "/token", "Basic") in server.asked
    assert 3 == sum(kind == "Bearer" for _, _, kind in server.asked)


def test_a_mount_asks_for_both_repositories() -> None:
    server = Guarded()
    with server.serve() as host:
        registry = client(Anonymous())
        mounted = registry.mount(
            Repository(host=host, path="release"), sha256_of(b"x"), Repository(host=host, path="staging")
        )

    assert mounted
    assert ["repository:release:pull,push", "repository:staging:pull"] in server.scopes


def test_an_expired_token_is_requested_again() -> None:
    server = Guarded()
    with server.serve() as host:
        registry = client(Anonymous())
        registry.resolve(Repository(host=host, path="x"), "t")
        server.tokens.clear()
        registry.resolve(Repository(host=host, path="x"), "t")

    assert 2 == len(server.scopes)


def test_an_identity_token_buys_access_tokens() -> None:
    server = Guarded()
    with server.serve() as host:
        client(Fixed(identity_token="refresh-me")).resolve(Repository(host=host, path="x"), "t")

    assert ["refresh-me"] == server.identity
    assert ("POST", "/token", "none") in server.asked


def test_a_redirect_to_another_host_goes_without_credentials() -> None:
    registry, storage = Guarded(), Guarded()
    with registry.serve() as host, storage.serve() as elsewhere:
        registry.redirect = f"http://{elsewhere}/elsewhere?signature=secret"
        blob = Descriptor(media_type="x", digest=sha256_of(b"blob"), size=4)
        data = client(Anonymous()).blob(Repository(host=host, path="x"), blob, limit=100)

    assert b"blob" == data
    assert [None] == storage.foreign


def test_a_list_of_referrers_that_is_elsewhere_is_none() -> None:
    """As on ghcr.io: the page that it sends to answers anything, and soon limits how often it is asked."""
    registry, page = Guarded(), Guarded()
    with registry.serve() as host, page.serve() as elsewhere:
        registry.redirect = f"http://{elsewhere}/elsewhere"
        found = client(Anonymous()).referrers(Repository(host=host, path="x"), sha256_of(b"image"))

    assert ([], False) == found
    assert [] == page.asked
    assert ("GET", f"/v2/x/manifests/sha256-{sha256_of(b'image')[7:]}", "Bearer") in registry.asked


@pytest.mark.parametrize(
    ("status", "words", "immutable"),
    [
        (412, "Failed to process request due to 'x:t' configured as immutable.", True),
        (400, "The image tag 't' already exists in the 'x' repository and cannot be overwritten", True),
        (409, "", True),
        (400, "manifest invalid", False),
        (403, "requested access to the resource is denied", False),
    ],
)
def test_immutable_tag_is_distinguished_from_other_refusals(status: int, words: str, immutable: bool) -> None:
    server = Guarded()
    server.refusal = (status, words)
    manifest = index_of([])
    with server.serve() as host, pytest.raises(RegistryError) as caught:
        client(Anonymous()).put_manifest(Repository(host=host, path="x"), "t", manifest)

    assert immutable == isinstance(caught.value, TagImmutable)
    assert immutable == ("immutability rule" in (caught.value.hint or ""))


def test_repository_name_does_not_count_as_an_immutability_rule() -> None:
    server = Guarded()
    server.refusal = (400, "manifest invalid")
    with server.serve() as host, pytest.raises(RegistryError) as caught:
        client(Anonymous()).put_manifest(Repository(host=host, path="immutable/overwritten"), "t", index_of([]))

    assert not isinstance(caught.value, TagImmutable)


def test_a_rate_limit_is_waited_out() -> None:
    server = Guarded()
    waited: list[float] = []
    with server.serve() as host:
        registry = client(Anonymous(), sleep=waited.append)
        registry.resolve(Repository(host=host, path="x"), "t")
        server.limit = 3

        assert registry.resolve(Repository(host=host, path="x"), "u") is None
        assert [0.0, 0.0, 0.0] == waited
        server.limit = 100
        with pytest.raises(RegistryError, match="TOOMANYREQUESTS slow down") as caught:
            registry.manifest(Repository(host=host, path="x"), "u")
        assert "later" in str(caught.value)


def test_tokens_are_not_fetched_from_another_host_without_tls() -> None:
    class Phishing(Guarded):
        def handle(self, request: Any) -> None:
            request.rfile.read(int(request.headers.get("Content-Length") or 0))
            realm = 'Bearer realm="http://collector.example/token",service="x"'
            request.answer(401, {"WWW-Authenticate": realm})

    server = Phishing()
    with server.serve() as host, pytest.raises(RegistryError, match="not https"):
        client(Fixed(password=PASSWORD)).resolve(Repository(host=host, path="x"), "t")


def test_signed_addresses_are_not_in_messages() -> None:
    server = Guarded()
    with server.serve() as host:
        server.redirect = "http://127.0.0.1:1/gone?signature=secret"
        blob = Descriptor(media_type="x", digest=sha256_of(b"blob"), size=4)
        with pytest.raises(RegistryError) as caught:
            client(Anonymous(), attempts=1).blob(Repository(host=host, path="x"), blob, limit=100)

    assert "secret" not in str(caught.value)


def test_a_sites_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Guarded()
    with server.serve() as host:
        assert client(Anonymous()).resolve(Repository(host=host, path="x"), "t") is None
    assert server.asked


def test_unreachable_server_is_reported_quickly() -> None:
    started = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        HttpRegistry(Transport(credentials=Anonymous())).resolve(Repository(host="127.0.0.1:1", path="x"), "t")

    assert time.monotonic() - started < 15
    assert "no registry answers at 127.0.0.1:1" in str(caught.value)
    assert "docker-registry serve docs/examples/registry.yml" in str(caught.value)


@pytest.mark.registry
def test_the_registry_of_the_documentation_takes_an_image(root: Path, tmp_path: Path) -> None:
    """As written, but for another folder and port: it starts, asks for no account, and deletes by digest."""
    program = registry_program()
    assert program is not None
    host = f"127.0.0.1:{free_port()}"
    own = {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(tmp_path), "REGISTRY_HTTP_ADDR": host}
    process = subprocess.Popen(
        [program, "serve", root / "docs" / "examples" / "registry.yml"],
        env={**os.environ, **own},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        registry, where = (
            HttpRegistry(Transport(credentials=Anonymous())),
            Repository(host=host, path="assay/staging/x"),
        )
        image = put_image(registry, where, "x")
        registry.delete_manifest(where, image.digest)
        left = registry.resolve(where, "x")
    finally:
        process.terminate()
        process.wait(10)

    assert left is None


def _certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    moment = datetime.now(UTC)
    import ipaddress

    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(hours=1))
        .not_valid_after(moment + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "ca.crt", folder / "key.pem"


def test_tls_is_checked_against_the_registrys_own_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Guarded()
    monkeypatch.setattr(registry_http, "CERTIFICATES", tmp_path / "certs.d")
    with server.serve(tls=context) as host:
        with pytest.raises(RegistryError, match="TLS failed") as caught:
            client(Anonymous()).resolve(Repository(host=host, path="x"), "t")
        assert "ca.crt" in str(caught.value)
        folder = tmp_path / "certs.d" / host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certificate.read_bytes())

        assert client(Anonymous()).resolve(Repository(host=host, path="x"), "t") is None


@pytest.mark.registry
def test_a_real_registry_with_tls_and_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one stands in a network: its own CA, an account, large blobs in pieces, a mount from another repository."""
    certificate, key = _certificate(tmp_path)
    monkeypatch.setattr(registry_http, "CERTIFICATES", tmp_path / "certs.d")
    with real_registry(tmp_path / "registry", htpasswd=HTPASSWD, tls=(certificate, key)) as host:
        (tmp_path / "certs.d" / host).mkdir(parents=True)
        (tmp_path / "certs.d" / host / "ca.crt").write_bytes(certificate.read_bytes())
        registry = HttpRegistry(Transport(credentials=Fixed(password=PASSWORD)), chunk=1 << 16)
        staging, release = (Repository(host=host, path=path) for path in ("staging/x", "x"))
        image = put_image(registry, staging, "one", content=os.urandom(200_000))
        mounted = [registry.mount(release, blob.digest, staging) for blob in image.blobs]
        registry.put_manifest(release, "one", image)

        assert all(mounted)
        assert image == registry.manifest(release, "one")
        assert "https://" in registry._http.base(release.host)
        with pytest.raises(RegistryError, match="401"):
            client(Anonymous()).resolve(release, "one")


@pytest.mark.registry
def test_builders_publishers_and_readers_of_a_real_registry_with_tokens(tmp_path: Path) -> None:
    """Builders write staging alone, the publisher writes release, everybody reads it: by tokens, as in real places."""
    everything, reading = {"pull", "push"}, {"pull"}
    grants = {
        "": {"team/demo": reading},
        "builder": {"team/staging/.*": everything},
        "publisher": {"team/staging/.*": reading, "team/demo": everything},
    }
    tokens = TokenServer(tmp_path, grants=grants, passwords=dict.fromkeys(("builder", "publisher"), PASSWORD))
    with tokens.serve(), real_registry(tmp_path / "registry", auth=tokens.auth) as host:
        staging, release = (Repository(host=host, path=path) for path in ("team/staging/demo", "team/demo"))
        builder = client(Fixed(username="builder", password=PASSWORD))
        publisher = client(Fixed(username="publisher", password=PASSWORD))
        reader = client(Anonymous())
        image = put_image(builder, staging, "key")
        with pytest.raises(RegistryError, match="401") as caught:
            put_image(builder, release, "key")
        with pytest.raises(RegistryError, match="401"):
            publisher.put_manifest(staging, "other", image)
        publish(candidate(), policy(host), both, gear(publisher, tmp_path, reader=reader))
        seen = verify(
            Reference(repository=release, tag="sm120-verified"),
            registry=reader,
            verifier=gear(reader, tmp_path).verifier,
            level=None,
            target=None,
            policy=None,
            suite=None,
            now=NOW,
        )

    assert caught.value.hint is not None
    assert "docker login" in caught.value.hint
    assert seen.ok
    assert image.digest == seen.subject.digest
    # A mount is the one request that needs two permissions at once.
    assert [["pull", "push"], ["pull"]] in [[one["actions"] for one in access] for _, access in tokens.given]
