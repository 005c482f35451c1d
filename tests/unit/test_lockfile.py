"""A lock is one file that reads back as itself and says what made it stale."""

from __future__ import annotations

from datetime import date

import pytest

from assay.errors import ConfigError
from assay.matrix import loading as matrix
from assay.matrix import lockfile, plan
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock, LockedSource, LockedWheel
from assay.matrix.model import AxisValue, SourceTree
from assay.pipeline.lock import age_warning, changes, pick_nightly


def wheel(name: str, version: str = "1.0", *, size: int | None = 10, index: str = "pypi") -> LockedWheel:
    return LockedWheel(
        name=name,
        version=version,
        filename=f"{name}-{version}-py3-none-any.whl",
        sha256="a" * 64,
        size=size,
        index=index,
    )


@pytest.fixture
def cell(matrix_text: str, image_text: str) -> Cell:
    return plan.make(matrix.load(matrix_text, {"serving": image_text})).cells[0]


@pytest.fixture
def lock(cell: Cell) -> Lock:
    return Lock(
        cell=cell.id,
        python="3.11",
        platform="x86_64-manylinux_2_36",
        requirements=lockfile.wanted(cell),
        base="slim",
        nightlies={"torch": "20261101"},
        wheels=(wheel("torch", "2.8.0", size=888063640), wheel("numpy", "2.0+cu130", size=None, index="nightly")),
    )


def test_a_lock_reads_back_as_itself(lock: Lock) -> None:
    text = lockfile.dump(lock)
    again = lockfile.parse(text, file="lock.txt")

    assert text == lockfile.dump(again)
    assert sorted(lock.wheels, key=lambda w: w.name) == list(again.wheels)
    assert lock.model_copy(update={"wheels": again.wheels}) == again


def test_a_changed_copy_gives_its_own_text(lock: Lock) -> None:
    assert "torch==2.8.0 " in lockfile.dump(lock)

    torch = lock.wheels[0].model_copy(update={"version": "2.9.0"})
    changed = lock.model_copy(update={"wheels": (torch,)})

    assert "torch==2.9.0 " in lockfile.dump(changed)
    assert "torch==2.8.0 " not in lockfile.dump(changed)
    assert "numpy" not in lockfile.dump(changed)
    assert lock.wheels[0] == torch.model_copy(update={"version": "2.8.0"})


def test_every_line_is_a_requirement_with_one_hash(lock: Lock) -> None:
    lines = [line for line in lockfile.dump(lock).splitlines() if not line.startswith("#")]

    assert all(line.count("--hash=sha256:") == 1 and "==" in line and "://" not in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# assay lock, format 1", "# assay lock, format 9", "lock.txt:1:1: not a lock of this format"),
        ("--hash=sha256:aaaa", "--hash=sha256:zzzz", "not a line of a lock"),
        ("torch==2.8.0 ", "torch>=2.8.0 ", "not a line of a lock"),
        ("torch==2.8.0 ", "torch==2.8.0;reboot ", "not a line of a lock"),
        ("# base: slim", "# base: slim@sha256:x AS python\tRUN evil", "control characters"),
        ("# base: slim", "# base: slim@sha256:x BASE=evil", "base_digest: String should match"),
        ("# base: slim", "# base: slim BASE=evil", "base: String should match"),
        ("# base: slim", "# base: slim@" + "sha256:" + "A" * 64, "base_digest: String should match"),
        ("# base: slim", "# base: slim\n# base: devel", "lock.txt:6:1: 'base' is not a line of a lock's header"),
        ("# base: slim", "# base: slim\n# from: evil", "'from' is not a line of a lock's header"),
        ("# python: 3.11", "# python: 3.11; touch x", "python: String should match"),
        ("# python: 3.11", "# python: 3.11/../x", "python: String should match"),
        ("# platform: x86_64-manylinux_2_36", "# platform: any", "platform: String should match"),
        ("# nightly: torch 20261101", "# nightly: torch 1", "nightlies: String should match"),
        ("# require: torch", "# require: torch\u2028RUN evil", "control characters"),
        ("# require: torch", "# require: torch\rRUN evil", "control characters"),
        (" 888063640 pypi", " 88٨063640 pypi", "not a line of a lock"),
        (" 888063640 pypi", f" {'9' * 5000} pypi", "not a line of a lock"),
    ],
)
def test_a_changed_lock_is_refused_with_its_line(lock: Lock, old: str, new: str, message: str) -> None:
    text = lockfile.dump(lock)
    assert old in text

    with pytest.raises(ConfigError) as caught:
        lockfile.parse(text.replace(old, new), file="lock.txt")

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({}, None),
        ({"requirements": ("torch==2.8.0",)}, "the requirements are different: + kernel==0.3.9.post2"),
        ({"python": "3.12"}, "Python is 3.11, the lock was made for 3.12"),
        ({"platform": "x86_64-manylinux_2_28"}, "the platform is x86_64-manylinux_2_36, the lock was made for"),
        ({"base": "devel"}, "the base is slim"),
        ({"as_of": "2025-01-01"}, "as_of is not set, the lock was made for 2025-01-01"),
    ],
)
def test_a_stale_lock_says_why(lock: Lock, cell: Cell, update: dict[str, object], message: str | None) -> None:
    reason = lockfile.stale_reason(lock.model_copy(update=update), cell, glibc="2.36")

    assert (message is None) == (reason is None)
    assert (message or "") in (reason or "")


