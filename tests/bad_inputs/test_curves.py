"""Schedules, curves and laws that say nothing, say it wrongly, or say it without end."""

import numpy as np
import pytest

from tests.bad_inputs.cases import Case, both, cut, edit, remove, replace

TRAIN = "--config=experiment.py --config.schedule.kind=file --config.schedule.path="
FIT = "--curves=curves --train=constant,decay --output=new.json"
PREDICT = "--law=law.json --schedule=schedule.json --output=forecast"
CURVE = "curves/decay.csv"


def saved(name, array, **options):
    return lambda good: np.save(good / name, array, **options)


def header(name, shape):
    """A .npy that promises more numbers than it holds."""
    return replace(
        name, b"\x93NUMPY\x01\x00v\x00" + f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    )


def row(number, text):
    """One row of the curve written over."""

    def change(good):
        lines = (good / CURVE).read_text().splitlines()
        lines[number] = text
        (good / CURVE).write_text("\n".join(lines) + "\n")

    return change


CASES = [
    Case("no schedule file", f"{TRAIN}none.json", ("config.schedule.path: no file 'none.json'",)),
    Case("a schedule that is not JSON", f"{TRAIN}schedule.json", ("schedule.json is not JSON",), cut("schedule.json", 0.4)),
    Case("a schedule of bytes", f"{TRAIN}schedule.json", ("schedule.json cannot be read",), replace("schedule.json", b"\xff\xfe\xff")),
    Case(
        "a schedule nested too deep", f"{TRAIN}schedule.json", ("is not JSON (brackets more than",), replace("schedule.json", "[" * 99999)
    ),
    Case("a schedule without knots", f"{TRAIN}schedule.json", ("has no list 'knots'",), edit("schedule.json", knots=...)),
    Case(
        "a schedule that goes back",
        f"{TRAIN}schedule.json",
        ("steps must be whole numbers, ascending",),
        edit("schedule.json", knots=[[0, 0], [9, 1], [3, 1]]),
    ),
    Case(
        "a schedule of words",
        f"{TRAIN}schedule.json",
        ('knots[1]: found [1, "x"], must be [step, rate]',),
        edit("schedule.json", knots=[[0, 0], [1, "x"]]),
    ),
    Case("a schedule of no rate", f"{TRAIN}schedule.json", ("every rate is 0",), edit("schedule.json", knots=[[0, 0], [9, 0]])),
    Case(
        "a schedule in tokens",
        f"{TRAIN}schedule.json",
        ("are these tokens? give updates",),
        edit("schedule.json", knots=[[0, 0], [10**12, 1]]),
    ),
    Case(
        "a schedule of another length",
        f"{TRAIN}schedule.json",
        ("is a schedule of 5 steps, the run has 10",),
        edit("schedule.json", knots=[[0, 0], [4, 1]], steps=5),
    ),
    Case("a CSV without its columns", f"{TRAIN}s.csv", ("has the columns a, b, a schedule needs step,lr",), replace("s.csv", "a,b\n1,2\n")),
    Case("a CSV of words", f"{TRAIN}s.csv", ("line 2: found '0','fast'",), replace("s.csv", "step,lr\n0,fast\n")),
    Case("an empty CSV", f"{TRAIN}s.csv", ("has the columns (none)",), replace("s.csv", "")),
    Case("a law that is not there", "--config=experiment.py --config.schedule.law=none.json", ("config.schedule.law: ",)),
    Case("no curves", "--curves=none --train=a --output=new.json", ("--curves: none is no folder",), tool="fit_law"),
    Case(
        "a curve that is not there", "--curves=curves --train=constant,none --output=new.json", ("--train: found 'none'",), tool="fit_law"
    ),
    Case("a law that is not known", f"{FIT} --law=magic", ("--law: found 'magic', must be one of",), tool="fit_law"),
    Case("an output nowhere", "--curves=curves --train=constant,decay --output=none/law.json", ("--output=none/law.json",), tool="fit_law"),
    Case("an empty curve", FIT, ("decay.csv: empty",), replace(CURVE, ""), "fit_law"),
    Case("a curve without rates", FIT, ("must have step, lr and loss; lr is missing",), replace(CURVE, "step,loss\n1,2\n"), "fit_law"),
    Case("a curve cut in a row", FIT, ("cells", "is its last line cut short?"), row(-1, "395"), "fit_law"),
    Case("a curve with a word", FIT, ("row 3 has loss 'low', must be a number",), row(3, "20,1e-3,low"), "fit_law"),
    Case("a curve with NaN", FIT, ("row 3 has loss nan, must be finite and above 0",), row(3, "20,1e-3,nan"), "fit_law"),
    Case("a curve that goes back", FIT, ("row 4: step 5 comes after",), row(4, "5,1e-3,3"), "fit_law"),
    Case("a curve of bytes", FIT, ("decay.csv: not a CSV",), replace(CURVE, b"\xff\xfe\x00\x01"), "fit_law"),
    Case(
        "a Parquet curve that is none",
        FIT,
        ("deep.parquet: cannot be read",),
        both(remove("curves/deep.csv"), replace("curves/deep.parquet", b"PAR1junkPAR1")),
        "fit_law",
    ),
    Case("a law that is not JSON", PREDICT, ("law.json is not JSON",), cut("law.json", 0.5), "predict_loss"),
    Case("a law of another version", PREDICT, ("found schema 9, this version reads 1",), edit("law.json", schema=9), "predict_loss"),
    Case("a law without parameters", PREDICT, ("has no theta",), edit("law.json", theta=...), "predict_loss"),
    Case("a law with too few parameters", PREDICT, ("theta must be 7 finite numbers",), edit("law.json", theta=[1.0]), "predict_loss"),
    Case("a law of a name that runs nothing", PREDICT, ("found the law '__import__'",), edit("law.json", law="__import__"), "predict_loss"),
    Case(
        "rates that are a pickle",
        "--law=law.json --schedule=r.npy",
        ("r.npy is no array of numbers", "Python objects"),
        saved("r.npy", np.array([print], object), allow_pickle=True),
        "predict_loss",
    ),
    Case(
        "rates that promise a petabyte",
        "--law=law.json --schedule=r.npy",
        ("r.npy is no array of numbers",),
        header("r.npy", "(100000000000000,)"),
        "predict_loss",
    ),
    Case(
        "rates in two dimensions",
        "--law=law.json --schedule=r.npy",
        ("has the shape (2, 2)",),
        saved("r.npy", np.ones((2, 2))),
        "predict_loss",
    ),
    Case("a schedule of no known kind", "--law=law.json --schedule=text.jsonl", ("ends in .jsonl, must be",), tool="predict_loss"),
    Case("a design without steps", "--law=law.json --steps=0 --peak=1e-3 --warmup=2 --output=s.json", ("--steps",), tool="design_schedule"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_curve_schedule_or_law_is_one_line_and_leaves_nothing(case, refused):
    refused(case)
