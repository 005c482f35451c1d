"""Probes as assay sees them: what each declares, which run and in what order, and what their ends mean. Pure.

The programs themselves are in probes/ and run inside images; nothing of them is imported here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pydantic import Field, ValidationError

from assay.errors import ConfigError, Problem, UsageError
from assay.evidence.record import SHARED_GPU, Device, FeatureResult, ProbeRecord, Record
from assay.foundation.foreign import read_json
from assay.foundation.nearest import suggestion
from assay.foundation.outcome import Outcome
from assay.foundation.platforms import Platform
from assay.foundation.strict import Value

__all__ = [
    "Declaration",
    "HarnessResult",
    "ProbeDocument",
    "ProbeEnded",
    "ProbeFacts",
    "conclusive",
    "declarations",
    "declared",
    "devices",
    "job",
    "judge",
    "judge_all",
    "known",
    "of_image",
    "on_device",
    "order",
    "read_result",
]

_NAMES: Final = ("FEATURE", "REQUIRES", "TIMEOUT", "GPUS", "WARM")
_CRASHES: Final = {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS"}
_REASON_LENGTH: Final = 2000
_DEVICE: Final = "torch-device"
# What the driver, NVML and torch say when a card is gone or taken, in lower case. The names of cudaError_t and CUresult
# and their texts are of the CUDA Runtime and Driver API documentation; Xid 79 is "GPU has fallen off the bus" in
# NVIDIA's catalogue of Xid errors; "No CUDA GPUs are available" is torch's own for a count of no devices.
_LOST: Final = (
    "no cuda-capable device is detected",
    "cudaerrornodevice",
    "cuda_error_no_device",
    "no cuda gpus are available",
    "cudaerrordevicesunavailable",
    "cuda_error_device_unavailable",
    "devices are busy or unavailable",
    "device(s) is/are busy or unavailable",
    "fallen off the bus",
    "gpu is lost",
    "uncorrectable ecc",
    "cudaerroreccuncorrectable",
    "cuda_error_ecc_uncorrectable",
)
_XID_79: Final = re.compile(r"\bxid\b[^\n]{0,40}\b79\b", re.IGNORECASE)
_STDERR_END: Final = 8000
"""Characters; an engine's own log stands before the traceback of the probe that started it."""


class Declaration(Value):
    """The declarations at the top of a probe's file."""

    feature: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    file: str
    """Path under probes/."""
    requires: tuple[str, ...] = ()
    """Features that must work for this one to be tried."""
    timeout: float = Field(gt=0)
    """Seconds."""
    gpus: int = Field(ge=0)
    warm: bool
    """It may run in a fork of a process that has imported torch."""
    about: str = ""
    """The first line of its docstring."""


def declarations(files: Mapping[str, str]) -> dict[str, Declaration]:
    """Read the declarations of probe programs (path under probes/ -> text) without running them.

    Raises:
        ConfigError: a program declares nothing, something unknown, or a feature twice; all problems at once.
    """
    found: dict[str, Declaration] = {}
    problems: list[Problem] = []
    for path, text in sorted(files.items()):
        try:
            declaration = _declaration(path, text)
        except (ValidationError, ValueError, SyntaxError, KeyError) as error:
            first = str(error).splitlines()[0]
            problems.append(Problem(file=f"probes/{path}", message=f"not a probe declaration: {first}"))
            continue
        if declaration.feature in found:
            problems.append(Problem(file=f"probes/{path}", message=f"{declaration.feature} has a probe already"))
        found[declaration.feature] = declaration
    problems += [
        Problem(file=f"probes/{item.file}", message=f"requires {name}, which has no probe")
        for item in found.values()
        for name in item.requires
        if name not in found
    ]
    if problems:
        raise ConfigError(problems)
    return found


def _declaration(path: str, text: str) -> Declaration:
    tree = ast.parse(text)
    values: dict[str, Any] = {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in _NAMES
    }
    return Declaration(
        feature=values["FEATURE"],
        file=path,
        requires=values["REQUIRES"],
        timeout=values["TIMEOUT"],
        gpus=values["GPUS"],
        warm=values["WARM"],
        about=(ast.get_docstring(tree) or "").split("\n")[0],
    )


def order(suite: Mapping[str, Declaration], wanted: Iterable[str] = ()) -> list[Declaration]:
    """Return the probes to run for the selected features (none: all), prerequisites first.

    Raises:
        UsageError: a feature has no probe (the nearest names are offered), or prerequisites form a ring.
    """
    names = list(dict.fromkeys(wanted)) or sorted(suite, key=lambda name: (len(suite[name].requires), name))
    unknown = [name for name in names if name not in suite]
    if unknown:
        raise UsageError(
            "; ".join(f"there is no probe {name!r}{suggestion(name, suite)}" for name in unknown),
            hint="assay probe --list names all probes",
        )
    done: dict[str, Declaration] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise UsageError("prerequisites form a ring: " + " -> ".join((*above, name)))
        if name not in done:
            for needed in suite[name].requires:
                add(needed, (*above, name))
            done[name] = suite[name]

    for name in names:
        add(name, ())
    return list(done.values())


