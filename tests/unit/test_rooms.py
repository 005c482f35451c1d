"""Rooms: an import goes down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "assay"

# Room -> the rooms that it may import from, beside `errors`, `foundation` and `resources`. DESIGN: cli > pipeline >
# (adapters | domain rooms) > errors. Ports speak of domain values, adapters serve ports.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "foundation": set(),
    "resources": set(),
    "engines": set(),
    "matrix": {"engines"},
    "wheels": set(),
    "diagnose": {"engines"},
    "evidence": {"matrix", "engines"},
    "audit": {"wheels", "matrix"},
    "serving": {"evidence", "engines"},
    "pages": {"matrix", "evidence", "audit", "engines"},
    "ports": {"matrix", "wheels", "evidence", "serving", "engines"},
    "adapters": {"ports", "matrix", "wheels", "evidence", "serving", "audit", "engines"},
    "pipeline": {"ports", "matrix", "wheels", "evidence", "serving", "audit", "diagnose", "engines"},
    "cli": {
        "ports",
        "matrix",
        "wheels",
        "evidence",
        "serving",
        "audit",
        "diagnose",
        "pages",
        "pipeline",
        "adapters",
        "engines",
    },
    "__main__": {"cli"},
    "__init__": set(),
}
EVERYWHERE = {"errors", "foundation", "resources", "__init__"}
PURE = {"engines", "evidence", "audit", "foundation", "matrix", "serving", "wheels"}
"""Rooms that read no files. `diagnose` reads the failures that ship with assay."""
WORLD = {"docker", "requests", "subprocess", "urllib.request", "http.client", "socket"}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room(module: str) -> str:
    """Return the room of `assay.x.y`: `x`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "__init__"


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "assay"}
    return found


def test_every_room_is_named() -> None:
    there = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}

    assert there == set(ROOMS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_only(path: Path) -> None:
    relative = path.relative_to(SOURCE).with_suffix("")
    own = relative.parts[0]

    for name in sorted(imports(path)):
        if name.split(".")[0] == "assay":
            other = room(name)
            assert other in ROOMS[own] | EVERYWHERE | {own}, f"{relative} imports {name}"
        elif any(name == world or name.startswith(world + ".") for world in WORLD):
            assert own == "adapters", f"{relative} imports {name}, which belongs to adapters alone"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_the_entry_points_call_a_command_line(path: Path) -> None:
    relative = str(path.relative_to(SOURCE))
    if relative in {"__main__.py", "cli/__init__.py"}:
        return
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}

    assert not names & {"main_inner", "redirect_stdout"}, f"{relative} calls a command line; call the step instead"


@pytest.mark.parametrize(
    "path", [path for path in modules() if path.relative_to(SOURCE).parts[0] in PURE], ids=lambda path: path.stem
)
def test_domain_rooms_read_no_files(path: Path) -> None:
    tree = ast.parse(path.read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    paths = {alias.name for node in froms if node.module == "pathlib" for alias in node.names}
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}

    assert not {"os", "pathlib", "shutil"} & modules
    assert paths <= {"PurePath", "PurePosixPath"}
    assert "open" not in calls


def composes(module: str) -> bool:
    """Return whether a module of cli/ is a part of the composition root, which alone chooses adapters."""
    return module == "composition" or module.endswith("_composition")


@pytest.mark.parametrize("path", sorted((SOURCE / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_adapters_are_chosen_in_the_composition_root(path: Path) -> None:
    chosen = {name for name in imports(path) if name.startswith("assay.adapters.")}
    chosen -= {name for name in chosen if name.startswith("assay.adapters.files.")}

    assert not chosen or composes(path.stem), f"{path.name} chooses {chosen}; do so in composition.py"


def test_only_the_job_pool_waits_for_several_jobs() -> None:
    waiting = {path.stem for path in (SOURCE / "pipeline").rglob("*.py") if "as_completed" in path.read_text()}

    assert waiting == {"pool"}
