"""What is read off a compiled step is what the model's arithmetic says."""

import pytest

from kaiyuan_jax import config
from kaiyuan_jax.models import decoder, flops
from kaiyuan_jax.optimizers import adamw
from kaiyuan_jax.plan import ahead_of_time, ahead_of_time_table
from kaiyuan_jax.sharding import hlo, topology
from kaiyuan_jax.sharding.mesh import make_mesh
from kaiyuan_jax.training import state, step

MODEL = config.Model(layers=3, width=64, feedforward=96, heads=4, kv_heads=2, head_size=16, vocabulary=256, remat="full")


def test_overflow_is_read_off_the_compiler_s_message():
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
    found = ahead_of_time.overflow(said)
    assert (found["needed"], found["available"], found["fits"]) == (20.5 * 2**30, 15.75 * 2**30, False)
    assert ahead_of_time_table.fits(found) == "no, 4.75 GiB over"
    assert "another message" in ahead_of_time_table.fits(ahead_of_time.overflow("RESOURCE_EXHAUSTED: another message"))


def test_a_compiled_step_multiplies_what_its_model_needs_and_cuts_all_of_it_over_the_devices():
    L, B = 32, 8
    experiment = config.Experiment(model=MODEL, mesh=config.Mesh(data=1, fsdp=-1), data=config.Data(batch_size=B, sequence_length=L))
    mesh = make_mesh(experiment.mesh)
    abstract = state.abstract(experiment, adamw.build(experiment.optimizer, lambda count: 1e-3), mesh)
    graphdef, _ = decoder.abstract(experiment.model, experiment.precision)
    traced = step.build(experiment, graphdef, mesh, abstract).trace(abstract, *step.abstract_inputs(experiment, mesh, 10))
    assert ahead_of_time._saved(traced.jaxpr, MODEL.layers) == MODEL.layers * B * L * MODEL.width * 4

    program = hlo.parse(traced.lower().compile().as_text())
    layers = flops.matrix_parameters(MODEL) - MODEL.width * MODEL.vocabulary
    square = 4 * MODEL.layers * MODEL.heads * MODEL.head_size * L  # both products of attention, whole: L is one chunk
    want = B * L * (8 * layers + 6 * MODEL.width * MODEL.vocabulary + 4 * square)  # forward, forward again, backward
    # XLA leaves out of the second forward pass what the backward pass does not need: the last product of each layer
    last = 2 * B * L * MODEL.layers * MODEL.width * MODEL.feedforward
    assert hlo.products(program) * mesh.size in (want, want - last)
    assert all(hlo.axes_of(one.devices, dict(mesh.shape)) == ("fsdp",) for one in hlo.collectives(program, mesh.size))


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["v5e:2x2", "hopper:4"])
def test_a_small_step_is_measured_for_a_target(name):
    target = topology.target(name)
    if why := topology.missing(target):
        pytest.skip(why)
    experiment = config.Experiment(model=MODEL, mesh=config.Mesh(data=1, fsdp=-1), precision=config.Precision(compute="bfloat16"))
    arguments = {"experiment": config.to_json(experiment), "rows": 2}
    result = topology.call(target, "kaiyuan_jax.plan.ahead_of_time:measure", arguments)
    assert result["devices"] == 4 and result["batch"] == 8 and result["memory"]["fits"]
    assert result["flops"]["products"] > result["flops"]["model"] / 2
    assert any(kind.startswith("all-gather over fsdp") for kind in result["collectives"])
    page = ahead_of_time_table.document({name: result | {"command": "python", "rows": 2, "remat": "full"}})
    assert f"| {name} | fsdp=4 | 2 | full | yes" in page
