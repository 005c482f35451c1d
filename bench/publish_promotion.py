"""Promotion inside the registry against `docker pull`, `docker tag`, `docker push` of the same image.

    python bench/publish_promotion.py --gigabytes 9

Starts a registry of its own on loopback and makes an image of random layers, so that nothing compresses or is there
already. Needs about three times the image's size on disk, and an engine for the second row. Everything is removed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import docker
from publish_tools import both, candidate, gear, key_pair, policy, publish
from registry_tools import FaultyProxy, real_registry

from assay.adapters.registry import HttpRegistry, connect
from assay.adapters.registry_auth import Anonymous
from assay.digest import sha256_of
from assay.oci import MANIFEST, Descriptor, Manifest
from assay.reference import Repository

LAYERS = 3
BLOCK = 1 << 20


def layer(seed: bytes, number: int, size: int) -> Iterator[bytes]:
    """Yield an uncompressed layer: a tar archive of one file of `size` bytes that no other layer shares."""
    entry = tarfile.TarInfo(f"blob{number}")
    entry.size = size
    yield entry.tobuf(tarfile.USTAR_FORMAT)
    for block in range(size // BLOCK):
        mark = f"{number}:{block}:".encode()
        yield mark + seed[len(mark) :]
    yield bytes(2 * 512)


def make_image(registry: HttpRegistry, repository: Repository, gigabytes: float) -> Manifest:
    seed = os.urandom(BLOCK)
    size = int(gigabytes * 1e9 / LAYERS) // BLOCK * BLOCK
    layers = []
    for number in range(LAYERS):
        digest, length = hashlib.sha256(), 0
        for piece in layer(seed, number, size):
            digest.update(piece)
            length += len(piece)
        blob = Descriptor(
            media_type="application/vnd.oci.image.layer.v1.tar", digest="sha256:" + digest.hexdigest(), size=length
        )
        registry.upload(repository, blob, lambda number=number: layer(seed, number, size))
        layers.append(blob)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob in layers]},
        }
    ).encode()
    registry.put_blob(repository, config)
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha256_of(config),
                "size": len(config),
            },
            "layers": [blob.to_json() for blob in layers],
        }
    ).encode()
    manifest = Manifest.parse(raw, MANIFEST)
    registry.put_manifest(repository, "key", manifest)
    return manifest


def by_docker(host: str) -> dict[str, float]:
    """Pull from staging, tag for release, push; return the seconds of each."""
    client = docker.from_env(timeout=3600)
    source, target = f"{host}/team/staging/demo:key", f"{host}/byhand/demo"
    seconds: dict[str, float] = {}
    try:
        for step, work in (
            ("pull", lambda: client.api.pull(f"{host}/team/staging/demo", tag="key")),
            ("tag", lambda: client.api.tag(source, target, "key")),
            ("push", lambda: list(client.api.push(target, tag="key", stream=True, decode=True, auth_config={}))),
        ):
            started = time.perf_counter()
            work()
            seconds[step] = time.perf_counter() - started
    finally:
        for name in (source, f"{target}:key"):
            try:
                client.api.remove_image(name, force=True)
            except docker.errors.APIError:
                print(f"{name} was not removed", file=sys.stderr)
        client.close()
    return seconds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--gigabytes", type=float, default=1)
    options.add_argument("--without-docker", action="store_true", help="Only the promotion.")
    options.add_argument("--folder", type=Path, help="Where the registry keeps its blobs meanwhile.")
    chosen = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="assay-bench-", dir=chosen.folder))
    try:
        with real_registry(folder / "registry") as host, FaultyProxy(upstream=host) as proxy:
            started = time.perf_counter()
            manifest = make_image(
                connect(credentials=Anonymous()), Repository(host=host, path="team/staging/demo"), chosen.gigabytes
            )
            print(
                f"image of {manifest.image_bytes / 1e9:.2f} GB made in {time.perf_counter() - started:.0f} s",
                file=sys.stderr,
            )
            # The proxy counts what really goes over the wire, headers too; it slows the promotion down, if anything.
            measured = connect(credentials=Anonymous())
            tools = gear(measured, folder, key=key_pair(folder))
            started = time.perf_counter()
            publish(candidate(), policy(proxy.host), both, tools)
            promotion = time.perf_counter() - started
            moved = proxy.bytes_up + proxy.bytes_down
            rows = [("assay publish (mount, evidence, read back, two tags)", promotion, moved)]
            if not chosen.without_docker:
                steps = by_docker(host)
                print(", ".join(f"docker {step} {seconds:.1f} s" for step, seconds in steps.items()), file=sys.stderr)
                rows.append(("docker pull, tag, push", sum(steps.values()), manifest.image_bytes))
        print(f"{'':54}{'seconds':>10}{'bytes moved':>16}{'ratio':>9}")
        for name, seconds, count in rows:
            print(f"{name:54}{seconds:10.2f}{count:16,}{seconds / promotion:8.1f}x")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
