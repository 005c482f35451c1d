"""Credentials are found where Docker keeps them, and never shown."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from assay.adapters.host.process import Completed
from assay.adapters.registry.auth import Challenge, Credentials, DockerConfig, challenges
from assay.errors import RegistryError, ToolError
from assay.evidence.reference import DOCKER_HUB


def config(folder: Path, value: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(value))
    return folder


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


class Helper:
    """A credential helper; remembers how it was asked."""

    def __init__(self, answer: dict[str, str] | str, code: int = 0) -> None:
        self.answer = answer if isinstance(answer, str) else json.dumps(answer)
        self.code = code
        self.asked: list[tuple[tuple[str, ...], bytes]] = []

    def __call__(self, argv: list[str], *, stdin: bytes, timeout: float, check: bool) -> Completed:
        self.asked.append((tuple(argv), stdin))
        return Completed(argv=tuple(argv), returncode=self.code, stdout=self.answer.encode(), stderr=b"", seconds=0.0)


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert DockerConfig(tmp_path).lookup("ghcr.io") is None


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("ghcr.io", "ghcr.io"),
        ("ghcr.io", "https://ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        (DOCKER_HUB, "https://index.docker.io/v1/"),
    ],
)
def test_auths_of_the_file(tmp_path: Path, host: str, key: str) -> None:
    found = DockerConfig(config(tmp_path, {"auths": {key: auth("me:pass:word")}})).lookup(host)

    assert Credentials(username="me", password="pass:word") == found
    assert "pass" not in repr(found)


def test_an_identity_token_counts(tmp_path: Path) -> None:
    entry = {**auth("<token>:"), "identitytoken": "abc"}
    found = DockerConfig(config(tmp_path, {"auths": {"r.io": entry}})).lookup("r.io")

    assert found is not None
    assert found.identity_token == "abc"
    assert "abc" not in repr(found)


def test_registry_specific_credential_helper_is_used_first(tmp_path: Path) -> None:
    helper = Helper({"ServerURL": "r.io", "Username": "u", "Secret": "s"})
    value = {"credHelpers": {"r.io": "own"}, "credsStore": "general", "auths": {"r.io": auth("x:y")}}
    source = DockerConfig(config(tmp_path, value), run=helper)

    assert Credentials(username="u", password="s") == source.lookup("r.io") == source.lookup("r.io")
    assert [(("docker-credential-own", "get"), b"r.io")] == helper.asked


def test_a_helper_may_give_a_token(tmp_path: Path) -> None:
    helper = Helper({"Username": "<token>", "Secret": "t"})
    found = DockerConfig(config(tmp_path, {"credsStore": "x"}), run=helper).lookup(DOCKER_HUB)

    assert found is not None
    assert found.identity_token == "t"
    assert helper.asked[0][1] == b"https://index.docker.io/v1/"


def test_a_helper_that_knows_nothing_is_an_answer(tmp_path: Path) -> None:
    helper = Helper("credentials not found in native keychain\n", code=1)

    assert DockerConfig(config(tmp_path, {"credsStore": "x"}), run=helper).lookup("r.io") is None


def test_a_helper_that_fails_is_reported_without_its_words(tmp_path: Path) -> None:
    helper = Helper("the vault is locked, token=hunter2", code=1)
    with pytest.raises(RegistryError) as caught:
        DockerConfig(config(tmp_path, {"credsStore": "x"}), run=helper).lookup("r.io")

    assert "hunter2" not in str(caught.value)


def test_a_missing_helper_is_reported(tmp_path: Path) -> None:
    def missing(*_: object, **__: object) -> Completed:
        raise ToolError("docker-credential-x is not installed")

    with pytest.raises(RegistryError, match="cannot be asked"):
        DockerConfig(config(tmp_path, {"credsStore": "x"}), run=missing).lookup("r.io")


def test_a_helper_is_a_name_and_not_a_path(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="not the name"):
        DockerConfig(config(tmp_path, {"credsStore": "../../evil"})).lookup("r.io")


@pytest.mark.parametrize("text", ["{", '{"auths": {"r.io": {"auth": "%%%"}}}'])
def test_a_damaged_file_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(RegistryError):
        DockerConfig(tmp_path).lookup("r.io")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://a.io/token",service="a.io",scope="repository:x:pull,push"',
            [("bearer", {"realm": "https://a.io/token", "service": "a.io", "scope": "repository:x:pull,push"})],
        ),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Basic realm="x", Bearer realm="https://y",service=z',
            [("basic", {"realm": "x"}), ("bearer", {"realm": "https://y", "service": "z"})],
        ),
        (r'bearer realm="a\"b"', [("bearer", {"realm": 'a"b'})]),
        ("Negotiate", []),
        ("", []),
    ],
)
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [Challenge(scheme=scheme, parameters=values) for scheme, values in expected] == challenges(header)


@pytest.mark.parametrize("header", ["Bearer " + "a" * 400_000, "Bearer a=" + " " * 400_000, "," + " " * 400_000])
def test_a_challenge_of_one_long_run_takes_no_time(header: str) -> None:
    """The patterns take time that grows with the square of a run."""
    began = time.process_time()
    challenges(header)

    assert time.process_time() - began < 3
