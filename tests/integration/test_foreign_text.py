"""Whatever others wrote into records, locks, logs, wheels and recipes: no command hands it to the terminal."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import timedelta
from pathlib import Path
from xml.dom import minidom

import pytest
from project_tools import Project

from assay.adapters.files.records import FileStore
from assay.cli import main
from assay.evidence.record import (
    AuditRecord,
    BenchRecord,
    BuildRecord,
    BuildStatus,
    Device,
    FeatureResult,
    ProbeRecord,
    ServeCheck,
    ServeRecord,
    ServeStatus,
    now,
)
from assay.foundation.outcome import Outcome, Verdict

HOSTILE = "\x1b[2J\x1b[31mX\x1b]0;t\x07\x9b31m\x00\x08\r\u202eok\u2066\u2028\ufeff\uffff\U000e0041<script>]]>|`"
FORBIDDEN = (
    "\x1b",
    "\x9b",
    "\x00",
    "\x07",
    "\x08",
    "\r",
    "\u202e",
    "\u2066",
    "\u2028",
    "\ufeff",
    "\uffff",
    "\U000e0041",
)


def hostile_records(project: Project) -> None:
    """Fill every text of every kind of record."""
    x, store = HOSTILE, FileStore(project.root / "build_logs")
    for number, cell in enumerate((project.cell("1.0"), x)):
        common = {"created": now() - timedelta(hours=3 - number), "run": "run1", "cell": cell, "image": "sundae",
                  "image_digest": "sha256:" + "a" * 64}  # fmt: skip
        device = Device(name=x, capability="12.0", memory_bytes=1, driver=x)
        result = FeatureResult(outcome=Outcome.BROKEN, reason=x, cause=x, metrics={x: x}, log="run1/x.log")
        store.append(
            ProbeRecord(
                **common,
                suite_digest=x,
                executor="docker",
                devices=(device,),
                packages={x: x, "vllm": "0.11.0"},
                features={x: result, "ok": FeatureResult(outcome=Outcome.WORKS, reason=x)},
                notes=(x,),
            )
        )
        report = store.put_document(json.dumps({"findings": [{"message": x}]}).encode())
        store.append(
            AuditRecord(
                **common,
                subject="image",
                verdict=Verdict.WARN,
                targets=("sm_120",),
                summary=(x,),
                report=report,
                predictions={"sm_120": {x: Outcome.WORKS}},
            )
        )
        store.append(BuildRecord(**common, status=BuildStatus.FAILED, reason=x, cause=x, log="run1/x.log", tags=(x,)))
        store.append(
            ServeRecord(
                **common,
                engine=x,
                executor="docker",
                profile=x,
                model=x,
                argv=(x,),
                env={x: x},
                reason=x,
                cause=x,
                status=ServeStatus.FAILED,
                checks=(ServeCheck(name=x, passed=False, detail=x),),
                chosen={x: x},
                notes=(x,),
            )
        )
        store.append(
            BenchRecord(**common, engine=x, executor="docker", profile=x, model=x, stable=True, series=(), notes=(x,))
        )
    log = project.root / "build_logs" / "run1" / "x.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"ERROR: {HOSTILE}\nRuntimeError: {HOSTILE}\n")


def hostile_wheel(folder: Path) -> Path:
    """Write a wheel whose metadata and files are named by such text."""
    path = folder / "evil-1.0-py3-none-any.whl"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        head = f"Metadata-Version: 2.1\nName: evil\nVersion: 1.0\nSummary: {HOSTILE}\n"
        archive.writestr("evil-1.0.dist-info/METADATA", head +
                         f"Requires-Dist: torch{HOSTILE}\n")  # fmt: skip
        archive.writestr("evil-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("evil/a\x1b[31m\u202e.so", b"\x7fELF" + b"\0" * 60)
        archive.writestr("evil-1.0.dist-info/RECORD", "")
    path.write_bytes(data.getvalue())
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path / "p")
    hostile_records(made)
    made.write("R.md", "x\n<!-- assay matrix: begin -->\n<!-- assay matrix: end -->\ny\n")
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return made


def harmless(text: str) -> None:
    assert not [f"U+{ord(character):04X}" for character in FORBIDDEN if character in text]


COMMANDS = """\
plan
plan --excluded
plan --format json
report
report --format json
diagnose run1
diagnose run1 --format json
diagnose build_logs/run1/x.log
diagnose build_logs/run1/x.log --format json
recommend --target sm_120
recommend --target sm_120 --format json
diff sundae-f1.0 sundae-f2.0
facts list
audit ../{wheel}
audit ../{wheel} --verbose
audit ../{wheel} --format json
audit ../{wheel} --format sarif
audit ../{wheel} --format junit
audit sundae-f1.0
render --check
lock --check
build --dry-run
launch sundae-f1.0 --engine vllm --model {x} --offline
serve-check {x}
verify {x}
publish {x}
plan {x}
{x}
plan --{x}
bisect {x}
probe {x}
report --into R.md
facts show {x}
doctor --{x}
bench {x}
""".splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_hands_foreign_text_to_the_terminal(
    command: str, project: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wheel = hostile_wheel(tmp_path)
    # An argument holds no NUL: the kernel's, not ours, to refuse.
    words = [word.format(wheel=wheel.name, x=HOSTILE.replace("\0", "")) for word in command.split(" ")]

    code = main(words)

    said = capfd.readouterr()
    assert code != 70, said.err
    harmless(said.out + said.err)
    if command.endswith("json") and said.out:
        json.loads(said.out)
    if command.endswith("junit") and said.out:
        minidom.parseString(said.out)


def test_pages_badges_and_markdown_are_well_formed(project: Project) -> None:
    assert main(["report", "--html", "site", "--badges", "badges", "--into", "R.md"]) == 0

    pages, badges = list(Path("site").rglob("*.html")), list(Path("badges").rglob("*.svg"))
    assert pages
    assert badges
    for path in [*pages, *badges, Path("R.md")]:
        harmless(path.read_bytes().decode())
    for path in badges:
        assert not minidom.parse(str(path)).getElementsByTagName("script")
    assert "<script" not in Path("R.md").read_text()


LOCK = "images/sundae/cells/sundae-f1.0/lock.txt"


@pytest.mark.parametrize(
    "line", ["# base: tiny@sha256:x BASE=evil", "# base: tiny\x1b[2J", "# base: tiny AS x\tRUN evil"]
)
def test_the_header_of_a_lock_is_not_believed(line: str, project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.change(LOCK, "# base: tiny", line)

    codes = {main([*command.split()]) for command in ("render", "lock --check", "render --check", "build --dry-run")}

    assert {2} == codes
    assert not list(project.root.glob("images/*/cells/*/Dockerfile"))
    harmless("".join(capfd.readouterr()))


def test_check_compares_generated_files_with_fresh_ones(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["render"]) == 0
    assert main(["lock", "--check"]) == 0
    assert main(["render", "--check"]) == 0

    dockerfile = "images/sundae/cells/sundae-f1.0/Dockerfile"
    project.change(dockerfile, "RUN echo", "RUN evil; echo")
    assert main(["lock", "--check"]) == 1
    assert main(["render", "--check"]) == 1
    assert dockerfile in capfd.readouterr().err

    assert main(["render"]) == 0
    # The same lock in other words: a cell of another name, a line that nobody wrote.
    for old, new in (("# cell: sundae-f1.0", "# cell: sundae-f2.0"), ("# base: tiny\n", "# base: tiny\n\n")):
        before = (project.root / LOCK).read_text()
        project.change(LOCK, old, new)
        assert main(["lock", "--check"]) == 1
        (project.root / LOCK).write_text(before)
    assert main(["lock", "--check"]) == 0
