"""Follow one cell through publishing, or a reference through verifying: how straight is its way through the modules?

    python bench/flow.py [--route]

`assay publish CELL`, then `assay verify REFERENCE`, run in this process on a registry in memory. From the first call
that the command hands the cell (the reference) to, every call is noted that is handed it or a value made of it; the
policy and the ports that come beside it are not. A stay is a run of such calls into one module; a climb is a step to a
module in a room that stands higher in DESIGN's list. A pair of caller and callee counts once, so that loops do not
count, and reading a property is no call. Ports and adapters are the doors to the outside; `foundation`, `errors` and
the names of repositories are the ground: neither is a stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final
from unittest import mock

from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from registry_tools import put_image  # noqa: E402

from assay.adapters.executors.probe_suite import digest_of_suite, load_suite  # noqa: E402
from assay.adapters.files.records import FileStore  # noqa: E402
from assay.adapters.registry.fake import FakeRegistry  # noqa: E402
from assay.cli import main  # noqa: E402
from assay.evidence.record import AuditRecord, Device, FeatureResult, ProbeRecord, now  # noqa: E402
from assay.evidence.reference import Reference, Repository  # noqa: E402
from assay.foundation.outcome import Outcome, Verdict  # noqa: E402
from assay.matrix.cell import Cell  # noqa: E402

IMAGE, CELL = "vllm-blackwell", "vllm-blackwell-cu128-torch2.8.0-vllm0.11.0"
HOST = "registry.test"
POLICY = f"""
policy:
  repositories: {{staging: "{HOST}/staging/{{image}}", release: "{HOST}/release/{{image}}"}}
  levels:
    verified:
      max_age_days: 90
      audit: warn
      images: {{{IMAGE}: {{sm_120: {{works: [cuda-graphs]}}}}}}
"""
HEIGHTS: Final = {"cli": 3, "pipeline": 2}
"""Rooms from the top; the domain's rooms stand below these, side by side."""
NAMES: Final = "assay.evidence.reference"
OUTSIDE: Final = ("adapters", "ports", "foundation", "errors")


def project(folder: Path, registry: FakeRegistry) -> None:
    """Lay down a checkout with a policy, an image in staging, and the records that the policy asks for."""
    for name in ("images", "templates"):
        shutil.copytree(ROOT / name, folder / name)
    text = (ROOT / "matrix.yaml").read_text().partition("# What must be recorded of an image")[0]
    (folder / "matrix.yaml").write_text(text.partition("\npolicy:")[0] + POLICY)
    image = put_image(registry, Repository(host=HOST, path=f"staging/{IMAGE}"), CELL)
    store, suite = FileStore(folder / "build_logs"), digest_of_suite(load_suite(folder))
    assert suite is not None
    common: dict[str, Any] = {
        "created": now() - timedelta(minutes=1),
        "run": "run",
        "cell": CELL,
        "image": IMAGE,
        "image_digest": image.digest,
    }
    report = store.put_document(b"{}\n")
    store.append(AuditRecord(**common, subject="image", verdict=Verdict.OK, targets=("sm_120",), report=report))
    store.append(
        ProbeRecord(
            **common,
            suite_digest=suite,
            executor="docker",
            devices=(Device(name="RTX 5090", capability="12.0", memory_bytes=32 << 30),),
            packages={},
            features={"cuda-graphs": FeatureResult(outcome=Outcome.WORKS)},
        )
    )


