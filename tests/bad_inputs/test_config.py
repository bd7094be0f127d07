"""Mistakes in an experiment: its file, its fields, and what the fields say together."""

import pytest

from tests.bad_inputs.cases import Case, edit, replace

GOOD = "--config=experiment.py"
CASES = [
    Case("no config", "", ("--config: missing", "name an experiment file")),
    Case("no such file", "--config=nowhere.py", ("--config: ", "nowhere.py")),
    Case("a file that is not Python", GOOD, ("--config: ", "invalid syntax"), replace("experiment.py", "def get_config(:\n")),
    Case("a file without get_config", GOOD, ("--config: ", "get_config"), replace("experiment.py", "x = 1\n")),
    Case("a file that raises", GOOD, ("--config: ", "division by zero"), replace("experiment.py", "def get_config():\n    return 1 / 0\n")),
    Case("a file that returns something else", GOOD, ("--config: ", "dict", "Experiment"), replace("experiment.py", "get_config = dict\n")),
    Case("a saved config cut short", GOOD, ("experiment.json: not JSON",), replace("experiment.json", '{"name": "tin')),
    Case(
        "a saved config of bytes", GOOD, ("experiment.json: not JSON (not UTF-8 at byte 0)",), replace("experiment.json", b"\xff\xfe\x00")
    ),
    Case("a saved config nested too deep", GOOD, ("not JSON (brackets more than 64 deep)",), replace("experiment.json", "[" * 99999)),
    Case("a number of 5,000 digits", GOOD, ("not JSON (Exceeds the limit",), replace("experiment.json", '{"seed": ' + "9" * 5000 + "}")),
    Case("half a character", GOOD, ("a lone surrogate",), replace("experiment.json", '{"name": "\\ud800"}')),
    Case("an empty saved config", GOOD, ("experiment.json: not JSON",), replace("experiment.json", "")),
    Case("a list for an experiment", GOOD, ("config: found [1]", "must be a table"), replace("experiment.json", "[1]")),
    Case("an unknown field in a saved config", GOOD, ("unknown field 'nane'", "did you mean name"), edit("experiment.json", nane="x")),
    Case(
        "a word for a number in a saved config",
        GOOD,
        ("config.seed: found 'one' of type str, must be int",),
        edit("experiment.json", seed="one"),
    ),
    Case("null for a table", GOOD, ("config.model: found None, must be a table",), edit("experiment.json", model=None)),
    Case("a huge number", f"{GOOD} --config.seed={10**30}", ("config.seed: found 1000", "must be at most"), lines=1),
    Case("not a number", f"{GOOD} --config.schedule.peak=nan", ("config.schedule.peak: found nan, must be a finite number",)),
    Case("a name that would leave the folder", f"{GOOD} --config.name=../up", ("config.name: found '../up', must be a folder name",)),
    Case("an unknown source", f"{GOOD} --config.data.phases[0].uses[0].source=prose", ("uses[0].source: found 'prose'", "code")),
    Case("passes that give nothing", f"{GOOD} --config.data.phases[0].uses[0].passes=1e-300", ("passes are so small",)),
    Case("an empty window", f"{GOOD} --config.data.phases[0].uses[0].window=(0.9,0.1)", ("window: found (0.9, 0.1)", "0 <= low < high")),
    Case(
        "two mistakes are two lines",
        f"{GOOD} --config.model.head_size=7 --config.schedule.peak=-1.0",
        ("must be even", "peak: found"),
        lines=2,
    ),
    Case(
        "more tokens than there are", f"{GOOD} --config.data.phases[0].tokens=99999999", ("config.data.phases[0].tokens: found 99999999",)
    ),
    Case("a batch that no mesh divides", f"{GOOD} --config.mesh.data=3", ("mesh",)),
    Case(
        "an average longer than the run",
        f"{GOOD} --config.averaging.kind=ema --config.averaging.last=7",
        ("config.averaging.last: found 7",),
    ),
    Case("a vocabulary below the store's", f"{GOOD} --config.model.vocabulary=64", ("vocabulary",)),
    Case("a branch of nothing", f"{GOOD} --config.branch=runs/none/checkpoints/5", ("config.branch: ",)),
    Case(
        "a branch that is no checkpoint", f"{GOOD} --config.branch=runs", ("config.branch: found 'runs'", "such as runs/x/checkpoints/400")
    ),
    Case(
        "another experiment's folder",
        f"{GOOD} --config.output=runs/trained --config.seed=7",
        ("holds another experiment", "seed: was 0, now 7"),
        lines=2,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_in_the_experiment_is_one_line_and_leaves_nothing(case, refused):
    refused(case)
