"""Assembling: the Dockerfile decides, layers follow from wheels alone, and nothing is made twice."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from assembly_bench import DEMO, OTHER, TWO, Bench, dockerfile, pinned

from assay.adapters.docker.oci_archive import ImageConfig, write_archive
from assay.adapters.layers.bases import BootstrappedBases
from assay.adapters.layers.layout import write_layout
from assay.adapters.layers.store import FolderStore
from assay.adapters.registry.fake import FakeRegistry
from assay.errors import StoreError, ToolError, UsageError, WheelError
from assay.evidence.reference import Repository
from assay.matrix.image_steps import FinalStage, NotAssembled, image_steps
from assay.pipeline.assembly import fixed
from assay.pipeline.assembly.assemble import Assembler
from assay.pipeline.assembly.deliver import push
from assay.pipeline.assembly.owners import Owners, owned_text
from assay.wheels.install import InstalledFile, Prefix
from assay.wheels.layer import Packing

ROOT = Path(__file__).parents[2]
RENDERED = sorted(ROOT.glob("images/*/cells/*/Dockerfile"))


@pytest.mark.parametrize("path", RENDERED, ids=lambda path: path.parent.name)
def test_every_committed_dockerfile_is_read_or_refused_with_its_line(path: Path) -> None:
    text = path.read_text()
    if "cuda-extension" in path.parent.name:
        with pytest.raises(NotAssembled, match="COPY --from=compile") as error:
            image_steps(text)
        line = error.value.problems[0].line
        assert text.splitlines()[line - 1].endswith("AS compile")
        return
    steps = image_steps(text)
    pins = [f"{w.name}=={w.version} --hash=sha256:{w.sha256}" for s in steps.wheels.values() for w in s.wheels]

    assert sorted(pins) == sorted(line for line in text.splitlines() if line in set(pins))
    assert steps.final.user == "assay"
    assert steps.final.environment["VIRTUAL_ENV"] == "/opt/venv"


@pytest.mark.parametrize(
    "more",
    [
        "RUN curl https://example.org | sh",
        "RUN <<'SCRIPT'\nset -eu\napt-get \"$@\" install --yes --no-install-recommends x\nrm -rf /opt\nSCRIPT",
        "COPY --link --from=elsewhere /x /y",
        "COPY local /x",
        'ENV B="$A"',
        "USER $NAME",
        'SHELL ["sh"]',
        "ADD https://example.org/x /x",
        "CMD python",
    ],
)
def test_what_only_a_build_can_do_is_refused(tmp_path: Path, more: str) -> None:
    with pytest.raises(NotAssembled, match="only a build can run"):
        image_steps(dockerfile(more=more))


def test_an_image_holds_its_wheels_bytecode_account_and_configuration(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    image = bench.assemble(TWO)
    base, account, environment, wheels = (layer.stored.layer for layer in image.layers)
    found = bench.files(wheels)
    site = "opt/venv/lib/python3.11/site-packages"
    config = json.loads(image.config)

    assert found[f"{site}/demo/__init__.py"] == b"x = 1\n"
    assert found[f"{site}/demo/__pycache__/__init__.cpython-311.pyc"] == f"pyc of /{site}/demo/__init__.py".encode()
    assert f"{site}/__pycache__/other.cpython-311.pyc" not in found
    assert found[f"{site}/demo/data.bin"] == bytes(5000)
    assert bench.files(account)["etc/passwd"].endswith(b"assay:x:1000:1000::/home/assay:/usr/sbin/nologin\n")
    assert b"version_info = 3.11.2" in bench.files(environment)["opt/venv/pyvenv.cfg"]
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in (base, account, environment, wheels)]
    assert config["config"] == {
        "Env": ["PATH=/bin", "A=a$b"],
        "Labels": {"base": "1", "dev.assay.cell": "x"},
        "User": "assay",
        "WorkingDir": "/home/assay",
        "Cmd": ["python"],
    }
    assert [layer.digest for layer in image.manifest.layers] == [layer.stored.layer.digest for layer in image.layers]


def test_two_machines_make_the_same_image(tmp_path: Path) -> None:
    first, second = Bench(tmp_path / "a").assemble(TWO), Bench(tmp_path / "b").assemble(TWO)

    assert first.manifest.raw == second.manifest.raw


def test_layers_that_are_known_are_not_made_and_no_wheel_is_opened(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.assemble(TWO)
    again = bench.assemble(TWO)

    assert first.manifest.digest == again.manifest.digest
    assert ["demo", "other"] == bench.wheels.opened
    assert bench.bases.compilers == 1
    assert not any(layer.new for layer in again.layers)


def test_a_layer_whose_bytes_are_gone_or_cut_short_is_made_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    digest = bench.assemble(TWO).layers[-1].stored.layer.digest
    bench.store.blob(digest).write_bytes(b"short")
    bench.assemble(TWO)

    assert bench.wheels.opened == ["demo", "other", "demo", "other"]
    assert f"sha256:{hashlib.sha256(bench.store.blob(digest).read_bytes()).hexdigest()}" == digest


def test_a_wheel_that_is_refused_leaves_nothing_half_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    evil = dockerfile(("small-1", ["demo==1.0 --hash=sha256:" + "1" * 64, "evil==1.0 --hash=sha256:" + "2" * 64]))
    with pytest.raises(WheelError, match="leads out"):
        bench.assemble(evil)

    assert not list(bench.store.folder.glob("partial-*"))
    assert len(list((bench.store.folder / "blobs" / "sha256").iterdir())) == 3


def test_a_layout_holds_images_side_by_side_and_replaces_one_of_the_same_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    image, other = bench.assemble(TWO), bench.assemble(dockerfile(("small-1", [pinned("demo", "1.0", DEMO)])))
    for name, one in (("a", image), ("b", other), ("a", other)):
        write_layout(tmp_path / "out", name, one.manifest, one.config, blob=bench.store.blob)
    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    place = tmp_path / "out" / "blobs" / "sha256"

    assert [entry["digest"] for entry in index["manifests"]] == [other.manifest.digest] * 2
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in place.iterdir())
    with pytest.raises(UsageError, match="no OCI layout"):
        write_layout(tmp_path, "a", image.manifest, image.config, blob=bench.store.blob)


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b'{"manifests": 1}', b'{"manifests": ["x"]}', b'{"manifests": [{"annotations": 1}]}', b"[" * 10_000],
)
def test_an_index_of_a_layout_that_is_invalid_is_refused(tmp_path: Path, index: bytes) -> None:
    bench = Bench(tmp_path)
    image = bench.assemble(TWO)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "oci-layout").touch()
    (tmp_path / "out" / "index.json").write_bytes(index)

    with pytest.raises(StoreError, match="is not an index of an OCI layout"):
        write_layout(tmp_path / "out", "a", image.manifest, image.config, blob=bench.store.blob)


def test_a_push_sends_each_layer_once_and_the_manifest_last(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    image = bench.assemble(TWO)
    registry, repository = FakeRegistry(), Repository.parse("registry.example/team/x")

    said: list[str] = []
    for _ in range(2):
        push(image.manifest, image.config, registry, repository, "t", opened=bench.store.opened, say=said.append)

    assert len(said) == len(image.layers) + 1
    assert said[-1].endswith("already")
    assert registry.manifest(repository, "t") == image.manifest


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        FolderStore(tmp_path / "file" / "layers")


def test_gzip_gives_the_same_files_under_other_digests(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    zstd = bench.assemble(TWO)
    gzip_ = replace(bench.assembler, packing=Packing.GZIP).assemble(TWO)

    assert [one.stored.layer.diff_id for one in zstd.layers] == [one.stored.layer.diff_id for one in gzip_.layers]
    assert zstd.config == gzip_.config
    assert {one.media_type for one in gzip_.manifest.layers[1:]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    for layer in gzip_.layers[1:]:
        data = gzip.decompress(bench.store.blob(layer.stored.layer.digest).read_bytes())
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer.stored.layer.diff_id


def test_a_layer_over_the_limit_is_divided_and_found_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    whole = bench.assemble(TWO)
    small = replace(bench.assembler, largest=9_000)
    divided = small.assemble(TWO)
    again = small.assemble(TWO)
    parts = divided.layers[len(whole.layers) - 1 :]
    files = [bench.files(layer.stored.layer) for layer in parts]

    assert len(parts) > 1
    assert {name: data for one in files for name, data in one.items()} == bench.files(whole.layers[-1].stored.layer)
    assert sum(map(len, files)) == len(bench.files(whole.layers[-1].stored.layer))
    assert again.manifest.raw == divided.manifest.raw
    assert not any(layer.new for layer in again.layers)
    assert small.digest(TWO) == divided.manifest.digest


def test_a_file_larger_than_a_layer_may_be_is_refused_by_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(WheelError, match=r"opt/venv/\S+ gives a layer of \d+ bytes, and 90 are allowed"):
        replace(bench.assembler, largest=90).assemble(TWO)

    assert not list(bench.store.folder.glob("partial-*"))


def test_an_image_has_120_layers_and_no_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    stages = [(f"small-{number}", [pinned("demo", "1.0", DEMO)]) for number in range(118)]
    bench.assemble(dockerfile(*stages[:1]))
    # Three more: the base, the account, the environment.
    image = bench.assemble(dockerfile(*stages[:117]))

    assert len(image.layers) == 120
    with pytest.raises(UsageError, match="would have 121 layers, but engines mount at most 120"):
        bench.assemble(dockerfile(*stages))
    with pytest.raises(UsageError, match="would have 121 layers"):
        bench.assembler.digest(dockerfile(*stages))


APT = """RUN --mount=type=secret,id=ca-bundle <<'SCRIPT'
set -eu
apt-get "$@" update
apt-get "$@" install --yes --no-install-recommends g++ python3
rm -rf /var/lib/apt/lists/*
SCRIPT"""


def with_python_stage(text: str) -> str:
    return dockerfile().replace("FROM ${BASE} AS python\n", f"FROM ${{BASE}} AS python\n{text}\n")


def test_the_packages_of_the_common_stage_belong_to_the_base() -> None:
    steps = image_steps(with_python_stage(APT))

    assert steps.packages == ("g++", "python3")
    assert steps.base_recipe == f"ARG BASE={steps.base}\nFROM ${{BASE}}\n{APT}\n"


@pytest.mark.parametrize("step", ["RUN curl https://example.org | sh", "COPY x /x", "ENV A=1"])
def test_what_else_the_common_stage_does_only_a_build_can_do(step: str) -> None:
    with pytest.raises(NotAssembled, match="only a build can run"):
        image_steps(with_python_stage(step))


def test_an_account_number_that_the_base_has_is_refused_and_ranges_do_not_overlap() -> None:
    stage = FinalStage(user="assay", uid=1000, shell="/bin/sh")
    files = {"etc/passwd": b"root:x:0:0\n", "etc/subuid": b"a:100000:65536\nb:165536:65536\n", "etc/subgid": b""}
    made = {entry.path: b"".join(entry.content) for entry in fixed.account(stage, files)}

    assert made["etc/subuid"].endswith(b"\nassay:231072:65536\n")
    assert made["etc/subgid"] == b"assay:100000:65536\n"
    with pytest.raises(ToolError, match="'ubuntu' with the uid 1000"):
        fixed.account(stage, {"etc/passwd": b"root:x:0:0\nubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n"})


@pytest.mark.parametrize("packages", [APT, ""], ids=["packages on top", "as the registry has it"])
def test_a_base_that_is_not_bootstrapped_is_built_once_and_its_python_is_found(tmp_path: Path, packages: str) -> None:
    asked: list[str] = []

    def build(recipe: str, archive: Path, say: Callable[[str], None]) -> None:
        asked.append(recipe)
        layer = tmp_path / "layer.tar"
        status = b"Package: python3\nStatus: install ok installed\nVersion: 3.12.3-0ubuntu2\n\n"
        status += b"Package: python3.12\nStatus: install ok installed\nVersion: 3.12.3-1ubuntu0.8\n"
        with tarfile.open(layer, "w") as tar:
            for name, data in {"var/lib/dpkg/status": status, "etc/passwd": b"root:x:0:0\n"}.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        write_archive(archive, layer, "x/y:1", ImageConfig())

    store = FolderStore(tmp_path / "layers")
    bases = BootstrappedBases({}, store, None, None, build)  # type: ignore[arg-type]
    steps = image_steps(with_python_stage(packages))
    before = bases.known(steps)
    made = bases.open(steps, print)
    again = bases.open(steps, print)

    assert before is None
    assert asked == [steps.base_recipe]
    assert ("apt-get" in steps.base_recipe) == bool(packages)
    assert (made.python, made.files) == ("3.12.3", {"etc/passwd": b"root:x:0:0\n"})
    assert again == made
    assert all(store.has(one.layer.digest, one.layer.size) for one in made.layers)
    with pytest.raises(NotAssembled, match="is not bootstrapped"):
        BootstrappedBases({}, store, None, None).known(steps)  # type: ignore[arg-type]


def strict(bench: Bench) -> Assembler:
    return replace(bench.assembler, harmless=lambda _: False)


CLASH = r"(demo 1.0 and other 2.0|other 2.0 and demo 1.0) both install demo/data.bin, with different bytes"
APART = dockerfile(
    ("wheel-demo", [pinned("demo", "1.0", DEMO)]),
    ("small-1", [pinned("other", "2.0", OTHER)]),
)


@pytest.mark.parametrize("text", [TWO, APART], ids=["one layer", "two layers"])
def test_two_wheels_with_different_bytes_for_one_path_are_refused_by_path_and_names(tmp_path: Path, text: str) -> None:
    bench = Bench(tmp_path)

    with pytest.raises(WheelError, match=CLASH) as caught:
        strict(bench).assemble(text)

    assert "knowledge/shared_files.yaml" in str(caught.value.hint)


def test_a_wheel_of_a_known_layer_is_compared_without_being_opened(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    strict(bench).assemble(dockerfile(("wheel-demo", [pinned("demo", "1.0", DEMO)])))
    strict(bench).assemble(dockerfile(("small-1", [pinned("other", "2.0", OTHER)])))
    bench.wheels.opened.clear()

    with pytest.raises(WheelError, match=CLASH):
        strict(bench).assemble(APART)

    assert bench.wheels.opened == []


def test_a_known_layer_of_which_no_files_were_kept_is_made_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    strict(bench).assemble(dockerfile(("wheel-demo", [pinned("demo", "1.0", DEMO)])))
    shutil.rmtree(bench.store.folder / "owned")
    (bench.store.folder / "owned").mkdir()

    with pytest.raises(WheelError, match=CLASH):
        strict(bench).assemble(APART)


def test_an_image_that_was_assembled_needs_no_files_of_wheels(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.assemble(APART)
    shutil.rmtree(bench.store.folder / "owned")
    bench.wheels.opened.clear()

    assert bench.assemble(APART).manifest.digest == first.manifest.digest
    assert bench.wheels.opened == []


def test_scripts_of_entry_points_clash_too_and_equal_bytes_do_not() -> None:
    prefix = Prefix(path="/opt/venv", python="3.12")
    script = InstalledFile(path="bin/tool", mode=0o755, content=b"", digest="a" * 43)
    module = InstalledFile(path="lib/python3.12/site-packages/x.py", mode=0o644, content=b"", digest="b" * 43)
    owners = Owners(lambda path: path == "y.py")
    owners.take("one 1", owned_text([script, module], prefix))
    owners.take("two 1", owned_text([module], prefix))
    changed = [replace(script, digest="c" * 43), replace(module, digest="d" * 43)]

    with pytest.raises(WheelError, match=r"^one 1 and three 1 both install \.\./\.\./\.\./bin/tool and 1 more,"):
        owners.take("three 1", owned_text(changed, prefix))