class Follower:
    """Notes the calls that are handed a value or what was made of it, from the first that a command makes."""

    def __init__(self, command: str, kind: type) -> None:
        self._command = f"assay.cli.{command}"
        self._kind = kind
        self.route: list[tuple[str, str]] = []
        """Module and function, in order."""
        self._made: dict[int, object] = {}
        self._beside: dict[int, object] = {}
        """What the command gives beside the value, such as the policy: it is not made of it."""
        self._edges: set[tuple[CodeType, CodeType]] = set()
        self._followed: list[FrameType] = []

    def __call__(self, frame: FrameType, event: str, value: object) -> None:
        """Take an event of `sys.setprofile`."""
        if event == "return" and self._followed and self._followed[-1] is frame:
            self._followed.pop()
            self._mark(value)
        if event != "call":
            return
        module = str(frame.f_globals.get("__name__", ""))
        if (
            not module.startswith("assay.")
            or module.split(".")[1] in OUTSIDE
            or module == NAMES
            or not self._handed(frame)
        ):
            return
        self._followed.append(frame)
        caller = frame.f_back
        edge = (caller.f_code if caller else frame.f_code, frame.f_code)
        if edge not in self._edges and not _is_reading(frame):
            self._edges.add(edge)
            self.route.append((module.removeprefix("assay."), frame.f_code.co_qualname))

    def _handed(self, frame: FrameType) -> bool:
        code = frame.f_code
        count = code.co_argcount + code.co_kwonlyargcount
        given = [frame.f_locals[name] for name in code.co_varnames[:count] if name in frame.f_locals]
        if not self.route:
            first = next((one for one in given if isinstance(one, self._kind)), None)
            if first is None or frame.f_back is None or frame.f_back.f_globals.get("__name__") != self._command:
                return False
            self._beside = {id(part): part for one in given if one is not first for part in _parts(one)}
            self._mark(first)
        return any(id(part) in self._made for one in given for part in _parts(one))

    def _mark(self, value: object) -> None:
        """A value made of the cell is followed too; what merely holds a number or a name is not."""
        for part in _parts(value):
            if id(part) not in self._beside:
                self._made[id(part)] = part


def _is_reading(frame: FrameType) -> bool:
    """Whether a call reads a property, or is one that Python makes by itself (`__init__`, `__eq__`)."""
    owner, _, name = frame.f_code.co_qualname.rpartition(".")
    if name.startswith("__") and name.endswith("__"):
        return True
    found = inspect.getattr_static(frame.f_globals.get(owner), name, None)
    return isinstance(found, property)


def _parts(value: object, depth: int = 3) -> Iterator[object]:
    """Yield the values of assay's own types in a value: itself, and what its fields and containers hold."""
    if depth < 0 or not (isinstance(value, list | tuple | dict) or type(value).__module__.startswith("assay.")):
        return
    if isinstance(value, list | tuple):
        inner: list[object] = list(value)[:20]
    elif isinstance(value, dict):
        inner = list(value.values())[:20]
    else:
        module = type(value).__module__.split(".")[1]
        if module in OUTSIDE or isinstance(value, type) or not (dataclasses.is_dataclass(value) or _is_model(value)):
            return
        yield value
        inner = list(vars(value).values())
    for one in inner:
        yield from _parts(one, depth - 1)


def _is_model(value: object) -> bool:
    return isinstance(value, BaseModel)


Stays = list[tuple[str, str]]


def follow() -> tuple[Stays, Stays]:
    """Return the stays of a published cell and of a verified reference: module and first function called in it."""
    registry = FakeRegistry()
    with tempfile.TemporaryDirectory() as name:
        project(Path(name), registry)
        cell = _followed(registry, Follower("publish", Cell), ["publish", CELL, "--project", name])
        published = f"{HOST}/release/{IMAGE}:sm120-verified"
        reference = _followed(registry, Follower("verify", Reference), ["verify", published])
    return cell, reference


def _followed(registry: FakeRegistry, follower: Follower, argv: list[str]) -> Stays:
    with (
        mock.patch("assay.adapters.registry.client.connect", return_value=registry),
        redirect_stdout(StringIO()),
        redirect_stderr(StringIO()) as told,
    ):
        sys.setprofile(follower)
        try:
            code = main(argv)
        finally:
            sys.setprofile(None)
    assert code == 0, told.getvalue()
    return [next(group) for _, group in itertools.groupby(follower.route, key=lambda call: call[0])]


def climbs(stays: Stays) -> int:
    """Return how often the way goes up to a higher room."""
    heights = [HEIGHTS.get(module.split(".")[0], 1) for module, _ in stays]
    return sum(after > before for before, after in itertools.pairwise(heights))


def show() -> None:
    """Print the counts, and with `--route` every stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--route", action="store_true", help="print every stay")
    route = parser.parse_args().route
    for what, stays in zip(("publish", "verify"), follow(), strict=True):
        for number, (module, function) in enumerate(stays if route else (), 1):
            print(f"{number:3} {module:30} {function}")
        print(f"{what}: {len(stays)} stays in {len({module for module, _ in stays})} modules, {climbs(stays)} climbs")


if __name__ == "__main__":
    show()
