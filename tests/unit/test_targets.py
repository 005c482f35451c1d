"""Cards by the names people use, what code each runs, and cards whose memory is the system's too."""

from __future__ import annotations

import pytest

from assay.adapters.files.card_names import load_cards
from assay.adapters.files.knowledge import load_knowledge
from assay.audit.gpu import capability_of, jit, runs
from assay.cli import main
from assay.errors import UsageError
from assay.foundation.versions import parsed

KNOWN = {"75", "80", "86", "87", "89", "90", "100", "101", "103", "110", "120", "121"}


@pytest.mark.parametrize(
    ("word", "target"),
    [
        ("RTX 5090", "sm_120"), ("DGX Spark", "sm_121"), ("NVIDIA GB10", "sm_121"), ("ASUS Ascent GX10", "sm_121"),
        ("RTX PRO 6000", "sm_120"), ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "sm_120"), ("B200", "sm_100"),
        ("RTX PRO 4000 Blackwell SFF Edition", "sm_120"), ("RTX PRO 500", "sm_120"), ("B300", "sm_103"),
        ("GB300", "sm_103"), ("DGX Station", "sm_103"), ("Jetson Thor", "sm_110"), ("H200", "sm_90"), ("H20", "sm_90"),
        ("H800", "sm_90"), ("A100", "sm_80"), ("A800", "sm_80"), ("L4", "sm_89"), ("L20", "sm_89"), ("L40S", "sm_89"),
        ("RTX 5880 Ada", "sm_89"), ("A6000", "sm_86"), ("T4", "sm_75"), ("GTX 1660", "sm_75"), ("TITAN RTX", "sm_75"),
        ("RTX 2080 Ti", "sm_75"), ("RTX 5090 Laptop GPU", "sm_120"), ("4090", "sm_89"), ("120", "sm_120"),
    ],
)  # fmt: skip
def test_names_people_use(word: str, target: str) -> None:
    assert target == load_cards().find(word).target


@pytest.mark.parametrize(
    ("word", "offered"),
    [("RTX 5095", "RTX 5090"), ("Sparc", "DGX Spark"), ("H201", "H200"), ("sm_999", "sm_120"), ("", "RTX 5090")],
)
def test_unknown_card_offers_the_nearest(word: str, offered: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_cards().find(word)

    assert offered in (raised.value.hint or "")


@pytest.mark.parametrize(
    "words",
    [["audit", "a==1"], ["verify", "r.example/a:1"], ["publish"], ["launch", "x"], ["recommend"],
     ["bisect", "good", "bad"], ["find", "vllm"], ["up", "model"]],
)  # fmt: skip
def test_every_command_with_a_target_refuses_one_that_does_not_exist(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--target", "sm_999"]) == 2
    assert "no GPU has the architecture sm_999" in capsys.readouterr().err


def test_what_a_card_runs_is_what_the_table_with_sources_says() -> None:
    known = load_knowledge().ptx
    capabilities = [name for name in load_cards().architectures if name.replace(".", "") in KNOWN]

    assert {name.rstrip("af") for name in known.targets} == KNOWN
    for name, item in known.targets.items():
        assert item.source in known.target_sources
        for capability in capabilities:
            number = capability_of(capability)
            assert runs(name, number) is (capability in item.runs), (name, capability)
            assert jit(name, number) is (capability in item.jit), (name, capability)


def test_no_card_is_older_than_the_toolkit_that_knows_it() -> None:
    known = load_knowledge().ptx.targets

    for capability, one in load_cards().architectures.items():
        plain = known.get(capability.replace(".", ""))
        if plain is not None:
            assert (parsed(one.cuda), one.driver.partition(".")[0]) == (
                parsed(plain.cuda),
                plain.driver.partition(".")[0],
            )


def test_only_cards_with_one_memory_leave_a_part_to_the_system() -> None:
    cards = load_cards()

    assert cards.system_share("sm_121") == 0.17
    assert cards.system_share("sm_120") == cards.system_share("sm_90") == cards.system_share("sm_999") == 0
