"""GPUs by name: products, what drivers call them, architectures; and what no GPU is called."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from assay.adapters.files.card_names import load_cards
from assay.cli import main
from assay.cli.targets import GPU, beside
from assay.errors import ConfigError, UsageError
from assay.matrix.cards import sm


@pytest.mark.parametrize(
    ("word", "target", "title", "platform"),
    [
        ("RTX 5090", "sm_120", "RTX 5090", None),
        ("rtx5090", "sm_120", "RTX 5090", None),
        ("5090", "sm_120", "RTX 5090", None),
        ("5060ti", "sm_120", "RTX 5060 Ti", None),
        ("NVIDIA GeForce RTX 5090", "sm_120", "RTX 5090", None),
        ("NVIDIA GeForce RTX 4070 SUPER", "sm_89", "RTX 4070", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "sm_89", "RTX 4090", None),
        ("NVIDIA H100 80GB HBM3", "sm_90", "H100", None),
        ("NVIDIA A100-SXM4-80GB", "sm_80", "A100", None),
        ("Tesla V100-SXM2-16GB", "sm_70", "V100", "x86_64"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "sm_120", "RTX PRO 6000 Blackwell", None),
        ("RTX PRO 6000", "sm_120", "RTX PRO 6000", None),
        ("NVIDIA RTX 6000 Ada Generation", "sm_89", "RTX 6000 Ada", None),
        ("Quadro RTX 6000", "sm_75", "Quadro RTX 6000", None),
        ("DGX Spark", "sm_121", "DGX Spark", "aarch64"),
        ("NVIDIA GB10", "sm_121", "GB10", "aarch64"),
        ("GH200", "sm_90", "GH200", "aarch64"),
        ("NVIDIA GB300", "sm_103", "GB300", "aarch64"),
        ("b300", "sm_103", "B300", "x86_64"),
        ("Jetson AGX Thor", "sm_110", "Jetson AGX Thor", "aarch64"),
        ("Jetson Orin Nano", "sm_87", "Jetson Orin Nano", "aarch64"),
        ("sm_120", "sm_120", "RTX 50, RTX PRO Blackwell", None),
        ("sm_90a", "sm_90", "H100, H200, GH200", None),
        ("12.0", "sm_120", "RTX 50, RTX PRO Blackwell", None),
        ("121", "sm_121", "GB10, DGX Spark", "aarch64"),
    ],
)
def test_a_name_means_an_architecture(word: str, target: str, title: str, platform: str | None) -> None:
    found = load_cards().find(word)

    assert (target, title, platform) == (found.target, found.title, found.platform)


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("sm_999", "no GPU has the architecture sm_999", "sm_120, sm_121"),
        ("12.7", "no GPU has the architecture 12.7", "sm_120"),
        ("RTX 5091", "'RTX 5091' is not a known GPU", "RTX 5090"),
        ("DGX Sparc", "'DGX Sparc' is not a known GPU", "DGX Spark"),
        ("banana", "'banana' is not a known GPU", "RTX 5090, DGX Spark, H200"),
        ("", "'' is not a known GPU", "sm_120"),
    ],
)
def test_unknown_name_is_refused_with_the_known_ones(word: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as told:
        load_cards().find(word)

    assert hint in (told.value.hint or "")


def test_every_card_and_every_other_name_is_found_as_itself() -> None:
    cards = load_cards()
    for name, card in cards.cards.items():
        assert card.capability in cards.architectures
        for word in (name, *card.also):
            assert sm(card.capability) == cards.find(word).target, word


@pytest.mark.parametrize(
    "series",
    [
        ("RTX 2060", "RTX 3090", "RTX 4090", "RTX 5090", "RTX PRO 6000 Blackwell"),
        ("A100", "A10", "L4", "L40S", "H100", "H200", "GH200", "B200", "GB200", "B300", "GB300"),
        ("GB10", "DGX Spark", "Jetson Orin", "Jetson Thor", "T4", "V100"),
    ],
)
def test_the_cards_that_people_serve_on_are_there(series: tuple[str, ...]) -> None:
    for name in series:
        assert load_cards().find(name).title == name


def test_an_architecture_alone_on_one_platform_has_no_card_on_another() -> None:
    cards = load_cards()
    for capability, known in cards.architectures.items():
        there = [card.platforms for card in cards.cards.values() if card.capability == capability]
        if known.platform is not None:
            assert all(platforms == (known.platform,) for platforms in there), capability


def test_a_project_brings_its_own_names(tmp_path: Path) -> None:
    shipped = load_cards()
    folder = tmp_path / "knowledge"
    folder.mkdir()
    assert load_cards(tmp_path) is shipped
    text = (Path(__file__).parents[2] / "knowledge" / "cards.yaml").read_text(encoding="utf-8")
    (folder / "cards.yaml").write_text(text.replace("  GB10: ", "  GB11: "), encoding="utf-8")

    assert load_cards(tmp_path).find("GB11").target == "sm_121"
    (folder / "cards.yaml").write_text("version: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cards\.yaml"):
        (load_cards.__globals__["_read"].cache_clear(), load_cards(tmp_path))


def test_options_take_names_and_keep_architectures(capsys: pytest.CaptureFixture[str]) -> None:
    assert GPU.convert("RTX 5090", None, None) == "sm_120"
    assert not GPU.convert("", None, None)
    assert beside("sm_121") == "sm_121 (GB10, DGX Spark)"
    assert beside("sm_999") == "sm_999"
    assert main(["recommend", "--target", "sm_999"]) == 2
    assert "there are sm_50" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["verify", "publish", "bisect", "launch", "recommend", "audit"])
def test_every_verb_with_a_target_takes_names(verb: str) -> None:
    command = importlib.import_module(f"assay.cli.{verb}").command
    option = next(one for one in command.params if "--target" in one.opts)

    assert option.type is GPU or verb == "audit"
    assert main([verb, "--help"]) == 0