@pytest.mark.parametrize(
    ("glibc", "expected"), [("2.36", 36), ("2.30", 28), ("2.17", 17), ("2.12", 17), ("2.41", 40), ("2.28", 28)]
)
def test_platforms_are_those_the_resolver_knows(glibc: str, expected: int) -> None:
    assert f"x86_64-manylinux_2_{expected}" == lockfile.platform_of(glibc)


NIGHTLIES = ["2.12.0.dev20261101+cu130", "2.12.0.dev20261103+cu130", "2.13.0.dev20261103+cu130", "2.11.0", "junk"]


@pytest.mark.parametrize(
    ("built", "spec", "expected"),
    [
        ("latest", ">=2.12.0.dev0", "2.13.0.dev20261103+cu130"),
        ("latest", ">=2.12.0.dev0,<2.13.0.dev0", "2.12.0.dev20261103+cu130"),
        ("2026-11-01", ">=2.12.0.dev0", "2.12.0.dev20261101+cu130"),
        ("2026-11-02", ">=2.12.0.dev0", "2.12.0.dev20261101+cu130"),
    ],
)
def test_a_nightly_is_the_build_of_its_date(built: str, spec: str, expected: str) -> None:
    value = AxisValue(id="nightly", spec=spec, index="nightly", date=built)

    assert expected == pick_nightly(NIGHTLIES, value)


def test_a_pruned_nightly_says_what_the_index_still_has() -> None:
    value = AxisValue(id="nightly", spec=">=2.12.0.dev0", index="nightly", date="2026-08-01")

    with pytest.raises(LookupError, match="keeps no build as old as 2026-08-01; its oldest is of 20261101"):
        pick_nightly(NIGHTLIES, value)


def test_a_lock_older_than_the_index_keeps_builds_is_warned_about(
    lock: Lock, matrix_text: str, image_text: str
) -> None:
    whole = matrix.load(matrix_text, {"serving": image_text}).matrix
    old = lock.model_copy(update={"wheels": (wheel("torch", "2.12.0.dev20261101", index="nightly"),)})

    assert "" == age_warning(old, whole, today=date(2026, 12, 31))
    assert "torch of 2026-11-01 has probably left its index" in age_warning(old, whole, today=date(2027, 1, 1))


def test_changes_list_added_and_removed_packages(lock: Lock) -> None:
    new = lock.model_copy(update={"wheels": (wheel("torch", "2.9.1"), wheel("numpy", "2.0+cu130"))})

    assert ("- torch 2.8.0", "+ torch 2.9.1") == changes(lock, new)


COMMIT = "4ba787ec9" + "0" * 31


def compiled(cell: Cell, **changes: str) -> Cell:
    """Return the cell with torch compiled from a tag, or from what the changes say."""
    tree = SourceTree.model_validate({"git": "https://github.com/x/y", "ref": "v1"} | changes)
    torch = AxisValue(id="src.2.8.0", version="2.8.0", source=tree)
    return cell.model_copy(update={"point": cell.point | {"torch": torch}})


def pinned(lock: Lock) -> Lock:
    return lock.model_copy(update={"sources": {"torch": LockedSource(ref="v1", commit=COMMIT)}})


def test_the_commit_of_a_source_is_a_line_of_the_lock(lock: Lock) -> None:
    text = lockfile.dump(pinned(lock))

    assert f"# source: torch v1 {COMMIT}\n" in text
    assert pinned(lock).sources == lockfile.parse(text, file="lock.txt").sources
    # A lock from before this line has none, and keeps its text.
    assert lockfile.dump(lock) == text.replace(f"# source: torch v1 {COMMIT}\n", "")


@pytest.mark.parametrize(
    "line",
    [
        "# source: torch v1",
        f"# source: torch v1 {COMMIT[:39]}",
        f"# source: torch v1 {COMMIT} x",
        f"# source: torch $(id) {COMMIT}",
        f"# source: ../torch v1 {COMMIT}",
        f"# source: torch v1 {COMMIT.upper()}",
        f"# source: torch --upload-pack=x {COMMIT}",
    ],
)
def test_a_source_line_that_is_invalid_is_refused(lock: Lock, line: str) -> None:
    text = lockfile.dump(lock).replace("# nightly", f"{line}\n# nightly")

    with pytest.raises(ConfigError):
        lockfile.parse(text, file="lock.txt")


def test_a_lock_answers_the_recipe_s_tag_and_commit_alone(cell: Cell, lock: Lock) -> None:
    def stale(**changes: str) -> str | None:
        return lockfile.stale_reason(pinned(lock), compiled(cell, **changes), glibc="2.36")

    assert stale() is None
    assert stale(commit=COMMIT[:9]) is None
    assert stale(commit=COMMIT) is None
    assert "the source of torch is the tag v2, the lock was made for v1" == stale(ref="v2")
    assert "the source of torch is not a tag, the lock was made for v1" == stale(ref=COMMIT)
    assert f"the source of torch is the commit {'5' * 9}, the lock was made for {COMMIT}" == stale(commit="5" * 9)
    assert lockfile.stale_reason(pinned(lock), cell, glibc="2.36") is not None


def test_a_source_without_a_whole_commit_is_unpinned(cell: Cell, lock: Lock) -> None:
    assert ["torch"] == list(lockfile.unpinned(compiled(cell), lock))
    assert ["torch"] == list(lockfile.unpinned(compiled(cell, commit=COMMIT[:9])))
    assert {} == lockfile.unpinned(compiled(cell), pinned(lock))
    assert {} == lockfile.unpinned(compiled(cell, commit=COMMIT))
    assert {} == lockfile.unpinned(compiled(cell, ref=COMMIT))
