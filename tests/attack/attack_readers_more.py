"""More readers: recipes, locks, logs, what servers and images say, and JSON that Hypothesis makes up."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import yaml
from attack_readers import (
    DIGEST,
    FIXTURES,
    REFUSALS,
    ROOT,
    metadata,
    read_bundle,
    read_facts,
    read_manifest,
    read_record,
    read_statement,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

from assay.adapters.files.image_archive import image_files
from assay.adapters.files.model_files import ModelFiles
from assay.adapters.files.pool_runs import PoolRuns
from assay.adapters.host.git import commit_in
from assay.adapters.index.simple import parse_html, parse_json
from assay.adapters.pools.contexts import only_member
from assay.adapters.pools.fake import sealed_result
from assay.adapters.pools.frames import results_in, without_frames
from assay.adapters.registry.auth import DockerConfig
from assay.adapters.registry.auth import challenges as read_challenges
from assay.diagnose import examine, parse_library
from assay.engines.sglang import ENGINE as SGLANG
from assay.evidence import suite as probes
from assay.evidence.reference import Reference, Repository
from assay.evidence.suite import read_result as result_of
from assay.foundation.digest import sha256_of
from assay.matrix import loading as matrix
from assay.matrix import lockfile, plan, recipe
from assay.matrix.image_steps import image_steps
from assay.pipeline.audit_image import installed
from assay.pipeline.audit_image import read_image as image_contents
from assay.ports.jobs import Bind, JobResult, Place, ProbeJob, seal, unseal
from assay.ports.pools import PlannedJob, PoolRun
from assay.ports.server import ServerJob, facts_of
from assay.serving.helptext import parse_help
from assay.serving.modelshape import shape_of

# --- recipes, locks, logs -----------------------------------------------------------------------------------------


def locks() -> tuple[bytes, ...]:
    """Committed locks, and one that pins the commit of a source."""
    committed = tuple(path.read_bytes() for path in sorted(ROOT.glob("images/*/cells/*/lock.txt"))[:3])
    return (*committed, committed[0].replace(b"# require", b"# source: k v1.0 %b\n# require" % (b"a" * 40), 1))


def ls_remotes() -> tuple[bytes, ...]:
    """What git tells of a tag: an annotated one, a plain one, and lines without end."""
    tag = b"%b\trefs/tags/v1\n" % (b"a" * 40)
    return (tag + b"%b\trefs/tags/v1^{}\n" % (b"b" * 40), tag, tag * 20_000, b"a" * 40 + b"\t" + b"x" * 1_000_000)


def read_ls_remote(data: bytes, _folder: Path) -> None:
    """Find the commit of a tag; it is a whole hash, or there is none."""
    commit = commit_in(data.decode(errors="replace"), "v1")
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}", commit)


def jobs() -> tuple[bytes, ...]:
    """A job of probes as plain data."""
    job = ProbeJob(run="r", place=Place(reference="local"), suite=f"sha256:{'1' * 64}", features=("one",))
    return (job.model_dump_json(exclude={"checksum"}).encode(),)


def read_job(data: bytes, _folder: Path) -> None:
    """Read a job that somebody sealed."""
    rest = data[1:]
    unseal(b'{"checksum":"' + sha256_of(rest).encode() + b'",' + rest, ProbeJob, source="job.json")


def server_jobs() -> tuple[bytes, ...]:
    """A server as plain data: what has to be named, and all that can be."""
    place = Place(reference="image:1", digest=f"sha256:{'1' * 64}")
    least = ServerJob(run="r", place=place)
    most = ServerJob(
        run="r", name="chat", place=place, argv=("serve", "{port}"), env={"A": "1"}, user="1:1", gpus=("0",),
        port=8000, ports_beside=(1,), labels={"a": "b"}, mounts=(Bind(source="/a", target="/b"),),
    )  # fmt: skip
    return tuple(job.model_dump_json(exclude={"checksum"}).encode() for job in (least, most))


def read_server_job(data: bytes, _folder: Path) -> None:
    """Read the job of a server that somebody sealed; what was read can be started, and written again."""
    rest = data[1:]
    job = unseal(b'{"checksum":"' + sha256_of(rest).encode() + b'",' + rest, ServerJob, source="job.json")
    assert unseal(seal(job), ServerJob, source="job.json").task() == job.task()


def server_facts() -> tuple[bytes, ...]:
    """What an image says of its devices and packages."""
    card = {"name": "NVIDIA H200", "capability": "9.0", "memory_bytes": 140 << 30, "uuid": "GPU-1"}
    facts = {"devices": [card], "driver": "580.1", "cuda": "13.0", "packages": {"vllm": "0.26.0"}, "machine": "x86_64"}
    return (json.dumps(facts).encode(), json.dumps({"devices": [], "packages": {}}).encode())


def read_server_facts(data: bytes, _folder: Path) -> None:
    """Read them."""
    facts_of(data, source="image:1")


def pool_logs() -> tuple[bytes, ...]:
    """The log of a job, with its result in frames."""
    job = ProbeJob(run="r", place=Place(reference="local"), suite=f"sha256:{'1' * 64}", features=("one", "two"))
    result = sealed_result(job)
    text = base64.b64encode(zlib.compress(result)).decode()
    pieces = [text[start : start + 300] for start in range(0, len(text), 300)]
    mark = sha256_of(result)[7:39]
    lines = [f"assay-result {mark} {number}/{len(pieces)} {piece}" for number, piece in enumerate(pieces, 1)]
    return ("\n".join(["probe: one: works", *lines, "the end"]).encode(),)


def read_pool_log(data: bytes, _folder: Path) -> None:
    """Read the results in a log; what is damaged is left out."""
    for sealed, result in results_in(data):
        assert unseal(sealed, JobResult, source="log") == result
    without_frames(data)


def pool_archives() -> tuple[bytes, ...]:
    """What `docker cp` writes of one file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("result.json")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"{}\n"))
    return (stream.getvalue(),)


