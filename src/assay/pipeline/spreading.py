"""Builds spread over several builders: each that answers takes the next cell, and a cell moves when its builder dies.

Nothing that a builder does is a cell's failure. After every build that did not end well its builder is asked whether it
still answers, and while a build runs too, so that no text of a program decides what died.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from assay.errors import AssayError, EngineMissing, RegistryError
from assay.evidence.reference import Reference
from assay.foundation.digest import sha256_of
from assay.pipeline.sharing import SharedLayers, layers_alone, shared_layers
from assay.ports.builder import BuildEnd, Builder, BuildHost, BuildOutcome, BuildTask, FaultKind
from assay.ports.registry import Registry

__all__ = ["SpreadBuilder", "SpreadLimits", "name_pushed"]

_OF_HOST: Final = frozenset(
    {
        FaultKind.CLIENT,
        FaultKind.NO_BUILDER,
        FaultKind.NO_CONTEXT,
        FaultKind.UNREACHABLE,
        FaultKind.LOST,
        FaultKind.DISK_FULL,
        FaultKind.DISK_BROKEN,
    }
)
"""Faults of the builder alone: another one builds the cell, and none of the cell's retries is used."""
_LONGEST_REST: Final = 60.0
_ASKED_AT_ONCE: Final = 64
"""Builders that are asked at the same time whether they answer."""


@dataclass(frozen=True, kw_only=True)
class SpreadLimits:
    """How patient a run is with its builders; times in seconds."""

    each: int = 2
    """Cells that one builder builds at the same time."""
    patience: float = 600.0
    """How long a run waits when no builder answers."""
    attempts: int = 5
    """How many builders may be lost under one cell."""
    again: float = 15.0
    """Pause before a builder that did not answer is asked again, and between questions while it builds."""
    misses: int = 3
    """Questions in a row that a builder may leave without answer while it builds."""
    rest: float = 5.0
    """How long a builder that answers is left out after a fault; twice as long after each further one."""


@dataclass
class _Seat:
    """One builder: whether it answers, and how many cells it may take."""

    host: BuildHost
    free: int
    silence: str = ""
    """Why it does not answer; empty while it does."""
    asked_at: float = 0.0
    faults: int = 0
    rests_until: float = 0.0


@dataclass
class _Wish:
    """A cell that wants a builder."""

    layers: frozenset[str]
    """Its layers that other cells have too."""
    avoids: set[str] = field(default_factory=set)
    """Builders with which it failed while they answered."""
    seat: _Seat | None = None
    makes: frozenset[str] = frozenset()
    """Of its layers those that are made for all, before it is built itself."""


