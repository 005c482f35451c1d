"""Whether a server's API is right: what is asked, and how the answers are judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from assay.model.profile import Engine
from assay.ports.api import ApiClient, Reply, Stream
from assay.record import ServeCheck
from assay.serving.load import standard_load

__all__ = ["SCHEMA", "Asked", "run_checks"]

TOKENS: Final = 8
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    # Every value is finite, so that even a model with random weights comes to an end.
    "properties": {"city": {"enum": ["Seoul", "Busan", "Daegu"]}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Who is asked: the server's address, its model, its engine, and how patient to be (seconds)."""

    base: str
    model: str
    engine: Engine
    timeout: float = 120.0


class _Wrong(Exception):
    """An answer is not as it has to be; the text says how. Never leaves this module."""


Check = Callable[[ApiClient, Asked], str]


def run_checks(
    client: ApiClient, asked: Asked, *, metrics: bool, progress: Callable[[str], None]
) -> tuple[ServeCheck, ...]:
    """Ask everything, one check after the other; a check that fails does not keep the others from being made."""
    checks: dict[str, Check] = {
        "health": _health,
        "models": _models,
        "completions": _completions,
        "chat": _chat,
        "stream": _stream,
        "stream-usage": _stream_usage,
        "structured-output": _structured,
        "errors": _errors,
        "parallel": _parallel,
    }
    if metrics:
        checks["metrics"] = _metrics
    checks["health-after"] = _health
    results: list[ServeCheck] = []
    for name, check in checks.items():
        clock = _Clock(client)
        try:
            detail, passed = check(clock, asked), True
        except _Wrong as wrong:
            detail, passed = str(wrong), False
        results.append(ServeCheck(name=name, passed=passed, detail=detail, seconds=round(clock.seconds, 4)))
        progress(f"{name}: {'ok' if passed else 'FAILED'}{f' ({detail})' if detail else ''}")
    return tuple(results)


