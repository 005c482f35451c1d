"""What several integration tests stand on: a base bootstrapped from the distribution's packages, made once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest
from base_image import RECIPE, Bootstrapped

from assay.adapters.docker.bootstrap import DebootstrapBases, missing_tools
from assay.adapters.docker.engine import DockerEngine
from assay.ports.base import BaseImage


@pytest.fixture(scope="session")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bootstrapped]:
    """A base that two runs wanted at the same time."""
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root")
    assert [] == missing_tools(), "quickstart installs what the tests need"
    reference = f"assay/test-base:{uuid4().hex[:8]}"
    scratch = tmp_path_factory.mktemp("scratch")
    found: list[BaseImage] = []

    def ensure() -> None:
        found.append(DebootstrapBases(DockerEngine(), scratch=scratch).ensure(RECIPE, reference))

    threads = [threading.Thread(target=ensure) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2 == len(found)
    yield Bootstrapped(next(base for base in found if base.built), found, scratch)
    DockerEngine().remove_image(reference, force=True)
