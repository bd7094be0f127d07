"""The script as a user runs it, on folders of text; the model that it writes is applied by the fastText library."""

import gzip
import json
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kaiyuan_jax.data.prepare import fasttext_model, score

ROOT = pathlib.Path(__file__).parents[2]
GOOD = "the wind and the rain sang over a quiet hill while we read".split()
BAD = "click here to buy cheap now best price offer login cart".split()
FLAGS = ["--buckets=4096", "--dimension=4", "--heldout=0.25", "--min_count=1"]


def texts(words, count, seed):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words + ["and", "to"], int(random.integers(5, 40)))) for _ in range(count)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    good, bad = texts(GOOD, 200, 0), texts(BAD, 200, 1)
    for name in ("good", "bad", "good_again"):
        (folder / name).mkdir()
    (folder / "good" / "a.txt").write_text(good[0])
    pq.write_table(pa.table({"body": good[1:100]}), folder / "good" / "b.parquet")
    with gzip.open(folder / "good" / "c.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"body": text}) + "\n" for text in good[99:])  # one text is there twice
    pq.write_table(pa.table({"body": bad + good[:3]}), folder / "bad" / "all.parquet")
    pq.write_table(pa.table({"body": good[::-1]}), folder / "good_again" / "x.parquet")
    return folder


def train(output, good, bad, *flags):
    command = [sys.executable, "launch/train_classifier.py", f"--positive={good}", f"--negative={bad}", f"--output={output}"]
    done = subprocess.run([*command, "--text_field=body", *FLAGS, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_model_and_its_measurements_are_written_and_score_new_texts(folders, tmp_path):
    code, out, error = train(tmp_path / "m.bin", folders / "good", folders / "bad", "--labels=hq,lq")
    assert code == 0, error
    facts = json.loads((tmp_path / "m.json").read_text())
    assert facts["in_both_and_left_out"] == 3 and "3 texts are in both" in out
    assert sum(facts["trained_on"].values()) + facts["held_out"]["documents"] == 397
    assert 60 < facts["held_out"]["documents"] < 140
    assert facts["held_out"]["accuracy"] > 0.97 and facts["held_out"]["auc"] > 0.99
    assert f"accuracy {facts['held_out']['accuracy']:.4f}" in out
    assert fasttext_model.read_labels(tmp_path / "m.bin") == ["lq", "hq"]
    table = pa.table({"text": texts(GOOD, 20, 2) + texts(BAD, 20, 3)})
    scored = score.score(table, (score.parse(f"fasttext:{tmp_path}/m.bin:hq"),))["score.fasttext"].to_numpy()
    assert scored[:20].min() > 0.5 > scored[20:].max()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.json"]


def test_the_model_does_not_depend_on_how_the_text_lies_in_files(folders, tmp_path):
    for name, good in (("a", "good"), ("b", "good_again")):
        code, _, error = train(tmp_path / f"{name}.bin", folders / good, folders / "bad", "--documents=90")
        assert code == 0, error
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    facts = json.loads((tmp_path / "a.json").read_text())
    assert 170 < sum(facts["trained_on"].values()) + facts["held_out"]["documents"] <= 180


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--output=m.txt", "--rate=0", "--labels=x"], "--rate=0.0: must be a number above 0\nerror: --output=m.txt: must end in .bin"),
        (["--positive=no/such/folder"], "--input=no/such/folder"),
        (["--text_field=text"], "no field 'text'"),
        (["--heldout=1"], "--heldout=1.0: must be a share in [0, 1)"),
        (["--min_count=100000"], "--min_count=100000: no word of the training set is so frequent"),
    ],
)
def test_mistakes_are_plain_lines_and_leave_nothing_behind(folders, tmp_path, flags, message):
    code, _, error = train(tmp_path / "m.bin", folders / "good", folders / "bad", *flags)
    assert code == 2 and message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
