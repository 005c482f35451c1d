"""The soak: `python tests/attack/soak.py [MINUTES]`. Plan, audit, build, publish and verify in a loop beside faults.

One process does it all, as a service would: audits of small wheels, an image that is built and published to a registry
of this machine where an engine and a registry program are there, and what goes wrong in between: damaged wheels, a
registry that breaks off, a killed command. Memory, file handles, temporary files, threads and containers have to stay
flat.
Prints a line for each minute. Exit code 1: something grew or failed.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "support"), str(Path(__file__).parent)]

import attack_readers  # noqa: E402 - found through the line above
from attack_mutate import mutated  # noqa: E402
from attack_servers import serving  # noqa: E402
from publish_tools import NOW, both, candidate, gear, key_pair, policy, publish  # noqa: E402
from registry_tools import put_image, real_registry, registry_program  # noqa: E402
from tiny_image import TINY, write_tiny  # noqa: E402

from assay.adapters.docker.engine import DockerEngine  # noqa: E402
from assay.adapters.registry.client import connect  # noqa: E402
from assay.cli import main  # noqa: E402
from assay.errors import AssayError  # noqa: E402
from assay.evidence.reference import Reference, Repository  # noqa: E402
from assay.pipeline.verify import verify  # noqa: E402
from assay.ports.engine import ContainerSpec  # noqa: E402

WARM_ROUNDS: Final = 10
"""Rounds after which caches are full, and nothing may grow any more."""
RUN: Final = f"soak-{os.getpid()}"
MORE_MB: Final = 60
MORE_HANDLES: Final = 5


@dataclass(frozen=True)
class State:
    """What must not grow."""

    megabytes: int
    handles: int
    threads: int
    temporary: int
    containers: int

    def __str__(self) -> str:
        return (
            f"{self.megabytes} MB, {self.handles} handles, {self.threads} threads, {self.temporary} temporary files, "
            f"{self.containers} containers"
        )


def state(folder: Path, *, engine: bool) -> State:
    """Return what this process holds now."""
    gc.collect()
    text = Path("/proc/self/status").read_text()
    resident = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:"))
    containers = 0
    if engine:
        said = subprocess.run(
            ["docker", "ps", "-aq", "--filter", f"label=assay.run={RUN}"], capture_output=True, check=False
        )
        containers = len(said.stdout.split())
    return State(
        megabytes=resident // 1000,
        handles=len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - links that may be gone
        threads=threading.active_count(),
        temporary=sum(1 for _ in folder.rglob("*")),
        containers=containers,
    )


def command(*argv: str, codes: tuple[int, ...]) -> None:
    """Run a command line here."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(argv))
    if code not in codes:
        raise AssertionError(f"assay {' '.join(argv)} gives {code}: {(out.getvalue() + err.getvalue())[-400:]}")


