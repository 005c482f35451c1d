"""Whether a server stays well at its limits: a prompt in several pieces, one that is too long, a caller that leaves."""

from __future__ import annotations

import random
from typing import Any, Final

from assay.pipeline.api_answers import (
    TOKENS,
    ApiQuestion,
    Wrong,
    document_of,
    exact,
    need,
    request_body,
    said,
    usage_of,
)
from assay.ports.api import ApiClient
from assay.serving.load import random_words

__all__ = ["abort", "long_prompt", "over_long"]

LONGEST: Final = 20_480
"""Tokens of the longest prompt where the server does not tell its pieces; both engines' default is at most 16 384."""
LEFT: Final = 3
"""Streams that are left in the middle."""


def _text(words: int, seed: int) -> str:
    # The same text each time, on purpose.
    return random_words(random.Random(seed), words)  # noqa: S311


def _context(client: ApiClient, asked: ApiQuestion) -> int:
    """Return the tokens that a prompt and its answer may have together, as /v1/models tells."""
    document = document_of(client.call("GET", f"{asked.base}/v1/models", timeout=asked.timeout))
    entries = document.get("data")
    for entry in entries if isinstance(entries, list) else []:
        length = entry.get("max_model_len") if isinstance(entry, dict) else None
        if isinstance(length, int) and length > 0:
            return length
    raise Wrong("/v1/models reports no max_model_len")


def _asked_with(client: ApiClient, asked: ApiQuestion, prompt: str, tokens: int) -> tuple[int, int]:
    body = request_body(asked, prompt=prompt, max_tokens=tokens)
    reply = client.call("POST", f"{asked.base}/v1/completions", body=body, timeout=asked.timeout)
    return usage_of(document_of(reply, about=f"a prompt of {len(prompt)} characters"))


def _tokens_per_word(client: ApiClient, asked: ApiQuestion, context: int) -> float:
    """Return how many tokens a word of the text is to this server."""
    # Tokenizers of single bytes make seven or eight of a word.
    words = max(min(64, context // 16), 1)
    prompt, _ = _asked_with(client, asked, _text(words, seed=1), 1)
    return prompt / words


def long_prompt(client: ApiClient, asked: ApiQuestion) -> str:
    """A prompt longer than what the server computes at once, where its context allows that."""
    context = _context(client, asked)
    room = min(context, asked.pool or context)
    wanted = min(room - TOKENS, LONGEST if asked.chunk is None else asked.chunk * 5 // 2)
    # Some less, for the words of the text are not equally long.
    words = int(0.93 * wanted / _tokens_per_word(client, asked, room))
    prompt, completion = _asked_with(client, asked, _text(max(words, 1), seed=2), TOKENS)
    exact(completion, asked=TOKENS)
    need(prompt * 2 > wanted, f"usage says {prompt} prompt tokens where about {wanted} were sent")
    if asked.chunk is None:
        pieces = "its log does not show the size of the pieces"
    else:
        pieces = f"in pieces of {asked.chunk}" if prompt > asked.chunk else f"in one piece (of up to {asked.chunk})"
    return f"{prompt} prompt tokens of a context of {context}, {pieces}"


def over_long(client: ApiClient, asked: ApiQuestion) -> str:
    """A prompt beyond the context is the caller's mistake (4xx); the server answers the next request."""
    context = _context(client, asked)
    words = int(1.3 * context / _tokens_per_word(client, asked, context)) + 16
    body = request_body(asked, prompt=_text(words, seed=3))
    reply = client.call("POST", f"{asked.base}/v1/completions", body=body, timeout=asked.timeout)
    about = f"a prompt beyond the context of {context} tokens"
    need(400 <= reply.status < 500, f"{about}: not refused with 4xx, but {said(reply)}")
    _asked_with(client, asked, _text(4, seed=4), TOKENS)
    return f"HTTP {reply.status}"


def abort(client: ApiClient, asked: ApiQuestion) -> str:
    """A caller that leaves in the middle of a stream; the server answers the next."""
    tokens = max(min(512, _context(client, asked) // 2), TOKENS)
    whole = 0
    for number in range(LEFT):
        body: dict[str, Any] = request_body(asked, prompt=_text(4, seed=10 + number), max_tokens=tokens, stream=True)
        stream = client.stream(f"{asked.base}/v1/completions", body=body, timeout=asked.timeout, events=2)
        need(stream.status == 200 and stream.events, f"a stream of {tokens} tokens: {said(stream)}")
        whole += stream.finished
    try:
        _, completion = _asked_with(client, asked, _text(4, seed=20), TOKENS)
    except Wrong as wrong:
        raise Wrong(f"after {LEFT} callers left in the middle of a stream: {wrong}") from wrong
    exact(completion, asked=TOKENS)
    return f"{LEFT} streams of {tokens} tokens, left after 2 events" + (f"; {whole} had ended" if whole else "")