def read_pool_archive(data: bytes, _folder: Path) -> None:
    """Read the one file of an archive."""
    only_member(data)


def pool_plans() -> tuple[bytes, ...]:
    """The plan of a run on a pool."""
    job = ProbeJob(run="r", place=Place(reference="local"), suite=f"sha256:{'1' * 64}", features=("one",))
    moment = datetime(2026, 11, 30, tzinfo=UTC)
    plan = PoolRun(run="r", pool="p", created=moment, jobs=(PlannedJob(job=job, cell="c"),))
    return (plan.model_dump_json().encode(),)


def read_pool_plan(data: bytes, folder: Path) -> None:
    """Read a plan."""
    path = folder / "r" / "pool.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    PoolRuns(folder).plan("r")


def dockerfiles() -> tuple[bytes, ...]:
    """Committed Dockerfiles."""
    return tuple(path.read_bytes() for path in sorted(ROOT.glob("images/*/cells/*/Dockerfile"))[1:4])


def read_dockerfile(data: bytes, _folder: Path) -> None:
    """Read what a Dockerfile's image is made of."""
    image_steps(data.decode(errors="replace"))


def read_lock(data: bytes, _folder: Path) -> None:
    """Read a lock and write it again."""
    lockfile.dump(lockfile.parse(data.decode(errors="replace"), file="lock.txt"))


