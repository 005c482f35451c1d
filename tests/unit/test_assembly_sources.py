"""Source builds in assembled images: BuildKit makes the wheel, once, and the wheel becomes a layer like any other."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from assembly_bench import BASE, DEMO, Bench, dockerfile, pinned
from wheels import wheel_bytes

from assay.adapters.docker.fake_builder import FakeBuilder
from assay.adapters.docker.wheel_build import _Checked
from assay.adapters.files.locks import locked
from assay.adapters.layers.archive import WheelArchive
from assay.adapters.layers.sources import BuiltWheels
from assay.errors import Interrupted, SourceBroken, StoreError
from assay.matrix.image_steps import NotAssembled, PinnedWheel, image_steps
from assay.matrix.source_steps import stage_recipe
from assay.pipeline.assembly.assemble import Assembler
from assay.pipeline.assembly.assembled import Assembled
from assay.pipeline.assembly.builder import AssemblingBuilder
from assay.pipeline.assembly.destinations import InFolder
from assay.ports.builder import BuildEnd, BuildTask
from assay.ports.layers import SourceArchive

COMPILED = wheel_bytes("compiled", "3.0", {"compiled.py": b"z = 3\n"})
SDIST = f"compiled==3.0 --hash=sha256:{'5' * 64}"
SCRIPT = """\
FROM python AS source-compiled
COPY --link --from=tools /opt/venv /opt/venv
ARG MAX_JOBS=4
RUN <<'SCRIPT'
git init --quiet /src
cd /src
/opt/tools/bin/uv build --quiet --wheel --no-build-isolation --python /opt/venv/bin/python --out-dir /wheel .
wheel=$(basename /wheel/*.whl)
/opt/tools/bin/uv pip install --quiet --no-deps --no-index --find-links /wheel --python /opt/venv/bin/python \
--prefix /out --link-mode copy --compile-bytecode "${wheel%%-*}"
SCRIPT

"""


def with_stage(script: str = SCRIPT, **more: str) -> str:
    text = dockerfile(("small-1", [pinned("demo", "1.0", DEMO)]), **more)
    text = text.replace("FROM python AS image", f"{script}FROM python AS image")
    return text.replace("ENV A=", "COPY --link --from=source-compiled /out/ /opt/venv/\nENV A=")


class Workshop(Bench):
    """A bench whose BuildKit writes a prepared wheel and counts; the index has `compiled` as a source archive."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.recipes: list[str] = []
        self.learnt: list[str] = []
        self.result: dict[str, bytes] | Exception = {"compiled-3.0-py3-none-any.whl": COMPILED}
        self.sources = BuiltWheels(self.store, self._build, lambda path: self.learnt.append(path.name))

    def _build(self, recipe: str, folder: Path, say: Callable[[str], None], check: Callable[[], None]) -> None:
        self.recipes.append(recipe)
        if isinstance(self.result, Exception):
            raise self.result
        for name, data in self.result.items():
            (folder / name).write_bytes(data)

    @contextmanager
    def open(self, wheel: PinnedWheel, indexes: Sequence[str], check: Callable[[], None]) -> Iterator[WheelArchive]:
        if wheel.sha256 == "5" * 64:
            raise SourceArchive("compiled-3.0.tar.gz is not a wheel", wheel=wheel, indexes=indexes)
        if (path := self.store.wheel(wheel.sha256)).is_file():
            with WheelArchive(path, wheel.name) as archive:
                yield archive
            return
        with self.wheels.open(wheel, indexes, check) as archive:
            yield archive

    @property
    def assembler(self) -> Assembler:
        return replace(super().assembler, wheels=self, sources=self.sources)


def sdist_image(*, last: str = "USER assay") -> str:
    text = dockerfile(("small-1", [pinned("demo", "1.0", DEMO), SDIST]))
    return text.replace("USER assay", last)


def installed(bench: Workshop, image: Assembled) -> set[str]:
    return {name for layer in image.layers for name in bench.files(layer.stored.layer)}


@pytest.mark.parametrize("text", [sdist_image(), with_stage()], ids=["archive of the lock", "stage"])
def test_the_wheel_of_a_source_is_built_once_and_named_by_its_content(tmp_path: Path, text: str) -> None:
    bench = Workshop(tmp_path)
    image = bench.assemble(text)
    again = bench.assemble(text)
    labels = json.loads(image.config)["config"]["Labels"]

    assert "opt/venv/lib/python3.11/site-packages/compiled.py" in installed(bench, image)
    assert labels["dev.assay.built.compiled"] == f"sha256:{hashlib.sha256(COMPILED).hexdigest()}"
    assert again.manifest.digest == image.manifest.digest
    assert bench.assembler.digest(text) == image.manifest.digest
    assert len(bench.recipes) == 1
    assert bench.learnt == ["compiled-3.0-py3-none-any.whl"]
    assert any(wheel.name == "compiled" for entry in bench.store.entries() for wheel in entry.wheels)


def test_a_layer_follows_from_the_wheel_and_not_from_its_source(tmp_path: Path) -> None:
    bench = Workshop(tmp_path)
    wheel = pinned("compiled", "3.0", COMPILED)
    (layer,) = bench.assemble(with_stage()).layers[-1:]
    plain = bench.assemble(dockerfile(("small-1", [pinned("demo", "1.0", DEMO)]), ("small-2", [wheel]))).layers[-1]

    assert layer.stored.layer == plain.stored.layer


def test_a_recipe_has_all_that_the_wheel_is_built_from_and_nothing_of_the_image(tmp_path: Path) -> None:
    bench = Workshop(tmp_path)
    bench.assemble(with_stage())
    bench.assemble(with_stage(env='ENV A="other"'))
    bench.assemble(with_stage(SCRIPT.replace("MAX_JOBS=4", "MAX_JOBS=5")))
    bench.assemble(sdist_image())
    bench.assemble(sdist_image(last="USER other"))
    stage, changed, archive = bench.recipes

    assert stage.startswith(f"ARG BASE={BASE}\n")
    assert stage.endswith("\nFROM scratch AS wheel\nCOPY --from=source-compiled /wheel/*.whl /\n")
    assert "useradd" not in stage
    assert pinned("demo", "1.0", DEMO) in stage
    assert stage != changed
    assert "small-1" not in archive
    assert SDIST in archive
    assert archive.endswith("\nFROM scratch AS wheel\nCOPY --from=sdist /wheel/*.whl /\n")


def test_wheels_that_are_gone_are_built_again(tmp_path: Path) -> None:
    bench = Workshop(tmp_path)
    image = bench.assemble(sdist_image())
    bench.store.wheel(hashlib.sha256(COMPILED).hexdigest()).unlink()

    assert bench.assembler.digest(sdist_image()) is None
    assert bench.assemble(sdist_image()).manifest.digest == image.manifest.digest
    assert len(bench.recipes) == 2


@pytest.mark.parametrize("result", [{}, {"a-1-py3-none-any.whl": b"", "b-1-py3-none-any.whl": b""}, {"x.tar": b""},
                                    {"a-1-py3-none-any.whl": b"no zip"}])  # fmt: skip
def test_a_build_that_gives_no_wheel_is_an_error_and_leaves_nothing(tmp_path: Path, result: dict[str, bytes]) -> None:
    bench = Workshop(tmp_path)
    bench.result = result
    with pytest.raises(SourceBroken, match="in place of one wheel"):
        bench.assemble(sdist_image())

    assert [path.suffix for path in (bench.store.folder / "sources").iterdir()] == [".lock"]


def test_a_stage_that_installs_more_than_its_wheel_is_left_to_a_build() -> None:
    more = SCRIPT.replace("git init", "mkdir -p /out/etc\ngit init")
    with pytest.raises(NotAssembled, match="source-compiled"):
        image_steps(with_stage(more))


@pytest.mark.parametrize("text", [sdist_image(), with_stage()], ids=["archive of the lock", "stage"])
def test_without_a_builder_of_wheels_nothing_is_assembled(tmp_path: Path, text: str) -> None:
    bench = Workshop(tmp_path)
    assembler = replace(bench.assembler, sources=None)
    with pytest.raises((NotAssembled, SourceArchive)):
        assembler.assemble(text)

    assert bool(assembler.obstacle(text)) == ("source-compiled" in text)
    assert not bench.assembler.obstacle(text)


def test_buildkit_builds_all_of_an_image_once_its_source_archive_is_known(tmp_path: Path) -> None:
    bench, buildkit = Workshop(tmp_path), FakeBuilder()
    destination = InFolder(lambda _: None, lambda *_: None)
    task = BuildTask(dockerfile=sdist_image(), tags=("x:1",), log=tmp_path / "log")
    builder = AssemblingBuilder(replace(bench.assembler, sources=None), destination, buildkit)
    before = builder.obstacle(task.dockerfile)
    with pytest.raises(SourceArchive):
        builder.build(task)

    assert "" == before
    assert "compiled-3.0.tar.gz is not a wheel" == builder.obstacle(task.dockerfile)
    assert builder.build(task).end is BuildEnd.BUILT
    assert [task] == buildkit.tasks


def test_where_nothing_builds_a_source_archive_stays_an_error(tmp_path: Path) -> None:
    bench = Workshop(tmp_path)
    builder = AssemblingBuilder(replace(bench.assembler, sources=None), InFolder(lambda _: None, lambda *_: None), None)
    for _ in range(2):
        with pytest.raises(SourceArchive):
            builder.build(BuildTask(dockerfile=sdist_image(), tags=("x:1",), log=tmp_path / "log"))


def test_a_source_that_does_not_compile_fails_the_cell_with_its_log(tmp_path: Path) -> None:
    bench = Workshop(tmp_path)
    bench.result = SourceBroken("a wheel could not be built from source:\nx.cu: error", log="nvcc said a lot")
    builder = AssemblingBuilder(bench.assembler, InFolder(lambda _: None, lambda *_: None), None)
    outcome = builder.build(BuildTask(dockerfile=with_stage(), tags=("x:1",), log=tmp_path / "log"))

    assert outcome.end is BuildEnd.FAILED
    assert "x.cu: error" in outcome.reason
    assert "nvcc said a lot" in (tmp_path / "log").read_text()


def test_a_build_of_a_wheel_ends_when_the_image_has_to() -> None:
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise Interrupted("stopped")

    stop = _Checked(check)

    assert [stop.wait(0.001), stop.wait(0.001), stop.wait(0.001), stop.is_set()] == [False, False, True, True]


def test_a_wheel_that_another_run_builds_is_waited_for(tmp_path: Path) -> None:
    bench = Workshop(tmp_path)
    (sources := bench.store.folder / "sources").mkdir()
    said: list[str] = []
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise Interrupted("stopped")

    other = locked(sources / f"{hashlib.sha256(b'recipe').hexdigest()}.lock")
    with other, pytest.raises(Interrupted):
        bench.sources.build("recipe", said.append, check)

    assert said == ["another run builds this wheel; waiting"]
    assert bench.recipes == []


def test_a_full_disk_is_distinguished_from_a_source_that_does_not_compile(tmp_path: Path) -> None:
    bench = Workshop(tmp_path)
    bench.result = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StoreError, match="free some disk space"):
        bench.assemble(sdist_image())


def test_the_template_ends_a_stage_that_compiles_as_it_is_read() -> None:
    template = (Path(__file__).parents[2] / "templates" / "server.Dockerfile.j2").read_text()
    lines = SCRIPT.partition("cd /src\n")[2].partition("SCRIPT")[0]

    assert lines in template
    assert stage_recipe(with_stage(), "source-compiled").count("FROM scratch") == 1
