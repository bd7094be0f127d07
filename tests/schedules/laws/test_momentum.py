"""The momentum law against its recursion, update by update."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan_jax.schedules.laws.curves import Curve
from kaiyuan_jax.schedules.laws.momentum import LAW


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), length=st.integers(2, 200), window=st.floats(0.3, 5000), data=st.data())
def test_the_filter_between_evaluated_steps_is_the_recursion(seed, length, window, data):
    generator = np.random.default_rng(seed)
    rates = np.where(generator.uniform(size=length) < 0.3, generator.uniform(1e-5, 3e-4, length), 2e-4)
    warmup = data.draw(st.integers(0, length))
    steps = np.sort(generator.choice(length, size=data.draw(st.integers(1, length)), replace=False))
    memory, area, expected = 0.0, 0.0, []
    for i in range(length):
        fall = rates[i - 1] - rates[i] if i > warmup else 0.0
        memory = np.exp(-1 / window) * memory + fall
        area += memory
        expected.append(3 + 0.5 * rates[: i + 1].sum() ** -0.5 - 0.7 * area)
    values = {"L0": 3.0, "A": 0.5, "alpha": 0.5, "C": 0.7, "window": window}
    curve = Curve("random", steps, np.ones(steps.size), rates, warmup)
    np.testing.assert_allclose(LAW.evaluate(LAW.prepare([curve]), LAW.theta(values)), np.array(expected)[steps], rtol=1e-11)