class SpreadBuilder:
    """Satisfies `assay.ports.builder.Builder` with several builders; called from as many threads as cells may be built.

    Args:
        hosts: the builders.
        name: gives a pushed image its tags: (references, digest, builder).
        by_hand: tells which command does the same without these builders.
        what: the name of all of them, for messages.
        limits: how patient it is.
        say: is given a line when a builder goes or comes back.
    """

    def __init__(
        self,
        hosts: Sequence[BuildHost],
        *,
        name: Callable[[Sequence[str], str, str], None],
        by_hand: Builder,
        what: str = "the pool",
        limits: SpreadLimits | None = None,
        say: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or SpreadLimits()
        self._seats = [_Seat(host=host, free=self._limits.each) for host in hosts]
        self._name = name
        self._by_hand = by_hand
        self._what = what
        self._say = say
        self._clock = clock
        self._tickets = itertools.count()
        self._wishes: dict[int, _Wish] = {}
        self._changed = threading.Condition()
        self._silent_since: float | None = None
        self._shared = SharedLayers()

    def command(self, task: BuildTask, *, dockerfile: str) -> list[str]:
        """Return the command line that builds it on this machine; see the port."""
        return self._by_hand.command(task, dockerfile=dockerfile)

    def open(self, dockerfiles: Sequence[str]) -> None:
        """Ask all builders, and note which layers the images that are going to be built share.

        Raises:
            EngineMissing: none answers.
        """
        self._shared = SharedLayers(frozenset(shared_layers(dockerfiles)))
        with ThreadPoolExecutor(min(len(self._seats), _ASKED_AT_ONCE), thread_name_prefix="ask") as pool:
            said = list(pool.map(lambda seat: seat.host.ask(), self._seats))
        if all(said):
            for seat, silence in zip(self._seats, said, strict=True):
                seat.silence = silence
            raise self._all_silent()
        for seat, silence in zip(self._seats, said, strict=True):
            self._heard(seat, silence)

    def build(self, task: BuildTask) -> BuildOutcome:
        """Build one image on one of the builders; see the port."""
        ticket, wish, lost = next(self._tickets), _Wish(layers=self._shared.of(task.dockerfile)), 0
        while True:
            if (seat := self._seat_for(ticket, wish, task)) is None:
                return BuildOutcome(end=BuildEnd.STOPPED, reason="stopped")
            try:
                outcome = self._tried(seat, wish, task)
            finally:
                self._shared.ended(wish.makes, None)
                self._give_back(seat)
            if seat.silence or (outcome.fault is not None and outcome.fault.kind in _OF_HOST):
                lost += 1
                if lost >= self._limits.attempts:
                    reason = f"{self._what} lost {lost} builders under this cell; the last: {outcome.reason}"
                    return replace(outcome, end=BuildEnd.ENGINE, fault=None, reason=reason)
            elif outcome.fault is None or not self._others(wish, seat):
                return outcome
            if task.progress is not None:
                task.progress(f"{seat.host.name} failed: moves to another builder")
            task.keep_log()

    def _others(self, wish: _Wish, seat: _Seat) -> bool:
        """Note a fault of a builder that answers; return whether there are others to try."""
        wish.avoids.add(seat.host.name)
        return any(one.host.name not in wish.avoids and not one.silence for one in self._seats)

    # One try

    def _tried(self, seat: _Seat, wish: _Wish, task: BuildTask) -> BuildOutcome:
        """Build on one builder; note whether it answers."""
        watched = replace(task, stop=threading.Event(), progress=_placed(seat.host.name, task))
        over = threading.Event()
        lost: list[str] = []
        watch = threading.Thread(target=self._watch, args=(seat, task, watched, over, lost), daemon=True)
        watch.start()
        try:
            outcome = self._with_layers(seat.host.builder, wish, watched)
        finally:
            over.set()
            watch.join()
        stopped = task.stop is not None and task.stop.is_set()
        if outcome.end is BuildEnd.BUILT:
            self._heard(seat, "")
            seat.faults = 0
            self._name(task.tags, outcome.digest or "", seat.host.name)
        elif not stopped:
            self._heard(seat, lost[0] if lost else seat.host.ask())
            if outcome.fault is not None or seat.silence:
                seat.faults += 1
                rest = min(self._limits.rest * 2 ** (seat.faults - 1), _LONGEST_REST)
                seat.rests_until = self._clock() + rest
        return replace(outcome, builder=seat.host.name)

    def _with_layers(self, builder: Builder, wish: _Wish, task: BuildTask) -> BuildOutcome:
        """Build a cell; before it, alone, the layers that it makes for all."""
        makes, wish.makes, cache = wish.makes, frozenset[str](), None
        if makes:
            name = sha256_of("\n".join([*sorted(makes), task.platform]).encode())[7:23]
            reference = Reference.parse(task.tags[0]).repository.tagged(f"cache-{name}")
            text = layers_alone(task.dockerfile, makes)
            try:
                made = builder.build(
                    replace(task, dockerfile=text, tags=(), labels={}, provenance={}, cache_to=reference)
                )
                cache = reference if made.end is BuildEnd.BUILT else None
            finally:
                self._shared.ended(makes, cache)
            # What fails in its layers fails in the cell too, which then has the words of its own log.
            if made.end not in {BuildEnd.BUILT, BuildEnd.FAILED}:
                return made
            with suppress(OSError):
                task.log.rename(task.log.with_name("layers.log"))
        return builder.build(replace(task, cache_from=self._shared.caches(wish.layers)))

    def _watch(self, seat: _Seat, task: BuildTask, watched: BuildTask, over: threading.Event, lost: list[str]) -> None:
        """End a build when its caller wants that, or when its builder no longer answers."""
        assert watched.stop is not None
        misses, ask_at = 0, self._clock() + self._limits.again
        while not over.wait(0.1):
            if task.stop is not None and task.stop.is_set():
                watched.stop.set()
                return
            if self._clock() < ask_at:
                continue
            silence = seat.host.ask()
            misses, ask_at = (misses + 1 if silence else 0), self._clock() + self._limits.again
            if misses >= self._limits.misses:
                lost.append(silence)
                watched.stop.set()
                return

    # Who gets which builder

    def _seat_for(self, ticket: int, wish: _Wish, task: BuildTask) -> _Seat | None:
        """Wait for a builder; None when the build has to end.

        Raises:
            EngineMissing: no builder has answered for too long.
        """
        waits = False
        with self._changed:
            self._wishes[ticket] = wish
            try:
                while task.stop is None or not task.stop.is_set():
                    self._share_out()
                    if wish.seat is not None:
                        seat, wish.seat = wish.seat, None
                        return seat
                    since = self._silent_since
                    if since is not None and self._clock() - since >= self._limits.patience:
                        raise self._all_silent()
                    if not waits and task.progress is not None:
                        layers = self._shared.are_being_made(wish.layers)
                        task.progress(f"waits for {'shared layers' if layers else 'a builder'} of {self._what}")
                    waits = True
                    self._changed.wait(0.2)
                return None
            finally:
                del self._wishes[ticket]
                if wish.seat is not None:
                    wish.seat.free += 1
                    self._shared.ended(wish.makes, None)

    def _share_out(self) -> None:
        """Give free builders to those that wait, the first cell first: one that moves has kept its place."""
        moment = self._clock()
        for seat in self._seats:
            if seat.silence and moment >= seat.asked_at + self._limits.again:
                seat.asked_at = moment
                threading.Thread(target=self._ask_again, args=(seat,), daemon=True).start()
        answering = [seat for seat in self._seats if not seat.silence]
        free = [seat for seat in answering if seat.free > 0 and moment >= seat.rests_until]
        for _, wish in sorted(self._wishes.items()):
            if wish.seat is not None or self._shared.are_being_made(wish.layers):
                continue
            if all(seat.host.name in wish.avoids for seat in answering):
                wish.avoids.clear()
            fitting = [seat for seat in free if seat.free > 0 and seat.host.name not in wish.avoids]
            if fitting:
                wish.seat = max(fitting, key=lambda seat: seat.free)
                wish.seat.free -= 1
                wish.makes = self._shared.promise(wish.layers)
        self._changed.notify_all()

    def _give_back(self, seat: _Seat) -> None:
        with self._changed:
            seat.free += 1
            self._changed.notify_all()

    def _ask_again(self, seat: _Seat) -> None:
        with suppress(AssayError):
            self._heard(seat, seat.host.ask())

    def _heard(self, seat: _Seat, silence: str) -> None:
        """Note what a builder answered, and tell people when that changes."""
        with self._changed:
            before, seat.silence = seat.silence, silence
            if silence:
                seat.asked_at = self._clock()
            if all(one.silence for one in self._seats):
                self._silent_since = self._clock() if self._silent_since is None else self._silent_since
            else:
                self._silent_since = None
            self._changed.notify_all()
        if silence and not before:
            self._say(
                f"{seat.host.name} of {self._what} does not answer ({silence}): it gets no cells; asked again every "
                f"{self._limits.again:.0f} s"
            )
        elif before and not silence:
            self._say(f"{seat.host.name} of {self._what} answers again")

    def _all_silent(self) -> EngineMissing:
        said = "; ".join(f"{seat.host.name}: {seat.silence}" for seat in self._seats)
        return EngineMissing(
            f"no builder of {self._what} answers: {said}",
            hint="start one, or change `endpoints` in pools.yaml, and run the command again: built images are kept",
        )


def _placed(name: str, task: BuildTask) -> Callable[[str], None] | None:
    tell = task.progress
    return None if tell is None else lambda words: tell(f"{name}: {words}")


def name_pushed(registry: Registry, references: Sequence[str], digest: str, builder: str) -> None:
    """Give an image that a builder pushed by digest its tags.

    No builder sets tags: one that was given up and ends after all would move them.

    Raises:
        RegistryError: the registry does not have it, or fails.
    """
    for reference in references:
        wanted = Reference.parse(reference)
        manifest = registry.manifest(wanted.repository, digest) if digest else None
        if manifest is None:
            raise RegistryError(
                f"{builder} pushed {digest or 'an image without a digest'}, and {wanted.repository} does not have it",
                hint="`registry` in pools.yaml must name the same registry here and on the builders: not `localhost`",
            )
        registry.put_manifest(wanted.repository, wanted.tag or "latest", manifest)
