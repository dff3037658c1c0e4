"""The house keeps its floors: imports go down or stay in their folder, and visitors stay in their rooms."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Types are the ground that every floor stands on.
FLOORS = {"types": -2, "files": -1, "config": 0, "attacks": 2}
FLOORS |= dict.fromkeys(("losses", "models", "data", "training"), 1) | dict.fromkeys(("evaluation", "recipes"), 3)
FILES = sorted((ROOT / "kdjax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
ROOMS = {
    "flax": "models/",
    "orbax": "training/checkpoint.py",
    "absl": "config.py",
    "tensorflow_datasets": "data/",
    "array_record": "data/",
    "matplotlib": "nowhere",
    "tensorflow": "nowhere",
    "torch": "nowhere",
}


def imports(file: Path) -> list[str]:
    """Every module that a file imports, at any depth in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def place(module: str) -> str:
    """The folder or file of kdjax that a module lies in; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def violations(file: Path, modules: list[str]) -> list[str]:
    """The imports that go up or sideways."""
    own = file.relative_to(ROOT / "kdjax").parts[0].removesuffix(".py")
    if own == "__init__":
        return modules
    return [
        m for m in modules
        if m.split(".")[0] == "experiments"
        or (m.split(".")[0] == "kdjax" and place(m) != own and FLOORS[place(m)] >= FLOORS[own])
    ]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_down(file):
    kd = [m for m in imports(file) if m.split(".")[0] in ("kdjax", "experiments")]
    assert violations(file, kd) == []


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_visitors_stay_in_their_rooms(file):
    inside = str(file.relative_to(ROOT / "kdjax"))
    for module in {m.split(".")[0] for m in imports(file)} & ROOMS.keys():
        assert inside.startswith(ROOMS[module]), f"{inside} imports {module}"


def test_the_rule_can_fail():
    file = ROOT / "kdjax" / "losses" / "response.py"
    assert violations(file, ["kdjax.recipes.distill", "kdjax.data.source", "kdjax.types.Batch"]) == [
        "kdjax.recipes.distill",
        "kdjax.data.source",
    ]


def test_pmap_and_meshes_are_in_one_file():
    users = [
        f for f in FILES
        if {n.attr for n in ast.walk(ast.parse(f.read_text())) if isinstance(n, ast.Attribute)} & {"pmap", "make_mesh"}
        or any(m.endswith((".Mesh", ".PartitionSpec")) for m in imports(f) if f.name != "predict.py")
    ]  # fmt: skip
    assert [f.name for f in users] == ["parallel.py"]


def test_every_folder_has_a_floor():
    assert {f.relative_to(ROOT / "kdjax").parts[0].removesuffix(".py") for f in FILES} - {"__init__"} <= FLOORS.keys()


def code_lines(tree: ast.Module) -> int:
    """Lines that hold statements; docstrings and comments are free, so that nobody saves on words."""
    lines = set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and not is_text:
            own_end = node.body[0].lineno - 1 if getattr(node, "body", None) else node.end_lineno
            lines |= set(range(node.lineno, max(own_end or node.lineno, node.lineno) + 1))
            first = node.body[0] if getattr(node, "body", None) else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


@pytest.mark.parametrize("file", FILES + EXPERIMENTS, ids=lambda f: str(f.relative_to(ROOT)))
def test_files_are_small_and_say_what_they_are(file):
    text = file.read_text()
    tree = ast.parse(text)
    assert code_lines(tree) <= 250
    assert not text.strip() or ast.get_docstring(tree)
