"""A third serving engine, as another distribution would bring it: this module, and its flags as data beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from assay.engines.engine import MemoryFlags, ServingEngine
from assay.engines.knowledge import EngineFlags
from assay.engines.logs import Chosen, graphs, number, plain, take
from assay.foundation.yamltext import load, parse

__all__ = ["ENGINE"]

_READY: Final = re.compile(r"tern ready: attention=(?P<attention>\w+) cache=(?P<cache>\d+) step=(?P<step>\d+)")
_GRAPHS: Final = re.compile(r"tern captured (?P<count>\d+) graphs")


class Tern(ServingEngine):
    """Tern: its flags, log lines, account and metrics are like nobody else's."""

    name = "tern"
    memory = MemoryFlags(context="longest", requests="slots", prefill="step", no_graphs=frozenset({"no-graphs"}))
    packages = ("tern-serve",)
    account_paths = ("/about",)
    version_said = re.compile(r"tern-serve (\d[\w.]*\w)")

    def own_flags(self) -> EngineFlags:
        """Return its flags, which come with it."""
        path = Path(__file__).with_name("tern_flags.yaml")
        return parse(load(path.read_text(), file=str(path)), EngineFlags)

    def chosen_in_log(self, log: str) -> Chosen:
        """Return what the line at its start tells."""
        text, chosen = plain(log), Chosen()
        captured = _GRAPHS.search(text)
        graphs(chosen, {"all": int(captured["count"])} if captured else {}, ready="tern ready" in text)
        take(chosen, "attention_backend", _READY, text, "attention")
        number(chosen, "kv_cache_tokens", _READY, text, "cache")
        number(chosen, "prefill_chunk", _READY, text, "step")
        return chosen

    def chosen_in_account(self, body: bytes) -> Chosen:
        """Return what /about tells, which is no JSON."""
        return {name: value for name, _, value in (line.partition("=") for line in body.decode().splitlines())}

    def keeps_seeds(self, account: bytes) -> bool:
        """Return True: it always does."""
        return True

    @property
    def metrics_prefix(self) -> str:
        """Its metrics have no colon."""
        return "tern_"


ENGINE: Final[ServingEngine] = Tern()
