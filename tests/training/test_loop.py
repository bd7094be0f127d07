import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers

from kaiyuan_jax import config
from kaiyuan_jax.config import ConfigError, UserError
from kaiyuan_jax.data import loader, order, recipe
from kaiyuan_jax.data.store import open_store
from kaiyuan_jax.data.store_write import write_store
from kaiyuan_jax.training import checkpoint, failure, loop, metrics, resume


def train(experiment):
    """On as many of the eight virtual devices as the mesh says."""
    mesh = experiment.mesh
    return loop.train(experiment, jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor])


@pytest.fixture(scope="module")
def undisturbed(tiny_in, tmp_path_factory):
    """undisturbed(**fields): a run that was trained to its end, for all tests of these fields; `finished` gives copies to work on."""
    made = {}

    def finished(**fields):
        if (key := str(sorted(fields.items()))) not in made:
            made[key] = tiny_in(tmp_path_factory.mktemp("undisturbed") / "run", **fields)
            assert train(made[key]).finished
        return made[key]

    return finished


@pytest.fixture
def finished(tiny, undisturbed):
    """finished(**fields): the same run, finished in this test's own folder."""

    def copy(**fields):
        experiment = tiny(**fields)
        shutil.copytree(undisturbed(**fields).folder, experiment.folder)
        return experiment

    return copy


def test_a_run_learns_and_leaves_its_folder_complete(tiny):
    experiment = tiny(evaluation__every=50, logging__tensorboard=True)
    result = train(experiment)
    assert result.finished and result.step == 100
    assert config.from_json((result.folder / "config.json").read_text()) == experiment
    assert checkpoint.steps(result.folder / "checkpoints") == [60, 80, 100]
    assert any(name.startswith("events") for name in os.listdir(result.folder / "tensorboard"))
    written = metrics.read(result.folder / "metrics.jsonl")
    training = [line for line in written if "loss" in line]
    assert [line["step"] for line in training] == [*range(7, 99, 7), 100]
    assert training[-1]["loss"] < training[0]["loss"] - 0.5
    keys = {"loss", "loss/code", "loss/prose", "learning_rate", "gradient_norm", "tokens_per_second", "position", "phase", "seconds"}
    keys |= {f"{name}/{source}" for name in ("mixture", "pass", "quantile") for source in ("code", "prose")}
    assert keys <= set(training[3])
    heldout = [line for line in written if "heldout/mean" in line]
    assert [line["step"] for line in heldout] == [50, 100]
    assert heldout[-1]["heldout/mean"] == pytest.approx((heldout[-1]["heldout/code"] + heldout[-1]["heldout/prose"]) / 2)


def test_lines_say_what_the_order_gave(undisturbed, lines):
    experiment = undisturbed()
    plan = recipe.resolve(experiment.data, *recipe.facts_of(experiment.data))
    line = lines(experiment)[2]  # steps 15 to 21
    batches = [order.batch(plan, step) for step in range(14, 21)]
    source, quantile = (np.concatenate([getattr(rows, name) for rows in batches]) for name in ("source", "quantile"))
    assert line["step"] == 21 and line["position"] == plan.skipped + 21 * plan.batch_size
    assert line["mixture/prose"] == pytest.approx((source == 1).mean())
    assert line["quantile/prose"] == pytest.approx(quantile[source == 1].mean())
    assert line["loss"] == pytest.approx(line["loss/code"] * line["mixture/code"] + line["loss/prose"] * line["mixture/prose"])


