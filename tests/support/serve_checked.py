"""serve-check of the small server in `openai_server.py`, as a process of this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from assay.adapters.executors.local import LocalTaskHost
from assay.adapters.files.records import FileStore
from assay.adapters.files.serving import load_profiles, load_server_flags
from assay.adapters.http.openai import OpenAiClient
from assay.evidence.record import ServeRecord
from assay.pipeline.serve import local_job
from assay.pipeline.serve_check import ServeRequest, serve_check
from assay.ports.task import TaskHost

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "tests" / "support" / "openai_server.py"
HELP = ROOT / "tests" / "assets" / "serve" / "help-sglang-0.5.14.txt"
KNOWLEDGE = load_server_flags(ROOT / "knowledge" / "server_flags.yaml")
PROFILES = load_profiles(ROOT / "images" / "sglang-blackwell" / "profiles")
FACTS = ROOT / "probes" / "probelib" / "facts.py"
TWO_ENGINES = ROOT / "tests" / "support" / "server_facts.py"
"""Says that this machine has a card and both engines."""


def this_machine() -> TaskHost:
    """Return this machine's environment."""
    return LocalTaskHost(python=sys.executable)


def quiet(_: str) -> None:
    """Say nothing."""


def request(misbehave: dict[str, Any] | None = None, **more: Any) -> ServeRequest:
    """Return the request for a check of a server that misbehaves so."""
    settings: dict[str, Any] = {"help": str(HELP), "engine": "sglang", **(misbehave or {})}
    fields: dict[str, Any] = {
        "cell": "local", "job": local_job(), "facts_program": TWO_ENGINES,
        "engine": "sglang", "model": "tiny", "program": ("python3", str(SERVER)),
        "env": {"MISBEHAVE": json.dumps(settings)}, "start_timeout": 20.0, "request_timeout": 5.0, "stop_grace": 3.0,
        **more,
    }  # fmt: skip
    return ServeRequest(**fields)


def check(
    store: FileStore, misbehave: dict[str, Any] | None = None, *, host: TaskHost | None = None, **more: Any
) -> ServeRecord:
    """Check a server that misbehaves so, and return the one record that was kept."""
    record = serve_check(
        host or this_machine(), OpenAiClient(), KNOWLEDGE, store, request(misbehave, **more), say=quiet
    )
    assert [record] == list(store.records(kind="serve"))
    if record.log:
        assert (store.root / record.log).is_file()
    return record


def failed(record: ServeRecord) -> dict[str, str]:
    """Return the checks that failed, and why."""
    return {one.name: one.detail for one in record.checks if not one.passed}
