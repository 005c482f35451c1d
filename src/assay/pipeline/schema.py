"""JSON Schemas, generated from the models: of matrix.yaml and image.yaml for editors, of what assay writes. Pure.

assay reads YAML without guessing, so a number in a version's place is the text that stands there; the schemas say
`string or number` there, and booleans and numbers may be written either way.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable
from itertools import pairwise
from types import ModuleType
from typing import Any, Final

from assay.audit import coverage, document, findings, found, grid
from assay.audit.coverage import Coverage
from assay.audit.document import AuditDocument
from assay.audit.found import FindDocument
from assay.evidence import record, report, suite
from assay.evidence.record import BenchRecord, BuildRecord, ProbeRecord, ServeRecord
from assay.evidence.report import ReportDocument
from assay.foundation.strict import Value
from assay.matrix import cell, policy, pools
from assay.matrix import model as matrix
from assay.matrix.model import Image, Matrix
from assay.matrix.pools import PoolsFile
from assay.pipeline import doctor
from assay.pipeline import documents as written
from assay.pipeline.documents import (
    DoctorDocument,
    ErrorDocument,
    PlanDocument,
    PoolsDocument,
    RecommendDocument,
    StatusDocument,
)
from assay.ports import jobs
from assay.ports.jobs import JobResult, ProbeJob

__all__ = ["OUTPUTS", "SCHEMAS", "documents"]

SCHEMAS: Final[dict[str, tuple[type[Value], str]]] = {
    "matrix.schema.json": (Matrix, "assay: matrix.yaml"),
    "image.schema.json": (Image, "assay: images/<name>/image.yaml"),
    "pools.schema.json": (PoolsFile, "assay: pools.yaml"),
}


OUTPUTS: Final[dict[str, tuple[type[Value], str, tuple[ModuleType, ...]]]] = {
    "audit.schema.json": (AuditDocument, "assay audit --format json", (document, findings, grid)),
    "coverage.schema.json": (Coverage, "assay report --coverage --format json", (coverage,)),
    "doctor.schema.json": (DoctorDocument, "assay doctor --format json", (doctor,)),
    "doctor-pools.schema.json": (PoolsDocument, "assay doctor --pools --format json", (written,)),
    "error.schema.json": (ErrorDocument, "--format json of a command that cannot answer", (written,)),
    "plan.schema.json": (PlanDocument, "assay plan --format json", (written, cell, matrix)),
    "recommend.schema.json": (RecommendDocument, "assay recommend --format json", (written,)),
    "report.schema.json": (ReportDocument, "assay report --format json", (report, record)),
    "status.schema.json": (StatusDocument, "assay status --format json", (written,)),
    "find.schema.json": (FindDocument, "assay find --format json", (found,)),
    "bench-record.schema.json": (BenchRecord, "assay bench: one record", (record,)),
    "build-record.schema.json": (BuildRecord, "assay build: one record", (record,)),
    "probe-record.schema.json": (ProbeRecord, "assay probe: one record", (record,)),
    "serve-record.schema.json": (ServeRecord, "assay serve-check and assay up: one record", (record,)),
    "job.schema.json": (ProbeJob, "assay: a job that is sent to an executor", (jobs,)),
    "job-result.schema.json": (JobResult, "assay: what an executor gives back", (jobs, suite)),
}
"""File name -> what is written, by which command, and the modules whose models it is made of."""


def documents() -> dict[str, str]:
    """Return file name -> text of every schema."""
    result: dict[str, str] = {}
    for name, (model, title) in SCHEMAS.items():
        schema = model.model_json_schema(mode="validation")
        _described(schema, model.__name__, (matrix, policy, pools))
        schema = _loosened(schema) | {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
        result[name] = json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    for name, (model, title, modules) in OUTPUTS.items():
        schema = model.model_json_schema(mode="serialization")
        _described(schema, model.__name__, modules)
        schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
        result[name] = json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return result


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


def _described(schema: dict[str, Any], name: str, modules: Iterable[ModuleType]) -> None:
    """Put the docstrings of fields into a schema, for editors and for the reference pages."""
    texts = {name: fields for module in modules for name, fields in _docstrings(module).items()}
    for model, node in [(name, schema), *schema.get("$defs", {}).items()]:
        for field, text in texts.get(model.rsplit("__", 1)[-1], {}).items():
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