@pytest.mark.parametrize("stop", [20, 80])
def test_resuming_from_any_checkpoint_repeats_the_run_bit_for_bit(finished, stop, lines, parameters):
    whole = finished(evaluation__every=30, averaging__online_decay=0.9, checkpoint__keep=10)
    expected, last = lines(whole), parameters(whole, 100)
    for step in checkpoint.steps(f"{whole.folder}/checkpoints"):
        if step > stop:
            shutil.rmtree(f"{whole.folder}/checkpoints/{step}")
    assert train(whole).finished
    assert lines(whole) == expected
    for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(parameters(whole, 100)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_stop_leaves_an_evaluation_that_is_due_to_the_next_session(tiny, tiny_in, tmp_path, lines):
    fields = dict(evaluation__every=1, logging__every=1, checkpoint__every=40)
    train(whole := tiny_in(tmp_path / "whole", **fields))
    stopped = tiny(**fields)
    written = Path(stopped.folder) / "metrics.jsonl"

    def stop():
        while not written.exists() or written.read_bytes().count(b"\n") < 6:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    result = train(stopped)
    thread.join()
    assert not result.finished and "heldout/mean" not in metrics.read(written)[-1]
    before = written.read_bytes()
    assert train(stopped).finished and lines(stopped) == lines(whole)
    for step in checkpoint.steps(f"{stopped.folder}/checkpoints"):  # killed after that evaluation, before the next save
        if step > result.step:
            shutil.rmtree(f"{stopped.folder}/checkpoints/{step}")
    assert written.read_bytes().startswith(before)
    assert train(stopped).finished and lines(stopped) == lines(whole)


def test_a_finished_run_is_left_alone(finished, capsys, lines):
    experiment = finished()
    before = lines(experiment)
    assert train(experiment).finished
    assert "finished before, at step 100" in capsys.readouterr().out
    assert lines(experiment) == before


def test_another_experiment_is_refused_with_the_fields_that_differ(finished, tiny):
    finished()
    with pytest.raises(ConfigError) as error:
        train(tiny(schedule__peak=1e-4, model__layers=3, data__seed=5))
    message = str(error.value)
    assert "config.schedule.peak: was 0.003, now 0.0001" in message
    assert "config.model.layers: was 2, now 3" in message
    assert "config.data.seed: was 0, now 5" in message and "--config.output" in message


def test_logging_evaluation_checkpoints_and_mesh_may_change_between_sessions(finished, tiny):
    shutil.rmtree(f"{finished().folder}/checkpoints/100")
    changed = tiny(logging__every=3, evaluation__every=10, checkpoint__every=7, checkpoint__keep=5, averaging__kind="sma")
    changed.averaging.last = 5
    changed.mesh, changed.optimizer.accumulation = config.Mesh(data=2, fsdp=2, tensor=2), 2
    assert train(changed).finished
    assert config.from_json(open(f"{changed.folder}/config.json").read()) == changed


def test_another_store_under_the_same_name_is_refused(finished, stores, tmp_path):
    shutil.copytree(stores, tmp_path / "stores")
    experiment = finished()
    for source in experiment.data.sources:
        source.path = source.path.replace(str(stores), str(tmp_path / "stores"))
    shutil.rmtree(tmp_path / "run/checkpoints/100")
    assert train(experiment).finished  # the same stores elsewhere
    shutil.rmtree(tmp_path / "run/checkpoints/100")
    shutil.rmtree(tmp_path / "stores/prose/train")
    shutil.copytree(tmp_path / "stores/prose/heldout", tmp_path / "stores/prose/train")
    experiment.data.phases[0].uses[1].passes = 1.5
    with pytest.raises(ConfigError, match="not the data that the run began with|tokens"):
        train(experiment)


def test_order_that_differs_is_named(tiny):
    experiment = tiny()
    opened = loader.open_stores(experiment.data)
    plan = recipe.resolve(experiment.data, *recipe.facts_of(experiment.data))
    before = resume.order_of(plan, opened)
    resume.check_order("run", before, resume.order_of(plan, opened))
    with pytest.raises(ConfigError, match=r"stores.prose.checksum: was \"[0-9a-f]+\", now"):
        resume.check_order("run", before, resume.order_of(plan, [opened[0], opened[0]]))


@pytest.mark.parametrize("every", [20, 1])
def test_an_explosion_stops_with_step_documents_and_last_good_checkpoint(tiny, every, parameters):
    experiment = tiny(schedule__peak=1e30, schedule__warmup=30, checkpoint__every=every, optimizer__clip_norm=0.0)
    with pytest.raises(failure.DivergedError) as error:
        train(experiment)
    message = str(error.value)
    step = int(message.split()[1].rstrip(":"))
    found = json.loads(open(f"{experiment.folder}/diverged_{step}.json").read())["documents"]
    plan = recipe.resolve(experiment.data, *recipe.facts_of(experiment.data))
    rows, opened = order.batch(plan, step - 1), loader.open_stores(experiment.data)
    assert {entry["row"] for entry in found} == set(range(plan.batch_size))
    for entry in found:
        source = int(rows.source[entry["row"]])
        assert entry["source"] == plan.sources[source]
        store, start = opened[source], int(rows.sequence[entry["row"]]) * plan.sequence_length
        inside = [store.documents.id(store.document_at(start + token)) for token in range(plan.sequence_length)]
        assert entry["document"] in inside
    assert found[0]["document"] in message
    kept = checkpoint.steps(f"{experiment.folder}/checkpoints")
    if kept:
        assert f"last good checkpoint: {experiment.folder}/checkpoints/{kept[-1]}" in message and kept[-1] < step
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(parameters(experiment, kept[-1])))
    else:
        assert "no checkpoint was saved before it" in message


