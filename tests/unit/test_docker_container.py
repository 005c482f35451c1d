"""How a container goes, whatever the engine does meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests

from assay.adapters.docker import container as docker_container
from assay.adapters.docker.container import DockerContainer
from assay.errors import EngineError
from assay.ports.engine import ContainerSpec

SLOW = requests.exceptions.ReadTimeout("Read timed out. (read timeout=120)")


def refusal(status: int) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("removal of container x is already in progress", response=response)


def container(*answers: Exception | None) -> tuple[DockerContainer, list[str]]:
    """Return a container of an engine that answers so, one after the other, and who asked."""
    asked: list[str] = []
    waiting = list(answers)

    def remove(name: str, **_: Any) -> None:
        asked.append(name)
        answer = waiting.pop(0)
        if answer is not None:
            raise answer

    client: Any = SimpleNamespace(api=SimpleNamespace(remove_container=remove))
    return DockerContainer(client, "x", ContainerSpec(image="i", run="r")), asked


@pytest.mark.parametrize(
    "answers",
    [
        (None,),
        (docker.errors.NotFound("gone"),),
        (SLOW, None),
        (SLOW, refusal(409), refusal(409), docker.errors.NotFound("gone")),
    ],
    ids=["at once", "gone", "slow", "slow and then under way"],
)
def test_a_container_is_gone_in_the_end(answers: tuple[Exception | None, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.adapters.docker.container.time.sleep", lambda _: None)
    found, asked = container(*answers)

    found.remove()

    assert len(answers) == len(asked)


@pytest.mark.parametrize("answer", [SLOW, refusal(409), refusal(500)], ids=["slow", "under way", "broken"])
def test_an_engine_that_never_removes_it_is_reported(answer: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_container, "_REMOVAL_SECONDS", -1)
    found, _ = container(answer)

    with pytest.raises(EngineError):
        found.remove()
