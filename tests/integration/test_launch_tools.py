"""What launch writes, judged by the programs that will read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from assay.adapters.files.records import FileStore
from assay.cli import main_inner
from assay.evidence.record import Device, ServeRecord, ServeStatus, now

ROOT = Path(__file__).parents[2]
NEW = "sglang-blackwell-cu130-torch2.14.1-sglang0.5.23-sglk0.4.10-fi0.7.2"
VLLM = "vllm-blackwell-cu130-torch2.13.0-vllm0.32.0"
THREE = ["--profile", "tinyllama-1.1b-split", "--profile", "qwen2.5-3b-split", "--profile", "yi-6b-split"]
CASES = {
    "one": [NEW, "--profile", "balanced-v2-deployed"],
    "three": [NEW, *THREE, "--context", "4096"],
    "vllm": [VLLM, "--profile", "gpt-oss-20b", "--gpu", "0"],
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The repository's configuration with an empty store."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("matrix.yaml", "images", "knowledge", "templates", "probes", "schemas"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def launch(project: Path, case: str, form: str, output: Path) -> Path:
    argv = ["launch", *CASES[case], "--offline", "--format", form, "--output", str(output), "--project", str(project)]
    assert main_inner(argv) == 0
    return output


def test_committed_records_decide(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server of this digest needed CUDA graphs off on a card of this target, and FlashInfer ran."""
    record = ServeRecord(
        created=now(), run="r", cell=NEW, engine="sglang", executor="docker", model="m", status=ServeStatus.OK,
        image_digest="sha256:" + "a" * 64, needed=("cuda-graphs",), cause="cuda-graph-segfault",
        chosen={"attention_backend": "flashinfer"}, packages={"sglang": "0.5.23"},
        devices=(Device(name="NVIDIA H200", capability="9.0", memory_bytes=140 << 30),),
    )  # fmt: skip
    store = FileStore(project / "kept")
    store.append(record)
    (written,) = (project / "kept" / "records").glob("*.json")
    folder = project / "docs" / "records" / "sm_90"
    folder.mkdir(parents=True)
    written.rename(folder / written.name)
    asked = ["launch", NEW, "--model", "Qwen/Qwen2.5-3B-Instruct", "--offline", "--project", str(project),
             "--env", "HF_TOKEN=x$y", "--target"]  # fmt: skip

    assert main_inner([*asked, "sm_90"]) == 0
    here = capsys.readouterr()
    assert main_inner([*asked, "sm_120"]) == 0
    elsewhere = capsys.readouterr().out

    off = "--disable-decode-cuda-graph: cuda-graphs: broken (the server starts only without it: cuda-graph-segfault), "
    assert f"{off}measured: record {written.name}" in here.out
    assert f"sha256:{'a' * 64}" in here.out
    assert "'HF_TOKEN=x$y'" in here.out
    assert "attention: the engine's own choice" in here.err
    assert "--disable-decode-cuda-graph" not in elsewhere


def compose() -> list[str] | None:
    """Return docker's compose plugin or the program of that name."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(words[0])
            and not subprocess.run([*words, "version"], capture_output=True, check=False).returncode
        ):
            return words
    return None


@pytest.mark.parametrize("case", CASES)
def test_compose_reads_it(case: str, project: Path, tmp_path: Path) -> None:
    words = compose()
    if words is None:
        pytest.skip("neither docker compose nor docker-compose is installed")
    folder = launch(project, case, "compose", tmp_path / "out")

    done = subprocess.run(
        [*words, "-f", str(folder / "compose.yaml"), "config", "--format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert {"prometheus", "grafana"} < set(services)
    for name, service in services.items():
        if name not in {"prometheus", "grafana"}:
            assert ["nvidia"] == [one["driver"] for one in service["deploy"]["resources"]["reservations"]["devices"]]
            assert "healthcheck" in service


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Prometheus's own checker."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", CASES)
def test_prometheus_reads_its_configuration(case: str, project: Path, tmp_path: Path) -> None:
    folder = launch(project, case, "compose", tmp_path / "out")
    composed = yaml.safe_load((folder / "compose.yaml").read_text())
    file = tmp_path / "prometheus.yml"
    file.write_text(composed["configs"]["prometheus"]["content"].replace("$$", "$"))

    done = promtool("check", "config", file)

    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_the_dashboards_queries(tmp_path: Path) -> None:
    """As recording rules, with what Grafana fills in."""
    text = (ROOT / "templates" / "launch" / "grafana-dashboard.json").read_text()
    queries = [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", [])]
    filled = [query.replace("$__rate_interval", "1m").replace("$job", "x") for query in queries]
    rules = [{"record": f"rule_{number}", "expr": query} for number, query in enumerate(filled)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    done = promtool("check", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr
    assert 15 < len(queries)
    assert not any("$" in query for query in filled)


@pytest.mark.parametrize("case", CASES)
def test_systemd_reads_it(case: str, project: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    folder = launch(project, case, "systemd", tmp_path / "units")
    units = sorted(folder.glob("*.service"))
    # The units need docker's; what it is does not matter here.
    (folder / "docker.service").write_text("[Unit]\nDescription=x\n[Service]\nExecStart=/bin/true\n")

    done = subprocess.run(
        [program, "verify", "--man=no", *map(str, units)],
        capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
    )  # fmt: skip

    said = [line for line in done.stderr.splitlines() if any(unit.name in line for unit in units)]
    # The only thing that may be missing on a machine without an engine is the engine.
    said = [line for line in said if "/usr/bin/docker is not executable" not in line]
    assert [] == said
    assert (3 if case == "three" else 1) == len(units)


def test_systemd_would_tell_a_wrong_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "wrong.service"
    unit.write_text('[Service]\nExecStart=/bin/echo "unclosed\nRestart=sometimes\n')

    done = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)

    assert "wrong.service" in done.stderr


@pytest.mark.parametrize("case", CASES)
def test_the_shell_reads_it(case: str, project: Path, tmp_path: Path) -> None:
    script = launch(project, case, "docker", tmp_path / "out") / "launch.sh"
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    # Stands in for docker: writes its words down, and says that every container is healthy.
    docker.write_text('#!/bin/sh\nif [ "$1" = inspect ]; then echo healthy; else printf "%s\\0" "$@" >>"$WORDS"; fi\n')
    docker.chmod(0o755)
    words = tmp_path / "words"

    subprocess.run(
        [str(script)],
        check=True,
        env={**os.environ, "PATH": f"{docker.parent}:{os.environ['PATH']}", "WORDS": str(words)},
    )

    given = words.read_bytes().decode().split("\0")
    assert (3 if case == "three" else 1) == given.count("run")
    assert "--security-opt" in given
    assert any(word.startswith("python3 -c 'import urllib.request") for word in given)


def test_the_script_gives_up_on_a_server_that_never_gets_healthy(project: Path, tmp_path: Path) -> None:
    script = launch(project, "three", "docker", tmp_path / "out") / "launch.sh"
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"docker": "#!/bin/sh\necho starting\n", "sleep": "#!/bin/sh\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    done = subprocess.run(
        [str(script)], env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert "is not healthy after 900 s; see: docker logs tinyllama" in done.stderr
