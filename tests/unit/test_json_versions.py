"""Every document of `--format json` has a version, and fits the schema that is published for it."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import click
import jsonschema
import pytest
from terminal_tools import CELL, OTHER, VERSION, benched, judged, probed, project, served

from assay.audit.found import FindDocument
from assay.cli import COMMANDS, bench, build, main, probe, serve_check, status
from assay.cli import root as root_command
from assay.cli.console import json_data
from assay.evidence.judging import Verification
from assay.evidence.oci import Descriptor
from assay.evidence.reference import Reference
from assay.matrix import plan
from assay.pipeline.schema import OUTPUTS
from assay.pipeline.verify import document
from assay.ports.pools import PoolItem
from assay.ports.services import KeptServer

__all__ = ["project"]

CLI: Final = Path(__file__).parents[2] / "src/assay/cli"
NEEDS_MORE: Final = frozenset({"assemble", "bisect", "lock", "publish", "update"})
"""These need an index, a registry or a resolver: their documents are read from the source."""


SERVER: Final = KeptServer(
    name="qwen",
    container="assay-up-qwen",
    image=OTHER,
    running=True,
    state="Up 3 minutes",
    labels={"assay.up.model": "Qwen/Qwen3-0.6B"},
)


def verified() -> None:
    digest = judged().digest
    subject = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=digest, size=1)
    reference = Reference.parse(f"r.example/team/demo@{digest}")
    seen = Verification(reference=reference, subject=subject, judgements=(judged(),), pieces=(), reasons=())
    json_data(document(seen))


def probed_json() -> None:
    probe._show_all([probed()], "json", plan.Plan.__new__(plan.Plan), Path(), None)  # type: ignore[arg-type]


DOCUMENTS: Final[Mapping[str, tuple[str | Callable[[], object], ...]]] = {
    "audit": ("audit plain-1.0-py3-none-any.whl --facts facts --no-record",),
    "bench": (lambda: bench._show([benched()], "json"),),
    "collect": ("collect",),
    "jobs": ("jobs",),
    "build": (lambda: build._dry_run([], None, "json"),),
    "diagnose": ("diagnose --known", "diagnose server.log", "diagnose run1"),
    "diff": (f"diff {CELL} {OTHER}",),
    "doctor": ("doctor",),
    "facts list": ("facts list --facts facts",),
    "facts show": (f"facts show torch=={VERSION} --facts facts",),
    "find": (lambda: json_data(FindDocument(searches=()).model_dump(mode="json")),),
    "plan": ("plan",),
    "probe": ("probe --list", probed_json),
    "recommend": ("recommend --target sm_120", "recommend --target sm_90 --offline"),
    "report": ("report",),
    "serve-check": (lambda: serve_check._show(served(), "json"),),
    "status": (lambda: status._show([], "json"), lambda: status._show([(SERVER, "healthy")], "json")),
    "verify": (verified,),
}
ROOT: Final = Path(__file__).parents[2]
SCHEMAS: Final = {
    "audit": "audit",
    "doctor": "doctor",
    "find": "find",
    "plan": "plan",
    "recommend": "recommend",
    "report": "report",
    "status": "status",
}
"""Command -> its schema in schemas/."""
CASES: Final = [(name, case) for name, cases in DOCUMENTS.items() for case in cases]


def with_json() -> Iterator[str]:
    """Yield the commands that have `--format json`."""
    context = click.Context(root_command)
    for name in COMMANDS:
        command = root_command.get_command(context, name)
        assert command is not None
        parts = {name: command}
        if isinstance(command, click.Group):
            parts = {f"{name} {part}": one for part, one in command.commands.items()}
        for whole, one in parts.items():
            for option in one.params:
                if option.name == "form" and "json" in getattr(option.type, "choices", ()):
                    yield whole


def test_every_command_with_json_is_tested() -> None:
    assert {*DOCUMENTS, *NEEDS_MORE} == set(with_json())


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("name", "case"), CASES)
def test_json_document_has_a_version(
    name: str, case: str | Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(case, str):
        main([*case.split(), "--format", "json"])
    else:
        case()
    written = json.loads(capsys.readouterr().out)
    if name in SCHEMAS:
        fits(written, SCHEMAS[name])

    assert isinstance(written, dict), f"{name} writes a list, which has no room for a version"
    assert 1 == written.get("schema_version", written.get("version"))


@pytest.mark.usefixtures("project")
def test_json_document_of_pools_fits_its_schema(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = (
        PoolItem(name="login", ok=False, found="no answer", mend="ssh login"),
        PoolItem(name="x", ok=None, found=""),
    )
    monkeypatch.setattr("assay.cli.pool_composition.pool_inventories", lambda *_: [("lab", items)])

    assert 1 == main(["doctor", "--pools", "--format", "json"])

    written = json.loads(capsys.readouterr().out)
    fits(written, "doctor-pools")
    assert ["lab", "lab"] == [one["pool"] for one in written["pools"]]


@pytest.mark.usefixtures("project")
def test_json_plan_names_the_values_of_a_point_and_the_tag(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", OTHER, "--format", "json"])
    (cell,) = json.loads(capsys.readouterr().out)["cells"]

    assert {"cuda": "13.0", "torch": "2.14.0"}.items() <= cell["point"].items()
    assert OTHER == cell["tag"]


def fits(written: object, name: str) -> None:
    schema = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(written, schema, cls=jsonschema.Draft202012Validator)


def test_every_schema_is_named_in_the_reference() -> None:
    page = (ROOT / "docs/reference/json.md").read_text()

    assert [] == [name for name in OUTPUTS if f"../../schemas/{name}" not in page]


def test_json_documents_in_the_source_have_a_version() -> None:
    found = set()
    for path in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "console.json_data":
                (value,) = node.args
                if isinstance(value, ast.Dict):
                    keys = {key.value for key in value.keys if isinstance(key, ast.Constant)}
                    assert keys & {"version", "schema_version"}, f"{path.name}:{node.lineno}"
                    found.add(path.stem)
                else:
                    assert path.stem not in NEEDS_MORE, f"{path.name}:{node.lineno}: write the version here"

    assert found >= NEEDS_MORE
