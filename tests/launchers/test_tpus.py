import pytest

from kaiyuan_jax import config
from kaiyuan_jax.config import UserError
from kaiyuan_jax.launchers import tpus


@pytest.mark.parametrize(
    ("target", "chips", "name"),
    [("v4:2x2x4", 16, "v4-32"), ("v5e:4x4", 16, "v5litepod-16"), ("v5p:4x4x4", 64, "v5p-128"), ("v6e:16x16", 256, "v6e-256")],
)
def test_a_target_is_called_as_the_tpu_api_calls_it(target, chips, name):
    found = tpus.parse(target)
    assert (found.chips, found.accelerator_type) == (chips, name)


@pytest.mark.parametrize("target", ["v5p", "v5p:4x4", "v5e:4x4x4", "v9:4x4", "v5e:0x4", "v5e:4x4 ", "hopper:1"])
def test_other_targets_are_refused(target):
    with pytest.raises(UserError, match="--target=.*must be a generation and a topology, such as v4:4x4x4"):
        tpus.parse(target)


def test_folders_must_be_where_all_machines_see_them():
    source = config.Source(name="s", path="stores/s", heldout="/mnt/s")
    with pytest.raises(UserError) as error:
        tpus.check_shared(config.Experiment(name="a", data=config.Data(sources=[source])))
    lines = str(error.value).splitlines()
    assert [line.split(",")[0] for line in lines] == ["config.output: found 'runs/a'", "config.data.sources[0].path: found 'stores/s'"]
    source.path = "/mnt/t"
    for output in ("gs://bucket/a", "/mnt/a"):
        tpus.check_shared(config.Experiment(output=output, data=config.Data(sources=[source])))
