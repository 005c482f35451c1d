"""What assembling needs, in memory: a base of one file, wheels, a compiler, and the text of a Dockerfile."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import zstandard
from wheels import wheel_bytes

from assay.adapters.layers.archive import WheelArchive
from assay.adapters.layers.store import FolderStore
from assay.matrix.image_steps import ImageSteps, PinnedWheel
from assay.pipeline.assembly.assemble import Assembler
from assay.pipeline.assembly.assembled import Assembled
from assay.ports.layers import AssemblyBase, StoredLayer
from assay.wheels.layer import LayerBytes, file_entry, write_layer

BASE = "assay/base-slim:0123456789ab"
DEMO = wheel_bytes("demo", "1.0", {"demo/__init__.py": b"x = 1\n", "demo/data.bin": bytes(5000)})
OTHER = wheel_bytes("other", "2.0", {"other.py": b"def broken(:\n", "demo/data.bin": b"second"})


def pinned(name: str, version: str, data: bytes) -> str:
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(data).hexdigest()}"


def dockerfile(*stages: tuple[str, Sequence[str]], more: str = "", env: str = 'ENV A="a\\$b"') -> str:
    """Return a Dockerfile as the template renders it, short of what does not matter here."""
    made = ["# made", f"ARG BASE={BASE}", "", "FROM ${BASE} AS python", "FROM python AS tools", "RUN <<'SCRIPT'"]
    made += ["/opt/tools/bin/uv venv --quiet --python /usr/bin/python3 /opt/venv", "SCRIPT", ""]
    for name, pins in stages:
        made += [f"FROM tools AS {name}", "RUN --mount=type=secret,id=netrc \\", "    /opt/tools/install <<'LOCK'"]
        made += [*pins, "LOCK", ""]
    made += ["FROM python AS image", "RUN useradd --create-home --uid 1000 --shell /usr/sbin/nologin assay"]
    made += ["COPY --link --from=tools /opt/venv /opt/venv"]
    made += [f"COPY --link --from={name} /out/ /opt/venv/" for name, _ in stages]
    made += [more, env, 'LABEL dev.assay.cell="x"', "USER assay", "WORKDIR /home/assay", 'CMD ["python"]', ""]
    return "\n".join(made)


TWO = dockerfile(("small-1", [pinned("demo", "1.0", DEMO), pinned("other", "2.0", OTHER)]))


class Bases:
    """A base of two files, and a compiler that compiles nothing it cannot."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self.compilers = 0
        self.root: str | None = "/nowhere"

    def known(self, steps: ImageSteps, *, told: bool = False) -> AssemblyBase | None:
        return self.open(steps, print)

    def open(self, steps: ImageSteps, say: Callable[[str], None]) -> AssemblyBase:
        assert steps.base == BASE
        layer = self._store.make(
            f"sha256:{'b' * 64}", lambda out: write_layer([file_entry("etc/passwd", b"root:x:0:0\n")], out)
        )
        return AssemblyBase(
            layers=(StoredLayer(media_type="application/vnd.oci.image.layer.v1.tar+zstd", layer=layer),),
            config={
                "architecture": "amd64",
                "config": {"Env": ["PATH=/bin", "A=base"], "Cmd": ["/bin/bash"], "Labels": {"base": "1"}},
                "history": [{"created_by": "debootstrap"}],
            },
            python="3.11.2",
            files={"etc/passwd": b"root:x:0:0\n", "etc/shadow": b"root:*:1::::::\n", "etc/skel/.profile": b"p"},
            root=self.root,
        )

    @contextmanager
    def compiler(self, base: AssemblyBase) -> Iterator[Bases]:
        self.compilers += 1
        yield self

    def submit(self, path: str, source: bytes) -> Future[bytes]:
        future: Future[bytes] = Future()
        try:
            compile(source, path, "exec")
        except SyntaxError:
            future.set_result(b"")
        else:
            future.set_result(b"pyc of " + path.encode())
        return future


class Wheels:
    """Wheels from memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.opened: list[str] = []

    @contextmanager
    def open(self, wheel: PinnedWheel, indexes: Sequence[str], check: Callable[[], None]) -> Iterator[WheelArchive]:
        data = {"demo": DEMO, "other": OTHER, "evil": wheel_bytes("evil", "1.0", {"../../etc/x": b""})}[wheel.name]
        self.opened.append(wheel.name)
        # A file of its own: images that are assembled at once open the same wheel while another reads it.
        with NamedTemporaryFile(dir=self._folder) as file:
            file.write(data)
            file.flush()
            archive = WheelArchive(Path(file.name), f"{wheel.name}.whl")
        with archive:
            yield archive


class Bench:
    """Everything an assembler needs, in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.store = FolderStore(folder / "layers")
        self.bases = Bases(self.store)
        self.wheels = Wheels(folder)

    @property
    def assembler(self) -> Assembler:
        return Assembler(
            wheels=self.wheels, bases=self.bases, store=self.store, harmless=lambda path: path == "demo/data.bin"
        )

    def assemble(self, text: str) -> Assembled:
        return self.assembler.assemble(text)

    def files(self, layer: LayerBytes) -> dict[str, bytes]:
        data = zstandard.ZstdDecompressor().decompressobj().decompress(self.store.blob(layer.digest).read_bytes())
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar if member.isfile()}
