"""Promotion inside the registry against `docker pull`, `docker tag`, `docker push` of the same image.

    python bench/publish_promotion.py --gigabytes 9
    python bench/publish_promotion.py --staged localhost:5000/assay/staging/vllm-blackwell:KEY --cell CELL

The first starts a registry of its own on loopback and makes an image of random layers, so that nothing compresses or is
there already. It needs about three times the image's size on disk, and an engine for the second row. Everything is
removed. The second promotes an image that was built and staged, with its real lock and audit (from build_logs/) and a
probe record of real size (the largest in docs/records/, said to be of this image) into a repository of its own, which
stays; skopeo copies it to another registry for comparison, without unpacking anything, as docker would.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import docker
from publish_tools import NOW, both, candidate, gear, key_pair, policy, publish
from registry_tools import FaultyProxy, real_registry

from assay.adapters.files.records import FileStore
from assay.adapters.registry.auth import Anonymous
from assay.adapters.registry.client import HttpRegistry, connect
from assay.evidence.oci import MANIFEST, Descriptor, Manifest
from assay.evidence.record import AnyRecord, AuditRecord, ProbeRecord, parse
from assay.evidence.reference import Reference, Repository
from assay.foundation.digest import sha256_of
from assay.foundation.outcome import Outcome
from assay.matrix import lockfile
from assay.matrix.policy import Policy
from assay.pipeline.publishing.candidate import Candidate

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

    def push() -> None:
        # Failures are told inside the stream alone.
        lines = list(client.api.push(target, tag="key", stream=True, decode=True, auth_config={}))
        assert not any("errorDetail" in line for line in lines), lines[-1]

    source, target = f"{host}/team/staging/demo:key", f"{host}/byhand/demo"
    seconds: dict[str, float] = {}
    try:
        for step, work in (
            ("pull", lambda: client.api.pull(f"{host}/team/staging/demo", tag="key")),
            ("tag", lambda: client.api.tag(source, target, "key")),
            ("push", push),
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


def split(proxy: FaultyProxy, manifest: Manifest) -> str:
    """Say what of the traffic is the promotion itself, what is evidence, and what is read back of it."""
    promotion = written = read = 0
    for one in proxy.seen:
        moved = one.bytes_up + one.bytes_down
        name = one.path.rpartition("/manifests/")[2] if "/manifests/" in one.path else ""
        image = name == manifest.digest or (name and not name.startswith("sha256"))
        if image or "mount=" in one.path or "/staging/" in one.path:
            promotion += moved
        elif one.method == "GET":
            read += moved
        else:
            written += moved
    return f"promotion itself {promotion:,}, evidence written {written:,}, lists and evidence read {read:,}"


def of_a_cell(
    cell: str, staged: Reference, host: str, digest: str
) -> tuple[Candidate, Policy, list[AnyRecord], bytes | None]:
    """Return what publishing a built cell takes: its lock, its audit's report and record, a probe record."""
    image = staged.repository.path.rpartition("/")[2]
    root = Path(__file__).parents[1]
    path = root / "images" / image / "cells" / cell / "lock.txt"
    store = FileStore(root / "build_logs")
    audits = [one for one in store.records(kind="audit") if one.image_digest == digest]
    assert audits, f"build_logs/ has no audit of {digest}"
    audit = audits[-1]
    assert isinstance(audit, AuditRecord)
    largest = max((root / "docs" / "records").rglob("*-probe-*.json"), key=lambda file: file.stat().st_size)
    probe = parse(largest.read_bytes(), source=largest.name).model_copy(
        update={"image_digest": digest, "image": image, "cell": cell, "executor": "docker", "created": NOW}
    )
    assert isinstance(probe, ProbeRecord)
    works = [name for name, result in probe.features.items() if result.outcome is Outcome.WORKS]
    target = probe.devices[0].target
    rules = Policy.model_validate(
        {
            "repositories": {
                "staging": f"{host}/{staged.repository.path.rpartition('/')[0]}/{{image}}",
                "release": f"{host}/bench/{os.urandom(4).hex()}/{{image}}",
            },
            "levels": {"verified": {"audit": "warn", "images": {image: {target: {"works": works}}}}},
        }
    )
    what = Candidate(
        cell=cell,
        tag=cell,
        image=image,
        targets=(target,),
        staging_tag=staged.key,
        lock=lockfile.parse(path.read_text(), file=str(path)),
    )
    report = store.document(audit.report) if audit.report else None
    return what, rules, [probe, audit.model_copy(update={"targets": (target,)})], report


def by_skopeo(source: str, folder: Path) -> float:
    """Copy an image to another registry and return the seconds."""
    with real_registry(folder / "other") as host:
        started = time.perf_counter()
        plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        subprocess.run(
            ["skopeo", "copy", "-q", "--insecure-policy", *plain, f"docker://{source}", f"docker://{host}/it:key"],
            check=True,
        )
        return time.perf_counter() - started


def measure_staged(staged: Reference, cell: str, folder: Path, *, compare: bool) -> None:
    with FaultyProxy(upstream=staged.repository.host) as proxy:
        registry = connect(credentials=Anonymous())
        manifest = registry.manifest(staged.repository, staged.key)
        assert manifest is not None, f"there is no {staged}"
        what, rules, records, report = of_a_cell(cell, staged, proxy.host, manifest.digest)
        started = time.perf_counter()
        tools = gear(registry, folder, key=key_pair(folder))
        publish(what, rules, lambda _: records, tools, suite=None, report=report)
        seconds = time.perf_counter() - started
        moved = proxy.bytes_up + proxy.bytes_down
        print(f"{moved:,} bytes with all headers: {split(proxy, manifest)}", file=sys.stderr)
    rows = [("assay publish (mount, evidence, read back, two tags)", seconds, moved)]
    if compare:
        # Down and up again.
        rows.append(("skopeo copy to another registry", by_skopeo(str(staged), folder), 2 * manifest.image_bytes))
    show(rows)


def show(rows: list[tuple[str, float, int]]) -> None:
    print(f"{'':54}{'seconds':>10}{'bytes moved':>16}{'ratio':>9}")
    for name, seconds, count in rows:
        print(f"{name:54}{seconds:10.2f}{count:16,}{seconds / rows[0][1]:8.1f}x")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--gigabytes", type=float, default=1)
    options.add_argument("--without-docker", action="store_true", help="Only the promotion.")
    options.add_argument("--folder", type=Path, help="Where the registry keeps its blobs meanwhile.")
    options.add_argument("--staged", type=Reference.parse, help="An image that is in staging, instead of making one.")
    options.add_argument("--cell", help="With --staged: which cell it is.")
    chosen = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="assay-bench-", dir=chosen.folder))
    try:
        if chosen.staged:
            measure_staged(chosen.staged, chosen.cell, folder, compare=not chosen.without_docker)
            return
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
            print(f"{moved:,} bytes with all headers: {split(proxy, manifest)}", file=sys.stderr)
            rows = [("assay publish (mount, evidence, read back, two tags)", promotion, moved)]
            if not chosen.without_docker:
                steps = by_docker(host)
                print(", ".join(f"docker {step} {seconds:.1f} s" for step, seconds in steps.items()), file=sys.stderr)
                # Down only: Docker with the containerd store mounts what it pulled from the same registry.
                rows.append(("docker pull, tag, push", sum(steps.values()), manifest.image_bytes))
        show(rows)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