def declared(files: Mapping[str, bytes], features: Sequence[str], *, below: str = "") -> list[Declaration]:
    """Return the declarations of a job's features, in its order; `below` is the prefix of each path in `files`.

    Raises:
        UsageError: a feature has no probe.
        ConfigError: a program declares nothing, something unknown, or a feature twice.
    """
    if not features:
        return []
    start = f"{below}features/"
    texts = {path.removeprefix(below): data.decode() for path, data in files.items() if path.startswith(start)}
    known = declarations(texts)
    order(known, features)
    return [known[name] for name in features]


def job(
    chosen: Sequence[Declaration],
    *,
    work: str,
    cache: str = "",
    warm: bool = True,
    sabotage: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the harness's job for these probes; `work` and `cache` are folders inside."""
    return {
        "probes": [item.model_dump(mode="json", exclude={"about"}) for item in chosen],
        "work": work,
        "cache": cache,
        "warm": warm,
        "sabotage": dict(sabotage or {}),
        "seed": seed,
    }


class ProbeDocument(Value):
    """What a probe wrote: its own word on the outcome."""

    outcome: Outcome
    reason: str = ""
    metrics: dict[str, bool | int | float | str] = {}
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class ProbeEnded(Value):
    """The end of one probe's process; `not_run` has the reason if there was none."""

    feature: str
    file: str
    not_run: str = ""
    exit_code: int | None = None
    signal: str | None = None
    core_dumped: bool = False
    timed_out: bool = False
    oom_killed: bool = False
    seconds: float = 0.0
    stdout: str = ""
    stdout_bytes: int = 0
    stderr: str = ""
    stderr_bytes: int = 0
    warm: bool = False
    others: str = ""
    """What other processes used of the GPU before or after it, in words; empty: nothing, or it is not known."""
    document: dict[str, Any] | None = None
    document_error: str = ""


class ProbeFacts(Value):
    """What the place is, read inside."""

    devices: tuple[dict[str, Any], ...] = ()
    driver: str = ""
    cuda: str = ""
    no_devices: str = ""
    packages: dict[str, str] = {}
    libc: str = ""
    kernel: str = ""
    machine: str = ""
    """As `uname -m` names it; empty in results of older suites."""

    @property
    def platform(self) -> Platform | None:
        """The platform that the probes ran on; None if it is not known."""
        return Platform.known(self.machine)


class HarnessResult(Value):
    """The harness's result document; rewritten after each probe, so `finished` may be false."""

    schema_version: int
    suite_digest: str
    python: str
    executable: str
    facts: ProbeFacts | None = None
    facts_error: dict[str, Any] | None = None
    warm: dict[str, Any] | None = None
    probes: dict[str, ProbeEnded] = {}
    finished: bool = False
    seconds: float = 0.0


def read_result(document: bytes) -> tuple[HarnessResult | None, str]:
    """Return the harness's document, and the problem if it cannot be read."""
    try:
        return HarnessResult.model_validate(read_json(document, constants=True)), ""
    except (ValueError, ValidationError) as error:
        return None, f"the result document cannot be read: {str(error).splitlines()[0]}"


def devices(facts: ProbeFacts | None) -> tuple[Device, ...]:
    """Return the devices of a record; an entry of the image's answer that describes no device is left out."""
    found: list[Device] = []
    if facts is None:
        return ()
    for item in facts.devices:
        known = {key: value for key, value in item.items() if key in {"name", "capability", "memory_bytes", "uuid"}}
        with suppress(ValidationError):
            found.append(Device.model_validate({**known, "driver": facts.driver, "cuda": facts.cuda}))
    return tuple(found)


def judge(ended: ProbeEnded, *, timeout: float, device_worked: bool = False) -> FeatureResult:
    """Say what the end of a probe's process means for its feature.

    A crash outweighs whatever document was written before it: the process died of what it was there to show.

    Its times say nothing about the image if another process used the same GPU: what was only slow is left open.

    device_worked: torch-device worked earlier in the same run. A probe that then fails because there is no device any
    more says nothing about the image: the card was lost.
    """
    if ended.not_run:
        return FeatureResult(outcome=Outcome.NOT_RUN, reason=ended.not_run)
    document, why = _document(ended)
    metrics = document.metrics if document else {}
    outcome, reason = _verdict(ended, document, why, timeout)
    if device_worked and outcome is Outcome.BROKEN and (lost := _lost(reason, ended.stderr)):
        outcome, reason = Outcome.INCONCLUSIVE, f"the card was lost after {_DEVICE} had worked: {lost}"
    if ended.others and outcome is Outcome.DEGRADED:
        outcome, reason = Outcome.INCONCLUSIVE, f"{SHARED_GPU} ({ended.others}): {reason}"
    return FeatureResult(outcome=outcome, reason=reason[:_REASON_LENGTH], seconds=ended.seconds, metrics=metrics)


def _document(ended: ProbeEnded) -> tuple[ProbeDocument | None, str]:
    if ended.document is None:
        return None, ended.document_error or "no result document"
    try:
        return ProbeDocument.model_validate(ended.document), ""
    except ValidationError as error:
        return None, f"the result document does not fit: {error.errors(include_url=False)[0]['msg']}"


def _verdict(ended: ProbeEnded, document: ProbeDocument | None, why: str, timeout: float) -> tuple[Outcome, str]:
    last = _last_line(ended.stderr)
    said = f"; it last said: {last}" if last else ""
    if ended.timed_out:
        return Outcome.INCONCLUSIVE, f"no answer within {timeout:g} s: it hangs, or is far too slow{said}"
    if ended.oom_killed:
        return Outcome.INCONCLUSIVE, "killed by the kernel: the memory given to the container was used up"
    if ended.signal == "SIGKILL":
        return Outcome.INCONCLUSIVE, f"killed from outside (SIGKILL){said}"
    if ended.signal in _CRASHES:
        core = ", core dumped" if ended.core_dumped else ""
        return Outcome.BROKEN, f"crashed with {ended.signal}{core}: {_where(ended.stderr)}"
    if ended.signal is not None:
        return Outcome.INCONCLUSIVE, f"ended by {ended.signal}{said}"
    if ended.exit_code != 0:
        return Outcome.BROKEN, f"ended with exit code {ended.exit_code}{said}"
    if document is None:
        return Outcome.BROKEN, f"ended without a result: {why}{said}"
    notes = "; ".join(document.notes) if document.outcome is Outcome.WORKS else ""
    return document.outcome, document.reason or notes


def _lost(reason: str, stderr: str) -> str:
    """Return the line that says that the device is gone; empty if none does."""
    for line in (*reason.splitlines(), *reversed(stderr[-_STDERR_END:].splitlines())):
        if any(mark in line.lower() for mark in _LOST) or _XID_79.search(line):
            return line.strip()[:500]
    return ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _where(stderr: str) -> str:
    """Return the innermost Python frame that faulthandler wrote, or the last line."""
    frames = [line.strip() for line in stderr.splitlines() if line.strip().startswith("File ")]
    return frames[0][:300] if frames else _last_line(stderr) or "no trace"


def judge_all(result: HarnessResult, chosen: Sequence[Declaration], *, broke_off: str = "") -> dict[str, FeatureResult]:
    """Judge every probe that was chosen; those that were never reached are not run, for the reason given."""
    found: dict[str, FeatureResult] = {}
    device_worked = False
    for item in chosen:
        ended = result.probes.get(item.feature)
        if ended is None:
            found[item.feature] = FeatureResult(outcome=Outcome.NOT_RUN, reason=broke_off or "the run broke off")
        else:
            found[item.feature] = judge(ended, timeout=item.timeout, device_worked=device_worked)
            if item.feature == _DEVICE:
                device_worked = found[_DEVICE].outcome is Outcome.WORKS
    return found


def conclusive(result: FeatureResult) -> bool:
    """Whether running again in the same place would say nothing new."""
    return result.outcome is not Outcome.INCONCLUSIVE and "broke off" not in result.reason


def of_image(records: Iterable[Record], *, image_digest: str | None, suite_digest: str) -> list[ProbeRecord]:
    """Return the records of one image by one probe suite, oldest first; of what has no digest nothing is known."""
    found = [
        record
        for record in records
        if isinstance(record, ProbeRecord)
        and image_digest is not None
        and (record.image_digest, record.suite_digest) == (image_digest, suite_digest)
    ]
    return sorted(found, key=lambda item: item.created)


def on_device(records: Iterable[ProbeRecord], device: Device | None) -> list[ProbeRecord]:
    """Return those of the records that were made on such a GPU with such a driver; None: without a GPU."""
    wanted = _model(device)
    return [record for record in records if _model(record.devices[0] if record.devices else None) == wanted]


def _model(device: Device | None) -> tuple[str, str, str] | None:
    return None if device is None else (device.name, device.capability, device.driver)


def known(records: Iterable[ProbeRecord]) -> dict[str, FeatureResult]:
    """Return what records of one place, oldest first, say of its features; the newest counts."""
    return {name: result for record in records for name, result in record.features.items() if conclusive(result)}