class _Clock:
    """Passes calls on and adds up how long the answers took."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self.seconds = 0.0

    def call(self, method: str, url: str, *, body: Any = None, timeout: float) -> Reply:
        reply = self._client.call(method, url, body=body, timeout=timeout)
        self.seconds += reply.seconds
        return reply

    def stream(self, url: str, *, body: Any, timeout: float) -> Stream:
        stream = self._client.stream(url, body=body, timeout=timeout)
        self.seconds += stream.times[-1] if stream.times else 0.0
        return stream

    def load(self, base: str, workload: Any, *, timeout: float, progress: Any = None) -> Any:
        samples = self._client.load(base, workload, timeout=timeout, progress=progress)
        self.seconds += max((sample.ended for sample in samples), default=0.0)
        return samples


def _need(condition: object, message: str) -> None:
    if not condition:
        raise _Wrong(message)


def _said(reply: Reply) -> str:
    return reply.error or " ".join(reply.body.decode(errors="replace").split())[:160]


def _document(reply: Reply) -> dict[str, Any]:
    _need(reply.status == 200, f"HTTP {reply.status or 'nothing'}: {_said(reply)}")
    try:
        found = json.loads(reply.body)
    except ValueError as error:
        raise _Wrong(f"the answer is not JSON: {_said(reply)}") from error
    _need(isinstance(found, dict), "the answer is not an object")
    document: dict[str, Any] = found
    return document


def _choice(document: dict[str, Any]) -> dict[str, Any]:
    choices = document.get("choices")
    _need(isinstance(choices, list) and choices and isinstance(choices[0], dict), "no choices in the answer")
    choice: dict[str, Any] = choices[0]  # type: ignore[index]
    return choice


def _usage(document: dict[str, Any]) -> tuple[int, int]:
    usage = document.get("usage")
    _need(isinstance(usage, dict), "no usage in the answer")
    assert isinstance(usage, dict)
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    _need(all(isinstance(count, int) and count > 0 for count in counts), f"usage is incomplete: {usage}")
    prompt, completion, total = (int(count) for count in counts if count is not None)
    _need(prompt + completion == total, f"usage does not add up: {prompt} + {completion} is not {total}")
    return prompt, completion


def _exact(completion: int, *, asked: int) -> None:
    _need(completion == asked, f"usage says {completion} completion tokens where exactly {asked} were asked for")


def _body(asked: Asked, **more: Any) -> dict[str, Any]:
    return {"model": asked.model, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, **more}


_PROMPT: Final = "The capital of France is"
_MESSAGES: Final = [{"role": "user", "content": _PROMPT}]


def _health(client: ApiClient, asked: Asked) -> str:
    reply = client.call("GET", f"{asked.base}/health", timeout=asked.timeout)
    _need(reply.status == 200, f"HTTP {reply.status or 'nothing'}: {_said(reply)}")
    return ""


def _models(client: ApiClient, asked: Asked) -> str:
    document = _document(client.call("GET", f"{asked.base}/v1/models", timeout=asked.timeout))
    listed = document.get("data")
    _need(isinstance(listed, list) and listed, "no model is listed")
    assert isinstance(listed, list)
    names = [str(entry.get("id")) for entry in listed if isinstance(entry, dict)]
    _need(asked.model in names, f"{asked.model!r} is not listed, but {', '.join(names)}")
    return ", ".join(names)


def _completions(client: ApiClient, asked: Asked) -> str:
    body = _body(asked, prompt=_PROMPT)
    document = _document(client.call("POST", f"{asked.base}/v1/completions", body=body, timeout=asked.timeout))
    choice = _choice(document)
    _need(isinstance(choice.get("text"), str), "the answer has no text")
    _need(choice.get("finish_reason") == "length", f"finish_reason is {choice.get('finish_reason')!r}, not 'length'")
    prompt, completion = _usage(document)
    _exact(completion, asked=TOKENS)
    return f"{prompt} prompt tokens, {completion} completion tokens"


def _chat(client: ApiClient, asked: Asked) -> str:
    body = _body(asked, messages=_MESSAGES)
    document = _document(client.call("POST", f"{asked.base}/v1/chat/completions", body=body, timeout=asked.timeout))
    message = _choice(document).get("message")
    _need(isinstance(message, dict) and message.get("role") == "assistant", "the answer is no assistant's message")
    _, completion = _usage(document)
    _exact(completion, asked=TOKENS)
    return ""


def _read(client: ApiClient, asked: Asked, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    stream = client.stream(f"{asked.base}{path}", body={**body, "stream": True}, timeout=asked.timeout)
    said = stream.error or stream.body.decode(errors="replace")[:160]
    _need(stream.status == 200, f"HTTP {stream.status or 'nothing'}: {said}")
    _need(stream.events, f"nothing was streamed: {said}")
    _need(stream.finished, f"the stream was cut after {len(stream.events)} events: [DONE] is missing")
    events: list[dict[str, Any]] = []
    for data in stream.events:
        try:
            event = json.loads(data)
        except ValueError as error:
            raise _Wrong(f"an event is not JSON: {data[:100]}") from error
        _need(isinstance(event, dict) and not event.get("error"), f"an event is an error: {data[:160]}")
        events.append(event)
    return events


def _stream(client: ApiClient, asked: Asked) -> str:
    events = _read(client, asked, "/v1/completions", _body(asked, prompt=_PROMPT))
    reasons = [event["choices"][0].get("finish_reason") for event in events if event.get("choices")]
    _need("length" in reasons, f"no event ends the stream with finish_reason 'length': {reasons[-1:]}")
    chat = _read(client, asked, "/v1/chat/completions", _body(asked, messages=_MESSAGES))
    deltas = [event["choices"][0].get("delta") or {} for event in chat if event.get("choices")]
    _need(any(delta.get("content") is not None for delta in deltas), "the streamed chat has no content")
    return f"{len(reasons)} events"


def _stream_usage(client: ApiClient, asked: Asked) -> str:
    body = _body(asked, prompt=_PROMPT, stream_options={"include_usage": True})
    events = _read(client, asked, "/v1/completions", body)
    told = [event for event in events if event.get("usage")]
    _need(told, "no event tells usage although stream_options asks for it")
    _, completion = _usage(told[-1])
    _exact(completion, asked=TOKENS)
    pieces = sum(bool(event.get("choices") and event["choices"][0].get("text")) for event in events)
    _need(pieces <= completion, f"{pieces} pieces were streamed, but usage says {completion} tokens")
    return f"{pieces} pieces, {completion} tokens"


def _structured(client: ApiClient, asked: Asked) -> str:
    """An answer held to a schema of an object; a model that babbles white space without end is held to a choice."""
    choice = _held(client, asked, SCHEMA, "Name a city as JSON.")
    text = (choice.get("message") or {}).get("content")
    if choice.get("finish_reason") == "length":
        # JSON allows white space without end, and a model with random weights may say nothing else.
        _need(str(text).lstrip().startswith("{"), f"the answer does not begin as the schema wants: {str(text)[:60]!r}")
        cities = SCHEMA["properties"]["city"]["enum"]
        one = (_held(client, asked, {"type": "string", "enum": cities}, "Name a city.").get("message") or {}).get(
            "content"
        )
        _need(_parsed(one) in cities, f"the answer is none of the choices: {str(one)[:100]!r}")
        return f"{one} (an object did not end within 128 tokens)"
    answer = _parsed(text)
    fits = (
        isinstance(answer, dict)
        and set(answer) == set(SCHEMA["required"])
        and answer["city"] in SCHEMA["properties"]["city"]["enum"]
        and isinstance(answer["large"], bool)
    )
    _need(fits, f"the answer does not follow the schema: {str(text)[:100]}")
    return str(text)


def _held(client: ApiClient, asked: Asked, schema: dict[str, Any], question: str) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    body = {
        "model": asked.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 128,
        "temperature": 0,
        "response_format": form,
    }
    return _choice(
        _document(client.call("POST", f"{asked.base}/v1/chat/completions", body=body, timeout=asked.timeout))
    )


def _parsed(text: object) -> Any:
    try:
        return json.loads(str(text or ""))
    except ValueError as error:
        raise _Wrong(f"the answer is not JSON: {str(text)[:100]!r}") from error


def _errors(client: ApiClient, asked: Asked) -> str:
    """Malformed requests must be refused as the caller's fault (4xx), and the server must live on."""
    url = f"{asked.base}/v1/completions"
    bad: dict[str, Any] = {
        "no JSON": b"{",
        "no prompt": {"model": asked.model, "max_tokens": 4},
        "negative max_tokens": _body(asked, prompt=_PROMPT) | {"max_tokens": -1},
    }
    for what, body in bad.items():
        reply = client.call("POST", url, body=body, timeout=asked.timeout)
        _need(400 <= reply.status < 500, f"{what}: HTTP {reply.status or 'nothing'} instead of 4xx: {_said(reply)}")
    reply = client.call("GET", f"{asked.base}/v1/no-such-thing", timeout=asked.timeout)
    _need(reply.status == 404, f"an unknown path: HTTP {reply.status or 'nothing'} instead of 404")
    # SGLang serves whatever name is asked for; that is told, not judged.
    other = _body(asked, prompt=_PROMPT) | {"model": "no-such-model"}
    reply = client.call("POST", url, body=other, timeout=asked.timeout)
    return f"an unknown model gives HTTP {reply.status}"


def _parallel(client: ApiClient, asked: Asked) -> str:
    (_, workload) = standard_load(asked.model, lengths=(10,), users=(4,), repeats=2, questions=0, seed=7)
    samples = client.load(asked.base, workload, timeout=asked.timeout)
    failed = [sample.error for sample in samples if sample.error]
    _need(not failed, f"{len(failed)} of {len(samples)} requests by 4 users failed: {failed[0] if failed else ''}")
    wrong = [sample.tokens for sample in samples if sample.counted and sample.tokens != workload.max_tokens]
    _need(not wrong, f"answers to 4 users have {wrong[:3]} tokens where {workload.max_tokens} were asked for")
    return f"{len(samples)} requests by 4 users"


def _metrics(client: ApiClient, asked: Asked) -> str:
    reply = client.call("GET", f"{asked.base}/metrics", timeout=asked.timeout)
    _need(reply.status == 200, f"HTTP {reply.status or 'nothing'}: {_said(reply)}")
    names = {
        line.split("{")[0].split(" ")[0]
        for line in reply.body.decode(errors="replace").splitlines()
        if line.startswith(f"{asked.engine}:")
    }
    _need(names, f"no metric begins with {asked.engine}:")
    return f"{len(names)} metrics"
