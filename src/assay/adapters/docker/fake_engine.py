"""An engine in memory that obeys the port, for tests of everything that uses one; as unkind as the real one.

Programs are Python functions: a `Program` gets a `Process` (its files, environment, output) and returns an exit code.
What the real engine does badly this one does too: a GPU nobody has, a missing program, an engine that dies.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from assay.adapters.docker.fake_container import FakeContainer, FakeImage, Killed, Process, Program
from assay.errors import EngineError, EngineMissing, GpuMissing, RegistryError
from assay.ports.engine import Container, ContainerSpec, EngineInfo, ImageFile, ImageInfo, ImageLayer

__all__ = ["FakeContainer", "FakeEngine", "FakeImage", "Killed", "Process", "Program"]


class FakeEngine:
    """An engine without a daemon.

    Args:
        images: by reference.
        registry: what `pull` finds; `push` puts there.
        info: what it says of itself; without it a plain engine with no GPU.
        alive: False is a machine without an engine; may be changed at any time (the engine dies).
        refuse: reference -> what the registry says when it refuses a pull or push.
    """

    def __init__(
        self,
        images: Mapping[str, FakeImage] | None = None,
        *,
        registry: Mapping[str, FakeImage] | None = None,
        info: EngineInfo | None = None,
        alive: bool = True,
        refuse: Mapping[str, str] | None = None,
    ) -> None:
        self.held = dict(images or {})
        self.registry = dict(registry or {})
        self.refuse = dict(refuse or {})
        self.alive = alive
        self.content: set[str] = set()
        """Digests of the layers of loaded images."""
        self.containers: list[FakeContainer] = []
        """Those that exist now."""
        self.specs: list[ContainerSpec] = []
        """Of every container that was ever made, in order."""
        self._info = info or EngineInfo(
            version="26.1.5",
            api_version="1.45",
            image_store="containerd",
            storage_driver="overlayfs",
            architecture="amd64",
            operating_system="Fake",
            kernel="6.1",
            cpus=2,
            memory_bytes=8 << 30,
            root_dir="/var/lib/docker",
            local=True,
            gpu=None,
            buildx="0.13.1",
        )

    def answer(self) -> None:
        """Raise if the engine is dead."""
        if not self.alive:
            raise EngineMissing("no container engine answers: it is a fake that is not alive", hint="`assay doctor`")

    def info(self) -> EngineInfo:
        """Return what was given."""
        self.answer()
        return self._info

    def image(self, reference: str) -> ImageInfo | None:
        """Return an image by name, id, or name and digest."""
        self.answer()
        name = self._name(reference)
        return None if name is None else self._read(reference, self.held[name])

    def _name(self, reference: str) -> str | None:
        if reference in self.held:
            return reference
        repository, _, digest = reference.partition("@")
        for name, image in self.held.items():
            if image.id == reference or (image.id == digest and name.rpartition(":")[0] == repository):
                return name
        return f"{reference}:latest" if f"{reference}:latest" in self.held else None

    def _read(self, reference: str, image: FakeImage) -> ImageInfo:
        tags = tuple(name for name, other in self.held.items() if other.id == image.id)
        return ImageInfo(
            reference=reference,
            id=image.id,
            digest=image.id,
            tags=tags,
            repo_digests=tuple(f"{name.rpartition(':')[0]}@{image.id}" for name in tags),
            labels=dict(image.labels),
            size_bytes=image.size_bytes,
            created="1970-01-01T00:00:00Z",
            architecture=self._info.architecture,
            layers=image.layers or (ImageLayer(diff_id=image.id, bytes=image.size_bytes, made_by="fake"),),
            env=dict(image.env),
            entrypoint=image.entrypoint,
            command=image.command,
            user=image.user,
            workdir=image.workdir,
        )

    def images(self, *, label: str | None = None) -> Sequence[ImageInfo]:
        """Return all images, or those with a label."""
        self.answer()
        key, equals, value = (label or "").partition("=")
        return [
            self._read(name, image)
            for name, image in self.held.items()
            if not label or (key in image.labels and (not equals or image.labels[key] == value))
        ]

    def labels(self, references: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of the images that are here."""
        self.answer()
        return {name: image.labels for name in references if (image := self.image(name)) is not None}

    def pull(self, reference: str, *, progress: Callable[[str], None] | None = None) -> ImageInfo:
        """Take an image from the registry."""
        self.answer()
        if (said := self.refuse.get(reference)) is not None:
            raise RegistryError(f"pulling {reference} failed: {said}")
        if reference not in self.registry:
            raise RegistryError(f"pulling {reference} failed: manifest unknown")
        if progress is not None:
            progress(f"Pulling from {reference}")
        self.held[reference] = self.registry[reference]
        return self._read(reference, self.held[reference])

    def tag(self, reference: str, new: str) -> None:
        """Name an image."""
        self.answer()
        name = self._name(reference)
        if name is None:
            raise EngineError(f"tagging {reference} as {new}: the engine says: no such image")
        self.held[new] = self.held[name]

    def push(self, reference: str, *, progress: Callable[[str], None] | None = None) -> str:
        """Put an image into the registry."""
        self.answer()
        if (said := self.refuse.get(reference)) is not None:
            raise RegistryError(f"pushing {reference} failed: {said}")
        name = self._name(reference)
        if name is None:
            raise RegistryError(f"pushing {reference} failed: tag does not exist")
        if progress is not None:
            progress(f"The push refers to repository [{reference}]")
        self.registry[reference] = self.held[name]
        return self.held[name].id

    def remove_image(self, reference: str, *, force: bool = False) -> bool:
        """Remove a name; refused while a container uses the image, unless forced."""
        self.answer()
        name = self._name(reference)
        if name is None:
            return False
        if not force and any(self._name(container.spec.image) == name for container in self.containers):
            raise EngineError(f"removing the image {reference}: the engine says: it is used by a container")
        del self.held[name]
        return True

    def load(self, archive: Path) -> Sequence[str]:
        """Take an archive as an image whose one file is the archive itself."""
        self.answer()
        name = f"loaded/{archive.stem}:1"
        self.held[name] = FakeImage(files={"/archive": archive.read_bytes()})
        return [name]

    def load_pieces(self, pieces: Iterable[bytes], what: str) -> Sequence[str]:
        """Take the images of an archive's index; refuse one whose content is neither in it nor in an image here."""
        self.answer()
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            files = {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}
        blobs = {f"sha256:{name.rpartition('/')[2]}": data for name, data in files.items()}
        for entry in json.loads(files["index.json"])["manifests"]:
            manifest = json.loads(blobs[entry["digest"]])
            layers = [layer["digest"] for layer in manifest["layers"]]
            if missing := [one for one in layers if one not in blobs and one not in self.content]:
                raise EngineError(f"loading {what}: content digest {missing[0]}: not found")
            self.content.update(layers)
            config = json.loads(blobs[manifest["config"]["digest"]])
            name = entry["annotations"]["io.containerd.image.name"].removeprefix("docker.io/")
            self.held[name] = FakeImage(digest=entry["digest"], labels=config["config"].get("Labels") or {})
        return [entry["digest"] for entry in json.loads(files["index.json"])["manifests"]]

    @contextmanager
    def container(self, spec: ContainerSpec) -> Iterator[Container]:
        """Create a container that is removed when the context ends."""
        self.answer()
        name = self._name(spec.image)
        if name is None:
            raise EngineError(f"the engine does not hold the image {spec.image}", hint="build or pull it")
        if spec.gpus and self._info.gpu is None:
            raise GpuMissing(f"a container of {spec.image} needs a GPU, and the engine knows no way to give it one")
        if spec.workspace and spec.workspace.count("/") < 2:
            raise EngineError(f"the workspace of a container has to be a path like /assay/work, not {spec.workspace}")
        container = FakeContainer(self.answer, spec, self.held[name], number=len(self.specs))
        self.specs.append(spec)
        self.containers.append(container)
        try:
            yield container
        finally:
            container.end()
            if container in self.containers:
                self.containers.remove(container)

    @contextmanager
    def image_files(self, reference: str) -> Iterator[Iterator[ImageFile]]:
        """Read an image's files."""
        self.answer()
        name = self._name(reference)
        if name is None:
            raise EngineError(f"the engine does not hold the image {reference}", hint="build or pull it")
        yield _entries(self.held[name])

    def sweep(self, run: str | None = None) -> Sequence[str]:
        """Remove the containers of a run; the fake has no dead processes."""
        self.answer()
        doomed = [container for container in self.containers if container.spec.run == run]
        for container in doomed:
            container.end()
            self.containers.remove(container)
        return [container.id for container in doomed]


def _entries(image: FakeImage) -> Iterator[ImageFile]:
    def nothing(path: str) -> io.BytesIO:
        raise EngineError(f"{path} is not a file, so it has no bytes of its own")

    folders: set[str] = set()
    for path in sorted([*image.files, *image.links]):
        parts = path.split("/")
        for depth in range(2, len(parts)):
            folder = "/".join(parts[:depth])
            if folder not in folders:
                folders.add(folder)
                yield ImageFile(
                    path=folder, kind="directory", size=0, mode=0o755, target="", open=partial(nothing, folder)
                )
        if path in image.links:
            target = image.links[path]
            yield ImageFile(path=path, kind="symlink", size=0, mode=0o777, target=target, open=partial(nothing, path))
        else:
            data = image.files[path]
            yield ImageFile(
                path=path, kind="file", size=len(data), mode=0o755, target="", open=partial(io.BytesIO, data)
            )
