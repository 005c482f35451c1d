"""Who wrote a line, whether it is quoted, whether its author ended well, and lines that tools cut."""

# ruff: noqa: E501 - lines of logs are as long as they were

from __future__ import annotations

import io

import pytest

from assay.diagnose import DiagnosisReport, diagnose, examine
from assay.diagnose.authors import Author, author_of, moment_of
from assay.diagnose.formats import unwrapped
from assay.diagnose.quotes import quoted
from assay.diagnose.text import peel

NO_IMAGE = "RuntimeError: CUDA error: no kernel image is available for execution on the device"
NO_NUMA = "ImportError: libnuma.so.1: cannot open shared object file: No such file or directory"


def causes(log: str) -> list[str]:
    return [d.cause for d in diagnose(log.encode())]


# ------------------------------------------------------------------------------------------------------ authors


@pytest.mark.parametrize(
    ("line", "author", "inner"),
    [
        ("#21 5.121       ModuleNotFoundError: x", Author(step="21"), "ModuleNotFoundError: x"),
        ("0.759   ╰─▶ Because vllm", Author(), "Because vllm"),
        ("vllm-1  | ERROR 07-15 00:27:03 [core.py:1] boom", Author(service="vllm-1"), "boom"),
        ("[pod/vllm-0/server] boom", Author(service="vllm-0/server"), "boom"),
        ("Jun 12 04:40:13 box docker[2211]: boom", Author(service="docker[2211]"), "boom"),
        ("(EngineCore pid=87) boom", Author(process="EngineCore pid=87"), "boom"),
        ("(RayWorkerWrapper pid=1890, ip=192.0.2.8) [rank8]:[E808 08:50:33.5 P.cpp:1] boom", Author(process="RayWorkerWrapper pid=1890"), "boom"),
        ("[2026-05-08 03:00:44 TP0] boom", Author(process="TP0"), "boom"),
        ("2026-06-06T10:01:22.101234567Z stderr F boom", Author(), "boom"),
        ('{"log":"boom\\n","stream":"stderr"}', Author(), 'boom\\n","stream":"stderr"}'),
        ("  20 | #include <curand.h>", Author(), "  20 | #include <curand.h>"),
    ],
)  # fmt: skip
def test_a_line_tells_who_wrote_it(line: str, author: Author, inner: str) -> None:
    assert author_of(line) == author
    assert peel(line).strip() == inner.strip()


@pytest.mark.parametrize(
    ("line", "moment"),
    [
        ("(Worker_TP3 pid=616) ERROR 06-29 03:35:30 [x.py:1000] x", "06-29 03:35:30"),
        ("[2026-06-29 03:35:30] x", "06-29 03:35:30"),
        ("2026-06-29T03:35:30,12Z x", "06-29 03:35:30.12"),
        ("Jun 29 03:35:30 box kernel: x", "06-29 03:35:30"),
        ("no time at all", ""),
    ],
)
def test_a_line_tells_when_it_was_written(line: str, moment: str) -> None:
    assert moment_of(line) == moment


def test_error_in_a_build_step_is_a_failure_only_if_the_step_fails() -> None:
    step = f"#9 21.10 {NO_NUMA}\n#9 DONE 22.3s\n#10 DONE 1.0s\n"

    assert causes(step) == []
    assert causes(step.replace("#9 DONE 22.3s", "#9 ERROR: exit code: 1") + "ERROR: failed to solve: x\n") == [
        "abi-libnuma-missing"
    ]


def test_failed_step_of_a_successful_build_is_not_a_failure() -> None:
    cache = "#6 importing cache manifest from ghcr.io/acme/x:cache\n#6 ERROR: ghcr.io/acme/x:cache: not found\n"

    assert causes(cache + "#7 DONE 44.1s\n#8 exporting to image\n#8 DONE 9.0s\n") == []
    assert causes(cache + "#7 DONE 44.1s\nERROR: failed to solve: ghcr.io/acme/x:cache: not found\n") == ["b-base-gone"]


def test_errors_before_a_server_is_healthy_count_only_after_a_restart() -> None:
    up = "(APIServer pid=1) INFO:     Application startup complete.\n"
    begin = "(APIServer pid=1) INFO 10-15 08:32:13 [api_server.py:1839] vLLM API server version 0.11.0\n"

    assert causes(f"{begin}{NO_NUMA}\n{up}") == []
    assert causes(f"{begin}{NO_NUMA}\n{begin}{up}") == ["abi-libnuma-missing"]
    assert causes(f"{begin}{up}{NO_NUMA}\n") == ["abi-libnuma-missing"]


