"""The server of the third engine: the small server of `openai_server.py`, with flags, log and paths of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

import openai_server as base

CHOSEN = {"attention": (base.FLAGS.get("kernel") or ["fast"])[0], "cache": "65536", "step": "2048"}


class Server(base.Server):
    async def answer(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        if path == "/livez":
            return await super().answer(method, "/health", body, writer)
        if path == "/metrics":
            return self.send(writer, 200, b"tern_requests 0\n", "text/plain")
        if path == "/about":
            return self.send(writer, 200, f"attention_backend={CHOSEN['attention']}\nbuild=debug\n".encode())
        if path == "/health":
            return self.json(writer, 404, {"detail": "Not Found"})
        return await super().answer(method, path, body, writer)


def start_up() -> None:
    if "no-graphs" not in base.FLAGS:
        base.say("tern captured 3 graphs")
    base.say("tern ready: " + " ".join(f"{name}={value}" for name, value in CHOSEN.items()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tern_server", allow_abbrev=False)
    for name in ("weights", "listen", "at", "called", "password", "longest", "slots", "step", "kernel"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--no-graphs", action="store_true")
    parser.parse_args(sys.argv[1:])
    if home := os.environ.get("HF_HOME"):
        # As every server does that downloads its model.
        Path(home, "hub").mkdir(parents=True, exist_ok=True)
        Path(home, "hub", "version.txt").write_text("1")
    base.MODEL = (base.FLAGS.get("called") or base.FLAGS["weights"])[0]
    for own, name in {"listen": "host", "at": "port", "password": "api-key"}.items():
        if own in base.FLAGS:
            base.FLAGS[name] = base.FLAGS[own]
    base.CONTEXT = int((base.FLAGS.get("longest") or ["4096"])[0])
    base.Server, base.start_up = Server, start_up  # type: ignore[misc]
    base.main()


if __name__ == "__main__":
    main()
