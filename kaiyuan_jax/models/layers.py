"""One transformer layer: attention and SwiGLU, each a residual branch with a norm before and (sandwich) after.

    h = x + post_norm(attention(norm(x)))          Kaiyuan-2B, section 1.2
    y = h + post_norm(feedforward(norm(h)))        RMSNorm gains start at 1 (post norms at `post_norm_gain`): 1 is the plain norm

Matrices are stored in the parameter dtype and cast to the dtype of the activations where they are used; norms reduce in float32.
Every matrix, output projections too, starts from a normal distribution of standard deviation `init_std`.
Tensors that rematerialisation can keep carry one of the names of `config_check.REMAT_NAMES`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from kaiyuan_jax import config
from kaiyuan_jax.kernels.head_norm.api import head_norm
from kaiyuan_jax.kernels.head_norm.xla import rms_norm, rotate
from kaiyuan_jax.kernels.placement import Placement
from kaiyuan_jax.models.statistics import record, record_scores


def rope_angles(positions_BL, head_size: int, base: float):
    """Cosine and sine [B, L, 1, C/2] in float32 of position x base^(-2i/C)."""
    frequency = base ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    angle = positions_BL[..., None, None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def project(equation: str, x, weight):
    """An einsum in the dtype of the activations, whatever the dtype of the stored weight, whose gradient is summed in float32.

    Backward is written out because JAX's own forms the weight's gradient transposed, for which XLA on CPUs copies the activations
    and leaves its fast matrix product: a SwiGLU block takes 1.9 times as long in float32, 8 times in bfloat16.
    """
    return jnp.einsum(equation, x, weight.astype(x.dtype))


def _project_forward(equation, x, weight):
    return project(equation, x, weight), (x, weight)


def _project_backward(equation, residuals, gradient):
    x, weight = residuals
    inputs, result = equation.split("->")
    left, right = inputs.split(",")
    weight_gradient = jnp.einsum(f"{left},{result}->{right}", x, gradient, preferred_element_type=jnp.float32)
    return jnp.einsum(f"{result},{right}->{left}", gradient, weight.astype(x.dtype)), weight_gradient.astype(weight.dtype)


project.defvjp(_project_forward, _project_backward)


def normal(key, model: config.Model, dtype, *shape) -> nnx.Param:
    return nnx.Param((jax.random.normal(key, shape, jnp.float32) * model.init_std).astype(dtype))


def gain(value: float, dtype, size: int) -> nnx.Param:
    return nnx.Param(jnp.full((size,), value, dtype))


class Attention(nnx.Module):
    """Grouped-query attention with RMSNorm on each head's queries and keys before RoPE."""

    def __init__(self, model: config.Model, dtype, key):
        D, H, K, C = model.width, model.heads, model.kv_heads, model.head_size
        keys = jax.random.split(key, 4)
        self.epsilon, self.softcap, self.window = model.norm_epsilon, model.attention_softcap, model.window
        self.norm_D = gain(1.0, dtype, D)
        self.query_DHC = normal(keys[0], model, dtype, D, H, C)
        self.key_DKC = normal(keys[1], model, dtype, D, K, C)
        self.value_DKC = normal(keys[2], model, dtype, D, K, C)
        self.out_HCD = normal(keys[3], model, dtype, H, C, D)
        self.query_norm_C = gain(1.0, dtype, C) if model.qk_norm else None
        self.key_norm_C = gain(1.0, dtype, C) if model.qk_norm else None
        self.post_norm_D = gain(model.post_norm_gain, dtype, D) if model.sandwich_norm else None

    def __call__(self, x_BLD, angles, attend, place: Placement, found: dict | None = None):
        """The branch's output and what `attend(q_BLHC, k_BLKC, v_BLKC, softcap=, window=)` kept beside its own."""
        x_BLD = rms_norm(x_BLD, self.norm_D, self.epsilon)
        q_BLHC = checkpoint_name(project("BLD,DHC->BLHC", x_BLD, self.query_DHC), "query_projection")
        k_BLKC = checkpoint_name(project("BLD,DKC->BLKC", x_BLD, self.key_DKC), "key_projection")
        v_BLKC = project("BLD,DKC->BLKC", x_BLD, self.value_DKC)
        for name, tensor in (("query", q_BLHC), ("key", k_BLKC), ("value", v_BLKC)):
            record(found, name, tensor)
        if self.query_norm_C is None:
            q_BLHC, k_BLKC = rotate(q_BLHC, angles), rotate(k_BLKC, angles)
        else:
            q_BLHC = head_norm(q_BLHC, self.query_norm_C, angles, self.epsilon, place=place)
            k_BLKC = head_norm(k_BLKC, self.key_norm_C, angles, self.epsilon, place=place)
        record_scores(found, q_BLHC, k_BLKC)  # of lengths, which a rotation leaves as they are
        q_BLHC = checkpoint_name(place.constrain(q_BLHC, "BLHC"), "query")
        k_BLKC = checkpoint_name(place.constrain(k_BLKC, "BLKC"), "key")
        v_BLKC = checkpoint_name(place.constrain(v_BLKC, "BLKC"), "value")
        a_BLHC, kept = attend(q_BLHC, k_BLKC, v_BLKC, softcap=self.softcap, window=self.window)
        out_BLD = project("BLHC,HCD->BLD", a_BLHC, self.out_HCD)  # the kernels name theirs attention_out
        out_BLD = checkpoint_name(out_BLD, "attention_branch")
        record(found, "attention", out_BLD)
        return out_BLD if self.post_norm_D is None else rms_norm(out_BLD, self.post_norm_D, self.epsilon), kept


