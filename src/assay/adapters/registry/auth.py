"""Credentials as Docker keeps them, and the tokens that registries give for them.

Sources: Docker's config.json reference (credHelpers, credsStore, auths); distribution's token and OAuth2 specifications
("Token Authentication Specification", "Oauth2 Token Authentication"). Credentials come from the helper program by its
standard output, never stand in an argument list, and are left out of every repr.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from assay.adapters.host import process
from assay.errors import RegistryError, ToolError
from assay.evidence.reference import DOCKER_HUB
from assay.foundation.foreign import ForeignError, read_json

__all__ = ["Anonymous", "Challenge", "CredentialSource", "Credentials", "DockerConfig", "challenges"]

_HUB_KEY: Final = "https://index.docker.io/v1/"
_HELPER: Final = re.compile(r"[A-Za-z0-9._-]+")
_HELPER_SECONDS: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A name and a password, or an identity token that buys access tokens."""

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class CredentialSource(Protocol):
    """A source of credentials for a registry."""

    def lookup(self, host: str) -> Credentials | None:
        """Return the credentials of a registry by its host name."""


class Anonymous:
    """Has no credentials: what others see."""

    def lookup(self, host: str) -> Credentials | None:  # noqa: ARG002
        """Return None."""
        return None


class DockerConfig:
    """The credentials that `docker login` and `docker logout` manage."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        run: Callable[..., process.Completed] = process.run,
    ) -> None:
        configured = os.environ.get("DOCKER_CONFIG")
        self._folder = folder or (Path(configured) if configured else Path.home() / ".docker")
        self._run = run
        self._known: dict[str, Credentials | None] = {}

    def lookup(self, host: str) -> Credentials | None:
        """Return the credentials of a registry: its own helper first, then the general one, then what the file holds.

        Raises:
            RegistryError: config.json cannot be read, or a helper fails for another reason than not knowing.
        """
        if host not in self._known:
            self._known[host] = self._find(host)
        return self._known[host]

    def _find(self, host: str) -> Credentials | None:
        config = self._config()
        key = _HUB_KEY if host == DOCKER_HUB else host
        helpers = _table(config, "credHelpers")
        helper = helpers.get(host) or helpers.get(key) or config.get("credsStore")
        if isinstance(helper, str) and helper:
            return self._ask(helper, key)
        auths = _table(config, "auths")
        for name in (key, host, f"https://{host}", f"https://{host}/v2/", f"http://{host}"):
            if isinstance(entry := auths.get(name), dict) and (found := _entry(entry, name)) is not None:
                return found
        return None

    def _config(self) -> Mapping[str, Any]:
        path = self._folder / "config.json"
        try:
            value = read_json(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ForeignError) as error:
            raise RegistryError(
                f"{path} cannot be read: {error if isinstance(error, ForeignError) else type(error).__name__}",
                hint="docker login writes it",
            ) from error
        return value if isinstance(value, dict) else {}

    def _ask(self, helper: str, key: str) -> Credentials | None:
        if not _HELPER.fullmatch(helper):
            raise RegistryError(f"{helper!r} in config.json is not the name of a credential helper")
        program = f"docker-credential-{helper}"
        try:
            done = self._run([program, "get"], stdin=key.encode(), timeout=_HELPER_SECONDS, check=False)
        except ToolError as error:
            raise RegistryError(
                f"{program}, which config.json names, cannot be asked: {error.message}",
                hint="install it, or docker logout",
            ) from error
        if done.returncode != 0:
            words = (done.stdout + done.stderr).decode(errors="replace").lower()
            if "not found" in words:
                return None
            # What it wrote is not repeated: nobody promises that it holds no secret.
            raise RegistryError(
                f"{program} failed for {key} with code {done.returncode}", hint=f"echo {key} | {program} get"
            )
        try:
            value = read_json(done.stdout)
            username, secret = value["Username"], value["Secret"]
        except (ForeignError, KeyError, TypeError) as error:
            raise RegistryError(f"{program} answered something that is not credentials") from error
        if not isinstance(username, str) or not isinstance(secret, str):
            raise RegistryError(f"{program} answered something that is not credentials")
        if username == "<token>":
            return Credentials(username=username, identity_token=secret)
        return Credentials(username=username, password=secret)


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}


def _entry(entry: Mapping[str, Any], name: str) -> Credentials | None:
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if isinstance(auth := entry.get("auth"), str) and auth:
        try:
            username, _, password = base64.b64decode(auth, validate=True).decode().rstrip("\0").partition(":")
        except ValueError as error:
            raise RegistryError(f"the entry of {name} in config.json is damaged", hint="docker login again") from error
    token = str(entry.get("identitytoken", ""))
    if not (username or token):
        return None
    return Credentials(username=username or "<token>", password=password, identity_token=token)


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What a 401 asks for: `basic`, or `bearer` with realm, service and scope."""

    scheme: str
    parameters: Mapping[str, str]


_MAX_CHALLENGE: Final = 8192
"""Characters of a header; those of real registries have some 200."""
_SCHEME: Final = re.compile(r"(?:^|,)\s*(Bearer|Basic)(?=\s|$|,)", re.IGNORECASE)
_PARAMETER: Final = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


def challenges(header: str) -> list[Challenge]:
    """Read a WWW-Authenticate header (RFC 9110, section 11.6.1) as far as registries use it."""
    # The patterns take time that grows with the square of a run of letters or spaces.
    header = header[:_MAX_CHALLENGE]
    starts = list(_SCHEME.finditer(header))
    found: list[Challenge] = []
    for number, start in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(header)
        parameters = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain
            for name, quoted, plain in _PARAMETER.findall(header[start.end() : end])
        }
        found.append(Challenge(scheme=start[1].lower(), parameters=parameters))
    return found
