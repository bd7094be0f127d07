import dataclasses
import json

import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.evaluation import heldout, suite


@pytest.fixture(scope="module")
def measured(make_store, tmp_path_factory, tokenizer, small_experiment, untrained_model):
    folder = tmp_path_factory.mktemp("stores")
    made = small_experiment(tokenizer.get_vocab_size() + 4)
    make_store(folder / "english", 60, words=(20, 60))
    make_store(folder / "chinese", 60, words=(20, 60), chinese=True, scored=False)
    made.data.sources = [config.Source(name=name, heldout=str(folder / name)) for name in ("english", "chinese")]
    model = untrained_model(made)
    return made, model, suite.evaluate(*model, made, name="checkpoint_7", step=7)


def test_an_untrained_model_loses_about_the_logarithm_of_the_vocabulary(measured):
    made, _, evaluation = measured
    for entry in evaluation.result["heldout"].values():
        assert entry["loss"] == pytest.approx(np.log(made.model.vocabulary), rel=0.05)
        assert entry["loss_interval"][0] <= entry["loss"] <= entry["loss_interval"][1]
        assert entry["tokens"] == 12 * 32
        assert entry["bits_per_byte"] == pytest.approx(entry["loss"] / np.log(2) * entry["tokens"] / entry["bytes"], rel=0.05)


def test_the_result_is_json_with_every_part_of_the_format(measured):
    _, _, evaluation = measured
    result = json.loads(json.dumps(evaluation.result, allow_nan=False))
    assert (result["model"], result["step"]) == ("checkpoint_7", 7)
    assert set(result["heldout"]) == {"english", "chinese"}
    assert len(result["heldout"]["english"]["quantiles"]) == 2 and result["heldout"]["chinese"]["quantiles"] == []
    mean = np.mean([entry["bits_per_byte"] for entry in result["heldout"].values()])
    assert result["mean"]["bits_per_byte"] == pytest.approx(mean)
    assert result["choice"]["english"]["questions"] == 6 and result["choice"]["mean"]["chance"] == pytest.approx(1 / 3)
    assert [sample["source"] for sample in result["samples"]] == ["english", "chinese"]
    assert all(sample["prompt"] and isinstance(sample["text"], str) for sample in result["samples"])


def test_the_same_parameters_give_the_same_result_and_other_parameters_the_same_documents(measured, untrained_model):
    made, model, evaluation = measured
    again = suite.evaluate(*model, made, name="checkpoint_7", step=7)
    assert again.result | {"seconds": 0} == evaluation.result | {"seconds": 0}
    made.seed = made.data.seed = 5
    other = suite.evaluate(*untrained_model(made, seed=5), made, name="checkpoint_7", step=7)
    made.seed = made.data.seed = 0
    for key in evaluation.arrays:
        if key.endswith(("/document", "/bytes", "/tokens")):
            assert np.array_equal(evaluation.arrays[key], other.arrays[key])
    assert other.result["mean"]["bits_per_byte"] != evaluation.result["mean"]["bits_per_byte"]


def test_the_light_evaluator_agrees_with_the_full_one(measured):
    made, (_, params), evaluation = measured
    light = heldout.make_evaluator(made, heldout.open_stores(made))(params)
    assert light == {name: pytest.approx(entry["loss"], rel=1e-5) for name, entry in evaluation.result["heldout"].items()}


def test_padding_the_last_batch_changes_nothing(measured):
    made, (graphdef, params), _ = measured
    store = heldout.open_stores(made)["english"]
    rows = store.read_rows(np.arange(5), 32)
    compute, options = heldout.token_losses(graphdef), dict(eod=store.eod, mask_documents=False)
    whole = heldout.row_losses(compute, params, rows, batch_size=5, **options)
    assert whole.shape == (5, 32)
    assert np.allclose(heldout.row_losses(compute, params, rows, batch_size=8, **options), whole, atol=1e-5)


def test_files_are_written_whole_and_arrays_agree_with_the_json(measured, tmp_path):
    _, _, evaluation = measured
    path = suite.write(tmp_path / "evaluation", evaluation)
    assert sorted(p.name for p in path.parent.iterdir()) == ["checkpoint_7.json", "checkpoint_7.npz"]
    result, arrays = json.loads(path.read_text(encoding="utf-8")), np.load(path.with_suffix(".npz"))
    for source, entry in result["heldout"].items():
        bits = arrays[f"heldout/{source}/bits"].sum() / arrays[f"heldout/{source}/bytes"].sum()
        assert bits == pytest.approx(entry["bits_per_byte"])
        assert len(arrays[f"choice/{source}/correct"]) == result["choice"][source]["questions"]


def test_an_experiment_without_held_out_stores_is_refused(measured):
    made, model, _ = measured
    bare = config.from_json(config.to_json(made))
    for source in bare.data.sources:
        source.heldout = ""
    with pytest.raises(config.ConfigError, match="no source has a held-out store"):
        suite.evaluate(*model, bare, name="x", step=0)


def test_a_store_shorter_than_one_sequence_is_refused(measured, make_store, tmp_path):
    made, model, _ = measured
    make_store(tmp_path / "short", 0, texts=["the cat"])
    source = config.Source(name="short", heldout=f"{tmp_path}/short")
    short = dataclasses.replace(made, data=config.Data(sources=[source], sequence_length=32))
    with pytest.raises(config.ConfigError, match="fewer than one sequence of 32"):
        suite.evaluate(*model, short, name="x", step=0)
