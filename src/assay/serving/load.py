"""The load that is put on a server, and what its samples come to."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from assay.evidence.record import BenchSeries, Spread

__all__ = [
    "LENGTHS",
    "USERS",
    "LoadJob",
    "Sample",
    "Workload",
    "percentile",
    "random_words",
    "spread",
    "standard_load",
    "summarise",
]

LENGTHS: Final = (10, 50, 100, 500)
"""Lengths of answers in tokens that the users' documents compare."""
USERS: Final = (1, 5, 10, 20)
"""Numbers of users at once that the users' documents compare."""
QUESTIONS: Final = 100
"""Questions behind one system prompt in the users' test of the prefix cache."""
SAMPLERS: Final[tuple[dict[str, Any], ...]] = (
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 40},
    {"temperature": 0.7, "top_p": 0.95, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {"temperature": 1.0, "top_p": 0.8, "top_k": 20},
)
"""How the users of the workload `mixed` sample, one after the other.

Engines take these parameters; min_p is not among them, for it may be refused with speculative decoding.
"""

_TEXT: Final = """
river stone market engine window letter garden signal copper winter bridge answer paper number
forest machine island harbour method summer village mirror branch silver record thunder castle
pattern meadow lantern
"""
_WORDS: Final = tuple(_TEXT.split())


@dataclass(frozen=True, kw_only=True)
class LoadJob:
    """One request: the body that is posted and how many tokens it asks for."""

    path: str
    body: dict[str, Any]
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one request took; times are seconds since the load began, on one monotonic clock."""

    started: float
    first: float | None
    """When the first token came; None if none came."""
    ended: float
    tokens: int
    """Completion tokens as the server counts them (usage), else the pieces that came."""
    pieces: int
    """Events that carried text."""
    counted: bool
    """Whether the server told its usage."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    status: int = 0
    """HTTP status; 0 if no answer came."""
    error: str | None = None
    """Why it failed; a stream that ends without its end mark has failed."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One load: its jobs, and how many users put it on at once."""

    name: str
    users: int
    max_tokens: int
    jobs: tuple[LoadJob, ...]
    warm_up: tuple[LoadJob, ...] = ()
    """Run before and not counted."""
    first_apart: bool = False
    """The first request is reported separately (repeated prompts: it fills the cache)."""


def random_words(rng: random.Random, words: int) -> str:
    """Return a text of so many short English words."""
    return " ".join(rng.choice(_WORDS) for _ in range(words))


def _job(model: str, prompt: str, max_tokens: int) -> LoadJob:
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        # Both engines take it: an answer that ends early would be another load.
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return LoadJob(path="/v1/completions", body=body, max_tokens=max_tokens)


def standard_load(
    model: str,
    *,
    lengths: Sequence[int] = LENGTHS,
    users: Sequence[int] = USERS,
    repeats: int = 3,
    questions: int = QUESTIONS,
    prompt_words: int = 24,
    system_words: int = 400,
    mixed: bool = True,
    seed: int = 0,
) -> tuple[Workload, ...]:
    """Return the load of the users' documents: answers of several lengths, several users at once, a repeated prompt.

    Then come as many users as there are at most (`mixed`), of whom every second samples; it stands by itself, so that
    the other series compare with those of records without it.

    Prompts are fresh random words, so that no request finds another's prefix in a cache, except where the workload
    `prefix` is about that. `repeats` is the number of requests per length, and per user where there are several.
    """
    # Reproducible on purpose: two servers that are compared get the same prompts.
    rng = random.Random(seed)  # noqa: S311

    def jobs(count: int, tokens: int) -> tuple[LoadJob, ...]:
        return tuple(_job(model, random_words(rng, prompt_words), tokens) for _ in range(count))

    loads = [
        Workload(name="length", users=1, max_tokens=tokens, jobs=jobs(repeats, tokens), warm_up=jobs(1, tokens))
        for tokens in lengths
    ]
    loads += [
        Workload(name="users", users=many, max_tokens=100, jobs=jobs(repeats * many, 100), warm_up=jobs(many, 10))
        for many in users
    ]
    if questions:
        system = "You are a helpful assistant. " + random_words(rng, system_words)
        asked = tuple(_job(model, f"{system}\n{random_words(rng, 8)}", 8) for _ in range(questions))
        alone = jobs(1, 8)
        loads.append(
            Workload(name="prefix", users=1, max_tokens=8, jobs=asked, warm_up=alone, first_apart=questions > 1)
        )
    if mixed and users:
        many = max(users)
        loads.append(
            Workload(name="mixed", users=many, max_tokens=100, jobs=_sampled(jobs(repeats * many, 100)),
                     warm_up=_sampled(jobs(many, 10)))
        )  # fmt: skip
    return tuple(loads)