def matrices() -> tuple[bytes, ...]:
    """The matrix, and what makes YAML large."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(10)
    )
    good = (ROOT / "matrix.yaml").read_bytes()
    values = ", ".join(f"1.{number}" for number in range(1000))
    axes = "axes:\n" + "".join(f"  a{n}: {{label: a, values: [{values}]}}\n" for n in range(4))
    return (good, bomb.encode(), b"[" * 5000, good + b"x: " + b"y" * 3_000_000, axes.encode())


def recipes() -> tuple[bytes, ...]:
    """The recipes of images."""
    return ((ROOT / "images" / "sglang-blackwell" / "image.yaml").read_bytes(),)


def _images() -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(ROOT.glob("images/*/image.yaml"))}


def read_matrix(data: bytes, _folder: Path) -> None:
    """Read a matrix with the recipes of this project, and make a plan."""
    plan.make(matrix.load(data.decode(errors="replace"), _images()))


def read_recipe(data: bytes, _folder: Path) -> None:
    """Read a recipe with the matrix of this project, make a plan, and add a constraint."""
    text = data.decode(errors="replace")
    plan.make(matrix.load((ROOT / "matrix.yaml").read_text(), _images() | {"sglang-blackwell": text}))
    recipe.with_constraints(text, {"torch": "2.8.0"}, ["numpy<2"], comments=["why"], file="image.yaml")


@cache
def logs() -> tuple[bytes, ...]:
    """Logs of failures, and lines that patterns may stumble over."""
    found = [
        path.read_bytes()[:20_000] for path in sorted((ROOT / "tests" / "data" / "diagnose" / "noise").glob("*"))[:10]
    ]
    cases = json.loads((ROOT / "tests" / "data" / "diagnose" / "starting-material.json").read_bytes())
    found.append(json.dumps(cases)[:60_000].replace("\\n", "\n").encode())
    return (
        *found,
        b"a" * 5_000_000,
        b"Error: " * 300_000,
        b"\r" * 500_000,
        b" " * 500_000 + b"\n",
        b"\x1b[" * 300_000,
        bytes(range(256)) * 4000,
    )


def read_log(data: bytes, _folder: Path) -> None:
    """Diagnose a log."""
    examine(data)


def failures() -> tuple[bytes, ...]:
    """The library of failures, cut to a few entries."""
    text = (ROOT / "knowledge" / "failures" / "abi.yaml").read_bytes()
    entries = text.split(b"\n- ")
    return (b"\n- ".join(entries[:6]) + b"\n",)


def read_failures(data: bytes, _folder: Path) -> None:
    """Read a library of failures."""
    parse_library({"failures.yaml": data})


def helps() -> tuple[bytes, ...]:
    """Help texts of servers."""
    return (
        (
            b"usage: serve [-h] [--model MODEL]\n\noptions:\n  -h, --help  show this\n"
            b"  --model MODEL  a model (default: x)\n  --tp-size N, --tensor-parallel-size N\n"
            b"                        how many GPUs (deprecated, use --tp)\n  --dtype {auto,half}   a type\n"
        ),
        b"  --" + b"a" * 200_000 + b" {" + b"x," * 100_000 + b"}\n",
        b"  --x X" + b" " * 500_000 + b"y\n" * 1000,
    )


def read_help(data: bytes, _folder: Path) -> None:
    """Read what a server says of its options."""
    parse_help(data.decode(errors="replace"))


def server_infos() -> tuple[bytes, ...]:
    """What a server says of itself."""
    return (
        b'{"model_path": "x", "attention_backend": "fa3", "kv_cache_dtype": "auto", "internal_states": [{"x": 1}]}',
    )


def read_server_info(data: bytes, _folder: Path) -> None:
    """Read what a server says of itself."""
    SGLANG.chosen_in_account(data)


def model_configs() -> tuple[bytes, ...]:
    """config.json of models."""
    models = yaml.safe_load((ROOT / "knowledge" / "models.yaml").read_text())["models"]
    return tuple(json.dumps(one["config"]).encode() for one in list(models.values())[:4])


def read_model(data: bytes, folder: Path) -> None:
    """Read a folder with a model."""
    place = folder / "model"
    place.mkdir(exist_ok=True)
    (place / "config.json").write_bytes(data)
    found = ModelFiles(ROOT / "knowledge" / "models.yaml", cache=folder, offline=True).find(str(place))
    if found is not None:
        shape_of(found.config, weight_bytes=found.weight_bytes)


def probe_results() -> tuple[bytes, ...]:
    """What the harness writes after probes."""
    ended = probes.ProbeEnded(
        feature="marlin", file="marlin.py", exit_code=0, document={"outcome": "works", "metrics": {"x": 1.0}}
    )
    place = probes.ProbeFacts(
        devices=({"name": "x", "capability": "12.0", "memory_bytes": 1},), packages={"torch": "2.8.0"}
    )
    result = probes.HarnessResult(
        schema_version=1, suite_digest=DIGEST, python="3.12", executable="/x", facts=place, probes={"marlin": ended}
    )
    return (result.model_dump_json().encode(),)


def read_probe(data: bytes, _folder: Path) -> None:
    """Read what a probe of somebody's image wrote, as the executors do."""
    result, _ = result_of(data)
    probes.devices(result.facts if result else None)
    for ended in result.probes.values() if result else ():
        probes.judge(ended, timeout=10.0)


# --- images, indexes, registries ----------------------------------------------------------------------------------


@cache
def image_exports() -> tuple[bytes, ...]:
    """File systems of images as tar, and tricks of tar."""
    site = "opt/venv/lib/python3.12/site-packages"
    small = (FIXTURES / "elf" / "libprovider.so.1").read_bytes()
    plain = {
        f"{site}/evil/x.so": small, f"{site}/evil-1.0.dist-info/METADATA": metadata()[0],
        f"{site}/evil-1.0.dist-info/RECORD": b"evil/x.so,,\n",
        f"{site}/evil-1.0.dist-info/WHEEL": b"Tag: cp312-cp312-linux_x86_64\n",
        "etc/os-release": b"ID=debian\nVERSION_ID=12\n", "usr/lib/x86_64-linux-gnu/libc.so.6": small,
    }  # fmt: skip
    bad = {**plain, f"{site}/evil-1.0.dist-info/METADATA": metadata()[1], "../../etc/passwd": b"x"}
    return (_tar(plain), _tar(bad), _tar(plain, links=2000), _tar({f"{site}/evil/{n}.so": small for n in range(100)}))


def _tar(files: dict[str, bytes], *, links: int = 0) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for number in range(links):
            member = tarfile.TarInfo(f"link{number}")
            member.type, member.linkname = tarfile.SYMTYPE, f"link{(number + 1) % links}"
            tar.addfile(member)
    return made.getvalue()


class _Engine:
    def __init__(self, data: bytes) -> None:
        self._data = data

    @contextmanager
    def image_files(self, _reference: str) -> Iterator[Any]:
        yield image_files(cast("BinaryIO", io.BytesIO(self._data)), "reading")


