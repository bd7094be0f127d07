"""Machines, prices, launchers and starts that cannot be."""

import pytest

from tests.bad_inputs.cases import Case, edit, replace

GOOD = "--config=experiment.py"
START = f"{GOOD} --config.start=runs/trained"
CASES = [
    Case("a start that is not there", f"{GOOD} --config.start=runs/none", ("config.start: found 'runs/none', must be a run",)),
    Case("a start that is not complete", f"{GOOD} --config.start=runs/trained/checkpoints/7", ("config.start: ", "is not complete", "5")),
    Case(
        "a start of another model",
        f"{START} --config.model.layers=2",
        ("config.start: the model of", "config.model.layers: was 1, now 2"),
        lines=2,
    ),
    Case("a start with another tokenizer", START, ("config.start: ", "another tokenizer"), replace("runs/trained/tokenizer.json", "{}")),
    Case("a start with a broken config", START, ("config.json: not JSON",), replace("runs/trained/config.json", "{")),
    Case("a machine without a size", f"{GOOD} --target=v5p", ("--target=v5p: found ''",), tool="plan"),
    Case("a topology that is none", f"{GOOD} --target=v5p:4xx4", ("--target",), tool="plan"),
    Case("a price in words", f"{GOOD} --target=v5e:4x4 --price=cheap", ("--price",), tool="plan"),
    Case("hours below zero", f"{GOOD} --target=v5e:4x4 --hours=-1", ("--hours",), tool="plan"),
    Case("a page nowhere", f"{GOOD} --target=v5e:4x4 --html=none/page.html", ("--html=none/page.html",), tool="plan"),
    Case("a plan of a store that is spoiled", GOOD, ("manifest.json",), edit("store/manifest.json", tokens=-5), "plan"),
    Case("no processes", f"--processes=0 -- {GOOD}", ("--processes",), tool="local"),
    Case("a launcher without a config", "--processes=1", ("--config",), tool="local"),
    Case("a launcher with a field that is not", f"--print -- {GOOD} --config.seeed=1", ("unknown field 'seeed'",), tool="local"),
    Case("a cluster without a machine", f"--image=x -- {GOOD}", ("--target",), tool="gke"),
    Case(
        "relative paths for a slice",
        f"--target=v5p:4x4x4 --zone=a --print -- {GOOD}",
        ("config.output: found 'runs/new'", "store", "heldout"),
        tool="tpu_vm",
        lines=3,
    ),
    Case("a time that is none", f"--time=soon --print -- {GOOD}", ("--time",), tool="slurm"),
    Case("no nodes", f"--nodes=0 --print -- {GOOD}", ("--nodes",), tool="slurm"),
    Case("no faults", "--faults=0", ("--faults",), tool="chaos"),
    Case("a fault that is not known", "--faults=1 --kinds=earthquake", ("--kinds", "earthquake"), tool="chaos"),
    Case("a context of all that are left", f"{GOOD} --config.mesh.data=1 --config.mesh.context=-1", ("config.mesh.context: found -1",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_plan_or_launch_that_cannot_be_is_said_and_leaves_nothing(case, refused):
    refused(case)
