"""What becomes of the result of a job: each probe judged, its output kept, one record made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from assay import __version__
from assay.evidence import record
from assay.evidence import suite as probes
from assay.evidence.record import SHARED_GPU, FeatureResult, ProbeRecord
from assay.evidence.suite import Declaration, HarnessResult
from assay.foundation.outcome import Outcome
from assay.ports.jobs import JobResult, Place
from assay.ports.store import RunFolder

__all__ = ["Diagnose", "ProbeCause", "ProbeRecording", "ProbeSubject"]


class ProbeCause(NamedTuple):
    """Why a probe failed."""

    name: str
    """An entry of knowledge/failures/."""
    inconclusive: bool = False
    """The run says nothing about the image; see `FailureEntry.inconclusive`."""


Diagnose = Callable[[str], ProbeCause | None]
"""Text of a log -> an entry of knowledge/failures/."""

_CAUSED: Final = {Outcome.BROKEN, Outcome.WRONG, Outcome.INCONCLUSIVE}
_EMPTY: Final = HarnessResult(schema_version=1, suite_digest="", python="", executable="")


@dataclass(frozen=True, kw_only=True)
class ProbeSubject:
    """The image or environment to probe, and its cell."""

    place: Place
    cell: str
    image: str = ""
    lock_digest: str | None = None
    content_key: str | None = None


@dataclass(kw_only=True)
class ProbeRecording:
    """Makes the record of one subject out of results, as often as there is a newer one."""

    subject: ProbeSubject
    run: RunFolder
    suite_digest: str
    wanted: frozenset[str]
    """The features that were asked for."""
    todo: Sequence[Declaration]
    """Those that are run."""
    old: Mapping[str, FeatureResult] = field(default_factory=dict)
    """What earlier records say of the rest."""
    diagnose: Diagnose = lambda _: None
    latest: HarnessResult = _EMPTY
    """The newest result document that could be read."""
    ended: dict[str, FeatureResult] = field(default_factory=dict)
    """The probes that have ended, judged."""

    @property
    def measured(self) -> bool:
        """Whether anything at all was read there."""
        return self.latest.facts is not None or bool(self.latest.probes)

    def record(self, result: JobResult, *, created: datetime | None = None) -> tuple[ProbeRecord, str]:
        """Return the record of a run as it stands, and what went wrong with it.

        Args:
            created: when it was measured; now without it.
        """
        if result.harness is not None:
            self.latest = result.harness
        # Of an engine that was lost, what it gave out before is all there is.
        harness = self.latest
        problem = result.message or result.unreadable or ("" if result.harness else "there is no result document")
        if broke_off := "" if harness.finished else f"the run broke off: {problem or result.ended}":
            problem = broke_off
        subject = self.subject
        features = probes.judge_all(harness, self.todo, broke_off=broke_off)
        self._logs()
        for name in harness.probes.keys() & features.keys() - self.ended.keys():
            self.ended[name] = self._explained(name, features[name])
        features |= self.ended
        merged = {**{name: item for name, item in self.old.items() if name in self.wanted}, **features}
        made = ProbeRecord(
            created=created or record.now(),
            run=self.run.name,
            cell=subject.cell,
            image=subject.image,
            image_digest=subject.place.digest,
            lock_digest=subject.lock_digest,
            content_key=subject.content_key,
            assay_version=__version__,
            platform=harness.facts.platform if harness.facts else None,
            suite_digest=harness.suite_digest or self.suite_digest,
            executor=result.executor,
            devices=probes.devices(harness.facts),
            packages=dict(harness.facts.packages) if harness.facts else {},
            features=merged,
            notes=_notes(harness, result, problem, self.old, features),
        )
        return made, problem

    def _explained(self, name: str, judged: FeatureResult) -> FeatureResult:
        """Add to a verdict what the probe's output says of the cause, and where that output is."""
        ended = self.latest.probes[name]
        # What was only slow has no cause in its output.
        slow = (ended.document or {}).get("outcome") == Outcome.DEGRADED and judged.outcome is Outcome.INCONCLUSIVE
        caused = judged.outcome in _CAUSED and not slow
        cause = self.diagnose(f"{judged.reason}\n{ended.stderr}") if caused else None
        if cause and cause.inconclusive and judged.outcome is Outcome.BROKEN:
            judged = judged.model_copy(
                update={"outcome": Outcome.INCONCLUSIVE, "reason": f"not the image: {judged.reason}"}
            )
        log = None if ended.not_run else f"{self.run.name}/{self.subject.cell}/probes/{name}.log"
        return judged.model_copy(update={"cause": cause.name if cause else None, "log": log})

    def _logs(self) -> None:
        """Write what is new of each probe's output, and the harness's document, into the run's folder."""
        folder = f"{self.subject.cell}/probes"
        for name, ended in self.latest.probes.items():
            if ended.not_run or name in self.ended:
                continue
            text = f"$ {ended.file}\n--- stdout ({ended.stdout_bytes} bytes)\n{ended.stdout}\n"
            text += f"--- stderr ({ended.stderr_bytes} bytes)\n{ended.stderr}\n"
            self.run.write(f"{folder}/{name}.log", text.encode())
        if self.latest is not _EMPTY:
            self.run.write(f"{folder}/result.json", self.latest.model_dump_json(indent=1).encode())


def _notes(
    harness: HarnessResult,
    result: JobResult,
    problem: str,
    old: Mapping[str, FeatureResult],
    new: Mapping[str, FeatureResult],
) -> tuple[str, ...]:
    own = sum(item.seconds for item in harness.probes.values())
    notes = [
        f"{len(new)} probes in {result.seconds:.1f} s, of which {own:.1f} s were the probes' own",
        f"Python {harness.python} at {harness.executable}",
    ]
    if harness.facts is not None:
        notes.append(f"{harness.facts.libc}, kernel {harness.facts.kernel}")
        if not harness.facts.devices:
            notes.append("no GPU inside: " + harness.facts.no_devices)
    if harness.warm is not None:
        told = (
            "forked from a process with torch imported" if harness.warm.get("ok") else str(harness.warm.get("reason"))
        )
        notes.append(f"warm start: {told}")
    if beside := sorted(name for name, item in harness.probes.items() if item.others):
        times = "their times are not those of the image alone"
        notes.append(f"{SHARED_GPU} beside {len(beside)} probes, and {times}: {', '.join(beside)}")
    if kept := sorted(set(old) - set(new)):
        notes.append("kept from earlier records of the same image, suite, GPU and driver: " + ", ".join(kept))
    if problem:
        notes.append(problem)
    if result.ended != "finished":
        notes.append(f"ended: {result.ended}")
    return tuple(notes)
