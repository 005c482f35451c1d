"""Bases without an engine: bootstrapped, kept as archives, their Python runnable from its unpacked files."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from assay.adapters.docker.bootstrap import LABEL_FACTS, DebootstrapBases
from assay.adapters.files.locks import locked
from assay.adapters.layers.bytecode import Compilers, SharedCompilers
from assay.adapters.layers.store import FolderStore
from assay.adapters.layers.unpacked import UnpackedBases
from assay.errors import Problem, StoreError, ToolError
from assay.foundation.digest import sha256_of
from assay.foundation.platforms import Platform
from assay.matrix.image_steps import ImageSteps, NotAssembled
from assay.matrix.model import Base, BootstrapBase
from assay.matrix.render import base_reference
from assay.ports.layers import ACCOUNT_FILES, AssemblyBase, StoredLayer
from assay.wheels import debian
from assay.wheels.catalogue import BaseEntry, BaseLayer
from assay.wheels.layer import LayerBytes

__all__ = ["BootstrappedBases"]

BuildArchive = Callable[[str, Path, Callable[[str], None]], None]
"""(Dockerfile, archive, where progress goes): builds an image and writes it."""
_SMALL: Final = 1 << 20
_STATUS: Final = "var/lib/dpkg/status"
_LARGEST_STATUS: Final = 16 << 20
_DONE: Final = ".complete"
_NEW: Final = "new-"


class BootstrappedBases:
    """Bases of a matrix that are made here.

    Args:
        bases: those of the matrix, by name.
        store: keeps their layers, and their archives beside it.
        maker: runs debootstrap, for linux/amd64.
        unpacker: makes bases of other platforms; the same bytes on every machine, also on one of that platform.
        build: builds the Dockerfile of any other base and writes an archive of it; None refuses such bases.
    """

    def __init__(
        self,
        bases: Mapping[str, Base],
        store: FolderStore,
        maker: DebootstrapBases,
        unpacker: UnpackedBases,
        build: BuildArchive | None = None,
    ) -> None:
        self._build = build
        self._bases = {
            base_reference(name, base, None, platform): (name, base, platform)
            for name, base in bases.items()
            for platform in Platform
        }
        self._store = store
        self._maker = maker
        self._unpacker = unpacker
        self._recipes: dict[str, BootstrapBase] = {}
        """By the folder of a base's files."""
        self._compilers: dict[Path, SharedCompilers] = {}
        """By the folder of a base's files."""
        self._guard = threading.Lock()

    def known(self, steps: ImageSteps, *, told: bool = False) -> AssemblyBase | None:
        """Return a base that was made before; see the port."""
        return self._known(self._key(steps), told=told)

    def _known(self, key: str, *, told: bool = False) -> AssemblyBase | None:
        folder = self._folder(key)
        there = (folder / _DONE).is_file()
        if there and self._store.base(folder.name) is None:
            self._describe(folder)
        entry = self._store.base(folder.name, told=told)
        return None if entry is None else _base(entry, str(folder / "root") if there else None)

    def open(self, steps: ImageSteps, say: Callable[[str], None]) -> AssemblyBase:
        """Return the base of an image with its packages; see the port."""
        key, build = self._key(steps), self._build
        if not self._is_bootstrapped(steps) and build is not None:
            return self._made(key, lambda archive: build(steps.base_recipe, archive, say))
        wanted, key, platform = self._wanted(steps)
        return self._made(key, self._bootstrapping(wanted, key, platform, say, unpacked=platform is not Platform.AMD64))

    def _is_bootstrapped(self, steps: ImageSteps) -> bool:
        return steps.base in self._bases and isinstance(self._bases[steps.base][1], BootstrapBase)

    def _key(self, steps: ImageSteps) -> str:
        if self._build is None or self._is_bootstrapped(steps):
            return self._wanted(steps)[1]
        return f"built:{sha256_of(steps.base_recipe.encode())[7:19]}"

    def _bootstrapping(
        self, wanted: BootstrapBase, key: str, platform: Platform, say: Callable[[str], None], *, unpacked: bool
    ) -> Callable[[Path], None]:
        write = self._unpacker.write if unpacked else self._maker.write
        return lambda archive: write(wanted, key, archive, say, platform)

    def _made(self, key: str, write: Callable[[Path], None]) -> AssemblyBase:
        folder = self._folder(key)
        if not self._whole(found := self._known(key)):
            # One run makes a base, others wait for it; what a killed one left goes with the next that is made.
            with locked(folder.parent / ".lock", wait=True):
                if not self._whole(found := self._known(key)):
                    for left in (folder, *folder.parent.glob(f"{_NEW}*")):
                        shutil.rmtree(left, ignore_errors=True)
                    self._bootstrap(folder, write)
                    self._describe(folder)
                    found = self._known(key)
        assert found is not None
        return found

    def _whole(self, base: AssemblyBase | None) -> bool:
        return (
            base is not None
            and base.root is not None
            and all(self._store.has(one.layer.digest, one.layer.size) for one in base.layers)
        )

    def _wanted(self, steps: ImageSteps) -> tuple[BootstrapBase, str, Platform]:
        name, base, platform = self._bases.get(steps.base, ("", None, Platform.AMD64))
        if not isinstance(base, BootstrapBase):
            raise NotAssembled(
                [
                    Problem(
                        file="Dockerfile", line=3, column=1,
                        message=f"the base {steps.base} is not bootstrapped: only a build can put packages on it; "
                        "use the BuildKit builder for this image",
                    )
                ]
            )  # fmt: skip
        wanted = base.model_copy(update={"packages": tuple(dict.fromkeys([*base.packages, *steps.packages]))})
        key = base_reference(name, wanted, None, platform)
        self._recipes[str(self._folder(key) / "root")] = wanted
        return wanted, key, platform

    def _folder(self, key: str) -> Path:
        return self._store.folder / "bases" / key.rpartition(":")[2]

    def _bootstrap(self, folder: Path, write: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_NEW) as scratch:
            archive = Path(scratch) / "base.tar"
            write(archive)
            made = Path(scratch) / "made"
            made.mkdir()
            self._unpack(archive, made)
            made.rename(folder)

    def _unpack(self, archive: Path, folder: Path) -> None:
        """Put the layer of a base into the store, and what assembling needs of its files beside it."""
        with tarfile.open(archive) as outer:
            index = json.load(_member(outer, "index.json"))
            manifest = json.load(_member(outer, _blob(index["manifests"][0]["digest"])))
            config = json.load(_member(outer, _blob(manifest["config"]["digest"])))
            for layer in manifest["layers"]:
                with _member(outer, _blob(layer["digest"])) as data:
                    blob = self._store.keep(data, layer["digest"])  # type: ignore[arg-type]
                with _layer(blob) as files:
                    files.extractall(folder / "root", members=_needed(files), filter=_as_files)  # noqa: S202 - the filter
        (folder / "image.json").write_text(json.dumps({"manifest": manifest, "config": config}))
        (folder / _DONE).touch()

    def _describe(self, folder: Path) -> None:
        """Write beside a base what others need to compute the digest of an image on it."""
        root = folder / "root"
        names = [*ACCOUNT_FILES, *(f"etc/skel/{path.name}" for path in sorted((root / "etc/skel").glob(".*")))]
        files = {name: (root / name).read_text() for name in names if (root / name).is_file()}
        said = json.loads((folder / "image.json").read_text())
        manifest, config = said["manifest"], said["config"]
        layers = tuple(
            BaseLayer(media_type=layer["mediaType"], digest=layer["digest"], diff_id=diff_id, size=layer["size"])
            for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
        )
        python = _python(root, (config.get("config") or {}).get("Labels") or {})
        self._store.learn_base(BaseEntry(key=folder.name, layers=layers, config=config, python=python, files=files))

    @contextmanager
    def compiler(self, base: AssemblyBase) -> Iterator[SharedCompilers]:
        """Return a compiler that runs the Python of a base by the base's own loader; see the port.

        For a base of another platform the same Python of this one compiles: bytecode does not depend on the platform.
        """
        assert base.root is not None
        here = Platform.of(platform.machine())
        root = Path(base.root)
        if base.config.get("architecture", "amd64") != here.architecture:
            root = self._twin(base, base.root, here)
        loader = root / here.loader
        minor = ".".join(base.python.split(".")[:2])
        libraries = f"{root}/usr/lib/{here.machine}-linux-gnu"
        command = [str(loader), "--library-path", libraries, f"{root}/usr/bin/python{minor}"]
        make = partial(Compilers, command, count=os.cpu_count() or 1, environment={"PYTHONHOME": f"{root}/usr"})
        with self._guard:
            shared = self._compilers.setdefault(root, SharedCompilers(make, self._store.folder))
        with shared.used() as compilers:
            yield compilers

    def _twin(self, base: AssemblyBase, root: str, here: Platform) -> Path:
        """Return the files of a base of this machine's platform with the same Python and nothing else."""
        if (found := self._recipes.get(root)) is None:
            raise ToolError("the base was built for another platform", hint="assemble on a machine of that platform")
        recipe = found.model_copy(update={"packages": ("python3",)})
        key = f"{base_reference('python', recipe, None, here)}-python"
        twin = self._made(key, self._bootstrapping(recipe, key, here, lambda _: None, unpacked=True))
        assert twin.root is not None
        if twin.python != base.python:
            raise ToolError(
                f"the base has Python {base.python}, and its twin for {here} has {twin.python}",
                hint=f"remove {Path(root).parent} and {Path(twin.root).parent}; both are made again",
            )
        return Path(twin.root)


