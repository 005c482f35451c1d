"""Sends an assembled image to a registry: what the registry has is not sent, and the manifest goes last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Final

from assay.evidence.oci import Descriptor
from assay.evidence.reference import Repository
from assay.pipeline.assembly.assemble import Assembled
from assay.ports.registry import Registry

__all__ = ["push"]

AT_ONCE: Final = 4
"""Uploads at once."""
_PIECE: Final = 4 << 20


def push(
    image: Assembled,
    registry: Registry,
    repository: Repository,
    tag: str,
    *,
    opened: Callable[[str], BinaryIO],
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Upload what is missing, then the manifest by digest, then the tag.

    Args:
        image: what is sent.
        registry: speaks to the registry.
        repository: where it goes.
        tag: the name it gets.
        opened: opens a layer by digest.
        say: is given a line for each layer that is sent.

    Raises:
        RegistryError: the registry refuses or fails; what was sent stays, and is not sent again by a second run.
    """

    def send(layer: Descriptor) -> None:
        def pieces() -> Iterator[bytes]:
            with opened(layer.digest) as file:
                while piece := file.read(_PIECE):
                    yield piece

        if not registry.has_blob(repository, layer.digest):
            say(f"sending {layer.digest[7:19]}, {layer.size / 1e6:.1f} MB")
            registry.upload(repository, layer, pieces)

    layers = {layer.digest: layer for layer in image.manifest.layers}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload") as pool:
        # The largest first: the last upload then ends soonest.
        for _ in pool.map(send, sorted(layers.values(), key=lambda layer: -layer.size)):
            pass
    registry.put_blob(repository, image.config)
    registry.put_manifest(repository, image.manifest.digest, image.manifest)
    registry.put_manifest(repository, tag, image.manifest)