def test_weights_that_overflow_under_a_finite_gradient_are_never_saved(tiny):
    # a rate times a decay of 1e40: the first update has a finite loss and gradient, and weights beyond float32
    experiment = tiny(schedule__peak=1e20, schedule__warmup=0, optimizer__weight_decay=1e20, checkpoint__every=1)
    with pytest.raises(failure.DivergedError, match="^step 1: loss [0-9.]+, gradient norm [0-9.]+: weights not finite") as error:
        train(experiment)
    assert "no checkpoint was saved before it" in str(error.value)
    assert not checkpoint.steps(f"{experiment.folder}/checkpoints")


def test_a_folder_in_use_by_another_process_is_refused(tiny, tmp_path):
    experiment = tiny()
    with resume.session(experiment), pytest.raises(ConfigError, match="another process is training"):
        train(experiment)


def test_a_batch_that_the_devices_cannot_share_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"batch_size: 8 rows in 2 micro-batches give 4 rows at a time, must be a multiple of the 8"):
        train(tiny(mesh__data=8, optimizer__accumulation=2))


def test_a_vocabulary_below_the_stores_is_refused(tiny):
    with pytest.raises(ConfigError, match="vocabulary"):
        train(tiny(model__vocabulary=32))


def test_a_held_out_store_of_another_tokenizer_is_refused(tiny, tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"w0": 0, "other": 1}, unk_token="w0"))
    documents = [("d", 0.5, 3, np.ones(40, np.int32))]
    write_store(tmp_path / "heldout", documents=documents, tokenizer_json=tokenizer.to_str(), vocabulary=2, eod=0)
    experiment = tiny()
    experiment.data.sources[0].heldout = str(tmp_path / "heldout")
    with pytest.raises(UserError, match="heldout: made with another tokenizer"):
        train(experiment)


def test_a_held_out_store_shorter_than_a_sequence_is_refused(tiny, tmp_path):
    experiment = tiny()
    trained = open_store(experiment.data.sources[0].path)
    tokenizer = (Path(trained.folder) / "tokenizer.json").read_text()
    documents = [("d", 0.5, 3, np.ones(4, np.int32))]
    write_store(tmp_path / "heldout", documents=documents, tokenizer_json=tokenizer, vocabulary=trained.vocabulary, eod=0)
    experiment.data.sources[0].heldout = str(tmp_path / "heldout")
    with pytest.raises(ConfigError, match="holds 5 tokens, fewer than one sequence of 16"):
        train(experiment)


def test_eight_devices_train_as_one_to_rounding(undisturbed, tiny, lines):
    one, eight = undisturbed(), tiny(optimizer__accumulation=2, mesh=config.Mesh(data=2, fsdp=2, tensor=2))
    train(eight)
    for a, b in zip(lines(one)[:5], lines(eight)[:5], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        seen = [key for key in a if key.startswith(("mixture/", "pass/", "quantile/", "position"))]
        assert len(seen) == 7 and all(a[key] == b[key] for key in seen)