def _python(root: Path, labels: Mapping[str, str]) -> str:
    """Return the exact version of a base's Python: as the base says, else as its package manager does."""
    if LABEL_FACTS in labels:
        return str(json.loads(labels[LABEL_FACTS])["python"])
    status = root / _STATUS
    packages = debian.installed(status.read_text()) if status.is_file() else {}
    # The version of `python3` begins with that of the package it depends on.
    minor = ".".join(packages.get("python3", "").split(".")[:2])
    if f"python{minor}" not in packages:
        raise ToolError(
            "the base has no python3 of its distribution's packages", hint="name python3 as a package of it"
        )
    return debian.upstream_version(packages[f"python{minor}"])


def _base(entry: BaseEntry, root: str | None) -> AssemblyBase:
    layers = (
        StoredLayer(
            media_type=one.media_type,
            layer=LayerBytes(digest=one.digest, diff_id=one.diff_id, size=one.size, unpacked=0),
        )
        for one in entry.layers
    )
    files = {name: text.encode() for name, text in entry.files.items()}
    return AssemblyBase(layers=tuple(layers), config=entry.config, python=entry.python, files=files, root=root)


def _layer(blob: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(blob)
    except tarfile.ReadError as error:
        raise ToolError(f"a layer of a base is packed in a way that cannot be read here: {error}") from error


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _member(outer: tarfile.TarFile, name: str) -> IO[bytes]:
    found = outer.extractfile(name)
    if found is None:
        raise StoreError(f"the archive of a base lacks {name}")
    return found


def _needed(files: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield what names accounts, and what Python needs to compile: itself, its library, the libraries of C."""
    for member in files:
        name = member.name.removeprefix("./")
        top, _, rest = name.partition("/")
        if name in ACCOUNT_FILES or name.startswith("etc/skel/"):
            if member.size <= _SMALL:
                yield member
            continue
        if name == _STATUS and member.size <= _LARGEST_STATUS:
            yield member
            continue
        loader = name in {"lib", "lib64"} or name.startswith(("lib64/", "usr/lib64/", "usr/lib/ld-linux-"))
        python = rest.startswith("bin/python3") or (
            rest.startswith("lib/python3") and "/test" not in rest and "dist-packages" not in rest
        )
        library = rest.startswith("lib/") and rest.count("/") == 2 and ".so" in rest
        if loader or (top == "usr" and (python or library)):
            yield member


def _as_files(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """Unpack readable, as the user who runs this, with links that stay within the base."""
    if member.isdev():
        return None
    changed: dict[str, Any] = {"mode": member.mode | 0o600, "uid": None, "gid": None, "uname": None, "gname": None}
    if member.issym() and member.linkname.startswith("/"):
        depth = member.name.removeprefix("./").count("/")
        changed["linkname"] = "../" * depth + member.linkname.lstrip("/")
    return tarfile.tar_filter(member.replace(**changed, deep=False), path)