def test_recovery_of_one_service_does_not_excuse_another() -> None:
    up = "router-1  | INFO:     Application startup complete.\n"

    assert causes(f"sglang-1  | {NO_NUMA}\n{up}") == ["abi-libnuma-missing"]
    assert causes(f"router-1  | {NO_NUMA}\n{up}") == []


def test_pip_that_complains_and_installs_has_not_failed() -> None:
    complaint = "vllm 0.26.0 requires numpy<2.3, but you have numpy 2.3.5 which is incompatible.\n"

    assert causes(f"Installing collected packages: numpy\n{complaint}Successfully installed numpy-2.3.5\n") == []
    assert causes(complaint) == ["res-pip-complaint"]
    failed = "ERROR: No matching distribution found for six==9\n"
    assert causes(f"{failed}Collecting x\nInstalling collected packages: x\nSuccessfully installed x-1\n") == [
        "res-index-lacks"
    ]


def test_a_client_of_a_server_that_died_gives_way_to_why_it_died() -> None:
    refused = "router-1  | requests.exceptions.ConnectionError: HTTPConnectionPool(host='sglang', port=30000): Max retries exceeded with url: /health\n"

    assert causes(refused) == ["env-server-unreachable"]
    assert causes(refused + f"sglang-1  | {NO_NUMA}\n") == ["abi-libnuma-missing"]


def test_earlier_of_two_causes_is_listed_first() -> None:
    late = f"(Worker_TP1 pid=2) ERROR 06-29 03:35:32 [x.py:1] {NO_IMAGE}\n"
    early = f"(Worker_TP3 pid=4) ERROR 06-29 03:35:30 [x.py:1] {NO_NUMA}\n"

    assert causes(late + early) == ["abi-libnuma-missing", "arch-no-kernel-image"]


def test_a_cause_that_follows_an_unexplained_error_is_believed_less() -> None:
    [alone] = diagnose(f"{NO_IMAGE}\n".encode())
    [later] = diagnose(f"frob.BentError: the frob is bent\n\n\n\n{NO_IMAGE}\n".encode())

    assert later.cause == alone.cause
    assert later.confidence < alone.confidence


# ------------------------------------------------------------------------------------------------------- quotes


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Receive: obj=GenerateReqInput(text='it says HERE', rid='7')", "data"),
        ("out={'text': 'That error, HERE, means', 'meta_info': {}}", "data"),
        ('{"role": "user", "content": "my log says \\"HERE\\""}', "data"),
        ("obj=GenerateReqInput(text='short', rid='7') HERE", None),
        ('{"level": "error", "msg": "HERE"}', None),
        ('level=error msg="HERE"', None),
        ("KeyError: 'HERE'", None),
        ("triton.compiler.errors.CompilationError: 'HERE'", None),
        ("Caused by NewConnectionError('<x>: HERE')", None),
        ("engine's own words can't be HERE", None),
        ("   3 |     RUN python -c 'HERE'", "command"),
        ("  41 | # error HERE", "source"),
        ('raise RuntimeError("HERE")', "source"),
    ],
)
def test_words_are_quoted_or_reported(line: str, expected: str | None) -> None:
    assert quoted(line, line.index("HERE")) == expected


def test_source_lines_of_frames_are_quoted_and_the_exception_is_not() -> None:
    frame = 'Traceback (most recent call last):\n  File "/app/x.py", line 12, in <module>\n'
    code = f'    if x: fail("{NO_NUMA}")\n       ~~~~^^^^\n'

    assert causes(frame + code + "KeyError: 'x'\n") == ["unknown"]
    assert causes(frame + code + f"{NO_IMAGE}\n") == ["arch-no-kernel-image"]
    prefixed = "".join(
        f"(EngineCore pid=1) ERROR 04-17 09:41:35 [core.py:1] {line}\n" for line in (frame + code).splitlines()
    )
    assert causes(prefixed + "(EngineCore pid=1) ERROR 04-17 09:41:35 [core.py:1] KeyError: 'x'\n") == ["unknown"]


# ------------------------------------------------------------------------------------------------------ formats

CRI = "2026-06-06T10:01:22.1Z stderr "


@pytest.mark.parametrize("piece", [11, 1000, 1 << 20])
def test_lines_in_parts_are_joined_and_later_lines_keep_their_numbers(piece: int) -> None:
    log = f"{CRI}F hello\n{CRI}P {NO_IMAGE[:40]}\n{CRI}P {NO_IMAGE[40:60]}\n{CRI}F {NO_IMAGE[60:]}\n{CRI}F {NO_NUMA}\n".encode()
    found = diagnose([log[n : n + piece] for n in range(0, len(log), piece)])

    assert [(d.cause, [e.line for e in d.evidence]) for d in found] == [
        ("arch-no-kernel-image", [2]),
        ("abi-libnuma-missing", [5]),
    ]


