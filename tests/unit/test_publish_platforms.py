"""Platforms of one cell are joined under one tag; each keeps its own manifest and evidence."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from platform_tools import FAMILY, MEMBERS, cell_of, publish_platform
from publish_tools import NOW, SUITE, gear, policy

from assay.adapters.registry.fake import FakeRegistry
from assay.errors import PolicyRefused, RegistryError
from assay.evidence.judging import Verification
from assay.evidence.reference import Reference, Repository
from assay.foundation.platforms import Platform
from assay.matrix.model import AxisValue
from assay.pipeline.publishing.candidate import Promise
from assay.pipeline.publishing.joining import families, join, join_all
from assay.pipeline.revoke import revoke
from assay.pipeline.verify import verify

HOST = "registry.test"
RELEASE = Repository(host=HOST, path="team/demo")
RULES = policy(HOST)
TAG = f"{FAMILY}-multi"


def _publish(registry: FakeRegistry, folder: Path, own: Platform, **of_records: Any) -> str:
    return publish_platform(registry, folder, HOST, own, **of_records)


def _look(registry: FakeRegistry, folder: Path, tag: str, **changes: Any) -> Verification:
    return verify(
        Reference.parse(f"{RELEASE}:{tag}"), registry=registry, verifier=gear(registry, folder).verifier,
        level="verified", target=None, policy=None, suite=None, now=NOW, **changes,
    )  # fmt: skip


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def promise() -> Promise:
    return Promise(policy=RULES, level="verified", suite=SUITE)


def test_cells_that_differ_in_platform_alone_are_a_family() -> None:
    other = cell_of(Platform.AMD64).model_copy(update={"id": "demo-x", "point": {"torch": AxisValue(id="2.9.0")}})

    assert [MEMBERS] == families([*MEMBERS, other])


def test_one_platform_makes_no_index(registry: FakeRegistry, promise: Promise, tmp_path: Path) -> None:
    _publish(registry, tmp_path, Platform.AMD64)

    assert join(MEMBERS, promise, gear(registry, tmp_path)) is None
    assert registry.resolve(RELEASE, TAG) is None


def test_two_platforms_are_joined_and_each_is_verified_by_its_own_evidence(
    registry: FakeRegistry, promise: Promise, tmp_path: Path
) -> None:
    digests = {platform: _publish(registry, tmp_path, platform) for platform in Platform}

    assert [TAG] == join_all(families(MEMBERS), promise, gear(registry, tmp_path))
    index = registry.manifest(RELEASE, TAG)
    assert index is not None
    assert {entry.platform: entry.digest for entry in index.manifests} == digests
    for platform, digest in digests.items():
        seen = _look(registry, tmp_path, TAG, platform=platform)
        assert (seen.ok, seen.subject.digest) == (True, digest)
        assert {one.platform for judgement in seen.judgements for one in judgement.probes} == {platform}
        assert _look(registry, tmp_path, TAG, otherwise=platform).subject.digest == digest


def test_joining_again_writes_nothing(registry: FakeRegistry, promise: Promise, tmp_path: Path) -> None:
    for platform in Platform:
        _publish(registry, tmp_path, platform)
    tools = gear(registry, tmp_path)
    join(MEMBERS, promise, tools)
    registry.calls.clear()
    join(MEMBERS, promise, tools)

    assert not [call for call in registry.calls if call[0].startswith("put")]


def test_a_revoked_platform_is_left_out(registry: FakeRegistry, promise: Promise, tmp_path: Path) -> None:
    digests = {platform: _publish(registry, tmp_path, platform) for platform in Platform}
    tools = gear(registry, tmp_path)
    reference = Reference.parse(RELEASE.at(digests[Platform.ARM64]))
    revoke(reference, reason="it hangs", to=None, policy=RULES, ports=tools, write=True)

    assert join(MEMBERS, promise, tools) is None


def test_records_of_another_platform_publish_nothing(registry: FakeRegistry, tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match=r"was measured on linux/amd64, which says nothing about linux/arm64"):
        _publish(registry, tmp_path, Platform.ARM64, platform=Platform.AMD64)


def test_a_platform_that_is_not_published_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    _publish(registry, tmp_path, Platform.AMD64, created=NOW - timedelta(days=1))

    with pytest.raises(RegistryError, match="not for linux/arm64"):
        _look(registry, tmp_path, FAMILY, platform=Platform.ARM64)
