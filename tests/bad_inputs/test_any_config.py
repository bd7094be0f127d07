"""Whatever numbers stand in an experiment, it is planned or refused in plain lines, and soon."""

import dataclasses
import time
import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaiyuan_jax import config, config_check, plan
from kaiyuan_jax.config import UserError
from tests.bad_inputs.conftest import experiment

SECONDS = 5.0  # of CPU
WHOLE = st.sampled_from([-(2**62), -1, 0, 1, 2, 3, 7, 64, 1000, 2**16, 2**31, 2**40, 2**62])
REAL = st.sampled_from([-1.0, 0.0, 1e-300, 1e-9, 0.1, 0.5, 1.0, 1.5, 7.0, 1e9, 1e300])
WORDS = st.sampled_from(["", "x", "sma", "ema", "wma", "cosine", "wsd", "wsd_s", "wsdc", "power", "ascending", "folded", "float16", "full"])
VALUES = {int: WHOLE, float: REAL, str: WORDS, bool: st.booleans(), tuple[float, float]: st.tuples(REAL, REAL)}


def numbers(value, path=()):
    """Every field of the tree that a flag can set: (owner, name, type)."""
    for name, kind in typing.get_type_hints(type(value)).items():
        item = getattr(value, name)
        if dataclasses.is_dataclass(item):
            yield from numbers(item)
        elif isinstance(item, list):
            for inner in item:
                yield from numbers(inner)
        elif kind in VALUES and name not in ("path", "heldout", "output", "law", "branch", "start", "local"):
            yield value, name, kind


@pytest.mark.parametrize("changes", [1, 3])
def test_any_numbers_are_planned_or_refused(prepared, changes):
    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def change(data):
        made = experiment(prepared)
        fields = list(numbers(made))
        for _ in range(changes):
            owner, name, kind = data.draw(st.sampled_from(fields))
            setattr(owner, name, data.draw(VALUES[kind]))
        begin = time.process_time()
        try:
            config_check.check(made)
            assert config.from_json(config.to_json(made)) == made
            plan.describe(made)
        except UserError as error:
            assert all(line and len(line) < 700 for line in str(error).splitlines())
        assert time.process_time() - begin < SECONDS

    change()