def _sampled(jobs: Sequence[LoadJob]) -> tuple[LoadJob, ...]:
    """Return the jobs, every second with one of `SAMPLERS` and a seed of its own."""
    return tuple(
        replace(job, body={**job.body, **SAMPLERS[place // 2 % len(SAMPLERS)], "seed": place}) if place % 2 else job
        for place, job in enumerate(jobs)
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile by linear interpolation between the two nearest of the sorted values (numpy's default)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    place = (len(ordered) - 1) * share
    low = math.floor(place)
    high = math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(seconds: Sequence[float]) -> Spread | None:
    """Return the distribution of durations given in seconds, in milliseconds; None without any."""
    if not seconds:
        return None
    values = [value * 1000 for value in seconds]
    return Spread(
        mean=round(math.fsum(values) / len(values), 3),
        p50=round(percentile(values, 0.5), 3),
        p90=round(percentile(values, 0.9), 3),
        p95=round(percentile(values, 0.95), 3),
        p99=round(percentile(values, 0.99), 3),
        least=round(min(values), 3),
        most=round(max(values), 3),
    )


def summarise(load: Workload, samples: Sequence[Sample]) -> BenchSeries:
    """Return the figures of a load; failed requests count as failed and in nothing else.

    Throughput is over the time from the first start to the last end. The time per token of a request is
    (end - first token) / (tokens - 1).
    """
    good = [sample for sample in samples if sample.error is None]
    counted = good[1:] if load.first_apart and len(good) > 1 else good
    elapsed = max((s.ended for s in samples), default=0.0) - min((s.started for s in samples), default=0.0)
    tokens = sum(sample.tokens for sample in good)
    cached = [sample.cached_tokens for sample in good if sample.cached_tokens is not None]
    return BenchSeries(
        workload=load.name,
        users=load.users,
        max_tokens=load.max_tokens,
        requests=len(samples),
        failed=len(samples) - len(good),
        seconds=round(elapsed, 4),
        completion_tokens=tokens,
        cached_tokens=sum(cached) if cached else None,
        requests_per_second=round(len(good) / elapsed, 4) if elapsed > 0 else 0.0,
        tokens_per_second=round(tokens / elapsed, 3) if elapsed > 0 else 0.0,
        latency=spread([sample.ended - sample.started for sample in counted]),
        ttft=spread([sample.first - sample.started for sample in counted if sample.first is not None]),
        per_token=spread(
            [(s.ended - s.first) / (s.tokens - 1) for s in counted if s.first is not None and s.tokens > 1]
        ),
        first_ms=round((good[0].ended - good[0].started) * 1000, 3) if counted is not good else None,
        errors=dict(Counter(sample.error for sample in samples if sample.error is not None)),
        notes=_notes(load, good),
    )


def _notes(load: Workload, good: Sequence[Sample]) -> tuple[str, ...]:
    notes: list[str] = []
    if uncounted := sum(not sample.counted for sample in good):
        notes.append(f"{uncounted} answers came without usage; their pieces were counted as tokens")
    if wrong := [s for s in good if s.counted and s.tokens != load.max_tokens]:
        notes.append(f"{len(wrong)} answers have {wrong[0].tokens} tokens by usage where {load.max_tokens} were asked")
    if more := [s for s in good if s.counted and s.pieces > s.tokens]:
        notes.append(f"{len(more)} answers came in more pieces ({more[0].pieces}) than tokens by usage")
    return tuple(notes)
