"""Reading a server's answers: what the checks of its API ask with, and what they require of every answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from assay.engines.engine import ServingEngine
from assay.foundation.foreign import read_json
from assay.ports.api import ApiClient, Reply, Stream

__all__ = [
    "MESSAGES",
    "PROMPT",
    "TOKENS",
    "ApiQuestion",
    "Check",
    "Refused",
    "Wrong",
    "choice_of",
    "choices_of",
    "document_of",
    "events_of",
    "exact",
    "names_optional",
    "need",
    "parsed",
    "post",
    "request_body",
    "said",
    "usage_of",
    "words_for",
]

TOKENS: Final = 8
PROMPT: Final = "The capital of France is"
MESSAGES: Final = [{"role": "user", "content": PROMPT}]
OPTIONAL: Final = frozenset(
    {
        "frequency_penalty",
        "logprobs",
        "min_p",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "top_k",
        "top_logprobs",
    }
)
"""Parameters that a server may refuse by name, in some release or configuration: min_p with speculative decoding."""


@dataclass(frozen=True, kw_only=True)
class ApiQuestion:
    """The server in question: address, model, engine, and time limit (seconds)."""

    base: str
    model: str
    engine: ServingEngine
    health: str
    """The path under which it tells that it is well."""
    timeout: float = 120.0
    chunk: int | None = None
    """Tokens of a prompt that the server computes at once, by its log."""
    pool: int | None = None
    """Tokens that its KV cache holds, by its log."""


class Wrong(Exception):
    """An answer differs from the expected one; the text says how. Never leaves the checks."""


class Refused(Exception):
    """The server refused a parameter by name, which it may. Never leaves the checks."""


Check = Callable[[ApiClient, ApiQuestion], str]


def need(condition: object, message: str) -> None:
    """Raise `Wrong` unless the condition holds."""
    if not condition:
        raise Wrong(message)


def said(reply: Reply | Stream) -> str:
    """Return how a request ended that was not answered as expected: status and first words, or why nothing came."""
    if not reply.status:
        return reply.error or "no answer"
    return f"HTTP {reply.status}: {reply.error or ' '.join(reply.body.decode(errors='replace').split())[:160]}"


def names_optional(text: str, asking: Iterable[str]) -> bool:
    """Say whether a refusal names one of the parameters `asking` that a server may refuse."""
    return any(re.search(rf"\b{name}\b", text) for name in OPTIONAL.intersection(asking))


def document_of(reply: Reply, *, about: str = "", asking: Iterable[str] = ()) -> dict[str, Any]:
    """Return the JSON object of an answer; `about` names the request where it fails.

    Raises:
        Refused: the server refused one of the parameters `asking` by name, and may.
        Wrong: no answer with HTTP 200 and a JSON object came.
    """
    prefix = f"{about}: " if about else ""
    if reply.status in {400, 422}:
        text = reply.body.decode(errors="replace")
        if names_optional(text, asking):
            raise Refused(f"{prefix}{said(reply)}")
    need(reply.status == 200, prefix + said(reply))
    try:
        found = read_json(reply.body, constants=True)
    except ValueError as error:
        raise Wrong(f"{prefix}the answer is not JSON: {said(reply)}") from error
    need(isinstance(found, dict), f"{prefix}the answer is not an object")
    document: dict[str, Any] = found
    return document


def choices_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of an answer, at least one."""
    choices = document.get("choices")
    listed = isinstance(choices, list) and choices and all(isinstance(one, dict) for one in choices)
    need(listed, "no choices in the answer")
    found: list[dict[str, Any]] = choices  # type: ignore[assignment]
    return found


def choice_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first choice of an answer."""
    return choices_of(document)[0]


def usage_of(document: Mapping[str, Any]) -> tuple[int, int]:
    """Return the prompt's and the completion's tokens as the server counts them."""
    usage = document.get("usage")
    need(isinstance(usage, dict), "no usage in the answer")
    assert isinstance(usage, dict)
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    need(all(isinstance(count, int) and count > 0 for count in counts), f"usage is incomplete: {usage}")
    prompt, completion, total = (int(count) for count in counts if count is not None)
    need(prompt + completion == total, f"usage does not add up: {prompt} + {completion} is not {total}")
    return prompt, completion


def exact(completion: int, *, asked: int) -> None:
    """Require as many completion tokens as were asked for."""
    need(completion == asked, f"usage says {completion} completion tokens where exactly {asked} were asked for")


def request_body(asked: ApiQuestion, **more: Any) -> dict[str, Any]:
    """Return a greedy request of `TOKENS` tokens, changed by `more`."""
    return {"model": asked.model, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, **more}


def words_for(parameters: Mapping[str, Any]) -> str:
    """Return parameters as a person names them: `temperature 0.8, top_p 0.9`."""
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def post(
    client: ApiClient,
    asked: ApiQuestion,
    parameters: Mapping[str, Any],
    *,
    prompt: str = PROMPT,
    chat: bool = False,
    tokens: int = TOKENS,
    patience: float | None = None,
) -> dict[str, Any]:
    """Ask for exactly `tokens` tokens with these parameters and return the answer; what is wrong names them.

    Raises:
        Refused: the server refused one of the parameters by name, and may.
        Wrong: no such answer came.
    """
    words = [{"role": "user", "content": prompt}]
    question: dict[str, Any] = {"messages": words} if chat else {"prompt": prompt}
    body = request_body(asked, **question, **{"max_tokens": tokens, **parameters})
    url = f"{asked.base}/v1/{'chat/completions' if chat else 'completions'}"
    reply = client.call("POST", url, body=body, timeout=patience or asked.timeout)
    about = words_for(parameters)
    document = document_of(reply, about=about, asking=parameters)
    try:
        choices = choices_of(document)
        _, completion = usage_of(document)
        if "stop" not in parameters:
            exact(completion, asked=tokens * len(choices))
    except Wrong as wrong:
        raise Wrong(f"{about}: {wrong}") from wrong
    return document


def events_of(client: ApiClient, asked: ApiQuestion, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a stream that came whole."""
    stream = client.stream(f"{asked.base}{path}", body={**body, "stream": True}, timeout=asked.timeout)
    need(stream.status == 200, said(stream))
    need(stream.events, f"nothing was streamed: {said(stream)}")
    need(stream.finished, f"the stream was cut after {len(stream.events)} events: [DONE] is missing")
    events: list[dict[str, Any]] = []
    for data in stream.events:
        try:
            event = read_json(data, constants=True)
        except ValueError as error:
            raise Wrong(f"an event is not JSON: {data[:100]}") from error
        need(isinstance(event, dict) and not event.get("error"), f"an event is an error: {data[:160]}")
        events.append(event)
    return events


def parsed(text: object) -> Any:
    """Return the JSON document that a text is."""
    try:
        return read_json(str(text or ""), constants=True)
    except ValueError as error:
        raise Wrong(f"the answer is not JSON: {str(text)[:100]!r}") from error
