"""Deployments come out quoted for where they land."""

from __future__ import annotations

import csv
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.adapters.files.serving import load_server_flags
from assay.errors import UsageError
from assay.foundation.platforms import Platform
from assay.foundation.printable import is_printable
from assay.serving.command import ServerCommand
from assay.serving.deploy import FORMATS, Deployment, Format, Service, name_of, render, secrets_of, unit_word
from assay.serving.launching import Decided

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "templates" / "launch"
TEMPLATES = {path.name: path.read_text() for path in FOLDER.iterdir()}
ENGINES = load_server_flags(ROOT / "knowledge" / "server_flags.yaml").engines
NASTY = "a b'c\"d$HOME`x`%n\\e;#{{f}}:*"


def service(name: str = "one", *, engine: str = "sglang", port: int = 8000, **more: Any) -> Service:
    flags = more.pop("flags", {"disable-radix-cache": "true", "cuda-graph-bs": ("1", "2"), "x-note": NASTY})
    command = ServerCommand(
        engine=ENGINES[engine],
        version="0.5.2",
        model=more.pop("model", "org/model"),
        flags=flags,
        env=more.pop("env", {"TORCH_CUDA_ARCH_LIST": "9.0;12.0+PTX", "NASTY": NASTY}),
        shm=16 << 30,
    )
    reasons = {name: f"why\n{name} # \" ' */" for name in flags}
    return Service(
        name=name, image="assay/x:y", decided=Decided(command=command, reasons=reasons), port=port, cache="/c d", **more
    )


def deployment(*services: Service, **more: Any) -> Deployment:
    return Deployment(services=services or (service(),), target="sm_120", notes=("first\nsecond", NASTY), **more)


def written(form: Format, what: Deployment) -> str:
    files = render(form, what, TEMPLATES)
    (text,) = files.values()
    return text


def docker_words(script: str) -> list[list[str]]:
    code = "\n".join(line for line in script.split("\n") if not line.startswith("#"))
    joined = code.replace("\\\n", " ")
    return [shlex.split(line) for line in joined.split("\n") if line.strip().startswith("docker run")]


def after(words: list[str], image: str) -> list[str]:
    return words[words.index(image) + 1 :]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("docker", """--user "$(stat -c %u:%g '/c d')" """),
        ("compose", 'user: "1000:1001"'),
        ("systemd", "--user 1000:1001"),
    ],
)
def test_server_runs_as_the_owner_of_the_cache(form: Format, words: str) -> None:
    text = written(form, deployment(service(user="1000:1001")))

    assert words in text
    assert "HOME" in text.replace("HF_HOME", "")


def test_kubernetes_keeps_the_users_of_images() -> None:
    assert written("kubernetes", deployment(service(user="1000:1001"))) == written("kubernetes", deployment())


@pytest.mark.parametrize("form", ["docker", "compose", "systemd"])
def test_kernels_compiled_at_run_time_are_kept_in_the_cache_of_this_machine(form: Format) -> None:
    kept = written(form, deployment(service(kernels="0123abcd")))

    assert "/cache/huggingface/assay-kernels/0123abcd/flashinfer" in kept
    assert "assay-kernels" not in written(form, deployment())


def test_servers_keep_kernels_by_the_settings_that_probes_use() -> None:
    harness = (ROOT / "probes" / "harness.py").read_text()

    assert [] == [name for name in service(kernels="0123abcd").compiled if f'"{name}": ' not in harness]


def test_kubernetes_keeps_compiled_kernels_out_of_a_volume_that_several_nodes_may_write() -> None:
    mine = service(kernels="0123abcd", env={"TRITON_CACHE_DIR": "/mine"})
    text = written("kubernetes", deployment(mine))

    assert "assay-kernels" not in text
    assert "{name: TRITON_CACHE_DIR, value: " in text


def test_docker_words_come_back_as_they_were() -> None:
    one = service()

    (words,) = docker_words(written("docker", deployment(one)))

    assert one.argv == [words[words.index("--entrypoint") + 1], *after(words, "assay/x:y")]
    assert f"NASTY={NASTY}" in words
    assert "/c d:/cache/huggingface" in words
    assert one.health == shlex.split(words[words.index("--health-cmd") + 1])
    assert "16384m" == words[words.index("--shm-size") + 1]
    assert "127.0.0.1:8000:8000" == words[words.index("--publish") + 1]


REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.][A-Za-z0-9_.-]*)\)")


def expanded(text: str, environment: dict[str, str]) -> str:
    """Return what Kubernetes makes of a command, argument or variable (third_party/forked/golang/expansion)."""
    return REFERENCE.sub(lambda m: "$" if m[0] == "$$" else environment.get(m[1], m[0]), text)


