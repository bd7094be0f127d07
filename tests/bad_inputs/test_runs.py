"""Run folders and checkpoints that are missing, damaged or half there, for every tool that reads them."""

import pytest

from tests.bad_inputs.cases import Case, cut, flip, remove, replace

RUN, NEWEST = "runs/trained", "runs/trained/checkpoints/10"
EVALUATE, GENERATE = "--model=runs/trained", "--model=runs/trained --prompt=The"


def largest(where, damage):
    """Damages the largest file below a folder: the values of a checkpoint."""

    def change(good):
        path = max((path for path in (good / where).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        damage(path.relative_to(good).as_posix())(good)

    return change


CASES = [
    Case(
        "an address with a password",
        "--model=s3://key:canary7@b/run",
        ("s3://[redacted]@b/run: holds a user or password",),
        tool="evaluate",
    ),
    Case("an average at an address with a password", "--run=s3://key:canary7@b/run", ("[redacted]@b/run",), tool="average_checkpoints"),
    Case("no run", "--model=runs/none", ("--model=runs/none: ",), tool="evaluate"),
    Case("a run without its config", EVALUATE, ("--model=runs/trained: must be a run",), remove(f"{RUN}/config.json"), "evaluate"),
    Case("a run without its tokenizer", EVALUATE, ("--model=runs/trained: must be a run",), remove(f"{RUN}/tokenizer.json"), "evaluate"),
    Case("a run without checkpoints", EVALUATE, ("holds no complete checkpoint",), remove(f"{RUN}/checkpoints"), "evaluate"),
    Case("a checkpoint that is not there", "--model=runs/trained/checkpoints/7", ("no complete checkpoint here", "5, 10"), tool="evaluate"),
    Case("a run whose config is cut", EVALUATE, ("config.json: not JSON",), cut(f"{RUN}/config.json", 0.5), "evaluate"),
    Case(
        "a run whose config has other types",
        EVALUATE,
        ("config.model.layers: ",),
        replace(f"{RUN}/config.json", '{"model": {"layers": "x"}}'),
        "evaluate",
    ),
    Case(
        "a checkpoint of another model",
        GENERATE,
        ("has shape",),
        replace(f"{RUN}/config.json", '{"model": {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "vocabulary": 280}}'),
        "generate",
    ),
    Case(
        "a checkpoint with its values cut",
        GENERATE,
        ("checkpoints/10",),
        largest(f"{NEWEST}/parameters", lambda name: cut(name, 0.5)),
        "generate",
    ),
    Case(
        "a checkpoint with a flipped byte",
        GENERATE,
        ("checkpoints/10",),
        largest(f"{NEWEST}/parameters", lambda name: flip(name, 0.5)),
        "generate",
    ),
    Case("a checkpoint without its values", GENERATE, ("checkpoints/10",), remove(f"{NEWEST}/parameters"), "generate"),
    Case(
        "a checkpoint whose progress is not JSON",
        GENERATE,
        ("checkpoints/10",),
        largest(f"{NEWEST}/progress", lambda name: replace(name, "{")),
        "generate",
    ),
    Case(
        "a checkpoint whose progress says something else",
        GENERATE,
        ("checkpoints/10",),
        largest(f"{NEWEST}/progress", lambda name: replace(name, "[1]")),
        "generate",
    ),
    Case("a checkpoint without its description", GENERATE, ("checkpoints/10",), remove(f"{NEWEST}/parameters/_METADATA"), "generate"),
    Case(
        "a tokenizer that is none", GENERATE, ("tokenizer.json: not a tokenizer.json",), replace(f"{RUN}/tokenizer.json", "{}"), "generate"
    ),
    Case("no prompt file", "--model=runs/trained --prompts_file=none.txt", ("--prompts_file",), tool="generate"),
    Case(
        "a prompt file of bytes",
        "--model=runs/trained --prompts_file=p.txt",
        ("--prompts_file", "p.txt"),
        replace("p.txt", b"\xff\xfe"),
        "generate",
    ),
    Case(
        "prompts without a prompt",
        "--model=runs/trained --prompts_file=p.jsonl",
        ("--prompts_file", "p.jsonl"),
        replace("p.jsonl", '{"text": 1}\n'),
        "generate",
    ),
    Case("an output folder that is not there", f"{GENERATE} --output=none/x.txt", ("--output=none/x.txt",), tool="generate"),
    Case("an average of nothing", "--run=runs/none", ("--run: found no",), tool="average_checkpoints"),
    Case("an average beyond what is kept", "--run=runs/trained --last=9", ("--last: found 9", "5, 10"), tool="average_checkpoints"),
    Case("an average of steps that are words", "--run=runs/trained --steps=five", ("--steps: found five",), tool="average_checkpoints"),
    Case(
        "an average with a name that leaves",
        "--run=runs/trained --last=2 --kind=sma --name=../../up",
        ("--name: found '../../up'",),
        tool="average_checkpoints",
    ),
    Case(
        "an average of a damaged checkpoint",
        "--run=runs/trained --last=2 --kind=sma",
        ("checkpoints/10",),
        largest(f"{NEWEST}/parameters", lambda name: cut(name, 0.5)),
        "average_checkpoints",
    ),
    Case("a report of no run", "--runs=runs/none --output=page", ("--runs: ",), tool="report"),
    Case(
        "a report of a broken config",
        "--runs=runs/trained --output=page",
        ("config.json: not JSON",),
        replace(f"{RUN}/config.json", "nope"),
        "report",
    ),
    Case(
        "a run with a broken config to resume",
        "--config=experiment.py --config.output=runs/trained",
        ("config.json: not JSON",),
        replace(f"{RUN}/config.json", "nope"),
    ),
    Case("a run folder that is a file", "--config=experiment.py --config.output=text.jsonl", ("text.jsonl",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_run_is_one_line_and_leaves_nothing(case, refused):
    refused(case)
