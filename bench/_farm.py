"""A farm of GPU nodes in simulated time, which satisfies the port of pools; see bench/scale.py."""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from assay.adapters.pools.fake import sealed_result
from assay.ports.jobs import ProbeJob
from assay.ports.pools import JobOutput, JobState, Loss, Phase, PoolItem, Submission

Image = tuple[int, ...]
"""The layers of an image."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What goes wrong, and what engines and networks take."""

    flaky: float
    """Share of attempts that a rerun would mend."""
    infrastructure: float = 0.78
    """Of these, how many are the infrastructure's; the rest breaks off inside the job."""
    preempted: float = 0.0
    """Times an hour that a GPU is taken away."""
    node_lost: float = 0.0
    """Times an hour that a node goes away."""
    down: float = 1800.0
    """Seconds until a lost node is back."""
    node_told: float = 31.0
    """Seconds until the engine says that a node is gone (Slurm, SlurmdTimeout=15)."""
    back_off: float = 120.0
    """Seconds that an image that could not be pulled keeps its GPU waiting."""
    forgotten: float = 300.0
    """Seconds that the engine still names a job that ended."""
    call: float = 0.1
    """Seconds of a call to the engine, and of each job that is submitted."""
    layer_bytes: float = 4.66e9 / 32
    pull: float = 200e6
    """Bytes a second that a node pulls and unpacks."""


@dataclass(kw_only=True)
class Node:
    """A machine with GPUs of one product."""

    name: str
    free: int
    layers: set[int] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    running: dict[str, _Attempt] = field(default_factory=dict)
    up: bool = True


@dataclass(kw_only=True)
class _Attempt:
    job: ProbeJob
    node: Node | None = None
    began: float = 0.0
    over: bool = False


def _outside(method: Callable[..., Any]) -> Callable[..., Any]:
    """Count the CPU time of a method as the simulation's."""

    @wraps(method)
    def timed(self: SimulatedFarm, *given: Any, **named: Any) -> Any:
        begun = time.process_time()
        try:
            return method(self, *given, **named)
        finally:
            self.cpu += time.process_time() - begun
            self.calls[method.__name__] += 1

    return timed


