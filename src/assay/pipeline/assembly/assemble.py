"""From a Dockerfile and its base to an image, without running a build.

The layers are those of the Dockerfile, in its order. What a layer of wheels is known by follows from the wheels, the
place, the base's Python and the format alone; so a layer that the store knows is not made again, and no wheel is read.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Final

from assay.errors import AssayError, WheelError
from assay.foundation.digest import sha256_of
from assay.foundation.platforms import Platform
from assay.matrix.image_steps import ImageSteps, NotAssembled, WheelStage, image_steps
from assay.matrix.render import LABEL_PREFIX
from assay.pipeline.assembly import fixed
from assay.pipeline.assembly.assembled import MOST_LAYERS, Assembled, Layer, image_of
from assay.pipeline.assembly.owners import Owners, owned_text
from assay.pipeline.assembly.sources import build_archive, built_steps, with_built
from assay.ports.layers import (
    AssemblyBase,
    AssemblyBases,
    BytecodeCompiler,
    LayerStore,
    OpenWheel,
    SourceArchive,
    SourceWheels,
    StoredLayer,
    WheelFiles,
)
from assay.wheels.archive import Member
from assay.wheels.install import InstalledFile, Prefix, installed_files, parents
from assay.wheels.layer import Entry, LayerBytes, Packing, Parts, with_folders, write_layer

__all__ = ["LARGEST_LABEL", "Assembler"]

LARGEST_LABEL: Final = f"{LABEL_PREFIX}largest-layer"
"""Label with the bytes that a layer may have, where there is a limit: who assembles the image again needs it."""

BUILT_LABEL: Final = f"{LABEL_PREFIX}built."
"""Begins the label with the sha256 of a wheel that was built from source: no lock names it."""
AHEAD: Final = 3
"""Layers that are made or fetched at once."""
_PAUSE: Final = 0.1
"""Seconds after a layer was found in the making, for another image."""


@dataclass(frozen=True, kw_only=True)
class Assembler:
    """Assembles images; give it ports."""

    wheels: WheelFiles
    bases: AssemblyBases
    store: LayerStore
    say: Callable[[str], None] = field(default=lambda _: None)
    """Is given a line for each step."""
    check: Callable[[], None] = field(default=lambda: None)
    """Is called between pieces of work; raises where it has to end."""
    packing: Packing = Packing.ZSTD
    harmless: Callable[[str], bool] = field(default=lambda _: False)
    """Says whether wheels may share a path, relative to site-packages, although their bytes differ."""
    largest: int | None = None
    """Bytes that a layer may have; wheels that give more are divided among several."""
    sources: SourceWheels | None = None
    """Builds wheels from source; without it an image that needs one is not assembled."""

    def assemble(
        self,
        dockerfile: str,
        labels: Mapping[str, str] | None = None,
        *,
        elsewhere: Callable[[str], bool] = lambda _: False,
    ) -> Assembled:
        """Assemble the image of a Dockerfile that `assay render` made.

        Args:
            dockerfile: its text.
            labels: laid over those of the Dockerfile.
            elsewhere: says whether a layer, by digest, need not be made because it is where the image goes.

        Raises:
            NotAssembled: only a build can make the image.
            PackageIndexError: a wheel is not available.
            WheelError: a wheel cannot be installed, or two bring the same file with different bytes.
            SourceBroken: a source does not compile.
            StoreError: the store cannot be written.
        """
        steps = image_steps(dockerfile)
        while True:
            try:
                return self._assembled(built_steps(steps, self.sources, self.say, self.check), labels, elsewhere)
            except SourceArchive as archive:
                # Layers that were made until then are known when this starts again.
                build_archive(steps, archive, self.sources, self.say, self.check)

    def _assembled(
        self, steps: ImageSteps, labels: Mapping[str, str] | None, elsewhere: Callable[[str], bool]
    ) -> Assembled:
        base = self.bases.known(steps)
        image = self._known(steps, base, labels or {}, elsewhere) if base is not None else None
        if image is None:
            if base is None or base.root is None:
                self.say("the base")
                base = self.bases.open(steps, self.say)
            with ExitStack() as stack:
                layers = _Assembly(self, steps, base, stack, elsewhere).layers()
            image = self._image(steps, base, layers, labels or {})
        self.store.keep_image(image.manifest, image.config)
        return image

    def begin(self, dockerfile: str) -> None:
        """Make the base of an image in the background, unless it was made before; `assemble` waits for it.

        What goes wrong is tried again by `assemble`, which tells of it.
        """

        def make() -> None:
            with suppress(AssayError, OSError):
                steps = image_steps(dockerfile)
                if self.bases.known(steps) is None:
                    self.bases.open(steps, lambda _: None)

        threading.Thread(target=make, name="base").start()

    def obstacle(self, dockerfile: str) -> str:
        """Return what keeps an image from being assembled; empty where nothing does."""
        try:
            steps = image_steps(dockerfile)
            if self.sources is None:
                built_steps(steps, None, self.say, self.check)
            self.bases.known(steps)
        except NotAssembled as error:
            return error.problems[0].message
        return ""

    def forecast(self, dockerfile: str, labels: Mapping[str, str] | None = None) -> Assembled | None:
        """Return the image that a Dockerfile gives, without its bytes; None where the catalogue lacks a layer.

        What other machines say of layers counts here, because nothing is made or sent.

        Raises:
            NotAssembled: only a build can make the image.
        """
        steps = with_built(image_steps(dockerfile), self.sources)
        base = self.bases.known(steps, told=True) if steps is not None else None
        if steps is None or base is None:
            return None
        return self._known(steps, base, labels or {}, lambda _: True, told=True)

    def digest(self, dockerfile: str, labels: Mapping[str, str] | None = None) -> str | None:
        """Return the digest of what `forecast` returns."""
        found = self.forecast(dockerfile, labels)
        return found.manifest.digest if found else None

    def _known(
        self,
        steps: ImageSteps,
        base: AssemblyBase,
        labels: Mapping[str, str],
        elsewhere: Callable[[str], bool],
        *,
        told: bool = False,
    ) -> Assembled | None:
        """Return an image for which nothing but its small layers has to be made."""
        if not all(
            self.store.has(one.layer.digest, one.layer.size) or elsewhere(one.layer.digest) for one in base.layers
        ):
            return None
        with ExitStack() as stack:
            assembly = _Assembly(self, steps, base, stack, elsewhere)
            layers = assembly.known_layers(told=told)
            if layers is None:
                return None
            image = self._image(steps, base, layers, labels)
            # An image that was assembled here before was looked at then.
            is_new = not told and self.store.image(image.manifest.digest) is None
            return image if not is_new or all(map(assembly.take, steps.wheels.values())) else None

    def _image(
        self, steps: ImageSteps, base: AssemblyBase, layers: Sequence[Layer], labels: Mapping[str, str]
    ) -> Assembled:
        limit = {} if self.largest is None else {LARGEST_LABEL: str(self.largest)}
        built = {f"{BUILT_LABEL}{name}": f"sha256:{sha256}" for name, sha256 in steps.built.items()}
        return image_of(steps, base, [*_of_base(base), *layers], {**labels, **limit, **built})


def _of_base(base: AssemblyBase) -> Iterator[Layer]:
    said = [
        str(entry.get("created_by", "")) for entry in base.config.get("history", ()) if not entry.get("empty_layer")
    ]
    for number, stored in enumerate(base.layers):
        yield Layer(stored=stored, created_by=said[number] if number < len(said) else "base", new=False)


class _Assembly:
    """One image that is being assembled."""

    def __init__(
        self,
        tools: Assembler,
        steps: ImageSteps,
        base: AssemblyBase,
        stack: ExitStack,
        elsewhere: Callable[[str], bool],
    ) -> None:
        self._tools = tools
        self._steps = steps
        self._base = base
        self._elsewhere = elsewhere
        self._prefix = Prefix(path="/opt/venv", python=".".join(base.python.split(".")[:2]))
        self._machine = Platform.of(str(base.config.get("architecture", "amd64"))).machine
        self._stack = stack
        self._compiler: BytecodeCompiler | None = None
        self._owners = Owners(tools.harmless)

    def known_layers(self, *, told: bool) -> list[Layer] | None:
        """Return the layers above the base, lowest first; None where a layer of wheels has to be made."""
        plain = self._plain_layers()
        layers: list[Layer] = []
        for stage in self._steps.order:
            if stage in plain:
                layers.append(plain[stage])
            elif (known := self._known(stage, told=told)) is not None:
                layers += self._done(known, new=False)
            else:
                return None
        return layers

    def layers(self) -> list[Layer]:
        """Return the layers above the base, lowest first; make what is missing."""
        plain = self._plain_layers()
        known = {stage: self._known(stage) for stage in self._steps.order if stage not in plain}
        known = {stage: found if self.take(self._steps.wheels[stage]) else None for stage, found in known.items()}
        missing = [stage for stage, layers in known.items() if layers is None]
        if missing:
            self._compiler = self._stack.enter_context(self._tools.bases.compiler(self._base))
        made = self._made(missing)
        layers: list[Layer] = []
        for stage in self._steps.order:
            if stage in plain:
                layers.append(plain[stage])
            else:
                layers += made[stage] if stage in made else self._done(known[stage] or (), new=False)
        return layers

    def _made(self, missing: Sequence[str]) -> dict[str, list[Layer]]:
        """Return the layers of stages, made; those that are in the making for another image are waited for last."""
        left, made = deque(missing), dict[str, list[Layer]]()

        def work() -> None:
            while True:
                try:
                    stage = left.popleft()
                except IndexError:
                    return
                try:
                    layers = self._one(stage)
                except BaseException:
                    left.clear()
                    raise
                if layers is not None:
                    made[stage] = layers
                else:
                    left.append(stage)
                    time.sleep(_PAUSE)

        with ThreadPoolExecutor(AHEAD, thread_name_prefix="layer") as pool:
            try:
                for one in [pool.submit(work) for _ in range(AHEAD)]:
                    one.result()
            finally:
                left.clear()
        return made

    def _one(self, stage: str) -> list[Layer] | None:
        """Return the layers of a stage; None while another image, here or in another process, makes them."""
        self._tools.check()
        with self._tools.store.alone(self._key(stage, 0)) as mine:
            if not mine:
                return None
            found = self._known(stage)
            if found is not None and self.take(self._steps.wheels[stage]):
                return self._done(found, new=False)
            return self._done(self._wheels(stage), new=True)

    def take(self, stage: WheelStage) -> bool:
        """Compare the files of a layer's wheels with those of the others; False where these files are not known.

        Raises:
            WheelError: two wheels bring the same file with different bytes.
        """
        owned = [self._tools.store.owned(wheel.sha256) for wheel in stage.wheels]
        if None in owned:
            return False
        for wheel, text in zip(stage.wheels, owned, strict=True):
            self._owners.take(f"{wheel.name} {wheel.version}", text or "")
        return True

    def _plain_layers(self) -> dict[str, Layer]:
        """Return the layers without wheels, by stage."""
        made = self._steps.final
        found: dict[str, Layer] = {}
        if made.user:
            created = f"RUN useradd --create-home --uid {made.uid} --shell {made.shell} {made.user}"
            found["useradd"] = self._plain(created, fixed.account(made, self._base.files))
        environment = fixed.environment(self._prefix, self._base.python)
        found["tools"] = self._plain("COPY /opt/venv /opt/venv # assembled", environment)
        if self._steps.toolkit is not None:
            links = fixed.toolkit(self._steps.toolkit, self._machine)
            found["toolkit"] = self._plain("COPY /out/ / # assembled", links)
        return found

    def _plain(self, created: str, entries: Sequence[Entry]) -> Layer:
        # What they hold need not be told by a key: some kilobytes.
        store = self._tools.store
        packing = self._tools.packing
        said = [(packing.version, *entry[:3], b"".join(entry.content), *entry[4:]) for entry in entries]
        key = sha256_of(repr(said).encode())
        known = store.described(key)
        there = known is not None and (store.has(known.digest, known.size) or self._elsewhere(known.digest))
        if known is not None and there:
            return Layer(stored=self._stored(known.layer), created_by=created, new=False)
        made = store.make(key, partial(write_layer, entries, packing=packing))
        return Layer(stored=self._stored(made), created_by=created, new=True)

    def _done(self, layers: Sequence[LayerBytes], *, new: bool) -> list[Layer]:
        return [
            Layer(stored=self._stored(one), created_by="COPY /out/ /opt/venv/ # buildkit", new=new) for one in layers
        ]

    def _stored(self, layer: LayerBytes) -> StoredLayer:
        return StoredLayer(media_type=self._tools.packing.media_type, layer=layer)

    def _key(self, name: str, part: int) -> str:
        """Return what decides the bytes of a layer of wheels."""
        stage = self._steps.wheels[name]
        said: list[object] = [self._tools.packing.version, self._prefix.path, self._base.python]
        said.append([wheel.sha256 for wheel in stage.wheels])
        if self._tools.largest is not None:
            said += [self._tools.largest, part]
        return sha256_of(json.dumps(said).encode())

    def _known(self, stage: str, *, told: bool = False) -> list[LayerBytes] | None:
        store, layers = self._tools.store, list[LayerBytes]()
        while True:
            key = self._key(stage, len(layers))
            found = store.described(key) or (store.told(key) if told else None)
            if found is None or not (store.has(found.digest, found.size) or self._elsewhere(found.digest)):
                return None
            layers.append(found.layer)
            if found.last:
                return layers
            if len(layers) > MOST_LAYERS:
                return None

    def _wheels(self, stage: str) -> list[LayerBytes]:
        found, store, layers = self._steps.wheels[stage], self._tools.store, list[LayerBytes]()
        parts = Parts(with_folders(self._entries(found), self._folders()), self._tools.largest)
        while not layers or not parts.ended:
            key = self._key(stage, len(layers))
            write = partial(self._write, parts)
            made = store.make(key, write, found.wheels, last=lambda: parts.ended)
            told = store.told(key)
            if told is not None and told.digest != made.digest:
                names = ", ".join(wheel.name for wheel in found.wheels[:3])
                self._tools.say(
                    f"WARNING: another machine made {told.digest[:19]} of {names}, and this one {made.digest[:19]}"
                )
            layers.append(made)
        return layers

    def _write(self, parts: Parts, out: BinaryIO) -> LayerBytes:
        made = write_layer(parts.part(), out, self._tools.packing)
        parts.check(made.size)
        return made

    def _folders(self) -> set[str]:
        """Return the folders that the layer of the environment has."""
        root = self._prefix.path.strip("/")
        steps = f"{root}/{self._prefix.site_packages}".split("/")
        return {"/".join(steps[:count]) for count in range(1, len(steps) + 1)} | {f"{root}/bin"}

    def _entries(self, stage: WheelStage) -> Iterator[Entry]:
        """Yield the files of a layer's wheels, each wheel's bytecode after its files; of equal paths the first."""
        seen: set[str] = set()
        folders: set[str] = set()
        for wheel in stage.wheels:
            label = f"{wheel.name} {wheel.version}"
            self._tools.say(label)
            with self._tools.wheels.open(wheel, stage.indexes, self._tools.check) as opened:
                files = installed_files(opened.files, opened.read, self._prefix, wheel=label)
                owned = owned_text(files, self._prefix)
                self._owners.take(label, owned)
                self._tools.store.keep_owned(wheel.sha256, owned)
                fresh = [file for file in files if file.path not in seen]
                seen.update(file.path for file in fresh)
                folders.update(*(parents(file.path) for file in fresh))
                for path in seen & folders:
                    raise WheelError(
                        f"{wheel.name} {wheel.version}: {path!r} is a file here or in another wheel, and a "
                        "folder in the other"
                    )
                yield from self._wheel(opened, fresh)

    def _wheel(self, opened: OpenWheel, files: Sequence[InstalledFile]) -> Iterator[Entry]:
        assert self._compiler is not None
        root = self._prefix.path.strip("/")
        tag = f"cpython-{self._prefix.python.replace('.', '')}"
        compiled: list[tuple[str, Future[bytes]]] = []
        for file in files:
            self._tools.check()
            path = f"{root}/{file.path}"
            content = file.content
            if path.endswith(".py") and file.path.startswith(self._prefix.site_packages):
                data = opened.read(content) if isinstance(content, Member) else content
                folder, _, name = path.rpartition("/")
                target = f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"
                compiled.append((target, self._compiler.submit(f"/{path}", data)))
                yield Entry(path, file.mode, len(data), (data,))
            elif isinstance(content, Member):
                yield Entry(path, file.mode, content.size, opened.pieces(content))
            else:
                yield Entry(path, file.mode, len(content), (content,))
        for target, future in compiled:
            if bytecode := future.result():
                yield Entry(target, 0o644, len(bytecode), (bytecode,))
