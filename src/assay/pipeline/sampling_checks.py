"""Whether a server samples: each sampling parameter alone, several users with different ones, and the greedy answer.

A model with random weights answers with odd text, so answers are judged by counts, log-probabilities and equality.
Two answers to the same greedy request may differ if the server's kernels are not deterministic; that is reported.
"""

from __future__ import annotations

import math
from typing import Any, Final

from assay.pipeline.api_answers import (
    PROMPT,
    TOKENS,
    ApiQuestion,
    Refused,
    choice_of,
    choices_of,
    names_optional,
    need,
    post,
    request_body,
    usage_of,
    words_for,
)
from assay.ports.api import ApiClient
from assay.serving.load import LoadJob, Workload

__all__ = [
    "Greedy",
    "logprobs",
    "min_p",
    "mixed_users",
    "penalties",
    "sampling",
    "seed",
    "stop_string",
    "top_k",
    "top_p",
    "two_choices",
]

LONGER: Final = 24
"""Tokens of the answers that are compared."""
FIRST_PATIENCE: Final = 3.0
"""How much longer the first sampled request may take: a server may compile its sampler then."""
SAMPLED: Final[dict[str, Any]] = {"temperature": 0.8, "top_p": 0.9}
LIST: Final = 20
"""Log-probabilities for each token: as many as every engine gives without being configured for more."""
TOP_P: Final = 0.5
TOP_K: Final = 2
"""So few that a server which does not heed it is found: where each token is 0.6 times as probable as the one before,
24 tokens are all among the 2 best by chance in one of 60 000 answers, but among the 5 best in one of 8."""
MIN_P: Final = 0.5
NEAR: Final = 0.05
"""Difference of log-probabilities that rounding makes; probabilities of 16-bit logits differ by a few percent."""
MIXES: Final[tuple[dict[str, Any], ...]] = (
    {"temperature": 0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_k": TOP_K},
    {"temperature": 1.0, "seed": 11},
    {"temperature": 0.7, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {"temperature": 1.2, "top_p": 0.5, "top_k": 40},
    {"temperature": 1.0, "min_p": MIN_P},
    {"temperature": 0.6, "top_p": 0.95, "seed": 12, "repetition_penalty": 1.1},
)
"""What users ask with who come at once, one each."""
USERS: Final = len(MIXES)


class Greedy:
    """The same greedy request before and after everything else."""

    def __init__(self) -> None:
        self._text: str | None = None
        """The answer, if it was the same twice."""

    def before(self, client: ApiClient, asked: ApiQuestion) -> str:
        """Ask twice, and remember the answer if it is the same."""
        first, second = (_text(post(client, asked, {"temperature": 0}, tokens=LONGER)) for _ in range(2))
        self._text = first if first == second else None
        return f"{LONGER} tokens, {'the same twice' if first == second else 'another answer the second time'}"

    def after(self, client: ApiClient, asked: ApiQuestion) -> str:
        """Ask again; a different answer is reported, not judged."""
        text = _text(post(client, asked, {"temperature": 0}, tokens=LONGER))
        if self._text is None:
            return "nothing to compare with: the answers before were not the same"
        return "the same answer as before" if text == self._text else "another answer than before"


def _text(document: dict[str, Any]) -> str:
    text = choice_of(document).get("text")
    need(isinstance(text, str), "the answer has no text")
    return str(text)


def sampling(client: ApiClient, asked: ApiQuestion) -> str:
    """Sample at all, as completion and as chat."""
    post(client, asked, SAMPLED, patience=FIRST_PATIENCE * asked.timeout)
    post(client, asked, SAMPLED, chat=True)
    post(client, asked, {"temperature": 1.0})
    return words_for(SAMPLED)


def _ranked(client: ApiClient, asked: ApiQuestion, parameters: dict[str, Any]) -> list[tuple[float, list[float]]]:
    """Return the log-probability of each sampled token, and those of the best tokens in its place.

    Chat lists them; completions name them by text, where tokens with the same text hide each other.
    """
    try:
        document = post(client, asked, {**parameters, "logprobs": True, "top_logprobs": LIST}, chat=True, tokens=LONGER)
    except Refused:
        # Whether the parameter or its log-probabilities were refused shows without the latter.
        post(client, asked, parameters, chat=True, tokens=LONGER)
        return []
    entries = _entries(choice_of(document), words_for(parameters))
    return [(entry["logprob"], [one["logprob"] for one in entry["top_logprobs"]]) for entry in entries]


def _entries(choice: dict[str, Any], about: str) -> list[dict[str, Any]]:
    entries = (choice.get("logprobs") or {}).get("content")
    need(isinstance(entries, list) and entries, f"{about}: no log-probabilities although they were requested")
    assert isinstance(entries, list)
    for entry in entries:
        need(isinstance(entry, dict) and isinstance(entry.get("top_logprobs"), list), f"{about}: {str(entry)[:80]}")
        for one in (entry, *entry["top_logprobs"]):
            _need_logprob(one.get("logprob"), about)
    return entries


def _need_logprob(value: object, about: str) -> None:
    number = isinstance(value, int | float) and math.isfinite(value)
    need(number, f"{about}: a log-probability is {value!r}, no finite number")
    assert isinstance(value, int | float)
    need(value <= NEAR, f"{about}: a log-probability is {value:g}, more than 0")


def top_k(client: ApiClient, asked: ApiQuestion) -> str:
    """Sample from the k best: no more than k - 1 tokens may be better than one that was sampled."""
    parameters = {"temperature": 1.0, "top_k": TOP_K}
    ranked = _ranked(client, asked, parameters)
    for chosen, best in ranked:
        better = sum(value > chosen + NEAR for value in best)
        need(better < TOP_K, f"{words_for(parameters)}: a token was sampled, but at least {better} are better")
    post(client, asked, {"temperature": 1.0, "top_k": 1})
    return _among(ranked, f"of the {TOP_K} best")


def top_p(client: ApiClient, asked: ApiQuestion) -> str:
    """Sample from the best that make up p together: what is better than a sampled token is less than that."""
    parameters = {"temperature": 1.0, "top_p": TOP_P}
    ranked = _ranked(client, asked, parameters)
    for chosen, best in ranked:
        better = math.fsum(math.exp(value) for value in best if value > chosen + NEAR)
        need(
            better < TOP_P + NEAR,
            f"{words_for(parameters)}: a token was sampled, but others of {better:.3f} together are better",
        )
    return _among(ranked, f"of the best that make up {TOP_P}")


def min_p(client: ApiClient, asked: ApiQuestion) -> str:
    """Sample from tokens that are at least so probable, compared with the best."""
    parameters = {"temperature": 1.0, "min_p": MIN_P}
    ranked = _ranked(client, asked, parameters)
    for chosen, best in ranked:
        share = math.exp(chosen - max(best, default=chosen))
        need(
            share >= MIN_P * math.exp(-NEAR),
            f"{words_for(parameters)}: a token was sampled that is {share:.3f} times as probable as the best",
        )
    return _among(ranked, f"at least {MIN_P} times as probable as the best")


def _among(ranked: list[tuple[float, list[float]]], what: str) -> str:
    return f"{len(ranked)} tokens, each {what}" if ranked else "answered; without log-probabilities nothing to judge by"


def penalties(client: ApiClient, asked: ApiQuestion) -> str:
    """Penalise repeated tokens: each penalty alone, then those that were taken together."""
    taken: dict[str, Any] = {}
    refusals: list[str] = []
    for name, value in {"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.2}.items():
        try:
            post(client, asked, {"temperature": 0.8, name: value}, tokens=LONGER)
            taken[name] = value
        except Refused as refused:
            refusals.append(f"refused: {refused}")
    if taken:
        post(client, asked, {**SAMPLED, **taken}, tokens=LONGER)
    return "; ".join([*([words_for(taken)] if taken else []), *refusals])


def seed(client: ApiClient, asked: ApiQuestion) -> str:
    """Check that the same seed gives the same answer if the engine promises so; report another seed's answer."""
    parameters = {"temperature": 1.0, "seed": 7}
    # The first fills the prefix cache: after it, the prompt is computed in the same way each time.
    _, first, second = (_text(post(client, asked, parameters, tokens=LONGER)) for _ in range(3))
    promised = asked.engine.keeps_seeds(_account(client, asked))
    need(first == second or not promised, f"{words_for(parameters)}: the answers to the same seed differ")
    other = _text(post(client, asked, {"temperature": 1.0, "seed": 8}, tokens=LONGER))
    same = "the same answer" if first == second else "another answer, which this server does not rule out"
    return f"same seed: {same}; another seed: {'the same answer' if other == second else 'another answer'}"


def _account(client: ApiClient, asked: ApiQuestion) -> bytes:
    """Return what the server tells about itself; empty if it does not."""
    for path in asked.engine.account_paths:
        reply = client.call("GET", asked.base + path, timeout=asked.timeout)
        if reply.status == 200:
            return reply.body
    return b""


def logprobs(client: ApiClient, asked: ApiQuestion) -> str:
    """Log-probabilities come for every token, are finite and at most 0, and list the token that was chosen."""
    document = post(client, asked, {"temperature": 0, "logprobs": 3})
    told = choice_of(document).get("logprobs")
    need(isinstance(told, dict), "logprobs 3: no log-probabilities although they were requested")
    assert isinstance(told, dict)
    lists = [told.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
    shape = all(isinstance(one, list) and len(one) == TOKENS for one in lists)
    need(shape, f"logprobs 3: tokens, token_logprobs and top_logprobs do not have {TOKENS} entries each")
    for token, value, best in zip(*lists, strict=True):
        _need_logprob(value, "logprobs 3")
        need(isinstance(best, dict) and token in best, f"logprobs 3: the chosen token {token!r} is not listed")
        for one in best.values():
            _need_logprob(one, "logprobs 3")
    parameters = {"temperature": 0, "logprobs": True, "top_logprobs": 3}
    entries = _entries(choice_of(post(client, asked, parameters, chat=True)), words_for(parameters))
    need(len(entries) == TOKENS, f"{words_for(parameters)}: {len(entries)} entries for {TOKENS} tokens")
    for entry in entries:
        names = [one.get("token") for one in entry["top_logprobs"]]
        need(entry.get("token") in names, f"{words_for(parameters)}: {entry.get('token')!r} is not listed")
    return f"{TOKENS} tokens, each listed among the best"


def two_choices(client: ApiClient, asked: ApiQuestion) -> str:
    """n=2 gives two answers, and counts the tokens of both."""
    document = post(client, asked, {"temperature": 1.0, "n": 2})
    indexes = sorted(str(choice.get("index")) for choice in choices_of(document))
    need(indexes == ["0", "1"], f"n 2: choices {', '.join(indexes)} instead of 0, 1")
    return "2 choices"


def stop_string(client: ApiClient, asked: ApiQuestion) -> str:
    """An answer ends before the stop string, which is taken out of the same answer without one."""
    for prompt in (PROMPT, "One two three", "Hello", "A list of words:"):
        whole = _text(post(client, asked, {"temperature": 0}, prompt=prompt, tokens=LONGER))
        places = [place for place, letter in enumerate(whole) if letter.isascii() and letter.isprintable()]
        places = [place for place in places if not whole[place].isspace()]
        # Best where it stands first in the middle, so that something comes before it.
        places.sort(key=lambda place: (whole.index(whole[place]) == 0, abs(place - len(whole) // 2)))
        if not places:
            continue
        stop = whole[places[0]]
        document = post(client, asked, {"temperature": 0, "stop": [stop]}, prompt=prompt, tokens=LONGER)
        text, reason = _text(document), choice_of(document).get("finish_reason")
        _, completion = usage_of(document)
        need(stop not in text, f"stop {stop!r}: the answer continues after it: {text[:80]!r}")
        if reason == "stop":
            return f"stop {stop!r}: {completion} of {LONGER} tokens"
        need(not whole.startswith(text), f"stop {stop!r}: finish_reason is {reason!r}, not 'stop'")
        # Another greedy answer than before, in which it does not stand; the next prompt may do better.
    return "no answer holds text that it could stop at"


def _user(asked: ApiQuestion, number: int) -> LoadJob:
    tokens = LONGER + number % 7  # no two neighbours alike
    body = request_body(
        asked,
        prompt=f"User {number} says",
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    return LoadJob(path="/v1/completions", body={**body, **MIXES[number % USERS]}, max_tokens=tokens)


def mixed_users(client: ApiClient, asked: ApiQuestion) -> str:
    """Check that eight concurrent users with different parameters get answers of the right lengths."""
    jobs = tuple(_user(asked, number) for number in range(2 * USERS))
    load = Workload(name="mixed", users=USERS, max_tokens=LONGER, jobs=jobs)
    samples = client.load(asked.base, load, timeout=asked.timeout)
    failed: list[str] = []
    refused = 0
    for place, (job, sample) in enumerate(zip(jobs, samples, strict=True)):
        mix = MIXES[place % USERS]
        if sample.status == 400 and names_optional(sample.error or "", mix):
            refused += 1
        elif sample.error:
            failed.append(f"{words_for(mix)}: {sample.error}")
        elif sample.counted and sample.tokens != job.max_tokens:
            failed.append(f"{words_for(mix)}: {sample.tokens} tokens where {job.max_tokens} were asked for")
    need(not failed, f"{len(failed)} of {len(samples)} requests by {USERS} users failed: {'; '.join(failed[:1])}")
    need(refused < len(samples), "every request was refused")
    return f"{len(samples)} requests by {USERS} users" + (f", {refused} refused" if refused else "")
