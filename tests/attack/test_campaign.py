"""The short form of the campaign, and the rule that every reader of foreign data is in it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import attack_table
import pytest
from attack_child import Tally

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "assay"
DECODERS = {
    "json.load", "json.loads", "model_validate_json", "validate_json", "read_json", "yaml.compose", "yaml.load",
    "yaml.safe_load",
    "zipfile.ZipFile", "tarfile.open", "gzip.decompress", "gzip.open", "zlib.decompress", "zlib.decompressobj",
    "zlib_ng.decompressobj",
    "zstandard.ZstdDecompressor", "lz4.block.decompress", "struct.unpack", "struct.unpack_from", "struct.Struct",
    "int.from_bytes",
    "tomllib.loads", "tomllib.load", "HTMLParser", "BytesParser", "HeaderParser", "message_from_bytes",
    "message_from_string",
    "configparser.RawConfigParser",
}  # fmt: skip
SECONDS = float(os.environ.get("ASSAY_ATTACK_SECONDS", "60"))


def decoding_modules() -> dict[str, set[str]]:
    """Return the modules of assay that decode something, with what they call."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call | ast.ClassDef):
                for part in [node.func] if isinstance(node, ast.Call) else node.bases:
                    text = ast.unparse(part)
                    if text in DECODERS or text.rpartition(".")[2] in DECODERS:
                        found.setdefault(name, set()).add(text)
    return found


def test_every_reader_of_foreign_data_is_attacked() -> None:
    covered = {name for attack in attack_table.ATTACKS for name in attack.covers} | set(attack_table.NOT_FOREIGN)
    missing = {name: sorted(calls) for name, calls in decoding_modules().items() if name not in covered}

    assert {} == missing, (
        "add an attack for it to tests/attack/attack_table.py, or the reason why no stranger writes it"
    )


def test_attack_table_lists_only_existing_readers() -> None:
    modules = {".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in SOURCE.rglob("*.py")}
    modules |= {name.removesuffix(".__init__") for name in modules}
    named = {name for attack in attack_table.ATTACKS for name in attack.covers} | set(attack_table.NOT_FOREIGN)

    assert set() == named - modules


def _eats() -> None:
    held = [bytearray(1 << 20) for _ in range(600)]
    for block in held:
        block[::4096] = b"\1" * 256


def _sleeps() -> None:
    time.sleep(30)


def _breaks() -> None:
    raise KeyError("x")


@pytest.mark.parametrize(("work", "said"), [(_eats, " MB"), (_sleeps, "not done after"), (_breaks, "KeyError")])
def test_a_case_that_does_not_survive_is_found(tmp_path: Path, work: object, said: str) -> None:
    script = (
        "import os, signal, sys, time; from pathlib import Path; import attack_child as child, test_campaign as here\n"
        "signal.signal(signal.SIGALRM, child._overdue)\n"
        f"place = os.open({str(tmp_path / 'p')!r}, os.O_RDWR | os.O_CREAT)\n"
        "tally = child.Tally(place, 3.0, stop=time.monotonic() + 60)\n"
        f"tally.case(0, here.{work.__name__}, ())\n"  # type: ignore[attr-defined]
        "tally.case(1, lambda: None, ())\n"
        "import json; print(json.dumps(tally.document()))"
    )
    paths = [str(ROOT / "src"), str(ROOT / "tests" / "support"), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ":".join(paths)},
    )
    document = json.loads(done.stdout)

    assert [0] == [failure["case"] for failure in document["failures"]]
    assert said in document["failures"][0]["found"]
    assert 2 == document["tried"]


def test_a_tally_needs_a_place_for_its_progress() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Tally(10_000, 1.0, stop=time.monotonic() + 1).case(0, lambda: None, ())


@pytest.mark.timeout(900)
def test_a_short_campaign_is_survived() -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "campaign.py", str(SECONDS), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = json.loads(done.stdout)
    failed = [failure for one in outcomes.values() for failure in one["failures"]]

    assert [] == failed
    assert len(attack_table.ATTACKS) == len(outcomes)
    assert all(one["tried"] >= 1 for one in outcomes.values())
    assert sum(one["tried"] for one in outcomes.values()) >= 500
