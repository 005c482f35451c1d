"""Holds JSON documents against the committed schemas."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final

import jsonschema

from assay.pipeline.schema import JSON, OUTPUTS

SCHEMAS: Final = Path(__file__).parents[2] / "schemas"
ANSWERS: Final = {
    name.removesuffix(".schema.json"): title.removeprefix("assay ").removesuffix(JSON)
    for name, (_, title) in OUTPUTS.items()
    if title.endswith(JSON)
}
"""Schema -> the command line that writes such documents: `verify-rebuild` -> `verify --rebuild`."""


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """Return what validates against the committed schema of a name."""
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def fits(written: object, name: str) -> None:
    """Hold a document against a schema.

    Raises:
        ValidationError: it does not fit.
    """
    validator(name).validate(written)


def answers(written: object, *argv: str) -> None:
    """Hold what a command line wrote against the schema of its document, or of errors.

    Raises:
        ValidationError: it does not fit.
    """
    if isinstance(written, dict) and written.get("kind") == "error":
        return fits(written, "error")
    fitting = [name for name, words in ANSWERS.items() if set(words.split()) <= set(argv)]
    return fits(written, max(fitting, key=lambda name: len(ANSWERS[name].split())))
