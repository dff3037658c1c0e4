"""The house keeps its floors: imports go down or stay in their folder, and visitors stay in their rooms.

Each test reads every file and lists all that it finds wrong.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = {
    "types": 0,
    "axis": 0,
    "files": -1,
    "config": 0,
    "spec": 0,
    "methods": 4,
    "fitting": 4,
    "study": 5,
    "experiments": 6,
}
FLOORS |= dict.fromkeys(("losses", "models", "data", "training", "evaluation"), 1)
FLOORS |= dict.fromkeys(("ensembles", "teachers", "attacks"), 2) | dict.fromkeys(("recipes", "audit"), 3)
GROUND = "types"
"""What every folder and file may import, on its own floor too."""
FILES = sorted(f for top in ("kdjax", "experiments") for f in (ROOT / top).rglob("*.py"))
TREES = {f: ast.parse(f.read_text()) for f in FILES}
ROOMS = {
    "flax": ("kdjax/models/",),
    "orbax": ("kdjax/training/checkpoint.py",),
    "absl": ("kdjax/config.py", "kdjax/study/"),
    "tqdm": ("kdjax/study/",),
    "matplotlib": ("kdjax/study/figures.py",),
    "tensorflow_datasets": ("kdjax/data/",),
    "array_record": ("kdjax/data/",),
    "tensorflow": (),
    "torch": ("experiments/benchmarks/",),
    "starlette": ("kdjax/teachers/serving/",),
    "uvicorn": ("kdjax/teachers/serving/host.py",),
    "httpx": ("kdjax/teachers/service.py", "experiments/benchmarks/"),
    "tenacity": ("kdjax/teachers/service.py",),
}


def shown(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imports(tree: ast.Module) -> list[str]:
    """Every module that a file imports, at any depth in it; a relative import begins with a dot."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
    return found


def file_of(module: str) -> Path | None:
    """The file of this project that an import reads, if it is one's: a module, a name in it, or a package."""
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py", path.parent.with_suffix(".py"))
    inside = module.split(".")[0] in ("kdjax", "experiments")
    return next((c for c in (*candidates, path.parent / "__init__.py") if c.exists()), None) if inside else None


def place(module: str) -> str:
    """The folder or file of kdjax that a module lies in, or experiments; "" for the package itself."""
    top, *rest = module.split(".")
    return top if top == "experiments" else rest[0] if rest else ""


def violations(own: str, modules: list[str]) -> list[str]:
    """The imports that go up or sideways, for a file of the folder `own`."""
    ours = [m for m in modules if m.split(".")[0] in ("kdjax", "experiments")]
    if own == "__init__":
        return ours
    return [
        m for m in ours
        if place(m) not in (own, GROUND) and (own == GROUND or FLOORS.get(place(m), 99) >= FLOORS[own])
    ]  # fmt: skip


def folder(file: Path) -> str:
    """Where a file lies: a folder or file of kdjax, or experiments."""
    top, first = file.relative_to(ROOT).parts[:2]
    return top if top == "experiments" else first.removesuffix(".py")


def allowed(file: Path, rooms: tuple[str, ...]) -> bool:
    name = shown(file)
    return any(name.startswith(room) or Path(name).match(room) for room in rooms)


def is_script(tree: ast.Module) -> bool:
    """Whether a command starts the file: it calls `command.start`."""
    calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    return any(c.attr == "start" and isinstance(c.value, ast.Name) and c.value.id == "command" for c in calls)


def private_room(file: Path) -> Path | None:
    """The experiment's folder that a file of experiments lies in, if in one."""
    parts = file.relative_to(ROOT / "experiments").parts
    return ROOT / "experiments" / parts[0] if len(parts) > 1 else None


def trespasses(file: Path, modules: list[str]) -> list[str]:
    """What a file of experiments imports of experiments that it may not: scripts, and other experiments' rooms."""
    found = []
    for module in modules:
        read = file_of(module)
        if read is None or not read.is_relative_to(ROOT / "experiments") or read.name == "__init__.py":
            continue
        if is_script(TREES[read]) or private_room(read) != private_room(file) or private_room(file) is None:
            found.append(module)
    return found


