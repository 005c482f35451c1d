"""Indexes of vendors, laid out as https://flashinfer.ai/whl and https://docs.sglang.ai/whl are, are ordinary indexes.

Their pages are plain HTML: no Requires-Python, no metadata files, a plus sign that is not escaped, every file on
another host that redirects to an address with a signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from wheels import FileServer, serving, wheel_bytes

from assay.adapters.index.simple import Addresses, SimpleIndex, WebWheels
from assay.cli import main
from assay.errors import PackageIndexError
from assay.matrix.model import Index
from assay.pipeline.read_wheel import Depth, read_wheel
from assay.pipeline.wheel_choice import choose_wheel

ROOT = Path(__file__).parents[2]
ELF = (ROOT / "tests" / "fixtures" / "elf" / "libconsumer.so").read_bytes()
FLASHINFER = """<!DOCTYPE html>
<html>
<head><title>Links for {project}</title></head>
<body>
<h1>Links for {project}</h1>
{links}
</body>
</html>
"""
"""As cu130/flashinfer-jit-cache-sm121a/index.html of flashinfer-ai/whl has it."""
SGLANG = "{links}\n"
"""As cu130/sglang-kernel/index.html of sgl-project/whl has it: nothing but links."""


class Vendor:
    """An index and the host of its files."""

    def __init__(self, state: FileServer, address: str) -> None:
        self._state, self._address = state, address
        self._links: dict[str, list[str]] = {}
        self.url = f"{address}/whl/cu130"

    def add(self, project: str, version: str, tag: str, page: str) -> bytes:
        """Put a wheel behind a redirection, and its link on the project's page."""
        name = project.replace("-", "_")
        filename = f"{name}-{version}-{tag}.whl"
        data = wheel_bytes(name, version, {f"{name}/_C.abi3.so": ELF})
        release = f"/releases/download/v{version.partition('+')[0]}/{filename}"
        asset = f"/asset/{len(self._state.files)}?sig=a%2Fb&sp=r"
        self._state.redirects[release] = self._address + asset
        self._state.files[asset] = data
        link = f"{self._address}{release}#sha256={hashlib.sha256(data).hexdigest()}"
        self._links.setdefault(project, []).append(f'<a href="{link}">{filename}</a><br>')
        text = page.format(project=project, links="\n".join(self._links[project]))
        self._state.files[f"/whl/cu130/{project}/"] = text.encode()
        return data


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with serving() as (state, address):
        made = Vendor(state, address)
        for machine in ("aarch64", "x86_64"):
            made.add("sglang-kernel", "0.4.6+cu130", f"cp310-abi3-manylinux2014_{machine}", SGLANG)
            made.add("sglang-kernel", "0.4.10+cu130", f"cp310-abi3-manylinux2014_{machine}", SGLANG)
        made.add("flashinfer-jit-cache-sm121a", "0.7.0+cu130", "cp39-abi3-manylinux_2_28_aarch64", FLASHINFER)
        made.add("flashinfer-jit-cache-sm121a", "0.7.1rc1+cu130", "cp39-abi3-manylinux_2_28_aarch64", FLASHINFER)
        yield made


def test_files_of_a_vendors_page_have_their_hashes_and_local_versions(vendor: Vendor) -> None:
    index = SimpleIndex({"vendor": Index(url=vendor.url)})
    files = index.files("flashinfer_jit_cache_sm121a", index="vendor")

    assert [True, True] == [file.sha256 is not None and "+cu130" in file.filename for file in files]
    assert () == index.files("flashinfer-jit-cache", index="vendor")


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_a_version_without_its_local_part_takes_the_file_for_the_machine(vendor: Vendor, machine: str) -> None:
    index = SimpleIndex(default=Addresses(simple=(vendor.url,)))
    file = choose_wheel("sglang-kernel==0.4.10", "3.12", index, machine)

    assert f"sglang_kernel-0.4.10+cu130-cp310-abi3-manylinux2014_{machine}.whl" == file.filename
    assert (file.project, file.sha256) == ("sglang-kernel", read_wheel(file, WebWheels(), depth=Depth.FULL).sha256)


def test_parts_are_read_through_the_redirection(vendor: Vendor) -> None:
    index = SimpleIndex(default=Addresses(simple=(vendor.url,)))
    facts = read_wheel(choose_wheel("sglang-kernel==0.4.6", "3.12", index), WebWheels(), depth=Depth.SYMBOLS)

    assert ("sglang-kernel", "0.4.6+cu130") == (facts.name, facts.version)
    assert ["sglang_kernel/_C.abi3.so"] == [library.path for library in facts.libraries]


def test_index_without_a_platform_says_what_it_has(vendor: Vendor) -> None:
    index = SimpleIndex(default=Addresses(simple=(vendor.url,)))
    with pytest.raises(PackageIndexError, match="for Linux x86_64") as raised:
        choose_wheel("flashinfer-jit-cache-sm121a==0.7.0", "3.12", index, "x86_64")

    assert raised.value.hint == "it has wheels of it for Linux aarch64"


def test_audit_asks_a_vendors_index(vendor: Vendor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["flashinfer-jit-cache-sm121a==0.7.0", "--index", vendor.url, "--target", "DGX Spark", "--platform",
             "aarch64", "--facts", str(tmp_path), "--no-record", "--format", "json"]  # fmt: skip

    assert main(["audit", *words]) in {0, 1}
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert {"flashinfer-jit-cache-sm121a": "0.7.0+cu130"} == report["packages"]
    assert report["platform"] == "aarch64"
