"""JSON Schemas, generated from the models: of matrix.yaml and image.yaml for editors, of what assay writes. Pure.

assay reads YAML without guessing, so a number in a version's place is the text that stands there; the schemas say
`string or number` there, and booleans and numbers may be written either way.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from dataclasses import is_dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any, Final, get_args, get_type_hints

from assay.audit.coverage import Coverage
from assay.audit.document import AuditDocument
from assay.audit.found import FindDocument
from assay.evidence.diff import DiffDocument
from assay.evidence.record import BenchRecord, BuildRecord, ProbeRecord, ServeRecord
from assay.evidence.report import ReportDocument
from assay.foundation.strict import Value
from assay.matrix.bisection import BisectDocument
from assay.matrix.model import Image, Matrix
from assay.matrix.plan_document import PlanDocument
from assay.matrix.pools import PoolsFile
from assay.pipeline.assembly.on_workers import AssembledPart, AssembleJob
from assay.pipeline.audit_farm import AuditJob, AuditPart
from assay.pipeline.diagnose import KnownFailures, LogDiagnosis, RunDiagnosis
from assay.pipeline.documents import (
    AssembleDocument,
    BenchDocument,
    BuildDocument,
    BuildPlanDocument,
    CollectDocument,
    DoctorDocument,
    ErrorDocument,
    FactsDocument,
    FactsListDocument,
    JobsDocument,
    PoolsDocument,
    ProbeListDocument,
    ProbeRunDocument,
    RecommendDocument,
    StatusDocument,
)
from assay.pipeline.lock_documents import LockDocument, UpdateDocument
from assay.pipeline.publishing.proposal import PublishDocument
from assay.pipeline.rebuild import RebuildDocument
from assay.pipeline.revoke import RevokeDocument
from assay.pipeline.verify import VerifyDocument
from assay.ports.jobs import JobResult, ProbeJob
from assay.ports.server import ServerJob

__all__ = ["OUTPUTS", "SCHEMAS", "documents"]

SCHEMAS: Final[dict[str, tuple[type[Value], str]]] = {
    "matrix.schema.json": (Matrix, "assay: matrix.yaml"),
    "image.schema.json": (Image, "assay: images/<name>/image.yaml"),
    "pools.schema.json": (PoolsFile, "assay: pools.yaml"),
}


JSON: Final = " --format json"
"""Ends the title of what a command answers."""

OUTPUTS: Final[dict[str, tuple[type[Value], str]]] = {
    "assemble.schema.json": (AssembleDocument, f"assay assemble{JSON}"),
    "audit.schema.json": (AuditDocument, f"assay audit{JSON}"),
    "bench.schema.json": (BenchDocument, f"assay bench{JSON}"),
    "bisect.schema.json": (BisectDocument, f"assay bisect{JSON}"),
    "build.schema.json": (BuildDocument, f"assay build{JSON}"),
    "build-dry-run.schema.json": (BuildPlanDocument, f"assay build --dry-run{JSON}"),
    "collect.schema.json": (CollectDocument, f"assay collect{JSON}"),
    "diagnose.schema.json": (LogDiagnosis, f"assay diagnose FILE{JSON}"),
    "diagnose-known.schema.json": (KnownFailures, f"assay diagnose --known{JSON}"),
    "diagnose-run.schema.json": (RunDiagnosis, f"assay diagnose RUN{JSON}"),
    "diff.schema.json": (DiffDocument, f"assay diff{JSON}"),
    "doctor.schema.json": (DoctorDocument, f"assay doctor{JSON}"),
    "doctor-pools.schema.json": (PoolsDocument, f"assay doctor --pools{JSON}"),
    "facts-list.schema.json": (FactsListDocument, f"assay facts list{JSON}"),
    "facts-show.schema.json": (FactsDocument, f"assay facts show{JSON}"),
    "find.schema.json": (FindDocument, f"assay find{JSON}"),
    "jobs.schema.json": (JobsDocument, f"assay jobs{JSON}"),
    "lock.schema.json": (LockDocument, f"assay lock{JSON}"),
    "plan.schema.json": (PlanDocument, f"assay plan{JSON}"),
    "probe.schema.json": (ProbeRunDocument, f"assay probe{JSON}"),
    "probe-list.schema.json": (ProbeListDocument, f"assay probe --list{JSON}"),
    "publish.schema.json": (PublishDocument, f"assay publish{JSON}"),
    "publish-revoke.schema.json": (RevokeDocument, f"assay publish --revoke{JSON}"),
    "recommend.schema.json": (RecommendDocument, f"assay recommend{JSON}"),
    "report.schema.json": (ReportDocument, f"assay report{JSON}"),
    "coverage.schema.json": (Coverage, f"assay report --coverage{JSON}"),
    "serve-record.schema.json": (ServeRecord, f"assay serve-check{JSON}"),
    "status.schema.json": (StatusDocument, f"assay status{JSON}"),
    "update.schema.json": (UpdateDocument, f"assay update{JSON}"),
    "verify.schema.json": (VerifyDocument, f"assay verify{JSON}"),
    "verify-rebuild.schema.json": (RebuildDocument, f"assay verify --rebuild{JSON}"),
    "error.schema.json": (ErrorDocument, "--format json of a command that cannot answer"),
    "bench-record.schema.json": (BenchRecord, "assay bench: one record"),
    "build-record.schema.json": (BuildRecord, "assay build: one record"),
    "probe-record.schema.json": (ProbeRecord, "assay probe: one record"),
    "job.schema.json": (ProbeJob, "assay: a job that is sent to an executor"),
    "job-result.schema.json": (JobResult, "assay: what an executor gives back"),
    "server-job.schema.json": (ServerJob, "assay: a server that is started on a host"),
    "audit-job.schema.json": (AuditJob, "assay: the cells that a worker of a pool audits"),
    "assemble-job.schema.json": (AssembleJob, "assay: the image that a worker of a pool assembles"),
    "assembled-part.schema.json": (AssembledPart, "assay: what came of it"),
    "audit-part.schema.json": (AuditPart, "assay: what such a worker has audited since its last document"),
}
"""File name -> what is written, and by which command."""


def documents() -> dict[str, str]:
    """Return file name -> text of every schema."""
    result: dict[str, str] = {}
    for name, (model, title) in {**SCHEMAS, **OUTPUTS}.items():
        schema = model.model_json_schema(mode="validation" if name in SCHEMAS else "serialization")
        _describe(schema, model)
        schema = _loosened(schema) if name in SCHEMAS else schema
        schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
        result[name] = json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return result


@cache
def _docstrings(module: ModuleType) -> dict[str, dict[str, str]]:
    """Return class -> field -> the string that stands below the field in the source.

    pydantic can do this itself (`use_attribute_docstrings`), but at every import, which would slow every command.
    """
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in pairwise(node.body):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found.setdefault(node.name, {})[name] = inspect.cleandoc(text)
                case _:
                    pass
    return found


def _classes(model: type) -> dict[str, type]:
    """Return the models and data classes that a model is made of, itself among them, by name."""
    found: dict[str, type] = {}
    open_types: list[Any] = [model]
    while open_types:
        one = open_types.pop()
        if isinstance(one, type) and one.__name__ not in found and (issubclass(one, Value) or is_dataclass(one)):
            found[one.__name__] = one
            open_types += get_type_hints(one, include_extras=True).values()
        open_types += get_args(one)
    return found


def _describe(schema: dict[str, Any], model: type) -> None:
    """Put the docstrings of fields into a schema, for editors and for the reference pages."""
    classes = _classes(model)
    for name, node in [(model.__name__, schema), *schema.get("$defs", {}).items()]:
        bases = classes[name].__mro__ if name in classes else ()
        if name in classes and is_dataclass(classes[name]):
            # Older releases of pydantic leave both out for data classes.
            node |= {"additionalProperties": False, "description": inspect.getdoc(classes[name])}
        for one in (one for one in bases if one.__module__.startswith("assay.")):
            for field, text in _docstrings(sys.modules[one.__module__]).get(one.__name__, {}).items():
                if field in node.get("properties", {}):
                    node["properties"][field].setdefault("description", text)


def _loosened(node: Any) -> Any:
    """Let editors accept what assay reads: plain lists and strings where a model takes a short form."""
    if isinstance(node, dict):
        kept = {key: _loosened(value) for key, value in node.items()}
        title = kept.get("title")
        short = _SHORT.get(title) if isinstance(title, str) and kept.get("type") == "object" else None
        return {"anyOf": [*short, kept]} if short else kept
    return [_loosened(value) for value in node] if isinstance(node, list) else node


_SHORT: Final[dict[str, list[dict[str, Any]]]] = {
    "AxisValue": [{"type": "string"}, {"type": "number"}],
    "Axis": [{"type": "array", "items": {"$ref": "#/$defs/AxisValue"}}],
    "Group": [{"type": "array", "items": {"type": "string"}}],
}
