"""Dependencies point one way (docs/design.md), and a file that is too long for a screen is noticed."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = {
    "bundle",
    "config",
    "contract",
    "document",
    "errors",
    "files",
    "geometry",
    "onnx_file",
    "pictures",
    "types",
    "window_picture",
}
TASKS = {"objects", "hands"}
# What each room of the core may import from the others. `runtime` builds torch networks, in its torch backend alone.
MAY_IMPORT = {
    **{name: VOCABULARY for name in VOCABULARY},
    "rendering": VOCABULARY,
    "runtime": VOCABULARY | {"learning"},
    "learning": VOCABULARY | {"runtime"},
    "objects": VOCABULARY | {"rendering", "runtime", "learning"},
    "hands": VOCABULARY | {"rendering", "runtime", "learning"},
    "tasks": VOCABULARY | TASKS | {"learning"},
    "simulation": VOCABULARY | TASKS | {"rendering"},
    "cli": VOCABULARY | TASKS | {"rendering", "runtime", "learning", "tasks", "simulation"},
    "__init__": VOCABULARY | TASKS,
}
LIBRARIES = {  # which files alone may know a library
    "pyrender": {"rendering/renderer.py"},
    "trimesh": {"rendering/mesh.py", "rendering/solids.py"},
    "tensorrt": {"runtime/tensorrt_backend.py"},
    "huggingface_hub": {"objects/download.py"},
}
SCREEN = 48  # lines of a function, its docstring included


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(ROOT / "fm_pose_core").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources("fm_pose_core"), ids=lambda p: str(p.relative_to(ROOT / "fm_pose_core")))
def test_the_core_imports_downwards(path: Path) -> None:
    allowed = MAY_IMPORT[room(path)] | {room(path), "__version__"}
    for name in imports(path):
        assert not name.startswith(("rclpy", "fm_pose_ros", "sensor_msgs", "geometry_msgs", "vision_msgs")), name
        if name.startswith("fm_pose_core."):
            assert name.split(".")[1] in allowed, f"{room(path)} may not import {name}"
        library = name.split(".")[0]
        if library in LIBRARIES:
            assert str(path.relative_to(ROOT / "fm_pose_core")) in LIBRARIES[library], name


def test_files_do_not_import_each_other_in_a_circle() -> None:
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sources("fm_pose_core")}
    uses = {name: used_by(path, set(names)) - {name} for name, path in names.items() if not name.endswith("__init__")}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for used in sorted(uses.get(name, ())):
                visit(used, (*above, name))
            done.add(name)

    for name in uses:
        visit(name, ())


def used_by(path: Path, names: set[str]) -> set[str]:
    return {m for i in top_level_imports(path) for m in names if i == m or i.startswith(f"{m}.")}


def top_level_imports(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", ["fm_pose_core", "fm_pose_ros", "launch", "benchmarks"])
def test_functions_fit_on_a_screen(package: str) -> None:
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= SCREEN, f"{path.relative_to(ROOT)}: {node.name} has {lines} lines"


def test_lines_have_at_most_120_characters() -> None:
    """ruff looks at Python; here is the rest. Tables and links cannot be broken."""
    kinds = ("*.md", "*.yaml", "*.txt", "*.toml", "*.msg", "*.sh", "CMakeLists.txt", "Makefile", "package.xml")
    files = subprocess.run(["git", "ls-files", *kinds], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for file in files:
        if file.startswith(("demo/", "dev/overlay/")):
            continue  # data, and stand-ins for other packages
        for number, line in enumerate((ROOT / file).read_text().splitlines(), start=1):
            assert len(line) <= 120 or line.startswith("|") or "](http" in line, f"{file}:{number}"


def test_the_design_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    rooms = ("objects", "hands", "learning", "rendering", "runtime", "fm_pose_ros", "fm_pose_core", "benchmarks", "cli")
    named = {word for word in text.replace("`", " ").replace("(", " ").split() if "/" in word}
    for word in sorted(named):
        word = word.strip("),:.;")
        if word.split("/")[0] in rooms and word.endswith((".py", "/")):
            assert (ROOT / word).exists() or (ROOT / "fm_pose_core" / word).exists(), word
