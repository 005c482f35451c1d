"""What the SDK wraps in reprs of reprs is told in the system's words."""

from __future__ import annotations

import docker.errors
import pytest
import requests.exceptions

from assay.adapters.docker.errors import HINT_ENGINE, HINT_GROUP, transfer_failed, translated
from assay.errors import AssayError, EngineError, EngineMissing, RegistryError


def wrapped(inner: OSError) -> Exception:
    """An error as the Docker SDK raises it when nothing listens: urllib3's and requests' errors around the system's."""
    aborted = requests.exceptions.ConnectionError(Exception("Connection aborted.", inner))
    made = docker.errors.DockerException(f"Error while fetching server API version: {aborted}")
    made.__cause__ = aborted
    return made


@pytest.mark.parametrize(
    ("inner", "words", "hint"),
    [
        (FileNotFoundError(2, "No such file or directory"), "No such file or directory", HINT_ENGINE),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused", HINT_ENGINE),
        (PermissionError(13, "Permission denied"), "Permission denied", HINT_GROUP),
    ],
)
def test_an_engine_that_does_not_answer(inner: OSError, words: str, hint: str) -> None:
    with pytest.raises(EngineMissing) as caught, translated("connecting to unix:///x.sock"):
        raise wrapped(inner)

    assert f"connecting to unix:///x.sock: no container engine answers: {words}" == caught.value.message
    assert hint == caught.value.hint


def test_words_without_a_system_error_stay() -> None:
    with pytest.raises(EngineMissing, match="Invalid bind address protocol"), translated("connecting"):
        raise docker.errors.DockerException("Invalid bind address protocol: bogus://x")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("write /var/lib/containerd/x: no space left on device", EngineError),
        ("failed to register layer: write /opt/x.so: No space left on device", EngineError),
        ("manifest unknown", RegistryError),
        ("toomanyrequests: You have reached your pull rate limit.", RegistryError),
    ],
)
def test_a_full_disk_of_the_engine_is_not_the_registrys(said: str, kind: type[AssayError]) -> None:
    assert type(transfer_failed("pulling x:1", said)) is kind


def test_an_engine_that_is_busy_is_not_gone() -> None:
    with pytest.raises(EngineMissing, match="takes too long to answer"), translated("removing x"):
        raise requests.exceptions.ReadTimeout("Read timed out. (read timeout=120)")
