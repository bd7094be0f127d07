"""Nothing that is read becomes code: the package is walked for every way in which Python would let it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(path for part in ("kaiyuan_jax", "launch", "configs") for path in (ROOT / part).rglob("*.py"))

BUILTINS = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "code", "runpy", "torch"}
CALLS = {"exec_module", "load_module", "unsafe_load", "full_load", "system", "popen", "extractall", "literal_eval"}
SAFE = {"safe_load", "safe_dump"}  # of yaml
# Where it is done on purpose, and why that is no input.
ALLOWED = {
    ("kaiyuan_jax/data/prepare/engine.py", "pickle"): "tasks and results between a job and its own workers, over Daft, never from a file",
    ("kaiyuan_jax/schedules/laws/given.py", "exec_module"): "a config file of Python that the user names, as --config does",
    ("kaiyuan_jax/sharding/topology.py", "exec_module"): "a module of the compilers that make targets installed",
    ("kaiyuan_jax/experiments/chaos/child.py", "runpy"): "runs launch/train.py of this repository with faults put in",
    ("configs/proxies/kaiyuan.py", "runpy"): "the published recipe beside it",
}
# torch is the rival of measurements, in environments of their own; what they load is named here when it is.
TORCH = ("kaiyuan_jax/experiments/accelerator/", "kaiyuan_jax/experiments/cpu_step/", "launch/benchmark_")


def found_in(path: pathlib.Path) -> set[str]:
    """Names of what in a file could turn data into code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found |= {name.split(".")[0] for name in names} & MODULES
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        owner = node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
        keywords = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        if isinstance(node.func, ast.Name) and name in BUILTINS or name in CALLS:
            found.add(name)
        if name == "extractall" and keywords.get("filter") == "data":  # stays in its folder, makes no links out of it
            found.discard(name)
        if owner in ("np", "numpy") and name == "load" and keywords.get("allow_pickle") is not False:
            found.add("np.load without allow_pickle=False")
        if owner == "yaml" and name not in SAFE:
            found.add(f"yaml.{name}")
        if keywords.get("shell") is True:
            found.add("shell=True")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_input_is_run(path):
    name = path.relative_to(ROOT).as_posix()
    ours = {what for what in found_in(path) if not (what == "torch" and name.startswith(TORCH))}
    assert not {what for what in ours if (name, what) not in ALLOWED}


def test_every_exception_is_still_one():
    for name, what in ALLOWED:
        assert what in found_in(ROOT / name), f"{name} no longer uses {what}: take it off the list"


@pytest.mark.parametrize(
    "line",
    ["eval(text)", "import pickle", "from pickle import loads", "np.load(path)", "np.load(path, allow_pickle=True)", "yaml.load(file)",
     "os.system(line)", "subprocess.run(line, shell=True)", "tarfile.open(x).extractall(y)", "spec.loader.exec_module(m)"],
)  # fmt: skip
def test_the_walk_sees_what_it_is_for(tmp_path, line):
    (tmp_path / "a.py").write_text(line + "\n")
    assert found_in(tmp_path / "a.py")