class SimulatedFarm:
    """See `assay.ports.pools.ProbePool`.

    Args:
        nodes: GPU product -> its nodes.
        rates: what goes wrong.
        seconds: of a job, when nothing goes wrong.
        layers: of a job's image.
        room: jobs at the same time.
        seed: of all that is drawn.
    """

    kind = "simulated"

    def __init__(
        self,
        nodes: Mapping[str, Sequence[Node]],
        rates: Rates,
        *,
        seconds: Callable[[ProbeJob], float],
        layers: Callable[[ProbeJob], Image],
        room: int,
        seed: int = 1,
    ) -> None:
        self._nodes, self._rates, self._seconds, self._layers = nodes, rates, seconds, layers
        self.room = room
        self._random = random.Random(seed)
        self.now = 0.0
        self.cpu = 0.0
        self.held = 0.0
        """GPU seconds from the start of each attempt to its end."""
        self.pulling = 0.0
        """Of these, while its image was pulled."""
        self.said: Counter[str] = Counter()
        self.pulls: Counter[int] = Counter()
        """Requests to the registry in each minute."""
        self.starts = 0
        self.calls: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._states: dict[str, JobState] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._queues: dict[str, deque[str]] = defaultdict(deque)
        self._left: dict[str, bytes] = {}
        if rates.node_lost:
            for mine in nodes.values():
                for node in mine:
                    self._later(self._random.expovariate(rates.node_lost / 3600), self._lose(node))

    @property
    def names(self) -> int:
        """How many attempts were submitted."""
        return len(self._attempts)

    def clock(self) -> float:
        """Return the simulated time in seconds."""
        return self.now

    @_outside
    def wait(self, seconds: float) -> None:
        """Let time pass between two looks."""
        self._pass(seconds)

    def _pass(self, seconds: float) -> None:
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

    def _later(self, seconds: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, event))

    # ----------------------------------------------------------------------------------------------------- the port

    @_outside
    def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Submit jobs; see the port."""
        self._pass(self._rates.call * len(jobs))
        for item in jobs:
            name, model = item.job.name, item.job.devices.model
            if name not in self._attempts:
                self._attempts[name] = _Attempt(job=item.job)
                self._states[name] = JobState(phase=Phase.WAITING)
                self._queues[model].append(name)
                self._fill(model)
        return {}

    @_outside
    def poll(self, run: str) -> Mapping[str, JobState]:  # noqa: ARG002 - there is one run
        """Return the state of every job that the engine still names."""
        self._pass(self._rates.call)
        return dict(self._states)

    @_outside
    def collect(self, names: Collection[str], *, run: str) -> Sequence[JobOutput]:  # noqa: ARG002
        """Return what jobs have left since the last call."""
        found = [name for name in list(self._left) if name in names]
        return [JobOutput(name=name, result=self._left.pop(name)) for name in found]

    @_outside
    def cancel(self, names: Collection[str], *, run: str) -> None:  # noqa: ARG002
        """End jobs and forget them."""
        self._pass(self._rates.call)
        for name in names:
            attempt = self._attempts.get(name)
            if attempt is not None and not attempt.over:
                self._end(name, JobState(phase=Phase.ENDED, loss=Loss.KILLED))
            self._states.pop(name, None)

    def sweep(self, run: str) -> None:  # noqa: ARG002
        """Remove everything of the run."""
        self._states.clear()

    def render(self, jobs: Sequence[Submission]) -> Mapping[str, bytes]:  # noqa: ARG002
        """Return nothing."""
        return {}

    def inventory(self, registry: str | None) -> Sequence[PoolItem]:  # noqa: ARG002
        """Return nothing."""
        return []

    # ----------------------------------------------------------------------------------------------------- the nodes

    def _fill(self, model: str) -> None:
        queue = self._queues[model]
        while queue:
            attempt = self._attempts[queue[0]]
            if attempt.over:
                queue.popleft()
                continue
            node = max((node for node in self._nodes[model] if node.up), key=lambda node: node.free, default=None)
            if node is None or node.free < 1:
                return
            self._start(queue.popleft(), attempt, node)

    def _start(self, name: str, attempt: _Attempt, node: Node) -> None:
        attempt.node, attempt.began = node, self.now
        node.free -= 1
        node.running[name] = attempt
        self.starts += 1
        pull = self._pulled(attempt.job, node)
        self._states[name] = JobState(phase=Phase.RUNNING, where=node.name)
        seconds, draw = self._seconds(attempt.job), self._random.random
        taken = self._random.expovariate(self._rates.preempted / 3600) if self._rates.preempted else float("inf")
        if taken < pull + seconds:
            self._later(taken, self._ends(name, Loss.PREEMPTED))
        elif draw() >= self._rates.flaky:
            self._later(pull + seconds, self._ends(name, None, "finished"))
        elif draw() >= self._rates.infrastructure:
            self._later(pull + seconds * draw(), self._ends(name, None, "failed"))
        else:
            self._flaky(name, attempt, pull, seconds)

    def _flaky(self, name: str, attempt: _Attempt, pull: float, seconds: float) -> None:
        """Let the infrastructure fail at an attempt, in one of the ways that engines showed."""
        kind = self._random.choice((Loss.KILLED, Loss.EVICTED, Loss.NO_RESULT, Loss.HELD, Loss.PULL_FAILED))
        if kind is Loss.PULL_FAILED:
            self.said[kind] += 1
            self._states[name] = JobState(phase=Phase.WAITING, loss=kind, said="ErrImagePull")
            self._later(self._rates.back_off, lambda: self._pulls_at_last(name, attempt))
            self._later(self._rates.back_off + pull + seconds, self._ends(name, None, "finished"))
        elif kind is Loss.HELD:
            self._later(pull, lambda: self._hold(name, attempt))
        else:
            self._later(pull + seconds * self._random.random(), self._ends(name, kind))

    def _pulls_at_last(self, name: str, attempt: _Attempt) -> None:
        if not attempt.over and attempt.node is not None:
            self._states[name] = JobState(phase=Phase.RUNNING, where=attempt.node.name)

    def _hold(self, name: str, attempt: _Attempt) -> None:
        """The engine takes the job back and starts it no more."""
        if not attempt.over:
            self.said[Loss.HELD] += 1
            self._free(name, attempt)
            self._states[name] = JobState(phase=Phase.WAITING, loss=Loss.HELD, said="launch failed requeued held")

    def _pulled(self, job: ProbeJob, node: Node) -> float:
        """Return the seconds that the pull takes on a node."""
        image = job.place.digest or ""
        if image in node.images:
            return 0.0
        missing = set(self._layers(job)) - node.layers
        node.images.add(image)
        node.layers |= missing
        # The manifest and the configuration, besides the layers.
        self.pulls[int(self.now // 60)] += 2 + len(missing)
        seconds = len(missing) * self._rates.layer_bytes / self._rates.pull
        self.pulling += seconds
        return seconds

    def _ends(self, name: str, loss: Loss | None, ended: str = "") -> Callable[[], None]:
        def event() -> None:
            attempt = self._attempts[name]
            gone = attempt.node is not None and not attempt.node.up
            if attempt.over or attempt.node is None or (gone and loss is not Loss.NODE_LOST):
                return
            if ended:
                probes = None if ended == "finished" else len(attempt.job.features) // 2
                self._left[name] = sealed_result(attempt.job, ended=ended, probes=probes)
            if loss is not None or ended != "finished":
                self.said[loss or "broke off"] += 1
            self._end(name, JobState(phase=Phase.ENDED, loss=loss, where=attempt.node.name))

        return event

    def _end(self, name: str, state: JobState) -> None:
        attempt = self._attempts[name]
        attempt.over = True
        self._states[name] = state
        self._later(self._rates.forgotten, lambda: self._forget(name))
        self._free(name, attempt)

    def _free(self, name: str, attempt: _Attempt) -> None:
        node = attempt.node
        if node is not None:
            self.held += self.now - attempt.began
            attempt.node = None
            del node.running[name]
            node.free += 1
            self._fill(attempt.job.devices.model)

    def _forget(self, name: str) -> None:
        self._states.pop(name, None)

    def _lose(self, node: Node) -> Callable[[], None]:
        """Return what happens when a node goes away."""

        def event() -> None:
            node.up = False
            for name in node.running:
                self._states[name] = JobState(phase=Phase.UNKNOWN, said="its node does not answer")
            self._later(self._rates.node_told, told)
            self._later(self._rates.down, back)

        def told() -> None:
            for name in list(node.running):
                self._ends(name, Loss.NODE_LOST)()

        def back() -> None:
            node.up = True
            for model, mine in self._nodes.items():
                if node in mine:
                    self._fill(model)
            self._later(self._random.expovariate(self._rates.node_lost / 3600), self._lose(node))

        return event