def height(file: Path, above: tuple[Path, ...] = ()) -> int:
    """On which floor of experiments a file stands: one more than the highest that it imports of them."""
    assert file not in above, f"a circle of imports: {[shown(f) for f in (*above, file)]}"
    read = {r for m in imports(TREES[file]) if (r := file_of(m)) and r.is_relative_to(ROOT / "experiments")}
    return 1 + max((height(r, (*above, file)) for r in read if r.name != "__init__.py"), default=0)


def test_every_folder_has_a_floor():
    assert {folder(f) for f in FILES} - {"__init__"} <= FLOORS.keys()


def test_imports_go_down():
    wrong = {shown(f): v for f in FILES if (v := violations(folder(f), imports(TREES[f])))}
    assert wrong == {}
    assert [shown(f) for f in FILES if any(m.startswith(".") for m in imports(TREES[f]))] == []


def test_visitors_stay_in_their_rooms():
    tops = {f: {m.split(".")[0] for m in imports(TREES[f])} & ROOMS.keys() for f in FILES}
    assert {shown(f): m for f, found in tops.items() for m in sorted(found) if not allowed(f, ROOMS[m])} == {}


def test_scripts_import_no_script_and_rooms_are_private():
    files = [f for f in FILES if folder(f) == "experiments"]
    assert {shown(f): t for f in files if (t := trespasses(f, imports(TREES[f])))} == {}
    assert [shown(f) for f in files if f.name.startswith("_") and f.name not in ("__init__.py", "__main__.py")] == []
    alone = [f for f in files if private_room(f) is None and f.name != "__init__.py"]
    assert [shown(f) for f in alone if not is_script(TREES[f])] == []


def test_experiments_have_three_floors_or_fewer():
    heights = {shown(f): height(f) for f in FILES if folder(f) == "experiments"}
    assert {name: h for name, h in heights.items() if h > 3} == {}


def test_the_rules_can_fail():
    upward = ["kdjax.recipes.distill", "kdjax.data.source", "experiments.distill", "kdjax.unknown.thing"]
    assert violations("losses", [*upward, "kdjax.types.Batch", "kdjax.losses.response"]) == upward
    assert violations("types", ["kdjax.config.field"]) == ["kdjax.config.field"]
    assert violations("study", ["kdjax.methods.kd", "kdjax.recipes.distill.distill"]) == []
    assert allowed(ROOT / "kdjax/study/figures.py", ROOMS["matplotlib"])
    assert not allowed(ROOT / "experiments/map/figures.py", ROOMS["matplotlib"])
    assert not allowed(ROOT / "kdjax/study/report.py", ROOMS["matplotlib"])
    room, script = ROOT / "experiments/sweep/lessons.py", ROOT / "experiments/distill.py"
    wrong = ["experiments.distill", "experiments.sweep.__main__", "experiments.map.gains.table"]
    assert trespasses(room, [*wrong, "experiments.sweep.space.Axis"]) == wrong
    assert trespasses(script, ["experiments.sweep.space"]) == ["experiments.sweep.space"]
    assert height(ROOT / "experiments/sweep/__main__.py") == 3
    assert height(script) == 1


def test_pmap_and_meshes_are_in_one_file():
    users = [
        f for f in FILES
        if {n.attr for n in ast.walk(TREES[f]) if isinstance(n, ast.Attribute)} & {"pmap", "make_mesh"}
        or any(m.endswith((".Mesh", ".PartitionSpec")) for m in imports(TREES[f]) if f.name != "predict.py")
    ]  # fmt: skip
    assert [f.name for f in users] == ["parallel.py"]


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


def test_words_are_the_fields():
    """Words at which a reader from the field stopped, and that have a name there."""
    wrong = re.compile(
        r"\b(heed\w*|staff|entered|strikes?|struck|spoken for|met)\b|\bclass (Said|Taught)\b", re.IGNORECASE
    )
    assert {shown(f): found[0] for f in FILES if (found := wrong.search(f.read_text()))} == {}


def test_files_are_small_and_say_what_they_are():
    assert {shown(f): n for f in FILES if (n := code_lines(TREES[f])) > 250} == {}
    assert [shown(f) for f in FILES if TREES[f].body and not ast.get_docstring(TREES[f])] == []
