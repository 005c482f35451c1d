"""A small OpenAI-compatible server that takes SGLang's or vLLM's flags, and behaves or misbehaves on request.

Its misbehaviour comes as JSON in the environment variable MISBEHAVE, so that its command line is a real server's:

    start_delay: seconds before it listens            ttft, tpot: seconds to the first token, between tokens
    crash: "text", says it and exits with 1 at start  crash_signal: kills itself with that signal at start
    crash_unless: {flag: [values]}, crashes unless every flag stands on the command line (with one of the values)
    hang: listens and never answers                   never_healthy: /health answers 503
    die_after: exits after so many completions        ignore_term: SIGTERM does nothing
    wrong_usage: adds so many tokens to usage         cut_streams: ends every n-th stream before its end mark
    fail_every: answers every n-th request with 500   no_usage: tells no usage in streams
    bad_json: structured answers are not JSON         babble: structured objects never end
    accepts_anything: malformed requests get 200
    burst: tokens written at once (default 1)         cache: the second request of a prefix is fast and says so
    die_sampled: exits at the first request with a temperature; "slowly": is not healthy, answers with 500, and
        exits a second later
    fail_on: {parameter: status}, answers requests that have it with that status and a message that names it
    ignore: [parameters] that it takes and does not heed (seed, n, stop, top_p, top_k, min_p, logprobs)
    keep_stop: leaves the stop string in the text      stop_reason: the finish_reason at a stop string
    logprobs: "positive", "nan" or "short", or "unlisted" (the chosen token is not among the best)
    drift: greedy answers take the second best at times    leak: requests at once get the length of the one before
    crowd: answers with 500 while so many others are being answered
    over_long: "hang", "die", "accept", or a status for prompts beyond the context
    long_prompt: exits at a prompt of more tokens      after_abort: "die" or "wedge" once a caller has left
    no_context: /v1/models tells no context            deterministic: says that seeds are heeded (SGLang)
    engine: whose log it prints, sglang or vllm       help: path of the help text it prints

With --api-key it wants that key of whoever asks for /v1/.

It needs nothing beyond the standard library, so that it also runs inside a small container.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

MISBEHAVE = json.loads(os.environ.get("MISBEHAVE", "{}"))
ENGINE = MISBEHAVE.get("engine", "sglang")

LOGS = {
    "sglang": [
        "[2026-11-20 12:00:00] Attention backend not specified. Use {backend} backend by default.",
        "[2026-11-20 12:00:01] Load weight begin. avail mem=31.20 GB",
        "[2026-11-20 12:00:02] Load weight end. type=LlamaForCausalLM, dtype=torch.bfloat16, mem usage=0.10 GB.",
        "[2026-11-20 12:00:03] KV Cache is allocated. #tokens: 65536, K size: 0.25 GB, V size: 0.25 GB",
        "GRAPHS",
        "[2026-11-20 12:00:09] max_total_num_tokens=65536, chunked_prefill_size={chunk}, max_running_requests=32",
        "[2026-11-20 12:00:10] The server is fired up and ready to roll!",
    ],
    "vllm": [
        "INFO 11-20 12:00:00 [cuda.py:482] Using {backend} attention backend out of potential backends: [...].",
        "INFO 11-20 12:00:02 [gpu_model_runner.py:4877] Model loading took 0.10 GiB and 1.2 seconds",
        "INFO 11-20 12:00:03 [kv_cache_utils.py:1087] GPU KV cache size: 65,536 tokens",
        "INFO 11-20 12:00:03 [scheduler.py:82] Chunked prefill is enabled with max_num_batched_tokens={chunk}.",
        "GRAPHS",
        "INFO 11-20 12:00:10 Application startup complete.",
    ],
}


def flags() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for word in sys.argv[1:]:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = [value] if value else []
        elif name:
            found[name].append(word)
        else:
            found.setdefault("model", [word])
    return found


FLAGS = flags()
CONTEXT = int((FLAGS.get("max-model-len") or FLAGS.get("context-length") or ["4096"])[0])
CHUNK = int((FLAGS.get("chunked-prefill-size") or ["2048"])[0])
PLACES = 30
"""Tokens that may stand in a place of an answer; the k-th has log-probability -k / 2, made to add up to one."""
LOG_SUM = math.log(sum(math.exp(-rank / 2) for rank in range(PLACES)))
MODEL = (FLAGS.get("served-model-name") or FLAGS.get("model-path") or FLAGS.get("model") or ["tiny"])[0]


def say(line: str) -> None:
    print(line, flush=True)


def start_up() -> None:
    backend = (FLAGS.get("attention-backend") or ["flashinfer" if ENGINE == "sglang" else "FLASH_ATTN"])[0]
    off = {"disable-cuda-graph", "disable-decode-cuda-graph", "enforce-eager"} & set(FLAGS)
    off |= {"x"} if "NONE" in " ".join(FLAGS.get("compilation-config", [])) else set()
    for line in LOGS[ENGINE]:
        if line != "GRAPHS":
            say(line.format(backend=backend, chunk=CHUNK))
        elif not off and ENGINE == "sglang":
            say("[2026-11-20 12:00:04] Capture cuda graph begin. This can take up to several minutes.")
            say("[2026-11-20 12:00:04] Capture cuda graph bs [1, 2, 4, 8]")
            say("[2026-11-20 12:00:08] Capture cuda graph end. Time elapsed: 4.00 s. mem usage=0.05 GB.")
        elif not off:
            say("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|##########| 81/81 [00:02<00:00]")
            say("Capturing CUDA graphs (decode, FULL): 100%|##########| 35/35 [00:01<00:00]")
            say("INFO 11-20 12:00:09 [gpu_model_runner.py:4900] Graph capturing finished in 3 secs, took 0.89 GiB")


def crash_if_asked() -> None:
    for flag, values in MISBEHAVE.get("crash_unless", {}).items():
        given = FLAGS.get(flag)
        if given is None or (values and not set(values) & set(given)):
            say("Traceback (most recent call last):")
            say(MISBEHAVE.get("crash", "RuntimeError: CUDA error: no kernel image is available for execution"))
            sys.exit(1)
    if "crash_unless" not in MISBEHAVE and "crash" in MISBEHAVE:
        say(MISBEHAVE["crash"])
        sys.exit(1)
    if number := MISBEHAVE.get("crash_signal"):
        os.kill(os.getpid(), number)


class Answer:
    """One choice: for each token its rank in its place, which is 0 in a greedy answer."""

    def __init__(self, asked: dict[str, Any], tokens: int, index: int) -> None:
        given = {name: value for name, value in asked.items() if name not in MISBEHAVE.get("ignore", ())}
        self.index = index
        seed = given.get("seed")
        rng = random.Random(None if seed is None else f"{seed} {index}")
        self.ranks = [self.rank(given, rng) for _ in range(tokens)]
        self.reason = "length"
        if MISBEHAVE.get("drift") and not given.get("temperature"):
            self.ranks = [random.randrange(2) for _ in range(tokens)]
        stops = given.get("stop") or []
        for count in range(tokens):
            text = "".join(self.token(place) for place in range(count + 1))
            found = [text.index(stop) for stop in ([stops] if isinstance(stops, str) else stops) if stop in text]
            if found:
                self.ranks = self.ranks[: count + 1]
                self.text = text if MISBEHAVE.get("keep_stop") else text[: min(found)]
                self.reason = MISBEHAVE.get("stop_reason", "stop")
                return
        self.text = "".join(self.token(place) for place in range(tokens))

    @staticmethod
    def rank(given: dict[str, Any], rng: random.Random) -> int:
        temperature = given.get("temperature", 1.0)
        if not temperature:
            return 0
        top_k, top_p, min_p = given.get("top_k", -1), given.get("top_p", 1.0), given.get("min_p", 0.0)
        ranks = [rank for rank in range(PLACES) if (top_k < 1 or rank < top_k) and math.exp(-rank / 2) >= min_p]
        weights = [math.exp(-rank / 2 / temperature) for rank in ranks]
        nucleus = next(
            n for n in range(1, len(ranks) + 1) if sum(weights[:n]) >= top_p * sum(weights) or n == len(ranks)
        )
        return rng.choices(ranks[:nucleus], weights[:nucleus])[0]

    def token(self, place: int) -> str:
        return f" w{place + self.ranks[place]}"

    def choice(self, asked: dict[str, Any], *, chat: bool) -> dict[str, object]:
        part = {"message": {"role": "assistant", "content": self.text}} if chat else {"text": self.text}
        told = {"logprobs": self.logprobs(asked, chat=chat)} if asked.get("logprobs") else {}
        return {"index": self.index, **part, "finish_reason": self.reason, **told}

    def logprobs(self, asked: dict[str, Any], *, chat: bool) -> dict[str, object] | None:
        if "logprobs" in MISBEHAVE.get("ignore", ()):
            return None
        wrong = MISBEHAVE.get("logprobs")
        count = asked.get("top_logprobs", 0) if chat else asked["logprobs"]
        places = range(len(self.ranks) - (wrong == "short"))
        values = [-rank / 2 - LOG_SUM for rank in range(PLACES)]
        values[0] = {"positive": 0.5, "nan": math.nan}.get(str(wrong), values[0])
        best = [
            {f" w{place + rank}": values[rank] for rank in range(PLACES)
             if rank < count or (rank == self.ranks[place] and not chat)} for place in places
        ]  # fmt: skip
        if wrong == "unlisted":
            best = [{name: value for name, value in one.items() if name != self.token(place)}
                    for place, one in enumerate(best)]  # fmt: skip
        chosen = [values[self.ranks[place]] for place in places]
        if not chat:
            return {"tokens": [self.token(place) for place in places], "token_logprobs": chosen, "top_logprobs": best}
        return {"content": [
            {"token": self.token(place), "logprob": chosen[place],
             "top_logprobs": [{"token": name, "logprob": value} for name, value in best[place].items()]}
            for place in places
        ]}  # fmt: skip


class Server:
    def __init__(self) -> None:
        self.completions = 0
        self.streams = 0
        self.requests = 0
        self.prefixes: set[str] = set()
        self.active = 0
        self.dying = False
        self.left = False
        """A caller went away in the middle of a stream."""
        self.tokens = 0
        """What the request before asked for."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split("\r\n", 1)[0].split(" ", 2)
                length = 0
                key = ""
                for line in head.split("\r\n")[1:]:
                    if line.lower().startswith("content-length:"):
                        length = int(line.split(":")[1])
                    if line.lower().startswith("authorization: bearer "):
                        key = line[len("authorization: bearer ") :]
                body = await reader.readexactly(length) if length else b""
                if MISBEHAVE.get("hang"):
                    await asyncio.sleep(3600)
                if path.startswith("/v1/") and "api-key" in FLAGS and key not in FLAGS["api-key"]:
                    self.json(writer, 401, {"error": "Unauthorized"})
                elif not await self.answer(method, path, body, writer):
                    break
        writer.close()

    async def answer(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        self.requests += 1
        if path == "/health":
            return self.send(writer, 503 if MISBEHAVE.get("never_healthy") or self.dying else 200, b"")
        if path == "/v1/models":
            length = {} if MISBEHAVE.get("no_context") else {"max_model_len": CONTEXT}
            return self.json(writer, 200, {"object": "list", "data": [{"id": MODEL, "object": "model", **length}]})
        if path == "/metrics":
            known = b"sglang:num_running_reqs 0\n" if ENGINE == "sglang" else b"vllm:num_requests_running 0\n"
            return self.send(writer, 200, known, "text/plain")
        if path in {"/get_server_info", "/server_info"} and ENGINE == "sglang":
            backend = (FLAGS.get("attention-backend") or ["flashinfer"])[0]
            return self.json(writer, 200, {"attention_backend": backend, "sampling_backend": "flashinfer",
                                           "enable_deterministic_inference": "deterministic" in MISBEHAVE})  # fmt: skip
        if path not in {"/v1/completions", "/v1/chat/completions"} or method != "POST":
            return self.json(writer, 404, {"detail": "Not Found"})
        try:
            asked = json.loads(body)
            tokens = int(asked.get("max_tokens", 16))
            prompt = asked.get("prompt") if path == "/v1/completions" else asked["messages"][-1]["content"]
            if tokens < 0 or prompt is None:
                raise ValueError("max_tokens must be positive and a prompt given")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            status = 200 if MISBEHAVE.get("accepts_anything") else 400
            return self.json(writer, status, {"object": "error", "message": str(error), "code": status})
        self.completions += 1
        if (limit := MISBEHAVE.get("die_after")) is not None and self.completions > limit:
            say("Fatal Python error: Segmentation fault")
            os._exit(139)
        if (every := MISBEHAVE.get("fail_every")) and self.completions % every == 0:
            return self.json(writer, 500, {"error": {"message": "internal error"}})
        return await self.admit(asked, str(prompt), tokens, writer, chat=path.endswith("chat/completions"))

    async def admit(
        self, asked: dict[str, Any], prompt: str, tokens: int, writer: asyncio.StreamWriter, *, chat: bool
    ) -> bool:
        if (refusal := await self.refusal(asked, len(prompt.split()), tokens)) is not None:
            status, message = refusal
            return self.json(writer, status, {"object": "error", "message": message, "code": status})
        if MISBEHAVE.get("leak") and self.active:
            tokens = self.tokens
        self.tokens = tokens
        self.active += 1
        try:
            return await self.complete(asked, prompt, tokens, writer, chat=chat)
        except ConnectionError:
            self.left = True
            raise
        finally:
            self.active -= 1

    async def refusal(self, asked: dict[str, object], prompt: int, tokens: int) -> tuple[int, str] | None:
        """Return why a request gets no answer, if so."""
        if self.left and "after_abort" in MISBEHAVE:
            await self.end(MISBEHAVE["after_abort"])
        if MISBEHAVE.get("die_sampled") and asked.get("temperature"):
            if MISBEHAVE["die_sampled"] != "slowly":
                await self.end("die")
            self.dying = True
            asyncio.get_running_loop().call_later(1.0, os._exit, 1)
            return 500, "EngineCore encountered an issue"
        if prompt > MISBEHAVE.get("long_prompt", prompt):
            await self.end("die")
        for name, status in MISBEHAVE.get("fail_on", {}).items():
            if name in asked:
                return status, f"{name} is not supported"
        if self.active >= MISBEHAVE.get("crowd", self.active + 1):
            return 500, "internal error"
        if prompt + (0 if asked.get("response_format") else tokens) > CONTEXT:
            how = MISBEHAVE.get("over_long", 400)
            if isinstance(how, int):
                return how, f"This model's maximum context length is {CONTEXT} tokens"
            await self.end(how)
        return None

    @staticmethod
    async def end(how: str) -> None:
        if how == "die":
            say("RuntimeError: Ninja build failed. Ninja output:")
            os._exit(1)
        if how in {"hang", "wedge"}:
            await asyncio.sleep(3600)

    def usage(self, prompt: str, tokens: int) -> dict[str, object]:
        prompt_tokens = len(prompt.split())
        shown = tokens + MISBEHAVE.get("wrong_usage", 0)
        prefix = prompt[:200]
        cached = prompt_tokens - 8 if MISBEHAVE.get("cache") and prefix in self.prefixes else 0
        self.prefixes.add(prefix)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": shown,
            "total_tokens": prompt_tokens + shown,
            "prompt_tokens_details": {"cached_tokens": max(cached, 0)},
        }

    async def complete(
        self, asked: dict[str, object], prompt: str, tokens: int, writer: asyncio.StreamWriter, *, chat: bool
    ) -> bool:
        began = time.perf_counter()
        ttft, tpot = MISBEHAVE.get("ttft", 0.0), MISBEHAVE.get("tpot", 0.0)
        usage = self.usage(prompt, tokens)
        if usage["prompt_tokens_details"]["cached_tokens"]:  # type: ignore[index]
            ttft = 0.0
        count = 1 if "n" in MISBEHAVE.get("ignore", ()) else int(asked.get("n") or 1)  # type: ignore[call-overload]
        written = [Answer(asked, tokens, index) for index in range(count)]
        first = written[0]
        if asked.get("response_format"):
            first.text = self.structured(asked["response_format"])
            first.reason = "length" if first.text.startswith("{ ") else "stop"
        else:
            usage = self.usage(prompt, sum(len(one.ranks) for one in written))
        if not asked.get("stream"):
            if wait := ttft + tpot * max(tokens - 1, 0):
                await asyncio.sleep(wait)
            choices = [one.choice(asked, chat=chat) for one in written]
            return self.json(writer, 200, {"id": "x", "model": MODEL, "choices": choices, "usage": usage})
        self.streams += 1
        cut = MISBEHAVE.get("cut_streams")
        tokens = len(first.ranks)
        stop = tokens // 2 if cut and self.streams % cut == 0 else tokens
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        burst = MISBEHAVE.get("burst", 1)
        for start in range(0, stop, burst):
            due = began + ttft + tpot * start
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            count = min(burst, stop - start)
            places = range(start, start + count)
            texts = [(first.token(place), first.reason if place == tokens - 1 else None) for place in places]
            self.chunk(writer, b"".join(self.event(text, finish, chat=chat) for text, finish in texts))
            await writer.drain()
            if not wait > 0:
                await asyncio.sleep(0)
        if stop < tokens:
            writer.close()
            return False
        wants = (asked.get("stream_options") or {}).get("include_usage")  # type: ignore[attr-defined]
        if wants and not MISBEHAVE.get("no_usage"):
            self.chunk(writer, b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        self.chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    @staticmethod
    def structured(form: object) -> str:
        """Answer held to a schema; `babble` gives an object that never ends, as a model with random weights does."""
        if MISBEHAVE.get("bad_json"):
            return "not json"
        if "enum" in form["json_schema"]["schema"]:  # type: ignore[index]
            return '"Busan"'
        return "{ \n \n" if MISBEHAVE.get("babble") else '{"city": "Seoul", "large": true}'

    @staticmethod
    @functools.cache
    def event(text: str, finish: str | None, *, chat: bool) -> bytes:
        part = {"delta": {"content": text}} if chat else {"text": text}
        document = {"id": "x", "object": "text_completion", "choices": [{"index": 0, **part, "finish_reason": finish}]}
        return b"data: " + json.dumps(document).encode() + b"\n\n"

    @staticmethod
    def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def json(self, writer: asyncio.StreamWriter, status: int, document: object) -> bool:
        return self.send(writer, status, json.dumps(document).encode())

    @staticmethod
    def send(writer: asyncio.StreamWriter, status: int, body: bytes, kind: str = "application/json") -> bool:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        return True


async def run() -> None:
    host, port = (FLAGS.get("host") or ["127.0.0.1"])[0], int((FLAGS.get("port") or ["30000"])[0])
    handler = Server()
    try:
        server = await asyncio.start_server(handler.serve, host, port)
    except OSError as error:
        say(f"ERROR: [Errno {error.errno}] error while attempting to bind on address ('{host}', {port}): {error}")
        sys.exit(1)
    stopped = asyncio.Event()
    asked = (lambda: None) if MISBEHAVE.get("ignore_term") else stopped.set
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked)
    say(f"Uvicorn running on http://{host}:{server.sockets[0].getsockname()[1]}")
    async with server:
        await stopped.wait()
    say("Shutting down")


def main() -> None:
    if "help" in FLAGS:
        say(Path(MISBEHAVE["help"]).read_text() if "help" in MISBEHAVE else "usage: server [-h]")
        return
    if "version" in FLAGS:
        say(json.dumps({"sglang": MISBEHAVE.get("version", "0.5.14")}))
        return
    crash_if_asked()
    time.sleep(MISBEHAVE.get("start_delay", 0))
    start_up()
    asyncio.run(run())


if __name__ == "__main__":
    main()
