"""The checks of a server's API: requests, and how answers are judged."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from assay.evidence.record import ServeCheck
from assay.pipeline.api_answers import (
    MESSAGES,
    PROMPT,
    TOKENS,
    ApiQuestion,
    Check,
    Refused,
    Wrong,
    choice_of,
    document_of,
    events_of,
    exact,
    need,
    parsed,
    request_body,
    said,
    usage_of,
)
from assay.pipeline.limit_checks import abort, long_prompt, over_long
from assay.pipeline.sampling_checks import (
    Greedy,
    logprobs,
    min_p,
    mixed_users,
    penalties,
    sampling,
    seed,
    stop_string,
    top_k,
    top_p,
    two_choices,
)
from assay.ports.api import ApiClient, Reply, Stream
from assay.serving.load import Sample, Workload, standard_load

__all__ = ["NOT_ASKED", "SCHEMA", "run_checks"]

NOT_ASKED: Final = "not asked"
"""How the detail of a check begins that was not made."""
_DYING: Final = 3.0
"""Seconds within which a server that cut a connection is seen to have ended."""
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    # Every value is finite, so that even a model with random weights comes to an end.
    "properties": {"city": {"enum": ["Seoul", "Busan", "Daegu"]}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}


def run_checks(
    client: ApiClient,
    asked: ApiQuestion,
    *,
    metrics: bool,
    alive: Callable[[], bool],
    progress: Callable[[str], None],
) -> tuple[ServeCheck, ...]:
    """Ask everything, one check after the other; a check that fails does not keep the others from being made.

    Once the server has ended (`alive`), or two checks in a row got no answer in time, the rest fails unasked.
    """
    results: list[ServeCheck] = []
    given_up, late = "", 0
    for name, check in _checks(metrics=metrics).items():
        clock = _Clock(client)
        detail, passed = given_up, False
        if not given_up:
            detail, passed = _judged(check, clock, asked)
            late = late + 1 if clock.late and not passed else 0
            if not passed and _ended(clock, asked.base + asked.health, alive):
                detail, given_up = f"{detail}; the server died", f"{NOT_ASKED}: the server is gone"
            elif late > 1:
                given_up = f"{NOT_ASKED}: the server no longer answers"
        results.append(ServeCheck(name=name, passed=passed, detail=detail, seconds=round(clock.seconds, 4)))
        progress(f"{name}: {'ok' if passed else 'FAILED'}{f' ({detail})' if detail else ''}")
    return tuple(results)


def _checks(*, metrics: bool) -> dict[str, Check]:
    greedy = Greedy()
    return {
        "health": _health,
        "models": _models,
        "completions": _completions,
        "greedy": greedy.before,
        # Soon: a server that compiles its sampler at the first such request may die of it.
        "sampling": sampling,
        "top-p": top_p,
        "top-k": top_k,
        "min-p": min_p,
        "penalties": penalties,
        "seed": seed,
        "logprobs": logprobs,
        "two-choices": two_choices,
        "stop-string": stop_string,
        "chat": _chat,
        "stream": _stream,
        "stream-usage": _stream_usage,
        "structured-output": _structured,
        "errors": _errors,
        "parallel": _parallel,
        "mixed-users": mixed_users,
        "long-prompt": long_prompt,
        "over-long": over_long,
        "abort": abort,
        **({"metrics": _metrics} if metrics else {}),
        "greedy-after": greedy.after,
        "health-after": _health,
    }


def _judged(check: Check, client: ApiClient, asked: ApiQuestion) -> tuple[str, bool]:
    try:
        return check(client, asked), True
    except Refused as refused:
        return f"refused: {refused}", True
    except Wrong as wrong:
        return str(wrong), False


def _ended(clock: _Clock, health: str, alive: Callable[[], bool]) -> bool:
    """Say whether the server is gone; its connections and its health go a moment before its process does."""
    deadline = time.monotonic() + _DYING
    while alive():
        suspect = (clock.cut or clock.failed) and time.monotonic() < deadline
        if not suspect or clock.call("GET", health, timeout=_DYING).status == 200:
            return False
        time.sleep(0.1)
    return True


class _Clock:
    """Passes calls on, adds up how long the answers took, and notes those that did not come."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self.seconds = 0.0
        self.late = False
        """A request got no answer in time."""
        self.cut = False
        """A request got no answer because its connection was cut or refused."""
        self.failed = False
        """A request was answered with 5xx."""

    def call(self, method: str, url: str, *, body: Any = None, timeout: float) -> Reply:
        reply = self._client.call(method, url, body=body, timeout=timeout)
        self.seconds += reply.seconds
        self._note(reply.status, reply.error, reply.seconds, timeout)
        return reply

    def stream(self, url: str, *, body: Any, timeout: float, events: int | None = None) -> Stream:
        began = time.monotonic()
        stream = self._client.stream(url, body=body, timeout=timeout, events=events)
        self.seconds += stream.times[-1] if stream.times else 0.0
        self._note(stream.status, stream.error, time.monotonic() - began, timeout)
        return stream

    def load(
        self, base: str, workload: Workload, *, timeout: float, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Sample, ...]:
        samples = self._client.load(base, workload, timeout=timeout, progress=progress)
        self.seconds += max((sample.ended for sample in samples), default=0.0)
        for sample in samples:
            self._note(sample.status, sample.error, sample.ended - sample.started, timeout)
        return samples

    def _note(self, status: int, error: str | None, seconds: float, timeout: float) -> None:
        self.failed |= status >= 500
        if error is not None and status in {0, 200}:
            self.late |= seconds >= timeout
            self.cut |= seconds < timeout


