"""The decoder of Kaiyuan-2B (arXiv 2512.07612, section 1): a Qwen3 shape with sandwich norm and soft-capped logits.

    x = embedding[tokens];  x = layer(x) for N layers;  x = norm(x);  logits = c tanh(x head / c)

The N layers are one `Layer` whose parameters are stacked along a leading axis and scanned: compile time does not grow with depth (on
a CPU a shallow model is unrolled).
Inside the module a parameter is named for one layer (query_DHC); in the parameter tree that `split` returns, where it is stacked,
its name says so (query_NDHC). That tree of plain arrays is what is trained, sharded, averaged and saved.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from kaiyuan_jax import config
from kaiyuan_jax.config_check import REMAT_NAMES
from kaiyuan_jax.kernels.attention.api import attention
from kaiyuan_jax.kernels.placement import ANYWHERE, Placement
from kaiyuan_jax.models import cache as caches
from kaiyuan_jax.models.layers import Layer, gain, normal, rms_norm, rope_angles
from kaiyuan_jax.models.statistics import record_logits

# On a CPU layers up to this number are written out one after the other. What a scan keeps for its backward pass XLA copies there into
# stacks and out of them again, a third of a step's time (docs/results/cpu_step.md); a deeper model would take long to compile.
UNROLLED = 12


class Decoder(nnx.Module):
    def __init__(self, model: config.Model, precision: config.Precision, key):
        dtype = jnp.dtype(precision.parameters)
        embedding_key, layers_key, head_key = jax.random.split(key, 3)
        self.compute = jnp.dtype(precision.compute)
        self.head_size, self.rope_base = model.head_size, model.rope_base
        self.epsilon, self.softcap = model.norm_epsilon, model.logit_softcap
        self.remat, self.remat_names = model.remat, tuple(model.remat_names)
        self.embedding_VD = normal(embedding_key, model, dtype, model.vocabulary, model.width)
        self.layers = nnx.vmap(lambda key: Layer(model, dtype, key))(jax.random.split(layers_key, model.layers))
        self.norm_D = gain(1.0, dtype, model.width)
        self.head_DV = None if model.tied else normal(head_key, model, dtype, model.width, model.vocabulary)

    def __call__(self, inputs_BL, segments_BL, positions_BL, place: Placement = ANYWHERE, found: dict | None = None):
        """Hidden states x_BLD after the final norm, in the compute dtype; `head` and `logits` take it from there.

        Args: token ids, segment ids (attention stays inside one) and positions, int32 [B, L]; `place` says where it runs, and pins
        the sharding of activations. A dict `found` is filled with the largest values of every layer, float32 [N], and the bound on
        logits (models/statistics.py). Where `place` cuts L, all three stand in the order of kernels/attention/context.py.
        """

        def attend(q_BLHC, k_BLKC, v_BLKC, held, **options):
            return attention(q_BLHC, k_BLKC, v_BLKC, segments_BL=segments_BL, place=place, **options), None

        x_BLD, _ = self._forward(inputs_BL, positions_BL, attend, None, place, found)
        record_logits(found, x_BLD, self.head())
        return x_BLD

    def prefill(self, inputs_BL, lengths_B, slots: int, place: Placement = ANYWHERE):
        """x_BLD as `__call__` gives it for one document a row, and the `Cache` of `slots` tokens a row that `step` goes on from.

        The first lengths_B (int32, at least 1) tokens of each row of inputs_BL count; what stands behind them is seen by none of them.
        """

        place = place.whole("L")

        def attend(q_BLHC, k_BLKC, v_BLKC, held, **options):
            return attention(q_BLHC, k_BLKC, v_BLKC, place=place, **options), (k_BLKC, v_BLKC)

        positions_BL = jnp.broadcast_to(jnp.arange(inputs_BL.shape[1], dtype=jnp.int32), inputs_BL.shape)
        x_BLD, read = self._forward(inputs_BL, positions_BL, attend, None, place)
        return x_BLD, caches.start(*read, lengths_B, slots, place)

    def step(self, inputs_B, cache: caches.Cache, place: Placement = ANYWHERE):
        """x_BD of one more token in every row, at the cost of one token, and the cache that has read it."""

        def attend(q_BLHC, k_BLKC, v_BLKC, held, **options):
            return caches.attend(q_BLHC, k_BLKC, v_BLKC, *held, cache.lengths_B, **options), (k_BLKC, v_BLKC)

        layers = cache.keys_NBKMC, cache.values_NBKMC
        x_BLD, read = self._forward(inputs_B[:, None], cache.lengths_B[:, None], attend, layers, place)
        return x_BLD[:, 0], caches.append(cache, *read, jnp.ones_like(inputs_B), place)

    def _forward(self, inputs_BL, positions_BL, attend, held, place: Placement, found: dict | None = None):
        """x_BLD after the final norm, and what `attend(q, k, v, held=, softcap=, window=)` kept in every layer, stacked.

        held: a tree of arrays [N, ...], of which `attend` is given its layer's part; or None.
        """
        angles = rope_angles(positions_BL, self.head_size, self.rope_base)
        graphdef, layers = nnx.split(self.layers)

        def layer(x_BLD, inputs):
            parameters, part = inputs
            largest = None if found is None else {}
            x_BLD, kept = nnx.merge(graphdef, parameters)(x_BLD, angles, functools.partial(attend, held=part), place, largest)
            return x_BLD, (kept, largest)

        if self.remat == "full":
            layer = jax.checkpoint(layer, prevent_cse=False)
        elif self.remat == "names":
            policy = jax.checkpoint_policies.save_only_these_names(*self.remat_names)
            layer = jax.checkpoint(layer, prevent_cse=False, policy=policy)

        # Tokens go to the table, cut over its width, and their rows come back; else the compiler may bring the table to every device.
        x_BLD = jnp.take(self.embedding_VD[...], place.constrain(inputs_BL, "bL"), axis=0).astype(self.compute)
        x_BLD = place.constrain(place.constrain(x_BLD, "bLd"), "BLD")
        count = jax.tree.leaves(layers)[0].shape[0]
        unroll = count if place.platform == "cpu" and self.remat == "none" and count <= UNROLLED else 1
        x_BLD, (kept, largest) = jax.lax.scan(layer, x_BLD, (layers, held), unroll=unroll)
        if found is not None:
            found.update(largest)
        return rms_norm(x_BLD, self.norm_D, self.epsilon), kept

    def head(self):
        """head_DV in the parameter dtype; the transposed embedding when tied."""
        return self.embedding_VD[...].T if self.head_DV is None else self.head_DV[...]

    def logits(self, x):
        """Soft-capped logits [..., V] in float32 from hidden states [..., D]."""
        logits = jnp.einsum("...D,DV->...V", x, self.head().astype(x.dtype), preferred_element_type=jnp.float32)
        return self.softcap * jnp.tanh(logits / self.softcap) if self.softcap else logits


def build(model: config.Model, precision: config.Precision, key) -> Decoder:
    """A freshly initialised decoder. Raises ValueError for a remat mode or a remat name that does not exist."""
    if model.remat not in ("none", "full", "names"):
        raise ValueError(f"model.remat: found {model.remat!r}, must be none, full or names")
    unknown = [name for name in model.remat_names if name not in REMAT_NAMES]
    if model.remat == "names" and unknown:
        raise ValueError(f"model.remat_names: found {unknown[0]!r}, must be among {', '.join(REMAT_NAMES)}")
    return Decoder(model, precision, key)


def split(decoder: Decoder):
    """(graphdef, params): a hashable description and a nested dict of arrays whose names end in their dimensions."""
    graphdef, state = nnx.split(decoder)
    params = nnx.to_pure_dict(state)
    return graphdef, params | {"layers": _rename(params["layers"], lambda stem, dims: f"{stem}_N{dims}")}


def merge(graphdef, params) -> Decoder:
    """The decoder that `split` took apart, around any arrays (or tracers) of the same tree."""
    return nnx.merge(graphdef, nnx.State(params | {"layers": _rename(params["layers"], lambda stem, dims: f"{stem}_{dims[1:]}")}))


def ready(params, precision: config.Precision):
    """The parameters as a model that is not trained wants them: matrices in the compute dtype, in which they are used; gains as they are.

    The same values come out, but a step of generation, whose time is that of reading every weight once, does not read them in float32.
    """

    def one(path, leaf):
        return jnp.asarray(leaf, None if "norm" in path[-1].key else precision.compute)

    return jax.tree_util.tree_map_with_path(one, params)


def abstract(model: config.Model, precision: config.Precision):
    """(graphdef, params of ShapeDtypeStruct): `split(build(...))` without any memory."""
    return split(nnx.eval_shape(functools.partial(build, model, precision), jax.random.key(0)))


def _rename(tree, name):
    """Renames the leaves of nested dicts: name(stem, dims) of stem_DIMS."""
    return {
        name(*key.rsplit("_", 1)) if not isinstance(value, dict) else key: _rename(value, name) if isinstance(value, dict) else value
        for key, value in tree.items()
    }
