"""Writes the reference pages from the code: `python docs/generate.py [--check]`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import click

from assay.adapters.files.card_names import load_cards
from assay.adapters.files.kept_records import is_intact
from assay.adapters.files.knowledge import load_knowledge
from assay.adapters.files.project import ProjectFiles
from assay.audit.rules import ALL
from assay.cli import COMMANDS, root
from assay.evidence.record import AnyRecord, AuditRecord, BuildRecord, BuildStatus, ProbeRecord, ServeRecord, parse
from assay.foundation.outcome import Outcome
from assay.matrix.cards import sm
from assay.matrix.cell import Cell
from assay.matrix.lock import Lock
from assay.matrix.lockfile import lock_digest
from assay.matrix.plan import make
from assay.pipeline import schema

HERE = Path(__file__).parent
INTRODUCTION = {
    "pools.schema.json": (
        "pools.yaml",
        "The machines that probes may be sent to, by name. `kind` decides which other keys a pool has.",
    ),
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

COMMANDS_INTRODUCTION = (
    "This page is generated from the code (`python docs/generate.py`).",
    "",
    "| exit code | meaning |",
    "| --- | --- |",
    "| 0 | success |",
    "| 1 | finished with failures |",
    "| 2 | usage or configuration error |",
    "| 3 | nothing selected |",
    "| 4 | no container engine or no GPU |",
    "| 5 | registry error |",
    "| 6 | refused by policy |",
    "| 70 | a bug in assay; stderr has two lines for the report and names a file with the traceback |",
    "| 130 | interrupted |",
    "",
    "Data goes to stdout, messages go to stderr. Control characters in foreign text are escaped (`\\x1b`). Bug reports",
    "contain no secrets.",
)


def commands() -> str:
    """Return the page of all commands."""
    lines = ["# Commands", "", *COMMANDS_INTRODUCTION]
    for name in COMMANDS:
        command = root.get_command(click.Context(root), name)
        assert command is not None
        names = ["-h", "--help"]
        context = click.Context(command, info_name=f"assay {name}", max_content_width=100, help_option_names=names)
        lines += ["", f"## assay {name}", "", "```text", command.get_help(context).rstrip(), "```"]
    assert root.name
    return "\n".join(lines) + "\n"


def kind(node: dict[str, Any], defs: dict[str, Any]) -> str:
    """Return the type of a value in a few words; models are links to their sections."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})" if has_section(defs[name]) else kind(defs[name], defs)
    if "anyOf" in node:
        options = [option for option in node["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kind(option, defs) for option in options))
    if "oneOf" in node:
        return " or ".join(kind(option, defs) for option in node["oneOf"])
    if "enum" in node or "const" in node:
        return " or ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        return f"list of {kind(node.get('items', {}), defs)}"
    if node.get("type") == "object":
        inner = node.get("additionalProperties") or next(iter(node.get("patternProperties", {}).values()), {})
        return f"mapping to {kind(inner, defs)}" if isinstance(inner, dict) and inner else "mapping"
    return {"string": "text", "number": "number", "integer": "number", "boolean": "yes or no"}.get(
        str(node.get("type")), "anything"
    )


def has_section(node: dict[str, Any]) -> bool:
    """Tell whether a definition is a model with keys, which has its own section."""
    return any("properties" in option for option in node.get("anyOf", [node]))


def fields(name: str, node: dict[str, Any], defs: dict[str, Any]) -> list[str]:
    """Return the section of one model."""
    required = set(node.get("required", []))
    lines = ["", f"### {name}", "", str(node.get("description", "")).strip().replace("\n", " "), ""]
    lines += ["| key | value | |", "| --- | --- | --- |"]
    for key, value in node["properties"].items():
        text = str(value.get("description", "")).strip().replace("\n", " ").replace("|", "\\|")
        need = " **required**" if key in required else ""
        lines.append(f"| `{key}`{need} | {kind(value, defs).replace('|', chr(92) + '|')} | {text} |")
    return lines


def configuration() -> str:
    """Return the page of matrix.yaml and image.yaml."""
    lines = ["# The matrix", "", "Generated from the models. Editors complete and check the files by the schema that"]
    lines += ["their first line names."]
    documents = schema.documents()
    for file in schema.SCHEMAS:
        document = json.loads(documents[file])
        title, words = INTRODUCTION[file]
        lines += ["", f"## {title}", "", words]
        defs = document.get("$defs", {})
        lines += fields(title, document, defs)
        for name, node in defs.items():
            if has_section(node):
                whole = next((option for option in node.get("anyOf", []) if "properties" in option), node)
                lines += fields(name, whole, defs)
    return "\n".join(lines) + "\n"


def _audited(cell: Cell, lock: Lock, records: Sequence[AnyRecord]) -> str:
    """Return how the audit of a lock ended that was not built; arm64 images need an arm64 machine or an assembly."""
    found = [
        record
        for record in records
        if isinstance(record, AuditRecord)
        and record.lock_digest == lock_digest(lock)
        and record.runs_on is cell.platform
    ]
    return f"not built; audited {found[-1].created:%Y-%m-%d}: {found[-1].over(cell.targets)}" if found else "not built"


def cells() -> str:
    """Return the page that says when each locked cell was last built, probed and served.

    It rests on the committed records alone. A build counts for the lock that was built: after a change of the lock the
    cell is shown as not built.
    """
    files = ProjectFiles(HERE.parent)
    records = [
        parse(raw, source=path.name)
        for path in sorted((HERE / "records").rglob("*.json"))
        if is_intact(path, raw := path.read_bytes())
    ]
    lines = [
        "# When each cell was last built and probed",
        "",
        "Generated from the records in [docs/records](records). A cell whose lock has changed since its build counts",
        "as not built. Left out are controls, which the audit refuses, and cells without a lock, whose base images",
        "come from registries.",
        "",
        "| cell | built | probed | served |",
        "|---|---|---|---|",
    ]
    for cell in make(files.load()).cells:
        lock = files.lock(cell)
        if cell.kind != "build" or lock is None:
            continue
        mine = [record for record in records if record.cell == cell.id]
        built = [
            f"{record.created:%Y-%m-%d}" + (f", {record.size_bytes / 1e9:.1f} GB packed" if record.size_bytes else "")
            for record in mine
            if isinstance(record, BuildRecord)
            and record.status is BuildStatus.BUILT
            and record.lock_digest == lock_digest(lock)
        ]
        probes = [record for record in mine if _is_probe(record) and record.lock_digest == lock_digest(lock)]
        probed = {
            target: _outcomes([record for record in probes if record.devices[0].target == target])
            for target in {record.devices[0].target for record in probes}
        }
        served = {
            record.devices[0].target: f"{record.created:%Y-%m-%d}: {record.status}"
            for record in mine
            if isinstance(record, ServeRecord) and record.devices
        }
        build = built[-1] if built else _audited(cell, lock, mine)
        lines.append(f"| `{cell.id}` | {build} | {_by_target(probed)} | {_by_target(served)} |")
    return "\n".join(lines) + "\n"


def _is_probe(record: AnyRecord) -> TypeGuard[ProbeRecord]:
    return isinstance(record, ProbeRecord) and bool(record.devices)


def _outcomes(records: Sequence[ProbeRecord]) -> str:
    """Return the newest day and outcomes, each feature's newest; one that did not run takes no measurement's place."""
    newest = {
        name: str(result.outcome)
        for record in sorted(records, key=lambda one: one.created)
        for name, result in record.features.items()
        if result.outcome is not Outcome.NOT_RUN
    }
    words = ", ".join(f"{count} {outcome}" for outcome, count in Counter(newest.values()).most_common())
    return f"{max(record.created for record in records):%Y-%m-%d}: {words}"


def _by_target(found: dict[str, str]) -> str:
    return "; ".join(f"{target} {words}" for target, words in sorted(found.items())) or "never"


def audit_rules() -> str:
    """Return the page of the audit's rules: its table from the rules, all else as it stands."""
    page = (HERE / "reference" / "audit-rules.md").read_text()
    before, _, rest = page.partition("| rule |")
    after = rest.partition("\n\n")[2]
    rows = [f"| {rule.id} | {rule.text} | {rule.known_by} | {', '.join(rule.rests_on)} |" for rule in ALL]
    table = ["| rule | finding | based on | depends on |", "| --- | --- | --- | --- |", *rows]
    return f"{before}{chr(10).join(table)}\n\n{after}"


def json_documents() -> str:
    """Return the page of the JSON documents: its table from the schemas, all else as it stands."""
    page = (HERE / "reference" / "json.md").read_text()
    before, _, rest = page.partition("| document |")
    after = rest.partition("\n\n")[2]
    rows = [
        f"| `{title.removesuffix(schema.JSON)}` | [{name.partition('.')[0]}](../../schemas/{name}) |"
        for name, (_, title) in schema.OUTPUTS.items()
        if title.endswith(schema.JSON)
    ]
    rows.append("| an error | [error](../../schemas/error.schema.json) |")
    return f"{before}{chr(10).join(['| document | JSON Schema |', '| --- | --- |', *rows])}\n\n{after}"


def gpu_targets() -> str:
    """Return the page of GPUs, what runs on them, and what that needs."""
    cards, known = load_cards(), load_knowledge().ptx
    lines = [
        "# GPUs and the code they run",
        "",
        "Generated from `knowledge/cards.yaml`, which has all names, and `knowledge/ptx_isa.yaml`. Every `--target`",
        'takes product names (`"DGX Spark"`, `5090`), `sm_120` and `12.0`. An unknown name is an error that offers the',
        "nearest.",
        "",
        "| target | names | platforms | CUDA | driver | machine code | PTX |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for capability, one in cards.architectures.items():
        target = sm(capability)
        runs = [name for name, item in known.targets.items() if capability in item.runs]
        if not runs:
            continue
        newest = [name for name in known.targets if name[-1] in "af" and capability in known.targets[name].jit]
        jit = ", ".join([f"compute_{target[3:]} and older", *(f"compute_{name}" for name in newest)])
        where = ", ".join(cards.platforms(capability))
        code = ", ".join(f"sm_{name}" for name in runs)
        lines.append(f"| {target} | {one.known_as} | {where} | {one.cuda} | {one.driver} | {code} | {jit} |")
    lines += [
        "",
        "`CUDA` is the oldest toolkit whose compiler knows the target, `driver` the oldest Linux driver that knows the",
        "card. A suffix needs its own toolkit:",
        "",
        "| code | runs on | CUDA | driver |",
        "| --- | --- | --- | --- |",
    ]
    for name, item in known.targets.items():
        if name[-1] in "af":
            lines.append(f"| sm_{name} | {', '.join(map(sm, item.runs))} | {item.cuda} | {item.driver} |")
    shared = [sm(name) for name, one in cards.architectures.items() if one.system_share]
    lines += ["", f"CPU and GPU have one memory on {', '.join(shared)}: plans leave a part to the system.", ""]
    return "\n".join(lines)


def benchmarks() -> str:
    """Return the page of what the benchmarks wrote to docs/benchmarks."""
    lines = [
        "# Benchmarks",
        "",
        "Generated from the files in [benchmarks](benchmarks). `nox -s bench -- --save NAME` runs `bench/NAME.py` and",
        "writes its file. Compare results of one run with their baseline; absolute times depend on the machine.",
    ]
    for path in sorted((HERE / "benchmarks").glob("*.json")):
        found = json.loads(path.read_text("utf-8"))
        lines += ["", f"## {found['title']}", "", f"{found['date']}, {found['machine']}: `{found['command']}`", ""]
        if figures := found.get("figures"):
            lines += ["| what | result | baseline |", "| --- | --- | --- |"]
            lines += [f"| {row['what']} | {row['result']} | {row['baseline']} |" for row in figures]
        else:
            lines += ["```text", *found["output"], "```"]
        lines += ["", *found["notes"]] if found.get("notes") else []
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the pages, or report which are outdated."""
    pages = {
        "reference/commands.md": commands(),
        "reference/matrix.md": configuration(),
        "cells.md": cells(),
        "reference/audit-rules.md": audit_rules(),
        "reference/json.md": json_documents(),
        "benchmarks.md": benchmarks(),
        "reference/targets.md": gpu_targets(),
    }
    drift = [name for name, text in pages.items() if not (HERE / name).is_file() or (HERE / name).read_text() != text]
    if "--check" in sys.argv:
        for name in drift:
            print(f"docs/{name} is outdated; run python docs/generate.py")
        return 1 if drift else 0
    for name in drift:
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(pages[name])
        print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
