"""The floors of the design hold: a part imports only what lies below it, and the package stays light to import."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "kaiyuan_jax"

# From the top down; parts on one floor do not import one another.
FLOORS = [
    {"plan", "experiments", "report", "launchers"},
    {"training"},
    {"evaluation"},
    {"data", "models", "schedules", "sharding", "averaging"},
    {"kernels", "optimizers", "flags"},
    {"storage"},
    {"config_check", "files", "page"},
    {"config"},
    {"json_text", "secrets"},
]
FLOOR = {part: depth for depth, parts in enumerate(FLOORS) for part in parts}
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def part_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: pathlib.Path) -> set[str]:
    """Parts of the package that a file imports, wherever in the file the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "kaiyuan_jax" else [node.module or ""]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("kaiyuan_jax.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_lies_below(path):
    part = part_of(path)
    if part == "__init__":
        assert not imported_parts(path)
        return
    assert part in FLOOR, f"{part} stands on no floor: add it to FLOORS and to the design"
    for other in imported_parts(path) - {part}:
        assert FLOOR[other] > FLOOR[part], f"{path.name}: {part} must not import {other}"


def test_every_part_on_a_floor_is_seen_by_the_walk():
    parts = {part_of(path) for path in FILES}
    assert {"config", "data", "models", "training", "evaluation", "plan", "report"} <= parts


def test_no_file_is_longer_than_a_reader_bears():
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path


def test_importing_what_plans_takes_under_two_seconds_and_leaves_jax_alone():
    imports = "import kaiyuan_jax, kaiyuan_jax.flags, kaiyuan_jax.plan"
    code = f"import time, sys; start = time.process_time(); {imports}; print(time.process_time() - start, 'jax' in sys.modules)"
    seconds, has_jax = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert float(seconds) < 2
    assert has_jax == "False"
