"""The script's own part: a dry run, exit codes and messages. What a run does is tested in tests/training."""

import json
import pathlib
import subprocess
import sys
import time

import pytest

from kaiyuan_jax import config
from kaiyuan_jax.data.store_write import write_store
from tests.scripts import run

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    documents = [(f"d{i}", float(i), 30, [1, 2, 3, 4, 5, 6, 7]) for i in range(100)]
    write_store(folder / "store", documents=documents, tokenizer_json="{}", vocabulary=16, eod=0)
    (folder / "config.py").write_text(
        "from kaiyuan_jax.config import *\n\n\ndef get_config():\n"
        f"    sources = [Source(name='s', path={str(folder / 'store')!r})]\n"
        "    data = Data(sources=sources, phases=[Phase(uses=[Use(source='s')])], sequence_length=8, batch_size=4)\n"
        "    evaluation = Evaluation(context=4, continuation=4)\n"
        f"    return Experiment(output={str(folder / 'run')!r}, data=data, schedule=Schedule(warmup=2), evaluation=evaluation)\n"
    )
    return folder / "config.py"


def test_a_dry_run_prints_experiment_and_plan_and_makes_nothing(config_file):
    begin = time.perf_counter()
    command = [sys.executable, "launch/train.py", f"--config={config_file}", "--dry_run", "--config.schedule.peak=0.002"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - begin < 60  # 10 s on a machine that is not shared
    experiment, end = json.JSONDecoder().raw_decode(done.stdout)
    assert config.from_json(json.dumps(experiment)).schedule.peak == 0.002
    assert "24 of 32 tokens" in done.stdout[end:] and "Learning rate" in done.stdout[end:]
    assert not (config_file.parent / "run").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--config.schedule.peek=1"], "unknown field 'peek' of Schedule; did you mean peak"),
        (["--config.optimizer.accumulation=3"], "config.optimizer.accumulation: found 3, must divide config.data.batch_size = 4"),
        (["--config.data.phases[0].tokens=100000000"], "tokens: found 100000000"),
        (["--config.mesh.data=3"], "mesh: found data=3"),
        (["--config.model.vocabulary=8"], "config.model.vocabulary: found 8"),
    ],
)
def test_mistakes_end_before_any_work_in_plain_lines(config_file, flags, message):
    code, _, error = run("train", f"--config={config_file}", *flags)
    assert code == 2, error
    assert message in error and "Traceback" not in error
    assert not (config_file.parent / "run").exists()