class FeedForward(nnx.Module):
    """SwiGLU: (silu(x gate) * x up) down."""

    def __init__(self, model: config.Model, dtype, key):
        D, F = model.width, model.feedforward
        keys = jax.random.split(key, 3)
        self.epsilon = model.norm_epsilon
        self.norm_D = gain(1.0, dtype, D)
        self.gate_DF = normal(keys[0], model, dtype, D, F)
        self.up_DF = normal(keys[1], model, dtype, D, F)
        self.down_FD = normal(keys[2], model, dtype, F, D)
        self.post_norm_D = gain(model.post_norm_gain, dtype, D) if model.sandwich_norm else None

    def __call__(self, x_BLD, place: Placement, found: dict | None = None):
        x_BLD = rms_norm(x_BLD, self.norm_D, self.epsilon)
        gate_BLF = checkpoint_name(place.constrain(project("BLD,DF->BLF", x_BLD, self.gate_DF), "BLF"), "gate")
        up_BLF = checkpoint_name(place.constrain(project("BLD,DF->BLF", x_BLD, self.up_DF), "BLF"), "up")
        gated_BLF = jax.nn.silu(gate_BLF) * up_BLF
        out_BLD = checkpoint_name(project("BLF,FD->BLD", gated_BLF, self.down_FD), "feedforward_branch")
        record(found, "gated", gated_BLF)
        record(found, "feedforward", out_BLD)
        return out_BLD if self.post_norm_D is None else rms_norm(out_BLD, self.post_norm_D, self.epsilon)


class Layer(nnx.Module):
    def __init__(self, model: config.Model, dtype, key):
        attention_key, feedforward_key = jax.random.split(key)
        self.attention = Attention(model, dtype, attention_key)
        self.feedforward = FeedForward(model, dtype, feedforward_key)

    def __call__(self, x_BLD, angles, attend, place: Placement, found: dict | None = None):
        """x_BLD after both branches, and what `attend` kept: nothing in training, keys and values where text is generated.

        A dict `found` is filled with the layer's largest values (models/statistics.py).
        """
        x_BLD = checkpoint_name(place.constrain(x_BLD, "BLD"), "attention_in")
        a_BLD, kept = self.attention(x_BLD, angles, attend, place, found)
        h_BLD = checkpoint_name(place.constrain(x_BLD + a_BLD, "BLD"), "feedforward_in")
        y_BLD = h_BLD + self.feedforward(h_BLD, place, found)
        record(found, "residual", h_BLD, y_BLD)
        return y_BLD, kept
