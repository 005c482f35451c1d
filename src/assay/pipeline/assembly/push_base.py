"""Bootstrapped bases in a registry, for builders that see no engine's images."""

from __future__ import annotations

import json
from collections.abc import Callable

from assay.evidence.oci import CONFIG, MANIFEST, Descriptor, Manifest
from assay.evidence.reference import Repository
from assay.foundation.digest import sha256_of
from assay.matrix.image_steps import FinalStage, ImageSteps
from assay.pipeline.assembly.deliver import push
from assay.ports.layers import AssemblyBases, LayerStore
from assay.ports.registry import Registry

__all__ = ["push_base"]


def push_base(
    reference: str,
    bases: AssemblyBases,
    store: LayerStore,
    registry: Registry,
    repository: Repository,
    *,
    say: Callable[[str], None],
) -> str:
    """Make a base if need be, push it, and return its reference by digest.

    Args:
        reference: the local name of the base, which is that of its recipe.
        bases: makes it.
        store: has its layers.
        registry: speaks to the registry.
        repository: takes it.
        say: is given the steps.

    Raises:
        ToolError: it cannot be made here.
        RegistryError: the registry refuses or fails.
    """
    alone = ImageSteps(base=reference, packages=(), base_recipe="", wheels={}, toolkit=None, final=FinalStage())
    base = bases.open(alone, say)
    config = json.dumps(base.config, sort_keys=True, separators=(",", ":")).encode()
    layers = [
        Descriptor(media_type=one.media_type, digest=one.layer.digest, size=one.layer.size) for one in base.layers
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": Descriptor(media_type=CONFIG, digest=sha256_of(config), size=len(config)).to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    manifest = Manifest.parse(json.dumps(document, separators=(",", ":")).encode(), MANIFEST)
    tag = reference.rpartition("/")[2].replace(":", "-")
    push(manifest, config, registry, repository, tag, opened=store.opened, siblings=store.pushed_to, say=say)
    store.note_push([layer.digest for layer in layers], repository)
    return repository.at(manifest.digest)
