"""What is attacked: each reader of what others wrote, each server assay talks to, each way to be stopped."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import attack_readers
import attack_readers_more
import attack_readers_pools
import attack_servers
from attack_child import Tally
from attack_mutate import hostile_json, hostile_text, mutated

__all__ = ["ATTACKS", "NOT_FOREIGN", "Attack", "attack"]

Mutation = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One thing that is attacked."""

    name: str
    covers: tuple[str, ...]
    """The modules of assay whose reading this exercises."""
    run: Callable[[Tally, int, Iterable[int], Path], None]
    deadline: float = 10.0
    """Seconds for one case."""
    share: float = 1.0
    """Cases, compared with the others."""
    isolated: bool = False
    """Whether a batch is small, because each case is slow."""


def _reader(
    name: str,
    covers: Sequence[str],
    seeds: Callable[[], Sequence[bytes]],
    read: Callable[[bytes, Path], None],
    *,
    mutate: Mutation = mutated,
    share: float = 1.0,
    refusals: tuple[type[BaseException], ...] = attack_readers.REFUSALS,
) -> Attack:
    def run(tally: Tally, seed: int, cases: Iterable[int], folder: Path) -> None:
        texts = list(seeds())
        for number in cases:
            if tally.is_over:
                return
            rng = random.Random(f"{name}:{seed}:{number}")
            # The first cases are the good ones and the crafted bombs, as they are.
            data = texts[number] if number < len(texts) else mutate(rng.choice(texts), rng)
            # The first one is good: a reader that refuses everything survives everything.
            tally.case(number, lambda: read(data, folder), refusals if number else ())

    return Attack(name=name, covers=tuple(covers), run=run, share=share)


def _generated(name: str, covers: Sequence[str], read: Callable[[bytes, Path], None]) -> Attack:
    """Return an attack with JSON that Hypothesis makes up."""

    def run(tally: Tally, seed: int, cases: Iterable[int], folder: Path) -> None:
        numbers = iter(cases)
        documents = attack_readers_more.generated_documents(seed, len(range(*_span(cases))))
        for number, data in zip(numbers, documents, strict=False):
            if tally.is_over:
                return
            tally.case(number, lambda data=data: read(data, folder), attack_readers.REFUSALS)  # type: ignore[misc]

    return Attack(name=name, covers=tuple(covers), run=run)


def _span(cases: Iterable[int]) -> tuple[int, int]:
    assert isinstance(cases, range)
    return cases.start, cases.stop


def _server(name: str, covers: Sequence[str], run: Callable[..., None], *, deadline: float, share: float) -> Attack:
    return Attack(name=name, covers=tuple(covers), run=run, deadline=deadline, share=share, isolated=True)


