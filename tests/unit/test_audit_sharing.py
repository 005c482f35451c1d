"""Facts in a registry: put and taken once, and not believed to be what they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from wheels import facts, library

from assay.adapters.files.facts_cache import FactsCache
from assay.adapters.registry.fake import FakeRegistry
from assay.errors import RegistryError, WheelError
from assay.evidence.oci import EMPTY_BYTES, Descriptor, bundle
from assay.evidence.reference import Reference
from assay.foundation.digest import sha256_of
from assay.pipeline.share_facts import ARTIFACT, LAYER, READER_KEY, TITLE, WHEEL, pull_facts, push_facts
from assay.wheels.facts import READER, WheelFacts
from assay.wheels.facts_file import dump_facts, load_facts

PLACE = Reference.parse("registry.test/team/facts:v1")
ONE = facts("torch", "2.8.0", library("torch/lib/libc10.so", defined=("_ZN3c105checkEv",)), sha256="1" * 64)
TWO = facts("sgl-kernel", "0.3.9.post2", sha256="2" * 64)
PART = facts("half", "1", sha256="3" * 64, complete=False)


def test_what_is_put_is_what_others_take(tmp_path: Path) -> None:
    registry, here = FakeRegistry(), FactsCache(tmp_path)
    done = push_facts(registry, PLACE, [ONE, TWO, PART])
    took = pull_facts(registry, PLACE, here)

    assert ("torch 2.8.0", "sgl-kernel 0.3.9.post2") == done.moved
    assert {"torch 2.8.0", "sgl-kernel 0.3.9.post2"} == set(took.moved)
    assert (ONE, TWO, None) == tuple(FactsCache(tmp_path).get(item.sha256) for item in (ONE, TWO, PART))
    assert ((), 2) == ((again := pull_facts(registry, PLACE, here)).moved, again.known)


def test_a_second_push_adds_to_the_first_and_sends_nothing_twice(tmp_path: Path) -> None:
    registry = FakeRegistry()
    push_facts(registry, PLACE, [ONE])
    registry.calls.clear()
    done = push_facts(registry, PLACE, [ONE, TWO])

    assert ("sgl-kernel 0.3.9.post2",) == done.moved
    assert 1 == done.known
    assert {"torch 2.8.0", "sgl-kernel 0.3.9.post2"} == set(pull_facts(registry, PLACE, FactsCache(tmp_path)).moved)


def test_only_what_is_asked_for_is_taken(tmp_path: Path) -> None:
    registry = FakeRegistry()
    push_facts(registry, PLACE, [ONE, TWO])

    assert ("torch 2.8.0",) == pull_facts(
        registry, PLACE, FactsCache(tmp_path), wanted=lambda title: title.startswith("torch-")
    ).moved


def test_facts_of_another_reader_are_left(tmp_path: Path) -> None:
    """An older one's would be read again at once; a newer one's cannot be read."""
    registry = FakeRegistry()
    newer = ONE.model_copy(update={"reader": READER + 1})
    push_facts(registry, PLACE, [newer])

    assert () == pull_facts(registry, PLACE, FactsCache(tmp_path)).moved
    assert () == push_facts(registry, PLACE, [ONE]).moved


def put(registry: FakeRegistry, found: WheelFacts, *, announced: str, artifact_type: str = ARTIFACT) -> None:
    data = dump_facts(found)
    registry.put_blob(PLACE.repository, data)
    registry.put_blob(PLACE.repository, EMPTY_BYTES)
    layer = Descriptor(media_type=LAYER, digest=sha256_of(data), size=len(data),
                       annotations={WHEEL: announced, READER_KEY: str(READER), TITLE: "x-1.facts.json.gz"})  # fmt: skip
    registry.put_manifest(PLACE.repository, "v1", bundle(artifact_type=artifact_type, layers=[layer]))


def test_what_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    registry, here = FakeRegistry(), FactsCache(tmp_path)
    with pytest.raises(RegistryError, match="there is no"):
        pull_facts(registry, PLACE, here)
    put(registry, ONE, announced=TWO.sha256)
    with pytest.raises(WheelError, match="another wheel"):
        pull_facts(registry, PLACE, here)
    put(registry, ONE, announced=ONE.sha256, artifact_type="application/vnd.other")
    with pytest.raises(RegistryError, match="has no wheel facts"):
        pull_facts(registry, PLACE, here)
    with pytest.raises(RegistryError, match="has no wheel facts"):
        push_facts(registry, PLACE, [ONE])
    with pytest.raises(RegistryError, match="no complete facts"):
        push_facts(registry, Reference.parse("registry.test/empty:v1"), [PART])

    assert [] == here.listed()


@pytest.mark.parametrize(
    ("name", "version"), [("../../evil", "1"), ("a", "../../1"), ("/a", "1"), ("a", ""), ("A", "1")]
)
def test_names_that_would_be_paths_are_refused(tmp_path: Path, name: str, version: str) -> None:
    """Facts come from other machines, and are kept under their names."""
    data = dump_facts(ONE.model_copy(update={"name": name, "version": version}))
    with pytest.raises(WheelError, match="not a distribution"):
        load_facts(data, source="x")
    exported = b'{"sha256": "%s", "bytes": %d}\n' % (ONE.sha256.encode(), len(data)) + data
    with pytest.raises(WheelError, match="not a distribution"):
        FactsCache(tmp_path / "facts").take(exported, source="x")

    assert [] == list(tmp_path.rglob("*.gz"))