def _health(client: ApiClient, asked: ApiQuestion) -> str:
    reply = client.call("GET", asked.base + asked.health, timeout=asked.timeout)
    need(reply.status == 200, said(reply))
    return ""


def _models(client: ApiClient, asked: ApiQuestion) -> str:
    document = document_of(client.call("GET", f"{asked.base}/v1/models", timeout=asked.timeout))
    listed = document.get("data")
    need(isinstance(listed, list) and listed, "no model is listed")
    assert isinstance(listed, list)
    names = [str(entry.get("id")) for entry in listed if isinstance(entry, dict)]
    need(asked.model in names, f"{asked.model!r} is not listed, but {', '.join(names)}")
    return ", ".join(names)


def _completions(client: ApiClient, asked: ApiQuestion) -> str:
    body = request_body(asked, prompt=PROMPT)
    document = document_of(client.call("POST", f"{asked.base}/v1/completions", body=body, timeout=asked.timeout))
    choice = choice_of(document)
    need(isinstance(choice.get("text"), str), "the answer has no text")
    need(choice.get("finish_reason") == "length", f"finish_reason is {choice.get('finish_reason')!r}, not 'length'")
    prompt, completion = usage_of(document)
    exact(completion, asked=TOKENS)
    return f"{prompt} prompt tokens, {completion} completion tokens"


def _chat(client: ApiClient, asked: ApiQuestion) -> str:
    body = request_body(asked, messages=MESSAGES)
    document = document_of(client.call("POST", f"{asked.base}/v1/chat/completions", body=body, timeout=asked.timeout))
    message = choice_of(document).get("message")
    need(isinstance(message, dict) and message.get("role") == "assistant", "the answer is not an assistant's message")
    _, completion = usage_of(document)
    exact(completion, asked=TOKENS)
    return ""


def _stream(client: ApiClient, asked: ApiQuestion) -> str:
    events = events_of(client, asked, "/v1/completions", request_body(asked, prompt=PROMPT))
    reasons = [event["choices"][0].get("finish_reason") for event in events if event.get("choices")]
    need("length" in reasons, f"no event ends the stream with finish_reason 'length': {reasons[-1:]}")
    chat = events_of(client, asked, "/v1/chat/completions", request_body(asked, messages=MESSAGES))
    deltas = [event["choices"][0].get("delta") or {} for event in chat if event.get("choices")]
    need(any(delta.get("content") is not None for delta in deltas), "the streamed chat has no content")
    return f"{len(reasons)} events"


def _stream_usage(client: ApiClient, asked: ApiQuestion) -> str:
    body = request_body(asked, prompt=PROMPT, stream_options={"include_usage": True})
    events = events_of(client, asked, "/v1/completions", body)
    told = [event for event in events if event.get("usage")]
    need(told, "no event reports usage although stream_options requests it")
    _, completion = usage_of(told[-1])
    exact(completion, asked=TOKENS)
    pieces = sum(bool(event.get("choices") and event["choices"][0].get("text")) for event in events)
    need(pieces <= completion, f"{pieces} pieces were streamed, but usage says {completion} tokens")
    return f"{pieces} pieces, {completion} tokens"


