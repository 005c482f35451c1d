"""Publishing over a registry that fails: whatever breaks, running again ends right, and no tag ever lies.

Of a first publication, of one that moves an alias, and of a revocation, a clean run is recorded first; then every kind
of fault is put at every distinct step of it, and the process is killed before and after each of its requests. What must
hold is looked at past the proxy, on the registry itself.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from publish_tools import NOW, SUITE, audit, candidate, gear, key_pair, policy, probe, publish
from registry_tools import Exchange, Fault, FaultyProxy, free_port, put_image, real_registry, registry_program

from assay.adapters.registry.auth import Anonymous
from assay.adapters.registry.client import HttpRegistry
from assay.adapters.registry.http import Transport
from assay.adapters.signing.dsse import KeyVerifier
from assay.errors import AssayError, PolicyRefused, RegistryBroken, RegistryError
from assay.evidence.judging import Verification
from assay.evidence.oci import Manifest
from assay.evidence.policy import Why
from assay.evidence.record import AnyRecord
from assay.evidence.reference import Reference, Repository
from assay.evidence.statements import evidence_tag, evidence_tag_prefix
from assay.matrix.policy import Policy
from assay.pipeline.collect import collect
from assay.pipeline.publishing.tags import PublishPorts
from assay.pipeline.revoke import revoke
from assay.pipeline.verify import verify

pytestmark = pytest.mark.registry

ALIAS = "sm120-verified"
TAG = candidate().tag
STATEMENTS = 6
KINDS = ("reset", "reset-after", "401", "429", "500", "502", "slow", "truncate", "digest", "swap", "down")
_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}(\.assay-[0-9a-f]+)?")
_UPLOAD = re.compile(r"uploads/[^?]+.*")


def client(**changes: float) -> HttpRegistry:
    return HttpRegistry(
        Transport(
            credentials=Anonymous(),
            read_seconds=changes.get("read_seconds", 10),
            sleep=lambda seconds: time.sleep(min(seconds, 0.002)),
        )
    )


class Stage:
    """One registry, a proxy before it, and a fresh pair of repositories for each trial."""

    def __init__(self, host: str, proxy: FaultyProxy, folder: Path) -> None:
        self.host = host
        self.proxy = proxy
        self.folder = folder
        self.key = key_pair(folder)
        self.direct = client()
        self._numbers = itertools.count()
        self.team = ""

    def fresh(self) -> Manifest:
        self.proxy.reset()
        self.team = f"t{next(self._numbers)}"
        return self.put("key")

    def put(self, tag: str) -> Manifest:
        """Put an image of its own into staging."""
        return put_image(
            self.direct, Repository(host=self.host, path=f"{self.team}/staging/demo"), tag, content=tag.encode()
        )

    def policy(self) -> Policy:
        host = self.proxy.host
        return policy(
            host,
            repositories={
                "staging": f"{host}/{self.team}/staging/{{image}}",
                "release": f"{host}/{self.team}/{{image}}",
            },
        )

    def gear(self, *, read_seconds: float = 10, signed: bool = True) -> PublishPorts:
        registry = client(read_seconds=read_seconds)
        return gear(registry, self.folder / self.team, key=self.key if signed else None)

    def run(self, *, read_seconds: float = 10, signed: bool = True, **changes: Any) -> None:
        publish(candidate(**changes), self.policy(), records, self.gear(read_seconds=read_seconds, signed=signed))

    @property
    def release(self) -> Repository:
        return Repository(host=self.host, path=f"{self.team}/demo")

    def tagged(self, tag: str) -> str | None:
        found = self.direct.resolve(self.release, tag)
        return found.digest if found else None

    def evidence(self, digest: str) -> set[str]:
        """Digests of all evidence that has a name of its own."""
        found = set()
        for tag in self.direct.tags(self.release):
            if tag.startswith(evidence_tag_prefix(digest)):
                with suppress(RegistryBroken):
                    named = self.tagged(tag)
                    assert named is not None
                    found.add(named)
        return found

    def look(self, tag: str, *, signed: bool = True) -> Verification:
        return verify(
            Reference(repository=self.release, tag=tag),
            registry=self.direct,
            verifier=KeyVerifier([self.key[1]] if signed else []),
            level="verified",
            target="sm_120",
            policy=None,
            suite=SUITE,
            now=NOW,
        )

    def verified(self, tag: str, *, signed: bool = True) -> bool:
        seen = self.look(tag, signed=signed)
        return seen.ok and len({piece.statement.digest for piece in seen.pieces}) == STATEMENTS

    def check_never_lies(self, image: Manifest, *, signed: bool = True) -> None:
        """Whatever happened: a tag that is there names the digest, with all its evidence."""
        for tag in (TAG, ALIAS):
            named = None
            with suppress(RegistryBroken):
                named = self.tagged(tag)
            assert named in (None, image.digest)
            assert named is None or self.verified(tag, signed=signed), f"{tag} promises what the registry does not show"

    def check_end(self, image: Manifest, before: set[str], *, signed: bool = True) -> None:
        """After running again: all tags, all evidence, the list of it whole, and nothing lost."""
        assert image.digest == self.tagged(TAG) == self.tagged(ALIAS)
        assert self.verified(ALIAS, signed=signed)
        self.check_whole(image.digest, before)

    def check_whole(self, digest: str, before: set[str]) -> None:
        listed, _ = self.direct.referrers(self.release, digest)
        kept = self.evidence(digest)
        assert before <= kept
        assert kept == {entry.digest for entry in listed}


class First:
    """A cell is published for the first time."""

    name = "a first publication"

    def __init__(self, stage: Stage, *, signed: bool = True) -> None:
        """Prepare, with nothing in the way."""
        self.stage = stage
        self.signed = signed
        self.image = stage.fresh()

    def act(self, *, read_seconds: float = 10) -> None:
        self.stage.run(read_seconds=read_seconds, signed=self.signed)

    def holds(self) -> None:
        """Check what must be true whatever broke."""
        self.stage.check_never_lies(self.image, signed=self.signed)

    def evidence(self) -> set[str]:
        return self.stage.evidence(self.image.digest)

    def ended(self, before: set[str]) -> None:
        """Check what must be true after running again; `before` is the evidence that was there by then."""
        self.stage.check_end(self.image, before, signed=self.signed)


class Moved(First):
    """The cell was built again: a second revision takes the alias from the first."""

    name = "an alias that moves"

    def __init__(self, stage: Stage, *, signed: bool = True) -> None:
        super().__init__(stage, signed=signed)
        super().act()
        self.second = stage.put("key2")

    def act(self, *, read_seconds: float = 10) -> None:
        self.stage.run(read_seconds=read_seconds, signed=self.signed, revision=2, staging_tag="key2")

    def holds(self) -> None:
        assert self.image.digest == self.stage.tagged(TAG)
        assert self._named(f"{TAG}-r2") in (None, self.second.digest)
        # A tag that was half written when it broke names nothing, which is no lie.
        assert self._named(ALIAS) in (None, self.image.digest, self.second.digest)
        for tag in (TAG, f"{TAG}-r2", ALIAS):
            assert self._named(tag) is None or self.stage.verified(tag, signed=self.signed)

    def _named(self, tag: str) -> str | None:
        with suppress(RegistryBroken):
            return self.stage.tagged(tag)
        return None

    def evidence(self) -> set[str]:
        return self.stage.evidence(self.image.digest) | self.stage.evidence(self.second.digest)

    def ended(self, before: set[str]) -> None:
        assert self.image.digest == self.stage.tagged(TAG)
        assert self.second.digest == self.stage.tagged(f"{TAG}-r2") == self.stage.tagged(ALIAS)
        self._whole(before)
        assert all(self.stage.verified(tag, signed=self.signed) for tag in (TAG, f"{TAG}-r2", ALIAS))

    def _whole(self, before: set[str]) -> None:
        for digest in (self.image.digest, self.second.digest):
            self.stage.check_whole(digest, before & self.stage.evidence(digest))
        assert before <= self.evidence()


class Revoked(Moved):
    """The second revision is taken back: the alias goes to the first again."""

    name = "a revocation"

    def __init__(self, stage: Stage, *, signed: bool = True) -> None:
        super().__init__(stage, signed=signed)
        super().act()

    def act(self, *, read_seconds: float = 10) -> None:
        tools = self.stage.gear(read_seconds=read_seconds, signed=self.signed)
        where = Repository(host=self.stage.proxy.host, path=self.stage.release.path)
        revoke(Reference(repository=where, tag=f"{TAG}-r2"), reason="bad", to=None, policy=None, ports=tools)

    def holds(self) -> None:
        assert self.image.digest == self.stage.tagged(TAG)
        assert self.stage.verified(TAG, signed=self.signed)
        assert self.second.digest == self.stage.tagged(f"{TAG}-r2")
        named = self._named(ALIAS)
        assert named in (None, self.image.digest, self.second.digest)
        if named == self.second.digest:
            # Until the alias goes back it is what it was, or refused because it was revoked; never without evidence.
            seen = self.stage.look(ALIAS, signed=self.signed)
            assert {reason.why for reason in seen.reasons} <= {Why.REVOKED}
            assert all(one.ok for one in seen.judgements)
        elif named:
            assert self.stage.verified(ALIAS, signed=self.signed)
            assert self._revoked(), "the alias went back before it was said why"

    def _revoked(self) -> bool:
        seen = self.stage.look(f"{TAG}-r2", signed=self.signed)
        return {Why.REVOKED} == {reason.why for reason in seen.reasons}

    def ended(self, before: set[str]) -> None:
        assert self.image.digest == self.stage.tagged(TAG) == self.stage.tagged(ALIAS)
        assert self.stage.verified(ALIAS, signed=self.signed)
        assert self._revoked()
        self._whole(before)


SCENARIOS = (First, Moved, Revoked)


def records(digest: str) -> list[AnyRecord]:
    return [probe(digest), audit(digest)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("faults")
    with real_registry(folder / "registry") as host, FaultyProxy(upstream=host) as proxy:
        yield Stage(host, proxy, folder)


@pytest.fixture(scope="module")
def requests(stage: Stage) -> Callable[..., list[Exchange]]:
    """Gives the requests of a scenario without faults."""
    known: dict[tuple[type[First], bool], list[Exchange]] = {}

    def of(scenario: type[First], *, signed: bool = True) -> list[Exchange]:
        if (scenario, signed) not in known:
            trial = scenario(stage, signed=signed)
            stage.proxy.reset()
            trial.act()
            known[scenario, signed] = list(stage.proxy.seen)
            trial.ended(set())
        return known[scenario, signed]

    return of


def steps(exchanges: list[Exchange]) -> list[int]:
    """Return the first request of each distinct kind, of those that write the last one too."""
    kinds: dict[str, list[int]] = {}
    for exchange in exchanges:
        path = _UPLOAD.sub("uploads/U", _DIGEST.sub("D", exchange.path.split("/", 3)[-1]))
        kinds.setdefault(f"{exchange.method} {path}", []).append(exchange.number)
    writing = [numbers[-1] for kind, numbers in kinds.items() if kind.split()[0] in ("PUT", "POST")]
    return sorted({*(numbers[0] for numbers in kinds.values()), *writing})


def chosen(scenario: type[First], numbers: list[int], offset: int) -> list[int]:
    """Return every third trial (every tenth of the later scenarios), others for each kind of fault.

    All of them with ASSAY_ALL_FAULTS=1 (`nox -s faults`).
    """
    stride = 3 if scenario is First else 10
    return numbers if os.environ.get("ASSAY_ALL_FAULTS") else numbers[offset % stride :: stride]


def fault_at(number: int, kind: str) -> Callable[[Exchange], Fault | None]:
    def decide(exchange: Exchange) -> Fault | None:
        if kind == "down":
            return Fault("reset") if exchange.number >= number else None
        return Fault(kind, seconds=0.5) if exchange.number == number else None

    return decide


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_one_fault_at_every_step(
    stage: Stage,
    requests: Callable[..., list[Exchange]],
    scenario: type[First],
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tried = at_once = again = 0
    for number in chosen(scenario, steps(requests(scenario)), KINDS.index(kind)):
        trial = scenario(stage)
        stage.proxy.reset(fault_at(number, kind))
        tried += 1
        try:
            trial.act(read_seconds=0.3 if kind == "slow" else 10)
            at_once += 1
        except (RegistryError, PolicyRefused):
            # The only ways to fail that tell a person what to do; anything else breaks the test.
            pass
        if kind == "slow":
            # What the client gave up may still arrive.
            time.sleep(0.4)
        trial.holds()
        before = trial.evidence()
        stage.proxy.reset()
        trial.act()
        trial.ended(before)
        again += 1
    with capsys.disabled():
        print(
            f"\n  {scenario.name}: fault {kind:11} tried at {tried:3} steps, survived {again:3}, "
            f"{at_once} without running again"
        )

    assert tried == again


def _in_child(trial: First) -> int:
    """Fork, do it in the child, return its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            trial.act()
            code = 0
        os._exit(code)
    return child


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_request(
    stage: Stage,
    requests: Callable[..., list[Exchange]],
    scenario: type[First],
    moment: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SIGKILL when a request arrives at the registry's door, and when its work is done but the answer is not sent."""
    tried = survived = 0
    exchanges = requests(scenario, signed=False)
    numbers = chosen(scenario, list(range(len(exchanges))), 0 if moment == "before" else 1)
    for number in numbers:
        trial = scenario(stage, signed=False)
        pid: list[int] = []
        ready = threading.Event()

        def decide(
            exchange: Exchange, number: int = number, pid: list[int] = pid, ready: threading.Event = ready
        ) -> Fault | None:
            if exchange.number < number:
                return None
            if exchange.number == number:
                ready.wait(5)
                os.kill(pid[0], signal.SIGKILL)
            return Fault("reset-after" if moment == "after" and exchange.number == number else "reset")

        stage.proxy.reset(decide)
        pid.append(_in_child(trial))
        ready.set()
        _, status = os.waitpid(pid[0], 0)
        assert os.WIFSIGNALED(status), f"it ended before request {number} of {len(exchanges)}"
        tried += 1
        # What was asked last still takes effect after the death of who asked.
        stage.proxy.quiet()
        trial.holds()
        before = trial.evidence()
        stage.proxy.reset()
        trial.act()
        trial.ended(before)
        survived += 1
    with capsys.disabled():
        print(f"\n  {scenario.name}: killed {moment:6} a request {tried:3} times, survived {survived:3}")

    assert tried == survived == len(numbers)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("attempt", range(5))
def test_eight_publishers_at_once_lose_nothing(stage: Stage, attempt: int, capsys: pytest.CaptureFixture[str]) -> None:
    """No lock is shared: each has a journal of its own, as on eight machines."""
    image = stage.fresh()
    host = stage.host
    rules = policy(host, team=stage.team)
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        # The registry answers 500 where two write one link; the pauses between attempts are real here.
        patient = HttpRegistry(Transport(credentials=Anonymous()))
        tools: PublishPorts = gear(patient, stage.folder / stage.team / str(number))
        barrier.wait()
        try:
            publish(candidate(), rules, lambda digest: [probe(digest, run=f"run{number}"), audit(digest)], tools)
        except AssayError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listed, _ = stage.direct.referrers(stage.release, image.digest)
    kept = stage.evidence(image.digest)
    pieces = collect(stage.direct, stage.release, image.digest, KeyVerifier([])).pieces
    runs = {match for piece in pieces for match in re.findall(r"run[0-7]", str(piece.statement.predicate.get("text")))}
    told = f"{len(runs)} of 8 records kept, {len(listed)} of {len(kept)} statements listed, {len(failures)} failed"
    with capsys.disabled():
        print(f"\n  eight publishers at once: {told}")

    assert not failures
    assert {f"run{number}" for number in range(8)} <= runs
    assert kept == {entry.digest for entry in listed}
    assert image.digest == stage.tagged(TAG) == stage.tagged(ALIAS)


def test_publish_restores_fallback_index_overwritten_by_another_program(stage: Stage) -> None:
    """Another program rewrites the fallback index without our entries; publishing again brings them back."""
    from assay.evidence.oci import fallback_tag, index_of

    image = stage.fresh()
    stage.run()
    listed, _ = stage.direct.referrers(stage.release, image.digest)
    stage.direct.put_manifest(stage.release, fallback_tag(image.digest), index_of(listed[:1]))
    assert stage.verified(ALIAS)
    stage.run()

    stage.check_end(image, {entry.digest for entry in listed})


def test_a_registry_that_deletes_nothing(tmp_path: Path) -> None:
    with real_registry(tmp_path / "registry", delete=False) as host, FaultyProxy(upstream=host) as proxy:
        stage = Stage(host, proxy, tmp_path)
        image = stage.fresh()
        stage.run()
        stage.check_end(image, set())
        with pytest.raises(RegistryError):
            stage.direct.delete_manifest(stage.release, image.digest)


def test_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The registry's disk fills up while evidence is attached; with room again, running again ends right."""
    program = registry_program()
    assert program is not None
    port = free_port()
    config = tmp_path / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: /mnt/data}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    script = f"mount -t tmpfs -o size=32m none /mnt && exec {program} serve {config}"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # The mount is the child's own; this is the way in.
        room = Path(f"/proc/{process.pid}/root/mnt")
        deadline = time.monotonic() + 20
        stage = Stage(f"127.0.0.1:{port}", FaultyProxy(upstream=f"127.0.0.1:{port}"), tmp_path)
        with stage.proxy:
            while True:
                assert time.monotonic() < deadline
                assert process.poll() is None
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            outcomes = []
            for free in range(0, 800_000, 50_000):
                image = stage.fresh()
                filler = room / "filler"
                with suppress(OSError), filler.open("wb", buffering=0) as file:
                    while file.write(bytes(1 << 16)) == 1 << 16:
                        pass
                os.truncate(filler, max(0, filler.stat().st_size - free))
                try:
                    stage.run()
                    outcomes.append("fits")
                except (RegistryError, PolicyRefused) as error:
                    outcomes.append(type(error).__name__)
                filler.unlink()
                stage.check_never_lies(image)
                before = stage.evidence(image.digest)
                stage.run()
                stage.check_end(image, before)
        with capsys.disabled():
            print(f"\n  full disk: {len(outcomes)} amounts of room, {outcomes.count('fits')} fitted, all survived")

        assert outcomes[0] == "RegistryError"
    finally:
        process.kill()
        process.wait()


def test_cached_file_is_checked_against_its_hash(stage: Stage, tmp_path: Path) -> None:
    """Someone with access to the registry's disk swaps the blob of a record."""
    image = stage.fresh()
    stage.run()
    piece = next(
        piece
        for piece in collect(stage.direct, stage.release, image.digest, KeyVerifier([stage.key[1]])).pieces
        if "cuda-graphs" in str(piece.statement.predicate.get("text"))
    )
    manifest = stage.direct.manifest(stage.release, piece.manifest)
    assert manifest is not None
    hexadecimal = manifest.layers[0].digest[7:]
    path = next((stage.folder / "registry").rglob(f"blobs/sha256/*/{hexadecimal}/data"))
    original = path.read_bytes()
    try:
        path.write_bytes(original[:200] + bytes([original[200] ^ 1]) + original[201:])

        assert not stage.verified(ALIAS)
    finally:
        path.write_bytes(original)
    assert stage.verified(ALIAS)
    assert evidence_tag(image.digest, piece.manifest) in stage.direct.tags(stage.release)
