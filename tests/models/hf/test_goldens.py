"""Our decoder against transformers, on outputs that `make parity` computed with torch: logits, loss, every gradient, greedy text.

The goldens are exports of random models of ours (tests/parity/cases.py) with what transformers made of them, so a test here goes the
whole way: our files, read back, computed, compared. KAIYUAN_GOLDENS names another folder of them than the committed one.
"""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kaiyuan_jax import config
from kaiyuan_jax.evaluation import generate
from kaiyuan_jax.models import decoder
from kaiyuan_jax.models.hf import layout, read, safetensors_files
from kaiyuan_jax.models.loss import token_losses

FOLDER = pathlib.Path(os.environ.get("KAIYUAN_GOLDENS", pathlib.Path(__file__).parents[2] / "parity" / "goldens"))
CASES = sorted(path.parent.name for path in FOLDER.glob("*/inputs"))
CLOSE = 1e-4


@functools.cache
def opened(case):
    """(what was read, inputs, what transformers computed)"""
    folder = FOLDER / case
    arrays = {part: {name: np.array(tensor.read()) for name, tensor in found.items()} for part, found in files(folder)}
    return read.load(folder), arrays["inputs"], arrays["outputs"]


def files(folder):
    for part in ("inputs", "outputs"):
        yield part, safetensors_files.tensors(folder / part)[0]


def decoder_of(loaded):
    graphdef, abstract = decoder.abstract(loaded.model, config.Precision())
    shapes, found = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (abstract, loaded.params))
    assert shapes == found
    return graphdef


@functools.cache
def computed(case):
    """(logits_BLV, loss, gradients) of our decoder, in one program."""
    loaded, inputs, _ = opened(case)
    graphdef, tokens_BL = decoder_of(loaded), inputs["tokens_BL"]
    positions_BL = np.broadcast_to(np.arange(tokens_BL.shape[1], dtype=np.int32), tokens_BL.shape)
    given = dict(inputs_BL=tokens_BL, segments_BL=np.ones_like(tokens_BL), positions_BL=positions_BL)
    short = {name: value[:, :-1] for name, value in given.items()} | {"targets_BL": tokens_BL[:, 1:]}

    @jax.jit
    def outputs(params):
        model = decoder.merge(graphdef, params)
        logits_BLV = model.logits(model(given["inputs_BL"], given["segments_BL"], given["positions_BL"]))
        loss, gradients = jax.value_and_grad(lambda params: token_losses(decoder.merge(graphdef, params), short)[0].mean())(params)
        return logits_BLV, loss, gradients

    return outputs(loaded.params)


def test_all_architectures_are_among_the_goldens():
    assert {"qwen3_tied", "qwen3_untied", "kaiyuan", "kaiyuan_tied_window"} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_loss_are_those_of_transformers(case):
    _, _, wanted = opened(case)
    logits_BLV, loss, _ = computed(case)
    np.testing.assert_allclose(logits_BLV, wanted["logits_BLV"], rtol=0, atol=CLOSE)
    np.testing.assert_allclose(loss, wanted["loss"][0], rtol=0, atol=CLOSE)
    assert np.abs(wanted["logits_BLV"]).max() > 2  # far from nothing


@pytest.mark.parametrize("case", CASES)
def test_every_gradient_is_that_of_transformers(case):
    _, _, wanted = opened(case)
    found = dict(leaves(computed(case)[2]))
    for path, theirs in theirs_by_leaf(FOLDER / case, wanted).items():
        np.testing.assert_allclose(found.pop(path), theirs, rtol=0, atol=CLOSE * np.abs(theirs).max(), err_msg=path)
    assert not found


def theirs_by_leaf(folder, wanted):
    """Gradients of transformers as those of our leaves: where a value is stored divided by s, its gradient is s times as large."""
    checkpoint = read.open_folder(folder)
    size, model = layout.sizes(checkpoint.model), checkpoint.model
    names = {tensor.begin: name for name, tensor in safetensors_files.tensors(folder / "model.safetensors")[0].items()}
    root = model.width**0.5
    scale = {"embedding_VD": 1 / root} | ({"norm_D": root} if model.tied else {}) if checkpoint.folded else {}
    gradients = {}
    for path in checkpoint.paths:
        parts = [layout.ours(row, wanted[f"gradient.{names[tensor.begin]}"], size)[path] for _, tensor, row in checkpoint.held[path]]
        gradients[path] = (np.stack(parts) if path.startswith("layers/") else parts[0]) * scale.get(path, 1.0)
    return gradients


def leaves(tree, prefix=""):
    for name, value in tree.items():
        yield from leaves(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, np.asarray(value))]


@pytest.mark.parametrize("case", CASES)
def test_greedy_text_is_that_of_transformers_token_for_token(case):
    loaded, inputs, wanted = opened(case)
    graphdef, prompts = decoder_of(loaded), [row.tolist() for row in inputs["prompt_BL"]]
    count = wanted["greedy_BL"].shape[1]
    assert count == 64
    window = len(prompts[0]) + count
    found = generate.generate(
        graphdef,
        jax.tree.map(jnp.asarray, loaded.params),
        prompts,
        new_tokens=count,
        window=window,
        eod=-1,
        vocabulary=loaded.model.vocabulary,
        temperature=0,
        seed=0,
    )
    assert found == wanted["greedy_BL"].tolist()
