"""First questions of an owner and of a wheel's maintainer, asked of the real package index."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.index


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("facts")


def ask(known: Path, *words: str) -> tuple[int, Any, str]:
    command = [sys.executable, "-m", "assay", "audit", *words, "--no-record", "--facts", str(known), "--format", "json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_vllm_on_an_rtx_5090_without_a_word_about_torch(known: Path) -> None:
    code, document, stderr = ask(known, "vllm==0.33.0", "--target", "RTX 5090", "--quick")
    (report,) = document["reports"]

    assert code == 0, stderr
    assert report["packages"]["torch"] == "2.14.0"
    assert "torch 2.14.0: vllm 0.33.0 requires torch==2.14.0" in report["assumed"]
    assert "broken" not in {item["outcome"] for item in report["predictions"]}


def test_a_meta_package_fails_by_what_it_requires(known: Path) -> None:
    code, document, stderr = ask(known, "nixl==1.1.0", "--quick")

    assert code == 1, stderr
    assert "nixl-cu13 1.1.0" in document["reports"][0]["asked"]


def test_none_of_the_alternatives_loads(known: Path) -> None:
    code, document, _ = ask(known, "torchcodec==0.14.0", "--torch", "2.10.0", "--quick")
    errors = [item["message"] for item in document["reports"][0]["findings"] if item["severity"] == "error"]

    assert code == 1
    assert any("none of the 5 libraries" in message for message in errors)


def test_dgx_spark_gets_the_wheel_for_its_platform(known: Path) -> None:
    code, document, stderr = ask(known, "sglang-kernel==0.4.10", "--torch", "2.14.1", "--target", "DGX Spark")
    (report,) = document["reports"]

    assert code != 2, stderr
    assert report["platform"] == "aarch64"
    rows = {row["library"]: row["runs"] for row in report["code"] if row["package"].startswith("sglang-kernel")}
    assert (
        "sass" in {how for library, how in rows.items() if "sm100/common_ops" in library} or "partial" in rows.values()
    )


def test_linked_statically_and_not_read(known: Path) -> None:
    code, document, _ = ask(known, "ctranslate2==4.8.5", "--target", "sm_120")
    assert (code, document["reports"][0]["code_unread"]) == (0, ["ctranslate2 4.8.5"])

    _, whole, _ = ask(known, "ctranslate2==4.8.5", "--target", "sm_120", "--full")
    assert whole["reports"][0]["code_unread"] == []
    assert whole["reports"][0]["code"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vllm==99.0",), "it has no such version"),
        (("flash-attn==2.8.3",), "published as source"),
        (("bitsandbytes==0.50.2", "--python", "3.7"), "for Python 3.7"),
        (("sglang-kernel==0.4.10", "--torch", "9.9.9,9.9.8"), "it has no such version"),
    ],
)
def test_audit_without_an_answer_is_not_a_failed_verdict(known: Path, words: tuple[str, ...], message: str) -> None:
    code, _, stderr = ask(known, *words, "--quick")

    assert code == 2
    assert message in stderr
