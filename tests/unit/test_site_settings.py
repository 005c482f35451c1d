"""What a site sets for its builds: files that exist, mirrors that can be registries, proxies by name only."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.adapters.host import settings as site
from assay.errors import UsageError


def test_secrets_are_files_that_can_be_read(tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine x\n")

    assert {"netrc": netrc} == site.secrets({"ASSAY_NETRC": str(netrc), "SSL_CERT_FILE": "/nowhere"})
    with pytest.raises(UsageError, match="ASSAY_NETRC names /nowhere"):
        site.secrets({"ASSAY_NETRC": "/nowhere"})


def test_proxies_go_by_name() -> None:
    assert {"https_proxy": None} == site.build_args({"https_proxy": "http://user:word@proxy:3128", "http_proxy": ""})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("docker.io=mirror.example", {"docker.io": "mirror.example"}),
        (
            "docker.io=localhost:5000/hub/ ghcr.io=m.example/g",
            {"docker.io": "localhost:5000/hub", "ghcr.io": "m.example/g"},
        ),
        ("docker.io=a.example,quay.io=b.example", {"docker.io": "a.example", "quay.io": "b.example"}),
    ],
)
def test_mirrors(text: str, expected: dict[str, str]) -> None:
    assert expected == site.mirrors({site.MIRRORS: text})


@pytest.mark.parametrize(
    "text",
    ["mirror.example", "docker.io=", "=x.example", "docker.io=https://x.example", "docker.io=hub/x", "hub=x.example"],
)
def test_malformed_mirror_setting_is_reported(text: str) -> None:
    with pytest.raises(UsageError, match="is not REGISTRY=MIRROR"):
        site.mirrors({site.MIRRORS: text})
