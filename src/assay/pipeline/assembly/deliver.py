"""Sends an assembled image to a registry: what the registry has is not sent, and the manifest goes last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, Final

from assay.errors import RegistryError
from assay.evidence.oci import Descriptor, Manifest
from assay.evidence.reference import Repository
from assay.ports.registry import Registry

__all__ = ["push"]

AT_ONCE: Final = 4
"""Uploads at once."""
ASKED_AT_ONCE: Final = 12
"""Questions at once."""
_PIECE: Final = 64 << 20
"""Bytes that are read at once; a registry gets them as one piece, without a copy."""


def push(
    manifest: Manifest,
    config: bytes,
    registry: Registry,
    repository: Repository,
    tag: str,
    *,
    opened: Callable[[str], BinaryIO],
    siblings: Callable[[str], Sequence[Repository]] = lambda _: (),
    alone: Callable[[str], AbstractContextManager[bool]] = lambda _: nullcontext(enter_result=False),
    say: Callable[[str], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Upload what is missing, then the manifest by digest, then the tag.

    Args:
        manifest: of the image.
        config: its configuration.
        registry: speaks to the registry.
        repository: where it goes.
        tag: the name it gets.
        opened: opens a layer by digest.
        siblings: returns the repositories that may have a layer, by digest; the registry is asked to mount it.
        alone: holds a layer, by digest, while it is sent; tells whether another image was sending it meanwhile.
        say: is given a line for each layer that is sent or mounted.
        check: is called between pieces; raises where sending has to end.

    Raises:
        RegistryError: the registry refuses or fails; what was sent stays, and is not sent again by a second run.
    """

    found = registry.resolve(repository, tag)
    if found is not None and found.digest == manifest.digest:
        say(f"{repository.tagged(tag)} is {manifest.digest[:19]} already")
        return

    def send(layer: Descriptor) -> None:
        def pieces() -> Iterator[bytes]:
            with opened(layer.digest) as file:
                while piece := file.read(_PIECE):
                    check()
                    yield piece

        with alone(layer.digest) as waited:
            check()
            if waited and registry.has_blob(repository, layer.digest):
                return
            if source := _mounted(registry, repository, layer.digest, siblings(layer.digest)):
                say(f"{layer.digest[7:19]} is in {source}: mounted")
                return
            say(f"sending {layer.digest[7:19]}, {layer.size / 1e6:.1f} MB")
            registry.upload(repository, layer, pieces)

    _at_once(send, _missing(manifest, registry, repository))
    registry.put_blob(repository, config)
    registry.put_manifest(repository, manifest.digest, manifest)
    registry.put_manifest(repository, tag, manifest)


def _at_once(send: Callable[[Descriptor], None], layers: Sequence[Descriptor]) -> None:
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload") as pool:
        sent = [pool.submit(send, layer) for layer in layers]
        try:
            for one in sent:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _missing(manifest: Manifest, registry: Registry, repository: Repository) -> list[Descriptor]:
    """Return the layers that a repository lacks, the largest first: the last upload then ends soonest."""
    layers = list({layer.digest: layer for layer in manifest.layers}.values())
    with ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="ask") as pool:
        there = list(pool.map(lambda layer: registry.has_blob(repository, layer.digest), layers))
    missing = [layer for layer, has in zip(layers, there, strict=True) if not has]
    return sorted(missing, key=lambda layer: -layer.size)


def _mounted(
    registry: Registry, repository: Repository, digest: str, siblings: Sequence[Repository]
) -> Repository | None:
    """Mount a blob from a repository that has it, if the registry lets it be."""
    for source in siblings:
        if source.host != repository.host or source == repository:
            continue
        try:
            if registry.mount(repository, digest, source):
                return source
        except RegistryError:
            # No permission there, or no mounting here: the bytes are sent.
            continue
    return None
