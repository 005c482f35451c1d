"""Flags against the servers' own help, over releases. The texts come from wheels and images."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import pytest

from assay.adapters.files.serving import load_server_flags
from assay.cli.serving import extra_flags
from assay.engines.knowledge import EngineFlags, FlagHistory, Flags, ServerFlags, Setting
from assay.errors import UsageError
from assay.serving.flags import apply, check_flags, check_known, command_line, modernise, switch
from assay.serving.helptext import HelpOption, parse_help


@pytest.fixture(scope="module")
def knowledge() -> ServerFlags:
    return load_server_flags(Path(__file__).parents[2] / "knowledge" / "server_flags.yaml")


@pytest.fixture(scope="module")
def sglang(knowledge: ServerFlags) -> EngineFlags:
    return knowledge.engines["sglang"]


def help_of(version: str) -> str:
    return (Path(__file__).parents[1] / "assets" / "serve" / f"help-{version}.txt").read_text()


@functools.cache
def options_of(release: str, engine: str = "sglang") -> Mapping[str, HelpOption]:
    return parse_help(help_of(f"{engine}-{release}"))


@pytest.mark.parametrize(
    ("release", "count"),
    [("sglang-0.4.0", 80), ("sglang-0.5.2", 200), ("sglang-0.5.14", 400), ("vllm-0.11.0", 220), ("vllm-0.24.0", 240)],
)
def test_help_of_real_servers_is_read_in_full(release: str, count: int) -> None:
    text = help_of(release)

    options = parse_help(text)

    assert count < len(options)
    # Every flag that the usage line names is an option too.
    usage = text[: text.index("\n\n")]
    named = {word.strip("[]") for word in usage.split() if word.startswith("[--")}
    # vLLM's usage line names none; then every flag that begins a line is one.
    named |= {line.split()[0].rstrip(",") for line in text.splitlines() if line.startswith("  --")}
    assert set() == {name for name in named if name.removeprefix("--") not in options}


def test_choices_arity_and_aliases() -> None:
    options = options_of("0.5.2")

    assert ("lpm", "random", "fcfs", "dfs-weight", "lof") == options["schedule-policy"].choices
    assert "none" == options["disable-cuda-graph"].arity
    assert "many" == options["cuda-graph-bs"].arity
    assert "one" == options["mem-fraction-static"].arity
    assert options["tp-size"] is options["tensor-parallel-size"]


def test_vllms_help_is_read() -> None:
    options = options_of("0.11.0", "vllm")

    assert {"auto", "fp8", "fp8_e4m3"} <= set(options["kv-cache-dtype"].choices)
    assert options["enable-prefix-caching"] is options["no-enable-prefix-caching"]
    assert ("none", "one") == (options["enforce-eager"].arity, options["compilation-config"].arity)
    assert options["guided-decoding-backend"].deprecated
    assert not options["gpu-memory-utilization"].deprecated


def test_deprecation_names_the_replacement() -> None:
    options = options_of("0.5.14")

    assert options["disable-cuda-graph"].deprecated
    assert ("cuda-graph-backend-decode", "cuda-graph-backend-prefill") == options["disable-cuda-graph"].named_instead
    assert ("incremental-streaming-output",) == options["stream-output"].named_instead
    assert not options["schedule-policy"].deprecated


@pytest.mark.parametrize("text", ["", "Segmentation fault", "usage: x [-h]\n\noptions:\n", "\0\n  --\n  -x\n"])
def test_text_without_help_gives_no_options(text: str) -> None:
    assert {} == parse_help(text)


@pytest.mark.parametrize(
    ("release", "flag", "value", "kind", "says"),
    [
        # argparse takes a unique beginning for the flag: the seeds' --disable-flashinfer never switched it off.
        ("0.5.2", "disable-flashinfer", "true", "abbreviation", "--disable-flashinfer-cutlass-moe-fp4-allgather"),
        ("0.5.14", "disable-flashinfer", "true", "ambiguous", "--attention-backend triton"),
        ("0.5.2", "radix-cache-num-tokens", "256000", "unknown", "--max-total-tokens 256000"),
        ("0.5.2", "enable-flashinfer", "true", "ambiguous", "--attention-backend flashinfer"),
        ("0.4.0", "schedule-policy", "lof", "choice", "lpm, random, fcfs"),
        ("0.5.14", "stream-output", "true", "deprecated", "--incremental-streaming-output"),
        ("0.5.14", "cuda-graph-bs", "4", "deprecated", "--cuda-graph-bs-decode 4"),
        ("0.5.2", "cuda-graph-bs-decode", "4", "unknown", "it came with sglang 0.5.14; here it is --cuda-graph-bs"),
        ("0.5.2", "torch-compile-max-bz", "6", "unknown", "did you mean --torch-compile-max-bs"),
        ("0.5.2", "disable-radix-cache", "1", "arity", "takes no value"),
        ("0.5.2", "mem-fraction-static", "true", "arity", "needs a value"),
    ],
)
def test_a_wrong_flag_is_reported_with_what_to_write(
    sglang: EngineFlags, *, release: str, flag: str, value: str, kind: str, says: str
) -> None:
    options = options_of(release)

    (finding,) = check_flags({flag: value}, options, sglang, release)

    assert kind == finding.kind
    assert says in finding.message
    assert (kind != "deprecated") == finding.fatal


def test_right_flags_have_no_findings(sglang: EngineFlags) -> None:
    flags: Flags = {"attention-backend": "triton", "cuda-graph-bs": ("1", "2", "4"), "disable-radix-cache": "true"}

    assert () == check_flags(flags, options_of("0.5.2"), sglang, "0.5.2")


def test_modernise_renames_flags_and_keeps_values(sglang: EngineFlags) -> None:
    flags: Flags = {"disable-flashinfer": "true", "attention-backend": "torch_native", "cuda-graph-bs": ("1", "2")}

    modern, notes = modernise(flags, sglang, "0.5.14")

    assert {
        "attention-backend": "torch_native",
        "sampling-backend": "pytorch",
        "cuda-graph-bs-decode": ("1", "2"),
    } == modern
    assert 2 == len(notes)


def test_modernise_keeps_flags_that_the_release_has(sglang: EngineFlags) -> None:
    flags: Flags = {"cuda-graph-bs": ("1", "2"), "stream-output": "true"}

    assert (flags, ()) == modernise(flags, sglang, "0.5.2")


def test_history_of_a_flag() -> None:
    history = FlagHistory(since="0.4.2", until="0.5.19", deprecated="0.5.14", source="x", date="2026-11-20")

    assert [True, False, False, True] == [history.missing_in(v) for v in ("0.4.1", "0.4.2", "0.5.19", "0.5.20")]
    assert [False, True] == [history.deprecated_in(v) for v in ("0.5.13", "0.5.14")]
    assert not history.missing_in("not a version")


@pytest.mark.parametrize(
    ("engine", "version", "feature", "flags"),
    [
        ("sglang", "0.5.2", "cuda-graphs", ["--disable-cuda-graph"]),
        ("sglang", "0.5.14", "cuda-graphs", ["--disable-decode-cuda-graph", "--disable-prefill-cuda-graph"]),
        ("vllm", "0.9.0", "cuda-graphs", ["--enforce-eager"]),
        ("vllm", "0.26.0", "cuda-graphs", ["--compilation-config", '{"cudagraph_mode": "NONE"}']),
        ("vllm", "0.26.0", "radix-cache", ["--no-enable-prefix-caching"]),
        ("vllm", "0.26.0", "flashinfer", ["--attention-backend", "TRITON_ATTN"]),
        ("vllm", "0.11.0", "flashinfer", []),
    ],
)
def test_a_feature_is_switched_off_in_the_words_of_the_release(
    knowledge: ServerFlags, engine: str, version: str, feature: str, flags: list[str]
) -> None:
    setting = switch(knowledge.engines[engine], version, feature, on=False)

    assert setting is not None
    assert flags == command_line(setting.flags)


def test_before_vllm_had_a_flag_the_attention_backend_was_a_setting(knowledge: ServerFlags) -> None:
    setting = switch(knowledge.engines["vllm"], "0.11.0", "flashinfer", on=False)

    assert setting is not None
    assert "TRITON_ATTN" == setting.env["VLLM_ATTENTION_BACKEND"]


def test_an_unknown_feature_has_no_switch(sglang: EngineFlags) -> None:
    assert switch(sglang, "0.5.2", "no-such-feature", on=False) is None


def test_json_flags_are_joined() -> None:
    lower = {"compilation-config": '{"cudagraph_mode": "FULL", "mode": 3}'}

    joined = apply(lower, Setting(flags={"compilation-config": '{"cudagraph_mode": "NONE"}'}))

    assert {"compilation-config": '{"cudagraph_mode": "NONE", "mode": 3}'} == joined
    broken = apply({"compilation-config": "{"}, Setting(flags={"compilation-config": "{}"}))
    assert {"compilation-config": "{}"} == broken


def test_every_successor_exists_in_the_newest_help_that_is_kept(sglang: EngineFlags) -> None:
    options = options_of("0.5.14")

    for name, history in sglang.flags.items():
        if history.successor is None or not (history.removed_in("0.5.14") or history.deprecated_in("0.5.14")):
            continue
        assert set() == set(history.successor) - set(options), name


@pytest.mark.parametrize(
    ("engine", "release"), [("sglang", "0.4.0"), ("sglang", "0.5.2"), ("sglang", "0.5.14"), ("vllm", "0.11.0")]
)
def test_flag_table_matches_the_help_of_a_release(knowledge: ServerFlags, engine: str, release: str) -> None:
    options = options_of(release, engine)
    known = knowledge.engines[engine]

    wrong = [name for name, history in known.flags.items() if history.missing_in(release) == (name in options)]

    assert [] == wrong
    for feature in known.features:
        for on in (False, True):
            setting = switch(known, release, feature, on=on)
            if setting is not None:
                assert set() == {name for name in setting.flags if name not in options}, feature


def test_without_help_flags_are_checked_against_the_table(sglang: EngineFlags) -> None:
    flags: Flags = {"radix-cache-num-tokens": "1", "cuda-graph-bs-decode": "4", "anything-else": "x"}

    found = check_known(flags, sglang, "0.5.2")

    assert ["radix-cache-num-tokens", "cuda-graph-bs-decode"] == [finding.flag for finding in found]
    assert {"max-total-tokens": "1"} == found[0].successor
    assert "here it is --cuda-graph-bs" in found[1].message


@pytest.mark.parametrize("text", ["name=it's", 'name="a', "name=a\\"])
def test_a_quotation_mark_that_is_not_closed_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"--set name: No (closing quotation|escaped character)"):
        extra_flags((text,))
