"""What is shown of a failed build, and of a running one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from assay.adapters.docker.buildx import Buildx, RemoteBuilder, _step, failure_lines
from assay.errors import EngineMissing
from assay.ports.builder import BuildEnd, BuildTask, FaultKind

EXAMPLES = yaml.safe_load((Path(__file__).parents[1] / "data" / "build_faults.yaml").read_text())
LOG = """\
#9 [light 1/1] RUN /opt/tools/install
#9 0.52 Resolved 3 packages
#9 1.10 error: Hash mismatch for `tiny==1.0`
#9 ERROR: process "/bin/sh -c ..." did not complete successfully: exit code: 2
------
 > [light 1/1] RUN /opt/tools/install:
0.52 Resolved 3 packages
1.10 error: Hash mismatch for `tiny==1.0`
------
Dockerfile:40
--------------------
  39 |     FROM tools AS light
  40 | >>> RUN /opt/tools/install
  41 |
--------------------
ERROR: failed to solve: process "/bin/sh -c ..." did not complete successfully: exit code: 2
"""


def test_the_output_of_the_failed_step_is_shown_not_the_dockerfile() -> None:
    assert failure_lines(LOG) == [
        " > [light 1/1] RUN /opt/tools/install:",
        "0.52 Resolved 3 packages",
        "1.10 error: Hash mismatch for `tiny==1.0`",
    ]


def test_without_an_excerpt_the_end_is_shown() -> None:
    assert failure_lines("#1 sha256:aa 1MB\nERROR: no such base\n") == ["ERROR: no such base"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("#9 [wheel-torch 1/1] RUN --mount=type=secret", "wheel-torch"),
        ("#9 [image  5/17] COPY --link", "image 5/17"),
        ("#1 [internal] load build definition", None),
        ("#30 exporting layers 3.1s", "exporting layers"),
        ("#9 0.52 Resolved 3 packages", None),
    ],
)
def test_steps_are_shown_in_few_words(line: str, words: str | None) -> None:
    assert words == _step(line)


def test_secrets_and_arguments_reach_the_command_by_name() -> None:
    task = BuildTask(
        dockerfile="FROM x",
        tags=("assay/x:1",),
        labels={"a": "b"},
        secrets={"netrc": Path("/etc/netrc")},
        build_args={"https_proxy": None, "MAX_JOBS": "2"},
        log=Path("log"),
    )
    command = Buildx(zstd=lambda: True).command(task, dockerfile="Dockerfile")

    assert "id=netrc,src=/etc/netrc" in command
    assert command[command.index("https_proxy") - 1] == "--build-arg"
    assert "MAX_JOBS=2" in command
    assert any("compression=zstd" in word and "name=assay/x:1" in word for word in command)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["id"] for example in EXAMPLES])
def test_a_failure_of_the_builder_or_a_registry_is_distinguished_from_one_of_the_cell(
    example: dict[str, str | None],
) -> None:
    outcome = Buildx(builder="b1")._failed(str(example["text"]), 1.0)
    kind = outcome.fault.kind if outcome.fault else None
    blamed = kind is None

    assert example["kind"] == kind
    assert (outcome.end is BuildEnd.FAILED) is blamed
    assert outcome.reason.startswith("not the cell's fault: ") is not blamed
    assert ("\n  try: " in outcome.reason) is not blamed
    assert (outcome.end is BuildEnd.REGISTRY) == (kind or "").startswith("registry_")


def test_every_kind_of_fault_has_an_example() -> None:
    shown = {example["kind"] for example in EXAMPLES} | {FaultKind.DISK_BROKEN}

    assert set(FaultKind) == shown - {None}


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        ("ERROR: failed to solve: failed to copy: write /var/lib/docker/x: no space left on device", "disk_full"),
        ("ERROR: failed to solve: Unavailable: connection error: desc = closing transport", "lost"),
        ("ERROR: failed to solve: Unavailable: error reading from server: EOF", "lost"),
        ("ERROR: failed to solve: failed to read /var/lib/x: input/output error", "disk_broken"),
        ('ERROR: failed to solve: failed to compute cache key: "/x": not found', None),
        ("something that nobody has seen yet", "client"),
    ],
)
def test_the_last_words_decide(last: str, kind: str | None) -> None:
    fault = Buildx()._failed(f"#9 [light 1/1] RUN x\n{last}\n", 1.0).fault

    assert kind == (fault.kind if fault else None)


def test_a_password_in_the_builders_words_is_hidden() -> None:
    text = 'ERROR: error during connect: Head "https://user:hunter2@builder.example/_ping": EOF\n'

    assert "hunter2" not in Buildx()._failed(text, 1.0).reason


@pytest.mark.parametrize("text", ["docker: 'buildx' is not a docker command.", "unknown flag: --progress"])
def test_a_docker_without_buildx_is_a_missing_engine(text: str) -> None:
    with pytest.raises(EngineMissing) as caught:
        Buildx()._failed(text, 1.0)

    assert "quickstart" in str(caught.value)


def test_an_image_is_pushed_with_media_types_that_name_any_compression_or_written_to_an_archive() -> None:
    task = BuildTask(dockerfile="", tags=("x.example/a:1",), log=Path("x"))
    pushed = Buildx(push=True, zstd=lambda: True).command(task, dockerfile="Dockerfile")
    remote = Buildx(push=True, builder="far").command(task, dockerfile="Dockerfile")
    written = Buildx(archive=Path("base.tar"), zstd=lambda: True).command(task, dockerfile="Dockerfile")

    assert 'type=image,"name=x.example/a:1",push=true,oci-mediatypes=true' in pushed
    assert 'type=image,"name=x.example/a:1",push=true,oci-mediatypes=true' in remote
    assert "--load" not in remote
    assert "type=oci,dest=base.tar,compression=gzip" in written


def test_a_builder_of_a_pool_pushes_by_digest_and_shares_layers() -> None:
    remote = RemoteBuilder(builder="assay0", place="tcp://b1:1234", settings=Path("/settings"))
    task = BuildTask(
        dockerfile="FROM scratch\n",
        tags=("registry.example/team/x:cell",),
        log=Path("build.log"),
        cache_from=("registry.example/team/x:cache-1",),
        cache_to="registry.example/team/x:cache-2",
    )
    words = Buildx(remote=remote).command(task, dockerfile="Dockerfile")

    assert {"BUILDX_CONFIG": "/settings"} == remote.environment
    assert "assay0" == words[words.index("--builder") + 1]
    output = 'type=image,"name=registry.example/team/x",push=true,push-by-digest=true,oci-mediatypes=true'
    assert output == words[words.index("--output") + 1]
    assert "type=registry,ref=registry.example/team/x:cache-1" == words[words.index("--cache-from") + 1]
    assert words[words.index("--cache-to") + 1].startswith("type=registry,ref=registry.example/team/x:cache-2,mode=min")
    assert not {"--tag", "--load"} & set(words), "no builder sets a tag"
