"""An import goes down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "assay"

# From the bottom to the top; names are first components below `assay`.
LAYERS: list[set[str]] = [
    {"errors", "nearest", "digest", "foreign", "__init__"},
    {"model", "record"},
    {"PURE"},  # every module not named in another layer
    {"ports"},
    {"adapters", "flows"},
    {"console"},
    {"cli", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
WORLD = {"docker", "requests", "subprocess", "urllib.request", "http.client", "socket"}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def layer(module: str) -> str:
    """Return the layer's name of `assay.x.y`."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    return name if name in RANK else "PURE"


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "assay"}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_only(path: Path) -> None:
    relative = path.relative_to(SOURCE).with_suffix("")
    own = layer("assay." + ".".join(relative.parts))

    for name in sorted(imports(path)):
        if name.split(".")[0] == "assay" and name != "assay":
            other = layer(name)
            assert RANK[other] <= RANK[own], f"{relative} ({own}) imports {name} ({other})"
            if own == "flows":
                assert other != "adapters", f"{relative} imports the adapter {name}"
        elif any(name == world or name.startswith(world + ".") for world in WORLD):
            assert own == "adapters", f"{relative} imports {name}, which belongs to adapters alone"
