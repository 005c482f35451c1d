"""Reads devices and packages of a machine that has a card and both engines; see `probes/probelib/facts.py`."""

import json
import sys
from pathlib import Path

CARD = {"name": "NVIDIA H200", "capability": "9.0", "memory_bytes": 140 << 30}
FACTS = {"devices": [CARD], "packages": {"sglang": "0.5.14", "vllm": "0.26.0"}}

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(FACTS))