r = attack_readers
m = attack_readers_more
p = attack_readers_pools
s = attack_servers
ATTACKS: Final[tuple[Attack, ...]] = (
    _reader("server-info", ["engines.sglang"], m.server_infos, m.read_server_info, mutate=hostile_json),
    _reader("elf", ["wheels.elf", "wheels.elf_header", "wheels.bytes_at"], r.libraries, r.read_elf, share=3),
    _reader("elf-prefix", ["wheels.elf_prefix"], r.libraries, r.read_elf_prefix),
    _reader(
        "fatbin",
        ["wheels.fatbin", "wheels.kernels", "wheels.kernel_search", "wheels.member"],
        r.gpu_libraries,
        r.read_member,
        share=3,
    ),
    _reader("wheel", ["wheels.archive", "pipeline.read_wheel", "wheels.metadata"], r.wheels, r.read_wheel, share=3),
    _reader(
        "wheel-in-parts",
        ["wheels.archive", "pipeline.read_wheel", "pipeline.unpacking"],
        r.wheels,
        r.read_wheel_parts,
        share=2,
    ),
    _reader("layer-catalogue", ["wheels.catalogue"], r.catalogues, r.read_catalogue, mutate=hostile_json, share=0.5),
    _reader("wheel-install", ["adapters.layers.archive", "wheels.install", "wheels.layer"], r.wheels, r.install_wheel),
    _reader(
        "wheel-metadata", ["wheels.metadata", "pipeline.read_wheel"], r.metadata, r.read_metadata, mutate=hostile_text
    ),
    _reader(
        "facts",
        ["wheels.facts", "wheels.facts_file", "wheels.exports"],
        r.facts,
        r.read_facts,
        mutate=hostile_json,
        share=2,
    ),
    _reader(
        "facts-packed", ["wheels.facts_file", "adapters.files.facts_cache"], r.facts_exports, r.take_facts, share=2
    ),
    _reader(
        "record",
        ["evidence.record", "adapters.files.kept_records"],
        r.records,
        r.read_record,
        mutate=hostile_json,
        share=2,
    ),
    _reader("statement", ["evidence.statements"], r.statements, r.read_statement, mutate=hostile_json, share=2),
    _reader("evidence-packed", ["evidence.statements"], r.packed_evidence, r.unpack_evidence),
    _reader(
        "bundle",
        ["evidence.statements", "adapters.signing.dsse", "evidence.bundles"],
        r.bundles,
        r.read_bundle,
        mutate=hostile_json,
    ),
    _reader("manifest", ["evidence.oci"], r.manifests, r.read_manifest, mutate=hostile_json, share=2),
    _reader("lock", ["matrix.lockfile"], m.locks, m.read_lock, mutate=hostile_text),
    _reader("tag-of-a-source", ["adapters.host.git"], m.ls_remotes, m.read_ls_remote, mutate=hostile_text),
    _reader(
        "matrix",
        ["matrix.loading", "foundation.yamltext", "matrix.recipe", "matrix.model", "foundation.text"],
        m.matrices,
        m.read_matrix,
        mutate=hostile_text,
    ),
    _reader("dockerfile", ["matrix.image_steps"], m.dockerfiles, m.read_dockerfile, mutate=hostile_text),
    _reader(
        "image-recipe",
        ["matrix.loading", "foundation.yamltext", "matrix.recipe"],
        m.recipes,
        m.read_recipe,
        mutate=hostile_text,
    ),
    _reader("log", ["diagnose", "diagnose.stream", "diagnose.text"], m.logs, m.read_log, mutate=hostile_text, share=2),
    _reader(
        "failure-library",
        ["diagnose.library", "diagnose.model"],
        m.failures,
        m.read_failures,
        mutate=hostile_text,
        share=0.3,
    ),
    _reader("index-page", ["adapters.index.simple"], m.index_pages, m.read_index_page, mutate=hostile_text, share=2),
    _reader(
        "index-json", ["adapters.index.simple"], m.index_documents, m.read_index_json, mutate=hostile_json, share=2
    ),
    _reader("server-help", ["serving.helptext"], m.helps, m.read_help, mutate=hostile_text),
    _reader(
        "model-config",
        ["serving.modelshape", "adapters.files.model_files"],
        m.model_configs,
        m.read_model,
        mutate=hostile_json,
    ),
    _reader(
        "probe-result",
        ["evidence.suite", "evidence.claims", "pipeline.probe"],
        m.probe_results,
        m.read_probe,
        mutate=hostile_json,
    ),
    _reader("image-layers", ["adapters.files.image_archive", "pipeline.audit_image"], m.image_exports, m.read_image),
    _reader("challenge", ["adapters.registry.auth"], m.challenges, m.read_challenge, mutate=hostile_text),
    _reader("docker-config", ["adapters.registry.auth"], m.docker_configs, m.read_docker_config, mutate=hostile_json),
    _reader("pool-log", ["adapters.pools.frames"], m.pool_logs, m.read_pool_log),
    _reader("pool-archive", ["adapters.pools.contexts"], m.pool_archives, m.read_pool_archive),
    _reader("pool-plan", ["adapters.files.pool_runs"], m.pool_plans, m.read_pool_plan, mutate=hostile_json),
    _reader("pools-file", ["matrix.pools"], p.pool_files, p.read_pool_file, mutate=hostile_text),
    _reader(
        "audit-on-a-pool",
        ["pipeline.audit_farm", "cli.audit_worker"],
        p.audit_documents,
        p.read_audit_document,
        mutate=hostile_json,
    ),
    _reader(
        "assembly-on-a-pool",
        ["pipeline.assembly.on_workers", "cli.assemble_worker"],
        p.assembly_documents,
        p.read_assembly_document,
        mutate=hostile_json,
    ),
    _reader("job", ["ports.jobs"], m.jobs, m.read_job, mutate=hostile_json),
    _reader("server-job", ["ports.server"], m.server_jobs, m.read_server_job, mutate=hostile_json),
    _reader("server-facts", ["ports.server"], m.server_facts, m.read_server_facts, mutate=hostile_json),
    _reader("reference", ["evidence.reference"], m.references, m.read_reference, mutate=hostile_text),
    _generated(
        "made-up-json",
        ["foundation.foreign", "evidence.oci", "evidence.statements", "evidence.record", "wheels.facts"],
        m.read_any_json,
    ),
    _server(
        "registry-answers",
        [
            "adapters.registry.client",
            "adapters.registry.http",
            "pipeline.verify",
            "pipeline.collect",
            "adapters.registry.failures",
            "adapters.registry.tokens",
        ],
        s.registry_answers,
        # A registry that falls silent in its answer is waited for 60 s (EXCHANGE_SECONDS).
        deadline=75,
        share=0.4,
    ),
    _server(
        "records-in-a-registry", ["pipeline.share_records", "cli.records"], s.shared_records, deadline=75, share=0.2
    ),
    _server(
        "index-answers",
        ["adapters.index.simple", "adapters.index.ranges", "adapters.http.exchange"],
        s.index_answers,
        deadline=60,
        share=0.3,
    ),
    _server(
        "model-server-answers",
        ["adapters.http.openai", "pipeline.api_answers", "pipeline.api_checks"],
        s.model_server_answers,
        deadline=30,
        share=0.2,
    ),
    _server("environments", ["cli", "cli.console"], s.environments, deadline=30, share=0.02),
    _server("kills", ["adapters.files.records", "adapters.files.facts_cache"], s.kills, deadline=60, share=0.02),
)