def _structured(client: ApiClient, asked: ApiQuestion) -> str:
    """An answer held to a schema of an object; a model that babbles white space without end is held to a choice."""
    choice = _held(client, asked, SCHEMA, "Name a city as JSON.")
    text = (choice.get("message") or {}).get("content")
    if choice.get("finish_reason") == "length":
        # JSON allows white space without end, and a model with random weights may say nothing else.
        need(
            str(text).lstrip().startswith("{"), f"the answer does not begin as the schema requires: {str(text)[:60]!r}"
        )
        cities = SCHEMA["properties"]["city"]["enum"]
        one = (_held(client, asked, {"type": "string", "enum": cities}, "Name a city.").get("message") or {}).get(
            "content"
        )
        need(parsed(one) in cities, f"the answer is none of the choices: {str(one)[:100]!r}")
        return f"{one} (an object did not end within 128 tokens)"
    answer = parsed(text)
    fits = (
        isinstance(answer, dict)
        and set(answer) == set(SCHEMA["required"])
        and answer["city"] in SCHEMA["properties"]["city"]["enum"]
        and isinstance(answer["large"], bool)
    )
    need(fits, f"the answer does not follow the schema: {str(text)[:100]}")
    return str(text)


def _held(client: ApiClient, asked: ApiQuestion, schema: dict[str, Any], question: str) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    body = {
        "model": asked.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 128,
        "temperature": 0,
        "response_format": form,
    }
    return choice_of(
        document_of(client.call("POST", f"{asked.base}/v1/chat/completions", body=body, timeout=asked.timeout))
    )


def _errors(client: ApiClient, asked: ApiQuestion) -> str:
    """Malformed requests must be refused as the caller's fault (4xx), and the server must live on."""
    url = f"{asked.base}/v1/completions"
    bad: dict[str, Any] = {
        "no JSON": b"{",
        "no prompt": {"model": asked.model, "max_tokens": 4},
        "negative max_tokens": request_body(asked, prompt=PROMPT) | {"max_tokens": -1},
    }
    for what, body in bad.items():
        reply = client.call("POST", url, body=body, timeout=asked.timeout)
        need(400 <= reply.status < 500, f"{what}: not refused with 4xx, but {said(reply)}")
    reply = client.call("GET", f"{asked.base}/v1/no-such-thing", timeout=asked.timeout)
    need(reply.status == 404, f"an unknown path: not refused with 404, but {said(reply)}")
    # Some engines serve whatever name is asked for; that is told, not judged.
    other = request_body(asked, prompt=PROMPT) | {"model": "no-such-model"}
    reply = client.call("POST", url, body=other, timeout=asked.timeout)
    return f"an unknown model gives HTTP {reply.status}"


def _parallel(client: ApiClient, asked: ApiQuestion) -> str:
    (_, workload) = standard_load(asked.model, lengths=(10,), users=(4,), repeats=2, questions=0, mixed=False, seed=7)
    samples = client.load(asked.base, workload, timeout=asked.timeout)
    failed = [sample.error for sample in samples if sample.error]
    need(not failed, f"{len(failed)} of {len(samples)} requests by 4 users failed: {failed[0] if failed else ''}")
    wrong = [sample.tokens for sample in samples if sample.counted and sample.tokens != workload.max_tokens]
    need(not wrong, f"answers to 4 users have {wrong[:3]} tokens where {workload.max_tokens} were asked for")
    return f"{len(samples)} requests by 4 users"


def _metrics(client: ApiClient, asked: ApiQuestion) -> str:
    reply = client.call("GET", f"{asked.base}/metrics", timeout=asked.timeout)
    need(reply.status == 200, said(reply))
    names = {
        line.split("{")[0].split(" ")[0]
        for line in reply.body.decode(errors="replace").splitlines()
        if line.startswith(asked.engine.metrics_prefix)
    }
    need(names, f"no metric begins with {asked.engine.metrics_prefix}")
    return f"{len(names)} metrics"
