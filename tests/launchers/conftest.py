"""A config file as a user writes it, whose store is only planned, and the launch scripts as a user's processes."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def config_file(tmp_path):
    """config_file(output) -> path of a config of 40 steps whose run folder is `output`."""

    def make(output):
        file = tmp_path / "experiment.py"
        file.write_text(
            "from kaiyuan_jax.config import *\n\n\ndef get_config():\n"
            "    sources = [Source(name='s', path='/nowhere/s', planned_tokens=1288)]\n"
            "    data = Data(sources=sources, phases=[Phase(uses=[Use(source='s')])], sequence_length=8, batch_size=4)\n"
            "    checkpoint = Checkpoint(grace=20.0)\n"
            "    schedule = Schedule(warmup=2)\n"
            "    evaluation = Evaluation(context=4, continuation=4)\n"
            f"    return Experiment(name='my_run', output={str(output)!r}, data=data, checkpoint=checkpoint, schedule=schedule,\n"
            "        evaluation=evaluation)\n"
        )
        return file

    return make


@pytest.fixture
def launch(tmp_path):
    """launch(script, *arguments, **environment) -> (code, stdout, stderr)."""

    def start(script, *arguments, **environment):
        command = [sys.executable, str(ROOT / "launch" / f"{script}.py"), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    return start
