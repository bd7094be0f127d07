"""AdamW with a decay mask and clipping by global norm.

    g <- g min(1, clip / |g|);   m, v <- moments of g;   p <- p - rate (m^ / (sqrt(v^) + epsilon) + decay p [p is a matrix])

Which parameters decay is read from the name of the leaf, never from its rank: layers are stacked, so a gain is two-dimensional.
Gains (a word "norm" or "gain" in the name, such as norm_ND or query_norm_NC) and biases never decay, the embedding and the head as
`decay_embeddings` says, everything else always.

The rate of an update is the schedule at the optimizer's own count of updates, which is part of its state. The state has the same
structure whatever the schedule, the clipping and the decay are, so a checkpoint can be continued under other settings.
"""

import jax
import optax

from kaiyuan_jax import config

GAINS = {"norm", "gain", "bias"}
EMBEDDINGS = {"embedding", "head"}


def decay_mask(params, *, decay_embeddings: bool):
    """The tree of `params` with True where weight decay applies; a leaf's name is the last key of its path."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _decays(path, decay_embeddings), params)


def build(optimizer: config.Optimizer, schedule) -> optax.GradientTransformation:
    """AdamW whose update k is scaled by `schedule(k)`; `schedule` maps a step to a rate. Moments have the dtype of the parameters."""
    clip = optax.clip_by_global_norm(optimizer.clip_norm) if optimizer.clip_norm > 0 else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(optimizer.beta1, optimizer.beta2, optimizer.epsilon),
        optax.add_decayed_weights(optimizer.weight_decay, lambda params: decay_mask(params, decay_embeddings=optimizer.decay_embeddings)),
        optax.scale_by_schedule(lambda count: -schedule(count)),
    )


def updates_done(state) -> jax.Array:
    """int32: how many updates a state of `build` has made, the step at which its schedule is read next."""
    return state[-1].count


def _decays(path, decay_embeddings: bool) -> bool:
    name = path[-1].key if hasattr(path[-1], "key") else path[-1].name
    words = set(name.split("_"))
    if words & GAINS:
        return False
    return decay_embeddings or not words & EMBEDDINGS
