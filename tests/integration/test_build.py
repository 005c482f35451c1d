"""`assay build` with a real engine: what is built, what is skipped, and what is left when things go wrong."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from project_tools import Project
from registry_tools import real_registry
from relay import Relay
from tiny_image import TINY, write_tiny

from assay.adapters.docker.engine import DockerEngine

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> DockerEngine:
    made = DockerEngine()
    if made.image(TINY) is None:
        made.load(write_tiny(tmp_path_factory.mktemp("tiny")))
    return made


@pytest.fixture
def project(tmp_path: Path, engine: DockerEngine) -> Iterator[Project]:
    made = Project(tmp_path, name=f"t{uuid4().hex[:8]}")
    yield made
    for flavour in ("1.0", "2.0", "3.0"):
        engine.remove_image(made.reference(flavour), force=True)


def test_the_default_group_is_built_and_then_left_alone(project: Project, engine: DockerEngine) -> None:
    code, first = project.json("build")
    again, second = project.json("build")
    image = engine.image(project.reference("1.0"))

    assert (code, again) == (0, 0)
    assert ["built"] == [record["status"] for record in first["records"]]
    assert ["cached"] == [record["status"] for record in second["records"]]
    assert image is not None
    assert first["records"][0]["image_digest"] == image.digest
    assert first["records"][0]["content_key"] == image.labels["dev.assay.content-key"]


def test_a_changed_recipe_builds_again_and_says_why(project: Project) -> None:
    project.json("build")
    project.change(f"images/{project.name}/image.yaml", "vanilla", "lemon")
    dry = project.run("build", "--dry-run")
    _, records = project.json("build")

    assert "the recipe or the template changed" in dry.stdout
    assert records["records"][0]["status"] == "built"
    assert records["records"][0]["reason"].startswith("the recipe or the template changed")


def test_one_failure_leaves_the_others_built_and_shows_the_log(project: Project) -> None:
    project.change("templates/tiny.Dockerfile.j2", "> /flavour", "> /flavour && grep -v 2.0 /flavour")
    done = project.run("build", project.name)
    log = re.search(r"log: (\S+build\.log)", done.stderr)

    assert done.returncode == 1
    assert "2 built, 1 failed" in done.stderr
    assert "grep -v 2.0" in done.stderr
    assert log is not None
    assert "did not complete successfully" in Path(log[1]).read_text()


def test_the_script_beside_the_log_repeats_the_step(project: Project, engine: DockerEngine) -> None:
    project.json("build")
    script = next(project.root.glob(f"build_logs/*/{project.cell('1.0')}/repeat.sh"))
    engine.remove_image(project.reference("1.0"), force=True)
    done = subprocess.run([script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert engine.image(project.reference("1.0")) is not None


def test_a_sites_secrets_leave_no_trace(project: Project, engine: DockerEngine) -> None:
    token = uuid4().hex
    secret = project.write("site/netrc", f"machine x password {token}\n")
    project.change(
        "templates/tiny.Dockerfile.j2",
        "RUN echo",
        "RUN --mount=type=secret,id=netrc grep -q password /run/secrets/netrc && echo",
    )
    done = project.run("build", env={"ASSAY_NETRC": str(secret), "https_proxy": f"http://user:{token}@127.0.0.1:9"})
    reference = project.reference("1.0")
    history = subprocess.run(
        ["docker", "history", "--no-trunc", reference], capture_output=True, text=True, check=True
    ).stdout
    logs = "".join(path.read_text() for path in project.root.glob("build_logs/**/*") if path.is_file())
    with engine.image_files(reference) as files:
        inside = [file.path for file in files if file.kind == "file" and token.encode() in file.open().read()]

    assert done.returncode == 0, done.stderr
    assert token not in history
    assert inside == []
    assert "--build-arg https_proxy" in logs
    assert token not in logs


def wait_for(project: Project, text: str, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if any(text in path.read_text(errors="replace") for path in project.root.glob("build_logs/*/*/build.log")):
            return
        time.sleep(0.1)
    raise AssertionError(f"{text!r} never came")


def slow(project: Project) -> None:
    project.change("templates/tiny.Dockerfile.j2", "> /flavour", f"> /flavour && echo begun-{uuid4().hex} && sleep 600")


def test_ctrl_c_stops_cleanly_and_records_it(project: Project) -> None:
    slow(project)
    process = project.start("build")
    wait_for(project, "begun-")
    process.send_signal(signal.SIGINT)
    # Far less than the build would have taken, however busy the engine is.
    _, err = process.communicate(timeout=240)
    code, report = project.json("report")

    assert process.returncode == 130, err
    assert ["aborted"] == [cell["status"] for cell in report["cells"] if cell["cell"] == project.cell("1.0")]
    assert code == 1


def test_next_run_resumes_after_a_kill(project: Project) -> None:
    slow(project)
    process = project.start("build")
    wait_for(project, "begun-")
    process.kill()
    process.communicate(timeout=240)
    project.change("templates/tiny.Dockerfile.j2", "sleep 600", "sleep 0")
    code, document = project.json("build")

    assert code == 0
    assert ["built"] == [record["status"] for record in document["records"]]


def test_two_runs_at_once_do_not_build_one_cell_twice(project: Project) -> None:
    slow(project)
    first = project.start("build")
    wait_for(project, "begun-")
    second = project.run("build")
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=240)

    assert second.returncode == 1
    assert "another run is building this cell" in second.stderr


def test_a_timeout_ends_a_build(project: Project) -> None:
    slow(project)
    done = project.run("build", "--timeout", "3")

    assert done.returncode == 1
    assert "timed_out" in done.stderr
    assert "still building after 3 s" in done.stderr


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["build", "nothing-like-this"], 2, "is not a cell, image or group"),
        (["build", "flavour=9"], 3, "no cell fits"),
        (["build", "--shard", "3/2"], 2, "is not I/N"),
        (["biuld"], 2, "did you mean 'build'?"),
    ],
)
def test_wrong_words_have_exit_codes(project: Project, argv: list[str], code: int, message: str) -> None:
    done = project.run(*argv)

    assert code == done.returncode, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_engine_the_exit_code_is_4(project: Project) -> None:
    done = project.run("build", env={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})

    assert done.returncode == 4
    assert "try:" in done.stderr
    assert "Traceback" not in done.stderr


def to_the_engine() -> socket.socket:
    engine = socket.socket(socket.AF_UNIX)
    engine.connect("/var/run/docker.sock")
    return engine


def test_an_engine_that_dies_in_a_build_gives_no_result_for_the_cell(project: Project) -> None:
    slow(project)
    with Relay(to_the_engine) as way:
        process = project.start("build", env={"DOCKER_HOST": f"tcp://{way.host}"})
        wait_for(project, "begun-")
    _, err = process.communicate(timeout=100)
    _, report = project.json("report")

    assert process.returncode == 4, err
    assert "Traceback" not in err
    assert ["engine_failed"] == [cell["status"] for cell in report["cells"] if cell["cell"] == project.cell("1.0")]


@pytest.mark.registry
def test_a_cell_on_a_registrys_base_is_locked_and_built_through_a_mirror(
    project: Project, engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The real thing is `docker.io/nvidia/cuda`; the mirror has a tiny stand-in under that path."""
    project.change("matrix.yaml", f'image: "{TINY}"', 'image: "docker.io/nvidia/cuda:12.8.1-cudnn-devel-ubuntu22.04"')
    project.change(
        "templates/tiny.Dockerfile.j2", "FROM {{ base.reference }}", "ARG BASE={{ base.reference }}\nFROM ${BASE}"
    )
    cell = project.cell("1.0")
    generated = project.root / f"images/{project.name}/cells/{cell}"
    (generated / "lock.txt").unlink()
    # Whatever this machine can reach, the base must come from where it is said to be.
    nowhere = project.run("lock", "flavour=1.0", env={"ASSAY_REGISTRY_MIRRORS": "docker.io=127.0.0.1:9"})
    unlocked = project.run("build")
    with real_registry(tmp_path_factory.mktemp("mirror")) as host:
        stand_in = f"{host}/hub/nvidia/cuda:12.8.1-cudnn-devel-ubuntu22.04"
        subprocess.run(["docker", "tag", TINY, stand_in], check=True)
        try:
            subprocess.run(["docker", "push", "--quiet", stand_in], check=True, capture_output=True)
        finally:
            engine.remove_image(stand_in, force=True)
        mirror = {"ASSAY_REGISTRY_MIRRORS": f"docker.io={host}/hub"}
        locked = project.run("lock", "flavour=1.0", env=mirror)
        built, document = project.json("build", env=mirror)
    again, second = project.json("build")
    dockerfile = (generated / "Dockerfile").read_text()
    digest = re.search(r"^# base: tiny@(sha256:[0-9a-f]{64})$", (generated / "lock.txt").read_text(), re.MULTILINE)
    history = subprocess.run(
        ["docker", "history", "--no-trunc", project.reference("1.0")], capture_output=True, text=True, check=True
    ).stdout

    assert nowhere.returncode == 1
    assert "unreachable" in nowhere.stderr
    assert "docker.io/nvidia/cuda:12.8.1-cudnn-devel-ubuntu22.04" in nowhere.stderr
    assert "ASSAY_REGISTRY_MIRRORS" in nowhere.stderr
    assert (unlocked.returncode, "Run `assay lock` for this cell" in unlocked.stderr) == (1, True)
    assert locked.returncode == 0, locked.stderr
    assert digest is not None
    assert f"ARG BASE=docker.io/nvidia/cuda:12.8.1-cudnn-devel-ubuntu22.04@{digest[1]}" in dockerfile
    assert host not in dockerfile + (generated / "lock.txt").read_text() + history
    assert (built, document["records"][0]["status"]) == (0, "built")
    # Made once, it is the image of this key everywhere, also where there is no mirror.
    assert (again, second["records"][0]["status"]) == (0, "cached")


def test_a_missing_base_is_reported(project: Project) -> None:
    project.change("matrix.yaml", TINY, "assay/there-is-no-such-base:1")
    done = project.run("build")

    assert done.returncode == 5
    assert "there-is-no-such-base" in done.stderr
