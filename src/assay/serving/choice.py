"""Which image to serve a model with on a card: by the evidence for each, ranked as all advice is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from packaging.version import InvalidVersion, Version

from assay.engines.knowledge import EngineFlags
from assay.evidence.claims import Claim
from assay.evidence.ranking import Standing, rank, strength
from assay.evidence.record import AnyRecord, AuditRecord, ProbeRecord, ServeRecord, ServeStatus, file_name
from assay.foundation.outcome import Outcome
from assay.foundation.platforms import Platform
from assay.foundation.versions import fits
from assay.serving.standing import standings

__all__ = ["SERVES", "Choice", "Option", "choose", "kernels_of", "needed_driver", "weigh"]

SERVES: Final = "serves"
"""The standing that says whether the image's server runs on the card."""

_KERNELS: Final[Mapping[str, tuple[str, ...]]] = {
    # How a model's weights are packed -> the kernels that read them; one that works is enough.
    "awq": ("awq-marlin", "marlin"),
    "awq_marlin": ("awq-marlin", "marlin"),
    "gptq": ("marlin",),
    "gptq_marlin": ("marlin",),
    "fp8": ("fp8-gemm",),
    "nvfp4": ("nvfp4", "marlin-fp4"),
    "modelopt_fp4": ("nvfp4", "marlin-fp4"),
    "mxfp4": ("mxfp4",),
}
_BAD: Final = frozenset({Outcome.BROKEN, Outcome.WRONG, Outcome.UNSUPPORTED})
_ALWAYS: Final = ("torch-device", "abi-import")
"""Without them no server starts."""
_DRIVERS: Final = {12: ">=525.60.13", 13: ">=580.65.06"}
"""CUDA major -> the oldest Linux driver that runs it (CUDA compatibility, docs.nvidia.com/deploy, table 1)."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """An image that could be taken."""

    cell: str
    image: str = ""
    """The recipe, or empty."""
    reference: str
    """What the engine holds, or a registry has."""
    engine: EngineFlags
    version: str
    """Of the engine."""
    digest: str | None
    platform: Platform = Platform.AMD64
    cuda: str = ""
    """The CUDA release it was made for; empty if unknown."""
    where: str = "to be built"
    """`here`, `to be built`, or `to be pulled`."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An image, with the evidence for it on the card."""

    option: Option
    standings: Mapping[str, Standing]
    needs: tuple[Standing, ...]
    """For each thing that the model needs, the best standing."""

    @property
    def serves(self) -> Standing:
        """Whether its server runs on the card."""
        return self.standings[SERVES]

    @property
    def against(self) -> tuple[Standing, ...]:
        """What keeps the model from being served."""
        asked = (self.serves, *(self.standings[name] for name in _ALWAYS), *self.needs)
        return tuple(one for one in asked if one.outcome in _BAD)

    @property
    def order(self) -> tuple[object, ...]:
        """The best sorts first: nothing against it, best evidence that it serves, most that works, newest release."""
        seen = [one for one in self.standings.values() if one.basis != "nothing"]
        failing = sum(one.outcome in {Outcome.BROKEN, Outcome.WRONG} for one in seen)
        return (
            bool(self.against),
            strength(self.serves.basis) if self.serves.usable else strength("nothing"),
            failing,
            -_newness(self.option.version),
            self.option.where != "here",
            self.option.cell,
        )

    def __str__(self) -> str:
        if self.against:
            return "; ".join(str(one) for one in self.against)
        return "; ".join(str(one) for one in (self.serves, *self.needs))


def _newness(version: str) -> float:
    """Return a number that grows with the release, comparable within and between engines that count from 0."""
    try:
        release = (*Version(version).release, 0, 0, 0)[:3]
    except InvalidVersion:
        return -1.0
    return release[0] * 1e6 + release[1] * 1e3 + release[2]


def kernels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the features of which a model's weights need one; none for weights that are not packed."""
    packed = config.get("quantization_config")
    method = config.get("quant_method") or (packed.get("quant_method") if isinstance(packed, Mapping) else None)
    return _KERNELS.get(method.lower(), ()) if isinstance(method, str) else ()


def needed_driver(cuda: str) -> str:
    """Return the driver that a CUDA release needs, `>=580.65.06`; empty if it is not known."""
    major = cuda.partition(".")[0]
    return _DRIVERS.get(int(major), "") if major.isdigit() else ""


def weigh(
    option: Option, *, target: str, kernels: Sequence[str], records: Sequence[AnyRecord], claims: Iterable[Claim]
) -> Choice:
    """Return the evidence for an image on a card."""
    own = f"{option.engine.name}-engine"
    records = [one for one in records if one.runs_on is option.platform]
    mine = [one for one in records if (one.cell == option.cell if option.digest is None else _same(one, option))]
    features = {name for record in mine for name in _features(record, target)}
    known = dict(
        standings(
            option.engine,
            option.version,
            target=target,
            cell=option.cell,
            digest=option.digest,
            platform=option.platform,
            records=records,
            claims=[one for one in claims if one.image in ("", option.image)],
            more=(*_ALWAYS, own, *kernels, *sorted(features)),
        )
    )
    started = [
        one for one in (_server(mine, target), known[own], *known[own].against) if one and one.basis != "nothing"
    ]
    known[SERVES] = rank(SERVES, started)
    best = min((known[name] for name in kernels), key=lambda one: (not one.usable, strength(one.basis)), default=None)
    return Choice(option=option, standings=known, needs=(best,) if best is not None else ())


def _same(record: AnyRecord, option: Option) -> bool:
    return record.image_digest == option.digest or (isinstance(record, AuditRecord) and record.cell == option.cell)


def _features(record: AnyRecord, target: str) -> Iterable[str]:
    if isinstance(record, AuditRecord):
        return record.predictions.get(target, {})
    if isinstance(record, ProbeRecord) and target in {device.target for device in record.devices}:
        return record.features
    return ()


def _server(records: Sequence[AnyRecord], target: str) -> Standing | None:
    """Return what the newest start of its server on such a card showed."""
    for record in sorted(records, key=lambda one: one.created, reverse=True):
        if not isinstance(record, ServeRecord) or target not in {device.target for device in record.devices}:
            continue
        if record.status in {ServeStatus.OK, ServeStatus.CRASHED, ServeStatus.TIMED_OUT}:
            works = record.status is ServeStatus.OK
            return Standing(
                feature=SERVES,
                outcome=Outcome.WORKS if works else Outcome.BROKEN,
                basis="record",
                source=file_name(record),
                reason=f"{record.model} was served" if works else record.cause or record.reason[:120],
            )
    return None


def choose(
    options: Iterable[Option],
    *,
    target: str,
    kernels: Sequence[str],
    records: Sequence[AnyRecord],
    claims: Sequence[Claim],
    driver: str = "",
) -> tuple[list[Choice], list[str]]:
    """Return the images, the best first, and why others were left out.

    Args:
        options: images for the card.
        kernels: see `kernels_of`.
        records: everything that was measured and predicted.
        claims: what documents say.
        driver: this machine's; images whose CUDA release it is too old for are left out.
    """
    kept, left = [], []
    for option in options:
        wanted = needed_driver(option.cuda)
        if driver and wanted and not fits(driver, wanted):
            left.append(f"{option.cell}: CUDA {option.cuda} needs driver {wanted}, and this machine has {driver}")
            continue
        kept.append(weigh(option, target=target, kernels=kernels, records=records, claims=claims))
    return sorted(kept, key=lambda one: one.order), left
