"""References mean what docker means by them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import UsageError
from assay.evidence.reference import Reference, Repository

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "host", "path", "tag", "digest"),
    [
        ("localhost:5000/a/b:c", "localhost:5000", "a/b", "c", None),
        ("ghcr.io/a/b", "ghcr.io", "a/b", "latest", None),
        ("vllm/vllm-openai:nightly", "docker.io", "vllm/vllm-openai", "nightly", None),
        ("ubuntu", "docker.io", "library/ubuntu", "latest", None),
        ("localhost/x", "localhost", "x", "latest", None),
        (f"r.io/x@{DIGEST}", "r.io", "x", None, DIGEST),
        (f"r.io:80/x/y__z:t@{DIGEST}", "r.io:80", "x/y__z", "t", DIGEST),
        ("[::1]:5000/x:t", "[::1]:5000", "x", "t", None),
    ],
)
def test_parts(text: str, host: str, path: str, tag: str | None, digest: str | None) -> None:
    expected = Reference(repository=Repository(host=host, path=path), tag=tag, digest=digest)

    assert expected == Reference.parse(text)
    assert (digest or tag) == expected.key


@pytest.mark.parametrize(
    "text", ["", "UPPER/x", "a//b", "r.io/x@sha256:12", "r.io/x:", "r.io/x:t t", "r.io/../x", "r.io/x?y", "a.b/"]
)
def test_invalid_reference_is_reported(text: str) -> None:
    with pytest.raises(UsageError):
        Reference.parse(text)


@given(st.text(max_size=40))
def test_nothing_else_is_raised(text: str) -> None:
    try:
        found = Reference.parse(text)
    except UsageError:
        return

    assert found == Reference.parse(str(found))


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("docker.io/nvidia/cuda:13.0", "mirror.example:5000", "mirror.example:5000/nvidia/cuda:13.0"),
        (f"docker.io/nvidia/cuda:13.0@{DIGEST}", "m.example/hub/x", f"m.example/hub/x/nvidia/cuda:13.0@{DIGEST}"),
        ("debian:12", "m.example", "m.example/library/debian:12"),
        ("ghcr.io/a/b:c", "m.example", "ghcr.io/a/b:c"),
    ],
)
def test_a_mirror_has_the_same_paths(text: str, place: str, expected: str) -> None:
    assert expected == str(Reference.parse(text).mirrored({"docker.io": place}))
