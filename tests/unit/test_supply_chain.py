"""What the project installs and runs on other machines is pinned by content."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOW = ROOT / "docs" / "examples" / "github-actions.yml"
LOCKED = {
    "use": (*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["sign"]),
    "dev": PYPROJECT["project"]["dependencies"],
}
GROUPS = {"use": ("tools",), "dev": ("tools", "dev")}


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group, with those of the groups that it includes."""
    found: list[str] = []
    for entry in PYPROJECT["dependency-groups"][name]:
        found += [entry] if isinstance(entry, str) else group(entry["include-group"])
    return found


def pins(name: str) -> dict[str, list[tuple[Version, int]]]:
    """Return the versions of each distribution in a locked file, with the number of hashes of each."""
    text = (ROOT / "tools" / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    found: dict[str, list[tuple[Version, int]]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+)(?: ; [^-]+(?:-[^-]+)*?)?((?:\s+--hash=sha256:[0-9a-f]{64})+)", line)
        assert match, f"{line!r} is not NAME==VERSION with hashes"
        found.setdefault(match[1], []).append((Version(match[2]), match[3].count("--hash")))
    return found


@pytest.mark.parametrize("name", LOCKED)
def test_locked_files_meet_the_ranges_of_pyproject(name: str) -> None:
    wanted = [Requirement(text) for text in (*LOCKED[name], *(one for key in GROUPS[name] for one in group(key)))]
    locked = pins(name)
    unmet = [
        str(need)
        for need in wanted
        if not any(need.specifier.contains(version) for version, _ in locked.get(canonicalize_name(need.name), []))
    ]

    assert [] == unmet, "run: nox -s locks"


def test_both_locked_files_hold_the_same_versions() -> None:
    use, dev = pins("use"), pins("dev")

    assert [] == [name for name, found in use.items() if dev.get(name) != found], "run: nox -s locks"


@pytest.mark.parametrize("name", LOCKED)
def test_locked_files_name_no_index(name: str) -> None:
    text = (ROOT / "tools" / "requirements" / f"{name}.txt").read_text()

    assert not re.search(r"://|--index|--find-links", text)


def test_sessions_of_users_install_by_hash() -> None:
    text = (ROOT / "noxfile.py").read_text()

    assert 'session.install("--require-hashes", "--only-binary", ":all:"' in text
    assert "--require-hashes --only-binary :all:" in (ROOT / "quickstart").read_text()
    assert "pip install -q 'nox" not in (ROOT / "quickstart").read_text()


def test_actions_of_the_workflow_are_pinned_by_commit() -> None:
    uses = re.findall(r"uses: (.*)", WORKFLOW.read_text())

    assert len(uses) >= 12
    assert [] == [one for one in uses if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)]
    assert 4 == len(set(uses)), "one version of each action"


def test_the_workflow_has_the_least_permissions_and_keeps_no_credentials() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    checkouts = [
        step
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if step.get("uses", "").startswith("actions/checkout@")
    ]

    assert {} == workflow["permissions"]
    assert {"build", "publish"} == {
        name for name, job in workflow["jobs"].items() if job["permissions"].get("packages") == "write"
    }
    assert all(job["permissions"].get("contents") == "read" for job in workflow["jobs"].values())
    assert 4 == len(checkouts)
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_own_workflows_pin_actions_and_have_least_permissions(path: Path) -> None:
    text = path.read_text()
    workflow = yaml.safe_load(text)
    used = re.findall(r"uses: (\S+)(.*)", text)

    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) and "# v" in note for action, note in used)
    assert {} == workflow["permissions"]
    assert all(
        set(job["permissions"].values()) <= {"read"} or job.get("environment") for job in workflow["jobs"].values()
    )


def test_ci_workflow_runs_what_maintainers_run() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())

    assert [".ci/run", "pipx run nox -s coverage"] == [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]


def test_hooks_run_locked_tools_only() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    assert ["local"] == [repo["repo"] for repo in hooks]
    assert {"system"} == {hook["language"] for repo in hooks for hook in repo["hooks"]}
