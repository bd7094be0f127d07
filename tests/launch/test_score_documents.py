"""The script as a user runs it, over two small runs with random weights: one row a document, however the input lies in files."""

import json

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.data.prepare import normalise, score, tokenizer
from kaiyuan_jax.evaluation import document_loss
from kaiyuan_jax.models import decoder
from kaiyuan_jax.training import checkpoint
from tests.scripts import run

WORDS = "the cat sat on a mat while rain fell 学而时习之 and x = f(y)\n".split(" ")


def leaves_of(tree, path=()):
    for name, leaf in tree.items():
        yield from leaves_of(leaf, (*path, name)) if isinstance(leaf, dict) else [("/".join((*path, name)), leaf)]


def make_run(folder, seed, vocabulary):
    """A run with one checkpoint; its tokenizer is trained on other text than the other run's. Returns its scorer."""
    random = np.random.default_rng(seed)
    trained = tokenizer.train([" ".join(random.choice(WORDS, 50)) for _ in range(40)], vocabulary)
    shape = dict(layers=1, width=16, feedforward=16, heads=2, kv_heads=1, head_size=8, vocabulary=tokenizer.vocabulary(trained))
    experiment = config.Experiment(model=config.Model(**shape), data=config.Data(sequence_length=32))
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json(experiment))
    (folder / "tokenizer.json").write_text(trained.to_str())
    _, params = decoder.abstract(experiment.model, experiment.precision)
    leaves = {path: np.float32(random.normal(0, 0.3, leaf.shape)) for path, leaf in leaves_of(params)}
    checkpoint.save_parameters(folder / "checkpoints" / "7", dict(leaves), {"step": 7})
    params = jax.tree.map_with_path(lambda path, _: leaves["/".join(key.key for key in path)], params)
    return document_loss.scorer(experiment, params, trained, eod=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score_documents")
    return folder, {name: make_run(folder / name, seed, 270 + 10 * seed) for seed, name in enumerate(("a", "b"))}


@pytest.fixture(scope="module")
def documents(runs):
    """(id, text) of 30 documents, in two files."""
    random = np.random.default_rng(5)
    rows = [(f"d{i}", " ".join(random.choice(WORDS, int(random.integers(1, 60)))) + "  \r\n") for i in range(29)] + [("empty", " \n")]
    rows += [("other name", rows[0][1]), rows[1]]  # one text with two ids, one row twice
    folder = runs[0]
    (folder / "in").mkdir()
    pq.write_table(pa.table({"name": [r[0] for r in rows[:12]], "text": [r[1] for r in rows[:12]]}), folder / "in" / "1.parquet")
    (folder / "in" / "2.jsonl").write_text("".join(json.dumps({"name": name, "text": text}) + "\n" for name, text in rows[12:]))
    return [row for row in rows if row[0] != "empty"]


def test_losses_and_their_difference_are_written_by_hash_and_join(runs, documents, tmp_path):
    folder, scorers = runs
    flags = [f"--model={folder}/a", f"--minus={folder}/b/checkpoints/7", "--id_field=name"]
    code, out, error = run("score_documents", *flags, f"--input={folder}/in", f"--output={tmp_path}/s.parquet")
    assert code == 0, error
    assert "30 documents" in out and "difference" in out
    table = pq.read_table(tmp_path / "s.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]
    assert table.column_names == ["hash", "id", "loss", "minus", "difference"]
    texts = dict(documents)
    assert set(table["id"].to_pylist()) == set(texts)
    normal = [normalise.normalise_text(texts[name]) for name in table["id"].to_pylist()]
    assert table["hash"].to_pylist() == list(map(normalise.text_hash, normal))
    np.testing.assert_allclose(table["loss"], scorers["a"](normal), rtol=1e-5)
    np.testing.assert_allclose(table["minus"], scorers["b"](normal), rtol=1e-5)
    assert table["difference"].equals(pc.subtract(table["loss"], table["minus"]))

    specs = (f"file:{tmp_path}/s.parquet:difference", f"mine=file:{tmp_path}/s.parquet:difference:id")
    assert score.problems(specs) == []
    given = pa.table({"id": table["id"], "text": [texts[name] for name in table["id"].to_pylist()]})
    scored = score.score(given, tuple(map(score.parse, specs)))
    assert scored["score.difference"].equals(table["difference"]) and scored["score.mine"].equals(table["difference"])


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--model={0}/none"], "--model={0}/none: must be a run"),
        (["--output=s.txt"], "--output=s.txt: must end in .parquet"),
        (["--end_of_document=<end>", "--model={0}/a/checkpoints/7"], "--end_of_document=<end>: not a special token"),
    ],
)
def test_mistakes_are_one_line(runs, documents, tmp_path, flags, message):
    folder = runs[0]
    given = [f"--input={folder}/in", f"--model={folder}/a", f"--output={tmp_path}/s.parquet", *(flag.format(folder) for flag in flags)]
    code, _, error = run("score_documents", *given)
    assert code == 2 and message.format(folder) in error and "Traceback" not in error
    assert not (tmp_path / "s.parquet").exists()