def test_parts_of_two_streams_are_kept_apart() -> None:
    log = f"2026-06-06T10:01:22Z stderr P {NO_IMAGE[:40]}\n2026-06-06T10:01:22Z stdout F hello\n2026-06-06T10:01:22Z stderr F {NO_IMAGE[40:]}\n"

    assert causes(log) == ["arch-no-kernel-image"]


def test_a_part_at_the_end_of_a_block_waits_for_its_rest() -> None:
    filler = f"{CRI}F nothing\n"
    head = filler * ((1 << 20) // len(filler)) + f"{CRI}P {NO_IMAGE[:40]}\n"
    report = examine(io.BytesIO((head + f"{CRI}F {NO_IMAGE[40:]}\n").encode()))

    assert [d.cause for d in report.diagnoses] == ["arch-no-kernel-image"]


@pytest.mark.parametrize(
    "log",
    [
        f"(EngineCore pid=7) ERROR 08-07 10:19:40 [core.py:1] {NO_IMAGE[:48]}\n{NO_IMAGE[48:]}\n",
        f"2026-06-06T10:01:22.1Z {NO_IMAGE[:44]}\n    {NO_IMAGE[45:]}\n",
    ],
)
def test_a_line_that_a_terminal_wrapped_is_joined_where_nothing_else_is_found(log: str) -> None:
    [found] = diagnose(log.encode())

    assert found.cause == "arch-no-kernel-image"
    assert found.evidence[0].line == 1


def test_lines_of_their_own_are_not_joined() -> None:
    log = "x" * 50 + "\nERROR 08-07 10:19:40 y\n" + "z" * 50 + '\n  File "a", line 1\n'

    assert unwrapped(log) == log


# ------------------------------------------------------------------------------------------- never passed over


@pytest.mark.parametrize(
    "line",
    [
        "kernel: NVRM: Xid (PCI:0000:01:00): 240, something nobody wrote down",
        "kernel: NVRM: _kgspIsHeartbeatTimedOut: Heartbeat timed out, diff 79682",
        "Warning  Unhealthy  3m  kubelet  Readiness probe failed: HTTP probe failed with statuscode: 503",
        "Warning  BackOff  26s (x4 over 2m)  kubelet  Back-off restarting failed container x in pod y",
        "Warning  Evicted  1m  kubelet  The node was low on resource: memory.",
        "dependency failed to start: container x-1 is unhealthy",
        "x-1 exited with code 1",
        "process exited with exit code: 139",
        "vllm.service: Main process exited, code=exited, status=143/n/a",
        "KeyboardInterrupt: terminated",
    ],
)
def test_a_failure_is_never_nothing(line: str) -> None:
    report = examine(f"{line}\n".encode())

    assert report.diagnoses
    assert line in [evidence.text for evidence in (*report.telling, *report.diagnoses[0].evidence)]


# ------------------------------------------------------------------------------------------------------- clues

UNKNOWN = """\
INFO 04-07 17:09:20 [api_server.py:1] vLLM API server version 0.23.1
torch==2.11.0+cu130 on NVIDIA GeForce RTX 5090, python3.12
(Worker_TP1 pid=2) ERROR 04-07 17:09:26 [x.py:1] frob.PeerError: the peer is bent
(Worker_TP3 pid=4) ERROR 04-07 17:09:25 [x.py:1] frob.BentError: the frob 0x7f3a at /opt/frob/x.so is bent by 12 degrees
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
"""


def unknown() -> DiagnosisReport:
    return examine(UNKNOWN.encode())


def test_an_unknown_failure_names_its_first_error_in_time() -> None:
    found = unknown().clues

    assert found is not None
    assert found.first is not None
    assert found.first.line == 4
    assert "BentError" in found.first.text


def test_unknown_failure_shows_versions_and_gpus_of_the_log() -> None:
    found = unknown().clues

    assert found is not None
    assert found.versions == {"vllm": "0.23.1", "torch": "2.11.0+cu130", "python": "3.12"}
    assert found.cards[0] == "NVIDIA GeForce RTX 5090"


def test_search_words_hold_nothing_that_is_of_this_machine_only() -> None:
    found = unknown().clues

    assert found is not None
    assert found.search == "frob.BentError: the frob at is bent by degrees vllm"


def test_near_entries_say_why_they_do_not_fit() -> None:
    report = examine(b"RuntimeError: CUDA error: no frob image was available for execution on the device\n")

    assert report.clues is not None
    assert [near.id for near in report.clues.nearest][:1] == ["arch-no-kernel-image"]
    assert "no line has" in report.clues.nearest[0].lacks


def test_a_certain_answer_needs_no_clues() -> None:
    assert examine(f"{NO_IMAGE}\n".encode()).clues is None