class Soak:
    """The steps of a round, each with its faults beside it."""

    def __init__(self, folder: Path, host: str | None, engine: DockerEngine | None) -> None:
        self.folder = folder
        self.host = host
        self.engine = engine
        self.rng = random.Random(7)
        self.done: dict[str, int] = {}
        self.wheel = folder / "evil-1.0-cp312-cp312-linux_x86_64.whl"
        self.key = key_pair(folder)
        if host is not None:
            self.registry = connect()
            self.rules = policy(host)
            put_image(self.registry, self._staging(), "key")

    def _staging(self) -> Repository:
        assert self.rules.repositories is not None
        return Repository.parse(self.rules.repositories.staging_of("demo"))

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the steps of a round."""
        yield "plan", self.plan
        yield "audit", self.audit
        yield "audit of a damaged wheel", self.audit_damaged
        yield "killed command", self.killed
        if self.engine is not None:
            yield "build and run", self.run
        if self.host is not None:
            yield "publish and verify", self.publish
            yield "registry that breaks off", self.broken_registry

    def plan(self) -> None:
        command("plan", "--project", str(ROOT), "--format", "json", codes=(0,))

    def audit(self) -> None:
        self.wheel.write_bytes(attack_readers.wheels()[self.rng.randrange(2)])
        command("audit", str(self.wheel), "--project", str(ROOT), "--base", "debian12", "--no-record", codes=(0, 1))

    def audit_damaged(self) -> None:
        self.wheel.write_bytes(mutated(attack_readers.wheels()[1], self.rng))
        command("audit", str(self.wheel), "--project", str(ROOT), "--base", "debian12", "--no-record", codes=(0, 1, 2))

    def killed(self) -> None:
        argv = [sys.executable, "-m", "assay", "plan", "--project", str(ROOT)]
        child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(self.rng.uniform(0.0, 0.4))
        child.send_signal(self.rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
        child.wait(timeout=30)

    def run(self) -> None:
        assert self.engine is not None
        with tempfile.TemporaryDirectory(prefix="tiny-", dir=self.folder) as name:
            self.engine.load(write_tiny(Path(name)))
        spec = ContainerSpec(image=TINY, command=("/bin/sh", "-c", "exit 3"), run=RUN)
        with self.engine.container(spec) as container:
            container.start()
            container.wait(timeout=30)

    def publish(self) -> None:
        tools = gear(self.registry, self.folder / "journal", key=self.key)
        publish(candidate(), self.rules, both, tools)
        assert self.rules.repositories is not None
        reference = Reference.parse(f"{self.rules.repositories.release_of('demo')}:sm120-verified")
        found = verify(
            reference, registry=self.registry, verifier=tools.verifier, level=None, target=None,
            policy=None, suite=None, now=NOW, signed=True,
        )  # fmt: skip
        assert found.ok, found

    def broken_registry(self) -> None:
        broken = self.rng.choice((b"", b"{", b"[" * 10_000))
        with serving(lambda *_: (200, {"Content-Type": "application/json"}, broken)) as host:
            command("verify", f"{host}/team/demo:x", "--project", str(ROOT), codes=(5, 6))

    def round(self) -> None:
        """Do every step once."""
        for name, step in self.steps():
            with contextlib.suppress(AssayError) if "broken" in name else contextlib.nullcontext():
                step()
            self.done[name] = self.done.get(name, 0) + 1


def _grew(before: State, after: State) -> list[str]:
    found = []
    for name, more in (
        ("megabytes", MORE_MB),
        ("handles", MORE_HANDLES),
        ("threads", 3),
        ("temporary", 5),
        ("containers", 0),
    ):
        if getattr(after, name) > getattr(before, name) + more:
            found.append(f"{name} grew from {getattr(before, name)} to {getattr(after, name)}")
    return found


def soak(minutes: float, folder: Path, host: str | None, engine: DockerEngine | None) -> int:
    """Go round for some minutes; return the exit code."""
    until, told = time.monotonic() + 60 * minutes, time.monotonic()
    work = Soak(folder, host, engine)
    before: State | None = None
    rounds = 0
    while time.monotonic() < until or rounds <= WARM_ROUNDS:
        work.round()
        rounds += 1
        if rounds == WARM_ROUNDS:
            before = state(folder, engine=engine is not None)
            print(f"after {rounds} rounds: {before}", flush=True)
        if time.monotonic() - told >= 60:
            told = time.monotonic()
            print(f"round {rounds}: {state(folder, engine=engine is not None)}", flush=True)
    after = state(folder, engine=engine is not None)
    assert before is not None
    print(f"after {rounds} rounds: {after}")
    print("steps: " + json.dumps(work.done))
    grew = _grew(before, after)
    for words in grew:
        print(f"GREW: {words}")
    return 1 if grew else 0


def start(argv: list[str]) -> int:
    """Set up what is there, and soak."""
    minutes = float(argv[0]) if argv else 60.0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        os.environ["ASSAY_CACHE"] = str(folder / "cache")
        scratch = folder / "tmp"
        scratch.mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
        engine = None
        if shutil.which("docker"):
            with contextlib.suppress(AssayError):
                engine = DockerEngine()
                engine.info()
        host = stack.enter_context(real_registry(folder / "registry")) if registry_program() else None
        print(f"engine: {'yes' if engine else 'none'}, registry: {host or 'none'}", flush=True)
        return soak(minutes, scratch, host, engine)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
