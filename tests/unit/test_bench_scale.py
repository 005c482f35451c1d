"""The simulated farm of bench/scale.py: the real coordinator brings every job home through its losses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def scale(root: Path) -> Iterator[Any]:
    sys.path.insert(0, str(root / "bench"))
    yield importlib.import_module("scale")
    sys.path.remove(str(root / "bench"))


def test_every_job_is_recorded_once_however_rough_the_farm_is(scale: Any) -> None:
    came = scale.simulate(scale.Scene(title="rough", cells=20, nodes=12, rates=scale.ROUGH))

    assert 120 == came.memory.records == len(came.memory.kept)
    assert came.farm.names > 120
    assert came.farm.now > came.bound
    assert came.farm.held > came.work + came.farm.pulling


def test_nothing_is_lost_where_nothing_fails(scale: Any, capsys: pytest.CaptureFixture[str]) -> None:
    came = scale.simulate(scale.Scene(title="calm", cells=10, nodes=12, rates=scale.CALM))
    scale.told(came)

    assert 60 == came.memory.records == came.farm.names
    assert came.work + came.farm.pulling == pytest.approx(came.farm.held)
    assert "what went wrong     nothing" in capsys.readouterr().out
