"""Every member is its solo run; what one does, and where and how often the population is stopped, changes no bit of another."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.config import ConfigError, UserError
from kaiyuan_jax.data.prepare import tokenizer as tokenizers
from kaiyuan_jax.evaluation import heldout
from kaiyuan_jax.evaluation.byte_lengths import byte_lengths
from kaiyuan_jax.experiments import population
from kaiyuan_jax.experiments.population import program
from kaiyuan_jax.experiments.population.trained import open_population
from kaiyuan_jax.models import decoder
from kaiyuan_jax.training import checkpoint, loop, metrics
from kaiyuan_jax.training import trained as trained_models

ROOT = Path(__file__).parents[3]
STEPS = 12


def lines(folder, key):
    return {line["step"]: line[key] for line in metrics.read(folder) if key in line}


def test_each_member_has_the_weights_of_its_solo_run(trained, alone):
    for step in (4, STEPS):
        params_M = trained.parameters({step: 1.0})
        for name, folder in alone.items():
            mine, abstract = trained.solo(params_M, trained.names.index(name)), trained._abstract[1]
            other = checkpoint.load_parameters(folder / "checkpoints" / str(step), abstract)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), mine, other)


def test_each_member_writes_the_losses_of_its_solo_run(trained, alone):
    for name, folder in alone.items():
        for key in ("loss", "learning_rate", "gradient_norm", "loss/code", "quantile/prose", "heldout/mean", "heldout/code"):
            mine, solo = lines(trained.folder / "metrics" / f"{name}.jsonl", key), lines(folder / "metrics.jsonl", key)
            assert mine.keys() == solo.keys() and mine
            assert list(mine.values()) == pytest.approx(list(solo.values()), rel=1e-4)


def test_members_differ(trained):
    finals = [lines(trained.folder / "metrics" / f"{name}.jsonl", "heldout/mean")[STEPS] for name in trained.names]
    assert len(set(finals)) == 3


def test_evaluation_by_document_is_that_of_a_member_alone(trained, trio, stores):
    params_M = trained.parameters({STEPS: 1.0})
    found = population.evaluate(trained, params_M, rows=5)
    tokenizer, _ = tokenizers.load(stores / "code" / "train" / "tokenizer.json")
    for index, experiment in enumerate(trio):
        experiment = config.from_json(config.to_json(experiment))
        experiment.evaluation.rows = 5
        for source, store in heldout.open_stores(experiment).items():
            compute, params = heldout.token_losses(trained.graphdef), trained.solo(params_M, index)
            alone = heldout.losses_by_document(compute, params, store, experiment, byte_lengths(tokenizer, 270))
            np.testing.assert_allclose(found[index][source].nats, alone.nats, rtol=1e-5)
            np.testing.assert_array_equal(found[index][source].bytes, alone.bytes)


def test_several_steps_are_their_weighted_sum(trained):
    one, other = (trained.parameters({step: 1.0}) for step in (8, STEPS))
    average = trained.parameters({8: 0.25, STEPS: 0.75})
    jax.tree.map(lambda a, x, y: np.testing.assert_allclose(a, 0.25 * x + 0.75 * y, rtol=1e-5, atol=1e-7), average, one, other)


def test_a_members_folder_is_a_finished_run(trained, trio):
    folder = trained.folder / "members" / "b"
    model = trained_models.load("--model", folder)
    jax.tree.map(np.testing.assert_array_equal, model.params, trained.solo(trained.parameters({STEPS: 1.0}), 1))
    assert (folder / "metrics.jsonl").read_bytes() == (trained.folder / "metrics" / "b.jsonl").read_bytes()
    result = loop.train(config.read(folder / "config.json"), devices=jax.devices()[:1])  # every fingerprint and the order are checked
    assert result.finished


def test_a_finished_population_is_found_again_and_another_is_refused(trained, trio, member):
    assert population.train(trio, trained.folder).steps == [4, 8, STEPS]
    assert open_population(trained.folder).members == trained.members
    with pytest.raises(ConfigError, match="member a: config.seed: was 3, now 9"):
        population.train([member("a", seed=9), *trio[1:]], trained.folder)
    with pytest.raises(ConfigError, match="holds another population.*\nmembers: was a, b, c; now a, b"):
        population.train(trio[:2], trained.folder)
    sources = trio[0].data.sources
    swapped = [dataclasses.replace(one, path=other.path) for one, other in zip(sources, reversed(sources), strict=True)]
    elsewhere = dataclasses.replace(trio[0], data=dataclasses.replace(trio[0].data, sources=swapped))
    with pytest.raises(ConfigError, match="/a: this is not the data that the run began with"):
        population.train([elsewhere, *trio[1:]], trained.folder)
    assert trained.steps == [4, 8, STEPS] and open_population(trained.folder).members == trained.members


def test_members_computed_together_as_on_an_accelerator_are_the_same_to_rounding(trained, trio, tmp_path):
    other = population.train(trio, tmp_path / "together", devices=jax.devices()[:1], at_once=3, folders=False)
    compared = (found.parameters({STEPS: 1.0}) for found in (trained, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), *compared)
    for name in trained.names:
        one, two = (lines(found.folder / "metrics" / f"{name}.jsonl", "heldout/mean") for found in (trained, other))
        assert one.keys() == two.keys() and list(one.values()) == pytest.approx(list(two.values()), rel=1e-5)


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_however_many_are_computed_together_each_gets_its_own(at_once):
    laid = program.layout(5, jax.devices()[:2], at_once)
    x_M = np.arange(15.0, dtype=np.float32).reshape(5, 3)
    found = jax.jit(program.each(lambda x, factor: factor * x[::-1].cumsum(), laid))(laid.put(x_M), np.float32(2))
    np.testing.assert_array_equal(laid.unpad(found), 2 * x_M[:, ::-1].cumsum(axis=1))


def test_told_to_stop_it_saves_and_goes_on_to_the_same_bits_on_other_devices(trained, trio, tmp_path, same_bits):
    folder, ended = tmp_path / "stopped", threading.Event()

    def stop():
        speed = folder / "speed.jsonl"
        while not ended.is_set() and not (speed.exists() and speed.read_text()):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    handler = signal.signal(signal.SIGTERM, lambda *_: None)  # where training ended before
    thread.start()
    try:
        with pytest.raises(UserError, match="SIGTERM: saved step .* of 12 .* the same command goes on"):
            population.train(trio, folder, devices=jax.devices()[:2])
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGTERM, handler)
    stopped = checkpoint.steps(folder / "checkpoints")[-1]
    resumed = population.train(trio, folder, devices=jax.devices(), folders=False)
    if stopped % 4 and stopped in resumed.steps:  # one of the newest two, else deleted by now
        checkpoint.delete(folder / "checkpoints" / str(stopped))
    same_bits(trained, resumed)


KILLED = """
import sys, json, jax
from kaiyuan_jax import config
from kaiyuan_jax.experiments import population
members = [config.from_json(text) for text in json.loads(open(sys.argv[1]).read())]
population.train(members, sys.argv[2], devices=jax.devices()[:2])
"""


def test_killed_it_goes_on_from_its_newest_checkpoint_to_the_same_bits(trained, trio, tmp_path, same_bits):
    folder, saved = tmp_path / "killed", tmp_path / "members.json"
    saved.write_text(json.dumps([config.to_json(experiment) for experiment in trio]))
    command = [sys.executable, "-c", KILLED, str(saved), str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and not checkpoint.steps(folder / "checkpoints"):
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL and not (folder / "members").exists()
    same_bits(trained, population.train(trio, folder, devices=jax.devices()[:2], folders=False))


def test_a_member_that_diverges_is_marked_and_hurts_no_other(trained, trio, member, tmp_path):
    bad = member("bad", schedule=config.Schedule(kind="constant", peak=1e38, warmup=0))
    found = population.train([trio[0], bad, trio[2]], tmp_path / "population", devices=jax.devices()[:2])
    (name, step), *others = found.diverged.items()
    assert (name, others) == ("bad", []) and 1 < step < 4
    params_M, healthy_M = found.parameters({STEPS: 1.0}), trained.parameters({STEPS: 1.0})
    for index in (0, 2):
        jax.tree.map(np.testing.assert_array_equal, found.solo(params_M, index), found.solo(healthy_M, index))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found.solo(params_M, 1)))
    assert np.isnan(population.evaluate(found, params_M, rows=2)[1]["code"].nats).all()
    said = metrics.read(found.folder / "metrics" / "bad.jsonl")
    assert {"step": step, "diverged": step, "why": "loss or gradient is not finite"} in said
    assert [line["heldout/mean"] for line in said if "heldout/mean" in line] == [None, None] and said[-1]["diverged"] == step
    assert checkpoint.steps(found.folder / "members" / "bad" / "checkpoints") == [step - 1]  # the weights it still had


def test_in_float16_members_are_their_solo_runs_with_loss_scales_of_their_own(member, tmp_path):
    # the scale overflows at first, and each member lowers its own until its gradient is finite
    precision = config.Precision(compute="float16", loss_scale=2.0**26, scale_factor=16.0)
    pair = [member("a", seed=3, precision=precision), member("b", order="ascending", seed=8, precision=precision)]
    pair[1].schedule.peak = 3e-2
    found = population.train(pair, tmp_path / "pair", devices=jax.devices()[:1], folders=False)
    alone = config.from_json(config.to_json(pair[1]))
    alone.output = str(tmp_path / "alone")
    loop.train(alone, devices=jax.devices()[:1])
    mine = found.solo(found.parameters({STEPS: 1.0}), 1)
    solo = checkpoint.load_parameters(tmp_path / "alone" / "checkpoints" / str(STEPS), found._abstract[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-3), mine, solo)
    begun = decoder.split(decoder.build(alone.model, alone.precision, jax.random.split(jax.random.key(8))[0]))[1]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), mine, begun)
    assert max(map(float, jax.tree.leaves(moved))) > 2e-2  # far beyond the tolerance


def test_seconds_are_measured_when_asked(trio):
    cost = population.predict_cost(trio, timed_steps=2, devices=jax.devices()[:2])
    assert cost.seconds == pytest.approx(cost.tokens * cost.seconds_per_token) and cost.seconds > 0
    assert "tokens/s (measured)" in str(cost)


@pytest.mark.parametrize("count, devices", [(1, 8), (3, 2), (8, 8), (9, 8)])
def test_padding_keeps_every_member_once(count, devices):
    laid = program.layout(count, jax.devices()[:devices])
    x_M = np.arange(count * 2.0).reshape(count, 2)
    x_P = laid.put(x_M)
    assert x_P.shape[0] == laid.padded and laid.padded % laid.mesh.size == 0 and laid.padded - count < laid.mesh.size
    np.testing.assert_array_equal(laid.unpad(x_P), x_M)
    np.testing.assert_array_equal(laid.pad(laid.unpad(x_P)), x_P)


def test_members_computed_together_on_a_gpu_take_a_kernel_that_can_be_vectorised(member):
    experiment = member(precision=config.Precision(compute="bfloat16"))
    experiment.model.head_size, experiment.data.sequence_length = 64, 512
    assert program.attention(experiment, "NVIDIA H200", 1) == program.attention(experiment, "cpu", 4) == ""  # as training alone
    assert program.attention(experiment, "NVIDIA H200", 4) in ("cudnn", "xla")
    experiment.data.mask_documents = True
    assert program.attention(experiment, "NVIDIA H200", 4) in ("cudnn", "xla")
