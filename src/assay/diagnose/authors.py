"""Who wrote a line of a log and when, and whether its author ended well.

A log is a braid of authors: steps of a build, services of a compose file, processes of a server, ranks. A complaint of
an author that ended well afterwards has failed nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from assay.foundation.strict import Value

__all__ = ["MARKS", "Author", "Ledger", "author_of", "moment_of"]

_STEP: Final = re.compile(r"^#(\d+) ")
_SERVICE: Final = re.compile(
    r"^(?:(?=[\w.-]*[A-Za-z])([\w.-]{2,60})\s*\|\s|\[pod/([^\]\s]+)\]\s|"
    r"[A-Z][a-z]{2}\s+\d{1,2}\s\d\d:\d\d:\d\d\s[\w.-]+\s([\w./-]+(?:\[\d+\])?):\s)"
)
_PROCESS: Final = re.compile(
    r"\((\w[\w.]*(?:\s[\w.]+)?\spid=\d+)|\[(rank\d+)\]:|"
    r"\d\d:\d\d:\d\d(?:\.\d+)?\s((?:[A-Z]{2}\d+\s?)+)\]|^\[(\d{1,4})\] "
)
_MONTHS: Final = {name: number for number, name in enumerate(
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1)}  # fmt: skip
_MOMENT: Final = re.compile(
    r"(?:\d{4}-)?(?P<month>\d\d)-(?P<day>\d\d)[T\s](?P<time>\d\d:\d\d:\d\d(?:[.,]\d+)?)"
    r"|(?P<name>[A-Z][a-z]{2})\s+(?P<mday>\d{1,2})\s(?P<mtime>\d\d:\d\d:\d\d)"
)


class Author(Value):
    """The author of a line, from its prefix."""

    step: str = ""
    """The step of a build (BuildKit's number)."""
    service: str = ""
    """The service, pod or unit."""
    process: str = ""
    """The process or rank."""


def author_of(text: str) -> Author:
    """Return who wrote a line."""
    step = _STEP.match(text)
    service = _SERVICE.match(text)
    process = _PROCESS.search(text[:160])
    return Author(
        step=step[1] if step else "",
        service=next(filter(None, service.groups()), "") if service else "",
        process=next(filter(None, process.groups()), "").strip() if process else "",
    )


def moment_of(text: str) -> str:
    """Return the time of a line in a form that sorts; empty if it has none."""
    found = _MOMENT.search(text[:160])
    if found is None:
        return ""
    if found["time"]:
        return f"{found['month']}-{found['day']} {found['time'].replace(',', '.')}"
    month = _MONTHS.get(found["name"])
    return f"{month:02}-{int(found['mday']):02} {found['mtime']}" if month else ""


MARKS: Final = {
    b" DONE ": re.compile(rb"^#(?P<done>\d+) DONE \d"),
    b" ERROR: ": re.compile(rb"^#(?P<failed>\d+) ERROR: "),
    b"failed to solve": re.compile(rb"(?P<lost>(?:ERROR|error): failed to solve)"),
    b"Running ": re.compile(rb"\s(?P<up>([1-9]\d*)/\2\s+Running\s+0\s)"),
    b"Application startup complete": re.compile(rb"(?P<up>Application startup complete)"),
    b"fired up and ready to roll": re.compile(rb"(?P<up>fired up and ready to roll)"),
    b"server_args=": re.compile(rb"(?P<start>server_args=(?:ServerArgs\(|\{))"),
    b"tests passed, 0 tests failed": re.compile(rb"(?P<up>100% tests passed, 0 tests failed)"),
    b"test result: ok": re.compile(rb"(?P<up>test result: ok\.)"),
    b" passed": re.compile(rb"(?P<up>^=+ (?!.*\b(?:failed|errors?)\b).*\b\d+ passed\b.* in [\d.]+s)"),
    b"Test project ": re.compile(rb"(?P<start>^Test project /)"),
    b"running ": re.compile(rb"(?P<start>^running \d+ tests?$)"),
    b"test session starts": re.compile(rb"(?P<start>=+ test session starts =+)"),
    b"API server version": re.compile(rb"(?P<start>API server version)"),
    b"Installing collected packages": re.compile(rb"(?P<installing>Installing collected packages: )"),
    b"Successfully installed ": re.compile(rb"(?P<installed>(?:^|\s)Successfully installed )"),
}
"""Literals that tell how an author fared, and the expression that a line must match."""

_REACH: Final = 80
"""So many lines before pip's `Successfully installed` may belong to the same installation."""
_MOST: Final = 4000


@dataclass(kw_only=True)
class Ledger:
    """The outcomes of the authors of a log."""

    steps: dict[str, bool] = field(default_factory=dict)
    """Step of a build -> whether it ended well."""
    lost: bool = False
    """The build as a whole failed."""
    ups: list[tuple[int, str]] = field(default_factory=list)
    """Line and service of a server that became ready, or of tests that all passed."""
    starts: list[tuple[int, str]] = field(default_factory=list)
    installing: list[int] = field(default_factory=list)
    """Lines on which pip begins to install; what it complains of afterwards, it complains of and goes on."""
    installed: list[tuple[int, str, str]] = field(default_factory=list)

    def note(self, line: int, raw: bytes, literal: bytes) -> None:
        """Take a line that contains one of the literals of `MARKS`."""
        if sum(map(len, (self.steps, self.ups, self.starts, self.installed, self.installing))) > _MOST:
            return
        match = MARKS[literal].search(raw)
        if match is None:
            return
        text = raw[:400].decode("utf-8", "replace")
        author = author_of(text)
        match match.lastgroup:
            case "done":
                self._end(match["done"].decode(), well=True)
            case "failed":
                self._end(match["failed"].decode(), well=False)
            case "lost":
                self.lost = True
            case "up":
                self.ups.append((line, author.service))
            case "start":
                self.starts.append((line, author.service))
            case "installing":
                self.installing.append(line)
            case _:
                self.installed.append((line, author.step, author.service))

    def _end(self, step: str, *, well: bool) -> None:
        self.steps.pop(step, None)
        self.steps[step] = well

    def survived(self, line: int, author: Author) -> bool:
        """Return whether the author of a line went on and ended well after it."""
        if author.step in self.steps:
            return self.steps[author.step] or self._goes_on_without(author.step)
        if any(
            line < at <= line + _REACH
            and (step, service) == (author.step, author.service)
            and not any(line < begun < at for begun in self.installing)
            for at, step, service in self.installed
        ):
            return True
        after = [at for at, service in self.ups if at > line and service == author.service]
        return bool(after) and not any(
            line < at < after[0] and service == author.service for at, service in self.starts
        )

    def _goes_on_without(self, step: str) -> bool:
        """Return whether a build did without a step that failed (a cache that is not there) and ended well."""
        return (
            not self.lost
            and next(reversed(self.steps.values()))
            and any(done and int(number) > int(step) for number, done in self.steps.items())
        )