def unit_words(unit: str) -> list[str]:
    """Return the words of ExecStart= as systemd splits them (systemd.syntax(7), service(5), unit(5))."""
    line = re.search(r"(?ms)^ExecStart=(.*?[^\\])\n", unit)
    assert line is not None
    text = line[1].replace("\\\n", " ")
    words: list[str] = []
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|(?:[^\s"\\]|\\.)+', text):
        plain = re.sub(r"\\(.)", r"\1", match[0].removeprefix('"').removesuffix('"'))
        words.append(plain.replace("%%", "%").replace("$$", "$"))
    return words


def folder_in(words: list[str]) -> str:
    """Return the model's folder as docker reads it from --volume or --mount."""
    for option, text in pairwise(words):
        if option == "--volume" and text.endswith(":ro"):
            source, target, _ = text.split(":")
            assert source == target
            return source
        if option == "--mount" and "readonly" in text:
            (fields,) = csv.reader([text])
            found = dict(field.partition("=")[::2] for field in fields)
            assert found["source"] == found["target"]
            return found["source"]
    raise AssertionError("no model folder is mounted")


def hostile() -> st.SearchStrategy[str]:
    pieces = st.sampled_from(
        [
            "$(HF_HOME)",
            "$$(HF_HOME)$$",
            "$",
            "$$$",
            "x #y: z",
            "k: v",
            "'",
            '"',
            "\\",
            "%h",
            "{{ x }}",
            "a:/etc",
            ",",
            "é",
        ]
    )
    letters = st.characters(min_codepoint=32, max_codepoint=0x2FF).filter(is_printable)
    return st.lists(st.one_of(pieces, st.text(letters, max_size=8)), max_size=5).map("".join)


@given(hostile())
@settings(max_examples=200, deadline=None)
def test_any_value_survives_every_format(value: str) -> None:
    folder = f"/m {value}"
    one = service(flags={"x": f"v{value}"}, env={"E": value}, model=f"m{value}", folder=folder)
    what = deployment(one)

    (unit,) = render("systemd", what, TEMPLATES).values()
    assert one.argv[1:] == after(unit_words(unit), "assay/x:y")
    assert f"E={value}" in unit_words(unit)

    (words,) = docker_words(written("docker", what))
    assert one.argv[1:] == after(words, "assay/x:y")
    assert f"E={value}" in words

    assert f"/m {value}" == folder_in(words)
    composed = yaml.safe_load(written("compose", what))["services"]["one"]
    assert [folder, folder] == [composed["volumes"][1][key].replace("$$", "$") for key in ("source", "target")]
    assert one.argv == [*composed["entrypoint"], *(str(word).replace("$$", "$") for word in composed["command"])]
    assert value == composed["environment"]["E"].replace("$$", "$")

    manifests = [one for one in yaml.safe_load_all(written("kubernetes", what)) if one]
    container = next(m for m in manifests if m["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"][0]
    around = {"HF_HOME": "/cache/huggingface", "E": value}
    assert one.argv == [expanded(word, around) for word in (*container["command"], *container["args"])]
    assert {"E": value} == {e["name"]: expanded(e["value"], {}) for e in container["env"] if e["name"] == "E"}


def test_a_gpu_can_be_named() -> None:
    (words,) = docker_words(written("docker", deployment(gpu="1")))
    composed = yaml.safe_load(written("compose", deployment(gpu="1")))["services"]["one"]

    assert '"device=1"' == words[words.index("--gpus") + 1]
    assert ["1"] == composed["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]


def test_a_model_folder_is_mounted_where_it_is() -> None:
    what = deployment(service(folder="/models/my model", model="/models/my model"))

    (words,) = docker_words(written("docker", what))
    composed = yaml.safe_load(written("compose", what))["services"]["one"]

    assert "/models/my model:/models/my model:ro" in words
    mounted = {"type": "bind", "source": "/models/my model", "target": "/models/my model", "read_only": True}
    assert mounted in composed["volumes"]


def test_reasons_and_notes_stay_comments() -> None:
    for form in FORMATS[:3]:
        text = written(form, deployment())
        lines = [line for line in text.splitlines() if "why" in line]
        assert lines
        assert all(line.lstrip().startswith("#") for line in lines)
        assert "\nsecond" not in text


def test_several_servers_start_one_after_the_other() -> None:
    what = deployment(service("one"), service("two", port=8001))

    script = written("docker", what)
    composed = yaml.safe_load(written("compose", what))["services"]
    units = render("systemd", what, TEMPLATES)

    assert 2 == len(docker_words(script))
    assert "docker inspect --format '{{.State.Health.Status}}' one" in script
    assert {"one": {"condition": "service_healthy"}} == composed["two"]["depends_on"]
    assert "depends_on" not in composed["one"]
    assert {"one.service", "two.service"} == set(units)
    assert re.search(r"^After=.* one\.service$", units["two.service"], re.MULTILINE)


def test_kubernetes_manifests_fit_their_schemas() -> None:
    manifests = list(yaml.safe_load_all(written("kubernetes", deployment(service(folder="/models/m")))))

    assert ["PersistentVolumeClaim", "Deployment", "Service"] == [one["kind"] for one in manifests if one]
    for manifest in manifests:
        if manifest:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_schema_check_can_fail() -> None:
    (manifest,) = [m for m in yaml.safe_load_all(written("kubernetes", deployment())) if m and m["kind"] == "Service"]
    manifest["spec"]["ports"][0]["port"] = "eight"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_kubernetes_cannot_share_a_gpu() -> None:
    what = deployment(service("one"), service("two", port=8001))

    with pytest.raises(UsageError, match="whole GPU"):
        render("kubernetes", what, TEMPLATES)

    shared = deployment(service("one"), service("two", port=8001), gpu_resource="nvidia.com/gpu.shared")
    assert "nvidia.com/gpu.shared" in written("kubernetes", shared)


def test_monitoring_reads_every_server() -> None:
    what = deployment(service("one"), service("two", engine="vllm", port=8001), monitoring=True)

    composed = yaml.safe_load(written("compose", what))

    prometheus = yaml.safe_load(composed["configs"]["prometheus"]["content"])
    targets = [job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]]
    assert [["one:8000"], ["two:8000"]] == targets
    dashboard = json.loads(composed["configs"]["grafana-dashboard"]["content"].replace("$$", "$"))
    assert json.loads(TEMPLATES["grafana-dashboard.json"]) == dashboard
    assert {"prometheus", "grafana", "one", "two"} == set(composed["services"])


@pytest.mark.parametrize("release", ["sglang-0.5.2", "sglang-0.5.23", "vllm-0.11.0", "vllm-0.32.0"])
def test_the_dashboard_asks_for_metrics_that_the_servers_have(release: str) -> None:
    """The names were read from the source inside the wheels of these releases."""
    known = set((ROOT / "tests" / "assets" / "serve" / f"metrics-{release}.txt").read_text().split())
    engine = release.split("-", maxsplit=1)[0]

    asked = set(re.findall(rf"\b{engine}:[a-z0-9_]+", TEMPLATES["grafana-dashboard.json"]))

    # prometheus_client adds _bucket to histograms and _total to counters.
    assert set() == {name for name in asked if re.sub(r"_(bucket|total)$", "", name) not in known and name not in known}
    assert 7 < len(asked)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plain-1.0,x=/y:z", "plain-1.0,x=/y:z"),
        ("two words", '"two words"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ('say "x"', '"say \\"x\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("", '""'),
        (["a b", "c"], '"a b" c'),
    ],
)
def test_words_of_a_unit(word: object, expected: str) -> None:
    assert expected == unit_word(word)


def test_a_unit_holds_no_line_break() -> None:
    with pytest.raises(UsageError, match="line break"):
        unit_word("a\nb")


@pytest.mark.parametrize(
    ("model", "name"),
    [("Qwen/Qwen3-32B-AWQ", "qwen3-32b-awq"), ("/models/Yi 6B/", "yi-6b"), ("한국어", "server"), ("x" * 90, "x" * 50)],
)
def test_names(model: str, name: str) -> None:
    assert name == name_of(model)


@pytest.mark.parametrize("value", ["a\x1b[31m", "\u202ex", "a\rb", "\x9b31m", "nul\0", "\udcff"])
@pytest.mark.parametrize("form", FORMATS)
def test_control_characters_are_refused(form: Format, value: str) -> None:
    for one in (service(env={"E": value}), service(flags={"x": value}), service(model=value), service(folder=value)):
        with pytest.raises(UsageError, match="control characters"):
            render(form, deployment(one), TEMPLATES)


@pytest.mark.parametrize(
    "more", [{"gpu": "0; reboot"}, {"gpu": 'x"'}, {"listen": "0.0.0.0:1:2"}, {"gpu_resource": "x: 1}\n  evil"}]
)
def test_addresses_and_gpus_have_their_own_form(more: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="cannot be one"):
        render("compose", deployment(**more), TEMPLATES)


def test_secrets_are_named_and_stand_in_no_comment() -> None:
    one = service(flags={"api-key": "topsecret1"}, env={"HF_TOKEN": "topsecret2", "PGPASSWORD": "topsecret3"})

    assert ["--api-key", "HF_TOKEN", "PGPASSWORD"] == secrets_of(deployment(one))
    for form in FORMATS:
        for text in render(form, deployment(one), TEMPLATES).values():
            assert not [line for line in text.splitlines() if line.lstrip().startswith("#") and "topsecret" in line]


@pytest.mark.parametrize(("platform", "architecture"), [(Platform.AMD64, "amd64"), (Platform.ARM64, "arm64")])
def test_kubernetes_takes_nodes_of_the_platform(platform: Platform, architecture: str) -> None:
    assert f"nodeSelector: {{kubernetes.io/arch: {architecture}}}" in written(
        "kubernetes", deployment(platform=platform)
    )
