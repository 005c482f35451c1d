"""The way of a cell through publishing, and of a reference through verifying, stays straight."""

from __future__ import annotations

import runpy
from pathlib import Path

FLOW = Path(__file__).parents[2] / "bench" / "flow.py"


def test_a_cell_takes_at_most_25_stays_and_8_climbs_through_publishing() -> None:
    """Counted by bench/flow.py, which says how."""
    flow = runpy.run_path(str(FLOW))
    published, verified = flow["follow"]()

    assert len(published) <= 25, published
    assert flow["climbs"](published) <= 8, published
    assert len(verified) <= 8, verified
    assert flow["climbs"](verified) <= 2, verified
