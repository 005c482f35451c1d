"""launch: from images, models and what is recorded to a deployment that the evidence supports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from assay.engines.knowledge import EngineFlags, Flags, ServerFlags
from assay.errors import UsageError
from assay.evidence.claims import Claim
from assay.evidence.ranking import Standing
from assay.evidence.record import AnyRecord
from assay.foundation.digest import sha256_of
from assay.foundation.platforms import Platform
from assay.ports.models import ModelFinder
from assay.serving.command import prepare
from assay.serving.deploy import Deployment, Service, name_of
from assay.serving.launching import Decided, decide, tenant_of, with_memory
from assay.serving.memory import MemoryPlan, Tenant, plan_memory
from assay.serving.modelshape import shape_of
from assay.serving.profile import Profile
from assay.serving.standing import standings

__all__ = ["LaunchRequest", "LaunchTarget", "launch"]


@dataclass(frozen=True, kw_only=True)
class LaunchTarget:
    """One server that is to be launched."""

    profile_name: str = ""
    profile: Profile | None = None
    model: str | None = None
    folder: str | None = None
    """The model as a folder of this machine."""


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """What is to be launched, and on what."""

    cell: str
    reference: str
    """The image as it will be named in the deployment."""
    engine: str
    version: str | None = None
    """The engine's release; read from the records where it is not given."""
    digest: str | None = None
    target: str
    platform: Platform = Platform.AMD64
    card_bytes: int
    system_share: float = 0.0
    """The part of it that is the system's, where CPU and GPU have one memory."""
    wanted: Sequence[LaunchTarget]
    context: int | None = None
    requests: int | None = None
    keep_fraction: bool = False
    port: int = 8000
    listen: str = "127.0.0.1"
    gpu: str = "all"
    gpu_resource: str = "nvidia.com/gpu"
    cache: str = ""
    user: str = ""
    """`uid:gid` of the cache folder's owner; empty: the image's own user."""
    metrics: bool = False
    strict: bool = False
    extra: Flags = field(default_factory=dict)
    """Flags laid over the profiles'."""
    env: Mapping[str, str] = field(default_factory=dict)


def launch(
    request: LaunchRequest,
    knowledge: ServerFlags,
    claims: Iterable[Claim],
    records: Iterable[AnyRecord],
    models: ModelFinder,
) -> Deployment:
    """Return the deployment.

    Raises:
        UsageError: the engine's release is unknown, a model is unknown or does not fit, or no attention backend works.
    """
    records = list(records)
    engine = knowledge.engines[request.engine]
    digest = request.digest or _digest(request.cell, records)
    version = request.version or _version(request, engine, digest, records)
    known = standings(
        engine,
        version,
        target=request.target,
        cell=request.cell,
        digest=digest,
        platform=request.platform,
        records=records,
        claims=tuple(claims),
    )
    names = _names(request.wanted)
    decided = [_decided(request, engine, version, wanted, known) for wanted in request.wanted]
    tenants = [
        _tenant(name, wanted, one, request, models)
        for name, wanted, one in zip(names, request.wanted, decided, strict=True)
    ]
    plan = plan_memory(request.card_bytes, tenants, system_share=request.system_share)
    services = [
        Service(
            name=tenant.name,
            image=request.reference,
            decided=with_memory(one, tenant, share),
            port=request.port + number,
            cache=request.cache,
            user=request.user,
            folder=wanted.folder,
            kernels=sha256_of((digest or request.reference).encode()).removeprefix("sha256:")[:12],
            share=share,
        )
        for number, (one, tenant, share, wanted) in enumerate(
            zip(decided, tenants, plan.shares, request.wanted, strict=True)
        )
    ]
    return Deployment(
        services=services,
        target=request.target,
        platform=request.platform,
        listen=request.listen,
        gpu=request.gpu,
        gpu_resource=request.gpu_resource,
        plan=plan,
        monitoring=request.metrics,
        notes=_notes(request, digest, version, plan, decided),
    )


def _decided(
    request: LaunchRequest, engine: EngineFlags, version: str, wanted: LaunchTarget, known: Mapping[str, Standing]
) -> Decided:
    """Return the command of one server, with what the evidence speaks against switched off.

    Raises:
        UsageError: the release lacks a flag, or no attention backend works.
    """
    command = prepare(engine, version, wanted.profile, model=wanted.model, extra=request.extra)
    if wrong := [finding.message for finding in command.findings if finding.fatal]:
        raise UsageError("\n".join(wrong), hint="choose another --profile, or another image")
    metrics = engine.metrics.flags if request.metrics else {}
    command = replace(command, flags={**command.flags, **metrics}, env={**command.env, **request.env})
    asked = {*request.extra, *request.env}
    one = decide(command, known, profile_name=wanted.profile_name, asked=asked, strict=request.strict)
    told = dict.fromkeys(metrics, "Prometheus reads /metrics")
    return replace(one, reasons={**one.reasons, **told}, notes=(*command.notes, *one.notes))


def _names(wanted: Sequence[LaunchTarget]) -> list[str]:
    names: list[str] = []
    for one in wanted:
        model = one.model or (one.profile.model if one.profile else None) or "server"
        base = name_of(model)
        name, number = base, 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


def _digest(cell: str, records: Sequence[AnyRecord]) -> str | None:
    mine = [record for record in records if record.cell == cell and record.image_digest is not None]
    return max(mine, key=lambda record: record.created).image_digest if mine else None


def _version(request: LaunchRequest, engine: EngineFlags, digest: str | None, records: Sequence[AnyRecord]) -> str:
    for record in sorted(records, key=lambda one: one.created, reverse=True):
        packages: Mapping[str, str] = getattr(record, "packages", {})
        mine = record.image_digest == digest if digest is not None else record.cell == request.cell
        if mine and engine.package in packages:
            return packages[engine.package]
    raise UsageError(
        f"the {request.engine} release in {request.cell} is not known: no record of this image names it",
        hint=f"name the release with --engine-version, as `pip show {engine.package}` in the image prints it",
    )


def _tenant(name: str, wanted: LaunchTarget, decided: Decided, request: LaunchRequest, models: ModelFinder) -> Tenant:
    model = decided.command.model
    found = models.find(model)
    if found is None:
        raise UsageError(
            f"model {model} was not found: it is not a folder, not in the Hugging Face cache, and "
            "the hub has no such model or cannot be reached",
            hint="check the name, or give the folder that holds its config.json",
        )
    kind = decided.command.flags.get(decided.command.engine.cache_type_flag)
    shape = shape_of(found.config, weight_bytes=found.weight_bytes, kv_type=kind if isinstance(kind, str) else None)
    own = wanted.profile is not None and wanted.profile.model == model
    return tenant_of(
        decided,
        shape,
        name=name,
        context=request.context,
        requests=request.requests,
        # A profile's share was made for its own model.
        keep_fraction=request.keep_fraction and own,
    )


def _notes(
    request: LaunchRequest, digest: str | None, version: str, plan: MemoryPlan, decided: Sequence[Decided]
) -> tuple[str, ...]:
    head = [
        f"{request.cell}: {request.engine} {version}, {digest or 'no digest is recorded'}",
        f"card: {request.target}, {plan.card / 2**30:.1f} GiB, {plan.free / 2**30:.2f} GiB of them stay free",
        *plan.notes,
    ]
    rest = dict.fromkeys(note for one in decided for note in one.notes)
    return (*head, *rest)
