"""The whole benchmark in small, on stores whose text is known: it finds the noise, does nothing twice, and proposes what can be planned."""

import dataclasses
import json
import pathlib
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest

from kaiyuan_jax import config, plan
from kaiyuan_jax.config import UserError
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.data.store import open_store
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.evaluation import tasks
from kaiyuan_jax.experiments.quantiles import cells, measured, results, work

ROOT = pathlib.Path(__file__).parents[2]
WORDS = "the cat sat on the mat and the dog ran over the hill while a small bird sang of rain and wind to the sea ".split()
SMALL = ["width=16", "feedforward=32", "heads=2", "kv_heads=1", "head_size=8", "layers=1", "vocabulary=300"]


def text(random, good: bool) -> str:
    begin = int(random.integers(len(WORDS)))
    return " ".join(WORDS[(begin + i) % len(WORDS)] for i in range(12)) if good else "".join(random.choice(list("qxzjkvw;#"), 50))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two sources of sentences and noise, the second with noise among its best text, one held-out store of sentences, and a task."""
    folder, random = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    tokenizer = tokenizers.train([" ".join(WORDS)] * 20, 290)
    for name, noise in (("honest/train", (0.0, 0.4)), ("mistaken/train", (0.45, 0.75)), ("honest/heldout", (0.0, 0.0))):
        texts = [text(random, not noise[0] <= i / 200 < noise[1]) for i in range(200)]
        documents = [(f"{name}{i}", i / 200, len(words), tokenizer.encode(words).ids[:16]) for i, words in enumerate(texts)]
        options = dict(tokenizer_json=tokenizer.to_str(), vocabulary=tokenizer.get_vocab_size(), eod=0)
        write_store(folder / name, documents=documents, **options)
    items = [tasks.Item(f"i{i}", " ".join(WORDS[i : i + 3]), (" " + WORDS[i + 3], " xqj"), 0) for i in range(12)]
    tasks.write_suite(folder / "tasks", [tasks.Task("next_word", tuple(items))], {})
    return folder


@pytest.fixture(scope="module")
def command(inputs, tmp_path_factory):
    flags = [f"--stores={inputs}/honest,{inputs}/mistaken/train", "--quantiles=0,.3,.7", "--window=.2", "--seeds=2", "--tokens=6144"]
    flags += [f"--tasks={inputs}/tasks", "--config=configs/proxies/cpu.py", f"--output={tmp_path_factory.mktemp('out') / 'quantiles'}"]
    flags += [f"--config.model.{field}" for field in SMALL]
    return [*flags, "--config.data.sequence_length=32", "--config.data.batch_size=4", "--config.evaluation.rows=16"]


def benchmark(flags):
    done = subprocess.run([sys.executable, "launch/benchmark_quantiles.py", *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def done(command):
    """(output folder, what was printed)."""
    code, out, error = benchmark(command)
    assert code == 0, error
    return pathlib.Path(command[7].removeprefix("--output=")), out


@pytest.fixture(scope="module")
def described(inputs):
    """(study, tasks) of the same flags, in this process."""
    base = runpy.run_path(str(ROOT / "configs" / "proxies" / "cpu.py"))["get_config"]()
    for field in SMALL:
        name, value = field.split("=")
        setattr(base.model, name, int(value))
    base.data.sequence_length, base.data.batch_size, base.evaluation.rows = 32, 4, 16
    texts = []
    for name in ("honest", "mistaken"):
        store = open_store(inputs / name / "train")
        texts.append(cells.Text(name, store.folder, store.tokens, True, name, store.manifest.tokens_sha256))
    study = cells.Study(base, tuple(texts), (0.0, 0.3, 0.7), 0.2, 6144, 2, 2)
    suite = tasks.open_suite("--tasks", inputs / "tasks").tasks
    return study, measured.Tasks({"heldout_honest": open_store(inputs / "honest" / "heldout")}, suite, 16)


def test_cost_and_repetition_are_said_first(done):
    _, out = done
    before = out[: out.index("population 1 of 1")]
    assert "12 cells: 2 sources, 3 windows, 2 seeds; 48 steps of 128 tokens each" in before
    assert "honest: a window holds" in before and "times to reach 6,144" in before
    assert "12 members, 73,728 tokens" in before and "min of training" in before and "in all about" in before


def test_noise_is_found_where_it_is_and_nowhere_else(done):
    folder, _ = done
    found = json.loads((folder / "results.json").read_text())
    (entry,) = [one for one in found["measures"] if one["task"] == "heldout_honest"]
    honest, mistaken = np.array(entry["mean"])
    assert honest[2] > honest[0] + 0.3 and mistaken[1] > mistaken[2] + 0.3
    one, other = entry["shapes"]
    assert not any(pair["flagged"] for pair in one["inversions"]) and one["gain_interval"][0] > 0
    assert [(pair["better"], pair["worse"]) for pair in other["inversions"] if pair["flagged"]] == [(1, 2)]
    assert {(one["task"], one["metric"]) for one in found["measures"]} == {
        ("heldout_honest", "bits_per_byte"), ("next_word", "gold_bits_per_byte"), ("next_word", "accuracy"),
    }  # fmt: skip
    accuracy = np.array(found["measures"][-1]["mean"])
    assert ((0 <= accuracy) & (accuracy <= 1)).all()


def test_the_recipe_is_an_experiment_that_can_be_planned(done):
    folder, _ = done
    made = config.read(folder / "recipe.json")
    page = plan.describe(made)
    assert "honest" in page and "mistaken" in page
    first = json.loads((folder / "results.json").read_text())["recipe"]["phases"][0]
    assert first[0]["ratio"] < 0.75  # the noise of the honest source is left out


def test_figures_and_pages_are_written(done):
    folder, out = done
    assert {path.name for path in folder.glob("*.png")} == {f"quantiles_{name}.png" for name in ("changes", "levels", "recipe")}
    assert "What this does not show" in (folder / "report.html").read_text()
    assert (folder / "quantiles.md").read_text().startswith("# ") and "Non-monotonic" in out


def test_the_same_command_trains_and_measures_nothing_again(done, command):
    folder, _ = done
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "cells" in path.parts or "populations" in path.parts}
    code, out, error = benchmark(command)
    assert code == 0, error
    assert "population" not in out and "training" not in out
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_is_new_is_all_that_is_left_to_do(done, described):
    (folder, _), (study, asked) = done, described
    found = cells.cells(study)
    assert work.groups(found, asked, folder, 16) == []
    wider = cells.cells(dataclasses.replace(study, quantiles=(0.0, 0.3, 0.5, 0.7)))
    (group,) = work.groups(wider, asked, folder, 16)
    assert {cell.quantile for cell in group.cells} == {0.5} and len(group.experiments) == 4
    assert [len(group.cells) for group in work.groups(wider, asked, folder, 3)] == [3, 1]


def test_a_cell_that_lost_a_measurement_is_measured_out_of_its_population(done, described, tmp_path):
    (folder, _), (study, asked) = done, described
    there = tmp_path / "copy"
    shutil.copytree(folder, there)
    found = cells.cells(study)
    kept = work.table(folder, found[3], "next_word", "half")
    (there / "cells" / found[3].name / "next_word.npz").write_bytes(b"cut off")
    (group,) = work.groups(found, asked, there, 16)
    assert group.cells == (found[3],) and len(group.experiments) == 12  # the population as it was, which is finished
    work.run(found, asked, there, 16)
    again = work.table(there, found[3], "next_word", "half")
    for metric, (over, under) in kept.items():
        np.testing.assert_allclose(again[metric][0], over, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(again[metric][1], under)


def test_cells_trained_with_something_else_are_refused(done, described):
    (folder, _), (study, asked) = done, described
    base = dataclasses.replace(study.base, schedule=dataclasses.replace(study.base.schedule, peak=1e-3))
    with pytest.raises(UserError, match="was trained with schedule.peak 0.005, now 0.001"):
        work.groups(cells.cells(dataclasses.replace(study, base=base)), asked, folder, 16)
    with pytest.raises(UserError, match="--targets: found 'poems', must be one of heldout_honest, next_word"):
        results.check(results.Wish(targets=("poems",)), asked, study)
    with pytest.raises(UserError, match="--recipe_tokens: found 1,000,000,000, must be at most"):
        results.check(results.Wish(tokens=10**9), asked, study)


def test_a_mistake_is_one_line_before_any_work(command, tmp_path):
    code, out, error = benchmark([*command, "--domains=a", f"--output={tmp_path / 'none'}"])
    assert code == 2 and "--domains: found 1, must be one word for each of the 2 stores" in error and "Traceback" not in error
    assert not (tmp_path / "none").exists()
