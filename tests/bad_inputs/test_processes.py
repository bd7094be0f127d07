"""The same as users do it, in processes of their own; and a run that keeps no secret of the environment it ran in."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.bad_inputs.cases import ROOT, Case, cut, edit, tree_of

CANARY = "kanari" + "envogel7391"
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN", "DATABASE_PASSWORD")
BRIEF = "--config.evaluation.questions=0 --config.evaluation.samples=0 --config.evaluation.bootstrap=5"
CASES = [
    Case("a law cut short", "--law=law.json --schedule=schedule.json", ("law.json is not JSON",), cut("law.json", 0.5), "predict_loss"),
    Case(
        "a store from elsewhere",
        "--config=experiment.py",
        ("manifest.json has tokens 'many'",),
        edit("store/manifest.json", tokens="many"),
        "plan",
    ),
    Case(
        "an address with a password",
        f"--input=https://me:{CANARY}@127.0.0.1:1/a.jsonl --output=new",
        ("https://[redacted]@127.0.0.1:1/a.jsonl", "by the environment"),
        tool="prepare_data",
    ),
    Case(
        "a signed address",
        f"--config=experiment.py --config.data.sources[0].path=https://h/x?X-Amz-Signature={CANARY}",
        ("X-Amz-Signature=[redacted]", "a signed URL"),
    ),
    Case(
        "an output with a key",
        f"--config=experiment.py --config.output=s3://key:{CANARY}@bucket/run",
        ("config.output: found 's3://[redacted]@bucket/run'",),
    ),
]


@pytest.fixture
def good(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "good")


def process(folder, tool, flags, **environment):
    hurried = " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag)
    environment = os.environ | {"XLA_FLAGS": hurried} | environment
    command = [sys.executable, str(ROOT / "launch" / f"{tool}.py"), *flags.split()]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_ends_the_process_with_one_line_and_code_2(case, good):
    case.spoil(good)
    before = tree_of(good)
    done = process(good, case.tool, case.flags)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr
    assert all(words in done.stderr for words in case.says), done.stderr
    assert CANARY not in done.stderr + done.stdout and tree_of(good) == before


def test_no_file_of_a_run_and_nothing_printed_holds_a_secret_of_the_environment(good):
    done = process(good, "train", f"--config=experiment.py {BRIEF}", **dict.fromkeys(SECRETS, CANARY))
    assert done.returncode == 0, done.stderr
    files = [path for path in (good / "runs" / "new").rglob("*") if path.is_file()]
    assert {"config.json", "metrics.jsonl"} <= {path.name for path in files} and any("checkpoints" in path.parts for path in files)
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert CANARY not in done.stdout + done.stderr


def test_a_fault_of_ours_keeps_its_traceback_and_loses_the_password(good):
    code = (
        f"from kaiyuan_jax.flags import run\ndef main(argv):\n    raise RuntimeError('GET https://me:{CANARY}@host/x failed')\nrun(main)\n"
    )
    (good / "fault.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "fault.py"], cwd=good, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 1 and "RuntimeError: GET https://[redacted]@host/x failed" in done.stderr
    assert "Traceback" in done.stderr and CANARY not in done.stderr.replace(code.splitlines()[2].strip(), "")
