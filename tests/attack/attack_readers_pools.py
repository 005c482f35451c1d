"""Readers of what pools and other machines write: pools.yaml, and the documents of audits on a pool."""

from __future__ import annotations

from pathlib import Path

from assay.foundation.digest import sha256_of
from assay.matrix.pools import SlurmPool, load_pools
from assay.pipeline.assembly.on_workers import AssembledPart, AssembleJob, LayerRules
from assay.pipeline.audit_farm import AskedCell, AuditedCell, AuditJob, AuditPart
from assay.ports.builder import BuildEnd
from assay.ports.jobs import unseal

__all__ = [
    "assembly_documents",
    "audit_documents",
    "pool_files",
    "read_assembly_document",
    "read_audit_document",
    "read_pool_file",
]


def pool_files() -> tuple[bytes, ...]:
    """One pool of each kind; templates that evaluate, and endpoints with passwords or without end."""
    good = """\
registry: registry.example/team/{image}
pools:
  here: {kind: local, executor: local}
  lab: {kind: ssh, hosts: [{context: a, gpu: h200}, {context: b}], gpus: [h200]}
  cluster: {kind: slurm, partition: gpu, folder: /shared/a, runtime: "podman run {env} {image} {arguments}"}
  k8s: {kind: kubernetes, context: c, namespace: n, tolerations: [{key: k, operator: Exists}]}
  farm: {kind: buildkit, endpoints: ["tcp://127.0.0.1:1", "ssh://me@host"], ca: /a, cert: /b, key: /c}
"""
    runtimes = ("{folder:>99999999999}", "{folder.x.y}", "{folder[a]}", "{folder:{image}}", "{", "{0}", "\\n#SBATCH x")
    evaluated = [good.replace("podman run", f"podman {text}") for text in runtimes]
    endpoints = ("tcp://u:p@h:1", "tcp://[::x", 'tcp://a", "tcp://a', "tcp://a\\e[31m")
    others = [good.replace("tcp://127.0.0.1:1", text) for text in endpoints]
    many = good.replace('"tcp://127.0.0.1:1"', ", ".join(f'"tcp://h:{number}"' for number in range(20_000)))
    return tuple(text.encode() for text in (good, *evaluated, *others, many))


def read_pool_file(data: bytes, _folder: Path) -> None:
    """Read pools.yaml; what it gives to programs is short, and holds no password."""
    for pool in load_pools(data.decode(errors="replace")).pools.values():
        if isinstance(pool, SlurmPool):
            words = dict.fromkeys(("folder", "env", "image", "registry", "path", "digest", "python", "arguments"), "x")
            assert len(pool.command.format(**words)) < len(data) + 1000


def audit_documents() -> tuple[bytes, ...]:
    """A worker's job, and what it writes."""
    cell = AskedCell(id="c", lock=f"sha256:{'1' * 64}")
    job = AuditJob(name="audit-1-0-1", project="/p", cells=(cell,), wheels=("a" * 64,))
    part = AuditPart(reports=(AuditedCell(cell=cell, error="it failed", hint="try"),), wheels=("a" * 64,))
    documents = (job, part, job.model_copy(update={"name": "../../x"}), job.model_copy(update={"project": "/\0"}))
    return tuple(one.model_dump_json(exclude={"checksum"}).encode() for one in documents)


def _sealed(data: bytes) -> bytes:
    """Return a document with its checksum, as somebody who may write the folder makes it."""
    rest = data[1:]
    return b'{"checksum":"' + sha256_of(rest).encode() + b'",' + rest


def read_audit_document(data: bytes, folder: Path) -> None:
    """Read a document of an audit that somebody sealed; what it names lies where it belongs."""
    sealed = _sealed(data)
    if b'"audited"' in data:
        unseal(sealed, AuditPart, source="part.json")
        return
    job = unseal(sealed, AuditJob, source="job.json")
    place = folder / f"{job.name}-00000.json"
    assert place.resolve().parent == folder.resolve()
    assert "\0" not in f"{job.project}{job.facts}"


def assembly_documents() -> tuple[bytes, ...]:
    """A job to assemble an image, and what comes of it."""
    job = AssembleJob(
        name="build-1-1",
        project="/p",
        version="1",
        dockerfile="FROM scratch",
        labels={"a": "b"},
        repository="registry.example/team/x",
        layers=LayerRules(folder="/shared/layers"),
    )
    part = AssembledPart(name=job.name, end=BuildEnd.BUILT, digest=f"sha256:{'1' * 64}", machine="n1", log="x")
    documents = (job, part, job.model_copy(update={"name": "../../x"}), part.model_copy(update={"digest": "../x"}))
    return tuple(one.model_dump_json(exclude={"checksum"}).encode() for one in documents)


def read_assembly_document(data: bytes, folder: Path) -> None:
    """Read a document of an assembly that somebody sealed; what it names lies where it belongs."""
    sealed = _sealed(data)
    if b'"assembled"' in data:
        unseal(sealed, AssembledPart, source="part.json")
        return
    job = unseal(sealed, AssembleJob, source="job.json")
    assert (folder / f"{job.name}.json").resolve().parent == folder.resolve()
