"""The committed schemas are those of the models, and accept what assay accepts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from assay.pipeline import schema

CASES = {"matrix.schema.json": ["matrix.yaml"], "image.schema.json": ["images/*/image.yaml"]}


@pytest.mark.parametrize("name", [*schema.SCHEMAS, *schema.OUTPUTS])
def test_committed_schemas_have_not_drifted(root: Path, name: str) -> None:
    assert schema.documents()[name] == (root / "schemas" / name).read_text(), "run `assay render`"


@pytest.mark.parametrize(("name", "pattern"), [(name, pattern) for name, found in CASES.items() for pattern in found])
def test_editors_accept_our_own_files(root: Path, name: str, pattern: str) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema.documents()[name]))
    files = sorted(root.glob(pattern))

    assert files
    for path in files:
        problems = [
            f"{error.json_path}: {error.message}"
            for error in validator.iter_errors(yaml.load(path.read_text(), Loader=EditorLoader))
        ]
        assert problems == [], path


@pytest.mark.parametrize(("name", "pattern"), [(name, pattern) for name, found in CASES.items() for pattern in found])
def test_files_name_their_schema_in_the_first_line(root: Path, name: str, pattern: str) -> None:
    for path in root.glob(pattern):
        first = path.read_text().splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema="), path
        assert (path.parent / first.split("=")[1]).resolve() == (root / "schemas" / name).resolve()


class EditorLoader(yaml.SafeLoader):
    """YAML as an editor's language server reads it: numbers are numbers, dates stay text."""


EditorLoader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def test_schema_reports_an_unknown_key_to_editors() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema.documents()["image.schema.json"]))
    found = [error.message for error in validator.iter_errors({"description": "x", "engine": "none", "targts": []})]

    assert any("targts" in message for message in found)


def test_the_reference_pages_have_not_drifted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("generate_docs", root / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert module.commands() == (root / "docs/reference/commands.md").read_text(), "run python docs/generate.py"
    assert module.json_documents() == (root / "docs/reference/json.md").read_text(), "run python docs/generate.py"
    assert module.configuration() == (root / "docs/reference/matrix.md").read_text(), "run python docs/generate.py"
