"""Writes the reference pages from the code: `python docs/generate.py [--check]`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from assay import schema
from assay.cli import COMMANDS, root

HERE = Path(__file__).parent
INTRODUCTION = {
    "matrix.schema.json": (
        "matrix.yaml",
        (
            "Which versions exist for us, where they come from, what cannot go together. YAML is read as it stands: "
            "`torch: 2.10` is the text `2.10`, and an unknown key is an error that names the nearest known one."
        ),
    ),
    "image.schema.json": (
        "images/&lt;name&gt;/image.yaml",
        (
            "How the cells of one image are made: the product of `axes`, plus `include`, less `exclude`; `controls` "
            "are cells that must fail, to prove that assay can tell. In requirements (Jinja) each axis is a value with "
            "`pin` (`==2.8.0`), `version` and `id`."
        ),
    ),
}


def commands() -> str:
    """Return the page of all commands."""
    lines = ["# Commands", "", "Generated from the code. Exit codes: "]
    lines[-1] += (
        "0 fine; 1 finished with failures; 2 usage or configuration; 3 nothing selected; 4 no engine or no GPU; "
        "5 registry; 6 refused by policy; 130 interrupted. Data goes to stdout, everything said to people to stderr."
    )
    for name, (module, _) in COMMANDS.items():
        command: click.Command = importlib.import_module(f"assay.cli.{module}").command
        names = ["-h", "--help"]
        context = click.Context(command, info_name=f"assay {name}", max_content_width=100, help_option_names=names)
        lines += ["", f"## assay {name}", "", "```text", command.get_help(context).rstrip(), "```"]
    assert root.name
    return "\n".join(lines) + "\n"


def kind(node: dict[str, Any]) -> str:
    """Return what a value looks like, in a few words."""
    if "$ref" in node:
        return f"[{node['$ref'].rsplit('/', 1)[1]}](#{node['$ref'].rsplit('/', 1)[1].lower()})"
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(kind(option) for option in node["anyOf"] if option.get("type") != "null"))
    if "oneOf" in node:
        return " or ".join(kind(option) for option in node["oneOf"])
    if "enum" in node or "const" in node:
        return " or ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        return f"list of {kind(node.get('items', {}))}"
    if node.get("type") == "object":
        inner = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), {})
        return f"mapping to {kind(inner)}" if isinstance(inner, dict) and inner else "mapping"
    return {"string": "text", "number": "number", "integer": "number", "boolean": "yes or no"}.get(
        str(node.get("type")), "anything"
    )


def fields(name: str, node: dict[str, Any]) -> list[str]:
    """Return the section of one model."""
    required = set(node.get("required", []))
    lines = ["", f"### {name}", "", str(node.get("description", "")).strip().replace("\n", " "), ""]
    lines += ["| key | value | |", "| --- | --- | --- |"]
    for key, value in node["properties"].items():
        text = str(value.get("description", "")).strip().replace("\n", " ").replace("|", "\\|")
        need = " **required**" if key in required else ""
        lines.append(f"| `{key}`{need} | {kind(value).replace('|', chr(92) + '|')} | {text} |")
    return lines


def configuration() -> str:
    """Return the page of matrix.yaml and image.yaml."""
    lines = ["# The matrix", "", "Generated from the models. Editors complete and check the files by the schema that"]
    lines += ["their first line names."]
    for file, text in schema.documents().items():
        document = json.loads(text)
        title, words = INTRODUCTION[file]
        lines += ["", f"## {title}", "", words]
        lines += fields(title, document)
        for name, node in document.get("$defs", {}).items():
            whole = next((option for option in node.get("anyOf", []) if "properties" in option), node)
            if "properties" in whole:
                lines += fields(name, whole)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the pages, or say which have drifted."""
    pages = {"reference/commands.md": commands(), "reference/matrix.md": configuration()}
    drift = [name for name, text in pages.items() if not (HERE / name).is_file() or (HERE / name).read_text() != text]
    if "--check" in sys.argv:
        for name in drift:
            print(f"docs/{name} has drifted; run python docs/generate.py")
        return 1 if drift else 0
    for name in drift:
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(pages[name])
        print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
