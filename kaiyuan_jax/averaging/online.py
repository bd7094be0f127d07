"""A running exponential average of the parameters, updated at every step inside the train state.

With decay d, after the updates 0..t the average is the normalised exponential average of what it has seen,

    average_t = sum_{i<=t} d^(t-i) p_i / sum_{i<=t} d^(t-i)

kept in that corrected form by moving a share of the way to the new parameters:

    average_t = average_{t-1} + (1 - d) / (1 - d^(t+1)) (p_t - average_{t-1})

The share is 1 at the first update, so neither zeros nor the random initial weights are ever part of the average.
"""

import jax
import jax.numpy as jnp


def init(params):
    """A float32 copy of `params`: the average before any update."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), params)


def update(average, params, decay, step):
    """The float32 average after update `step` (0 for the first) produced `params`; all arguments may be traced."""
    # The share of a small 1 - d is exact in this form; (1 - share) * average would lose it to rounding, step after step.
    share = (1 - decay) / -jnp.expm1((step + 1) * jnp.log(jnp.float32(decay)))

    def move(mean, leaf):
        leaf = leaf.astype(jnp.float32)
        return jnp.where(step == 0, leaf, mean + share * (leaf - mean))

    return jax.tree.map(move, average, params)
