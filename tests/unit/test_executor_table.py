"""Adding an executor: a module, and a line in the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assay.adapters.executors.fake import FakeExecutor
from assay.adapters.executors.probe_executor import ExecutorSettings
from assay.adapters.executors.table import EXECUTORS
from assay.cli import main
from assay.cli.probe import command
from assay.foundation.outcome import Outcome


def far(settings: ExecutorSettings) -> FakeExecutor:
    """Return an executor as a module of its own would."""
    return FakeExecutor(
        settings.suites, places={"registry.example/image:1": "sha256:" + "a" * 64}, ends={"numa": Outcome.DEGRADED}
    )


def test_the_command_line_offers_what_stands_in_the_table() -> None:
    (option,) = [one for one in command.params if one.name == "where"]

    assert list(EXECUTORS) == list(getattr(option.type, "choices", ()))


def test_an_executor_that_is_added_probes_images(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matrix.yaml", "images", "probes"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.setitem(EXECUTORS, "docker", far)
    words = ["registry.example/image:1", "--project", str(tmp_path), "--gpus", "0", "--feature", "numa"]

    code = main(["probe", *words, "--format", "json"])
    told = capsys.readouterr()

    assert 0 == code, told.err
    (record,) = json.loads(told.out)["records"]
    assert ("fake", "registry.example/image:1") == (record["executor"], record["cell"])
    assert Outcome.DEGRADED == record["features"]["numa"]["outcome"]
