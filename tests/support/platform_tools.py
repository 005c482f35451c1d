"""One cell on two platforms, published into a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from publish_tools import LOCK, audit, candidate, gear, policy, probe, publish
from registry_tools import put_image

from assay.evidence.record import AnyRecord
from assay.evidence.reference import Repository
from assay.foundation.platforms import Platform
from assay.matrix.cell import Cell
from assay.matrix.model import AxisValue
from assay.ports.registry import Registry

FAMILY = "demo-cu128-torch2.8.0"


def cell_of(platform: Platform) -> Cell:
    ending = "" if platform is Platform.AMD64 else f"-{platform.architecture}"
    point = {"torch": AxisValue(id="2.8.0")}
    if ending:
        point["platform"] = AxisValue(id=platform.architecture)
    return Cell(
        id=FAMILY + ending,
        image="demo",
        engine="none",
        kind="build",
        targets=("sm_120",),
        platform=platform,
        point=point,
    )


MEMBERS = [cell_of(platform) for platform in Platform]


def publish_platform(registry: Registry, folder: Path, host: str, own: Platform, **of_records: Any) -> str:
    """Publish the cell of a platform; return its digest."""
    cell = cell_of(own)
    image = put_image(
        registry, Repository(host=host, path="team/staging/demo"), own.architecture, architecture=own.architecture
    )
    fields: dict[str, Any] = {"platform": own, "cell": cell.id, **of_records}

    def records(digest: str) -> list[AnyRecord]:
        return [probe(digest, **fields), audit(digest, **fields)]

    what = candidate(
        cell=cell.id, tag=cell.tag, staging_tag=own.architecture, platform=own,
        lock=LOCK.model_copy(update={"cell": cell.id}),
    )  # fmt: skip
    publish(what, policy(host), records, gear(registry, folder))
    return image.digest
