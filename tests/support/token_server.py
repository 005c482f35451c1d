"""A server of tokens for a real registry (distribution, "Token Authentication Specification"): who may do what."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

SERVICE, ISSUER = "registry.test", "tokens.test"


def _url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer:
    """Gives tokens.

    Args:
        folder: gets the certificate that the registry trusts.
        grants: user -> what may be done where: a pattern of repositories -> actions. `` (nothing) is everybody.
        passwords: user -> password.
    """

    def __init__(
        self, folder: Path, *, grants: Mapping[str, Mapping[str, set[str]]], passwords: Mapping[str, str]
    ) -> None:
        self._grants = grants
        self._passwords = passwords
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)]), datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=self._key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.bundle = folder / "tokens.pem"
        self.bundle.write_bytes(self._certificate.public_bytes(Encoding.PEM))
        self.given: list[tuple[str, list[dict[str, Any]]]] = []
        """To whom which access was given."""
        self.realm = ""

    @property
    def auth(self) -> dict[str, Any]:
        """The registry's `auth` in its configuration."""
        own = {"realm": self.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(self.bundle)}
        return {"token": own}

    @contextmanager
    def serve(self) -> Iterator[None]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

            def do_GET(self) -> None:
                status, body = owner._answer(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.realm = f"http://127.0.0.1:{server.server_address[1]}/token"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()

    def _answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        user = ""
        if authorization.startswith("Basic "):
            user, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
            if self._passwords.get(user) != password:
                return 401, b"{}"
        access = []
        for scope in parse_qs(urlsplit(path).query).get("scope", []):
            kind, name, wanted = scope.split(":")
            allowed: set[str] = set()
            for pattern, actions in self._grants.get(user, {}).items():
                allowed |= actions if re.fullmatch(pattern, name) else set()
            access.append({"type": kind, "name": name, "actions": sorted(set(wanted.split(",")) & allowed)})
        self.given.append((user, access))
        return 200, json.dumps({"token": self._token(user, access)}).encode()

    def _token(self, user: str, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        chain = [base64.b64encode(self._certificate.public_bytes(Encoding.DER)).decode()]
        header = {"typ": "JWT", "alg": "RS256", "x5c": chain}
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + 300,
            "nbf": now - 60,
            "iat": now,
            "jti": str(len(self.given)),
            "access": access,
        }
        signed = f"{_url(json.dumps(header).encode())}.{_url(json.dumps(claims).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_url(signature)}"
