"""Programs run through one helper."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from assay.adapters.docker.buildx import Buildx
from assay.adapters.host.process import run
from assay.errors import StoreError, ToolError
from assay.ports.builder import BuildTask


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_output_comes_back_by_stream() -> None:
    done = run([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"])

    assert (b"out\n", b"err\n", 0) == (done.stdout, done.stderr, done.returncode)


def test_streams_can_be_merged_and_watched() -> None:
    seen: list[bytes] = []
    done = run([sys.executable, "-c", "import os; os.write(1, b'a'); os.write(2, b'b')"], merge=True, sink=seen.append)

    assert (b"ab", b"") == (done.stdout, done.stderr)
    assert b"ab" == b"".join(seen)


def test_input_is_handed_over_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    done = run(["cat"], stdin=b"secret word" * 100_000, limit=1 << 22)

    assert b"secret word" * 100_000 == done.stdout
    assert "secret" not in caplog.text
    assert "$ cat" in caplog.text


def test_long_output_keeps_head_and_tail() -> None:
    done = run([sys.executable, "-c", "print('a' * 100 + 'b' * 10**6 + 'c' * 100)"], limit=1000)

    assert done.stdout.startswith(b"a" * 100 + b"b")
    assert done.stdout.endswith(b"c" * 100 + b"\n")
    assert b"bytes left out" in done.stdout
    assert len(done.stdout) < 1100


def test_a_missing_program_is_reported() -> None:
    with pytest.raises(ToolError, match="no-such-program is not installed") as caught:
        run(["no-such-program", "x"], hint="install it")

    assert "install it" == caught.value.hint


def test_failure_shows_command_exit_code_and_last_lines() -> None:
    with pytest.raises(ToolError, match=r"(?s)ended with code 3.*the reason"):
        run([sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)"])


def test_death_by_signal_is_named() -> None:
    with pytest.raises(ToolError, match="was killed by SIGSEGV"):
        run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"])


def test_time_is_up_for_the_whole_group() -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    seen: list[bytes] = []
    started = time.monotonic()
    with pytest.raises(ToolError, match="still running after 1 s, stopped"):
        run([sys.executable, "-c", code], timeout=1, sink=seen.append)
    child = int(b"".join(seen))

    took = time.monotonic() - started
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert took < 5
    assert not alive(child)


def test_environment_is_laid_over() -> None:
    done = run([sys.executable, "-c", "import os; print(os.environ['X'], 'PATH' in os.environ)"], env={"X": "y"})

    assert "y True\n" == done.text


def test_error_of_the_sink_ends_the_program_and_propagates() -> None:
    def full(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    begun = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        run([sys.executable, "-c", "import time; print('x', flush=True); time.sleep(60)"], sink=full)

    assert time.monotonic() - begun < 30


def test_build_whose_log_cannot_be_written_ends_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").write_text("#!/bin/sh\nwhile :; do echo '#9 [light 1/1] RUN something'; sleep 0.01; done\n")
    (programs / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    log = tmp_path / "build.log"
    log.symlink_to("/dev/full")
    task = BuildTask(dockerfile="FROM scratch\n", tags=("x:1",), log=log, timeout=60)

    with pytest.raises(StoreError, match=r"build\.log cannot be written: No space left") as caught:
        Buildx().build(task)
    assert caught.value.hint is not None
    assert "free some disk space" in caught.value.hint
