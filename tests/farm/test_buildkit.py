"""Builds on three real BuildKit daemons and an address without one; a daemon is killed while it builds."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buildkit_daemons import BuildkitDaemons
from project_tools import IMAGE, MATRIX, Project, lock_text
from registry_tools import free_port, real_registry
from ssh_daemons import SshDaemons

from assay.adapters.registry.client import connect
from assay.evidence.reference import Repository

CELLS = 24
pytestmark = [pytest.mark.farm, pytest.mark.timeout(300)]

# No base and no step that runs a program: what is tested is who builds what. The layer below is the same in all cells.
TEMPLATE = """\
FROM scratch AS shared
COPY <<EOF /out/shared.txt
{% for number in range(2000) %}{{ number }} {% endfor %}
EOF
FROM scratch AS image
COPY --link --from=shared /out/ /opt/
COPY <<EOF /flavour.txt
{{ cell.value('flavour') }}
EOF
LABEL dev.assay.lock={{ labels['dev.assay.lock'] | env }}
"""


class FarmProject(Project):
    """A project of many cells that only BuildKit can build, and a pool of builders."""

    def __init__(self, root: Path, registry: str, ports: tuple[int, ...]) -> None:
        super().__init__(root)
        flavours = [f"{number}.0" for number in range(1, CELLS + 1)]
        listed = f"[{', '.join(flavours)}]"
        self.registry = registry
        self.write("matrix.yaml", MATRIX.replace("[1.0, 2.0, 3.0]", listed).replace("[flavour=1.0]", "['*']"))
        self.write("images/sundae/image.yaml", IMAGE.replace("[1.0, 2.0, 3.0]", listed))
        self.write("templates/tiny.Dockerfile.j2", TEMPLATE)
        for flavour in flavours:
            self.write(f"images/sundae/cells/{self.cell(flavour)}/lock.txt", lock_text(self.cell(flavour)))
        self.pool(registry, ports)

    def pool(self, registry: str, ports: tuple[int, ...], *, patience: float = 60.0) -> None:
        endpoints = ", ".join(f"tcp://127.0.0.1:{port}" for port in ports)
        pool = f"{{kind: buildkit, endpoints: [{endpoints}], patience: {patience}}}"
        self.write("pools.yaml", f"registry: {registry}/team/{{image}}\npools:\n  farm: {pool}\n")

    @property
    def records(self) -> list[dict[str, object]]:
        """All records of builds."""
        paths = sorted((self.root / "build_logs" / "records").glob("*.json"))
        return [json.loads(path.read_text()) for path in paths]

    def until(self, count: int, building: subprocess.Popen[str]) -> None:
        """Wait for so many records."""
        end = time.monotonic() + 120
        while len(self.records) < count:
            assert building.poll() is None, building.communicate()
            assert time.monotonic() < end, f"{len(self.records)} of {count} cells"
            time.sleep(0.02)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with real_registry(tmp_path / "registry") as host:
        yield host


@pytest.fixture
def daemons(tmp_path: Path, registry: str) -> Iterator[BuildkitDaemons]:
    program = Path(os.environ["ASSAY_FARM_BIN"]) / "buildkitd"
    assert program.is_file(), f"{program} is missing; ASSAY_FARM_BIN names the folder with it"
    ports = (free_port(), free_port(), free_port())
    with BuildkitDaemons(program, tmp_path / "daemons", ports, registry) as made:
        yield made


@pytest.fixture
def tell() -> Callable[[str], None]:
    began = time.monotonic()
    return lambda text: print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


def test_every_cell_is_built_once_when_builders_are_dead_and_die(
    tmp_path: Path, registry: str, daemons: BuildkitDaemons, tell: Callable[[str], None]
) -> None:
    dead = free_port()
    project = FarmProject(tmp_path / "project", registry, (dead, *daemons.ports))
    victim, *living = daemons.ports
    building = project.start("build", "--no-audit", "--on", "farm")
    project.until(CELLS // 4, building)
    # What it has begun stays unfinished, so that the kill hits builds for certain.
    daemons.send(victim, signal.SIGSTOP)
    time.sleep(1)
    daemons.end(victim)
    tell(f"{victim} is killed, {len(project.records)} cells are built")
    said, errors = building.communicate(timeout=200)
    records = project.records
    by = Counter(str(record["builder"]) for record in records)
    moved = sorted(path.parent.name for path in project.root.glob("build_logs/*/*/build-1.log"))
    tell(f"{CELLS} cells: {', '.join(f'{name} {count}' for name, count in sorted(by.items()))}; moved: {moved}")

    assert 0 == building.returncode, said + errors
    assert Counter({"built": CELLS}) == Counter(record["status"] for record in records)
    assert CELLS == len({record["cell"] for record in records})
    assert all(by[f"tcp://127.0.0.1:{port}"] >= 0.3 * CELLS for port in living), by
    assert moved, "the killed builder had nothing to lose"
    assert f"tcp://127.0.0.1:{dead} of farm does not answer" in errors
    assert f"tcp://127.0.0.1:{victim} of farm does not answer" in errors
    assert all(str(record["image_digest"]).startswith("sha256:") for record in records)
    found = connect().tags(Repository.parse(f"{registry}/team/sundae"))
    assert {str(record["content_key"]).removeprefix("sha256:") for record in records} <= set(found)
    # The layer below was built once, and all builders took it from the registry.
    assert 1 == len({record["layers"][0]["digest"] for record in records})  # type: ignore[index]
    again = project.run("build", "--no-audit", "--on", "farm")
    assert (0, f"{CELLS} cached") == (again.returncode, again.stderr.splitlines()[-1])


def test_a_run_whose_builders_all_die_ends_and_is_taken_up_again(
    tmp_path: Path, registry: str, daemons: BuildkitDaemons, tell: Callable[[str], None]
) -> None:
    project = FarmProject(tmp_path / "project", registry, daemons.ports)
    project.pool(registry, daemons.ports, patience=2.0)
    building = project.start("build", "--no-audit", "--on", "farm")
    project.until(CELLS // 3, building)
    for port in daemons.ports:
        daemons.end(port)
    _, errors = building.communicate(timeout=200)
    ends = Counter(record["status"] for record in project.records)
    tell(f"all builders are killed: {dict(ends)}")

    assert 4 == building.returncode, errors
    assert {"built", "engine_failed"} == set(ends)
    assert CELLS == ends.total()
    assert "no builder of farm answers" in errors
    daemons.start(daemons.ports[0])
    again = project.run("build", "--no-audit", "--on", "farm")
    assert 0 == again.returncode, again.stderr
    newest = {record["cell"]: record["status"] for record in project.records}
    assert set(newest.values()) <= {"built", "cached"}


# bcrypt of the password, as `htpasswd -B` writes it.
HTPASSWD = "me:$2b$04$VzftenK1aEYr0s6DtJOzreIGtgtqjnNku6UN2uB8HwF6zgXjc3QxG\n"


def test_builders_push_with_the_login_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Path(os.environ["ASSAY_FARM_BIN"]) / "buildkitd"
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    ports = (free_port(),)
    with (
        real_registry(tmp_path / "registry", htpasswd=HTPASSWD) as host,
        BuildkitDaemons(program, tmp_path / "daemons", ports, host),
    ):
        project = FarmProject(tmp_path / "project", host, ports)
        cells = project.cell("1.0"), project.cell("2.0")
        refused = project.run("build", "--no-audit", "--on", "farm", *cells)
        login = base64.b64encode(b"me:s3cret-word").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": login}}}))
        built = project.run("build", "--no-audit", "--on", "farm", *cells)

    assert 5 == refused.returncode, refused.stderr
    assert "or `docker login` to it" in refused.stderr
    assert 0 == built.returncode, built.stderr


def certificates(folder: Path) -> Path:
    """Return a folder with a CA, and a certificate of it for 127.0.0.1 that serves both sides."""
    folder.mkdir()
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-addext"]
    ca = [*made, "basicConstraints=critical,CA:TRUE", "-subj", "/CN=farm", "-keyout", "ca-key.pem", "-out", "ca.pem"]
    own = [*made, "subjectAltName=IP:127.0.0.1", "-subj", "/CN=builder", "-keyout", "key.pem", "-out", "cert.pem"]
    for argv in (ca, [*own, "-addext", "basicConstraints=CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca-key.pem"]):
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    return folder


def test_builders_with_tls_build_for_those_who_have_a_certificate(tmp_path: Path, registry: str) -> None:
    tls, ports = certificates(tmp_path / "tls"), (free_port(),)
    project = FarmProject(tmp_path / "project", registry, ports)
    program = Path(os.environ["ASSAY_FARM_BIN"]) / "buildkitd"
    with BuildkitDaemons(program, tmp_path / "daemons", ports, registry, tls):
        refused = project.run("build", "--no-audit", "--on", "farm", project.cell("1.0"))
        files = f"ca: {tls}/ca.pem, cert: {tls}/cert.pem, key: {tls}/key.pem"
        project.change("pools.yaml", "kind: buildkit", f"kind: buildkit, {files}")
        asked = project.run("doctor", "--pools")
        built = project.run("build", "--no-audit", "--on", "farm", project.cell("1.0"))

    assert (4, 0) == (refused.returncode, built.returncode), refused.stderr + built.stderr
    assert "answers" in asked.stdout + asked.stderr


def test_a_builder_behind_ssh_builds_and_one_without_buildctl_is_named(
    tmp_path: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries, ports = Path(os.environ["ASSAY_FARM_BIN"]), (free_port(),)
    project = FarmProject(tmp_path / "project", registry, ports)
    project.change("pools.yaml", f"tcp://127.0.0.1:{ports[0]}", "ssh://builder, ssh://bare")
    with (
        BuildkitDaemons(binaries / "buildkitd", tmp_path / "daemons", ports, registry),
        SshDaemons(tmp_path / "hosts", monkeypatch) as hosts,
    ):
        socket = f"unix://{tmp_path}/daemons/{ports[0]}/sock"
        hosts.start("builder", f"PATH={binaries}:/usr/bin:/bin BUILDKIT_HOST={socket}")
        hosts.start("bare", "PATH=/usr/bin:/bin")
        asked = project.run("doctor", "--pools")
        built = project.run("build", "--no-audit", "--on", "farm", project.cell("1.0"), project.cell("2.0"))
    print(asked.stdout, asked.stderr, built.stderr)

    assert "ssh://bare: start buildkitd there, with buildctl on the PATH" in " ".join(asked.stderr.split())
    assert 0 == built.returncode, built.stderr
    assert {"ssh://builder"} == {record["builder"] for record in project.records}
    assert "ssh://bare of farm does not answer" in built.stderr