NOT_FOREIGN: Final[dict[str, str]] = {
    "pipeline.verdicts": "verdicts that this machine kept for itself, of at most 32 MB; damaged ones count as none",
    # Modules that decode, but nothing that a stranger writes.
    "pipeline.image_layers": "notes of layers that this machine wrote for itself; damaged ones count as none",
    "adapters.docker.fake_engine": "archives that assay itself writes",
    "pipeline.assembly.destinations": "configurations whose digest the manifest names; whatever they hold is text",
    "adapters.layers.bases": "a base that was just made from signed packages",
    "adapters.layers.bytecode": "frames from assay's own program in the base's Python",
    "adapters.layers.compile_program": "frames from assay itself; sources are compiled, never run",
    "adapters.layers.layout": "the index of a folder that the user names, read to be written again",
    "adapters.layers.unpacked": "packages that apt checked against the distribution's signature",
    "adapters.layers.store": "the catalogue in the user's own cache, whose sizes and digests are checked",
    "adapters.docker.bootstrap": "dpkg's answers and os-release of a base that was just made from signed packages",
    "adapters.docker.buildx": "the metadata file that buildx itself writes into a private folder",
    "adapters.signing.cosign": "cosign's exit code and bundle; the bundle is read by evidence",
    "adapters.docker.container": "Docker's API, whose daemon is as good as root",
    "adapters.docker.engine": "Docker's API, whose daemon is as good as root",
    "adapters.host.info": "files of the machine's own administrator",
    "adapters.files.journal": "assay's own journal, in the user's folder",
    "adapters.executors.local": "the harness result, judged by probes",
    "adapters.pools.bundle": "writes",
    "adapters.pools.kubernetes": "the API of a cluster that runs the user's jobs; what pods write is read by frames",
    "adapters.pools.local": "the zip of probe programs that assay itself has just written into the user's folder",
    "adapters.files.project": "reads text; matrix, lockfile and yamltext judge it",
    "adapters.files.knowledge": "knowledge that ships with assay",
    "adapters.docker.oci_archive": "writes",
    "diagnose.calibration": "knowledge that ships with assay",
    "diagnose.corpus": "labels of logs that ship with assay's own tests",
    "cli.bisect": "documents that assay itself wrote",
    "cli.probe": "documents that assay itself wrote",
    "pipeline.bisect": "the state of a bisection that assay itself wrote",
    "serving.flags": "arguments of the person who runs assay",
    "pages.gather": "reports of the project's own records",
    "adapters.index.uv": "uv's answers; names and hashes are judged by the lock's types",
    "adapters.host.demangle": "a lookup",
    "audit.history": "knowledge that ships with assay",
    "audit.knowledge": "knowledge that ships with assay",
    "engines.knowledge": "knowledge that ships with assay",
    "serving.profiles": "profiles of the project, by yamltext",
    "evidence.sbom": "writes",
    "pipeline.schema": "writes",
}


def attack(name: str) -> Attack:
    """Return an attack by its name."""
    return next(one for one in ATTACKS if one.name == name)