def read_image(data: bytes, _folder: Path) -> None:
    """Read the file system of an image that somebody made."""
    contents = image_contents(lambda: _Engine(data).image_files("evil:1"), "evil:1")
    installed(contents, name="evil", env={"PATH": "/opt/venv/bin"}, digest=DIGEST)


def index_pages() -> tuple[bytes, ...]:
    """Pages of an index."""
    name = "evil-1.0-cp312-cp312-linux_x86_64.whl"
    more = 'data-requires-python="&gt;=3.9" data-yanked=""'
    row = f'<a href="../../files/{name}#sha256={"a" * 64}" {more}>{name}</a><br/>\n'
    page = f'<!DOCTYPE html><html><head><base href="/x/"></head><body>\n{row}</body></html>\n'
    return (
        page.encode(),
        (row * 20_000).encode(),
        b"<a href='http://[::bad/'>x</a>",
        b"<" * 500_000,
        b"<a " + b"x=y " * 200_000,
        b"&#" * 300_000,
    )


def read_index_page(data: bytes, _folder: Path) -> None:
    """Read a page of an index."""
    parse_html(data.decode(errors="replace"), url="https://index.example/simple/evil/", project="evil")


def index_documents() -> tuple[bytes, ...]:
    """The same as JSON."""
    name = "evil-1.0-cp312-cp312-linux_x86_64.whl"
    entry = {
        "filename": name, "url": f"../../{name}", "hashes": {"sha256": "a" * 64}, "requires-python": ">=3.9",
        "size": 10,
        "yanked": False, "core-metadata": {"sha256": "b" * 64},
    }  # fmt: skip
    return tuple(
        json.dumps({"meta": {"api-version": "1.1"}, "name": "evil", "files": [entry] * n}).encode() for n in (1, 3000)
    )


def read_index_json(data: bytes, _folder: Path) -> None:
    """Read a page of an index that is JSON."""
    parse_json(data.decode(errors="replace"), url="https://index.example/simple/evil/", project="evil")


def challenges() -> tuple[bytes, ...]:
    """WWW-Authenticate headers."""
    return (
        b'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull"',
        b'Basic realm="x", Bearer realm="y"',
        b"Bearer " + b'a="' * 30_000,
        b"Bearer a=" + b"\\" * 60_000,
        b"," * 60_000 + b"Bearer",
    )


def read_challenge(data: bytes, _folder: Path) -> None:
    """Read what a registry asks for."""
    read_challenges(data.decode(errors="replace"))


def docker_configs() -> tuple[bytes, ...]:
    """Docker's config.json."""
    return (b'{"auths": {"registry.example": {"auth": "dXNlcjpwYXNz"}}, "credHelpers": {"x": "no-such-helper"}}',)


def read_docker_config(data: bytes, folder: Path) -> None:
    """Look up credentials."""
    (folder / "config.json").write_bytes(data)
    DockerConfig(folder).lookup("registry.example")


def references() -> tuple[bytes, ...]:
    """References of images."""
    return (b"registry.example:5000/team/demo:tag@" + DIGEST.encode(), b"a/b", b"a" * 50_000, b"a/" * 30_000 + b"x:1")


def read_reference(data: bytes, _folder: Path) -> None:
    """Read a reference as somebody types it."""
    text = data.decode(errors="replace")
    try:
        Reference.parse(text)
    except REFUSALS:
        Repository.parse(text)


# --- made up ------------------------------------------------------------------------------------------------------

_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
    | st.sampled_from(["sha256:" + "a" * 64, "2026-11-20T12:00:00Z", "application/vnd.oci.image.manifest.v1+json",
    "probe", "audit"])
)  # fmt: skip
_KEYS = st.sampled_from([
    "schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "digest", "size", "annotations",
    "kind", "created",
    "schema_version", "features", "_type", "predicate", "predicateType", "name", "version", "libraries", "files",
    "hashes", "url",
]) | st.text(max_size=10)  # fmt: skip
_JSON: Final = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_KEYS, inner, max_size=8), max_leaves=30
)


def generated_documents(seed: int, count: int) -> Sequence[bytes]:
    """Return JSON documents that Hypothesis makes up."""
    made: list[bytes] = []

    @hypothesis_seed(seed)
    @settings(
        max_examples=max(count, 1),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.dictionaries(_KEYS, _JSON, max_size=8))
    def make(value: dict[str, Any]) -> None:
        made.append(json.dumps(value).encode())

    make()
    return made[:count]


def read_any_json(data: bytes, folder: Path) -> None:
    """Give one document to every reader of JSON: none of them may do more than refuse it."""
    for read in (
        read_manifest,
        read_statement,
        read_record,
        read_facts,
        read_bundle,
        read_index_json,
        read_probe,
        read_model,
    ):
        try:
            read(data, folder)
        except REFUSALS:
            continue
