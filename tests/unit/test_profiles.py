"""Profiles: the shipped ones hold, and wrong ones are told with every problem."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from assay.adapters.files.serving import load_profiles, load_server_flags
from assay.errors import ConfigError, UsageError
from assay.serving.command import prepare, shm_bytes, with_features_off
from assay.serving.helptext import HelpOption, parse_help
from assay.serving.profiles import named

ROOT = Path(__file__).parents[2]
SGLANG = load_profiles(ROOT / "images" / "sglang-blackwell" / "profiles")
VLLM = load_profiles(ROOT / "images" / "vllm-blackwell" / "profiles")
KNOWLEDGE = load_server_flags(ROOT / "knowledge" / "server_flags.yaml")


@functools.cache
def options_of(release: str, engine: str = "sglang") -> Mapping[str, HelpOption]:
    return parse_help((ROOT / "tests" / "assets" / "serve" / f"help-{engine}-{release}.txt").read_text())


def test_the_users_profiles_are_there() -> None:
    five = {"baseline", "ultra-optimized", "balanced-v2", "experimental", "performance-v1"}

    assert five <= set(SGLANG)
    assert {"attention-triton", "attention-torch-native", "attention-flashinfer"} <= set(SGLANG)
    assert {"tinyllama-1.1b", "qwen2.5-3b", "yi-6b-guide", "qwen3-32b-awq"} <= set(SGLANG)
    assert {"gpt-oss-20b", "gpt-oss-20b-eager", "tinyllama-1.1b", "qwen2.5-3b", "yi-6b"} <= set(VLLM)


def test_profile_overrides_the_one_it_extends() -> None:
    profile = SGLANG["balanced-v2-deployed"]

    assert "0.87" == profile.flags["mem-fraction-static"]
    assert "3328" == profile.flags["max-total-tokens"]
    assert "disable-radix-cache" not in profile.flags
    assert "disable-cuda-graph" in profile.flags
    assert "Qwen/Qwen3-32B-AWQ" == profile.model
    assert 978.0 == profile.claims[0].latency_ms


@pytest.mark.parametrize("name", sorted(SGLANG))
@pytest.mark.parametrize("release", ["0.5.2", "0.5.14"])
def test_every_sglang_profile_is_accepted_by_the_servers_help(name: str, release: str) -> None:
    options = options_of(release)

    profile = SGLANG[name]
    command = prepare(KNOWLEDGE.engines["sglang"], release, profile, model=profile.model or "tiny", options=options)

    assert [] == [finding.message for finding in command.findings if finding.fatal]
    if release == "0.5.2" and profile.written_for == "0.5.14":
        assert all("came with sglang 0.5.14; written as --" in note for note in command.notes)


@pytest.mark.parametrize("name", sorted(VLLM))
def test_every_vllm_profile_is_accepted_by_the_servers_help(name: str) -> None:
    profile = VLLM[name]

    command = prepare(
        KNOWLEDGE.engines["vllm"], "0.11.0", profile, model=profile.model or "tiny",
        options=options_of("0.11.0", "vllm"),
    )  # fmt: skip

    assert [] == [finding.message for finding in command.findings]


def test_newer_flags_are_written_as_the_older_release_has_them() -> None:
    """vLLM 0.11.0 takes the attention backend from the environment."""
    vllm = KNOWLEDGE.engines["vllm"]

    old = prepare(vllm, "0.11.0", VLLM["attention-triton"], model="m")
    new = prepare(vllm, "0.13.0", VLLM["attention-triton"], model="m")
    literal = prepare(vllm, "0.11.0", VLLM["attention-triton"], model="m", as_written=True)

    assert ({}, {"VLLM_ATTENTION_BACKEND": "TRITON_ATTN"}) == (old.flags, old.env)
    assert "came with vllm 0.13.0; written as VLLM_ATTENTION_BACKEND=TRITON_ATTN" in old.notes[0]
    assert ({"attention-backend": "TRITON_ATTN"}, {}) == (new.flags, new.env)
    assert ["attention-backend"] == [finding.flag for finding in literal.findings]


def test_the_guides_flags_are_refused_as_written() -> None:
    options = options_of("0.5.2")

    command = prepare(
        KNOWLEDGE.engines["sglang"], "0.5.2", SGLANG["qwen2.5-3b-guide"], model=None, options=options, as_written=True
    )

    assert {"radix-cache-num-tokens", "enable-flashinfer"} == {one.flag for one in command.findings if one.fatal}


def test_quantisation_belongs_to_the_profiles_own_model() -> None:
    own = prepare(KNOWLEDGE.engines["sglang"], "0.5.2", SGLANG["baseline"], model=None)
    other = prepare(KNOWLEDGE.engines["sglang"], "0.5.2", SGLANG["baseline"], model="tiny")

    assert "awq" == own.flags["quantization"]
    assert "quantization" not in other.flags
    assert any("Qwen/Qwen3-32B-AWQ" in note for note in other.notes)


def test_model_argument_is_where_the_engine_expects_it() -> None:
    sglang = prepare(KNOWLEDGE.engines["sglang"], "0.5.2", None, model="m")
    vllm = prepare(KNOWLEDGE.engines["vllm"], "0.26.0", None, model="m", extra={"dtype": "bfloat16"})

    head = ["python3", "-m", "sglang.launch_server", "--model-path", "m", "--host", "H", "--port", "1"]
    assert head == sglang.argv(host="H", port="1")
    words = ["vllm", "serve", "m", "--host", "H", "--port", "1", "--dtype", "bfloat16"]
    assert words == vllm.argv(host="H", port="1")


def test_no_model_is_an_error() -> None:
    with pytest.raises(UsageError, match="no model is named"):
        prepare(KNOWLEDGE.engines["sglang"], "0.5.2", SGLANG["attention-triton"], model=None)


def test_features_go_off_without_undoing_each_other() -> None:
    command = prepare(KNOWLEDGE.engines["sglang"], "0.5.14", SGLANG["experimental"], model="tiny")

    off = with_features_off(command, ["cuda-graphs", "hierarchical-cache", "two-batch-overlap", "mixed-chunk"])

    assert {"disable-decode-cuda-graph", "disable-prefill-cuda-graph"} <= set(off.flags)
    gone = {"cuda-graph-max-bs-decode", "cuda-graph-bs-decode", "enable-hierarchical-cache", "enable-mixed-chunk"}
    assert set() == gone & set(off.flags)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"a": "description: x\nengine: sglang\nwritten_for: 1.0\nflagz: {}\n"}, "did you mean 'flags'"),
        ({"a": "description: x\nengine: sglang\nwritten_for: 1.0\nextends: b\n"}, "which is not there"),
        (
            {
                "a": "description: x\nengine: sglang\nwritten_for: 1.0\nextends: b\n",
                "b": "description: x\nengine: sglang\nwritten_for: 1.0\nextends: a\n",
            },
            "extend each other",
        ),
        (
            {
                "a": "description: x\nengine: sglang\nwritten_for: 1.0\nextends: b\n",
                "b": "description: x\nengine: vllm\nwritten_for: 1.0\n",
            },
            "another engine",
        ),
        ({"a": "description: x\nengine: sglang\nwritten_for: 1.0\nflags: {x: }\n"}, "write `true` for a switch"),
        ({"a": "description: x\nengine: sglang\nwritten_for: 1.0\nflags: {--x: true}\n"}, "--x"),
        ({"a": "description: x\nengine: sglang\nwritten_for: 1.0\nshm_size: 12q\n"}, "shm_size"),
    ],
)
def test_wrong_profiles_are_reported(tmp_path: Path, texts: dict[str, str], says: str) -> None:
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_profiles(tmp_path)

    assert says in caught.value.message


def test_an_unknown_profile_is_reported_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'balanced-v2'"):
        named("balancedv2", SGLANG)


@pytest.mark.parametrize(("text", "count"), [(None, 1 << 30), ("40g", 40 << 30), ("512m", 512 << 20)])
def test_shared_memory(text: str | None, count: int) -> None:
    assert count == shm_bytes(text)


def test_claims_are_reported_in_one_line() -> None:
    one, *more = [claim.figures for claim in SGLANG["balanced-v2"].claims]

    assert "latency 978 ms, first token 195 ms, 10.27 tok/s, 21.1 GB of GPU memory" == one
    assert {"10 users, 2.1 req/s", "20 users, 4.21 req/s", "latency 48700 ms"} <= set(more)
    assert [""] == [claim.figures for claim in SGLANG["experimental"].claims]
    assert "first of many questions 125 ms, the others 25 ms" in {
        claim.figures for claim in SGLANG["yi-6b-guide"].claims
    }


def test_secrets_are_neither_kept_nor_logged() -> None:
    command = prepare(
        KNOWLEDGE.engines["vllm"], "0.24.0", VLLM["tiny"], model="tiny",
        extra={"api-key": ("first-key", "second-key"), "hf-token": "hf_abcdef", "max-num-batched-tokens": "4096"},
    )  # fmt: skip
    command = replace(command, env={"VLLM_API_KEY": "third-key", "TOKENIZERS_PARALLELISM": "false"})

    kept = " ".join([*command.told.argv(), *command.told.env.values()])
    log = command.redacted("args: {'api_key': ['first-key', 'second-key'], 'x': 4096} hf_abcdef third-key false")

    assert not any(secret in kept + log for secret in ("first-key", "second-key", "hf_abcdef", "third-key"))
    assert {"--max-num-batched-tokens", "4096", "false"} <= set(kept.split())
    assert "args: {'api_key': ['***', '***'], 'x': 4096} *** *** false" == log
    assert "first-key" in command.argv()


def test_a_profile_of_another_engine_is_refused_with_the_place_to_look() -> None:
    with pytest.raises(UsageError, match="no profile 'gpt-oss-20b' for this engine") as refused:
        named("gpt-oss-20b", SGLANG)

    assert refused.value.hint is not None
    assert "images/*/profiles/" in refused.value.hint
