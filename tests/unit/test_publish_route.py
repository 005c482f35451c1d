"""A cell's way through publishing stays straight."""

from __future__ import annotations

import runpy
from pathlib import Path

FLOW = Path(__file__).parents[2] / "bench" / "flow.py"


def test_a_cell_takes_at_most_25_stays_and_8_climbs_through_publishing() -> None:
    """Counted by bench/flow.py, which says how."""
    flow = runpy.run_path(str(FLOW))
    stays = flow["follow"]()

    assert len(stays) <= 25, stays
    assert flow["climbs"](stays) <= 8, stays
