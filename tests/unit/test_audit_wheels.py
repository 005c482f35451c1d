"""What a person means by a wheel: files, addresses, and NAME==VERSION as installers understand it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from assay.adapters.index.fake import FakeIndex
from assay.cli.wheels import wheel_of
from assay.errors import PackageIndexError, UsageError
from assay.pipeline.wheel_choice import choose_wheel, is_requirement, is_wheel

OLD = "a-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"
NEW = "a-1.1-cp312-cp312-manylinux_2_17_x86_64.whl"
ABI3 = "a-1.1-cp39-abi3-manylinux_2_28_x86_64.whl"
REBUILT = "a-1.1-2-cp312-cp312-manylinux_2_17_x86_64.whl"
NEXT = "a-1.2rc1-cp312-cp312-manylinux_2_17_x86_64.whl"
OTHER = "a-1.1-cp310-cp310-manylinux_2_17_x86_64.whl"
LOCAL = "a-1.1+cpu-cp312-cp312-manylinux_2_28_x86_64.whl"
MAC = "a-1.3-cp312-cp312-macosx_11_0_arm64.whl"


@pytest.mark.parametrize(
    ("names", "word", "expected"),
    [
        ((OLD, NEW), "a==1.*", NEW),
        ((NEW, OLD), "a==1.*", NEW),
        ((OLD, NEW, NEXT), "a==1.*", NEW),
        ((OLD, NEXT), "a==1.2rc1", NEXT),
        ((ABI3, NEW), "a==1.1", NEW),
        ((OTHER, ABI3), "a==1.1", ABI3),
        ((NEW, REBUILT), "a==1.1", REBUILT),
        ((OLD, MAC), "a==1.*", OLD),
        ((NEW, LOCAL), "a==1.1", NEW),
        ((OLD, LOCAL), "a==1.*", LOCAL),
        ((NEW, LOCAL), "a==1.1+cpu", LOCAL),
    ],
)
def test_chosen_wheel_is_the_one_an_installer_selects(names: tuple[str, ...], word: str, expected: str) -> None:
    assert expected == choose_wheel(word, "3.12", FakeIndex.of(*names)).filename


def test_yanked_file_is_chosen_only_when_pinned() -> None:
    index = FakeIndex.of(OLD, NEW, yanked=(NEW,))

    assert OLD == choose_wheel("a==1.*", "3.12", index).filename
    assert NEW == choose_wheel("a==1.1", "3.12", index).filename


@pytest.mark.parametrize(
    ("names", "words", "hint"),
    [
        ((), "no wheels of a: it does not know the name", "--index"),
        (("a-1.1.tar.gz",), "published as source", "audit that file"),
        ((OTHER,), "no wheel of a==1.1 for Python 3.12", "cp310"),
        ((OLD,), "no wheel of a==1.1", "its newest: 1.0"),
    ],
)
def test_missing_name_is_reported_with_the_existing_ones(names: tuple[str, ...], words: str, hint: str | None) -> None:
    with pytest.raises(PackageIndexError, match=words) as told:
        choose_wheel("a==1.1", "3.12", FakeIndex.of(*names))

    assert (hint or "") in (told.value.hint or "")


def test_an_address_of_a_wheel() -> None:
    sha = "0" * 64
    file = wheel_of(
        f"https://x.example/d/a-1.0%2Bcu128-cp312-cp312-linux_x86_64.whl#sha256={sha}", "3.12", FakeIndex.of()
    )

    assert ("a", "a-1.0+cu128-cp312-cp312-linux_x86_64.whl", sha) == (file.project, file.filename, file.sha256)
    assert file.url.endswith(".whl")
    assert wheel_of(f"https://x.example/{OLD}", "3.12", FakeIndex.of()).sha256 is None


def test_a_file_on_this_machine(tmp_path: Path) -> None:
    path = tmp_path / OLD
    path.write_bytes(b"bytes")
    file = wheel_of(str(path), "3.12", FakeIndex.of())

    assert (path.as_uri(), hashlib.sha256(b"bytes").hexdigest(), 5) == (file.url, file.sha256, file.size)
    with pytest.raises(UsageError, match="is not there"):
        wheel_of(str(tmp_path / NEW), "3.12", FakeIndex.of())
    with pytest.raises(UsageError, match=r"a-1\.whl"):
        wheel_of(str(tmp_path / "a-1.whl"), "3.12", FakeIndex.of())


@pytest.mark.parametrize(
    ("word", "requirement", "wheel"),
    [
        ("torch==2.8.0", True, False),
        ("torch==2.8.*", True, False),
        ("torch>=2.8", False, False),
        ("sglang-blackwell", False, False),
        (OLD, False, True),
        (f"https://x.example/{OLD}#sha256=0", False, True),
    ],
)
def test_which_words_are_wheels(word: str, requirement: bool, wheel: bool) -> None:
    assert (requirement, wheel) == (is_requirement(word), is_wheel(word))
