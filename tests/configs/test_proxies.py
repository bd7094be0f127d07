"""Small models of the published recipe: sizes as named, the same mixture, a schedule and an average that fit their data."""

import pathlib
import re
import runpy

import pytest

from kaiyuan_jax import plan as planning
from kaiyuan_jax.config_check import check
from kaiyuan_jax.data import recipe
from kaiyuan_jax.models import flops

ROOT = pathlib.Path(__file__).parents[2]
FILE = runpy.run_path(str(ROOT / "configs" / "proxies" / "kaiyuan.py"))
SIZES = list(FILE["SHAPES"])


def resolved(experiment):
    return recipe.resolve(experiment.data, *recipe.facts_of(experiment.data))


def embeddings(model):
    return 2 * model.vocabulary * model.width


@pytest.mark.parametrize("size", SIZES)
def test_a_size_counts_parameters_without_embeddings_within_a_tenth(size):
    model = FILE["get_config"](size).model
    count = flops.parameters(model) - embeddings(model)
    assert count == FILE["without_embeddings"](model.layers, model.width)
    assert count == pytest.approx(float(size[:-1]) * 1e6, rel=0.1)


@pytest.mark.parametrize("size", SIZES)
def test_the_docstring_prints_the_shapes_as_they_are(size):
    row = re.search(rf"^ +{size} +(\d+) +(\d+) +([\d.]+)M +(\d+)M$", FILE["__doc__"], re.MULTILINE).groups()
    model = FILE["get_config"](size).model
    total = flops.parameters(model)
    assert row == (str(model.layers), str(model.width), f"{(total - embeddings(model)) / 1e6:.1f}", f"{total / 1e6:.0f}")


@pytest.mark.parametrize("size", SIZES)
def test_a_proxy_plans_without_data_and_warns_of_nothing_but_repetition(size):
    experiment = FILE["get_config"](size)
    check(experiment)
    assert f"kaiyuan_{size}" in planning.describe(experiment)
    assert [line for line in planning.warnings(experiment, resolved(experiment)) if not line.startswith("repetition")] == []


@pytest.mark.parametrize("size", SIZES)
def test_the_mixture_of_every_phase_is_the_published_one(size):
    published = runpy.run_path(str(ROOT / "configs" / "kaiyuan_2b.py"))["get_config"]()
    experiment = FILE["get_config"](size)
    for ours, theirs in zip(recipe.portions(resolved(experiment)), recipe.portions(resolved(published)), strict=True):
        assert (ours.phase, ours.source, ours.order) == (theirs.phase, theirs.source, theirs.order)
        assert ours.share == pytest.approx(theirs.share, abs=0.001)
        assert ours.window == pytest.approx(theirs.window, abs=0.001)


@pytest.mark.parametrize("size", SIZES)
def test_about_20_tokens_a_parameter_and_8_even_checkpoints_at_the_end_of_phase_5(size):
    experiment = FILE["get_config"](size)
    plan, model = resolved(experiment), experiment.model
    assert plan.tokens / FILE["without_embeddings"](model.layers, model.width) == pytest.approx(20, rel=0.05)
    assert 3000 <= plan.steps <= 5000 and plan.skipped == 0
    window = planning.window(experiment, plan.steps)
    assert {later - earlier for earlier, later in zip(window, window[1:], strict=False)} == {experiment.checkpoint.every}
    first, after = planning.phase_steps(plan)[4]
    assert first < (first + after) / 2 - experiment.checkpoint.every < window[0]


def test_an_unknown_size_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="size '7m' unknown, must be one of 10m, 25m, 50m, 100m, 250m, 500m"):
        FILE["get_config"]("7m")


def test_the_model_for_a_cpu_core_is_as_small_as_it_says_and_has_a_budget():
    experiment = runpy.run_path(str(ROOT / "configs" / "proxies" / "cpu.py"))["get_config"]("stores/none")
    check(experiment)
    assert flops.parameters(experiment.model) == pytest.approx(0.36e6, rel=0.02)
    assert resolved(experiment).tokens == sum(phase.tokens for phase in experiment.data.phases)
    assert experiment.schedule.kind == "constant"  # so that a checkpoint on the way is the end of a shorter run
