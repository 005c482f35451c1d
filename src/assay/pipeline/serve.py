"""Starting a server and waiting until it is well: shared by serve-check and bench."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from assay.diagnose import examine
from assay.diagnose.model import Stage
from assay.engines.engine import ServingEngine
from assay.engines.knowledge import EngineFlags
from assay.engines.logs import Chosen
from assay.engines.table import engine_named
from assay.errors import UsageError
from assay.evidence.record import ServeStatus
from assay.foundation.secret import hide
from assay.ports.api import ApiClient
from assay.ports.server import RunningServer, ServerFacts, ServerHost, ServerSpec
from assay.serving.command import ServerCommand
from assay.serving.helptext import HelpOption, parse_help

__all__ = [
    "Later",
    "Started",
    "chosen_by",
    "diagnosed",
    "engine_version",
    "server_help",
    "started",
    "wait_until_healthy",
]

_POLL_SECONDS: Final = 0.25
_HEALTH_TIMEOUT: Final = 5.0
_SAY_EVERY: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Started:
    """What came of starting a server."""

    server: RunningServer
    status: ServeStatus
    """OK once it answers health; CRASHED or TIMED_OUT otherwise."""
    seconds: float
    reason: str = ""


def engine_version(facts: ServerFacts, engine: EngineFlags) -> str:
    """Return the engine's version where the server runs.

    Raises:
        UsageError: the engine is not installed there.
    """
    version = facts.packages.get(engine.package)
    if version is None:
        raise UsageError(
            f"{engine.package} is not installed there", hint="name the engine with --engine, or another image"
        )
    return version


def server_help(
    host: ServerHost, engine: EngineFlags, program: tuple[str, ...], *, env: Mapping[str, str], timeout: float = 300.0
) -> tuple[Mapping[str, HelpOption], str]:
    """Return the options in the server's help, and the text, or the reason why there are none."""
    answer = host.output([*(program or engine.command), *engine.help], env=env, timeout=timeout)
    options = parse_help(answer.text)
    if not options and not program and engine.help_without_driver:
        other = host.output(engine.help_without_driver, env=env, timeout=timeout)
        if options := parse_help(other.text):
            return options, other.text
    return options, answer.text


class Later:
    """Holds a server's log beyond the server's end."""

    def __init__(self) -> None:
        self.text = ""

    def keep(self, text: str) -> None:
        """Take the log."""
        self.text = text


@contextmanager
def started(
    host: ServerHost,
    client: ApiClient,
    command: ServerCommand,
    *,
    patience: float,
    say: Callable[[str], None],
    keep: Callable[[str], None],
) -> Iterator[Started]:
    """Start a server and wait until it answers health, it ends, or `patience` seconds are over.

    The server is gone when the context ends, also by Ctrl-C, and `keep` has been given its whole log.
    """
    spec = ServerSpec(
        argv=command.argv(),
        env=command.env,
        shm_bytes=command.shm,
        ports_beside=engine_named(command.engine.name).ports_beside,
    )
    began = time.monotonic()
    with host.start(spec) as server:
        try:
            yield wait_until_healthy(server, client, command.engine.health, began=began, patience=patience, say=say)
        finally:
            keep(command.redacted(server.log(), os.environ))


def wait_until_healthy(
    server: RunningServer,
    client: ApiClient,
    health: str,
    *,
    began: float,
    patience: float,
    say: Callable[[str], None],
) -> Started:
    """Return how a started server came up: it answers `health`, it ended, or `patience` seconds are over.

    Args:
        began: when it was started, `time.monotonic()`.
    """
    told = 0.0
    while True:
        passed = time.monotonic() - began
        if not server.running():
            ended = server.stop(grace=0)
            reason = f"the server ended with {ended} before it was healthy"
            return Started(server=server, status=ServeStatus.CRASHED, seconds=passed, reason=reason)
        reply = client.call("GET", server.base + health, timeout=_HEALTH_TIMEOUT)
        if reply.status == 200:
            return Started(server=server, status=ServeStatus.OK, seconds=time.monotonic() - began)
        if passed > patience:
            answer = f"HTTP {reply.status}" if reply.status else (reply.error or "nothing")
            reason = f"the server was not healthy within {patience:g} s; {health} last gave: {answer}"
            return Started(server=server, status=ServeStatus.TIMED_OUT, seconds=passed, reason=reason)
        if passed - told >= _SAY_EVERY:
            told = passed
            say(f"waiting for the server, {passed:.0f} s: {hide(_last_line(server.log()))}")
        time.sleep(_POLL_SECONDS)


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:140] if lines else "it has said nothing yet"


def diagnosed(log: str) -> tuple[str | None, str]:
    """Return the cause in a log, and the text for a person: cause, fix and evidence.

    A log that speaks for no known cause gives None and the line that looks most like a failure, if there is one.
    """
    report = examine(log.encode(), stage=Stage.SERVE)
    for found in report.diagnoses:
        if found.known:
            line = f" (log line {found.evidence[0].line}: {found.evidence[0].text})" if found.evidence else ""
            return found.cause, f"; {found.cause}: {found.fix}{line}"
    if report.telling:
        last = report.telling[-1]
        return None, f"; no known cause; log line {last.line}: {last.text}"
    return None, ""


def chosen_by(engine: ServingEngine, client: ApiClient, base: str, log: str) -> Chosen:
    """Return what the server really chose: its own account where it gives one, else its log."""
    chosen = engine.chosen_in_log(log)
    for path in engine.account_paths:
        reply = client.call("GET", base + path, timeout=_HEALTH_TIMEOUT * 4)
        if reply.status == 200:
            return chosen | engine.chosen_in_account(reply.body)
    return chosen
